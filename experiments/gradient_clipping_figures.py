"""The figure of `gradient_clipping`: descents from a cliff, final losses against the rate, gradients through time."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.clipping_problems import Cliff, Trace, cliff_loss

COLOURS = {"without": figures.HAND, "with": figures.LARGE}


def draw(
    cliff: Cliff,
    rates: dict[str, np.ndarray],
    targets: dict[str, float],
    traces: dict[tuple[str, str], Trace],
    through_time: dict[str, np.ndarray],
    settings: dict[str, Any],
) -> Figure:
    """Above, the cliff; below, the recurrent network. What was not finished is left out.

    Args:
      cliff: the loss.
      rates: by problem.
      targets: by problem.
      traces: by problem, and "without" or "with" clipping.
      through_time: norms of gradients [radii, T], in the "linear" part of tanh and with "noise" for inputs.
      settings: the flags.
    """
    figure = Figure(figsize=(14, 8), layout="constrained")
    (profile, path, cliff_rates), (time, training, rnn_rates) = figure.subplots(2, 3)
    steps = int(settings["cliff_steps"])
    least = (cliff.edge - cliff.start) / (cliff.slope * steps)
    above = np.flatnonzero(rates["cliff"] > least)
    shown = int(above[min(1, len(above) - 1)]) if len(above) else 0  # the second rate that leaves the plateau
    name = f"η = {rates['cliff'][shown]:g}"
    _profile(profile, cliff, traces, shown)
    profile.set_title(f"The cliff, {name}")
    path.set_title(f"Distance to the minimum, {name}")
    for where, colour in COLOURS.items():
        if ("cliff", where) in traces:
            x = np.abs(traces["cliff", where].positions[shown])
            path.plot(np.arange(len(x)), np.maximum(x, 1e-6), color=colour, label=f"{where} clipping")
    path.set(yscale="log", ylim=(5e-7, None), xlabel="step", ylabel="|x|")
    if path.lines:
        path.legend(frameon=False)

    for axes, problem, title in ((cliff_rates, "cliff", "The cliff"), (rnn_rates, "rnn", "Recurrent network")):
        _final(axes, rates[problem], targets[problem], {w: t for (p, w), t in traces.items() if p == problem})
        axes.set_title(f"{title}: loss at the end")
    if rnn_rates.get_legend_handles_labels()[0]:
        rnn_rates.legend(frameon=False, loc="lower left")  # low rates stall: it is free

    ratio = len(rates["rnn"]) - 3 if len(rates["rnn"]) > 3 else len(rates["rnn"]) - 1
    training.set_title(f"Recurrent network: steps, η = {rates['rnn'][ratio]:g}")
    training.set(yscale="log", xlabel="step", ylabel="length of the step")
    for where, colour in COLOURS.items():
        if ("rnn", where) in traces:
            lengths = traces["rnn", where].lengths[0, ratio]
            training.plot(
                np.arange(len(lengths)), np.maximum(lengths, 1e-9), color=colour, linewidth=1, label=f"{where} clipping"
            )
    cap = rates["rnn"][ratio] * settings["rnn_clip"]
    training.axhline(cap, color="black", linewidth=0.8, linestyle="--", label="ηc")
    training.legend(frameon=False)
    _through_time(time, np.array(settings["radii"], float), through_time)
    for axes in (profile, path, cliff_rates, time, training, rnn_rates):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _profile(axes: Axes, cliff: Cliff, traces: dict[tuple[str, str], Trace], shown: int) -> None:
    right = -0.4 * cliff.start
    x = np.unique(np.concatenate([
        np.linspace(1.05 * cliff.start, right, 400), np.linspace(cliff.edge, cliff.edge + cliff.width, 200),
    ]))  # fmt: skip
    axes.plot(x, np.asarray(cliff_loss(cliff, jnp.asarray(x))), color="0.6", linewidth=1, zorder=0)
    for where, mark, size in (("with", "o", 5), ("without", "x", 6)):
        if ("cliff", where) in traces:
            trace = traces["cliff", where]
            colour, (positions, losses) = COLOURS[where], (trace.positions[shown], trace.losses[shown])
            inside = positions <= right
            axes.plot(positions[inside], losses[inside], mark, color=colour, markersize=size, alpha=0.7,
                      fillstyle="none", label=f"{where} clipping")  # fmt: skip
            if not inside.all():
                first = int(np.argmin(inside))
                height = losses[first - 1]
                arrow = {"arrowstyle": "->", "color": colour, "linestyle": "--"}
                axes.annotate("", (right, height), (positions[first - 1], height), arrowprops=arrow)
                text = f"one step, to x = {positions[first]:,.0f}"
                axes.annotate(text, (right, height / 2.5), color=colour, ha="right", va="top")
    axes.set(yscale="log", xlabel="x", ylabel="loss", xlim=(1.08 * cliff.start, right), ylim=(cliff.slope * 1e-4, None))
    if any(problem == "cliff" for problem, _ in traces):
        axes.legend(frameon=False, loc="lower left")


def _final(axes: Axes, rates: np.ndarray, target: float, traces: dict[str, Trace]) -> None:
    """The largest loss of the last tenth; where there are several starts, a dot for each and a line through medians."""
    axes.set(xscale="log", yscale="log", xlabel="η", ylabel="largest loss in the last tenth")
    for where, trace in traces.items():
        tail = trace.losses[..., -max(trace.losses.shape[-1] // 10, 1) :].max(axis=-1)
        tail = np.atleast_2d(np.where(np.isfinite(tail), np.maximum(tail, 1e-7), np.nan))
        axes.plot(rates, np.median(tail, axis=0), color=COLOURS[where], label=f"{where} clipping")
        axes.plot(rates, tail.T, "o", color=COLOURS[where], markersize=4, alpha=0.6, markeredgewidth=0)
    axes.axhline(target, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("target", (rates[0], target), va="bottom", fontsize=9)


def _through_time(axes: Axes, radii: np.ndarray, found: dict[str, np.ndarray]) -> None:
    axes.set_title("Gradient sent back through k steps")
    for i, radius in enumerate(radii):
        colour = figures.COMPONENTS[i % len(figures.COMPONENTS)]
        for name, style in (("linear", "-"), ("noise", ":")):
            if name in found:
                values = np.where(found[name][i] > 0, found[name][i], np.nan)
                label = f"ρ = {radius:g}" if name == "linear" else None
                axes.plot(np.arange(len(values)), values, style, color=colour, label=label)
        if "linear" in found:
            k = np.arange(found["linear"].shape[1])[::8]
            axes.plot(k, radius**k, "o", color=colour, markersize=4, fillstyle="none")
    axes.plot([], [], ":", color="0.3", label="inputs of order 1")
    axes.plot([], [], "o", color="0.3", fillstyle="none", markersize=4, label="ρᵏ")
    axes.set(yscale="log", xlabel="k", ylabel="norm, relative")
    axes.legend(frameon=False, fontsize=9, ncols=1)
