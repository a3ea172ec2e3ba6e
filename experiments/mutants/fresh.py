"""A first set of wrong backward passes, of other functions: losses and likelihoods, 101–124.

From papers and from other libraries, as each docstring says. The layers are in `fresh_more`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma, gammaln, logsumexp

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

GAMMA = 3
MARGIN = 1.5


def clip_loss(u: Array, v: Array, t: Array) -> Array:
    """CLIP (Radford et al. 2021, Figure 3): the mean of both cross-entropies of e^t u vᵀ, images u and texts v [N, D].

    Either way it is InfoNCE (van den Oord et al. 2018, equation 4): the pairs are on the diagonal.
    """
    z = jnp.exp(t) * u @ v.T
    return jnp.mean((logsumexp(z, axis=1) + logsumexp(z, axis=0)) / 2 - jnp.diagonal(z))


def clip_logits(args: Args) -> tuple[Array, Array, Array, Array]:
    """z, its softmax along the rows and along the columns, and the identity."""
    u, v, t = args
    z = jnp.exp(t) * u @ v.T
    return z, jax.nn.softmax(z, axis=1), jax.nn.softmax(z, axis=0), jnp.eye(len(u), dtype=u.dtype)


def clip_through(args: Args, dz: Array) -> Cotangents:
    """From those of the logits: du = e^t dz v, dv = e^t dzᵀ u, dt = Σ dz z."""
    u, v, t = args
    z = jnp.exp(t) * u @ v.T
    return jnp.exp(t) * dz @ v, jnp.exp(t) * dz.T @ u, jnp.sum(dz * z)


def clip_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = (rows + columns − 2 I) / (2 N)."""
    _, rows, columns, identity = clip_logits(args)
    return clip_through(args, dy * (rows + columns - 2 * identity) / (2 * len(rows)))


def clip_columns_dropped(args: Args, dy: Array) -> Cotangents:
    """dz = (rows − I) / (2 N): the texts' cross-entropy is left out."""
    _, rows, _, identity = clip_logits(args)
    return clip_through(args, dy * (rows - identity) / (2 * len(rows)))


def clip_not_transposed(args: Args, dy: Array) -> Cotangents:
    """dv = e^t dz u for e^t dzᵀ u."""
    u, _, t = args
    _, rows, columns, identity = clip_logits(args)
    du, _, dt = clip_bwd(args, dy)
    return du, jnp.exp(t) * dy * (rows + columns - 2 * identity) / (2 * len(rows)) @ u, dt


def clip_temperature(args: Args, dy: Array) -> Cotangents:
    """dt = Σ dz u vᵀ, the derivative by e^t, for Σ dz z."""
    du, dv, dt = clip_bwd(args, dy)
    return du, dv, dt * jnp.exp(-args[2])


def triplet(a: Array, p: Array, n: Array) -> Array:
    """FaceNet (Schroff et al. 2015, equation 3), the mean: max(0, ‖a − p‖² − ‖a − n‖² + margin); all [N, D]."""
    return jnp.mean(jnp.maximum(triplet_slack(a, p, n), 0))


def triplet_slack(a: Array, p: Array, n: Array) -> Array:
    """‖a − p‖² − ‖a − n‖² + margin, [N, 1]."""
    return jnp.sum((a - p) ** 2 - (a - n) ** 2, axis=1, keepdims=True) + MARGIN


def triplet_bwd(args: Args, dy: Array) -> Cotangents:
    """da = 2 (n − p) / N, dp = 2 (p − a) / N and dn = 2 (a − n) / N where the margin is violated, else 0."""
    active = triplet_slack(*args) > 0
    da, dp, dn = triplet_always(args, dy)
    return jnp.where(active, da, 0), jnp.where(active, dp, 0), jnp.where(active, dn, 0)


def triplet_always(args: Args, dy: Array) -> Cotangents:
    """Triplets that keep the margin have a gradient, too."""
    a, p, n = args
    scale = 2 * dy / len(a)
    return scale * (n - p), scale * (p - a), scale * (a - n)


def triplet_anchor(args: Args, dy: Array) -> Cotangents:
    """da = 2 (a − p) / N, without the distance to the negative."""
    _, dp, dn = triplet_bwd(args, dy)
    return -dp, dp, dn


def triplet_negative(args: Args, dy: Array) -> Cotangents:
    """dn = 2 (n − a) / N for 2 (a − n) / N."""
    da, dp, dn = triplet_bwd(args, dy)
    return da, dp, -dn


def focal(z: Array, labels: Array) -> Array:
    """Focal loss (Lin et al. 2017, equation 4), per example: −(1 − p)^γ log p, p = σ(±z) the label's probability."""
    p, _ = focal_probability(z, labels)
    return -((1 - p) ** GAMMA) * jnp.log(p)


def focal_probability(z: Array, labels: Array) -> tuple[Array, Array]:
    """p, and the sign: + for the label 1, − for 0."""
    sign = 2 * labels.astype(z.dtype) - 1
    return jax.nn.sigmoid(sign * z), sign


def focal_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = ± dy (1 − p)^γ (γ p log p + p − 1)."""
    p, sign = focal_probability(*args)
    return sign * dy * (1 - p) ** GAMMA * (GAMMA * p * jnp.log(p) + p - 1), None


def focal_weight_constant(args: Args, dy: Array) -> Cotangents:
    """dz = ± dy (1 − p)^γ (p − 1): the weight (1 − p)^γ is held constant."""
    p, sign = focal_probability(*args)
    return sign * dy * (1 - p) ** GAMMA * (p - 1), None


def focal_sign(args: Args, dy: Array) -> Cotangents:
    """Without ±, as for the label 1."""
    dz, _ = focal_bwd(args, dy)
    return focal_probability(*args)[1] * dz, None


def focal_power(args: Args, dy: Array) -> Cotangents:
    """The weight's derivative γ (1 − p)^γ p′ for γ (1 − p)^(γ − 1) p′."""
    p, sign = focal_probability(*args)
    return sign * dy * (1 - p) ** GAMMA * ((1 - p) * GAMMA * p * jnp.log(p) + p - 1), None


def kl_gaussians(m: Array, s: Array, n: Array, t: Array) -> Array:
    """KL of N(m, e^s) from N(n, e^t), per example: ½ Σ (t − s + (e^s + (m − n)²) / e^t − 1); all [N, D].

    As `torch.distributions.kl_divergence` of two `Normal`; Kingma and Welling (2013), appendix B, for n = t = 0.
    """
    return jnp.sum(t - s + (jnp.exp(s) + (m - n) ** 2) * jnp.exp(-t) - 1, axis=1) / 2


def kl_gaussians_bwd(args: Args, dy: Array) -> Cotangents:
    """dm = dy (m − n) / e^t = −dn, ds = ½ dy (e^(s − t) − 1), dt = ½ dy (1 − (e^s + (m − n)²) / e^t)."""
    m, s, n, t = args
    dy = dy[:, None]
    dm = dy * (m - n) * jnp.exp(-t)
    dt = dy * (1 - (jnp.exp(s) + (m - n) ** 2) * jnp.exp(-t)) / 2
    return dm, dy * (jnp.exp(s - t) - 1) / 2, -dm, dt


def kl_order(args: Args, dy: Array) -> Cotangents:
    """The means' first, then the variances': dn stands in the place of ds."""
    dm, ds, dn, dt = kl_gaussians_bwd(args, dy)
    return dm, dn, ds, dt


def kl_distance(args: Args, dy: Array) -> Cotangents:
    """dt = ½ dy (1 − e^(s − t)), without (m − n)²."""
    dm, ds, dn, _ = kl_gaussians_bwd(args, dy)
    return dm, ds, dn, -ds


def kl_by_variance(args: Args, dy: Array) -> Cotangents:
    """ds = ½ dy (e^−t − e^−s), the derivative by the variance e^s, not by its logarithm."""
    dm, ds, dn, dt = kl_gaussians_bwd(args, dy)
    return dm, ds * jnp.exp(-args[1]), dn, dt


def mixture(x: Array, m: Array, a: Array, s: Array) -> Array:
    """log Σ_k π_k N(x; m_k, e^(2 s_k) I) per example (Bishop 2006, equation 9.14), but for D/2 log 2π.

    x [N, D], m [K, D], π = softmax(a) and s [K].
    """
    return logsumexp(mixture_joint(x, m, a, s), axis=1)


def mixture_joint(x: Array, m: Array, a: Array, s: Array) -> Array:
    """log π_k N(x; m_k, ·), [N, K]."""
    square = jnp.sum((x[:, None] - m[None]) ** 2, axis=2)
    return (jax.nn.log_softmax(a) - x.shape[1] * s)[None] - square * jnp.exp(-2 * s)[None] / 2


def mixture_bwd(args: Args, dy: Array) -> Cotangents:
    """With r = dy times the posterior, δ = (x − m) / e^s: dm_k = Σ r δ / e^s, dx the like, ds_k = Σ r (δ² − D).

    And da_k = Σ (r − dy π_k).
    """
    x, m, a, s = args
    r = dy[:, None] * jax.nn.softmax(mixture_joint(*args), axis=1)
    terms = r[:, :, None] * (x[:, None] - m[None]) * jnp.exp(-2 * s)[None, :, None]
    squares = jnp.sum(terms * (x[:, None] - m[None]), axis=(0, 2))
    da = jnp.sum(r, axis=0) - jnp.sum(dy) * jax.nn.softmax(a)
    return -jnp.sum(terms, axis=1), jnp.sum(terms, axis=0), da, squares - x.shape[1] * jnp.sum(r, axis=0)


def mixture_weights(args: Args, dy: Array) -> Cotangents:
    """da_k = Σ r, without −Σ dy π_k: that the weights sum to 1 is forgotten."""
    dx, dm, da, ds = mixture_bwd(args, dy)
    return dx, dm, da + jnp.sum(dy) * jax.nn.softmax(args[2]), ds


def mixture_prior(args: Args, dy: Array) -> Cotangents:
    """dm with the weights π_k for the posterior."""
    x, m, a, s = args
    dx, _, da, ds = mixture_bwd(args, dy)
    residual = jnp.sum(dy[:, None, None] * (x[:, None] - m[None]), axis=0)
    return dx, (jax.nn.softmax(a) * jnp.exp(-2 * s))[:, None] * residual, da, ds


def mixture_dimension(args: Args, dy: Array) -> Cotangents:
    """ds_k = Σ r (δ² − 1) for Σ r (δ² − D)."""
    dx, dm, da, ds = mixture_bwd(args, dy)
    r = dy[:, None] * jax.nn.softmax(mixture_joint(*args), axis=1)
    return dx, dm, da, ds + (args[0].shape[1] - 1) * jnp.sum(r, axis=0)


def student(x: Array, m: Array, s: Array, k: Array) -> Array:
    """−log density of Student's t per example, as `torch.distributions.StudentT`, but for ½ D log π.

    x [N, D]; per feature the location m, the scale e^s and ν = e^k degrees of freedom, [D].
    """
    v = jnp.exp(k)
    z = (x - m[None]) * jnp.exp(-s)[None]
    constant = gammaln(v / 2) - gammaln((v + 1) / 2) + k / 2 + s
    return jnp.sum(constant[None] + ((v + 1) / 2)[None] * jnp.log1p(z * z / v[None]), axis=1)


def student_bwd(args: Args, dy: Array) -> Cotangents:
    """With w = (ν + 1) / (ν + z²): dx = dy w z / e^s, dm = −Σ dx, ds = Σ dy (1 − w z²).

    And dk = ½ Σ dy (ν (ψ(ν/2) − ψ((ν+1)/2) + log(1 + z²/ν)) + 1 − w z²).
    """
    x, m, s, k = args
    dy, v = dy[:, None], jnp.exp(k)[None]
    z = (x - m[None]) * jnp.exp(-s)[None]
    w = (v + 1) / (v + z * z)
    dx = dy * w * z * jnp.exp(-s)[None]
    ds = dy * (1 - w * z * z)
    dk = dy * v * (digamma(v / 2) - digamma((v + 1) / 2) + jnp.log1p(z * z / v)) + ds
    return dx, -jnp.sum(dx, axis=0), jnp.sum(ds, axis=0), jnp.sum(dk, axis=0) / 2


def student_not_summed(args: Args, dy: Array) -> Cotangents:
    """dm = −dx [N, D], not summed over the examples."""
    dx, _, ds, dk = student_bwd(args, dy)
    return dx, -dx, ds, dk


def student_weight(args: Args, dy: Array) -> Cotangents:
    """dx = dy z / e^s and dm = −Σ dx, without the weight w that makes it robust."""
    x, m, s, _ = args
    _, _, ds, dk = student_bwd(args, dy)
    dx = dy[:, None] * (x - m[None]) * jnp.exp(-2 * s)[None]
    return dx, -jnp.sum(dx, axis=0), ds, dk


def student_gamma(args: Args, dy: Array) -> Cotangents:
    """In dk, ν (ψ(ν/2) − ψ((ν+1)/2)) without the ½ from inside log Γ(ν/2)."""
    dx, dm, ds, dk = student_bwd(args, dy)
    v = jnp.exp(args[3])
    return dx, dm, ds, dk + jnp.sum(dy) * v * (digamma(v / 2) - digamma((v + 1) / 2)) / 2


def crf(e: Array, a: Array, labels: Array) -> Array:
    """−log probability of the labels by a chain (Lafferty et al. 2001), log Z by the forward algorithm.

    Scores e [T, K] of the labels and a [K, K] of the transitions, from the row's label to the column's.
    """
    score = jnp.sum(e[jnp.arange(len(e)), labels]) + jnp.sum(a[labels[:-1], labels[1:]])
    return logsumexp(crf_forward(e, a)[-1]) - score


def crf_forward(e: Array, a: Array) -> list[Array]:
    """log α_t, [K] each."""
    alphas = [e[0]]
    for t in range(1, len(e)):
        alphas.append(logsumexp(alphas[-1][:, None] + a, axis=0) + e[t])
    return alphas


def crf_marginals(args: Args, dy: Array) -> tuple[Array, Array]:
    """dy times the probabilities of the labels [T, K] and of each transition [T − 1, K, K], backward in time."""
    e, a, _ = args
    alphas = crf_forward(e, a)
    states, transitions = [dy * jax.nn.softmax(alphas[-1])], []
    for alpha in reversed(alphas[:-1]):
        transitions.append(jax.nn.softmax(alpha[:, None] + a, axis=0) * states[-1][None])
        states.append(jnp.sum(transitions[-1], axis=1))
    return jnp.stack(states[::-1]), jnp.stack(transitions[::-1])


def crf_minus_labels(states: Array, transitions: Array, args: Args, dy: Array) -> Cotangents:
    """What the labels' own score contributes is subtracted."""
    labels = args[2]
    steps = jnp.arange(len(labels))
    return states.at[steps, labels].add(-dy), transitions.at[labels[:-1], labels[1:]].add(-dy), None


def crf_bwd(args: Args, dy: Array) -> Cotangents:
    """de = dy (the label's probability − one-hot(label)), da the like, summed over time."""
    states, transitions = crf_marginals(args, dy)
    return crf_minus_labels(states, jnp.sum(transitions, axis=0), args, dy)


def crf_overwritten(args: Args, dy: Array) -> Cotangents:
    """The transitions' probabilities are assigned at each step backward, not added: the first step's remain."""
    states, transitions = crf_marginals(args, dy)
    return crf_minus_labels(states, transitions[0], args, dy)


def crf_transposed(args: Args, dy: Array) -> Cotangents:
    """da from the column's label to the row's."""
    de, da, _ = crf_bwd(args, dy)
    return de, da.T, None


def crf_loss_alone(args: Args, dy: Array) -> Cotangents:
    """Probability − one-hot, as if nothing followed the loss: dy is not multiplied."""
    return crf_bwd(args, jnp.ones_like(dy))


def ridge(x: Array, t: Array, s: Array) -> Array:
    """w = (xᵀ x + e^s I)⁻¹ xᵀ t (Hastie et al. 2009, equation 3.44), x [N, D]."""
    w: Array = jnp.linalg.solve(ridge_matrix(x, s), x.T @ t)
    return w


def ridge_matrix(x: Array, s: Array) -> Array:
    """xᵀ x + e^s I."""
    return x.T @ x + jnp.exp(s) * jnp.eye(x.shape[1], dtype=x.dtype)


def ridge_bwd(args: Args, dy: Array) -> Cotangents:
    """With u = (xᵀ x + e^s I)⁻¹ dy: dx = t uᵀ − x (u wᵀ + w uᵀ), dt = x u, ds = −e^s u·w."""
    x, t, s = args
    w, u = ridge(*args), jnp.linalg.solve(ridge_matrix(x, s), dy)
    both = jnp.outer(u, w) + jnp.outer(w, u)
    return jnp.outer(t, u) - x @ both, x @ u, -jnp.exp(s) * u @ w


def ridge_matrix_constant(args: Args, dy: Array) -> Cotangents:
    """dx = t uᵀ: the matrix xᵀ x is held constant."""
    x, t, s = args
    _, dt, ds = ridge_bwd(args, dy)
    return jnp.outer(t, jnp.linalg.solve(ridge_matrix(x, s), dy)), dt, ds


def ridge_not_solved(args: Args, dy: Array) -> Cotangents:
    """ds = −e^s dy·w for −e^s u·w: the inverse acts on dy, too."""
    dx, dt, _ = ridge_bwd(args, dy)
    return dx, dt, -jnp.exp(args[2]) * dy @ ridge(*args)


def ridge_prediction(args: Args, dy: Array) -> Cotangents:
    """dx = t uᵀ − x (w uᵀ − u wᵀ), a minus on one of the two ways in which x is in xᵀ x."""
    dx, dt, ds = ridge_bwd(args, dy)
    return dx + 2 * jnp.outer(dt, ridge(*args)), dt, ds


def labelled(seed: int, dtype: Any) -> Args:
    """Logits [11] and labels, 0 or 1."""
    return *gaussians((11,))(seed, dtype), array(np.random.RandomState(seed + 1).randint(2, size=11))


def chain(seed: int, dtype: Any) -> Args:
    """Five steps of three labels."""
    return *gaussians((5, 3), (3, 3))(seed, dtype), array(np.random.RandomState(seed).randint(3, size=5))


CLIP = Subject(clip_loss, clip_bwd, gaussians((5, 3), (5, 3), ()))
TRIPLET = Subject(triplet, triplet_bwd, gaussians((7, 3), (7, 3), (7, 3)))
FOCAL = Subject(focal, focal_bwd, labelled)
KL = Subject(kl_gaussians, kl_gaussians_bwd, gaussians((5, 3), (5, 3), (5, 3), (5, 3), scale=0.7))
MIXTURE = Subject(mixture, mixture_bwd, gaussians((5, 2), (3, 2), (3,), (3,), scale=0.8))
STUDENT = Subject(student, student_bwd, gaussians((5, 3), (3,), (3,), (3,), scale=0.6))
CRF = Subject(crf, crf_bwd, chain)
RIDGE = Subject(ridge, ridge_bwd, gaussians((7, 3), (7,), ()))

MUTANTS = (
    mutant(101, "CLIP loss", CLIP, clip_columns_dropped, "MISSING_PATH", (0, 1, 2)),
    mutant(102, "CLIP loss", CLIP, clip_not_transposed, "TRANSPOSE", (1,)),
    mutant(103, "CLIP loss", CLIP, clip_temperature, "MISSING_FACTOR", (2,)),
    mutant(104, "triplet loss", TRIPLET, triplet_anchor, "MISSING_PATH"),
    # A mask forgotten: wrong exactly where it is 0.
    mutant(105, "triplet loss", TRIPLET, triplet_always, "MISSING_FACTOR SUPPORT", (0, 1, 2)),
    mutant(106, "triplet loss", TRIPLET, triplet_negative, "SIGN", (2,)),
    mutant(107, "focal loss", FOCAL, focal_weight_constant, "MISSING_PATH"),
    # The factor ±1; wrong exactly where it is −1.
    mutant(108, "focal loss", FOCAL, focal_sign, "MISSING_FACTOR SUPPORT"),
    # One of two terms, times 1 − p.
    mutant(109, "focal loss", FOCAL, focal_power, "PATH_SCALE EXTRA_FACTOR"),
    mutant(110, "KL of Gaussians", KL, kl_order, "SWAPPED", (1, 2)),
    mutant(111, "KL of Gaussians", KL, kl_distance, "MISSING_PATH", (3,)),
    mutant(112, "KL of Gaussians", KL, kl_by_variance, "MISSING_FACTOR", (1,)),
    mutant(113, "Gaussian mixture", MIXTURE, mixture_weights, "MISSING_PATH", (2,)),
    mutant(114, "Gaussian mixture", MIXTURE, mixture_prior, "WRONG_OPERAND", (1,)),
    mutant(115, "Gaussian mixture", MIXTURE, mixture_dimension, "PATH_SCALE", (3,)),
    mutant(116, "Student's t", STUDENT, student_not_summed, "UNREDUCED", (1,)),
    mutant(117, "Student's t", STUDENT, student_weight, "MISSING_FACTOR", (0, 1)),
    mutant(118, "Student's t", STUDENT, student_gamma, "PATH_SCALE", (3,)),
    mutant(119, "conditional random field", CRF, crf_overwritten, "OVERWRITE", (1,)),
    mutant(120, "conditional random field", CRF, crf_transposed, "TRANSPOSE", (1,)),
    mutant(121, "conditional random field", CRF, crf_loss_alone, "COTANGENT_IGNORED", (0, 1)),
    mutant(122, "ridge regression", RIDGE, ridge_matrix_constant, "MISSING_PATH"),
    # dy in the place of u; or the inverse matrix, which is between them, left out.
    mutant(123, "ridge regression", RIDGE, ridge_not_solved, "WRONG_OPERAND MISSING_FACTOR", (2,)),
    mutant(124, "ridge regression", RIDGE, ridge_prediction, "PATH_SIGN"),
)
