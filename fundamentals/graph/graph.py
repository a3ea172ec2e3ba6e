"""`trace` and `Graph`: values forward, gradients backward.

`Graph` has the methods that users call; what they do is in the modules of their topics.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.graph import control, folding, patterns, tracing
from fundamentals.graph.backward import pullback, sweep
from fundamentals.graph.calls import Call
from fundamentals.graph.control import is_inexact
from fundamentals.graph.dot import to_dot
from fundamentals.graph.drawing import WIDTH, draw
from fundamentals.graph.folding import Path
from fundamentals.graph.nodes import CONSTANT, INPUT, LITERAL, Node, called
from fundamentals.graph.nonfinite import NonFinite, first_nonfinite
from fundamentals.graph.table import table
from fundamentals.program import CUSTOM_CALLS, held

READABLE = 60  # nodes in a picture
_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class Unfolded(NamedTuple):
    """All nodes of a graph."""

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]


class Graph(NamedTuple):
    """A function at one place of its arguments. Nothing in it changes: each method returns another graph."""

    name: str  # of the function
    nodes: tuple[Node, ...]  # operands before those that use them; of folded calls one node each
    outputs: tuple[int, ...]  # the nodes of the leaves of the result
    arguments: Any  # the structure of the tuple of arguments, whose leaves are the first nodes
    result: Any  # the structure of the result
    folded: frozenset[Path] = frozenset()  # calls that are one node
    unfolded: Unfolded | None = None  # what there is without folding, if anything is folded
    is_swept: bool = False  # whether it holds gradients

    @property
    def value(self) -> Any:
        """The function's result."""
        return jax.tree.unflatten(self.result, [self.nodes[i].value for i in self.outputs])

    @property
    def gradients(self) -> tuple[Any, ...]:
        """A tuple with an entry for each argument, of its structure: what `jax.grad` gives with all argnums.

        None for an integer argument, and for an integer leaf. Zeros where no gradient flows.

        Raises:
          ValueError: `backward` has not been called.
        """
        if not self.is_swept:
            raise ValueError("Graph.gradients: there are none yet; expected graph.backward() before")
        leaves = [_filled(node) for node in self.nodes[: self.arguments.num_leaves]]
        gradients = jax.tree.unflatten(self.arguments, leaves)
        return tuple(g if any(x is not None for x in jax.tree.leaves(g)) or not _leaves(g) else None for g in gradients)

    @property
    def functions(self) -> dict[str, int]:
        """The functions whose calls can be folded, and how many calls there are, outer ones first."""
        return dict(Counter(path[-1].name for path in folding.calls(self._all.nodes)))

    def backward(self, cotangent: Any = None) -> "Graph":
        """The graph with gradients: upstream, local and downstream ones at every node that they flow through.

        Args:
          cotangent: ∂L/∂y for the result y, of its structure and shapes; 1 where the result is a single number.

        Raises:
          ValueError: the result is not a single number and there is no cotangent, or it does not fit.
          TypeError: the result is not floating.
        """
        results = [self.nodes[i].value for i in self.outputs]
        seeds = _seeds(self.name, self.result, results, cotangent)
        nodes, outputs = self._all
        swept = sweep(nodes, [(i, dy) for i, dy in zip(outputs, seeds, strict=True) if dy is not None])
        return self._replace(is_swept=True)._view(Unfolded(tuple(swept), outputs), self.folded)

    def fold(self, *functions: str) -> "Graph":
        """The graph with one node for each call of these functions; without a name, for each outermost call.

        Raises:
          ValueError: the graph has no call of a function of this name.
        """
        calls = folding.calls(self._all.nodes)
        self._check("fold", functions)
        chosen = {path for path in calls if (path[-1].name in functions if functions else len(path) == 1)}
        return self._view(self._all, self.folded | chosen)

    def unfold(self, *which: str | int) -> "Graph":
        """The graph with the operations of calls in place of one node: of functions, or of nodes; without any, all.

        Raises:
          ValueError: there is no call of a function of this name, or no such folded node.
        """
        self._check("unfold", [name for name in which if isinstance(name, str)])
        paths = set()
        for i in which:
            if not isinstance(i, str):
                node = self._node("unfold", i)
                if not node.inside:
                    raise ValueError(f"Graph.unfold: node {i} ({node.operation}) is not folded")
                paths.add(node.scope)
        kept = frozenset(p for p in self.folded if which and p not in paths and p[-1].name not in which)
        return self._view(self._all, kept)

    def open(self, index: int, step: int = 0) -> "Graph":
        """What is inside a node: a step of a loop, the case of a branch that was taken, a function with its own rule,
        a folded call. A graph of its own, with gradients if this one has them; of a function with its own rule without,
        as the rule is not that of the operations inside.

        Args:
          index: of the node.
          step: of a loop, the first is 0, in the order in which they ran; negative from the last.

        Raises:
          ValueError: there is no such node, nothing in it, or no such step.
        """
        node = self._node("open", index)
        operands = [self.nodes[i].value for i in node.operands]
        if node.inside:
            return _inside(self, node)
        if node.operation not in {"scan", "while", "cond"} | CUSTOM_CALLS:
            raise ValueError(f"Graph.open: node {index} ({node.operation}) is a single operation")
        results = node.value if isinstance(node.value, tuple) else (node.value,)
        given = node.upstream if isinstance(node.upstream, tuple) else (node.upstream,)
        call = Call(node.equation, operands, results, [is_inexact(x) for x in operands])
        if node.operation in ("scan", "while"):
            steps = control.steps_of(call)
            if not isinstance(step, int) or not -steps.length <= step < steps.length:
                known = f"node {index} ({node.operation}) has {steps.length} steps"
                raise ValueError(f"Graph.open: {known}, the first of which is 0; got step {step}")
            cotangents: Sequence[Any] = (None,) * len(results)
            if node.upstream is not None:
                after = control.loop_back(call, given, pullback).after
                cotangents = [None if x is None else x[step] for x in after]
            step %= steps.length
            fixed, own = len(steps.fixed), len(steps.fixed) + len(steps.states)
            outside = [self.nodes[i].name for i in node.operands][-own - len(steps.items) :]
            names = [outside[i] or f"fixed {i}" for i in range(fixed)]
            names += [f"state {i}" for i in range(own - fixed)]
            names += [f"{name}[{step}]" if name else f"item {i}" for i, name in enumerate(outside[own:])]
            title = f"{node.operation}, step {step} of 0 to {steps.length - 1}"
            return _program(title, steps.body, steps.constants, steps.operands(step), names, cotangents)
        if node.operation == "cond":
            case = control.branch(call)
            taken, operands = f"cond, case {int(operands[0])}", operands[1:]
            body, constants = case.jaxpr, case.consts
        else:
            taken = called(node)  # its rule is another one than that of what is inside
            body, constants = held(node.equation)
        names = [f"operand {i}" for i in range(len(operands))]
        cotangents = given if node.upstream is not None and node.operation == "cond" else (None,) * len(results)
        return _program(str(taken), body, constants, operands, names, cotangents)

    def explain(self, index: int) -> str:
        """What happens to the numbers at a node, in a sentence: "add distributes: −4 goes to x and y."

        Raises:
          ValueError: there is no such node.
        """
        self._node("explain", index)
        return patterns.explain(self.nodes, index)

    def first_nonfinite(self) -> NonFinite:
        """Where NaN or infinity first appears, forward and backward; inside of folded calls, too."""
        return first_nonfinite(self._all.nodes, self.is_swept)

    def draw(self, path: str | os.PathLike[str], *, width: float = WIDTH) -> None:
        """Write a picture, SVG or PNG: values forward in green, above the wires, gradients backward in red, below.

        A graph of more than 60 nodes is drawn with its calls folded, the innermost first, until it is readable.

        Args:
          path: of the file, which is replaced if there is one.
          width: of a row in pixels, about: what is wider is drawn in several; `math.inf` for a single one.

        Raises:
          ValueError: the name of the file ends in neither .svg nor .png, or width is not positive.
          OSError: the file can't be written.
          ImportError: a PNG needs matplotlib.
        """
        graph = self.readable()
        labels = {node.index: patterns.pattern(node, graph.nodes) for node in graph.nodes}
        labels = {index: word for index, word in labels.items() if word}
        draw(graph.nodes, graph.outputs, path, title=self.name, labels=labels, width=width)

    def readable(self, limit: int = READABLE) -> "Graph":
        """The graph with as few calls folded, the innermost first, as leave at most `limit` nodes, if that can be."""
        if _size(self.nodes) <= limit:
            return self
        depths = sorted({len(path) for path in folding.calls(self._all.nodes)}, reverse=True)
        graph = self
        for depth in depths:
            paths = {path for path in folding.calls(self._all.nodes) if len(path) >= depth}
            graph = self._view(self._all, self.folded | paths)
            if _size(graph.nodes) <= limit:
                break
        return graph

    def to_dot(self) -> str:
        """The graph for Graphviz."""
        return to_dot(self.nodes, self.outputs, title=self.name)

    def __str__(self) -> str:
        return table(self.nodes, self.outputs, self.name)

    def __repr__(self) -> str:
        swept = ", with gradients" if self.is_swept else ""
        return f"<Graph of {self.name}: {len(self.nodes)} nodes{swept}>"

    @property
    def _all(self) -> Unfolded:
        return self.unfolded or Unfolded(self.nodes, self.outputs)

    def _view(self, whole: Unfolded, folded: frozenset[Path]) -> "Graph":
        if not folded:
            return self._replace(nodes=whole.nodes, outputs=whole.outputs, folded=folded, unfolded=None)
        nodes, outputs = folding.fold(*whole, folded)
        return self._replace(nodes=tuple(nodes), outputs=tuple(outputs), folded=folded, unfolded=whole)

    def _check(self, method: str, functions: Sequence[str]) -> None:
        known = self.functions
        for name in functions:
            if name not in known:
                raise ValueError(
                    f"Graph.{method}: no call of {name!r} in the graph; "
                    + (f"expected one of {', '.join(known)}" if known else "there are no calls in it")
                )

    def _node(self, method: str, index: int) -> Node:
        if not isinstance(index, int) or not -len(self.nodes) <= index < len(self.nodes):
            raise ValueError(f"Graph.{method}: there is no node {index!r}; expected 0 to {len(self.nodes) - 1}")
        return self.nodes[index]


def trace(fn: Callable[..., Any], *args: Any) -> Graph:
    """The computational graph of a function, with the values that it computes for these arguments.

    Calls are replaced by what they compute; loops and branches are one node each, which `Graph.open` opens. A function
    with a derivative rule of its own (`jax.custom_jvp`, `jax.custom_vjp`) is one as well, and keeps its rule. What the
    result does not depend on is left out.

    Args:
      fn: of any pytrees of arrays.
      *args: its arguments. Those that are not to be differentiated may be closed over.

    Raises:
      TypeError: fn is not callable, an argument is no array, or JAX can't trace fn, as what it does depends on values.
    """
    if not callable(fn):
        raise TypeError(f"trace: fn is {fn!r}; expected a function")
    name = str(getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", type(fn).__name__))
    arguments = [_argument(name, i, argument) for i, argument in enumerate(args)]
    closed_over = tracing.closed_over(fn)
    try:
        with tracing.calls_as_scopes():
            # Of a function that it knows, JAX would take the program from its cache, without the scopes.
            closed, shapes = jax.make_jaxpr(lambda *inputs: fn(*inputs), return_shape=True)(*arguments)
    except _UNTRACEABLE as error:
        raise TypeError(
            f"trace: {name} can't be traced, as what it does depends on values: write branches with jnp.where or "
            f"jax.lax.cond, loops with jax.lax.scan, and numpy as jax.numpy. JAX says:\n{error}"
        ) from error
    leaves, structure = jax.tree.flatten(tuple(arguments))
    nodes, outputs = tracing.record(closed.jaxpr, closed.consts, leaves)
    nodes, outputs = tracing.needed(nodes, outputs, len(leaves))
    nodes = tracing.named(tracing.without_root(nodes, name))
    for i, argument in enumerate(tracing.argument_names(fn, arguments)):
        nodes[i] = nodes[i]._replace(name=argument)
    nodes = [n._replace(name=closed_over.get(id(n.value), "")) if n.operation == CONSTANT else n for n in nodes]
    return Graph(name, tuple(nodes), tuple(outputs), structure, jax.tree.structure(shapes))


def _argument(name: str, number: int, argument: Any) -> Any:
    def leaf(path: Any, x: Any) -> Any:
        where = f"argument {number}{jax.tree_util.keystr(path)} of {name}"
        if isinstance(x, jax.core.Tracer):
            raise TypeError(f"trace: {where} is traced; expected a value, outside of jit, grad and vmap")
        if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise TypeError(f"trace: {where} is a {type(x).__name__}; expected an array or a number")
        return jnp.asarray(x)

    return jax.tree_util.tree_map_with_path(leaf, argument)


def _seeds(name: str, structure: Any, results: list[Any], cotangent: Any) -> list[Any]:
    """A cotangent for each leaf of the result; None where it is not floating."""
    shown = ", ".join(f"{x.dtype}{list(x.shape)}" for x in results)
    if not any(map(is_inexact, results)):
        raise TypeError(
            f"Graph.backward: {name} returns {shown or 'nothing'}; expected a floating result (3.0 is one, 3 is none)"
        )
    if cotangent is None:
        if len(results) != 1 or results[0].shape:
            raise ValueError(f"Graph.backward: {name} returns {shown}; expected a single number, or a cotangent for it")
        return [jnp.ones((), results[0].dtype)]
    given = jax.tree.structure(cotangent, is_leaf=lambda x: x is None)
    if given != structure:
        raise ValueError(f"Graph.backward: cotangent has the structure {given}; expected the result's, {structure}")
    seeds: list[Any] = []
    for y, dy in zip(results, jax.tree.leaves(cotangent, is_leaf=lambda x: x is None), strict=True):
        if dy is None or not is_inexact(y):
            seeds.append(None)
            continue
        if not isinstance(dy, jax.Array | np.ndarray | np.generic | int | float) or jnp.iscomplexobj(
            dy
        ) > jnp.iscomplexobj(y):
            raise TypeError(f"Graph.backward: cotangent is {dy!r}; expected numbers like {y.dtype}{list(y.shape)}")
        if jnp.shape(dy) != y.shape:
            raise ValueError(f"Graph.backward: cotangent has shape {list(jnp.shape(dy))}; expected {list(y.shape)}")
        seeds.append(jnp.asarray(dy, y.dtype))
    if all(seed is None for seed in seeds):
        raise ValueError("Graph.backward: cotangent has nothing for a floating result; expected at least one array")
    return seeds


def _filled(node: Node) -> Any:
    if node.upstream is not None or not is_inexact(node.value):
        return node.upstream
    return jnp.zeros_like(node.value)


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda x: x is None)


def _size(nodes: Sequence[Node]) -> int:
    return sum(node.operation != LITERAL for node in nodes)


def _program(
    title: str,
    jaxpr: Any,
    constants: Sequence[Any],
    operands: Sequence[Any],
    names: list[str],
    cotangents: Sequence[Any],
) -> Graph:
    """The graph of a program that an operation holds."""
    nodes, outputs = tracing.needed(*tracing.record(jaxpr, constants, operands), len(operands))
    nodes = tracing.named(nodes)
    nodes = [n._replace(name=names[n.index]) if n.index < len(operands) else n for n in nodes]
    seeds = [(i, dy) for i, dy in zip(outputs, cotangents, strict=True) if dy is not None]
    swept = tuple(sweep(nodes, seeds) if seeds else nodes)
    structure, result = jax.tree.structure(tuple(operands)), jax.tree.structure([0] * len(outputs))
    return Graph(title, swept, tuple(outputs), structure, result, is_swept=bool(seeds))


def _inside(graph: Graph, node: Node) -> Graph:
    """A folded call as a graph of its own, whose arguments are what comes from outside."""
    place: dict[int, int] = {}
    nodes: list[Node] = []
    own = {member.index for member in node.inside}
    outside = dict.fromkeys(i for member in node.inside for i in member.operands if i not in own)
    for original, dx in zip(outside, node.downstream or (None,) * len(outside), strict=True):
        place[original] = len(nodes)
        source = graph._all.nodes[original]
        nodes.append(Node(len(nodes), INPUT, (), source.value, name=source.name, upstream=dx))
    for member in node.inside:
        place[member.index] = len(nodes)
        operands = tuple(place[i] for i in member.operands)
        scope = member.scope[len(node.scope) :]
        nodes.append(member._replace(index=len(nodes), operands=operands, scope=scope))
    used = {i for other in graph._all.nodes if other.index not in own for i in other.operands} | {*graph._all.outputs}
    outputs = tuple(place[member.index] for member in node.inside if member.index in used)
    structure, result = jax.tree.structure((0,) * len(outside)), jax.tree.structure([0] * len(outputs))
    return Graph(node.operation, tuple(nodes), outputs, structure, result, is_swept=graph.is_swept)
