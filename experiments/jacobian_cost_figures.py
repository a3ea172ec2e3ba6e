"""The figure of `jacobian_cost`: which entries of Jacobians are not zero."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments import figures

COLUMNS = 4


def draw(patterns: Sequence[Any]) -> Figure:
    """A picture for each function, a square for each entry.

    Args:
      patterns: `jacobian_cost.Pattern`s.
    """
    rows = math.ceil(len(patterns) / COLUMNS)
    figure = Figure(figsize=(11.5, 0.9 + 3.3 * rows), layout="constrained")
    figure.suptitle("Entries of Jacobians that are not zero: rows for entries of the result, columns for those of x")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for found, axes in zip(patterns, grid, strict=False):
        colours = ListedColormap(["#f2f2f2", figures.LARGE if found.proven else figures.HAND])
        axes.imshow(found.support, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        m, n = found.support.shape
        for place in range(1, max(m, n)):  # thin lines between entries
            style: dict[str, Any] = {"color": "white", "linewidth": 0.4}
            axes.plot([place - 0.5] * 2, [-0.5, m - 0.5], **style) if place < n else None
            axes.plot([-0.5, n - 0.5], [place - 0.5] * 2, **style) if place < m else None
        axes.set_title(found.name, fontweight="bold", fontsize=11)
        axes.set_xlabel(found.found.replace(" (", "\n("), fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(xlim=(-0.5, n - 0.5), ylim=(m - 0.5, -0.5), aspect="equal")
        axes.spines[:].set_visible(False)
    for axes in list(grid):  # the rest
        axes.set_axis_off()
    marks: list[Any] = [
        figure.axes[0].plot(np.nan, np.nan, "s", color=colour, markersize=9, label=label)[0]
        for colour, label in ((figures.LARGE, "known from the program"), (figures.HAND, "found in numbers"))
    ]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=2)
    return figure
