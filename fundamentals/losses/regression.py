"""Losses of real-valued targets: the squared error, and the negative log-likelihoods that it is a special case of.

The longest derivation, of the mixture of Gaussians, for one example t. Component k has the logit a_k, the means μ_kd
and the logarithms s_kd of the scales (standard deviations) of D independent coordinates.

    (1) z_kd = (t_d − μ_kd) e^(−s_kd)                           standardized difference
    (2) ℓ_k = −Σ_d (½ log 2π + s_kd + ½ z_kd²)                  log N(t; μ_k, e^(s_k)): log of a product of densities
    (3) log π_k = a_k − log Σ_j e^(a_j)                         log-weight, π = softmax(a)
    (4) u_k = log π_k + ℓ_k                                     log of the joint density of k and t
    (5) y = −log Σ_k e^(u_k)                                    the loss
    (6) γ_k = e^(u_k) / Σ_j e^(u_j)                             responsibility: the posterior of k, given t

Backward, for dy = 1:

    (7)  ∂y/∂u_k = −γ_k                                         (5) with (6)
    (8)  ∂y/∂a_k = −Σ_j γ_j (δ_jk − π_k) = π_k − γ_k            ∂log π_j/∂a_k = δ_jk − π_k by (3), and Σ_j γ_j = 1
    (9)  ∂y/∂μ_kd = γ_k z_kd ∂z_kd/∂μ_kd = −γ_k z_kd e^(−s_kd)  ∂ℓ_k/∂z_kd = −z_kd by (2)
    (10) ∂y/∂s_kd = γ_k (1 + z_kd ∂z_kd/∂s_kd)                  ∂z_kd/∂s_kd = −z_kd by (1)
                  = γ_k (1 − z_kd²)
    (11) ∂y/∂t_d = −Σ_k ∂y/∂μ_kd                                only t − μ enters (1), t in all components

A single Gaussian is K = 1, where γ = π = 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class SquaredErrorResiduals(NamedTuple):
    """What `squared_error_bwd` needs."""

    difference: Array  # [..., D], predictions − targets


def squared_error(predictions: ArrayLike, targets: ArrayLike) -> Array:
    """½ ‖predictions − targets‖², summed over the last axis: Gaussian targets of unit variance.

    Up to a constant, the negative log-likelihood of targets ~ N(predictions, I).

    Args:
      predictions: [..., D].
      targets: [..., D].

    Returns:
      [...], one loss per example.
    """
    return squared_error_fwd(predictions, targets)[0]


def squared_error_fwd(predictions: ArrayLike, targets: ArrayLike) -> tuple[Array, SquaredErrorResiduals]:
    """Keeps the difference: one array instead of the two it came from."""
    predictions, targets = _checks.arrays(
        "squared_error", predictions=(predictions, "... D"), targets=(targets, "... D")
    )
    difference = predictions - targets
    wide = difference.astype(accumulation_dtype(difference.dtype))
    y = 0.5 * jnp.sum(wide * wide, axis=-1)
    return y.astype(difference.dtype), SquaredErrorResiduals(difference)


def squared_error_bwd(residuals: SquaredErrorResiduals, dy: Array) -> tuple[Array, Array]:
    """dpredictions = dy (predictions − targets), dtargets = −dpredictions.

    Derivation: y = ½ Σ_d e_d² with e = predictions − targets, so ∂y/∂e_d = e_d; ∂e/∂targets = −1.
    """
    (difference,) = residuals
    d = dy[..., None] * difference
    return d, -d


class GaussianNllResiduals(NamedTuple):
    """What `gaussian_nll_bwd` needs."""

    difference: Array  # [..., D], targets − means, in the accumulation dtype, as half precision might overflow
    inverse_scales: Array  # [..., D], e^−log_scales, in the accumulation dtype


def gaussian_nll(means: ArrayLike, log_scales: ArrayLike, targets: ArrayLike) -> Array:
    """−log N(targets; means, scales²) with scales = e^log_scales, summed over the last axis: independent Gaussians.

    Σ_d ½ log 2π + s_d + ½ z_d² with z = (t − μ) e^(−s): D. A. Nix and A. S. Weigend 1994. It has no lower bound: at
    z = 0 it falls with s. Where the scales are 1 it is `squared_error`, up to the constant D/2 log 2π.

    Args:
      means: [..., D].
      log_scales: [..., D], logarithms of the standard deviations; any finite ones where targets = means.
      targets: [..., D].

    Returns:
      [...], one loss per example: of a density, so negative where the scales are small. It is inf, and its cotangents
      are not finite, where z² overflows or, unless targets = means, e^(−s). In float32 (and half precision, which is
      computed in it) that is |z| above 2e19, s below −88.
    """
    return gaussian_nll_fwd(means, log_scales, targets)[0]


def gaussian_nll_fwd(means: ArrayLike, log_scales: ArrayLike, targets: ArrayLike) -> tuple[Array, GaussianNllResiduals]:
    """Keeps the difference and the inverse scales. Not their product z, which autodiff keeps too, and no inputs.

    Not the log-scales, because taking their exponential again costs up to 1.15 × the time of the whole rule on a CPU.
    """
    means, log_scales, targets = _checks.arrays(
        "gaussian_nll", means=(means, "... D"), log_scales=(log_scales, "... D"), targets=(targets, "... D")
    )
    accumulate = accumulation_dtype(means.dtype)
    difference = targets.astype(accumulate) - means.astype(accumulate)
    inverse_scales = _inverse_scales(log_scales, difference)
    z = difference * inverse_scales
    y = jnp.sum(log_scales.astype(accumulate) + 0.5 * (z * z), axis=-1) + means.shape[-1] * _HALF_LOG_2_PI
    return y.astype(means.dtype), GaussianNllResiduals(difference, inverse_scales)


def gaussian_nll_bwd(residuals: GaussianNllResiduals, dy: Array) -> tuple[Array, Array, Array]:
    """dmeans = −dy z / scales, dlog_scales = dy (1 − z²), dtargets = −dmeans.

    Derivation: y = Σ_d ½ log 2π + s_d + ½ z_d² with z = (t − μ) e^(−s), where ∂z/∂t = e^(−s) = −∂z/∂μ and ∂z/∂s = −z:
      ∂y/∂μ_d = z_d ∂z_d/∂μ_d     = −z_d e^(−s_d)
      ∂y/∂s_d = 1 + z_d ∂z_d/∂s_d = 1 − z_d²: zero where the scale is the distance from the mean
      ∂y/∂t_d = −∂y/∂μ_d          since only t − μ enters
    """
    difference, inverse_scales = residuals
    z = difference * inverse_scales
    g = dy.astype(z.dtype)[..., None]
    dtargets = (g * z * inverse_scales).astype(dy.dtype)
    return -dtargets, (g * (1 - z * z)).astype(dy.dtype), dtargets


class MixtureDensityNllResiduals(NamedTuple):
    """What `mixture_density_nll_bwd` needs."""

    difference: Array  # [..., K, D], targets − means, in the accumulation dtype
    inverse_scales: Array  # [..., K, D], e^−log_scales, in the accumulation dtype
    weights: Array  # [..., K], softmax(logits), in the accumulation dtype
    responsibilities: Array  # [..., K], posteriors of the components, in the accumulation dtype


def mixture_density_nll(logits: ArrayLike, means: ArrayLike, log_scales: ArrayLike, targets: ArrayLike) -> Array:
    """−log Σ_k π_k N(targets; means_k, scales_k²), π = softmax(logits), scales = e^log_scales: a mixture of Gaussians.

    For targets of which several are right, and whose mean is not. C. M. Bishop, Mixture Density Networks, 1994, which
    has one scale per component; here each coordinate has its own. With one component it is `gaussian_nll`.

    Args:
      logits: [..., K], unnormalized log-weights of the components. −inf switches a component off, unless all are.
      means: [..., K, D].
      log_scales: [..., K, D], logarithms of the standard deviations.
      targets: [..., D].

    Returns:
      [...], one loss per example: of a density, so possibly negative. It is inf where the likelihood of every component
      overflows as in `gaussian_nll`; a component that alone does has no weight.

    Raises:
      ValueError: the shapes do not fit, or there is no component.
    """
    return mixture_density_nll_fwd(logits, means, log_scales, targets)[0]


def mixture_density_nll_fwd(
    logits: ArrayLike, means: ArrayLike, log_scales: ArrayLike, targets: ArrayLike
) -> tuple[Array, MixtureDensityNllResiduals]:
    """Keeps what `gaussian_nll_fwd` does, the weights and the responsibilities. Not z, and no inputs.

    Not the log-scales, because taking their exponential again costs up to 1.6 × the time of the whole rule on a CPU.
    """
    logits, means, log_scales, targets = _checks.arrays(
        "mixture_density_nll",
        logits=(logits, "... K"),
        means=(means, "... K D"),
        log_scales=(log_scales, "... K D"),
        targets=(targets, "... D"),
    )
    _checks.not_empty("mixture_density_nll", "logits", logits.shape[-1], "K")
    accumulate = accumulation_dtype(means.dtype)
    difference = targets.astype(accumulate)[..., None, :] - means.astype(accumulate)
    inverse_scales = _inverse_scales(log_scales, difference)
    z = difference * inverse_scales  # (1)
    half_squares = jnp.sum(log_scales.astype(accumulate) + 0.5 * (z * z), axis=-1)
    log_likelihoods = -(half_squares + means.shape[-1] * _HALF_LOG_2_PI)  # (2)
    # The weights are normalized first: added to logits around 1e4, the log-likelihoods would lose their digits.
    log_weights = jax.nn.log_softmax(logits.astype(accumulate), axis=-1)  # (3)
    joint = log_weights + log_likelihoods  # (4)
    largest = jax.lax.stop_gradient(jnp.max(joint, axis=-1, keepdims=True))
    largest = jnp.where(jnp.isneginf(largest), 0, largest)  # not inf − inf: then all exponentials are 0
    exponentials = jnp.exp(joint - largest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    y = -(jnp.log(total) + largest)[..., 0]  # (5)
    responsibilities = exponentials / jnp.where(total == 0, 1, total)  # (6)
    weights = jnp.exp(log_weights)
    return y.astype(means.dtype), MixtureDensityNllResiduals(difference, inverse_scales, weights, responsibilities)


def mixture_density_nll_bwd(residuals: MixtureDensityNllResiduals, dy: Array) -> tuple[Array, Array, Array, Array]:
    """Those of a single Gaussian, times the responsibility γ_k; dlogits = dy (π − γ): prior minus posterior.

      dmeans_k = −dy γ_k z_k / scales_k, dlog_scales_k = dy γ_k (1 − z_k²), dtargets = −Σ_k dmeans_k

    A component of responsibility 0 has cotangents 0, even where its z² overflows (autodiff multiplies 0 by inf).

    Derivation: equations (1) to (11) at the top of this module.
    """
    difference, inverse_scales, weights, responsibilities = residuals
    z = difference * inverse_scales  # (1)
    g = dy.astype(z.dtype)[..., None]
    dlogits = g * (weights - responsibilities)  # (8)
    g_component = (g * responsibilities)[..., None]
    absent = (responsibilities == 0)[..., None]
    dmeans = jnp.where(absent, 0, -g_component * z * inverse_scales)  # (9)
    dlog_scales = jnp.where(absent, 0, g_component * (1 - z * z))  # (10)
    dtargets = -jnp.sum(dmeans, axis=-2)  # (11)
    dtype = dy.dtype
    return dlogits.astype(dtype), dmeans.astype(dtype), dlog_scales.astype(dtype), dtargets.astype(dtype)


def _inverse_scales(log_scales: Array, difference: Array) -> Array:
    """e^(−log_scales) in the dtype of the difference, but finite where that is 0: 0 times it is 0, not NaN."""
    s = log_scales.astype(difference.dtype)
    lowest = -math.log(jnp.finfo(s.dtype).max)
    return jnp.exp(-jnp.where((difference == 0) & (s < lowest), 0, s))
