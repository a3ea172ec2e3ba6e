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


def pairs(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """Two paths."""
    scene = scenes[0]
    r, columns = _columns(stage, scene, tangents, left)
    size = float(np.linalg.norm(r))
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
                    simple = sum(0 if abs(c) < 1e-7 else 1 if near(c, 2) or near(c, -1) else 2 for c in numbers)
                    found.append((simple, a, b, numbers))
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
    edges = [e for e in stage.edges if stage.reach[stage.variable(e)] & set(left)]
    for edge in edges:
        for wrong in wrong_cotangents(stage.view(scene, edge)):
            p = moved(stage, tangents, edge, wrong.cotangent - scene.sweep.cotangents[edge], rows)
            for other, path in columns:
                norm = float(path @ path)
                change = float(path @ (r - p)) / norm
                if np.linalg.norm(r - p - change * path) > FITS * size or other == edge:
                    continue
                number = 1 + change
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


def scaled_rules(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """One local rule wrong, or one path dropped or doubled, and the leaf a multiple of what this gives."""
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
        rules = [(rule_hypothesis(stage, (edge,), w), w.cotangent) for w in wrong_cotangents(stage.view(scene, edge))]
        for hypothesis, cotangent in [*rules, *paths]:
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
