"""Kinks, told from mistakes by the structure of the program.

A function has a kink where one of its comparisons is about to change: in the sign of a relu's argument, the winner of a
max, the order of a sort. `compile_side` returns which way every one of them goes. Two points with the same answers lie
on one smooth piece of the function; a point has a kink if steps of a billionth change answers and, with them, the
gradient.

The gradient at a kink is a convention. One that lies, in every direction, between the derivatives from both sides is
possible; another is a mistake.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import precisely
from fundamentals.gradcheck.probes import nudge
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import is_inexact
from fundamentals.program import Program, evaluate, execute, line

NUDGE = 1e-9
JUMP = 1e-5  # of the gradient, relative to its scale
_STEPS = {"floor", "ceil", "round", "sign"}
# Piecewise linear: which operand is taken is where a cotangent goes.
_CHOICES = {
    "max",
    "min",
    "abs",
    "clamp",
    "reduce_max",
    "reduce_min",
    "reduce_window_max",
    "reduce_window_min",
    "cummax",
    "cummin",
    "sort",
    "top_k",
    "reduce_window",
}


class Kink(NamedTuple):
    """What is known of the gradient around a point on a kink."""

    lines: tuple[str, ...]  # of the comparisons
    limits: list[list[Any]]  # gradients at points around it
    lowest: list[Any]  # of the limits, entry by entry
    highest: list[Any]


class Side(NamedTuple):
    """Which way each comparison of a program goes."""

    equations: list[Any]
    compute: Callable[[list[Any]], list[Any]]  # leaves → an array for each equation


def compile_side(program: Program) -> Side:
    """Compiled once for a program. What happens inside of loops is not seen."""
    jaxpr = program.jaxpr.jaxpr
    found: list[int] = []
    for i, equation in enumerate(jaxpr.eqns):
        real = [v for v in equation.invars if is_inexact(v) and not jnp.issubdtype(v.aval.dtype, jnp.complexfloating)]
        discrete = [v for v in equation.outvars if not is_inexact(v) and not _is_key(v)]
        if real and (discrete or equation.primitive.name in _STEPS | _CHOICES):
            found.append(i)

    @jax.jit
    def compute(leaves: list[Any]) -> list[Any]:
        sides: dict[int, Any] = {}

        def apply(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
            results = execute(equation, operands)
            if i in found:
                discrete = [y for y in results if not jnp.issubdtype(y.dtype, jnp.inexact)]
                if discrete:
                    sides[i] = discrete
                elif equation.primitive.name in _STEPS:
                    sides[i] = results
                else:
                    sides[i] = _choice(equation, operands, results)
            return results

        evaluate(jaxpr, program.jaxpr.consts, leaves, apply)
        return [sides[i] for i in found]

    def call(leaves: list[Any]) -> list[Any]:
        with precisely():
            return [np.asarray(x) for xs in compute(leaves) for x in xs]

    spread = []  # one entry for each array
    for i in found:
        equation = jaxpr.eqns[i]
        discrete = [v for v in equation.outvars if not is_inexact(v)]
        count = len(discrete) or (
            1 if equation.primitive.name in _STEPS else sum(1 for v in equation.invars if is_inexact(v))
        )
        spread += [equation] * count
    return Side(spread, call)


def find_kink(
    problem: Problem, side: Side | None, leaves: list[Any], dy: list[Any], t: list[Any], seed: int
) -> Kink | None:
    """The kink at a point, if there is one: what gradients there are within a billionth."""
    if side is None or not side.equations or problem.truth is None:
        return None
    random = np.random.RandomState(seed)
    home = side.compute(leaves)
    limits: list[list[Any]] = []
    crossed: dict[str, None] = {}
    jumped = False
    scales = [scale_of(g) for g in t]
    step: dict[int, Any] = {}
    for trial in range(6):
        if trial % 2 == 0:
            step = {i: nudge(leaves[i], random, NUDGE) - leaves[i] for i in problem.which}
        else:  # the opposite one
            step = {i: -s for i, s in step.items()}
        moved = [x + step[i] if i in step else x for i, x in enumerate(leaves)]
        away = side.compute(moved)
        changed = [e for e, a, b in zip(side.equations, home, away, strict=True) if not np.array_equal(a, b)]
        if trial == 1 and not changed and not crossed:
            return None
        limit = problem.truth(moved, dy)
        if not all(np.all(np.isfinite(g)) for g in limit):
            continue
        limits.append(limit)
        crossed |= dict.fromkeys(_short(e) for e in changed)
        jumped |= bool(changed) and any(
            np.max(np.abs(a - b), initial=0) > JUMP * s for a, b, s in zip(limit, t, scales, strict=True) if s
        )
        jumped |= bool(changed) and any(not s and np.any(a) for a, s in zip(limit, scales, strict=True))
    if not jumped or not limits:
        return None
    columns = [np.stack(c) for c in zip(*limits, strict=True)]
    return Kink(tuple(crossed), limits, [_least(c) for c in columns], [_most(c) for c in columns])


def is_possible(
    problem: Problem, kink: Kink, leaves: list[Any], dy: list[Any], t: list[Any], m: list[Any], leaf: int
) -> str:
    """Whether a gradient that differs from autodiff's at a kink is a convention; if not, the direction that shows it.

    In every direction u tried, ⟨m, u⟩ must lie between the derivatives from both sides. The directions are the entries
    that differ, one by one, and all of them together, which tells max ties that are counted twice.
    """
    assert problem.truth is not None
    number = problem.which[leaf]
    x = leaves[number]
    scale = max(scale_of(t[leaf]), scale_of(m[leaf]))
    differ = np.argwhere(np.abs(m[leaf] - t[leaf]) > 1e-9 * scale)
    size = NUDGE * (np.sqrt(np.mean(np.abs(x) ** 2)) or 1.0)
    together = np.zeros(x.shape)
    together[tuple(differ.T)] = 1
    spread = kink.highest[leaf] - kink.lowest[leaf]
    involved = 1.0 * (spread > JUMP * scale)
    directions = [("all entries at the kink together", involved), ("all entries that differ together", together)]
    for index in differ[:32]:
        alone = np.zeros(x.shape)
        alone[tuple(index)] = 1
        directions.append((str(tuple(map(int, index))), alone))
    for name, u in directions:
        ends = []
        for sign in (1, -1):
            moved = list(leaves)
            moved[number] = (x + sign * size * u).astype(x.dtype)
            ends.append(float(np.sum(np.real(problem.truth(moved, dy)[leaf] * u))))
        given = float(np.sum(np.real(m[leaf] * u)))
        slack = JUMP * max(scale, *map(abs, ends))
        if not min(ends) - slack <= given <= max(ends) + slack:
            return f"along {name}, dy·∂y is {given:.6g}; from the two sides it is {ends[1]:.6g} and {ends[0]:.6g}"
    return ""


def scale_of(x: Any) -> float:
    """The largest finite entry."""
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def _choice(equation: core.JaxprEqn, operands: list[Any], results: Sequence[Any]) -> list[Any]:
    places = [k for k, v in enumerate(equation.invars) if is_inexact(v)]

    def of_chosen(*chosen: Any) -> list[Any]:
        full = list(operands)
        for k, x in zip(places, chosen, strict=True):
            full[k] = x
        return execute(equation, full)

    _, pullback = jax.vjp(of_chosen, *(jnp.asarray(operands[k]) for k in places))
    marks = [1 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) for y in results]
    return list(pullback(marks))


def _short(equation: core.JaxprEqn) -> str:
    place = line(equation).rpartition("/")[2].partition(" (")[0]
    return f"{equation.primitive.name} at {place}" if place else str(equation.primitive.name)


def _least(limits: Any) -> Any:
    return np.min(np.real(limits), axis=0)


def _most(limits: Any) -> Any:
    return np.max(np.real(limits), axis=0)


def _is_key(variable: Any) -> bool:
    return bool(jnp.issubdtype(variable.aval.dtype, jax.dtypes.prng_key))
