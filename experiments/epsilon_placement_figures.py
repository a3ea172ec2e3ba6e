"""The figure of `epsilon_placement`: step lengths against |g|, matched placements, a training in other units."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from experiments import figures

STYLES: dict[str, Any] = {"inside": "-", "outside": "--", "ε̂": ":"}
MARKERS = {"inside": "o", "outside": "s", "ε̂": "^"}


def draw(
    sizes: np.ndarray, curves: Sequence[Any], matched: Sequence[tuple[np.ndarray, np.ndarray]], losses: dict[str, Any]
) -> Figure:
    """Above, the first and a later step, measured (markers) and predicted (lines); below, the other two.

    Args:
      sizes: |g| [G].
      curves: `epsilon_placement.Curve`s.
      matched: for each method |g| / ε and the difference of steps.
      losses: by name of the training, after each epoch.
    """
    figure = Figure(figsize=(11.5, 8), layout="constrained")
    (first, later), (difference, training) = figure.subplots(2, 2, height_ratios=[1.2, 1])
    colours = dict(zip(dict.fromkeys(c.name for c in curves), figures.COMPONENTS, strict=False))
    steps = sorted({c.step for c in curves})
    for axes, step in zip((first, later), steps, strict=False):
        _lengths(axes, sizes, [c for c in curves if c.step == step], colours)
        axes.set_title(f"Step {step} of equal gradients")
    handles: list[Any] = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color="0.3", linestyle=STYLES[where], linewidth=0.9, marker=MARKERS[where], markersize=5,
               markerfacecolor="none", label=f"ε {where}" if where != "ε̂" else "ε̂")
        for where in STYLES
    ]  # fmt: skip
    first.legend(handles=handles, frameon=False, loc="lower right")

    difference.set_title("ε² inside − ε outside, in units of η")
    for (ratio, values), name in zip(matched, ("RMSProp", "AdaGrad", "Adam"), strict=False):
        wide = {"RMSProp": 5.0, "AdaGrad": 3.0, "Adam": 1.2}[name]  # they lie upon each other
        difference.plot(ratio, values, color=colours[name], linewidth=wide, label=name)
    if matched:
        ratio = matched[0][0]
        formula = ratio / np.sqrt(1 + ratio**2) - ratio / (1 + ratio)
        difference.plot(ratio, formula, color="black", linewidth=0.8, linestyle="--", label="formula")
        difference.legend(frameon=False)
    difference.set(xscale="log", xlabel="|g| / ε", ylim=(0, 0.3))

    training.set_title("Adam on the digits: training loss, in units of 1")
    kinds = [name for name in losses if not name.endswith("ε too")]
    units = list(dict.fromkeys(name.split(", ")[1] for name in kinds))
    for name in kinds:
        where, unit = name.split(", ")
        colour = (figures.LARGE, figures.SMALL, figures.HAND)[units.index(unit) % 3]
        text = f"loss · {unit.replace('2^0', '1').replace('^-10', '⁻¹⁰').replace('^-20', '⁻²⁰')}, {where}"
        training.plot(np.arange(1, len(losses[name]) + 1), losses[name], STYLES[where], color=colour, label=text)
    if kinds:
        training.legend(frameon=False, fontsize=9, loc="lower left")
    training.set(xlabel="epoch", yscale="log")
    for axis in (training.yaxis.set_major_formatter, training.yaxis.set_minor_formatter):
        axis(FuncFormatter(lambda y, _: f"{y:g}"))
    training.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (first, later, difference, training):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _lengths(axes: Axes, sizes: np.ndarray, curves: Sequence[Any], colours: dict[str, str]) -> None:
    for number, curve in enumerate(curves):
        style: dict[str, Any] = {"color": colours[curve.name]}
        axes.plot(sizes, curve.predicted, STYLES[curve.placement], linewidth=0.9, **style)
        every = (number * len(sizes) // 80 % 10, max(len(sizes) // 16, 1))  # beside each other, where curves coincide
        axes.plot(
            sizes, curve.lengths, MARKERS[curve.placement], markevery=every, markersize=5, fillstyle="none", **style
        )
    axes.set(xscale="log", yscale="log", xlabel="|g|", ylabel="length of the step / η", ylim=(1e-7, 30))
    axes.xaxis.set_major_locator(LogLocator(100, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, linewidth=0.3)
