"""From a function to its nodes: JAX's program of it, evaluated operation by operation.

Calls (`jit`, `checkpoint`) are replaced by what they compute; a loop, a branch and a function with a derivative rule
of its own stay one node each. Every node knows which calls it is in. Of calls, JAX records the jitted ones; the others,
`sigmoid(x)` in the user's own file, leave no trace in a program. But names of `jax.named_scope` do, so while the
function is traced every call of a Python function outside of JAX is put into one.
"""

import contextlib
import functools
import inspect
import itertools
import linecache
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fundamentals.graph.nodes import CONSTANT, INPUT, LITERAL, RESULT, Node, Scope
from fundamentals.program import PLAIN_CALLS, execute, held, line

_JAX, _PYTHON = (os.path.dirname(os.path.abspath(module.__file__ or "")) + os.sep for module in (jax, os))
_NETWORKS = os.path.join(_JAX, "_src", "nn", "functions.py")
_MARK = "#"  # between a scope's name and its number
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_]\w*)\s*=[^=][^;]*$")


class Recorder:
    """Nodes, in the order in which they are evaluated."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.calls = itertools.count(1)

    def add(self, operation: str, operands: Sequence[int], value: Any, **fields: Any) -> int:
        """The index of a new node."""
        self.nodes.append(Node(len(self.nodes), operation, tuple(operands), value, **fields))
        return len(self.nodes) - 1

    def enter(
        self, jaxpr: Any, constants: Sequence[int], operands: Sequence[int], scope: tuple[Scope, ...], place: str
    ) -> list[int]:
        """The nodes of a program's results. `scope` and `place`: of the call, if it is one."""
        known = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, operands, strict=True))

        def at(variable: Any, scope: tuple[Scope, ...]) -> int:
            if not isinstance(variable, core.Literal):
                return int(known[variable])
            return self.add(LITERAL, (), _array(variable.val, variable.aval), scope=scope)

        for equation in jaxpr.eqns:
            own = _scopes(equation)
            # Of jitted functions that it has traced before, JAX has the lines of the first call.
            source = line(equation) if not place or any(s.number for s in own) else place
            if scope[-1:] and own[:1] and scope[-1].name == own[0].name:  # the jitted function and what it is made of
                own = own[1:]
            inner = scope + own
            inputs = [at(variable, inner) for variable in equation.invars]
            if equation.primitive.name in PLAIN_CALLS:
                call = Scope(str(equation.params.get("name", equation.primitive.name)), next(self.calls))
                inside, values = held(equation)
                places = [self.add(CONSTANT, (), value, scope=inner) for value in values]
                results = self.enter(inside, places, inputs, (*inner, call), source)
            else:
                results = self.apply(equation, inputs, inner, source)
            known |= dict(zip(equation.outvars, results, strict=True))
        return [at(variable, scope) for variable in jaxpr.outvars]

    def apply(self, equation: Any, inputs: list[int], scope: tuple[Scope, ...], source: str) -> list[int]:
        """The nodes of the results of an operation."""
        if equation.primitive.name == "convert_element_type":
            (operand,) = (self.nodes[i].value for i in inputs)
            if operand.dtype == equation.outvars[0].aval.dtype:  # from a Python number, to the same dtype
                return inputs
        values = execute(equation, [self.nodes[i].value for i in inputs])
        where: dict[str, Any] = {"scope": scope, "source": source}
        value = values[0] if len(values) == 1 else tuple(values)
        node = self.add(equation.primitive.name, inputs, value, equation=equation, **where)
        if len(values) == 1:
            return [node]
        return [self.add(RESULT, (node,), x, item=i, name=f"[{i}]", **where) for i, x in enumerate(values)]


def record(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any]) -> tuple[list[Node], list[int]]:
    """The nodes of a program, and which are its results; its operands are nodes INPUT, the first ones."""
    recorder = Recorder()
    inputs = [recorder.add(INPUT, (), x) for x in operands]
    fixed = [recorder.add(CONSTANT, (), x) for x in constants]
    outputs = recorder.enter(jaxpr, fixed, inputs, (), "")
    return recorder.nodes, outputs


def needed(nodes: Sequence[Node], outputs: Sequence[int], inputs: int) -> tuple[list[Node], list[int]]:
    """The first `inputs` nodes and those that the outputs depend on, numbered anew."""
    keep = {*outputs, *range(inputs)}
    for node in reversed(nodes):
        if node.index in keep:
            keep.update(node.operands)
    place = {old: new for new, old in enumerate(sorted(keep))}
    kept = [nodes[old] for old in sorted(keep)]
    kept = [n._replace(index=place[n.index], operands=tuple(place[i] for i in n.operands)) for n in kept]
    return kept, [place[i] for i in outputs]


@contextlib.contextmanager
def calls_as_scopes() -> Iterator[None]:
    """Inside, what a Python function outside of JAX computes is in a `jax.named_scope` of this call."""
    open_scopes: list[tuple[Any, Any]] = []
    numbers = itertools.count(1)
    earlier = sys.getprofile()

    def observe(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code.co_name.startswith("<") or _is_library(code.co_filename):
                return
            scope = jax.named_scope(f"{code.co_name}{_MARK}{next(numbers)}")
            scope.__enter__()
            open_scopes.append((frame, scope))
        elif event == "return" and open_scopes and open_scopes[-1][0] is frame:
            open_scopes.pop()[1].__exit__(None, None, None)

    sys.setprofile(observe)
    try:
        yield
    finally:
        sys.setprofile(earlier)
        while open_scopes:
            open_scopes.pop()[1].__exit__(None, None, None)


@functools.cache
def _is_library(path: str) -> bool:
    """Whether a file is JAX's or of Python's standard library; other packages may lie inside of that folder."""
    if path.startswith(_JAX):
        return not path.startswith(_NETWORKS)  # whose functions are those that people know by name
    return path.startswith("<frozen") or (  # what is typed at a prompt is in "<stdin>"
        path.startswith(_PYTHON) and "site-packages" not in path and "dist-packages" not in path
    )


def _scopes(equation: Any) -> tuple[Scope, ...]:
    """Those in the name stack of an equation: `f#3/jvp(g#4)`."""
    found = []
    for part in filter(None, str(equation.source_info.name_stack).split("/")):
        name, _, number = part.rpartition("(")[2].rstrip(")").partition(_MARK)
        if name and "transpose(" in part:  # the backward pass of a call, which is not where the call is
            name = f"transpose({name})"
        if name:  # a transformation of a function without a name: vmap()
            found.append(Scope(name, int(number) if number.isdecimal() else 0))
    return tuple(found)


def without_root(nodes: Sequence[Node], root: str) -> list[Node]:
    """Without the scope of the function itself, which all nodes are in."""
    nodes = list(nodes)
    while True:  # twice where it is jitted
        first = {node.scope[:1] for node in nodes if not node.is_leaf}
        if len(first) != 1 or [scope.name for scope in first.pop()] != [root]:
            return nodes
        nodes = [node._replace(scope=node.scope[1:]) for node in nodes]


def named(nodes: Sequence[Node]) -> list[Node]:
    """With the variable's name where a node is the last of a line that assigns to one."""
    last: dict[tuple[str, Any], int] = {}
    for node in nodes:
        if node.source and node.operation != RESULT:
            last[node.source, _call_of(node)] = node.index
    names = {index: _target(source) for (source, _), index in last.items()}
    return [node._replace(name=node.name or names.get(node.index, "")) for node in nodes]


def _call_of(node: Node) -> tuple[Scope, ...]:
    """The call of the function that a node's line is in, not of those that the line calls."""
    function = node.source.rpartition("(")[2].rstrip(")").rpartition(".")[2]
    depth = max((i + 1 for i, scope in enumerate(node.scope) if scope.name == function), default=0)
    return node.scope[:depth]


def _target(source: str) -> str:
    """q, where the line is `q = x + y`."""
    place, _, function = source.partition(" (")
    path, _, number = place.rpartition(":")
    if "<lambda>" in function:  # q = lambda x: …
        return ""
    match = _ASSIGNMENT.match(linecache.getline(path, int(number))) if number.isdecimal() else None
    return match[1] if match else ""


def closed_over(function: Callable[..., Any]) -> dict[int, str]:
    """Names of arrays that a function takes from around it, by their identity."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        variables = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):  # not written in Python; a variable that has no value yet
        return {}
    names = {}
    for name, value in {**variables.globals, **variables.nonlocals}.items():
        if not inspect.ismodule(value) and not callable(value):
            for path, leaf in jax.tree_util.tree_leaves_with_path(value):
                names[id(leaf)] = name + jax.tree_util.keystr(path)
    return names


def argument_names(function: Callable[..., Any], arguments: Sequence[Any]) -> list[str]:
    """What each leaf of the arguments is called: "params['w']"."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = []
    for i, argument in enumerate(arguments):
        title = positional[i] if i < len(positional) else f"argument {i}"
        names += [title + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(argument)]
    return names


def _array(value: Any, aval: Any) -> Any:
    return value if isinstance(value, jax.Array) else np.asarray(value, aval.dtype)
