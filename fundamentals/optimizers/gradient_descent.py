"""Methods that follow the gradient itself: gradient descent and momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype
from fundamentals.optimizers import core
from fundamentals.optimizers.core import LearningRate, Optimizer


class SgdState(NamedTuple):
    """The state of `sgd`."""

    step: Array  # [] int32, updates so far


def sgd(learning_rate: LearningRate) -> Optimizer:
    """(Stochastic) gradient descent: θ ← θ − η g.

    Stable on a quadratic if and only if η < 2 / λ_max.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.

    Returns:
      An `Optimizer` with state `SgdState`.

    Raises:
      ValueError: η is negative or not finite.

    Reference: Robbins & Monro 1951, eq. 6; Cauchy 1847 for the full gradient.

    Example:
      optimizer = sgd(0.1)
      updates, state = optimizer.update(gradients, optimizer.init(params))
    """
    core.check_learning_rate("sgd", learning_rate)

    def init(params: ArrayTree) -> SgdState:
        _checks.floating_leaves("sgd", params=params)
        return SgdState(core.start())

    def update(gradients: ArrayTree, state: SgdState, params: Any = None) -> tuple[ArrayTree, SgdState]:
        _checks.instance("sgd", "state", state, SgdState)
        core.check_gradients("sgd", gradients, "params", gradients if params is None else params)
        eta = core.learning_rate_at("sgd", learning_rate, state.step)

        def descend(g: Array) -> Array:
            wide = accumulation_dtype(jnp.result_type(g))
            return -jnp.asarray(eta, wide) * jnp.asarray(g, wide)

        return jax.tree.map(descend, gradients), SgdState(state.step + 1)

    return Optimizer(init, update)


class MomentumState(NamedTuple):
    """The state of `momentum`."""

    step: Array  # [] int32, updates so far
    velocity: ArrayTree  # v, one a parameter


def momentum(learning_rate: LearningRate, beta: Numeric = 0.9, *, nesterov: bool = False) -> Optimizer:
    """Gradient descent with a velocity: v ← β v + g, θ ← θ − η v.

    Along a direction of steady gradient the velocity grows to g / (1 − β); what alternates in sign cancels.
    With `nesterov`, θ ← θ − η (g + β v): the gradient is (to first order) taken after the step, not before it.

    This is the heavy-ball form of PyTorch and optax (`trace`), v in units of the gradient. Sutskever and Keras
    store −η v instead, which differs when η changes over time; others average, v ← β v + (1 − β) g, which is
    this with η (1 − β).

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      beta: β in [0, 1); 0 is gradient descent.
      nesterov: take Nesterov's step.

    Returns:
      An `Optimizer` with state `MomentumState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    References: Polyak 1964, eq. 9; Nesterov 1983; Sutskever et al. 2013, eqs. 1–4.

    Example:
      optimizer = momentum(0.1, beta=0.9, nesterov=True)
    """
    core.check_learning_rate("momentum", learning_rate)
    _checks.interval("momentum", "[0, 1)", beta=beta)

    def init(params: ArrayTree) -> MomentumState:
        return MomentumState(core.start(), core.zeros_like_moments("momentum", params))

    def update(gradients: ArrayTree, state: MomentumState, params: Any = None) -> tuple[ArrayTree, MomentumState]:
        del params
        _checks.instance("momentum", "state", state, MomentumState)
        core.check_gradients("momentum", gradients, "the velocity", state.velocity)
        eta = core.learning_rate_at("momentum", learning_rate, state.step)

        def accelerate(v: Array, g: Array) -> Array:
            return jnp.asarray(beta, v.dtype) * v + jnp.asarray(g, v.dtype)

        def descend(v: Array, g: Array) -> Array:
            return -jnp.asarray(eta, v.dtype) * (accelerate(v, g) if nesterov else v)

        velocity = jax.tree.map(accelerate, state.velocity, gradients)
        return jax.tree.map(descend, velocity, gradients), MomentumState(state.step + 1, velocity)

    return Optimizer(init, update)
