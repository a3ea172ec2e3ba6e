"""Mistakes at one place, of operations that move, sum and contract: see `operators`."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.view import View, Wrong
from fundamentals.program import execute


def _reduce_max(view: View) -> Iterator[Wrong]:
    (x,), g = view.operands, view.g
    axes = tuple(view.equation.params["axes"])
    y = view.swept.values[view.equation.outvars[0]]
    is_it = x == np.expand_dims(y, axes)
    yield Wrong(
        "ties",
        Cause.SUPPORT,
        is_it * np.expand_dims(g, axes),
        "at ties the cotangent goes to all that are equal, whole, and so more of it comes out than went in",
        "give it to one of them, or an equal part to each",
    )
    yield Wrong(
        "all",
        Cause.MISSING_FACTOR,
        np.broadcast_to(np.expand_dims(g, axes), x.shape),
        "the cotangent goes to all, not only to the largest",
        "let it pass only where x is the largest",
    )


def _reduce_sum(view: View) -> Iterator[Wrong]:
    (x,), g = view.operands, view.g
    axes = tuple(view.equation.params["axes"])
    if x.ndim > 5:
        return
    for other in itertools.combinations(range(x.ndim), len(axes)):
        kept = [n for k, n in enumerate(x.shape) if k not in other]
        if other != axes and tuple(kept) == g.shape:
            wrong = np.broadcast_to(np.expand_dims(g, other), x.shape)
            yield Wrong(
                f"axes {other}",
                Cause.WRONG_AXIS,
                wrong,
                f"the cotangent of the sum over axis {_list(axes)} is spread over axis {_list(other)}",
                f"spread it over axis {_list(axes)}",
            )
    for place in (0, -1):
        index = tuple(place if k in axes else slice(None) for k in range(x.ndim))
        alone = np.zeros(x.shape)
        alone[index] = g
        detail = f"only the {_ordinal(place)} term of the sum gets the cotangent"
        yield Wrong(f"only {place}", Cause.UNREDUCED, alone, detail, "all terms get it")
    own = _own_share(view)
    if own is not None:
        detail = f"each entry gets only what its own result gives back, not the sum over axis {_list(axes)}"
        yield Wrong(
            "own", Cause.UNREDUCED, own, detail, f"sum over axis {_list(axes)}: every result depends on every entry"
        )


def _own_share(view: View) -> Any:
    """Where a sum is broadcast back to the shape that it is taken of, as in a softmax or a mean: what each entry gives
    back, times the numbers that the sum is multiplied by on the way.
    """
    variable, factor = view.equation.outvars[0], 1.0
    shape = view.equation.invars[0].aval.shape
    for equation in view.program.equations[view.edge.equation + 1 :]:
        if not any(v is variable for v in equation.invars):
            continue
        name = equation.primitive.name
        others = [v for v in equation.invars if v is not variable]
        if (
            name in ("mul", "div")
            and all(isinstance(v, core.Literal) for v in others)
            and equation.invars[0] is variable
        ):
            number = float(others[0].val)
            factor *= number if name == "mul" else 1 / number
        elif name not in ("broadcast_in_dim", "reshape", "squeeze", "neg"):
            return None
        factor *= -1 if name == "neg" else 1
        if not equation.outvars:  # a callback
            return None
        variable = equation.outvars[0]
        if variable.aval.shape == shape:
            return factor * view.swept.outputs[variable] if variable in view.swept.outputs else None
    return None


def _broadcast(view: View) -> Iterator[Wrong]:
    g = view.g
    shape = view.equation.outvars[0].aval.shape
    dims = tuple(view.equation.params["broadcast_dimensions"])
    x = view.operands[0]
    kept = [d for d, n in zip(dims, x.shape, strict=True) if n == shape[d]]
    summed = [d for d in range(len(shape)) if d not in kept]
    if not summed or math.prod(shape[d] for d in summed) == 1:
        return
    sizes = [shape[d] for d in kept]
    what = _list(summed)
    fix = f"sum over axis {what}, along which the forward pass broadcasts"
    for place in (0, -1):
        picked = g[tuple(place if d in summed else slice(None) for d in range(g.ndim))]
        yield Wrong(
            f"only {place}",
            Cause.UNREDUCED,
            picked.reshape(x.shape),
            f"not summed over axis {what}: only the {_ordinal(place)} is taken",
            fix,
        )
    if g.ndim <= 5:
        for other in itertools.permutations(range(g.ndim), len(kept)):
            if list(other) != kept and [shape[d] for d in other] == sizes:
                rest = tuple(d for d in range(g.ndim) if d not in other)
                wrong = np.transpose(g.sum(rest, keepdims=True), [*other, *rest]).reshape(x.shape)
                yield Wrong(
                    f"keep {other}", Cause.WRONG_AXIS, wrong, f"summed over axis {_list(rest)} in place of {what}", fix
                )


def _dot_general(view: View) -> Iterator[Wrong]:
    own, other = view.edge.operand, 1 - view.edge.operand
    operands, g = view.operands, view.g
    (contract, batch) = view.equation.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    spec: list[list[str]] = [[""] * operands[0].ndim, [""] * operands[1].ndim]
    for pairs in (batch, contract):
        for i, j in zip(*pairs, strict=True):
            spec[0][i] = spec[1][j] = next(letters)
    for axes in spec:
        for k, letter in enumerate(axes):
            axes[k] = letter or next(letters)
    result = [spec[0][i] for i in batch[0]]
    result += [spec[0][k] for k in range(len(spec[0])) if k not in (*batch[0], *contract[0])]
    result += [spec[1][k] for k in range(len(spec[1])) if k not in (*batch[1], *contract[1])]
    b = operands[other]
    its = view.name(view.equation.invars[other])
    mine = view.name(view.equation.invars[own])

    def product(g: Any, b: Any) -> Any:
        return np.einsum(f"{''.join(result)},{''.join(spec[other])}->{''.join(spec[own])}", g, b)

    for order in exchanges(b.shape):
        yield Wrong(
            f"b{order}",
            Cause.TRANSPOSE,
            product(g, np.transpose(b, order)),
            f"{its} is transposed where it should not be, or not where it should",
            f"check which axis of {its} is contracted",
        )
    for order in exchanges(g.shape):
        yield Wrong(
            f"g{order}",
            Cause.TRANSPOSE,
            product(np.transpose(g, order), b),
            f"the cotangent of the product is transposed in the gradient for {mine}",
            "transpose the other way",
        )
    for order in exchanges(operands[own].shape):
        yield Wrong(
            f"c{order}",
            Cause.TRANSPOSE,
            np.transpose(view.c, order),
            f"the gradient for {mine} is transposed",
            "transpose it",
        )
    variable = view.equation.invars[other]
    if not isinstance(variable, core.Literal):
        for name, value, cause, detail, better in view.replaced(variable, "multiplied by"):
            yield Wrong(f"b={name}", cause, product(g, value), detail, better, 1)


def _gather(view: View) -> Iterator[Wrong]:
    """The last of equal indices wins, where all should be summed."""
    if view.edge.operand != 0:
        return
    shape = view.operands[0].shape
    places, g = gathered_places(view)
    name = view.name(view.equation.invars[0])
    detail = f"where an index is repeated, only the {{}} row counts in the gradient for {name}: set in place of add"
    for which, order in (("last", slice(None)), ("first", slice(None, None, -1))):
        written = np.zeros(math.prod(shape), g.dtype)
        written[places[order]] = g[order]
        fix = f"accumulate: d{name}.at[ids].add(…)"
        yield Wrong(which, Cause.OVERWRITE, written.reshape(shape), detail.format(which), fix)


def gathered_places(view: View) -> tuple[Any, Any]:
    """Which entries of its operand, counted through, a gather takes, and the cotangents of what it took."""
    x, *rest = view.operands
    numbers = np.arange(x.size, dtype=np.float64).reshape(x.shape)
    with jax.enable_x64(True):
        taken = np.asarray(execute(view.equation, [jnp.asarray(numbers), *map(jnp.asarray, rest)])[0])
    usable = np.isfinite(taken) & (taken >= 0)
    return taken[usable].astype(int), view.g[usable]


def _reshape(view: View) -> Iterator[Wrong]:
    x, g = view.operands[0], view.g
    yield Wrong(
        "order",
        Cause.LAYOUT,
        np.reshape(g, x.shape, order="F"),
        "reshaped in the wrong order",
        "undo the reshape as it was done",
    )
    for axes in exchanges(g.shape):
        yield Wrong(
            f"g{axes}",
            Cause.LAYOUT,
            np.transpose(g, axes).reshape(x.shape),
            "axes are exchanged before the reshape is undone",
            "reshape first",
        )
    for axes in exchanges(x.shape):
        yield Wrong(
            f"x{axes}",
            Cause.LAYOUT,
            np.transpose(view.c, axes),
            "axes are exchanged after the reshape is undone",
            "do not exchange them",
        )


def _transpose(view: View) -> Iterator[Wrong]:
    permutation = view.equation.params["permutation"]
    x, g = view.operands[0], view.g
    for axes in [tuple(permutation), *exchanges(g.shape)]:
        if tuple(g.shape[k] for k in axes) == x.shape:
            yield Wrong(
                f"{axes}",
                Cause.TRANSPOSE,
                np.transpose(g, axes),
                "the transpose is not undone, or undone wrongly",
                "transpose by the inverse permutation",
            )
    if g.shape == x.shape:
        yield Wrong("none", Cause.TRANSPOSE, g, "the transpose is not undone", "transpose by the inverse permutation")


def pullback(view: View) -> Callable[[list[Any]], Any]:
    """operands → the cotangent that the operand in question has with them."""
    number = view.edge.operand

    @jax.jit
    def pull(operands: list[Any], g: Any) -> Any:
        def of_one(x: Any) -> Any:
            return execute(view.equation, [*operands[:number], x, *operands[number + 1 :]])[0]

        return jax.vjp(of_one, operands[number])[1](g)[0]

    def call(operands: list[Any]) -> Any:
        with jax.enable_x64(True):
            return np.asarray(pull(list(map(jnp.asarray, operands)), jnp.asarray(view.g)))

    return call


def exchanges(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Permutations of axes, other than none, that leave a shape as it is."""
    if len(shape) > 5:
        return []
    axes = range(len(shape))
    return [
        p
        for p in itertools.permutations(axes)
        if p != tuple(axes)
        and all(shape[p[k]] == shape[k] for k in axes)
        and all(p[k] == k or shape[k] > 1 for k in axes)
    ]


def _list(axes: Any) -> str:
    return ", ".join(map(str, axes)) or "none"


def _ordinal(place: int) -> str:
    return "first" if place == 0 else "last"


STRUCTURAL: dict[str, Callable[[View], Iterator[Wrong]]] = {
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_max,
    "reduce_sum": _reduce_sum,
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot_general,
    "gather": _gather,
    "reshape": _reshape,
    "transpose": _transpose,
}
