"""The verdicts of `svm_regularization`: what cannot happen, as far as gaps tell, and what training sets tell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import common
from experiments.svm_regularization_paths import LINE, NOISE, Path, growth, power_text

ROUNDING = 1e-12  # relative, of an objective in float64
ERRORS = 4  # standard errors by which a change is more than chance


class Steps(NamedTuple):
    """Pairs of neighbours C₁ < C₂ on the paths of all training sets, [R, K − 1]."""

    slack_rises: np.ndarray  # by more than the gaps allow
    slack_falls: np.ndarray  # likewise
    norm_falls: np.ndarray
    norm_rises: np.ndarray
    outside: np.ndarray  # the optimum's slope in C is not between the slacks at both ends


def steps(path: Path) -> Steps:
    """What each step of C does for sure, with machines that are not quite optimal.

    P₁(w) = ½‖w‖² + C₁ S(w), S = Σ ξ. A machine w₁ with gap ε₁ is at most ε₁ above any other, at C₁; likewise w₂ at C₂:

        ½‖w₁‖² + C₁ S₁ ≤ ½‖w₂‖² + C₁ S₂ + ε₁        ½‖w₂‖² + C₂ S₂ ≤ ½‖w₁‖² + C₂ S₁ + ε₂

    Their sum, and the sum of the first over C₁ and the second over C₂, are

        S₂ − S₁ ≤ (ε₁ + ε₂) / (C₂ − C₁)              ‖w₁‖² − ‖w₂‖² ≤ 2 (ε₁ C₂ + ε₂ C₁) / (C₂ − C₁)

    With ε = 0, slack does not rise with C and ‖w‖ does not fall; no other tolerance is needed, but for rounding. The
    optimum P*(C) is concave in C: as w₁ costs P₁ + (C₂ − C₁) S₁ at C₂, and w₂ costs P₂ − (C₂ − C₁) S₂ at C₁,

        D₂ − P₁ ≤ (C₂ − C₁) S₁                       (C₂ − C₁) S₂ ≤ P₂ − D₁
    """
    c, slack, norm = path.c, path.slack, path.squared_norm
    step = np.diff(c)
    rounding = ROUNDING * path.primal
    gap = np.maximum(path.primal - path.dual, 0) + rounding
    first, second = gap[:, :-1], gap[:, 1:]
    slack_allowed = (first + second) / step
    norm_allowed = 2 * (first * c[1:] + second * c[:-1]) / step
    slack_change, norm_change = np.diff(slack, axis=1), np.diff(norm, axis=1)
    lowest = path.dual[:, 1:] - path.primal[:, :-1] - step * slack[:, :-1]
    highest = path.primal[:, 1:] - path.dual[:, :-1] - step * slack[:, 1:]
    both = rounding[:, 1:] + rounding[:, :-1]
    return Steps(
        ~(slack_change <= slack_allowed),  # a NaN is a rise
        -slack_change > slack_allowed,
        ~(-norm_change <= norm_allowed),
        norm_change > norm_allowed,
        ~((lowest <= both) & (highest >= -both)),
    )


def judge(paths: Sequence[Path]) -> list[common.Verdict]:
    """A verdict on each claim, for the paths that are finished."""
    verdicts = []
    for path in paths:
        verdicts += judge_path(path)
    if paths:
        verdicts.append(judge_slopes(paths))
    for path in paths:
        verdicts += judge_variance(path)
    for path in paths:
        verdicts.append(judge_best(path) if path.kind == LINE else judge_training(path))
    return verdicts


def judge_path(path: Path) -> list[common.Verdict]:
    """What holds for each training set."""
    found = steps(path)
    rises, falls, narrower, wider = (
        int(where.sum()) for where in (found.slack_rises, found.slack_falls, found.norm_rises, found.norm_falls)
    )
    allowed = f"0 of {found.slack_rises.size}, by the gaps"
    ends = " → ".join(power_text(c) for c in path.c[[0, -1]])
    return [
        common.Verdict(
            f"{path.name}: Σξ, C = {ends}; steps of C in which it falls, rises",
            f"{_ends(path.slack)}; ↓ {falls}, ↑ {rises}", f"↑ {allowed}", rises == 0 < falls, "V1, claim 13",
        ),
        common.Verdict(
            "… margin 2/‖w‖; steps in which it falls, rises", f"{_ends(path.width)}; ↓ {narrower}, ↑ {wider}",
            f"↑ {allowed}", wider == 0 < narrower, "V1, claim 13",
        ),
    ]  # fmt: skip


def _ends(values: np.ndarray) -> str:
    return " → ".join(f"{value:.3g}" for value in values.mean(axis=0)[[0, -1]])


def judge_slopes(paths: Sequence[Path]) -> common.Verdict:
    """The optimum as a function of C."""
    outside = [steps(path).outside for path in paths]
    count, total = sum(int(o.sum()) for o in outside), sum(o.size for o in outside)
    claim = "steps in which ΔP*/ΔC is not between the Σξ at both ends, as dP*/dC = Σξ"
    return common.Verdict(claim, f"{count} of {total:,}", "0, by the gaps", count == 0, "claim 13")


def judge_variance(path: Path) -> list[common.Verdict]:
    """Over training sets: of f, everywhere; of predictions, where the machine can fit noise."""
    verdicts = [_grows(f"{path.name}: variance of f over training sets", path.values, path.variance)]
    if path.kind == NOISE:
        signs = (path.values > 0).astype(float)
        verdicts.append(_grows("… of predictions, 0 or 1", signs, path.prediction_variance))
    return verdicts


def _grows(claim: str, values: np.ndarray, means: np.ndarray) -> common.Verdict:
    change, error = growth(values)
    measured = f"{means[0]:.2g} → {means[-1]:.2g}, ×e^({change:.1f} ± {error:.1f})"
    return common.Verdict(claim, measured, f"grows, {ERRORS} errors", change >= ERRORS * error and change > 0, "V1")


def judge_training(path: Path) -> common.Verdict:
    """A machine that is held too stiff does not even fit what it was given."""
    falls = path.training_error[:, 0] - path.training_error[:, -1]
    error = float(np.std(falls, ddof=1) / math.sqrt(len(falls)))
    measured = f"{_ends(path.training_error)}, −{falls.mean():.3f} ± {error:.3f}"
    holds = bool(falls.mean() > 0 and falls.mean() >= ERRORS * error)
    return common.Verdict(f"{path.name}: training error", measured, f"falls, {ERRORS} errors", holds, "V1")


def judge_best(path: Path) -> common.Verdict:
    """Where the best boundary is a line, none is too stiff: what most training sets say is as good at every C."""
    best = path.best_error if path.best_error is not None else math.nan
    error = math.sqrt(best * (1 - best) / len(path.labels))
    low, high = float(path.vote_error.min()), float(path.vote_error.max())
    claim = f"{path.name}: error of the vote of all machines, at any C: no bias"
    holds = abs(low - best) <= ERRORS * error and abs(high - best) <= ERRORS * error
    return common.Verdict(claim, f"{low:.3f} … {high:.3f}", f"{best:.3f} ± {ERRORS * error:.3f}", holds, "V1")
