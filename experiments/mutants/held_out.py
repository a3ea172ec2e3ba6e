"""A third set of wrong backward passes, of other functions: losses, likelihoods, distances, 301–318.

From papers and from other libraries, as each docstring says. Layers and dynamics are in `held_out_more`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import digamma, gammaln

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

WIDTH, CURVATURE = 1.5, 0.4  # the wing loss's w and ε
MARGIN = 3.5  # of the contrastive loss


def negative_binomial(e: Array, l: Array, k: Array) -> Array:  # noqa: E741
    """−log probability per entry but for log k!: the NB2 regression of `statsmodels`, mean μ = e^e and size r = e^l.

    log Γ(r) − log Γ(k + r) − r log r − k log μ + (k + r) log(r + μ); e and the counts k [N, D], l [D].
    """
    mean, r, k = negative_binomial_parts(e, l, k)
    return gammaln(r) - gammaln(k + r) - r * jnp.log(r) - k * e + (k + r) * jnp.log(r + mean)


def negative_binomial_parts(e: Array, l: Array, k: Array) -> tuple[Array, Array, Array]:  # noqa: E741
    """μ [N, D], r [1, D], and k [N, D] as floats."""
    return jnp.exp(e), jnp.exp(l)[None], k.astype(e.dtype)


def negative_binomial_bwd(args: Args, dy: Array) -> Cotangents:
    """de = dy (μ − k) r / (r + μ); dl = Σ dy r (ψ(r) − ψ(k + r) − log r − 1 + log(r + μ) + (k + r) / (r + μ))."""
    mean, r, k = negative_binomial_parts(*args)
    dr = digamma(r) - digamma(k + r) - jnp.log(r) - 1 + jnp.log(r + mean) + (k + r) / (r + mean)
    return dy * (mean - k) * r / (r + mean), jnp.sum(dy * r * dr, axis=0), None


def negative_binomial_poisson(args: Args, dy: Array) -> Cotangents:
    """de = dy (μ − k), as in Poisson regression."""
    mean, _, k = negative_binomial_parts(*args)
    return dy * (mean - k), negative_binomial_bwd(args, dy)[1], None


def negative_binomial_gammas(args: Args, dy: Array) -> Cotangents:
    """dl without ψ(r) − ψ(k + r): the Γ functions are held constant."""
    _, r, k = negative_binomial_parts(*args)
    de, dl, _ = negative_binomial_bwd(args, dy)
    return de, dl - jnp.sum(dy * r * (digamma(r) - digamma(k + r)), axis=0), None


def negative_binomial_size(args: Args, dy: Array) -> Cotangents:
    """dl [N, D], not summed over the examples."""
    mean, r, k = negative_binomial_parts(*args)
    dr = digamma(r) - digamma(k + r) - jnp.log(r) - 1 + jnp.log(r + mean) + (k + r) / (r + mean)
    return negative_binomial_bwd(args, dy)[0], dy * r * dr, None


def wing(x: Array, t: Array) -> Array:
    """The wing loss (Feng et al. 2018, equation 5), averaged over a face's landmarks; d = x − t, [N, D].

    w log(1 + |d| / ε) where |d| < w, and |d| − w + w log(1 + w / ε) elsewhere.
    """
    d = jnp.abs(x - t)
    outside = d - WIDTH + WIDTH * float(np.log1p(WIDTH / CURVATURE))
    return jnp.mean(jnp.where(d < WIDTH, WIDTH * jnp.log1p(d / CURVATURE), outside), axis=1)


def wing_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy sign(d) / D, times w / (ε + |d|) where |d| < w; dt = −dx."""
    d = args[0] - args[1]
    slope = jnp.where(jnp.abs(d) < WIDTH, WIDTH / (CURVATURE + jnp.abs(d)), 1)
    dx = dy[:, None] * jnp.sign(d) * slope / d.shape[1]
    return dx, -dx


def wing_curvature(args: Args, dy: Array) -> Cotangents:
    """The logarithm's slope as w / (1 + |d| / ε), without the 1 / ε inside."""
    d = args[0] - args[1]
    slope = jnp.where(jnp.abs(d) < WIDTH, WIDTH / (1 + jnp.abs(d) / CURVATURE), 1)
    dx = dy[:, None] * jnp.sign(d) * slope / d.shape[1]
    return dx, -dx


def wing_target(args: Args, dy: Array) -> Cotangents:
    """dt = dx for −dx."""
    dx, dt = wing_bwd(args, dy)
    return dx, -dt


def wing_count(args: Args, dy: Array) -> Cotangents:
    """Divided by the number of faces, not of landmarks."""
    dx, dt = wing_bwd(args, dy)
    count, landmarks = args[0].shape
    return dx * landmarks / count, dt * landmarks / count


def contrastive(a: Array, b: Array, c: Array) -> Array:
    """The contrastive loss (Hadsell et al. 2006, equation 4) per pair: (1 − c) ½ D² + c ½ max(0, m − D)².

    a and b [N, D] at a distance D = ‖a − b‖; the label c [N] need not be 0 or 1 here.
    """
    distance = jnp.sqrt(jnp.sum((a - b) ** 2, axis=1))
    return (1 - c) * distance**2 / 2 + c * jnp.maximum(0, MARGIN - distance) ** 2 / 2


def contrastive_parts(args: Args) -> tuple[Array, Array, Array, Array]:
    """a − b [N, D], and D, max(0, m − D) and c, [N, 1]."""
    a, b, c = args
    distance = jnp.sqrt(jnp.sum((a - b) ** 2, axis=1, keepdims=True))
    return a - b, distance, jnp.maximum(0, MARGIN - distance), c[:, None]


def contrastive_with(args: Args, dy: Array, along: Array) -> Cotangents:
    """da = dy `along` (a − b) = −db, and the right dc = dy ½ (max(0, m − D)² − D²)."""
    d, distance, gap, _ = contrastive_parts(args)
    da = dy[:, None] * along * d
    return da, -da, dy * (gap**2 - distance**2)[:, 0] / 2


def contrastive_bwd(args: Args, dy: Array) -> Cotangents:
    """da = dy ((1 − c) − c max(0, m − D) / D) (a − b) = −db."""
    _, distance, gap, c = contrastive_parts(args)
    return contrastive_with(args, dy, (1 - c) - c * gap / distance)


def contrastive_attracted(args: Args, dy: Array) -> Cotangents:
    """The margin's term with +: pairs that should part are pulled together."""
    _, distance, gap, c = contrastive_parts(args)
    return contrastive_with(args, dy, (1 - c) + c * gap / distance)


def contrastive_half(args: Args, dy: Array) -> Cotangents:
    """2 (1 − c) for 1 − c: the ½ of ½ D² is forgotten."""
    _, distance, gap, c = contrastive_parts(args)
    return contrastive_with(args, dy, 2 * (1 - c) - c * gap / distance)


def contrastive_unit(args: Args, dy: Array) -> Cotangents:
    """The margin's term along a − b and not along (a − b) / D."""
    _, _, gap, c = contrastive_parts(args)
    return contrastive_with(args, dy, (1 - c) - c * gap)


def kernel(x: Array, l: Array, s: Array) -> Array:  # noqa: E741
    """Squared exponential kernel matrix (Rasmussen and Williams 2006, equation 5.1): s² exp(−½ Σ (x_i − x_j)² / ℓ²).

    Of the points x [N, D] among themselves, with a length scale per feature, ℓ [D]; the amplitude s is a scalar.
    """
    d = (x[:, None] - x[None]) / l[None, None]
    return s**2 * jnp.exp(-jnp.sum(d * d, axis=2) / 2)


def kernel_bwd(args: Args, dy: Array) -> Cotangents:
    """With P = dy K: dx_i = −Σ_j (P_ij + P_ji) (x_i − x_j) / ℓ², dℓ = Σ P (x_i − x_j)² / ℓ³, ds = 2 Σ P / s."""
    x, l, s = args  # noqa: E741
    p = dy * kernel(*args)
    d = x[:, None] - x[None]
    dx = -jnp.sum((p + p.T)[:, :, None] * d, axis=1) / (l**2)[None]
    return dx, jnp.sum(p[:, :, None] * d * d, axis=(0, 1)) / l**3, 2 * jnp.sum(p) / s


def kernel_rows(args: Args, dy: Array) -> Cotangents:
    """dx_i = −Σ_j P_ij (x_i − x_j) / ℓ²: x is a row's point only, not also a column's."""
    x, l, _ = args  # noqa: E741
    p = dy * kernel(*args)
    dx = -jnp.sum(p[:, :, None] * (x[:, None] - x[None]), axis=1) / (l**2)[None]
    return dx, *kernel_bwd(args, dy)[1:]


def kernel_amplitude(args: Args, dy: Array) -> Cotangents:
    """ds = Σ P / s, without the 2 of the square."""
    dx, dl, ds = kernel_bwd(args, dy)
    return dx, dl, ds / 2


def kernel_length(args: Args, dy: Array) -> Cotangents:
    """dℓ = Σ P (x_i − x_j)² / ℓ², without one of the three 1 / ℓ."""
    dx, dl, ds = kernel_bwd(args, dy)
    return dx, dl * args[1], ds


def haversine(p: Array, l: Array, q: Array, m: Array) -> Array:  # noqa: E741
    """Great-circle distance on the unit sphere, as `sklearn.metrics.pairwise.haversine_distances`: 2 arcsin √h.

    Between points of latitude p and longitude l and points of latitude q and longitude m, all [N], with
    h = sin²((q − p) / 2) + cos p cos q sin²((m − l) / 2).
    """
    return 2 * jnp.arcsin(jnp.sqrt(haversine_square(p, l, q, m)))


def haversine_square(p: Array, l: Array, q: Array, m: Array) -> Array:  # noqa: E741
    """h, [N]."""
    return jnp.sin((q - p) / 2) ** 2 + jnp.cos(p) * jnp.cos(q) * jnp.sin((m - l) / 2) ** 2


def haversine_bwd(args: Args, dy: Array) -> Cotangents:
    """dh = dy / √(h (1 − h)), dm = dh ½ cos p cos q sin(m − l) = −dl.

    And dp = −dh (½ sin(q − p) + sin p cos q sin²((m − l) / 2)), dq = dh (½ sin(q − p) − cos p sin q sin²((m − l) / 2)).
    """
    p, l, q, m = args  # noqa: E741
    h = haversine_square(*args)
    dh = dy / jnp.sqrt(h * (1 - h))
    far = jnp.sin((m - l) / 2) ** 2
    dm = dh * jnp.cos(p) * jnp.cos(q) * jnp.sin(m - l) / 2
    dp = -dh * (jnp.sin(q - p) / 2 + jnp.sin(p) * jnp.cos(q) * far)
    return dp, -dm, dh * (jnp.sin(q - p) / 2 - jnp.cos(p) * jnp.sin(q) * far), dm


def haversine_parallels(args: Args, dy: Array) -> Cotangents:
    """dq = dh ½ sin(q − p) = −dp: cos p and cos q are held constant."""
    p, _, q, _ = args
    h = haversine_square(*args)
    dq = dy / jnp.sqrt(h * (1 - h)) * jnp.sin(q - p) / 2
    _, dl, _, dm = haversine_bwd(args, dy)
    return -dq, dl, dq, dm


def haversine_half_angle(args: Args, dy: Array) -> Cotangents:
    """dm = dh cos p cos q sin(m − l) = −dl, without the ½ of the half angle."""
    dp, dl, dq, dm = haversine_bwd(args, dy)
    return dp, 2 * dl, dq, 2 * dm


def haversine_other_latitude(args: Args, dy: Array) -> Cotangents:
    """In dp cos p sin q, in dq sin p cos q: the other point's latitude in the sine."""
    p, l, q, m = args  # noqa: E741
    h = haversine_square(*args)
    dh = dy / jnp.sqrt(h * (1 - h))
    far = jnp.sin((m - l) / 2) ** 2
    _, dl, _, dm = haversine_bwd(args, dy)
    dp = -dh * (jnp.sin(q - p) / 2 + jnp.cos(p) * jnp.sin(q) * far)
    return dp, dl, dh * (jnp.sin(q - p) / 2 - jnp.sin(p) * jnp.cos(q) * far), dm


def cox(x: Array, b: Array, died: Array) -> Array:
    """Cox's negative log partial likelihood (1972), subjects in the order of their times: Σ died (log S − η), η = x b.

    S_i = Σ_{j ≥ i} e^η_j is over those still at risk. x [N, D], b [D], died [N] is 1 for a death and 0 where censored.
    """
    eta = x @ b
    return jnp.sum(died.astype(x.dtype) * (jnp.log(lax.cumsum(jnp.exp(eta), reverse=True)) - eta))


def cox_through(args: Args, deta: Array) -> Cotangents:
    """dx = dη bᵀ, db = xᵀ dη."""
    x, b, _ = args
    return deta[:, None] * b[None], x.T @ deta, None


def cox_bwd(args: Args, dy: Array) -> Cotangents:
    """dη_j = dy (e^η_j Σ_{i ≤ j} died_i / S_i − died_j)."""
    x, b, died = args
    risk, died = jnp.exp(x @ b), died.astype(x.dtype)
    hazard = lax.cumsum(died / lax.cumsum(risk, reverse=True))
    return cox_through(args, dy * (risk * hazard - died))


def cox_self(args: Args, dy: Array) -> Cotangents:
    """dη_j = dy died_j (e^η_j / S_j − 1): only a subject's own death, not those for which it was at risk."""
    x, b, died = args
    risk, died = jnp.exp(x @ b), died.astype(x.dtype)
    return cox_through(args, dy * died * (risk / lax.cumsum(risk, reverse=True) - 1))


def cox_later(args: Args, dy: Array) -> Cotangents:
    """The sum of died_i / S_i over i ≥ j, like that of S, for i ≤ j."""
    x, b, died = args
    risk, died = jnp.exp(x @ b), died.astype(x.dtype)
    hazard = lax.cumsum(died / lax.cumsum(risk, reverse=True), reverse=True)
    return cox_through(args, dy * (risk * hazard - died))


def cox_score(args: Args, dy: Array) -> Cotangents:
    """The score as it is printed, without dy."""
    return cox_bwd(args, jnp.ones_like(dy))


def counts(seed: int, dtype: Any) -> Args:
    """Logarithms of means [7, 3] and of sizes [3], and counts."""
    e, l = between(((7, 3), 0.3, 1.2), ((3,), 0.2, 0.9))(seed, dtype)  # noqa: E741
    return e, l, array(np.random.RandomState(seed).randint(9, size=(7, 3)))


def subjects(seed: int, dtype: Any) -> Args:
    """Covariates [7, 3], coefficients [3], and 4 deaths among 7, not all of them first or last."""
    random = np.random.RandomState(seed)
    died = np.concatenate([[1], random.permutation([1, 1, 0, 0, 0]), [1]])
    return *gaussians((7, 3), (3,), scale=0.7)(seed, dtype), array(died)


NEGATIVE_BINOMIAL = Subject(negative_binomial, negative_binomial_bwd, counts)
WING = Subject(wing, wing_bwd, gaussians((5, 7), (5, 7)))
CONTRASTIVE = Subject(contrastive, contrastive_bwd, between(*2 * (((7, 3), -1.5, 1.5),), ((7,), 0.2, 0.45)))
KERNEL = Subject(kernel, kernel_bwd, between(((5, 3), -1.5, 1.5), ((3,), 0.7, 1.6), ((), 0.6, 1.7)))
HAVERSINE = Subject(haversine, haversine_bwd, between(*(((7,), -z, z) for z in (0.7, 1.2, 0.7, 1.2))))
COX = Subject(cox, cox_bwd, subjects)

MUTANTS = (
    mutant(301, "negative binomial likelihood", NEGATIVE_BINOMIAL, negative_binomial_poisson, "MISSING_FACTOR"),
    mutant(302, "negative binomial likelihood", NEGATIVE_BINOMIAL, negative_binomial_gammas, "MISSING_PATH", (1,)),
    mutant(303, "negative binomial likelihood", NEGATIVE_BINOMIAL, negative_binomial_size, "UNREDUCED", (1,)),
    # A factor that is missing in one branch; wrong exactly there.
    mutant(304, "wing loss", WING, wing_curvature, "MISSING_FACTOR SUPPORT", (0, 1)),
    mutant(305, "wing loss", WING, wing_target, "SIGN", (1,)),
    mutant(306, "wing loss", WING, wing_count, "WRONG_AXIS SCALE", (0, 1)),
    mutant(307, "contrastive loss", CONTRASTIVE, contrastive_attracted, "PATH_SIGN", (0, 1)),
    # A path with an explicit ½, twice what it is.
    mutant(308, "contrastive loss", CONTRASTIVE, contrastive_half, "PATH_SCALE DOUBLED_PATH", (0, 1)),
    # 1 / D is left out, on one of two paths.
    mutant(309, "contrastive loss", CONTRASTIVE, contrastive_unit, "MISSING_FACTOR PATH_SCALE", (0, 1)),
    mutant(310, "squared exponential kernel", KERNEL, kernel_rows, "MISSING_PATH"),
    mutant(311, "squared exponential kernel", KERNEL, kernel_amplitude, "SCALE MISSING_FACTOR", (2,)),
    mutant(312, "squared exponential kernel", KERNEL, kernel_length, "MISSING_FACTOR", (1,)),
    mutant(313, "haversine distance", HAVERSINE, haversine_parallels, "MISSING_PATH", (0, 2)),
    mutant(314, "haversine distance", HAVERSINE, haversine_half_angle, "SCALE MISSING_FACTOR", (1, 3)),
    mutant(315, "haversine distance", HAVERSINE, haversine_other_latitude, "WRONG_OPERAND", (0, 2)),
    mutant(316, "Cox's partial likelihood", COX, cox_self, "MISSING_PATH", (0, 1)),
    # The cumulative sum itself for its adjoint.
    mutant(317, "Cox's partial likelihood", COX, cox_later, "TRANSPOSE LAYOUT", (0, 1)),
    mutant(318, "Cox's partial likelihood", COX, cox_score, "COTANGENT_IGNORED", (0, 1)),
)
