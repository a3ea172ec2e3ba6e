"""The figures of `initialization`: mean squares by layer with their predictions; histograms by layer."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from experiments.figures import COMPONENTS
from experiments.initialization_networks import BINS, RANGES, Row
from experiments.initialization_theory import RULES, SLOPES, STACKS, Predicted, linear_stack
from experiments.initialization_verdicts import TRAINED, losses, predictions

MARKERS = dict(zip(("small", "large", "S3", "Xavier", "He"), "v^sDo", strict=True))
COLOURS = dict(zip(MARKERS, (COMPONENTS[5], COMPONENTS[3], COMPONENTS[0], COMPONENTS[1], COMPONENTS[2]), strict=True))
SHOWN = 1e-9, 1e9  # of mean squares
ROWS = ("small", "tanh"), ("large", "tanh"), ("S3", "tanh"), ("Xavier", "tanh"), ("S3", "relu"), ("He", "relu")


def variances(rows: dict[str, Row], settings: dict[str, Any]) -> Figure:
    """Marks are measured, lines predicted; above forward, below backward; on the right unequal widths, and training."""
    figure = Figure(figsize=(9.5, 13), layout="constrained")
    panels = figure.subplots(4, 2).T  # forward and backward, beside each other
    for column, activation in enumerate(SLOPES):
        row = rows.get(f"square, {activation}")
        if row is not None:
            predicted = predictions(activation, settings)
            _profile(panels[0, column], row, predicted, "forward", f"{activation}: E x² of layer l")
            _profile(panels[1, column], row, predicted, "backward", f"{activation}: E dx² of layer l")
    _stack(panels[0, 3], rows)
    _training(panels[1, 3], rows)
    handles = [
        Line2D([], [], color=COLOURS[name], marker=marker, linestyle="", label=name) for name, marker in MARKERS.items()
    ]
    handles.append(Line2D([], [], color="black", linewidth=1, label="predicted"))
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=6)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _profile(axes: Axes, row: Row, predicted: dict[str, Predicted], direction: str, title: str) -> None:
    axes.set_title(title)
    for index, (name, theory) in enumerate(predicted.items()):
        layers = np.arange(len(theory.forward))
        axes.plot(layers, row[direction][index], MARKERS[name], color=COLOURS[name], markersize=6)
        axes.plot(layers, getattr(theory, direction), color="black", linewidth=0.9)
    axes.set(yscale="log", ylim=SHOWN, xlabel="layer l, 0: the inputs")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _stack(axes: Axes, rows: dict[str, Row]) -> None:
    """The last of the stacks, both ways."""
    name = list(STACKS)[-1]
    row = rows.get(f"stack, {name}")
    axes.set_title(f"linear, {STACKS[name][0]} and {STACKS[name][1]} units in turn")
    if row is None:
        axes.set_axis_off()
        return
    for index, rule in enumerate(RULES):
        theory = linear_stack(rule, STACKS[name])
        for direction, filled, shown in (("forward", True, "E x²"), ("backward", False, "E dx²")):
            colour = (COMPONENTS[4], COMPONENTS[6], COLOURS["Xavier"])[index]
            style: dict[str, Any] = {"color": colour, "markerfacecolor": colour if filled else "white"}
            layers = np.arange(len(theory.forward))
            axes.plot(layers, row[direction][index], "<>D"[index], **style, label=f"{rule}, {shown}")
            axes.plot(layers, getattr(theory, direction), color="black", linewidth=0.7)
    axes.set(yscale="log", xlabel="layer l", ylim=(0.06, 60))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")


def _training(axes: Axes, rows: dict[str, Row]) -> None:
    """Loss at the best η, of each network; what is not finite is at the top."""
    axes.set_title("Loss / log 10, best η; at the top: 2, more, NaN")
    top = 2.0
    for group, (activation, method) in enumerate(TRAINED):
        for place, name in enumerate(MARKERS):
            row = rows.get(f"training, {name}, {activation}, {method}")
            if row is not None:
                loss = losses(row)
                values = np.minimum(loss[:, int(np.argmin(loss.max(axis=0)))], top)
                x = group + 0.15 * (place - 2)
                axes.plot(np.full(len(values), x), values, MARKERS[name], color=COLOURS[name], markersize=6)
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("guessing", (3.5, 1), ha="right", va="bottom", fontsize=8)
    axes.set(yscale="log", ylim=(1e-3, 1.25 * top), xlim=(-0.5, len(TRAINED) - 0.5))
    names = [f"{activation},\n{method}" for activation, method in TRAINED]
    axes.set_xticks(range(len(TRAINED)), names)


def histograms(rows: dict[str, Row], settings: dict[str, Any]) -> Figure:
    """Activations of one network by scheme and layer; the tallest bar is as tall as its panel."""
    depth = settings["depth"]
    layers = np.unique(np.linspace(1, depth, min(6, depth)).round().astype(int))
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    panels = figure.subplots(len(ROWS), len(layers), squeeze=False)
    names = list(MARKERS)
    for axes, layer in zip(panels[0], layers, strict=True):
        axes.set_title(f"layer {layer}")
    for line, (name, activation) in zip(panels, ROWS, strict=True):
        counts = rows.get(f"square, {activation}", {}).get("counts")
        line[0].set_ylabel(f"{name},\n{activation}", rotation=0, ha="right", va="center")
        for axes, layer in zip(line, layers, strict=True):
            axes.set(yticks=[])
            axes.spines[["top", "right", "left"]].set_visible(False)
            if not counts:
                continue
            edges = np.linspace(*RANGES[activation], BINS + 1)
            heights = np.array(counts[names.index(name)][layer - 1], float)
            axes.stairs(heights / max(heights.max(), 1), edges, fill=True, color=COLOURS[name])
            mean = rows[f"square, {activation}"]["forward"][names.index(name)][layer]
            axes.annotate(f"√E x² = {mean**0.5:.2g}", (0.02, 0.96), xycoords="axes fraction", va="top", fontsize=8)
            axes.set(xlim=edges[[0, -1]], ylim=(0, 1.25))
    figure.suptitle("Activations x of one network, all units and examples; those that relu sets to 0 are left out")
    return figure
