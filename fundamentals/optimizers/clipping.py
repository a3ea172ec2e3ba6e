"""Bounds on gradients, by entry or by the norm of all of them.

Gradients that need a bound may be near the largest number of their dtype, where squares overflow and reciprocals
vanish. Nothing here is divided by such a number: it is multiplied by a power of two first, which is exact.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype
from fundamentals.optimizers import core
from fundamentals.optimizers.core import NoState, Optimizer


def global_norm(tree: ArrayTree) -> Array:
    """The Euclidean norm of all entries of a pytree together: √Σ x².

    Args:
      tree: floating arrays of any shapes; none at all have the norm 0.

    Returns:
      [], in the widest dtype of the leaves, float32 for half precision. Squares that would overflow or vanish are taken
      of scaled entries, so that the norm of [1e30, 1e30] is 1.4e30 in float32. NaN if there is one, else inf if there
      is one or if the norm is above the largest number. Its derivative is x / ‖x‖, and 0 at 0.

    Raises:
      TypeError: a leaf is not floating.

    Reference: Blue 1978, for the scaling.

    Example:
      global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}) == 5.0
    """
    _checks.floating_leaves("global_norm", tree=tree)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros(())
    dtype = max((accumulation_dtype(x.dtype) for x in leaves), key=lambda wide: jnp.finfo(wide).bits)
    norm: Array = _norm([x.astype(dtype) for x in leaves])
    return norm


@jax.custom_jvp
def _norm(leaves: list[Array]) -> Array:
    dtype = leaves[0].dtype
    limits = jnp.finfo(dtype)

    def squares(scale: Array) -> Array:
        return sum((jnp.sum(jnp.square(x * scale)) for x in leaves), jnp.zeros((), dtype))

    def scaled() -> Array:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
        scale = jnp.where(largest > 1, _power_of_two(-3 / 4, dtype), _power_of_two(3 / 4, dtype))
        return jnp.sqrt(squares(scale)) / scale

    plain = squares(jnp.ones((), dtype))
    # Below this, squares that matter to the sum may have lost digits or vanished.
    least = sum(x.size for x in leaves) * (limits.tiny / limits.eps)
    norm: Array = jax.lax.cond((plain >= least) & jnp.isfinite(plain), lambda: jnp.sqrt(plain), scaled)
    return norm


@_norm.defjvp
def _norm_jvp(primals: tuple[list[Array]], tangents: tuple[list[Array]]) -> tuple[Array, Array]:
    """‖x‖² = Σ x², so 2 ‖x‖ d‖x‖ = 2 Σ x dx and d‖x‖ = Σ (x / ‖x‖) dx. By autodiff the squares would overflow again."""
    (leaves,), (steps,) = primals, tangents
    norm = _norm(leaves)
    slopes = (jnp.sum(_direction(x, norm) * dx) for x, dx in zip(leaves, steps, strict=True))
    return norm, sum(slopes, jnp.zeros_like(norm))


def _direction(x: Array, norm: Array) -> Array:
    """x / ‖x‖, and 0 of 0."""
    scale = jnp.where(norm > 1, _power_of_two(-1 / 2, norm.dtype), 1)
    return x * scale / jnp.where(norm == 0, 1, norm * scale)


def clip_by_global_norm(max_norm: Numeric) -> Optimizer:
    """Shorten the gradient to length c where it is longer: g ← g · min(1, c / ‖g‖), ‖g‖ = `global_norm`.

    The direction is kept. A step of gradient descent is then at most η c long, however steep the loss; lowering η alone
    also shortens the steps where the loss is flat.

    A gradient with a NaN or an infinity has no direction: all of its entries become NaN, so that it is not taken for
    one of zeros. (optax and PyTorch turn an infinity into NaN there and into zeros elsewhere.) Large finite ones are
    shortened as they should be, also where ‖g‖² overflows; if ‖g‖ itself does, they are as one with an infinity.

    Args:
      max_norm: c > 0.

    Returns:
      An `Optimizer` without state, to come before a method in a `chain`.

    Raises:
      ValueError: c is not positive.

    Reference: Pascanu, Mikolov & Bengio 2013, algorithm 1.

    Example:
      optimizer = chain(clip_by_global_norm(1.0), sgd(0.1))
    """
    _checks.interval("clip_by_global_norm", "(0, inf)", max_norm=max_norm)

    def update(gradients: ArrayTree, state: NoState, params: Any = None) -> tuple[ArrayTree, NoState]:
        _checks.instance("clip_by_global_norm", "state", state, NoState)
        core.check_update("clip_by_global_norm", gradients, params)
        norm = global_norm(gradients)
        limit = jnp.asarray(max_norm, norm.dtype)
        is_long = norm > limit
        length = jnp.where(is_long, norm, 1)  # of what is not shortened there is no quotient to be differentiated

        def shorten(g: Array) -> Array:
            x = jnp.asarray(g, norm.dtype)
            x = jnp.where(is_long, _direction(x, length) * limit, x)
            return jnp.where(jnp.isfinite(norm), x, jnp.nan).astype(jnp.result_type(g))

        return jax.tree.map(shorten, gradients), state

    return Optimizer(core.no_state("clip_by_global_norm"), update)


def clip_by_value(limit: Numeric) -> Optimizer:
    """Every entry into [−c, c]: g ← max(−c, min(c, g)).

    The direction changes, towards the diagonal. ±inf become ±c; NaN stays.

    Args:
      limit: c > 0; above the largest number of a gradient's dtype it is that number.

    Returns:
      An `Optimizer` without state, to come before a method in a `chain`.

    Raises:
      ValueError: c is not positive.

    Reference: Mikolov 2012, section 3.3.

    Example:
      optimizer = chain(clip_by_value(0.5), sgd(0.1))
    """
    _checks.interval("clip_by_value", "(0, inf)", limit=limit)

    def update(gradients: ArrayTree, state: NoState, params: Any = None) -> tuple[ArrayTree, NoState]:
        _checks.instance("clip_by_value", "state", state, NoState)
        core.check_update("clip_by_value", gradients, params)

        def clip(g: Array) -> Array:
            dtype = jnp.result_type(g)
            wide = accumulation_dtype(dtype)
            bound = jnp.minimum(jnp.asarray(limit, wide), jnp.asarray(jnp.finfo(dtype).max, wide)).astype(dtype)
            return jnp.clip(g, -bound, bound)

        return jax.tree.map(clip, gradients), state

    return Optimizer(core.no_state("clip_by_value"), update)


def _power_of_two(part: float, dtype: Any) -> Array:
    """2 to this part of the largest exponent: it and its reciprocal are normal numbers."""
    return jnp.asarray(2.0 ** int(part * jnp.finfo(dtype).maxexp), dtype)
