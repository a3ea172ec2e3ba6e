"""Chains of stages whose reverse pass follows a schedule, on the compiled program and not on paper only.

What a group's backward pass computes again is, to a compiler, what its forward pass has computed: merged by
common-subexpression elimination, nothing is computed again and everything is kept. `jax.checkpoint` puts an
optimization barrier between the two. XLA for the CPU drops it before merging (JAX 0.10; no more in 0.12), so that
memory rises instead of falling. Four things make a schedule hold on both:

- the checkpoint goes through a `where` whose condition always holds, which XLA can't see: it is made of bits of what
  was computed last. So both computations have operands of their own, and are not merged (`recompute_later`);
- for the same reason the group can't be computed again before those bits are there. XLA's scheduler, which on the CPU
  prefers concurrency to memory, has no choice of the order;
- the cotangent that waits goes through a loop of one trip, of which XLA does not know that it is one. Otherwise it may
  be left as a sum of all that it comes from, to be added up wherever it is read (`settle`);
- what is made of parameters alone, such as a mask of a key, goes through a `where` as well, on bits of the carry. Else
  it would be made once for both passes, of all stages before the first (see `pieces`).

The `where` is part of what reads the checkpoint if XLA fuses that, else a pass over it; the loop writes one entry.
What was tried and is undone on 0.10: `jax.checkpoint`, barriers on the operands, `lax.cond`, loops that don't depend on
what they carry. To do all of a group in a loop works, too, but keeps copies of what it carries.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Rule, hand_derived, vary_together
from fundamentals.memory.checkpointing import pieces
from fundamentals.memory.checkpointing.cotangents import has_cotangent, is_zero, join, part, zeros
from fundamentals.memory.checkpointing.pieces import Piece
from fundamentals.memory.checkpointing.schedules import Schedule, check, stages_of

Stage = Callable[[Any, Any], Any] | Rule
"""(params_i, carry) → carry: any JAX function, or a rule derived by hand."""


class Operands(NamedTuple):
    """What stages read, each array once; None in place of those that are in the other list."""

    wanted: list[Any]  # have cotangents
    frozen: list[Any]

    def of(self, places: Sequence[int]) -> tuple[list[Any], list[Any]]:
        """Those at some places."""
        return [self.wanted[k] for k in places], [self.frozen[k] for k in places]


def chain(stages: Sequence[Stage], schedule: Any) -> Callable[[Any, Any], Any]:
    """The composition of stages, whose reverse pass keeps and computes again what a plan says.

    An ordinary differentiable function: values and gradients are those of calling one stage after the other, also under
    `jit`, `vmap` and `shard_map`. What is random in a stage comes from a key in its parameters or in the carry, or is
    closed over, and is drawn again as it was.

    Args:
      stages: l functions of (params_i, carry), which return the next stage's carry: any pytree of arrays. Rules are
        differentiated by hand, functions by autodiff. They may close over arrays, also such as are differentiated. Side
        effects are repeated where a stage is computed again.
      schedule: a `Plan` for these stages, which may cut them into pieces; or nested tuples (see `schedules`) of stages.

    Returns:
      apply(params, x): params has one entry for each stage, x is the first carry. Reverse mode of any order works; that
      of second order keeps what it needs of the first. Forward mode does not (`jax.custom_vjp`). A gradient under
      `vmap` keeps up to half as much again, since each example has bits of its own. To be called under `jax.jit`:
      outside, each call is compiled anew.

    Raises:
      ValueError: the schedule is not one of so many stages; or, by apply, params has not one entry for each, or stages
        don't fall into the pieces of the plan: they are others than it was made for.
      TypeError: stages is no list or tuple, a stage neither a function nor a rule, or params a dict.
    """
    if not isinstance(stages, list | tuple):
        raise TypeError(f"chain: stages is of type {type(stages).__name__}; expected a list or tuple of functions")
    nodes: Schedule = getattr(schedule, "schedule", schedule)
    counts: Sequence[int] = getattr(schedule, "pieces", (1,) * len(stages))
    for i, stage in enumerate(stages):
        if not (callable(stage) or isinstance(stage, Rule)):
            raise TypeError(f"chain: stages[{i}] is of type {type(stage).__name__}; expected a function or a Rule")
    if len(counts) != len(stages):
        raise ValueError(f"chain: the plan is for {len(counts)} stages; expected one for {len(stages)}")
    check(nodes, sum(counts))
    functions = [hand_derived(stage) if isinstance(stage, Rule) else stage for stage in stages]

    def apply(params: Sequence[Any], x: ArrayTree) -> ArrayTree:
        if len(params) != len(functions):
            raise ValueError(
                f"chain: params has {len(params)} entries; expected one for each of {len(functions)} stages"
            )
        if isinstance(params, dict | str):
            raise TypeError(f"chain: params is of type {type(params).__name__}; expected a sequence of entries")
        leaves, structure = jax.tree.flatten(list(params))
        tied = {id(leaf): leaf for leaf in leaves}  # parameters of several stages are one, whose gradient is summed
        varying, x = vary_together((list(tied.values()), x))
        tied = dict(zip(tied, varying, strict=True))
        params = jax.tree.unflatten(structure, [tied[id(leaf)] for leaf in leaves])
        # Arrays that stages close over become operands: a custom_vjp may not close over what is differentiated.
        programs: list[Piece] = []
        carry = jax.eval_shape(lambda: x)
        for i, (stage, p, count) in enumerate(zip(functions, params, counts, strict=True)):
            found, carry = pieces.trace(stage, p, carry, cut=count > 1)
            if len(found) != count:
                raise ValueError(f"chain: stages[{i}] falls into {len(found)} pieces; expected {count}, as in the plan")
            programs += found
        arrays = {id(value): value for program in programs for value in program.operands}
        number = {key: k for k, key in enumerate(arrays)}
        places = [[number[id(value)] for value in program.operands] for program in programs]

        @jax.custom_vjp
        def run(arrays: list[Any], x: list[Any]) -> list[Any]:
            for program, own in zip(programs, places, strict=True):
                x = program.run([arrays[k] for k in own], x)
            return x

        def fwd(arrays: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            # What is frozen is not perturbed: no cotangents are computed for it.
            operands = Operands(*part([leaf.value for leaf in arrays], [has_cotangent(leaf) for leaf in arrays]))
            x = [leaf.value for leaf in x]
            y, kept = forward(nodes, operands, x, x)
            return y, (kept, operands, bits_of(y))

        def bwd(residuals: Any, dy: list[Any]) -> tuple[list[Any], list[Any]]:
            kept, operands, bits = residuals
            totals: list[Any] = [None] * len(operands.wanted)
            dy = [zeros(d.aval) if is_zero(d) else d for d in dy]
            dx = backward(nodes, kept, operands, dy, totals, [bits])
            return totals, dx

        def step(i: int, operands: list[Any], x: list[Any]) -> list[Any]:
            # What is prepared waits for the carry, too: all masks of a chain could be drawn before its first step.
            sources = [operands[j] for j in programs[i].prepared_from]
            return programs[i].run(operands, x, recompute_later(sources, bits_of(x)) if sources else [])

        def forward(nodes: Schedule, operands: Operands, x: list[Any], first: list[Any]) -> tuple[list[Any], list[Any]]:
            kept: list[Any] = []
            for position, node in enumerate(nodes):
                if isinstance(node, tuple):
                    kept.append(x if position else first)
                    for i in stages_of(node):
                        x = step(i, join(*operands.of(places[i])), x)
                else:
                    wanted, frozen = operands.of(places[node])

                    def taped(wanted: list[Any], x: list[Any], node: int = node, frozen: Any = frozen) -> list[Any]:
                        return step(node, join(wanted, frozen), x)

                    x, pullback = jax.vjp(taped, wanted, x)
                    kept.append(pullback)
            return x, kept

        def backward(
            nodes: Schedule, kept: list[Any], operands: Operands, dy: list[Any], totals: list[Any], done: list[Any]
        ) -> list[Any]:
            for node, what in zip(reversed(nodes), reversed(kept), strict=True):
                if isinstance(node, tuple):
                    dy = settle(dy, functools.reduce(jnp.bitwise_xor, done, bits_of(dy)))
                    x = recompute_later(what, bits_of(dy))
                    done.clear()  # what is computed from x comes after it, too
                    _, inner = forward(node, operands, x, what)  # a group in a group may start at the same checkpoint
                    dy = backward(node, inner, operands, dy, totals, done)
                else:
                    seed = bits_of(dy)
                    own, dy = what(dy)
                    for k, cotangent in zip(places[node], own, strict=True):
                        if cotangent is not None:
                            totals[k] = cotangent if totals[k] is None else totals[k] + cotangent
                    done.append(bits_of([totals[k] for k in places[node]], seed))
            return dy

        run.defvjp(fwd, bwd, symbolic_zeros=True)
        return jax.tree.unflatten(jax.tree.structure(carry), run(list(arrays.values()), jax.tree.leaves(x)))

    return apply


def segment_checkpoint(
    stages: Sequence[Stage], segments: int | None = None, policy: Callable[..., bool] | None = None
) -> Callable[[Any, Any], Any]:
    """The textbook form: equal segments, each in a `jax.checkpoint` (Chen et al. 2016).

    A policy of `jax.checkpoint_policies` says what is kept inside of segments. What the compiler makes of it depends
    on its version: see `audit`. √l segments unless given; as many as stages where that is less.
    """
    length = len(stages)
    count = max(1, round(length**0.5)) if segments is None else segments
    _checks.positive_integers("segment_checkpoint", segments=count)
    count = min(count, max(length, 1))
    functions = [hand_derived(stage) if isinstance(stage, Rule) else stage for stage in stages]
    bounds = [-(-s * length // count) for s in range(count + 1)]

    def apply(params: Sequence[Any], x: ArrayTree) -> ArrayTree:
        if len(params) != length:
            raise ValueError(f"segment_checkpoint: params has {len(params)} entries; expected {length}")
        for first, last in itertools.pairwise(bounds):

            def segment(params: Sequence[Any], x: ArrayTree, first: int = first) -> ArrayTree:
                for stage, p in zip(functions[first:], params, strict=False):
                    x = stage(p, x)
                return x

            x = jax.checkpoint(segment, policy=policy)(params[first:last], x)
        return x

    return apply


def bits_of(tree: ArrayTree, seed: Array | int = 0) -> Array:
    """A number that nobody knows before the arrays of a tree are computed: bits of one entry of each.

    Which entry depends on other bits: of a fixed one a compiler could compute that entry alone, and the array at its
    leisure. (XLA for the CPU has not been seen to.)
    """
    seed = jnp.asarray(seed, jnp.uint32)
    bits = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size:
            entry = jax.lax.dynamic_slice(jax.lax.stop_gradient(leaf), _entry(seed, leaf), [1] * leaf.ndim).reshape(())
            bits ^= jax.lax.bitcast_convert_type(jnp.real(entry).astype(jnp.float32), jnp.uint32)
    return bits


def _entry(i: Array, x: Array) -> list[Any]:
    """Indices of an entry of the i-th slice, modulo their number."""
    return [(i % x.shape[0]).astype(jnp.int32), *([jnp.int32(0)] * (x.ndim - 1))] if x.ndim else []


@jax.jit
def recompute_later(tree: ArrayTree, bits: Array) -> ArrayTree:
    """The tree, but not before some bits are there, and not known to be the same. `audit` knows this function by name.

    The square of an integer is 0 or 1 modulo 4, also modulo 2³²: its bit of value 2 is never set.
    """

    def pass_on(x: Array) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(pass_on(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jnp.where((bits * bits & 2) == 0, x, jnp.zeros((), x.dtype))

    return jax.tree.map(pass_on, tree)


@jax.custom_jvp
def settle(tree: ArrayTree, bits: Array) -> ArrayTree:
    """The tree, as arrays. What goes through a loop is fused with neither what it comes from nor what it goes to.

    Else a sum that is cheap to compute again, such as the cotangent in a residual network, which has a summand from
    each block, would be computed anew from all summands wherever it is read, and they all kept for that.
    """
    trips = 1 + (bits * bits & 2).astype(jnp.int32)

    def touch(i: Array, x: Array) -> Array:
        # Writes an entry where it stands: the loop costs nothing, but XLA can't leave it out.
        start = _entry(i, x)
        return jax.lax.dynamic_update_slice(x, jax.lax.dynamic_slice(x, start, [1] * x.ndim), start)

    leaves, structure = jax.tree.flatten(tree)
    held = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size]
    _, settled = jax.lax.while_loop(
        lambda state: state[0] < trips,
        lambda state: (state[0] + 1, [touch(state[0], x) for x in state[1]]),
        (jnp.int32(0), [leaves[i] for i in held]),
    )
    for i, leaf in zip(held, settled, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


@settle.defjvp
def _settle_jvp(primals: Any, tangents: Any) -> Any:
    return settle(*primals), tangents[0]  # the identity, which a loop of unknown length does not show
