"""Mistakes in one or two places of the program, as hypotheses: what each would make of the gradient."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.naming import name_number, undo
from fundamentals.gradcheck.operators import wrong_cotangents
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge

FITS = 1e-7  # residual of a fit along random directions


class Hypothesis(NamedTuple):
    """A wrong gradient, at any scene."""

    cause: Cause
    detail: str
    fix: str
    gradient: Callable[[Scene], Sequence[Any] | None]  # all leaves


def reproduces(scene: Scene, value: Any, leaf: int) -> bool:
    """Whether a hypothesis gives the wrong leaf, to rounding."""
    m, t = scene.probe.manual[leaf], scene.probe.truth[leaf]
    scale = max(scale_of(m), scale_of(t))
    return bool(np.all(np.isfinite(m))) and bool(np.max(np.abs(value - m), initial=0.0) <= 1e-8 * scale)


def target(scene: Scene, tangents: Tangents) -> Any:
    """What is to be explained, along the directions."""
    return tangents.seen([scene.probe.manual[i] - scene.probe.truth[i] for i in tangents.leaves])


def moved(stage: Stage, tangents: Tangents, edge: Edge, change: Any, rows: Any) -> Any:
    """What a change at an edge makes of the gradient, along the directions."""
    return tangents.of(stage.variable(edge), rows, change)


def within_reach(stage: Stage, tangents: Tangents, left: list[int]) -> tuple[Any, list[Edge]]:
    """The rows of some leaves, and the edges that reach all of them."""
    rows = tangents.rows(left)
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] >= set(left)]
    return rows, edges


def paths(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One edge scaled by a number that has a name."""
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    r = target(scene, tangents)[rows]
    sizes, scalars = stage.numbers(scene)
    found: list[tuple[int, Any, Edge, float]] = []
    for edge in edges:
        path = moved(stage, tangents, edge, scene.sweep.cotangents[edge], rows)
        norm = float(path @ path)
        if norm <= 1e-24 * float(r @ r):
            continue
        change = float(path @ r) / norm
        if np.linalg.norm(r - change * path) > FITS * np.linalg.norm(r):
            continue
        rank = 0 if near(change, -1) else 1 if near(change, 1) or near(change, -2) else 2
        found.append((rank, fan_out(stage, edge), edge, 1 + change))
    literals = {edge: literal(stage, edge) for _, _, edge, _ in found}
    found.sort(key=lambda f: f[:2])
    dropped = [f for f in found if f[0] == 0]
    for _, _, edge, coefficient in found if not dropped else ():
        factor = literals[edge]
        if factor and abs(coefficient) > 1e-7 and not near(coefficient, -1) and near(coefficient * factor, 1):
            hypothesis = path_hypothesis(stage, (edge,), coefficient, sizes, scalars)
            text = f"the factor {factor:.6g} of {stage.place(edge)} is missing on the path that goes through it"
            yield hypothesis._replace(cause=Cause.PATH_SCALE, detail=text, fix=f"multiply by {factor:.6g}")
    for _, _, edge, coefficient in found:
        both = _both_operands(stage, edge)
        if both is not None and edge.operand == 0:  # two equal uses, x·x, are one
            yield path_hypothesis(stage, both, (1 + coefficient) / 2, sizes, scalars)
        if both is not None:
            continue
        yield path_hypothesis(stage, (edge,), coefficient, sizes, scalars)
    yield from _values(stage, scene, tangents, left)


def _values(stage: Stage, scene: Scene, tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """All uses of a value at once: it is held constant, or all that comes back to it is scaled."""
    rows = tangents.rows(left)
    r = target(scene, tangents)[rows]
    sizes, scalars = stage.numbers(scene)
    outside = [*stage.flat.jaxpr.jaxpr.invars, *stage.flat.jaxpr.jaxpr.outvars]
    for variable, edges in stage.edges_of.items():
        if len(edges) < 2 or variable not in scene.sweep.outputs or any(v is variable for v in outside):
            continue
        if not stage.reach.get(variable, frozenset()) >= set(left):
            continue
        path = tangents.of(variable, rows, scene.sweep.outputs[variable])
        norm = float(path @ path)
        change = float(path @ r) / norm if norm > 1e-24 * float(r @ r) else 0.0
        if not change or np.linalg.norm(r - change * path) > FITS * np.linalg.norm(r):
            continue
        hypothesis = path_hypothesis(stage, tuple(edges), 1 + change, sizes, scalars)
        name = stage.name(variable)
        if near(change, -1):
            hypothesis = hypothesis._replace(
                detail=f"{name} is held constant: what comes back to it from its {len(edges)} uses goes no further",
                fix=f"differentiate {name}, too",
            )
        yield hypothesis


def literal(stage: Stage, edge: Edge) -> float:
    """The number that an equation multiplies its operand by; 0 if it does not."""
    equation = stage.equation(edge)
    name, others = equation.primitive.name, [v for v in equation.invars if isinstance(v, core.Literal)]
    if name not in ("mul", "div") or len(others) != 1 or np.ndim(others[0].val) or np.iscomplexobj(others[0].val):
        return 0.0
    number = float(others[0].val)
    if name == "div":
        return 1 / number if edge.operand == 0 and number else 0.0
    return number


def fan_out(stage: Stage, edge: Edge) -> tuple[int, int]:
    """Of edges in series, which contribute the same, the one where the value is used for more than this comes first."""
    variable = stage.variable(edge)
    return (0 if stage.uses[variable] > 1 else 1, edge.equation)


def _both_operands(stage: Stage, edge: Edge) -> tuple[Edge, ...] | None:
    equation = stage.equation(edge)
    same = equation.primitive.name == "mul" and equation.invars[0] is equation.invars[1]
    return (Edge(edge.equation, 0), Edge(edge.equation, 1)) if same else None


def path_hypothesis(stage: Stage, edges: tuple[Edge, ...], coefficient: float, sizes: Any, scalars: Any) -> Hypothesis:
    """Edges scaled by a number."""
    cause, detail, fix = path_words(stage, edges[0], coefficient, sizes, scalars)
    return Hypothesis(cause, detail, fix, scaled(stage, dict.fromkeys(edges, coefficient)))


def path_words(stage: Stage, edge: Edge, coefficient: float, sizes: Any, scalars: Any) -> tuple[Cause, str, str]:
    """Cause, detail and fix of a scaled path."""
    value = stage.name(stage.variable(edge))
    path = f"the path from {value} through {stage.place(edge)}"
    if abs(coefficient) < 1e-7:
        return (
            Cause.MISSING_PATH,
            f"{path} is dropped, as if that were a constant",
            f"add what flows back through {stage.place(edge)}",
        )
    if near(coefficient, 2):
        return Cause.DOUBLED_PATH, f"{path} is counted twice", "add it once"
    if near(coefficient, -1):
        return Cause.PATH_SIGN, f"{path} has the wrong sign", "change its sign"
    name = name_number(coefficient, sizes, scalars)
    text = name.text if name else f"{coefficient:.6g}"
    meaning = f" ({name.meaning})" if name and name.meaning else ""
    cause = Cause.WRONG_AXIS if name and name.kind == "ratio" else Cause.PATH_SCALE
    wrong_count = ": counted along another axis" if cause is Cause.WRONG_AXIS else ""
    return (
        cause,
        f"{path} is {text} times what it should be{meaning}{wrong_count}",
        undo(f"what flows back through {stage.place(edge)}", text),
    )


def altered(
    stage: Stage, edges: Sequence[Edge], alter: Callable[[Any, Any], Any], scene: Scene
) -> Sequence[Any] | None:
    """The gradient with the cotangents of some edges altered, the last equation first. alter: (view, c) → c'."""
    additions: dict[Edge, Any] = {}
    swept = scene.sweep
    for edge in sorted(edges, reverse=True):
        changed = alter(stage.view(scene, edge, swept), swept.cotangents[edge])
        if changed is None:
            return None
        additions[edge] = changed - swept.cotangents[edge]
        swept = scene.run(additions)
    return [swept.gradient[i] for i in stage.problem.which]


def rules(
    stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int], *, tier: int = 0
) -> Iterator[Hypothesis]:
    """One local rule wrong. tier: 0, the rule itself; 1, another operand; 2, a derivative taken elsewhere."""
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    r = target(scene, tangents)[rows]
    found = []
    for edge in edges:
        for wrong in stage.wrongs(scene, edge):
            if wrong.tier != tier:
                continue
            p = moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                found.append((_RANK.get(wrong.cause, 3), edge.equation, edge, wrong))
    for _, _, edge, wrong in sorted(found, key=lambda f: f[:2]):
        yield rule_hypothesis(stage, (edge,), wrong)
    for edge in edges if tier == 0 else ():  # both cases of a choice
        other = Edge(edge.equation, 3 - edge.operand)
        if stage.equation(edge).primitive.name == "select_n" and edge.operand == 1 and other in edges:
            for wrong in stage.wrongs(scene, edge):
                yield rule_hypothesis(stage, (edge, other), wrong)


_RANK = {
    Cause.MISSING_FACTOR: 0,
    Cause.TRANSPOSE: 0,
    Cause.OVERWRITE: 0,
    Cause.WRONG_AXIS: 0,
    Cause.UNREDUCED: 0,
    Cause.LAYOUT: 1,
    Cause.WRONG_OPERAND: 2,
    Cause.EXTRA_FACTOR: 2,
}


def rule_hypothesis(stage: Stage, edges: tuple[Edge, ...], wrong: Any) -> Hypothesis:
    """A wrong local rule at some edges."""

    def gradient(scene: Scene) -> Sequence[Any] | None:
        return altered(stage, edges, lambda view, _: looked_up(view, wrong.label), scene)

    return Hypothesis(
        wrong.cause, f"in the backward pass of {stage.place(edges[0])}: {wrong.detail}", wrong.fix, gradient
    )


def looked_up(view: Any, label: str) -> Any:
    """The wrong cotangent of a label, at another point."""
    return next((w.cotangent for w in wrong_cotangents(view) if w.label == label), None)


def scaled(stage: Stage, coefficients: dict[Edge, float]) -> Callable[[Scene], Sequence[Any] | None]:
    """The gradient with paths times numbers."""

    def gradient(scene: Scene) -> Sequence[Any]:
        swept = scene.run({}, coefficients)
        return [swept.gradient[i] for i in stage.problem.which]

    return gradient


def near(a: float, b: float) -> bool:
    """Whether two numbers are the same, as coefficients."""
    return abs(a - b) <= 1e-7


def holding(
    stage: Stage, scenes: list[Scene], wrong: list[int], candidates: Iterator[Hypothesis]
) -> Iterator[Hypothesis]:
    """Those that give the wrong gradient everywhere."""
    for hypothesis in candidates:
        for scene in scenes:
            gradient = hypothesis.gradient(scene)
            if gradient is None or not all(reproduces(scene, gradient[i], i) for i in wrong):
                break
        else:
            yield hypothesis
