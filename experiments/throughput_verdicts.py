"""What `throughput` measured, its roofline, its tables and its verdicts."""

import itertools
import math
import statistics
from typing import Any, NamedTuple

import numpy as np

from experiments import common, measure

EMPTY, TOUCH = "empty", "touch"
ERRORS = 3  # standard errors that a gain must be above its target
NEAR = 4  # a step's products are not square, and what is between them costs too: they may run at a quarter of the peak
FEW = 0.75  # a step that leaves out one of the three products of each layer has about two thirds of them
LEAST = 0.1  # of the roofline, that the largest batch gets to: below it, what takes the time is not what is counted
NOISE = 1.0  # relative, between halves of the rounds: beyond a factor of two they do not say what the device can do


def best(name: str) -> str:
    """The key of the best of a round, where the name's is a mean."""
    return f"{name}, best"


class Costs(NamedTuple):
    """What a training step of an MLP must do at least."""

    flops: int  # of the products, for one sample
    weight_bytes: int
    sample_bytes: int  # the inputs of one sample, read


def costs(layers: list[int], itemsize: int) -> Costs:
    """A product forward, one for dw and one for dx, but that of the inputs, 2 FLOPs for each weight and sample."""
    weights = [n_in * n_out for n_in, n_out in itertools.pairwise(layers)]
    flops = 2 * (3 * sum(weights) - weights[0])
    return Costs(flops, itemsize * (sum(weights) + sum(layers[1:])), itemsize * layers[0])


class Roofline(NamedTuple):
    """What the device can do: the best of all rounds, as whatever else it does at the time only takes away."""

    peak: float  # FLOP/s
    bandwidth: float  # bytes a second
    overhead: float  # seconds
    spread: float  # relative, between the best of the even and of the odd rounds: of the three, the largest


class Rounds(NamedTuple):
    """What is finished."""

    seconds: list[dict[str, float]]  # by name, of each round
    batches: list[int]
    sides: list[int]
    costs: Costs

    def of(self, name: str) -> np.ndarray:
        """Seconds in each round."""
        return np.array([one[name] for one in self.seconds])

    def fastest(self, batch: int) -> float:
        """Seconds of a step in the best of all rounds."""
        return float(self.of(f"step {batch}").min())

    @property
    def roofline(self) -> Roofline:
        """From all rounds."""
        products = np.max([2 * n**3 / self.of(best(f"product {n}")) for n in self.sides], axis=0)
        rates = [products, 2 * self.costs.weight_bytes / self.of(best(TOUCH)), 1 / self.of(best(EMPTY))]
        peak, bandwidth, calls = (float(rate.max()) for rate in rates)
        spread = 0.0
        if len(self.seconds) > 1:
            halves = [(float(rate[::2].max()), float(rate[1::2].max())) for rate in rates]
            spread = max(max(pair) / min(pair) - 1 for pair in halves)
        return Roofline(peak, bandwidth, 1 / calls, spread)

    def least(self, batch: int) -> dict[str, float]:
        """Seconds that a step takes at least, by the reason."""
        roof = self.roofline
        traffic = 2 * self.costs.weight_bytes + batch * self.costs.sample_bytes
        return {
            "overhead": roof.overhead,
            "products": batch * self.costs.flops / roof.peak,
            "traffic": traffic / roof.bandwidth,
        }

    @property
    def line(self) -> tuple[float, float]:
        """(a, b) of a + b B, the seconds of a step: least squares, relative, on the medians."""
        medians = np.array([np.median(self.of(f"step {batch}")) for batch in self.batches])
        lines = np.array([np.ones(len(medians)), self.batches]).T / medians[:, None]
        (a, b), *_ = np.linalg.lstsq(lines, np.ones(len(medians)))
        return float(a), float(b)

    @property
    def knee(self) -> float:
        """a / b: from so many samples on, they take longer than what a step takes for any number of them."""
        a, b = self.line
        return a / b

    @property
    def _peak(self) -> float:
        """FLOP/s; a median too, of the best product in each round."""
        peaks = np.max([2 * n**3 / self.of(f"product {n}") for n in self.sides], axis=0)
        return float(np.median(peaks))

    @property
    def expected_knee(self) -> float:
        """The B whose products, at the peak of the medians, take as long as a."""
        return self.line[0] * self._peak / self.costs.flops

    @property
    def growth(self) -> float:
        """b over what the products of a sample take at the peak of the medians."""
        return self.line[1] * self._peak / self.costs.flops


def judge(found: Rounds, target: float) -> list[common.Verdict]:
    """A verdict on each claim, if there are rounds enough for a standard error."""
    if len(found.seconds) < 3:
        return []
    return [judge_gain(found, target), judge_roofline(found), judge_growth(found)]


def judge_gain(found: Rounds, target: float) -> common.Verdict:
    """Samples a second, of the largest batch over those of one sample, in the same round.

    Fails if the mean of the ratio's logarithm is not 3 standard errors above that of the target.
    """
    last = found.batches[-1]
    gains = np.log(last * found.of("step 1") / found.of(f"step {last}"))
    error = float(gains.std(ddof=1) / math.sqrt(len(gains)))
    mean = float(gains.mean())
    ideal = max(found.least(1).values()) / (max(found.least(last).values()) / last)
    measured = f"{math.exp(mean):.1f}, ×e^±{error:.2f}"
    # Not judged: a B = 1 further below its roofline than the largest batch gains more than the rooflines do.
    claim = f"samples a second, B = {last} over B = 1 (of the rooflines: {ideal:.1f})"
    holds = mean - ERRORS * error >= math.log(target)
    return common.Verdict(claim, measured, f"≥ {target:g}", holds, "B10, claim 18")


def judge_roofline(found: Rounds) -> common.Verdict:
    """The fastest step of every B.

    Fails if one is faster than the roofline by more than halves of the rounds differ in that: then the step leaves out
    what is counted, or the device can do more than was seen. Fails if the largest batch gets to less than a tenth of
    it. Fails if halves of the rounds differ by more than a factor of two, which is too noisy to tell.
    """
    shares = {batch: max(found.least(batch).values()) / found.fastest(batch) for batch in found.batches}
    highest = max(shares, key=lambda batch: shares[batch])
    last, spread = found.batches[-1], found.roofline.spread
    measured = f"{100 * shares[highest]:.0f} % at B = {highest}; {100 * shares[last]:.0f} %"
    predicted = f"≤ {100 * (1 + spread):.0f} %; ≥ {100 * LEAST:.0f} %"
    if spread > NOISE:
        measured += f"; too noisy to tell: halves differ by {100 * spread:.0f} %"
    holds = spread <= NOISE and shares[highest] <= 1 + spread and shares[last] >= LEAST
    claim = f"samples a second over the roofline's: the highest; at B = {last}"
    return common.Verdict(claim, measured, predicted, holds, "B9, claim 18")


def judge_growth(found: Rounds) -> common.Verdict:
    """Seconds that a sample more takes, b of a + b B, over what its products take at the peak, all of medians.

    Fails if that is more than 4, as where time grows by something else than the products, or less than three quarters,
    as where a step leaves out products. Not 1: medians are noisy, and small batches bend the line.
    """
    ratio = found.growth
    claim = "seconds of a sample more, b of a + b B, over its products' at the peak"
    holds = FEW <= ratio <= NEAR
    return common.Verdict(claim, f"{ratio:.2f}", f"{FEW:g} … {NEAR}", holds, "B10, claim 18")


def print_tables(found: Rounds, settings: dict[str, Any]) -> None:
    """The device, then a row for each B."""
    roof = found.roofline
    size, overhead = measure.bytes_text(found.costs.weight_bytes), measure.time_text([roof.overhead])
    common.console.print(
        f"the best of {len(found.seconds)} rounds: {roof.peak / 1e9:,.1f} GFLOP/s; {roof.bandwidth / 1e9:,.1f} GB/s, "
        f"weights of {size}; overhead {overhead}. Halves of the rounds agree to {100 * roof.spread:.0f} %"
    )
    fixed, slope = found.line
    passes, share = 2 * fixed / float(np.median(found.of(TOUCH))), 1 / found.growth
    common.console.print(
        f"a step takes {measure.time_text([fixed])} + B · {measure.time_text([slope])}: going through the weights "
        f"{passes:.1f} times, and products at {100 * share:.0f} % of the peak (medians); equal at B = {found.knee:.0f}"
    )
    rows = []
    for batch in found.batches:
        times, least, fastest = found.of(f"step {batch}"), found.least(batch), found.fastest(batch)
        reason = max(least, key=lambda name: least[name])
        rows.append(
            [f"{batch:,}", measure.time_text(times.tolist()), measure.time_text([fastest]),
             f"{batch / statistics.median(times):,.0f}", f"{batch / fastest:,.0f}", f"{batch / least[reason]:,.0f}",
             f"{100 * least[reason] / fastest:.0f} %", reason, f"{batch * found.costs.flops / fastest / 1e9:,.1f}"]
        )  # fmt: skip
    head = ["B", "step", "fastest", "samples/s", "fastest", "roofline", "of it", "limited by", "GFLOP/s"]
    title = f"Training steps, {' → '.join(settings['widths'])} → 10, {settings['dtype']}: {found.costs.flops:,} FLOPs"
    common.table(f"{title} a sample", head, rows)
