"""A scene as PNG, through matplotlib, which is imported here only: the library runs without it."""

import io
import warnings
from typing import Any

from fundamentals.graph.shapes import Scene, Text

_FONTS = ["DejaVu Sans Mono", "DejaVu Sans", "monospace"]
_MARKED = "#ffe08a"
_POINTS = 72  # an inch: a point of matplotlib's is a pixel of the scene
_ZOOM, _MOST_PIXELS = 2.0, 30_000  # along a side


def to_png(scene: Scene) -> bytes:
    """The file, at two pixels a unit; fewer where the picture is so large that matplotlib could not draw it."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "draw: a .png file needs matplotlib; install it (pip install matplotlib), or write a .svg file"
        ) from error
    zoom = min(_ZOOM, _MOST_PIXELS / max(scene.width, scene.height))
    with rc_context({"text.usetex": False, "path.sketch": None, "text.hinting": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # of a name in a script that the fonts don't have
        figure = Figure(figsize=(scene.width / _POINTS, scene.height / _POINTS), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, scene.width), ylim=(scene.height, 0))
        axes.set_axis_off()
        _shapes(axes, scene)
        for text in scene.texts:
            _text(axes, text)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=zoom * _POINTS, facecolor="white")
    return file.getvalue()


def _shapes(axes: Any, scene: Scene) -> None:
    from matplotlib.patches import Circle, PathPatch
    from matplotlib.path import Path

    for wire in scene.wires:
        middle = (wire.x1 + wire.x2) / 2
        points = [(wire.x0, wire.y0), (wire.x1, wire.y0), (middle, wire.y0), (middle, wire.y3), (wire.x2, wire.y3)]
        codes = [Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO]
        points.append((wire.x3, wire.y3))
        if wire.arrow:
            points += [(wire.x3 - 7, wire.y3 - 4), (wire.x3, wire.y3), (wire.x3 - 7, wire.y3 + 4)]
            codes += [Path.MOVETO, Path.LINETO, Path.LINETO]
        axes.add_patch(
            PathPatch(Path(points, codes), fill=False, edgecolor=wire.stroke, linewidth=1.3, capstyle="round")
        )
    for dot in scene.dots:
        axes.add_patch(Circle((dot.x, dot.y), dot.radius, color=dot.fill, linewidth=0))
    for box in scene.boxes:
        frames = {"none": [], "single": [0.0], "double": [0.0, 3.5]}[box.frame]
        for number, inset in enumerate(frames):
            width, height = box.width - 2 * inset, box.height - 2 * inset
            radius = max(box.radius - inset, 1.0)
            outline = _rounded(box.x + inset, box.y + inset, width, height, radius)
            fill = "none" if number else box.fill
            axes.add_patch(PathPatch(outline, facecolor=fill, edgecolor=box.stroke, linewidth=1.4 - 0.4 * number))


def _rounded(x: float, y: float, width: float, height: float, radius: float) -> Any:
    """A rectangle with corners that are quarters of a circle, which those of FancyBboxPatch are not."""
    from matplotlib.path import Path

    bend = 0.5523 * radius  # the cubic nearest to a quarter of a circle
    points = [(x + radius, y)]
    for (cx, cy), (ax, ay) in (  # each corner, and the direction in which it is reached
        ((x + width, y), (1, 0)),
        ((x + width, y + height), (0, 1)),
        ((x, y + height), (-1, 0)),
        ((x, y), (0, -1)),
    ):
        into, out = (cx - radius * ax, cy - radius * ay), (cx - radius * ay, cy + radius * ax)
        points += [into, (into[0] + bend * ax, into[1] + bend * ay), (out[0] + bend * ay, out[1] - bend * ax), out]
    codes = [Path.MOVETO] + [Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4] * 4
    return Path([*points, points[0]], [*codes, Path.CLOSEPOLY])


def _text(axes: Any, text: Text) -> None:
    from matplotlib.patches import PathPatch

    if text.alarm:
        left, top, right, bottom = text.rectangle
        outline = _rounded(left - 2, top - 1, right - left + 4, bottom - top + 2, 3.0)
        axes.add_patch(PathPatch(outline, facecolor=_MARKED, linewidth=0))
    axes.text(
        text.x,
        text.y,
        text.words,
        family=_FONTS,
        fontsize=text.size,
        ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
        va="baseline",
        color=text.fill,
        weight="bold" if text.bold else "normal",
        style="italic" if text.italic else "normal",
        parse_math=False,  # a name may hold dollars
    )
