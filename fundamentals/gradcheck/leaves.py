"""Leaves by themselves: which fit of `fits` holds in all scenes, and what is left to say where none does."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fundamentals.gradcheck import fits
from fundamentals.gradcheck.evident import integers
from fundamentals.gradcheck.hypotheses import reproduces
from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.naming import short
from fundamentals.gradcheck.report import Cause, Diagnosis
from fundamentals.gradcheck.scenes import Scene, Stage
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import Edge, is_inexact

ENTRIES = 200_000  # of all arguments together, beyond which only leaves by themselves are explained
Found = Iterator[tuple[Diagnosis, set[int]]]


def leaf_fits(stage: Stage, scenes: list[Scene], left: list[int]) -> Found:
    """Multiples and rearrangements. Zeros in several leaves have one cause further up, if there is a path to name."""
    together = len(left) > 1
    for leaf in left:
        for generate in (fits.scalar_fits, fits.layout_fits, fits.permutation_fits):
            fit = _confirmed(stage, scenes, leaf, generate, {})
            if fit is not None and not (together and fit.cause is Cause.ZERO and len(stage.edges)):
                yield Diagnosis(fit.cause, stage.problem.paths[leaf], fit.detail, fit.fix, True), {leaf}
                break


def conjugates(stage: Stage, scenes: list[Scene], left: list[int]) -> Found:
    """An argument or dy conjugated that should not be, or not that should."""
    problem = stage.problem
    truth = problem.truth
    assert truth is not None
    named = [("dy", None), *((path, i) for path, i in zip(problem.paths, problem.which, strict=True))]
    for leaf in left:
        for name, number in named:
            if number is not None and not np.iscomplexobj(problem.leaves[number]):
                continue
            if not any(np.iscomplexobj(x) for x in [*scenes[0].probe.dy, *problem.leaves]):
                return

            def conjugated(s: Scene, number: int | None = number) -> list[Any]:
                leaves = [np.conj(x) if k == number else x for k, x in enumerate(s.probe.leaves)]
                dy = [np.conj(d) for d in s.probe.dy] if number is None else s.probe.dy
                return truth(leaves, dy)

            if all(reproduces(s, conjugated(s)[leaf], leaf) for s in scenes):
                path = problem.paths[leaf]
                yield (
                    Diagnosis(
                        Cause.WRONG_OPERAND,
                        path,
                        f"d{path} has {name} conjugated",
                        f"use {name} itself: JAX's cotangents are not conjugated",
                        True,
                    ),
                    {leaf},
                )
                break


def _confirmed(stage: Stage, scenes: list[Scene], leaf: int, generate: Any, tensors: Any) -> fits.Fit | None:
    """The first fit of the first scene that holds at all others."""
    m = scenes[0].probe.manual[leaf]
    for fit in generate(m, stage.known(scenes[0], leaf, tensors[0] if tensors else {})):
        if not fits.alike(m, fit.value) and not (fit.cause is Cause.ZERO and not np.any(m)):
            continue
        if not all(
            any(
                again.label == fit.label
                and (
                    fits.alike(s.probe.manual[leaf], again.value)
                    or (not np.any(again.value) and not np.any(s.probe.manual[leaf]))
                )
                for again in generate(s.probe.manual[leaf], stage.known(s, leaf, tensors[k + 1] if tensors else {}))
            )
            for k, s in enumerate(scenes[1:])
        ):
            continue
        confirmed: fits.Fit = fit
        return confirmed
    return None


def remaining_fits(stage: Stage, scenes: list[Scene], left: list[int], problem: Problem) -> Found:
    """Zeros that nothing further up explains, factors, and conditions on entries."""
    tensors = [stage.tensors(s) for s in scenes]
    for leaf in left:
        path = problem.paths[leaf]
        few = _same_few(scenes, leaf)
        if few or problem.leaves[problem.which[leaf]].size > ENTRIES:
            if few:
                yield (
                    Diagnosis(
                        Cause.SUPPORT,
                        path,
                        f"d{path} is right but at {', '.join(few)}, at every point looked at",
                        "look at how these entries are computed",
                        True,
                    ),
                    {leaf},
                )
            continue
        fit = _confirmed(stage, scenes, leaf, fits.scalar_fits, {}) or _confirmed(
            stage, scenes, leaf, fits.factor_fits, tensors
        )
        if fit is not None:
            yield Diagnosis(fit.cause, path, fit.detail, fit.fix, True), {leaf}
            continue
        place = _other_mask(stage, scenes, leaf)
        if place:
            yield (
                Diagnosis(
                    Cause.WRONG_OPERAND,
                    path,
                    f"d{path} is masked as {place} does it, but in other places: by another mask than that of the "
                    "forward pass",
                    "keep the mask of the forward pass, or draw it again from the same key",
                    True,
                ),
                {leaf},
            )
            continue
        conditions = []
        for k, s in enumerate(scenes):
            predicates = fits.predicates_of(s.probe.leaves[problem.which[leaf]], integers(problem, s.probe))
            if s.swept is not None:
                for v, name in stage.names.items():
                    if v.aval.dtype == np.bool_ and v.aval.shape == s.probe.truth[leaf].shape:
                        mask = np.asarray(s.swept.values[v])
                        predicates |= {f"where {name} holds": mask, f"where {name} does not hold": ~mask}
            found = dict(fits.support_fits(s.probe.manual[leaf], stage.known(s, leaf, tensors[k]), predicates))
            conditions.append(found)
        shared = [key for key in conditions[0] if all(key in other for other in conditions[1:])]
        if shared:
            text = conditions[0][shared[0]]
            yield (
                Diagnosis(
                    Cause.SUPPORT,
                    path,
                    f"{text}; elsewhere it is right",
                    "look at what the backward pass does there: a mask, a bound or a special value",
                    True,
                ),
                {leaf},
            )


def _same_few(scenes: list[Scene], leaf: int) -> list[str]:
    """The entries that are wrong if they are few in many, and the same everywhere."""
    wrong = [
        np.argwhere(~(np.abs(s.probe.manual[leaf] - s.probe.truth[leaf]) <= 1e-8 * scale_of(s.probe.truth[leaf])))
        for s in scenes
    ]
    size = scenes[0].probe.truth[leaf].size
    if not 0 < len(wrong[0]) <= min(8, size // 1000) or not all(np.array_equal(w, wrong[0]) for w in wrong):
        return []
    return [str(list(map(int, w))) for w in wrong[0]]


def _other_mask(stage: Stage, scenes: list[Scene], leaf: int) -> str:
    """Where a leaf, used once and entry by entry, is multiplied by numbers that the gradient has at other entries."""
    if stage.program is None or scenes[0].swept is None:
        return ""
    variable = stage.program.jaxpr.jaxpr.invars[stage.problem.which[leaf]]
    while stage.uses[variable] == 1:
        uses = [(i, e) for i, e in enumerate(stage.flat.equations) if any(v is variable for v in e.invars)]
        if not uses:  # it is a result
            return ""
        use = uses[0]
        following = use[1].outvars[0] if use[1].outvars else variable
        if (
            following is variable
            or following.aval.shape != variable.aval.shape
            or not is_inexact(following)
            or len(use[1].outvars) > 1
        ):
            return ""
        if all(_permuted(s, following, leaf) for s in scenes):
            return stage.place(Edge(use[0], [v is variable for v in use[1].invars].index(True)))
        variable = following
    return ""


def _permuted(scene: Scene, variable: Any, leaf: int) -> bool:
    assert scene.swept is not None
    g = scene.swept.outputs.get(variable)
    if g is None or not np.all(g):
        return False
    right, given = (np.unique(np.round(x[leaf] / g, 7)) for x in (scene.probe.truth, scene.probe.manual))
    return 1 < len(right) <= 4 and set(given) <= set(right) and len(given) > 1


def unexplained(stage: Stage, scene: Scene, wrong: list[int], leaf: int) -> Diagnosis:
    """Where it can be, and what the right gradient obeys that this one does not."""
    problem = stage.problem
    path = problem.paths[leaf]
    t, m = scene.probe.truth[leaf], scene.probe.manual[leaf]
    hints = []
    scale = scale_of(t)
    for axis in range(t.ndim):
        if t.shape[axis] > 1 and scale_of(t.sum(axis)) < 1e-9 * scale and scale_of(m.sum(axis)) > 1e-6 * scale:
            hints.append(
                f"the right d{path} sums to 0 along axis {axis}, since adding a number to {path} there changes "
                "nothing; this one does not"
            )
    x = scene.probe.leaves[problem.which[leaf]]
    for axis in range(t.ndim):
        inner, given = (x * t).sum(axis), (x * m).sum(axis)
        bound = scale_of(x) * scale
        if t.shape[axis] > 1 and scale_of(inner) < 1e-9 * bound and scale_of(given) > 1e-6 * bound:
            hints.append(
                f"the right d{path} is orthogonal to {path} along axis {axis}, since scaling {path} changes nothing; "
                "this one is not"
            )
    if stage.edges and stage.program is not None and len(wrong) < len(problem.which):
        only = [e for e in stage.edges if stage.reach[stage.variable(e)] <= set(wrong)]
        lines = list(dict.fromkeys(filter(None, (short(stage.equation(e)) for e in only))))
        right = [problem.paths[i] for i in range(len(problem.which)) if i not in wrong]
        if lines:
            hints.append(
                f"the gradient for {', '.join(right[:4])} is right, so the mistake is in what only {path} goes "
                f"through: {', '.join(lines[:6])}"
            )
    error = np.abs(m - t)
    largest = np.unravel_index(int(np.nanargmax(error)) if error.size else 0, error.shape)
    text = (
        f"d{path} is wrong, most at {list(map(int, largest))}: {np.real(m[largest]):.6g} for "
        f"{np.real(t[largest]):.6g}; no single mistake that is known gives this"
    )
    if stage.failed:
        hints.append(f"searches that ended with an exception: {'; '.join(dict.fromkeys(stage.failed))}")
    if stage.stopped:
        hints.append('the search was stopped before its end, as it took long: budget="full" lets it take longer')
    return Diagnosis(Cause.UNEXPLAINED, path, ". ".join([text, *hints]), "", False)
