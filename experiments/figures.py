"""The figures of the experiments: data in, a matplotlib figure out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from experiments import measure
from fundamentals.data import Split

HAND, SMALL, LARGE = "#d1495b", "#edae49", "#30638e"
COMPONENTS = "#d1495b", "#30638e", "#66a182", "#edae49", "#8d5a97", "#2e4057", "#b07c4f"
FORMS = {"by hand": HAND, "textbook": LARGE, "autodiff": LARGE, "library": SMALL, "torch": "#00798c"}


def training(
    history: Sequence[dict[str, float]],
    differences: np.ndarray,
    names: Sequence[str],
    bound: float,
    test: Split,
    predictions: np.ndarray,
) -> Figure:
    """Loss, accuracy and the gradients' difference over time; below, the test images that were misread.

    Args:
      history: one record an epoch, with train and validation loss and accuracy.
      differences: [steps, parameters], relative; empty where gradients were not compared.
      names: of the parameters.
      bound: of the differences.
      test: images and labels.
      predictions: [N], what was read.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.1, 1]))
    loss_axes, accuracy_axes, difference_axes = above.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    for axes, quantity, scale in ((loss_axes, "loss", 1), (accuracy_axes, "accuracy", 100)):
        for part, style in (("train", "-"), ("validation", "--")):
            values = [scale * record[f"{part}_{quantity}"] for record in history]
            axes.plot(epochs, values, style, color=HAND, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    loss_axes.set_title("Loss")
    if any(np.isfinite(record["train_loss"]) and record["train_loss"] > 0 for record in history):
        loss_axes.set_yscale("log")
    accuracy_axes.set_title("Accuracy, %")
    _differences(difference_axes, differences, names, bound)
    for axes in (loss_axes, accuracy_axes, difference_axes):
        axes.spines[["top", "right"]].set_visible(False)
    _misread(below, test, predictions)
    return figure


def _differences(axes: Axes, differences: np.ndarray, names: Sequence[str], bound: float) -> None:
    axes.set_title("|by hand − jax.grad|, relative")
    axes.set_xlabel("step")
    if not len(differences):
        axes.text(0.5, 0.5, "not compared", ha="center", transform=axes.transAxes)
        return
    steps = np.arange(1, len(differences) + 1)
    equal = [name for name, column in zip(names, differences.T, strict=True) if not column.any()]
    few = len(names) - len(equal) <= 8  # parameters, to tell by their colours
    for name, column in zip(names, differences.T, strict=True):
        if name not in equal:
            shown = np.isfinite(column) & (column > 0)  # on a logarithmic axis
            style: dict[str, Any] = {"label": name} if few else {"color": LARGE}
            axes.plot(steps[shown], column[shown], ".", markersize=3, alpha=0.5, markeredgewidth=0, **style)
    axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(f"bound {bound:.0e}", (steps[-1], bound), ha="right", va="bottom", fontsize=8)
    axes.set(yscale="log", ylim=(bound * 1e-4, bound * 2), xlim=(0, steps[-1] + 1))
    if not few:
        text = f"one dot for each of {len(names) - len(equal)} parameters"
        axes.text(0.5, 0.76, text, ha="center", fontsize=8, transform=axes.transAxes)
    elif len(equal) < len(names):
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.8)}
        legend = axes.legend(
            frameon=False,
            fontsize=8,
            markerscale=4,
            ncols=4 if max(map(len, names)) < 10 else 2,
            handletextpad=0.2,
            **place,
        )
        for handle in filter(None, legend.legend_handles):
            handle.set_alpha(1)
    if equal:
        where = ", ".join(equal)
        where = where if len(where) <= 40 else f"{len(equal)} of {len(names)} parameters"  # more would leave the axes
        where = where if len(equal) < len(names) else "any parameter"
        axes.text(0.5, 0.82, f"no bit differs in {where}", ha="center", fontsize=8, transform=axes.transAxes)


def _misread(figure: Any, test: Split, predictions: np.ndarray) -> None:
    wrong = np.flatnonzero(predictions != test.labels)
    shown = wrong[:10]
    figure.suptitle(
        f"{len(wrong)} of {len(predictions)} test images misread"
        + (f", the first {len(shown)}" if len(shown) < len(wrong) else "")
        + (": what it is → what was read" if len(wrong) else "")
    )
    axes = figure.subplots()
    axes.set_axis_off()
    height, width = test.inputs.shape[1:3]
    pitch = 1.5 * width  # side by side in one picture: an Axes each would take most of the figure's time
    first = (10 - len(shown)) / 2 * pitch  # in the middle, and as large, if there are fewer than ten
    for position, index in enumerate(shown):
        left = first + pitch * position
        axes.imshow(test.inputs[index], cmap="gray_r", vmin=0, extent=(left, left + width, height, 0))
        label = f"{test.labels[index]} → {predictions[index]}"
        axes.text(left + width / 2, -0.1 * height, label, ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, pitch * 10 - 0.5 * width), ylim=(height, -0.4 * height), aspect="equal")


def ratios(names: Sequence[str], values: dict[str, dict[str, tuple[float, float]]], bound: float, title: str) -> Figure:
    """Time ratios as bars that start at 1: to the left is faster.

    Args:
      names: one row each.
      values: by size ("small", "large"), then by name: the ratio and its standard error.
      bound: drawn as a line.
      title: of the figure.
    """
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    for shift, size, colour in ((-0.2, "small", SMALL), (0.2, "large", LARGE)):
        for row, name in enumerate(names):
            if name in values[size]:
                ratio, error = values[size][name]
                label = f"{size} arrays" if name == next(iter(values[size])) else None
                style: dict[str, Any] = {"color": colour, "label": label, "error_kw": {"elinewidth": 0.8}}
                axes.barh(row + shift, ratio - 1, 0.4, left=1, xerr=2 * error, **style)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvline(bound, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(f" {bound}", (bound, -0.6), va="bottom", fontsize=8)
    axes.set_yticks(range(len(names)), [name.replace("(", "\n(", 1) if len(name) > 34 else name for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("time by hand / time of jax.vjp\nwith two standard errors to each side")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def growth(
    title: str,
    letter: str,
    points: Sequence[measure.Point],
    temp_guides: dict[str, float],
    time_guides: dict[str, float],
) -> Figure:
    """Temporary memory and time against a size, on logarithmic axes. What was compiled, but not run, has no time.

    Args:
      title: of the figure.
      letter: the size.
      points: what was measured.
      temp_guides: predicted exponents by form, drawn as dashed lines through the form's last point.
      time_guides: likewise.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    temp_axes, time_axes = figure.subplots(1, 2, sharex=True)
    sizes = sorted({p.size for p in points})
    temp = [(p.form, p.size, float(p.temp_bytes)) for p in points if p.temp_bytes]
    seconds = [(p.form, p.size, float(np.median(p.seconds))) for p in points if p.seconds]
    _growth(temp_axes, letter, sizes, temp, temp_guides)
    _growth(time_axes, letter, sizes, seconds, time_guides)
    temp_axes.set_title("Temporary memory, bytes")
    temp_axes.yaxis.set_major_locator(LogLocator(4, numticks=20))
    temp_axes.yaxis.set_minor_locator(NullLocator())
    temp_axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: measure.bytes_text(y).replace(".0", "")))
    time_axes.set_title("Time")
    time_axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: measure.time_text([y]).replace(".00s", "s").replace(".0ms", "ms"))
    )
    handles, labels = temp_axes.get_legend_handles_labels()
    for handle, label in zip(*time_axes.get_legend_handles_labels(), strict=True):
        if label not in labels:  # torch's memory is not known
            handles, labels = [*handles, handle], [*labels, label]
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=5)
    figure.suptitle(title)
    return figure


def _growth(
    axes: Axes,
    letter: str,
    sizes: Sequence[int],
    values: Sequence[tuple[str, int, float]],
    guides: dict[str, float],
) -> None:
    predicted = {0: "constant", 1: f"∝ {letter}", 2: f"∝ {letter}²"}
    lines: list[Any] = []
    texts = []
    for order, form in enumerate(dict.fromkeys(form for form, _, _ in values)):
        x, y = np.array([(size, value) for own, size, value in values if own == form], float).T
        width = 1 if order else 2  # so that the first shows from under another
        axes.plot(x, y, color=FORMS[form], marker="o", markersize=4 * width, linewidth=1.5 * width, label=form)
        if form in guides:
            ends = np.array([sizes[0], sizes[-1]])
            style: dict[str, Any] = {"color": FORMS[form], "linewidth": 0.9, "linestyle": "--"}
            lines += axes.plot(ends, y[-1] * (ends / x[-1]) ** guides[form], zorder=1, **style)
            texts.append(predicted[int(guides[form])])
    if lines:
        axes.legend(lines, texts, title="predicted", loc="upper left", frameon=False, alignment="left")
    axes.set(xscale="log", yscale="log", xlabel=letter)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def steps(title: str, panels: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """Nanoseconds of an optimizer's step for each parameter, against their number.

    Args:
      title: of the figure.
      panels: seconds of a step, by panel, form and number of parameters.
    """
    figure = Figure(figsize=(min(3.8 * len(panels), 15) + 0.4, 4.2), layout="constrained")
    colours = {"fundamentals": HAND, "optax": LARGE, "torch": FORMS["torch"], "floor": "#777777"}
    handles: dict[str, Any] = {}
    for axes, (name, forms) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
    ):
        for form, seconds in forms.items():
            sizes = sorted(seconds)
            style = "--" if form == "floor" else "-o"
            each = [1e9 * seconds[size] / size for size in sizes]
            (handles[form],) = axes.plot(sizes, each, style, color=colours[form], markersize=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(name)
        axes.set_xlabel("parameters")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ns a parameter")
    figure.legend(handles.values(), handles, frameon=False, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def output_distributions(
    *,
    data: tuple[np.ndarray, np.ndarray],
    f: Callable[[np.ndarray], np.ndarray],
    noise: float,
    grid: tuple[np.ndarray, np.ndarray],
    answers: dict[str, np.ndarray],
    density: np.ndarray,
    components: tuple[np.ndarray, np.ndarray],
    history: Sequence[dict[str, float]],
    limits: tuple[float, float],
    slopes: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Figure:
    """Above, an inverse map as a squared error and a mixture learn it; below, by how much they miss.

    Args:
      data: x and t, each [B].
      f: the map from t to x.
      noise: largest difference of f(t) and x.
      grid: x [G] and t [T].
      answers: by head, [G]: "squared error", "mixture" and "E(t | x)".
      density: [T, G], the mixture's.
      components: weights and means of the mixture, each [G, K].
      history: one record each few steps: "step", and the negative log-likelihood by head.
      limits: that of E(t | x) and of the true density.
      slopes: logits, and the gradients there of cross-entropy and squared error, where the target is 1.
    """
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    (fit, mixture, weights), (back, likelihood, slope) = figure.subplots(2, 3, height_ratios=[1.35, 1])
    x, t = grid
    for axes in (fit, mixture):
        axes.set(xlim=x[[0, -1]], ylim=t[[0, -1]], xlabel="x", ylabel="t")
    for axes in (weights, back):
        axes.set(xlim=x[[0, -1]], xlabel="x")
    fit.set_title("Squared error: one answer for each x")
    fit.plot(*data, ".", color="0.75", markersize=3, markeredgewidth=0, label="held out")
    fit.plot(x, answers["squared error"], color=HAND, linewidth=2, label="learned")
    fit.plot(x, answers["E(t | x)"], "--", color="black", linewidth=1, label="E(t | x)")
    fit.legend(frameon=False, loc="upper left", markerscale=3)

    mixture.set_title("Mixture: p(t | x), means of its components")
    shown = np.sqrt(np.minimum(density, np.nanquantile(density, 0.98))) if np.isfinite(density).any() else density
    mixture.pcolormesh(x, t, shown, cmap="Greys", shading="nearest", alpha=0.8, rasterized=True)
    weights.set_title("Weights of the components")
    for k, (weight, mean) in enumerate(zip(components[0].T, components[1].T, strict=True)):
        colour = COMPONENTS[k % len(COMPONENTS)]
        mixture.scatter(x, mean, s=8, color=colour, alpha=np.clip(np.nan_to_num(weight), 0, 1), linewidths=0)
        weights.plot(x, weight, color=colour)
    weights.set_ylim(0, 1.02)

    back.set_title("The answer, sent back through the map")
    back.axhspan(-noise, noise, color="0.9", label="possible")
    for name, colour in (("squared error", HAND), ("mixture", LARGE)):
        back.plot(x, f(answers[name]) - x, color=colour, label=name)
    back.set(ylabel="f(answer) − x", ylim=(-3.5 * noise, 3.5 * noise))

    likelihood.set_title("−log likelihood, held out")
    for name, colour in (("squared error", HAND), ("one Gaussian", SMALL), ("mixture", LARGE)):
        likelihood.plot([r["step"] for r in history], [r[name] for r in history], color=colour, label=name)
    for value, name in zip(limits, ("E(t | x)", "the true density"), strict=True):
        likelihood.axhline(value, color="black", linewidth=0.8, linestyle="--")
        likelihood.annotate(name, (history[-1]["step"], value), ha="right", va="top", fontsize=8)
    likelihood.set(xlabel="step", ylim=(limits[1] - 0.15, limits[0] + 0.6))

    slope.set_title("|gradient| where the target is 1")
    for values, name, colour in zip(slopes[1:], ("cross-entropy", "squared error"), (LARGE, HAND), strict=True):
        slope.plot(slopes[0], np.abs(values), color=colour, label=f"sigmoid, {name}")
    slope.set(xlabel="logit", yscale="log", ylim=(1e-5, 3))
    for axes in (back, likelihood, slope):
        axes.legend(frameon=False, fontsize=8)
    for axes in (fit, mixture, weights, back, likelihood, slope):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
