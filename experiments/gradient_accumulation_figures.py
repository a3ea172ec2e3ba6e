"""The figure of `gradient_accumulation`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from experiments import measure
from experiments.figures import HAND, LARGE, SMALL

LEAST = 1e-17  # on the logarithmic axis, in place of 0


def draw(measured: Any, batch: int, microbatch: int) -> Figure:
    """Errors, memory and training against K. What was not finished is left out.

    Args:
      measured: all that is finished.
      batch: B, of the training.
      microbatch: M, of the programs whose memory was measured.
    """
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    error_axes, memory_axes, training_axes = figure.subplots(1, 3)
    _errors(error_axes, measured.errors)
    _memory(memory_axes, measured, microbatch)
    _training(training_axes, measured, batch)
    for axes in (error_axes, memory_axes, training_axes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _errors(axes: Axes, errors: Any) -> None:
    axes.set_title("A gradient in K microbatches, from that at once")
    for problem, line, mark in zip(dict.fromkeys(e.problem for e in errors), ("-", "--"), ("o", "s"), strict=False):
        own = [e for e in errors if e.problem == problem]
        for name, points, colour in (
            ("mean of means", [(e.k, e.means) for e in own if e.k > 1], HAND),  # of one microbatch, it is the mean
            ("accumulated", [(e.k, e.autodiff) for e in own], LARGE),
            ("accumulated, by hand", [(e.k, e.by_hand) for e in own], SMALL),
        ):
            k, values = np.array(points, float).reshape(-1, 2).T
            style: dict[str, Any] = {"color": colour, "linestyle": line, "marker": mark, "markersize": 5}
            axes.plot(k, np.maximum(values, LEAST), label=f"{name}, {problem}", **style)
    axes.axhline(1e-12, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("bound of what is called equal", (1, 1e-12), (0, 3), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="K", ylabel="relative difference", ylim=(LEAST, 30))
    axes.yaxis.set_major_locator(LogLocator(1000, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1, 0.62))
    _counts(axes, sorted({e.k for e in errors}))


def _memory(axes: Axes, measured: Any, microbatch: int) -> None:
    axes.set_title("Temporary memory")
    axes.set(xscale="log", yscale="log", xlabel="K")
    if not measured.memory:
        return
    k = [m.k for m in measured.memory]
    largest = k[-1] * microbatch
    for values, colour, name in (
        ([m.at_once for m in measured.memory], HAND, f"K × {microbatch} examples at once"),
        ([m.fixed_batch for m in measured.memory], SMALL, f"{largest:,} examples in K microbatches"),
        ([m.fixed_microbatch for m in measured.memory], LARGE, f"K microbatches of {microbatch}"),
    ):
        axes.plot(k, values, "-o", color=colour, markersize=5, label=name)
    bound = measured.memory[0].at_once + measured.microbatch_bytes + 4 * measured.parameters
    axes.axhline(bound, color="black", linewidth=0.8, linestyle=":", label="one microbatch and one gradient")
    axes.yaxis.set_major_locator(LogLocator(4, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: measure.bytes_text(y).replace(".0", "")))
    axes.set_ylim(top=10 * max(m.at_once for m in measured.memory))  # room for the legend
    axes.legend(frameon=False, fontsize=9, loc="upper center")
    _counts(axes, k)


def _training(axes: Axes, measured: Any, batch: int) -> None:
    axes.set_title("An epoch of Adam")
    axes.set(yscale="log", xlabel="examples seen", ylabel="loss")
    if not measured.epochs:
        return
    one = measured.epochs[0]
    total = batch * one.updates

    def seen(losses: Any) -> np.ndarray:
        return np.linspace(total / len(losses), total, len(losses))

    small, each = one.losses_of_small, batch // one.k
    axes.plot(seen(small), small, "-o", color=SMALL, markersize=3, label=f"{each} at once: {len(small)} updates")
    name = f"{batch} in {one.k} microbatches: {one.updates} updates"
    axes.plot(seen(one.losses), one.losses, "-o", color=LARGE, markersize=5, label=name)
    name = f"{batch} at once: {len(measured.losses)} updates"
    style: dict[str, Any] = {"color": HAND, "markersize": 10, "fillstyle": "none", "linestyle": "none"}
    axes.plot(seen(measured.losses), measured.losses, "o", label=name, **style)
    axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.legend(frameon=False, fontsize=9, loc="lower left")


def _counts(axes: Axes, k: Any) -> None:
    axes.xaxis.set_major_locator(FixedLocator(k))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
