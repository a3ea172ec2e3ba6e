"""A scene as SVG: text, written by hand, for any browser and any slide."""

from xml.sax.saxutils import escape, quoteattr

from fundamentals.graph.shapes import Box, Scene, Text, Wire

_FONTS = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_MARKED = "#ffe08a"


def to_svg(scene: Scene) -> bytes:
    """The file."""
    size = f'width="{_number(scene.width)}" height="{_number(scene.height)}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_number(scene.width)} {_number(scene.height)}">',
        f"<title>{_escaped(scene.title or 'computational graph')}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        '<g fill="none" stroke-width="1.3" stroke-linecap="round">',
        *map(_wire, scene.wires),
        "</g>",
        *(_tag("circle", cx=dot.x, cy=dot.y, r=dot.radius, fill=dot.fill) for dot in scene.dots),
        *(line for box in scene.boxes for line in _box(box)),
        f'<g font-family={quoteattr(_FONTS)} pointer-events="none" xml:space="preserve">',
        *(line for text in scene.texts for line in _text(text)),
        "</g>",
        "</svg>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _wire(wire: Wire) -> str:
    middle = (wire.x1 + wire.x2) / 2
    bend = [(middle, wire.y0), (middle, wire.y3), (wire.x2, wire.y3)]
    curve = " ".join(f"{_number(x)} {_number(y)}" for x, y in bend)
    path = f"M{_number(wire.x0)} {_number(wire.y0)}H{_number(wire.x1)}C{curve}H{_number(wire.x3)}"
    if wire.arrow:
        path += f"m-7 -4l7 4l-7 4M{_number(wire.x3)} {_number(wire.y3)}"
    return _tag("path", d=path, stroke=wire.stroke)


def _box(box: Box) -> list[str]:
    place: dict[str, float] = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    if box.frame == "none":
        shapes = [_tag("rect", **place, fill="none", pointer_events="all")]
    else:
        style: dict[str, str | float] = {"rx": box.radius, "fill": box.fill, "stroke": box.stroke, "stroke_width": 1.4}
        shapes = [_tag("rect", **place, **style)]
    if box.frame == "double":
        inner = {"x": box.x + 3.5, "y": box.y + 3.5, "width": box.width - 7, "height": box.height - 7}
        shapes.append(_tag("rect", **inner, rx=box.radius - 3, fill="none", stroke=box.stroke, stroke_width=1))
    return [f"<g><title>{_escaped(box.tooltip)}</title>", *shapes, "</g>"]


def _text(text: Text) -> list[str]:
    lines = []
    if text.alarm:
        left, top, right, bottom = text.rectangle
        place = {"x": left - 2, "y": top - 1, "width": right - left + 4, "height": bottom - top + 2}
        lines.append(_tag("rect", **place, rx=3, fill=_MARKED))
    style: dict[str, str | float] = {"x": text.x, "y": text.y, "font_size": text.size}
    style |= {"text_anchor": text.anchor, "fill": text.fill}
    weight = ' font-weight="bold"' * text.bold + ' font-style="italic"' * text.italic
    lines.append(_tag("text", **style).removesuffix("/>") + f"{weight}>{_escaped(text.words)}</text>")
    return lines


def _tag(name: str, **attributes: str | float) -> str:
    written = {key: value if isinstance(value, str) else _number(value) for key, value in attributes.items()}
    inside = " ".join(f"{key.replace('_', '-')}={quoteattr(value)}" for key, value in written.items())
    return f"<{name} {inside}/>"


def _number(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _escaped(words: str) -> str:
    """Without what XML has no way to write: control characters, halves of surrogate pairs."""
    return escape("".join(c if c == "\n" or (c >= " " and not "\ud800" <= c <= "\udfff") else "�" for c in words))
