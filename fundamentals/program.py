"""Reading JAX programs: any JAX function as a flat list of equations, each with its line in the source.

`jax.make_jaxpr` turns a function into a program, but one whose calls hold programs of their own: `jit`, `checkpoint`,
`custom_jvp`, `custom_vjp`. `flatten` evaluates it equation by equation under a second trace, so that every call is
replaced by what it computes. Two things follow:

- autodiff of a flat program is that of plain arithmetic: custom derivative rules are gone, and what they ought to
  compute is there to compare them with;
- each equation stands for one operation at one place of the user's file, and each variable is one value. Operands that
  are broadcast are so by an equation of their own.

Loops stay single equations, but for scans of at most `unroll` steps, of which every step is written out. The equations
are JAX's own (`jax.extend.core`): `Primitive.bind(*operands, **equation.params)` evaluates one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util

from fundamentals.base import Array

# Calls that are replaced by the program that they hold. Not shard_map, whose program sees other shapes.
_CALLS = {"jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call"}  # remat2: jax.checkpoint

# Operations entry by entry, which take operands of size 1 along an axis, or no axes at all, and broadcast them.
_BROADCASTING = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "max", "min", "atan2", "nextafter", "complex"),
    *("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge"),
}


class Program(NamedTuple):
    """A function at arguments of given shapes."""

    jaxpr: core.ClosedJaxpr  # of the leaves of the arguments, in order
    inputs: tuple[str, ...]  # the path of each leaf: "[0].w"
    outputs: Any  # the structure of the result

    @property
    def equations(self) -> Sequence[Any]:
        """In the order in which they are evaluated."""
        equations: Sequence[Any] = self.jaxpr.jaxpr.eqns
        return equations

    def __call__(self, *args: Any) -> Any:
        """The function's result at other arguments of the same structure and shapes."""
        return jax.tree.unflatten(self.outputs, core.jaxpr_as_fun(self.jaxpr)(*jax.tree.leaves(args)))


def flatten(function: Callable[..., Any], *args: Any, unroll: int = 0) -> Program:
    """The program of a function, with nothing in it but operations.

    Args:
      function: of any pytrees of arrays.
      *args: example arguments; of arrays only shapes and dtypes matter.
      unroll: scans of at most so many steps are written out; longer ones, and other loops, stay whole.
    """
    nested, result = jax.make_jaxpr(function, return_shape=True)(*args)
    leaves = jax.tree_util.tree_leaves_with_path(args)
    values = [leaf for _, leaf in leaves]
    jaxpr = jax.make_jaxpr(lambda *operands: _flat(nested.jaxpr, nested.consts, operands, unroll, None))(*values)
    names = tuple(jax.tree_util.keystr(path) for path, _ in leaves)
    return Program(jaxpr, names, jax.tree.structure(result))


def line(equation: core.JaxprEqn) -> str:
    """Where the user wrote it: `/path/to/file.py:12 (function)`; empty where no line of theirs is known."""
    text = source_info_util.summarize(equation.source_info)  # file:line:column (function)
    place, bracket, function = text.partition(" (")
    parts = place.split(":")
    return ":".join(parts[:-1] if len(parts) > 2 and parts[-1].isdecimal() else parts) + bracket + function


def site(equation: core.JaxprEqn) -> Any:
    """The calls that lead to where an equation is from, to be compared with those of others: the same in each step of a
    loop. None where they are not known.
    """
    traceback: Any = equation.source_info.traceback
    if traceback is None:
        return None
    codes, instructions = traceback.raw_frames()
    return tuple(codes), tuple(instructions)


def evaluate(
    jaxpr: core.Jaxpr, constants: Sequence[Any], operands: Sequence[Any], apply: Callable[[int, Any, list[Any]], Any]
) -> dict[Any, Any]:
    """The value of every variable, of constants and operands first, then in the order of the equations.

    Args:
      jaxpr: a program.
      constants, operands: values of its constants and arguments.
      apply: (number, equation, operands) → results; `execute` is what evaluates an equation as it is.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))
    for i, equation in enumerate(jaxpr.eqns):
        results = apply(i, equation, read(known, equation.invars))
        known |= dict(zip(equation.outvars, results, strict=True))
    return known


def read(known: dict[Any, Any], variables: Sequence[Any]) -> list[Any]:
    """The values of variables, some of which may be literals."""
    return [variable.val if isinstance(variable, core.Literal) else known[variable] for variable in variables]


def execute(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def _flat(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any], unroll: int, caller: Any) -> list[Any]:
    """The results, by operations alone; `caller` is where it is called from, for what JAX itself wrote inside."""

    def apply(_: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        info = equation.source_info if caller is None or line(equation) else caller
        with source_info_util.user_context(info.traceback):
            if equation.primitive.name in _CALLS:
                return _flat(*_body(equation), operands, unroll, info)
            if equation.primitive.name == "scan" and equation.params["length"] <= unroll:
                return _unrolled(equation, operands, unroll, info)
            return execute(equation, _broadcast(equation, operands))

    return read(evaluate(jaxpr, constants, operands, apply), jaxpr.outvars)


def _broadcast(equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """The operands, all of the shape of the result if that is what the operation makes of them. Not literals."""
    if equation.primitive.name not in _BROADCASTING:
        return operands
    (result,) = equation.outvars
    shape = result.aval.shape  # type: ignore[attr-defined]
    return [
        x
        if isinstance(variable, core.Literal) or jnp.shape(x) == shape
        else jax.lax.broadcast_in_dim(x, shape, range(len(shape)) if jnp.ndim(x) else ())
        for variable, x in zip(equation.invars, operands, strict=True)
    ]


def _body(equation: core.JaxprEqn) -> tuple[Any, Sequence[Any]]:
    """The one program that a call or a scan holds, and its constants; versions of JAX name it differently."""
    (held,) = (value for value in equation.params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr))
    return (held.jaxpr, held.consts) if isinstance(held, core.ClosedJaxpr) else (held, ())


def _unrolled(equation: core.JaxprEqn, operands: list[Any], unroll: int, info: Any) -> list[Any]:
    """A scan, step by step. Which operands are constants, state and sequences shows in their shapes: versions of JAX
    name the counts differently.
    """
    body, constants = _body(equation)
    length = equation.params["length"]

    def same(outer: Any, inner: Any) -> bool:
        return bool(outer.aval.shape == inner.aval.shape)

    carried = sum(map(same, equation.outvars, body.outvars))
    whole = sum(map(same, equation.invars, body.invars))
    fixed, state, sequences = operands[: whole - carried], operands[whole - carried : whole], operands[whole:]
    emitted: list[list[Array]] = [[] for _ in range(length)]
    steps = range(length)
    for i in reversed(steps) if equation.params["reverse"] else steps:
        items = [jax.lax.index_in_dim(sequence, i, keepdims=False) for sequence in sequences]
        results = _flat(body, constants, [*fixed, *state, *items], unroll, info)
        state, emitted[i] = results[:carried], results[carried:]
    return [*state, *(jnp.stack(column) for column in zip(*emitted, strict=True))]
