"""Derivatives of what takes entries at indices, puts them there, or sorts them.

Reading is a selection and writing its transpose: each is the other's backward pass, and an entry that was read several
times gets the sum.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals.graph.calls import Call, Derivative, Rule


def _gather(call: Call, g: Any) -> Derivative:
    """Each cotangent is added at where its value was read."""
    x, indices = call.operands
    read = call.params["dimension_numbers"]
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=read.offset_dims,
        inserted_window_dims=read.collapsed_slice_dims,
        scatter_dims_to_operand_dims=read.start_index_map,
        operand_batching_dims=read.operand_batching_dims,
        scatter_indices_batching_dims=read.start_indices_batching_dims,
    )
    dx = jax.lax.scatter_add(jnp.zeros(x.shape, g.dtype), indices, g, numbers, **_options(call))
    return dx, None


def _scatter_add(call: Call, g: Any) -> Derivative:
    return g, None, _read_back(call, g) if call.wanted[2] else None


def _scatter(call: Call, g: Any) -> Derivative:
    """To the update that was written last where several were, and to what was under it elsewhere."""
    x, indices, updates = call.operands
    numbers = call.params["dimension_numbers"]
    labels = jnp.arange(1, updates.size + 1, dtype=jnp.int32).reshape(updates.shape)
    written = jax.lax.scatter(jnp.zeros(x.shape, jnp.int32), indices, labels, numbers, **_options(call))
    zero = jnp.zeros((), g.dtype)
    dx = jnp.where(written == 0, g, zero)
    return dx, None, jnp.where(_read_back(call, written) == labels, _read_back(call, g), zero)


def _read_back(call: Call, array: Any) -> Any:
    """What lies where the updates of a scatter were written; 0 where that is outside."""
    x, indices, updates = call.operands
    written = call.params["dimension_numbers"]
    outside = (*written.inserted_window_dims, *written.operand_batching_dims)
    window = iter(written.update_window_dims)
    sizes = [1 if axis in outside else updates.shape[next(window)] for axis in range(x.ndim)]
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=written.update_window_dims,
        collapsed_slice_dims=written.inserted_window_dims,
        start_index_map=written.scatter_dims_to_operand_dims,
        operand_batching_dims=written.operand_batching_dims,
        start_indices_batching_dims=written.scatter_indices_batching_dims,
    )
    return jax.lax.gather(array, indices, numbers, sizes, fill_value=0, **_options(call))


def _options(call: Call) -> dict[str, Any]:
    return {name: call.params[name] for name in ("indices_are_sorted", "unique_indices", "mode")}


def _sort(call: Call, g: Any) -> Derivative:
    """Each cotangent goes to where its value came from."""
    axis, cotangents = call.params["dimension"], g if isinstance(g, tuple) else (g,)
    places = jax.lax.broadcasted_iota(jnp.int32, call.operands[0].shape, axis)
    *_, origin = jax.lax.sort((*call.operands, places), axis, call.params["is_stable"], call.params["num_keys"])
    back = jnp.argsort(origin, axis)
    return tuple(
        jnp.take_along_axis(dy, back, axis) if wanted else None
        for dy, wanted in zip(cotangents, call.wanted, strict=True)
    )


def _top_k(call: Call, g: Any) -> Derivative:
    (x,), (_, indices) = call.operands, call.results
    axis = call.params.get("axis", x.ndim - 1)  # which older versions of JAX do not have
    return (jnp.put_along_axis(jnp.zeros_like(x), indices, g[0], axis, inplace=False),)


LOOKUPS: dict[str, Rule] = {
    "gather": Rule("added where each value was read", _gather),
    "scatter-add": Rule("to both: each update reads where it was added", _scatter_add),
    "scatter_add": Rule("to both: each update reads where it was added", _scatter_add),
    "scatter": Rule("to what is there: the update, or else what was under it", _scatter),
    "sort": Rule("back to where each value came from", _sort),
    "top_k": Rule("back to where each value came from", _top_k),
}
