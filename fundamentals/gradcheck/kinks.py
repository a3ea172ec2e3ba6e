"""Kinks, told from mistakes by the structure of the program.

A function has a kink where one of its comparisons is about to change: in the sign of a relu's argument, the winner of a
max, the order of a sort. `compile_side` returns which way every one of them goes. Two points with the same answers lie
on one smooth piece of the function; a point has a kink if steps of a billionth change answers and, with them, the
gradient.

Inside of loops and branches comparisons are not seen; there a jump of the gradient alone tells.

The gradient at a kink is a convention. One that is a mean of the gradients around it, or lies between the derivatives
from both sides in every direction tried, is possible; another is a mistake.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import compiled, precisely, restrict
from fundamentals.gradcheck.naming import short
from fundamentals.gradcheck.probes import nudge
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import is_inexact
from fundamentals.program import Program, evaluate, execute, read

NUDGE = 1e-9
RESULTS = 256  # that are looked at one at a time
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
    """The value of a program, and which way each comparison in it goes."""

    equations: list[Any]
    opaque: bool  # there are loops or branches whose comparisons are not seen
    compute: Callable[[list[Any]], tuple[list[Any], list[Any]]]  # leaves → (y, an array for each equation)
    held: Callable[[list[Any]], Callable[[list[Any]], tuple[list[Any], list[Any]]]]
    # leaves → the same function, with what each stop_gradient returns there held constant


def compile_side(program: Program) -> Side:
    """Compiled once for a program. What happens inside of loops is not seen."""
    jaxpr = program.jaxpr.jaxpr
    found: list[int] = []
    for i, equation in enumerate(jaxpr.eqns):
        real = [v for v in equation.invars if is_inexact(v) and not jnp.issubdtype(v.aval.dtype, jnp.complexfloating)]
        discrete = [v for v in equation.outvars if not is_inexact(v) and not _is_key(v)]
        if real and (discrete or equation.primitive.name in _STEPS | _CHOICES):
            found.append(i)

    implicit = _solvers(jaxpr)
    constants = [
        i for i, e in enumerate(jaxpr.eqns) if e.primitive.name == "stop_gradient" and e.outvars[0] not in implicit
    ]

    def run(leaves: list[Any], held: dict[int, Any]) -> tuple[list[Any], list[Any], dict[int, Any]]:
        sides: dict[int, Any] = {}
        stopped: dict[int, Any] = {}

        def apply(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
            results = [held[i]] if i in held else execute(equation, operands)
            if i in constants:
                stopped[i] = results[0]
            if i in found:
                discrete = [y for y in results if not jnp.issubdtype(y.dtype, jnp.inexact)]
                if discrete:
                    sides[i] = discrete
                elif equation.primitive.name in _STEPS:
                    sides[i] = results
                else:
                    sides[i] = _choice(equation, operands, results)
            return results

        known = evaluate(jaxpr, program.jaxpr.consts, leaves, apply)
        return read(known, jaxpr.outvars), [x for i in found for x in sides[i]], stopped

    evaluated = compiled(run, program.jaxpr.in_avals)

    def call(leaves: list[Any], constants: dict[int, Any] | None = None) -> tuple[list[Any], list[Any]]:
        with precisely():
            y, sides, _ = evaluated(leaves, constants or {})
            return list(map(np.asarray, y)), list(map(np.asarray, sides))

    def held(leaves: list[Any]) -> Callable[[list[Any]], tuple[list[Any], list[Any]]]:
        if not constants:
            return call
        with precisely():
            _, _, stopped = evaluated(leaves, {})
        return lambda leaves: call(leaves, stopped)

    spread = []  # one entry for each array
    for i in found:
        equation = jaxpr.eqns[i]
        discrete = [v for v in equation.outvars if not is_inexact(v)]
        count = len(discrete) or (
            1 if equation.primitive.name in _STEPS else sum(1 for v in equation.invars if is_inexact(v))
        )
        spread += [equation] * count
    opaque = any(
        isinstance(value, core.Jaxpr | core.ClosedJaxpr | tuple)
        and any(isinstance(v, core.Jaxpr | core.ClosedJaxpr) for v in (value if isinstance(value, tuple) else (value,)))
        for equation in jaxpr.eqns
        for value in equation.params.values()
    )
    return Side(spread, opaque, call, held)


def _solvers(jaxpr: Any) -> set[Any]:
    """Values that only say how a linear system is solved: factors of its matrix. `jnp.linalg.solve` differentiates the
    system, not the factorization, and so stops the gradient there; to hold the factors would be to solve another one.
    """
    factors: set[Any] = set()
    used = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}  # also for something else
    for equation in reversed(jaxpr.eqns):
        operands = [v for v in equation.invars if not isinstance(v, core.Literal)]
        if equation.primitive.name == "custom_linear_solve":
            matvec, vecmat, solve, transposed = equation.params["const_lengths"]
            own = equation.invars[matvec + vecmat : matvec + vecmat + solve + transposed]
            factors.update(v for v in own if not isinstance(v, core.Literal))
            others = [*equation.invars[: matvec + vecmat], *equation.invars[matvec + vecmat + solve + transposed :]]
            used.update(v for v in others if not isinstance(v, core.Literal))
            continue
        if not used.isdisjoint(equation.outvars):
            used.update(operands)
        if equation.primitive.name != "stop_gradient" and not factors.isdisjoint(equation.outvars):
            factors.update(operands)
    return factors - used


def find_kink(
    problem: Problem, side: Side | None, leaves: list[Any], dy: list[Any], t: list[Any], seed: int
) -> Kink | None:
    """The kink at a point, if there is one: what gradients there are within a billionth."""
    if problem.truth is None or problem.numeric or (side is not None and not side.equations and not side.opaque):
        return None
    blind = side is None or side.opaque  # a jump of the gradient alone has to tell
    random = np.random.RandomState(seed)
    home = [] if side is None else side.compute(leaves)[1]
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
        changed: list[Any] = []
        if side is not None:
            _, away = side.compute(moved)
            changed = [e for e, a, b in zip(side.equations, home, away, strict=True) if not np.array_equal(a, b)]
        if trial == 1 and not changed and not crossed and not blind:
            return None
        limit = problem.truth(moved, dy)
        if not all(np.all(np.isfinite(g)) for g in limit):
            continue
        limits.append(limit)
        crossed |= dict.fromkeys(_short(e) for e in changed)
        for a, b, scale in zip(limit, t, scales, strict=True):
            jump = np.abs(np.where(np.isfinite(b), a - b, 0))
            jumped |= (bool(changed) or blind) and bool(np.max(jump, initial=0) > JUMP * scale)
        if trial == 1 and blind and not changed and not jumped:
            return None
    if not jumped or not limits:
        return None
    names = tuple(crossed) or ("inside of a loop or a branch",)
    kink = _kink(names, limits)
    for steps in _further_steps(problem, leaves, t, kink, random):
        found = (problem.truth(_moved(leaves, s, sign), dy) for s in steps for sign in (1, -1))
        limits += [limit for limit in found if all(np.all(np.isfinite(g)) for g in limit)]
        kink = _kink(names, limits)
        if not any(np.any(off(*each)) for each in zip(t, kink.lowest, kink.highest, strict=True)):
            break
    return kink


def _kink(names: tuple[str, ...], limits: list[list[Any]]) -> Kink:
    columns = [np.stack(c) for c in zip(*limits, strict=True)]
    return Kink(names, limits, [_least(c) for c in columns], [_most(c) for c in columns])


def off(t: Any, lowest: Any, highest: Any) -> Any:
    """Where the gradient at a kink is not its own limit, the same from all sides seen."""
    allowed = JUMP * max(scale_of(lowest), scale_of(highest))
    return (highest - lowest <= allowed) & (np.abs(t - (lowest + highest) / 2) > allowed)


def _further_steps(
    problem: Problem, leaves: list[Any], t: list[Any], kink: Kink, random: np.random.RandomState
) -> Iterator[list[dict[int, Any]]]:
    """More sides to look from, where those seen agree with each other and not with the gradient at the kink: one of
    five tied entries is the largest on one side in five. First all entries move at random, then single ones.
    """
    where = [off(*each) for each in zip(t, kink.lowest, kink.highest, strict=True)]
    if not any(np.any(w) for w in where):
        return
    for _ in range(4):
        yield [{i: nudge(leaves[i], random, NUDGE) - leaves[i] for i in problem.which} for _ in range(6)]
    for i, w in zip(problem.which, where, strict=True):
        for place in np.argwhere(w)[:RESULTS]:
            alone = np.zeros_like(leaves[i])
            alone[tuple(place)] = NUDGE * (scale_of(leaves[i]) or 1.0)
            yield [{i: alone}]


def impossible(problem: Problem, probe: Any, leaf: int, seed: int) -> str:
    """Why a gradient that differs from autodiff's at a kink is no convention; empty if it is one.

    One result at a time, since those of several may add up to anything: the gradient has to be a mean of gradients that
    there are around the point (Clarke's subdifferential) or, as there may be too many of these to see all, to lie
    between the derivatives from both sides in every direction tried. The directions are the entries that differ, alone,
    and all entries that the kink concerns together, which tells ties that are counted twice.
    """
    truth, random = problem.truth, np.random.RandomState(seed)
    assert truth is not None
    for dy in _one_at_a_time(probe.dy, random):
        t, m = truth(probe.leaves, dy)[leaf], problem.manual(probe.leaves, dy)[leaf]
        if not np.all(np.isfinite(m)):
            return "it is not finite"
        scale = max(scale_of(t), scale_of(m))
        if np.max(np.abs(m - t), initial=0.0) <= 1e-9 * scale:
            continue
        steps = [{i: nudge(probe.leaves[i], random, NUDGE) - probe.leaves[i] for i in problem.which} for _ in range(16)]
        around = [t, *(truth(_moved(probe.leaves, s, sign), dy)[leaf] for s in steps for sign in (1, -1))]
        around = [limit for limit in around if np.all(np.isfinite(limit))]
        if _distance(np.stack([limit.ravel() for limit in around]), m.ravel()) <= 1e-3 * scale:
            continue
        outside = _outside(problem, probe.leaves, dy, t, m, leaf, np.stack(around))
        if outside:
            return outside
    return ""


def _one_at_a_time(dy: list[Any], random: np.random.RandomState) -> Iterator[list[Any]]:
    """Cotangents with one entry each, of at most a few hundred results."""
    places = [(k, index) for k, d in enumerate(dy) for index in np.ndindex(d.shape) if d[index]]
    for k in random.permutation(len(places))[:RESULTS]:
        alone = [np.zeros_like(d) for d in dy]
        number, index = places[k]
        alone[number][index] = dy[number][index]
        yield alone


def _moved(leaves: list[Any], step: dict[int, Any], sign: float) -> list[Any]:
    return [(x + sign * step[i]).astype(x.dtype) if i in step else x for i, x in enumerate(leaves)]


def _distance(vertices: Any, point: Any) -> float:
    """From a point to the means of some others, by projected gradients on their weights."""
    weights = np.full(len(vertices), 1 / len(vertices))
    step = 1 / max(float(np.linalg.norm(vertices, 2)) ** 2, 1e-300)
    for _ in range(2000):
        weights = _onto_simplex(weights - step * (vertices @ (weights @ vertices - point)))
    return float(np.max(np.abs(weights @ vertices - point), initial=0.0))


def _onto_simplex(weights: Any) -> Any:
    """The nearest weights that are not negative and sum to 1."""
    ordered = np.sort(weights)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(weights) + 1)
    return np.maximum(weights - excess[np.flatnonzero(ordered > excess)[-1]], 0)


def _outside(problem: Problem, leaves: list[Any], dy: list[Any], t: Any, m: Any, leaf: int, around: Any) -> str:
    assert problem.truth is not None
    x = leaves[problem.which[leaf]]
    scale = max(scale_of(t), scale_of(m))
    size = NUDGE * (np.sqrt(np.mean(np.abs(x) ** 2)) or 1.0)
    directions = [("all entries at the kink together", 1.0 * (np.ptp(np.real(around), axis=0) > JUMP * scale))]
    for index in np.argwhere(np.abs(m - t) > 1e-9 * scale)[:32]:
        alone = np.zeros(x.shape)
        alone[tuple(index)] = 1
        directions.append((str([int(k) for k in index]), alone))
    for name, u in directions:
        ends = []
        for sign in (1, -1):
            there = _moved(leaves, {problem.which[leaf]: size * u}, sign)
            ends.append(float(np.sum(np.real(problem.truth(there, dy)[leaf] * u))))
        given = float(np.sum(np.real(m * u)))
        slack = JUMP * max(scale, *map(abs, ends))
        if not min(ends) - slack <= given <= max(ends) + slack:
            return f"along {name} it is {given:.6g}; from the two sides {ends[1]:.6g} and {ends[0]:.6g}"
    return ""


def scale_of(x: Any) -> float:
    """The largest finite entry."""
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def _choice(equation: core.JaxprEqn, operands: list[Any], results: Sequence[Any]) -> list[Any]:
    places = [k for k, v in enumerate(equation.invars) if is_inexact(v)]
    function = restrict(lambda *full: execute(equation, list(full)), operands, places)
    _, pullback = jax.vjp(function, *(jnp.asarray(operands[k]) for k in places))
    marks = [1 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) for y in results]
    return list(pullback(marks))


def _short(equation: core.JaxprEqn) -> str:
    place = short(equation)
    return f"{equation.primitive.name} at {place}" if place else str(equation.primitive.name)


def _least(limits: Any) -> Any:
    return np.min(np.real(limits), axis=0)


def _most(limits: Any) -> Any:
    return np.max(np.real(limits), axis=0)


def _is_key(variable: Any) -> bool:
    return bool(jnp.issubdtype(variable.aval.dtype, jax.dtypes.prng_key))
