"""What `svm_kernels` finds, and its verdicts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import common

LINEAR, POLYNOMIAL, RBF = KERNELS = ("linear", "polynomial", "RBF")
FAILS = {"circles", "XOR"}  # where no line does better than BY_A_LINE
BY_A_LINE, SUCCEEDS, ROUNDING, ON_DIGITS = 0.75, 0.95, 1e-12, 0.985
DISTANCE = 3.0  # of the two Gaussians
LESS = 0.05  # of moons that the linear kernel gets right
SAME_MACHINE = 1e-6  # of decision values, where both machines are fitted to a tolerance of 1e-9
FOLDS = 5


class Plane(NamedTuple):
    """A machine in the plane."""

    problem: str
    kernel: str
    accuracy: float  # on test points
    train_accuracy: float
    support: np.ndarray  # [S] indices of training points
    x: np.ndarray  # [N, 2] training points
    y: np.ndarray  # [N]
    axes: tuple[np.ndarray, np.ndarray]  # of the picture, [G] each
    values: np.ndarray  # [G, G] decision values


class Features(NamedTuple):
    """A kernel against its features."""

    kernel: str
    points: str
    inputs: int
    features: int
    difference: float  # largest, over the largest entry of the Gram matrix
    machines: float | None  # of decision values, over the largest; None where not fitted


class Recognition(NamedTuple):
    """Machines for digits."""

    kernel: str
    errors: int  # on the test part
    total: int
    support: int
    folded_errors: int
    folded_total: int


def judge_planes(found: Sequence[Plane], test_points: int) -> list[common.Verdict]:
    """Row V3 and claim 14: where the linear kernel fails and the others do not."""
    accuracy = {(p.problem, p.kernel): p.accuracy for p in found}
    verdicts = []
    for problem in dict.fromkeys(p.problem for p in found):
        linear = accuracy[problem, LINEAR]
        others = [accuracy[problem, kernel] for kernel in KERNELS if kernel != LINEAR]
        if problem in FAILS:
            error = 3 * math.sqrt(BY_A_LINE * (1 - BY_A_LINE) / test_points)  # of a sample
            predicted, holds = f"≤ {BY_A_LINE:.0%} (+ {error:.1%})", linear <= BY_A_LINE + error
        elif problem == "moons":
            predicted, holds = f"≤ {min(others) - LESS:.1%}, {100 * LESS:.0f} less", linear <= min(others) - LESS
        else:
            best = 0.5 * (1 + math.erf(DISTANCE / 2 / math.sqrt(2)))  # Φ(DISTANCE / 2): no machine does better
            predicted, holds = f"{best:.1%} ± 2%", abs(linear - best) <= 0.02
        claim = f"{problem}, test accuracy: linear"
        verdicts.append(common.Verdict(claim, f"{linear:.1%}", predicted, holds, "V3, claim 14"))
        if problem in (*FAILS, "moons"):
            text = ", ".join(f"{value:.1%}" for value in others)
            holds = min(others) >= SUCCEEDS
            verdicts.append(common.Verdict("… polynomial, RBF", text, f"≥ {SUCCEEDS:.0%}", holds, "V3, claim 14"))
    return verdicts


def judge_features(found: Sequence[Features]) -> list[common.Verdict]:
    """Row V3 and claim 14: K = φᵀφ."""
    verdicts = []
    for kernel in dict.fromkeys(f.kernel for f in found):
        own = [f for f in found if f.kernel == kernel]
        largest = float(np.max([f.difference for f in own]))
        claim = f"{kernel}: K is φᵀφ, with {' and '.join(f'{f.features:,}' for f in own)} features"
        verdicts.append(
            common.Verdict(claim, f"{largest:.1e}", f"≤ {ROUNDING:.0e}", largest <= ROUNDING, "V3, claim 14")
        )
    for each in found:
        if each.machines is not None:
            claim = f"… decision values: its machine, and the linear one on φ(x), {each.points}"
            holds = each.machines <= SAME_MACHINE
            verdicts.append(common.Verdict(claim, f"{each.machines:.1e}", f"≤ {SAME_MACHINE:.0e}", holds, "V3, V4"))
    return verdicts


def judge_digits(found: Sequence[Recognition], identity: float | None) -> list[common.Verdict]:
    """Claim 14 on digits, and row V4."""
    verdicts = []
    for machine in found:
        if machine.kernel == RBF:
            for claim, errors, total in (
                ("digits, RBF, test accuracy", machine.errors, machine.total),
                (f"… in {FOLDS} folds of all digits", machine.folded_errors, machine.folded_total),
            ):
                accuracy = 1 - errors / total
                measured = f"{accuracy:.2%} ({errors} errors in {total:,})"
                verdicts.append(
                    common.Verdict(claim, measured, f"≥ {ON_DIGITS:.1%}", accuracy >= ON_DIGITS, "V3, claim 14")
                )
    if identity is not None:
        claim = "… f(x) from support vectors alone, in NumPy: relative difference"
        verdicts.append(common.Verdict(claim, f"{identity:.1e}", f"≤ {ROUNDING:.0e}", identity <= ROUNDING, "V4"))
    return verdicts
