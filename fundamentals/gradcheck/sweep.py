"""The reverse sweep of a program, with a tap on every edge: what a mistake in one place does to the whole gradient.

An edge is one use of a value by one equation. In the reverse sweep its cotangent is what that use contributes to the
cotangent of the value, and everything after it is linear: if the cotangent of edge e changes by δ, the gradient changes
by T_e δ. So one compiled program, a function of the additions δ at all edges, tells the gradient of every wrong
derivation that is wrong in one place:

    path dropped      δ = −c_e            path doubled      δ = c_e         (c_e: the cotangent of the edge)
    wrong local rule  δ = c'_e − c_e      (c'_e: what the wrong rule makes of the cotangent of the equation's output)

and each costs one evaluation, not one trace or compilation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from fundamentals.base import Array
from fundamentals.program import Program, evaluate, execute, read


class Edge(NamedTuple):
    """The use of a value by an equation, both by number."""

    equation: int
    operand: int


class Sweep(NamedTuple):
    """What a forward and a reverse sweep leave behind."""

    values: dict[Any, Array]  # of every variable of the program
    cotangents: dict[Edge, Array]  # of every edge with floating values
    gradient: list[Array | None]  # the cotangent of each input leaf; None where it is not floating
    transport: Callable[[Edge, Array], list[Array | None]]  # T_e δ, by leaf


def sweep(program: Program, leaves: list[Any], dy: list[Any]) -> Sweep:
    """Evaluate a program and differentiate it in reverse.

    Args:
      program: from `fundamentals.program.flatten`.
      leaves: its arguments.
      dy: a cotangent for each leaf of its result; those of results that are not floating are not looked at.
    """
    jaxpr = program.jaxpr.jaxpr
    edges = [
        Edge(i, j)
        for i, equation in enumerate(jaxpr.eqns)
        for j, variable in enumerate(equation.invars)
        if not isinstance(variable, core.Literal) and _is_floating(variable)
    ]
    floating = [i for i, variable in enumerate(jaxpr.invars) if _is_floating(variable)]
    results = [i for i, variable in enumerate(jaxpr.outvars) if _is_floating(variable)]

    def forward(differentiable: list[Array], taps: dict[Edge, tuple[Array, Array]]) -> tuple[list[Array], list[Array]]:
        arguments = list(leaves)
        for i, x in zip(floating, differentiable, strict=True):
            arguments[i] = x

        def tapped(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
            edges = [Edge(i, j) for j in range(len(operands))]
            return execute(
                equation, [_tapped(x, taps[e]) if e in taps else x for e, x in zip(edges, operands, strict=True)]
            )

        known = evaluate(jaxpr, program.jaxpr.consts, arguments, tapped)
        return read(known, [jaxpr.outvars[i] for i in results]), list(known.values())

    @jax.jit
    def run(additions: dict[Edge, Array]) -> tuple[list[Array], list[Array], dict[Edge, Array]]:
        taps = {edge: (jnp.zeros_like(addition), addition) for edge, addition in additions.items()}
        _, pullback, values = jax.vjp(forward, [leaves[i] for i in floating], taps, has_aux=True)
        gradient, seen = pullback([dy[i] for i in results])
        return values, gradient, {edge: cotangent for edge, (cotangent, _) in seen.items()}

    nothing = {
        edge: jnp.zeros(aval.shape, aval.dtype)
        for edge in edges
        for aval in [jaxpr.eqns[edge.equation].invars[edge.operand].aval]
    }
    values, gradient, cotangents = run(nothing)

    def by_leaf(found: list[Array]) -> list[Array | None]:
        known = dict(zip(floating, found, strict=True))
        return [known.get(i) for i in range(len(leaves))]

    def transport(edge: Edge, addition: Array) -> list[Array | None]:
        _, changed, _ = run(nothing | {edge: jnp.asarray(addition, nothing[edge].dtype)})
        return by_leaf([a - b for a, b in zip(changed, gradient, strict=True)])

    return Sweep(dict(zip(_variables(jaxpr), values, strict=True)), cotangents, by_leaf(gradient), transport)


@jax.custom_vjp
def _tapped(x: Array, tap: tuple[Array, Array]) -> Array:
    """x; in reverse the cotangent plus the second of the tap, whose first gets the cotangent itself as its own."""
    return x


def _tapped_fwd(x: Array, tap: tuple[Array, Array]) -> tuple[Array, Array]:
    return x, tap[1]


def _tapped_bwd(addition: Array, dx: Array) -> tuple[Array, tuple[Array, Array]]:
    return dx + addition, (dx, jnp.zeros_like(dx))


_tapped.defvjp(_tapped_fwd, _tapped_bwd)


def _variables(jaxpr: Any) -> list[Any]:
    """Every variable of a jaxpr once, in the order in which a forward sweep comes to know them."""
    order = [*jaxpr.constvars, *jaxpr.invars]
    for equation in jaxpr.eqns:
        order += equation.outvars
    return list(dict.fromkeys(order))


def _is_floating(variable: Any) -> bool:
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.floating))
