"""Batch, layer and root-mean-square normalization, whose statistics couple all the numbers that they are taken over.

One set of n numbers x_1 … x_n is normalized: a feature's values in the whole batch (batch normalization), or an
example's features (layer normalization). With a small ε > 0, scales s_i and offsets o_i:

    (1)  μ = (1/n) Σ_i x_i                                the mean
    (2)  v = (1/n) Σ_i (x_i − μ)²                         the variance, biased; never E[x²] − μ², which cancels
    (3)  r = 1 / √(v + ε)                                 "rstd"
    (4)  x̂_i = (x_i − μ) r
    (5)  y_i = s_i x̂_i + o_i

Backwards, (5) gives g_i := ∂L/∂x̂_i = s_i dy_i. Every x̂_j depends on x_i by three paths: its own x_i where j = i, the
mean, and the variance. Their contributions to dx_i:

    (6)  r g_i                                            own path: ∂x̂_i/∂x_i = r, μ and r held fixed
    (7)  −(r/n) Σ_j g_j  =  −r mean(g)                    mean path: ∂x̂_j/∂μ = −r for all j, and ∂μ/∂x_i = 1/n.
                                                          It does not branch to v: ∂v/∂μ = −(2/n) Σ_j (x_j − μ) = 0
    (8)  Σ_j g_j (x_j − μ) · (−r³/2) · (2/n) (x_i − μ)    variance path: ∂x̂_j/∂r = x_j − μ, ∂r/∂v = −½ (v + ε)^(−3/2)
           =  −r x̂_i mean(g ∘ x̂)                          = −½ r³, and ∂v/∂x_i = (2/n) (x_i − μ) with μ held fixed

and their sum is the cotangent of the input:

    (9)  dx_i = r (g_i − mean(g) − x̂_i mean(g ∘ x̂))

For ε = 0 this is r times the part of g that is orthogonal to both (1, …, 1) and x̂: adding to all x_i, or stretching
them, changes no x̂. No [n, n] Jacobian appears; two means per set do. As s and o are shared by all examples b,

    (10) ds_i = Σ_b dy_bi x̂_bi,  do_i = Σ_b dy_bi

In batch normalization a set shares one s, so that g = s dy, mean(g) = s do / n, mean(g ∘ x̂) = s ds / n:

    (11) dx_b = r s (dy_b − (do + x̂_b ds) / n)            the sums of (10) are the coupling, and cost nothing more

In layer normalization s varies within the set, and with p = dy ∘ x̂ both means are matrix-vector products:

    (12) mean(g) = dy·s / n,  mean(g ∘ x̂) = p·s / n,  ds = Σ_b p_b

RMS normalization has no mean, x̂_i = x_i r with r = 1 / √(mean(x²) + ε), and so no mean path. Here ∂r/∂x_i =
−½ r³ · (2/n) x_i, and the same steps lead to

    (13) dx_i = r (g_i − x̂_i mean(g ∘ x̂))

Kept are x and the statistics, one or two numbers per set. Not x̂, which is x shifted and stretched; autodiff keeps two
arrays of the size of x for layer and RMS normalization.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class BatchNormResiduals(NamedTuple):
    """What `batch_norm_bwd` needs."""

    x: Array  # [..., D]
    scale: Array  # [D]
    mean: Array  # [1, …, 1, D], in the accumulation dtype
    rstd: Array  # [1, …, 1, D], 1 / √(variance + eps), in the accumulation dtype


def batch_norm(x: ArrayLike, scale: ArrayLike, offset: ArrayLike, *, eps: float = 1e-5) -> Array:
    """scale · (x − mean) / √(variance + eps) + offset, with the statistics of each feature over all leading axes.

    The statistics are the batch's own, as in training: Ioffe & Szegedy 2015, algorithm 1. For evaluation, average what
    `batch_statistics` returns and give the averages to `batch_norm_inference`. One example alone is normalized to the
    offset, whatever it is.

    Args:
      x: [..., D]: examples [B, D], or images [B, H, W, C] with channels as the features.
      scale: [D], γ in the paper.
      offset: [D], β in the paper.
      eps: added to the biased variance, > 0.

    Returns:
      [..., D], in the dtype of x.

    Raises:
      ValueError: the shapes do not fit, there is no example, or `eps` is not positive.
      TypeError: the dtypes are not floating, or not the same.
    """
    return batch_norm_fwd(x, scale, offset, eps=eps)[0]


def batch_norm_fwd(
    x: ArrayLike, scale: ArrayLike, offset: ArrayLike, *, eps: float = 1e-5
) -> tuple[Array, BatchNormResiduals]:
    """Keeps the inputs, the scale and two numbers per feature. Not x̂: it is x, shifted and stretched."""
    x, scale, offset = _checks.arrays("batch_norm", x=(x, "... D"), scale=(scale, "D"), offset=(offset, "D"))
    _checks.examples("batch_norm", "x", x)
    _checks.interval("batch_norm", "(0, inf)", eps=eps)
    mean, centered, variance = _moments(x, _leading(x))
    rstd = _rstd(variance, eps)
    y = centered * (rstd * _per_feature(scale, x)) + _per_feature(offset, x)
    return y.astype(x.dtype), BatchNormResiduals(x, scale, mean, rstd)


def batch_norm_bwd(residuals: BatchNormResiduals, dy: Array) -> tuple[Array, Array, Array]:
    """dx = scale · rstd · (dy − (doffset + x̂ · dscale) / n), dscale = Σ_B dy · x̂, doffset = Σ_B dy.

    B runs over all leading axes and n is how many examples they hold; `eps` is in rstd.

    Derivation: equations (9) to (11) at the top of this module.
    """
    x, scale, mean, rstd = residuals
    examples = math.prod(x.shape[:-1])
    centered, wide = x.astype(mean.dtype) - mean, dy.astype(mean.dtype)
    doffset = jnp.sum(wide, axis=_leading(x), keepdims=True)
    dscale = rstd * jnp.sum(wide * centered, axis=_leading(x), keepdims=True)
    slope = _per_feature(scale, x) * rstd
    dx = slope * ((wide + doffset / -examples) + centered * (rstd * dscale / -examples))
    return _as(x, dx), _as(scale, dscale), _as(scale, doffset)


def batch_statistics(x: ArrayLike) -> tuple[Array, Array]:
    """(mean, variance) of each feature over all leading axes, as `batch_norm` takes them: to average for evaluation.

    Example: `mean, variance = batch_statistics(x)`, then `average = decay * average + (1 - decay) * mean`. In one
    `jit`, XLA takes the statistics once for this and for `batch_norm`.

    Args:
      x: [..., D].

    Returns:
      Two arrays [D], in float32 where x is of half precision. The variance is biased, Σ (x − mean)² / n.

    Raises:
      ValueError: there is no example.
    """
    (x,) = _checks.arrays("batch_statistics", x=(x, "... D"))
    _checks.examples("batch_statistics", "x", x)
    mean, _, variance = _moments(x, _leading(x))
    return mean.reshape(x.shape[-1:]), variance.reshape(x.shape[-1:])


class BatchNormInferenceResiduals(NamedTuple):
    """What `batch_norm_inference_bwd` needs."""

    x: Array  # [..., D]
    scale: Array  # [D]
    mean: Array  # [D]
    variance: Array  # [D]


def batch_norm_inference(
    x: ArrayLike, scale: ArrayLike, offset: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, eps: float = 1e-5
) -> Array:
    """scale · (x − mean) / √(variance + eps) + offset, with given statistics: one affine map for every example.

    Args:
      x: [..., D].
      scale: [D].
      offset: [D].
      mean: [D], in any floating dtype: averages of half-precision features are best kept in float32.
      variance: [D], ≥ 0, in the dtype of the mean.
      eps: added to the variance, > 0.

    Returns:
      [..., D], in the dtype of x.

    Raises:
      ValueError: the shapes do not fit, or `eps` is not positive.
      TypeError: the dtypes are not floating, or not the same.
    """
    return batch_norm_inference_fwd(x, scale, offset, mean, variance, eps=eps)[0]


def batch_norm_inference_fwd(
    x: ArrayLike, scale: ArrayLike, offset: ArrayLike, mean: ArrayLike, variance: ArrayLike, *, eps: float = 1e-5
) -> tuple[Array, BatchNormInferenceResiduals]:
    """Keeps its arguments but the offset. Not 1 / √(variance + eps): one number per feature is soon taken again."""
    function = "batch_norm_inference"
    x, scale, offset = _checks.arrays(function, x=(x, "... D"), scale=(scale, "D"), offset=(offset, "D"))
    mean, variance = _checks.arrays(function, mean=(mean, "D"), variance=(variance, "D"))
    _checks.same_shapes(function, "scale", scale, mean=mean)
    _checks.interval(function, "(0, inf)", eps=eps)
    centered, rstd = _given(x, mean, variance, eps)
    y = centered * (rstd * _per_feature(scale, x)) + _per_feature(offset, x)
    return y.astype(x.dtype), BatchNormInferenceResiduals(x, scale, mean, variance)


def batch_norm_inference_bwd(
    residuals: BatchNormInferenceResiduals, dy: Array, *, eps: float = 1e-5
) -> tuple[Array, Array, Array, Array, Array]:
    """dx = scale · rstd · dy, dscale = Σ_B dy · x̂, doffset = Σ_B dy, and through the statistics

    dmean = −scale · rstd · doffset, dvariance = −½ scale · dscale / (variance + eps).

    Derivation: y = s (x − μ) r + o with r = (v + ε)^(−1/2). Now μ and v do not depend on x, so only path (6) leads
    there. ∂y/∂μ = −s r is the same for all examples, whose dy add up to do. ∂y/∂v = s (x − μ) ∂r/∂v = −½ s (x − μ) r³
    = −½ s x̂ / (v + ε), and Σ_B dy x̂ = ds.
    """
    x, scale, mean, variance = residuals
    centered, rstd = _given(x, mean, variance, eps)
    wide = dy.astype(rstd.dtype)
    slope = _per_feature(scale, x) * rstd
    doffset = jnp.sum(wide, axis=_leading(x), keepdims=True)
    dscale = rstd * jnp.sum(wide * centered, axis=_leading(x), keepdims=True)
    wide_variance = _per_feature(variance, x) + jnp.asarray(eps, rstd.dtype)
    dmean, dvariance = -slope * doffset, -0.5 * _per_feature(scale, x) * dscale / wide_variance
    return _as(x, slope * wide), _as(scale, dscale), _as(scale, doffset), _as(mean, dmean), _as(variance, dvariance)


class LayerNormResiduals(NamedTuple):
    """What `layer_norm_bwd` needs."""

    x: Array  # [..., D]
    scale: Array  # [D]
    mean: Array  # [..., 1], in the accumulation dtype
    rstd: Array  # [..., 1], 1 / √(variance + eps), in the accumulation dtype


def layer_norm(x: ArrayLike, scale: ArrayLike, offset: ArrayLike, *, eps: float = 1e-5) -> Array:
    """scale · (x − mean) / √(variance + eps) + offset, with the statistics of each example over its features.

    Ba, Kiros & Hinton 2016, eqs. 3 and 4.

    Args:
      x: [..., D].
      scale: [D], the gain of the paper.
      offset: [D], the bias of the paper.
      eps: added to the biased variance, > 0.

    Returns:
      [..., D], in the dtype of x.

    Raises:
      ValueError: the shapes do not fit, there is no feature, or `eps` is not positive.
      TypeError: the dtypes are not floating, or not the same.
    """
    return layer_norm_fwd(x, scale, offset, eps=eps)[0]


def layer_norm_fwd(
    x: ArrayLike, scale: ArrayLike, offset: ArrayLike, *, eps: float = 1e-5
) -> tuple[Array, LayerNormResiduals]:
    """Keeps the inputs, the scale and two numbers per example. Not x̂: it is x, shifted and stretched."""
    x, scale, offset = _checks.arrays("layer_norm", x=(x, "... D"), scale=(scale, "D"), offset=(offset, "D"))
    _checks.not_empty("layer_norm", "x", x.shape[-1], "D")
    _checks.interval("layer_norm", "(0, inf)", eps=eps)
    mean, centered, variance = _moments(x, (-1,))
    rstd = _rstd(variance, eps)
    y = centered * rstd * _per_feature(scale, x) + _per_feature(offset, x)
    return y.astype(x.dtype), LayerNormResiduals(x, scale, mean, rstd)


def layer_norm_bwd(residuals: LayerNormResiduals, dy: Array) -> tuple[Array, Array, Array]:
    """dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)) with g = scale · dy, dscale = Σ_B dy · x̂, doffset = Σ_B dy.

    The means run over the features, B over all leading axes; `eps` is in rstd.

    Derivation: equations (9), (10) and (12) at the top of this module.
    """
    x, scale, mean, rstd = residuals
    centered, wide = x.astype(mean.dtype) - mean, dy.astype(mean.dtype)
    p = wide * (centered * rstd)
    mean_g, mean_gx = _mean_product(wide, scale), _mean_product(p, scale)
    dx = rstd * (wide * _per_feature(scale, x) - mean_g - centered * (rstd * mean_gx))
    return _as(x, dx), _as(scale, jnp.sum(p, axis=_leading(x))), _as(scale, jnp.sum(wide, axis=_leading(x)))


class RmsNormResiduals(NamedTuple):
    """What `rms_norm_bwd` needs."""

    x: Array  # [..., D]
    scale: Array  # [D]
    rstd: Array  # [..., 1], 1 / √(mean(x²) + eps), in the accumulation dtype


def rms_norm(x: ArrayLike, scale: ArrayLike, *, eps: float = 1e-5) -> Array:
    """scale · x / √(mean(x²) + eps), with the mean of each example over its features; Zhang & Sennrich 2019, eq. 4.

    Args:
      x: [..., D].
      scale: [D], the gain of the paper.
      eps: added to the mean square, > 0. (The paper has none.)

    Returns:
      [..., D], in the dtype of x.

    Raises:
      ValueError: the shapes do not fit, there is no feature, or `eps` is not positive.
      TypeError: the dtypes are not floating, or not the same.
    """
    return rms_norm_fwd(x, scale, eps=eps)[0]


def rms_norm_fwd(x: ArrayLike, scale: ArrayLike, *, eps: float = 1e-5) -> tuple[Array, RmsNormResiduals]:
    """Keeps the inputs, the scale and one number per example. Not x̂: it is x, stretched."""
    x, scale = _checks.arrays("rms_norm", x=(x, "... D"), scale=(scale, "D"))
    _checks.not_empty("rms_norm", "x", x.shape[-1], "D")
    _checks.interval("rms_norm", "(0, inf)", eps=eps)
    wide = x.astype(accumulation_dtype(x.dtype))
    rstd = _rstd(jnp.mean(wide * wide, axis=-1, keepdims=True), eps)
    return (wide * rstd * _per_feature(scale, x)).astype(x.dtype), RmsNormResiduals(x, scale, rstd)


def rms_norm_bwd(residuals: RmsNormResiduals, dy: Array) -> tuple[Array, Array]:
    """dx = rstd · (g − x̂ · mean(g · x̂)) with g = scale · dy, dscale = Σ_B dy · x̂.

    The mean runs over the features, B over all leading axes; `eps` is in rstd.

    Derivation: equation (13) at the top of this module, and (10) and (12) as in layer normalization.
    """
    x, scale, rstd = residuals
    wide_x, wide = x.astype(rstd.dtype), dy.astype(rstd.dtype)
    p = wide * (wide_x * rstd)
    dx = rstd * (wide * _per_feature(scale, x) - wide_x * (rstd * _mean_product(p, scale)))
    return _as(x, dx), _as(scale, jnp.sum(p, axis=_leading(x)))


def _leading(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _per_feature(v: Array, x: Array) -> Array:
    """A vector [D] in the accumulation dtype, ready to meet x [..., D]."""
    return jnp.expand_dims(v.astype(accumulation_dtype(x.dtype)), _leading(x))


def _as(like: Array, cotangent: Array) -> Array:
    return cotangent.reshape(like.shape).astype(like.dtype)


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Equations (1) and (2): μ, x − μ and v, the axes kept."""
    wide = x.astype(accumulation_dtype(x.dtype))
    mean = jnp.mean(wide, axis=axes, keepdims=True)
    centered = wide - mean
    return mean, centered, jnp.mean(centered * centered, axis=axes, keepdims=True)


def _given(x: Array, mean: Array, variance: Array, eps: float) -> tuple[Array, Array]:
    """x − μ and r for statistics [D] that do not depend on x."""
    return x.astype(accumulation_dtype(x.dtype)) - _per_feature(mean, x), _rstd(_per_feature(variance, x), eps)


def _rstd(variance: Array, eps: float) -> Array:
    """Equation (3)."""
    return jax.lax.rsqrt(variance + jnp.asarray(eps, variance.dtype))


def _mean_product(a: Array, scale: Array) -> Array:
    """Equation (12): the mean of a · scale over the features, [..., 1].

    As a matrix-vector product, since XLA's CPU compiler would write a · scale to memory before it added it up: 0.75 ×
    the time of the whole layer normalization. In full precision, being a sum.
    """
    column = scale.astype(a.dtype)[:, None]
    return jnp.matmul(a, column, precision=jax.lax.Precision.HIGHEST) / scale.size
