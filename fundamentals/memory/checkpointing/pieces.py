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

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from fundamentals import program

# Operations that leave entries as they are, which are part of what reads them.
_LAYOUTS = {"transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "rev", "copy"}


class Piece(NamedTuple):
    """Consecutive equations of a stage, as a function of flat lists: (operands, carry) → carry.

    What is made of a few operands alone, such as a mask of a key, is prepared apart, of other operands if wanted: of
    those that it knows, the compiler would make it once, before all else, and keep it.
    """

    jaxpr: core.ClosedJaxpr  # of the operands, what is prepared, and the carry, one after the other
    prepare: core.ClosedJaxpr  # of some operands
    prepared_from: list[int]  # which these are
    operands: list[Any]  # what it reads of the stage's parameters and of the arrays that the stage closes over

    def run(self, operands: Sequence[Any], carry: Sequence[Any], others: Sequence[Any] | None = None) -> list[Any]:
        """The next carry; `others` stand for the operands that something is prepared from."""
        sources = [operands[i] for i in self.prepared_from] if others is None else others
        prepared = core.jaxpr_as_fun(self.prepare)(*sources)
        return list(core.jaxpr_as_fun(self.jaxpr)(*operands, *prepared, *carry))

    @property
    def shapes(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Of operands, carry and result."""
        jaxpr = self.jaxpr.jaxpr
        return _shapes(jaxpr.invars[: len(self.operands)]), _shapes(self._carry), _shapes(jaxpr.outvars)

    @property
    def passed_on(self) -> list[Any]:
        """Shapes of what of the carry is in its result, unchanged."""
        return _shapes(list(_variables(self._carry) & _variables(self.jaxpr.jaxpr.outvars)))

    @property
    def _carry(self) -> list[Any]:
        return list(self.jaxpr.jaxpr.invars[len(self.operands) + len(self.prepare.jaxpr.outvars) :])


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
    # Mutable arrays are not handed on.
    cut = cut and not any(hasattr(v.aval, "inner_aval") for e in closed.jaxpr.eqns for v in e.outvars)
    variables = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
    held = [*map(jnp.asarray, closed.consts), *jax.tree.leaves(p)]
    return _cut(closed.jaxpr, dict(zip(variables, held, strict=False)), variables[len(held) :], cut), result


def _cut(jaxpr: core.Jaxpr, held: dict[Any, Any], carry: list[Any], cut: bool) -> list[Piece]:
    """Every piece computes what it needs of operands by itself: no carry has it."""
    own: list[Any] = []
    free: list[Any] = []  # of the carry
    dependent = set(carry)
    for equation in jaxpr.eqns:
        if equation.effects or dependent & _variables(equation.invars):
            own.append(equation)
            dependent.update(equation.outvars)
        else:
            free.append(equation)
    grows = [_grows(equation, free, held) for equation in free]
    prepared, rest = ([e for e, grown in zip(free, grows, strict=True) if grown is wanted] for wanted in (True, False))
    ends = [i for i, equation in enumerate(own, 1) if cut and program.matmuls(equation)]
    bounds = [0, *(end for end in ends if end < len(own)), len(own)]
    found = []
    for first, last in itertools.pairwise(bounds):
        equations, later = own[first:last], own[last:]
        results = list(jaxpr.outvars)
        if later:
            read = _variables(results).union(*(_variables(equation.invars) for equation in later))
            made = [*carry, *(variable for equation in equations for variable in equation.outvars)]
            results = [variable for variable in made if variable in read]
        equations, needed = _slice([*rest, *equations], equations, results)
        ready = [v for equation in prepared for v in equation.outvars if v in needed]
        preparing, sources = _slice(free, [], ready)
        operands = [variable for variable in held if variable in needed | sources]
        chosen = [i for i, variable in enumerate(operands) if variable in sources]
        main = jaxpr.replace(constvars=[], invars=[*operands, *ready, *carry], outvars=results, eqns=equations)
        before = jaxpr.replace(constvars=[], invars=[operands[i] for i in chosen], outvars=ready, eqns=preparing)
        both = core.ClosedJaxpr(main, ()), core.ClosedJaxpr(before, ())
        found.append(Piece(*both, chosen, [held[variable] for variable in operands]))
        carry = results
    return found


def _slice(equations: Sequence[Any], wanted: Sequence[Any], results: Sequence[Any]) -> tuple[list[Any], set[Any]]:
    """(those that are wanted, or that these or the results need; all variables that they and the results read)."""
    needed, found, chosen = _variables(results), [], set(map(id, wanted))
    for equation in reversed(equations):
        if id(equation) in chosen or needed & set(equation.outvars):
            found.append(equation)
            needed |= _variables(equation.invars)
    return found[::-1], needed


def _grows(equation: core.JaxprEqn, free: Sequence[Any], held: dict[Any, Any]) -> bool:
    """Whether an equation makes much of few operands, and not just by broadcasting."""
    made, needed = _slice(free, [], equation.outvars)
    sources = [variable for variable in needed if variable in held]
    size, own = tree_bytes(_shapes(sources)), tree_bytes(_shapes(equation.outvars))
    return bool(sources) and size < own and any(e.primitive.name not in _LAYOUTS for e in made)


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


def tree_bytes(tree: Any) -> int:
    """Of all arrays; keys as their data."""

    def size(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return int(data.size * data.dtype.itemsize)
        return int(leaf.size * leaf.dtype.itemsize)

    return sum(map(size, jax.tree.leaves(tree)))
