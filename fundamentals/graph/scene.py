"""The picture of a graph as plain shapes, which a renderer only has to copy: boxes, wires, dots, texts.

As on the board: operations from left to right, the value above the wire that leaves a node, below it the gradient that
comes back. A value that is used several times is written once, with the sum of what comes back; what each use sends
back stands where its wire ends. Of a gradient's array only the norm is told: its shape is the value's.

Lengths are pixels at 100 % zoom, y grows downwards. All text is in a monospaced font, whose widths are known without
measuring: so nothing overlaps, whatever draws it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fundamentals.graph.captions import (
    BLOCK,
    COMMUTATIVE,
    DOT,
    FIXED,
    LEAF,
    OPERATION,
    OUT,
    Link,
    Mark,
    gradient,
    links,
    marks,
    was_swept,
)
from fundamentals.graph.layout import Layout, Size, arrange
from fundamentals.graph.nodes import Node
from fundamentals.graph.rows import Drawn, bounds, in_rows
from fundamentals.graph.shapes import GREEN, GREY, INK, PALE, RED, Box, Dot, Scene, Text, Wire, extent

PALE_GREEN = "#7fa68b"  # a value to which no gradient flows back

_MARGIN = 24.0
_LABEL, _NAME, _SYMBOL, _NOTE, _TITLE = 12.0, 13.0, 15.0, 11.0, 17.0  # font sizes
_ABOVE, _BELOW = 6.0, 14.0  # from a wire to the baselines of its labels
_ROOM = 18.0  # what a label takes above or below its wire
_PAD = 7.0  # from a box to a label beside it
_PORT = 20.0  # between wires that enter a box
_HALF = 18.0  # half the least height of a box
_ARROW = 22.0  # the end of a wire that leaves the graph


def scene(
    nodes: Sequence[Node],
    outputs: Sequence[int],
    title: str = "",
    labels: Mapping[int, str] | None = None,
    row_width: float = math.inf,
) -> Scene:
    """The shapes of a graph's picture.

    Args:
      nodes: `node.index` is a node's place among them.
      outputs: indices of the nodes that are the results.
      title: above the picture.
      labels: a word below a node's box, by its index.
      row_width: about; wider pictures are drawn in several.
    """
    labels = labels or {}
    drawn = marks(nodes, outputs, labels)
    uses = links(nodes, outputs, drawn)
    leaving: dict[int, list[Link]] = {index: [] for index in drawn}
    entering: dict[int, list[Link]] = {index: [] for index in drawn}
    for link in uses:
        leaving[link.source].append(link)
        if link.target != OUT:
            entering[link.target].append(link)
    # A share is told where it is not all that comes back.
    told = [link._replace(share=link.share if _several(leaving[link.source]) else "") for link in uses]

    place = {index: i for i, index in enumerate(drawn)}
    boxes, sizes, beside = [], [], {}
    for index, mark in drawn.items():
        shares = [link.share for link in told if link.target == index]
        width, height, ports = _box(mark, shares)
        beside[index] = _beside(nodes[index], mark)
        sizes.append(_size(mark, width, height, ports, shares, beside[index], labels.get(index, ""), nodes[index]))
        boxes.append((width, height))
    wires = []
    for link in told:
        if link.target == OUT:
            sizes.append(Size(_ARROW, 0.0, _HALF, _HALF, (0.0,)))
            wires.append((place[link.source], len(sizes) - 1, 0))
        else:
            port = [other.operand for other in entering[link.target]].index(link.operand)
            wires.append((place[link.source], place[link.target], port))
    layout = arrange(sizes, wires)

    header = _MARGIN + (1.9 * _TITLE if title else 0.0)
    at = [(x + _MARGIN, y + header) for x, y in zip(layout.x, layout.y, strict=True)]
    texts, shapes = [], []
    for index, mark in drawn.items():
        (x, y), (width, height) = at[place[index]], boxes[place[index]]
        shapes += _shape(mark, x, y, width, height, index)
        texts += _inside(mark, x, y, index)
        texts += _outside(beside[index], mark, x + width / 2 + _PAD, y)
        if index in labels:
            texts.append(Text(x, y + height / 2 + 12, labels[index], _NOTE, "middle", GREY))
    for wire, link in enumerate(told):
        if link.share:
            x = at[place[link.target]][0] - boxes[place[link.target]][0] / 2 - _PAD
            y = layout.ports[wire] + header + _BELOW
            texts.append(Text(x, y, link.share, _LABEL, "end", RED, bold=link.alarm, alarm=link.alarm))
    # Wires end at names, in dots, and somewhat below the frame of a box, which is drawn over them: it may be round.
    inset = {LEAF: 0.0, FIXED: 0.0, OPERATION: 6.0, BLOCK: 6.0}
    reach = [
        width / 2 - inset[mark.kind] if mark.kind in inset else 0.0
        for mark, (width, _) in zip(drawn.values(), boxes, strict=True)
    ]
    drawn_wires, branches = _wires(layout, told, reach, header)
    for index in drawn:
        if not leaving[index]:  # an argument that is not used; its value is written on a wire all the same
            (x, y), size = at[place[index]], sizes[place[index]]
            start, end = x + reach[place[index]], x + size.right
            drawn_wires.append(Wire(start, start, end, end, y, y, PALE, False))
    dots = branches + [
        Dot(*at[place[i]], 4.0, PALE if mark.faded else INK) for i, mark in drawn.items() if mark.kind == DOT
    ]
    whole = Drawn(drawn_wires, dots, shapes, texts)
    drawn_wires, dots, shapes, texts = rows = in_rows(whole, row_width)
    _, _, right, bottom = bounds(rows)
    foot = _legend(drawn_wires, texts, bottom + 12, nodes, told, drawn, rows is not whole)
    if title:
        texts.append(Text(_MARGIN, _MARGIN + 0.6 * _TITLE, title, _TITLE, "start", INK, bold=True))
    right = max([right, *(text.rectangle[2] for text in texts)])
    return Scene(round(right + _MARGIN), round(foot + _MARGIN), title, drawn_wires, dots, shapes, texts)


def _several(those: Sequence[Link]) -> bool:
    """Whether gradients come back along more than one wire."""
    return sum(bool(link.share) or link.target == OUT for link in those) > 1


class _Beside(NamedTuple):
    """What is written on the wire that leaves a node."""

    name: str  # "q = "
    value: str
    gradient: str
    alarm: bool  # on the gradient


def _beside(node: Node, mark: Mark) -> _Beside:
    written, alarm = gradient(node)
    name = f"{mark.name} = " if mark.name and mark.value else ""
    return _Beside(name, mark.value, written, alarm)


def _box(mark: Mark, shares: Sequence[str]) -> tuple[float, float, tuple[float, ...]]:
    """Width and height of a node's box, and where its operands enter."""
    size = _font(mark)
    width = extent(mark.symbol, size)
    spacing = _PORT if any(shares) else 0.8 * _PORT
    ports = tuple(spacing * (i - (len(shares) - 1) / 2) for i in range(len(shares)))
    if mark.kind in (LEAF, FIXED):
        return width + 4, 2 * _ROOM - 8, ports
    if mark.kind == DOT:
        return max(width, 10.0), 2 * _HALF, ports
    half = max(_HALF, ports[-1] + (_ROOM if any(shares) else 0.5 * _PORT) if ports else 0.0)
    if mark.kind == BLOCK:
        return max(width, extent(mark.note, _NOTE)) + 28, 2 * max(half, 24.0), ports
    return max(2 * _HALF, width + 18), 2 * half, ports


def _font(mark: Mark) -> float:
    """Of the symbol: signs are larger than words."""
    if mark.kind == OPERATION:
        return _SYMBOL + 3 if len(mark.symbol) == 1 else _SYMBOL - 1
    return {LEAF: _NAME, FIXED: _NOTE, DOT: _NOTE, BLOCK: _NAME}[mark.kind]


def _size(
    mark: Mark,
    width: float,
    height: float,
    ports: tuple[float, ...],
    shares: Sequence[str],
    beside: _Beside,
    label: str,
    node: Node,
) -> Size:
    """With labels: what stands to the left and right of a box, and below it."""
    half = max(width, extent(label, _NOTE)) / 2
    out = max(extent(beside.name + beside.value, _LABEL), extent(beside.gradient, _LABEL))
    into = max((extent(share, _LABEL) for share in shares), default=0.0)
    return Size(
        left=max(half, width / 2 + (into + 2 * _PAD if into else 6.0 if ports else 0.0)),
        right=max(half, width / 2 + (out + 2 * _PAD if out else 6.0)),
        up=max(height / 2, _ROOM),
        down=max(height / 2 + (_ROOM - 2 if label else 0.0), _ROOM),
        ports=ports,
        free=mark.kind == OPERATION and node.operation in COMMUTATIVE,
    )


def _shape(mark: Mark, x: float, y: float, width: float, height: float, index: int) -> list[Box]:
    frame = {OPERATION: "single", BLOCK: "double"}.get(mark.kind, "none")
    fill = "none" if frame == "none" else "#fafafa" if mark.faded else "#eef3fb" if frame == "single" else "#fdf3e1"
    radius = width / 2 if frame == "single" and width == height else 9.0
    stroke = PALE if mark.faded else INK
    return [Box(x - width / 2, y - height / 2, width, height, frame, stroke, fill, radius, index, mark.tooltip)]


def _inside(mark: Mark, x: float, y: float, index: int) -> list[Text]:
    """The symbol, and for blocks a note below it."""
    size = _font(mark)
    ink = GREY if mark.faded or mark.kind in (FIXED, DOT) else INK
    if mark.kind == DOT:
        return [Text(x, y + 15, mark.symbol, size, "middle", ink, node=index)]
    bold = mark.kind in (LEAF, BLOCK) or (mark.kind == OPERATION and len(mark.symbol) == 1)
    base = y + 0.35 * size - (8 if mark.note else 0)
    symbol = Text(x, base, mark.symbol, size, "middle", ink, bold=bold, node=index)
    return [symbol, Text(x, y + 14, mark.note, _NOTE, "middle", GREY, node=index)] if mark.note else [symbol]


def _outside(beside: _Beside, mark: Mark, x: float, y: float) -> list[Text]:
    """Name and value above the wire, the gradient below it."""
    texts = []
    if beside.name:
        ink = GREY if mark.faded else INK
        texts.append(Text(x, y - _ABOVE, beside.name, _LABEL, "start", ink, italic=True))
    if beside.value:
        start = x + extent(beside.name, _LABEL)
        ink = PALE_GREEN if mark.faded else GREEN
        texts.append(Text(start, y - _ABOVE, beside.value, _LABEL, "start", ink, bold=mark.alarm, alarm=mark.alarm))
    if beside.gradient:
        alarm = beside.alarm
        texts.append(Text(x, y + _BELOW, beside.gradient, _LABEL, "start", RED, bold=alarm, alarm=alarm))
    return texts


def _wires(layout: Layout, uses: Sequence[Link], reach: Sequence[float], header: float) -> tuple[list[Wire], list[Dot]]:
    """The wires, from box to box, and dots where they branch."""
    wires = []
    branches: dict[tuple[float, float], list[str]] = {}
    strokes = [PALE if all(uses[wire].faded for wire in segment.uses) else INK for segment in layout.segments]
    for segment, stroke in sorted(zip(layout.segments, strokes, strict=True), key=lambda pair: pair[1] == PALE):
        begin, end, arrow = segment.begin + _MARGIN, segment.end + _MARGIN, False
        if segment.source is not None:
            begin += reach[segment.source]
        if segment.target is not None:
            arrow = segment.target >= len(reach)
            end -= 0.0 if arrow else reach[segment.target]
        bend = segment.bend[0] + _MARGIN, segment.bend[1] + _MARGIN
        y0, y3 = segment.y[0] + header, segment.y[1] + header
        common = branches.setdefault((bend[0], y0), [])
        wires.append(
            Wire(bend[0] if common else begin, *bend, end, y0, y3, stroke, arrow)
        )  # up to the branch drawn once
        common.append(stroke)
    wires.reverse()  # pale ones below the others
    dots = [Dot(*at, 2.8, INK if INK in those else PALE) for at, those in branches.items() if len(those) > 1]
    return wires, dots


def _legend(
    wires: list[Wire],
    texts: list[Text],
    y: float,
    nodes: Sequence[Node],
    uses: Sequence[Link],
    drawn: Mapping[int, Mark],
    in_several: bool,
) -> float:
    """Adds what the colors mean, from a height downwards; the height where it ends."""
    swept, x = was_swept(nodes), _MARGIN
    middle = y + _ROOM + 4
    width = extent("gradient" if swept else "value", _NOTE)
    wires.append(Wire(x, x + width / 3, x + width / 2, x + width + 8, middle, middle, GREY, False))
    texts.append(Text(x + 4, middle - _ABOVE + 1, "value", _NOTE, "start", GREEN))
    if not swept:
        return middle + _ROOM
    texts.append(Text(x + 4, middle + _BELOW - 1, "gradient", _NOTE, "start", RED))
    x += width + 32
    lines = []
    if any(link.share for link in uses):
        lines.append("where a value is used several times: the sum at its node, the shares at those that use it")
    if any(mark.faded for mark in drawn.values()):
        lines.append("pale: no gradient flows")
    if any("‖" in text.words for text in texts):
        lines.append("[2, 3] ‖·‖ 0.5: an array's shape and norm")
    if in_several:
        lines.append("a1, b1, …: wires that go on in the next row")
    if any(text.alarm for text in texts):
        lines.append("marked: not all entries are finite")
    for number, line in enumerate(lines):
        texts.append(Text(x, y + 14 + 16 * number, line, _NOTE, "start", GREY))
    return max(middle + _ROOM, y + 16 * len(lines))
