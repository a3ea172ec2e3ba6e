"""The contract of an optimizer, and what its implementations share.

An optimizer is two pure functions. Its state is data: a NamedTuple that can be saved, mapped over, donated.

    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params)
    params = apply_updates(params, updates)

Parameters, gradients, updates and moments are pytrees of one structure. Moments have the dtype of their parameter,
float32 for half precision; updates have the dtype of the moments and are added before rounding once. Nothing
recompiles between steps. The field order is optax's, so `optax.chain` takes these optimizers as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype

LearningRate: TypeAlias = Numeric | Callable[[Array], Numeric]
"""A number, or a function of the step count [] (int32, 0 at the first update)."""


class Optimizer(NamedTuple):
    """Two pure functions: `init(params) -> state`, `update(gradients, state, params=None) -> (updates, state)`."""

    init: Callable[[ArrayTree], Any]
    update: Callable[..., tuple[ArrayTree, Any]]


def apply_updates(params: ArrayTree, updates: ArrayTree) -> ArrayTree:
    """θ + Δθ, leaf by leaf, in the dtype of θ (half precision is added in float32 and rounded once).

    Raises:
      ValueError: the structures or shapes differ.
    """
    _checks.same_shapes("apply_updates", "params", params, updates=updates)
    _checks.floating_leaves("apply_updates", params=params, updates=updates)

    def add(parameter: Array, update: Array) -> Array:
        wide = accumulation_dtype(jnp.result_type(parameter))
        return (jnp.asarray(parameter, wide) + jnp.asarray(update, wide)).astype(jnp.result_type(parameter))

    return jax.tree.map(add, params, updates)


def check_learning_rate(function: str, learning_rate: LearningRate) -> None:
    """A learning rate is a function, or a finite number ≥ 0."""
    if not callable(learning_rate):
        _checks.interval(function, "[0, inf)", learning_rate=learning_rate)


def check_epsilons(function: str, eps: Numeric, eps_root: Numeric) -> None:
    """Both are ≥ 0, and one of them is positive: a zero gradient would otherwise be divided by zero."""
    _checks.interval(function, "[0, inf)", eps=eps, eps_root=eps_root)
    if _checks.is_zero(eps) and _checks.is_zero(eps_root):
        raise ValueError(f"{function}: eps and eps_root are both 0; expected one > 0, or a zero gradient gives 0/0")


def learning_rate_at(function: str, learning_rate: LearningRate, step: Array) -> Numeric:
    """The learning rate of the update after `step` updates."""
    eta = learning_rate(step) if callable(learning_rate) else learning_rate
    _checks.scalar(function, "learning_rate", eta)
    return eta


def check_gradients(function: str, gradients: ArrayTree, reference_name: str, reference: ArrayTree) -> None:
    """Gradients are floating and have the structure and shapes of the reference."""
    _checks.same_shapes(function, reference_name, reference, gradients=gradients)
    _checks.floating_leaves(function, gradients=gradients)


def start() -> Array:
    """A step counter at 0."""
    return jnp.zeros((), jnp.int32)


def zeros_like_moments(function: str, params: ArrayTree) -> ArrayTree:
    """A zero for every parameter, in the dtype of moments."""
    _checks.floating_leaves(function, params=params)
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=accumulation_dtype(jnp.result_type(p))), params)


def decay(moment: ArrayTree, beta: Numeric, term: Callable[[Array], Array], gradients: ArrayTree) -> ArrayTree:
    """The exponential average β m + (1 − β) term(g), leaf by leaf, in the dtype of m."""

    def average(m: Array, g: Array) -> Array:
        # 1 − β is taken before it is rounded to the dtype: 1 − float32(0.999) is off by 1.3e-5.
        return jnp.asarray(beta, m.dtype) * m + jnp.asarray(1 - beta, m.dtype) * term(jnp.asarray(g, m.dtype))

    return jax.tree.map(average, moment, gradients)
