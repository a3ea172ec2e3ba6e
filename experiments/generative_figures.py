"""The figures of `generative`: digits that the models make, and curves beside what is predicted."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments import generative_gan
from experiments.figures import COMPONENTS, HAND, LARGE
from experiments.generative_verdicts import DOUBT, mean_and_error

SIDE = 8  # pixels
GAP = 1  # between digits, in pixels
PICTURES = (
    ("vae", "data", "test digits"),
    ("vae", "reconstructions", "VAE: reconstructions"),
    ("vae", "interpolations", "VAE: between the first two"),
    ("vae", "samples", "VAE: samples (probabilities)"),
    ("nade", "samples", "NADE: samples"),
    ("fvbn", "samples", "FVBN: samples"),
    ("digits gan", "samples", "GAN: samples (grey levels)"),
    ("digits gan", "nearest", "nearest training digit to each"),
)


def digits(rows: dict[str, Any]) -> Figure:
    """A row for each kind of picture whose model is finished; ink is black."""
    there = [(rows[name][what], label) for name, what, label in PICTURES if name in rows]
    columns = max((len(pictures) for pictures, _ in there), default=1)
    figure = Figure(figsize=(3 + 0.68 * columns, 0.1 + 0.68 * max(len(there), 1)), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    pitch = SIDE + GAP
    for row, (pictures, label) in enumerate(there):
        for column, picture in enumerate(pictures):
            left, top = column * pitch, row * pitch
            image = np.reshape(picture, (SIDE, SIDE))
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, extent=(left, left + SIDE, top + SIDE, top))
            frame = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]) * SIDE + (left, top)
            axes.plot(*frame.T, color="0.75", linewidth=0.5)
        axes.text(-1.5, row * pitch + SIDE / 2, label, ha="right", va="center", fontsize=11)
    axes.set(xlim=(-29, columns * pitch), ylim=(max(len(there), 1) * pitch, -GAP), aspect="equal")
    return figure


def curves(rows: dict[str, Any]) -> Figure:
    """Training, bounds against S, a discriminator against log p/q; below, the game on the ring."""
    figure = Figure(figsize=(10.5, 13), layout="constrained")
    for axes, draw in zip(
        figure.subplots(3, 2).flat, (_training, _bounds, _small, _logits, _game, _samples), strict=True
    ):
        draw(axes, rows)
    for axes in figure.axes[:-1]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _training(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("Training: nats a digit; training thin, validation thick")
    lowest, highest = [], []
    for name, label, style, colour in (
        ("fvbn", "FVBN, −log p", "--", LARGE),
        ("nade", "NADE, −log p", "-", HAND),
        ("vae", "VAE, −bound", ":", "black"),
    ):
        if row := rows.get(name):
            epochs = np.arange(1, len(row["train"]) + 1)
            axes.plot(epochs, row["train"], style, color=colour, linewidth=1)
            axes.plot(epochs, row["validation"], style, color=colour, linewidth=2.4, label=label)
            axes.plot(row["best"], row["validation"][row["best"] - 1], "o", color=colour, markersize=7, clip_on=False)
            lowest.append(min(row["train"]))
            highest.append(row["validation"][min(4, len(epochs) - 1)])
    if lowest:
        axes.set_ylim(min(lowest) - 0.3, max(highest))
        axes.plot([], [], "o", color="0.4", label="best epoch, kept")
        axes.legend(frameon=False)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bounds(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("Test digits: nats a digit; exact log p dashed")
    if row := rows.get("vae"):
        sizes = [int(size) for size in row["importance_weighted"]]
        means = [mean_and_error(values)[0] for values in row["importance_weighted"].values()]
        bound = mean_and_error(row["bound"])[0]
        axes.plot(sizes, means, "o-", color="black")
        axes.plot(1, bound, "x", color=HAND, markersize=11, markeredgewidth=2, zorder=5)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "zorder": 6}
        beside["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.annotate("VAE: bound, KL in closed form", (1, bound), xytext=(14, 0), **beside)
        middle = len(sizes) // 2
        axes.annotate("VAE: bounds\nweighted by importance", (sizes[middle], means[middle]), xytext=(8, -24), **beside)
        axes.set(xscale="log", xlim=(0.8, sizes[-1] * 1.3))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    axes.set_xlabel("S, draws for a bound")
    for name, label, what in (("baselines", "mixture", "mixture"), ("fvbn", "FVBN", "test"), ("nade", "NADE", "test")):
        if row := rows.get(name):
            value = mean_and_error(row[what])[0]
            axes.axhline(value, color="0.4", linewidth=1, linestyle="--")
            axes.annotate(label, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.margins(y=0.12)


def _small(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("Six pixels: what the bound misses, image by image")
    axes.set(xlabel="KL(q(z|x) ‖ p(z|x)), by quadrature, nats", ylabel="log p(x) − bound, nats")
    if not (row := rows.get("small vae")):
        return
    gap = np.array(row["log_p"]) - row["bound"]
    divergence, data = np.array(row["divergence"]), np.array(row["data"])
    seen = data > 0
    axes.scatter(divergence[seen], gap[seen], s=20 + 1500 * data[seen], facecolors="none", edgecolors=LARGE,
                 label="in training images (area: how often)")  # fmt: skip
    axes.plot(divergence[~seen], gap[~seen], "x", color=HAND, label="never there")
    ends = np.array([min(divergence.min(), gap.min()), max(divergence.max(), gap.max())])
    axes.plot(ends, ends, "--", color="black", linewidth=1, label="predicted: equal")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):  # less than a decade may be in sight
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, loc="upper left")


def _logits(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("Generator with a known density: the discriminator's logit")
    axes.set(xlabel="log p/q", ylabel="logit")
    if not (row := rows.get("discriminator")):
        return
    x, limit = np.array(row["log_ratio"]), 3 * DOUBT
    order = np.abs(x) <= limit
    for own, marker, colour in zip(row["logits"], "o^s+", COMPONENTS, strict=False):
        axes.plot(x[order], np.array(own)[order], marker, color=colour, markersize=4, alpha=0.6, markerfacecolor="none")
    ends = np.array([-limit, x[order].max()])
    axes.plot(ends, ends, "--", color="black", linewidth=1.2, zorder=5)
    axes.annotate("predicted: log p/q", (-9, -9), xytext=(6, -4), textcoords="offset points", va="top")
    axes.set_ylim(-limit - 2, None)
    last = np.mean([own[-1] for own in row["value"]])
    best, useless = f"best: 2 JSD − log 4 = {row['best']:.3f}", f"of no use: −log 4 = {-math.log(4):.3f}"
    text = f"V = {last:.3f}, mean of {len(row['value'])}\n{best}\n{useless}"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, ha="left", va="top")


def _game(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("Both learn: the discriminator's loss, samples' distance")
    axes.set_xlabel("step")
    if not (row := rows.get("ring")):
        return
    steps = np.array(row["steps"])
    for game, (losses, distance) in enumerate(zip(row["losses"], row["distance"], strict=True)):
        axes.plot(steps[1:], losses, "o-", color=LARGE, markersize=4, label=None if game else "loss, mean of each part")
        axes.plot(steps, distance, "x--", color=HAND, label=None if game else "energy distance to the mixture")
    for value, text, side in ((math.log(4), "log 4: neither can win", "bottom"), (0, "0: one distribution", "top")):
        axes.axhline(value, color="black", linewidth=0.8, linestyle=":")
        shift = (0, 3) if side == "bottom" else (0, -3)
        axes.annotate(text, (steps[-1], value), xytext=shift, textcoords="offset points", ha="right", va=side)
    axes.margins(y=0.09)
    axes.legend(frameon=False, loc="center right")


def _samples(axes: Axes, rows: dict[str, Any]) -> None:
    axes.set_title("The first game's samples over the mixture's density")
    edge = generative_gan.RADIUS + 4 * generative_gan.SPREAD
    axis = np.linspace(-edge, edge, 200)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    density = np.exp(generative_gan.ring_log_density(grid))
    axes.contourf(axis, axis, density, levels=8, cmap="Greys", alpha=0.75)
    if row := rows.get("ring"):
        axes.plot(*np.array(row["first"]).T, "+", color="black", markersize=5, label="before training")
        found = np.array(row["samples"][0])
        axes.plot(
            *found.T, "o", color=HAND, markersize=3.2, markeredgecolor="white", markeredgewidth=0.4, label="after"
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False, markerscale=1.5)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
