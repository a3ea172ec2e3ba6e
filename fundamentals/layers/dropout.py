"""Dropout: what was drawn in the forward pass is kept, never drawn again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Numeric, PRNGKey, accumulation_dtype


class DropoutResiduals(NamedTuple):
    """What `dropout_bwd` needs."""

    kept: Array | None  # [...], bool; None where the rate is known to be 0


def dropout(x: ArrayLike, *, key: PRNGKey, rate: Numeric) -> Array:
    """0 with probability `rate`, else x / (1 − rate), for each number of x; its mean is x. Srivastava et al. 2014.

    Inverted dropout (section 10 of the paper): it scales in training, so that at evaluation nothing is left to do. With
    rate 0 it is the identity and draws nothing.

    Args:
      x: [...].
      key: one typed PRNG key, from `jax.random.key`, not to be used again: the same key drops the same numbers.
      rate: the probability to drop, in [0, 1).

    Returns:
      [...], in the dtype of x.

    Raises:
      ValueError: `rate` is outside [0, 1), or `key` is several keys. Under `jit`, where a traced rate has no value to
        look at, 1 or more drops everything; less than 0 drops nothing, and divides by 1 − rate all the same.
      TypeError: x is not floating, or `key` is not a typed PRNG key.
    """
    return dropout_fwd(x, key=key, rate=rate)[0]


def dropout_fwd(x: ArrayLike, *, key: PRNGKey, rate: Numeric) -> tuple[Array, DropoutResiduals]:
    """Keeps which numbers were kept, one byte each. Not x: the derivative does not depend on it.

    And not the key, which is smaller still: drawing the mask again costs more than all the rest.
    """
    x = _checks.array("dropout", "x", x)
    _checks.key("dropout", "key", key)
    _checks.interval("dropout", "[0, 1)", rate=rate)
    if _checks.is_zero(rate):
        return x, DropoutResiduals(None)
    # The probability in float32: in float64, with x64, the same key would draw another mask.
    kept = jax.random.bernoulli(key, jnp.asarray(1 - rate, jnp.float32), x.shape)
    return _scale_kept(x, kept, rate), DropoutResiduals(kept)


def dropout_bwd(residuals: DropoutResiduals, dy: Array, *, rate: Numeric) -> tuple[Array]:
    """dx = dy / (1 − rate) where x was kept, else 0: the forward pass once more, with the same mask.

    Derivation: y = m x / (1 − rate), elementwise, with a mask m of zeros and ones that does not depend on x. So ∂y/∂x =
    m / (1 − rate).
    """
    (kept,) = residuals
    return (dy if kept is None else _scale_kept(dy, kept, rate),)


def _scale_kept(x: Array, kept: Array, rate: Numeric) -> Array:
    accumulate = accumulation_dtype(x.dtype)  # half precision would round the factor, too
    return jnp.where(kept, x.astype(accumulate) * jnp.asarray(1 / (1 - rate), accumulate), 0).astype(x.dtype)
