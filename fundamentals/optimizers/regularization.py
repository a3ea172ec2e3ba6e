"""The gradient of an L2 penalty, and which parameters decay."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype
from fundamentals.optimizers import core
from fundamentals.optimizers.core import NoState, Optimizer

Mask: TypeAlias = Any | Callable[[ArrayTree], Any]
"""A pytree of booleans with the structure of the parameters, or a function that makes one of them."""


def l2_regularization(weight_decay: Numeric, *, mask: Mask | None = None) -> Optimizer:
    """Weight decay as a term of the gradient: g ← g + λ θ, the gradient of (λ/2) ‖θ‖² added to the loss.

    Before `sgd` it is the same as decay beside the step; before an adaptive method it is not: `adamw` says how.
    PyTorch's `weight_decay` is this in SGD, Adagrad, Adadelta, RMSprop and (by default) Adam. Where a loss has λ ‖θ‖²,
    this λ is twice that.

    Args:
      weight_decay: λ ≥ 0.
      mask: which parameters have the penalty; all, if None.

    Returns:
      An `Optimizer` without state, to come before a method in a `chain`, whose `update` needs the parameters.

    Raises:
      ValueError: λ is negative or not finite, or `update` is not given the parameters.

    Reference: Krogh & Hertz 1991, section 1; against decoupled decay, Loshchilov & Hutter 2019, proposition 2.

    Example:
      optimizer = chain(l2_regularization(1e-4), momentum(0.1))
    """
    _checks.interval("l2_regularization", "[0, inf)", weight_decay=weight_decay)

    def update(gradients: ArrayTree, state: NoState, params: Any = None) -> tuple[ArrayTree, NoState]:
        _checks.instance("l2_regularization", "state", state, NoState)
        wide = decayed("l2_regularization", gradients, params, weight_decay, mask)
        return jax.tree.map(lambda g, w: w.astype(jnp.result_type(g)), gradients, wide), state

    return Optimizer(core.no_state("l2_regularization"), update)


def decayed(function: str, gradients: ArrayTree, params: Any, weight_decay: Numeric, mask: Mask | None) -> ArrayTree:
    """g + λ θ, or g where the mask is False."""
    if params is None and gradients is not None:
        raise ValueError(f"{function}: params is None; expected the parameters, which the decay is of")
    core.check_update(function, gradients, params)
    # A pytree of booleans may be of a class that can be called, as modules are.
    makes_one = callable(mask) and jax.tree_util.all_leaves([mask])
    chosen: Any = jax.tree.map(lambda _: True, params) if mask is None else mask(params) if makes_one else mask
    structure: Any = jax.tree.structure(params)
    if jax.tree.structure(chosen) != structure:
        _checks.same_shapes(function, "params", params, mask=chosen)
    for path, choice in jax.tree_util.tree_leaves_with_path(chosen):
        _checks.boolean(function, **{f"mask{jax.tree_util.keystr(path)}": choice})

    def add(g: Array, theta: Array, choice: bool) -> Array:
        wide = accumulation_dtype(jnp.result_type(theta))
        g = jnp.asarray(g, wide)
        return g + jnp.asarray(weight_decay, wide) * jnp.asarray(theta, wide) if choice else g

    return jax.tree.map(add, gradients, params, chosen)
