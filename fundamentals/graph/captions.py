"""What is written into the picture of a graph, whoever draws it: symbols of operations, values, shares of gradients."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fundamentals.graph.nodes import CONSTANT, INPUT, LITERAL, RESULT, Node, called
from fundamentals.graph.text import is_finite, superscript, text

# How a node is drawn.
LEAF, FIXED, OPERATION, BLOCK, DOT = "leaf", "fixed", "operation", "block", "dot"
OUT = -1  # the target of a link that leaves the graph

LOOPS = {"scan", "while", "cond"}
COMMUTATIVE = {"add", "add_any", "mul", "max", "min", "and", "or", "xor", "eq", "ne"}
_BETWEEN = {  # operands, if there are two
    **{"add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "dot_general": "@"},
    **{"eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥", "and": "∧", "or": "∨"},
}
_SYMBOLS = _BETWEEN | {
    **{"neg": "−", "logistic": "σ", "sqrt": "√", "rsqrt": "1/√", "square": "x²", "abs": "|x|", "not": "¬"},
    **{"reduce_sum": "Σ", "reduce_prod": "Π", "select_n": "select", "broadcast_in_dim": "broadcast"},
    **{"expand_dims": "broadcast", "conv_general_dilated": "conv", "dynamic_update_slice": "update slice"},
}
_LONGEST_NAME, _LONGEST_VALUE = 26, 30


class Mark(NamedTuple):
    """How a node is drawn."""

    kind: str  # LEAF, FIXED, OPERATION, BLOCK, DOT
    symbol: str  # what stands in its box
    note: str  # a second line in the box
    value: str  # above the wire that leaves it; empty where the symbol tells it already
    name: str  # of the variable that the value was assigned to
    alarm: bool  # some entry of the value is not finite
    faded: bool  # no gradient flows back to it
    tooltip: str


class Link(NamedTuple):
    """One use of a node's value."""

    source: int
    target: int  # OUT where the value leaves the graph
    operand: int  # which one it is of the target
    share: str  # of the gradient, sent back along this wire; empty where none is, or it is not told
    alarm: bool  # some entry of the share is not finite
    faded: bool


def marks(nodes: Sequence[Node], outputs: Sequence[int], labels: Mapping[int, str] | None = None) -> dict[int, Mark]:
    """How each node is drawn, by its index. Literals that fit into their consumer's box are left out."""
    for place, node in enumerate(nodes):
        if node.index != place or any(not 0 <= i < place for i in node.operands):
            raise ValueError(f"draw: node {place} is {node!r}; expected index {place} and operands that come before")
    for index in outputs:
        if not 0 <= index < len(nodes):
            raise ValueError(f"draw: output {index}; expected the index of one of {len(nodes)} nodes")
    swept = was_swept(nodes)
    found = {}
    for node in nodes:
        if node.index not in outputs and _in_label(node):
            continue
        kind, note = _kind(node), ""
        symbol = {LEAF: _shown_name(node, "input"), FIXED: _constant_symbol(node), DOT: f"[{node.item}]"}.get(kind)
        if kind == BLOCK:
            symbol, note = called(node), _note(node)
        written = "" if isinstance(node.value, tuple) else shorten(text(node.value), _LONGEST_VALUE)
        own_name = node.name if kind in (OPERATION, BLOCK) else ""
        found[node.index] = Mark(
            kind=kind,
            symbol=shorten(symbol if symbol is not None else _operation_symbol(node, nodes), _LONGEST_NAME),
            note=note,
            value="" if kind == FIXED and not node.name and node.value is not None and written == symbol else written,
            name=shorten(own_name, _LONGEST_NAME),
            alarm=not is_finite(node.value),
            faded=swept and node.upstream is None,
            tooltip=_tooltip(node, (labels or {}).get(node.index, "")),
        )
    return found


def links(nodes: Sequence[Node], outputs: Sequence[int], drawn: Mapping[int, Mark]) -> list[Link]:
    """All uses of the values of nodes that are drawn."""
    swept = was_swept(nodes)
    found = []
    for node in nodes:
        for k, i in enumerate(node.operands):
            if i not in drawn:
                continue
            share = node.downstream[k] if k < len(node.downstream) else None
            flows = share is not None or (node.operation == RESULT and node.upstream is not None)
            told = "" if share is None else _sent(share)
            found.append(Link(i, node.index, k, told, not is_finite(share), swept and not flows))
    inner = {link.source for link in found}
    for index in dict.fromkeys(outputs):
        seed = nodes[index].upstream
        if index in inner or isinstance(seed, tuple):
            seed = None  # upstream is the seed and what comes back from other nodes
        told = "" if seed is None else _sent(seed)
        flows = nodes[index].upstream is not None
        found.append(Link(index, OUT, 0, told, not is_finite(seed), swept and not flows))
    return found


def gradient(node: Node) -> tuple[str, bool]:
    """What flows back to a node in all, and whether some entry of it is not finite."""
    if node.upstream is None or isinstance(node.upstream, tuple):
        return "", False
    return _sent(node.upstream), not is_finite(node.upstream)


def was_swept(nodes: Sequence[Node]) -> bool:
    """Whether gradients are known."""
    return any(node.upstream is not None for node in nodes)


def shorten(words: str, most: int) -> str:
    """At most so many characters. What tells one path from another, `params['blocks'][0]['w']`, is at its end."""
    if len(words) <= most:
        return words
    head = (most - 1) // 3
    return words[:head] + "…" + words[-(most - 1 - head) :]


def _sent(cotangent: Any) -> str:
    """A gradient: without its shape, which is the value's."""
    written = text(cotangent)
    return shorten(written[max(written.find("‖"), 0) :], _LONGEST_VALUE)


def _kind(node: Node) -> str:
    if _is_block(node):  # first: a function that is folded may be named as it likes, "input" too
        return BLOCK
    if node.operation == INPUT:
        return LEAF
    if node.operation in (CONSTANT, LITERAL):
        return FIXED
    if node.operation == RESULT:
        return DOT
    return OPERATION


def _is_block(node: Node) -> bool:
    return bool(node.inside) or node.operation in LOOPS or node.operation.startswith("custom_")


def _in_label(node: Node) -> bool:
    return node.operation == LITERAL and not node.inside and math.prod(getattr(node.value, "shape", ())) == 1


def _shown_name(node: Node, otherwise: str) -> str:
    return node.name or otherwise


def _constant_symbol(node: Node) -> str:
    if node.name:
        return node.name
    return shorten(text(node.value), _LONGEST_VALUE) if getattr(node.value, "shape", ()) == () else "constant"


def _note(node: Node) -> str:
    """Of a folded call, a loop or a branch: how many, how often."""
    if node.inside:
        count = sum(not member.is_leaf and member.operation != RESULT for member in node.inside)
        return f"({count} operation{'s' * (count != 1)})"
    params = getattr(node.equation, "params", {})
    if node.operation == "scan" and "length" in params:
        return f"({params['length']} steps)"
    if node.operation == "cond" and "branches" in params:
        return f"({len(params['branches'])} branches)"
    if node.operation.startswith("custom_"):
        return "(own derivative)"
    return ""


def _operation_symbol(node: Node, nodes: Sequence[Node]) -> str:
    """With the literals among its operands: `× 2`, `1 ÷`, `max 0`."""
    name, params = node.operation, getattr(node.equation, "params", {})
    if name == "integer_pow":
        return f"x{superscript(params.get('y', 'n'))}"
    if name == "convert_element_type":
        return f"→ {params.get('new_dtype', node.value.dtype)}"
    if name == "slice" and "start_indices" in params:
        return _sliced(params, nodes[node.operands[0]].value.shape)
    symbol = _SYMBOLS.get(name, name.replace("_", " "))
    fixed = {k: text(nodes[i].value, 2) for k, i in enumerate(node.operands) if _in_label(nodes[i])}
    if not fixed or len(node.operands) == 1:
        return symbol if not fixed else f"{symbol} {fixed[0]}"
    if name == "pow" and 1 in fixed:
        plain = fixed[1].lstrip("−").isdecimal()
        return f"x{superscript(fixed[1])}" if plain and 0 not in fixed else f"x^{fixed[1]}"
    if len(node.operands) == 2 and name in _BETWEEN:
        return " ".join(filter(None, (fixed.get(0), symbol, fixed.get(1))))
    if len(node.operands) == 2 and name in COMMUTATIVE:  # max 0
        return " ".join((symbol, *fixed.values()))
    return f"{symbol}({', '.join(fixed.get(k, '·') for k in range(len(node.operands)))})"


def _sliced(params: Mapping[str, Any], shape: Sequence[int]) -> str:
    """`[1:3, :]`."""
    steps = params.get("strides") or (1,) * len(shape)
    parts = []
    for start, limit, step, size in zip(params["start_indices"], params["limit_indices"], steps, shape, strict=True):
        whole = (start, limit, step) == (0, size, 1)
        parts.append(":" if whole else f"{start}:{limit}" + (f":{step}" if step != 1 else ""))
    return f"[{', '.join(parts)}]"


def _tooltip(node: Node, label: str) -> str:
    lines = [" ".join(filter(None, (node.operation, node.name))) + (f": {label}" if label else ""), node.source]
    calls = " › ".join(scope.name for scope in node.scope)
    facts: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("in", calls or None, str),
        ("value", node.value, text),
        ("upstream", node.upstream, text),
        (
            "local",
            node.local if any(x is not None for x in node.local) else None,
            lambda local: ", ".join(map(text, local)),
        ),
        ("downstream", node.downstream or None, lambda sent: ", ".join(map(text, sent))),
        ("derivative from", node.derivative or None, str),
    ]
    lines += [f"{name} {write(fact)}" for name, fact, write in facts if fact is not None]
    return "\n".join(filter(None, lines))
