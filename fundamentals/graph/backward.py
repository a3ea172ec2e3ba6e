"""The reverse sweep: every node's upstream gradient from its children's, from the last node to the first.

This is backpropagation as it is taught. A node whose value is used several times gets the sum of what comes back: the
value was copied, and the transpose of copying is adding.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from fundamentals.graph.calls import Call
from fundamentals.graph.control import is_inexact
from fundamentals.graph.derivatives import derive
from fundamentals.graph.nodes import INPUT, RESULT, Node
from fundamentals.graph.tracing import needed, record


def sweep(nodes: Sequence[Node], seeds: Sequence[tuple[int, Any]]) -> list[Node]:
    """The nodes with their gradients.

    Args:
      nodes: operands before those that use them.
      seeds: nodes and the cotangents of their values, which are added up.
    """
    varies = [False] * len(nodes)  # whether it is floating and depends on an input: gradients flow there only
    for node in nodes:
        floating = any(map(is_inexact, node.value)) if isinstance(node.value, tuple) else is_inexact(node.value)
        varies[node.index] = floating and (node.operation == INPUT or any(varies[i] for i in node.operands))
    upstream: list[Any] = [None] * len(nodes)
    items: dict[int, dict[int, Any]] = {}  # of nodes with several results

    def send(index: int, dx: Any) -> None:
        if dx is not None and varies[index]:
            upstream[index] = dx if upstream[index] is None else upstream[index] + dx

    for index, dy in seeds:
        upstream[index] = dy if upstream[index] is None else upstream[index] + dy
    swept = list(nodes)
    for earlier in reversed(nodes):
        node = earlier._replace(upstream=None, local=(), downstream=(), derivative="")  # of another sweep
        swept[node.index] = node
        if node.index in items:
            given = items[node.index]
            upstream[node.index] = tuple(given.get(i, _zeros(y)) for i, y in enumerate(node.value))
        g = upstream[node.index]
        if g is None or not varies[node.index] or node.is_leaf:
            swept[node.index] = node._replace(upstream=g)
            continue
        if node.operation == RESULT:
            items.setdefault(node.operands[0], {})[node.item] = g
            swept[node.index] = node._replace(upstream=g)
            continue
        results = node.value if isinstance(node.value, tuple) else (node.value,)
        operands = [nodes[i].value for i in node.operands]
        call = Call(node.equation, operands, results, [varies[i] for i in node.operands])
        found = derive(call, g, pullback)
        for i, dx in zip(node.operands, found.downstream, strict=True):
            send(i, dx)
        swept[node.index] = node._replace(
            upstream=g, local=found.local, downstream=found.downstream, derivative=found.derivative
        )
    return swept


def pullback(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The backward pass of a program: the cotangents of its operands; None where no gradient flows."""
    nodes, outputs = needed(*record(jaxpr, constants, operands), len(operands))
    seeds = [(i, dy) for i, dy in zip(outputs, cotangents, strict=True) if dy is not None]
    return [node.upstream for node in sweep(nodes, seeds)[: len(operands)]]


def _zeros(x: Any) -> Any:
    return jnp.zeros(jnp.shape(x), x.dtype) if is_inexact(x) else None
