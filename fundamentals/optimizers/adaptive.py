"""Methods that give every coordinate a step size of its own, from the squares of its gradients.

They divide by the root of a sum or an average of squared gradients. What keeps that from dividing by zero stands in two
places in the literature, and both are here under the same names everywhere: `eps_root` inside the root, `eps` outside,

    g / (√(s + eps_root) + eps).

Each has a default of its own, and giving one leaves the other: for PyTorch's form of `rmsprop` and `adagrad`, say
`eps=1e-8, eps_root=0.0`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric
from fundamentals.optimizers import core
from fundamentals.optimizers.core import LearningRate, Optimizer


class AdagradState(NamedTuple):
    """The state of `adagrad`."""

    step: Array  # [] int32, updates so far
    accumulator: ArrayTree  # G, one a parameter


def adagrad(
    learning_rate: LearningRate,
    eps: Numeric = 0.0,
    eps_root: Numeric = 1e-8,
    *,
    initial_accumulator: Numeric = 0.0,
) -> Optimizer:
    """AdaGrad: G ← G + g², θ ← θ − η g / (√(G + eps_root) + eps).

    G only grows, so that the rate η / √G of a coordinate only falls: as 1/√t where gradients keep their size, and not
    at all where they are zero, which is what sparse features need.

    The diagonal method of the paper, whose δ is `eps`. PyTorch has it outside, 1e-10; Keras inside, 1e-7; optax inside
    with `initial_accumulator=0.1`, as has Keras, for smaller first steps. Here the first step is η in every coordinate.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      eps, eps_root: ≥ 0, not both 0.
      initial_accumulator: G before the first step, ≥ 0.

    Returns:
      An `Optimizer` with state `AdagradState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    Reference: Duchi, Hazan & Singer 2011, figure 1 with the composite mirror descent update and no regularizer.

    Example:
      optimizer = adagrad(0.1)
    """
    core.check_learning_rate("adagrad", learning_rate)
    core.check_epsilons("adagrad", eps, eps_root)
    _checks.interval("adagrad", "[0, inf)", initial_accumulator=initial_accumulator)

    def init(params: ArrayTree) -> AdagradState:
        return AdagradState(core.start(params), core.full_like_moments("adagrad", params, initial_accumulator))

    def update(gradients: ArrayTree, state: AdagradState, params: Any = None) -> tuple[ArrayTree, AdagradState]:
        _checks.instance("adagrad", "state", state, AdagradState)
        core.check_update("adagrad", gradients, params, accumulator=state.accumulator)
        eta = core.learning_rate_at("adagrad", learning_rate, state.step)
        accumulator = jax.tree.map(lambda a, g: a + jnp.square(jnp.asarray(g, a.dtype)), state.accumulator, gradients)

        def descend(g: Array, a: Array) -> Array:
            return -jnp.asarray(eta, a.dtype) * jnp.asarray(g, a.dtype) / core.root(a, eps, eps_root)

        return jax.tree.map(descend, gradients, accumulator), AdagradState(core.next_step(state.step), accumulator)

    return Optimizer(init, update)


class RmspropState(NamedTuple):
    """The state of `rmsprop`."""

    step: Array  # [] int32, updates so far
    second_moment: ArrayTree  # s, one a parameter


def rmsprop(
    learning_rate: LearningRate, decay: Numeric = 0.9, eps: Numeric = 0.0, eps_root: Numeric = 1e-8
) -> Optimizer:
    """RMSProp: s ← ρ s + (1 − ρ) g², θ ← θ − η g / (√(s + eps_root) + eps).

    AdaGrad with an average over the last 1 / (1 − ρ) gradients for the sum over all, so that the rate of a coordinate
    recovers when its gradients become small. (Some courses call this Adadelta; `adadelta` is Zeiler's.)

    The defaults put ε inside the root, as JAX, optax, Keras and many lecture notes do. PyTorch and CS231n have it
    outside: `rmsprop(η, ρ, eps=ε, eps_root=0.0)`. s starts at 0 without bias correction, so that first steps are
    1/√(1 − ρ) × larger. Graves's centred variant (an option in PyTorch and Keras) is not here.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      decay: ρ in [0, 1).
      eps, eps_root: ≥ 0, not both 0.

    Returns:
      An `Optimizer` with state `RmspropState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    Reference: Tieleman & Hinton 2012, lecture 6.5.

    Example:
      optimizer = rmsprop(1e-3, decay=0.9)
    """
    core.check_learning_rate("rmsprop", learning_rate)
    _checks.interval("rmsprop", "[0, 1)", decay=decay)
    core.check_epsilons("rmsprop", eps, eps_root)

    def init(params: ArrayTree) -> RmspropState:
        return RmspropState(core.start(params), core.zeros_like_moments("rmsprop", params))

    def update(gradients: ArrayTree, state: RmspropState, params: Any = None) -> tuple[ArrayTree, RmspropState]:
        _checks.instance("rmsprop", "state", state, RmspropState)
        core.check_update("rmsprop", gradients, params, second_moment=state.second_moment)
        eta = core.learning_rate_at("rmsprop", learning_rate, state.step)
        second_moment = core.decay(state.second_moment, decay, jnp.square, gradients)

        def descend(g: Array, s: Array) -> Array:
            return -jnp.asarray(eta, s.dtype) * jnp.asarray(g, s.dtype) / core.root(s, eps, eps_root)

        return jax.tree.map(descend, gradients, second_moment), RmspropState(core.next_step(state.step), second_moment)

    return Optimizer(init, update)


class AdadeltaState(NamedTuple):
    """The state of `adadelta`."""

    step: Array  # [] int32, updates so far
    second_moment: ArrayTree  # E[g²], one a parameter
    squared_step: ArrayTree  # E[Δ²], one a parameter


def adadelta(learning_rate: LearningRate = 1.0, decay: Numeric = 0.9, eps: Numeric = 1e-6) -> Optimizer:
    """Adadelta: RMSProp whose learning rate is the size of its own recent steps.

        s ← ρ s + (1 − ρ) g²        Δ = −√(d + ε) / √(s + ε) g        d ← ρ d + (1 − ρ) Δ²        θ ← θ + η Δ

    Δ has the units of θ, where the steps of other methods have those of η. ε is inside both roots and does more
    than prevent 0/0: d starts at zero, and the first step has the length √(ε / (1 − ρ)). η scales steps but does not
    enter d, as in PyTorch and optax; the paper's η is 1, and so is the default here, as in PyTorch. Keras's is 0.001,
    with ρ = 0.95 and ε = 1e-7.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      decay: ρ in [0, 1).
      eps: ε > 0.

    Returns:
      An `Optimizer` with state `AdadeltaState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    Reference: Zeiler 2012, algorithm 1.

    Example:
      optimizer = adadelta()
    """
    core.check_learning_rate("adadelta", learning_rate)
    _checks.interval("adadelta", "[0, 1)", decay=decay)
    _checks.interval("adadelta", "(0, inf)", eps=eps)

    def init(params: ArrayTree) -> AdadeltaState:
        zeros = core.zeros_like_moments
        return AdadeltaState(core.start(params), zeros("adadelta", params), zeros("adadelta", params))

    def update(gradients: ArrayTree, state: AdadeltaState, params: Any = None) -> tuple[ArrayTree, AdadeltaState]:
        _checks.instance("adadelta", "state", state, AdadeltaState)
        core.check_update(
            "adadelta", gradients, params, second_moment=state.second_moment, squared_step=state.squared_step
        )
        eta = core.learning_rate_at("adadelta", learning_rate, state.step)
        second_moment = core.decay(state.second_moment, decay, jnp.square, gradients)

        def step(g: Array, s: Array, d: Array) -> Array:
            return -core.root(d, 0.0, eps) / core.root(s, 0.0, eps) * jnp.asarray(g, s.dtype)

        steps = jax.tree.map(step, gradients, second_moment, state.squared_step)
        squared_step = core.decay(state.squared_step, decay, jnp.square, steps)
        updates = jax.tree.map(lambda delta: jnp.asarray(eta, delta.dtype) * delta, steps)
        return updates, AdadeltaState(core.next_step(state.step), second_moment, squared_step)

    return Optimizer(init, update)
