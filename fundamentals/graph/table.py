"""A graph as a table for the terminal."""

from collections.abc import Sequence

from fundamentals.graph import patterns
from fundamentals.graph.nodes import AUTHOR, FALLBACK, RESULT, Node, called
from fundamentals.graph.text import text
from fundamentals.program import short

COLUMNS = ("", "node", "of", "value", "upstream", "local", "downstream", "pattern", "source")


def table(nodes: Sequence[Node], outputs: Sequence[int], name: str) -> str:
    """A row for each node but literals, which stand where they are used."""
    swept = any(node.upstream is not None for node in nodes)
    rows = [COLUMNS, *(_row(nodes, node, outputs) for node in nodes if node.operation != "literal")]
    shown = [i for i, title in enumerate(COLUMNS) if swept or title not in ("upstream", "local", "downstream")]
    rows = [tuple(row[i] for i in shown) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(shown))]
    left = {"node", "of", "pattern", "source"}
    lines = [
        "  ".join(
            cell.ljust(width) if COLUMNS[i] in left else cell.rjust(width)
            for i, cell, width in zip(shown, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    results = ", ".join(_short(nodes[i]) for i in outputs)
    notes = [f"result: {results}"]
    if any(node.derivative == FALLBACK for node in nodes):
        notes.append("* not in the table of derivatives: jax.vjp of the operation")
    if any(node.derivative == AUTHOR for node in nodes):
        notes.append("† a derivative rule of its own")
    return "\n".join([name, *lines, *notes])


def _row(nodes: Sequence[Node], node: Node, outputs: Sequence[int]) -> tuple[str, ...]:
    mark = {FALLBACK: " *", AUTHOR: " †"}.get(node.derivative, "")
    title = node.name if node.is_leaf or node.operation == RESULT else called(node) + mark
    if node.name and not (node.is_leaf or node.operation == RESULT):
        title = f"{node.name} = {title}"
    return (
        f"#{node.index}",
        title or node.operation,
        ", ".join(_short(nodes[i]) for i in node.operands),
        text(node.value),
        text(node.upstream),
        ", ".join(text(x) for x in node.local) if any(x is not None for x in node.local) else "",
        ", ".join(text(x) for x in node.downstream),
        patterns.pattern(node, nodes),
        short(node.source),
    )


def _short(node: Node) -> str:
    if node.operation == "literal":
        return text(node.value)
    return node.name or f"#{node.index}"
