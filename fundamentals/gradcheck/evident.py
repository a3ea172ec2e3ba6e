"""Causes that what the verdict stands on tells by itself: rounding, an ignored dy, a NaN."""

from typing import Any

import numpy as np

from fundamentals.gradcheck import fits
from fundamentals.gradcheck.judge import Evidence
from fundamentals.gradcheck.precision import is_key
from fundamentals.gradcheck.report import Cause, Diagnosis
from fundamentals.gradcheck.rounding import Probe
from fundamentals.gradcheck.subject import Problem


def by_evidence(problem: Problem, evidence: Evidence, i: int) -> Diagnosis | None:
    """Causes that need no hypothesis."""
    path = problem.paths[i]
    leaf = evidence.leaves[i]
    failed = evidence.failed.get(i)
    if failed is not None and failed.detail == leaf.detail and failed.cause is Cause.NONFINITE:
        return Diagnosis(
            Cause.NONFINITE,
            path,
            f"d{path} is right in float64, but {leaf.detail}",
            "write it so that nothing overflows on the way: sigmoid(x), not exp(x) / (1 + exp(x)); subtract the "
            "maximum before exp; keep divisions away from 0",
            False,
        )
    if failed is not None and failed.detail == leaf.detail:
        return Diagnosis(
            Cause.PRECISION,
            path,
            f"d{path} is right in float64, but {leaf.detail}",
            "look for differences of large numbers that are almost the same, and for sums in a narrow type",
            False,
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
    for name, predicate in fits.predicates_of(x, integers(problem, probe)).items():
        if predicate.shape == mask.shape and np.array_equal(predicate, mask):
            return name
    return "everywhere" if np.all(mask) else f"at {np.argwhere(mask)[0].tolist()}"


def integers(problem: Problem, probe: Probe) -> dict[str, Any]:
    """Arguments that are integers or booleans, by name."""
    names = problem.program.inputs if problem.program else [f"[{i}]" for i in range(len(probe.leaves))]
    return {
        f"argument {name}": x
        for name, x in zip(names, probe.leaves, strict=False)
        if not is_key(x) and not np.issubdtype(x.dtype, np.inexact)
    }
