"""Mistakes at one place: what else the cotangent of an operand is made to be, operation by operation.

An equation y = f(a, …) has, in the right backward pass, the cotangent c = (∂f/∂a)ᵀ g of its operand a, where g is that
of y. The wrong ones below are those that people write, and they need no knowledge of the layer that the equation
belongs to: its local derivative forgotten, squared, or taken at another value; an operand transposed or confused with
another; a mask left out or inverted; a sum over the wrong axis, or not taken at all; a scatter that overwrites.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.structural import STRUCTURAL
from fundamentals.gradcheck.sweep import is_inexact
from fundamentals.gradcheck.transforms import TRANSFORMS, self_adjoint
from fundamentals.gradcheck.view import View, Wrong


def _special(function: Callable[[Any], Any], x: Any) -> Any:
    with jax.enable_x64(True):
        return np.asarray(function(jnp.asarray(x)))


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
    "erfc": lambda x, y: -2 / math.sqrt(math.pi) * np.exp(-(x**2)),
    "tan": lambda x, y: 1 + y**2,
    "sinh": lambda x, y: np.cosh(x),
    "cosh": lambda x, y: np.sinh(x),
    "asin": lambda x, y: 1 / np.sqrt(1 - x**2),
    "acos": lambda x, y: -1 / np.sqrt(1 - x**2),
    "atan": lambda x, y: 1 / (1 + x**2),
    "asinh": lambda x, y: 1 / np.sqrt(x**2 + 1),
    "acosh": lambda x, y: 1 / np.sqrt(x**2 - 1),
    "atanh": lambda x, y: 1 / (1 - x**2),
    "cbrt": lambda x, y: y / (3 * x),
    "lgamma": lambda x, y: _special(jax.scipy.special.digamma, x),
    "digamma": lambda x, y: _special(partial(jax.scipy.special.polygamma, 1), x),
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
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    **{"tan": np.tan, "sinh": np.sinh, "cosh": np.cosh, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan},
    **{"asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "cbrt": np.cbrt},
    "lgamma": lambda x: _special(jax.scipy.special.gammaln, x),
    "digamma": lambda x: _special(jax.scipy.special.digamma, x),
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


def _logsumexp(view: View, x: Any, y: Any, g: Any) -> Iterator[Wrong]:
    """y = log Σ exp(x) along an axis, whose derivative is softmax(x), or with other weights in its place."""
    for axis in range(x.ndim):
        exponentials = np.exp(x)
        total = exponentials.sum(axis, keepdims=True)
        if total.size != y.size or not np.allclose(np.log(total), y.reshape(total.shape), rtol=1e-12, atol=1e-12):
            continue
        g = g.reshape(total.shape)
        right = g * exponentials / total
        fix = "weigh by softmax"
        yield Wrong(
            "1", Cause.MISSING_FACTOR, view.c + g - right, "the weights of log-sum-exp, a softmax, are missing", fix
        )
        yield Wrong(
            "exp",
            Cause.MISSING_FACTOR,
            view.c + g * exponentials - right,
            "exp(x) stands for softmax(x): the division by the sum is missing",
            fix,
        )
        for v in view.substitutes:
            value = view.swept.values[v]
            if is_inexact(v) and _spreads(np.shape(value), x.shape):
                value = np.broadcast_to(value, x.shape)
                for name, weights in (
                    (view.name(v), value),
                    (f"exp({view.name(v)})", np.exp(value)),
                    (f"softmax({view.name(v)})", np.exp(value) / np.exp(value).sum(axis, keepdims=True)),
                ):
                    detail = f"weighed by {name} in place of the softmax of log-sum-exp"
                    yield Wrong(name, Cause.WRONG_OPERAND, view.c + g * weights - right, detail, fix, 1)


def _spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array can be broadcast; not numbers alone."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return 0 < len(shape) <= len(to) and math.prod(shape) > 1 and all(n in (1, m) for n, m in pairs)


def wrong_composites(view: View, result: Any) -> list[Wrong]:
    """For the operand of an edge and a result that is a known function of it by several equations."""
    variable = view.equation.invars[view.edge.operand]
    x, y = view.swept.values[variable], view.swept.values[result]
    g = view.swept.outputs.get(result)
    if g is None or x.size < 2:
        return []
    found: list[Wrong] = []
    if x.shape != y.shape:
        with np.errstate(all="ignore"):
            found = list(_logsumexp(view, x, y, g)) if x.ndim <= 3 and np.ndim(y) and x.size > np.size(y) else []
        return [w for w in found if np.all(np.isfinite(w.cotangent))]
    with np.errstate(all="ignore"):
        for title, (name, function) in COMPOSITE.items():
            first = function(x.flat[0])
            if abs(first - y.flat[0]) <= 1e-11 * abs(first) and np.allclose(function(x), y, rtol=1e-12, atol=0):
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
        found += self_adjoint(view)
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
            return n * np.asarray(x, np.result_type(x, float)) ** (n - 1)

        def function(x: Any) -> Any:
            return np.asarray(x, np.result_type(x, float)) ** n

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
    whole = Cause.MISSING_FACTOR if title == "sigmoid" else Cause.WRONG_OPERAND  # y (1 - y) without one of the two
    multiply, at_argument = f"multiply by {its}", f"take {its} at what goes into it"
    yield from (
        Wrong(label, cause, g * factor, its + detail, fix)
        for label, cause, factor, detail, fix in (
            ("1", Cause.MISSING_FACTOR, 1.0, " is left out: 1 in its place", multiply),
            ("y", whole, y, f" is left out: {title} itself in its place", multiply),
            ("1-y", whole, 1 - y, f" is left out: 1 less {title} in its place", multiply),
            ("d(y)", Cause.WRONG_OPERAND, derivative(y, function(y)), " is taken at its result", at_argument),
            ("d of x", Cause.WRONG_OPERAND, derivative(x, x), ", written in its result, is given its argument",
             f"put the result of {title} into the formula"),
            ("d²", Cause.EXTRA_FACTOR, d**2, " stands there twice", "once is right"),
            ("d x", Cause.EXTRA_FACTOR, d * x, " has an extra factor, its argument", "take the factor out"),
            ("d y", Cause.EXTRA_FACTOR, d * y, " has an extra factor, its result", "take the factor out"),
            ("d/x", Cause.MISSING_FACTOR, d / x, " lacks a factor, its argument", multiply),
            ("d/y", Cause.MISSING_FACTOR, d / y, " lacks a factor, its result", multiply),
            ("y(1-y)", Cause.WRONG_OPERAND, y * (1 - y), " is replaced by y (1 - y), that of a sigmoid", multiply),
            ("1-y²", Cause.WRONG_OPERAND, 1 - y**2, " is replaced by 1 - y², that of tanh", multiply),
            ("(1-y)²", Cause.WRONG_OPERAND, (1 - y) ** 2, " is replaced by (1 - y)²", multiply),
            ("1/d", Cause.WRONG_OPERAND, 1 / d, " divides where it should multiply", multiply),
            ("1-d", Cause.WRONG_OPERAND, 1 - d, " is replaced by 1 less it", multiply),
        )
    )  # fmt: skip
    for name, other in others:
        wrong = g * derivative(other, function(other))
        yield Wrong(f"d({name})", Cause.WRONG_OPERAND, wrong, f"{its} is taken at {name}", at_argument, 2)


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
        for name, value, cause, detail, better in view.replaced(variable, "multiplied by"):
            yield Wrong(f"*{name}", cause, g * value, detail, better, 1)


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
            for name, value, cause, detail, better in view.replaced(variable, "divided by"):
                yield Wrong(f"/{name}", cause, g / value, detail, better, 1)
        return
    fix = f"the derivative of a/b for b is −a/b²: here −{top}/{bottom}²"
    yield Wrong("-a/b", Cause.MISSING_FACTOR, -g * y, f"one division by {bottom} is missing", fix)
    yield Wrong("-1/b²", Cause.MISSING_FACTOR, -g / b**2, f"the factor {top} is missing", fix)
    yield Wrong("-a", Cause.MISSING_FACTOR, -g * a, f"both divisions by {bottom} are missing", fix)
    yield Wrong("-1/b", Cause.WRONG_OPERAND, -g / b, f"−1/{bottom} in place of −{top}/{bottom}²", fix)
    yield Wrong("-a/b³", Cause.EXTRA_FACTOR, -g * y / b**2, f"divided by {bottom} once too often", fix)
    yield Wrong("-a²/b²", Cause.EXTRA_FACTOR, -g * y**2, f"the factor {top} stands there twice", fix)
    variable = view.equation.invars[0]
    if not isinstance(variable, core.Literal):
        for name, value, cause, detail, better in view.replaced(variable, "−a/b² with"):
            yield Wrong(f"a={name}", cause, -g * value / b**2, detail, better, 1)


def _pow(view: View) -> Iterator[Wrong]:
    (a, b), g = view.operands, view.g
    y = view.swept.values[view.equation.outvars[0]]
    base, exponent = (view.name(v) for v in view.equation.invars)
    if view.edge.operand == 0:
        fix = f"{exponent} · {base}^({exponent} − 1)"
        for label, cause, factor, detail in (
            ("a^(b-1)", Cause.MISSING_FACTOR, y / a, f"the exponent {exponent} does not come down as a factor"),
            ("b a^b", Cause.EXTRA_FACTOR, b * y, f"the exponent {exponent} is not reduced by 1"),
            ("y", Cause.MISSING_FACTOR, y, "the power itself stands for its derivative"),
            ("b", Cause.MISSING_FACTOR, b, "only the exponent is left of the derivative"),
            ("(b-1)", Cause.WRONG_OPERAND, (b - 1) * y / a, f"{exponent} − 1 stands for {exponent} as a factor"),
            ("1", Cause.MISSING_FACTOR, 1.0, "the derivative of the power is left out: 1 in its place"),
        ):
            yield Wrong(label, cause, g * factor + 0 * a, detail, fix)
        return
    fix = f"{base}^{exponent} · log {base}"
    for label, cause, factor, detail in (
        ("y", Cause.MISSING_FACTOR, y, f"the factor log {base} is missing"),
        ("log a", Cause.MISSING_FACTOR, np.log(a), "the power itself is missing as a factor"),
        ("b a^(b-1)", Cause.WRONG_OPERAND, b * y / a, "the derivative for the base stands for that for the exponent"),
        ("1", Cause.MISSING_FACTOR, 1.0, "the derivative of the power is left out: 1 in its place"),
    ):
        yield Wrong(label, cause, g * factor + 0 * b, detail, fix)


def _select(view: View) -> Iterator[Wrong]:
    which, g = view.operands[0], view.g
    number = view.edge.operand - 1
    condition = view.name(view.equation.invars[0])
    fix = f"let the cotangent pass only where {condition} chooses this value"
    yield Wrong("1", Cause.MISSING_FACTOR, g, f"the mask {condition} is missing", fix)
    yield Wrong("inverted", Cause.WRONG_OPERAND, g * (which != number), f"the mask {condition} is inverted", fix)
    for v in view.substitutes:
        if v.aval.shape == which.shape and v.aval.dtype == np.bool_ and v is not view.equation.invars[0]:
            wrong = g * (np.asarray(view.swept.values[v]) == bool(number))
            detail = f"masked by {view.name(v)} in place of {condition}"
            yield Wrong(f"mask {view.name(v)}", Cause.WRONG_OPERAND, wrong, detail, fix, 1)


def _max(view: View) -> Iterator[Wrong]:
    g, c = view.g, view.c
    which, passes = view.equation.primitive.name, np.abs(c) > 0
    positive = view.operands[view.edge.operand] > 0
    fix = f"let the cotangent pass only where this operand is the {which}"
    yield Wrong("1", Cause.MISSING_FACTOR, g + 0 * c, f"the mask of the {which} is missing", fix)
    yield Wrong("inverted", Cause.WRONG_OPERAND, np.where(passes, 0, g), f"the mask of the {which} is inverted", fix)
    yield Wrong("positive", Cause.WRONG_OPERAND, g * positive, f"masked by a positive operand, not by the {which}", fix)


_BY_PRIMITIVE: dict[str, Callable[[View], Iterator[Wrong]]] = (
    STRUCTURAL
    | TRANSFORMS
    | {
        "mul": _mul,
        "pow": _pow,
        "div": _div,
        "select_n": _select,
        "max": _max,
        "min": _max,
        "clamp": _max,
    }
)
