"""The figures of the experiments: data in, a matplotlib figure out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fundamentals.data import Split

HAND, SMALL, LARGE = "#d1495b", "#edae49", "#30638e"


def training(
    history: Sequence[dict[str, float]],
    differences: np.ndarray,
    names: Sequence[str],
    bound: float,
    test: Split,
    predictions: np.ndarray,
) -> Figure:
    """Loss, accuracy and the gradients' difference over time; below, the test images that were misread.

    Args:
      history: one record an epoch, with train and validation loss and accuracy.
      differences: [steps, parameters], relative; empty where gradients were not compared.
      names: of the parameters.
      bound: of the differences.
      test: images and labels.
      predictions: [N], what was read.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.1, 1]))
    loss_axes, accuracy_axes, difference_axes = above.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    for axes, quantity, scale in ((loss_axes, "loss", 1), (accuracy_axes, "accuracy", 100)):
        for part, style in (("train", "-"), ("validation", "--")):
            values = [scale * record[f"{part}_{quantity}"] for record in history]
            axes.plot(epochs, values, style, color=HAND, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    loss_axes.set_title("Loss")
    if any(np.isfinite(record["train_loss"]) and record["train_loss"] > 0 for record in history):
        loss_axes.set_yscale("log")
    accuracy_axes.set_title("Accuracy, %")
    _differences(difference_axes, differences, names, bound)
    for axes in (loss_axes, accuracy_axes, difference_axes):
        axes.spines[["top", "right"]].set_visible(False)
    _misread(below, test, predictions)
    return figure


def _differences(axes: Axes, differences: np.ndarray, names: Sequence[str], bound: float) -> None:
    axes.set_title("|by hand − jax.grad|, relative")
    axes.set_xlabel("step")
    if not len(differences):
        axes.text(0.5, 0.5, "not compared", ha="center", transform=axes.transAxes)
        return
    steps = np.arange(1, len(differences) + 1)
    equal = [name for name, column in zip(names, differences.T, strict=True) if not column.any()]
    for name, column in zip(names, differences.T, strict=True):
        if name not in equal:
            shown = np.isfinite(column) & (column > 0)  # on a logarithmic axis
            axes.plot(steps[shown], column[shown], ".", markersize=3, alpha=0.5, markeredgewidth=0, label=name)
    axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(f"bound {bound:.0e}", (steps[-1], bound), ha="right", va="bottom", fontsize=8)
    axes.set(yscale="log", ylim=(bound * 1e-4, bound * 2), xlim=(0, steps[-1] + 1))
    if len(equal) < len(names):
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.8)}
        legend = axes.legend(frameon=False, fontsize=8, markerscale=4, ncols=4, handletextpad=0.2, **place)
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1)
    if equal:
        where = ", ".join(equal) if len(equal) < len(names) else "any parameter"
        axes.text(0.5, 0.82, f"no bit differs in {where}", ha="center", fontsize=8, transform=axes.transAxes)


def _misread(figure: Any, test: Split, predictions: np.ndarray) -> None:
    wrong = np.flatnonzero(predictions != test.labels)
    shown = wrong[:10]
    figure.suptitle(
        f"{len(wrong)} of {len(predictions)} test images misread"
        + (f", the first {len(shown)}" if len(shown) < len(wrong) else "")
        + (": what it is → what was read" if len(wrong) else "")
    )
    for position, axes in enumerate(figure.subplots(1, max(6, len(shown)), squeeze=False)[0]):
        axes.set_axis_off()
        if position < len(shown):
            index = shown[position]
            axes.imshow(test.inputs[index], cmap="gray_r", vmin=0)
            axes.set_title(f"{test.labels[index]} → {predictions[index]}", fontsize=9)


def ratios(names: Sequence[str], values: dict[str, dict[str, tuple[float, float]]], bound: float, title: str) -> Figure:
    """Time ratios as bars that start at 1: to the left is faster.

    Args:
      names: one row each.
      values: by size ("small", "large"), then by name: the ratio and its standard error.
      bound: drawn as a line.
      title: of the figure.
    """
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    for shift, size, colour in ((-0.2, "small", SMALL), (0.2, "large", LARGE)):
        for row, name in enumerate(names):
            if name in values[size]:
                ratio, error = values[size][name]
                label = f"{size} arrays" if name == next(iter(values[size])) else None
                style: dict[str, Any] = {"color": colour, "label": label, "error_kw": {"elinewidth": 0.8}}
                axes.barh(row + shift, ratio - 1, 0.4, left=1, xerr=2 * error, **style)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvline(bound, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(f" {bound}", (bound, -0.6), va="bottom", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("time by hand / time of jax.vjp, with two standard errors to each side")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure
