"""A wide picture in rows, as a long line of text: read from left to right, then from top to bottom.

A row ends where nothing stands and all wires are level. A wire that goes on has the same letter at both ends.
"""

from string import ascii_lowercase
from typing import NamedTuple

from fundamentals.graph.shapes import GREY, Box, Dot, Text, Wire, extent

_NOTE = 11.0  # size of the letters
_TAIL = 14.0  # of a wire beyond the end of a row
_BETWEEN = 30.0  # rows
_SLACK = 1.2  # a row may be so much longer than it should be, rather than end in another one that is nearly empty


class Drawn(NamedTuple):
    """The shapes of a graph, without title and legend."""

    wires: list[Wire]
    dots: list[Dot]
    boxes: list[Box]
    texts: list[Text]


def in_rows(drawn: Drawn, width: float) -> Drawn:
    """The same shapes, in rows of about this width; unchanged if they are not wider."""
    if not any(drawn):
        return drawn
    left, top, right, _ = bounds(drawn)
    ends = _ends(drawn, left, right, width)
    if not ends:
        return drawn
    rows = []
    starts = [left, *ends]
    for number, (start, end) in enumerate(zip(starts, [*ends, right + 1], strict=True)):
        row = _between(drawn, start, end)
        crossing = sorted({wire.y0 for wire in row.wires if wire.x0 == start and number})
        leaving = sorted({wire.y3 for wire in row.wires if wire.x3 == end})
        texts = [*row.texts]
        for x, heights, anchor in ((start - _TAIL - 3, crossing, "end"), (end + _TAIL + 3, leaving, "start")):
            names = _letters(number if anchor == "start" else number - 1, len(heights))
            texts += [Text(x, y + 4, name, _NOTE, anchor, GREY) for y, name in zip(heights, names, strict=True)]
        tails = [Wire(start - _TAIL, start, start, start, y, y, GREY, False) for y in crossing]
        tails += [Wire(end, end + _TAIL, end + _TAIL, end + _TAIL, y, y, GREY, False) for y in leaving]
        row = row._replace(texts=texts, wires=[*row.wires, *tails])
        _, highest, _, lowest = bounds(row)
        indent = extent("aa", _NOTE) + _TAIL + 6 if number else 0.0
        rows.append(_moved(row, left + indent - start, top - highest))
        top += lowest - highest + _BETWEEN
    return Drawn(
        [wire for row in rows for wire in row.wires],
        [dot for row in rows for dot in row.dots],
        [box for row in rows for box in row.boxes],
        [text for row in rows for text in row.texts],
    )


def bounds(drawn: Drawn) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of all shapes."""
    spans = [
        *((box.x, box.y, box.x + box.width, box.y + box.height) for box in drawn.boxes),
        *((dot.x - dot.radius, dot.y - dot.radius, dot.x + dot.radius, dot.y + dot.radius) for dot in drawn.dots),
        *(text.rectangle for text in drawn.texts),
        *((wire.x0, min(wire.y0, wire.y3) - 4, wire.x3, max(wire.y0, wire.y3) + 4) for wire in drawn.wires),
    ]
    lefts, tops, rights, bottoms = zip(*spans or [(0.0, 0.0, 0.0, 0.0)], strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _ends(drawn: Drawn, left: float, right: float, width: float) -> list[float]:
    """Where rows end."""
    solid = [(box.x - 8, box.x + box.width + 8) for box in drawn.boxes]
    solid += [(text.rectangle[0] - 4, text.rectangle[2] + 4) for text in drawn.texts]
    solid += [(dot.x - 6, dot.x + 6) for dot in drawn.dots]
    solid += [(wire.x1, wire.x2) for wire in drawn.wires if wire.y0 != wire.y3]
    solid += [(wire.x3 - 8, wire.x3) for wire in drawn.wires if wire.arrow]
    free = [x for x in sorted({end for _, end in solid}) if not any(a < x < b for a, b in solid)]
    ends: list[float] = []
    start = left
    while right - start > _SLACK * width:
        later = [x for x in free if x > start + width / 4 and right - x > width / 8]
        if not later:
            break
        start = max([x for x in later if x <= start + width], default=later[0])
        ends.append(start)
    return ends


def _between(drawn: Drawn, start: float, end: float) -> Drawn:
    """What lies between two places where a row ends, wires cut there."""

    def inside(x: float) -> bool:
        return start <= x < end

    wires = []
    for wire in drawn.wires:
        if wire.x3 <= start or wire.x0 >= end:
            continue
        if wire.x0 < start:
            bent = start > wire.x1  # before
            wire = wire._replace(
                x0=start, x1=max(wire.x1, start), x2=max(wire.x2, start), y0=wire.y3 if bent else wire.y0
            )
        if wire.x3 > end:
            bent = end >= wire.x2
            bend = (wire.x1, wire.x2, wire.y3) if bent else (end, end, wire.y0)
            wire = wire._replace(x1=bend[0], x2=bend[1], x3=end, y3=bend[2], arrow=False)
        wires.append(wire)
    return Drawn(
        wires,
        [dot for dot in drawn.dots if inside(dot.x)],
        [box for box in drawn.boxes if inside(box.x)],
        [text for text in drawn.texts if inside(text.rectangle[0])],
    )


def _moved(drawn: Drawn, dx: float, dy: float) -> Drawn:
    """All shapes, elsewhere."""
    return Drawn(
        [
            Wire(w.x0 + dx, w.x1 + dx, w.x2 + dx, w.x3 + dx, w.y0 + dy, w.y3 + dy, w.stroke, w.arrow)
            for w in drawn.wires
        ],
        [dot._replace(x=dot.x + dx, y=dot.y + dy) for dot in drawn.dots],
        [box._replace(x=box.x + dx, y=box.y + dy) for box in drawn.boxes],
        [text._replace(x=text.x + dx, y=text.y + dy) for text in drawn.texts],
    )


def _letters(row: int, count: int) -> list[str]:
    """For the wires that leave a row: a, b, …; those of the next row with a digit."""
    return [f"{ascii_lowercase[i % 26]}{row + 1}" for i in range(count)]
