"""The figure of `gradient_checkpointing`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments import measure
from experiments.figures import COMPONENTS, HAND, LARGE, SMALL

LAYERS = "every layer"
GROUPS: dict[str, tuple[str, str, str]] = {  # colour, mark, label
    "planned": (LARGE, "o", "plans"),
    "stored": ("black", "s", "store all"),
    "segments": (HAND, "D", "k equal segments"),
    "binomial": (SMALL, "^", "binomial, c checkpoints"),
    "jax.checkpoint": (COMPONENTS[2], "X", "jax.checkpoint, √l segments"),
}


def draw(chains: Sequence[Any]) -> Figure:
    """For each chain time against memory; last, predicted against measured memory."""
    rows = 2 if len(chains) > 2 else 1
    columns = -(-(len(chains) + 1) // rows)
    figure = Figure(figsize=(5.6 * columns, 4.4 * rows + 0.4), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns)))
    own, last, spare = panels[: len(chains)], panels[len(chains)], panels[len(chains) + 1 :]
    for axes, found in zip(own, chains, strict=True):
        _frontier(axes, found)
    _predictions(last, chains)
    _legend(last, spare[0] if spare else None, len(chains))
    for axes in (*own, last):
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axes in own for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, frameon=False, loc="outside lower center", ncols=len(handles))
    return figure


def _frontier(axes: Axes, found: Any) -> None:
    """Time against measured memory."""
    axes.set_title(f"{found.name}, {found.length} stages")
    planned = sorted((f.temp_bytes, f.time) for f in found.forms if f.group == "planned")
    axes.plot(*np.array(planned, float).T, color=LARGE, linewidth=1.5, zorder=1)
    for group, (colour, mark, label) in GROUPS.items():
        own = [form for form in (*found.forms, *found.uniform) if form.group == group]
        points = np.array([(form.temp_bytes, form.time) for form in own], float).reshape(-1, 2)
        style: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 3}
        axes.plot(*points.T, mark, markersize=5.5 if group == "planned" else 7.5, label=label, **style)
        if group not in ("planned", "stored"):
            _name(axes, own, colour, [form for form in (*found.forms, *found.uniform) if form.group != group])
    axes.set(xscale="log", yscale="log", xlabel="temporary memory", ylabel="FLOPs, in those of storing all")
    _axes_of_bytes(axes, [form.temp_bytes for form in found.forms])
    top = max(form.time for form in found.forms)
    ticks = [t for t in (1, 1.1, 1.2, 1.33, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10, 15, 20) if t < 1.05 * top]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _name(axes: Axes, forms: Sequence[Any], colour: str, others: Sequence[Any]) -> None:
    """A name beside each mark, one for those that are in one place: where neither the frontier nor others are."""

    def is_followed(memory: float, time: float) -> bool:
        return any(1 < o.temp_bytes / memory < 1.3 and abs(o.time / time - 1) < 0.03 for o in others)

    places: dict[tuple[float, float], list[str]] = {}
    for form in forms:
        near = (p for p in places if abs(p[0] / form.temp_bytes - 1) < 0.01 and abs(p[1] / form.time - 1) < 0.01)
        names = places.setdefault(next(near, (form.temp_bytes, form.time)), [])
        if _short(form) not in names:
            names.append(_short(form))
    for place, names in places.items():
        numbers = sorted(int(name) for name in names if name.isdecimal())
        words = [name for name in names if not name.isdecimal()]
        if numbers:
            row = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
            words.append(f"k = {numbers[0]} to {numbers[-1]}" if row else f"k = {', '.join(map(str, numbers))}")
        style: dict[str, Any] = {"xytext": (6, 3), "ha": "left"}
        if names[0].startswith("c ="):
            style = {"xytext": (-7, -3), "ha": "right"}
        elif names[0] == LAYERS:
            words, style = words[:1], {"xytext": (0, 7), "ha": "center"}
        elif place[1] > 1.1 and is_followed(*place):
            style = {"xytext": (-4, -14), "ha": "center"}
        axes.annotate(", ".join(words), place, textcoords="offset points", fontsize=9, color=colour, zorder=4, **style)


def _short(form: Any) -> str:
    """Its group is told by colour and mark."""
    if form.group == "segments":
        return LAYERS if form.name == LAYERS else str(len(form.schedule) - _taped(form) + 1)
    name = str(form.name.split(", ")[-1])
    return {"dots": "keeps dots", "nothing": "jax.checkpoint"}.get(name, name)


def _taped(form: Any) -> int:
    """The stages of the last segment, which are not in a tuple."""
    return sum(not isinstance(node, tuple) for node in form.schedule)


def _predictions(axes: Axes, chains: Sequence[Any]) -> None:
    """Of compiling a plan for another loss, and of adding up what is alive."""
    axes.set_title("Predicted memory, in that measured")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axhspan(0.9, 1.1, color="0.94", zorder=0)
    for found, mark in zip(chains, ("o", "s", "^", "D"), strict=False):
        forms = [form for form in found.forms if form.schedule is not None]
        for values, colour, name in (
            ([form.modelled for form in forms], SMALL, "added up"),
            ([form.predicted for form in forms], LARGE, "compiled"),
        ):
            known = [(f.temp_bytes, v / f.temp_bytes) for f, v in zip(forms, values, strict=True) if v is not None]
            points = np.array(known, float).reshape(-1, 2)
            style: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.6}
            axes.plot(*points.T, mark, markersize=6.5, label=f"{found.name}, {name}", **style)
    axes.set(xscale="log", xlabel="temporary memory")
    _axes_of_bytes(axes, [form.temp_bytes for found in chains for form in found.forms])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _legend(axes: Axes, spare: Axes | None, columns: int) -> None:
    """In the panel that is left over, or above the points."""
    if spare:
        spare.axis("off")
        spare.legend(*axes.get_legend_handles_labels(), frameon=False, loc="upper left")
        return
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest, highest + 0.2 * (highest - lowest))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=columns, columnspacing=1)


def _axes_of_bytes(axes: Axes, sizes: Sequence[int]) -> None:
    left, right = min(sizes) / 1.1, max(sizes) * 1.1
    ticks = [b * 2.0**n for n in range(4, 50) for b in (1, 1.5)]
    ticks = [t for t in ticks if left <= t <= right]
    room = right / left  # for names
    axes.set_xlim(left / room**0.12, right * room**0.2)
    axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) < 8 else ticks[::2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: measure.bytes_text(x).replace(".0", "") + "iB"))
