"""The reverse sweep of a program, with a tap on every edge: what a mistake in one place does to the whole gradient.

An edge is one use of a value by one equation. In the reverse sweep its cotangent is what that use contributes to the
cotangent of the value, and everything after it is linear: if the cotangent of edge e changes by δ, the gradient changes
by T_e δ. So one compiled program, a function of the additions δ at all edges, tells the gradient of every wrong
derivation:

    path dropped      δ = −c_e            path doubled      δ = c_e         (c_e: the cotangent of the edge)
    wrong local rule  δ = c'_e − c_e      (c'_e: what the wrong rule makes of the cotangent of the equation's output)

and each costs one evaluation, not one trace or compilation. A mistake that is made at several edges (in every step of a
loop, say) is made at the last equation first, whose change is in the cotangents from which the next is found.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.base import Array
from fundamentals.program import Program, evaluate, execute, read


class Edge(NamedTuple):
    """The use of a value by an equation, both by number."""

    equation: int
    operand: int


class Sweep(NamedTuple):
    """What a forward and a reverse sweep leave behind."""

    values: dict[Any, Any]  # of every variable of the program
    cotangents: dict[Edge, Any]  # of every edge with floating values, before its addition
    outputs: dict[Any, Any]  # the cotangent of every floating variable that an equation results in
    gradient: list[Any]  # the cotangent of each input leaf; None where it is not floating


def compile_sweep(program: Program) -> Callable[..., Sweep]:
    """`run(leaves, dy, additions={}) -> Sweep`, compiled once.

    leaves: arguments of the program. dy: a cotangent for each leaf of its result; those of results that are not
    floating are not looked at. additions: δ of some edges.
    """
    jaxpr = program.jaxpr.jaxpr
    edges = {
        Edge(i, j): variable.aval
        for i, equation in enumerate(jaxpr.eqns)
        for j, variable in enumerate(equation.invars)
        if not isinstance(variable, core.Literal) and is_inexact(variable)
    }
    inexact = [i for i, variable in enumerate(jaxpr.invars) if is_inexact(variable)]
    results = [i for i, variable in enumerate(jaxpr.outvars) if is_inexact(variable)]
    named = list(dict.fromkeys([*jaxpr.constvars, *jaxpr.invars, *(v for e in jaxpr.eqns for v in e.outvars)]))

    @jax.jit
    def run(leaves: list[Array], dy: list[Array], additions: dict[Edge, Array]) -> tuple[Any, ...]:
        def forward(differentiable: list[Array], taps: dict[Edge, tuple[Array, Array]]) -> tuple[list[Array], Any]:
            arguments = list(leaves)
            for i, x in zip(inexact, differentiable, strict=True):
                arguments[i] = x

            def tapped(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
                edges = [Edge(i, j) for j in range(len(operands))]
                return execute(
                    equation, [_tapped(x, taps[e]) if e in taps else x for e, x in zip(edges, operands, strict=True)]
                )

            known = evaluate(jaxpr, program.jaxpr.consts, arguments, tapped)
            return read(known, [jaxpr.outvars[i] for i in results]), [known[variable] for variable in named]

        taps = {edge: (jnp.zeros_like(addition), addition) for edge, addition in additions.items()}
        _, pullback, values = jax.vjp(forward, [leaves[i] for i in inexact], taps, has_aux=True)
        gradient, seen = pullback([dy[i] for i in results])
        return values, gradient, {edge: cotangent for edge, (cotangent, _) in seen.items()}

    nothing = {edge: np.zeros(aval.shape, aval.dtype) for edge, aval in edges.items()}

    def call(leaves: list[Any], dy: list[Any], additions: Mapping[Edge, Any] = {}) -> Sweep:
        found = run(leaves, dy, {**nothing, **{e: np.asarray(x, nothing[e].dtype) for e, x in additions.items()}})
        values, gradient, cotangents = found
        values = [x if _is_key(x) else np.asarray(x) for x in values]
        cotangents = {edge: np.asarray(x) for edge, x in cotangents.items()}
        outputs: dict[Any, Any] = {}
        for edge, cotangent in cotangents.items():
            variable = jaxpr.eqns[edge.equation].invars[edge.operand]
            outputs[variable] = outputs.get(variable, 0) + cotangent + additions.get(edge, 0)
        for i in results:
            if not isinstance(jaxpr.outvars[i], core.Literal):
                outputs[jaxpr.outvars[i]] = outputs.get(jaxpr.outvars[i], 0) + np.asarray(dy[i])
        by_leaf = dict(zip(inexact, map(np.asarray, gradient), strict=True))
        return Sweep(
            dict(zip(named, values, strict=True)), cotangents, outputs, [by_leaf.get(i) for i in range(len(leaves))]
        )

    return call


@jax.custom_vjp
def _tapped(x: Array, tap: tuple[Array, Array]) -> Array:
    """x; in reverse the cotangent plus the second of the tap, whose first gets the cotangent itself as its own."""
    return x


def _tapped_fwd(x: Array, tap: tuple[Array, Array]) -> tuple[Array, Array]:
    return x, tap[1]


def _tapped_bwd(addition: Array, dx: Array) -> tuple[Array, tuple[Array, Array]]:
    return dx + addition, (dx, jnp.zeros_like(dx))


_tapped.defvjp(_tapped_fwd, _tapped_bwd)


def is_inexact(variable: Any) -> bool:
    """Whether a variable holds floating or complex numbers."""
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.inexact))


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
