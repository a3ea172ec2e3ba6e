"""The verdicts of `generalization`, from its rows. A difference is more than chance at three standard errors.

Repeats are paired: the same images, labels, order and start in both of what is compared, so that the test is of the
mean difference. All repeats draw from one pool of images and are scored on one test part; for transfer, in one draw of
light. So an error is of other draws from this pool: what is judged holds for these images, and is no test of others.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import common
from experiments import generalization_overfitting as overfitting
from experiments import generalization_selection as selection
from experiments import generalization_transfer as transfer
from experiments.generalization_networks import ERROR, LOSS

ERRORS = 3  # standard errors
EXACT = 4  # of means that are compared with an exact prediction, several at once
TRAIN, VALIDATION, TEST = 0, 1, 2
FEW = 5  # labels of each class, at most, that are few
SLIGHT = 0.1  # share of a gap: a change that is less counts as none
Rows = Mapping[str, Any]


def mean_error(differences: Any) -> tuple[float, float]:
    """The mean of R differences and its standard error."""
    values = np.asarray(differences, float)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def beyond_chance(mean: float, error: float) -> bool:
    """Whether it is positive, by so many standard errors."""
    return mean > 0 and mean >= ERRORS * error


def jackknife(values: Any) -> float:
    """The standard error of a statistic, from its R values without one of the training sets."""
    values = np.asarray(values, float)
    return float(math.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2)))


def judge(rows: Rows) -> list[common.Verdict]:
    """A verdict on each claim whose rows are finished."""
    verdicts = []
    if overfitting.NONE in rows:
        verdicts += judge_stopping(rows[overfitting.NONE])
        for kind in (overfitting.DECAY, overfitting.DROPOUT, overfitting.BOTTLENECK):
            if (name := chosen(rows, kind)) is not None:
                verdicts.append(judge_gap(rows, name))
        verdicts += judge_right_labels(rows)
    verdicts += judge_transfer(rows) + judge_selection(rows)
    return verdicts + judge_polynomials(rows) + judge_networks(rows)


# Overfitting, G1 and G2.


def scores(row: Any, when: str = "end") -> np.ndarray:
    """[R, parts, 2]."""
    return np.asarray(row[when], float)


def gap(found: np.ndarray) -> np.ndarray:
    """Test loss less training loss, [R]."""
    result: np.ndarray = found[:, TEST, LOSS] - found[:, TRAIN, LOSS]
    return result


def chosen(rows: Rows, kind: str) -> str | None:
    """The row of this regularizer with the least validation loss at the end; the test part has no say in it."""
    names = [name for name, row in rows.items() if row.get("kind") == kind and not name.endswith(overfitting.CLEAN)]
    if not names:
        return None
    return min(names, key=lambda name: float(scores(rows[name])[:, VALIDATION, LOSS].mean()))


def judge_stopping(row: Any) -> list[common.Verdict]:
    """Without a regularizer: the gap, and what going back to the best validation loss does to the TEST part.

    The least validation loss is the least of many, and so below the last by construction: it proves nothing. Fails if
    validation does not part from training; if, on the test part, going back is no better than the end by more than
    chance; if it does not narrow the gap.
    """
    end, best = scores(row), scores(row, "best")
    wanted, notes = f"> 0, {ERRORS} errors", "G1, claim 19"

    def less(claim: str, a: np.ndarray, b: np.ndarray) -> common.Verdict:
        change, error = mean_error(a - b)
        text = claim.format(f"{a.mean():.3f}", f"{b.mean():.3f}")
        return common.Verdict(text, f"{change:.3f} ± {error:.3f}", wanted, beyond_chance(change, error), notes)

    claim = "… test {} at the end, {{}}, less where early stopping goes back to, {{}}"
    return [
        less("no regularizer: validation loss {} less training loss {}", end[:, VALIDATION, LOSS], end[:, TRAIN, LOSS]),
        less(claim.format("loss"), end[:, TEST, LOSS], best[:, TEST, LOSS]),
        less(claim.format("error"), end[:, TEST, ERROR], best[:, TEST, ERROR]),
        _narrower("early stopping", end, best),
    ]


def judge_gap(rows: Rows, name: str) -> common.Verdict:
    """A regularizer, at the strength that validation chose.

    The gap narrows, too, where training loss is only made worse: λ → ∞ has none. So test loss is judged with it. Fails
    if by more than chance the gap is not narrower, or test loss not less.
    """
    without, with_it = scores(rows[overfitting.NONE]), scores(rows[name])
    falls = mean_error(gap(without) - gap(with_it)), mean_error(without[:, TEST, LOSS] - with_it[:, TEST, LOSS])
    training, test = (_from_to(without[:, part, LOSS], with_it[:, part, LOSS]) for part in (TRAIN, TEST))
    return common.Verdict(
        f"{name}: gap {_from_to(gap(without), gap(with_it))}, and test loss {test} (training loss {training})",
        ", ".join(_signed(*fall) for fall in falls), f"both fall, {ERRORS} errors",
        all(beyond_chance(*fall) for fall in falls), "G2, claim 20",
    )  # fmt: skip


def _narrower(name: str, without: np.ndarray, with_it: np.ndarray) -> common.Verdict:
    change, error = mean_error(gap(without) - gap(with_it))
    errors = without[:, TEST, ERROR], with_it[:, TEST, ERROR]
    return common.Verdict(
        f"{name}: gap, test less training loss (test error {_from_to(*errors)})",
        _gaps(without, with_it, change, error), f"falls, {ERRORS} errors", beyond_chance(change, error), "G2, claim 20",
    )  # fmt: skip


def _gaps(without: np.ndarray, with_it: np.ndarray, change: float, error: float) -> str:
    return f"{_from_to(gap(without), gap(with_it))}, {_signed(change, error)}"


def _signed(fall: float, error: float) -> str:
    return f"{'−' if fall >= 0 else '+'}{abs(fall):.3f} ± {error:.3f}"


def _from_to(without: np.ndarray, with_it: np.ndarray) -> str:
    return f"{without.mean():.3f} → {with_it.mean():.3f}"


def judge_right_labels(rows: Rows) -> list[common.Verdict]:
    """The bottleneck once more, with right labels, where it can fit them all.

    Then it keeps nothing out, and the claim does not hold: a test of equivalence on the one side, as to find no fall is
    no evidence that there is none. Fails if the gap's fall and three errors together are a tenth of the gap or more: if
    it is narrower by as much, or measured too poorly to tell.
    """
    name = next((n for n in rows if n.startswith(overfitting.BOTTLENECK) and n.endswith(overfitting.CLEAN)), None)
    reference = overfitting.name(overfitting.NONE, 0, False)
    if name is None or reference not in rows:
        return []
    without, with_it = scores(rows[reference]), scores(rows[name])
    change, error = mean_error(gap(without) - gap(with_it))
    slight = SLIGHT * float(gap(without).mean())
    return [
        common.Verdict(
            f"{name}, of which it fits all but {with_it[:, TRAIN, ERROR].mean():.3f}: gap not narrower by a tenth",
            _gaps(without, with_it, change, error), f"fall < {slight:.3f}, {ERRORS} errors",
            change + ERRORS * error < slight, "G2",
        )
    ]  # fmt: skip


# Transfer, G2.


def judge_transfer(rows: Rows) -> list[common.Verdict]:
    """Frozen features of 0–4 against the same network from scratch, by the error on 5–9.

    Fails if in uneven light features from elsewhere are not better, by more than chance, at each number of labels that
    is few; if they are not better than features that know nothing; if what is frozen is not worse in the end, when
    labels are many; or if, in even light, they are better after all.
    """
    found = {kind: _by_labels(rows, kind) for kind in (transfer.LIT, transfer.PLAIN)}
    if not all(found.values()):
        return []
    lit, plain = found[transfer.LIT], found[transfer.PLAIN]
    few = [count for count in lit if count <= FEW] or [min(lit)]
    most, least = max(lit), min(lit)
    verdicts = [
        _compared(f"{transfer.LIT}, {_labels(count)}: error {{}} from scratch less {{}} transferred, frozen",
                  lit[count], transfer.SCRATCH, transfer.FROZEN, "G2, claim 20")
        for count in few
    ]  # fmt: skip
    verdicts.append(
        _compared(f"… {_labels(least)}: error {{}} of frozen features that know nothing less {{}} transferred",
                  lit[least], transfer.RANDOM, transfer.FROZEN, "G2")
    )  # fmt: skip
    if most > least:
        verdicts.append(
            _compared(f"… {_labels(most)}: the other way, {{}} transferred, frozen, less {{}} from scratch",
                      lit[most], transfer.FROZEN, transfer.SCRATCH, "G2")
        )  # fmt: skip
    if least in plain:
        verdicts.append(
            _compared(f"{transfer.PLAIN}, {_labels(least)}: the other way, {{}} frozen less {{}} from scratch",
                      plain[least], transfer.FROZEN, transfer.SCRATCH, "G2")
        )  # fmt: skip
    return verdicts


def _by_labels(rows: Rows, kind: str) -> dict[int, Any]:
    return {row["labels"]: row["errors"] for name, row in rows.items() if name.startswith(f"{kind},")}


def _labels(count: int) -> str:
    return f"{count} label{'s' if count > 1 else ''} a class"


def _compared(claim: str, errors: Any, worse: str, better: str, notes: str) -> common.Verdict:
    a, b = (np.asarray(errors[way], float) for way in (worse, better))
    change, error = mean_error(a - b)
    measured = f"{change:.3f} ± {error:.3f}"
    claim = claim.format(f"{a.mean():.3f}", f"{b.mean():.3f}")
    return common.Verdict(claim, measured, f"> 0, {ERRORS} errors", beyond_chance(change, error), notes)


# The best of many, G1.


def judge_selection(rows: Rows) -> list[common.Verdict]:
    """The best validation score against what it is worth, and against theory."""
    found = {row["kind"]: row for name, row in rows.items() if name.startswith("selection, ")}
    verdicts = []
    if selection.GUESSES in found:
        verdicts.append(judge_guesses(found[selection.GUESSES]))
    for kind in (selection.SEEDS, selection.SETTINGS):
        if kind in found:
            verdicts.append(judge_optimism(found[kind]))
    if selection.SEEDS in found:
        verdicts.append(judge_luck(found[selection.SEEDS]))
    if len(found) == len(selection.FAMILIES):
        verdicts.append(judge_fresh(list(found.values())))
    return verdicts


def judge_guesses(row: Any) -> common.Verdict:
    """Who guesses has a score by luck alone. Fails if at any k the mean best is not the binomial's, to 4 errors."""
    worst = max(_off(row["optimism"], row["predicted"]))
    measured = f"{row['optimism']['mean'][-1]:.4f}; {worst:.1f} errors off at most"
    claim = f"best of {row['counts'][-1]} that guess, on {row['m']} images: accuracy less 1/10"
    return common.Verdict(
        claim, measured, f"{row['predicted'][-1]:.4f}, {EXACT} errors", worst <= EXACT, "G1, claim 19"
    )


def _off(measured: Any, predicted: Sequence[float]) -> list[float]:
    pairs = zip(measured["mean"], measured["error"], predicted, strict=True)
    return [abs(mean - value) / error if error > 0 else math.inf for mean, error, value in pairs]


def judge_optimism(row: Any) -> common.Verdict:
    """The best score of many is above its test score, and the more so, the more there are; by luck, within its bound.

    Fails if it is not above; if it is no more above of all than of two; or if it is more above than luck can be:
    equation (2) of `generalization_selection`.
    """
    means, errors, counts = row["optimism"]["mean"], row["optimism"]["error"], row["counts"]
    bounds = [math.sqrt(math.log(k) / 2 / row["m"]) for k in counts]
    within = all(mean <= bound + EXACT * error for mean, error, bound in zip(means, errors, bounds, strict=True))
    grows = beyond_chance(row["grows"]["mean"], row["grows"]["error"])
    holds = within and grows and beyond_chance(means[-1], errors[-1])
    return common.Verdict(
        f"best of {counts[-1]} with {row['kind']}: validation less test accuracy; more than of 2, "
        f"{means[min(1, len(means) - 1)]:.4f}",
        f"{means[-1]:.4f} ± {errors[-1]:.4f}", f"> 0, grows; ≤ {bounds[-1]:.3f}", holds, "G1, claim 19",
    )  # fmt: skip


def judge_luck(row: Any) -> common.Verdict:
    """Where skills vary less than luck, the best one's luck is what normal numbers say: equation (1) of `selection`.

    Fails if it is further off than 3 errors of the draws and twice the first correction for scores that are not normal.

    Scores are binomial. A quantile z of a distribution of skewness γ is off by γ (z² − 1) / 6 standard deviations
    (Cornish and Fisher 1938), so the mean of the largest by γ (E max² − 1) / 6, to first order; twice that, as there
    are further orders. The allowance has no part for skill: at the last k the candidates are all there are, or most,
    and their skills are what they are, not drawn anew. Equation (1) has them normal, with the τ of these.
    """
    k, lucky = row["counts"][-1], row["luck"]
    normal = selection.expected_maximum(k)
    mean, error, predicted = row["optimism"]["mean"][-1], row["optimism"]["error"][-1], row["predicted"][-1]
    correction = predicted / normal.largest * abs(lucky["skewness"]) * (normal.square - 1) / 6
    allowed = 2 * correction + ERRORS * error
    return common.Verdict(
        f"… with {row['kind']}, s {lucky['s']:.4f}, τ {lucky['tau']:.4f}: s²/√(s² + τ²) E max of {k} normal numbers",
        f"{mean:.4f}",
        f"{predicted:.4f} ± {allowed:.4f}", abs(mean - predicted) <= allowed, "G1",
    )  # fmt: skip


def judge_fresh(rows: Sequence[Any]) -> common.Verdict:
    """A test set that chose nothing has no bias. Fails if what is best scores there other than its skill, 4 errors."""
    off = [_off(row["unbiased"], [0.0] * len(row["counts"]))[-1] for row in rows]
    measured = ", ".join(f"{1e4 * row['unbiased']['mean'][-1]:+.1f}" for row in rows)
    return common.Verdict(
        "… the best on a fresh test set, less their skill, of all three, 10⁻⁴",
        f"{measured}; {max(off):.1f} errors", f"0, {EXACT} errors", max(off) <= EXACT, "G1, claim 19",
    )  # fmt: skip


# Bias and variance, G1.


def of_capacity(rows: Rows, kind: str) -> list[Any]:
    """The rows of each "degree" or "width", ascending."""
    return sorted((row for name, row in rows.items() if name.startswith(f"{kind} ")), key=lambda row: row["capacity"])


def _change(rows: Sequence[Any], part: str) -> tuple[float, float]:
    """From the first to the last, of the same training sets; its error by the jackknife."""
    first, last = rows[0], rows[-1]
    without = np.asarray(last["without"][part]) - np.asarray(first["without"][part])
    return last[part] - first[part], jackknife(without)


def _moves(claim: str, rows: Sequence[Any], part: str, sign: int, notes: str) -> common.Verdict:
    change, error = _change(rows, part)
    by = f"{'+' if change >= 0 else '−'}{abs(change):.4f}"
    measured = f"{rows[0][part]:.4f} → {rows[-1][part]:.4f}, {by} ± {error:.4f}"
    text = "rises" if sign > 0 else "falls"
    return common.Verdict(claim, measured, f"{text}, {ERRORS} errors", beyond_chance(sign * change, error), notes)


def judge_polynomials(rows: Rows) -> list[common.Verdict]:
    """Least squares, for which all is known: equations (1) and (2) of `generalization_capacity`.

    Fails if bias² or variance of any degree is further from what it is by theory than one run in thousands would be; if
    from the lowest degree to the highest bias² does not fall, or variance not rise; or if either end is no worse, by
    more than chance, than the degree that is best by theory. What is in between is not compared with it.
    """
    found = of_capacity(rows, "degree")
    if len(found) < 2:
        return []
    ends = f"polynomials of degree {found[0]['capacity']} → {found[-1]['capacity']}"
    verdicts = []
    for part, text in (("bias_squared", "bias²"), ("variance", "variance σ² p / N")):
        shares = [abs(row[part] - row["predicted"][part]) / row["allowed"][part] for row in found]
        worst = found[int(np.argmax(shares))]
        claim = f"{ends}: {text}, the furthest off, degree {worst['capacity']}"
        predicted = f"{worst['predicted'][part]:.4g} ± {worst['allowed'][part]:.2g}"
        verdicts.append(common.Verdict(claim, f"{worst[part]:.4g}", predicted, max(shares) <= 1, "G1, claim 20"))
    verdicts.append(_moves(f"{ends}: bias²", found, "bias_squared", -1, "G1, claim 20"))
    verdicts.append(_moves("… variance", found, "variance", 1, "G1, claim 20"))
    best = int(np.argmin([sum(row["predicted"].values()) for row in found]))
    return [
        *verdicts,
        _between(f"… error, less at degree {found[best]['capacity']}, best by theory, than at both ends", found, best),
    ]


def _between(claim: str, rows: Sequence[Any], best: int) -> common.Verdict:
    changes = [_change((rows[best], end), "error") for end in (rows[0], rows[-1])]
    measured = f"{rows[0]['error']:.4f} > {rows[best]['error']:.4f} < {rows[-1]['error']:.4f}"
    holds = 0 < best < len(rows) - 1 and all(beyond_chance(*change) for change in changes)
    return common.Verdict(claim, measured, f"less, {ERRORS} errors", holds, "G1")


def judge_networks(rows: Rows) -> list[common.Verdict]:
    """Width, and then steps, as capacity. Fails if from one end to the other bias² does not fall or variance not rise.

    From end to end: in between, variance need not rise. Networks of a few steps are still near where they started,
    which is variance, too.
    """
    found = of_capacity(rows, "width")
    if len(found) < 2:
        return []
    ends = f"networks of width {found[0]['capacity']} → {found[-1]['capacity']}"
    steps, way = found[-1]["steps"], found[-1]["on_the_way"]
    longer = f"width {found[-1]['capacity']}, {steps[0]} → {steps[-1]} steps"
    return [
        _moves(f"{ends}: bias²", found, "bias_squared", -1, "G1, claim 20"),
        _moves("… variance", found, "variance", 1, "G1, claim 20"),
        _moves(f"{longer}: bias²", way, "bias_squared", -1, "G1"),
        _moves("… variance", way, "variance", 1, "G1"),
    ]
