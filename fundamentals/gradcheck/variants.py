"""Slightly different functions: the gradient given may be right for one of them.

eps outside of the root that it stands in, or left out; the other approximation of GELU's Φ. Each is the program of the
function with a few equations computed in another way, differentiated by autodiff.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import compiled, precisely, restrict
from fundamentals.gradcheck.naming import short
from fundamentals.gradcheck.sweep import Sweep, is_inexact
from fundamentals.program import Program, evaluate, execute, read


class Variant(NamedTuple):
    """Another function of the same arguments."""

    detail: str
    fix: str
    gradient: Callable[[list[Any], list[Any], tuple[int, ...]], list[Any]]


def of(program: Program, swept: Sweep | None, name: Callable[[Any], str]) -> Iterator[Variant]:
    """The variants of a program, found by its equations and their values at some point."""
    jaxpr = program.jaxpr.jaxpr
    made_by = {v: (i, e) for i, e in enumerate(jaxpr.eqns) for v in e.outvars}
    for i, equation in enumerate(jaxpr.eqns):
        kind = equation.primitive.name
        if kind == "stop_gradient":
            at = f" ({short(equation)})" if short(equation) else ""
            yield Variant(
                f"the gradient is that of the function without its stop_gradient{at}",
                "nothing flows back through stop_gradient",
                _derivative(program, {i: lambda x: x}),
            )
        if kind in ("sqrt", "rsqrt"):
            added = made_by.get(equation.invars[0])
            eps = _small(added[1]) if added else None
            if added is not None and eps is not None:
                k = added[0]

                def outside(x: Any, eps: float = eps, kind: str = kind) -> Any:
                    root = jnp.sqrt(x - eps) + eps
                    return root if kind == "sqrt" else 1 / root

                yield Variant(
                    f"the gradient is that of a function with eps = {eps:.3g} outside of the root, "
                    f"{name(equation.outvars[0])}; here it is inside",
                    "√(v + eps), not √v + eps",
                    _derivative(program, {i: outside}),
                )
                yield Variant(
                    f"the gradient is that of a function without eps = {eps:.3g} ({name(equation.outvars[0])})",
                    "keep eps in the backward pass too",
                    _derivative(program, {k: lambda a, b, eps=eps: a + b - eps}),
                )
            else:
                yield from _inside(program, jaxpr, i, equation, name)
        if kind in ("tanh", "erf", "logistic", "erfc") and swept is not None:
            yield from _gelu(program, swept, i, equation, name)


def _inside(program: Program, jaxpr: Any, i: int, equation: Any, name: Any) -> Iterator[Variant]:
    """eps added to a root: the variant adds it under the root."""
    for k, use in enumerate(jaxpr.eqns):
        eps = _small(use)
        if equation.outvars[0] in use.invars and eps is not None and equation.primitive.name == "sqrt":
            yield Variant(
                f"the gradient is that of a function with eps = {eps:.3g} inside of the root, "
                f"{name(equation.outvars[0])}; here it is outside",
                "√v + eps, not √(v + eps)",
                _derivative(program, {i: lambda x, eps=eps: jnp.sqrt(x + eps), k: lambda a, b, eps=eps: a + b - eps}),
            )


def _small(equation: Any) -> float | None:
    """The literal of an addition of something small."""
    if equation.primitive.name != "add":
        return None
    for v in equation.invars:
        if isinstance(v, core.Literal) and np.ndim(v.val) == 0 and 0 < abs(float(v.val)) <= 0.3:
            return float(v.val)
    return None


def _gelu(program: Program, swept: Sweep, i: int, equation: Any, name: Any) -> Iterator[Variant]:
    """Φ(u) by erf, by tanh and by the sigmoid of 1.702 u."""
    y = swept.values[equation.outvars[0]]
    kind = equation.primitive.name
    for v, u in swept.values.items():
        if not is_inexact(v) or np.shape(u) != np.shape(y) or not np.size(u):
            continue
        with precisely():
            forms = {
                "tanh": lambda u: jnp.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)),
                "erf": lambda u: jax.scipy.special.erf(u / math.sqrt(2)),
                "logistic": lambda u: 2 * jax.nn.sigmoid(1.702 * u) - 1,
            }
            own = 1 - y if kind == "erfc" else 2 * y - 1 if kind == "logistic" else y
            for mirrored in (1, -1):
                if kind != "erfc" and mirrored < 0:
                    continue
                same = "erf" if kind == "erfc" else kind
                if not np.allclose(np.asarray(forms[same](mirrored * jnp.asarray(u))), own, rtol=0, atol=1e-6):
                    continue
                for other, form in forms.items():
                    if other == same:
                        continue

                    def replaced(operands: Any, known: Any, form: Any = form, v: Any = v, sign: int = mirrored) -> Any:
                        value = form(sign * known[v])
                        return 1 - value if kind == "erfc" else (1 + value) / 2 if kind == "logistic" else value

                    yield Variant(
                        f"the gradient is that of the approximation of GELU by {_TITLES[other]}; the function uses "
                        f"{_TITLES[same]}",
                        f"differentiate the form by {_TITLES[same]}",
                        _derivative(program, {}, {i: replaced}),
                    )
                return


_TITLES = {"tanh": "tanh", "erf": "erf", "logistic": "the sigmoid of 1.702 x"}


def _derivative(program: Program, by_operands: dict[int, Any], by_values: dict[int, Any] | None = None) -> Any:
    """Autodiff of the program with some equations computed otherwise."""
    jaxpr = program.jaxpr.jaxpr
    cache: dict[str, Any] = {}

    def function(leaves: list[Any]) -> list[Any]:
        known: dict[Any, Any] = {}

        def apply(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
            known.update(
                {v: x for v, x in zip(equation.invars, operands, strict=True) if not isinstance(v, core.Literal)}
            )
            if i in by_operands:
                return [by_operands[i](*operands)]
            if by_values and i in by_values:
                return [by_values[i](operands, known)]
            return execute(equation, operands)

        return read(evaluate(jaxpr, program.jaxpr.consts, leaves, apply), jaxpr.outvars)

    def gradient(leaves: list[Any], dy: list[Any], which: tuple[int, ...]) -> list[Any]:
        def of(leaves: list[Any], dy: list[Any]) -> Any:
            chosen = restrict(lambda *full: function(list(full)), leaves, which)
            return jax.vjp(chosen, *(leaves[i] for i in which))[1](list(map(jnp.asarray, dy)))

        with precisely():
            run = cache.setdefault("run", compiled(of, leaves))
            return [np.asarray(g) for g in run(leaves, dy)]

    return gradient
