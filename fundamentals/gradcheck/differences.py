"""Finite differences with an error bar: the oracle that knows nothing of derivatives.

The central difference φ(h) = ⟨dy, f(x + h u) − f(x − h u)⟩ / 2h is f′ + a₂h² + a₄h⁴ + … plus noise of size ε/h.
Ridders' scheme (C. Ridders, Accurate computation of F'(x) and F'(x)F''(x), 1982) extrapolates a ladder of steps to h =
0; the disagreement of its last columns is one error bar. The other is the noise, ε, of f itself, which is measured by a
table of differences of values at equal tiny steps, in which a smooth function vanishes and noise does not (J. Moré and
S. Wild, Estimating computational noise, 2011). The larger of both is the bar.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

LARGEST = 2.0**-5  # the first step, relative to the size of the argument
RATIO = 2.0


class Slope(NamedTuple):
    """A directional derivative and how far off it may be."""

    value: float
    bar: float
    reason: str = ""  # why the bar is infinite


def slope(
    value: Callable[[list[Any]], tuple[list[Any], list[Any]]],
    leaves: Sequence[Any],
    direction: dict[int, Any],
    dy: Sequence[Any],
    rungs: int = 8,
) -> Slope:
    """The derivative of ⟨dy, f⟩ along a direction.

    Args:
      value: leaves → (f, on which side of each kink they lie); a step must not change the sides.
      leaves: where.
      direction: u, for some of the leaves.
      dy: a cotangent for each leaf of the result.
      rungs: number of steps, each half the one before.
    """

    def at(h: float) -> list[Any]:
        moved = list(leaves)
        for i, u in direction.items():
            moved[i] = leaves[i] + np.asarray(h * u, leaves[i].dtype)
        return moved

    def contracted(a: Sequence[Any], b: Sequence[Any]) -> float:
        return float(sum(np.sum(np.real(d * (p - q))) for d, p, q in zip(dy, a, b, strict=True)))

    middle, home = value(list(leaves))
    steps = []  # at which the function is finite, and whether on the same side of all kinks
    for h in (LARGEST / 4**k for k in range(24)):
        (above, side_above), (below, side_below) = value(at(h)), value(at(-h))
        if all(np.all(np.isfinite(y)) for y in [*above, *below]):
            steps.append((h, _same(side_above, home) and _same(side_below, home)))
            if steps[-1][1]:
                break
    if not steps:
        return Slope(math.nan, math.inf, "the edge of the domain is too near")
    # A comparison that is about to change at any step need be no kink: |x| in a function that is smooth at 0.
    h = steps[-1][0] if steps[-1][1] else steps[0][0]
    (above, _), (below, _) = value(at(h)), value(at(-h))
    ladder = []
    for k in range(rungs):
        step = h / RATIO**k
        if k:
            (above, _), (below, _) = value(at(step)), value(at(-step))
        ladder.append((step, contracted(above, below) / (2 * step)))
    ulp = float(sum(np.sum(np.abs(d) * np.abs(y)) for d, y in zip(dy, middle, strict=True))) * 2.0**-53
    return _extrapolated(
        ladder, max(ulp / 4, 4 * _noise(lambda t: contracted(value(at(t))[0], middle)) if rungs > 3 else ulp)
    )


def _extrapolated(ladder: list[tuple[float, float]], noise: float) -> Slope:
    """Neville's table in h²; the entry that differs least from its neighbours, no better than noise allows."""
    best = Slope(ladder[-1][1], math.inf, "finite differences do not settle")
    column = [phi for _, phi in ladder]
    floor = [noise / h for h, _ in ladder]
    for order in range(1, len(ladder)):
        factor = RATIO ** (2 * order)
        refined = [(factor * fine - coarse) / (factor - 1) for coarse, fine in itertools.pairwise(column)]
        for i, estimate in enumerate(refined):
            disagreement = max(abs(estimate - column[i]), abs(estimate - column[i + 1]))
            bar = max(disagreement, floor[i + order], abs(estimate) * 1e-14)
            if bar < best.bar:
                best = Slope(estimate, bar)
        column = refined
    return best


def _noise(value: Callable[[float], float]) -> float:
    """The standard deviation of f's rounding: what stays in high differences of values at equal tiny steps."""
    table = np.array([value(k * 1e-9) for k in range(-3, 4)])
    levels = []
    for k in range(1, 6):
        table = np.diff(table)
        levels.append(math.factorial(k) / math.sqrt(math.factorial(2 * k)) * float(np.sqrt(np.mean(table**2))))
    return min(levels[2:])


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
