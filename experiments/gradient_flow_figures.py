"""The figures of `gradient_flow`: maps over depth, activation and initialization; lines, measured and predicted."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.figures import COMPONENTS, HAND, LARGE
from experiments.gradient_flow_networks import HE, INITIALIZATIONS, SMALL, XAVIER
from experiments.gradient_flow_recurrent import DRIVEN, QUIET, SHEAR_RADIUS, SHEARED, sheared_growth
from experiments.gradient_flow_theory import AFTER, BEFORE, PLAIN, RESIDUAL, recurrent
from experiments.gradient_flow_verdicts import QUARTER, SIGNAL, WEIGHTS, Cell, Measured

# Ever lighter, vanishing to exploding, so that the sign shows in grey, too; 0 is in the middle.
SCALE = LinearSegmentedColormap.from_list("flow", ["#0b2545", LARGE, "#9fb2c1", "#f0bd62", "#fbdf9d", "#fffbea"])
COLUMNS = 3  # of maps
MARKERS = "osD^vP"
NAMES = {"relu": "ReLU", "leaky_relu": "leaky ReLU", "elu": "ELU"}
TITLES = {SIGNAL: r"$\|dx_0\| \,/\, \|dx_L\|$", WEIGHTS: r"$\|dw_1\| \,/\, \|dw_L\|$"}
STYLES = (0, ()), (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (3, 1, 1, 1, 1, 1))


def draw_maps(measured: Measured) -> Figure:
    """log₁₀ of both ratios in plain networks. What is not finished is left white."""
    cells = {(c.initialization, c.activation): c for c in measured.cells if c.block == PLAIN}
    activations = list(dict.fromkeys(activation for _, activation in cells))
    depths = measured.cells[0].depths
    rows = -(-len(INITIALIZATIONS) // COLUMNS)
    figure = Figure(figsize=(8, 9.6), layout="constrained")
    panels = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    ends = [abs(getattr(c, ratio).mean(axis=0)[-1]) for c in cells.values() for ratio in (SIGNAL, WEIGHTS)]
    top = max([10.0, *(end for end in ends if math.isfinite(end))])
    norm = SymLogNorm(1, vmin=-top, vmax=top)
    image: Any = None
    for ratio, block in ((SIGNAL, panels[:rows]), (WEIGHTS, panels[rows:])):
        for axes in block.flat[len(INITIALIZATIONS) :]:
            axes.set_axis_off()
        for panel, (axes, name) in enumerate(zip(block.flat, INITIALIZATIONS, strict=False)):
            values = np.full((len(activations), len(depths)), np.nan)
            for i, activation in enumerate(activations):
                if (name, activation) in cells:
                    values[i] = getattr(cells[name, activation], ratio).mean(axis=0)
            image = axes.imshow(values, cmap=SCALE, norm=norm, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                if math.isfinite(value):
                    dark = norm(value) < 0.35
                    axes.text(j, i, _text(value), ha="center", va="center", fontsize=9, color="w" if dark else "k")
            axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_title(f"{TITLES[ratio]}, {name}", fontsize=10.5)
            if panel + COLUMNS >= len(INITIALIZATIONS):  # nothing below
                axes.set_xlabel("layers L")
            if panel % COLUMNS == 0:
                axes.set_yticks(range(len(activations)), [NAMES.get(a, a) for a in activations])
    bar = figure.colorbar(image, ax=panels, aspect=50, pad=0.02, location="bottom")
    powers = [10**k for k in range(math.floor(math.log10(top)) + 1)]
    bar.ax.xaxis.set_major_locator(FixedLocator([*(-p for p in powers[::-1]), 0, *powers]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.0f}".replace("-", "−") if y else "0"))
    bar.set_label("log₁₀")
    figure.suptitle("First layer over last: the darker, the more it vanishes; the lighter, the more it explodes")
    return figure


def _text(value: float) -> str:
    """Two digits before the point leave none after it."""
    text = f"{value:+.0f}" if abs(value) >= 9.95 else f"{value:+.1f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def draw_lines(measured: Measured) -> Figure:
    """First depth, then time. Markers are measured, lines predicted."""
    figure = Figure(figsize=(9.5, 11.5), layout="constrained")
    panels = figure.subplots(3, 2)
    above, below = panels.flat[:3], panels.flat[3:]
    for axes, name in zip(above, (XAVIER, HE), strict=False):
        own = [c for c in measured.cells if c.block == PLAIN and c.initialization == name]
        _depths(axes, own, [NAMES.get(c.activation, c.activation) for c in own], f"{name}: {TITLES[SIGNAL]}")
    kinds = [(block, SMALL) for block in (RESIDUAL, AFTER, BEFORE)] + [(PLAIN, XAVIER), (PLAIN, SMALL)]
    own = [c for k in kinds for c in measured.cells if (c.block, c.initialization) == k and c.activation == "sigmoid"]
    names = [c.block + (f", {c.initialization}" if c.block == PLAIN else "") for c in own]
    _depths(above[2], own, names, "sigmoid: what helps small weights, and what does not")
    quiet, driven = (measured.through_time[kind] for kind in (QUIET, DRIVEN))
    lags = np.arange(1, quiet["lags"].shape[-1] + 1)
    lines = [lags * math.log10(radius) for radius in quiet["norms"]]
    _times(below[0], quiet, lines, r"Through time, states near 0: $\|dh_{T-k}\| \,/\, \|dh_T\|$")
    settings = measured.settings
    lines = [recurrent(float(r), settings["noise"], len(lags), settings["units"]).signal for r in driven["norms"]]
    _times(below[1], driven, lines, "… driven by noise")
    _shear(below[1].inset_axes((0.08, 0.09, 0.36, 0.29)), measured.through_time[SHEARED], settings["shear"])
    _clipping(below[2], measured)
    for axes in (*above, *below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Markers: measured, means over networks. Lines: predicted")
    return figure


def _style(k: int) -> dict[str, Any]:
    return {"color": COMPONENTS[k % len(COMPONENTS)], "linestyle": STYLES[k % len(STYLES)], "linewidth": 1.3}


def _mark(k: int) -> dict[str, Any]:
    colour = COMPONENTS[k % len(COMPONENTS)]
    return {"marker": MARKERS[k % len(MARKERS)], "color": colour, "linestyle": "", "markersize": 7, "fillstyle": "none"}


def _depths(axes: Axes, cells: Sequence[Cell], names: Sequence[str], title: str) -> None:
    axes.set_title(title)
    if not cells:
        return
    depths = cells[0].depths
    for k, (cell, name) in enumerate(zip(cells, names, strict=True)):
        axes.plot(depths, cell.signal.mean(axis=0), **_mark(k))
        axes.plot(depths, cell.predicted.signal, **_style(k))
        axes.plot([], [], **(_mark(k) | {"linestyle": STYLES[k % len(STYLES)], "label": name}))
    if any(cell.activation == "sigmoid" for cell in cells):
        axes.plot(depths, -depths * QUARTER, color="black", linewidth=0.8, label="$4^{-L}$")
    axes.set_xlabel("layers L")
    axes.xaxis.set_major_locator(FixedLocator(depths[depths >= depths[-1] / 8].tolist()))
    _decades(axes)
    axes.legend(frameon=False, loc="lower left", fontsize=9, handlelength=3.2)


def _decades(axes: Axes) -> None:
    axes.set_ylabel("log₁₀")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def _times(axes: Axes, found: Any, lines: Sequence[np.ndarray], title: str) -> None:
    axes.set_title(title)
    count = found["lags"].shape[-1]
    shown = np.unique(np.linspace(0, count - 1, 13).round().astype(int))
    for k, (radius, values, line) in enumerate(zip(found["norms"], found["lags"], lines, strict=True)):
        lags = np.arange(1, count + 1)
        axes.plot(lags[shown], values.mean(axis=0)[shown], **_mark(k))
        axes.plot(lags, line, **_style(k))
        axes.annotate(f"ρ = {radius:g}", (count, line[-1]), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set(xlabel="steps back, k", xlim=(0, count * 1.16))
    _decades(axes)


def _shear(axes: Axes, found: Any, size: float) -> None:
    """Inside another: growth before decay."""
    lags = np.arange(1, found["lags"].shape[-1] + 1)
    root = 0.5 * np.log10(np.mean(10 ** (2 * found["lags"][0]), axis=0))
    axes.plot(lags[::8], root[::8], **(_mark(5) | {"markersize": 4}))
    axes.plot(lags, np.log10(sheared_growth(SHEAR_RADIUS, size, lags)), color="black", linewidth=1.2)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set_title(f"not normal: ρ = {SHEAR_RADIUS},\n‖w‖₂ = {found['norms'][0]:.2f}", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _clipping(axes: Axes, measured: Measured) -> None:
    axes.set_title("Length of a step, against that of the gradient")
    rate, limit = measured.settings["learning_rate"], measured.settings["clip"]
    sizes = measured.clipping["gradients"].ravel()
    axes.plot(
        sizes, measured.clipping["free"].ravel(), "s", color=HAND, markersize=6, alpha=0.6, label="without clipping"
    )
    axes.plot(
        sizes, measured.clipping["clipped"].ravel(), "o", color=LARGE, markersize=5, alpha=0.6, label="clipped to c"
    )
    grid = np.geomspace(sizes.min() / 2, sizes.max() * 2, 200)
    axes.plot(grid, rate * grid, "--", color="black", linewidth=1, label="η‖g‖")
    axes.plot(grid, rate * np.minimum(grid, limit), "-", color="black", linewidth=1, label="η min(‖g‖, c)")
    axes.set(xscale="log", yscale="log", xlabel="‖g‖, of all parameters of the recurrent networks near 0")
    axes.legend(frameon=False, loc="upper left")
