"""Tables and verdicts of `generative`. Errors are standard errors of means, over test images unless it says of what."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import common

NOTES = "H5"
GRADIENT = 1e-12  # relative, in float64
ENUMERATED = 1e-12  # a sum of up to 2¹⁶ probabilities in float64 from 1
QUADRATURE = 1e-9  # nats
MORE, SAME = 3.0, 4.0  # errors by which a difference is more than chance, and up to which it may be that
QUANTILE = 4.0  # of a normal deviate: chance exceeds it once in 30,000
SHORT = 0.1  # of 2 JSD by which a trained discriminator may miss the best value: it is a network, and was trained
CORRELATION = 0.9  # of its logit with log p/q, where neither of p and q is negligible,
DOUBT = 4.0  # that is, where |log p/q| is at most this
LEFT = 0.1  # of a generator's first energy distance to the ring, that may be left at the end; best is none
EVEN = 0.05  # nats from log 4 where neither player wins: the loss of the best discriminator at JSD 0.025

Rows = dict[str, Any]


def judge(rows: Rows) -> list[common.Verdict]:
    """A verdict on each claim, as far as its models are finished."""
    judges: list[tuple[Sequence[str], Callable[[Rows], list[common.Verdict]]]] = [
        (("fvbn",), lambda rows: [_gradient("FVBN", rows["fvbn"]["gradient_difference"])]),
        (("nade",), lambda rows: [_gradient("NADE", rows["nade"]["gradient_difference"])]),
        (("vae",), lambda rows: [_gradient("VAE", rows["vae"]["gradient_difference"])]),
        (("digits gan",), gan_gradients),
        (("small fvbn", "small nade"), enumerated),
        (("baselines", "fvbn", "nade"), autoregressive),
        (("small vae",), exact_bounds),
        (("vae",), digit_bounds),
        (("discriminator",), best_discriminator),
        (("ring",), ring),
        (("digits gan",), digit_samples),
    ]
    return [verdict for needed, own in judges if all(name in rows for name in needed) for verdict in own(rows)]


def _gradient(name: str, difference: float) -> common.Verdict:
    """Fails if an entry at the first or the last parameters is off by more than rounding in float64."""
    claim = f"{name}: gradient by hand against jax.grad, relative"
    return common.Verdict(claim, f"{difference:.0e}", f"≤ {GRADIENT:.0e}", difference <= GRADIENT, NOTES)


def gan_gradients(rows: Rows) -> list[common.Verdict]:
    """Fails if one of the three losses' gradients is off by more than rounding in float64."""
    found = rows["digits gan"]["gradient_differences"]
    return [_gradient(f"GAN's {name.replace('_', '-')}", difference) for name, difference in found.items()]


def enumerated(rows: Rows) -> list[common.Verdict]:
    """Fails if Σ p over all images is not 1, as where a logit sees its own pixel or a later one; or if samples follow
    another distribution: Pearson's χ², as the normal deviate that it is by Wilson and Hilferty's cube root, is too far
    above its mean, or all images are in one cell, which tests nothing.
    """
    verdicts = []
    for kind in ("fvbn", "nade"):
        row, name = rows[f"small {kind}"], kind.upper()
        claim = f"{name}: Σ p over all {2 ** row['pixels']:,} images of {row['pixels']} pixels, − 1"
        holds = abs(row["excess"]) <= ENUMERATED
        verdicts.append(common.Verdict(claim, f"{row['excess']:.0e}", f"0 ± {ENUMERATED:.0e}", holds, NOTES))
        claim = f"… χ² of {row['samples']:,} samples against these p, {row['freedom']} degrees of freedom"
        tested = row["freedom"] > 0
        holds = tested and deviate(row["chi_square"], row["freedom"]) <= QUANTILE
        predicted = f"≤ {highest_chi_square(row['freedom']):.0f}" if tested else "two cells or more"
        verdicts.append(common.Verdict(claim, f"{row['chi_square']:.0f}", predicted, holds, NOTES))
    return verdicts


def deviate(statistic: float, freedom: int) -> float:
    """The normal deviate of a χ², by its cube root (E. Wilson and M. Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return (math.cbrt(statistic / freedom) - (1 - spread)) / math.sqrt(spread)


def highest_chi_square(freedom: int) -> float:
    """The χ² whose deviate is `QUANTILE`."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + QUANTILE * math.sqrt(spread)) ** 3


def mean_and_error(values: Any) -> tuple[float, float]:
    """Of a sample."""
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def difference(a: Any, b: Any) -> tuple[float, float]:
    """The mean of a − b and its error, pair by pair."""
    return mean_and_error(np.asarray(a, float) - np.asarray(b, float))


def _text(mean: float, error: float, digits: int = 3) -> str:
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def autoregressive(rows: Rows) -> list[common.Verdict]:
    """Fails if the better model's log p of the same test images is not the larger by `MORE` errors."""
    verdicts = []
    pairs = (("NADE", rows["nade"]["test"], "FVBN", rows["fvbn"]["test"]),
             ("FVBN", rows["fvbn"]["test"], "independent pixels", rows["baselines"]["independent"]))  # fmt: skip
    for better, ours, worse, theirs in pairs:
        mean, error = difference(ours, theirs)
        claim = f"log p of test digits: {better} − {worse}, nats an image"
        holds = mean > 0 and mean >= MORE * error
        verdicts.append(common.Verdict(claim, _text(mean, error), f"> 0, {MORE:g} errors", holds, NOTES))
    return verdicts


def exact_bounds(rows: Rows) -> list[common.Verdict]:
    """Fails if Σ p(x) is not 1, if a bound is above log p(x), if what it misses is not the divergence from the
    posterior, if the importance-weighted bound with S = 1 has another mean than the bound, or if more draws do not
    bring it nearer to log p(x), or bring it above.
    """
    row = rows["small vae"]
    log_p, bound, divergence = (np.array(row[name]) for name in ("log_p", "bound", "divergence"))
    excess = float(np.exp(log_p).sum() - 1)
    gap = log_p - bound
    apart = float(np.max(np.abs(gap - divergence)))
    least = float(gap.min())
    (one, one_error), *more = row["importance_weighted"].values()
    off = one - float(bound.mean())
    means, errors = [float(bound.mean())], [0.0]
    for mean, error in more:
        means, errors = [*means, mean], [*errors, error]
    means, errors = [*means, float(log_p.mean())], [*errors, 0.0]
    steps, step_errors = np.diff(means), np.hypot(errors[1:], errors[:-1])
    smallest = float(np.min(steps / step_errors))
    sizes = ", ".join(list(row["importance_weighted"])[1:])
    chain = " < ".join(f"{mean:.4f}" for mean in means)
    return [
        common.Verdict(
            f"small VAE: Σ p over all {len(log_p)} images, by quadrature, − 1", f"{excess:.0e}",
            f"0 ± {ENUMERATED:.0e}", abs(excess) <= ENUMERATED, NOTES,
        ),
        common.Verdict(
            "… log p(x) − bound, of each image", f"{least:.2g} … {gap.max():.2g}", "≥ 0",
            least >= -QUADRATURE, NOTES,
        ),
        common.Verdict(
            "… from KL(q(z|x) ‖ p(z|x)), at most", f"{apart:.0e}", f"≤ {QUADRATURE:.0e}", apart <= QUADRATURE, NOTES
        ),
        common.Verdict(
            "… importance-weighted bound with S = 1, − bound, mean", f"{off:+.1e} ± {one_error:.0e}",
            f"0, {SAME:g} errors", abs(off) <= SAME * one_error, NOTES,
        ),
        common.Verdict(
            f"… bound < with S = {sizes} < log p: {chain}; errors between neighbours",
            f"≥ {smallest:.1f}", f"≥ {MORE:g}", smallest >= MORE, NOTES,
        ),
    ]  # fmt: skip


def digit_bounds(rows: Rows) -> list[common.Verdict]:
    """Fails if the closed form of KL gives another mean than S = 1 draws, if a larger S gives a lower bound by more
    than chance, or if the largest does not give a higher one than the bound.
    """
    row = rows["vae"]
    weighted = row["importance_weighted"]
    sizes = list(weighted)
    off, off_error = difference(weighted["1"], row["bound"])
    series = [row["bound"], *(weighted[size] for size in sizes[1:])]
    changes = [difference(after, before) for before, after in itertools.pairwise(series)]
    gain, gain_error = difference(series[-1], series[0])
    rising = all(mean >= -MORE * error for mean, error in changes)
    shown = ", ".join(f"{mean:+.2f} ± {error:.2f}" for mean, error in changes)
    steps = " → ".join(["bound", *(f"S = {size}" for size in sizes[1:])])
    least = min(mean / error if error else math.copysign(math.inf, mean) for mean, error in changes)
    return [
        common.Verdict(
            "VAE, test digits: bound with S = 1, − bound with KL in closed form", f"{off:+.3f} ± {off_error:.3f}",
            f"0, {SAME:g} errors", abs(off) <= SAME * off_error, NOTES,
        ),
        common.Verdict(f"… {steps}: {shown}; errors of a step", f"≥ {least:.1f}", f"≥ {-MORE:g}", rising, NOTES),
        common.Verdict(
            f"… bound with S = {sizes[-1]}, − bound: of KL(q ‖ posterior), at least", _text(gain, gain_error),
            f"> 0, {MORE:g} errors", gain > 0 and gain >= MORE * gain_error, NOTES,
        ),
    ]  # fmt: skip


def best_discriminator(rows: Rows) -> list[common.Verdict]:
    """Fails if the best value by quadrature is not what fresh examples say, if a discriminator misses too much of it,
    if the library's loss of fresh examples says another value than the densities, or if logits do not go with log p/q.
    """
    row = rows["discriminator"]
    value, best = np.array(row["value"]), row["best"]
    share = (best - value[:, -1]) / (2 * row["jsd"])
    drawn, error = row["best_drawn"]
    deviates = (np.array(row["fresh_value"]) - value[:, -1]) / np.array(row["fresh_error"])
    log_ratio, logits = np.array(row["log_ratio"]), np.array(row["logits"])
    near = np.abs(log_ratio) <= DOUBT
    correlations = [float(np.corrcoef(log_ratio[near], own[near])[0, 1]) for own in logits]
    games = len(value)
    return [
        common.Verdict(
            "2 JSD − log 4 of ring and Gaussian: by fresh examples, − by quadrature",
            f"{drawn - best:+.4f} ± {error:.4f}", f"0, {SAME:g} errors", abs(drawn - best) <= SAME * error, NOTES,
        ),
        common.Verdict(
            f"discriminator, fixed generator: V of {games}; 2 JSD − log 4, less ≤ {SHORT:.0%} of 2 JSD",
            _range(value[:, -1]),
            f"{best - SHORT * 2 * row['jsd']:.3f} … {best:.3f}",
            bool(np.min(share) >= -QUADRATURE and np.max(share) <= SHORT), NOTES,
        ),
        common.Verdict(
            "… V by the library's loss of fresh examples, − V by the densities, errors", _range(deviates, 1),
            f"0 ± {SAME:g}", bool(np.max(np.abs(deviates)) <= SAME), NOTES,
        ),
        common.Verdict(
            f"… correlation of its logit and log p/q, where |log p/q| ≤ {DOUBT:g}", _range(correlations),
            f"≥ {CORRELATION:g}", min(correlations) >= CORRELATION, NOTES,
        ),
    ]  # fmt: skip


def _range(values: Any, digits: int = 3) -> str:
    return f"{np.min(values):.{digits}f} … {np.max(values):.{digits}f}"


def ring(rows: Rows) -> list[common.Verdict]:
    """Fails if the two losses' gradients of a single fake are not e^s apart, if at the end of a game more than `LEFT`
    of the samples' first distance to the mixture is left, or it did not fall by `MORE` errors, or if a player is
    still winning; or if a discriminator did not win at first, against a generator that stays as it is: one that
    never learns has the loss log 4 as well.
    """
    row = rows["ring"]
    scores, ratios = np.array(row["scores"]), np.array(row["ratios"])
    low, high = (np.unravel_index(f(scores), scores.shape) for f in (np.argmin, np.argmax))
    apart = row["ratios_apart"]
    distance = np.array(row["distance"])
    falls = [difference(first, last) for first, last in zip(*row["distances"], strict=True)]
    left = distance[:, -1] / distance[:, 0]
    off = np.array(row["losses"])[:, -1] - math.log(4)
    ahead = np.array(row["ahead"]) - math.log(4)
    nearer = bool(np.all(left <= LEFT)) and all(fall > 0 and fall >= MORE * error for fall, error in falls)
    return [
        common.Verdict(
            f"minimax over non-saturating gradient of one fake; of {scores.size}, off e^s by ≤ {apart:.0e}, relative",
            f"{ratios[low]:.1e} … {ratios[high]:.2g}", f"{np.exp(scores[low]):.1e} … {np.exp(scores[high]):.2g}",
            apart <= GRADIENT, NOTES,
        ),
        common.Verdict(
            f"ring, {len(distance)} games: energy distance to the mixture, {distance[:, 0].mean():.2f} → "
            f"{distance[:, -1].mean():.4f} (real to real {row['distance_of_real']:.4f}); left",
            f"≤ {left.max():.1%}", f"≤ {LEFT:.0%}, {MORE:g} errors", nearer, NOTES,
        ),
        common.Verdict(
            "… discriminator's loss − log 4: ahead, the generator as it is at first; in the game's last part",
            f"{_range(ahead, 2)}; {_range(off)}", f"< {-EVEN:g}; 0 ± {EVEN:g}",
            bool(np.max(ahead) < -EVEN and np.max(np.abs(off)) <= EVEN), NOTES,
        ),
    ]  # fmt: skip


def digit_samples(rows: Rows) -> list[common.Verdict]:
    """Fails if the energy distance of samples to test digits does not fall, by errors over groups of samples."""
    distances = rows["digits gan"]["distances"]
    first, last = (mean_and_error(distances[i]) for i in (0, -1))
    fall, error = difference(distances[0], distances[-1])
    claim = "GAN on digits: energy distance of samples to test digits"
    holds = fall > 0 and fall >= MORE * error
    measured = f"{_text(*first, 2)} → {_text(*last)}"
    return [common.Verdict(claim, measured, f"falls, {MORE:g} errors", holds, NOTES)]


def print_tables(rows: Rows) -> None:
    """Likelihoods of test digits, then what became of the GANs."""
    _print_likelihoods(rows)
    if row := rows.get("ring"):
        steps, ratio = row["steps"], zip(row["batch_ratios"], row["batch_ratios_expected"], strict=True)
        lines = [
            [game + 1, f"{loss[0]:.3f} → {loss[-1]:.3f}", f"{far[0]:.2f} → {far[-1]:.3f}",
             f"{near[0]:.1%} → {near[-1]:.1%}", f"{modes[0]} → {modes[-1]}", f"{measured:.3f} ({expected:.3f})"]
            for game, (loss, far, near, modes, (measured, expected)) in enumerate(
                zip(row["losses"], row["distance"], row["near"], row["modes"], ratio, strict=True)
            )
        ]  # fmt: skip
        best = [f"{math.log(4):.3f}", f"{row['distance_of_real']:.3f}", f"{row['near_of_real']:.1%}", "8", ""]
        head = ["game", "discriminator's loss", "energy distance", "near a mode", "modes", "batch's gradients*"]
        common.table(f"GAN on a ring of Gaussians, {steps[-1]:,} steps", head, [*lines, ["real", *best]])
        common.console.print(
            "* norm of the minimax gradient over that of the non-saturating one, the discriminator ahead; in brackets\n"
            "  mean σ(s) over mean σ(−s), which it would be if all fakes pulled one way\n"
        )
    if row := rows.get("digits gan"):
        lines = [
            ["energy distance to test digits", f"{np.mean(row['distances'][-1]):.3f}",
             f"{row['distance_of_train']:.3f}, training digits"],
            ["distance to the nearest training digit, median", f"{row['to_train']:.2f}",
             f"{row['test_to_train']:.2f}, test digits"],
            ["discriminator's loss in the last part", f"{row['losses'][-1]:.3f}", f"{math.log(4):.3f}, neither wins"],
        ]  # fmt: skip
        common.table(f"GAN on grey digits, {row['steps'][-1]:,} steps", ["what", "samples", "for comparison"], lines)


def _print_likelihoods(rows: Rows) -> None:
    lines: list[list[str]] = []

    def add(name: str, what: str, row: Rows, values: Any) -> None:
        lines.append(
            [name, what, str(row.get("parameters", "")), str(row.get("best", "")), _text(*mean_and_error(values))]
        )

    if row := rows.get("baselines"):
        add("independent pixels", "log p", {}, row["independent"])
        add(f"mixture of {row['components']} such", "log p", {}, row["mixture"])
    for kind in ("fvbn", "nade"):
        if row := rows.get(kind):
            add(kind.upper(), "log p", row, row["test"])
    if row := rows.get("vae"):
        add("VAE", "≤ log p: bound", row, row["bound"])
        for samples, values in row["importance_weighted"].items():
            add("", f"≤ log p: S = {samples}", {}, values)
    if lines:
        head = ["model", "what", "parameters", "epoch", "nats an image"]
        common.table("Test digits, black and white; errors over images", head, lines)
