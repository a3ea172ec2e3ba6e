"""Two-dimensional convolution: its backward pass is two more convolutions.

As everywhere in deep learning, the kernel is not flipped (a signal processor would say cross-correlation). The two axes
of an image are treated alike and apart, so the indices are derived for one of them, without channels: n inputs, a
kernel of size k, stride s, p zeros before the input and p′ behind it.

Forward: o = ⌊(n + p + p′ − k) / s⌋ + 1 outputs, with x = 0 outside of 0 … n − 1,

    (1)  y_i = Σ_u x_{s i + u − p} w_u,                   i = 0 … o − 1,  u = 0 … k − 1.

Input: y_i contains x_j once for each u with s i + u − p = j, so

    (2)  dx_j = Σ_{i, u: s i + u − p = j} dy_i w_u.

Dilate dy by the stride, with s − 1 zeros between neighbors: δ_{s i} = dy_i, δ_m = 0 elsewhere, a row of (o − 1) s + 1
numbers. The sum over i then has one term, m = s i = j + p − u, which is 0 where there is no such i:

    (3)  dx_j = Σ_u δ_{j + p − u} w_u = Σ_v δ_{j + v − (k − 1 − p)} w_{k − 1 − v},            v = k − 1 − u.

That is (1) again: input δ, flipped kernel, stride 1, k − 1 − p zeros before. It has to give n outputs, which tells the
zeros q behind: (o − 1) s + 1 + (k − 1 − p) + q − k + 1 = n, hence

    (4)  q = n − 1 − (o − 1) s + p.

The last rows of x, where the stride left them out of every window, meet only these zeros: their dx is 0. Either number
of zeros is negative where windows saw nothing but padding: those outputs are cropped from δ.

Kernel: w_u is a factor of every y_i once, so

    (5)  dw_u = Σ_i x_{s i + u − p} dy_i = Σ_m x_{u + m − p} δ_m.

That is (1) again: input x, kernel δ, stride 1, p zeros before. It has to give k outputs, which tells the zeros q
behind: n + p + q − ((o − 1) s + 1) + 1 = k, hence

    (6)  q = k + (o − 1) s − n − p,

at most p′, and negative where the stride left rows of x out: they are cropped.

Bias: b is added to every y_i, so

    (7)  db = Σ_i dy_i.

Examples and channels: y_bio = Σ_uc x_{b, s i + u − p, c} w_uco. What (1) sums over is C. What (3) sums over is O: in
the kernel, the two change places. What (5) sums over is B, which has the place that C has in (1), and C that of B.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype

Pair = tuple[int, int]
Padding = str | tuple[Pair, Pair]

# The axes of input, kernel and output: N and C are for XLA what is kept and what is summed over, so that in the
# convolution for dx the kernel's C is its output, and in that for dw the batch is "C". No array is transposed first.
_FORWARD = ("NHWC", "HWIO", "NHWC")  # x, w → y
_INPUT = ("NHWC", "HWOI", "NHWC")  # δ, flipped w → dx
_KERNEL = ("CHWN", "IHWO", "HWNC")  # x, δ → dw


class Conv2dResiduals(NamedTuple):
    """What `conv2d_bwd` needs."""

    x: Array  # [B, H, W, C]
    w: Array  # [kH, kW, C, O]


def conv2d(x: ArrayLike, w: ArrayLike, b: ArrayLike, *, stride: int | Pair = 1, padding: Padding = "SAME") -> Array:
    """Each output pixel is an affine map of the kH × kW window of inputs around it, the same map everywhere.

    y_bijo = Σ_uvc x_{b, s i + u − p, s j + v − p, c} w_uvco + b_o, with zeros outside of the image; LeCun et al. 1989.

    Args:
      x: images [B, H, W, C].
      w: kernel [kH, kW, C, O].
      b: bias [O].
      stride: pixels from one window to the next, down and across, or one number for both.
      padding: as for `jax.lax.conv_general_dilated`. "SAME" for ⌈H / stride⌉ by ⌈W / stride⌉ outputs, by zeros on both
        sides, one more at the bottom and the right where their number is odd; "VALID" for no zeros; or the rows and
        columns of zeros, ((top, bottom), (left, right)).

    Returns:
      [B, H', W', O], in the dtype of x, H' = ⌊(H + top + bottom − kH) / stride⌋ + 1 and W' likewise.

    Raises:
      ValueError: the shapes do not fit, the kernel is empty or larger than the padded image, or an option is out of
        range.
      TypeError: the dtypes are not floating, or not the same, or an option is not made of integers.
    """
    return conv2d_fwd(x, w, b, stride=stride, padding=padding)[0]


def conv2d_fwd(
    x: ArrayLike, w: ArrayLike, b: ArrayLike, *, stride: int | Pair = 1, padding: Padding = "SAME"
) -> tuple[Array, Conv2dResiduals]:
    """Keeps the inputs and the kernel. Not y, and not b, as a linear layer; and no window is ever copied out of x."""
    x, w, b = _checks.arrays("conv2d", x=(x, "B H W C"), w=(w, "kH kW C O"), b=(b, "O"))
    _checks.not_empty("conv2d", "w", w.shape[0], "kH")
    _checks.not_empty("conv2d", "w", w.shape[1], "kW")
    strides = _checks.pair("conv2d", "stride", stride)
    paddings = _paddings(x.shape, w.shape, strides, padding)
    padded = tuple(size + low + high for size, (low, high) in zip(x.shape[1:3], paddings, strict=True))
    _checks.fits("conv2d", "w has kernel", w.shape[:2], "the padded input", padded)
    accumulate = accumulation_dtype(x.dtype)
    y = jax.lax.conv_general_dilated(
        x, w, strides, paddings, dimension_numbers=_FORWARD, preferred_element_type=accumulate
    )
    bias = b.astype(accumulate).reshape(1, 1, 1, -1)
    return (y + bias).astype(x.dtype), Conv2dResiduals(x, w)


def conv2d_bwd(
    residuals: Conv2dResiduals, dy: Array, *, stride: int | Pair = 1, padding: Padding = "SAME"
) -> tuple[Array, Array, Array]:
    """dx = δ ∗ flipped w, dw = x ∗ δ, db = Σ dy, where δ is dy with stride − 1 zeros between its pixels.

    Derivation: y_i = Σ_u x_{s i + u − p} w_u + b along each axis; equations (2) to (7) at the top of this module.
    """
    x, w = residuals
    strides = _checks.pair("conv2d", "stride", stride)
    paddings = _paddings(x.shape, w.shape, strides, padding)
    accumulate = accumulation_dtype(dy.dtype)
    axes = list(zip(x.shape[1:3], w.shape[:2], dy.shape[1:3], strides, paddings, strict=True))
    zeros = [(k - 1 - p, n - 1 - (o - 1) * s + p) for n, k, o, s, (p, _) in axes]  # (3) and (4)
    # A negative number of zeros is a crop, of dx as well as of δ. XLA's CPU compiler (JAX 0.10), asked for it as
    # padding, reads what lies before the array: there, jax.vjp is wrong.
    dx = jax.lax.conv_general_dilated(
        dy,
        jnp.flip(w, (0, 1)),
        window_strides=(1, 1),
        padding=[(max(low, 0), max(high, 0)) for low, high in zeros],
        lhs_dilation=strides,
        dimension_numbers=_INPUT,
        preferred_element_type=accumulate,
    )
    (top, _), (left, _) = ((max(-low, 0), high) for low, high in zeros)
    dx = dx[:, top : top + x.shape[1], left : left + x.shape[2]]
    dw = jax.lax.conv_general_dilated(
        x,
        dy,
        window_strides=(1, 1),
        padding=[(p, k + (o - 1) * s - n - p) for n, k, o, s, (p, _) in axes],  # (5) and (6)
        rhs_dilation=strides,
        dimension_numbers=_KERNEL,
        preferred_element_type=accumulate,
    )
    return dx.astype(x.dtype), dw.astype(w.dtype), jnp.sum(dy, axis=(0, 1, 2))


def _paddings(image: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, padding: Padding) -> list[Pair]:
    """Zeros before and behind, down and across, for [B, H, W, C] and [kH, kW, C, O]."""
    given = _checks.padding("conv2d", "padding", padding)
    if not isinstance(given, str):
        return list(given)
    if given == "VALID":
        return [(0, 0), (0, 0)]
    paddings = []
    for n, k, s in zip(image[1:3], kernel[:2], strides, strict=True):
        outputs = -(-n // s)
        total = max((outputs - 1) * s + k - n, 0)
        paddings.append((total // 2, total - total // 2))
    return paddings
