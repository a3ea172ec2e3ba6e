"""What a stage costs in the compiled program: FLOPs, and bytes that stay from its forward to its backward pass.

A jaxpr does not say what is kept: it lists the residuals of each operation, many of which XLA computes again from
others where that is cheap (in a fused loop), and some of which are the next stage's input. So each stage is compiled,
alone, with a probe between its passes: a loop that XLA can't look into, which holds so much memory that the program
needs most of it there. What the program needs beyond the loop's own is the tape.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array, ArrayTree, Rule, hand_derived
from fundamentals.memory.checkpointing import pieces
from fundamentals.memory.checkpointing.chains import Stage, bits_of, recompute_later
from fundamentals.memory.checkpointing.dynamic_program import StageCost
from fundamentals.memory.checkpointing.pieces import Piece, tree_bytes


def stage_costs(
    stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree, *, cut: bool = False
) -> tuple[tuple[tuple[StageCost, ...], ...], int]:
    """The costs of each stage's pieces (of which it has one unless it is `cut`), and the bytes of the first input.

    Equal stages at equal shapes are compiled once. FLOPs are those of XLA's cost analysis, which counts the body of a
    loop once.
    """
    carry = jax.eval_shape(lambda: x)
    first, found, measured = tree_bytes(carry), [], {}
    for stage, p in zip(stages, params, strict=True):
        shapes = jax.eval_shape(lambda p=p: p)
        leaves, structure = jax.tree.flatten((shapes, carry))
        key = (
            id(stage),  # not every callable can be hashed
            structure,
            tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves),
        )
        if key not in measured:
            function = hand_derived(stage) if isinstance(stage, Rule) else stage
            own, result = pieces.trace(function, shapes, carry, cut=cut)
            measured[key] = tuple(_measure(piece) for piece in own), result
        costs, carry = measured[key]
        found.append(costs)
    return tuple(found), first


def _measure(piece: Piece) -> StageCost:
    p, x, y = piece.shapes
    forward = jax.jit(lambda p, x: piece.run(p, x)).lower(p, x).compile()
    both = _probe(piece, p, x, y, 0)
    pullback = jax.jit(lambda p, x, dy: jax.vjp(piece.run, p, x)[1](_cotangents(y, dy)))
    unread = pullback.lower(p, x, _inexact(y)).compile()  # where y is wanted by nobody
    flops, total = _flops(forward), _flops(both)
    size = 2 * tree_bytes((p, x, y)) + temp_bytes(both)  # more than what else may be alive
    tape = temp_bytes(_probe(piece, p, x, y, size // 4)) - size // 4 * 4
    tape = max(tape, tree_bytes(y) - tree_bytes(piece.passed_on))
    return StageCost(
        forward=flops,
        backward=max(total - flops, 0.0),
        output=tree_bytes(y),
        tape=tape,
        forward_workspace=temp_bytes(forward),
        backward_workspace=max(temp_bytes(both) - tape - tree_bytes((x, y)), 0),
        again=min(max(_flops(unread) - (total - flops), 0.0), flops),
    )


def _probe(piece: Piece, p: Any, x: Any, y: Any, size: int) -> Any:
    """A piece's passes, compiled, with a loop between them that holds so many numbers of 4 bytes."""

    def both(p: Any, x: Any, gradients: Any) -> Any:
        y, pullback = jax.vjp(piece.run, p, x)

        # The next stage would read y, before and after, so that it is there as an array: loops can't be fused with it.
        def read(i: Array) -> Array:
            entries: list[Array] = [
                jnp.real(jnp.ravel(leaf)[i]).astype(jnp.float32) for leaf in _inexact(y) if leaf.size
            ]
            return sum(entries, start=jnp.zeros((), jnp.float32))

        def hold(state: tuple[Array, Array]) -> tuple[Array, Array]:
            i, held = state
            return i + 1, jax.lax.dynamic_update_index_in_dim(held, held[i] + read(i), i, 0)

        bits = bits_of(y)
        one = 1 + (bits * bits & 2).astype(jnp.int32)  # but XLA does not know
        held = jnp.full(size + 8, bits, jnp.float32)
        i, held = jax.lax.while_loop(lambda state: state[0] < one, hold, (jnp.int32(0), held))
        last = i + (held[i] > 0).astype(jnp.int32)
        _, dy = jax.lax.while_loop(
            lambda state: state[0] < last, lambda state: (state[0] + 1, state[1] + read(state[0])), (one * 0, held[3])
        )
        # Of arguments the backward pass may need other layouts, which XLA would make before the loop.
        arguments = {id(leaf) for leaf in jax.tree.leaves((p, x))}
        pullback = jax.tree.map(
            lambda leaf: recompute_later(leaf, bits_of(dy)) if id(leaf) in arguments else leaf, pullback
        )
        # Donated arrays for the gradients: in those of its own the program would put what is alive before.
        dys = [jnp.full(leaf.shape, dy.astype(leaf.dtype)) for leaf in _inexact(y)]
        return jax.tree.map(lambda total, g: total + g, gradients, _inexact(pullback(_cotangents(y, dys))))

    return jax.jit(both, donate_argnums=2).lower(p, x, _inexact((p, x))).compile()


def _cotangents(y: list[Any], known: Sequence[Array]) -> list[Any]:
    """Those of a result, of which integers and keys have none."""
    remaining = iter(known)
    return [
        next(remaining) if jnp.issubdtype(leaf.dtype, jnp.inexact) else np.zeros(leaf.shape, jax.dtypes.float0)
        for leaf in y
    ]


def _inexact(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def temp_bytes(compiled: Any) -> int:
    """Memory that a program needs besides its arguments and results."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise NotImplementedError(f"plan: {jax.default_backend()} does not say how much memory a program needs")
    return int(analysis.temp_size_in_bytes)


def _flops(compiled: Any) -> float:
    analysis = compiled.cost_analysis() or {}
    return max(float(analysis.get("flops", 0.0)), 0.0)
