"""The contract of an optimizer, and what its implementations share.

An optimizer is two pure functions. Its state is data: a NamedTuple that can be saved, mapped over, donated.

    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params)
    params = apply_updates(params, updates)

Parameters, gradients, updates and moments are pytrees of one structure. Moments have the dtype of their parameter,
float32 for half precision; updates have the dtype of the moments and are added before rounding once. Moments have the
sharding of their parameter. Nothing recompiles between steps, if parameters are not weakly typed (`jnp.asarray(1.0)`
is, `jnp.float32(1)` is not); every hyperparameter may be traced. The field order is optax's, so `optax.chain` takes
these optimizers, and `chain` takes optax's transformations, as they are. Two limits: `optax.chain` passes keyword
arguments to its own kind only; and as updates of half-precision parameters are float32, what keeps updates after them
(`optax.trace`) or chooses between updates and gradients (`optax.apply_if_finite`) has to be used in float32.

Steps that are small beside a half-precision parameter are rounded away: 1e-3 of 1 in bfloat16. Keep float32 parameters,
and cast them where the loss is computed: `jax.grad(lambda p: loss(jax.tree.map(lambda x: x.astype(half), p)))`.

What only changes gradients (clipping, the gradient of a penalty) has the same two functions, keeps their dtype, and
comes before the method in a `chain`.

Squares are taken in the dtype of moments: in float32 that of a gradient above 1.8e19 is infinite, and adaptive methods
do not move its coordinate any more. Clip first where that may be.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric, accumulation_dtype

LearningRate: TypeAlias = Numeric | Callable[[Array], Numeric]
"""A number ≥ 0, or a function of the step count [] (int32, 0 at the first update) to one; not checked there."""


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


def chain(*optimizers: Optimizer) -> Optimizer:
    """One after the other: each takes the updates of the one before it for its gradients.

    A method turns gradients into steps, with their sign, and comes last; there is one of them. Penalties before it are
    of gradients, after it of steps.

    Args:
      *optimizers: (init, update) pairs, these or optax's. None at all leaves gradients as they are.

    Returns:
      An `Optimizer` whose state is the tuple of their states. Its `update` passes keyword arguments, such as the
      `value` that some of optax's want, to those that take any.

    Raises:
      TypeError: one of them is no pair of functions.

    Example:
      optimizer = chain(clip_by_global_norm(1.0), adam(1e-3))
    """
    for i, optimizer in enumerate(optimizers):
        if not (isinstance(optimizer, tuple) and len(optimizer) == 2 and all(map(callable, optimizer))):
            hint = ""
            if callable(optimizer):
                hint = f"; call it: {getattr(optimizer, '__name__', 'optimizer')}(…)"
            elif isinstance(optimizer, list | tuple):
                hint = "; for a list of optimizers, chain(*optimizers)"
            found = type(optimizer).__name__
            raise TypeError(f"chain: optimizers[{i}] is of type {found}; expected a pair (init, update){hint}")

    kinds = [[p.kind for p in inspect.signature(step).parameters.values()] for _, step in optimizers]
    takes_more = [inspect.Parameter.VAR_KEYWORD in each for each in kinds]

    def init(params: ArrayTree) -> tuple[Any, ...]:
        return tuple(start(params) for start, _ in optimizers)

    def update(
        gradients: ArrayTree, state: tuple[Any, ...], params: Any = None, **more: Any
    ) -> tuple[ArrayTree, tuple[Any, ...]]:
        _checks.instance("chain", "state", state, tuple)
        if len(state) != len(optimizers):
            raise ValueError(
                f"chain: state is a {type(state).__name__} of {len(state)} parts; expected {len(optimizers)}, one an "
                "optimizer"
            )
        states = []
        for (_, step), part, more_too in zip(optimizers, state, takes_more, strict=True):
            gradients, part = step(gradients, part, params, **(more if more_too else {}))
            states.append(part)
        return gradients, tuple(states)

    return Optimizer(init, update)


class NoState(NamedTuple):
    """The state of what has none."""


def no_state(function: str) -> Callable[[ArrayTree], NoState]:
    """The `init` of what has no state."""

    def init(params: ArrayTree) -> NoState:
        _checks.floating_leaves(function, params=params)
        return NoState()

    return init


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
    if not callable(learning_rate):
        return learning_rate
    eta = _checks.array(function, "learning_rate(step)", learning_rate(step), "real")
    _checks.scalar(function, "learning_rate(step)", eta)
    return eta


def check_update(function: str, gradients: ArrayTree, params: Any, **moments: ArrayTree) -> None:
    """Gradients are floating, and have the structure and shapes of every moment, and of the parameters if given."""
    references = {f"state.{name}": tree for name, tree in moments.items()}
    if params is not None:
        references["params"] = params
    for name, reference in references.items():
        _checks.same_shapes(function, name, reference, gradients=gradients)
    _checks.floating_leaves(function, gradients=gradients)


def start(params: ArrayTree) -> Array:
    """A step counter at 0, on the devices of the parameters: elsewhere it would move there in the first step, and the
    program of that step would not be the one of the second.
    """
    step = jnp.zeros((), jnp.int32)
    leaf = next(iter(jax.tree.leaves(params)), None)
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) or not leaf.committed:
        return step
    sharding = leaf.sharding
    on_all = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    moved: Array = jax.device_put(step, on_all or (sharding if len(sharding.device_set) == 1 else None))
    return moved


def next_step(step: Array) -> Array:
    """step + 1, but for the largest number, which stays: Adam would otherwise stop there, and schedules begin anew."""
    return jnp.minimum(step, jnp.iinfo(step.dtype).max - 1) + 1


def zeros_like_moments(function: str, params: ArrayTree) -> ArrayTree:
    """A zero for every parameter, in the dtype of moments and with the parameter's sharding."""
    return full_like_moments(function, params, 0.0)


def full_like_moments(function: str, params: ArrayTree, value: Numeric) -> ArrayTree:
    """The same number for every parameter, in the dtype of moments and with the parameter's sharding."""
    _checks.floating_leaves(function, params=params)

    def full(p: Array) -> Array:
        p = jnp.asarray(p)
        moment = jnp.full_like(p, value, dtype=accumulation_dtype(p.dtype))
        # Under jit a constant has no sharding of its own, and would be whole on every device. The compiler sees that
        # neither choice depends on p only after it has divided the program among the devices.
        return jnp.where(p == p, moment, moment) if isinstance(p, jax.core.Tracer) else moment

    return jax.tree.map(full, params)


def decay(moment: ArrayTree, beta: Numeric, term: Callable[[Array], Array], gradients: ArrayTree) -> ArrayTree:
    """The exponential average β m + (1 − β) term(g), leaf by leaf, in the dtype of m."""

    def average(m: Array, g: Array) -> Array:
        # 1 − β is taken before it is rounded to the dtype: 1 − float32(0.999) is off by 1.3e-5.
        return jnp.asarray(beta, m.dtype) * m + jnp.asarray(1 - beta, m.dtype) * term(jnp.asarray(g, m.dtype))

    return jax.tree.map(average, moment, gradients)


def root(s: Array, eps: Numeric, eps_root: Numeric) -> Array:
    """√(s + eps_root) + eps, in the dtype of s."""
    return jnp.sqrt(s + jnp.asarray(eps_root, s.dtype)) + jnp.asarray(eps, s.dtype)
