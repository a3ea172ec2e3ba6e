"""Wrong backward passes of convolution and pooling: rows 58–63. Images are [B, H, W, C], kernels [kH, kW, C, O]."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

STRIDE, PADDING = 2, 1
IMAGES = ("NHWC", "HWIO", "NHWC")


def conv2d(x: Array, w: Array, b: Array) -> Array:
    """y_{ij} = Σ_{kl} x_{2i+k−1, 2j+l−1} w_{kl} + b."""
    padding = ((PADDING, PADDING), (PADDING, PADDING))
    y = lax.conv_general_dilated(x, w, (STRIDE, STRIDE), padding, dimension_numbers=IMAGES)
    return y + b[None, None, None, :]


def conv2d_bwd(args: Args, dy: Array) -> Cotangents:
    """dx: dy with zeros between its entries, convolved with the flipped kernel, its channels exchanged.

    dw_{kl} = Σ_{ij} x_{2i+k−1, 2j+l−1}ᵀ dy_{ij}, a convolution over the batch; db = Σ dy.
    """
    x, w, _ = args
    return conv2d_dx(x, w[::-1, ::-1], dy), conv2d_dw(x, w, dy), jnp.sum(dy, axis=(0, 1, 2))


def conv2d_dx(x: Array, kernel: Array, dy: Array) -> Array:
    """dy with zeros between its entries, convolved with a kernel [kH, kW, C, O], from O channels to C."""
    before = [k - 1 - PADDING for k in kernel.shape[:2]]
    after = [lo + rest for lo, rest in zip(before, unread(x, kernel), strict=True)]
    return lax.conv_general_dilated(
        dy,
        kernel.swapaxes(2, 3),
        (1, 1),
        tuple(zip(before, after, strict=True)),
        lhs_dilation=(STRIDE, STRIDE),
        dimension_numbers=IMAGES,
    )


def conv2d_dw(x: Array, w: Array, dy: Array) -> Array:
    """The images convolved with dy, the batch in the place of the channels, steps in that of positions."""
    return lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        tuple((PADDING, PADDING - rest) for rest in unread(x, w)),
        rhs_dilation=(STRIDE, STRIDE),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def unread(x: Array, w: Array) -> list[int]:
    """How many of the last rows and columns, padding included, the strides never reach."""
    return [(n + 2 * PADDING - k) % STRIDE for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)]


def kernel_unflipped(args: Args, dy: Array) -> Cotangents:
    """dx by the kernel as it is, not flipped."""
    x, w, _ = args
    _, dw, db = conv2d_bwd(args, dy)
    return conv2d_dx(x, w, dy), dw, db


def height_and_width_exchanged(args: Args, dy: Array) -> Cotangents:
    """dw is laid out [kW, kH, C, O]."""
    dx, dw, db = conv2d_bwd(args, dy)
    return dx, dw.swapaxes(0, 1), db


def db_over_batch(args: Args, dy: Array) -> Cotangents:
    """db = dy summed over the batch alone, not over positions."""
    dx, dw, _ = conv2d_bwd(args, dy)
    return dx, dw, jnp.sum(dy, axis=0)


def conv_transpose(x: Array, w: Array) -> Array:
    """y_{2i+k} = Σ_i x_i w_k: x [B, T, C], w [kT, C, O]."""
    length = STRIDE * (x.shape[1] - 1) + w.shape[0]
    y = jnp.zeros((x.shape[0], length, w.shape[2]), x.dtype)
    for k, w_k in enumerate(w):
        y = y.at[:, reached(x, k)].add(x @ w_k)
    return y


def reached(x: Array, k: int, stride: int = STRIDE) -> slice:
    """Positions stride · i + k of the output."""
    return slice(k, k + stride * (x.shape[1] - 1) + 1, stride)


def conv_transpose_bwd(args: Args, dy: Array) -> Cotangents:
    """dx_i = Σ_k dy_{2i+k} w_kᵀ, dw_k = Σ_i x_iᵀ dy_{2i+k}."""
    return _conv_transpose_bwd(args, dy, STRIDE)


def stride_ignored(args: Args, dy: Array) -> Cotangents:
    """dx_i = Σ_k dy_{i+k} w_kᵀ, as if the stride were 1."""
    return _conv_transpose_bwd(args, dy, 1)


def _conv_transpose_bwd(args: Args, dy: Array, stride: int) -> Cotangents:
    x, w = args
    dx, dw = jnp.zeros_like(x), []
    for k, w_k in enumerate(w):
        dx = dx + dy[:, reached(x, k, stride)] @ w_k.T
        dw.append(jnp.einsum("btc,bto->co", x, dy[:, reached(x, k)]))
    return dx, jnp.stack(dw)


def windows(x: Array) -> Array:
    """x [B, 2H, 2W, C] as [B, H, 2, W, 2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


def average_pool(x: Array) -> Array:
    """Means of windows of 2 × 2."""
    return jnp.mean(windows(x), axis=(2, 4))


def average_pool_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy / 4 at each of the window's entries."""
    return (jnp.repeat(jnp.repeat(dy, 2, axis=1), 2, axis=2) / 4,)


def window_size_forgotten(args: Args, dy: Array) -> Cotangents:
    """dy at each of the window's entries, without 1/4."""
    return (jnp.repeat(jnp.repeat(dy, 2, axis=1), 2, axis=2),)


def max_pool(x: Array) -> Array:
    """Maxima of windows of 2 × 2."""
    return jnp.max(windows(x), axis=(2, 4))


def max_pool_bwd(args: Args, dy: Array) -> Cotangents:
    """dy in equal parts to those that are the maximum."""
    (x,) = args
    first = (windows(x) == max_pool(x)[:, :, None, :, None, :]).astype(x.dtype)
    share = dy[:, :, None, :, None, :] / jnp.sum(first, axis=(2, 4), keepdims=True)
    return ((first * share).reshape(x.shape),)


def whole_to_all(args: Args, dy: Array) -> Cotangents:
    """dy, whole, to each of those that are the maximum."""
    (x,) = args
    first = windows(x) == max_pool(x)[:, :, None, :, None, :]
    return (jnp.where(first, dy[:, :, None, :, None, :], 0).reshape(x.shape),)


def tied(seed: int, dtype: Any) -> Args:
    """Images of few values, [2, 4, 6, 3]: some maxima are tied, and some are not."""
    return (array(np.random.RandomState(seed).randint(5, size=(2, 4, 6, 3)), dtype),)


CONV = Subject(conv2d, conv2d_bwd, gaussians((2, 5, 7, 3), (3, 2, 3, 5), (5,)))
CONV_SQUARE = CONV._replace(arguments=gaussians((2, 5, 7, 3), (3, 3, 3, 5), (5,)))
CONV_TRANSPOSE = Subject(conv_transpose, conv_transpose_bwd, gaussians((2, 5, 3), (3, 3, 7)))
AVERAGE_POOL = Subject(average_pool, average_pool_bwd, gaussians((2, 4, 6, 3)))
MAX_POOL = Subject(max_pool, max_pool_bwd, tied)

MUTANTS = (
    mutant(58, "convolution", CONV, kernel_unflipped, "LAYOUT TRANSPOSE"),
    mutant(59, "convolution, square kernel", CONV_SQUARE, height_and_width_exchanged, "LAYOUT TRANSPOSE", (1,)),
    mutant(59, "convolution", CONV, height_and_width_exchanged, "LAYOUT TRANSPOSE", (1,)),
    # dy is read at the wrong positions; it is the derivative, too, of the function whose stride is 1.
    mutant(60, "transposed convolution", CONV_TRANSPOSE, stride_ignored, "LAYOUT OTHER_FORWARD"),
    mutant(61, "convolution", CONV, db_over_batch, "UNREDUCED", (2,)),
    mutant(62, "average pooling", AVERAGE_POOL, window_size_forgotten, "SCALE MISSING_FACTOR"),
    # Wrong exactly at ties; there, one over how many are tied is the factor that is missing.
    mutant(63, "max pooling", MAX_POOL, whole_to_all, "SUPPORT MISSING_FACTOR"),
)
