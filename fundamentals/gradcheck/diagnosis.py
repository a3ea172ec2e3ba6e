"""What is wrong with a wrong gradient, by name.

A cause is a hypothesis that says what the wrong gradient would be. It is found at one point and accepted if it gives
the wrong gradient at fresh ones: then the mistake, made in the right gradient, reproduces the given one, and taking it
back makes that right. Hypotheses are tried from the simplest on:

    a leaf by itself     0, a multiple, transposed, flipped, another leaf's: `fits`, `leaves`
    one path             what one use of a value contributes is dropped, doubled, negated, scaled: `hypotheses`
    one local rule       an operation's derivative is wrong in one of the usual ways: `operators`, `structural`
    a factor             of a path, of dy, of the derivative of several operations: `products`
    every step           of a loop, or off by one: `steps`
    two of them          `twofold`
    bookkeeping          assigned for added, in another order, from another layout or another value: `bookkeeping`
    another function     eps elsewhere, another approximation, other axes: `variants`, `axes`
    a map for its adjoint     `adjoints`
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
from fundamentals.gradcheck.evident import by_evidence
from fundamentals.gradcheck.hypotheses import Hypothesis, holding, paths, rules
from fundamentals.gradcheck.judge import Evidence
from fundamentals.gradcheck.leaves import ENTRIES, Found, conjugates, leaf_fits, remaining_fits, unexplained
from fundamentals.gradcheck.probes import cotangents, nudge, perturb, polish
from fundamentals.gradcheck.products import factors, leaf_factors, macros, result_factors
from fundamentals.gradcheck.report import Cause, Diagnosis, Verdict
from fundamentals.gradcheck.rounding import Probe
from fundamentals.gradcheck.scenes import OutOfTimeError, Scene, Stage
from fundamentals.gradcheck.steps import loops
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.twofold import pairs, rule_and_path, scaled_rules, two_rules

FRESH = 2  # points at which an explanation has to hold too


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
        diagnosis = by_evidence(problem, evidence, i)
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


def _explained(problem: Problem, evidence: Evidence, wrong: list[int], seconds: float) -> list[Diagnosis]:
    entries = sum(problem.leaves[i].size for i in problem.which)
    stage = Stage(problem if entries <= ENTRIES and not problem.numeric else problem._replace(program=None))
    fit = _worst_probe(evidence, wrong)
    fresh = [_fresh(problem, evidence, fit, seed) for seed in range(1, (FRESH if entries <= ENTRIES else 1) + 1)]
    scenes = [stage.scene(probe) for probe in [fit, *fresh]]
    searches = [
        lambda left: leaf_fits(stage, scenes, left),
        lambda left: conjugates(stage, scenes, left),
        lambda left: _edges(stage, scenes, left, seconds),
        lambda left: remaining_fits(stage, scenes, left, problem),
    ]
    left, found = list(wrong), []
    for search in searches:
        for diagnosis, explained in search(left):
            found.append(diagnosis)
            left = [i for i in left if i not in explained]
        if not left:
            break
    found += [unexplained(stage, scenes[0], wrong, i) for i in left]
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
    *(paths, rules, factors, result_factors, composites, loops, partial(pairs, simple=True)),
    *(partial(rules, tier=1), leaf_factors, scaled_rules, macros, partial(rules, tier=2)),
    *(partial(composites, tier=1), partial(scaled_rules, tier=1), pairs, assignments, misread, detours),
    *(reversed_order, of_variants, applied_forward, other_axes, rule_and_path, two_rules, residuals),
)


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
            except Exception as error:  # one search the less; what it could not do is said if nothing else is found
                name = getattr(search, "__name__", "") or search.func.__name__  # type: ignore[attr-defined]
                stage.failed.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:80]}")
                continue
            if hypothesis is not None:
                names = ", ".join(stage.problem.paths[i] for i in wrong)
                yield Diagnosis(hypothesis.cause, names, hypothesis.detail, hypothesis.fix, True), set(wrong)
                done |= set(wrong)
                break
    stage.deadline = math.inf
