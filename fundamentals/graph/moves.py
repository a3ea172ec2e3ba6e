"""Derivatives of what moves entries or copies them: the cotangent is moved back, and added up where copies were made.

Each derivative takes (call, g), a `calls.Call` and the cotangent of its result, and gives one cotangent for each
operand. Of what is only moved, y = P x with a permutation or a selection P, the backward pass is dx = Pᵀ dy: a
reshape back, the inverse transposition, a slice's entries in the middle of zeros.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.graph.calls import Call, Derivative, Rule


def _broadcast(call: Call, g: Any) -> Derivative:
    (x, *_), kept = call.operands, call.params["broadcast_dimensions"]
    new = [axis for axis in range(jnp.ndim(g)) if axis not in kept]
    stretched = [axis for i, axis in enumerate(kept) if jnp.shape(x)[i] == 1 and jnp.shape(g)[axis] != 1]
    return jnp.sum(g, axis=(*new, *stretched)).reshape(jnp.shape(x)), *(None for _ in call.operands[1:])


def _reshape(call: Call, g: Any) -> Derivative:
    x, order = call.operands[0], call.params["dimensions"]
    if order is None:
        return _shaped_back(call, g)
    back = [int(axis) for axis in np.argsort(order)]  # columns first: transposed, then reshaped
    return (jnp.transpose(g.reshape([x.shape[axis] for axis in order]), back),)


def _shaped_back(call: Call, g: Any) -> Derivative:
    return g.reshape(jnp.shape(call.operands[0])), *(None for _ in call.operands[1:])


def _transpose(call: Call, g: Any) -> Derivative:
    return (jnp.transpose(g, [int(axis) for axis in np.argsort(call.params["permutation"])]),)


def _reverse(call: Call, g: Any) -> Derivative:
    return (jax.lax.rev(g, call.params["dimensions"]),)


def _concatenate(call: Call, g: Any) -> Derivative:
    axis = call.params["dimension"]
    ends = np.cumsum([x.shape[axis] for x in call.operands])[:-1]
    return tuple(jnp.split(g, ends, axis))


def _split(call: Call, g: Any) -> Derivative:
    return (jnp.concatenate(g if isinstance(g, tuple) else (g,), call.params["axis"]),)


def _stack(call: Call, g: Any) -> Derivative:
    return tuple(jax.lax.index_in_dim(g, i, call.params["axis"], False) for i, _ in enumerate(call.operands))


def _unstack(call: Call, g: Any) -> Derivative:
    return (jnp.stack(g if isinstance(g, tuple) else (g,), call.params["axis"]),)


def _tile(call: Call, g: Any) -> Derivative:
    (x,) = call.operands
    split = [n for pair in zip(call.params["reps"], x.shape, strict=True) for n in pair]
    return (jnp.sum(g.reshape(split), axis=tuple(range(0, 2 * x.ndim, 2))),)


def _round(call: Call, g: Any) -> Derivative:
    return (jax.lax.reduce_precision(g, call.params["exponent_bits"], call.params["mantissa_bits"]),)


def _pad(call: Call, g: Any) -> Derivative:
    config = call.params["padding_config"]
    zero = jnp.zeros((), g.dtype)
    inner = jax.lax.pad(g, zero, [(-low, -high, 0) for low, high, _ in config])
    dx = jax.lax.slice(inner, (0,) * g.ndim, inner.shape, [gap + 1 for *_, gap in config])
    return dx, jnp.sum(g) - jnp.sum(dx) if call.wanted[1] else None


def _slice(call: Call, g: Any) -> Derivative:
    (x,) = call.operands
    starts, strides = call.params["start_indices"], call.params["strides"] or (1,) * x.ndim
    spread = [(n - 1) * stride + 1 if n else 0 for n, stride in zip(g.shape, strides, strict=True)]
    config = [
        (start, size - start - length, stride - 1)
        for start, size, length, stride in zip(starts, x.shape, spread, strides, strict=True)
    ]
    return (jax.lax.pad(g, jnp.zeros((), g.dtype), config),)


def _dynamic_slice(call: Call, g: Any) -> Derivative:
    x, *starts = call.operands
    dx = jax.lax.dynamic_update_slice(jnp.zeros(x.shape, g.dtype), g, starts, allow_negative_indices=False)
    return dx, *(None for _ in starts)


def _dynamic_update_slice(call: Call, g: Any) -> Derivative:
    _, update, *starts = call.operands
    plain = {"allow_negative_indices": False}  # JAX has seen to them before
    under = jax.lax.dynamic_update_slice(g, jnp.zeros(update.shape, g.dtype), starts, **plain)
    return under, jax.lax.dynamic_slice(g, starts, update.shape, **plain), *(None for _ in starts)


MOVES: dict[str, Rule] = {
    "broadcast_in_dim": Rule("copied forward, so added backward", _broadcast),
    "reshape": Rule("reshaped back", _reshape),
    "squeeze": Rule("reshaped back", _shaped_back),
    "transpose": Rule("transposed back", _transpose),
    "rev": Rule("reversed back", _reverse),
    "concatenate": Rule("cut apart", _concatenate),
    "split": Rule("joined", _split),
    "stack": Rule("cut apart", _stack),
    "unstack": Rule("joined", _unstack),
    "tile": Rule("copied forward, so added backward", _tile),
    "reduce_precision": Rule("rounded as the value was", _round),
    "pad": Rule("the padding is cut off", _pad),
    "slice": Rule("zeros for what was not taken", _slice),
    "dynamic_slice": Rule("zeros for what was not taken", _dynamic_slice),
    "dynamic_update_slice": Rule("to the update where it lies, else to what is under it", _dynamic_update_slice),
}
