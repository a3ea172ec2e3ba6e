"""A call of a function as one node.

What a function computes has been computed within one call, so its nodes follow each other, and all that comes from
outside was there before. Folded, they are one operation: its operands are the values from outside, its value is what is
used outside, its gradients are those that cross its border. Where all inside works entry by entry, so does the whole,
and its local derivative is the chain rule along every path:

    ∂y/∂x = Σ over paths from x to y of the product of the local derivatives on the path
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from fundamentals.graph.nodes import RESULT, Node, Scope

Path: TypeAlias = tuple[Scope, ...]


def calls(nodes: Sequence[Node]) -> dict[Path, int]:
    """Every call of a function, from outside in, and how many operations are inside."""
    found: dict[Path, int] = {}
    for node in nodes:
        for depth in range(1, len(node.scope) + 1):
            found.setdefault(node.scope[:depth], 0)
            found[node.scope[:depth]] += not node.is_leaf and node.operation != RESULT
    return {path: size for path, size in found.items() if size}


def fold(nodes: Sequence[Node], outputs: Sequence[int], paths: Iterable[Path]) -> tuple[list[Node], list[int]]:
    """The graph with one node for each of these calls; of calls inside calls the outer one counts."""
    run_of = _runs(nodes, set(paths))
    inside: dict[_Run, list[Node]] = {}
    for node, run in zip(nodes, run_of, strict=True):
        if run is not None:
            inside.setdefault(run, []).append(node)
    used_outside = set(outputs)
    for node in nodes:
        used_outside.update(i for i in node.operands if run_of[i] not in (None, run_of[node.index]))
    place: dict[int, int] = {}
    folded: list[Node] = []

    def add(node: Node) -> int:
        folded.append(node._replace(index=len(folded)))
        return len(folded) - 1

    for node, run in zip(nodes, run_of, strict=True):
        if run is None:
            place[node.index] = add(node._replace(operands=tuple(place[i] for i in node.operands)))
        elif node is inside[run][-1]:
            members = inside[run]
            results = [member for member in members if member.index in used_outside]
            whole = _folded(nodes, members, results, run.path)
            index = add(whole._replace(operands=tuple(place[i] for i in whole.operands)))
            if len(results) == 1:
                place[results[0].index] = index
                continue
            for item, result in enumerate(results):
                fields = {"name": result.name, "source": result.source, "upstream": result.upstream}
                place[result.index] = add(
                    Node(0, RESULT, (index,), result.value, scope=whole.scope, item=item, **fields)
                )
    return folded, [place[i] for i in outputs]


class _Run(NamedTuple):
    """Nodes of one call that follow each other."""

    number: int
    path: Path


def _runs(nodes: Sequence[Node], chosen: set[Path]) -> list[_Run | None]:
    """For each node the call to fold that it is in. One that others interrupt counts several times."""
    runs: list[_Run | None] = []
    current: _Run | None = None
    for node in nodes:
        path = next((node.scope[:d] for d in range(1, len(node.scope) + 1) if node.scope[:d] in chosen), None)
        if path is not None and (current is None or current.path != path):
            current = _Run(node.index, path)
        elif path is None and not node.is_leaf:
            current = None
        runs.append(current if path is not None else None)
    return runs


def _folded(nodes: Sequence[Node], members: list[Node], results: list[Node], path: Path) -> Node:
    """What stands for the members; its operands are numbered as theirs are."""
    own = {member.index for member in members}
    operands = tuple(dict.fromkeys(i for member in members for i in member.operands if i not in own))
    back: dict[int, Any] = {}
    for member in members:
        for i, dx in zip(member.operands, member.downstream, strict=bool(member.downstream)):
            if i not in own and dx is not None:
                back[i] = dx if i not in back else back[i] + dx
    one = results[0] if len(results) == 1 else None
    swept = any(member.downstream for member in members)
    kinds = {member.derivative for member in members} - {""}
    values, gradients = tuple(r.value for r in results), tuple(r.upstream for r in results)
    return Node(
        0,
        path[-1].name,
        operands,
        one.value if one else values,
        name=one.name if one else "",
        source=members[0].source or next((m.source for m in members if m.source), ""),
        scope=path,
        upstream=one.upstream if one else None if all(g is None for g in gradients) else gradients,
        local=tuple(_local(nodes, members, one, i) for i in operands) if swept and one else (None,) * len(operands),
        downstream=tuple(back.get(i) for i in operands) if swept else (),
        derivative=max(kinds, key=len) if kinds else "",  # not the table's, if one is not
        inside=tuple(members),
    )


def _local(nodes: Sequence[Node], members: list[Node], result: Node, operand: int) -> Any:
    """∂y/∂x of a value from outside, or None where not all between them works entry by entry."""
    along: dict[int, Any] = {operand: 1.0}
    for member in members:
        for i, local, dx in zip(member.operands, member.local, member.downstream, strict=bool(member.local)):
            if i not in along or dx is None:
                continue
            if local is None or nodes[i].value.shape != member.value.shape:
                return None
            step = local.astype(member.value.dtype) if getattr(local, "dtype", None) == jnp.bool_ else local
            term = step if isinstance(along[i], float) and along[i] == 1 else along[i] * step
            along[member.index] = term if member.index not in along else along[member.index] + term
    found = along.get(result.index)
    return found if found is None or isinstance(found, float) else jnp.asarray(found)
