"""What happens to the numbers at a node, in a word and in a sentence.

Three patterns are what the course teaches, and are easily seen in any graph: an add distributes its upstream gradient
to all its operands, a max routes it to the larger one, a mul switches, each operand gets it times the other one. To
them comes the copy: a value that is used several times gets the sum of what comes back. The rest are scalings by a
slope, and moves.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.graph.control import is_inexact
from fundamentals.graph.derivatives import CONTROL, MIXING
from fundamentals.graph.entrywise import ENTRYWISE, FLAT
from fundamentals.graph.moves import MOVES
from fundamentals.graph.nodes import FALLBACK, LITERAL, RESULT, Node, called
from fundamentals.graph.text import text
from fundamentals.program import CUSTOM_CALLS

DISTRIBUTES, ROUTES, SWITCHES = "distributes", "routes", "switches"
SCALES, PASSES, MOVED, COPIES, BLOCKS, LOOPS = "scales", "passes", "moves", "copies", "blocks", "loops"
RULE = "own rule"

_PATTERNS = {
    **dict.fromkeys(("add", "add_any", "sub", "reduce_sum", "reduce_window_sum", "cumsum"), DISTRIBUTES),
    **dict.fromkeys(("max", "min", "select_n", "clamp", "reduce_max", "reduce_min", "sort", "top_k", "cond"), ROUTES),
    **dict.fromkeys(("mul", "div", "dot_general", "conv_general_dilated", "reduce_prod"), SWITCHES),
    **dict.fromkeys(MOVES, MOVED),
    **dict.fromkeys(("gather", "scatter", "scatter-add", "scatter_add"), MOVED),
    **dict.fromkeys(("scan", "while"), LOOPS),
    **dict.fromkeys(CUSTOM_CALLS, RULE),
    **dict.fromkeys(FLAT, BLOCKS),
    **dict.fromkeys(("copy", "copy_p", "convert_element_type", "optimization_barrier", "device_put"), PASSES),
    "broadcast_in_dim": COPIES,
}


def pattern(node: Node, nodes: Sequence[Node]) -> str:
    """The word for a node; empty for a leaf and for what has none."""
    floating = any(map(is_inexact, node.value)) if isinstance(node.value, tuple) else is_inexact(node.value)
    if node.is_leaf or node.operation == RESULT or node.inside or not floating:
        return ""
    if node.operation in ("mul", "div") and any(nodes[i].operation == LITERAL for i in node.operands):
        return SCALES  # by a number
    return _PATTERNS.get(node.operation, SCALES if node.operation in ENTRYWISE else "")


def explain(nodes: Sequence[Node], index: int) -> str:
    """A sentence on what a node does to the numbers, with them after `backward`."""
    node = nodes[index]
    uses = sum(other.operands.count(index) for other in nodes)
    copied = ""
    if uses > 1 and node.upstream is not None:
        parts = [dx for other in nodes for i, dx in zip(other.operands, other.downstream, strict=False) if i == index]
        terms = [text(dx) for dx in parts if dx is not None]
        if len(terms) > 1:
            total = f" = {text(node.upstream)}" if np.ndim(node.value) == 0 else ""
            copied = f" Its value is used {uses} times, so what comes back is added: {' + '.join(terms)}{total}."
    return _own(nodes, node) + copied


def _own(nodes: Sequence[Node], node: Node) -> str:
    title = node.name or _named(nodes, node)
    if node.is_leaf:
        kind = "an argument" if node.operation == "input" else "a constant"
        back = f" and its gradient {text(node.upstream)}" if node.upstream is not None else ""
        return f"{title} is {kind}: its value is {text(node.value)}{back}."
    names = [_named(nodes, nodes[i]) for i in node.operands]
    if node.upstream is None:
        return (
            f"{called(node)} {_general(nodes, node)}" if not node.derivative else f"{called(node)} sends nothing back."
        )
    if node.operation == RESULT:
        return f"{title} is result {node.item} of {nodes[node.operands[0]].operation}."
    g = text(node.upstream)
    sent = [(n, i, dx) for n, (i, dx) in enumerate(zip(node.operands, node.downstream, strict=True)) if dx is not None]
    if not sent:
        return f"{called(node)} blocks: of {g} nothing goes back."
    if node.operation in ("max", "min"):
        return _choice(nodes, node, names, g)
    if node.operation == "select_n" and len(names) == 3:
        return _selection(nodes, node, names, g)
    if node.operation in ("mul", "div") and pattern(node, nodes) == SWITCHES:
        return (
            f"{called(node)} switches: "
            + _and(f"{names[n]} gets {g} × {_factor(node, n, names)} = {text(dx)}" for n, _, dx in sent)
            + "."
        )
    if node.operation in ("add", "add_any", "sub"):
        return (
            f"{called(node)} distributes: {g} goes to "
            + _and(f"{names[n]}{_change(nodes, node, n)}" for n, *_ in sent)
            + "."
        )
    if node.inside or node.operation in ENTRYWISE:
        return _scaling(nodes, node, names, sent, g)
    return (
        f"{called(node)} {_general(nodes, node)} {g} comes in; "
        + _and(f"{names[n]} gets {text(dx)}" for n, _, dx in sent)
        + "."
    )


def _scaling(nodes: Sequence[Node], node: Node, names: list[str], sent: Sequence[Any], g: str) -> str:
    known = recognized(nodes, node)
    same = f" is {known} and" if known and known != node.operation else ""
    formula = ENTRYWISE[known].formulas[0] if known in ENTRYWISE and len(node.operands) == 1 else ""
    verb = "sends" if any(node.local[n] is None for n, *_ in sent) else "scales by its slope:"
    parts = [
        f"{text(dx)} to {names[n]}"
        if node.local[n] is None
        else f"{names[n]} gets {g} × {text(_number(node.local[n]))} = {text(dx)}"
        for n, _, dx in sent
    ]
    return f"{called(node)}{same} {verb} {_and(parts)}{f', the slope {_explained(formula)}' if formula else ''}."


def _selection(nodes: Sequence[Node], node: Node, names: list[str], g: str) -> str:
    mask, size = np.asarray(nodes[node.operands[0]].value), np.size(node.value)
    if not size or np.ndim(node.value) == 0 or mask.ndim == 0:
        return f"{called(node)} routes: all of {g} goes to {names[2 if mask.all() else 1]}."
    here = int(np.sum(mask)) * (size // mask.size)
    return f"{called(node)} routes: of {size} entries {here} go to {names[2]}, {size - here} to {names[1]}."


def _choice(nodes: Sequence[Node], node: Node, names: list[str], g: str) -> str:
    a, b = (nodes[i].value for i in node.operands)
    if np.ndim(node.value) == 0:
        if bool(a == b):
            return f"{called(node)} routes: a tie, so {names[0]} and {names[1]} get half of {g} each."
        first = bool(a > b) == (node.operation == "max")
        sign = ">" if bool(a > b) else "<"
        shown = f"{text(a)} {sign} {text(b)}"
        return f"{called(node)} routes: all of {g} goes to {names[0] if first else names[1]}, as {shown}."
    a, b = np.broadcast_arrays(a, b)
    ties = int(np.sum(a == b))
    more = int(np.sum(a > b if node.operation == "max" else a < b))
    rest = a.size - ties - more
    tie = f"; {ties} ties are shared" if ties else ""
    return f"{called(node)} routes: of {a.size} entries {more} go to {names[0]}, {rest} to {names[1]}{tie}."


def _change(nodes: Sequence[Node], node: Node, n: int) -> str:
    """What an add does beside copying its upstream gradient."""
    signed = " with the other sign" if node.operation == "sub" and n else ""
    same = nodes[node.operands[n]].value.shape == node.value.shape
    return signed if same else f"{signed}, added up to {text(node.downstream[n])}"


def _explained(formula: str) -> str:
    """A formula, and what its letters are."""
    letters = {"y": "its result", "x": "its operand"}
    return f"{formula} ({', '.join(f'{a}: {what}' for a, what in letters.items() if a in formula)})"


def _factor(node: Node, n: int, names: list[str]) -> str:
    if node.operation == "mul":
        return names[1 - n]
    return f"1/{names[1]}" if n == 0 else text(node.local[1])


def recognized(nodes: Sequence[Node], node: Node) -> str:
    """The operation of one operand that a node computes: "logistic" of a folded 1 / (1 + exp(−x)). Empty if none.

    What is compared is the value and the local derivative, at all entries.
    """
    if node.operation in ENTRYWISE:
        return node.operation
    if len(node.operands) != 1 or not node.local or node.local[0] is None:
        return ""
    (x,), y, local = (nodes[i].value for i in node.operands), node.value, node.local[0]
    tolerance = 1e3 * float(jnp.finfo(y.dtype).eps)
    for name, function in _KNOWN.items():
        (slope,) = ENTRYWISE[name].local(y, [x], {})
        if np.allclose(function(x), y, tolerance, tolerance) and np.allclose(slope, local, tolerance, tolerance):
            return name
    return ""


# Functions that people write out: value by value, what JAX's operation of this name gives.
_KNOWN: dict[str, Callable[[Any], Any]] = {
    "logistic": jax.lax.logistic,
    "tanh": jnp.tanh,
    "exp": jnp.exp,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "erf": jax.lax.erf,
}


def _general(nodes: Sequence[Node], node: Node) -> str:
    """What a node does to any upstream gradient."""
    if node.operation in MIXING:
        return f"{pattern(node, nodes)}: {MIXING[node.operation].words}."
    if node.operation in CONTROL:
        return f"{pattern(node, nodes)}: {CONTROL[node.operation][0]}."
    if node.operation in ENTRYWISE:
        return f"{pattern(node, nodes)}: local derivatives {', '.join(ENTRYWISE[node.operation].formulas)}."
    if node.operation in CUSTOM_CALLS:
        return "has a derivative rule of its own."
    if node.operation in FLAT:
        return "blocks: no gradient comes back."
    if node.inside:
        return f"stands for {sum(not n.is_leaf for n in node.inside)} operations."
    return f"is not in the table: its derivative is {FALLBACK}'s."


def _named(nodes: Sequence[Node], node: Node) -> str:
    if node.operation == RESULT:
        return f"{_named(nodes, nodes[node.operands[0]])}[{node.item}]"
    if node.operation in ("literal", "constant") and not node.name:
        return text(node.value)
    return node.name or f"{called(node)} (#{node.index})"


def _number(local: Any) -> Any:
    return jnp.asarray(local, jnp.float32) if getattr(local, "dtype", None) == jnp.bool_ else local


def _and(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
