"""Bounds on gradients, by entry or by the norm of all of them."""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype
from fundamentals.optimizers.core import NoState, Optimizer


def global_norm(tree: ArrayTree) -> Array:
    """The Euclidean norm of all entries of a pytree together: √Σ x².

    Args:
      tree: floating arrays of any shapes; none at all have the norm 0.

    Returns:
      [], in the widest dtype of the leaves, float32 for half precision. Squares that would overflow or vanish are taken
      of scaled entries, so that the norm of [1e30, 1e30] is 1.4e30 in float32. NaN if there is one, else inf if there
      is one.

    Raises:
      TypeError: a leaf is not floating.

    Example:
      global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}) == 5.0
    """
    _checks.floating_leaves("global_norm", tree=tree)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros(())
    dtype = max((accumulation_dtype(x.dtype) for x in leaves), key=lambda wide: jnp.finfo(wide).bits)
    leaves = [x.astype(dtype) for x in leaves]

    def squares(scale: Array) -> Array:
        return sum((jnp.sum(jnp.square(x / scale)) for x in leaves), jnp.zeros((), dtype))

    def scaled() -> Array:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
        usable = (largest > 0) & jnp.isfinite(largest)
        return jnp.where(usable, largest * jnp.sqrt(squares(jnp.where(usable, largest, 1))), largest)

    plain = squares(jnp.ones((), dtype))
    # Below this, squares of entries that matter to the sum may have lost digits or vanished.
    least = jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps
    norm: Array = jax.lax.cond((plain >= least) & jnp.isfinite(plain), lambda: jnp.sqrt(plain), scaled)
    return norm


def clip_by_global_norm(max_norm: Numeric) -> Optimizer:
    """Shorten the gradient to length c where it is longer: g ← g · min(1, c / ‖g‖), ‖g‖ = `global_norm`.

    The direction is kept. A step of gradient descent is then at most η c long, however steep the loss; lowering η alone
    also shortens the steps where the loss is flat.

    A gradient with a NaN or an infinity has no direction: all of its entries become NaN, so that it is not taken for
    one of zeros. (optax and PyTorch turn an infinity into NaN there and into zeros elsewhere.) Large finite ones are
    shortened as they should be, also where ‖g‖² overflows.

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
        del params
        _checks.instance("clip_by_global_norm", "state", state, NoState)
        _checks.floating_leaves("clip_by_global_norm", gradients=gradients)
        norm = global_norm(gradients)
        limit = jnp.asarray(max_norm, norm.dtype)

        def shorten(g: Array) -> Array:
            x = jnp.asarray(g, norm.dtype)
            # Divided first: the factor c / ‖g‖ would vanish where ‖g‖ is near the largest number.
            x = jnp.where(norm > limit, x / norm * limit, x)
            return jnp.where(jnp.isfinite(norm), x, jnp.nan).astype(jnp.result_type(g))

        return jax.tree.map(shorten, gradients), state

    return Optimizer(_stateless("clip_by_global_norm"), update)


def clip_by_value(limit: Numeric) -> Optimizer:
    """Every entry into [−c, c]: g ← max(−c, min(c, g)).

    The direction changes, towards the diagonal. ±inf become ±c; NaN stays.

    Args:
      limit: c > 0.

    Returns:
      An `Optimizer` without state, to come before a method in a `chain`.

    Raises:
      ValueError: c is not positive.

    Reference: Mikolov 2012, section 3.2.2.

    Example:
      optimizer = chain(clip_by_value(0.5), sgd(0.1))
    """
    _checks.interval("clip_by_value", "(0, inf)", limit=limit)

    def update(gradients: ArrayTree, state: NoState, params: Any = None) -> tuple[ArrayTree, NoState]:
        del params
        _checks.instance("clip_by_value", "state", state, NoState)
        _checks.floating_leaves("clip_by_value", gradients=gradients)

        def clip(g: Array) -> Array:
            bound = jnp.asarray(limit, jnp.result_type(g))
            return jnp.clip(g, -bound, bound)

        return jax.tree.map(clip, gradients), state

    return Optimizer(_stateless("clip_by_value"), update)


def _stateless(function: str) -> Any:
    def init(params: ArrayTree) -> NoState:
        _checks.floating_leaves(function, params=params)
        return NoState()

    return init
