"""Mistakes in the order and the bookkeeping of a backward pass: what is assigned, sent on, read or kept wrongly."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
from jax.extend import core

from fundamentals.gradcheck import variants
from fundamentals.gradcheck.hypotheses import (
    FITS,
    Hypothesis,
    altered,
    moved,
    reproduces,
    scaled,
    target,
    within_reach,
)
from fundamentals.gradcheck.operators import wrong_composites
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.structural import gathered_places
from fundamentals.gradcheck.sweep import Edge, is_complex, is_inexact
from fundamentals.gradcheck.view import Wrong
from fundamentals.program import line

VARIANTS = 12  # of the function, each of which is compiled
SUBSTITUTIONS = 400  # of values by other values that are tried


def detours(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """What flows back through one edge goes through the derivative of something else, too."""
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    r = target(scene, tangents)[rows]
    uses = {stage.variable(edge): edge for edge in edges}
    for edge in edges:
        stage.heed_time()
        c, source = scene.sweep.cotangents[edge], stage.variable(edge)
        for variable, use in uses.items():
            if variable is source or variable.aval.shape != source.aval.shape:
                continue
            if not np.any(tangents.values[variable][rows]):
                continue
            p = tangents.of(variable, rows, c) - tangents.of(source, rows, c)
            if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                yield Hypothesis(
                    Cause.EXTRA_FACTOR,
                    f"what flows from {stage.place(edge)} to {stage.name(source)} is sent through the derivative of "
                    f"{stage.name(variable)} as well",
                    f"add it to the gradient for {stage.name(source)} as it is",
                    partial(_detoured, stage, edge, use),
                )


def _detoured(stage: Stage, edge: Edge, use: Edge, scene: Scene) -> Sequence[Any]:
    c = scene.sweep.cotangents[edge]
    gradient = scene.run({edge: -c, use: c}).gradient
    return [gradient[i] for i in stage.problem.which]


def composites(
    stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int], *, tier: int = 0
) -> Iterator[Hypothesis]:
    """A local rule of a function written out in several operations: 1 / (1 + exp(-x)). tier 1: another value."""
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    r = target(scene, tangents)[rows]
    uses = {stage.variable(edge): edge for edge in edges}
    for variable, edge in uses.items():
        for result, wrongs in _composites(stage, scene, variable, edge):
            for wrong in wrongs:
                p = moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
                if (wrong.tier > 0) == (tier > 0) and np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                    yield Hypothesis(
                        wrong.cause,
                        f"in the backward pass of {stage.name(result)}, of {stage.name(variable)}: {wrong.detail}",
                        wrong.fix,
                        partial(altered, stage, (edge,), partial(_of_composite, result, wrong.label)),
                    )


def _composites(stage: Stage, scene: Scene, variable: Any, edge: Edge) -> list[tuple[Any, list[Wrong]]]:
    """Results that are a known function of a value, and what else its cotangent is made to be; found once."""
    key = "composites", id(scene.probe), edge
    if is_complex(variable):
        return []
    if key not in stage.memory:
        stage.heed_time()
        view = stage.view(scene, edge)
        every = ((v, wrong_composites(view, v)) for v in scene.sweep.outputs if not (v is variable or is_complex(v)))
        stage.memory[key] = [(v, wrongs) for v, wrongs in every if wrongs]
    found: list[tuple[Any, list[Wrong]]] = stage.memory[key]
    return found


def _of_composite(result: Any, label: str, view: Any, c: Any) -> Any:
    return next((w.cotangent for w in wrong_composites(view, result) if w.label == label), None)


def residuals(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Another value in place of one that the forward pass computes, wherever the backward pass uses it; or two."""
    scene = scenes[0]
    r = target(scene, tangents)
    rows = tangents.rows(left)
    inputs = [v for v in stage.flat.jaxpr.jaxpr.invars if is_inexact(v)]
    results = [v for e in stage.flat.equations for v in e.outvars if stage.reach.get(v)]
    results = [v for v in results if stage.names[v] not in {stage.names[x] for x in inputs}]
    swaps = [
        (v, x)
        for v in results
        for x in inputs
        if v.aval.size > 1 and _size(v) == _size(x) and is_complex(v) == is_complex(x)
    ]

    def fits(swap: tuple[tuple[Any, Any], ...]) -> bool:
        gradient = stage.remembered(swap, partial(_substituted, stage, swap))(scene)
        change = [gradient[i] - scene.probe.truth[i] for i in tangents.leaves]
        return bool(np.linalg.norm((tangents.seen(change) - r)[rows]) <= FITS * np.linalg.norm(r[rows]))

    for v, x in _before_and_after(stage):
        if fits(((v, x),)):
            yield Hypothesis(
                Cause.WRONG_OPERAND,
                f"the backward pass uses {stage.name(x)} in place of {stage.name(v)}, wherever it does",
                "use what the forward pass computed",
                partial(_substituted, stage, ((v, x),)),
            )
    pairs = [(a, b) for k, a in enumerate(swaps) for b in swaps[k + 1 :] if a[0] is not b[0] and a[1] is not b[1]]
    for swap in [*((a,) for a in swaps), *pairs][:SUBSTITUTIONS]:
        if fits(swap):
            words = [f"{stage.name(x)} in place of {stage.name(v)}" for v, x in swap]
            yield Hypothesis(
                Cause.WRONG_OPERAND,
                f"the backward pass uses {' and '.join(words)}",
                "use what the forward pass computed",
                partial(_substituted, stage, swap),
            )


def _before_and_after(stage: Stage) -> Iterator[tuple[Any, Any]]:
    """Results and their operands, each in place of the other: an operation forgotten, or one too many."""
    for equation in stage.flat.equations:
        if len(equation.outvars) != 1:
            continue
        (result,) = equation.outvars
        if not is_inexact(result) or result.aval.size < 2 or not stage.reach.get(result):
            continue
        for v in equation.invars:
            if not isinstance(v, core.Literal) and is_inexact(v) and v.aval.shape == result.aval.shape:
                if is_complex(v) != is_complex(result):
                    continue
                yield result, v
                yield v, result


def _size(variable: Any) -> tuple[int, ...]:
    return tuple(n for n in variable.aval.shape if n != 1)


def _substituted(stage: Stage, swap: Any, scene: Scene) -> Sequence[Any]:
    return stage.substituted(scene, {e: scene.sweep.values[x] for v, x in swap for e in stage.edges_of.get(v, [])})


def reversed_order(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A factor multiplied at the end of the backward pass that should be at its start: not in reverse order."""
    scene = scenes[0]
    for edge in stage.edges:
        equation = stage.equation(edge)
        if equation.primitive.name != "mul" or not stage.reach[stage.variable(edge)] >= set(left):
            continue
        other = equation.invars[1 - edge.operand]
        if isinstance(other, core.Literal):
            continue
        late = _late(stage, edge, other, scene)
        if not any(reproduces(scene, late[i], i) for i in left if i in late):
            continue
        yield Hypothesis(
            Cause.TRANSPOSE,
            f"the factor {stage.name(other)} of {stage.place(edge)} is multiplied last in the backward pass",
            "go backward in reverse order: what the forward pass does last comes first",
            partial(_late_gradient, stage, edge, other),
        )


def _late_gradient(stage: Stage, edge: Edge, other: Any, scene: Scene) -> Sequence[Any]:
    late = _late(stage, edge, other, scene)
    return [late.get(i, t) for i, t in enumerate(scene.probe.truth)]


def _late(stage: Stage, edge: Edge, other: Any, scene: Scene) -> dict[int, Any]:
    """The gradient without a factor, times the factor, for the leaves that it can be broadcast to."""
    view = stage.view(scene, edge)
    gradient = scene.run({edge: view.g - scene.sweep.cotangents[edge]}).gradient
    factor = scene.sweep.values[other]
    late: dict[int, Any] = {}
    for i, number in enumerate(stage.problem.which):
        if gradient[number].shape == factor.shape:
            late[i] = gradient[number] * factor
    return late


def assignments(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A value with several uses, of which only the last or the first is left: assigned where it should be added to."""
    uses: dict[Any, list[Edge]] = defaultdict(list)
    for edge in stage.edges:
        if stage.reach[stage.variable(edge)] & set(left):
            uses[stage.variable(edge)].append(edge)
    for variable, edges in uses.items():
        name = stage.name(variable)
        alike: dict[Any, list[Edge]] = defaultdict(list)
        for edge in edges:
            alike[stage.equation(edge).primitive.name, line(stage.equation(edge))].append(edge)
        for group in [edges, *alike.values()] if len(alike) > 1 else [edges]:
            for kept, which in ((group[0], "first"), (group[-1], "last")) if len(group) > 1 else ():
                dropped = [e for e in group if e != kept]
                detail = f"of {len(group)} uses of {name}, only the {which}, {stage.place(kept)}, is in its gradient"
                yield Hypothesis(
                    Cause.OVERWRITE,
                    f"{detail}: assigned where it should be added to",
                    f"+= for =: add up what comes back from every use of {name}",
                    scaled(stage, dict.fromkeys(dropped, 0.0)),
                )
        gathers = [e for e in edges if stage.equation(e).primitive.name == "gather"]
        if len(gathers) > 1:
            for order in (gathers, gathers[::-1]):
                detail = f"where the {len(gathers)} uses of {name} take the same entry, only one counts in its gradient"
                yield Hypothesis(
                    Cause.OVERWRITE,
                    f"{detail}: set in place of add",
                    f"accumulate: d{name}.at[…].add(…)",
                    partial(_gathered, stage, order),
                )


def _gathered(stage: Stage, edges: list[Edge], scene: Scene) -> Sequence[Any]:
    """The gradient if what comes back from gathers is written one over the other."""
    total = sum(scene.sweep.cotangents[edge] for edge in edges)
    written = np.zeros(total.size)
    for edge in edges:
        places, g = gathered_places(stage.view(scene, edge))
        written[places] = g
    gradient = scene.run({edges[0]: written.reshape(total.shape) - total}).gradient
    return [gradient[i] for i in stage.problem.which]


def misread(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """dy in another layout: flipped, as in a recurrence that runs the wrong way, rolled, transposed."""
    truth = stage.problem.truth
    assert truth is not None
    for k in range(len(stage.problem.outputs) if len(stage.problem.outputs) > 1 else 0):

        def without(scene: Scene, k: int = k) -> Sequence[Any]:
            return truth(scene.probe.leaves, [0 * d if j == k else d for j, d in enumerate(scene.probe.dy)])

        yield Hypothesis(
            Cause.MISSING_PATH,
            f"what comes back from result {k}, dy[{k}], is not used",
            f"add what flows back from dy[{k}]",
            without,
        )
    shape = stage.problem.outputs[0].shape
    if len(stage.problem.outputs) > 1 or not 0 < len(shape) <= 4:
        return

    def of_layout(change: Callable[[Any], Any], after: Callable[[Any], Any], scene: Scene) -> Sequence[Any]:
        return [after(g) for g in truth(scene.probe.leaves, [change(scene.probe.dy[0])])]

    layouts: list[tuple[str, Callable[[Any], Any]]] = []
    for axis in range(len(shape)):
        layouts.append((f"flipped along axis {axis}", partial(np.flip, axis=axis)))
        layouts += [
            (f"shifted by {k} along axis {axis}", partial(np.roll, shift=k, axis=axis))
            for k in range(1, min(shape[axis], 16))
        ]
    for order in permutations(range(len(shape))):
        if order != tuple(range(len(shape))) and tuple(shape[k] for k in order) == shape:
            layouts.append((f"with its axes in the order {order}", partial(np.transpose, axes=order)))
        if order != tuple(range(len(shape))):
            layouts.append((f"reshaped from the order {order} of its axes", partial(_reordered, order)))
    for words, change in layouts:
        yield Hypothesis(
            Cause.LAYOUT, f"dy is read {words}", "take dy as it comes", partial(of_layout, change, lambda g: g)
        )
    for axis in range(len(shape)):

        def back(g: Any, axis: int = axis) -> Any:
            return np.flip(g, axis) if g.ndim > axis and g.shape[axis] == shape[axis] else g

        yield Hypothesis(
            Cause.LAYOUT,
            f"the backward pass runs along axis {axis} in the direction of the forward pass",
            "run it from the other end",
            partial(of_layout, partial(np.flip, axis=axis), back),
        )


def _reordered(order: tuple[int, ...], dy: Any) -> Any:
    return np.transpose(dy, order).reshape(dy.shape)


def _of_variant(stage: Stage, variant: variants.Variant, scene: Scene) -> Sequence[Any]:
    return variant.gradient(scene.probe.leaves, scene.probe.dy, stage.problem.which)


def of_variants(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """The gradient of a function that differs a little."""
    for variant in itertools.islice(variants.of(stage.flat, scenes[0].sweep, stage.name), VARIANTS):
        stage.heed_time()
        yield Hypothesis(
            Cause.OTHER_FORWARD,
            variant.detail,
            variant.fix,
            partial(_of_variant, stage, variant),
        )
