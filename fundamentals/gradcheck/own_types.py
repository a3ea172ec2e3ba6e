"""The gradient in the types that it is called with.

In float64 a gradient can be right that is useless in float32: exp(x) / (1 + exp(x)) is NaN there at x = 100, and a
difference of large numbers has no digits left. So it is evaluated once as the caller would, at the arguments given.
What autodiff cannot do better in the same types is the function's fault, not that of its gradient.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from fundamentals.gradcheck.comparison import index
from fundamentals.gradcheck.precision import widen
from fundamentals.gradcheck.report import Cause, Verdict
from fundamentals.gradcheck.rounding import Probe
from fundamentals.gradcheck.subject import Problem

LOST = 1e-2  # an error of the whole, relative to it; narrow types are allowed 30 last places if that is more.
# Of the whole, as in a large array some comparison or other goes the other way in another type.


class Failure(NamedTuple):
    """Of one leaf, right in float64."""

    cause: Cause
    verdict: Verdict
    error: float | None
    detail: str


def failures(problem: Problem, home: Probe) -> dict[int, Failure]:
    """By leaf: not finite where it should be, or with few digits left."""
    if problem.as_called is None or all(jax.numpy.finfo(dtype).bits >= 64 for dtype in problem.given):
        return {}
    found: dict[int, Failure] = {}
    gradient = problem.as_called(home.dy, 0.0)
    by_autodiff: list[Any] | None = None
    asked = False
    for i, (g, m, t, dtype) in enumerate(
        zip(gradient, home.manual, home.truth or home.manual, problem.given, strict=True)
    ):
        limits = jax.numpy.finfo(dtype)
        allowed = max(LOST, 30 * float(limits.eps))
        if _close(g, m, allowed):  # the usual case, in few passes over the arrays
            continue
        g = widen(g)
        representable = np.isfinite(t) & np.isfinite(m) & (np.abs(m) < float(limits.max))
        bad = representable & ~np.isfinite(g)
        error = _distance(g, m, representable & ~bad)
        if not np.any(bad) and error <= allowed:
            continue
        if not asked:
            by_autodiff, asked = _autodiff(problem, home), True
        other = by_autodiff[i] if by_autodiff is not None else None
        if np.any(bad):
            place = tuple(np.argwhere(bad)[0])
            where = f"in {dtype}, it is {np.real(g[place])}" + (f" at {index(place)}" if place else "")
            if other is not None and np.any(bad & ~np.isfinite(other)):
                found[i] = Failure(Cause.NONFINITE, Verdict.INCONCLUSIVE, None, f"{where}, and so is autodiff's")
            else:
                detail = f"{where}, and {np.real(m[place]):.6g} in float64"
                found[i] = Failure(Cause.NONFINITE, Verdict.WRONG, None, detail)
        elif other is not None:
            least = _distance(other, t, representable & np.isfinite(other))
            # Otherwise it is the function that cannot be told in this type; or a comparison that goes the other way in
            # it, at a kink that it does not have in float64.
            if error > 10 * least and least <= allowed / 10 and not _jumps(problem, home, i, representable, allowed):
                detail = f"in {dtype}, its error is {error:.1e}; that of autodiff is {least:.1e}"
                found[i] = Failure(Cause.PRECISION, Verdict.WRONG, error, detail)
    return found


def _close(g: Any, m: Any, allowed: float) -> bool:
    """Whether both are finite and near."""
    with np.errstate(all="ignore"):
        distance, size = (float(np.linalg.norm(np.ravel(x))) for x in (g - m, m))
    return distance <= allowed * size < np.inf


def _distance(a: Any, b: Any, where: Any) -> float:
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(np.ravel(np.where(where, b, 0)))) or 1.0
        return float(np.linalg.norm(np.ravel(np.where(where, a - b, 0)))) / size


def _autodiff(problem: Problem, home: Probe) -> list[Any] | None:
    """Autodiff in the types given; None where it does not go in reverse, as through a while_loop."""
    assert problem.autodiff_as_called is not None
    try:
        return list(map(widen, problem.autodiff_as_called(home.dy, 0.0)))
    except Exception:  # of the caller's function, which has a gradient otherwise
        return None


def _jumps(problem: Problem, home: Probe, i: int, where: Any, allowed: float) -> bool:
    """Whether the gradient is right a few last places away."""
    assert problem.as_called is not None
    step = 8 * float(jax.numpy.finfo(problem.given[i]).eps)
    sides = (widen(problem.as_called(home.dy, sign * step)[i]) for sign in (1, -1))
    return any(_distance(side, home.manual[i], where & np.isfinite(side)) <= allowed for side in sides)
