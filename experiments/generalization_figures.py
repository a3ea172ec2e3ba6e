"""The figures of `generalization`: overfitting, transfer and the best of many; bias² and variance against capacity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments import generalization_overfitting as overfitting
from experiments import generalization_selection as selection
from experiments import generalization_transfer as transfer
from experiments.figures import COMPONENTS, HAND, LARGE
from experiments.generalization_networks import ERROR, EVERY, LOSS
from experiments.generalization_verdicts import TEST, TRAIN, VALIDATION, chosen, jackknife, of_capacity, scores

Rows = Mapping[str, Any]
LEAST = 1e-4  # drawn, of bias² and variance
PARTS = ((TRAIN, LARGE, "--", "training"), (VALIDATION, COMPONENTS[3], "-", "validation"), (TEST, HAND, ":", "test"))
WAYS = (  # by their order in `transfer.WAYS`
    (HAND, "o", "-"),
    (COMPONENTS[3], "^", "-"),
    ("0.55", "s", ":"),
    (LARGE, "D", "--"),
)
FAMILIES = (("0.45", "s"), (LARGE, "o"), (HAND, "^"))


def draw_overfitting(rows: Rows) -> Figure:
    """What is not finished is left out."""
    figure = Figure(figsize=(10, 13), layout="constrained")
    (curves, best), (gaps, errors), (lit, plain) = figure.subplots(3, 2)
    _curves(curves, rows)
    _strengths(gaps, errors, rows)
    _transfer(lit, rows, transfer.LIT)
    _transfer(plain, rows, transfer.PLAIN)
    lit.set_ylim(0, 0.8)
    plain.set_ylim(0, 0.8)
    _best(best, rows)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(axes: Axes, rows: Rows) -> None:
    axes.set_title("No regularizer: loss, ± two standard errors")
    axes.set_xlabel("step")
    row = rows.get(overfitting.NONE)
    if row is None:
        return
    means, errors = (np.asarray(row[name])[:, :, LOSS] for name in ("curves", "curve_errors"))
    steps = EVERY * np.arange(1, len(means) + 1)
    for part, colour, style, name in PARTS:
        low, high = means[:, part] - 2 * errors[:, part], means[:, part] + 2 * errors[:, part]
        axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(steps, means[:, part], style, color=colour, linewidth=2, label=name)
    stop = float(np.mean(row["best_step"]))
    axes.axvline(stop, color="black", linewidth=0.9, linestyle="-.")
    text = "early stopping goes\nback to here, on average"
    axes.annotate(text, (stop, 0), (6, 4), textcoords="offset points", fontsize=9, va="bottom")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="center right")


def _strengths(gaps: Axes, errors: Axes, rows: Rows) -> None:
    """A line from training to test loss for each setting; beside it, the test error."""
    gaps.set_title("Loss: ○ training —— test ●")
    errors.set_title("Test error")
    if overfitting.NONE not in rows:
        return
    kinds = overfitting.DECAY, overfitting.DROPOUT, overfitting.BOTTLENECK
    best = [chosen(rows, kind) for kind in kinds]
    lines = [(overfitting.NONE, scores(rows[overfitting.NONE]), True)]
    lines.append(("early stopping", scores(rows[overfitting.NONE], "best"), True))
    for name, row in rows.items():
        if row.get("kind") in kinds and not name.endswith(overfitting.CLEAN):
            lines.append((name + (" *" if name in best else ""), scores(row), name in best))
    for place, (_, found, strong) in enumerate(lines):
        mean, error = found.mean(axis=0), 2 * found.std(axis=0, ddof=1) / len(found) ** 0.5
        colour, width = (HAND, 2.5) if strong else ("0.6", 1.2)
        ends = mean[[TRAIN, TEST], LOSS]
        gaps.plot(ends, [place, place], color=colour, linewidth=width)
        style: dict[str, Any] = {"color": colour, "capsize": 3, "markersize": 7}
        gaps.errorbar(ends[0], place, xerr=error[TRAIN, LOSS], fmt="o", markerfacecolor="white", **style)
        gaps.errorbar(ends[1], place, xerr=error[TEST, LOSS], fmt="o", **style)
        errors.errorbar(mean[TEST, ERROR], place, xerr=error[TEST, ERROR], fmt="o", **style)
    for axes in (gaps, errors):
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_yticks(range(len(lines)), [name for name, *_ in lines] if axes is gaps else [""] * len(lines))
        axes.grid(visible=True, axis="y", linewidth=0.3)
    gaps.set_xlim(left=0)
    gaps.set_xlabel("* the strength that validation chose; ± two standard errors")
    errors.axvline(scores(rows[overfitting.NONE])[:, TEST, ERROR].mean(), color="black", linewidth=0.8, linestyle="--")
    errors.set_xlabel("share of test labels, wrong ones included; dashed: none")


def _transfer(axes: Axes, rows: Rows, kind: str) -> None:
    axes.set_title(f"From 0–4 to 5–9, {kind}: test error")
    axes.set_xlabel("labels of each class")
    found = {row["labels"]: row["errors"] for name, row in rows.items() if name.startswith(f"{kind},")}
    for way, (colour, marker, style) in zip(transfer.WAYS, WAYS, strict=True):
        values = [np.asarray(errors[way]) for errors in found.values()]
        error = [2 * value.std(ddof=1) / len(value) ** 0.5 for value in values]
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": style, "markersize": 6, "capsize": 3}
        axes.errorbar([*found], [value.mean() for value in values], yerr=error, linewidth=1.8, label=way, **look)
    if not found:
        return
    axes.set_xscale("log")
    _ticks(axes, [*found])
    axes.legend(frameon=False, loc="upper right", title="± two standard errors")


def _best(axes: Axes, rows: Rows) -> None:
    axes.set_title("The best of k on one validation set: optimism")
    axes.set_xlabel("k")
    found = [row for row in rows.values() if row.get("kind") in selection.FAMILIES]
    for row in found:
        colour, marker = FAMILIES[selection.FAMILIES.index(row["kind"])]
        means, errors = np.asarray(row["optimism"]["mean"]), np.asarray(row["optimism"]["error"])
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "markersize": 7, "capsize": 3}
        axes.errorbar(row["counts"], means, yerr=2 * errors, label=row["kind"], **style)
        line: dict[str, Any] = {
            "color": colour,
            "linewidth": 1.2,
            "linestyle": "--" if row["kind"] == selection.SETTINGS else "-",
        }
        axes.plot(row["counts"], row["predicted"], zorder=3, **line)
    if not found:
        return
    axes.plot([], [], color="0.3", linewidth=1.2, label="theory; exact for guesses")
    axes.plot([], [], color="0.3", linewidth=1.2, linestyle="--", label="as if settings had normal skill")
    axes.set_xscale("log", base=2)
    _ticks(axes, found[0]["counts"])
    axes.set_ylabel(f"accuracy on {found[0]['m']} images, less on fresh ones")
    axes.legend(frameon=False, loc="upper left")


def draw_capacity(rows: Rows) -> Figure:
    """By degree, by width and by steps, on one scale."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    degrees, widths = of_capacity(rows, "degree"), of_capacity(rows, "width")
    axes[0].set_title("Polynomials: measured, and by theory")
    axes[1].set_title("Networks by width")
    axes[2].set_title("The widest by steps")
    for one, name in zip(axes, ("degree", "units", "steps of Adam"), strict=True):
        one.set_xlabel(name)
        one.set(yscale="log", ylim=(LEAST, 1))
        one.grid(visible=True, axis="y", linewidth=0.3)
        one.spines[["top", "right"]].set_visible(False)
    if degrees:
        _parts(axes[0], [row["capacity"] for row in degrees], degrees, line=False)
        for part, colour, style, _, _ in LOOKS:
            exact = [sum(row["predicted"].values()) if part == "error" else row["predicted"][part] for row in degrees]
            x = [row["capacity"] for row in degrees]
            axes[0].plot(x, exact, style, color=colour, linewidth=1.5, zorder=3)
        axes[0].xaxis.set_major_locator(FixedLocator([row["capacity"] for row in degrees]))
    if widths:
        last = widths[-1]
        axes[2].set_title(f"Width {last['capacity']} by steps")
        for one, x, found in (
            (axes[1], [row["capacity"] for row in widths], widths),
            (axes[2], last["steps"], last["on_the_way"]),
        ):
            _parts(one, x, found, line=True)
            if one is axes[1]:
                first = [row["first_order"] for row in widths]
                one.plot(x, first, "-.", color="0.5", linewidth=1.5)
                one.legend([one.lines[-1]], ["variance to first order:\nσ² p / N, at most σ²"], frameon=False)
            one.set_xscale("log", base=2)
            _ticks(one, x)
    if degrees:
        axes[0].legend(
            frameon=False,
            loc="upper right",
            title="± two standard errors; lines: theory;\nbias² that is < 10⁻⁴ is left out",
        )
    return figure


LOOKS = (
    ("bias_squared", LARGE, "--", "s", "bias²"),
    ("variance", HAND, ":", "^", "variance"),
    ("error", "black", "-", "o", "error"),
)


def _parts(axes: Axes, x: Sequence[float], rows: Sequence[Any], *, line: bool) -> None:
    """Estimates of bias² that are next to nothing, or negative, are left out."""
    for part, colour, style, marker, name in LOOKS:
        values = np.array([row[part] for row in rows])
        errors = np.array([2 * jackknife(row["without"][part]) for row in rows])
        shown = np.where(values > LEAST, values, np.nan)
        low = np.minimum(errors, np.maximum(values - LEAST / 2, 0))  # an error bar that ends on a logarithmic axis
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6, "capsize": 3}
        bars = np.array([low, errors])
        axes.errorbar(x, shown, yerr=bars, linestyle=style if line else "", linewidth=1.6, label=name, **look)


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator([*values]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
