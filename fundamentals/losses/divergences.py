"""Divergences between distributions, in closed form, with their backward passes."""

from typing import NamedTuple

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class GaussianKlResiduals(NamedTuple):
    """What `gaussian_kl_bwd` needs."""

    means: Array  # [..., Z]
    log_scales: Array  # [..., Z]


def gaussian_kl(means: ArrayLike, log_scales: ArrayLike) -> Array:
    """KL(N(μ, σ²) ‖ N(0, 1)) with σ = e^log_scales, summed over the last axis: Σ_z ½ (μ² + σ² − 1) − log σ.

    The price of a code, in nats: D. P. Kingma and M. Welling, Auto-encoding variational Bayes, 2014, appendix B.

    Args:
      means: [..., Z].
      log_scales: [..., Z], logarithms of the standard deviations.

    Returns:
      [...], ≥ 0, and 0 where means and log_scales are 0. It is inf where μ² or σ² overflows.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return gaussian_kl_fwd(means, log_scales)[0]


def gaussian_kl_fwd(means: ArrayLike, log_scales: ArrayLike) -> tuple[Array, GaussianKlResiduals]:
    """Keeps its arguments. Not σ²: an exponential costs less than the memory to keep it.

    σ² − 1 is taken as expm1(2s), which keeps its digits near σ = 1 (there, it and 2s still cancel but for 2s²).
    """
    means, log_scales = _checks.arrays("gaussian_kl", means=(means, "... Z"), log_scales=(log_scales, "... Z"))
    accumulate = accumulation_dtype(means.dtype)
    mean, s = means.astype(accumulate), log_scales.astype(accumulate)
    y = jnp.sum(0.5 * (mean * mean + jnp.expm1(2 * s)) - s, axis=-1)
    return y.astype(means.dtype), GaussianKlResiduals(means, log_scales)


def gaussian_kl_bwd(residuals: GaussianKlResiduals, dy: Array) -> tuple[Array, Array]:
    """dmeans = dy μ, dlog_scales = dy (σ² − 1): each pulls towards the prior.

    Derivation: y = Σ_z ½ (μ_z² + e^(2 s_z) − 1) − s_z, so ∂y/∂μ_z = μ_z and ∂y/∂s_z = e^(2 s_z) − 1.
    """
    means, log_scales = residuals
    accumulate = accumulation_dtype(means.dtype)
    g = dy.astype(accumulate)[..., None]
    dlog_scales = g * jnp.expm1(2 * log_scales.astype(accumulate))
    return (g * means.astype(accumulate)).astype(dy.dtype), dlog_scales.astype(dy.dtype)
