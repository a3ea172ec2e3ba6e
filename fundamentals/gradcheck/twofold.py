"""Two mistakes at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fundamentals.gradcheck.hypotheses import (
    FITS,
    Hypothesis,
    altered,
    fan_out,
    looked_up,
    moved,
    near,
    path_hypothesis,
    path_words,
    rule_hypothesis,
    scaled,
    target,
    within_reach,
)
from fundamentals.gradcheck.naming import name_number, undo
from fundamentals.gradcheck.operators import wrong_cotangents
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge

PAIRED = 1_500  # rules, of which pairs are tried


def _columns(stage: Stage, scene: Scene, tangents: Tangents, left: list[int]) -> tuple[Any, list[tuple[Edge, Any]]]:
    """What is to be explained, and what each path contributes, one of those that contribute the same."""
    rows = tangents.rows(left)
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] & set(left)]
    r = target(scene, tangents)[rows]
    size = float(np.linalg.norm(r))
    columns: list[tuple[Edge, Any]] = []
    for edge in sorted(edges, key=lambda e: fan_out(stage, e)):
        path = moved(stage, tangents, edge, scene.sweep.cotangents[edge], rows)
        norm = float(np.linalg.norm(path))
        if norm > 1e-10 * size and not any(
            abs(abs(path @ other) - norm * np.linalg.norm(other)) < 1e-9 * norm * np.linalg.norm(other)
            for _, other in columns
        ):
            columns.append((edge, path))
    return r, columns


def pairs(
    stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int], *, simple: bool = False
) -> Iterator[Hypothesis]:
    """Two paths; of those that are simple, one is dropped and the other dropped, doubled, halved or negated."""
    scene = scenes[0]
    r, columns = _columns(stage, scene, tangents, left)
    size = float(np.linalg.norm(r))
    sizes, scalars = stage.numbers(scene)
    found = []
    for k, (a, of_a) in enumerate(columns):
        stage.heed_time()
        for b, of_b in columns[k + 1 :]:
            basis = np.stack([of_a, of_b], 1)
            change = np.linalg.lstsq(basis, r, rcond=None)[0]
            if np.linalg.norm(r - basis @ change) <= FITS * size:
                numbers = [1 + float(c) for c in change]
                named = [abs(c) < 1e-7 or name_number(c, sizes, scalars) is not None for c in numbers]
                if all(named):
                    ranks = [
                        0 if abs(c) < 1e-7 else 1 if near(c, 2) or near(c, -1) or near(c, 0.5) else 2 for c in numbers
                    ]
                    if not simple or (min(ranks) == 0 and max(ranks) < 2):
                        found.append((sum(ranks), a, b, numbers))
    for _, a, b, numbers in sorted(found, key=lambda f: f[0]):
        words = [path_words(stage, e, c, sizes, scalars) for e, c in zip((a, b), numbers, strict=True)]
        yield Hypothesis(
            Cause.MISSING_PATH if any(w[0] is Cause.MISSING_PATH for w in words) else words[0][0],
            "; and ".join(w[1] for w in words),
            "; and ".join(w[2] for w in words),
            scaled(stage, dict(zip((a, b), numbers, strict=True))),
        )


def rule_and_path(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A local rule and a path."""
    scene, rows = scenes[0], tangents.rows(left)
    r, columns = _columns(stage, scene, tangents, left)
    size = float(np.linalg.norm(r))
    sizes, scalars = stage.numbers(scene)
    if not columns:
        return
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] & set(left)]
    paths = np.stack([path for _, path in columns])
    norms = np.einsum("pr,pr->p", paths, paths)
    for edge in edges:
        for wrong in stage.wrongs(scene, edge):
            p = moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            changes = paths @ (r - p) / norms
            left_over = np.linalg.norm(r - p - changes[:, None] * paths, axis=1)
            for k in np.flatnonzero(left_over <= FITS * size):
                other = columns[k][0]
                if other == edge:
                    continue
                number = 1 + float(changes[k])
                if abs(number) > 1e-7 and name_number(number, sizes, scalars) is None:
                    continue
                _cause, detail, fix = path_words(stage, other, number, sizes, scalars)
                first = rule_hypothesis(stage, (edge,), wrong)

                def alter(
                    view: Any, c: Any, edge: Edge = edge, label: str = wrong.label, number: float = number
                ) -> Any:
                    return looked_up(view, label) if view.edge == edge else number * c

                yield Hypothesis(
                    first.cause,
                    f"{first.detail}; and {detail}",
                    f"{first.fix}; and {fix}",
                    partial(altered, stage, (edge, other), alter),
                )


def two_rules(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Two local rules: at places that do not feed one another, or one after the other where nothing else joins in."""
    scene, rows = scenes[0], tangents.rows(left)
    r = target(scene, tangents)[rows]
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] & set(left)]
    found: list[tuple[Edge, Any]] = []
    effects = []
    for edge in edges:
        for wrong in stage.wrongs(scene, edge):
            p = moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            if np.any(p) and len(found) < PAIRED:
                found.append((edge, wrong))
                effects.append(p)
    if not found:
        return
    every = np.stack(effects)
    square = np.einsum("ij,ij->i", every, every)
    for i, p in enumerate(effects):  # additive: those for which what the first leaves is the second
        rest = r - p
        distance = square[i + 1 :] - 2 * every[i + 1 :] @ rest + rest @ rest
        for j in np.flatnonzero(distance <= 1e-9 * (r @ r)) + i + 1:
            if found[j][0] != found[i][0] and np.linalg.norm(rest - effects[j]) <= FITS * np.linalg.norm(r):
                yield _both(stage, found[i], found[j])
    for edge in edges:  # one after the other: the value that the first is for is made by the equation of the second
        variable = stage.variable(edge)
        if len(stage.edges_of[variable]) != 1 or variable not in stage.maker:
            continue
        before = [e for e in edges if e.equation == stage.maker[variable]]
        stage.heed_time()
        for wrong in stage.wrongs(scene, edge):
            swept = scene.sweep._replace(outputs=scene.sweep.outputs | {variable: wrong.cotangent})
            for earlier in before:
                for second in wrong_cotangents(stage.view(scene, earlier, swept)):
                    p = moved(stage, tangents, earlier, second.cotangent - scene.sweep.cotangents[earlier], rows)
                    if np.linalg.norm(p - r) <= FITS * np.linalg.norm(r):
                        yield _both(stage, (edge, wrong), (earlier, second))


def _both(stage: Stage, one: tuple[Edge, Any], other: tuple[Edge, Any]) -> Hypothesis:
    first, second = (rule_hypothesis(stage, (edge,), wrong) for edge, wrong in (one, other))
    labels = {edge: wrong.label for edge, wrong in (one, other)}

    def alter(view: Any, c: Any) -> Any:
        return looked_up(view, labels[view.edge])

    return Hypothesis(
        first.cause,
        f"{first.detail}; and {second.detail}",
        f"{first.fix}; and {second.fix}",
        partial(altered, stage, tuple(labels), alter),
    )


def scaled_rules(
    stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int], *, tier: int = 0
) -> Iterator[Hypothesis]:
    """One local rule wrong, or one path dropped or doubled, and the leaf a multiple of what this gives. tier: as of
    `rules`, 1 for both 1 and 2.
    """
    scene = scenes[0]
    rows, edges = within_reach(stage, tangents, left)
    m, t = (
        tangents.seen([gradient[i] for i in tangents.leaves])[rows]
        for gradient in (scene.probe.manual, scene.probe.truth)
    )
    sizes, scalars = stage.numbers(scene)

    def multiple(edge: Edge, cotangent: Any) -> Any:
        """The number, by name."""
        wrong = t + moved(stage, tangents, edge, cotangent - scene.sweep.cotangents[edge], rows)
        square = float(wrong @ wrong)
        alpha = float(wrong @ m) / square if square else 0.0
        if not alpha or np.linalg.norm(m - alpha * wrong) > FITS * np.linalg.norm(m):
            return None
        return alpha, name_number(alpha, sizes, scalars)

    for edge in edges:
        c = scene.sweep.cotangents[edge]
        paths = [(path_hypothesis(stage, (edge,), a, sizes, scalars), a * c) for a in (0.0, 2.0, -1.0)]
        wrongs = [w for w in stage.wrongs(scene, edge) if (w.tier > 0) == (tier > 0)]
        rules = [(rule_hypothesis(stage, (edge,), w), w.cotangent) for w in wrongs]
        for hypothesis, cotangent in [*rules, *(paths if tier == 0 else [])]:
            found = multiple(edge, cotangent)
            if found is not None and found[1] is not None:
                alpha, name = found
                leaves = ", ".join(f"d{stage.problem.paths[i]}" for i in left)
                meaning = f" ({name.meaning})" if name.meaning else ""
                yield hypothesis._replace(
                    detail=f"{hypothesis.detail}; and {leaves} is {name.text} times what it should be{meaning}",
                    fix=f"{hypothesis.fix}; and {undo(leaves, name.text)}",
                    gradient=partial(_times, alpha, hypothesis.gradient),
                )


def _times(alpha: float, gradient: Callable[[Scene], Sequence[Any] | None], scene: Scene) -> Sequence[Any] | None:
    found = gradient(scene)
    return None if found is None else [None if g is None else alpha * g for g in found]
