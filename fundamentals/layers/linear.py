"""The linear (fully connected, affine) layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class LinearResiduals(NamedTuple):
    """What `linear_bwd` needs."""

    x: Array  # [..., D]
    w: Array  # [D, H]


def linear(x: ArrayLike, w: ArrayLike, b: ArrayLike) -> Array:
    """The affine map y = x w + b, over the last axis of x.

    Args:
      x: inputs [..., D], any leading axes.
      w: weights [D, H].
      b: bias [H].

    Returns:
      [..., H], in the dtype of x.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return linear_fwd(x, w, b)[0]


def linear_fwd(x: ArrayLike, w: ArrayLike, b: ArrayLike) -> tuple[Array, LinearResiduals]:
    """Keeps the inputs and the weights. Not y, and not b: the derivative depends on neither."""
    x, w, b = _checks.arrays("linear", x=(x, "... D"), w=(w, "D H"), b=(b, "H"))
    accumulate = accumulation_dtype(x.dtype)
    y = jnp.matmul(x, w, preferred_element_type=accumulate)
    bias = b.astype(accumulate).reshape((1,) * (x.ndim - 1) + b.shape)
    return (y + bias).astype(x.dtype), LinearResiduals(x, w)


def linear_bwd(residuals: LinearResiduals, dy: Array) -> tuple[Array, Array, Array]:
    """dx = dy wᵀ, dw = xᵀ dy, db = Σ_B dy, where B runs over all leading axes.

    Derivation: y_bh = Σ_d x_bd w_dh + b_h. Differentiate and contract with dy_bh:
      dx_bd = Σ_h dy_bh w_dh                    = (dy wᵀ)_bd
      dw_dh = Σ_b x_bd dy_bh                    = (xᵀ dy)_dh: an outer product per example, summed
      db_h  = Σ_b dy_bh                         since b_h was broadcast to every example
    """
    x, w = residuals
    accumulate = accumulation_dtype(dy.dtype)
    # The sums over the leading axes are taken where they stand: flattening them first would gather a sharded array.
    leading = tuple(range(x.ndim - 1))
    dx = jnp.matmul(dy, w.T, preferred_element_type=accumulate)
    dw = jax.lax.dot_general(x, dy, ((leading, leading), ((), ())), preferred_element_type=accumulate)
    return dx.astype(x.dtype), dw.astype(w.dtype), jnp.sum(dy, axis=leading)
