"""The figure of `batch_size`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.batch_size_verdicts import Descent, Measured, Noise
from experiments.figures import HAND, LARGE, SMALL

NEVER, DIVERGED = "0.88", "0.62"  # the colours of cells without a number


def draw(measured: Measured) -> Figure:
    """Above, noise, single steps and the best η; below, epochs and time to the target over n and η."""
    figure = Figure(figsize=(13, 9.4), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.15]))
    noise_axes, steps_axes, rate_axes = above.subplots(1, 3)
    _noise(noise_axes, measured.noise)
    _steps(steps_axes, measured.descent)
    _rates(rate_axes, measured)
    epochs_axes, time_axes = below.subplots(1, 2)
    epochs = np.array([cells.typical for cells in measured.cells]).reshape(-1, len(measured.etas))
    seconds = [(measured.seconds or {}).get(cells.n, np.nan) for cells in measured.cells]
    _cells(epochs_axes, measured, epochs, f"Epochs to a loss of {measured.target:g}", _short)
    times = 1e3 * epochs * np.array(seconds).reshape(-1, 1)
    _cells(time_axes, measured, times, "Time to it, one network alone, ms", _short)
    handles = [
        Patch(facecolor="white", edgecolor=HAND, linewidth=2, label="fewest at this n"),
        Patch(facecolor=NEVER, label=f"not within {measured.epochs} epochs, or given up"),
        Patch(facecolor=DIVERGED, label="×  diverged: loss above that of the start"),
    ]
    below.legend(handles=handles, frameon=False, loc="outside lower center", ncols=3)
    for axes in (noise_axes, steps_axes, rate_axes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _noise(axes: Axes, noise: Any) -> None:
    axes.set_title("Squared deviation of a minibatch's gradient")
    for replace, colour, name in ((True, LARGE, "with replacement"), (False, HAND, "without")):
        ones: list[Noise] = [one for one in noise if one.replace == replace and one.predicted > 0]
        n, found, errors = np.array([(one.n, one.measured, one.error) for one in ones]).T
        style: dict[str, Any] = {"color": colour, "markersize": 6, "capsize": 3, "label": name}
        axes.errorbar(n, found, yerr=2 * errors, fmt="o", **style)
        total = ones[0].total
        grid = np.geomspace(1, total if replace else total * 0.97, 200)
        lines = [one._replace(n=value).predicted for one in ones[:1] for value in grid]
        axes.plot(grid, lines, color=colour, linewidth=1, label="σ²/n" if replace else "σ²/n · (N − n)/(N − 1)")
    axes.set(xscale="log", yscale="log", xlabel="n")
    axes.legend(frameon=False, loc="lower left")
    _sizes(axes, sorted({one.n for one in noise}))


def _steps(axes: Axes, descent: Descent | None) -> None:
    axes.set_title("Loss of all examples, step by step")
    axes.set_xlabel("step")
    if descent is None:
        return
    stable = descent.stable_eta
    far = np.flatnonzero(descent.far)
    if len(far):
        eta = descent.etas[far[0]]
        text = f"full batch, η = {eta:g} = {eta * descent.at_start[0] / 2:.1f} · 2/λ"
        axes.plot(descent.losses[0, far[0]], color=SMALL, linewidth=1.2, label=text)
    if stable is not None and descent.few_losses is not None:
        eta = descent.etas[stable]
        axes.plot(descent.few_losses[0], color=HAND, linewidth=1.2, label=f"n = {descent.few}, η = {eta:g}")
        text = f"full batch, η = {eta:g} = {eta * descent.at_start[0] / 2:.1f} · 2/λ"
        axes.plot(descent.losses[0, stable], color=LARGE, linewidth=2, label=text)
    axes.set_yscale("log")
    finite = descent.losses[0][np.isfinite(descent.losses[0])]
    axes.set_ylim(top=float(finite.max()) * 8)  # room for the legend
    axes.yaxis.set_major_locator(FixedLocator([0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.legend(frameon=False, loc="upper right")


def _rates(axes: Axes, measured: Measured) -> None:
    axes.set_title("The best η")
    known = [
        (cells.n, measured.etas[cells.best], cells.sharpness) for cells in measured.cells if cells.best is not None
    ]
    axes.set(xscale="log", yscale="log", xlabel="n")
    if not known:
        return
    n, eta = np.array([(size, rate) for size, rate, _ in known], float).T
    axes.plot(n, eta, "o", color=HAND, markersize=8, label="fewest epochs")
    limits = [2 / float(np.nanmedian(sharpness)) for _, _, sharpness in known]
    axes.plot(n, limits, "_", color=LARGE, markersize=16, markeredgewidth=2, label="2/λ where it reached the target")
    if measured.descent:
        limit = 2 / float(np.median(measured.descent.at_start))
        axes.axhline(limit, color="black", linewidth=0.9, linestyle="--", label="2/λ at the start")
    grown = np.array([n[0], n[np.argmax(eta)]])
    axes.plot(grown, eta[0] * grown / n[0], color=HAND, linewidth=1, linestyle=":", label="∝ n")
    axes.set_ylim(float(measured.etas[0]), float(measured.etas[-1]) * 2)
    axes.legend(frameon=False, loc="lower right")
    _sizes(axes, measured.sizes)
    axes.yaxis.set_major_locator(FixedLocator(measured.etas.tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _rate(y)))


def _cells(axes: Axes, measured: Measured, values: np.ndarray, title: str, text: Any) -> None:
    """A row for each n; numbers in the cells that reached the target, marks in the others."""
    axes.set_title(title)
    if not measured.cells:
        axes.set_axis_off()
        return
    axes.set_facecolor(NEVER)
    known = np.isfinite(values)
    if known.any():
        norm = LogNorm(values[known].min() * 0.7, values[known].max() * 1.5)
        axes.imshow(np.where(known, values, np.nan), cmap="Blues", norm=norm, aspect="auto")
    for row, cells in enumerate(measured.cells):
        for column in range(len(measured.etas)):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
            if known[row, column]:
                dark = norm(values[row, column]) > 0.6
                axes.text(column, row, text(values[row, column]), color="white" if dark else "black", **style)
            elif np.sort(cells.diverged[:, column])[(len(cells.diverged) - 1) // 2]:  # in most seeds
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=DIVERGED, edgecolor="white"))
                axes.text(column, row, "×", color="white", **style)
        if cells.best is not None and known[row, cells.best]:
            box = Rectangle((cells.best - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=HAND, linewidth=2)
            axes.add_patch(box)
    if measured.descent and len(measured.etas) > 1:
        limit = np.log(2 / np.median(measured.descent.at_start))
        place = float(np.interp(limit, np.log(measured.etas), np.arange(len(measured.etas))))
        top = len(measured.cells) - 0.5
        axes.axvline(place, color="black", linewidth=0.9, linestyle="--", alpha=0.3)
        axes.plot([place], [top], "v", color="black", markersize=7, clip_on=False)
        style = {"ha": "right", "va": "top", "fontsize": 9}
        axes.annotate("2/λ at the start", (place, top), (-6, -4), textcoords="offset points", **style)
    axes.set_xticks(range(len(measured.etas)), [_rate(eta) for eta in measured.etas])
    axes.set_yticks(range(len(measured.cells)), [f"{cells.n:,}" for cells in measured.cells])
    axes.set(xlabel="η", ylabel="n", xlim=(-0.5, len(measured.etas) - 0.5), ylim=(-0.5, len(measured.cells) - 0.5))
    axes.spines[:].set_visible(False)


def _sizes(axes: Axes, sizes: Any) -> None:
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _rate(eta: float) -> str:
    return f"1/{1 / eta:.0f}" if eta < 1 and abs(round(1 / eta) * eta - 1) < 1e-6 else f"{eta:.3g}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
