"""What a stage costs in the compiled program: FLOPs, and bytes that stay from its forward to its backward pass.

A jaxpr does not say what is kept: it lists the residuals of each operation, many of which XLA computes again from
others where that is cheap (in a fused loop), and some of which are the next stage's input. So each stage is compiled,
alone, with a probe between its passes: a loop that XLA can't look into, which holds so much memory that the program
needs most of it there. What the program needs beyond the loop's own is the tape.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array, ArrayTree, Rule, hand_derived
from fundamentals.memory.checkpointing.chains import Stage, bits_of, recompute_later
from fundamentals.memory.checkpointing.dynamic_program import StageCost


def stage_costs(stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree) -> tuple[tuple[StageCost, ...], int]:
    """The costs of each stage, and the bytes of the first input.

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
        function = hand_derived(stage) if isinstance(stage, Rule) else stage
        if key not in measured:
            measured[key] = _measure(functools.partial(_call, function), shapes, carry)
        cost, carry = measured[key]
        found.append(cost)
    return tuple(found), first


def _call(function: Callable[[Any, Any], Any], p: Any, x: Any) -> Any:
    return function(p, x)


def _measure(stage: Callable[[Any, Any], Any], p: Any, x: Any) -> tuple[StageCost, Any]:
    y = jax.eval_shape(stage, p, x)
    forward = jax.jit(stage).lower(p, x).compile()
    both = _probe(stage, p, x, y, 0)
    flops = _flops(forward)
    size = 2 * tree_bytes((p, x, y)) + temp_bytes(both)  # more than what else may be alive
    tape = max(temp_bytes(_probe(stage, p, x, y, size // 4)) - size // 4 * 4, tree_bytes(y))
    cost = StageCost(
        forward=flops,
        backward=max(_flops(both) - flops, 0.0),
        output=tree_bytes(y),
        tape=tape,
        forward_workspace=temp_bytes(forward),
        backward_workspace=max(temp_bytes(both) - tape - tree_bytes((x, y)), 0),
    )
    return cost, y


def _probe(stage: Callable[[Any, Any], Any], p: Any, x: Any, y: Any, size: int) -> Any:
    """A stage's passes, compiled, with a loop between them that holds so many numbers of 4 bytes."""

    def both(p: Any, x: Any, gradients: Any) -> Any:
        y, pullback = jax.vjp(stage, p, x)

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
        return jax.tree.map(lambda total, g: total + g, gradients, _inexact(pullback(_fill(y, dy))))

    return jax.jit(both, donate_argnums=2).lower(p, x, _inexact((p, x))).compile()


def _fill(like: Any, value: Array) -> Any:
    """A cotangent whose entries are all the same."""

    def full(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return _float0(leaf)
        return jnp.full(leaf.shape, value.astype(leaf.dtype))

    return jax.tree.map(full, like)


def _float0(leaf: Any) -> Any:
    return np.zeros(leaf.shape, jax.dtypes.float0)


def _inexact(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def tree_bytes(tree: Any) -> int:
    """Of all arrays; keys as their data."""

    def size(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.eval_shape(jax.random.key_data, leaf)
            return int(data.size * data.dtype.itemsize)
        return int(leaf.size * leaf.dtype.itemsize)

    return sum(map(size, jax.tree.leaves(tree)))


def temp_bytes(compiled: Any) -> int:
    """Memory that a program needs besides its arguments and results."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise NotImplementedError(f"plan: {jax.default_backend()} does not say how much memory a program needs")
    return int(analysis.temp_size_in_bytes)


def _flops(compiled: Any) -> float:
    analysis = compiled.cost_analysis() or {}
    return max(float(analysis.get("flops", 0.0)), 0.0)
