"""A fifth set of wrong backward passes, of other functions: losses, likelihoods, signals, 501–520.

From papers and from other libraries, as each docstring says. Layers, physics, geometry are in `fifth_more`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.stats import norm

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

HORIZON = 8.0  # until when events are observed
SMOOTHING = 0.7  # γ of soft dynamic time warping
TEMPERATURE = 0.6  # of the approximate ranks
BANDWIDTH = 1.3  # of the two-sample test's kernel
PREFERENCE = 0.4  # β of direct preference optimization
DECIBEL = 10 / float(np.log(10))


def crps(m: Array, s: Array, y: Array) -> Array:
    """Continuous ranked probability score of normal forecasts (Gneiting et al. 2005, equation 5), averaged: [N].

    σ (z (2 Φ(z) − 1) + 2 φ(z) − 1 / √π), z = (y − m) / σ; m and y [N, D], σ = e^s with s [D]; the mean is over D.
    """
    sigma = jnp.exp(s)[None]
    z = (y - m) / sigma
    return jnp.mean(sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / jnp.sqrt(jnp.pi)), axis=1)


def crps_parts(args: Args) -> tuple[Array, Array, Array, Array]:
    """σ [1, D], and z, 2 Φ − 1 and φ [N, D]."""
    m, s, y = args
    sigma = jnp.exp(s)[None]
    z = (y - m) / sigma
    return sigma, z, 2 * norm.cdf(z) - 1, norm.pdf(z)


def crps_bwd(args: Args, dy: Array) -> Cotangents:
    """dy_obs = dy (2 Φ − 1) / D = −dm, ds = Σ_N dy σ (2 φ − 1 / √π) / D, as what goes through φ cancels."""
    sigma, _, centred, density = crps_parts(args)
    share = dy[:, None] / centred.shape[1]
    ds = jnp.sum(share * sigma * (2 * density - 1 / jnp.sqrt(jnp.pi)), axis=0)
    return -share * centred, ds, share * centred


def crps_density(args: Args, dy: Array) -> Cotangents:
    """dz = dy σ (2 Φ − 1 + 2 z φ) / D: the φ of 2 φ is held constant."""
    sigma, z, centred, density = crps_parts(args)
    share = dy[:, None] / centred.shape[1]
    slope = centred + 2 * z * density
    score = z * centred + 2 * density - 1 / jnp.sqrt(jnp.pi)
    return -share * slope, jnp.sum(share * sigma * (score - z * slope), axis=0), share * slope


def crps_logarithm(args: Args, dy: Array) -> Cotangents:
    """That of σ for that of s, without σ."""
    dm, ds, dobserved = crps_bwd(args, dy)
    return dm, ds / jnp.exp(args[1]), dobserved


def crps_count(args: Args, dy: Array) -> Cotangents:
    """Divided by the number of forecasts, not of variables."""
    count, variables = args[0].shape
    dm, ds, dobserved = crps_bwd(args, dy)
    return dm * variables / count, ds * variables / count, dobserved * variables / count


def hawkes(t: Array, m: Array, a: Array, b: Array) -> Array:
    """Log likelihood of a Hawkes process with the kernel a e^(−b t) (Ozaki 1979, equations 4 and 5), until T.

    Σ_i log(m + a r_i) − m T − (a / b) Σ_i (1 − e^(−b (T − t_i))), r_i = e^(−b (t_i − t_(i − 1))) (1 + r_(i − 1)),
    and r_1 = 0. Times t [N]; of D candidates the base rates m, the jumps a and the decays b [D].
    """

    def step(r: Array, gap: Array) -> tuple[Array, Array]:
        r = jnp.exp(-b * gap) * (1 + r)
        return r, jnp.log(m + a * r)

    logs = lax.scan(step, jnp.zeros_like(b), jnp.diff(t))[1]
    left = 1 - jnp.exp(-b[None] * (HORIZON - t)[:, None])
    return jnp.log(m) + jnp.sum(logs, axis=0) - m * HORIZON - a / b * jnp.sum(left, axis=0)


def hawkes_parts(args: Args) -> tuple[Array, Array, Array, Array]:
    """r and the rates m + a r, [N, D]; the gaps t_i − t_(i − 1) and what is left, T − t_i, [N, 1], the first gap 0."""
    t, m, a, b = args
    r = [jnp.zeros_like(b)]
    for i in range(1, len(t)):
        r.append(jnp.exp(-b * (t[i] - t[i - 1])) * (1 + r[-1]))
    states = jnp.stack(r)
    return states, m[None] + a[None] * states, jnp.diff(t, prepend=t[:1])[:, None], (HORIZON - t)[:, None]


def hawkes_gaps(args: Args, dy: Array) -> tuple[Array, Array]:
    """dr [N, D], backward in time: g_i = dy a / rate_i + e^(−b gap_(i + 1)) g_(i + 1); and −g_i r_i, for b gap_i."""
    _, _, a, b = args
    r, rate, gap, _ = hawkes_parts(args)
    g = [dy * a / rate[-1]]
    for i in range(len(r) - 2, -1, -1):
        g.append(dy * a / rate[i] + jnp.exp(-b * gap[i + 1]) * g[-1])
    dr = jnp.stack(g[::-1])
    return dr, -dr * r


def hawkes_bwd(args: Args, dy: Array) -> Cotangents:
    """Through the gaps, of which t_i ends one and starts the next; and through what is left."""
    _, _, a, b = args
    r, rate, gap, left = hawkes_parts(args)
    decayed = jnp.exp(-b[None] * left)
    _, inner = hawkes_gaps(args, dy)
    dgap = jnp.sum(inner * b[None], axis=1)
    dt = dgap - jnp.append(dgap[1:], 0) + jnp.sum(dy * a * decayed, axis=1)
    da = jnp.sum(r / rate, axis=0) - jnp.sum(1 - decayed, axis=0) / b
    through = a / b**2 * jnp.sum(1 - decayed, axis=0) - a / b * jnp.sum(left * decayed, axis=0)
    return dt, dy * (jnp.sum(1 / rate, axis=0) - HORIZON), dy * da, jnp.sum(inner * gap, axis=0) + dy * through


def hawkes_later(args: Args, dy: Array) -> Cotangents:
    """dt_i from the gap that t_i ends, not from the one that it starts."""
    dt, dm, da, db = hawkes_bwd(args, dy)
    dgap = jnp.sum(hawkes_gaps(args, dy)[1] * args[3][None], axis=1)
    return dt + jnp.append(dgap[1:], 0), dm, da, db


def hawkes_compensator(args: Args, dy: Array) -> Cotangents:
    """da with + Σ (1 − e^(−b (T − t_i))) / b."""
    _, _, _, b = args
    dt, dm, da, db = hawkes_bwd(args, dy)
    left = hawkes_parts(args)[3]
    return dt, dm, da + 2 * dy * jnp.sum(1 - jnp.exp(-b[None] * left), axis=0) / b, db


def hawkes_decay(args: Args, dy: Array) -> Cotangents:
    """db with a / b for a / b², the derivative of −a / b."""
    _, _, a, b = args
    dt, dm, da, db = hawkes_bwd(args, dy)
    total = jnp.sum(1 - jnp.exp(-b[None] * hawkes_parts(args)[3]), axis=0)
    return dt, dm, da, db + dy * (a / b - a / b**2) * total


def soft_dtw(x: Array, y: Array) -> Array:
    """Soft dynamic time warping (Cuturi and Blondel 2017, algorithm 1) of the series x [N, D] and y [M, D].

    r_ij = ‖x_i − y_j‖² + the soft minimum −γ log Σ e^(−r / γ) of r_(i − 1, j − 1), r_(i − 1, j) and r_(i, j − 1).
    """
    return warping(jnp.sum((x[:, None] - y[None]) ** 2, axis=2))[len(x)][len(y)]


def warping(cost: Array, *, hard: bool = False) -> list[list[Array]]:
    """r with a border of ∞ before it, 0 at the corner; by the soft minimum, or a hard one."""
    n, m = cost.shape
    r = [[jnp.full((), jnp.inf, cost.dtype)] * (m + 1) for _ in range(n + 1)]
    r[0][0] = jnp.zeros((), cost.dtype)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            before = jnp.stack([r[i - 1][j - 1], r[i - 1][j], r[i][j - 1]])
            least = jnp.min(before) if hard else -SMOOTHING * jax.nn.logsumexp(-before / SMOOTHING)
            r[i][j] = cost[i - 1, j - 1] + least
    return r


def soft_dtw_alignment(args: Args, dy: Array, *, hard: bool = False, add: bool = True) -> Array:
    """That of each cost [N, M]: from the last cell, to those before it in shares of the soft, or a hard, minimum."""
    x, y = args
    r = warping(jnp.sum((x[:, None] - y[None]) ** 2, axis=2), hard=hard)
    e = jnp.zeros((len(x) + 1, len(y) + 1), x.dtype).at[-1, -1].set(dy)
    for i in range(len(x), 0, -1):
        for j in range(len(y), 0, -1):
            before = jnp.stack([r[i - 1][j - 1], r[i - 1][j], r[i][j - 1]])
            share = jnp.eye(3, dtype=x.dtype)[jnp.argmin(before)] if hard else jax.nn.softmax(-before / SMOOTHING)
            cells = e.at[jnp.array([i - 1, i - 1, i]), jnp.array([j - 1, j, j - 1])]
            e = cells.add(share * e[i, j]) if add else cells.set(share * e[i, j])
    return e[1:, 1:]


def soft_dtw_through(args: Args, e: Array) -> Cotangents:
    """dx_i = 2 Σ_j e_ij (x_i − y_j), dy_j = −2 Σ_i e_ij (x_i − y_j)."""
    d = 2 * e[:, :, None] * (args[0][:, None] - args[1][None])
    return jnp.sum(d, axis=1), -jnp.sum(d, axis=0)


def soft_dtw_bwd(args: Args, dy: Array) -> Cotangents:
    """Through the soft alignment, as their algorithm 2."""
    return soft_dtw_through(args, soft_dtw_alignment(args, dy))


def soft_dtw_path(args: Args, dy: Array) -> Cotangents:
    """Through the one best path, as without smoothing."""
    return soft_dtw_through(args, soft_dtw_alignment(args, dy, hard=True))


def soft_dtw_set(args: Args, dy: Array) -> Cotangents:
    """`=` for `+=` in the cells: that of the next cell visited last is left."""
    return soft_dtw_through(args, soft_dtw_alignment(args, dy, add=False))


def soft_dtw_second(args: Args, dy: Array) -> Cotangents:
    """dy_j without the minus."""
    dx, dother = soft_dtw_bwd(args, dy)
    return dx, -dother


def approx_dcg(s: Array, g: Array) -> Array:
    """Smooth discounted cumulative gain (Qin et al. 2010, equations 11–13, as in TF-Ranking): Σ_i g_i / log₂(1 + π_i).

    Approximate ranks π_i = 1 + Σ_(j ≠ i) σ((s_j − s_i) / τ) by the scores s [B, N]; gains g [B, N]; returns [B].
    """
    return jnp.sum(g / jnp.log2(1 + approx_ranks(s)[1]), axis=1)


def approx_ranks(s: Array) -> tuple[Array, Array]:
    """σ((s_j − s_i) / τ) [B, N, N], and π [B, N]; of the sum over all j, j = i is the half that is too much."""
    p = jax.nn.sigmoid((s[:, None, :] - s[:, :, None]) / TEMPERATURE)
    return p, 0.5 + jnp.sum(p, axis=2)


def approx_dcg_scores(args: Args, dy: Array) -> Array:
    """dπ_i / τ [B, N, 1], dπ = −dy g / ((1 + π) log₂²(1 + π) ln 2)."""
    rank = 1 + approx_ranks(args[0])[1]
    drank = -dy[:, None] * args[1] / (rank * jnp.log2(rank) ** 2 * jnp.log(2.0))
    y: Array = drank[:, :, None] / TEMPERATURE
    return y


def approx_dcg_bwd(args: Args, dy: Array) -> Cotangents:
    """ds_j = Σ_i (dπ_i − dπ_j) σ (1 − σ) / τ; dg = dy / log₂(1 + π)."""
    p, rank = approx_ranks(args[0])
    inner = approx_dcg_scores(args, dy) * p * (1 - p)
    return jnp.sum(inner, axis=1) - jnp.sum(inner, axis=2), dy[:, None] / jnp.log2(1 + rank)


def approx_dcg_own(args: Args, dy: Array) -> Cotangents:
    """ds_i through its own rank alone, not through those of the others."""
    p, _ = approx_ranks(args[0])
    return -jnp.sum(approx_dcg_scores(args, dy) * p * (1 - p), axis=2), approx_dcg_bwd(args, dy)[1]


def approx_dcg_slope(args: Args, dy: Array) -> Cotangents:
    """The slope of the sigmoid as σ."""
    inner = approx_dcg_scores(args, dy) * approx_ranks(args[0])[0]
    return jnp.sum(inner, axis=1) - jnp.sum(inner, axis=2), approx_dcg_bwd(args, dy)[1]


def approx_dcg_discounts(args: Args, dy: Array) -> Cotangents:
    """dg = the discounts themselves, without dy."""
    return approx_dcg_bwd(args, dy)[0], 1 / jnp.log2(1 + approx_ranks(args[0])[1])


def discrepancy(x: Array, y: Array) -> Array:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3) of samples x [M, D] and y [N, D].

    Σ_(i ≠ j) k(x_i, x_j) / (M (M − 1)) + the same of y − 2 Σ_ij k(x_i, y_j) / (M N), k(a, b) = e^(−‖a − b‖² / 2 h²).
    """
    m, n = len(x), len(y)
    within = (jnp.sum(rbf(x, x)) - m) / (m * (m - 1)) + (jnp.sum(rbf(y, y)) - n) / (n * (n - 1))
    return within - 2 * jnp.mean(rbf(x, y))


def rbf(a: Array, b: Array) -> Array:
    """k of each pair, [A, B]."""
    return jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, axis=2) / (2 * BANDWIDTH**2))


def pull(a: Array, b: Array) -> Array:
    """The derivative of Σ_j k(a_i, b_j) by a_i, [A, D]."""
    return -jnp.sum(rbf(a, b)[:, :, None] * (a[:, None] - b[None]), axis=1) / BANDWIDTH**2


def discrepancy_with(args: Args, dy: Array, *, less: int = 1, sign: int = -1) -> Cotangents:
    """Within a sample of M by 2 / (M (M − less)), and between the two by `sign` 2 / (M N)."""
    x, y = args
    m, n = len(x), len(y)
    dx = pull(x, x) / (m * (m - less)) + sign * pull(x, y) / (m * n)
    return 2 * dy * dx, 2 * dy * (pull(y, y) / (n * (n - less)) + sign * pull(y, x) / (m * n))


def discrepancy_bwd(args: Args, dy: Array) -> Cotangents:
    """Each point is in two equal ways in the pairs of its own sample; and in the pairs with the other's."""
    return discrepancy_with(args, dy)


def discrepancy_biased(args: Args, dy: Array) -> Cotangents:
    """The mean over all M² pairs, as in their equation 5."""
    return discrepancy_with(args, dy, less=0)


def discrepancy_between(args: Args, dy: Array) -> Cotangents:
    """The pairs of the two samples with +."""
    return discrepancy_with(args, dy, sign=1)


def preference(c: Array, r: Array, ref: Array, kept: Array, left: Array) -> Array:
    """Direct preference optimization (Rafailov et al. 2023, equation 7), [N]: −log σ(β (Σ c − Σ r − ref)).

    Over the tokens of each answer that the masks keep, not padding: their log probabilities c [N, T] in the chosen
    and r [N, S] in the rejected one, masks `kept` and `left`; the reference model's difference is ref [N].
    """
    return -jax.nn.log_sigmoid(preference_margin((c, r, ref, kept, left)))


def preference_margin(args: Args) -> Array:
    """What is in σ, [N]."""
    c, r, ref, kept, left = args
    y: Array = PREFERENCE * (
        jnp.sum(jnp.where(kept > 0, c, 0), axis=1) - jnp.sum(jnp.where(left > 0, r, 0), axis=1) - ref
    )
    return y


def preference_through(args: Args, dz: Array) -> Cotangents:
    """From that of the margin."""
    _, _, _, kept, left = args
    d = PREFERENCE * dz[:, None]
    return jnp.where(kept > 0, d, 0), jnp.where(left > 0, -d, 0), -PREFERENCE * dz, None, None


def preference_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = −dy σ(−z); dc = β dz and dr = −β dz where the masks keep them, dref = −β dz."""
    return preference_through(args, -dy * jax.nn.sigmoid(-preference_margin(args)))


def preference_padding(args: Args, dy: Array) -> Cotangents:
    """dr = −β dz at padding, too."""
    dc, dr, dref, _, _ = preference_bwd(args, dy)
    return dc, jnp.broadcast_to(dref[:, None], dr.shape), dref, None, None


def preference_weight(args: Args, dy: Array) -> Cotangents:
    """dz = −dy σ(z): pairs count more the better they are told apart."""
    return preference_through(args, -dy * jax.nn.sigmoid(preference_margin(args)))


def preference_reference(args: Args, dy: Array) -> Cotangents:
    """dref = 0, as the reference model is not trained."""
    dc, dr, dref, _, _ = preference_bwd(args, dy)
    return dc, dr, jnp.zeros_like(dref), None, None


def si_sdr(e: Array, s: Array) -> Array:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, equation 3).

    10 log₁₀(‖α s‖² / ‖e − α s‖²) with α = e · s / ‖s‖²; estimates e and signals s [N, T]; returns [N].
    """
    alpha = jnp.sum(e * s, axis=1, keepdims=True) / jnp.sum(s * s, axis=1, keepdims=True)
    target = alpha * s
    return 10 * jnp.log10(jnp.sum(target**2, axis=1) / jnp.sum((e - target) ** 2, axis=1))


def si_sdr_parts(args: Args) -> tuple[Array, Array, Array, Array]:
    """α, ‖s‖² and ‖e − α s‖² [N, 1], and e − α s [N, T]."""
    e, s = args
    square = jnp.sum(s * s, axis=1, keepdims=True)
    alpha = jnp.sum(e * s, axis=1, keepdims=True) / square
    return alpha, square, jnp.sum((e - alpha * s) ** 2, axis=1, keepdims=True), e - alpha * s


def si_sdr_bwd(args: Args, dy: Array) -> Cotangents:
    """With n = e − α s, of which the derivative by α is 0: by e, 2 s / (e · s) − 2 n / ‖n‖²; and by s,

    2 e / (e · s) − 2 s / ‖s‖² + 2 α n / ‖n‖²; both times dy 10 / ln 10.
    """
    e, s = args
    alpha, square, distortion, n = si_sdr_parts(args)
    d = 2 * DECIBEL * dy[:, None]
    along = alpha * square
    return d * (s / along - n / distortion), d * (e / along - s / square + alpha * n / distortion)


def si_sdr_projection(args: Args, dy: Array) -> Cotangents:
    """−2 n / ‖n‖² and 2 s / ‖s‖² + 2 α n / ‖n‖²: α is held constant."""
    alpha, square, distortion, n = si_sdr_parts(args)
    d = 2 * DECIBEL * dy[:, None]
    return -d * n / distortion, d * (args[1] / square + alpha * n / distortion)


def si_sdr_natural(args: Args, dy: Array) -> Cotangents:
    """The derivative of log₁₀ without 1 / ln 10."""
    de, ds = si_sdr_bwd(args, dy)
    return de * float(np.log(10)), ds * float(np.log(10))


def si_sdr_plain(args: Args, dy: Array) -> Cotangents:
    """Of the plain ratio, 10 log₁₀(‖s‖² / ‖e − s‖²)."""
    e, s = args
    d = 2 * DECIBEL * dy[:, None]
    noise = (e - s) / jnp.sum((e - s) ** 2, axis=1, keepdims=True)
    return -d * noise, d * (s / jnp.sum(s * s, axis=1, keepdims=True) + noise)


def events(seed: int, dtype: Any) -> Args:
    """Seven times before the horizon, and rates, jumps and decays of 3 candidates."""
    gaps, *rates = between(((7,), 0.4, 1.1), ((3,), 0.4, 1.2), ((3,), 0.3, 0.9), ((3,), 0.6, 1.8))(seed, dtype)
    return jnp.cumsum(gaps), *rates


def answers(seed: int, dtype: Any) -> Args:
    """Log probabilities [5, 7] and [5, 3], differences [5], and masks of the first 3 to 6 and of the first 1 or 2."""
    random = np.random.RandomState(seed)
    c, r, ref = between(((5, 7), -1.5, -0.1), ((5, 3), -3, -0.3), ((5,), -3, 2))(seed, dtype)
    kept, left = (np.arange(size)[None] < random.randint(1, size, size=(5, 1)) for size in (7, 3))
    return c, r, ref, array(kept), array(left)


def estimates(seed: int, dtype: Any) -> Args:
    """Signals [3, 7], and noisy estimates of them that are too small."""
    s, noise = gaussians((3, 7), (3, 7))(seed, dtype)
    return 0.6 * s + 0.5 * noise, s


CRPS = Subject(crps, crps_bwd, between(((7, 3), -2, 2), ((3,), -0.6, 0.8), ((7, 3), -2, 2)))
HAWKES = Subject(hawkes, hawkes_bwd, events)
SOFT_DTW = Subject(soft_dtw, soft_dtw_bwd, between(((5, 2), -1, 1), ((7, 2), -1, 1)))
APPROX_DCG = Subject(approx_dcg, approx_dcg_bwd, between(((3, 5), -1, 1), ((3, 5), 0.4, 3)))
DISCREPANCY = Subject(discrepancy, discrepancy_bwd, between(((7, 3), -1.5, 1), ((5, 3), -1, 1.5)))
PREFERENCES = Subject(preference, preference_bwd, answers)
SI_SDR = Subject(si_sdr, si_sdr_bwd, estimates)

MUTANTS = (
    mutant(501, "ranked probability score", CRPS, crps_density, "MISSING_PATH", (0, 1, 2)),
    mutant(502, "ranked probability score", CRPS, crps_logarithm, "MISSING_FACTOR", (1,)),
    mutant(503, "ranked probability score", CRPS, crps_count, "WRONG_AXIS SCALE", (0, 1, 2)),
    mutant(504, "Hawkes likelihood", HAWKES, hawkes_later, "MISSING_PATH"),
    mutant(505, "Hawkes likelihood", HAWKES, hawkes_compensator, "PATH_SIGN", (2,)),
    # 1 / b is left out, on one of several paths.
    mutant(506, "Hawkes likelihood", HAWKES, hawkes_decay, "MISSING_FACTOR PATH_SCALE", (3,)),
    mutant(507, "soft dynamic time warping", SOFT_DTW, soft_dtw_path, "OTHER_FORWARD", (0, 1)),
    mutant(508, "soft dynamic time warping", SOFT_DTW, soft_dtw_set, "OVERWRITE MISSING_PATH", (0, 1)),
    mutant(509, "soft dynamic time warping", SOFT_DTW, soft_dtw_second, "SIGN", (1,)),
    mutant(510, "approximate cumulative gain", APPROX_DCG, approx_dcg_own, "MISSING_PATH"),
    # σ for σ (1 − σ).
    mutant(511, "approximate cumulative gain", APPROX_DCG, approx_dcg_slope, "WRONG_OPERAND MISSING_FACTOR"),
    mutant(512, "approximate cumulative gain", APPROX_DCG, approx_dcg_discounts, "COTANGENT_IGNORED", (1,)),
    # The derivative of the biased estimate; in which one of the paths has another count.
    mutant(513, "mean discrepancy", DISCREPANCY, discrepancy_biased, "OTHER_FORWARD PATH_SCALE", (0, 1)),
    mutant(514, "mean discrepancy", DISCREPANCY, discrepancy_between, "PATH_SIGN", (0, 1)),
    # A mask forgotten: wrong exactly where it is 0.
    mutant(515, "preference optimization", PREFERENCES, preference_padding, "MISSING_FACTOR SUPPORT", (1,)),
    # σ(z) for σ(−z); and the derivative of log(1 − σ(z)), the loss that saturates.
    mutant(516, "preference optimization", PREFERENCES, preference_weight, "WRONG_OPERAND OTHER_FORWARD", (0, 1, 2)),
    mutant(517, "preference optimization", PREFERENCES, preference_reference, "ZERO", (2,)),
    mutant(518, "signal-to-distortion ratio", SI_SDR, si_sdr_projection, "MISSING_PATH", (0, 1)),
    mutant(519, "signal-to-distortion ratio", SI_SDR, si_sdr_natural, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(520, "signal-to-distortion ratio", SI_SDR, si_sdr_plain, "OTHER_FORWARD", (0, 1)),
)
