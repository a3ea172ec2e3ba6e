"""Methods that give every coordinate a step size of its own, from the history of its gradients.

They divide by the root of an average of squared gradients. What keeps that from dividing by zero stands in two
places in the literature, and both are here under the same names everywhere: `eps_root` inside the root, `eps` outside,

    g / (√(s + eps_root) + eps).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric
from fundamentals.optimizers import core
from fundamentals.optimizers.core import LearningRate, Optimizer


class RmspropState(NamedTuple):
    """The state of `rmsprop`."""

    step: Array  # [] int32, updates so far
    second_moment: ArrayTree  # s, one a parameter


def rmsprop(
    learning_rate: LearningRate, decay: Numeric = 0.9, eps: Numeric = 0.0, eps_root: Numeric = 1e-8
) -> Optimizer:
    """RMSProp: s ← ρ s + (1 − ρ) g², θ ← θ − η g / (√(s + eps_root) + eps).

    The defaults put ε inside the root, as JAX, optax and many lecture notes do. PyTorch and CS231n have it outside:
    `rmsprop(η, ρ, eps=ε, eps_root=0.0)`. s starts at 0 without bias correction, so first steps are 1/√(1 − ρ) × larger.

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
        return RmspropState(core.start(), core.zeros_like_moments("rmsprop", params))

    def update(gradients: ArrayTree, state: RmspropState, params: Any = None) -> tuple[ArrayTree, RmspropState]:
        del params
        _checks.instance("rmsprop", "state", state, RmspropState)
        core.check_gradients("rmsprop", gradients, "the second moment", state.second_moment)
        eta = core.learning_rate_at("rmsprop", learning_rate, state.step)
        second_moment = core.decay(state.second_moment, decay, jnp.square, gradients)

        def descend(g: Array, s: Array) -> Array:
            return -jnp.asarray(eta, s.dtype) * jnp.asarray(g, s.dtype) / _root(s, eps, eps_root)

        return jax.tree.map(descend, gradients, second_moment), RmspropState(state.step + 1, second_moment)

    return Optimizer(init, update)


class AdamState(NamedTuple):
    """The state of `adam`."""

    step: Array  # [] int32, updates so far
    first_moment: ArrayTree  # m, one a parameter
    second_moment: ArrayTree  # v, one a parameter


def adam(
    learning_rate: LearningRate,
    b1: Numeric = 0.9,
    b2: Numeric = 0.999,
    eps: Numeric = 1e-8,
    eps_root: Numeric = 0.0,
) -> Optimizer:
    """Adam: averages of the gradient and of its square, corrected for having started at zero.

        m ← β₁ m + (1 − β₁) g        m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²       v̂ = v / (1 − β₂ᵗ)        θ ← θ − η m̂ / (√(v̂ + eps_root) + eps)

    with t = 1 at the first update, whose length is therefore η in every coordinate. v is the uncentred second
    moment, not a variance. The defaults are the paper's, ε outside the root, as in PyTorch and optax; the
    other form is `adam(η, eps=0.0, eps_root=ε)`. Keras's ε is the paper's ε̂, outside the root of the uncorrected v.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      b1, b2: β₁ and β₂ in [0, 1).
      eps, eps_root: ≥ 0, not both 0.

    Returns:
      An `Optimizer` with state `AdamState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    Reference: Kingma & Ba 2015, algorithm 1.

    Example:
      optimizer = adam(1e-3)
    """
    core.check_learning_rate("adam", learning_rate)
    _checks.interval("adam", "[0, 1)", b1=b1, b2=b2)
    core.check_epsilons("adam", eps, eps_root)

    def init(params: ArrayTree) -> AdamState:
        return AdamState(core.start(), core.zeros_like_moments("adam", params), core.zeros_like_moments("adam", params))

    def update(gradients: ArrayTree, state: AdamState, params: Any = None) -> tuple[ArrayTree, AdamState]:
        del params
        _checks.instance("adam", "state", state, AdamState)
        core.check_gradients("adam", gradients, "the first moment", state.first_moment)
        eta = core.learning_rate_at("adam", learning_rate, state.step)
        t = state.step + 1
        first_moment = core.decay(state.first_moment, b1, lambda g: g, gradients)
        second_moment = core.decay(state.second_moment, b2, jnp.square, gradients)

        def descend(m: Array, v: Array) -> Array:
            m_hat = m / _one_minus_power(b1, t, m.dtype)
            v_hat = v / _one_minus_power(b2, t, v.dtype)
            return -jnp.asarray(eta, m.dtype) * m_hat / _root(v_hat, eps, eps_root)

        return jax.tree.map(descend, first_moment, second_moment), AdamState(t, first_moment, second_moment)

    return Optimizer(init, update)


def _root(s: Array, eps: Numeric, eps_root: Numeric) -> Array:
    return jnp.sqrt(s + jnp.asarray(eps_root, s.dtype)) + jnp.asarray(eps, s.dtype)


def _one_minus_power(beta: Numeric, t: Array, dtype: Any) -> Array:
    """1 − βᵗ without cancellation: −expm1(t log β), the logarithm in double precision where β is a number.

    1 − float32(0.999) is off by 1.3e-5, and so would be the first step of Adam.
    """
    log_beta: Numeric
    if isinstance(beta, int | float):
        log_beta = math.log(beta) if beta > 0 else -math.inf
    else:
        log_beta = jnp.log(beta)
    return -jnp.expm1(t.astype(dtype) * jnp.asarray(log_beta, dtype))
