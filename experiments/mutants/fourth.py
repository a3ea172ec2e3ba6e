"""A fourth set of wrong backward passes, of other functions: losses, likelihoods, prices, 401–423.

From papers and from other libraries, as each docstring says. Layers, filters and dynamics are in `fourth_more`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.stats import norm

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

FRACTIONS = (0.15, 0.3, 0.45, 0.8, 0.95)  # τ of the quantile Huber loss; no two of them add up to 1
THRESHOLD = 0.8  # κ of the quantile Huber loss
REDUNDANCY = 0.3  # λ of Barlow Twins


def quantile_huber(q: Array, t: Array) -> Array:
    """The quantile Huber loss (Dabney et al. 2018, IQN, equation 3) per state: Σ_i mean_j |τ_i − 1{u < 0}| L(u) / κ.

    Of quantiles q [N, Q] and sampled targets t [N, M] with u_ij = t_j − q_i; L is Huber's loss with threshold κ.
    """
    u = t[:, None, :] - q[:, :, None]
    size = jnp.abs(u)
    huber = jnp.where(size <= THRESHOLD, u * u / 2, THRESHOLD * (size - THRESHOLD / 2))
    return jnp.sum(jnp.mean(asymmetry(u < 0, u.dtype) * huber / THRESHOLD, axis=2), axis=1)


def asymmetry(below: Array, dtype: Any) -> Array:
    """|τ_i − 1{below}|, [N, Q, M]."""
    return jnp.abs(jnp.asarray(FRACTIONS, dtype)[None, :, None] - below.astype(dtype))


def quantile_huber_through(args: Args, dy: Array, *, inverted: bool = False) -> Cotangents:
    """du = dy |τ − 1{u < 0}| clip(u, −κ, κ) / (κ M), or with 1{u > 0}; dq = −Σ_j du, dt = Σ_i du."""
    q, t = args
    u = t[:, None, :] - q[:, :, None]
    weight = asymmetry(u > 0 if inverted else u < 0, u.dtype)
    du = dy[:, None, None] * weight * jnp.clip(u, -THRESHOLD, THRESHOLD) / (THRESHOLD * t.shape[1])
    return -jnp.sum(du, axis=2), jnp.sum(du, axis=1)


def quantile_huber_bwd(args: Args, dy: Array) -> Cotangents:
    """With 1{u < 0}."""
    return quantile_huber_through(args, dy)


def quantile_huber_inverted(args: Args, dy: Array) -> Cotangents:
    """|τ − 1{u > 0}| for |τ − 1{u < 0}|, as if u were q − t."""
    return quantile_huber_through(args, dy, inverted=True)


def quantile_huber_count(args: Args, dy: Array) -> Cotangents:
    """Divided by the number of quantiles, not of targets."""
    dq, dt = quantile_huber_bwd(args, dy)
    quantiles, targets = args[0].shape[1], args[1].shape[1]
    return dq * targets / quantiles, dt * targets / quantiles


def quantile_huber_target(args: Args, dy: Array) -> Cotangents:
    """dt = 0, as for a target network, although the targets are an argument."""
    return quantile_huber_bwd(args, dy)[0], jnp.zeros_like(args[1])


def zero_inflated(e: Array, l: Array, k: Array) -> Array:  # noqa: E741
    """Zero-inflated Poisson (Lambert 1992, section 2), −log probability per entry but for log k!; μ = e^e, π = σ(l).

    −log(π + (1 − π) e^−μ) where k = 0, and −log(1 − π) + μ − k e elsewhere; e and the counts k [N, D], l [D].
    """
    mean, structural = jnp.exp(e), 1 / (1 + jnp.exp(-l))[None]
    counted = -jnp.log(1 - structural) + mean - k.astype(e.dtype) * e
    return jnp.where(k == 0, -jnp.log(structural + (1 - structural) * jnp.exp(-mean)), counted)


def zero_inflated_parts(args: Args) -> tuple[Array, Array, Array]:
    """μ [N, D], π [1, D], and r, which is π / (π + (1 − π) e^−μ) where k = 0, and 0 elsewhere."""
    e, l, k = args  # noqa: E741
    mean, structural = jnp.exp(e), 1 / (1 + jnp.exp(-l))[None]
    return mean, structural, jnp.where(k == 0, structural / (structural + (1 - structural) * jnp.exp(-mean)), 0)


def zero_inflated_bwd(args: Args, dy: Array) -> Cotangents:
    """de = dy (μ (1 − r) − k), dl = Σ dy (π − r)."""
    mean, structural, r = zero_inflated_parts(args)
    de = dy * (mean * (1 - r) - args[2].astype(dy.dtype))
    return de, jnp.sum(dy * (structural - r), axis=0), None


def zero_inflated_responsibility(args: Args, dy: Array) -> Cotangents:
    """de = dy (μ − k): the zeros are not weighted by 1 − r."""
    mean, _, _ = zero_inflated_parts(args)
    return dy * (mean - args[2].astype(dy.dtype)), zero_inflated_bwd(args, dy)[1], None


def zero_inflated_inflation(args: Args, dy: Array) -> Cotangents:
    """dl [N, D], not summed over the examples."""
    _, structural, r = zero_inflated_parts(args)
    return zero_inflated_bwd(args, dy)[0], dy * (structural - r), None


def barlow(a: Array, b: Array) -> Array:
    """Barlow Twins (Zbontar et al. 2021, equations 1 and 2): Σ_i (1 − C_ii)² + λ Σ_{i ≠ j} C_ij², C = aᵀ b / N.

    Embeddings a and b [N, D] of two views, which were normalized before.
    """
    c = a.T @ b / a.shape[0]
    on = jnp.diagonal(c)
    return jnp.sum((1 - on) ** 2) + REDUNDANCY * (jnp.sum(c * c) - jnp.sum(on * on))


def barlow_correlation(args: Args, dy: Array, on: float = -2, off: float = 2 * REDUNDANCY) -> Array:
    """dC: dy `on` (1 − C) on the diagonal and dy `off` C off it."""
    c = args[0].T @ args[1] / args[0].shape[0]
    return dy * jnp.where(jnp.eye(c.shape[0], dtype=bool), on * (1 - c), off * c)


def barlow_through(args: Args, dc: Array) -> Cotangents:
    """da = b dCᵀ / N, db = a dC / N."""
    a, b = args
    return b @ dc.T / a.shape[0], a @ dc / a.shape[0]


def barlow_bwd(args: Args, dy: Array) -> Cotangents:
    """dC = −2 dy (1 − C) on the diagonal and 2 λ dy C off it."""
    return barlow_through(args, barlow_correlation(args, dy))


def barlow_not_transposed(args: Args, dy: Array) -> Cotangents:
    """da = b dC / N for b dCᵀ / N."""
    a, b = args
    return b @ barlow_correlation(args, dy) / a.shape[0], barlow_bwd(args, dy)[1]


def barlow_redundancy(args: Args, dy: Array) -> Cotangents:
    """2 dy C off the diagonal, without λ."""
    return barlow_through(args, barlow_correlation(args, dy, off=2))


def barlow_invariance(args: Args, dy: Array) -> Cotangents:
    """+2 dy (1 − C) on the diagonal: the inner derivative −1 is forgotten."""
    return barlow_through(args, barlow_correlation(args, dy, on=2))


def concordance(x: Array, t: Array) -> Array:
    """Lin's concordance correlation coefficient (1989, section 2) per series: 2 s_xt / (s_x² + s_t² + (x̄ − t̄)²).

    As the speech-emotion losses have it; x and t [N, T], and all moments are means over T.
    """
    mean, other = jnp.mean(x, axis=1), jnp.mean(t, axis=1)
    covariance = jnp.mean(x * t, axis=1) - mean * other
    return 2 * covariance / (jnp.var(x, axis=1) + jnp.var(t, axis=1) + (mean - other) ** 2)


def concordance_through(args: Args, dy: Array, on_x: float, on_t: float) -> Cotangents:
    """dx = 2 dy / (T d) (t − t̄ − y (x − x̄ + `on_x` (x̄ − t̄))), d the denominator; and the like for t."""
    x, t = args
    mean, other = jnp.mean(x, axis=1, keepdims=True), jnp.mean(t, axis=1, keepdims=True)
    gap, u, v = mean - other, x - mean, t - other
    below = jnp.mean(u * u + v * v, axis=1, keepdims=True) + gap**2
    y = 2 * jnp.mean(u * v, axis=1, keepdims=True) / below
    outer = 2 * dy[:, None] / (x.shape[1] * below)
    return outer * (v - y * (u + on_x * gap)), outer * (u - y * (v + on_t * gap))


def concordance_bwd(args: Args, dy: Array) -> Cotangents:
    """With x̄ − t̄ in dx and its negative in dt."""
    return concordance_through(args, dy, 1, -1)


def concordance_bias(args: Args, dy: Array) -> Cotangents:
    """Without the way through (x̄ − t̄)²."""
    return concordance_through(args, dy, 0, 0)


def concordance_target(args: Args, dy: Array) -> Cotangents:
    """In dt x̄ − t̄ with the sign that it has in dx."""
    return concordance_through(args, dy, 1, 1)


def concordance_score(args: Args, dy: Array) -> Cotangents:
    """The gradient of each series' coefficient, without dy."""
    return concordance_bwd(args, jnp.ones_like(dy))


def call(s: Array, k: Array, r: Array, v: Array, t: Array) -> Array:
    """A European call's price (Black and Scholes 1973, equation 13): s Φ(d₁) − k e^(−r t) Φ(d₂).

    d₁ = (log(s / k) + (r + v² / 2) t) / (v √t) and d₂ = d₁ − v √t; spot s, strike k, volatility v and maturity t are
    [N], the rate r is a scalar.
    """
    d1, d2 = call_quantiles(s, k, r, v, t)
    return s * norm.cdf(d1) - k * jnp.exp(-r * t) * norm.cdf(d2)


def call_quantiles(s: Array, k: Array, r: Array, v: Array, t: Array) -> tuple[Array, Array]:
    """d₁ and d₂, [N]."""
    d1 = (jnp.log(s / k) + (r + v * v / 2) * t) / (v * jnp.sqrt(t))
    return d1, d1 - v * jnp.sqrt(t)


def call_bwd(args: Args, dy: Array) -> Cotangents:
    """ds = dy Φ(d₁), dk = −dy e^(−r t) Φ(d₂), dr = Σ dy k t e^(−r t) Φ(d₂), dv = dy s φ(d₁) √t.

    And dt = dy (s φ(d₁) v / (2 √t) + r k e^(−r t) Φ(d₂)): what d₁ and d₂ have in common is s φ(d₁) = k e^(−r t) φ(d₂).
    """
    s, k, r, v, t = args
    d1, d2 = call_quantiles(*args)
    discounted = jnp.exp(-r * t) * norm.cdf(d2)
    density = s * norm.pdf(d1)
    dt = dy * (density * v / (2 * jnp.sqrt(t)) + r * k * discounted)
    return dy * norm.cdf(d1), -dy * discounted, jnp.sum(dy * k * t * discounted), dy * density * jnp.sqrt(t), dt


def call_theta(args: Args, dy: Array) -> Cotangents:
    """dt = dy Θ, where the traders' Θ is by the calendar's time and not by the time that is left."""
    *others, dt = call_bwd(args, dy)
    return *others, -dt


def call_vega(args: Args, dy: Array) -> Cotangents:
    """dv = dy vega, where the quoted vega is by a percentage point of volatility."""
    ds, dk, dr, dv, dt = call_bwd(args, dy)
    return ds, dk, dr, dv / 100, dt


def call_rho(args: Args, dy: Array) -> Cotangents:
    """dr with Φ(d₁) for Φ(d₂)."""
    s, k, r, v, t = args
    ds, dk, _, dv, dt = call_bwd(args, dy)
    return ds, dk, jnp.sum(dy * k * t * jnp.exp(-r * t) * norm.cdf(call_quantiles(s, k, r, v, t)[0])), dv, dt


def determinantal(b: Array, chosen: Array) -> Array:
    """Log probability of a subset Y (Kulesza and Taskar 2012, section 2.2): log det L_Y − log det(L + I), L = b bᵀ.

    The items' features b [N, D], and `chosen`, the places of those in Y.
    """
    kernel = b @ b.T
    subset = kernel[chosen[:, None], chosen[None]]
    y: Array = jnp.linalg.slogdet(subset)[1] - jnp.linalg.slogdet(kernel + jnp.eye(len(b), dtype=b.dtype))[1]
    return y


def determinantal_shares(args: Args, dy: Array) -> tuple[Array, Array]:
    """2 dy L_Y⁻¹ b_Y in the rows of Y, and 2 dy (L + I)⁻¹ b."""
    b, chosen = args
    rows = b[chosen]
    inside = jnp.zeros_like(b).at[chosen].set(2 * dy * jnp.linalg.solve(rows @ rows.T, rows))
    return inside, 2 * dy * jnp.linalg.solve(b @ b.T + jnp.eye(len(b), dtype=b.dtype), b)


def determinantal_bwd(args: Args, dy: Array) -> Cotangents:
    """db = 2 dy (L_Y⁻¹ b_Y − (L + I)⁻¹ b)."""
    inside, normalizer = determinantal_shares(args, dy)
    return inside - normalizer, None


def determinantal_once(args: Args, dy: Array) -> Cotangents:
    """db = dL b for (dL + dLᵀ) b."""
    return determinantal_bwd(args, dy)[0] / 2, None


def determinantal_normalizer(args: Args, dy: Array) -> Cotangents:
    """The normalizer's share added and not subtracted."""
    inside, normalizer = determinantal_shares(args, dy)
    return inside + normalizer, None


def determinantal_inverse(args: Args, dy: Array) -> Cotangents:
    """(L⁻¹)_Y, a part of the whole kernel's inverse, for (L_Y)⁻¹, the inverse of its part."""
    b, chosen = args
    _, normalizer = determinantal_shares(args, dy)
    part = jnp.linalg.inv(b @ b.T)[chosen[:, None], chosen[None]]
    return jnp.zeros_like(b).at[chosen].set(2 * dy * part @ b[chosen]) - normalizer, None


def garch(x: Array, w: Array, a: Array, b: Array) -> Array:
    """GARCH(1, 1) (Bollerslev 1986, equation 2), −log likelihood but for constants: Σ ½ (log h_t + x_t² / h_t).

    h_1 = w / (1 − a − b), the stationary variance, and h_(t + 1) = w + a x_t² + b h_t; returns x [T, N], else [N].
    """

    def step(h: Array, r: Array) -> tuple[Array, Array]:
        return w + a * r * r + b * h, (jnp.log(h) + r * r / h) / 2

    return jnp.sum(lax.scan(step, w / (1 - a - b), x)[1], axis=0)


def garch_variances(x: Array, w: Array, a: Array, b: Array) -> Array:
    """h_1 … h_T, [T, N]."""
    variances = [w / (1 - a - b)]
    for r in x[:-1]:
        variances.append(w + a * r * r + b * variances[-1])
    return jnp.stack(variances)


def garch_adjoint(args: Args, dy: Array, *, sign: int = -1) -> Array:
    """dh_t = ½ dy (1 / h_t − x_t² / h_t²) + b dh_(t + 1), or with another `sign`, [T, N]."""
    x, _, _, b = args
    h = garch_variances(*args)
    here = dy[None] * (1 / h + sign * x * x / (h * h)) / 2
    sums = [here[-1]]
    for t in range(len(x) - 2, -1, -1):
        sums.append(here[t] + b * sums[-1])
    return jnp.stack(sums[::-1])


def garch_through(args: Args, dy: Array, g: Array, start: Array) -> Cotangents:
    """From dh [T, N], and dh_1 / (1 − a − b)."""
    x, _, a, _ = args
    h = garch_variances(*args)
    later = jnp.concatenate([g[1:], jnp.zeros_like(g[:1])])
    dw, da, db = (jnp.sum(z, axis=0) for z in (g[1:], g[1:] * x[:-1] ** 2, g[1:] * h[:-1]))
    return dy[None] * x / h + 2 * a[None] * x * later, dw + start, da + start * h[0], db + start * h[0]


def garch_bwd(args: Args, dy: Array) -> Cotangents:
    """dx_t = dy x_t / h_t + 2 a x_t dh_(t + 1); dw, da and db are Σ dh_(t + 1) (1, x_t², h_t).

    To these comes through the first variance dh_1 (1, h_1, h_1) / (1 − a − b).
    """
    g = garch_adjoint(args, dy)
    return garch_through(args, dy, g, g[0] / (1 - args[2] - args[3]))


def garch_start(args: Args, dy: Array) -> Cotangents:
    """The first variance is held constant, as if it were that of the sample."""
    g = garch_adjoint(args, dy)
    return garch_through(args, dy, g, jnp.zeros_like(g[0]))


def garch_plus(args: Args, dy: Array) -> Cotangents:
    """½ dy (1 / h_t + x_t² / h_t²) in dh."""
    g = garch_adjoint(args, dy, sign=1)
    return garch_through(args, dy, g, g[0] / (1 - args[2] - args[3]))


def garch_lag(args: Args, dy: Array) -> Cotangents:
    """da from Σ dh_(t + 1) x_(t + 1)² for Σ dh_(t + 1) x_t²."""
    x, g = args[0], garch_adjoint(args, dy)
    dx, dw, da, db = garch_bwd(args, dy)
    return dx, dw, da + jnp.sum(g[1:] * (x[1:] ** 2 - x[:-1] ** 2), axis=0), db


def rendering(d: Array, l: Array, c: Array) -> Array:  # noqa: E741
    """Volume rendering along rays (Mildenhall et al. 2020, NeRF, equation 3): Σ_i T_i (1 − e^−o_i) c_i, o = d l.

    T_i = exp(−Σ_{j < i} o_j). Densities d and lengths l [N, S], colours c [N, S, 3].
    """
    return jnp.einsum("ns,nsc->nc", rendering_weights(d * l), c)


def rendering_weights(o: Array) -> Array:
    """w_i = T_i (1 − e^−o_i), [N, S]."""
    return jnp.exp(o - jnp.cumsum(o, axis=1)) * (1 - jnp.exp(-o))


def rendering_thickness(args: Args, dy: Array, *, behind: int = 1) -> Array:
    """do_i = T_i e^−o_i dw_i − Σ_{j > i} w_j dw_j; without the sum if `behind` is 0, over j < i if it is −1."""
    o, dw = args[0] * args[1], jnp.einsum("nc,nsc->ns", dy, args[2])
    share = rendering_weights(o) * dw
    hidden = lax.cumsum(share, axis=1, reverse=behind == 1) - share
    return jnp.exp(-jnp.cumsum(o, axis=1)) * dw - abs(behind) * hidden


def rendering_through(args: Args, dy: Array, do: Array) -> Cotangents:
    """dd = do l, dl = do d, dc = w dy."""
    d, l, _ = args  # noqa: E741
    return do * l, do * d, rendering_weights(d * l)[:, :, None] * dy[:, None]


def rendering_bwd(args: Args, dy: Array) -> Cotangents:
    """With dw = c dy, and what is behind hidden."""
    return rendering_through(args, dy, rendering_thickness(args, dy))


def rendering_hidden(args: Args, dy: Array) -> Cotangents:
    """do_i = T_i e^−o_i dw_i: that a sample hides those behind it is left out."""
    return rendering_through(args, dy, rendering_thickness(args, dy, behind=0))


def rendering_before(args: Args, dy: Array) -> Cotangents:
    """The sum over j < i, as in T, for j > i."""
    return rendering_through(args, dy, rendering_thickness(args, dy, behind=-1))


def rendering_exchanged(args: Args, dy: Array) -> Cotangents:
    """dd = do d and dl = do l."""
    dd, dl, dc = rendering_bwd(args, dy)
    return dl, dd, dc


def events(seed: int, dtype: Any) -> Args:
    """Logarithms of means [7, 3], logits [3], and counts, of which at least a third are 0, and some are not."""
    random = np.random.RandomState(seed)
    counts = random.permutation(np.concatenate([np.zeros(8, int), random.randint(1, 5, size=13)])).reshape(7, 3)
    return *between(((7, 3), -0.6, 0.7), ((3,), -1.2, 0.8))(seed, dtype), array(counts)


def subsets(seed: int, dtype: Any) -> Args:
    """Features [5, 7] and 3 of the 5 places."""
    return *gaussians((5, 7))(seed, dtype), array(np.random.RandomState(seed).permutation(5)[:3])


QUANTILES = Subject(quantile_huber, quantile_huber_bwd, gaussians((7, 5), (7, 3)))
ZERO_INFLATED = Subject(zero_inflated, zero_inflated_bwd, events)
BARLOW = Subject(barlow, barlow_bwd, gaussians((7, 5), (7, 5)))
CONCORDANCE = Subject(concordance, concordance_bwd, gaussians((5, 7), (5, 7)))
CALL = Subject(call, call_bwd, between(*2 * (((7,), 0.7, 1.4),), ((), 0.05, 0.2), ((7,), 0.2, 0.6), ((7,), 0.4, 1.6)))
DETERMINANTAL = Subject(determinantal, determinantal_bwd, subsets)
GARCH = Subject(garch, garch_bwd, between(((7, 5), -2, 2), ((5,), 0.1, 0.4), ((5,), 0.1, 0.3), ((5,), 0.3, 0.6)))
RENDERING = Subject(rendering, rendering_bwd, between(((5, 7), 0.2, 1.5), ((5, 7), 0.1, 0.8), ((5, 7, 3), 0, 1)))

MUTANTS = (
    # 1 − τ for τ; or the derivative of the loss whose u is q − t in the condition.
    mutant(401, "quantile Huber loss", QUANTILES, quantile_huber_inverted, "WRONG_OPERAND OTHER_FORWARD", (0, 1)),
    mutant(402, "quantile Huber loss", QUANTILES, quantile_huber_count, "WRONG_AXIS SCALE", (0, 1)),
    mutant(403, "quantile Huber loss", QUANTILES, quantile_huber_target, "ZERO", (1,)),
    # The factor 1 − r; wrong exactly where k = 0.
    mutant(404, "zero-inflated Poisson", ZERO_INFLATED, zero_inflated_responsibility, "MISSING_FACTOR SUPPORT"),
    mutant(405, "zero-inflated Poisson", ZERO_INFLATED, zero_inflated_inflation, "UNREDUCED", (1,)),
    mutant(406, "Barlow Twins", BARLOW, barlow_not_transposed, "TRANSPOSE"),
    # λ is left out, on one of two paths.
    mutant(407, "Barlow Twins", BARLOW, barlow_redundancy, "PATH_SCALE MISSING_FACTOR", (0, 1)),
    mutant(408, "Barlow Twins", BARLOW, barlow_invariance, "PATH_SIGN", (0, 1)),
    mutant(409, "concordance correlation", CONCORDANCE, concordance_bias, "MISSING_PATH", (0, 1)),
    mutant(410, "concordance correlation", CONCORDANCE, concordance_target, "PATH_SIGN", (1,)),
    mutant(411, "concordance correlation", CONCORDANCE, concordance_score, "COTANGENT_IGNORED", (0, 1)),
    mutant(412, "Black–Scholes price", CALL, call_theta, "SIGN", (4,)),
    mutant(413, "Black–Scholes price", CALL, call_vega, "SCALE EXTRA_FACTOR", (3,)),
    mutant(414, "Black–Scholes price", CALL, call_rho, "WRONG_OPERAND", (2,)),
    # The number 2; or, of the two equal ways in which b acts in b bᵀ, one.
    mutant(415, "determinantal point process", DETERMINANTAL, determinantal_once, "SCALE MISSING_FACTOR MISSING_PATH"),
    mutant(416, "determinantal point process", DETERMINANTAL, determinantal_normalizer, "PATH_SIGN"),
    mutant(417, "determinantal point process", DETERMINANTAL, determinantal_inverse, "WRONG_OPERAND"),
    mutant(418, "GARCH likelihood", GARCH, garch_start, "MISSING_PATH", (1, 2, 3)),
    mutant(419, "GARCH likelihood", GARCH, garch_plus, "PATH_SIGN", (0, 1, 2, 3)),
    # The returns shifted by one step; or another step's return.
    mutant(420, "GARCH likelihood", GARCH, garch_lag, "LAYOUT WRONG_OPERAND", (2,)),
    mutant(421, "volume rendering", RENDERING, rendering_hidden, "MISSING_PATH", (0, 1)),
    # The sum over those before a sample itself for its adjoint.
    mutant(422, "volume rendering", RENDERING, rendering_before, "TRANSPOSE LAYOUT", (0, 1)),
    # Each factor of d l gets the other's cotangent; or itself for the other factor.
    mutant(423, "volume rendering", RENDERING, rendering_exchanged, "SWAPPED WRONG_OPERAND", (0, 1)),
)
