"""`jax.lax.scan` whose gradient keeps c carries, however many steps: the binomial schedule (Griewank & Walther 2000).

Step i of l is (carryᵢ₊₁, yᵢ) = body(carryᵢ, xᵢ). In reverse,

    (dcarryᵢ, dxᵢ, dθᵢ) = (∂body/∂(carry, x, θ))ᵀ (dcarryᵢ₊₁, dyᵢ),   dθ = Σᵢ dθᵢ,                               (1)

where θ is what body closes over, so carryᵢ is needed for i = l − 1 … 0, and nothing else of step i until its turn. The
carries are computed again from the last one that is kept, a *checkpoint*, and new ones are kept on the way: after
which steps is in `schedules.binomial_split`, with which no way to make do with c checkpoints evaluates body less often.

The program is three nested loops, over steps that are reversed, over checkpoints that lead to one, and over steps
between two of them, and the schedule is a stack of positions: how large it is does not depend on l. Nor can a compiler
merge what is computed again with what was computed before, as it does in unrolled code, since the carry of a loop is in
between.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, ArrayTree, accumulation_dtype, vary_together
from fundamentals.memory.checkpointing import schedules
from fundamentals.memory.checkpointing.cotangents import Leaves, has_cotangent, is_zero, join, part, zeros

Carry = TypeVar("Carry")


def checkpointed_scan(
    body: Callable[[Carry, Any], tuple[Carry, Any]],
    init: Carry,
    xs: ArrayTree | None = None,
    length: int | None = None,
    *,
    slots: int | None = None,
    reverse: bool = False,
) -> tuple[Carry, Any]:
    """`jax.lax.scan`, with a gradient that keeps c carries instead of what every step's backward pass needs.

    With r the smallest for which l ≤ C(c + r, c), value and gradient evaluate body

        t(l, c) + l = (r + 1) l − C(c + r, c + 1) ≤ (r + 1) l

    times, the fewest that c carries allow, instead of l: for 1,000 steps, 4.6 times each with 10 carries, 3.7 with 20,
    2.95 with 44, 2 with 999. Besides the carries, one step's intermediates are kept at a time; xs and ys, and their
    cotangents if there are any, are there in full. Without a gradient it is `jax.lax.scan`.

    Args:
      body: (carry, x) → (carry, y), pure. Gradients flow into what it closes over. What it draws at random is the same
        each time that it is evaluated, as keys are in the carry or in xs.
      init: the first carry, any pytree; leaves that are no floating-point numbers (counts, keys) have no gradient.
      xs: a pytree of arrays whose first axes have the steps, or None.
      length: l ≥ 0, for when xs has no arrays.
      slots: c ≥ 1 carries, init among them. Unless given, the fewest for which no step is evaluated more than three
        times: with r = 2, about √(2l). There is nothing to win beyond l − 1.
      reverse: go through xs, and write ys, from the last to the first.

    Returns:
      (the last carry, ys), ys a pytree with the steps along a new first axis.

    Cotangents of half-precision θ are summed over steps in float32. Reverse mode only, once: of a gradient, take
    forward derivatives (`jax.jvp`, `jax.jacfwd`), which keep as few carries. Outside of `jax.jit`, each gradient is
    compiled again.

    Raises:
      ValueError: the steps are not one number of them, or there is no slot.
      TypeError: a count is no integer, or body returns another type of carry than it was given.
      NotImplementedError: reverse mode of a gradient.

    Reference: Griewank & Walther 2000, "Algorithm 799: revolve", ACM TOMS 26(1).

    Example:
      def loss_fn(params, hidden, inputs):
          hidden, outputs = checkpointed_scan(lambda h, x: cell(params, h, x), hidden, inputs, slots=10)
          return jnp.mean(outputs**2)

      gradients = jax.jit(jax.grad(loss_fn))(params, hidden, inputs)
    """
    if not callable(body):
        raise TypeError(f"checkpointed_scan: body is of type {type(body).__name__}; expected a function of (carry, x)")
    _checks.boolean("checkpointed_scan", reverse=reverse)
    steps = _steps(xs, length)
    c = fewest_slots(steps) if slots is None else slots
    _checks.positive_integers("checkpointed_scan", slots=c)
    c = min(int(c), max(steps - 1, 1))

    # The carry's types are those that lax.scan finds, which may make stronger those of init: float32 of 0.0. What is
    # wrong with them, it says.
    init, xs = vary_together((init, xs))
    types, _ = jax.eval_shape(
        lambda init, xs: jax.lax.scan(body, init, xs, length=steps, reverse=bool(reverse)), init, xs
    )
    init = jax.tree.map(_cast, init, types)
    if steps == 0:
        return jax.lax.scan(body, init, xs, length=0)
    first = jax.eval_shape(lambda xs: jax.tree.map(lambda x: x[0], xs), xs)
    # Not jax.closure_convert, which keeps body and all that it closes over for good, and takes a method for the same
    # function when its object has changed.
    program, (_, y) = jax.make_jaxpr(body, return_shape=True)(types, first)

    carries, structure = jax.tree.flatten(init)
    carry_leaves, ys = _differentiable(program, len(carries), steps, c, bool(reverse))(
        carries, jax.tree.leaves(xs), [jnp.asarray(value) for value in program.consts]
    )
    carry: Carry = jax.tree.unflatten(structure, carry_leaves)
    return carry, jax.tree.unflatten(jax.tree.structure(y), ys)


def fewest_slots(length: int) -> int:
    """The fewest slots for which no step is evaluated more than three times: c with l ≤ C(c + 2, 2)."""
    _checks.counts("fewest_slots", length=length)
    c = max(1, (math.isqrt(8 * length + 1) - 3) // 2)
    return c if math.comb(c + 2, 2) >= length else c + 1


class _Stack(NamedTuple):
    """Checkpoints, the last of them on top."""

    carries: Leaves  # [c, ...] each
    positions: Array  # [c]: how many steps lead to each
    filled: Array  # []: how many there are


class _Residuals(NamedTuple):
    stack: _Stack  # after the forward pass
    xs: tuple[Leaves, Leaves]  # [l, ...]: with a cotangent, without
    constants: tuple[Leaves, Leaves]  # θ: with a cotangent, without
    pullback: Any  # of the last step, which needs no second evaluation


def _differentiable(program: Any, carry_size: int, length: int, slots: int, reverse: bool) -> Callable[..., Any]:
    """(carry, xs, θ) → (carry, ys), lists of leaves, for l ≥ 1 steps of a program (carry, x) → (carry, y)."""
    beta = _binomials(length, slots)
    carry_types, y_types = program.out_avals[:carry_size], program.out_avals[carry_size:]
    float_carry, float_y = (
        [jnp.issubdtype(type_.dtype, jnp.inexact) for type_ in types] for types in (carry_types, y_types)
    )

    def step(carry: Leaves, x: Leaves, constants: Leaves) -> tuple[Leaves, Leaves]:
        found = core.jaxpr_as_fun(program.replace(consts=constants))(*carry, *x)
        return found[:carry_size], found[carry_size:]

    def at(i: Any) -> Any:
        return length - 1 - i if reverse else i

    def taped(
        carry: Leaves, x: tuple[Leaves, Leaves], constants: tuple[Leaves, Leaves]
    ) -> tuple[Leaves, Leaves, Callable[..., Any]]:
        """A step and its pullback (dcarry, dy) → (dcarry, dx, dθ)."""
        numbers, others = part(carry, float_carry)

        def differentiated(numbers: Leaves, x_d: Leaves, constants_d: Leaves) -> Any:
            carry, y = step(join(numbers, others), join(x_d, x[1]), join(constants_d, constants[1]))
            (carry_d, rest), (y_d, y_rest) = part(carry, float_carry), part(y, float_y)
            return (carry_d, y_d), (rest, y_rest)

        (carry_d, y_d), pullback, (rest, y_rest) = jax.vjp(differentiated, numbers, x[0], constants[0], has_aux=True)
        return join(carry_d, rest), join(y_d, y_rest), pullback

    @jax.custom_vjp
    def primal(carry: Leaves, xs: Leaves, constants: Leaves) -> tuple[Leaves, Leaves]:
        return jax.lax.scan(lambda c, x: step(c, x, constants), carry, xs, length=length, reverse=reverse)

    def fwd(carry: Leaves, xs: Leaves, constants: Leaves) -> tuple[tuple[Leaves, Leaves], _Residuals]:
        # Data, and parameters that are frozen, are not perturbed: no cotangents are computed for them.
        parted_xs, parted_constants = (
            part([leaf.value for leaf in leaves], [has_cotangent(leaf) for leaf in leaves])
            for leaves in (xs, constants)
        )
        carry, xs, constants = ([leaf.value for leaf in leaves] for leaves in (carry, xs, constants))
        ys = [zeros(type_, length) for type_ in y_types]

        def advance(i: Array, state: tuple[Leaves, Leaves]) -> tuple[Leaves, Leaves]:
            carry, y = step(state[0], _row(xs, at(i)), constants)
            return carry, _with_row(state[1], y, at(i))

        stack = _Stack(
            [jnp.broadcast_to(leaf, (slots, *leaf.shape)) for leaf in carry], jnp.zeros(slots, jnp.int32), jnp.int32(1)
        )
        stack, (carry, ys) = _sweep(advance, beta, stack, (carry, ys), jnp.int32(0), jnp.int32(length - 1))
        last = at(length - 1)
        x = _row(parted_xs[0], last), _row(parted_xs[1], last)
        carry, y, pullback = taped(carry, x, parted_constants)
        ys = _with_row(ys, y, last)
        return (_once(carry), _once(ys)), _Residuals(stack, parted_xs, parted_constants, pullback)

    def bwd(residuals: _Residuals, cotangents: tuple[Leaves, Leaves]) -> tuple[Leaves, Leaves, Leaves]:
        stack, xs, constants, pullback = residuals
        dcarry = [zeros(type_) if is_zero(d) else d for d, type_ in zip(cotangents[0], carry_types, strict=True)]
        dcarry = part(dcarry, float_carry)[0]
        dys = part([None if is_zero(d) else d for d in cotangents[1]], float_y)[0]

        def dy(i: Any) -> Leaves:
            """Rows of ys' cotangents; 0 where nothing depends on a y."""
            rows = _row(dys, at(i))
            missing = [zeros(type_) if row is None else None for type_, row in zip(y_types, rows, strict=True)]
            return part(join(rows, missing), float_y)[0]

        dcarry, dx, dconstants = pullback((dcarry, dy(length - 1)))
        dxs = _with_row([None if x is None else zeros(jax.typeof(x)) for x in xs[0]], dx, at(length - 1))
        sums = [None if d is None else d.astype(accumulation_dtype(d.dtype)) for d in dconstants]

        def advance(i: Array, state: tuple[Leaves]) -> tuple[Leaves]:
            return (step(state[0], _row(join(*xs), at(i)), join(*constants))[0],)

        def reverse_step(k: Array, state: tuple[_Stack, Leaves, Leaves, Leaves]) -> Any:
            stack, dcarry, dxs, sums = state
            i = jnp.int32(length - 2) - k
            top = stack.filled - 1
            position = stack.positions[top]
            carry = _row(stack.carries, top)
            # The checkpoint is used up when it is the input of the step to reverse.
            stack = stack._replace(filled=jnp.where(position == i, top, stack.filled))
            stack, (carry,) = _sweep(advance, beta, stack, (carry,), position, i)
            x = _row(xs[0], at(i)), _row(xs[1], at(i))
            _, _, pullback = taped(carry, x, constants)
            dcarry, dx, dconstants = pullback((dcarry, dy(i)))
            sums = [None if s is None else s + d.astype(s.dtype) for s, d in zip(sums, dconstants, strict=True)]
            return stack, dcarry, _with_row(dxs, dx, at(i)), sums

        _, dcarry, dxs, sums = jax.lax.fori_loop(
            np.int32(0), np.int32(length - 1), reverse_step, (stack, dcarry, dxs, sums)
        )
        dconstants = [None if s is None else s.astype(value.dtype) for s, value in zip(sums, constants[0], strict=True)]
        return _once(dcarry), _once(dxs), _once(dconstants)

    primal.defvjp(fwd, bwd, symbolic_zeros=True)
    return primal


def _sweep(
    advance: Callable[[Array, Any], Any], beta: ArrayLike, stack: _Stack, state: Any, position: Array, last: Array
) -> tuple[_Stack, Any]:
    """Steps from one position to the last, of which state[0] is the carry, keeping checkpoints on the way."""
    slots = stack.positions.shape[0]

    def segment(loop: tuple[_Stack, Any, Array]) -> tuple[_Stack, Any, Array]:
        stack, state, position = loop
        # For the steps ahead there are the slots that are free, and that of the checkpoint which they start from.
        following = position + _split(beta, last + 1 - position, slots - stack.filled + 1)
        state = jax.lax.fori_loop(position, following, advance, state)
        # The input of the last step is used at once. A select instead of a `cond`, which may copy the buffer.
        kept, i = following < last, jnp.minimum(stack.filled, slots - 1)
        rows = [jnp.where(kept, new, old) for new, old in zip(state[0], _row(stack.carries, i), strict=True)]
        positions = stack.positions.at[i].set(jnp.where(kept, following, stack.positions[i]))
        stack = _Stack(_with_row(stack.carries, rows, i), positions, stack.filled + kept.astype(jnp.int32))
        return stack, state, following

    stack, state, _ = jax.lax.while_loop(lambda loop: loop[2] < last, segment, (stack, state, position))
    return stack, state


def _binomials(length: int, slots: int) -> np.ndarray:
    """β(c, r) = C(c + r, c) for all that splits of l steps and fewer ask for, [slots + 1, r + 1]; at most 2³¹ − 1."""
    r = schedules.repetitions(length, slots) if slots > 1 else 0  # r is small: √(2l) for two slots, less for more
    largest = np.iinfo(np.int32).max
    return np.array([[min(math.comb(c + k, c), largest) for k in range(r + 1)] for c in range(slots + 1)], np.int32)


def _split(beta: ArrayLike, length: Array, slots: Array) -> Array:
    """`schedules.binomial_split` where only the device knows l ≥ 2 and c ≥ 1: after how many steps to keep a carry."""
    beta = jnp.asarray(beta)
    r = jnp.sum((beta[slots] < length).astype(jnp.int32), dtype=jnp.int32)
    split = jnp.maximum(beta[slots, jnp.maximum(r - 2, 0)], length - beta[slots - 1, r])  # β(c, 0) = β(c, −1) = 1
    return jnp.where(slots == 1, length - 1, split)


def _steps(xs: ArrayTree | None, length: int | None) -> int:
    """The number of steps that xs and length agree on."""
    if length is not None:
        _checks.counts("checkpointed_scan", length=length)
    lengths = {} if length is None else {int(length): "length"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
        name = f"xs{jax.tree_util.keystr(path)}"
        if not jnp.shape(leaf):
            raise ValueError(f"checkpointed_scan: {name} has shape []; expected [l, ...], an axis of steps")
        lengths.setdefault(jnp.shape(leaf)[0], name)
    if not lengths:
        raise ValueError("checkpointed_scan: xs has no arrays, and length is None; expected one of them")
    if len(lengths) > 1:
        found = ", ".join(
            f"length is {steps}" if name == "length" else f"{name} has {steps}" for steps, name in lengths.items()
        )
        raise ValueError(f"checkpointed_scan: {found}; expected one number of steps")
    return next(iter(lengths))


def _cast(leaf: Any, type_: Any) -> Array:
    x = jnp.asarray(leaf)
    return x if x.dtype == type_.dtype else x.astype(type_.dtype)


def _row(leaves: Leaves, i: Any) -> Leaves:
    return [None if leaf is None else jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False) for leaf in leaves]


def _with_row(leaves: Leaves, rows: Leaves, i: Any) -> Leaves:
    return [
        None if leaf is None else jax.lax.dynamic_update_index_in_dim(leaf, row, i, 0)
        for leaf, row in zip(leaves, rows, strict=True)
    ]


def _once(leaves: Leaves) -> Leaves:
    """The same numbers, which no reverse pass can go through: it would have to go through a loop of unknown length."""
    return [
        _once_p.bind(leaf) if leaf is not None and jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf for leaf in leaves
    ]


def _no_transpose(cotangent: Any, leaf: Any) -> Any:
    raise NotImplementedError(
        "checkpointed_scan: reverse mode of a gradient; expected one reverse pass. Take forward derivatives of the "
        "gradient (jax.jvp or jax.jacfwd of jax.grad), or use jax.lax.scan, with jax.checkpoint around its body"
    )


_once_p = core.Primitive("reverse_once")
_once_p.def_impl(lambda x: x)
_once_p.def_abstract_eval(lambda x: x)
ad.deflinear2(_once_p, _no_transpose)
batching.defvectorized(_once_p)
mlir.register_lowering(_once_p, lambda context, x: [x])
