"""The figure of `benchmark_svm`: times of both solvers, and how far their objectives are apart."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments import figures, measure

SOLVERS = {"fundamentals": figures.HAND, "libsvm": figures.LARGE}
KERNELS = {"linear": "linear", "poly": "polynomial", "rbf": "RBF"}
LEAST = 1e-16  # where a difference of nothing is drawn


def draw(rows: Sequence[Any], bound: float) -> Figure:
    """A line for each problem: its times, their ratio, the difference of the dual objectives.

    Args:
      rows: `benchmark_svm_verdicts.Row`s.
      bound: of the differences.
    """
    compared = any(row.relative is not None for row in rows)
    figure = Figure(figsize=(11 if compared else 7, 1.7 + 0.36 * len(rows)), layout="constrained")
    widths = [1.5, 1] if compared else [1]
    panels = figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    times = panels[0]
    places = np.arange(len(rows))
    medians = {
        solver: [statistics.median(row.seconds[solver]) if row.seconds.get(solver) else np.nan for row in rows]
        for solver in SOLVERS
    }
    if compared:
        times.hlines(places, *(medians[solver] for solver in SOLVERS), color="0.75", linewidth=1.5, zorder=0)
    for solver, colour in SOLVERS.items():
        if np.isfinite(medians[solver]).any():
            times.plot(medians[solver], places, "o", color=colour, markersize=6, label=solver)
    times.set(xscale="log", xlabel="time of a fit" + ("; beside it, ours divided by libsvm's" if compared else ""))
    times.xaxis.set_major_formatter(
        FuncFormatter(lambda t, _: measure.time_text([t]).replace(".00s", "s").replace(".0ms", "ms"))
    )
    times.xaxis.set_minor_formatter(NullFormatter())
    measured = [statistics.median(rounds) for row in rows for rounds in row.seconds.values()]
    times.set_xlim(min(measured) / 1.5, max(measured) * (3 if compared else 1.5))  # with room for the ratios
    for place, row in enumerate(rows):
        if row.ratio is not None:
            style: dict[str, Any] = {"va": "center", "fontsize": 8, "textcoords": "offset points"}
            right = max(medians[solver][place] for solver in SOLVERS)
            times.annotate(f"{row.ratio:.2f} ×", (right, place), (8, 0), **style)
    names = [f"{row.name.split('_')[0]}, {KERNELS[row.kernel]}, {row.points:,}" for row in rows]
    times.set_yticks(places, names)
    times.set_ylim(len(rows) - 0.4, -0.6)
    if compared:
        differences = panels[1]
        values = np.array([np.nan if row.relative is None else max(row.relative, LEAST) for row in rows])
        differences.plot(values, places, "o", color=figures.HAND, markersize=6)
        differences.axvline(bound, color="black", linewidth=0.8, linestyle="--")
        differences.annotate(f"bound {bound:.0e}", (bound, -0.55), (-4, 0), textcoords="offset points", ha="right",
                             va="top", fontsize=8)  # fmt: skip
        differences.set(xscale="log", xlim=(LEAST / 3, bound * 10), xlabel="dual objective, relative to libsvm's")
        differences.tick_params(axis="y", length=0)
    for axes in panels:
        axes.grid(axis="y", linewidth=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle("Fitting a support vector machine, median over rounds")
    return figure
