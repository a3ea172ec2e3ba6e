"""The figure of `chain_rule_cost`: matmuls and times against depth, costs against the number of parameters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures

ALONE, REUSE = figures.HAND, figures.LARGE


def draw(found: dict[str, list[Any]]) -> Figure:
    """Four pictures. What was not finished is left out.

    Args:
      found: "chains", "times", "numeric", "growth": records of `chain_rule_cost`.
    """
    figure = Figure(figsize=(11.5, 8), layout="constrained")
    (matmuls, times), (numeric, growth) = figure.subplots(2, 2)
    _matmuls(matmuls, found["chains"])
    _times(times, found["times"])
    _numeric(numeric, found["numeric"])
    _growth(growth, found["growth"])
    for axes in (matmuls, times, numeric, growth):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _matmuls(axes: Axes, chains: Sequence[Any]) -> None:
    axes.set_title("Gradients of a chain: matmuls, counted")
    axes.set(xscale="log", yscale="log", xlabel="layers L", ylabel="matmuls")
    if not chains:
        return
    depths = np.array([c.depth for c in chains], float)
    smooth = np.geomspace(depths[0], depths[-1] if len(depths) > 1 else 2 * depths[0], 100)
    for name, colour, label, formula in (
        ("naive", ALONE, "each on its own", smooth**2),
        ("reuse", REUSE, "with reuse", 3 * smooth - 2),
    ):
        axes.plot(depths, [getattr(c, name) for c in chains], "o", color=colour, label=label)
        axes.plot(smooth, formula, color=colour, linewidth=0.9)
    place: dict[str, Any] = {"textcoords": "offset points", "ha": "right"}
    axes.annotate("L²", (smooth[70], smooth[70] ** 2), (-6, 6), color=ALONE, **place)
    axes.annotate("3L − 2", (smooth[70], 3 * smooth[70] - 2), (6, -16), color=REUSE, **place | {"ha": "left"})
    axes.legend(frameon=False, loc="upper left")


def _times(axes: Axes, times: Sequence[Any]) -> None:
    axes.set_title("… and times, operation by operation")
    axes.set(xscale="log", yscale="log", xlabel="layers L", ylabel="ms")
    if not times:
        return
    depths = np.array([t.depth for t in times], float)
    for name, colour, label, power in (("naive", ALONE, "each on its own", 2), ("reuse", REUSE, "with reuse", 1)):
        values = 1e3 * np.array([getattr(t, name) for t in times])
        axes.plot(depths, values, "o", color=colour, label=label)
        line = np.exp(np.mean(np.log(values / depths**power))) * depths**power
        axes.plot(depths, line, "--", color=colour, linewidth=0.9, label=f"∝ L{'²' if power == 2 else ''}")
    _plain_ticks(axes, depths)
    axes.legend(frameon=False, loc="upper left")


def _numeric(axes: Axes, found: Sequence[Any]) -> None:
    axes.set_title("Central differences over backpropagation")
    axes.set(xscale="log", yscale="log", xlabel="parameters P", ylabel="ratio")
    if not found:
        return
    parameters = np.array([n.parameters for n in found], float)
    axes.plot(parameters, 2 * parameters, color="0.6", linewidth=0.9, label="2P")
    axes.plot(parameters, [n.evaluations for n in found], "o", color="0.3", fillstyle="none",
              label="evaluations of the loss")  # fmt: skip
    axes.plot(parameters, [n.flops for n in found], "s-", color=ALONE, linewidth=0.9, markersize=5, label="FLOPs")
    ratios = [n.seconds / n.backpropagation for n in found]
    axes.plot(parameters, ratios, "^-", color=figures.SMALL, linewidth=0.9, label="time")
    _plain_ticks(axes, parameters)
    axes.legend(frameon=False, loc="upper left")


def _growth(axes: Axes, found: Sequence[Any]) -> None:
    axes.set_title("Loss and gradient over the loss alone")
    axes.set(xscale="log", xlabel="parameters P", ylabel="ratio")
    if not found:
        return
    wider = [g for g in found if g.hidden[0] != 128 or len(g.hidden) == 3]
    deeper = [g for g in found if g not in wider]
    for group, mark, words in ((wider, "o", "wider"), (deeper, "s", "deeper")):
        parameters = [g.parameters for g in group]
        if parameters:
            axes.plot(parameters, [g.counted for g in group], f"{mark}-", color=REUSE, linewidth=0.9, markersize=5,
                      label=f"FLOPs, {words}")  # fmt: skip
            axes.plot(parameters, [g.seconds for g in group], f"{mark}:", color=figures.SMALL, linewidth=0.9,
                      markersize=5, label=f"time, {words}")  # fmt: skip
    axes.axhline(3, color="black", linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1.25 * max(3, *(g.seconds for g in found)))
    axes.legend(frameon=False, loc="lower right", ncols=2)


def _plain_ticks(axes: Axes, values: np.ndarray) -> None:
    """A number at each value, and no other."""
    axes.set_xticks(values, [f"{value:,.0f}" for value in values])
    axes.set_xticks([], minor=True)
