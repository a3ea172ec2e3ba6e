"""Derivatives of loops and branches: backward through a loop is a loop backwards.

A scan takes a state through the same body again and again. Its backward pass computes the states once more, keeping
each, and then takes the cotangent of the state through the body's own backward pass, from the last step to the first;
what all steps share gets the sum over the steps. A `while` loop has run by the time that it is differentiated, so its
number of steps is known and it is the same (`jax.grad` has to refuse). Of a branch, only the case that was taken
counts.

`pullback(jaxpr, constants, operands, cotangents)` is the backward pass of a body, by the same table, operation by
operation: one cotangent for each operand, None where it is not floating.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core

from fundamentals.graph.calls import Call, Derivative
from fundamentals.program import held, programs, whole_and_carried

Pullback: TypeAlias = Callable[[Any, Sequence[Any], Sequence[Any], Sequence[Any]], list[Any]]


class Steps(NamedTuple):
    """A loop that has run. Stacked: entries of all steps, along a leading axis, in the order in which they ran."""

    body: Any  # its program
    constants: Sequence[Any]  # of that program
    fixed: list[Any]  # operands that are the same in all steps
    states: list[Any]  # stacked: before each step
    items: list[Any]  # stacked: what each step gets of a sequence
    length: int
    by_hand: bool  # whether the steps are run one by one, as their bodies need known values

    def operands(self, step: int) -> list[Any]:
        """What the body gets at a step."""
        return [*self.fixed, *(stack[step] for stack in (*self.states, *self.items))]


class Back(NamedTuple):
    """The backward pass of a loop."""

    fixed: list[Any]
    initial: list[Any]
    items: list[Any]  # stacked
    after: list[Any]  # stacked: of the results of the body at each step, the state after it first


def steps_of(call: Call) -> Steps:
    """The steps of a scan or a `while` loop."""
    return _scan_steps(call) if call.equation.primitive.name == "scan" else _while_steps(call)


def loop_back(call: Call, g: Sequence[Any], pullback: Pullback) -> Back:
    """The backward pass of a scan or a `while` loop, from the cotangents of all its results."""
    return _back(steps_of(call), *_split(call, g), pullback)


def scan(call: Call, g: Sequence[Any], pullback: Pullback) -> Derivative:
    """Of the constants, the first state and the sequences."""
    back = loop_back(call, g, pullback)
    items = [x if x is None else _in_order(call, x) for x in back.items]
    return *back.fixed, *back.initial, *items


def while_loop(call: Call, g: Sequence[Any], pullback: Pullback) -> Derivative:
    """Of what the condition takes, which gets none, the constants of the body and the first state."""
    back = loop_back(call, g, pullback)
    unused = len(call.operands) - len(back.fixed) - len(back.initial)
    return *(None for _ in range(unused)), *back.fixed, *back.initial


def cond(call: Call, g: Sequence[Any], pullback: Pullback) -> Derivative:
    """Through the case that was taken."""
    index, *operands = call.operands
    cases = call.params["branches"]
    if not isinstance(index, jax.core.Tracer):
        case = cases[int(index)]
        return None, *pullback(case.jaxpr, case.consts, operands, g)

    def back(case: Any) -> Callable[..., Any]:
        return lambda: [
            jnp.zeros(jnp.shape(x), jnp.result_type(x)) if dx is None and is_inexact(x) else dx
            for x, dx in zip(operands, pullback(case.jaxpr, case.consts, operands, g), strict=True)
        ]

    return None, *jax.lax.switch(index, [back(case) for case in cases])


def branch(call: Call) -> core.ClosedJaxpr:
    """The case of a `cond` that was taken."""
    case: core.ClosedJaxpr = call.params["branches"][int(call.operands[0])]
    return case


def is_inexact(x: Any) -> bool:
    """Whether a value is of floating or complex numbers."""
    return bool(jnp.issubdtype(jnp.result_type(x) if not hasattr(x, "dtype") else x.dtype, jnp.inexact))


def _scan_steps(call: Call) -> Steps:
    body, constants = held(call.equation)
    whole, carried = whole_and_carried(call.equation, body)
    fixed, state = list(call.operands[: whole - carried]), list(call.operands[whole - carried : whole])
    items = [_in_order(call, x) for x in call.operands[whole:]]
    length, by_hand = call.params["length"], _holds_while(body)

    def step(state: list[Any], item: list[Any]) -> tuple[list[Any], list[Any]]:
        return _run(body, constants, [*fixed, *state, *item])[:carried], state

    _, states = _scan(step, state, items, length, by_hand)
    return Steps(body, constants, fixed, states, items, length, by_hand)


def _while_steps(call: Call) -> Steps:
    test, body = call.params["cond_jaxpr"], call.params["body_jaxpr"]
    tested, fixed = call.params["cond_nconsts"], call.params["cond_nconsts"] + call.params["body_nconsts"]
    state, shared = list(call.operands[fixed:]), tested

    def goes_on(state: Sequence[Any]) -> Any:
        return _run(test.jaxpr, test.consts, [*call.operands[:tested], *state])[0]

    if test.out_avals[0].shape:  # under vmap: as many loops at once, some of which end before others
        first = goes_on(state)
        shared, body = 0, jax.make_jaxpr(lambda *operands: _side_by_side(call, operands, first))(*call.operands)
    operands = list(call.operands[shared:fixed])

    def step(state: list[Any]) -> list[Any]:
        return _run(body.jaxpr, body.consts, [*operands, *state])

    def counted(state: list[Any]) -> Any:
        start = (jnp.zeros((), int), state)
        return jax.lax.while_loop(lambda c: jnp.any(goes_on(c[1])), lambda c: (c[0] + 1, step(c[1])), start)[0]

    length = int(jax.jit(counted)(state))
    _, states = jax.lax.scan(lambda state, _: (step(state), state), state, length=length)
    return Steps(body.jaxpr, body.consts, operands, states, [], length, _holds_while(body.jaxpr))


def _side_by_side(call: Call, operands: Sequence[Any], first: Any) -> list[Any]:
    """A step of the loops that go on; the states of the others stay.

    The body is not evaluated at a state where its loop has ended, at which its derivative may be infinite: there it
    gets the state with which the loop began, or of one that never did, that of another one. `first`: which have begun.
    """
    test, body = call.params["cond_jaxpr"], call.params["body_jaxpr"]
    tested, fixed = call.params["cond_nconsts"], call.params["cond_nconsts"] + call.params["body_nconsts"]
    state, began = operands[fixed:], call.operands[fixed:]
    (on,) = _run(test.jaxpr, test.consts, [*operands[:tested], *state])

    def masked(on: Any, new: Any, old: Any) -> Any:
        return jnp.where(jax.lax.broadcast_in_dim(on, jnp.shape(new), range(on.ndim)), new, old)

    some = jnp.argmax(first.ravel())
    others = [jnp.broadcast_to(x.reshape(-1, *x.shape[on.ndim :])[some], x.shape) for x in began]
    safe = [masked(first, x, other) for x, other in zip(began, others, strict=True)]
    inside = [masked(on, x, other) for x, other in zip(state, safe, strict=True)]
    after = _run(body.jaxpr, body.consts, [*operands[tested:fixed], *inside])
    return [masked(on, new, old) for new, old in zip(after, state, strict=True)]


def _split(call: Call, g: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The cotangents of the last state, and those of what the steps emitted."""
    if call.equation.primitive.name == "while":
        return list(g), []
    body, _ = held(call.equation)
    _, carried = whole_and_carried(call.equation, body)
    return list(g[:carried]), [_in_order(call, x) for x in g[carried:]]


def _back(steps: Steps, last: list[Any], emitted: list[Any], pullback: Pullback) -> Back:
    """Cotangents go by their place in these lists; None where the value is not floating."""
    if not steps.length:
        return Back([None] * len(steps.fixed), last, [None] * len(steps.items), [])
    first = steps.operands(0)
    floating = [is_inexact(x) for x in first]
    split, end = len(steps.fixed), len(steps.fixed) + len(steps.states)

    def filled(dx: list[Any]) -> list[Any]:
        return [_zeros(x) if y is None and f else y if f else None for x, y, f in zip(first, dx, floating, strict=True)]

    def step(carry: Any, inputs: Any) -> Any:
        state, total = carry
        own, item, dy = inputs
        back = filled(pullback(steps.body, steps.constants, [*steps.fixed, *own, *item], [*state, *dy]))
        total = [t if t is None else t + dx for t, dx in zip(total, back[:split], strict=True)]
        return (back[split:end], total), (back[end:], [*state, *dy])

    final = [dx if f else None for dx, f in zip(last, floating[split:end], strict=True)]
    start = (final, filled([None] * len(first))[:split])
    (initial, total), (items, after) = _scan(
        step, start, (steps.states, steps.items, emitted), steps.length, steps.by_hand, reverse=True
    )
    return Back(total, initial, items, after)


def _scan(step: Callable[..., Any], state: Any, items: Any, length: int, by_hand: bool, reverse: bool = False) -> Any:
    """`jax.lax.scan`; by hand the steps are taken outside of JAX, with values that are known."""
    if not by_hand or not length:
        return jax.lax.scan(step, state, items, length=length, reverse=reverse)
    emitted: list[Any] = [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        state, emitted[i] = step(state, jax.tree.map(operator.itemgetter(i), items))
    return state, jax.tree.map(lambda *column: jnp.stack(column), *emitted)


def _in_order(call: Call, x: Any) -> Any:
    """A sequence in the order in which the steps run, or back."""
    return x if x is None or not call.params["reverse"] else jnp.flip(x, 0)


def _run(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    return list(core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, list(constants)))(*operands))


def _zeros(x: Any) -> Any:
    return jnp.zeros(jnp.shape(x), jnp.result_type(x))


def _holds_while(jaxpr: Any) -> bool:
    """Whether there is a loop in it whose number of steps depends on values."""
    return any(
        equation.primitive.name == "while"
        or any(
            _holds_while(getattr(program, "jaxpr", program))
            for value in equation.params.values()
            for program in programs(value)
        )
        for equation in jaxpr.eqns
    )
