"""The verdicts of `svm_primal_dual`: what was measured beside what theory allows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import common
from experiments.svm_primal_dual_lagrangian import Kink, Product, Recipe, Stationary
from experiments.svm_primal_dual_solutions import Closing, Groups, Identity, LeaveOneOut, Primal

LAST = 20  # rounds in which to see whether it has settled
ROUNDING = 1e-12  # relative, of sums in float64 that are written in another order


class Measured(NamedTuple):
    """All that is finished."""

    closings: Sequence[Closing] = ()
    primal: Primal | None = None
    groups: Sequence[Groups] = ()
    identities: Sequence[Identity] = ()
    left_out: LeaveOneOut | None = None
    kink: Kink | None = None
    stationary: Stationary | None = None
    product: Product | None = None
    recipe: Recipe | None = None


def judge(measured: Measured, *, relative_gap: float, tolerance: float) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    verdicts = []
    if measured.closings:
        verdicts += judge_closings(measured.closings, relative_gap)
    if measured.primal:
        verdicts += judge_primal(measured.primal)
    if measured.kink:
        verdicts += judge_kink(measured.kink)
    if measured.groups:
        verdicts += judge_groups(measured.groups, tolerance)
    if measured.left_out and measured.groups:
        verdicts += judge_left_out(measured.left_out, measured.groups[0])
    if measured.identities:
        verdicts += judge_identities(measured.identities)
    if measured.stationary:
        verdicts += judge_stationary(measured.stationary)
    if measured.product:
        verdicts += judge_product(measured.product)
    if measured.recipe:
        verdicts += judge_recipe(measured.recipe)
    return verdicts


def judge_closings(closings: Sequence[Closing], relative_gap: float) -> list[common.Verdict]:
    """Strong duality, and its terms: complementary slackness."""
    names = ", ".join(closing.name for closing in closings)
    gaps = [closing.gap for closing in closings]
    first = [float(closing.primal[0] - closing.dual[0]) / closing.optimum for closing in closings]
    falls = [float(np.max(-np.diff(closing.dual), initial=0) / closing.optimum) for closing in closings]
    above = [float(np.max(closing.dual) / closing.optimum - 1) for closing in closings]
    below = [float(1 - np.min(closing.primal) / closing.optimum) for closing in closings]
    wrong = max(_most([*falls, *above, *below]), 0.0)
    least = min(float(closing.products.min()) for closing in closings)
    largest = [float(closing.products.max()) for closing in closings]
    difference = _most([abs(closing.difference) for closing in closings])
    bounds = min(min(closing.bounds) for closing in closings)
    balance = _most([closing.balance for closing in closings])
    return [
        common.Verdict(
            f"P − D over the optimum, first → last ({names})",
            "; ".join(f"{start:.2g} → {gap:.0e}" for start, gap in zip(first, gaps, strict=True)),
            f"→ ≤ {relative_gap:.0e}", _most(gaps) <= relative_gap < min(first), "V7, claim 15",
        ),
        common.Verdict(
            "… on the way D never falls, nor is above the optimum, nor P below: by more than, relative",
            f"{wrong:.0e}", f"≤ {ROUNDING:.0e}", wrong <= ROUNDING, "V7, claim 15",
        ),
        common.Verdict(  # as each of the products is ≥ 0 and they add up to the gap, none is larger than it
            "complementary slackness, α (y f − 1 + ξ) and (C − α) ξ over the optimum: least, largest",
            f"{least:.0e}, {_most(largest):.0e}", "≥ 0, ≤ P − D",
            least >= 0 and all(p <= g + ROUNDING for p, g in zip(largest, gaps, strict=True)), "claim 15",
        ),
        common.Verdict(
            "… their sum less P − D, over the optimum", f"{difference:.0e}", f"≤ {ROUNDING:.0e}",
            difference <= ROUNDING, "claim 15",
        ),
        common.Verdict(
            "bounds: least of α and C − α; balance: |Σ α y| / Σ α", f"{bounds:.0e}; {balance:.0e}",
            f"≥ 0; ≤ {ROUNDING:.0e}", bounds >= 0 and balance <= ROUNDING, "V7",
        ),
    ]  # fmt: skip


def judge_primal(primal: Primal) -> list[common.Verdict]:
    """The same optimum and the same w without α."""
    apart = abs(primal.objective - primal.dual_objective) / primal.dual_objective
    allowed = max(primal.gap, primal.dual_gap) / primal.dual_objective + ROUNDING
    # ½‖w − w*‖² ≤ P(w) − P* for the one; for the other this and ½‖w − w*‖² ≤ D* − D(α), so that ‖w − w*‖² ≤ its gap.
    distance = float(np.linalg.norm(primal.w - primal.dual_w))
    reach = float(np.sqrt(2 * max(primal.gap, 0)) + np.sqrt(max(primal.dual_gap, 0)))
    excess = primal.steps / primal.dual_objective - 1
    tenth = max(len(excess) // 10, 1)
    early, late = float(np.median(excess[:tenth])), float(np.median(excess[-tenth:]))
    return [
        common.Verdict(
            "min ½‖w‖² + C Σ max(0, 1 − y f) by cutting planes less max D: relative", f"{apart:.0e}",
            f"≤ {allowed:.0e}, the gaps", apart <= allowed, "V2, claim 15",
        ),
        common.Verdict(
            "… its w less Σ α y x of the dual", f"{distance:.0e}", f"≤ {reach:.0e}, by the gaps", distance <= reach,
            "V4",
        ),
        common.Verdict(
            "stochastic steps: P over the optimum, less 1: median of the first, of the last tenth; least",
            f"{early:.2g} → {late:.2g}; {excess.min():.2g}", "falls; ≥ 0", excess.min() >= -ROUNDING and late < early,
            "V2",
        ),
    ]  # fmt: skip


def judge_kink(kink: Kink) -> list[common.Verdict]:
    """The subgradient, and why it is not 0 at the optimum."""
    right = all(np.array_equal(found, kink.expected) for found in (kink.by_hand, kink.autodiff))
    alone = [*kink.expected[1][:-1], 0.0]  # w, and 0 for b
    pulls = [float(np.max(np.abs(found[1] - alone))) for found in (kink.by_hand, kink.autodiff)]
    return [
        common.Verdict(
            "the hinge's pull where y f is exactly 1, by hand and by jax.grad", f"{pulls[0]:g}, {pulls[1]:g}", "0, 0",
            max(pulls) == 0, "V2",
        ),
        common.Verdict(
            "… and 2⁻²⁰ to either side of it: C y x and 0, to the last bit", "equal" if right else "not equal", "equal",
            right, "V2",
        ),
        common.Verdict(
            "at the optimum this subgradient over ‖w‖; with −α y x for each point on the margin",
            f"{kink.at_optimum:.2g}; {kink.mended:.0e}", f"> 0; ≤ {ROUNDING:.0e}",
            kink.at_optimum > kink.mended and kink.mended <= ROUNDING, "V2, V4",
        ),
    ]  # fmt: skip


def judge_groups(groups: Sequence[Groups], tolerance: float) -> list[common.Verdict]:
    """What α says of a margin, by name of the problem."""
    verdicts = []
    for found in groups:
        counts = [int(members.sum()) for members in found.members]
        outside, on, inside = (found.margins[members] for members in found.members)
        ends = outside.min(initial=np.inf), np.abs(on - 1).max(initial=0), inside.max(initial=-np.inf)
        off = max(1 - ends[0], ends[1], ends[2] - 1)
        verdicts += [
            common.Verdict(
                f"{found.name}, y f where α is 0, between, C ({', '.join(map(str, counts))} points)",
                f"≥ {ends[0]:.3g}; 1 ± {ends[1]:.0e}; ≤ {ends[2]:.3g}", f"≥ 1; 1 ± {tolerance:.0e}; ≤ 1",
                bool(off <= tolerance and found.violation <= tolerance and min(counts) > 0), "V4, claim 15",
            ),
            common.Verdict(
                f"… without the {counts[0]} of α = 0: change of f", f"{found.left_out:.0e}",
                f"≤ {found.left_out_bound:.0e}, by the gaps", found.left_out <= found.left_out_bound, "V4",
            ),
        ]  # fmt: skip
    return verdicts


def judge_left_out(found: LeaveOneOut, groups: Groups) -> list[common.Verdict]:
    """How much a point knows of the boundary."""
    zero = groups.members[0]
    changed = found.changes > found.bounds
    known, unknown = int(np.sum(changed & zero)), int(np.sum(changed & ~zero))
    claim = f"{groups.name}: points without which w is another, α = 0; α > 0"
    measured = f"{known} of {zero.sum()}; {unknown} of {(~zero).sum()}"
    return [common.Verdict(claim, measured, "0; some", known == 0 < unknown, "V4")]


def judge_identities(identities: Sequence[Identity]) -> list[common.Verdict]:
    """Prediction from w and from α."""
    names = ", ".join(identity.name for identity in identities)
    largest = _most([identity.difference for identity in identities])
    claim = f"f from w = Σ α y φ(x) less f from α and K, at fresh points ({names})"
    return [common.Verdict(claim, f"{largest:.0e}", f"≤ {ROUNDING:.0e}", largest <= ROUNDING, "V4, claim 15")]


def judge_stationary(found: Stationary) -> list[common.Verdict]:
    """The Lagrangian: gradients, saddle, the right dual, the constraints that the notes leave out."""
    by_w, by_b, by_slack = found.gradients
    lowest, highest = found.saddle
    by_bias, expected = found.unbalanced
    between = found.between + ROUNDING
    return [
        common.Verdict(
            "jax.grad of ℒ by w; by b and ξ: w, b of the primal, α of the dual",
            f"{by_w:.0e}; {max(by_b, by_slack):.0e}", f"≤ {found.allowed:.0e}, by the gaps; ≤ {ROUNDING:.0e}",
            by_w <= found.allowed and max(by_b, by_slack) <= ROUNDING, "V5",
        ),
        common.Verdict(
            "a saddle: ℒ at other w, b, ξ, at other α, less ℒ there: least, largest", f"{lowest:+.1e}, {highest:+.1e}",
            f"≥ 0, ≤ 0 (± {between:.0e})", lowest >= -between and highest <= between, "V5, V7",
        ),
        common.Verdict(
            "min over w, b, ξ of ℒ less D at random feasible α; ℒ elsewhere less ½‖Δw‖² more",
            f"{found.minimum:.0e}; {found.excess:.0e}", f"≤ {ROUNDING:.0e}",
            max(found.minimum, found.excess) <= ROUNDING, "V7",
        ),
        common.Verdict(
            "the largest D of these less the least P of random w and b", f"{found.weak:.2g}", "≤ 0",
            found.weak <= ROUNDING, "V7",
        ),
        common.Verdict(
            "where Σ α y ≠ 0 there is no minimum: ∂ℒ/∂b everywhere", f"{by_bias:.6g}", f"−Σ α y = {expected:.6g}",
            abs(by_bias - expected) <= ROUNDING * max(abs(expected), 1) and expected != 0, "V7",
        ),
    ]  # fmt: skip


def judge_product(found: Product) -> list[common.Verdict]:
    """The notes' constraint."""
    first, second = found.margins
    mirrored, product = found.mirrored
    return [
        common.Verdict(
            f"notes' 1 − Π y f ≤ 0, {found.draws:,} machines, 2 points: satisfied; of these both wrong, y f =",
            f"{found.satisfied:,}; {found.both_wrong:,}, {first:.1f} and {second:.1f}", "some are: −·− = +",
            found.both_wrong > 0 and max(first, second) < 0 and first * second >= 1, "V6",
        ),
        common.Verdict(
            "… y f ≥ 1 for each: kept; of these satisfy the product", f"{found.each:,}; {found.each_and_product:,}",
            f"< {found.satisfied:,}; all", 0 < found.each == found.each_and_product < found.satisfied, "V6",
        ),
        common.Verdict(
            "… the widest margin the wrong way round: y f; Π y f", f"{mirrored:g}; {product:g}", "−1; 1: satisfied",
            mirrored == -1 and product == 1, "V6",
        ),
    ]  # fmt: skip


def judge_recipe(found: Recipe) -> list[common.Verdict]:
    """The notes' two steps."""
    at, far, violated = found.slopes
    apart = float(np.max(np.abs(found.sums / found.predicted - 1)))
    swing, still = (float(np.ptp(sums[-LAST:])) / found.optimum for sums in (found.again, found.ascent))
    closest = float(np.min(found.corners))
    steps = len(found.steps)
    return [
        common.Verdict(
            "w fixed, half-way to the solution: largest ∂ℒ/∂α; at α + 10⁶", f"{at:.6g}; {far:.6g}",
            f"1 − y f = {violated:.6g} > 0", 0 < at == far and abs(at - violated) <= ROUNDING * abs(at), "V7",
        ),
        common.Verdict(
            f"… so Σ α rises for ever: over the solution's, after {steps:,} steps",
            f"{found.sums[-1] / found.optimum:,.2f}", f"{found.predicted[-1] / found.optimum:,.2f}, straight",
            bool(apart <= ROUNDING * steps and found.sums[-1] > found.optimum), "V7",
        ),
        common.Verdict(
            f"… Σ α y = 0 granted, {found.overshoot:g} × too long steps, w anew: swing of Σ α over the solution's, "
            "in the end; with steps of 1/λ", f"{swing:.2g}; {still:.0e}", "> 1, < 1", swing > 1 > still, "V7",
        ),
        common.Verdict(
            "… 0 ≤ α ≤ C granted too, in full: D's least distance from max D, over it; most points with 0 < α < C",
            f"{closest:.2g}; {found.between}", f"corners: ≤ 1, not {found.free}",
            closest > max(found.bounds) and found.between <= 1 < found.free, "V7",
        ),
        common.Verdict(
            f"max over α of min over w: D's distance after {steps:,} steps, α ≥ 0; 0 ≤ α ≤ C",
            "; ".join(f"{distance:.0e}" for distance in found.distances),
            f"≤ {'; '.join(f'{bound:.0e}' for bound in found.bounds)}, λ‖Δα‖²/2k",
            all(-ROUNDING <= d <= b for d, b in zip(found.distances, found.bounds, strict=True)), "V7",
        ),
    ]  # fmt: skip


def _most(values: Sequence[float]) -> float:
    return float(np.max(values))  # NaN if any is, unlike Python's max
