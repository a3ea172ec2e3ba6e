"""The figure of `throughput`: samples a second and the time of a step against the batch, under the roofline."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.figures import HAND
from experiments.throughput_verdicts import Rounds

STYLES = {"overhead": ":", "products": "--", "traffic": "-."}


def draw(found: Rounds, dtype: str) -> Figure:
    """The fastest rounds and, above them in time, the medians; what the device allows, by reason, as lines."""
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    rate_axes, time_axes = figure.subplots(1, 2)
    batches = np.array(found.batches, float)
    times = np.array([found.of(f"step {batch}") for batch in found.batches])
    fastest, median = times.min(axis=1), np.median(times, axis=1)
    fine = np.geomspace(batches[0], batches[-1], 200)
    limits = {reason: np.array([found.least(b)[reason] for b in fine]) for reason in STYLES}
    longest = np.max(list(limits.values()), axis=0)
    for axes, rates in ((rate_axes, True), (time_axes, False)):
        for reason, style in STYLES.items():
            shown = fine / limits[reason] if rates else limits[reason]
            axes.plot(fine, shown, style, color="black", linewidth=1, label=f"limit: {reason}")
        axes.plot(fine, fine / longest if rates else longest, color="0.6", linewidth=4, zorder=0, label="roofline")
        for seconds, filled, name in ((fastest, HAND, "fastest"), (median, "white", "median")):
            shown = batches / seconds if rates else seconds
            axes.plot(batches, shown, "o", color=HAND, markerfacecolor=filled, label=f"measured, {name}")
        axes.set(xscale="log", yscale="log", xlabel="samples of a step, B")
        axes.xaxis.set_major_locator(FixedLocator(found.batches))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.grid(visible=True, linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    top = float((fine / longest).max())
    rate_axes.set(ylim=(float((batches / median).min()) / 2, 3 * top), title="Samples a second")
    time_axes.set(title="Seconds of a step; the line is a + b B")
    fixed, slope = found.line
    time_axes.plot(fine, fixed + slope * fine, color=HAND, linewidth=0.9, zorder=1)
    _mark(time_axes, found.knee, "b B = a", "-")
    _mark(time_axes, found.expected_knee, "predicted", "--")
    handles, labels = rate_axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3)
    roof = found.roofline
    figure.suptitle(f"{dtype}, {roof.peak / 1e9:,.0f} GFLOP/s, {roof.bandwidth / 1e9:,.0f} GB/s at most")
    return figure


def _mark(axes: Axes, batch: float, text: str, style: str) -> None:
    """A B, at the axis, if it is in sight."""
    low, high = axes.get_xlim()
    if low < batch < high:
        axes.axvline(batch, color=HAND, linewidth=0.9, linestyle=style)
        left = style == "-"  # the two may be next to each other
        place: dict[str, Any] = {"xytext": (-4 if left else 4, 0), "textcoords": "offset points"}
        where = batch, 0.18 if left else 0.1
        side = "right" if left else "left"
        axes.annotate(text, where, xycoords=("data", "axes fraction"), fontsize=8, color=HAND, ha=side, **place)
