"""A linear map applied to the cotangent as in the forward pass, where its transpose should be.

Messages that are sent along the edges of a graph and not back, differences of neighbours on the wrong side, a filter
that is not run from the other end: maps that take several operations, whose matrix is square, and whose cotangent so
has the right shape either way.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import precisely
from fundamentals.gradcheck.hypotheses import FITS, Hypothesis, target
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.steps import places
from fundamentals.gradcheck.sweep import Edge, is_inexact
from fundamentals.program import execute, read

_ENTRYWISE = {"add", "add_any", "sub", "neg", "convert_element_type", "copy", "reshape", "squeeze", "expand_dims"}
_MOVING = {
    *("slice", "dynamic_slice", "concatenate", "pad", "rev", "gather", "scatter-add", "transpose", "broadcast_in_dim"),
    *("reduce_sum", "cumsum", "conv_general_dilated", "dynamic_update_slice", "reduce_window_sum", "select_n"),
}
_JOINING = {"concatenate", "scatter-add", "dynamic_update_slice", "pad", "select_n"}  # of which others are no part
_PRODUCTS = {"mul", "div", "dot_general"}  # linear in the operand that depends on the source
LENGTH = 12  # equations of a map, at most
MAPS = 60


class _Map(NamedTuple):
    """From a value to another of its shape, by equations that are linear in it."""

    source: Any
    result: Any
    equations: tuple[int, ...]
    edge: Edge  # by which the source enters


def applied_forward(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One map, or the same in every step of a loop, not transposed."""
    scene = scenes[0]
    rows = tangents.rows(left)
    r = target(scene, tangents)[rows]
    maps = [m for m in _maps(stage) if stage.reach.get(m.source, frozenset()) & set(left)]
    for each in maps:
        g = scene.sweep.outputs.get(each.result)
        if g is None or not np.any(g):
            continue
        change = _change(stage, scene, each, g)
        p = tangents.of(each.source, rows, change)
        if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
            yield _hypothesis(stage, (each,))
    for group in _in_every_step(stage, maps):
        yield _hypothesis(stage, group)


def _hypothesis(stage: Stage, maps: tuple[_Map, ...]) -> Hypothesis:
    where = f", in all {len(maps)} steps" if len(maps) > 1 else ""
    first = maps[0]
    return Hypothesis(
        Cause.TRANSPOSE,
        f"what takes {stage.name(first.source)} to {stage.name(first.result)} is applied to the cotangent as in the "
        f"forward pass{where}",
        "apply its transpose: send each cotangent back to where the forward pass took the value from",
        stage.remembered(("forward", maps), partial(_gradient, stage, maps)),
    )


def _gradient(stage: Stage, maps: tuple[_Map, ...], scene: Scene) -> Sequence[Any]:
    additions: dict[Edge, Any] = {}
    swept = scene.sweep
    for each in sorted(maps, key=lambda m: -m.equations[-1]):
        g = swept.outputs.get(each.result)
        if g is None:
            g = np.zeros(each.result.aval.shape)
        additions[each.edge] = additions.get(each.edge, 0) + _change(stage, scene, each, g)
        swept = scene.run(additions)
    return [swept.gradient[i] for i in stage.problem.which]


def _change(stage: Stage, scene: Scene, each: _Map, g: Any) -> Any:
    """J g − Jᵀ g."""
    known = scene.sweep.values
    stage.heed_time()

    def apply(x: Any) -> Any:
        values = {each.source: x}
        for i in each.equations:
            equation = stage.flat.equations[i]
            dependent = [not isinstance(v, core.Literal) and v in values for v in equation.invars]
            operands = [
                values[v] if d else read(known, [v])[0] for v, d in zip(equation.invars, dependent, strict=True)
            ]
            if equation.primitive.name in _ENTRYWISE | _JOINING:
                operands = [
                    x if d or not jnp.issubdtype(jnp.result_type(x), jnp.inexact) else jnp.zeros_like(x)
                    for x, d in zip(operands, dependent, strict=True)
                ]
            (values[equation.outvars[0]],) = execute(equation, operands)
        return values[each.result]

    with precisely():
        forward, pullback = jax.vjp(apply, jnp.asarray(g))
        (backward,) = pullback(jnp.asarray(g))
    return np.asarray(forward) - np.asarray(backward)


def _maps(stage: Stage) -> list[_Map]:
    """Those that move entries or mix them; of maps with the same source the shorter ones first."""
    if "maps" in stage.memory:
        known: list[_Map] = stage.memory["maps"]
        return known
    found: list[_Map] = []
    equations = stage.flat.equations
    for source, edges in stage.edges_of.items():
        if source.aval.size < 2 or not stage.reach.get(source) or len(found) >= MAPS:
            continue
        through: dict[Any, tuple[tuple[int, ...], bool]] = {source: ((), False)}
        others: set[Any] = set()
        for i in range(edges[0].equation, min(len(equations), edges[0].equation + 60 * LENGTH)):
            equation = equations[i]
            variables = [v for v in equation.invars if not isinstance(v, core.Literal)]
            taken = [v for v in variables if v in through]
            if not taken and others.isdisjoint(variables):
                continue
            if not _is_linear(equation, taken) or not others.isdisjoint(variables):
                others.update(equation.outvars)
                continue
            used = tuple(sorted({i, *(k for v in taken for k in through[v][0])}))
            moves = equation.primitive.name in _MOVING | {"dot_general"} or any(through[v][1] for v in taken)
            result = equation.outvars[0]
            if len(used) > LENGTH:
                others.update(equation.outvars)
                continue
            through[result] = used, moves
            if moves and len(used) > 1 and result.aval.shape == source.aval.shape:
                first = next(e for e in edges if e.equation in used)
                found.append(_Map(source, result, used, first))
    stage.memory["maps"] = found[:MAPS]
    return found[:MAPS]


def _is_linear(equation: Any, taken: list[Any]) -> bool:
    name = equation.primitive.name
    if len(equation.outvars) != 1 or not is_inexact(equation.outvars[0]) or not all(map(is_inexact, taken)):
        return False
    if name in _PRODUCTS:
        return len(taken) == 1 and (name != "div" or equation.invars[0] is taken[0])
    return name in _ENTRYWISE or name in _MOVING


def _in_every_step(stage: Stage, maps: list[_Map]) -> Iterator[tuple[_Map, ...]]:
    by_result: dict[Any, list[_Map]] = {}
    for each in maps:
        by_result.setdefault(each.result, []).append(each)
    for numbers in places(stage):
        results = [v for i in numbers for v in stage.flat.equations[i].outvars[:1]]
        per_step = [by_result.get(v, []) for v in results]
        if per_step and all(per_step) and len({len(each) for each in per_step}) == 1:
            yield from (tuple(group) for group in zip(*per_step, strict=True))
