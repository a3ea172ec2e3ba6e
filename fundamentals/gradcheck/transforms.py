"""Mistakes at one place, of operations that are transforms of a whole array: see `operators`."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.structural import exchanges, pullback
from fundamentals.gradcheck.view import View, Wrong
from fundamentals.program import execute


def _convolution(view: View) -> Iterator[Wrong]:
    dims = view.equation.params["dimension_numbers"]
    x, w = view.operands
    name = view.name(view.equation.invars[1])
    kernel = tuple(dims.rhs_spec[2:])
    if view.edge.operand == 1:
        flipped = np.flip(view.c, kernel)
        yield Wrong(
            "flipped", Cause.LAYOUT, flipped, f"the gradient for {name} is flipped", "correlate x with dy; do not flip"
        )
        return
    pull = pullback(view)
    detail = f"the kernel {name} is flipped where it should not be, or not where it should"
    yield Wrong(
        "flipped", Cause.LAYOUT, pull([x, np.flip(w, kernel)]), detail, "convolve dy with the kernel turned by 180°"
    )
    for order in exchanges(w.shape):
        wrong = pull([x, np.transpose(w, order)])
        yield Wrong(
            f"w{order}", Cause.TRANSPOSE, wrong, f"axes of {name} are exchanged", "check the layout of the kernel"
        )
    wrong = _without_stride(view, dims)
    if wrong is not None:
        yield Wrong(
            "stride",
            Cause.LAYOUT,
            wrong,
            "the stride is ignored, as if it were 1",
            "take dy at, or put it to, every stride-th place",
        )


def _without_stride(view: View, dims: Any) -> Any:
    """The cotangent of x for a stride of 1, of window_strides or of lhs_dilation, as far as it fits."""
    strides, dilation = view.equation.params["window_strides"], view.equation.params["lhs_dilation"]
    if max(*strides, *dilation, 1) == 1:
        return None
    x, w = view.operands
    spatial = dims.lhs_spec[2:]
    size = list(x.shape)
    for axis, d in zip(spatial, dilation, strict=True):
        size[axis] = (size[axis] - 1) * d + 1
    ones = (1,) * len(strides)
    params = {**view.equation.params, "window_strides": ones, "lhs_dilation": ones}
    with jax.enable_x64(True):

        def convolved(x: Any) -> Any:
            return view.equation.primitive.bind(x, jnp.asarray(w), **params)

        y, pullback = jax.vjp(convolved, jnp.zeros(size, x.dtype))
        g = np.zeros(y.shape)
        place = tuple(slice(0, n) for n in view.g.shape)
        if any(n > m for n, m in zip(view.g.shape, y.shape, strict=True)):
            return None
        g[place] = view.g
        wrong = np.asarray(pullback(jnp.asarray(g))[0])
    return wrong[tuple(slice(0, n) for n in x.shape)]


def _cumulative(view: View) -> Iterator[Wrong]:
    axis = view.equation.params["axis"]
    if view.equation.primitive.name == "cumsum":
        forward = np.cumsum(view.g, axis)
        backward = np.flip(np.cumsum(np.flip(view.g, axis), axis), axis)
        wrong = backward if view.equation.params["reverse"] else forward
        yield Wrong(
            "direction",
            Cause.LAYOUT,
            wrong,
            "the cotangent is summed in the direction of the forward pass",
            "sum from the other end",
        )
        yield Wrong(
            "own",
            Cause.MISSING_PATH,
            view.g,
            "each entry gets only what its own sum gives back, not what the others that it is part of do",
            "sum the cotangents of all the sums that an entry is part of",
        )


def _cholesky(view: View) -> Iterator[Wrong]:
    """dA = ½ (S + Sᵀ), S = l⁻ᵀ Φ(lᵀ dl) l⁻¹: Φ is the lower triangle with half the diagonal (Murray 2016, eq. 10)."""
    l, g = view.swept.values[view.equation.outvars[0]], np.tril(view.g)  # noqa: E741
    if l.ndim != 2:
        return
    inner, inverse = l.T @ g, np.linalg.inv(l)
    lower = np.tril(inner, -1)
    half = lower + np.diag(np.diag(inner)) / 2

    def made(left: Any, middle: Any, right: Any) -> Any:
        s = left @ middle @ right
        return (s + s.T) / 2

    for label, cause, wrong, detail, fix in (
        ("diagonal", Cause.PATH_SCALE, made(inverse.T, lower + np.diag(np.diag(inner)), inverse),
         "the diagonal of Φ(lᵀ dl) is not halved", "halve it"),
        ("no diagonal", Cause.MISSING_PATH, made(inverse.T, lower, inverse),
         "the diagonal of Φ(lᵀ dl) is left out", "take half of it"),
        ("no triangle", Cause.MISSING_FACTOR, made(inverse.T, inner / 2, inverse),
         "Φ, the lower triangle, is left out", "take the lower triangle of lᵀ dl, with half the diagonal"),
        ("sides", Cause.TRANSPOSE, made(inverse, half, inverse.T),
         "l⁻¹ stands on the left, and l⁻ᵀ on the right", "l⁻ᵀ Φ(lᵀ dl) l⁻¹"),
        ("inner", Cause.TRANSPOSE, made(inverse.T, np.tril(l @ g) - np.diag(np.diag(l @ g)) / 2, inverse),
         "l dl stands for lᵀ dl", "Φ(lᵀ dl)"),
        ("not symmetric", Cause.MISSING_PATH, inverse.T @ half @ inverse,
         "the gradient is not made symmetric", "½ (S + Sᵀ), as A is symmetric"),
        ("doubled", Cause.DOUBLED_PATH, 2 * made(inverse.T, half, inverse),
         "S + Sᵀ is not halved", "½ (S + Sᵀ)"),
    ):  # fmt: skip
        yield Wrong(label, cause, wrong, detail, fix)


def _sort(view: View) -> Iterator[Wrong]:
    if len(view.equation.outvars) == 1:
        detail = "the cotangents stay in the order of the sorted values"
        fix = "put each back to where its value came from"
        yield Wrong("sorted", Cause.LAYOUT, view.g, detail, fix)


def _fft(view: View) -> Iterator[Wrong]:
    """Of real signals: dx = Re Σ_k dy_k e^(−iωk), of which an inverse transform takes all but the first twice."""
    x, kind = view.operands[0], view.equation.params["fft_type"]
    lengths = view.equation.params["fft_lengths"]
    size = math.prod(lengths)
    if kind == jax.lax.FftType.RFFT and len(lengths) == 1:
        mirrored = np.fft.irfft(np.conj(view.g), x.shape[-1])
        detail = "by the inverse transform, frequencies other than 0 count for their negatives, too"
        fix = "Re Σ dy e^(−iωk): each frequency once"
        yield Wrong("mirrored", Cause.DOUBLED_PATH, mirrored * size, detail, fix)
        yield Wrong("mirrored/n", Cause.MISSING_FACTOR, mirrored, f"{detail}, and all are divided by {size}", fix)
    for label, cause, factor in (("n", Cause.EXTRA_FACTOR, size), ("1/n", Cause.MISSING_FACTOR, 1 / size)):
        detail = f"{'multiplied' if label == 'n' else 'divided'} by the length of the transform, {size}"
        yield Wrong(label, cause, view.c * factor, detail, "the adjoint of the transform has no such factor")


_SELF_ADJOINT = {
    *("triangular_solve", "conv_general_dilated", "dynamic_slice", "rev", "fft", "reduce_window_sum"),
    "custom_linear_solve",
}


def self_adjoint(view: View) -> Iterator[Wrong]:
    """A linear operation applied where its transpose should be."""
    name = view.equation.primitive.name
    if name not in _SELF_ADJOINT:
        return
    x, y = view.operands[view.edge.operand], view.equation.outvars[0].aval
    if x.shape != y.shape or (name == "custom_linear_solve" and view.edge.operand != len(view.equation.invars) - 1):
        return
    operands = view.operands
    operands[view.edge.operand] = view.g
    with jax.enable_x64(True):
        applied = np.asarray(execute(view.equation, list(map(jnp.asarray, operands)))[0])
    yield Wrong(
        "forward",
        Cause.TRANSPOSE,
        applied,
        f"{name} is applied to the cotangent as in the forward pass",
        "apply its transpose",
    )


TRANSFORMS: dict[str, Callable[[View], Iterator[Wrong]]] = {
    "conv_general_dilated": _convolution,
    "cholesky": _cholesky,
    "cumsum": _cumulative,
    "fft": _fft,
    "sort": _sort,
}
