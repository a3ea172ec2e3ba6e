"""The figures of `svm_kernels`: decision regions with margins and support vectors; digits and what is similar."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments import figures

POSITIVE, NEGATIVE = figures.HAND, figures.LARGE
REGIONS = LinearSegmentedColormap.from_list("regions", [NEGATIVE, "white", POSITIVE])
COUNT = 4  # support vectors of each class beside a digit


def planes(found: Sequence[Any]) -> Figure:
    """A picture for each problem and kernel: f in shades up to the margins, f = 0 and ±1 as lines.

    Args:
      found: `svm_kernels_verdicts.Plane`s.
    """
    problems = list(dict.fromkeys(p.problem for p in found))
    kernels = list(dict.fromkeys(p.kernel for p in found))
    figure = Figure(figsize=(3.3 * len(problems) + 0.4, 3.45 * len(kernels) + 1.1), layout="constrained")
    figure.suptitle("What a kernel can tell apart: the decision function f in shades, up to the margins\n")
    grid = figure.subplots(len(kernels), len(problems), squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_visible(False)  # until there is something in it
    for each in found:
        row, column = kernels.index(each.kernel), problems.index(each.problem)
        axes = grid[row, column]
        axes.set_visible(True)
        _plane(axes, each)
        if row == 0:
            axes.text(0.5, 1.1, each.problem, fontweight="bold", fontsize=12, ha="center", transform=axes.transAxes)
        if column == 0:
            axes.set_ylabel(each.kernel, fontweight="bold", fontsize=12)
    nothing: Any = ([], [])
    axes = grid[0, 0]
    marks: list[Any] = [
        *axes.plot(*nothing, "o", color=POSITIVE, markersize=5, markeredgewidth=0, label="label 1"),
        *axes.plot(*nothing, "o", color=NEGATIVE, markersize=5, markeredgewidth=0, label="label −1"),
        *axes.plot(*nothing, "o", color="black", fillstyle="none", markersize=7, label="support vector"),
        *axes.plot(*nothing, "-", color="black", linewidth=1.6, label="f = 0"),
        *axes.plot(*nothing, "--", color="black", linewidth=0.8, label="f = ±1, the margins"),
    ]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=5)
    return figure


def _plane(axes: Axes, found: Any) -> None:
    first, second = found.axes
    step = first[1] - first[0]
    extent = (first[0] - step / 2, first[-1] + step / 2, second[0] - step / 2, second[-1] + step / 2)
    style: dict[str, Any] = {"cmap": REGIONS, "vmin": -2, "vmax": 2, "origin": "lower", "interpolation": "bilinear"}
    axes.imshow(np.clip(found.values, -1, 1), extent=extent, **style)
    for level, width, line in ((0, 1.6, "-"), (1, 0.8, "--"), (-1, 0.8, "--")):
        if found.values.min() < level < found.values.max():
            axes.contour(first, second, found.values, [level], colors="black", linewidths=width, linestyles=line)
    for label, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        axes.plot(*found.x[found.y == label].T, "o", color=colour, markersize=3.2, markeredgewidth=0)
    axes.plot(*found.x[found.support].T, "o", color="black", fillstyle="none", markersize=5.5, markeredgewidth=0.7)
    axes.set(xlim=first[[0, -1]], ylim=second[[0, -1]], aspect="equal")
    count = len(found.support)
    axes.set_title(f"test {found.accuracy:.1%}, {count} support vector{'s' if count != 1 else ''}", fontsize=9, pad=5)


def similarities(found: Sequence[Any]) -> Figure:
    """A row for each test digit: it, the support vectors that say most for each class, and all that they say.

    Args:
      found: `svm_kernels.Contribution`s.
    """
    figure = Figure(figsize=(12.5, 1.62 * len(found) + 0.6), layout="constrained")
    figure.suptitle("What decides how a digit is read: its similarity to support vectors, f(x) = Σ αᵢ yᵢ K(xᵢ, x) + b")
    grid = figure.subplots(len(found), 2, width_ratios=[2.6, 1], squeeze=False)
    for (pictures, bars), each in zip(grid, found, strict=True):
        _pictures(pictures, each)
        _bars(bars, each)
    return figure


def _signed(value: float) -> str:
    """With the minus sign of the axes."""
    return f"{value:+.2f}".replace("-", "−")


def _pictures(axes: Axes, found: Any) -> None:
    axes.set_axis_off()
    size, pitch, gap = 8, 10.5, 5.0

    def draw(image: np.ndarray, left: float, above: str, below: str, colour: str) -> None:
        axes.imshow(image.reshape(size, size), cmap="gray_r", vmin=0, vmax=1, extent=(left, left + size, size, 0))
        right = left + size
        axes.plot([left, right, right, left, left], [0, 0, size, size, 0], color=colour, linewidth=1.2)
        style: dict[str, Any] = {"ha": "center", "fontsize": 9, "color": colour}
        axes.text(left + size / 2, -0.6, above, va="bottom", **style)
        axes.text(left + size / 2, size + 0.6, below, va="top", **style)

    read = "read as" if found.label == found.read else "misread as"
    draw(found.image, 0, f"a {found.label}, {read} {found.read}", f"f = {_signed(found.value)}", "black")
    left = size + gap
    order = np.argsort(found.terms)
    for chosen, colour in ((order[::-1][:COUNT], POSITIVE), (order[:COUNT], NEGATIVE)):
        for place in chosen:
            if (found.terms[place] > 0) == (colour == POSITIVE):
                draw(found.images[place], left, f"a {found.labels[place]}", _signed(found.terms[place]), colour)
            left += pitch
        left += gap - (pitch - size)
    axes.set(xlim=(-2.5, left - gap + 0.5), ylim=(size + 2.6, -2.6), aspect="equal")


def _bars(axes: Axes, found: Any) -> None:
    terms = np.sort(found.terms)[::-1]
    colours = [POSITIVE if term > 0 else NEGATIVE for term in terms]
    axes.bar(np.arange(len(terms)), terms, width=1.0, color=colours)
    axes.axhline(0, color="black", linewidth=0.6)
    positive, negative = terms[terms > 0].sum(), terms[terms < 0].sum()
    style: dict[str, Any] = {"fontsize": 9, "transform": axes.transAxes}
    axes.text(0.97, 0.93, f"for {found.classes[0]}: {_signed(positive)}", color=POSITIVE, ha="right", va="top", **style)
    axes.text(0.03, 0.07, f"for {found.classes[1]}: {_signed(negative)}", color=NEGATIVE, **style)
    parts = (_signed(part).replace("+", "+ ").replace("−", "− ") for part in (negative, found.bias))
    axes.set_title(f"f = {positive:.2f} {' '.join(parts)} = {_signed(found.value)}", fontsize=9)
    axes.set_ylabel("αᵢ yᵢ K(xᵢ, x)", fontsize=9)
    axes.set_xticks([])
    axes.margins(x=0.02, y=0.12)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=8)
