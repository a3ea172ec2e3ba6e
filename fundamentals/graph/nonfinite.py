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
    backward: Node | None  # what it sends back has some, what comes in has none; None before `backward`, too
    is_swept: bool  # whether there are gradients

    def __str__(self) -> str:
        lines = []
        if self.forward is not None:
            lines.append(f"forward: {_place(self.forward)} gives {_census(self.forward.value)}")
        if self.backward is not None:
            sends = _has(self.backward.downstream)
            found = (
                f"sends back {_census(self.backward.downstream)}"
                if sends
                else f"gets {_census(self.backward.upstream)}"
            )
            lines.append(f"backward: {_place(self.backward)} {found}")
        if not lines:
            return "all values and gradients are finite" if self.is_swept else "all values are finite; no gradients yet"
        return "\n".join(lines)


def first_nonfinite(nodes: Sequence[Node], is_swept: bool) -> NonFinite:
    """Forward the first node, backward the last one. An infinite constant does not count: it may be there to mask."""
    bad = {node.index: _has(node.value) for node in nodes}
    forward = next((n for n in nodes if bad[n.index] and not any(bad[i] for i in n.operands) and not _masks(n)), None)
    backward = next((node for node in reversed(nodes) if _has(node.downstream) or _has(node.upstream)), None)
    return NonFinite(forward, backward, is_swept)


def _masks(node: Node) -> bool:
    return (
        node.is_leaf and node.operation != INPUT and not any(bool(jnp.any(jnp.isnan(x))) for x in _arrays(node.value))
    )


def _arrays(value: Any) -> list[Any]:
    return [x for x in (value if isinstance(value, tuple) else (value,)) if x is not None and is_inexact(x)]


def _has(value: Any) -> bool:
    return any(not bool(jnp.all(jnp.isfinite(x))) for x in _arrays(value))


def _census(value: Any) -> str:
    """As in: 3 NaN and 1 infinite among 12 numbers."""
    arrays = [np.asarray(x) for x in _arrays(value)]
    nans, infinite = (sum(int(np.sum(test(x))) for x in arrays) for test in (np.isnan, np.isinf))
    parts = [f"{nans} NaN"] * bool(nans) + [f"{infinite} infinite"] * bool(infinite)
    size = sum(x.size for x in arrays)
    return f"{' and '.join(parts)} among {size} number{'s' * (size != 1)}"


def _place(node: Node) -> str:
    what = node.name if node.is_leaf or node.operation == RESULT else node.operation
    where = f", {short(node.source)}" if node.source else ""
    inside = "; Graph.open shows what is inside" if node.operation in ("scan", "while", "cond") else ""
    return f"node {node.index} ({what}{where}{inside})"
