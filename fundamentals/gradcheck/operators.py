"""Mistakes at one place: what else the cotangent of an operand is made to be, operation by operation.

An equation y = f(a, …) has, in the right backward pass, the cotangent c = (∂f/∂a)ᵀ g of its operand a, where g is that
of y. The wrong ones below are those that people write, and they need no knowledge of the layer that the equation
belongs to: its local derivative forgotten, squared, or taken at another value; an operand transposed or confused with
another; a mask left out or inverted; a sum over the wrong axis, or not taken at all; a scatter that overwrites.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.sweep import Edge, Sweep, is_inexact
from fundamentals.program import Program, execute, read


class Wrong(NamedTuple):
    """A wrong cotangent for an operand. `detail` and `fix` are completed with the place."""

    label: str  # the same at every point, so that it can be looked up
    cause: Cause
    cotangent: Any
    detail: str
    fix: str


class View(NamedTuple):
    """An equation, its operand in question and all values at some point."""

    program: Program
    swept: Sweep
    edge: Edge
    name: Callable[[Any], str]  # of a variable, for people
    substitutes: list[Any]  # variables that could be taken for another

    @property
    def equation(self) -> Any:
        """The equation."""
        return self.program.equations[self.edge.equation]

    @property
    def operands(self) -> list[Any]:
        """Values."""
        return self.operands_of(self.equation)

    def operands_of(self, equation: Any) -> list[Any]:
        """Those of another equation."""
        return [x if hasattr(x, "dtype") else np.asarray(x) for x in read(self.swept.values, equation.invars)]

    @property
    def g(self) -> Any:
        """The cotangent of the result."""
        variable = self.equation.outvars[0]
        found = self.swept.outputs.get(variable)
        return np.zeros(variable.aval.shape) if found is None else found

    @property
    def c(self) -> Any:
        """The right cotangent of the operand."""
        return self.swept.cotangents[self.edge]

    def others(self, variable: Any) -> Iterator[tuple[str, Any]]:
        """Other floating variables of the same shape."""
        for v in self.substitutes:
            if v is not variable and v.aval.shape == variable.aval.shape and is_inexact(v):
                yield self.name(v), self.swept.values[v]


# f′ from x and y = f(x), by primitive.
DERIVATIVES: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda x, y: y,
    "exp2": lambda x, y: y * math.log(2),
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: 1 / x,
    "log1p": lambda x, y: 1 / (1 + x),
    "tanh": lambda x, y: 1 - y**2,
    "logistic": lambda x, y: y * (1 - y),
    "sqrt": lambda x, y: 0.5 / y,
    "rsqrt": lambda x, y: -0.5 * y / x,
    "sin": lambda x, y: np.cos(x),
    "cos": lambda x, y: -np.sin(x),
    "square": lambda x, y: 2 * x,
    "abs": lambda x, y: np.sign(x),
    "erf": lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-(x**2)),
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "cos": np.cos,
    "square": np.square,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "abs": np.abs,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "exp2": np.exp2,
    "erf": np.vectorize(math.erf, otypes=[float]),
}


# Functions that are also written out, by name: what a value may be of another, whatever the equations between them.
COMPOSITE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "sigmoid": ("logistic", lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ("tanh", np.tanh),
    "square": ("square", np.square),
    "square root": ("sqrt", np.sqrt),
    "reciprocal": ("reciprocal", lambda x: 1 / x),
}
DERIVATIVES["reciprocal"] = lambda x, y: -(y**2)
_FUNCTIONS["reciprocal"] = lambda x: 1 / x


def wrong_composites(view: View, result: Any) -> list[Wrong]:
    """For the operand of an edge and a result that is a known function of it by several equations."""
    variable = view.equation.invars[view.edge.operand]
    x, y = view.swept.values[variable], view.swept.values[result]
    g = view.swept.outputs.get(result)
    if g is None or x.shape != y.shape or x.size < 2:
        return []
    found: list[Wrong] = []
    with np.errstate(all="ignore"):
        for title, (name, function) in COMPOSITE.items():
            if np.allclose(function(x), y, rtol=1e-12, atol=0):
                right = g * DERIVATIVES[name](x, y)
                wrongs = wrong_derivatives(title, DERIVATIVES[name], function, x, y, g, view.others(variable))
                found += [
                    w._replace(label=f"{title} {w.label}", cotangent=view.c + w.cotangent - right) for w in wrongs
                ]
    return [w for w in found if np.all(np.isfinite(w.cotangent))]


def wrong_cotangents(view: View) -> list[Wrong]:
    """All that are finite and differ from the right one."""
    name = view.equation.primitive.name
    found: list[Wrong] = []
    with np.errstate(all="ignore"):
        if name in DERIVATIVES or name == "integer_pow":
            found += _unary(view)
        elif name in _BY_PRIMITIVE:
            found += _BY_PRIMITIVE[name](view)
        found += _self_adjoint(view)
    right = view.c
    scale = np.max(np.abs(right), initial=0.0)
    return [
        wrong
        for wrong in found
        if np.shape(wrong.cotangent) == right.shape
        and np.all(np.isfinite(wrong.cotangent))
        and np.max(np.abs(wrong.cotangent - right), initial=0.0) > 1e-9 * scale
    ]


def _function_of(equation: Any) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """f′ from x and f(x), and f."""
    name = equation.primitive.name
    if name == "integer_pow":
        n = equation.params["y"]

        def derivative(x: Any, y: Any) -> Any:
            return n * np.asarray(x, float) ** (n - 1)

        def function(x: Any) -> Any:
            return np.asarray(x, float) ** n

        return derivative, function
    return DERIVATIVES[name], _FUNCTIONS[name]


def _unary(view: View) -> Iterator[Wrong]:
    name = view.equation.primitive.name
    y = view.swept.values[view.equation.outvars[0]]
    title = {"logistic": "sigmoid", "integer_pow": "power"}.get(name, name)
    others = view.others(view.equation.invars[0])
    return wrong_derivatives(title, *_function_of(view.equation), view.operands[0], y, view.g, others)


def wrong_derivatives(
    title: str, derivative: Any, function: Any, x: Any, y: Any, g: Any, others: Iterator[tuple[str, Any]]
) -> Iterator[Wrong]:
    """Of y = f(x), entry by entry."""
    d = derivative(x, y)
    its = f"the derivative of {title}"
    multiply, at_argument = f"multiply by {its}", f"take {its} at what goes into it"
    yield from (
        Wrong(label, cause, g * factor, its + detail, fix)
        for label, cause, factor, detail, fix in (
            ("1", Cause.MISSING_FACTOR, 1.0, " is left out: 1 in its place", multiply),
            ("y", Cause.WRONG_OPERAND, y, f" is left out: {title} itself in its place", multiply),
            ("1-y", Cause.WRONG_OPERAND, 1 - y, f" is left out: 1 less {title} in its place", multiply),
            ("d(y)", Cause.WRONG_OPERAND, derivative(y, function(y)), " is taken at its result", at_argument),
            ("d of x", Cause.WRONG_OPERAND, derivative(x, x), ", written in its result, is given its argument",
             f"put the result of {title} into the formula"),
            ("d²", Cause.EXTRA_FACTOR, d**2, " stands there twice", "once is right"),
            ("d x", Cause.EXTRA_FACTOR, d * x, " has an extra factor, its argument", "take the factor out"),
            ("d y", Cause.EXTRA_FACTOR, d * y, " has an extra factor, its result", "take the factor out"),
            ("d/x", Cause.MISSING_FACTOR, d / x, " lacks a factor, its argument", multiply),
            ("d/y", Cause.MISSING_FACTOR, d / y, " lacks a factor, its result", multiply),
            ("1/d", Cause.WRONG_OPERAND, 1 / d, " divides where it should multiply", multiply),
            ("1-d", Cause.WRONG_OPERAND, 1 - d, " is replaced by 1 less it", multiply),
        )
    )  # fmt: skip
    for name, other in others:
        wrong = g * derivative(other, function(other))
        yield Wrong(f"d({name})", Cause.WRONG_OPERAND, wrong, f"{its} is taken at {name}", at_argument)


def _mul(view: View) -> Iterator[Wrong]:
    own, other = view.edge.operand, 1 - view.edge.operand
    a, b, g = view.operands[own], view.operands[other], view.g
    mine, its = view.name(view.equation.invars[own]), view.name(view.equation.invars[other])
    fix = f"multiply by {its}"
    yield Wrong("1", Cause.MISSING_FACTOR, g + 0 * a, f"the factor {its} is missing", fix)
    yield Wrong("a", Cause.WRONG_OPERAND, g * a, f"multiplied by {mine} itself in place of {its}", fix)
    yield Wrong("b²", Cause.EXTRA_FACTOR, g * b * b, f"the factor {its} stands there twice", f"multiply by {its} once")
    yield Wrong("1/b", Cause.WRONG_OPERAND, g / b, f"divided by {its}", fix)
    yield Wrong("ab", Cause.EXTRA_FACTOR, g * a * b, f"an extra factor {mine}", fix)
    variable = view.equation.invars[other]
    if not isinstance(variable, core.Literal):
        for name, value in view.others(variable):
            yield Wrong(f"*{name}", Cause.WRONG_OPERAND, g * value, f"multiplied by {name} in place of {its}", fix)


def _div(view: View) -> Iterator[Wrong]:
    (a, b), g = view.operands, view.g
    y = view.swept.values[view.equation.outvars[0]]
    top, bottom = (view.name(v) for v in view.equation.invars)
    if view.edge.operand == 0:
        fix = f"divide by {bottom}"
        yield Wrong("1", Cause.MISSING_FACTOR, g + 0 * a, f"the division by {bottom} is missing", fix)
        yield Wrong("b", Cause.WRONG_OPERAND, g * b, f"multiplied by {bottom}", fix)
        yield Wrong("1/b²", Cause.EXTRA_FACTOR, g / b**2, f"divided by {bottom} twice", fix)
        variable = view.equation.invars[1]
        if not isinstance(variable, core.Literal):
            for name, value in view.others(variable):
                yield Wrong(f"/{name}", Cause.WRONG_OPERAND, g / value, f"divided by {name} in place of {bottom}", fix)
        return
    fix = f"the derivative of a/b for b is −a/b²: here −{top}/{bottom}²"
    yield Wrong("-a/b", Cause.MISSING_FACTOR, -g * y, f"one division by {bottom} is missing", fix)
    yield Wrong("-1/b²", Cause.MISSING_FACTOR, -g / b**2, f"the factor {top} is missing", fix)
    yield Wrong("-a", Cause.MISSING_FACTOR, -g * a, f"both divisions by {bottom} are missing", fix)
    yield Wrong("-1/b", Cause.WRONG_OPERAND, -g / b, f"−1/{bottom} in place of −{top}/{bottom}²", fix)
    yield Wrong("-a/b³", Cause.EXTRA_FACTOR, -g * y / b**2, f"divided by {bottom} once too often", fix)
    yield Wrong("-a²/b²", Cause.EXTRA_FACTOR, -g * y**2, f"the factor {top} stands there twice", fix)


def _select(view: View) -> Iterator[Wrong]:
    which, g = view.operands[0], view.g
    number = view.edge.operand - 1
    condition = view.name(view.equation.invars[0])
    fix = f"let the cotangent pass only where {condition} chooses this value"
    yield Wrong("1", Cause.MISSING_FACTOR, g, f"the mask {condition} is missing", fix)
    yield Wrong("inverted", Cause.WRONG_OPERAND, g * (which != number), f"the mask {condition} is inverted", fix)
    for v in view.substitutes:
        if v.aval.shape == which.shape and v.aval.dtype == np.bool_ and v is not view.equation.invars[0]:
            mask = np.asarray(view.swept.values[v])
            yield Wrong(
                f"mask {view.name(v)}",
                Cause.WRONG_OPERAND,
                g * (mask == bool(number)),
                f"masked by {view.name(v)} in place of {condition}",
                fix,
            )


def _max(view: View) -> Iterator[Wrong]:
    g, c = view.g, view.c
    passes = np.abs(c) > 0
    which = view.equation.primitive.name
    fix = f"let the cotangent pass only where this operand is the {which}"
    yield Wrong("1", Cause.MISSING_FACTOR, g + 0 * c, f"the mask of the {which} is missing", fix)
    yield Wrong("inverted", Cause.WRONG_OPERAND, np.where(passes, 0, g), f"the mask of the {which} is inverted", fix)
    own = view.operands[view.edge.operand]
    yield Wrong(
        "positive", Cause.WRONG_OPERAND, g * (own > 0), f"masked by a positive operand, not by the {which}", fix
    )


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

    for order in _exchanges(b.shape):
        yield Wrong(
            f"b{order}",
            Cause.TRANSPOSE,
            product(g, np.transpose(b, order)),
            f"{its} is transposed where it should not be, or not where it should",
            f"check which axis of {its} is contracted",
        )
    for order in _exchanges(g.shape):
        yield Wrong(
            f"g{order}",
            Cause.TRANSPOSE,
            product(np.transpose(g, order), b),
            f"the cotangent of the product is transposed in the gradient for {mine}",
            "transpose the other way",
        )
    for order in _exchanges(operands[own].shape):
        yield Wrong(
            f"c{order}",
            Cause.TRANSPOSE,
            np.transpose(view.c, order),
            f"the gradient for {mine} is transposed",
            "transpose it",
        )
    variable = view.equation.invars[other]
    if not isinstance(variable, core.Literal):
        for name, value in view.others(variable):
            yield Wrong(
                f"b={name}",
                Cause.WRONG_OPERAND,
                product(g, value),
                f"multiplied by {name} in place of {its}",
                f"multiply by {its}",
            )


def _gather(view: View) -> Iterator[Wrong]:
    """The last of equal indices wins, where all should be summed."""
    if view.edge.operand != 0:
        return
    x, *rest = view.operands
    places = np.arange(x.size, dtype=np.float64).reshape(x.shape)
    with jax.enable_x64(True):
        taken = np.asarray(execute(view.equation, [jnp.asarray(places), *map(jnp.asarray, rest)])[0])
    g = view.g
    usable = np.isfinite(taken) & (taken >= 0)
    wrong, first = np.zeros(x.size, g.dtype), np.zeros(x.size, g.dtype)
    index = taken[usable].astype(int)
    wrong[index] = g[usable]
    first[index[::-1]] = g[usable][::-1]
    name = view.name(view.equation.invars[0])
    detail = f"where an index is repeated, only the {{}} row counts in the gradient for {name}: set in place of add"
    for which, values in (("last", wrong), ("first", first)):
        yield Wrong(
            which, Cause.OVERWRITE, values.reshape(x.shape), detail.format(which), f"accumulate: d{name}.at[ids].add(…)"
        )


def _convolution(view: View) -> Iterator[Wrong]:
    dims = view.equation.params["dimension_numbers"]
    x, w = view.operands
    name = view.name(view.equation.invars[1])
    kernel = tuple(dims.rhs_spec[2:])
    if view.edge.operand == 1:
        flipped = np.flip(view.c, kernel)
        yield Wrong(
            "flipped", Cause.LAYOUT, flipped, f"the gradient for {name} is flipped", "correlate x with dy; do not flip"
        )
        return
    pull = _pullback(view)
    detail = f"the kernel {name} is flipped where it should not be, or not where it should"
    yield Wrong(
        "flipped", Cause.LAYOUT, pull([x, np.flip(w, kernel)]), detail, "convolve dy with the kernel turned by 180°"
    )
    for order in _exchanges(w.shape):
        wrong = pull([x, np.transpose(w, order)])
        yield Wrong(
            f"w{order}", Cause.TRANSPOSE, wrong, f"axes of {name} are exchanged", "check the layout of the kernel"
        )
    wrong = _without_stride(view, dims)
    if wrong is not None:
        yield Wrong(
            "stride",
            Cause.LAYOUT,
            wrong,
            "the stride is ignored, as if it were 1",
            "take dy at, or put it to, every stride-th place",
        )


def _without_stride(view: View, dims: Any) -> Any:
    """The cotangent of x for a stride of 1, of window_strides or of lhs_dilation, as far as it fits."""
    strides, dilation = view.equation.params["window_strides"], view.equation.params["lhs_dilation"]
    if max(*strides, *dilation, 1) == 1:
        return None
    x, w = view.operands
    spatial = dims.lhs_spec[2:]
    size = list(x.shape)
    for axis, d in zip(spatial, dilation, strict=True):
        size[axis] = (size[axis] - 1) * d + 1
    ones = (1,) * len(strides)
    params = {**view.equation.params, "window_strides": ones, "lhs_dilation": ones}
    with jax.enable_x64(True):

        def convolved(x: Any) -> Any:
            return view.equation.primitive.bind(x, jnp.asarray(w), **params)

        y, pullback = jax.vjp(convolved, jnp.zeros(size, x.dtype))
        g = np.zeros(y.shape)
        place = tuple(slice(0, n) for n in view.g.shape)
        if any(n > m for n, m in zip(view.g.shape, y.shape, strict=True)):
            return None
        g[place] = view.g
        wrong = np.asarray(pullback(jnp.asarray(g))[0])
    return wrong[tuple(slice(0, n) for n in x.shape)]


def _cumulative(view: View) -> Iterator[Wrong]:
    axis = view.equation.params["axis"]
    if view.equation.primitive.name == "cumsum":
        forward = np.cumsum(view.g, axis)
        backward = np.flip(np.cumsum(np.flip(view.g, axis), axis), axis)
        wrong = backward if view.equation.params["reverse"] else forward
        yield Wrong(
            "direction",
            Cause.LAYOUT,
            wrong,
            "the cotangent is summed in the direction of the forward pass",
            "sum from the other end",
        )


def _reshape(view: View) -> Iterator[Wrong]:
    x, g = view.operands[0], view.g
    yield Wrong(
        "order",
        Cause.LAYOUT,
        np.reshape(g, x.shape, order="F"),
        "reshaped in the wrong order",
        "undo the reshape as it was done",
    )
    for axes in _exchanges(g.shape):
        yield Wrong(
            f"g{axes}",
            Cause.LAYOUT,
            np.transpose(g, axes).reshape(x.shape),
            "axes are exchanged before the reshape is undone",
            "reshape first",
        )
    for axes in _exchanges(x.shape):
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
    for axes in [tuple(permutation), *_exchanges(g.shape)]:
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


def _self_adjoint(view: View) -> Iterator[Wrong]:
    """A linear operation applied where its transpose should be."""
    name = view.equation.primitive.name
    x, y = view.operands[view.edge.operand], view.equation.outvars[0].aval
    if (
        name not in ("triangular_solve", "conv_general_dilated", "dynamic_slice", "rev", "fft", "reduce_window_sum")
        or x.shape != y.shape
    ):
        return
    operands = view.operands
    operands[view.edge.operand] = view.g
    with jax.enable_x64(True):
        applied = np.asarray(execute(view.equation, list(map(jnp.asarray, operands)))[0])
    yield Wrong(
        "forward",
        Cause.TRANSPOSE,
        applied,
        f"{name} is applied to the cotangent as in the forward pass",
        "apply its transpose",
    )


def _pullback(view: View) -> Callable[[list[Any]], Any]:
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


def _exchanges(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
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


_BY_PRIMITIVE: dict[str, Callable[[View], Iterator[Wrong]]] = {
    "mul": _mul,
    "div": _div,
    "select_n": _select,
    "max": _max,
    "min": _max,
    "clamp": _max,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_max,
    "reduce_sum": _reduce_sum,
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot_general,
    "gather": _gather,
    "conv_general_dilated": _convolution,
    "cumsum": _cumulative,
    "reshape": _reshape,
    "transpose": _transpose,
}
