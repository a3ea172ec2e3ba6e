"""The figure of `compare_optimizers`: paths over contours, and curves."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.compare_optimizers_problems import DIGITS, EVEN, EVERY
from experiments.landscapes import Landscape

COLOURS = {
    "sgd": "#2e4057",
    "momentum": "#d1495b",
    "adagrad": "#66a182",
    "rmsprop": "#edae49",
    "adam": "#3a86c8",
    "nesterov": "#8d5a97",
    "adadelta": "#b07c4f",
    "adamw": "#777777",
}
DRAWN = 5  # at most, to be told apart; the others are in the tables


def comparison(
    places: dict[str, Landscape],
    scores: Sequence[Any],
    paths: dict[tuple[str, str], np.ndarray],
    curves: dict[str, np.ndarray],
) -> Figure:
    """Contours with paths, then losses, then what the claims measured.

    Args:
      places: the functions of two variables.
      scores: one a method and function: `method`, `function`, `iterations`, `rate`, `losses`.
      paths: by method and function, [looks, 1 or 3]: the loss, and where that is.
      curves: of the claims, by name, [N, 2].
    """
    found = {(score.method, score.function): score for score in scores}
    functions = list(dict.fromkeys(score.function for score in scores))
    drawn = [name for name in functions if name in places]
    lost = [name for name in functions if name not in places and name != EVEN]
    panels = len(drawn) + len(lost) + 3
    rows = -(-panels // 4)
    figure = Figure(figsize=(17, 4.1 * rows + 0.5), layout="constrained")
    axes = list(np.asarray(figure.subplots(rows, 4)).ravel())
    methods = [method for method in COLOURS if any(score.method == method for score in scores)]
    left_out = methods[DRAWN:]
    methods = methods[:DRAWN]
    for name in drawn:
        of_function = {method: found[method, name] for method in methods if (method, name) in found}
        _contours(axes.pop(0), name, places[name], of_function, paths)
    for name in lost:
        _losses(axes.pop(0), name, {m: found[m, name] for m in methods if (m, name) in found})
    _scaling(axes.pop(0), curves)
    _bookkeeping(axes.pop(0), curves)
    _rates(axes.pop(0), curves)
    for unused in axes:
        unused.set_axis_off()
    title = "Paths at the best learning rate, until the loss stays at its goal; losses; claims"
    if left_out:
        title += f" (not drawn: {', '.join(left_out)})"
    figure.suptitle(title, fontsize=14)
    handles = [
        figure.axes[0].plot([], [], color=colour, linewidth=2.5, label=method)[0]
        for method, colour in COLOURS.items()
        if method in methods
    ]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=DRAWN, fontsize=13)
    return figure


def _contours(
    axes: Axes, name: str, place: Landscape, scores: dict[str, Any], paths: dict[tuple[str, str], np.ndarray]
) -> None:
    left, right, bottom, top = place.window
    x, y = np.meshgrid(np.linspace(left, right, 160), np.linspace(bottom, top, 160))
    points = jnp.asarray(np.stack([x.ravel(), y.ravel()], 1))
    z = np.asarray(jax.jit(jax.vmap(place.f))(points), float).reshape(x.shape) - place.lowest
    # Evenly spaced in the fourth root: lines are neither all at the minimum nor all at the walls.
    levels = np.linspace(0, z.max() ** 0.25, 22)[1:]
    axes.contour(x, y, np.maximum(z, 0) ** 0.25, levels=levels, colors="0.8", linewidths=0.7)
    for method, score in scores.items():
        looks = len(paths[method, name]) if np.isnan(score.iterations) else int(score.iterations)
        path = np.concatenate([[place.start], paths[method, name][:looks, 1:]])
        axes.plot(*path.T, color=COLOURS[method], linewidth=1.4, marker=".", markersize=3.5, alpha=0.85)
    axes.plot(*place.start, "o", color="black", markersize=6)
    axes.plot(*place.minimum, "*", color="black", markersize=12)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_title(f"{name.replace('_', ' ').capitalize()}, κ = {place.condition:,.0f}", fontsize=12)


def _losses(axes: Axes, name: str, scores: dict[str, Any]) -> None:
    for method, score in scores.items():
        losses = np.asarray(score.losses)
        every = EVERY if name == DIGITS else 1
        axes.plot(every * np.arange(1, len(losses) + 1), losses, color=COLOURS[method], linewidth=1.4)
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_title(f"{name.replace('_', ' ').capitalize()}: loss", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)


def _scaling(axes: Axes, curves: dict[str, np.ndarray]) -> None:
    for name in ("gradient descent", "momentum"):
        colour = COLOURS["sgd" if name == "gradient descent" else name]
        if name in curves:
            axes.plot(*curves[f"{name}, closed form"].T, color=colour, linewidth=1, label=f"{name}, closed form")
            axes.plot(*curves[name].T, "o", color=colour, markersize=6, label=f"{name}, measured")
    axes.set(xscale="log", yscale="log", xlabel="κ")
    axes.set_title("Iterations with the best η and β", fontsize=12)
    _finish(axes)


def _bookkeeping(axes: Axes, curves: dict[str, np.ndarray]) -> None:
    for name, style in (("flat", "-"), ("steep", "--")):
        if name in curves:
            axes.plot(*curves[name].T, style, color=COLOURS["momentum"], label=f"{name} coordinate")
    axes.set(yscale="log", xlabel="iteration", ylim=(0.02, 1.5))
    axes.set_title("What is left in the velocity: |v| / Σ βᵏ |g|", fontsize=12)
    _finish(axes)


def _rates(axes: Axes, curves: dict[str, np.ndarray]) -> None:
    for name in ("AdaGrad", "RMSProp"):
        if name in curves:
            axes.plot(*curves[name].T, color=COLOURS[name.lower()], linewidth=2, label=name)
    axes.set(yscale="log", xlabel="iteration: gradients are 1, then 0.1")
    axes.set_title("Rate, |step| / |gradient|", fontsize=12)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
