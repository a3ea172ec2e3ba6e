"""Pooling: windows of an image, each reduced to its largest or its average entry, channel by channel.

Window i of an axis holds the rows s i + u, u = 0 … k − 1, with stride s and window size k. There is no padding: rows
that no whole window reaches are left out. A window of two axes is pooled across, along each row, and then down:

    (1)  max_{u, v} x_{s i + u, s j + v} = max_u m_{s i + u, j},   m_{r, j} = max_v x_{r, s j + v},

and the same for sums: k + k numbers to look at for each output instead of k · k. Ties keep their order: the first
column of each row wins, then the first row, and that is the first entry of the window in row-major order.

Backward, one axis after the other: d_{i, u} is the share of dy_i that the window's u-th row gets. Row r is the u-th row
of window i where s i + u = r, so

    (2)  dx_r = Σ_{i, u: s i + u = r} d_{i, u}.

a sum over u of the shares d_{·, u}, each moved by u and dilated by the stride: s − 1 zeros between neighbors. Windows
that do not overlap (k ≤ s) share no row: dx is d itself, window after window, with s − k zeros after each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype

Pair = tuple[int, int]

_ROWS, _COLUMNS = 1, 2  # axes of [B, H, W, C]


class MaxPool2dResiduals(NamedTuple):
    """What `max_pool2d_bwd` needs."""

    column_wins: tuple[Array, ...]  # kW − 1 of [B, H, W', C], bool: column v ≥ 1 of the window beat all before it
    row_wins: tuple[Array, ...]  # kH − 1 of [B, H', W', C], bool: row u ≥ 1 of the window beat all before it
    no_images: Array  # [0, H, W, C]: the height and width of x, in no bytes


def max_pool2d(x: ArrayLike, *, window: int | Pair = 2, stride: int | Pair = 2) -> Array:
    """The largest entry of each window, channel by channel: in the backward pass, a router of gradients.

    One entry of each window wins. Ties go to the first in row-major order, in the forward and the backward pass alike.
    NaN in a window gives NaN.

    Args:
      x: images [B, H, W, C].
      window: rows and columns of a window, or one number for both.
      stride: pixels from one window to the next, down and across, or one number for both.

    Returns:
      [B, H', W', C], H' = ⌊(H − kH) / stride⌋ + 1 and W' likewise.

    Raises:
      ValueError: x has no four axes, the window is larger than the image, or an option is out of range.
      TypeError: x is not floating, or an option is not made of integers.
    """
    return max_pool2d_fwd(x, window=window, stride=stride)[0]


def max_pool2d_fwd(x: ArrayLike, *, window: int | Pair = 2, stride: int | Pair = 2) -> tuple[Array, MaxPool2dResiduals]:
    """Keeps who beat whom, one bool for each comparison: where windows do not overlap, less than a byte an entry of x.

    Not x, and not y. The index of the winner, one byte an output, would do too, but XLA's CPU compiler would rather
    keep x and compare again than store an index: 1.2 × the temporary memory in a convolutional network.
    """
    (x,) = _checks.arrays("max_pool2d", x=(x, "B H W C"))
    windows, strides = _geometry("max_pool2d", x.shape, window, stride)
    m, column_wins = _largest(_entries(x, windows[1], strides[1], _COLUMNS))
    y, row_wins = _largest(_entries(m, windows[0], strides[0], _ROWS))
    return y, MaxPool2dResiduals(column_wins, row_wins, x[:0])


def max_pool2d_bwd(
    residuals: MaxPool2dResiduals, dy: Array, *, window: int | Pair = 2, stride: int | Pair = 2
) -> tuple[Array]:
    """dx = dy at the winner of each window, 0 elsewhere; an entry that wins several windows gets their sum.

    Derivation: y = x_r for the winning entry r, so ∂y/∂x_r = 1, and the others do not influence y (almost everywhere;
    at a tie the first is the winner). By (1) the winning row gets dy first, then the winning column of that row.
    With d_{i, u} = dy_i · 1[u won window i], equation (2) at the top of this module adds up.
    """
    column_wins, row_wins, no_images = residuals
    _, height, width, _ = no_images.shape
    windows, strides = _geometry("max_pool2d", no_images.shape, window, stride)
    overlap = any(s < k for k, s in zip(windows, strides, strict=True))
    d = dy.astype(accumulation_dtype(dy.dtype)) if overlap else dy  # which else is moved, never added
    d = _assemble(_winners_share(row_wins, d, _ROWS), height, strides[0], _ROWS)
    d = _assemble(_winners_share(column_wins, d, _COLUMNS), width, strides[1], _COLUMNS)
    return (d.astype(dy.dtype),)


class AveragePool2dResiduals(NamedTuple):
    """What `average_pool2d_bwd` needs."""

    no_images: Array  # [0, H, W, C]: the height and width of x, in no bytes


def average_pool2d(x: ArrayLike, *, window: int | Pair = 2, stride: int | Pair = 2) -> Array:
    """The mean of each window, channel by channel.

    Args:
      x: images [B, H, W, C].
      window: rows and columns of a window, or one number for both.
      stride: pixels from one window to the next, down and across, or one number for both.

    Returns:
      [B, H', W', C], H' = ⌊(H − kH) / stride⌋ + 1 and W' likewise.

    Raises:
      ValueError: x has no four axes, the window is larger than the image, or an option is out of range.
      TypeError: x is not floating, or an option is not made of integers.
    """
    return average_pool2d_fwd(x, window=window, stride=stride)[0]


def average_pool2d_fwd(
    x: ArrayLike, *, window: int | Pair = 2, stride: int | Pair = 2
) -> tuple[Array, AveragePool2dResiduals]:
    """Keeps no number at all: the derivative of a mean is a constant. Only the size of x, in no bytes."""
    (x,) = _checks.arrays("average_pool2d", x=(x, "B H W C"))
    windows, strides = _geometry("average_pool2d", x.shape, window, stride)
    wide = x.astype(accumulation_dtype(x.dtype))
    sums = _sum(_entries(wide, windows[1], strides[1], _COLUMNS))
    sums = _sum(_entries(sums, windows[0], strides[0], _ROWS))
    return (sums / (windows[0] * windows[1])).astype(x.dtype), AveragePool2dResiduals(x[:0])


def average_pool2d_bwd(
    residuals: AveragePool2dResiduals, dy: Array, *, window: int | Pair = 2, stride: int | Pair = 2
) -> tuple[Array]:
    """dx = dy / (kH kW) at every entry of each window, the sum of them where windows overlap.

    Derivation: y_ij = (1 / kH kW) Σ_uv x_{s i + u, s j + v}, so ∂y/∂x is 1 / (kH kW) for every entry of the window and
    0 elsewhere. With d_{i, u} = dy_i, one axis after the other, equation (2) at the top of this module adds up.
    """
    (no_images,) = residuals
    _, height, width, _ = no_images.shape
    windows, strides = _geometry("average_pool2d", no_images.shape, window, stride)
    d = dy.astype(accumulation_dtype(dy.dtype)) / (windows[0] * windows[1])
    d = _assemble(_equal_shares(windows[0], d, _ROWS), height, strides[0], _ROWS)
    d = _assemble(_equal_shares(windows[1], d, _COLUMNS), width, strides[1], _COLUMNS)
    return (d.astype(dy.dtype),)


def _geometry(function: str, image: tuple[int, ...], window: int | Pair, stride: int | Pair) -> tuple[Pair, Pair]:
    windows = _checks.pair(function, "window", window)
    strides = _checks.pair(function, "stride", stride)
    _checks.fits(function, "window is", windows, "the image", image[1:3])
    return windows, strides


def _entries(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """The first entry of every window along an axis, the second of every window, and so on."""
    span = (x.shape[axis] - window) // stride * stride + 1  # from the first window's start to the last one's
    return [jax.lax.slice_in_dim(x, u, u + span, stride, axis) for u in range(window)]


def _largest(entries: list[Array]) -> tuple[Array, tuple[Array, ...]]:
    y, *rest = entries
    wins = []
    for entry in rest:
        wins.append((entry > y) | jnp.isnan(entry))  # a tie stays with the earlier entry; a NaN is never hidden
        y = jnp.where(wins[-1], entry, y)
    return y, tuple(wins)


def _sum(entries: list[Array]) -> Array:
    total, *rest = entries
    for entry in rest:
        total = total + entry
    return total


def _winners_share(wins: tuple[Array, ...], dy: Array, axis: int) -> Array:
    """d_{i, u} of equation (2), u behind i: the cotangent of each window to its winner."""
    shares = []
    for win in reversed(wins):  # undo y = where(win, entry, y), the last entry first
        shares.append(jnp.where(win, dy, 0))
        dy = jnp.where(win, 0, dy)
    return jnp.stack([dy, *reversed(shares)], axis + 1)


def _equal_shares(window: int, dy: Array, axis: int) -> Array:
    """d_{i, u} of equation (2), u behind i: the cotangent of each window to all of its entries."""
    shape = (*dy.shape[: axis + 1], window, *dy.shape[axis + 1 :])
    return jnp.broadcast_to(jnp.expand_dims(dy, axis + 1), shape)


def _assemble(d: Array, length: int, stride: int, axis: int) -> Array:
    """Equation (2): dx, with `length` rows along an axis, from the shares d_{i, u} on it and the next axis."""
    windows, window = d.shape[axis : axis + 2]
    if window <= stride and axis == _ROWS:
        # No sum, but whole rows laid side by side: with this, XLA's CPU compiler needs half of the memory that
        # autodiff's sum does, and half of the time for windows of 7. Interleaving columns gains nothing.
        d = _pad(d, axis + 1, 0, stride - window)
        d = d.reshape(*d.shape[:axis], windows * stride, *d.shape[axis + 2 :])
        return _pad(d, axis, 0, length - windows * stride)
    dx = jnp.zeros((), d.dtype)
    for u in reversed(range(window)):  # upwards takes twice the time (JAX 0.12)
        share = jax.lax.index_in_dim(d, u, axis + 1, keepdims=False)
        dx = dx + _pad(share, axis, u, length - u - (windows - 1) * stride - 1, stride - 1)
    return dx


def _pad(x: Array, axis: int, low: int, high: int, between: int = 0) -> Array:
    """Zeros on both sides of an axis, or a crop where they are negative, and between its entries."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, between)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
