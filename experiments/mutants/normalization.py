"""Wrong backward passes of normalizations: rows 36–45.

All are y = γ x̂ + β with x̂ = (x − μ) r. With dx̂ = γ dy, and means over the axes that were normalized,

    dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)),   dγ = Σ dy x̂,   dβ = Σ dy,

where mean(dx̂) is what goes through μ, and mean(dx̂ x̂) what goes through r. (No r but that of x enters: through μ,
the variance does not change.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

EPS = 0.1  # so large that its place is seen in float32


def mean(x: Array, axis: int = -1) -> Array:
    """Keeps the axis."""
    return jnp.mean(x, axis=axis, keepdims=True)


def normalize(x: Array, axis: int = -1) -> tuple[Array, Array]:
    """x̂ and r."""
    centred = x - mean(x, axis)
    r = jax.lax.rsqrt(mean(centred * centred, axis) + EPS)
    return centred * r, r


def layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Rows of mean 0 and variance 1, x [B, D], then scaled and shifted."""
    return normalize(x)[0] * scale[None, :] + offset[None, :]


def layer_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """The equation of the module docstring."""
    xhat, r = normalize(args[0])
    d = dy * args[1][None, :]
    return r * (d - mean(d) - xhat * mean(d * xhat)), *affine_bwd(xhat, dy)


def affine_bwd(xhat: Array, dy: Array) -> Cotangents:
    """dγ and dβ."""
    return jnp.sum(dy * xhat, axis=0), jnp.sum(dy, axis=0)


def mean_dropped(args: Args, dy: Array) -> Cotangents:
    """What goes through the mean is dropped."""
    xhat, r = normalize(args[0])
    d = dy * args[1][None, :]
    return r * (d - xhat * mean(d * xhat)), *affine_bwd(xhat, dy)


def variance_dropped(args: Args, dy: Array) -> Cotangents:
    """What goes through the variance is dropped."""
    xhat, r = normalize(args[0])
    d = dy * args[1][None, :]
    return r * (d - mean(d)), *affine_bwd(xhat, dy)


def mean_twice(args: Args, dy: Array) -> Cotangents:
    """What goes through the mean is subtracted twice."""
    xhat, r = normalize(args[0])
    d = dy * args[1][None, :]
    return r * (d - 2 * mean(d) - xhat * mean(d * xhat)), *affine_bwd(xhat, dy)


def eps_outside(args: Args, dy: Array) -> Cotangents:
    """The derivative of (x − μ) / (√variance + ε), ε outside of the root."""
    x, scale, _ = args
    centred = x - mean(x)
    deviation = jnp.sqrt(mean(centred * centred))
    r = 1 / (deviation + EPS)
    d = dy * scale[None, :]
    return r * (d - mean(d) - centred * mean(d * centred) * r / deviation), *affine_bwd(centred * r, dy)


def batch_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Columns of mean 0 and variance 1, x [B, D], then scaled and shifted."""
    return normalize(x, 0)[0] * scale[None, :] + offset[None, :]


def batch_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """The equation of the module docstring, with means over the batch."""
    xhat, r = normalize(args[0], 0)
    d = dy * args[1][None, :]
    return r * (d - mean(d, 0) - xhat * mean(d * xhat, 0)), *affine_bwd(xhat, dy)


def scale_forgotten(args: Args, dy: Array) -> Cotangents:
    """dx̂ = dy, without γ."""
    x, scale, offset = args
    return batch_norm_bwd((x, jnp.ones_like(scale), offset), dy)


def unbiased_batch_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Batch norm by the variance with N − 1."""
    return normalize_unbiased(x)[0] * scale[None, :] + offset[None, :]


def normalize_unbiased(x: Array) -> tuple[Array, Array]:
    """x̂ and r, by the variance with N − 1."""
    centred = x - mean(x, 0)
    r = jax.lax.rsqrt(jnp.sum(centred * centred, axis=0, keepdims=True) / (x.shape[0] - 1) + EPS)
    return centred * r, r


def unbiased_batch_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """Σ / (N − 1) for the mean that comes through r."""
    xhat, r = normalize_unbiased(args[0])
    d = dy * args[1][None, :]
    through_r = jnp.sum(d * xhat, axis=0, keepdims=True) / (xhat.shape[0] - 1)
    return r * (d - mean(d, 0) - xhat * through_r), *affine_bwd(xhat, dy)


def biased(args: Args, dy: Array) -> Cotangents:
    """1/N for 1/(N − 1) in what goes through the variance."""
    xhat, r = normalize_unbiased(args[0])
    d = dy * args[1][None, :]
    return r * (d - mean(d, 0) - xhat * mean(d * xhat, 0)), *affine_bwd(xhat, dy)


def training_batch_norm(x: Array, scale: Array, offset: Array, running_mean: Array, running_variance: Array) -> Array:
    """Batch norm in training: the running statistics are there, and not used."""
    del running_mean, running_variance
    return batch_norm(x, scale, offset)


def training_batch_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """That of batch norm, and 0 for the running statistics."""
    return *batch_norm_bwd(args[:3], dy), jnp.zeros_like(args[3]), jnp.zeros_like(args[4])


def running_statistics(args: Args, dy: Array) -> Cotangents:
    """x̂ and r by the running statistics for those of the batch."""
    x, scale, _, running_mean, running_variance = args
    r = jax.lax.rsqrt(running_variance + EPS)[None, :]
    xhat = (x - running_mean[None, :]) * r
    d = dy * scale[None, :]
    dx = r * (d - mean(d, 0) - xhat * mean(d * xhat, 0))
    return dx, *affine_bwd(xhat, dy), jnp.zeros_like(running_mean), jnp.zeros_like(running_variance)


def statistics(seed: int, dtype: Any) -> Args:
    """x [5, 3], γ, β, and running statistics that are not those of x."""
    random = np.random.RandomState(seed)
    floats = gaussians((5, 3), (3,), (3,), (3,))(seed, dtype)
    return *floats, array(random.uniform(2, 3, size=3), dtype)


def rms_norm(x: Array, scale: Array) -> Array:
    """γ x̂, x̂ = x r, r = 1 / √(mean x² + ε), x [B, D]."""
    return x * root(x) * scale[None, :]


def root(x: Array) -> Array:
    """r, one per row."""
    return jax.lax.rsqrt(mean(x * x) + EPS)


def rms_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = r (dx̂ − x̂ mean(dx̂ x̂)), dγ = Σ dy x̂."""
    x, scale = args
    r, d = root(x), dy * scale[None, :]
    xhat = x * r
    return r * (d - xhat * mean(d * xhat)), jnp.sum(dy * xhat, axis=0)


def scale_twice(args: Args, dy: Array) -> Cotangents:
    """γ twice in what goes through r."""
    x, scale = args
    r, d = root(x), dy * scale[None, :]
    xhat = x * r
    return r * (d - xhat * mean(d * scale[None, :] * xhat)), jnp.sum(dy * xhat, axis=0)


def root_constant(args: Args, dy: Array) -> Cotangents:
    """r is held constant."""
    x, scale = args
    return dy * scale[None, :] * root(x), jnp.sum(dy * x * root(x), axis=0)


def sequence_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Layer norm of x [B, T, D] along D."""
    return normalize(x)[0] * scale[None, None, :] + offset[None, None, :]


def sequence_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """The equation of the module docstring, means over D."""
    return _sequence_norm_bwd(args, dy, args[0].shape[-1])


def count_of_axis_0(args: Args, dy: Array) -> Cotangents:
    """The means divide by B, the length of the first axis, for D."""
    return _sequence_norm_bwd(args, dy, args[0].shape[0])


def _sequence_norm_bwd(args: Args, dy: Array, count: int) -> Cotangents:
    xhat, r = normalize(args[0])
    d = dy * args[1][None, None, :]
    through_mean = jnp.sum(d, axis=-1, keepdims=True) / count
    through_r = jnp.sum(d * xhat, axis=-1, keepdims=True) / count
    return r * (d - through_mean - xhat * through_r), jnp.sum(dy * xhat, axis=(0, 1)), jnp.sum(dy, axis=(0, 1))


LAYER_NORM = Subject(layer_norm, layer_norm_bwd, gaussians((5, 3), (3,), (3,)))
BATCH_NORM = Subject(batch_norm, batch_norm_bwd, gaussians((5, 3), (3,), (3,)))
UNBIASED = Subject(unbiased_batch_norm, unbiased_batch_norm_bwd, gaussians((5, 3), (3,), (3,)))
TRAINING = Subject(training_batch_norm, training_batch_norm_bwd, statistics)
RMS_NORM = Subject(rms_norm, rms_norm_bwd, gaussians((5, 3), (3,)))
SEQUENCE_NORM = Subject(sequence_norm, sequence_norm_bwd, gaussians((2, 5, 3), (3,), (3,)))

MUTANTS = (
    mutant(36, "layer norm", LAYER_NORM, mean_dropped, "MISSING_PATH"),
    mutant(37, "layer norm", LAYER_NORM, variance_dropped, "MISSING_PATH"),
    mutant(38, "layer norm", LAYER_NORM, mean_twice, "DOUBLED_PATH"),
    mutant(39, "batch norm", BATCH_NORM, scale_forgotten, "MISSING_FACTOR"),
    mutant(40, "RMS norm", RMS_NORM, scale_twice, "EXTRA_FACTOR"),
    mutant(41, "RMS norm", RMS_NORM, root_constant, "MISSING_PATH"),
    mutant(42, "unbiased batch norm", UNBIASED, biased, "PATH_SCALE"),
    mutant(43, "layer norm", LAYER_NORM, eps_outside, "OTHER_FORWARD", (0, 1)),
    mutant(44, "batch norm in training", TRAINING, running_statistics, "WRONG_OPERAND", (0, 1)),
    # The count of another axis; so what goes through the mean and the variance is D/B of what it should be.
    mutant(45, "layer norm, rank 3", SEQUENCE_NORM, count_of_axis_0, "WRONG_AXIS PATH_SCALE"),
)
