"""The plain shapes of a picture, which a renderer only has to copy.

Lengths are pixels at 100 % zoom, y grows downwards. All text is in a monospaced font, whose widths are known without
measuring: so nothing overlaps, whatever draws it.
"""

import unicodedata
from typing import NamedTuple

GREEN, RED, INK, GREY, PALE = "#117a34", "#c8171e", "#1f2328", "#6e7781", "#c3c8ce"
CHARACTER = 0.602  # em, the width of one in DejaVu Sans Mono and Menlo; Consolas is narrower


class Box(NamedTuple):
    """A node; without a frame that of an argument, around its name."""

    x: float  # left
    y: float  # top
    width: float
    height: float
    frame: str  # "none", "single", "double"
    stroke: str
    fill: str
    radius: float
    node: int
    tooltip: str


class Wire(NamedTuple):
    """From (x0, y0) level to x1, bent until x2, and level to (x3, y3)."""

    x0: float
    x1: float
    x2: float
    x3: float
    y0: float
    y3: float
    stroke: str
    arrow: bool


class Dot(NamedTuple):
    """Where a wire branches; or one of several results."""

    x: float
    y: float
    radius: float
    fill: str


class Text(NamedTuple):
    """One line, or a part of one."""

    x: float
    y: float  # of the baseline
    words: str
    size: float
    anchor: str  # "start", "middle", "end"
    fill: str
    bold: bool = False
    italic: bool = False
    alarm: bool = False  # marked: not finite
    node: int | None = None  # in whose box it stands

    @property
    def rectangle(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        width = extent(self.words, self.size)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - 0.85 * self.size, left + width, self.y + 0.25 * self.size


class Scene(NamedTuple):
    """What is drawn, in this order: wires, dots, boxes, texts."""

    width: float
    height: float
    title: str
    wires: list[Wire]
    dots: list[Dot]
    boxes: list[Box]
    texts: list[Text]


def extent(words: str, size: float) -> float:
    """The width of a line of text."""
    cells = sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in words
    )
    return cells * size * CHARACTER
