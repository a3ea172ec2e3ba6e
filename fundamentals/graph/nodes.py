"""What a computational graph is made of: plain data, before and after the reverse sweep.

A node is one operation at one place of the user's file, or a leaf: an argument, a constant. Its operands are the nodes
whose values it takes, always earlier ones. After `Graph.backward` it also holds, in the words of the course,

    upstream      ∂L/∂y for its value y: what its children send back, added up
    local         ∂y/∂x for each operand x, where the operation works entry by entry
    downstream    what it sends back to each operand: upstream × local, or the product with the transposed Jacobian

for the scalar L that is differentiated in the end.
"""

from typing import Any, NamedTuple

# Operations that are not JAX's.
INPUT, CONSTANT, LITERAL = "input", "constant", "literal"
RESULT = "result"  # one of several results of an operation
LEAVES = {INPUT, CONSTANT, LITERAL}

# Where the derivative of a node is from.
TABLE = "table"  # this package's, by hand
AUTHOR = "author"  # that of a function with a rule of its own: jax.custom_jvp, jax.custom_vjp
FALLBACK = "jax.vjp"  # of the operation, for which the table has no entry


class Scope(NamedTuple):
    """One call of a Python function, or of a jitted one."""

    name: str
    number: int  # tells it from other calls


class Node(NamedTuple):
    """An operation, or a leaf, and its value."""

    index: int  # type: ignore[assignment]  # its place, not the method of tuples
    operation: str  # JAX's name, "dot_general"; or INPUT, CONSTANT, LITERAL, RESULT
    operands: tuple[int, ...]  # indices of earlier nodes
    value: Any  # an array; a tuple of them where there are several results, each of which is a node RESULT
    name: str = ""  # "params['w']" of an input; "q" where the line is `q = x + y`
    source: str = ""  # "/path/file.py:12 (function)"
    scope: tuple[Scope, ...] = ()  # the calls that it is in, outermost first
    equation: Any = None  # JAX's own, with the parameters of the operation; None for leaves
    item: int = 0  # of a RESULT: which it is
    upstream: Any = None  # of value's structure, shapes and dtypes; None where no gradient flows
    local: tuple[Any, ...] = ()  # one for each operand: a number, or an array as large as value; None if not entrywise
    downstream: tuple[Any, ...] = ()  # one for each operand, of its shape; None where no gradient flows
    derivative: str = ""  # TABLE, AUTHOR or FALLBACK; empty before backward and where no gradient flows
    inside: tuple["Node", ...] = ()  # what a folded node stands for

    @property
    def is_leaf(self) -> bool:
        """Whether it is an argument or a constant."""
        return self.operation in LEAVES and not self.inside  # a function may be called "input"

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"Node({self.index}, {self.operation}{name}, operands={self.operands})"


def called(node: Node) -> str:
    """What an operation is called: by JAX, or by the author of a function with its own derivative rule."""
    if node.inside or not node.operation.startswith("custom_"):
        return node.operation
    params = getattr(node.equation, "params", {})
    program = params.get("call_jaxpr") or params.get("fun_jaxpr")
    info = getattr(getattr(program, "jaxpr", program), "debug_info", None)
    return str(getattr(info, "func_name", "") or "").partition(" ")[0] or node.operation
