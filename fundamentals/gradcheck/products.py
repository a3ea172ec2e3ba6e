"""Factors: a path, a leaf, or the derivative through several operations, times or divided by tensors of the forward
pass; or another product of them in place of the derivative.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fundamentals.gradcheck.fits import alike
from fundamentals.gradcheck.hypotheses import FITS, Hypothesis, altered, near, target, within_reach
from fundamentals.gradcheck.naming import Name, name_number
from fundamentals.gradcheck.pool import Factor, Pool, pool, value_of
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge, is_complex, is_inexact

ASKED = 100_000  # factors, at all places together
NEAR = 24  # equations between two values of which one is a function of the other


def factors(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One path times a tensor of the forward pass, and perhaps a number that has a name."""
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    r = target(scene, tangents)[rows]
    numbers = stage.numbers(scene)
    scaled = []
    few = _entries(stage, left)  # a leaf of one entry is a multiple of anything
    for edge in edges:
        c = scene.sweep.cotangents[edge]
        if c.size < 2 or np.iscomplexobj(c):
            continue
        candidates = pool(stage, scene, c.shape).first(ASKED // len(edges))
        seen = tangents.values[stage.variable(edge)][rows] * np.ravel(c)
        for factor, number in _matches(stage, candidates, seen, r + seen.sum(1)):
            if near(number, 1):
                yield _path_times(stage, edge, factor, 1.0, None)
            elif few > 2:
                scaled.append((edge, factor, number, name_number(number, *numbers)))
    for edge, factor, number, name in scaled:
        if name is not None:
            yield _path_times(stage, edge, factor, number, name)


def result_factors(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """dy times a tensor: as if the function went on after its result, or ended before it."""
    scene = scenes[0]
    rows = tangents.rows(left)
    r = target(scene, tangents)[rows]
    results = [v for v in stage.flat.jaxpr.jaxpr.outvars if is_inexact(v)]
    for k, (v, dy) in enumerate(zip(results, scene.probe.dy, strict=True)):
        if v not in tangents.values or dy.size < 2 or is_complex(v):
            continue
        seen = tangents.values[v][rows] * np.ravel(dy)
        for factor, number in _matches(stage, pool(stage, scene, dy.shape), seen, r + seen.sum(1)):
            if near(number, 1):
                cause, what, fix = words(factor, 1.0, None)
                which = f"dy[{k}]" if len(results) > 1 else "dy"
                yield Hypothesis(cause, f"{which} {what}", fix, partial(_dy_times, stage, k, factor))


def _dy_times(stage: Stage, k: int, factor: Factor, scene: Scene) -> Sequence[Any] | None:
    value = value_of(stage, scene, factor, scene.probe.dy[k].shape)
    assert stage.problem.truth is not None
    if value is None:
        return None
    dy = [d * value if j == k else d for j, d in enumerate(scene.probe.dy)]
    return stage.problem.truth(scene.probe.leaves, dy)


def _entries(stage: Stage, left: list[int]) -> int:
    return sum(stage.problem.leaves[stage.problem.which[i]].size for i in left)


def _matches(stage: Stage, candidates: Pool, seen: Any, wanted: Any) -> list[tuple[Factor, float]]:
    """Factors, and numbers, that make of what is seen entry by entry, [rows, size], what is wanted, [rows]."""
    stage.heed_time()
    made = candidates.values @ seen.T  # [factors, rows]
    square = np.einsum("fr,fr->f", made, made)
    size = float(np.linalg.norm(wanted))
    with np.errstate(all="ignore"):
        numbers = np.where(square > 0, made @ wanted / square, 0.0)
        fits = np.linalg.norm(wanted - numbers[:, None] * made, axis=1) <= FITS * size
    good = np.flatnonzero(fits & (np.abs(numbers) > 1e-9))
    order = sorted(good, key=lambda k: (not near(float(numbers[k]), 1), abs(abs(candidates.factors[k].power) - 1)))
    return [(candidates.factors[k], float(numbers[k])) for k in order]


def _path_times(stage: Stage, edge: Edge, factor: Factor, number: float, name: Name | None) -> Hypothesis:
    def alter(view: Any, c: Any, scene: Scene) -> Any:
        value = value_of(stage, scene, factor, c.shape)
        return None if value is None else number * c * value

    def gradient(scene: Scene) -> Sequence[Any] | None:
        return altered(stage, (edge,), partial(alter, scene=scene), scene)

    value = stage.name(stage.variable(edge))
    cause, what, fix = words(factor, number, name)
    return Hypothesis(cause, f"the path from {value} through {stage.place(edge)} {what}", fix, gradient)


def words(factor: Factor, number: float, name: Name | None) -> tuple[Cause, str, str]:
    """Cause, what there is to say of a product with a factor and a number, and the fix."""
    if name is not None and name.kind == "size" and factor.divides and factor.power == 1 and number < 1:
        count = name.text.removeprefix("1/")
        return (
            Cause.WRONG_OPERAND,
            f"is divided by {count} ({name.meaning}) in place of {factor.name}",
            (f"divide by {factor.name}"),
        )
    times = "" if near(number, 1) else f", and is {number:.6g} times what it should be then"
    if factor.is_missing:
        return Cause.MISSING_FACTOR, f"lacks the factor {factor.inverse}{times}", f"multiply by {factor.inverse}"
    return Cause.EXTRA_FACTOR, f"has an extra factor {factor.text}{times}", f"leave out {factor.text}"


def leaf_factors(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A leaf whose entries are those of the right one times one tensor or two, or right where a mask is 1."""
    if len(left) != 1:
        return
    (leaf,) = left
    scene = scenes[0]
    path, t, m = stage.problem.paths[leaf], scene.probe.truth[leaf], scene.probe.manual[leaf]
    if t.size < 2 or np.iscomplexobj(t):
        return
    candidates = pool(stage, scene, t.shape)
    for k, factor in enumerate(candidates.factors):
        if factor.mask and alike(t, m * candidates.values[k].reshape(t.shape)):
            yield Hypothesis(
                Cause.MISSING_FACTOR,
                f"d{path} lacks the factor {factor.name}",
                f"multiply by {factor.name}",
                partial(_masked, stage, leaf, factor),
            )
    usable = np.ravel((np.abs(t) > 1e-12 * np.max(np.abs(t))) & (m != 0))
    if np.count_nonzero(usable) < 0.8 * t.size or np.count_nonzero(usable) < 3:
        return
    ratio = np.ravel(m)[usable] / np.ravel(t)[usable]
    for found, number in _products(candidates, ratio, usable):
        name = name_number(number, *stage.numbers(scene))
        if name is None and not near(number, 1):
            continue
        times = "" if near(number, 1) else f", and is {number:.6g} times what it should be then"
        if len(found) == 1:
            cause, what, fix = words(found[0], number, name)
            detail = f"d{path} {what}"
        elif all(not f.is_missing for f in found):
            what = " ".join(f.text for f in found)
            cause, detail, fix = Cause.EXTRA_FACTOR, f"d{path} has an extra factor {what}{times}", f"leave out {what}"
        else:
            what = " ".join(f.inverse for f in found)
            cause, detail, fix = Cause.MISSING_FACTOR, f"d{path} lacks the factor {what}{times}", f"multiply by {what}"
        yield Hypothesis(cause, detail, fix, partial(_leaf_times, stage, leaf, found, number))


def _products(candidates: Pool, ratio: Any, usable: Any) -> Iterator[tuple[tuple[Factor, ...], float]]:
    """One or two factors whose product is a multiple of the ratio, entry by entry.

    Logarithms, less their means, of a product are sums: two of a thousand are found by sorting a projection.
    """
    with np.errstate(all="ignore"):
        logs = np.log(np.abs(candidates.values[:, usable]))
    good = [k for k in np.flatnonzero(np.all(np.isfinite(logs), axis=1)) if not candidates.factors[k].mask]
    if not good:
        return
    logs = logs[good] - logs[good].mean(1, keepdims=True)
    wanted = np.log(np.abs(ratio))
    wanted = wanted - wanted.mean()
    scale = float(np.max(np.abs(wanted), initial=0.0))
    if scale < 1e-6:
        return
    values = candidates.values[good][:, usable]

    def number(product: Any) -> float | None:
        each = ratio / product
        mean = float(np.mean(each))
        return mean if np.max(np.abs(each - mean)) <= 1e-7 * abs(mean) else None

    for k in np.flatnonzero(np.max(np.abs(logs - wanted), axis=1) <= 1e-6 * scale):
        found = number(values[k])
        if found is not None:
            yield (candidates.factors[good[k]],), found
    weights = np.random.RandomState(0).standard_normal(logs.shape[1])
    projected = logs @ weights
    order = np.argsort(projected)
    rest = float(wanted @ weights) - projected
    places = np.searchsorted(projected[order], rest - 1e-6 * scale)
    for i, place in enumerate(places):
        while place < len(order) and projected[order[place]] <= rest[i] + 1e-6 * scale:
            j = order[place]
            place += 1
            if j <= i or candidates.factors[good[i]].name == candidates.factors[good[j]].name:
                continue
            if np.max(np.abs(logs[i] + logs[j] - wanted)) > 1e-6 * scale:
                continue
            found = number(values[i] * values[j])
            if found is not None:
                yield (candidates.factors[good[i]], candidates.factors[good[j]]), found


def _leaf_times(
    stage: Stage, leaf: int, found: tuple[Factor, ...], number: float, scene: Scene
) -> Sequence[Any] | None:
    gradient = list(scene.probe.truth)
    value = number * gradient[leaf]
    for factor in found:
        other = value_of(stage, scene, factor, value.shape)
        if other is None:
            return None
        value = value * other
    gradient[leaf] = value
    return gradient


def _masked(stage: Stage, leaf: int, factor: Factor, scene: Scene) -> Sequence[Any] | None:
    """The given gradient where the mask is 0, if it is right where it is 1: the fix makes it right."""
    value = value_of(stage, scene, factor, scene.probe.truth[leaf].shape)
    if value is None:
        return None
    gradient = list(scene.probe.truth)
    gradient[leaf] = np.where(value == 0, scene.probe.manual[leaf], gradient[leaf])
    return gradient if not np.any(scene.probe.truth[leaf][value == 0]) else None


def macros(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """The derivative of a value with respect to one several operations before it, replaced: by 1, by that of a softmax,
    by a tensor.
    """
    scene = scenes[0]
    rows = tangents.rows(left)
    r = target(scene, tangents)[rows]
    numbers = stage.numbers(scene)
    few = _entries(stage, left)
    found: list[Hypothesis] = []
    asked = 0
    for result in _results(stage, left):
        shape = result.aval.shape
        g = scene.sweep.outputs.get(result)
        sources = list(_sources(stage, result, left))
        if g is None or not np.any(g) or np.iscomplexobj(g) or not sources:
            continue
        through = _through(stage, scene, result, g)
        for source, edge in sources:
            c = through.get(source)
            if c is None or not np.any(c) or np.iscomplexobj(c):
                continue
            seen = tangents.values[source][rows]
            wanted = r + seen @ np.ravel(c)
            size = float(np.linalg.norm(wanted))
            if size <= FITS * np.linalg.norm(r):
                continue
            if np.linalg.norm(wanted - seen @ np.ravel(g)) <= FITS * size:
                yield _macro(stage, source, result, edge, None, 1.0)
            for name, formula in _FORMULAS.items():
                for axis in range(len(shape)):
                    made = seen @ np.ravel(formula(scene.sweep.values[result], g, axis))
                    if np.linalg.norm(wanted - made) <= FITS * size:
                        own = [
                            k
                            for k in range(len(shape))
                            if alike(c, formula(scene.sweep.values[result], g, k).reshape(c.shape))
                        ]
                        yield _formula(stage, source, result, edge, name, axis, own)
            candidates = pool(stage, scene, shape).first(ASKED - asked)
            asked += len(candidates.factors)
            for factor, number in _matches(stage, candidates, seen * np.ravel(g), wanted):
                if near(number, 1) or (few > 2 and name_number(number, *numbers) is not None):
                    found.append(_macro(stage, source, result, edge, factor, number))
    yield from found


def _results(stage: Stage, left: list[int]) -> list[Any]:
    return [
        v
        for e in stage.flat.equations
        for v in e.outvars
        if is_inexact(v) and v.aval.size > 1 and stage.reach.get(v, frozenset()) & set(left)
    ]


def _sources(stage: Stage, result: Any, left: list[int]) -> Iterator[tuple[Any, Edge]]:
    """Values of the shape of a result, two equations or more before it."""
    made = stage.maker[result]
    direct = stage.flat.equations[made].invars
    for source, edges in stage.edges_of.items():
        if (
            source.aval.shape == result.aval.shape
            and made - NEAR <= edges[0].equation < made
            and stage.reach.get(source, frozenset()) >= set(left)
            and not any(v is source for v in direct)
        ):
            yield source, edges[0]


def _through(stage: Stage, scene: Scene, result: Any, g: Any) -> dict[Any, Any]:
    """What comes back to every value through a result alone: all gates behind it closed, its cotangent put in."""
    made = stage.maker[result]
    edges = stage.edges_of.get(result, [])
    if not edges:
        closed = scene.run({}, {e: 0.0 for es in stage.edges_of.values() for e in es if e.equation > made})
        return closed.outputs if _only_result(stage, result) else {}
    closed_gates = {e: 0.0 for es in stage.edges_of.values() for e in es if e.equation > made}
    return scene.run({edges[0]: g}, closed_gates).outputs


def _only_result(stage: Stage, result: Any) -> bool:
    outputs = [v for v in stage.flat.jaxpr.jaxpr.outvars if is_inexact(v)]
    return len(outputs) == 1 and outputs[0] is result


_FORMULAS = {
    "softmax": lambda y, g, axis: y * (g - np.sum(y * g, axis, keepdims=True)),
    "log-softmax": lambda y, g, axis: g - np.exp(y) * np.sum(g, axis, keepdims=True),
    "subtraction of a mean": lambda y, g, axis: g - np.mean(g, axis, keepdims=True),
}


def _replaced(stage: Stage, source: Any, result: Any, edge: Edge, make: Any, scene: Scene) -> Sequence[Any] | None:
    g = scene.sweep.outputs[result]
    c = _through(stage, scene, result, g).get(source)
    other = make(scene, g)
    if c is None or other is None:
        return None
    gradient = scene.run({edge: other - c}).gradient
    return [gradient[i] for i in stage.problem.which]


def _macro(stage: Stage, source: Any, result: Any, edge: Edge, factor: Factor | None, number: float) -> Hypothesis:
    def make(scene: Scene, g: Any) -> Any:
        if factor is None:
            return g
        value = value_of(stage, scene, factor, g.shape)
        return None if value is None else number * g * value

    derivative = f"the derivative of {stage.name(result)} with respect to {stage.name(source)}"
    gradient = partial(_replaced, stage, source, result, edge, make)
    if factor is None:
        return Hypothesis(
            Cause.MISSING_FACTOR, f"{derivative} is left out: 1 in its place", f"multiply by {derivative}", gradient
        )
    text = factor.text if near(number, 1) else f"{number:.6g} {factor.text}"
    return Hypothesis(Cause.WRONG_OPERAND, f"{derivative} is replaced by {text}", f"multiply by {derivative}", gradient)


def _formula(stage: Stage, source: Any, result: Any, edge: Edge, name: str, axis: int, own: list[int]) -> Hypothesis:
    derivative = f"the derivative of {stage.name(result)} with respect to {stage.name(source)}"

    def make(scene: Scene, g: Any) -> Any:
        return _FORMULAS[name](scene.sweep.values[result], g, axis)

    gradient = partial(_replaced, stage, source, result, edge, make)
    fix = f"multiply by {derivative}"
    if own:
        detail = f"{derivative}, that of a {name} along axis {own[0]}, is taken along axis {axis}"
        return Hypothesis(Cause.WRONG_AXIS, detail, f"sum along axis {own[0]}", gradient)
    detail = f"{derivative} is replaced by that of a {name} along axis {axis} with the same result"
    return Hypothesis(Cause.OTHER_FORWARD, detail, fix, gradient)
