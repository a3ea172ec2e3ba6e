"""Adam, with weight decay in the gradient or beside it.

    m ← β₁ m + (1 − β₁) g        m̂ = m / (1 − β₁ᵗ)
    v ← β₂ v + (1 − β₂) g²       v̂ = v / (1 − β₂ᵗ)        θ ← θ − η m̂ / (√(v̂ + eps_root) + eps)            (1)

with t = 1 at the first update. Averages that start at zero are too small: after t steps the weights of m sum to
Σ β₁ᵗ⁻ⁱ (1 − β₁) = 1 − β₁ᵗ, by which m̂ divides. v is the uncentred second moment, not a variance.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric
from fundamentals.optimizers import core
from fundamentals.optimizers.core import LearningRate, Optimizer
from fundamentals.optimizers.regularization import Mask, decayed


class AdamState(NamedTuple):
    """The state of `adam` and `adamw`; optax calls its parts count, mu and nu."""

    step: Array  # [] int32, updates so far
    first_moment: ArrayTree  # m, one a parameter
    second_moment: ArrayTree  # v, one a parameter


def adam(
    learning_rate: LearningRate,
    b1: Numeric = 0.9,
    b2: Numeric = 0.999,
    eps: Numeric = 1e-8,
    eps_root: Numeric = 0.0,
    *,
    bias_correction: bool = True,
    eps_hat: bool = False,
) -> Optimizer:
    """Adam: averages of the gradient and of its square, corrected for having started at zero; equation (1).

    The first update has the length η in every coordinate. The defaults are the paper's, ε outside the root, as in
    PyTorch and optax; the other form is `adam(η, eps=0.0, eps_root=ε)`. With `eps_hat`, ε is the paper's ε̂, as in
    Keras and TensorFlow: it is added before the correction, √(v + eps_root) + eps for the uncorrected v, and is
    therefore ε / √(1 − β₂ᵗ) in terms of (1), 32 times larger in the first step.

    Without `bias_correction` m̂ = m and v̂ = v, as some lecture notes write it: first steps are (1 − β₁)/√(1 − β₂) = 3.2
    times longer, in the direction of the first gradients.

    Args:
      learning_rate: η, a number ≥ 0 or a function of the step count.
      b1, b2: β₁ and β₂ in [0, 1).
      eps, eps_root: ≥ 0, not both 0.
      bias_correction: divide by 1 − βᵗ.
      eps_hat: add eps and eps_root to the uncorrected v.

    Returns:
      An `Optimizer` with state `AdamState`.

    Raises:
      ValueError: a hyperparameter is out of range.

    Updates have a derivative at a zero gradient only if eps_root > 0, as a root has none at 0.

    Reference: Kingma & Ba 2015, algorithm 1; ε̂ just before section 2.1.

    Example:
      optimizer = adam(1e-3)
    """
    step = _step("adam", learning_rate, b1, b2, eps, eps_root, bias_correction, eps_hat)

    def init(params: ArrayTree) -> AdamState:
        return _init("adam", params)

    def update(gradients: ArrayTree, state: AdamState, params: Any = None) -> tuple[ArrayTree, AdamState]:
        _, updates, state = step(gradients, state, params)
        return updates, state

    return Optimizer(init, update)


def adamw(
    learning_rate: LearningRate,
    b1: Numeric = 0.9,
    b2: Numeric = 0.999,
    eps: Numeric = 1e-8,
    eps_root: Numeric = 0.0,
    *,
    weight_decay: Numeric = 1e-2,
    mask: Mask | None = None,
    bias_correction: bool = True,
    eps_hat: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay: θ ← θ − η (m̂ / (√(v̂ + eps_root) + eps) + λ θ).

    λ θ beside Adam's direction shrinks all parameters at one rate. In the gradient, as the derivative of (λ/2) ‖θ‖², it
    would be divided by √v̂ like the rest of it: parameters with large gradients would shrink less. That is
    `chain(l2_regularization(λ), adam(η))`, PyTorch's `Adam(weight_decay=λ)`. Keras's ε is ε̂, also here: `eps_hat=True`.

    As in PyTorch and optax, η multiplies the decay, so that a schedule is for both. (The paper has a rate α for
    Adam's part alone and a schedule η for both: its λ is η λ of here at the peak of the schedule.) The default λ is
    PyTorch's; optax's is 1e-4, Keras's 4e-3.

    Args:
      learning_rate, b1, b2, eps, eps_root, bias_correction, eps_hat: those of `adam`.
      weight_decay: λ ≥ 0.
      mask: which parameters decay, a pytree of booleans or a function that makes one of the parameters; all, if None.
        Biases, and scales of normalizations, are usually left out.

    Returns:
      An `Optimizer` with state `AdamState`, whose `update` needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of range, or `update` is not given the parameters.

    Reference: Loshchilov & Hutter 2019, algorithm 2.

    Example:
      optimizer = adamw(1e-3, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    """
    step = _step("adamw", learning_rate, b1, b2, eps, eps_root, bias_correction, eps_hat)
    _checks.interval("adamw", "[0, inf)", weight_decay=weight_decay)

    def init(params: ArrayTree) -> AdamState:
        return _init("adamw", params)

    def update(gradients: ArrayTree, state: AdamState, params: Any = None) -> tuple[ArrayTree, AdamState]:
        eta, updates, state = step(gradients, state, params)
        return decayed("adamw", updates, params, -eta * weight_decay, mask), state

    return Optimizer(init, update)


def _init(function: str, params: ArrayTree) -> AdamState:
    zeros = core.zeros_like_moments
    return AdamState(core.start(params), zeros(function, params), zeros(function, params))


def _step(
    function: str,
    learning_rate: LearningRate,
    b1: Numeric,
    b2: Numeric,
    eps: Numeric,
    eps_root: Numeric,
    bias_correction: bool,
    eps_hat: bool,
) -> Callable[[ArrayTree, AdamState, Any], tuple[Numeric, ArrayTree, AdamState]]:
    """(gradients, state, params) → η, −η m̂ / (√(v̂ + eps_root) + eps), the next state."""
    core.check_learning_rate(function, learning_rate)
    _checks.interval(function, "[0, 1)", b1=b1, b2=b2)
    core.check_epsilons(function, eps, eps_root)
    _checks.boolean(function, bias_correction=bias_correction, eps_hat=eps_hat)

    def step(gradients: ArrayTree, state: AdamState, params: Any) -> tuple[Numeric, ArrayTree, AdamState]:
        _checks.instance(function, "state", state, AdamState)
        moments = {"first_moment": state.first_moment, "second_moment": state.second_moment}
        core.check_update(function, gradients, params, **moments)
        eta = core.learning_rate_at(function, learning_rate, state.step)
        t = core.next_step(state.step)
        first_moment = core.decay(state.first_moment, b1, lambda g: g, gradients)
        second_moment = core.decay(state.second_moment, b2, jnp.square, gradients)

        def descend(m: Array, v: Array) -> Array:
            rate = -jnp.asarray(eta, m.dtype)
            if not bias_correction:
                return rate * m / core.root(v, eps, eps_root)
            c1, c2 = _one_minus_power(b1, t, m.dtype), _one_minus_power(b2, t, v.dtype)
            if eps_hat:
                return rate * jnp.sqrt(c2) / c1 * m / core.root(v, eps, eps_root)
            return rate * (m / c1) / core.root(v / c2, eps, eps_root)

        return eta, jax.tree.map(descend, first_moment, second_moment), AdamState(t, first_moment, second_moment)

    return step


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
