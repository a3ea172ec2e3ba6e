"""The figure of `svm_primal_dual`: machines, what α means, objectives that close, the recipe that does not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures import COMPONENTS, HAND, LARGE, SMALL
from experiments.svm_primal_dual_lagrangian import Recipe
from experiments.svm_primal_dual_solutions import Case, Closing, Groups, LeaveOneOut, Primal
from experiments.svm_primal_dual_verdicts import Measured
from fundamentals import svm

GREEN, PURPLE, GREY = COMPONENTS[2], COMPONENTS[4], "0.75"
SIDES = LinearSegmentedColormap.from_list("sides", [HAND, "white", LARGE])
GRID = 160  # points along each axis of a plane


def draw(cases: Sequence[Case], machines: Sequence[svm.SupportVectorMachine], measured: Measured) -> Figure:
    """Above, the two machines and what an α means; below, objectives and the recipe. What was not finished is empty."""
    figure = Figure(figsize=(17.5, 8.6), layout="constrained")
    above, below = figure.subplots(2, 4)
    for axes, case, machine in zip(above, cases, machines, strict=False):
        plane(axes, case, machine)
    _margins(above[2], measured.groups)
    _left_out(above[3], measured.left_out, measured.groups)
    _objectives(below[0], measured.closings[-1])
    _gaps(below[1], measured.closings, measured.primal)
    _sums(below[2], measured.recipe)
    _distances(below[3], measured.recipe)
    for axes in (*above[2:], *below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plane(axes: Axes, case: Case, machine: svm.SupportVectorMachine) -> None:
    """Points in the plane, f as colour, f = 0 and ±1 as lines; rings around support vectors by their α."""
    x, y = case.points
    alpha = np.asarray(machine.alpha)
    low, high = x.min(axis=0) - 0.4, x.max(axis=0) + 0.4
    sides = [np.linspace(*ends, GRID) for ends in zip(low, high, strict=True)]
    places = np.stack(np.meshgrid(*sides), axis=-1)
    f = np.asarray(svm.decision_function(machine, places.reshape(-1, 2))).reshape(GRID, GRID)
    axes.imshow(
        np.clip(f, -2, 2), cmap=SIDES, vmin=-4, vmax=4, origin="lower", aspect="auto", interpolation="bilinear",
        extent=(low[0], high[0], low[1], high[1]),
    )  # fmt: skip
    axes.contour(*sides, f, levels=[-1, 0, 1], colors="black", linewidths=[0.9, 1.6, 0.9], linestyles=["--", "-", "--"])
    zero, full = alpha <= 0, alpha >= case.c
    for side, colour in ((1, LARGE), (-1, HAND)):
        own = y == side
        axes.plot(*x[own & zero].T, "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
        axes.plot(*x[own & ~zero].T, "o", color=colour, markersize=5, markeredgewidth=0)
    rings = (("0 < α < C", ~zero & ~full, "black", 2.0), ("α = C", full, SMALL, 1.8))
    for _, members, colour, width in rings:
        axes.plot(*x[members].T, "o", color=colour, fillstyle="none", markersize=10, markeredgewidth=width)
    axes.set_title(f"{case.name[:1].upper()}{case.name[1:]} kernel, C = {case.c:g}: f(x) = 0 and ±1")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    handles = [
        Line2D([], [], linestyle="", marker="o", color="0.5", markersize=4, alpha=0.55, label=f"α = 0: {zero.sum()}"),
        *(
            Line2D([], [], linestyle="", marker="o", fillstyle="none", color=colour, markersize=9,
                   markeredgewidth=width, label=f"{name}: {members.sum()}")
            for name, members, colour, width in rings
        ),
    ]  # fmt: skip
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, frameon=False,
                handletextpad=0.1, columnspacing=1.2)  # fmt: skip


def _margins(axes: Axes, groups: Sequence[Groups]) -> None:
    axes.set_title("What α says of a margin")
    axes.set(xlabel="y f(x)", ylabel="α / C")
    for found, mark, colour in zip(groups, "os", (LARGE, GREEN), strict=False):
        axes.plot(found.margins, found.alpha, mark, color=colour, markersize=5, alpha=0.6, markeredgewidth=0,
                  label=found.name)  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--", zorder=0)
    axes.text(0.88, 0.96, "inside, or\nwrong: C", ha="right", va="top", fontsize=9, color="0.35")
    axes.text(1.12, 0.5, "on the margin:\nbetween", ha="left", va="center", fontsize=9, color="0.35")
    axes.text(1.12, 0.04, "outside: 0", ha="left", va="bottom", fontsize=9, color="0.35")
    axes.set_ylim(-0.05, 1.14)
    if groups:
        axes.legend(frameon=False, loc="upper right")


def _left_out(axes: Axes, found: LeaveOneOut | None, groups: Sequence[Groups]) -> None:
    axes.set_title("Linear: w without one point")
    axes.set(xlabel="its α / C", ylabel="‖Δw‖ / ‖w‖")
    if found is None or not groups:
        return
    for members, colour in zip(groups[0].members, (GREY, "black", SMALL), strict=True):
        style: dict[str, Any] = {"color": colour, "markersize": 6, "markeredgewidth": 0, "alpha": 0.75}
        axes.plot(groups[0].alpha[members], found.changes[members], "o", **style)
    zero = groups[0].members[0]
    still = int(np.sum(found.changes[~zero] <= found.bounds[~zero]))
    text = f"{zero.sum()} points with α = 0: no change" + (f";\nnor without {still} of the others" if still else "")
    axes.text(0.04, 0.95, text, va="top", fontsize=9, color="0.35", transform=axes.transAxes)


def _objectives(axes: Axes, closing: Closing) -> None:
    axes.set_title(f"{closing.name}: primal and dual objective")
    axes.fill_between(closing.iterations, closing.dual, closing.primal, color="0.93", linewidth=0)
    axes.plot(closing.iterations, closing.primal, color=LARGE, label="P(w, b) of w = Σ α y φ(x)")
    axes.plot(closing.iterations, closing.dual, color=HAND, label="D(α)")
    axes.axhline(closing.optimum, color="black", linewidth=0.8, linestyle="--", label="optimum")
    axes.set(xlabel="steps of two α", xscale="log", ylim=(0, 3 * closing.optimum))
    axes.legend(frameon=False, loc="lower right")


def _gaps(axes: Axes, closings: Sequence[Closing], primal: Primal | None) -> None:
    axes.set_title("Gap P − D, over the optimum")
    axes.set(xlabel="steps", xscale="log", yscale="log")
    for closing, colour in zip(closings, (LARGE, GREEN), strict=False):
        gap = (closing.primal - closing.dual) / closing.optimum
        axes.plot(closing.iterations, gap, color=colour, label=f"two α at a time, {closing.name}")
    if primal:
        gap = (primal.upper - primal.lower) / primal.dual_objective
        axes.plot(np.arange(1, len(gap) + 1), gap, color=PURPLE, label="cutting planes, linear")
        excess = primal.steps / primal.dual_objective - 1
        style: dict[str, Any] = {"color": SMALL, "linewidth": 0.9, "zorder": 0, "label": "Pegasos, linear: P − optimum"}
        axes.plot(np.arange(1, len(excess) + 1), excess, **style)
    ends = [float(closing.primal[-1] - closing.dual[-1]) / closing.optimum for closing in closings]
    axes.set_ylim(bottom=1e-6 * max(min(ends), 1e-16))  # room for the legend
    axes.legend(frameon=False, loc="lower left", fontsize=9)


def _sums(axes: Axes, recipe: Recipe | None) -> None:
    axes.set_title("Points apart, α ≥ 0: Σ α, over the solution's")
    axes.set(xlabel="steps", xscale="log", yscale="log")
    if recipe is None:
        return
    lines = (
        (recipe.again, SMALL, f"w anew after steps {recipe.overshoot:g} × too long"),
        (recipe.sums, HAND, "the notes: w stays"),
        (recipe.ascent, LARGE, "w anew in every step of 1/λ"),
    )
    for values, colour, label in lines:
        style = "." if colour == SMALL else "-"  # where it swings, every other Σ α may be 0: no line leads there
        axes.plot(np.arange(1, len(values) + 1), values / recipe.optimum, style, color=colour, label=label)
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_ylim(0.1, 1e4 * max(float(recipe.sums[-1] / recipe.optimum), 10))  # room for the legend
    axes.legend(frameon=False, loc="upper right")


def _distances(axes: Axes, recipe: Recipe | None) -> None:
    axes.set_title("0 ≤ α ≤ C: how far D is from its maximum")
    axes.set(xlabel="steps, or rounds", ylabel="(max D − D) / max D", xscale="log", yscale="log")
    if recipe is None:
        return
    corners = recipe.corners[:30]
    axes.plot(np.arange(1, len(corners) + 1), corners, ".-", color=HAND, markersize=4, linewidth=1,
              label="w fixed, maximized in full")  # fmt: skip
    axes.plot(recipe.steps, recipe.dual, color=LARGE, label="w anew in every step")
    bound = recipe.bounds[1] * len(recipe.steps) / recipe.steps
    axes.plot(recipe.steps, bound, color="black", linewidth=0.8, linestyle="--", label="λ ‖Δα‖² / 2k")
    axes.legend(frameon=False, loc="lower left")
