"""Two gradients compared, entry by entry, and what of their difference rounding explains."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.probes import cotangents
from fundamentals.gradcheck.rounding import Probe, Rounding, narrow_dtype, probe_at
from fundamentals.gradcheck.subject import Problem

EXACT = 1e-9  # difference of two float64 gradients, relative to the largest entry, that rounding does not explain


BY_DIFFERENCES = 1e-6  # the same, if one of them is by finite differences


class Error(NamedTuple):
    """Of one leaf at one point."""

    relative: float  # the largest difference, by the scale
    tolerance: float
    where: str
    nonfinite: bool  # the gradient is not finite where autodiff's is


def valued_probe(problem: Problem, leaves: list[Any], dy: list[Any]) -> tuple[list[Any], Probe]:
    """The function's value and the probe, in one evaluation if autodiff gives both."""
    if problem.value_and_truth is None:
        return problem.value(leaves), probe_at(problem, leaves, dy)
    values, truth = problem.value_and_truth(leaves, dy)
    return values, Probe(leaves, dy, truth, problem.manual(leaves, dy))


def compare(problem: Problem, probe: Probe, i: int, rounding: Rounding | None) -> Error:
    """The difference of a leaf from autodiff's, by its scale, and what rounding may explain of it."""
    t, m = probe.truth[i], probe.manual[i]
    if problem.precise and not problem.numeric:  # the usual case, in few passes over the arrays
        with np.errstate(invalid="ignore"):
            scale, worst = _largest(t), _largest(m - t)
        if worst <= EXACT * scale < np.inf:
            return Error(worst / scale if scale else 0.0, EXACT, "", False)
    usable = np.isfinite(t)
    if problem.numeric and not np.all(usable):
        return Error(0.0, np.inf, "", False)
    nonfinite = bool(np.any(usable & ~np.isfinite(m)))
    scale = scale_of(t)
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.where(usable & np.isfinite(m), m - t, 0))
    worst = float(np.max(difference, initial=0.0))
    base = (
        BY_DIFFERENCES
        if problem.numeric
        else EXACT
        if problem.precise
        else 64 * float(np.finfo(narrow_dtype(problem)).eps)
    )
    tolerance = base
    if nonfinite:
        bad = np.argwhere(usable & ~np.isfinite(m))
        return Error(np.inf, tolerance, f"{m[tuple(bad[0])]} at {index(bad[0])}" + _more(len(bad)), True)
    if worst > base * scale and rounding is not None:
        noise, gross = rounding.of(probe, i)
        scale = max(scale, gross)
        tolerance = max(base, 30 * noise / scale if scale else base)
    scale = scale or worst
    relative = worst / scale if scale else 0.0
    places = np.argwhere(difference > tolerance * scale)
    return Error(relative, tolerance, _where(places, difference, t.shape) if len(places) else "", False)


def _largest(x: Any) -> float:
    """max |x|, without another array of that size; NaN if there is one."""
    if np.iscomplexobj(x) or not x.size:
        return float(np.max(np.abs(x), initial=0.0))
    return abs(float(np.maximum(np.max(x), -np.min(x))))  # 0 and −0 are 0


def linearity(problem: Problem, probe: Probe, random: np.random.RandomState) -> tuple[list[bool], list[bool]]:
    """Whether each leaf ignores dy, and whether it is anything else but linear in it."""
    other = cotangents(problem.outputs, random, False)
    second = problem.manual(probe.leaves, other)
    combined = problem.manual(probe.leaves, [2 * a - 3 * b for a, b in zip(probe.dy, other, strict=True)])
    ignores, nonlinear = [], []
    for a, b, c in zip(probe.manual, second, combined, strict=True):
        usable = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
        a, b, c = (np.where(usable, x, 0) for x in (a, b, c))
        scale = max(map(scale_of, (a, b, c)))
        digits = 1e-9 if problem.precise else 64 * float(jax.numpy.finfo(narrow_dtype(problem)).eps)
        ignores.append(scale > 0 and bool(np.all(np.abs(a - b) <= digits * scale)) and bool(np.any(a)))
        nonlinear.append(not ignores[-1] and bool(np.any(np.abs(2 * a - 3 * b - c) > 10 * digits * scale)))
    return ignores, nonlinear


def imprecise(problem: Problem, probes: list[Probe]) -> dict[int, float]:
    """Leaves that are right in float64 and wrong in the types that the gradient is written with: with an error ten
    times that of rounding once to the type of the argument and of the function's own intermediate results.
    """
    if problem.rough is None or problem.narrow is None:
        return {}
    found = {}
    rough = problem.rough(probes[0].leaves, probes[0].dy)
    for i, (r, m) in enumerate(zip(rough, probes[0].manual, strict=True)):
        least = [problem.given[i]] + ([problem.narrow_primal.dtype] if problem.narrow_primal else [])
        eps = max(float(jax.numpy.finfo(dtype).eps) for dtype in least)
        scale = scale_of(m)
        error = float(np.max(np.abs(np.asarray(r, m.dtype) - m), initial=0.0)) / scale if scale else 0.0
        if error > 10 * eps and float(jax.numpy.finfo(problem.narrow.dtype).eps) > eps:
            found[i] = error
    return found


def _where(places: Any, difference: Any, shape: tuple[int, ...]) -> str:
    """Which entries, as short as can be said."""
    count, size = len(places), int(np.prod(shape, dtype=int))
    if not shape:
        return ""
    if count == size:
        return "everywhere" if size > 1 else f"at {index(places[0])}"
    largest = index(np.unravel_index(int(np.argmax(difference)), shape))
    for axis in range(len(shape)):
        rows = np.unique(places[:, axis])
        if shape[axis] > 1 and len(rows) <= 3 and count == len(rows) * (size // shape[axis]) and count > 1:
            which = ", ".join(map(str, rows))
            return f"where axis {axis} is {which}"
    return f"at {largest}" + ("" if count == 1 else f" and {count - 1:,} more of {size:,} entries")


def _more(count: int) -> str:
    return "" if count == 1 else f" and {count - 1:,} more"


def index(place: Any) -> str:
    """A place in an array: [1, 2]."""
    return "[" + ", ".join(str(int(k)) for k in place) + "]"
