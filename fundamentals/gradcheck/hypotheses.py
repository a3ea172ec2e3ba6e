"""Mistakes in one or two places of the program, as hypotheses: what each would make of the gradient."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck import variants
from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.naming import name_number, undo
from fundamentals.gradcheck.operators import wrong_composites, wrong_cotangents
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge, is_inexact
from fundamentals.program import line

SUBSTITUTIONS = 600  # of values by other values that are tried
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


def _target(scene: Scene, tangents: Tangents) -> Any:
    return tangents.seen([scene.probe.manual[i] - scene.probe.truth[i] for i in tangents.leaves])


def _moved(stage: Stage, tangents: Tangents, edge: Edge, change: Any, rows: Any) -> Any:
    variable = stage.variable(edge)
    return tangents.values[variable][rows] @ np.ravel(change)


def _within_reach(stage: Stage, tangents: Tangents, left: list[int]) -> tuple[Any, list[Edge]]:
    """The rows of some leaves, and the edges that reach all of them."""
    rows = tangents.rows(left)
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] >= set(left)]
    return rows, edges


def _paths(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One edge scaled by a number that has a name."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    r = _target(scene, tangents)[rows]
    sizes, scalars = stage.numbers(scene)
    found: list[tuple[int, Any, Edge, float]] = []
    for edge in edges:
        path = _moved(stage, tangents, edge, scene.sweep.cotangents[edge], rows)
        norm = float(path @ path)
        if norm <= 1e-24 * float(r @ r):
            continue
        change = float(path @ r) / norm
        if np.linalg.norm(r - change * path) > FITS * np.linalg.norm(r):
            continue
        rank = 0 if _near(change, -1) else 1 if _near(change, 1) or _near(change, -2) else 2
        found.append((rank, _fan_out(stage, edge), edge, 1 + change))
    for _, _, edge, coefficient in sorted(found, key=lambda f: f[:2]):
        both = _both_operands(stage, edge)
        if both is not None and edge.operand == 0:  # two equal uses, x·x, are one
            yield _path_hypothesis(stage, both, (1 + coefficient) / 2, sizes, scalars)
        if both is not None:
            continue
        yield _path_hypothesis(stage, (edge,), coefficient, sizes, scalars)


def _fan_out(stage: Stage, edge: Edge) -> tuple[int, int]:
    """Of edges in series, which contribute the same, the one where the value is used for more than this comes first."""
    variable = stage.variable(edge)
    return (0 if stage.uses[variable] > 1 else 1, edge.equation)


def _both_operands(stage: Stage, edge: Edge) -> tuple[Edge, ...] | None:
    equation = stage.equation(edge)
    same = equation.primitive.name == "mul" and equation.invars[0] is equation.invars[1]
    return (Edge(edge.equation, 0), Edge(edge.equation, 1)) if same else None


def _path_hypothesis(stage: Stage, edges: tuple[Edge, ...], coefficient: float, sizes: Any, scalars: Any) -> Hypothesis:
    cause, detail, fix = _path_words(stage, edges[0], coefficient, sizes, scalars)
    return Hypothesis(cause, detail, fix, partial(_altered, stage, edges, lambda _, c: coefficient * c))


def _path_words(stage: Stage, edge: Edge, coefficient: float, sizes: Any, scalars: Any) -> tuple[Cause, str, str]:
    value = stage.name(stage.variable(edge))
    path = f"the path from {value} through {stage.place(edge)}"
    if abs(coefficient) < 1e-7:
        return (
            Cause.MISSING_PATH,
            f"{path} is dropped, as if that were a constant",
            f"add what flows back through {stage.place(edge)}",
        )
    if _near(coefficient, 2):
        return Cause.DOUBLED_PATH, f"{path} is counted twice", "add it once"
    if _near(coefficient, -1):
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


def _altered(
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


def _rules(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One local rule wrong."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    r = _target(scene, tangents)[rows]
    found = []
    for edge in edges:
        for wrong in wrong_cotangents(stage.view(scene, edge)):
            p = _moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                found.append(
                    (
                        _RANK.get(wrong.cause, 3) + (2 if "[" in wrong.label or "`" in wrong.label else 0),
                        edge.equation,
                        edge,
                        wrong,
                    )
                )
    for _, _, edge, wrong in sorted(found, key=lambda f: f[:2]):
        yield _rule_hypothesis(stage, (edge,), wrong)
    for edge in edges:  # both cases of a choice
        other = Edge(edge.equation, 3 - edge.operand)
        if stage.equation(edge).primitive.name == "select_n" and edge.operand == 1 and other in edges:
            for wrong in wrong_cotangents(stage.view(scene, edge)):
                yield _rule_hypothesis(stage, (edge, other), wrong)


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


def _rule_hypothesis(stage: Stage, edges: tuple[Edge, ...], wrong: Any) -> Hypothesis:
    def gradient(scene: Scene) -> Sequence[Any] | None:
        return _altered(stage, edges, lambda view, _: _looked_up(view, wrong.label), scene)

    return Hypothesis(
        wrong.cause, f"in the backward pass of {stage.place(edges[0])}: {wrong.detail}", wrong.fix, gradient
    )


def _looked_up(view: Any, label: str) -> Any:
    return next((w.cotangent for w in wrong_cotangents(view) if w.label == label), None)


def _factors(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One path multiplied or divided by a tensor of the forward pass."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    r = _target(scene, tangents)[rows]
    tensors = stage.tensors(scene)
    for edge in edges:
        c = scene.sweep.cotangents[edge]
        if not c.ndim:
            continue
        for name, v in tensors.items():
            if np.ndim(v) > c.ndim or np.size(v) < 2 or not np.all(np.isfinite(v)):
                continue
            try:
                v = np.broadcast_to(v, c.shape)
            except ValueError:
                continue
            for cause, divide in ((Cause.EXTRA_FACTOR, False), (Cause.MISSING_FACTOR, True)):
                with np.errstate(all="ignore"):
                    wrong = c / v if divide else c * v
                if not np.all(np.isfinite(wrong)):
                    continue
                p = _moved(stage, tangents, edge, wrong - c, rows)
                if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                    yield _factor_hypothesis(stage, edge, name, cause)


def _factor_hypothesis(stage: Stage, edge: Edge, name: str, cause: Cause) -> Hypothesis:
    def gradient(scene: Scene) -> Sequence[Any] | None:
        v = stage.tensors(scene)[name]
        return _altered(stage, (edge,), lambda _, c: c / v if cause is Cause.MISSING_FACTOR else c * v, scene)

    value = stage.name(stage.variable(edge))
    what, fix = (
        ("lacks the factor", "multiply by") if cause is Cause.MISSING_FACTOR else ("has an extra factor", "leave out")
    )
    return Hypothesis(
        cause, f"the path from {value} through {stage.place(edge)} {what} {name}", f"{fix} {name}", gradient
    )


def _detours(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """What flows back through one edge goes through the derivative of something else, too."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    r = _target(scene, tangents)[rows]
    uses = {stage.variable(edge): edge for edge in edges}
    for edge in edges:
        c, source = scene.sweep.cotangents[edge], stage.variable(edge)
        for variable, use in uses.items():
            if variable is source or variable.aval.shape != source.aval.shape:
                continue
            p = (tangents.values[variable] - tangents.values[source])[rows] @ np.ravel(c)
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


def _composites(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A local rule of a function that is written out in several operations: 1 / (1 + exp(-x))."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    r = _target(scene, tangents)[rows]
    uses = {stage.variable(edge): edge for edge in edges}
    for variable, edge in uses.items():
        for result in scene.sweep.outputs:
            for wrong in wrong_composites(stage.view(scene, edge), result):
                p = _moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
                if variable is not result and np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                    yield Hypothesis(
                        wrong.cause,
                        f"in the backward pass of {stage.name(result)}, of {stage.name(variable)}: {wrong.detail}",
                        wrong.fix,
                        partial(_altered, stage, (edge,), partial(_of_composite, result, wrong.label)),
                    )


def _of_composite(result: Any, label: str, view: Any, c: Any) -> Any:
    return next((w.cotangent for w in wrong_composites(view, result) if w.label == label), None)


def _residuals(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Another value in place of one that the forward pass computes, wherever the backward pass uses it; or two."""
    scene = scenes[0]
    r = _target(scene, tangents)
    rows = tangents.rows(left)
    run = stage.substituted
    inputs = [v for v in stage.flat.jaxpr.jaxpr.invars if is_inexact(v)]
    results = [v for e in stage.flat.equations for v in e.outvars if stage.reach.get(v)]
    results = [v for v in results if stage.names[v] not in {stage.names[x] for x in inputs}]
    swaps = [(v, x) for v in results for x in inputs if v.aval.size > 1 and _size(v) == _size(x)]

    def fits(swap: tuple[tuple[Any, Any], ...]) -> bool:
        gradient = run(scene, swap)
        change = [gradient[i] - t for i, t in enumerate(scene.probe.truth)]
        return bool(np.linalg.norm((tangents.seen(change) - r)[rows]) <= FITS * np.linalg.norm(r[rows]))

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


def _size(variable: Any) -> tuple[int, ...]:
    return tuple(n for n in variable.aval.shape if n != 1)


def _substituted(stage: Stage, swap: Any, scene: Scene) -> Sequence[Any]:
    gradient: Sequence[Any] = stage.substituted(scene, swap)
    return gradient


def _loops(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A path or local rule in every step of a loop that is written out, or in every call of a helper."""
    scene = scenes[0]
    edges = stage.edges
    groups: dict[Any, list[Edge]] = defaultdict(list)
    for edge in edges:
        equation = stage.equation(edge)
        if line(equation) and stage.reach[equation.invars[edge.operand]] & set(left):
            shapes = tuple(v.aval.shape for v in equation.invars)
            groups[equation.primitive.name, line(equation), edge.operand, shapes, str(equation.params)].append(edge)
    loops = [tuple(group) for group in groups.values() if 1 < len(group) <= 64]
    sizes, scalars = stage.numbers(scene)
    for coefficient in (0.0, 2.0, -1.0):
        for group in sorted(loops, key=lambda g: _fan_out(stage, g[0])):
            hypothesis = _path_hypothesis(stage, group, coefficient, sizes, scalars)
            yield hypothesis._replace(detail=hypothesis.detail + f", in all {len(group)} steps")
    for group in loops:
        for wrong in wrong_cotangents(stage.view(scene, group[-1])):
            if "`" not in wrong.label:
                hypothesis = _rule_hypothesis(stage, group, wrong)
                yield hypothesis._replace(detail=hypothesis.detail + f", in all {len(group)} steps")
    for group in loops:
        yield from _shifted(stage, scene, group)


def _shifted(stage: Stage, scene: Scene, group: tuple[Edge, ...]) -> Iterator[Hypothesis]:
    """Local rules evaluated with what another step kept."""
    numbers = sorted({e.equation for e in group})
    equations = [stage.equation(Edge(k, 0)) for k in numbers]

    def of_step(pick: Callable[[int], int]) -> Callable[[Any, Any], Any]:
        def alter(view: Any, c: Any) -> Any:
            other = pick(numbers.index(view.edge.equation))
            if not 0 <= other < len(numbers):
                return c
            return _pulled(view, view.operands_of(equations[other]))

        return alter

    for pick, words in (
        (lambda k: k + 1, "the step after"),
        (lambda k: k - 1, "the step before"),
        (lambda k: 0, "the first step"),
        (lambda k: len(numbers) - 1, "the last step"),
    ):
        yield Hypothesis(
            Cause.WRONG_OPERAND,
            f"in the backward pass of {stage.place(group[0])}: every step uses what {words} kept",
            "keep what each step needs, and take it in reverse order",
            partial(_altered, stage, group, of_step(pick)),
        )
    # The state that a step returns in place of the one that it takes: h[t] for h[t-1].
    for edge in group[:1]:
        for operand in range(len(equations[0].invars)):
            if operand == edge.operand:
                continue
            carried = [e.invars[operand] for e in equations]
            if len(set(map(id, carried))) < 2 or not is_inexact(carried[-1]):
                continue
            for last in _like(stage, carried[-1]):

                def alter(view: Any, c: Any, operand: int = operand, carried: Any = carried, last: Any = last) -> Any:
                    k = numbers.index(view.edge.equation)
                    operands = list(view.operands)
                    operands[operand] = view.swept.values[carried[k + 1] if k + 1 < len(carried) else last]
                    return _pulled(view, operands)

                yield Hypothesis(
                    Cause.WRONG_OPERAND,
                    f"in the backward pass of {stage.place(group[0])}: off by one step; the state after the step "
                    "stands for the state before it",
                    "use h[t − 1], the state that the step started from",
                    partial(_altered, stage, group, alter),
                )


def _like(stage: Stage, variable: Any) -> list[Any]:
    """Results of the same shape that come after a value."""
    names = list(stage.names)
    start = names.index(variable) + 1 if not isinstance(variable, core.Literal) and variable in stage.names else 0
    return [v for v in names[start:] if v.aval.shape == variable.aval.shape and is_inexact(v)]


def _pulled(view: Any, operands: list[Any]) -> Any:
    """The cotangent of the operand in question, of the equation at other operands."""
    number = view.edge.operand
    with jax.enable_x64(True):

        def of_one(x: Any) -> Any:
            results = view.equation.primitive.bind(
                *[x if j == number else jnp.asarray(v) for j, v in enumerate(operands)], **view.equation.params
            )
            return results[0] if view.equation.primitive.multiple_results else results

        return np.asarray(jax.vjp(of_one, jnp.asarray(operands[number]))[1](jnp.asarray(view.g))[0])


def _of_variant(stage: Stage, variant: variants.Variant, scene: Scene) -> Sequence[Any]:
    return variant.gradient(scene.probe.leaves, scene.probe.dy, stage.problem.which)


def _variants(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """The gradient of a function that differs a little."""
    for variant in variants.of(stage.flat, scenes[0].sweep, stage.name):
        yield Hypothesis(
            Cause.OTHER_FORWARD,
            variant.detail,
            variant.fix,
            partial(_of_variant, stage, variant),
        )


def _pairs(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Two paths; or a local rule and a path."""
    scene = scenes[0]
    rows = tangents.rows(left)
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] & set(left)]
    r = _target(scene, tangents)[rows]
    size = float(np.linalg.norm(r))
    columns: list[tuple[Edge, Any]] = []
    for edge in sorted(edges, key=lambda e: _fan_out(stage, e)):
        path = _moved(stage, tangents, edge, scene.sweep.cotangents[edge], rows)
        norm = float(np.linalg.norm(path))
        if norm > 1e-10 * size and not any(
            abs(abs(path @ other) - norm * np.linalg.norm(other)) < 1e-9 * norm * np.linalg.norm(other)
            for _, other in columns
        ):
            columns.append((edge, path))
    sizes, scalars = stage.numbers(scene)
    found = []
    for k, (a, of_a) in enumerate(columns):
        for b, of_b in columns[k + 1 :]:
            basis = np.stack([of_a, of_b], 1)
            change = np.linalg.lstsq(basis, r, rcond=None)[0]
            if np.linalg.norm(r - basis @ change) <= FITS * size:
                numbers = [1 + float(c) for c in change]
                named = [abs(c) < 1e-7 or name_number(c, sizes, scalars) is not None for c in numbers]
                if all(named):
                    simple = sum(0 if abs(c) < 1e-7 else 1 if _near(c, 2) or _near(c, -1) else 2 for c in numbers)
                    found.append((simple, a, b, numbers))
    for _, a, b, numbers in sorted(found, key=lambda f: f[0]):
        words = [_path_words(stage, e, c, sizes, scalars) for e, c in zip((a, b), numbers, strict=True)]
        yield Hypothesis(
            words[0][0],
            "; and ".join(w[1] for w in words),
            "; and ".join(w[2] for w in words),
            _scaled(stage, dict(zip((a, b), numbers, strict=True))),
        )
    for edge in edges:
        for wrong in wrong_cotangents(stage.view(scene, edge)):
            p = _moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            for other, path in columns:
                norm = float(path @ path)
                change = float(path @ (r - p)) / norm
                if np.linalg.norm(r - p - change * path) > FITS * size or other == edge:
                    continue
                number = 1 + change
                if abs(number) > 1e-7 and name_number(number, sizes, scalars) is None:
                    continue
                _cause, detail, fix = _path_words(stage, other, number, sizes, scalars)
                first = _rule_hypothesis(stage, (edge,), wrong)

                def alter(
                    view: Any, c: Any, edge: Edge = edge, label: str = wrong.label, number: float = number
                ) -> Any:
                    return _looked_up(view, label) if view.edge == edge else number * c

                yield Hypothesis(
                    first.cause,
                    f"{first.detail}; and {detail}",
                    f"{first.fix}; and {fix}",
                    partial(_altered, stage, (edge, other), alter),
                )


def _scaled_rules(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One local rule wrong, or one path dropped or doubled, and the leaf a multiple of what this gives."""
    scene = scenes[0]
    rows, edges = _within_reach(stage, tangents, left)
    m, t = (
        tangents.seen([gradient[i] for i in tangents.leaves])[rows]
        for gradient in (scene.probe.manual, scene.probe.truth)
    )
    sizes, scalars = stage.numbers(scene)

    def multiple(edge: Edge, cotangent: Any) -> Any:
        """The number, by name."""
        wrong = t + _moved(stage, tangents, edge, cotangent - scene.sweep.cotangents[edge], rows)
        square = float(wrong @ wrong)
        alpha = float(wrong @ m) / square if square else 0.0
        if not alpha or np.linalg.norm(m - alpha * wrong) > FITS * np.linalg.norm(m):
            return None
        return alpha, name_number(alpha, sizes, scalars)

    for edge in edges:
        c = scene.sweep.cotangents[edge]
        paths = [(_path_hypothesis(stage, (edge,), a, sizes, scalars), a * c) for a in (0.0, 2.0, -1.0)]
        rules = [(_rule_hypothesis(stage, (edge,), w), w.cotangent) for w in wrong_cotangents(stage.view(scene, edge))]
        for hypothesis, cotangent in [*rules, *paths]:
            found = multiple(edge, cotangent)
            if found is not None and found[1] is not None:
                alpha, name = found
                leaves = ", ".join(f"d{stage.problem.paths[i]}" for i in left)
                meaning = f" ({name.meaning})" if name.meaning else ""
                yield hypothesis._replace(
                    detail=f"{hypothesis.detail}; and {leaves} is {name.text} of what it should be{meaning}",
                    fix=f"{hypothesis.fix}; and {undo(leaves, name.text)}",
                    gradient=partial(_times, alpha, hypothesis.gradient),
                )


def _times(alpha: float, gradient: Callable[[Scene], Sequence[Any] | None], scene: Scene) -> Sequence[Any] | None:
    found = gradient(scene)
    return None if found is None else [None if g is None else alpha * g for g in found]


def _scaled(stage: Stage, coefficients: dict[Edge, float]) -> Callable[[Scene], Sequence[Any] | None]:
    """The gradient with paths times numbers."""
    return partial(_altered, stage, list(coefficients), lambda view, c: coefficients[view.edge] * c)


def _near(a: float, b: float) -> bool:
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


# Simple ones first.
SEARCHES = (
    *(_paths, _rules, _factors, _composites, _detours),
    *(_scaled_rules, _variants, _loops, _pairs, _residuals),
)
