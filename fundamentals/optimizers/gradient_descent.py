"""Methods that follow the gradient itself: gradient descent and momentum."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype
from fundamentals.optimizers import core
from fundamentals.optimizers.core import LearningRate, Optimizer

Normalization: TypeAlias = Literal["heavy_ball", "average", "variance_preserving", "steps"]
"""How `momentum` adds a gradient to its velocity."""


class SgdState(NamedTuple):
    """The state of `sgd`."""

    step: Array  # [] int32, updates so far


def sgd(learning_rate: LearningRate) -> Optimizer:
    """(Stochastic) gradient descent: θ ← θ − η g.

    Stable on a quadratic if and only if η < 2 / λ_max. With a velocity it is `momentum`; weight decay is
    `chain(l2_regularization(λ), sgd(η))`.

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
        return SgdState(core.start(params))

    def update(gradients: ArrayTree, state: SgdState, params: Any = None) -> tuple[ArrayTree, SgdState]:
        _checks.instance("sgd", "state", state, SgdState)
        core.check_update("sgd", gradients, params)
        eta = core.learning_rate_at("sgd", learning_rate, state.step)

        def descend(g: Array) -> Array:
            wide = accumulation_dtype(jnp.result_type(g))
            return -jnp.asarray(eta, wide) * jnp.asarray(g, wide)

        return jax.tree.map(descend, gradients), SgdState(core.next_step(state.step))

    return Optimizer(init, update)


class MomentumState(NamedTuple):
    """The state of `momentum`."""

    step: Array  # [] int32, updates so far
    velocity: ArrayTree  # v, one a parameter


def momentum(
    learning_rate: LearningRate,
    beta: Numeric = 0.9,
    *,
    nesterov: bool = False,
    normalization: Normalization = "heavy_ball",
) -> Optimizer:
    """Gradient descent with a velocity, by default the heavy ball: v ← β v + g, θ ← θ − η v.

    Along a direction of steady gradient the velocity grows to g / (1 − β); what alternates in sign cancels.
    The literature normalizes it in four ways:

        normalization           v ←                   θ ← θ −    steady v             as in
        "heavy_ball"            β v + g               η v        g / (1 − β)          PyTorch, optax
        "average"               β v + (1 − β) g       η v        g                    Adam's m
        "variance_preserving"   √β v + √(1 − β) g     η v        g √(1−β) / (1−√β)    white noise keeps its variance
        "steps"                 β v − η g             −v         −η g / (1 − β)       Sutskever, Keras, CS231n

    With a constant η they are one method: "average" is the heavy ball with η (1 − β), "variance_preserving" the heavy
    ball with √β and η √(1 − β), "steps" the heavy ball itself. With a varying η, "steps" keeps what was added at the
    η of its time, the others scale all of the velocity by today's. PyTorch's `dampening=τ` multiplies g by 1 − τ except
    in the first step.

    With `nesterov` the velocity that θ moves along is advanced once more, by the same gradient: to first order that is
    the gradient after the step, not before it. For the heavy ball, θ ← θ − η (g + β v).

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      beta: β in [0, 1); 0 is gradient descent.
      nesterov: take Nesterov's step.
      normalization: a row of the table.

    Returns:
      An `Optimizer` with state `MomentumState`.

    Raises:
      ValueError: a hyperparameter is out of range, or there is no such normalization.

    References: Polyak 1964, eq. 9; Nesterov 1983; Sutskever et al. 2013, eqs. 1–4.

    Example:
      optimizer = momentum(0.1, beta=0.9, nesterov=True)
    """
    core.check_learning_rate("momentum", learning_rate)
    _checks.interval("momentum", "[0, 1)", beta=beta)
    _checks.boolean("momentum", nesterov=nesterov)
    _checks.choice("momentum", "normalization", normalization, get_args(Normalization))
    of_steps = normalization == "steps"

    def init(params: ArrayTree) -> MomentumState:
        return MomentumState(core.start(params), core.zeros_like_moments("momentum", params))

    def update(gradients: ArrayTree, state: MomentumState, params: Any = None) -> tuple[ArrayTree, MomentumState]:
        _checks.instance("momentum", "state", state, MomentumState)
        core.check_update("momentum", gradients, params, velocity=state.velocity)
        eta = core.learning_rate_at("momentum", learning_rate, state.step)
        kept, gained = {
            "heavy_ball": (beta, 1.0),
            "average": (beta, 1 - beta),
            "variance_preserving": (beta**0.5, (1 - beta) ** 0.5),
            "steps": (beta, -eta),
        }[normalization]

        def accelerate(v: Array, g: Array) -> Array:
            return jnp.asarray(kept, v.dtype) * v + jnp.asarray(gained, v.dtype) * jnp.asarray(g, v.dtype)

        def descend(v: Array, g: Array) -> Array:
            v = accelerate(v, g) if nesterov else v
            return v if of_steps else -jnp.asarray(eta, v.dtype) * v

        velocity = jax.tree.map(accelerate, state.velocity, gradients)
        return jax.tree.map(descend, velocity, gradients), MomentumState(core.next_step(state.step), velocity)

    return Optimizer(init, update)
