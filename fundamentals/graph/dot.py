"""A graph as source for Graphviz, for those who have it and want its layout: `dot -Tsvg graph.dot`."""

import html
from collections.abc import Sequence

from fundamentals.graph.captions import BLOCK, DOT, FIXED, LEAF, OUT, Link, Mark, links, marks
from fundamentals.graph.nodes import Node
from fundamentals.graph.shapes import GREEN, GREY, INK, PALE, RED

_SHAPES = {LEAF: "plaintext", FIXED: "plaintext", BLOCK: "box, peripheries=2", DOT: "plaintext"}


def to_dot(nodes: Sequence[Node], outputs: Sequence[int], title: str = "") -> str:
    """The source: values in green and gradients in red on the edges.

    Args:
      nodes: operands before those that use them; `node.index` is a node's place.
      outputs: indices of the nodes that are the results.
      title: above the picture.
    """
    drawn = marks(nodes, outputs)
    lines = ["digraph {", "  rankdir=LR;", '  node [fontname="monospace"];', '  edge [fontname="monospace"];']
    if title:
        lines += ["  labelloc=t;", f"  label={_quoted(title)};"]
    for index, mark in drawn.items():
        words = f"{mark.symbol}\n{mark.note}" if mark.note else mark.symbol
        color = f"color={_quoted(PALE)}, fontcolor={_quoted(GREY)}" if mark.faded else f"color={_quoted(INK)}"
        shape = _SHAPES.get(mark.kind, "box, style=rounded")
        lines.append(f"  n{index} [label={_quoted(words)}, shape={shape}, {color}, tooltip={_quoted(mark.tooltip)}];")
    for link in links(nodes, outputs, drawn):
        target = f"n{link.target}"
        if link.target == OUT:
            target = f"out{link.source}"
            lines.append(f'  {target} [shape=point, label="", width=0.02];')
        color = _quoted(PALE if link.faded else INK)
        lines.append(f"  n{link.source} -> {target} [color={color}, label=<{_label(link, drawn[link.source])}>];")
    return "\n".join([*lines, "}"]) + "\n"


def _label(link: Link, source: Mark) -> str:
    """Value and in Graphviz's HTML."""
    value = f"{source.name} = {source.value}" if source.name and source.value else source.value
    rows = [(GREEN, value), (RED, link.share)]
    colored = [f'<font color="{color}">{html.escape(words)}</font>' for color, words in rows if words]
    return "<br/>".join(colored) or " "


def _quoted(words: str) -> str:
    """A string; an odd number of backslashes before a quote would end it."""
    escaped = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", " ")
    return f'"{escaped}"'
