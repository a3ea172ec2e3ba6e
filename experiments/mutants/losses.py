"""Wrong backward passes of losses: rows 11–17 and 20–24."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

SMOOTHING = 0.2


def mean_squared_error(p: Array, t: Array) -> Array:
    """Mean of (p − t)² over the N examples and the D outputs, p and t [N, D]."""
    return jnp.mean((p - t) ** 2)


def mean_squared_error_bwd(args: Args, dy: Array) -> Cotangents:
    """dp = 2 (p − t) / (N D), dt = −dp."""
    p, t = args
    dp = dy * 2 * (p - t) / p.size
    return dp, -dp


def mean_forgotten(args: Args, dy: Array) -> Cotangents:
    """2 (p − t), without 1/(N D)."""
    p, t = args
    return dy * 2 * (p - t), dy * 2 * (t - p)


def two_forgotten(args: Args, dy: Array) -> Cotangents:
    """(p − t) / (N D), without 2."""
    p, t = args
    return dy * (p - t) / p.size, dy * (t - p) / p.size


def target_minus_prediction(args: Args, dy: Array) -> Cotangents:
    """dp = 2 (t − p) / (N D) for 2 (p − t) / (N D)."""
    _, dt = mean_squared_error_bwd(args, dy)
    return dt, dt


def mean_over_examples(args: Args, dy: Array) -> Cotangents:
    """2 (p − t) / N for 2 (p − t) / (N D)."""
    p, t = args
    return dy * 2 * (p - t) / p.shape[0], dy * 2 * (t - p) / p.shape[0]


def log_softmax(z: Array) -> Array:
    """z − log Σ e^z, along the last axis."""
    return z - jnp.log(jnp.sum(jnp.exp(z), axis=-1, keepdims=True))


def one_hot(labels: Array, z: Array) -> Array:
    """[B, K] like z; a row of zeros for the label −1."""
    return jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)


def cross_entropy(z: Array, labels: Array) -> Array:
    """Mean of −log softmax(z)[label], z [B, K]."""
    return -jnp.sum(one_hot(labels, z) * log_softmax(z)) / z.shape[0]


def cross_entropy_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = (p − q) / B, q = one-hot(label)."""
    z, labels = args
    return dy * (jnp.exp(log_softmax(z)) - one_hot(labels, z)) / z.shape[0], None


def batch_mean_forgotten(args: Args, dy: Array) -> Cotangents:
    """p − q, without 1/B."""
    z, labels = args
    return dy * (jnp.exp(log_softmax(z)) - one_hot(labels, z)), None


def masked_cross_entropy(z: Array, labels: Array) -> Array:
    """Mean of −log softmax(z)[label] over the tokens whose label is not −1."""
    valid = jnp.sum((labels >= 0).astype(z.dtype))
    return -jnp.sum(one_hot(labels, z) * log_softmax(z)) / valid


def masked_cross_entropy_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = (p − q) / valid where the token is, else 0."""
    z, labels = args
    valid = (labels >= 0).astype(z.dtype)[:, None]
    return dy * valid * (jnp.exp(log_softmax(z)) - one_hot(labels, z)) / jnp.sum(valid), None


def mean_over_padding(args: Args, dy: Array) -> Cotangents:
    """Divided by the number of all tokens, not of the valid ones."""
    z, labels = args
    valid = (labels >= 0).astype(z.dtype)[:, None]
    return dy * valid * (jnp.exp(log_softmax(z)) - one_hot(labels, z)) / labels.size, None


def smoothed_cross_entropy(z: Array, labels: Array) -> Array:
    """−Σ_k q_k log softmax(z)_k per example, q = (1 − ε) one-hot(label) + ε/K."""
    q = (1 - SMOOTHING) * one_hot(labels, z) + SMOOTHING / z.shape[-1]
    return -jnp.sum(q * log_softmax(z), axis=-1)


def smoothed_cross_entropy_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = dy (p − q)."""
    z, labels = args
    q = (1 - SMOOTHING) * one_hot(labels, z) + SMOOTHING / z.shape[-1]
    return dy[:, None] * (jnp.exp(log_softmax(z)) - q), None


def hard_labels(args: Args, dy: Array) -> Cotangents:
    """p − one-hot(label), the targets not smoothed."""
    z, labels = args
    return dy[:, None] * (jnp.exp(log_softmax(z)) - one_hot(labels, z)), None


def linear_cross_entropy(x: Array, w: Array, labels: Array) -> Array:
    """Mean of −log softmax(x w)[label], fused."""
    return cross_entropy(x @ w, labels)


def linear_cross_entropy_bwd(args: Args, dy: Array) -> Cotangents:
    """dz of the cross-entropy, then dx = dz wᵀ, dw = xᵀ dz."""
    x, w, labels = args
    dz, _ = cross_entropy_bwd((x @ w, labels), dy)
    return dz @ w.T, x.T @ dz, None


def cotangent_ignored(args: Args, dy: Array) -> Cotangents:
    """The gradients were computed in the forward pass, and are not multiplied by dy."""
    return linear_cross_entropy_bwd(args, jnp.ones_like(dy))


def binary_cross_entropy(z: Array, t: Array) -> Array:
    """softplus(z) − t z, per example."""
    return jnp.log1p(jnp.exp(z)) - t * z


def binary_cross_entropy_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = dy (σ(z) − t), dt = −dy z."""
    z, t = args
    return dy * (jax.nn.sigmoid(z) - t), -dy * z


def sigmoid_derivative_extra(args: Args, dy: Array) -> Cotangents:
    """dz = (σ − t) σ′ for σ − t."""
    z, _ = args
    s = jax.nn.sigmoid(z)
    dz, dt = binary_cross_entropy_bwd(args, dy)
    return dz * s * (1 - s), dt


def huber(p: Array, t: Array) -> Array:
    """½ r² where |r| ≤ 1, else |r| − ½, r = p − t."""
    r = p - t
    return jnp.where(jnp.abs(r) <= 1, 0.5 * r**2, jnp.abs(r) - 0.5)


def huber_bwd(args: Args, dy: Array) -> Cotangents:
    """dp = dy r where |r| ≤ 1, else dy sign(r); dt = −dp."""
    r = args[0] - args[1]
    dp = dy * jnp.where(jnp.abs(r) <= 1, r, jnp.sign(r))
    return dp, -dp


def sign_forgotten(args: Args, dy: Array) -> Cotangents:
    """Outside, 1 for sign(r)."""
    r = args[0] - args[1]
    dp = dy * jnp.where(jnp.abs(r) <= 1, r, 1)
    return dp, -dp


def hinge(s: Array, labels: Array) -> Array:
    """Σ_{j ≠ label} max(0, 1 + s_j − s_label) per example, s [B, K]."""
    q = one_hot(labels, s)
    slack = 1 + s - jnp.sum(q * s, axis=-1, keepdims=True)
    return jnp.sum(jnp.where((slack > 0) & (q == 0), slack, 0), axis=-1)


def hinge_bwd(args: Args, dy: Array) -> Cotangents:
    """ds_j = dy where class j violates the margin; ds_label = −dy times how many do."""
    ds, _ = target_omitted(args, dy)
    return ds - one_hot(args[1], ds) * jnp.sum(ds, axis=-1, keepdims=True), None


def target_omitted(args: Args, dy: Array) -> Cotangents:
    """The label's own column is left out."""
    s, labels = args
    q = one_hot(labels, s)
    slack = 1 + s - jnp.sum(q * s, axis=-1, keepdims=True)
    return jnp.where((slack > 0) & (q == 0), dy[:, None], 0), None


def cosine(u: Array, v: Array) -> Array:
    """u·v / (‖u‖ ‖v‖), row by row."""
    return jnp.sum(u * v, axis=-1) / (norm(u) * norm(v))


def norm(x: Array) -> Array:
    """‖x‖, row by row."""
    return jnp.sqrt(jnp.sum(x * x, axis=-1))


def cosine_bwd(args: Args, dy: Array) -> Cotangents:
    """du = dy (v / (‖u‖ ‖v‖) − cos · u / ‖u‖²), and likewise for v."""
    u, v = args
    c = (dy * cosine(u, v))[:, None]
    du, dv = norms_constant(args, dy)
    return (
        du - c * u / jnp.sum(u * u, axis=-1, keepdims=True),
        dv - c * v / jnp.sum(v * v, axis=-1, keepdims=True),
    )


def norms_constant(args: Args, dy: Array) -> Cotangents:
    """du = v / (‖u‖ ‖v‖): the norms are held constant."""
    u, v = args
    scale = (dy / (norm(u) * norm(v)))[:, None]
    return scale * v, scale * u


def logits(seed: int, dtype: Any) -> Args:
    """Logits [5, 3] and labels."""
    random = np.random.RandomState(seed)
    return array(random.normal(size=(5, 3)), dtype), array(random.randint(3, size=5))


def padded_logits(seed: int, dtype: Any) -> Args:
    """Logits [7, 3] and labels, of which two are padding."""
    random = np.random.RandomState(seed)
    labels = random.randint(3, size=7)
    labels[[1, 4]] = -1
    return array(random.normal(size=(7, 3)), dtype), array(labels)


def features(seed: int, dtype: Any) -> Args:
    """Features [5, 2], weights [2, 3] and labels."""
    return *gaussians((5, 2), (2, 3))(seed, dtype), array(np.random.RandomState(seed).randint(3, size=5))


MSE = Subject(mean_squared_error, mean_squared_error_bwd, gaussians((5, 3), (5, 3)))
CROSS_ENTROPY = Subject(cross_entropy, cross_entropy_bwd, logits)
MASKED = Subject(masked_cross_entropy, masked_cross_entropy_bwd, padded_logits)
SMOOTHED = Subject(smoothed_cross_entropy, smoothed_cross_entropy_bwd, logits)
FUSED = Subject(linear_cross_entropy, linear_cross_entropy_bwd, features)
BCE = Subject(binary_cross_entropy, binary_cross_entropy_bwd, gaussians((7,), (7,)))
HUBER = Subject(huber, huber_bwd, gaussians((17,), (17,), scale=3))  # inside, above and below
HINGE = Subject(hinge, hinge_bwd, logits)
COSINE = Subject(cosine, cosine_bwd, gaussians((5, 3), (5, 3)))

MUTANTS = (
    mutant(11, "mean squared error", MSE, mean_forgotten, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(12, "mean squared error", MSE, two_forgotten, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(13, "mean squared error", MSE, target_minus_prediction, "SIGN"),
    mutant(14, "mean squared error", MSE, mean_over_examples, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(15, "softmax cross-entropy", CROSS_ENTROPY, batch_mean_forgotten, "SCALE MISSING_FACTOR"),
    mutant(16, "masked cross-entropy", MASKED, mean_over_padding, "SCALE"),
    # Another quantity in the right place; and the derivative of the loss without smoothing.
    mutant(17, "smoothed cross-entropy", SMOOTHED, hard_labels, "WRONG_OPERAND OTHER_FORWARD"),
    mutant(20, "fused linear cross-entropy", FUSED, cotangent_ignored, "COTANGENT_IGNORED", (0, 1)),
    mutant(21, "binary cross-entropy", BCE, sigmoid_derivative_extra, "EXTRA_FACTOR"),
    # The factor sign(r); wrong exactly where r < −1.
    mutant(22, "Huber loss", HUBER, sign_forgotten, "MISSING_FACTOR SUPPORT", (0, 1)),
    # The way through s_label; wrong exactly at the label.
    mutant(23, "multiclass hinge", HINGE, target_omitted, "SUPPORT MISSING_PATH"),
    mutant(24, "cosine similarity", COSINE, norms_constant, "MISSING_PATH", (0, 1)),
)
