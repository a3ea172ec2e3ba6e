"""What `benchmark_svm` measures, and its verdicts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments import common, measure

OURS, LIBSVM = "fundamentals", "libsvm"
ROUNDS = 5  # at least, however long they take, for a time that is judged
OBJECTIVE, FEASIBLE, REPORTED = 1e-5, 1e-12, 1e-9
TIES = 10  # tolerances that y f may be from 1


class Row(NamedTuple):
    """One problem."""

    name: str
    kernel: str
    points: int
    dimensions: int
    c: float
    timed: bool
    seconds: dict[str, list[float]]  # by solver, a list of rounds
    first: float  # seconds of our first call, which compiles
    objective: dict[str, float]
    support: dict[str, int]
    differing: int | None  # support vectors of one alone
    tie: float | None  # of those the largest |y f − 1|
    infeasible: float  # of our α
    reported: float  # relative difference of the objective that we report from NumPy's
    converged: bool
    iterations: int

    @property
    def relative(self) -> float | None:
        """Difference of the objectives."""
        if LIBSVM not in self.objective:
            return None
        return abs(self.objective[OURS] - self.objective[LIBSVM]) / abs(self.objective[LIBSVM])

    @property
    def ratio(self) -> float | None:
        """Our time over libsvm's, the median over rounds."""
        return time_ratio(self.seconds)


class Grid(NamedTuple):
    """All of C and γ."""

    points: int
    fits: int
    seconds: dict[str, list[float]]
    first: float
    relative: float | None  # largest difference of objectives
    converged: bool

    @property
    def ratio(self) -> float | None:
        """Our time over libsvm's, the median over rounds."""
        return time_ratio(self.seconds)


class Large(NamedTuple):
    """One fit in a process of its own."""

    solver: str
    points: int
    seconds: float  # of the second fit
    first: float
    peak_bytes: int  # of the process
    before_bytes: int  # resident before it fits
    objective: float
    support: int
    converged: bool


def time_ratio(seconds: Mapping[str, Sequence[float]]) -> float | None:
    """The median over rounds, if both ran."""
    if not seconds.get(LIBSVM):
        return None
    return statistics.median(a / b for a, b in zip(seconds[OURS], seconds[LIBSVM], strict=True))


def judge(
    rows: Sequence[Row],
    grid: Grid | None,
    large: Sequence[Large],
    *,
    tolerance: float,
    target_time: float,
    target_memory: float,
) -> list[common.Verdict]:
    """Times and agreement. What there was no peer for, or were too few rounds, is not judged."""
    verdicts = []
    if rows:
        stuck = [row.name for row in rows if not row.converged]
        reported = float(np.max([row.reported for row in rows]))
        infeasible = float(np.max([row.infeasible for row in rows]))
        verdicts += [
            common.Verdict("converged to the tolerance", f"{len(rows) - len(stuck)} of {len(rows)}",
                           f"{len(rows)} of {len(rows)}", not stuck),
            common.Verdict("α in [0, C] and Σ α y = 0, relative to C and Σ α", f"{infeasible:.1e}", f"≤ {FEASIBLE:.0e}",
                           infeasible <= FEASIBLE),
            common.Verdict("the dual objective reported is that computed in NumPy", f"{reported:.1e}",
                           f"≤ {REPORTED:.0e}", reported <= REPORTED),
        ]  # fmt: skip
    compared = [row for row in rows if row.relative is not None]
    if compared:
        worst = max(compared, key=lambda row: _last(row.relative))
        claim = f"dual objective, relative to libsvm's: the largest difference of {len(compared)} fits"
        measured = f"{worst.relative:.1e} ({worst.name}, {worst.points:,})"
        holds = all(row.relative is not None and row.relative <= OBJECTIVE for row in compared)
        verdicts.append(common.Verdict(claim, measured, f"≤ {OBJECTIVE:.0e}", holds))
        ties = max(compared, key=lambda row: _last(row.tie))
        total, ours = sum(row.differing or 0 for row in compared), sum(row.support[OURS] for row in compared)
        claim = f"support vectors of one alone, {total} of {ours:,}, are ties: |y f − 1|"
        measured = f"≤ {ties.tie:.1e} ({ties.name}, {ties.points:,})" if total else "none"
        holds = all(row.tie is not None and row.tie <= TIES * tolerance for row in compared)
        verdicts.append(common.Verdict(claim, measured, f"≤ {TIES * tolerance:.0e}", holds))
    for row in rows:
        if row.timed and row.ratio is not None and target_time and len(row.seconds[OURS]) >= ROUNDS:
            claim = f"time / libsvm's: {row.name}, RBF, {row.points:,} points"
            verdicts.append(common.Verdict(claim, f"{row.ratio:.2f}", f"≤ {target_time:g}", row.ratio <= target_time))
    verdicts += _judge_grid(grid) if grid else []
    verdicts += _judge_large(large, target_memory)
    return verdicts


def _last(value: float | None) -> float:
    """For a maximum: what is no number is the largest."""
    return math.inf if value is None or math.isnan(value) else value


def _judge_grid(grid: Grid) -> list[common.Verdict]:
    verdicts = []
    if grid.relative is not None:
        claim = f"grid of {grid.fits} fits, {grid.points:,} points: dual objective, relative to libsvm's"
        holds = grid.relative <= OBJECTIVE
        verdicts.append(common.Verdict(claim, f"≤ {grid.relative:.1e}", f"≤ {OBJECTIVE:.0e}", holds))
    if grid.ratio is not None and len(grid.seconds[OURS]) >= ROUNDS:
        claim = "… time of one vmapped call / that of the loop"
        verdicts.append(common.Verdict(claim, f"{grid.ratio:.2f}", "< 1", grid.ratio < 1))
    if not grid.converged:
        verdicts.append(common.Verdict("… converged", "not all", "all", False))
    return verdicts


def _judge_large(large: Sequence[Large], target_memory: float) -> list[common.Verdict]:
    found = {fit.solver: fit for fit in large}
    verdicts = []
    if OURS in found and target_memory:
        ours = found[OURS]
        claim = f"peak memory of a fit of {ours.points:,} points, with interpreter and libraries"
        holds = ours.peak_bytes <= target_memory * measure.GIB and ours.converged
        measured = f"{ours.peak_bytes / measure.GIB:.2f} GiB" + ("" if ours.converged else ", not converged")
        verdicts.append(common.Verdict(claim, measured, f"≤ {target_memory:g} GiB", holds))
    if {OURS, LIBSVM} <= set(found):
        relative = abs(found[OURS].objective - found[LIBSVM].objective) / abs(found[LIBSVM].objective)
        claim = "… dual objective, relative to libsvm's"
        verdicts.append(common.Verdict(claim, f"{relative:.1e}", f"≤ {OBJECTIVE:.0e}", relative <= OBJECTIVE))
    return verdicts
