"""What is wrong with a wrong gradient, by name.

A cause is a hypothesis that says what the wrong gradient would be. It is found at one point and accepted if it gives
the wrong gradient at fresh ones: then the mistake, made in the right gradient, reproduces the given one, and taking it
back makes that right. Hypotheses are tried from the simplest on:

    a leaf by itself     0, a multiple, transposed, flipped, another leaf's: `fits`
    one path             what one use of a value contributes is dropped, doubled, negated, scaled: `hypotheses`
    one local rule       an operation's derivative is wrong in one of the usual ways, or times a tensor: `operators`
    two of them          `twofold`
    bookkeeping          assigned for added, in another order, from another layout or another value: `bookkeeping`
    another function     eps elsewhere, another approximation, no stop_gradient: `variants`
    every step           of a loop, or off by one: `steps`
    some entries         a condition that tells which are wrong: `fits`

Paths and rules are places of the program of the function itself, so functions that nobody has seen before are explained
as well as known ones, with the line where they are written.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from fundamentals.gradcheck import fits
from fundamentals.gradcheck.adjoints import applied_forward
from fundamentals.gradcheck.axes import other_axes
from fundamentals.gradcheck.bookkeeping import (
    assignments,
    composites,
    detours,
    misread,
    of_variants,
    residuals,
    reversed_order,
)
from fundamentals.gradcheck.hypotheses import Hypothesis, holding, paths, reproduces, rules
from fundamentals.gradcheck.judge import Evidence
from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.naming import short
from fundamentals.gradcheck.precision import is_key
from fundamentals.gradcheck.probes import cotangents, nudge, perturb, polish
from fundamentals.gradcheck.products import factors, leaf_factors, macros
from fundamentals.gradcheck.report import Cause, Diagnosis, Verdict
from fundamentals.gradcheck.rounding import Probe
from fundamentals.gradcheck.scenes import OutOfTimeError, Scene, Stage
from fundamentals.gradcheck.steps import loops
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import Edge, is_inexact
from fundamentals.gradcheck.twofold import pairs, rule_and_path, scaled_rules, two_rules

FRESH = 2  # points at which an explanation has to hold too

ENTRIES = 200_000  # of all arguments together, beyond which only leaves by themselves are explained


def explain(problem: Problem, evidence: Evidence, seconds: float) -> list[Diagnosis]:
    """The causes of what is wrong, one or more for each wrong leaf. seconds: after which no further ones are tried."""
    wrong = [
        i
        for i, leaf in enumerate(evidence.leaves)
        if leaf.verdict is Verdict.WRONG or (evidence.hidden and leaf.detail.startswith("right at the arguments given"))
    ]
    if not wrong:
        return []
    with np.errstate(all="ignore"):
        return _causes(problem, evidence, wrong, seconds)


def _causes(problem: Problem, evidence: Evidence, wrong: list[int], seconds: float) -> list[Diagnosis]:
    found: dict[int, Diagnosis] = {}
    for i in wrong:
        diagnosis = _by_contract(problem, evidence, i)
        if diagnosis is not None:
            found[i] = diagnosis
    rest = [i for i in wrong if i not in found]
    more: list[Diagnosis] = []
    if rest and evidence.probes and evidence.probes[0].truth:
        more = _explained(problem, evidence, rest, seconds)
    elif rest:
        more = [
            Diagnosis(
                Cause.UNEXPLAINED,
                problem.paths[i],
                "finite differences do not agree; there is no autodiff to say more",
                "",
                False,
            )
            for i in rest
        ]
    return _merged([found[i] for i in sorted(found)] + more)


def _by_contract(problem: Problem, evidence: Evidence, i: int) -> Diagnosis | None:
    """Causes that need no hypothesis."""
    path = problem.paths[i]
    leaf = evidence.leaves[i]
    if leaf.detail.startswith("in ") and ", it is " in leaf.detail:
        return Diagnosis(
            Cause.NONFINITE,
            path,
            f"d{path} is right in float64, but {leaf.detail}",
            "write it so that nothing overflows on the way: sigmoid(x), not exp(x) / (1 + exp(x)); subtract the "
            "maximum before exp; keep divisions away from 0",
            True,
        )
    if leaf.detail.startswith("in ") and "its error is" in leaf.detail:
        return Diagnosis(
            Cause.PRECISION,
            path,
            f"d{path} is right in float64, but {leaf.detail}",
            "look for differences of large numbers that are almost the same, and for sums in a narrow type",
            True,
        )
    if evidence.imprecise is not None and evidence.leaves[i].detail.startswith("rounded to"):
        place = evidence.imprecise.line
        return Diagnosis(
            Cause.PRECISION,
            path,
            f"d{path} is right in float64 but for its rounding to {evidence.imprecise.dtype}"
            + (f" ({place})" if place else "")
            + f": an error of {evidence.leaves[i].relative_error:.1e}",
            "accumulate in float32 at least, and round once at the end",
            True,
        )
    if evidence.ignores[i]:
        return Diagnosis(
            Cause.COTANGENT_IGNORED,
            path,
            f"d{path} is the same for every dy: the upstream gradient is left out",
            "multiply by dy (the chain rule): it is 1 only where the function is the last one",
            True,
        )
    if evidence.nonlinear[i]:
        return Diagnosis(
            Cause.COTANGENT_NONLINEAR,
            path,
            f"d{path} is not linear in dy, as every backward pass is: dy is squared, compared with a number, or "
            "added to one",
            "let dy appear once, as a factor; take masks from the forward pass",
            True,
        )
    for probe in evidence.probes:
        if not probe.truth:
            continue
        bad = np.isfinite(probe.truth[i]) & ~np.isfinite(probe.manual[i])
        if np.any(bad):
            where = _condition(problem, probe, i, bad)
            value = np.real(probe.manual[i][tuple(np.argwhere(bad)[0])])
            return Diagnosis(
                Cause.NONFINITE,
                path,
                f"d{path} is {value} {where}; the gradient there is finite",
                "keep the division, root or logarithm away from 0: choose its argument with jnp.where before, not its "
                "result after",
                True,
            )
    return None


def _condition(problem: Problem, probe: Probe, i: int, mask: Any) -> str:
    """Words for which entries."""
    x = probe.leaves[problem.which[i]]
    for name, predicate in fits.predicates_of(x, _integers(problem, probe)).items():
        if predicate.shape == mask.shape and np.array_equal(predicate, mask):
            return name
    return "everywhere" if np.all(mask) else f"at {np.argwhere(mask)[0].tolist()}"


def _integers(problem: Problem, probe: Probe) -> dict[str, Any]:
    names = problem.program.inputs if problem.program else [f"[{i}]" for i in range(len(probe.leaves))]
    return {
        f"argument {name}": x
        for name, x in zip(names, probe.leaves, strict=False)
        if not is_key(x) and not np.issubdtype(x.dtype, np.inexact)
    }


def _explained(problem: Problem, evidence: Evidence, wrong: list[int], seconds: float) -> list[Diagnosis]:
    entries = sum(problem.leaves[i].size for i in problem.which)
    stage = Stage(problem if entries <= ENTRIES and not problem.numeric else problem._replace(program=None))
    fit = _worst_probe(evidence, wrong)
    fresh = [_fresh(problem, evidence, fit, seed) for seed in range(1, (FRESH if entries <= ENTRIES else 1) + 1)]
    scenes = [stage.scene(probe) for probe in [fit, *fresh]]
    searches = [
        lambda left: _leaf_fits(stage, scenes, left),
        lambda left: _conjugates(stage, scenes, left),
        lambda left: _edges(stage, scenes, left, seconds),
        lambda left: _remaining_fits(stage, scenes, left, problem),
    ]
    left, found = list(wrong), []
    for search in searches:
        for diagnosis, explained in search(left):
            found.append(diagnosis)
            left = [i for i in left if i not in explained]
        if not left:
            break
    found += [_unexplained(stage, scenes[0], wrong, i) for i in left]
    return found


def _merged(found: list[Diagnosis]) -> list[Diagnosis]:
    """Diagnoses that say the same of several leaves, as one."""
    groups: dict[Any, list[Diagnosis]] = defaultdict(list)
    for d in found:
        groups[d.cause, d.detail.replace(f"d{d.leaf}", "d·"), d.fix.replace(f"d{d.leaf}", "d·")].append(d)
    merged = []
    for same in groups.values():
        first = same[0]
        leaves = ", ".join(d.leaf for d in same)
        together = ", ".join(f"d{d.leaf}" for d in same)
        detail = first.detail.replace(f"d{first.leaf}", together, 1) if len(same) > 1 else first.detail
        fix = first.fix.replace(f"d{first.leaf}", together, 1) if len(same) > 1 else first.fix
        merged.append(first._replace(leaf=leaves, detail=detail, fix=fix))
    return merged


def _worst_probe(evidence: Evidence, wrong: list[int]) -> Probe:
    """A point where all that is wrong shows; a generic one if possible."""

    def shown(probe: Probe) -> int:
        return sum(not fits.alike(probe.truth[i], probe.manual[i], 1e-9) for i in wrong)

    generic = [p for p in evidence.probes[1:] if p.truth]
    best = max(generic, key=shown, default=evidence.probes[0])
    return best if shown(best) >= shown(evidence.probes[0]) else evidence.probes[0]


def _fresh(problem: Problem, evidence: Evidence, fit: Probe, seed: int) -> Probe:
    """A point that no explanation has seen. If the mistake shows only at the arguments given (zeros, ties), one that
    keeps what is special about them: each argument times a number.
    """
    random = np.random.RandomState(1000 + seed)
    assert problem.truth is not None
    special = fit is evidence.probes[0] and len(evidence.probes) > 1
    dy = cotangents(problem.outputs, random, problem.is_loss)
    for spread in (1e-3,) if evidence.careful else (0.3, 0.03, 0.003):
        leaves = list(fit.leaves)
        for i in problem.which:
            if special:
                leaves[i] = (leaves[i] * np.exp(spread * random.standard_normal())).astype(leaves[i].dtype)
            else:
                leaves[i] = perturb(leaves[i], random, spread)
                if evidence.kink is not None:
                    leaves[i] = polish(nudge(leaves[i], random, 1e-2 * spread))
        if all(np.all(np.isfinite(y)) for y in problem.value(leaves)):
            truth, manual = problem.truth(leaves, dy), problem.manual(leaves, dy)
            return Probe(leaves, dy, truth, manual)
    return Probe(fit.leaves, dy, problem.truth(fit.leaves, dy), problem.manual(fit.leaves, dy))


# Simple ones first: one place and its own numbers, then another value, then two places.
SEARCHES: tuple[Callable[..., Iterator[Hypothesis]], ...] = (
    *(paths, rules, factors, composites, loops, partial(pairs, simple=True), partial(rules, tier=1), leaf_factors),
    *(macros, partial(rules, tier=2), partial(composites, tier=1), scaled_rules, pairs, assignments, misread),
    *(detours, reversed_order, of_variants, applied_forward, other_axes, rule_and_path, two_rules, residuals),
)
Found = Iterator[tuple[Diagnosis, set[int]]]


def _leaf_fits(stage: Stage, scenes: list[Scene], left: list[int]) -> Found:
    """Multiples and rearrangements. Zeros in several leaves have one cause further up, if there is a path to name."""
    together = len(left) > 1
    for leaf in left:
        for generate in (fits.scalar_fits, fits.layout_fits):
            fit = _confirmed(stage, scenes, leaf, generate, {})
            if fit is not None and not (together and fit.cause is Cause.ZERO and len(stage.edges)):
                yield Diagnosis(fit.cause, stage.problem.paths[leaf], fit.detail, fit.fix, True), {leaf}
                break


def _conjugates(stage: Stage, scenes: list[Scene], left: list[int]) -> Found:
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


def _edges(stage: Stage, scenes: list[Scene], left: list[int], seconds: float) -> Found:
    """Paths and local rules, for all wrong leaves at once, then for each."""
    if not stage.edges or any(not np.all(np.isfinite(scenes[0].probe.manual[i])) for i in left):
        return
    every = list(range(len(stage.problem.which)))
    watched = left + [i for i in every if i not in left][: max(0, 8 - len(left))]
    tangents = stage.tangents(scenes[0], watched)
    targets = [left, *([i] for i in left)] if len(left) > 1 else [left]
    done: set[int] = set()
    end = time.monotonic() + seconds
    for k, wrong in enumerate(targets):
        if done.issuperset(wrong):
            continue
        wrong = [i for i in wrong if i not in done]
        rest = end - time.monotonic()  # half of it for all together
        stage.deadline = time.monotonic() + rest / (2 if k == 0 and len(targets) > 1 else len(targets) - k)
        for search in SEARCHES:
            try:
                hypothesis = next(holding(stage, scenes, wrong, search(stage, scenes, tangents, wrong)), None)
            except OutOfTimeError:
                break
            if hypothesis is not None:
                names = ", ".join(stage.problem.paths[i] for i in wrong)
                yield Diagnosis(hypothesis.cause, names, hypothesis.detail, hypothesis.fix, True), set(wrong)
                done |= set(wrong)
                break
    stage.deadline = math.inf


def _remaining_fits(stage: Stage, scenes: list[Scene], left: list[int], problem: Problem) -> Found:
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
        fit = (
            _confirmed(stage, scenes, leaf, fits.scalar_fits, {})
            or _confirmed(stage, scenes, leaf, fits.permutation_fits, {})
            or _confirmed(stage, scenes, leaf, fits.factor_fits, tensors)
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
            predicates = fits.predicates_of(s.probe.leaves[problem.which[leaf]], _integers(problem, s.probe))
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
        following = use[1].outvars[0]
        if following.aval.shape != variable.aval.shape or not is_inexact(following) or len(use[1].outvars) > 1:
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


def _unexplained(stage: Stage, scene: Scene, wrong: list[int], leaf: int) -> Diagnosis:
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
    if stage.stopped:
        hints.append('the search was stopped before its end, as it took long: budget="full" lets it take longer')
    return Diagnosis(Cause.UNEXPLAINED, path, ". ".join([text, *hints]), "", False)
