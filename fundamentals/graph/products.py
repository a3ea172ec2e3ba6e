"""Derivatives of matrix products and convolutions.

Both are bilinear: y = a ∘ b, so each operand gets the cotangent times the other one, the axes put in place.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fundamentals.graph.calls import Call, Derivative, Rule


def _dot(call: Call, g: Any) -> Derivative:
    """For matrices Y = A B: dA = dY Bᵀ, dB = Aᵀ dY.

    y has the batch axes first, then the free axes of a, then those of b. The free axes of b are what dA sums over.
    """
    (contracted_a, contracted_b), (batch_a, batch_b) = call.params["dimension_numbers"]
    a, b = call.operands
    batch = range(len(batch_a))
    free_a = [axis for axis in range(a.ndim) if axis not in (*contracted_a, *batch_a)]
    free_b = [axis for axis in range(b.ndim) if axis not in (*contracted_b, *batch_b)]
    rows = range(len(batch), len(batch) + len(free_a))  # in y
    columns = range(len(batch) + len(free_a), g.ndim)
    da = db = None
    if call.wanted[0]:  # batch axes, free axes of a, contracted axes in b's order
        order = sorted(zip(contracted_b, contracted_a, strict=True))
        da = _product(call, g, b, columns, free_b, batch, batch_b, a, [*batch_a, *free_a, *(i for _, i in order)])
    if call.wanted[1]:
        order = sorted(zip(contracted_a, contracted_b, strict=True))
        db = _product(call, g, a, rows, free_a, batch, batch_a, b, [*batch_b, *free_b, *(i for _, i in order)])
    return da, db


def _product(
    call: Call,
    g: Any,
    other: Any,
    axes: Sequence[int],
    other_axes: Sequence[int],
    batch: Sequence[int],
    other_batch: Sequence[int],
    like: Any,
    layout: Sequence[int],
) -> Any:
    """The product of g and an operand over these axes; `layout`: the axes of `like` in the order in which they come."""
    numbers = ((tuple(axes), tuple(other_axes)), (tuple(batch), tuple(other_batch)))
    g, other = g.astype(jnp.promote_types(g.dtype, other.dtype)), other.astype(jnp.promote_types(g.dtype, other.dtype))
    product = jax.lax.dot_general(
        g, other, numbers, precision=call.params["precision"], preferred_element_type=like.dtype
    )
    return jnp.transpose(product, [layout.index(axis) for axis in range(like.ndim)])


def _convolution(call: Call, g: Any) -> Derivative:
    """dx = δ ∗ flipped w, dw = x ∗ δ, where δ is dy with stride − 1 zeros between its entries.

    Along one axis y_o = Σ_k z_{o s + k d − p} w_k, where z is x with zeros between (`lhs_dilation`), s the stride, d
    the dilation of the kernel, p the padding before. With δ_{o s} = dy_o and i = o s + k d − p:

        dz_i = Σ_k δ_{i + p − k d} w_k = Σ_k' δ_{i + k' d − ((K − 1) d − p)} w_{K − 1 − k'}
        dw_k = Σ_o dy_o z_{k d + o s − p}

    so that dz is a convolution with the flipped kernel, padded by (K − 1) d − p, and dw one of z with dy in place of
    the kernel, dilated by s, at steps of d. Of dz the entries that x has are every `lhs_dilation`-th. In groups, the
    channels of one are a batch for the other. A negative padding is a crop, and done as one: asked for it, XLA for the
    CPU (JAX 0.10) reads what lies before the array.
    """
    x, w = call.operands
    if not g.size:
        return jnp.zeros_like(x), jnp.zeros_like(w)
    params, spec = call.params, call.params["dimension_numbers"]
    groups = params["feature_group_count"]
    sizes = [[array.shape[i] for i in layout[2:]] for array, layout in zip((x, w, g), spec, strict=True)]
    options = [params[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")]
    axes = list(zip(*sizes, *options, strict=True))
    dx = dw = None
    if call.wanted[0]:
        flipped = jnp.flip(_regrouped(w, spec.rhs_spec, groups), spec.rhs_spec[2:])
        pads = []
        for n, k, o, s, (p, _), gap, d in axes:
            low = (k - 1) * d - p
            pads.append((low, (n - 1) * gap + 1 - ((o - 1) * s + 1) - low + (k - 1) * d))
        swapped = (spec.rhs_spec[1], spec.rhs_spec[0], *spec.rhs_spec[2:])
        dx = _convolve(
            call, g, flipped, params["lhs_dilation"], pads, params["window_strides"], params["rhs_dilation"],
            (spec.out_spec, swapped, spec.lhs_spec), {"feature_group_count": groups}, x.dtype,
        )  # fmt: skip
    if call.wanted[1]:
        pads = [(p, (k - 1) * d + 1 - ((n - 1) * gap + 1) - p + (o - 1) * s) for n, k, o, s, (p, _), gap, d in axes]
        numbers = (
            (spec.lhs_spec[1], spec.lhs_spec[0], *spec.lhs_spec[2:]),
            (spec.out_spec[1], spec.out_spec[0], *spec.out_spec[2:]),
            (spec.rhs_spec[1], spec.rhs_spec[0], *spec.rhs_spec[2:]),
        )
        dw = _convolve(
            call, x, g, params["rhs_dilation"], pads, params["lhs_dilation"], params["window_strides"],
            numbers, {"batch_group_count": groups}, w.dtype,
        )  # fmt: skip
    return dx, dw


def _regrouped(w: Any, layout: Sequence[int], groups: int) -> Any:
    """The kernel of the backward pass: in each group, what went out comes in."""
    if groups == 1:
        return w
    out, into = layout[:2]
    w = jnp.moveaxis(w, (out, into), (0, 1))
    outputs, inputs, *window = w.shape
    w = w.reshape(groups, outputs // groups, inputs, *window).swapaxes(1, 2)
    w = w.reshape(groups * inputs, outputs // groups, *window).swapaxes(0, 1)
    return jnp.moveaxis(w, (0, 1), (out, into))


def _convolve(
    call: Call, x: Any, w: Any, strides: Any, pads: Any, gaps: Any, dilation: Any, numbers: Any, groups: Any, dtype: Any
) -> Any:
    """A convolution whose negative paddings are crops of x, spread by its gaps."""
    layout = numbers[0]
    if any(pad < 0 for pair in pads for pad in pair):
        config = [(0, 0, 0)] * x.ndim
        for axis, (low, high), gap in zip(layout[2:], pads, gaps, strict=True):
            config[axis] = (min(low, 0), min(high, 0), gap - 1)
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
        gaps = (1,) * len(pads)
    return jax.lax.conv_general_dilated(
        x,
        w,
        window_strides=strides,
        padding=[(max(low, 0), max(high, 0)) for low, high in pads],
        lhs_dilation=gaps,
        rhs_dilation=dilation,
        dimension_numbers=jax.lax.ConvDimensionNumbers(*numbers),
        precision=call.params["precision"],
        preferred_element_type=dtype,
        **groups,
    )


def is_grouped_batch(name: str, params: dict[str, Any]) -> bool:
    """Whether it is a convolution whose batch is in groups, as those of kernels' gradients: there is no rule for it."""
    return name == "conv_general_dilated" and params["batch_group_count"] != 1


PRODUCTS: dict[str, Rule] = {
    "dot_general": Rule("times the other operand, transposed", _dot),
    "conv_general_dilated": Rule("times the other operand: the kernel flipped for dx, the image for dw", _convolution),
}
