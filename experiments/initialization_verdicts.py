"""The tables and verdicts of `initialization`."""

import math
import sys
from typing import Any

import numpy as np

from experiments import common, initialization_theory
from experiments.initialization_networks import DRAWN, Row
from experiments.initialization_theory import RULES, SLOPES, STACKS, Predicted

ERRORS = 5  # standard errors: of some 300 layers that are compared, chance takes one in ten thousand runs
ROUNDING = 1e-12  # relative, where nothing is random
CHANCE = 1e-6  # that the largest of all draws is outside its bounds, on either side
TIED = math.sqrt(sys.float_info.epsilon)  # relative: rounding, of which training may cost half of the digits
UNTIED = 0.1  # relative distance of the nearest two units: independent ones start at √2
TRAINS, FAILS, LEAVES = 0.25, 0.5, 0.75  # loss over log 10, that of guessing
ACCURATE = 0.9
SATURATED = 0.9  # mean of tanh²; of z ~ N(0, 1) it is 0.39
METHODS = "sgd", "adam"
TRAINED = [(activation, method) for method in METHODS for activation in ("tanh", "relu")]
DRAW_SHAPE = 500, 2000  # n_in and n_out of a million draws
MATCHED = {"tanh": "Xavier", "relu": "He"}


def judge(rows: dict[str, Row], settings: dict[str, Any]) -> list[common.Verdict]:
    """A verdict on each claim whose rows are finished."""
    verdicts = []
    known = {activation: rows[key] for activation in SLOPES if (key := f"square, {activation}") in rows}
    for activation, row in known.items():
        verdicts += judge_layers(activation, row, settings)
        verdicts += judge_scheme(activation, row, settings)
    if len(known) == len(SLOPES):
        verdicts += judge_extremes(known, settings)
    for name in STACKS:
        if f"stack, {name}" in rows:
            verdicts += judge_stack(name, rows[f"stack, {name}"])
    if all(f"draws, {name}" in rows for name in DRAWN):
        verdicts += judge_draws({name: rows[f"draws, {name}"] for name in DRAWN})
    verdicts += judge_ties(rows, settings)
    verdicts += judge_training(rows, settings)
    return verdicts


def predictions(activation: str, settings: dict[str, Any]) -> dict[str, Predicted]:
    """By scheme, for the networks of one width."""
    width, depth = settings["width"], settings["depth"]
    schemes = initialization_theory.variances(settings["small"], settings["large"])
    return {
        name: initialization_theory.square(activation, variance(width, width), width=width, depth=depth)
        for name, variance in schemes.items()
    }


def off(row: Row, predicted: list[Predicted], direction: str) -> np.ndarray:
    """[schemes, layers], how far the mean is from what is predicted, over what is allowed: more than 1 is too far."""
    expected, finite = (np.array([getattr(p, name) for p in predicted]) for name in (direction, f"{direction}_off"))
    measured, error = np.array(row[direction]), np.array(row[f"{direction}_error"])
    result: np.ndarray = np.abs(measured - expected) / (ERRORS * error + (finite + ROUNDING) * expected)
    result = np.nan_to_num(result, nan=np.inf)
    return result


def judge_layers(activation: str, row: Row, settings: dict[str, Any]) -> list[common.Verdict]:
    """All schemes, at every layer.

    Fails if the mean over networks is anywhere farther from theory than its standard errors, and with tanh the width,
    allow: a factor that is wrong by 10 % is 2.6 after ten layers.
    """
    predicted = predictions(activation, settings)
    verdicts = []
    for direction, name in (("forward", "E x²"), ("backward", "E dx²")):
        far = off(row, list(predicted.values()), direction)
        scheme, layer = np.unravel_index(int(far.argmax()), far.shape)
        expected = getattr(predicted[list(predicted)[scheme]], direction)[layer]
        apart = row[direction][scheme][layer] / expected - 1
        allowed = abs(apart) / far.max() if far.max() > 0 else 0.0
        claim = f"{activation}, {len(predicted)} schemes: {name} of all layers over theory's, the worst"
        measured = f"{list(predicted)[scheme]}, l = {layer}: {100 * apart:+.1f} %"
        verdicts.append(common.Verdict(claim, measured, f"0 ± {100 * allowed:.1f} %", bool(far.max() <= 1), "claim 17"))
    return verdicts


def _ends(row: Row, scheme: int) -> list[tuple[float, float]]:
    """(mean, standard error) of the last layer's activations and of the gradients of the inputs."""
    return [
        (row[direction][scheme][layer], row[f"{direction}_error"][scheme][layer])
        for direction, layer in (("forward", -1), ("backward", 0))
    ]


def judge_scheme(activation: str, row: Row, settings: dict[str, Any]) -> list[common.Verdict]:
    """What each row of the notes says of its scheme: S3's loses 4× a layer, Xavier's and He's keep.

    Fails if what is left after all layers is not 4⁻ᴸ (S3's, linear), 1 (He's, relu), or by the integrals (Xavier's,
    tanh: not kept, but not lost geometrically either) within the standard errors.
    """
    scheme, notes = {"linear": ("S3", "I4"), "tanh": ("Xavier", "I2"), "relu": ("He", "I3")}[activation]
    predicted = predictions(activation, settings)
    index = list(predicted).index(scheme)
    (forward, error), (backward, backward_error) = _ends(row, index)
    expected = predicted[scheme]
    text = f"{expected.forward[-1]:.3g}, {expected.backward[0]:.3g}"
    if scheme == "S3":
        text = f"4^−{settings['depth']} = {4.0 ** -settings['depth']:.2g}, both"
    holds = all(
        off(row, list(predicted.values()), name)[index, at] <= 1 for name, at in (("forward", -1), ("backward", 0))
    )
    percent = 100 * max(error / forward, backward_error / backward)
    measured = f"{forward:.3g}, {backward:.3g}, ± {percent:.1f} %"
    claim = f"{activation}, {scheme}: E x², E dx² after {settings['depth']} layers"
    return [common.Verdict(claim, measured, text, holds, f"{notes}, claim 17")]


def judge_extremes(known: dict[str, Row], settings: dict[str, Any]) -> list[common.Verdict]:
    """Small and large weights.

    Fails if anything grows with small weights, in any of the networks, or gradients fall with large ones; or if the
    activations that cannot grow, those of tanh, are not saturated as theory says.
    """
    verdicts = []
    for name, index, directions in (("small", 0, ("forward", "backward")), ("large", 1, ("backward",))):
        found, theory = [], []
        for activation, row in known.items():
            predicted = predictions(activation, settings)[name]
            for direction in directions:
                at = -1 if direction == "forward" else 0
                found.append(row[direction][index][at])
                theory.append(float(getattr(predicted, direction)[at]))
        worst = max if name == "small" else min
        expected = worst(theory)
        what = "largest of E x² and E dx²" if name == "small" else "least of E dx²"
        claim = f"{name}, σ = {settings[name]:g}: {what}, of all three activations"
        holds = worst(found) < 1 if name == "small" else worst(found) > 1
        text = f"{expected:.1e}, {'shrinks' if name == 'small' else 'explodes'}"
        verdicts.append(common.Verdict(claim, f"{worst(found):.1e}", text, holds, "I1, claim 17"))
    left, error = (known["tanh"][name][1][-1] for name in ("forward", "forward_error"))
    theory_of = [*predictions("tanh", settings).values()]
    expected = float(theory_of[1].forward[-1])
    allowed = ERRORS * error + float(theory_of[1].forward_off[-1]) * expected
    holds = bool(off(known["tanh"], theory_of, "forward")[1, -1] <= 1 and left > SATURATED)
    claim = "large, tanh: E x², saturated"
    text = f"{expected:.4f} ± {allowed:.4f}, > {SATURATED:g}"
    verdicts.append(common.Verdict(claim, f"{left:.4f}", text, holds, "I1"))
    return verdicts


def judge_stack(name: str, row: Row) -> list[common.Verdict]:
    """Linear layers of unequal widths, by three rules.

    Fails if activations or gradients are off theory in any layer by more than the standard errors allow; such as if
    one σ² kept both, or if Xavier's kept either.
    """
    predicted = [initialization_theory.linear_stack(rule, STACKS[name]) for rule in RULES]
    verdicts = []
    for direction, what, at in (("forward", "E x²", -1), ("backward", "E dx²", 0)):
        measured = ", ".join(f"{lane[at]:.3g}" for lane in row[direction])
        expected = ", ".join(f"{getattr(p, direction)[at]:.3g}" for p in predicted)
        claim = f"linear, {' → '.join(map(str, STACKS[name][:3]))} …, σ² = {', '.join(RULES)}: {what}"
        holds = bool(off(row, predicted, direction).max() <= 1)
        verdicts.append(common.Verdict(claim, measured, expected, holds, "I2, I4"))
    return verdicts


def judge_draws(rows: dict[str, Row]) -> list[common.Verdict]:
    """Initializers, by a million draws.

    Fails if a variance is off by 5 standard errors; if the largest draw of he_normal is one that normal ones would not
    have (or JAX's one that normal ones cut at 2 would not have) in 999,999 of a million runs; if Xavier's variance
    is the mean that the notes name.
    """
    n_in, n_out = DRAW_SHAPE
    count = n_in * n_out
    low, high = (initialization_theory.largest_of(count, p) for p in (CHANCE, 1 - CHANCE))
    # Draws within `edge` below the cut are missing by chance CHANCE.
    cut, stddev = initialization_theory.CUT, initialization_theory.CUT_STDDEV
    density = 2 * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / math.erf(cut / math.sqrt(2))
    edge = math.log(1 / CHANCE) / (count * density)
    bounds = {"He": (low, high), "He of JAX": ((cut - edge) / stddev, cut / stddev * (1 + 1e-6))}
    verdicts = []
    for name, (least, most) in bounds.items():
        row = rows[name]
        near = abs(row["variance"] - 1) <= ERRORS * row["error"]
        measured = f"{row['largest']:.4f}, {row['variance']:.4f} ± {row['error']:.4f}"
        claim = f"{name}, draws / √(2/n_in): largest of {count:,}, variance"
        expected = f"{least:.4f} … {most:.4f}, 1"
        verdicts.append(common.Verdict(claim, measured, expected, near and least <= row["largest"] <= most, "I3"))
    row, unit = rows["Xavier"], 2 / n_in  # rows are in units of He's variance
    of_inverses, of_numbers = 2 / (n_in + n_out), (n_in + n_out) / (2 * n_in * n_out)
    holds = abs(row["variance"] * unit - of_inverses) <= ERRORS * row["error"] * unit
    claim = f"Xavier, n_in = {n_in}, n_out = {n_out}: variance, not 1 / their harmonic mean"
    measured = f"{row['variance'] * unit:.2e} ± {row['error'] * unit:.0e}"
    verdicts.append(common.Verdict(claim, measured, f"{of_inverses:.2e}, not {of_numbers:.2e}", holds, "I2"))
    return verdicts


def judge_ties(rows: dict[str, Row], settings: dict[str, Any]) -> list[common.Verdict]:
    """Units after training that started alike; by either method.

    Fails if with constant weights any two units of a layer are farther apart than rounding explains, or if nothing was
    trained that could tell them apart; with zeros and tanh, if anything but the last bias moves by a bit, or it does
    not; with random weights, if two units are nearer than a tenth of their length, or the digits are not learned.
    """
    first, *_ = widths = [*map(int, settings["tied_widths"])]
    cases = [
        ("0, tanh", first),
        ("0, sigmoid", first),
        *(("c, tanh", width) for width in widths),
        ("random, tanh", first),
    ]
    verdicts = []
    for name, width in cases:
        found = {method: rows.get(f"ties, {name}, {width}, {method}") for method in METHODS}
        known = {method: row for method, row in found.items() if row is not None}
        if len(known) < len(found):
            continue
        title = name.replace("c,", f"c = {settings['constant']:g},").replace("0,", "c = 0,")
        title = f"{title}, 2 × {width} units"
        if name == "0, tanh":
            measured = ", ".join(f"{m} {max(r['moved'][:-1]):.0g}, {r['moved'][-1]:.2f}" for m, r in known.items())
            holds = all(max(r["moved"][:-1]) == 0 < r["moved"][-1] for r in known.values())
            claim, expected = f"{title}: farthest a parameter moved, the last bias", "0, > 0"
        elif name.startswith("random"):
            measured = ", ".join(f"{m} {r['nearest']:.2f}, {100 * r['accuracy']:.0f} %" for m, r in known.items())
            holds = all(r["nearest"] >= UNTIED and r["accuracy"] >= ACCURATE for r in known.values())
            claim = f"{title}: nearest two, accuracy"
            expected = f"≥ {UNTIED:g}, ≥ {100 * ACCURATE:.0f} %"
        else:
            measured = ", ".join(f"{m} {r['apart']:.1g}" for m, r in known.items())
            holds = all(r["apart"] <= TIED and min(r["moved"]) > 0 for r in known.values())
            claim, expected = f"{title}: farthest two, after training", f"0, rounded: ≤ {TIED:.0e}"
        verdicts.append(common.Verdict(claim, measured, expected, bool(holds), "I1, claim 16"))
    return verdicts


def losses(row: Row) -> np.ndarray:
    """[networks, η], over log 10; infinite where it is not a number."""
    result: np.ndarray = np.nan_to_num(np.array(row["loss"], float), nan=np.inf, posinf=np.inf)
    return result


def judge_training(rows: dict[str, Row], settings: dict[str, Any]) -> list[common.Verdict]:
    """Whether digits are learned, in terms of the loss of guessing, log 10.

    Fails if a network of a scheme that keeps variances is above a quarter of it at its best η; if one of the others is
    below a half at any of these η with sgd; if one of S3's with Adam is above three quarters at its best η.
    """
    verdicts = []
    for activation, method in TRAINED:
        keys = {
            name: f"training, {name}, {activation}, {method}" for name in ("small", "large", "S3", MATCHED[activation])
        }
        if any(key not in rows for key in keys.values()):
            continue
        found = {name: losses(rows[key]) for name, key in keys.items()}
        worst = {name: float(loss.max(axis=0).min()) for name, loss in found.items()}  # of networks, at the best η
        name = MATCHED[activation]
        claim = f"trained, {activation}, {method}, {name}: loss / log 10, best η, worst network"
        verdicts.append(common.Verdict(claim, f"{worst[name]:.3f}", f"≤ {TRAINS}", worst[name] <= TRAINS, "claim 17"))
        if method == "sgd":
            others = {name: float(found[name].min()) for name in ("small", "large", "S3")}
            measured = ", ".join(f"{loss:.2f}" for loss in others.values())
            holds = min(others.values()) >= FAILS
            rates = ", ".join(f"{float(rate):g}" for rate in settings["sgd_rates"])
            claim = f"trained, {activation}, {method}, {', '.join(others)}: best network, at η = {rates}"
            verdicts.append(common.Verdict(claim, measured, f"≥ {FAILS}", holds, "I1, I4"))
        else:
            claim = f"trained, {activation}, {method}, S3: best η, worst network"
            verdicts.append(common.Verdict(claim, f"{worst['S3']:.2f}", f"≤ {LEAVES}", worst["S3"] <= LEAVES, "I4"))
    return verdicts


def print_tables(rows: dict[str, Row], settings: dict[str, Any]) -> None:
    """Ends of the networks, units, training."""
    table = []
    for activation in SLOPES:
        if f"square, {activation}" in rows:
            row = rows[f"square, {activation}"]
            for index, (name, p) in enumerate(predictions(activation, settings).items()):
                (forward, error), (backward, backward_error) = _ends(row, index)
                numbers = (forward, error, p.forward[-1], backward, backward_error, p.backward[0])
                table.append([activation, name, *(f"{number:.2e}" for number in numbers)])
    if table:
        head = ["", "scheme", "E x²", "±", "predicted", "E dx²", "±", "predicted"]
        common.table(f"Mean squares after {settings['depth']} layers, means over networks", head, table)
    table = []
    for key, row in rows.items():
        if key.startswith("ties, "):
            texts = [f"{x:.1e}" for x in (row["apart"], row["nearest"], max(row["moved"]))]
            table.append([*key.split(", ")[1:], *texts, f"{100 * row['accuracy']:.0f} %"])
    if table:
        head = ["weights", "", "units", "", "farthest two", "nearest two", "moved", "accuracy"]
        common.table(f"Hidden units after {settings['steps']} steps", head, table)
    table = []
    for key, row in rows.items():
        if key.startswith("training, "):
            best = int(np.argmin(losses(row).max(axis=0)))
            lane, right = np.array(row["loss"], float)[:, best], np.array(row["accuracy"])[:, best]
            method = key.split(", ")[3]
            rate = settings[f"{method}_rates"][best]
            spread = [f"{lane.mean():.3f}", f"{lane.min():.3f} … {lane.max():.3f}", f"{100 * right.mean():.0f} %"]
            table.append([*key.split(", ")[1:], rate, *spread])
    if table:
        head = ["scheme", "", "", "best η", "loss / log 10", "of networks", "accuracy"]
        common.table(f"Training, {settings['hidden_layers']} hidden layers, {settings['steps']} steps", head, table)
