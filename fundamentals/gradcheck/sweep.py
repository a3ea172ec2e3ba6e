"""A program's forward and reverse sweep, with a tap on every edge: what a mistake in one place does to the gradient.

An edge is one use of a value by one equation. In the reverse sweep its cotangent is what that use contributes to the
cotangent of the value, and everything after it is linear: if the cotangent of edge e changes by δ, the gradient changes
by T_e δ. So one compiled program, a function of the additions δ at all edges, tells the gradient of every wrong
derivation:

    path dropped      δ = −c_e            path doubled      δ = c_e         (c_e: the cotangent of the edge)
    wrong local rule  δ = c'_e − c_e      (c'_e: what the wrong rule makes of the cotangent of the equation's output)

and each costs one evaluation, not one trace or compilation. A rule that is wrong at several edges (in every step of a
loop, say) is so at the last equation first, whose change is in the cotangents from which the next is found.

Two more things can be done to an edge: a gate multiplies its cotangent, which is a path scaled at several edges at a
time; and a value stands for the one that is used there, which is a backward pass that kept the wrong one.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.base import Array
from fundamentals.gradcheck.evaluation import compiled
from fundamentals.program import Program, evaluate, execute, read


class Edge(NamedTuple):
    """The use of a value by an equation, both by number."""

    equation: int
    operand: int


class Sweep(NamedTuple):
    """What a forward and a reverse sweep leave behind."""

    values: dict[Any, Any]  # of every variable of the program
    cotangents: dict[Edge, Any]  # of every edge with floating values, before its gate and addition
    outputs: dict[Any, Any]  # the cotangent of every floating variable that an equation results in
    gradient: list[Any]  # the cotangent of each input leaf; None where it is not floating


def compile_sweep(program: Program) -> Callable[..., Sweep]:
    """`run(leaves, dy, additions={}, gates={}, others={}) -> Sweep`, compiled once; with `others` once more.

    leaves: arguments of the program. dy: a cotangent for each leaf of its result; those of results that are not
    floating are not looked at. additions: δ of some edges. gates: what the cotangents of some edges are multiplied by.
    others: values that stand for those which some edges use.
    """
    jaxpr = program.jaxpr.jaxpr
    edges = {
        Edge(i, j): variable.aval
        for i, equation in enumerate(jaxpr.eqns)
        for j, variable in enumerate(equation.invars)
        if not isinstance(variable, core.Literal) and is_inexact(variable)
    }
    usable = {  # at which another value may stand: also masks and indices
        Edge(i, j): variable.aval
        for i, equation in enumerate(jaxpr.eqns)
        for j, variable in enumerate(equation.invars)
        if not isinstance(variable, core.Literal) and not _is_key(variable.aval)
    }
    inexact = [i for i, variable in enumerate(jaxpr.invars) if is_inexact(variable)]
    results = [i for i, variable in enumerate(jaxpr.outvars) if is_inexact(variable)]
    named = list(dict.fromkeys([*jaxpr.constvars, *jaxpr.invars, *(v for e in jaxpr.eqns for v in e.outvars)]))

    place = {edge: k for k, edge in enumerate(edges)}
    use = {edge: k for k, edge in enumerate(usable)}

    def sweep(
        leaves: list[Array], dy: list[Array], additions: list[Array], gates: Array, others: list[Array], kept: Array
    ) -> tuple[Any, ...]:
        def used(edge: Edge, x: Any) -> Any:
            if not others or edge not in use:
                return x
            k = use[edge]
            if edge not in place:
                return jnp.where(kept[k], x, others[k])
            return x + jax.lax.stop_gradient(jnp.where(kept[k], 0, others[k] - x))

        def forward(differentiable: list[Array], taps: list[_Tap]) -> tuple[list[Array], Any]:
            arguments = list(leaves)
            for i, x in zip(inexact, differentiable, strict=True):
                arguments[i] = x

            def tapped(i: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
                for j, x in enumerate(operands):
                    edge = Edge(i, j)
                    x = used(edge, x)
                    operands[j] = _tapped(x, taps[place[edge]]) if edge in place else x
                return execute(equation, operands)

            known = evaluate(jaxpr, program.jaxpr.consts, arguments, tapped)
            return read(known, [jaxpr.outvars[i] for i in results]), [known[variable] for variable in named]

        taps = [_Tap(jnp.zeros_like(x), x, gate) for x, gate in zip(additions, gates, strict=True)]
        _, pullback, values = jax.vjp(forward, [leaves[i] for i in inexact], taps, has_aux=True)
        gradient, seen = pullback([dy[i] for i in results])
        return values, gradient, [tap.cotangent for tap in seen]

    run = compiled(sweep, program.jaxpr.in_avals)
    nothing = [np.zeros(aval.shape, aval.dtype) for aval in edges.values()]
    no_others = [np.zeros(aval.shape, aval.dtype) for aval in usable.values()]
    open_gates = np.ones(len(edges))

    def call(
        leaves: list[Any],
        dy: list[Any],
        additions: Mapping[Edge, Any] = {},
        gates: Mapping[Edge, float] = {},
        others: Mapping[Edge, Any] = {},
    ) -> Sweep:
        added, scales = list(nothing), open_gates.copy()
        for edge, x in additions.items():
            added[place[edge]] = np.asarray(x, nothing[place[edge]].dtype)
        for edge, gate in gates.items():
            scales[place[edge]] = gate
        in_place: list[Any] = list(no_others) if others else []
        kept = np.ones(len(usable), bool)
        for edge, x in others.items():
            k = use[edge]
            in_place[k], kept[k] = np.asarray(x, no_others[k].dtype), False
        values, gradient, seen = run(leaves, dy, added, scales, in_place, kept)
        values = [x if _is_key(x) else np.asarray(x) for x in values]
        cotangents = dict(zip(edges, map(np.asarray, seen), strict=True))
        outputs: dict[Any, Any] = {}
        for edge, cotangent in cotangents.items():
            variable = jaxpr.eqns[edge.equation].invars[edge.operand]
            sent = gates.get(edge, 1) * cotangent + additions.get(edge, 0)
            outputs[variable] = outputs.get(variable, 0) + sent
        for i in results:
            if not isinstance(jaxpr.outvars[i], core.Literal):
                outputs[jaxpr.outvars[i]] = outputs.get(jaxpr.outvars[i], 0) + np.asarray(dy[i])
        by_leaf = dict(zip(inexact, map(np.asarray, gradient), strict=True))
        return Sweep(
            dict(zip(named, values, strict=True)), cotangents, outputs, [by_leaf.get(i) for i in range(len(leaves))]
        )

    return call


class _Tap(NamedTuple):
    """What is done to the cotangent of an edge; the cotangent itself is what the first one gets for its own."""

    cotangent: Array
    addition: Array
    gate: Array


@jax.custom_vjp
def _tapped(x: Array, tap: _Tap) -> Array:
    """x; in reverse, gate times the cotangent, plus the addition."""
    return x


def _tapped_fwd(x: Array, tap: _Tap) -> tuple[Array, _Tap]:
    return x, tap


def _tapped_bwd(tap: _Tap, dx: Array) -> tuple[Array, _Tap]:
    gate = tap.gate.astype(dx.dtype)
    return gate * dx + tap.addition, _Tap(dx, jnp.zeros_like(dx), jnp.zeros_like(tap.gate))


_tapped.defvjp(_tapped_fwd, _tapped_bwd)


def is_inexact(variable: Any) -> bool:
    """Whether a variable holds floating or complex numbers."""
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.inexact))


def is_complex(variable: Any) -> bool:
    """Whether a variable holds complex numbers."""
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.complexfloating))


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
