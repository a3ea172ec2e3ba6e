"""The verdicts of `chain_rule_cost`: rows B2, B3, B7, M1, M2, M3 and claims 1 and 2."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import Verdict

BOUND = 1e-10  # of relative differences in float64
ROUGH = 1e-7  # of central differences: near, but never as near
EXPONENT = 0.5  # how far one of times may be from what is counted: small operations take the time to start them
CONSTANT = 6.0  # times of loss and gradient over the loss's: twice what is counted


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Of size, by least squares on logarithms; None for fewer than two."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) if len(sizes) > 1 else None


def chains(first: Sequence[int], counted: Sequence[Any], apart: dict[str, float]) -> list[Verdict]:
    """Rows M1 to M3, in matmuls.

    Args:
      first: of the last three weights, each on its own.
      counted: `ChainCost`s.
      apart: differences from jax.grad's gradients.
    """
    last = counted[-1]
    at = f"at L = {last.depth}" + (f" (and at {len(counted) - 1} smaller)" if len(counted) > 1 else "")
    largest = max(apart.values(), key=lambda x: np.inf if np.isnan(x) else x)
    return [
        Verdict("each gradient by its own formula: matmuls for w_L, w_{L−1}, w_{L−2}", ", ".join(map(str, first)),
                "1, 3, 5", list(first) == [1, 3, 5], "M2"),
        Verdict(f"… for all weights: L² matmuls, {at}", f"{last.naive:,}", f"{last.depth**2:,}",
                all(c.naive == c.depth**2 for c in counted), "M2, claim 2"),
        Verdict(f"with reuse of G: 3L − 2 matmuls, {at}", f"{last.reuse:,}", f"{3 * last.depth - 2:,}",
                all(c.reuse == 3 * c.depth - 2 for c in counted), "M3, claim 2"),
        Verdict("matmuls of the L² that no other one repeats: 3L − 2 again", f"{last.distinct:,}",
                f"{3 * last.depth - 2:,}", all(c.distinct == 3 * c.depth - 2 for c in counted), "M2, M3"),
        Verdict("A′ entry by entry, no matmul: L(L + 1)/2 on their own; 2L − 1 with reuse",
                f"{last.naive_entrywise:,}; {last.reuse_entrywise:,}",
                f"{last.depth * (last.depth + 1) // 2:,}; {2 * last.depth - 1:,}",
                all((c.naive_entrywise, c.reuse_entrywise) == (c.depth * (c.depth + 1) // 2, 2 * c.depth - 1)
                    for c in counted), "M3"),
        Verdict("both are jax.grad's gradients, float64: relative difference", f"{largest:.1e}", f"≤ {BOUND:.0e}",
                bool(largest <= BOUND), "M1, M3"),
    ]  # fmt: skip


def chain_times(times: Sequence[Any]) -> list[Verdict]:
    """Rows M2 and M3, in seconds."""
    verdicts = []
    names = (("naive", 2, "each gradient on its own", "M2"), ("reuse", 1, "with reuse", "M3"))
    for name, expected, words, notes in names:
        found = exponent([t.depth for t in times], [getattr(t, name) for t in times])
        if found is not None:
            span = f"L from {times[0].depth} to {times[-1].depth}"
            holds = abs(found - expected) <= EXPONENT
            verdicts.append(
                Verdict(f"{words}: time, {span}", f"L^{found:.2f}", f"L^{expected} ± {EXPONENT:g}", holds, notes)
            )
    return verdicts


def numeric(found: Sequence[Any]) -> list[Verdict]:
    """Row B7 and claim 1."""
    last = found[-1]
    at = f"at P = {last.parameters:,}" + (f" (and at {len(found) - 1} smaller)" if len(found) > 1 else "")
    error, by_hand = (float(np.max([getattr(n, name) for n in found])) for name in ("error", "by_hand"))
    least = float(np.min([n.error for n in found]))
    verdicts = [
        Verdict(f"central differences: losses' worth of matmuls, 2P, {at}", f"{last.evaluations:,.10g}",
                f"{2 * last.parameters:,}", all(n.evaluations == 2 * n.parameters for n in found), "B7, claim 1"),
        Verdict("… approximate: relative error in float64", f"{least:.0e} … {error:.0e}", f"≤ {ROUGH:.0e}, > 0",
                bool(error <= ROUGH and least > 10 * by_hand), "B7"),
        Verdict("the gradient derived by hand is exact, up to rounding", f"{by_hand:.1e}", f"≤ {BOUND:.0e}",
                bool(by_hand <= BOUND), "B7"),
    ]  # fmt: skip
    ratios = [n.seconds / n.backpropagation for n in found]
    power = exponent([n.parameters for n in found], ratios)
    if power is not None:
        span = f"P from {found[0].parameters:,} to {last.parameters:,}"
        claim = f"time of central differences over backprop's, {span}"
        verdicts.append(
            Verdict(claim, f"P^{power:.2f}", f"P^1 ± {EXPONENT:g}", abs(power - 1) <= EXPONENT, "B7, claim 1")
        )
    return verdicts


def growth(found: Sequence[Any]) -> list[Verdict]:
    """Row B2 and claim 1."""
    few, many = (pick(g.parameters for g in found) for pick in (min, max))
    counted = [g.counted for g in found]
    times = [g.seconds for g in found]
    return [
        Verdict(f"FLOPs of loss and gradient over the loss's, less than 3, P from {few:,} to {many:,}",
                f"{min(counted):.3f} … {max(counted):.3f}",
                f"{min(g.predicted for g in found):.3f} … {max(g.predicted for g in found):.3f}",
                all(g.counted == g.predicted < 3 for g in found), "B2, claim 1"),
        Verdict("… of the gradient derived by hand: the same", f"{max(g.by_hand for g in found):.3f}",
                f"{max(g.predicted for g in found):.3f}", all(g.by_hand == g.predicted for g in found), "B2"),
        Verdict("… and the ratio of their times, compiled", f"{min(times):.2f} … {max(times):.2f}", f"≤ {CONSTANT:g}",
                max(times) <= CONSTANT, "B2, claim 1"),
    ]  # fmt: skip


def layout(found: Any) -> list[Verdict]:
    """Row B3."""
    return [
        Verdict("a VJP is row × Jacobian, (1×3)·(3×5): relative difference", f"{found.difference:.1e}",
                f"≤ {BOUND:.0e}", bool(found.difference <= BOUND), "B3"),
        Verdict("column × matrix, as printed in the notes, (3×1)·(3×5)", "refused" if found.error else "computed",
                "refused", bool(found.error), "B3"),
    ]  # fmt: skip
