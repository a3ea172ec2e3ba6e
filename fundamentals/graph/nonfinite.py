"""Where NaN or infinity first appears in a graph."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fundamentals.graph.control import is_inexact
from fundamentals.graph.nodes import INPUT, RESULT, Node
from fundamentals.program import short


class NonFinite(NamedTuple):
    """The nodes where NaN or infinity first appears, or None."""

    forward: Node | None  # its value has some, its operands have none
    backward: Node | None  # what it sends back has some, what comes in has none

    def __str__(self) -> str:
        lines = []
        if self.forward is not None:
            lines.append(f"forward: {_place(self.forward)} gives {_census(self.forward.value)}")
        if self.backward is not None:
            lines.append(f"backward: {_place(self.backward)} sends back {_census(self.backward.downstream)}")
        return "\n".join(lines) or "all values and gradients are finite"


def first_nonfinite(nodes: Sequence[Node]) -> NonFinite:
    """Forward the first node, backward the last. What depends on no argument, a −inf that masks, does not count."""
    varies: dict[int, bool] = {}
    for node in nodes:
        varies[node.index] = node.operation == INPUT or any(varies[i] for i in node.operands)
    forward = next((node for node in nodes if varies[node.index] and _has(node.value)), None)
    backward = next((node for node in reversed(nodes) if _has(node.downstream) or _has(node.upstream)), None)
    return NonFinite(forward, backward)


def _arrays(value: Any) -> list[Any]:
    return [x for x in (value if isinstance(value, tuple) else (value,)) if x is not None and is_inexact(x)]


def _has(value: Any) -> bool:
    return any(not bool(jnp.all(jnp.isfinite(x))) for x in _arrays(value))


def _census(value: Any) -> str:
    """As in: 3 NaN and 1 infinite among 12 numbers."""
    arrays = [np.asarray(x) for x in _arrays(value)]
    nans, infinite = (sum(int(np.sum(test(x))) for x in arrays) for test in (np.isnan, np.isinf))
    parts = [f"{nans} NaN"] * bool(nans) + [f"{infinite} infinite"] * bool(infinite)
    return f"{' and '.join(parts)} among {sum(x.size for x in arrays)} numbers"


def _place(node: Node) -> str:
    what = node.name if node.is_leaf or node.operation == RESULT else node.operation
    where = f", {short(node.source)}" if node.source else ""
    inside = "; Graph.open shows what is inside" if node.operation in ("scan", "while", "cond") else ""
    return f"node {node.index} ({what}{where}{inside})"
