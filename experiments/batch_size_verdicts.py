"""What `batch_size` measured, as data; its tables and its verdicts."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import common, measure

ERRORS = 4  # standard errors that a measured mean may be off: of some ten of them, chance takes one in a thousand runs
SAME = 1e-12  # relative, of the same numbers in float64, summed in another order


class Noise(NamedTuple):
    """Of the gradients of minibatches of n examples, drawn in one way."""

    n: int
    replace: bool
    measured: float  # mean of |ĝ − g|² over the draws
    error: float  # its standard error
    variance: float  # σ², of a single example, exact
    total: int  # N

    @property
    def predicted(self) -> float:
        """σ²/n; without replacement, what is drawn leaves the less to differ."""
        return self.variance / self.n * (1 if self.replace else (self.total - self.n) / (self.total - 1))

    @property
    def off(self) -> float:
        """How far it is from what was predicted, in standard errors. The full batch is exact: no more than rounding."""
        if self.predicted == 0:
            return 0.0 if self.measured <= SAME * self.variance else math.inf
        return abs(self.measured - self.predicted) / self.error if self.error > 0 else math.inf


class Sums(NamedTuple):
    """Training with the gradient of the sum, its η that of the mean over n, from training with the mean."""

    n: int
    larger: int
    steps: int
    apart: float  # the trajectories, relative, at n
    larger_apart: float  # with the same η of the sum, at the larger n
    first_step: float  # there, the length of the sum's first step over the mean's


class Descent(NamedTuple):
    """Every step with all examples; and with few, at the largest η that was stable without noise."""

    etas: np.ndarray  # [E]
    at_start: np.ndarray  # [S], sharpness
    losses: np.ndarray  # [S, E, T + 1]
    sharpness: np.ndarray  # [S, E, T]
    few: int = 0
    few_losses: np.ndarray | None = None  # [S, T + 1]

    @property
    def largest(self) -> np.ndarray:
        """The largest η λ along the path, [S, E]; infinite if it was not finite."""
        steps: np.ndarray = np.nan_to_num(self.etas[:, None] * np.abs(self.sharpness), nan=np.inf)
        largest: np.ndarray = steps.max(axis=-1)
        return largest

    @property
    def stable_eta(self) -> int | None:
        """The index of the largest η that is below 2/λ at every step of every seed."""
        stable = np.flatnonzero((self.largest < 2).all(axis=0))
        return int(stable[-1]) if len(stable) else None

    @property
    def far(self) -> np.ndarray:
        """The η that are above 4/λ at the start in every seed, [E]."""
        far: np.ndarray = np.all(self.etas * self.at_start[:, None] > 4, axis=0)
        return far


class Cells(NamedTuple):
    """One n, all η."""

    n: int
    epochs: np.ndarray  # [S, E] to the target; infinite if it was not reached
    diverged: np.ndarray  # [S, E]: not reached, and the last loss above that of the start
    parts: int  # of an epoch, at whose ends the loss was looked at
    sharpness: np.ndarray  # [S] where the best η reached the target; NaN in a seed that did not

    @property
    def typical(self) -> np.ndarray:
        """The median over seeds, [E]; that of an even number is the upper one, so that half a success is none."""
        upper: np.ndarray = np.sort(self.epochs, axis=0)[len(self.epochs) // 2]
        return upper

    @property
    def best(self) -> int | None:
        """The index of the η with the fewest epochs; None if none reached the target."""
        return int(np.argmin(self.typical)) if np.isfinite(self.typical).any() else None


class Measured(NamedTuple):
    """All that is finished."""

    sizes: list[int]  # n
    etas: np.ndarray  # [E]
    target: float
    epochs: int  # at most
    optimizer: str
    noise: Sequence[Noise] = ()
    sums: Sums | None = None
    descent: Descent | None = None
    cells: Sequence[Cells] = ()
    seconds: dict[int, float] | None = None  # of an epoch, by n

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "noise": [noise._asdict() | {"predicted": noise.predicted} for noise in self.noise],
            "sums": self.sums and self.sums._asdict(),
            "descent": self.descent and _lists(self.descent._asdict()),
            "cells": [_lists(cells._asdict()) for cells in self.cells],
            "seconds_of_an_epoch": self.seconds,
        }


def _lists(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(v).tolist() if isinstance(v, np.ndarray) else v for name, v in fields.items()}


def exponent(noise: Sequence[Noise]) -> tuple[float, float]:
    """Least squares of log variance against log n, and what the errors of the variances make of its standard error."""
    x = np.log([one.n for one in noise])
    weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    errors = np.array([one.error / one.measured for one in noise])
    return float(weights @ np.log([one.measured for one in noise])), float(np.sqrt(np.sum((weights * errors) ** 2)))


def growth(measured: Measured) -> tuple[float, int]:
    """The exponent with which the best η grows with n, from the first n to the last before its limit, and that n."""
    best = [float(measured.etas[cells.best]) for cells in measured.cells if cells.best is not None]
    last = best.index(max(best))
    if last == 0:
        return 0.0, measured.cells[0].n
    x, y = (np.log(values[: last + 1]) for values in ([cells.n for cells in measured.cells], best))
    return float(np.polyfit(x, y, 1)[0]), measured.cells[last].n


def flow_times(measured: Measured) -> list[float]:
    """η · steps to the target in the cells far below the limits: η at most an eighth of the best at this n.

    Only where at least ten looks at the loss were taken until then: the time is known to one of them.
    """
    total = measured.sizes[-1]
    times = []
    for cells in measured.cells:
        if cells.best is None:
            continue
        for eta, epochs in zip(measured.etas, cells.typical, strict=True):
            if eta <= measured.etas[cells.best] / 8 and math.isfinite(epochs) and epochs * cells.parts >= 10:
                times.append(float(eta * epochs * total / cells.n))
    return times


def print_tables(measured: Measured) -> None:
    """Of what is finished."""
    if measured.noise:
        rows = []
        for noise in measured.noise:
            off = "exact" if noise.predicted == 0 else f"{noise.off:.1f}"
            found = f"{noise.measured:.3g} ± {noise.error:.1g}"
            rows.append((f"{noise.n}", "with" if noise.replace else "without", found, f"{noise.predicted:.3g}", off))
        title = "Mean squared deviation of a minibatch's gradient"
        common.table(title, ["n", "replacement", "measured", "predicted", "standard errors apart"], rows)
    if measured.cells:
        best_rows: list[tuple[str, ...]] = []
        for cells in measured.cells:
            second = (measured.seconds or {}).get(cells.n)
            each = measure.time_text([second]) if second else ""
            if cells.best is None:
                best_rows.append((f"{cells.n}", "none", f"> {measured.epochs}", "", each, "", ""))
                continue
            eta, epochs = measured.etas[cells.best], cells.typical[cells.best]
            steps, whole = epochs * measured.sizes[-1] / cells.n, measure.time_text([second * epochs]) if second else ""
            sharp = f"{np.nanmedian(cells.sharpness) * eta:.2f}"
            best_rows.append((f"{cells.n}", f"{eta:g}", f"{epochs:g}", f"{steps:.0f}", each, whole, sharp))
        columns = ["n", "best η", "epochs", "steps", "time of an epoch", "time to target", "η λ at the target"]
        common.table(f"Fewest epochs to a loss of {measured.target:g}, median over seeds", columns, best_rows)


def judge(measured: Measured) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    complete = len(measured.cells) == len(measured.sizes)
    theory = measured.optimizer == "sgd"
    return [
        *(_judge_noise(measured.noise) if measured.noise else []),
        *(_judge_sums(measured.sums) if measured.sums else []),
        *(_judge_descent(measured.descent) if measured.descent else []),
        *(_judge_passes(measured) if complete else []),
        *(_judge_rates(measured) if complete and theory else []),
    ]


def _judge_noise(noise: Sequence[Noise]) -> list[common.Verdict]:
    replaced, without = ([one for one in noise if one.replace == replace] for replace in (True, False))
    slope, error = exponent(replaced)
    verdicts = [
        common.Verdict(
            "the variance of a minibatch's gradient goes as a power of n, with replacement",
            f"{slope:.4f} ± {error:.4f}", f"-1 within {ERRORS} errors", abs(slope + 1) <= ERRORS * error, "O4, claim 9",
        )
    ]  # fmt: skip
    for ones, claim in (
        (replaced, "it is σ²/n at every n, with replacement"),
        (without, "it is σ²/n · (N − n)/(N − 1) at every n without; 0 at n = N"),
    ):
        worst = max(ones, key=lambda one: one.off)
        apart = max(abs(one.measured / one.predicted - 1) for one in ones if one.predicted)
        verdicts.append(
            common.Verdict(
                claim, f"≤ {apart:.1%} apart; {worst.off:.1f} errors (n = {worst.n})", f"≤ {ERRORS} errors",
                worst.off <= ERRORS, "O4, claim 9",
            )
        )  # fmt: skip
    return verdicts


def _judge_sums(sums: Sums) -> list[common.Verdict]:
    times = sums.larger / sums.n
    return [
        common.Verdict(
            f"η/n with the sum trains as η with the mean, {sums.steps} steps, n = {sums.n}",
            f"{sums.apart:.1e} apart", f"≤ {SAME:.0e}", sums.apart <= SAME, "O2",
        ),
        common.Verdict(
            f"the same η of the sum at n = {sums.larger}: a longer first step, and another training",
            f"× {sums.first_step:.6g}; {sums.larger_apart:.1e} apart", f"× {times:g}; > 1e-3",
            abs(sums.first_step / times - 1) <= SAME and sums.larger_apart > 1e-3, "O2",
        ),
    ]  # fmt: skip


def _judge_descent(descent: Descent) -> list[common.Verdict]:
    """A full batch falls below 2/λ, which the mean value theorem says of any smooth loss."""
    rises = np.sum(~(np.diff(descent.losses, axis=-1) <= 0), axis=-1)  # what is not a number rose
    verdicts = []
    stable, far = descent.largest < 2, descent.far
    if stable.any():
        verdicts.append(
            common.Verdict(
                "full batch, η < 2/λ at every step: the loss never rises",
                f"{rises[stable].sum()} steps, in {stable.sum()} runs of {descent.sharpness.shape[-1]}", "0",
                bool(rises[stable].sum() == 0), "O4, O5",
            )
        )  # fmt: skip
    if far.any():
        # Beyond 4/λ a step more than triples the distance along the sharpest direction.
        verdicts.append(
            common.Verdict(
                "full batch, η > 4/λ at the start: it does rise",
                f"≥ {rises[:, far].min()} steps of each of {rises[:, far].size} runs", "≥ 1",
                bool(rises[:, far].min() >= 1), "O5",
            )
        )  # fmt: skip
    if descent.few_losses is not None and descent.stable_eta is not None:
        jumps = np.sum(~(np.diff(descent.few_losses, axis=-1) <= 0), axis=-1)
        quiet = rises[:, descent.stable_eta]
        verdicts.append(
            common.Verdict(
                f"at η = {descent.etas[descent.stable_eta]:g} the loss of all, n = {descent.few} and full batch: "
                "with noise it fluctuates", f"{jumps.min()} … {jumps.max()} and {quiet.max()} steps rise", "≥ 1 and 0",
                bool(jumps.min() >= 1 and quiet.max() == 0), "O4, claim 9",
            )
        )  # fmt: skip
    return verdicts


def _judge_passes(measured: Measured) -> list[common.Verdict]:
    """In every seed, the best of the smallest n against the best of the full batch."""
    few, full = (cells.epochs.min(axis=1) for cells in (measured.cells[0], measured.cells[-1]))
    known = np.minimum(full, measured.epochs)  # where the full batch did not get there, it needs more than that
    ratio, most = known / few, measured.cells[-1].n / measured.cells[0].n
    return [
        common.Verdict(
            f"n = {measured.cells[0].n} needs fewer epochs than the full batch, each at its best η",
            f"{np.median(few):g} and {np.median(known):g}, ≥ {ratio.min():.1f} times", f"> 1, ≤ {most:g} times",
            bool(ratio.min() > 1 and ratio.max() <= most), "O4, claim 9",
        )
    ]  # fmt: skip


def _judge_rates(measured: Measured) -> list[common.Verdict]:
    claim = "the best η grows with n, at most as n, to a limit"
    if any(cells.best is None for cells in measured.cells):
        missing = [cells.n for cells in measured.cells if cells.best is None]
        return [common.Verdict(claim, f"none reached the target at n = {missing}", "one for every n", False, "O4")]
    rates = np.array([measured.etas[cells.best] for cells in measured.cells])
    sizes = np.array([cells.n for cells in measured.cells], float)
    power, last = growth(measured)
    grid = float(np.max(measured.etas[1:] / measured.etas[:-1])) if len(measured.etas) > 1 else 1.0
    # The best η is known to half a step of the grid, so that a ratio of two is known to a whole one.
    half = math.sqrt(grid)
    ratios = rates[1:] / rates[:-1]
    at_most = bool(np.all(ratios <= sizes[1:] / sizes[:-1] * grid * (1 + 1e-9)))
    inside = rates[-1] < measured.etas[-1] and rates[0] > measured.etas[0]  # or the grid would be the limit
    grows = bool(np.all(ratios >= 1)) and rates[-1] > rates[0]
    flow = flow_times(measured)
    sharp = [float(eta * np.fmax.reduce(cells.sharpness)) for eta, cells in zip(rates, measured.cells, strict=True)]
    worst = int(np.argmax(sharp))
    start = ""
    if measured.descent:
        start = f"; at the start {float(rates.max() * measured.descent.at_start.max()):.1f}"
    verdicts = [
        common.Verdict(
            claim, f"n^{power:.2f} to n = {last}, then {rates[-1]:g}", "n^0 … n^1, rising",
            bool(at_most and grows and inside), "O4, claim 9",
        ),
        common.Verdict(
            "η λ of the best η, where it reaches the target, at every n",
            f"≤ {sharp[worst]:.2f}{start}", f"≤ 2 × {half:.2f}", sharp[worst] <= 2 * half, "O5, claim 9",
        ),
    ]  # fmt: skip
    if len(flow) > 1:
        middle = float(np.median(flow))
        spread = max(abs(time / middle - 1) for time in flow)
        verdicts.insert(
            0,
            common.Verdict(
                "n trades with η: far below the best η, η · steps to the target is the same for all",
                f"{middle:.1f} ± {spread:.1%} in {len(flow)} cells", "± 10%", spread <= 0.1, "O4",
            ),
        )  # fmt: skip
    return verdicts
