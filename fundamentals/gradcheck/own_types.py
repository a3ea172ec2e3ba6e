"""The gradient in the types that it is called with.

In float64 a gradient can be right that is useless in float32: exp(x) / (1 + exp(x)) is NaN there at x = 100, and a
difference of large numbers has no digits left. So it is evaluated once as the caller would, at the arguments given.
What autodiff cannot do better in the same types is the function's fault, not that of its gradient.
"""

from typing import NamedTuple

import jax
import numpy as np

from fundamentals.gradcheck.comparison import index
from fundamentals.gradcheck.kinks import scale_of
from fundamentals.gradcheck.report import Verdict
from fundamentals.gradcheck.rounding import Probe
from fundamentals.gradcheck.subject import Problem

LOST = 1e-2  # an error, relative to the largest entry; narrow types are allowed 30 last places if that is more


class Failure(NamedTuple):
    """Of one leaf, right in float64."""

    verdict: Verdict
    error: float | None
    detail: str


def failures(problem: Problem, home: Probe) -> dict[int, Failure]:
    """By leaf: not finite where it should be, or with few digits left."""
    if problem.as_called is None or all(dtype.itemsize >= 8 for dtype in problem.given):
        return {}
    found: dict[int, Failure] = {}
    gradient, by_autodiff = problem.as_called(home.dy), None
    for i, (g, m, t, dtype) in enumerate(
        zip(gradient, home.manual, home.truth or home.manual, problem.given, strict=True)
    ):
        limits = jax.numpy.finfo(dtype)
        representable = np.isfinite(t) & np.isfinite(m) & (np.abs(m) < float(limits.max))
        scale = scale_of(np.where(representable, m, 0))
        bad = representable & ~np.isfinite(g)
        with np.errstate(all="ignore"):
            error = float(np.max(np.abs(np.where(representable & ~bad, g - m, 0)), initial=0.0)) / (scale or 1.0)
        if not np.any(bad) and error <= max(LOST, 30 * float(limits.eps)):
            continue
        if by_autodiff is None and problem.autodiff_as_called is not None:
            by_autodiff = problem.autodiff_as_called(home.dy)
        other = by_autodiff[i] if by_autodiff is not None else None
        if np.any(bad):
            place = tuple(np.argwhere(bad)[0])
            where = f"in {dtype}, it is {np.real(g[place])} at {index(place)}"
            if other is not None and np.any(bad & ~np.isfinite(other)):
                found[i] = Failure(Verdict.INCONCLUSIVE, None, f"{where}, and so is autodiff's")
            else:
                found[i] = Failure(Verdict.WRONG, None, f"{where}, and {np.real(m[place]):.6g} in float64")
        elif other is not None:
            least = float(np.max(np.abs(np.where(representable, other - t, 0)), initial=0.0)) / (scale or 1.0)
            if error > 10 * least:
                detail = f"in {dtype}, its error is {error:.1e}; that of autodiff is {least:.1e}"
                found[i] = Failure(Verdict.WRONG, error, detail)
    return found
