"""The verdicts of `gradient_flow`: what was predicted of many networks, and what cannot happen in any.

A mean over networks is judged to `ERRORS` of its standard errors, and by how much a finite width may shift it
(`Flow.allowance`, derived in `gradient_flow_theory`). Bounds hold in each network: only rounding is allowed for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from experiments.gradient_flow_networks import HE, ORTHOGONAL, XAVIER
from experiments.gradient_flow_recurrent import DRIVEN, QUIET, SHEAR_RADIUS, SHEARED, sheared_growth
from experiments.gradient_flow_theory import AFTER, BEFORE, MAXOUT, PLAIN, RESIDUAL, Flow, recurrent

ERRORS = 5  # standard errors: with 16 networks, chance takes 1 of 6,000 means further; some 100 are judged
BAND = 4  # standard deviations, of single networks: chance takes 1 of 16,000 further
ROUNDING = 1e-9  # of log₁₀, after hundreds of steps in float64
LINEAR = 1e-5  # of log₁₀: a thousand steps near zero, |h| ≤ 1e-4, lose Σ h² / ln 10 < 5e-6
LOST = 1  # decades that are predicted to be lost, for it to be called vanishing
HOMOGENEOUS = "relu", "leaky_relu", MAXOUT  # φ(a z) = a φ(z), a > 0
SIGNAL, WEIGHTS = "signal", "weights"
QUARTER = math.log10(4)


class Cell(NamedTuple):
    """Networks of one kind. log₁₀ of ratios: measured [R, depths], predicted of each depth, [depths]."""

    activation: str
    block: str
    initialization: str
    depths: np.ndarray  # [depths]
    signal: np.ndarray
    weights: np.ndarray
    predicted: Flow

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.activation}, {self.initialization}" + (f", {self.block}" if self.block != PLAIN else "")

    def error(self, quantity: str) -> np.ndarray:
        """Standard errors of the means over networks, [depths]."""
        values = getattr(self, quantity)
        errors: np.ndarray = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        return errors

    def tolerance(self, quantity: str) -> np.ndarray:
        """By how much the mean may be off, [depths]."""
        tolerance: np.ndarray = ERRORS * self.error(quantity) + self.allowance(quantity)
        return tolerance

    def allowance(self, quantity: str) -> np.ndarray:
        """Of it, what the width may shift."""
        return self.predicted.allowance if quantity == SIGNAL else self.predicted.weights_allowance

    def off(self, quantity: str) -> float:
        """How far the mean of the deepest networks is from what was predicted, over the tolerance; inf of a NaN."""
        difference = getattr(self, quantity).mean(axis=0)[-1] - getattr(self.predicted, quantity)[-1]
        off = abs(difference) / self.tolerance(quantity)[-1]
        return float(off) if math.isfinite(off) else math.inf


class Measured(NamedTuple):
    """All that is finished."""

    cells: Sequence[Cell]
    norms: Mapping[str, np.ndarray]  # by initialization, log₁₀ Π ‖w_l‖₂ of the first networks, [R′, depths]
    through_time: Mapping[str, Mapping[str, np.ndarray]]  # by kind, what `gradient_flow_recurrent.measure` returns
    clipping: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]  # of recurrent networks: radii, units, lags, noise, shear, clip, learning_rate


def judge(measured: Measured) -> list[common.Verdict]:
    """A verdict on each claim of which enough is finished."""
    cells = {(cell.activation, cell.block, cell.initialization): cell for cell in measured.cells}
    verdicts = []
    plain = [cell for cell in measured.cells if cell.block == PLAIN]
    others = [cell for cell in measured.cells if cell.block != PLAIN]
    if plain:
        verdicts += [judge_slopes(plain, SIGNAL, "plain"), judge_slopes(plain, WEIGHTS, "plain")]
    if ("sigmoid", PLAIN, ORTHOGONAL) in cells:
        verdicts.append(judge_quarters(cells["sigmoid", PLAIN, ORTHOGONAL]))
    bounded = [cells["sigmoid", PLAIN, name] for name in measured.norms if ("sigmoid", PLAIN, name) in cells]
    if bounded:
        verdicts.append(judge_norms(bounded, measured.norms))
    if {("relu", PLAIN, HE), ("sigmoid", PLAIN, XAVIER)} <= cells.keys():
        verdicts += judge_collapse(cells["sigmoid", PLAIN, XAVIER], cells["relu", PLAIN, HE])
    scaled = [cell for cell in plain if cell.activation in HOMOGENEOUS and cell.initialization != ORTHOGONAL]
    if len({cell.initialization for cell in scaled}) > 1:
        verdicts.append(judge_homogeneous(scaled))
    if others:
        names = "residual, normalized"
        verdicts += [judge_slopes(others, SIGNAL, names), judge_slopes(others, WEIGHTS, names)]
        verdicts += judge_rescue(measured.cells)
    return verdicts + judge_through_time(measured) + (judge_clipping(measured) if measured.clipping else [])


def judge_slopes(cells: Sequence[Cell], quantity: str, names: str) -> common.Verdict:
    """The deepest networks against mean-field theory, of each combination.

    Fails if the mean of any one is further off than 5 standard errors and the allowance for finite width. That is two
    sided, although V alone shifts the signal's mean, and downwards: of 64 layers of 64 ReLUs it lets pass a gain of
    variance that is wrong by some 13 % a layer. Of single ReLU networks, `judge_collapse` is stricter.
    """
    worst = max(cells, key=lambda cell: cell.off(quantity))
    outside = sum(not cell.off(quantity) <= 1 for cell in cells)
    layers = worst.depths[-1] - (quantity == WEIGHTS)
    mean, predicted = (
        values / layers
        for values in (getattr(worst, quantity).mean(axis=0)[-1], getattr(worst.predicted, quantity)[-1])
    )
    what = "‖dx_0‖/‖dx_L‖" if quantity == SIGNAL else "‖dw_1‖/‖dw_L‖"
    return common.Verdict(
        f"{names}: log₁₀ {what} a layer, L = {worst.depths[-1]}; kinds outside; the worst: {worst.name}",
        f"{outside} of {len(cells)}; {mean:.4f}",
        f"0; {predicted:.4f} ± {worst.tolerance(quantity)[-1] / layers:.4f}",
        outside == 0,
        "M4",
    )


def judge_quarters(cell: Cell) -> common.Verdict:
    """σ′ ≤ ¼, and orthogonal matrices keep lengths.

    Fails if the gradient of any network, at any depth, is more than 4^−L of what it was.
    """
    margin = float(np.max(cell.signal + cell.depths * QUARTER))
    return common.Verdict(
        f"sigmoid, orthogonal: ‖dx_0‖/‖dx_L‖ over 4^−L, each of {len(cell.signal)} networks, each depth",
        f"≤ 10^{margin:.3f}", "< 1", margin < 0, "M4",
    )  # fmt: skip


def judge_norms(cells: Sequence[Cell], norms: Mapping[str, np.ndarray]) -> common.Verdict:
    """Whatever the weights: ‖dx_0‖ ≤ Π (‖w_l‖₂ / 4) ‖dx_L‖.

    Fails if the gradient of any network, at any depth, is above that.
    """
    margins = []
    for cell in cells:
        bound = norms[cell.initialization] - cell.depths * QUARTER
        margins.append(np.max(cell.signal[: len(bound)] - bound))
    margin = float(np.max(margins))
    return common.Verdict(
        f"sigmoid, any weights ({len(cells)} kinds): ‖dx_0‖/‖dx_L‖ over Π ‖w_l‖₂/4, each network, each depth",
        f"≤ 10^{margin:.3f}", "< 1", margin < 0, "M4",
    )  # fmt: skip


def judge_collapse(sigmoid: Cell, relu: Cell) -> list[common.Verdict]:
    """Single networks of full depth: predicted is their standard deviation, too.

    ln ‖dx_0‖² / ‖dx_L‖² of ReLU networks with He's initialization is normal, of mean −5L/2n and variance 5L/n (Hanin &
    Nica 2018). Fails if any is further than 4 standard deviations from that mean, or if any sigmoid network with
    Xavier's is further above its prediction, or not below all of ReLU.
    """
    r, s = relu.signal[:, -1], sigmoid.signal[:, -1]
    band = BAND * relu.predicted.spread[-1]
    centre = relu.predicted.signal[-1] + relu.predicted.shift[-1]
    top = sigmoid.predicted.signal[-1] + BAND * sigmoid.predicted.spread[-1]
    depth = relu.depths[-1]
    return [
        common.Verdict(
            f"ReLU, He: log₁₀ ‖dx_0‖/‖dx_L‖ of each network, L = {depth}",
            f"{r.min():.2f} … {r.max():.2f}", f"{centre:.2f} ± {band:.2f}",
            bool(np.max(np.abs(r - centre)) <= band), "M4, claim 4",
        ),
        common.Verdict(
            f"sigmoid, Xavier, L = {depth}: each network below all of ReLU, He",
            f"{s.min():.2f} … {s.max():.2f}", f"≤ {top:.2f}", bool(s.max() <= top and s.max() < r.min()),
            "M4, claim 4",
        ),
    ]  # fmt: skip


def judge_homogeneous(cells: Sequence[Cell]) -> common.Verdict:
    """If φ(a z) = a φ(z), weights a times as large shrink or stretch x and dx alike: all ‖dw_l‖ by the same factor.

    The networks of all Gaussian initializations are the same ones, scaled. Fails if any ratio of weights' gradients
    differs between them by more than rounding, or if the gradients of x do not.
    """
    apart, decades = [], []
    for activation in dict.fromkeys(cell.activation for cell in cells):
        own = [cell for cell in cells if cell.activation == activation]
        apart.append(np.max([np.abs(cell.weights - own[0].weights) for cell in own]))
        ends = [float(cell.signal[:, -1].mean()) for cell in own]
        decades.append(np.ptp(ends))
    most, least = float(np.max(apart)), float(np.min(decades))  # a NaN is never hidden
    return common.Verdict(
        "ReLU, leaky, maxout, weights of any scale: log₁₀ ‖dw_1‖/‖dw_L‖ differs by; ‖dx_0‖/‖dx_L‖ differs by",
        f"≤ {most:.0e}; ≥ {least:.1f}", f"≤ {ROUNDING:.0e}; > 1", most <= ROUNDING and least > 1, "M4",
    )  # fmt: skip


def judge_rescue(cells: Sequence[Cell]) -> list[common.Verdict]:
    """What is predicted to vanish in plain networks, by more than a decade, in others: χ ≥ 1 but for ε.

    Fails if any mean of residual networks, or of those normalized after the activation, is below 0 or on either side of
    its prediction by more than the tolerance, or if any of the plain ones is not below 0 by more than its own: then
    nothing was to be rescued. And if that of networks normalized before a sigmoid, for which χ < 1, is not below 0 by
    more than the tolerance.
    """
    plain = {
        (cell.activation, cell.initialization): cell
        for cell in cells
        if cell.block == PLAIN and cell.predicted.signal[-1] < -LOST
    }
    verdicts = []
    depth = cells[0].depths[-1]
    for block in (RESIDUAL, AFTER):
        found = [cell for cell in cells if cell.block == block and (cell.activation, cell.initialization) in plain]
        if not found:
            continue
        vanished = [plain[cell.activation, cell.initialization] for cell in found]
        ends = [float(cell.signal[:, -1].mean()) for cell in found]
        before = [float(cell.signal[:, -1].mean()) for cell in vanished]
        worst = max(found, key=lambda cell: cell.off(SIGNAL))
        tolerance = worst.tolerance(SIGNAL)[-1]
        kept = all(
            cell.off(SIGNAL) <= 1 and end >= -cell.tolerance(SIGNAL)[-1] for cell, end in zip(found, ends, strict=True)
        )
        lost = all(end < -cell.tolerance(SIGNAL)[-1] for cell, end in zip(vanished, before, strict=True))
        verdicts.append(
            common.Verdict(
                f"{block}, L = {depth}: what vanishes if plain ({len(found)} kinds, {min(before):.1f} … "
                f"{max(before):.1f}) does so no more: log₁₀ ‖dx_0‖/‖dx_L‖; the worst: {worst.name}",
                f"{min(ends):.2f} … {max(ends):.2f}; {worst.signal[:, -1].mean():.2f}",
                f"≥ 0 within tolerance; {worst.predicted.signal[-1]:.2f} ± {tolerance:.2f}", kept and lost, "M4",
            )
        )  # fmt: skip
    centred = [cell for cell in cells if cell.block == BEFORE and cell.activation == "sigmoid"]
    if centred:
        highest = max(centred, key=lambda cell: float(cell.signal[:, -1].mean()))
        mean, allowed = highest.signal[:, -1].mean(), highest.tolerance(SIGNAL)[-1]
        vanishes = all(cell.signal[:, -1].mean() < -cell.tolerance(SIGNAL)[-1] for cell in centred)
        verdicts.append(
            common.Verdict(
                f"… but normalized before a sigmoid, whose mean is not 0, it still vanishes: L = {depth}",
                f"≤ {mean:.2f}", f"{highest.predicted.signal[-1]:.2f}, < 0 − {allowed:.2f}", vanishes,
                "M4",
            )
        )  # fmt: skip
    return verdicts


def judge_through_time(measured: Measured) -> list[common.Verdict]:
    """Of the kinds that are finished."""
    verdicts = []
    if measured.through_time:
        verdicts.append(judge_radius(measured.through_time))
    if QUIET in measured.through_time:
        verdicts.append(judge_quiet(measured.through_time[QUIET]))
    if DRIVEN in measured.through_time:
        verdicts += judge_driven(measured.through_time[DRIVEN], measured.settings)
    if SHEARED in measured.through_time:
        verdicts.append(judge_sheared(measured.through_time[SHEARED], measured.settings))
    return verdicts


def judge_radius(through_time: Mapping[str, Mapping[str, np.ndarray]]) -> common.Verdict:
    """tanh′ ≤ 1, so that ‖dh_{T−k}‖ ≤ ‖w_h‖₂ᵏ ‖dh_T‖: it vanishes for every norm below 1.

    Fails if any gradient of any network, at any lag, is above that by more than rounding.
    """
    margins = []
    for found in through_time.values():
        k = np.arange(1, found["lags"].shape[-1] + 1)
        margins.append(np.max(found["lags"] - k * np.log10(found["norms"])[:, None, None]))
    margin = float(np.max(margins))
    return common.Verdict(
        "recurrent: ‖dh_{T−k}‖/‖dh_T‖ over ‖w_h‖₂ᵏ, all networks, all k; log₁₀",
        f"≤ {margin:.0e}", f"≤ {ROUNDING:.0e}", margin <= ROUNDING, "M4, claim 5",
    )  # fmt: skip


def judge_quiet(found: Mapping[str, np.ndarray]) -> common.Verdict:
    """Near zero tanh′ ≥ 1 − max h²: with w_h = ρ · orthogonal the gradient is between ρᵏ Π (1 − max h²) and ρᵏ.

    Fails if any is not, or further below ρᵏ than states near zero explain; so it does if any with ρ < 1 does not vanish
    or any with ρ > 1 does not explode.
    """
    radii, lags = found["norms"], found["lags"]
    upper = np.arange(1, lags.shape[-1] + 1) * np.log10(radii)[:, None, None]
    with np.errstate(divide="ignore"):  # states that are saturated
        loss = -np.cumsum(np.log10(1 - found["states"] ** 2), axis=-1)
    lower = upper - np.minimum(loss, LINEAR)
    outside = int(np.sum(~((lower - ROUNDING <= lags) & (lags <= upper + ROUNDING))))
    ends = lags[..., -1]
    claim = f"near zero, ρ = {_ends(radii, 'g')}: log₁₀ ‖dh_{{T−k}}‖/‖dh_T‖, k = {lags.shape[-1]}; outside, at any k"
    return common.Verdict(
        claim, f"{_ends(ends.mean(axis=1), '.2f')}; {outside}", f"{_ends(upper[:, 0, -1], '.2f')} − {LINEAR:g}; 0",
        outside == 0, "M4, claim 5",
    )  # fmt: skip


def judge_driven(found: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> list[common.Verdict]:
    """Inputs saturate tanh. Mean-field theory again; and of radii above 1 for which it says that gradients vanish.

    Fails if the mean at any ρ is further off than the tolerance; or if at such a ρ it is not below 0 by more than it.
    """
    lags = found["lags"]
    k = lags.shape[-1]
    found_at, vanish = [], []
    for radius, values in zip(found["norms"], lags[..., -1], strict=True):
        predicted = recurrent(float(radius), settings["noise"], k, settings["units"])
        tolerance = ERRORS * values.std(ddof=1) / math.sqrt(len(values)) + predicted.allowance[-1]
        mean, expected = float(values.mean()), float(predicted.signal[-1])
        off = abs(mean - expected) / tolerance
        found_at.append((off if math.isfinite(off) else math.inf, float(radius), mean, expected, tolerance))
        if radius > 1 and expected < 0:
            vanish.append((mean + tolerance, mean, float(radius), expected, tolerance))
    off, radius, mean, expected, tolerance = max(found_at)
    outside = sum(not one[0] <= 1 for one in found_at)
    verdicts = [
        common.Verdict(
            f"driven, ρ = {_ends(found['norms'], 'g')}: log₁₀ ‖dh_{{T−k}}‖/‖dh_T‖, k = {k}; ρ outside; the worst: "
            f"{radius:g}",
            f"{outside} of {len(found_at)}; {mean:.2f}", f"0; {expected:.2f} ± {tolerance:.2f}", outside == 0,
            "M4, claim 5",
        )
    ]  # fmt: skip
    if vanish:
        worst, mean, radius, expected, tolerance = max(vanish)
        verdicts.append(
            common.Verdict(
                f"… at ρ = {radius:g}, above 1, it vanishes all the same: that is necessary, not sufficient",
                f"{mean:.2f}", f"{expected:.2f}, < 0 − {tolerance:.2f}", worst < 0, "claim 5",
            )
        )  # fmt: skip
    return verdicts


def judge_sheared(found: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> common.Verdict:
    """Eigenvalues below 1, a singular value above: gradients grow before they vanish.

    Fails if the mean square at the lag of the predicted peak is further off than 5 standard errors, if any network's
    gradient is not longer there than it was, or if any is at the last lag.
    """
    lags = found["lags"][0]
    predicted = sheared_growth(SHEAR_RADIUS, settings["shear"], np.arange(1, lags.shape[-1] + 1))
    peak = int(np.argmax(predicted))
    squares = 10 ** (2 * lags[:, peak])
    error = squares.std(ddof=1) / math.sqrt(len(squares))
    near = abs(squares.mean() - predicted[peak] ** 2) <= ERRORS * error
    holds = bool(near and lags[:, peak].min() > 0 > lags[:, -1].max())
    root = math.sqrt(squares.mean())
    return common.Verdict(
        f"sheared, ρ = {SHEAR_RADIUS}, ‖w_h‖₂ = {found['norms'][0]:.2f}: gradients grow, k = {peak + 1}, before they "
        f"vanish, k = {lags.shape[-1]}",
        f"× {root:.2f}, × {10 ** lags[:, -1].mean():.2g}",
        f"× {predicted[peak]:.2f} ± {ERRORS * error / (2 * root):.2f}, × {predicted[-1]:.2g}",
        holds, "claim 5",
    )  # fmt: skip


def judge_clipping(measured: Measured) -> list[common.Verdict]:
    """A step of η g is as long as the gradient says; clipped, η min(‖g‖, c) in the same direction.

    Fails if any clipped step is of another length than that or turned, or any without clipping is not η‖g‖, by more
    than rounding; or if no gradient was longer than c, or none shorter.
    """
    rate, limit = measured.settings["learning_rate"], measured.settings["clip"]
    sizes, free, clipped = (measured.clipping[name] for name in ("gradients", "free", "clipped"))
    longest = float(clipped.max() / (rate * limit))
    expected = rate * np.minimum(sizes, limit)
    exact = float(np.max(np.abs([clipped / expected - 1, free / (rate * sizes) - 1])))
    both = bool(sizes.min() < limit < sizes.max())
    turned = float(measured.clipping["turned"].max())
    return [
        common.Verdict(
            f"the longest step with clipping, over ηc; without: {free.max() / (rate * limit):.1e}",
            f"1 + {max(longest - 1, 0):.0e}", "≤ 1", both and longest <= 1 + ROUNDING, "O3, claim 5",
        ),
        common.Verdict(
            "all steps are of length η min(‖g‖, c), and in the direction of −g: largest differences",
            f"{exact:.0e}, {turned:.0e}", f"≤ {ROUNDING:.0e}", exact <= ROUNDING and turned <= ROUNDING, "O3",
        ),
    ]  # fmt: skip


def _ends(values: np.ndarray, form: str) -> str:
    return f"{values[0]:{form}} … {values[-1]:{form}}"
