"""Stages as programs, cut after their matrix products: the pieces that plans keep or compute again.

Of a stage that is kept or computed again as a whole, either too much is kept or too much computed. Between two matrix
products come activations, normalizations, masks: cheap, and as large as what the products give. And the backward pass
of a product reads its factors, not its result, so that a group which ends with a product computes all but this again:

    stage i:      z = x w,  x' = gelu(z + b)        pieces:  z = x w  |  x' = gelu(z + b)
    stage i + 1:  z' = x' w', …                              z' = x' w'  |  …

With z as the checkpoint of the group in the middle, x' is computed again and z' is not: half the memory for 1 % of the
operations, where groups of whole stages pay for the product as well. (`jax.checkpoint_policies.dots_saveable` keeps the
same; here the products' results are checkpoints like others, so that some of them may be given up, too.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from fundamentals import program


class Piece(NamedTuple):
    """Consecutive equations of a stage, as a function of flat lists: (operands, carry) → carry."""

    jaxpr: core.ClosedJaxpr  # of the operands and the carry, one after the other
    operands: list[Any]  # what it reads of the stage's parameters and of the arrays that the stage closes over

    def run(self, operands: Sequence[Any], carry: Sequence[Any]) -> list[Any]:
        """The next carry."""
        return list(core.jaxpr_as_fun(self.jaxpr)(*operands, *carry))

    @property
    def shapes(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Of operands, carry and result."""
        jaxpr, count = self.jaxpr.jaxpr, len(self.operands)
        return _shapes(jaxpr.invars[:count]), _shapes(jaxpr.invars[count:]), _shapes(jaxpr.outvars)

    @property
    def passed_on(self) -> list[Any]:
        """Shapes of what of the carry is in its result, unchanged."""
        carry = _variables(self.jaxpr.jaxpr.invars[len(self.operands) :])
        return _shapes(list(carry & _variables(self.jaxpr.jaxpr.outvars)))


def trace(stage: Callable[[Any, Any], Any], p: Any, carry: Any, *, cut: bool) -> tuple[list[Piece], Any]:
    """(a stage's pieces, the shapes of the next carry).

    Args:
      stage: (p, carry) → carry.
      p: its parameters. Arrays that it closes over become operands, too.
      carry: shapes.
      cut: after each equation that multiplies matrices or convolves. Else the stage is one piece.
    """
    # A function of this call's own: JAX remembers traces by function, and what a stage closes over may change.
    shapes = jax.eval_shape(lambda: p)
    closed, result = jax.make_jaxpr(lambda p, x: stage(p, x), return_shape=True)(shapes, carry)
    if cut and any(_is_call(equation) for equation in closed.jaxpr.eqns):
        nested = closed
        closed = jax.make_jaxpr(lambda *args: _open(nested, jax.tree.leaves(args)))(shapes, carry)
    variables = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
    held = [*map(jnp.asarray, closed.consts), *jax.tree.leaves(p)]
    return _cut(closed.jaxpr, dict(zip(variables, held, strict=False)), variables[len(held) :], cut), result


def _cut(jaxpr: core.Jaxpr, held: dict[Any, Any], carry: list[Any], cut: bool) -> list[Piece]:
    equations = jaxpr.eqns
    ends = [i for i, equation in enumerate(equations, 1) if cut and program.matmuls(equation)]
    bounds = [0, *(end for end in ends if end < len(equations)), len(equations)]
    read = [_variables(jaxpr.outvars)]  # at and after each bound, the last one first
    for first, last in zip(bounds[-2::-1], bounds[:0:-1], strict=True):
        read.append(read[-1].union(*(_variables(equation.invars) for equation in equations[first:last])))
    pieces = []
    for first, last, later in zip(bounds, bounds[1:], read[-2::-1], strict=False):
        own = equations[first:last]
        results = list(jaxpr.outvars)
        needed = set().union(*(_variables(equation.invars) for equation in own))
        if last < len(equations):
            made = [*carry, *(variable for equation in own for variable in equation.outvars)]
            results = [variable for variable in made if variable in later]
        else:
            needed |= _variables(results)
        operands = [variable for variable in held if variable in needed]
        piece = jaxpr.replace(constvars=[], invars=[*operands, *carry], outvars=results, eqns=own)
        pieces.append(Piece(core.ClosedJaxpr(piece, ()), [held[variable] for variable in operands]))
        carry = results
    return pieces


def _is_call(equation: core.JaxprEqn) -> bool:
    return equation.primitive.name == "jit" and program.matmuls(equation) > 0


def _open(closed: core.ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
    """The results, where what is behind a `jit` and multiplies matrices is written out."""

    def apply(_: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        return _open(equation.params["jaxpr"], operands) if _is_call(equation) else program.execute(equation, operands)

    jaxpr = closed.jaxpr
    return program.read(program.evaluate(jaxpr, closed.consts, operands, apply), jaxpr.outvars)


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}


def _shapes(variables: Sequence[Any]) -> list[Any]:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type) for v in variables]
