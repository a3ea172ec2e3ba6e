"""Derivatives of sums, products, maxima along axes, and of running sums.

A sum copies its cotangent to all that was added; a maximum sends it to where the maximum was.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals.graph.calls import Call, Derivative, Rule


def _stretched(call: Call, reduced: Any) -> Any:
    """What has the shape of a result, copied along the axes that were reduced."""
    x, axes = call.operands[0], call.params["axes"]
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return jax.lax.broadcast_in_dim(reduced, x.shape, kept)


def _sum(call: Call, g: Any) -> Derivative:
    return (_stretched(call, g),)


def _product(call: Call, g: Any) -> Derivative:
    """∂y/∂x_i is the product of the others: of those before and those behind, so that x_i = 0 does not divide."""
    (x,), axes = call.operands, call.params["axes"]
    if not x.size:
        return (jnp.zeros_like(x),)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = jnp.transpose(x, (*kept, *axes)).reshape(*(x.shape[axis] for axis in kept), -1)
    one = jnp.ones((*rows.shape[:-1], 1), x.dtype)
    before = jnp.concatenate([one, jnp.cumprod(rows, -1)[..., :-1]], -1)
    behind = jnp.flip(jnp.concatenate([one, jnp.cumprod(jnp.flip(rows, -1), -1)[..., :-1]], -1), -1)
    others = (before * behind).reshape([x.shape[axis] for axis in (*kept, *axes)])
    back = sorted(range(x.ndim), key=lambda axis: (*kept, *axes)[axis])
    return (_stretched(call, g) * jnp.transpose(others, back),)


def _extremum(call: Call, g: Any) -> Derivative:
    """Equal shares where several entries are the largest."""
    (x,), (y,) = call.operands, call.results
    there = x == _stretched(call, y)
    shares = jnp.sum(there, axis=call.params["axes"]).astype(x.dtype)
    return (there.astype(g.dtype) * _stretched(call, g / shares),)  # NaN nowhere is the largest: 0 · ∞


def _running_sum(call: Call, g: Any) -> Derivative:
    """dx_j = Σ_{i ≥ j} dy_i: the running sum from the other end."""
    return (jax.lax.cumsum(g, call.params["axis"], reverse=not call.params["reverse"]),)


def _window_sum(call: Call, g: Any) -> Derivative:
    """A convolution with a window of ones (`products`), channel by channel; its own transpose but for the padding."""
    (x,), params = call.operands, call.params
    pads, crops = [], []
    for n, o, k, s, (p, _), gap, d in zip(
        x.shape,
        g.shape,
        *(params[name] for name in ("window_dimensions", "window_strides", "padding", "base_dilation")),
        params["window_dilation"],
        strict=True,
    ):
        low = (k - 1) * d - p
        high = (n - 1) * gap + 1 - ((o - 1) * s + 1) - low + (k - 1) * d
        pads.append((max(low, 0), max(high, 0)))
        crops.append((min(low, 0), min(high, 0), s - 1))
    zero = jnp.zeros((), g.dtype)
    spread = jax.lax.pad(g, zero, crops)
    window, steps, dilation = (params[name] for name in ("window_dimensions", "base_dilation", "window_dilation"))
    return (jax.lax.reduce_window(spread, zero, jax.lax.add, window, steps, pads, None, dilation),)


SUMS: dict[str, Rule] = {
    "reduce_sum": Rule("added forward, so copied backward", _sum),
    "reduce_prod": Rule("times the product of the others", _product),
    "reduce_max": Rule("to the largest; ties get equal shares", _extremum),
    "reduce_min": Rule("to the smallest; ties get equal shares", _extremum),
    "reduce_window_sum": Rule("added forward, so copied to all of the window backward", _window_sum),
    "cumsum": Rule("the running sum from the other end", _running_sum),
}
