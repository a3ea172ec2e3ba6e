"""The gradient of a function that sums, or takes a mean or a maximum, along other axes: batch for layer normalization.

A reduction whose result is broadcast back to what it was taken of (a mean that is subtracted, the sum of a softmax) can
be taken along other axes without a change of any shape but its own. Until it is broadcast its value then has the shape
of the array that was reduced; every operation on it in between is one entry by entry.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import compiled, precisely, restrict
from fundamentals.gradcheck.hypotheses import Hypothesis
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge
from fundamentals.program import evaluate, execute, read

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": jnp.sum,
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_prod": jnp.prod,
}
_ENTRYWISE = {
    *("add", "add_any", "sub", "mul", "div", "max", "min", "pow", "integer_pow", "neg", "exp", "log", "log1p", "expm1"),
    *("sqrt", "rsqrt", "square", "tanh", "logistic", "abs", "sign", "stop_gradient", "convert_element_type", "copy"),
    *("is_finite", "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
}
VARIANTS = 12  # of axes that are tried for a function


class _NotBroadcastError(Exception):
    """The reduction is not broadcast back."""


class _Wide(NamedTuple):
    """A value on its way from a reduction to its broadcast, at the shape of what was reduced."""

    value: Any
    dims: tuple[int | None, ...]  # which axis of it each axis of the right value is; None for one of size 1


def other_axes(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Reductions along other axes, in the function or in the numbers that its backward pass keeps."""
    groups: dict[Any, list[int]] = {}
    for i, equation in enumerate(stage.flat.equations):
        if (
            equation.primitive.name in _REDUCTIONS
            and 1 < equation.invars[0].aval.ndim <= 4
            and equation.invars[0].aval.size
        ):
            key = equation.invars[0].aval.shape, tuple(equation.params["axes"])
            groups.setdefault(key, []).append(i)
    tried = 0
    for (shape, axes), numbers in groups.items():
        for chosen in dict.fromkeys([tuple(numbers), *((i,) for i in numbers)]):
            for other in _subsets(len(shape)):
                if other == axes or math.prod(shape[k] for k in other) == 1 or tried >= VARIANTS:
                    continue
                stage.heed_time()
                variant = partial(_evaluated, stage, chosen, axes, other)
                try:
                    with precisely():
                        jax.eval_shape(lambda leaves, variant=variant: variant(leaves)[0], scenes[0].probe.leaves)
                except _NotBroadcastError:
                    break
                tried += 1
                names = " and ".join(dict.fromkeys(stage.place(Edge(i, 0)) for i in chosen))
                words = f"along axis {_list(other)} in place of axis {_list(axes)}"
                key = chosen, other
                fix = f"take it along axis {_list(axes)}"
                yield Hypothesis(
                    Cause.WRONG_AXIS,
                    f"the gradient is that of a function that takes {names} {words}",
                    fix,
                    stage.remembered((key, "function"), partial(_gradient, stage, variant)),
                )
                yield Hypothesis(
                    Cause.WRONG_AXIS,
                    f"the backward pass uses {names}, taken {words}",
                    fix,
                    stage.remembered((key, "numbers"), partial(_with_numbers, stage, variant)),
                )


def _subsets(ndim: int) -> list[tuple[int, ...]]:
    return [s for n in range(1, ndim + 1) for s in itertools.combinations(range(ndim), n)]


def _gradient(stage: Stage, variant: Any, scene: Scene) -> Sequence[Any]:
    which = stage.problem.which

    def of(leaves: list[Any], dy: list[Any]) -> Any:
        function = restrict(lambda *full: variant(list(full))[0], leaves, which)
        return jax.vjp(function, *(leaves[i] for i in which))[1](list(map(jnp.asarray, dy)))

    with precisely():
        return [np.asarray(g) for g in compiled(of, scene.probe.leaves)(scene.probe.leaves, scene.probe.dy)]


def _with_numbers(stage: Stage, variant: Any, scene: Scene) -> Sequence[Any]:
    """The right backward pass, at the other values where they are broadcast."""
    with precisely():
        landed = variant(list(scene.probe.leaves))[1]
    return stage.substituted(scene, {e: np.asarray(x) for v, x in landed.items() for e in stage.edges_of.get(v, [])})


def _evaluated(
    stage: Stage, chosen: tuple[int, ...], axes: tuple[int, ...], other: tuple[int, ...], leaves: list[Any]
) -> tuple[list[Any], dict[Any, Any]]:
    """The results with some reductions along other axes; and the values that these are broadcast to."""
    jaxpr = stage.flat.jaxpr.jaxpr
    shape = _aval(jaxpr.eqns[chosen[0]].invars[0]).shape
    counts = math.prod(shape[k] for k in axes), math.prod(shape[k] for k in other)
    landed: dict[Any, Any] = {}

    def apply(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        wide = [x for x in operands if isinstance(x, _Wide)]
        if i in chosen:
            if wide:
                raise _NotBroadcastError
            reduced = _REDUCTIONS[equation.primitive.name](operands[0], axis=other, keepdims=True)
            dims = tuple(k for k in range(len(shape)) if k not in axes)
            return [_Wide(jnp.broadcast_to(reduced, shape), dims)]
        if not wide:
            return execute(equation, operands)
        value = _carried(equation, operands, wide[0], shape, counts)
        if isinstance(value, _Wide):
            return [value]
        landed[equation.outvars[0]] = value
        return [value]

    known = evaluate(jaxpr, stage.flat.jaxpr.consts, leaves, apply)
    results = read(known, jaxpr.outvars)
    if any(isinstance(x, _Wide) for x in results) or not landed:
        raise _NotBroadcastError
    return results, landed


def _carried(equation: core.JaxprEqn, operands: list[Any], wide: _Wide, shape: tuple[int, ...], counts: Any) -> Any:
    """What an operation makes of a wide value: another, or, where it is broadcast back, an array."""
    name = equation.primitive.name
    result = _aval(equation.outvars[0])
    if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims"):
        dims = _moved(equation, wide.dims, result.shape)
        if result.shape == shape and all(d in (None, k) for k, d in enumerate(dims)):
            return wide.value
        if any(n != 1 for n, d in zip(result.shape, dims, strict=True) if d is None):
            raise _NotBroadcastError
        return _Wide(wide.value, dims)
    if name not in _ENTRYWISE:
        raise _NotBroadcastError
    values = []
    for x in operands:
        if isinstance(x, _Wide):
            if x.dims != wide.dims:
                raise _NotBroadcastError
            values.append(x.value)
        elif np.ndim(x) == 0:
            counted = isinstance(x, np.ndarray | np.generic | float | int) and float(x) in (counts[0], 1 / counts[0])
            if counted and name in ("div", "mul") and counts[0] != 1:  # a mean: of as many as there are now
                x = np.asarray(counts[1] if float(x) == counts[0] else 1 / counts[1], np.asarray(x).dtype)
            values.append(jnp.broadcast_to(x, shape))
        else:
            values.append(_spread(x, wide.dims, shape))
    values = [jnp.asarray(x, _aval(v).dtype) for v, x in zip(equation.invars, values, strict=True)]
    return _Wide(execute(equation, values)[0], wide.dims)


def _aval(variable: Any) -> Any:
    return variable.aval


def _moved(equation: core.JaxprEqn, dims: tuple[int | None, ...], to: tuple[int, ...]) -> tuple[int | None, ...]:
    """Which axis of the wide value each axis of a broadcast or reshaped one is."""
    if equation.primitive.name == "broadcast_in_dim":
        found: list[int | None] = [None] * len(to)
        for old, new in enumerate(equation.params["broadcast_dimensions"]):
            found[new] = dims[old]
        return tuple(found)
    shape = _aval(equation.invars[0]).shape
    kept = [(n, d) for n, d in zip(shape, dims, strict=True) if n != 1]
    if [n for n, _ in kept] != [n for n in to if n != 1]:
        raise _NotBroadcastError
    rest = iter(d for _, d in kept)
    return tuple(None if n == 1 else next(rest) for n in to)


def _spread(x: Any, dims: tuple[int | None, ...], shape: tuple[int, ...]) -> Any:
    """An array of the shape of the right value, broadcast to that of the wide one."""
    if any(d is None and n != 1 for n, d in zip(jnp.shape(x), dims, strict=True)):
        raise _NotBroadcastError
    order = [k for k, d in enumerate(dims) if d is not None]
    if sorted(order, key=lambda k: dims[k] or 0) != order:
        raise _NotBroadcastError
    full = [1] * len(shape)
    for k in order:
        d = dims[k]
        assert d is not None
        full[d] = jnp.shape(x)[k]
    return jnp.broadcast_to(jnp.reshape(x, full), shape)


def _list(axes: tuple[int, ...]) -> str:
    return ", ".join(map(str, axes))
