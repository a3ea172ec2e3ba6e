"""The figure of `svm_regularization`: boundaries of many training sets at three C; what changes along the paths."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.figures import COMPONENTS, HAND, LARGE
from experiments.svm_regularization_paths import NOISE, Path, power_text

SIDES = LinearSegmentedColormap.from_list("sides", [HAND, "white", LARGE])
LEAST = 1e-3  # drawn, of slack
COLOURS = LARGE, HAND, COMPONENTS[2], COMPONENTS[4]


def draw(paths: Sequence[Path]) -> Figure:
    """Above, moons; below, all. What was not finished is left out."""
    figure = Figure(figsize=(17.5, 8.8), layout="constrained")
    above, below = figure.subplots(2, 4)
    moons = next((path for path in paths if path.kind == NOISE), None)
    if moons is None:
        for axes in above:
            axes.set_axis_off()
    else:
        best = int(np.argmin(moons.validation_error.mean(axis=0)))
        _plane(above[0], moons, 0, "the smallest")
        _plane(above[1], moons, best, "least validation error")
        _plane(above[2], moons, -1, "the largest")
        _errors(above[3], moons)
    _paths(below[0], paths, "slack", "Σ ξ, of each training set")
    _paths(below[1], paths, "width", "Margin, 2/‖w‖")
    _variances(below[2], paths)
    _validation(below[3], paths)
    for axes in below:
        _powers(axes)
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=path.name) for path, colour in zip(paths, COLOURS, strict=False)
    ]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=4)
    for axes in (above[3], *below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _plane(axes: Axes, path: Path, k: int, name: str) -> None:
    """f = 0 of the machines of all training sets; as colour, what part of them says which class."""
    if path.planes is None or path.limits is None:
        return
    (left, low), (right, high) = path.limits
    x, y = np.linspace(left, right, path.planes.shape[-1]), np.linspace(low, high, path.planes.shape[-2])
    share = np.mean(path.planes[:, k] > 0, axis=0)
    axes.contourf(x, y, share, levels=np.linspace(0, 1, 11), cmap=SIDES, alpha=0.55, antialiased=True)
    for plane in path.planes[:, k]:
        axes.contour(x, y, plane, levels=[0], colors="black", linewidths=0.5, alpha=0.5)
    axes.set_title(f"C = {power_text(path.c[k])}, {name}")
    if k == 0:
        axes.set_ylabel(f"{path.name}: f = 0 of {len(path.planes)} training sets")
    text = f"2/‖w‖ = {path.width[:, k].mean():.2g}, var sign f = {path.prediction_variance[k]:.3f}"
    axes.set_xlabel(text)
    axes.set(xticks=[], yticks=[], xlim=(left, right), ylim=(low, high))


def _paths(axes: Axes, paths: Sequence[Path], name: str, title: str) -> None:
    """A thin line for each training set, a thick one for their mean; what is next to nothing is left out."""
    axes.set_title(title)
    for path, colour in zip(paths, COLOURS, strict=False):
        values = getattr(path, name)
        for each, style in ((values, {"linewidth": 0.6, "alpha": 0.35}), (values.mean(axis=0)[None], {"linewidth": 2})):
            axes.plot(path.c, np.where(each > LEAST, each, np.nan).T, color=colour, **style)
    axes.set_yscale("log")


def _errors(axes: Axes, path: Path) -> None:
    axes.set_title(f"Errors: {path.name}")
    for values, style, name in (
        (path.training_error.mean(axis=0), "--", "training"),
        (path.validation_error.mean(axis=0), "-", "validation"),
        (path.vote_error, ":", f"validation, of the vote of {len(path.values)}"),
    ):
        axes.plot(path.c, values, style, color=HAND, linewidth=2, label=name)
    axes.set_ylim(bottom=0)
    _powers(axes)
    axes.legend(frameon=False, loc="upper left")


def _variances(axes: Axes, paths: Sequence[Path]) -> None:
    axes.set_title("Variance over training sets")
    for path, colour in zip(paths, COLOURS, strict=False):
        axes.plot(path.c, path.variance, color=colour, linewidth=2)
        axes.plot(path.c, path.prediction_variance, ":", color=colour, linewidth=2)
    for style, name in (("-", "of f"), (":", "of its sign, 0 or 1")):
        axes.plot([], [], style, color="0.3", linewidth=2, label=name)
    axes.set_yscale("log")
    axes.legend(frameon=False, loc="upper left")


def _validation(axes: Axes, paths: Sequence[Path]) -> None:
    axes.set_title("Errors: the others")
    for path, colour in zip(paths, COLOURS, strict=False):
        if path.kind != NOISE:
            axes.plot(path.c, path.training_error.mean(axis=0), "--", color=colour, linewidth=1.5)
            axes.plot(path.c, path.validation_error.mean(axis=0), color=colour, linewidth=2)
            if path.best_error is not None:
                label = f"least possible on average, {path.name.split(',')[0]}"
                axes.axhline(path.best_error, color="black", linewidth=0.8, linestyle=":", label=label)
    for dashes, name in (("--", "training"), ("-", "validation")):
        axes.plot([], [], dashes, color="0.3", linewidth=2, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="center right")


def _powers(axes: Axes) -> None:
    axes.set(xscale="log", xlabel="C")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(2, numticks=10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda c, _: power_text(c)))
