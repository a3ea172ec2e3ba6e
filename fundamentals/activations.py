"""Activation functions with their backward passes: elementwise ones, softmax over the last axis, maxout.

Elementwise functions take `x` of any shape and floating dtype and return the same. For each of them y = f(x), and
the chain rule ∂L/∂x = ∂L/∂y · f′(x) reads, in the names of `base`, dx = dy · f′(x): a derivation here only has to
find f′ = ∂y/∂x, and to say which of x and y it is cheapest to find it from. Keeping y is free in a network, where the
next layer keeps it anyway; keeping x is not.

At a kink one subgradient is stated, and the forward pass is written with `jnp.where` so that autodiff
takes the same one. All of them are finite at ±1e4 in every dtype, and NaN in gives NaN out.
Every function raises `TypeError` for input that is not floating and `ValueError` for a wrong shape.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class SigmoidResiduals(NamedTuple):
    """What `sigmoid_bwd` needs."""

    y: Array  # [...]


def sigmoid(x: ArrayLike) -> Array:
    """Logistic function σ(x) = 1 / (1 + e⁻ˣ), [...] → [...] in (0, 1)."""
    return sigmoid_fwd(x)[0]


def sigmoid_fwd(x: ArrayLike) -> tuple[Array, SigmoidResiduals]:
    """Keeps the output. Not x: the derivative is a polynomial in y, without another exponential."""
    x = _checks.array("sigmoid", "x", x)
    y = jax.lax.logistic(x)  # 1 / (1 + exp(-x)) itself has gradient inf · 0 at −1e4
    return y, SigmoidResiduals(y)


def sigmoid_bwd(residuals: SigmoidResiduals, dy: Array) -> tuple[Array]:
    """dx = dy · y (1 − y).

    Derivation: with u = 1 + e⁻ˣ, y = 1/u and ∂y/∂x = e⁻ˣ/u² = (1/u) · (u − 1)/u = y (1 − y).
    """
    (y,) = residuals
    return (dy * (y * (1 - y)),)


class TanhResiduals(NamedTuple):
    """What `tanh_bwd` needs."""

    y: Array  # [...]


def tanh(x: ArrayLike) -> Array:
    """Hyperbolic tangent (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), [...] → [...] in (−1, 1)."""
    return tanh_fwd(x)[0]


def tanh_fwd(x: ArrayLike) -> tuple[Array, TanhResiduals]:
    """Keeps the output. Not x, as for the sigmoid."""
    x = _checks.array("tanh", "x", x)
    y = jnp.tanh(x)
    return y, TanhResiduals(y)


def tanh_bwd(residuals: TanhResiduals, dy: Array) -> tuple[Array]:
    """dx = dy · (1 − y²).

    Derivation: y = s/c with s = sinh x, c = cosh x, s′ = c, c′ = s; ∂y/∂x = (c² − s²)/c² = 1 − y².
    """
    (y,) = residuals
    return (dy * (1 - y * y),)


class ReluResiduals(NamedTuple):
    """What `relu_bwd` needs."""

    y: Array  # [...]


def relu(x: ArrayLike) -> Array:
    """Rectifier max(0, x), [...] → [...]; Nair & Hinton 2010. The derivative at 0 is 0."""
    return relu_fwd(x)[0]


def relu_fwd(x: ArrayLike) -> tuple[Array, ReluResiduals]:
    """Keeps the output: y > 0 exactly where x > 0, so neither x nor a mask is needed.

    In a network y costs nothing, the next layer keeps it: an MLP's gradient needs a third to a half less temporary
    memory than autodiff's, which keeps x too. The price, where XLA compiles this rule alone: the backward loop waits
    for the forward loop's y instead of running beside it on x, 1.00 to 1.05 × the time on two cores.
    """
    x = _checks.array("relu", "x", x)
    y = jnp.where(x <= 0, 0, x)  # not maximum(x, 0): its gradient at 0 is ½. Not x > 0: NaN would give 0
    return y, ReluResiduals(y)


def relu_bwd(residuals: ReluResiduals, dy: Array) -> tuple[Array]:
    """dx = dy · 1[y > 0].

    Derivation: f′ = 1 for x > 0 and 0 for x < 0; at the kink the subgradient 0 out of [0, 1].
    """
    (y,) = residuals
    return (jnp.where(y <= 0, 0, dy),)


class LeakyReluResiduals(NamedTuple):
    """What `leaky_relu_bwd` needs."""

    y: Array  # [...]


def leaky_relu(x: ArrayLike, *, negative_slope: float = 0.01) -> Array:
    """x for x > 0, negative_slope · x elsewhere, [...] → [...]; Maas, Hannun & Ng 2013.

    The derivative at 0 is `negative_slope`.

    Raises:
      ValueError: `negative_slope` is negative (the output would no longer tell the sign of x).
    """
    return leaky_relu_fwd(x, negative_slope=negative_slope)[0]


def leaky_relu_fwd(x: ArrayLike, *, negative_slope: float = 0.01) -> tuple[Array, LeakyReluResiduals]:
    """Keeps the output: y > 0 exactly where x > 0, since the slope is not negative. What that costs: see `relu_fwd`."""
    x = _checks.array("leaky_relu", "x", x)
    _checks.interval("leaky_relu", "[0, inf)", negative_slope=negative_slope)
    y = jnp.where(x > 0, x, jnp.asarray(negative_slope, x.dtype) * x)
    return y, LeakyReluResiduals(y)


def leaky_relu_bwd(residuals: LeakyReluResiduals, dy: Array, *, negative_slope: float = 0.01) -> tuple[Array]:
    """dx = dy · (1 where y > 0, else negative_slope).

    Derivation: f′ = 1 for x > 0 and negative_slope for x < 0; at the kink the latter.
    """
    (y,) = residuals
    return (jnp.where(y > 0, dy, jnp.asarray(negative_slope, dy.dtype) * dy),)


class EluResiduals(NamedTuple):
    """What `elu_bwd` needs."""

    y: Array  # [...]


def elu(x: ArrayLike, *, alpha: float = 1.0) -> Array:
    """Exponential linear unit: x for x > 0, α (eˣ − 1) elsewhere, [...] → [...]; Clevert et al. 2016, eq. 16.

    The derivative at 0 is `alpha`: a kink unless alpha = 1.

    Raises:
      ValueError: `alpha` is negative (the output would no longer tell the sign of x).
    """
    return elu_fwd(x, alpha=alpha)[0]


def elu_fwd(x: ArrayLike, *, alpha: float = 1.0) -> tuple[Array, EluResiduals]:
    """Keeps the output. Not x: α eˣ = y + α, so the backward pass needs no exponential: 0.75 to 0.9 × the time.

    The price: for very negative x the sum keeps the derivative to one unit in the last place of α, not of itself.
    """
    x = _checks.array("elu", "x", x)
    _checks.interval("elu", "[0, inf)", alpha=alpha)
    # The inner where keeps expm1 from overflowing on the branch not taken: its gradient would be 0 · inf.
    y = jnp.where(x > 0, x, jnp.asarray(alpha, x.dtype) * jnp.expm1(jnp.where(x > 0, 0, x)))
    return y, EluResiduals(y)


def elu_bwd(residuals: EluResiduals, dy: Array, *, alpha: float = 1.0) -> tuple[Array]:
    """dx = dy · (1 where y > 0, else y + α).

    Derivation: for x < 0, y = α (eˣ − 1), so ∂y/∂x = α eˣ = y + α; at the kink the left derivative α.
    """
    (y,) = residuals
    return (dy * jnp.where(y > 0, 1, y + jnp.asarray(alpha, y.dtype)),)


class SoftplusResiduals(NamedTuple):
    """What `softplus_bwd` needs."""

    x: Array  # [...]


def softplus(x: ArrayLike) -> Array:
    """log(1 + eˣ), the smooth rectifier, [...] → [...]; Dugas et al. 2001."""
    return softplus_fwd(x)[0]


def softplus_fwd(x: ArrayLike) -> tuple[Array, SoftplusResiduals]:
    """Keeps the input. Not y: σ(x) = 1 − e⁻ʸ cancels for very negative x."""
    x = _checks.array("softplus", "x", x)
    # max(x, 0) + log(1 + e^−|x|), which never overflows. Both parts switch on the same test, so that at 0 autodiff
    # adds 1 and −½; jnp.maximum and jnp.abs would add ½ and 0, or 0 and 0.
    positive = x >= 0
    return jnp.where(positive, x, 0) + jnp.log1p(jnp.exp(jnp.where(positive, -x, x))), SoftplusResiduals(x)


def softplus_bwd(residuals: SoftplusResiduals, dy: Array) -> tuple[Array]:
    """dx = dy · σ(x).

    Derivation: d log(1 + eˣ)/dx = eˣ / (1 + eˣ) = σ(x).
    """
    (x,) = residuals
    positive = x >= 0
    e = jnp.exp(jnp.where(positive, -x, x))  # the forward pass's exponential, which XLA then takes once
    return (dy * (jnp.where(positive, 1, e) / (1 + e)),)


class SiluResiduals(NamedTuple):
    """What `silu_bwd` needs."""

    x: Array  # [...]


def silu(x: ArrayLike) -> Array:
    """x σ(x), also called swish, [...] → [...]; Elfwing, Uchibe & Doya 2018, eq. 5."""
    return silu_fwd(x)[0]


def silu_fwd(x: ArrayLike) -> tuple[Array, SiluResiduals]:
    """Keeps the input. Not σ(x): one array instead of two, for one more exponential in the backward pass."""
    x = _checks.array("silu", "x", x)
    return x * jax.lax.logistic(x), SiluResiduals(x)


def silu_bwd(residuals: SiluResiduals, dy: Array) -> tuple[Array]:
    """dx = dy · σ (1 + x (1 − σ)), σ = σ(x).

    Derivation: (x σ)′ = σ + x σ′ and σ′ = σ (1 − σ).
    """
    (x,) = residuals
    s = jax.lax.logistic(x)
    return (dy * (s * (1 + x * (1 - s))),)


class GeluResiduals(NamedTuple):
    """What `gelu_bwd` needs."""

    x: Array  # [...]


def gelu(x: ArrayLike, *, approximate: bool = True) -> Array:
    """Gaussian error linear unit x Φ(x), Φ the normal distribution function, [...] → [...].

    Hendrycks & Gimpel 2016, section 2. With `approximate` the tanh form, as in `jax.nn.gelu`:
    Φ(x) ≈ ½ (1 + tanh(√(2/π) (x + 0.044715 x³))).
    """
    return gelu_fwd(x, approximate=approximate)[0]


def gelu_fwd(x: ArrayLike, *, approximate: bool = True) -> tuple[Array, GeluResiduals]:
    """Keeps the input. Not Φ(x): one array instead of two, for one more tanh or erf in the backward pass."""
    x = _checks.array("gelu", "x", x)
    return x * (_gelu_tanh(x)[0] if approximate else _normal_cdf(x)), GeluResiduals(x)


def gelu_bwd(residuals: GeluResiduals, dy: Array, *, approximate: bool = True) -> tuple[Array]:
    """dx = dy · (Φ + x Φ′).

    Derivation: (x Φ)′ = Φ + x Φ′. Exact: Φ′ is the normal density e^(−x²/2) / √(2π). Approximate: with
    t = tanh(c (x + a x³)), c = √(2/π), a = 0.044715: Φ = ½ (1 + t), Φ′ = ½ (1 − t²) c (1 + 3 a x²).
    """
    (x,) = residuals
    if approximate:
        cdf, t, u = _gelu_tanh(x)
        density = (0.5 * _GELU_C) * (1 - t * t) * (1 + (3 * _GELU_A) * (u * u))
    else:
        cdf = _normal_cdf(x)
        z = x * -math.sqrt(0.5)  # the argument of erfc, whose expansion takes the same exponential: XLA shares it
        density = jnp.exp(-(z * z)) * (1 / math.sqrt(2 * math.pi))
    return (dy * (cdf + x * density),)


_GELU_A, _GELU_C = 0.044715, math.sqrt(2 / math.pi)


def _gelu_tanh(x: Array) -> tuple[Array, Array, Array]:
    # At ±10 the tanh is ±1 in every dtype; beyond, x³ would overflow and the derivative become 0 · inf.
    u = jnp.clip(x, -10, 10)
    t = jnp.tanh(_GELU_C * (u + _GELU_A * (u * u * u)))
    return 0.5 * (1 + t), t, u


def _normal_cdf(x: Array) -> Array:
    # erfc, not 1 + erf: the left tail is small numbers, not a difference of large ones.
    return 0.5 * jax.lax.erfc(x * -math.sqrt(0.5))


class SoftmaxResiduals(NamedTuple):
    """What `softmax_bwd` needs."""

    y: Array  # [..., K]


def softmax(x: ArrayLike) -> Array:
    """e^(x_k) / Σ_j e^(x_j) over the last axis, [..., K] → [..., K]; each row sums to one."""
    return softmax_fwd(x)[0]


def softmax_fwd(x: ArrayLike) -> tuple[Array, SoftmaxResiduals]:
    """Keeps the output. Not x, and not the exponentials, which autodiff keeps beside it."""
    (x,) = _checks.arrays("softmax", x=(x, "... K"))
    _, exponentials, total = _exponentials("softmax", x)
    y = (exponentials / total).astype(x.dtype)
    return y, SoftmaxResiduals(y)


def softmax_bwd(residuals: SoftmaxResiduals, dy: Array) -> tuple[Array]:
    """dx = y ∘ (dy − Σ_k dy_k y_k), without the [K, K] Jacobian of each row.

    Derivation: log y_k = x_k − log Σ_j e^(x_j), so ∂y_k/∂x_j = y_k (δ_kj − y_j) and
    dx_j = Σ_k dy_k y_k (δ_kj − y_j) = y_j (dy_j − Σ_k dy_k y_k).
    """
    (y,) = residuals
    accumulate = accumulation_dtype(y.dtype)
    y, g = y.astype(accumulate), dy.astype(accumulate)
    # Adding the negated sum, not subtracting the sum: XLA's CPU compiler turns the subtraction, reduction
    # and products into one custom kernel that is 1.1 × slower than a reduction and a loop (JAX 0.12).
    return ((y * (g + -jnp.sum(g * y, axis=-1, keepdims=True))).astype(dy.dtype),)


class LogSoftmaxResiduals(NamedTuple):
    """What `log_softmax_bwd` needs."""

    exponentials: Array  # [..., K], e^(x − max x)
    total: Array  # [..., 1], their sum, in the accumulation dtype


def log_softmax(x: ArrayLike) -> Array:
    """x_k − log Σ_j e^(x_j) over the last axis, [..., K] → [..., K], each entry ≤ 0."""
    return log_softmax_fwd(x)[0]


def log_softmax_fwd(x: ArrayLike) -> tuple[Array, LogSoftmaxResiduals]:
    """Keeps the exponentials and their row sums. Not x.

    y alone would do, since p = e^y, but taking the exponential again costs 1.25 × the time of the whole
    rule on a CPU.
    """
    (x,) = _checks.arrays("log_softmax", x=(x, "... K"))
    shifted, exponentials, total = _exponentials("log_softmax", x)
    y = (shifted - jnp.log(total)).astype(x.dtype)
    return y, LogSoftmaxResiduals(exponentials.astype(x.dtype), total)


def log_softmax_bwd(residuals: LogSoftmaxResiduals, dy: Array) -> tuple[Array]:
    """dx = dy − p Σ_k dy_k, with p = softmax(x), without the [K, K] Jacobian of each row.

    Derivation: ∂y_k/∂x_j = δ_kj − p_j, so dx_j = Σ_k dy_k (δ_kj − p_j) = dy_j − p_j Σ_k dy_k.
    """
    exponentials, total = residuals
    g = dy.astype(total.dtype)
    scale = -jnp.sum(g, axis=-1, keepdims=True) / total  # per row, so that p itself is never formed
    return ((g + exponentials.astype(total.dtype) * scale).astype(dy.dtype),)


def _exponentials(function: str, x: Array) -> tuple[Array, Array, Array]:
    """x − max x, its exponentials and their row sums [..., 1], in the accumulation dtype."""
    _checks.not_empty(function, "x", x.shape[-1], "K")
    x = x.astype(accumulation_dtype(x.dtype))
    # The maximum cancels in the result, so no gradient need pass through it.
    shifted = x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    exponentials = jnp.exp(shifted)
    return shifted, exponentials, jnp.sum(exponentials, axis=-1, keepdims=True)


class MaxoutResiduals(NamedTuple):
    """What `maxout_bwd` needs."""

    x: Array  # [..., D]
    w: Array  # [P, D, H]
    wins: tuple[Array, ...]  # P − 1 of [..., H], bool: piece p ≥ 1 beat all before it


def maxout(x: ArrayLike, w: ArrayLike, b: ArrayLike) -> Array:
    """The largest of P linear functions, max_p (x w_p + b_p); Goodfellow et al. 2013, eqs. 1–2.

    Ties go to the first piece, in the forward and the backward pass alike.

    Args:
      x: inputs [..., D].
      w: weights [P, D, H].
      b: biases [P, H].

    Returns:
      [..., H].
    """
    return maxout_fwd(x, w, b)[0]


def maxout_fwd(x: ArrayLike, w: ArrayLike, b: ArrayLike) -> tuple[Array, MaxoutResiduals]:
    """Keeps the inputs, the weights and P − 1 masks. Not the P linear outputs.

    One byte an output, the index of the winner, would do too, but XLA's CPU compiler would rather keep all P linear
    outputs and compare them again than store an index that took P comparisons: 1.4 × the memory in a network.
    """
    x, w, b = _checks.arrays("maxout", x=(x, "... D"), w=(w, "P D H"), b=(b, "P H"))
    pieces = w.shape[0]
    _checks.not_empty("maxout", "w", pieces, "P")
    accumulate = accumulation_dtype(x.dtype)
    biases = b.astype(accumulate).reshape((pieces,) + (1,) * (x.ndim - 1) + b.shape[1:])

    def piece(p: int) -> Array:
        return (jnp.matmul(x, w[p], preferred_element_type=accumulate) + biases[p]).astype(x.dtype)

    y, wins = piece(0), []
    for p in range(1, pieces):
        z = piece(p)
        wins.append((z > y) | jnp.isnan(z))  # a tie stays with the earlier piece; a NaN is never hidden
        y = jnp.where(wins[-1], z, y)
    return y, MaxoutResiduals(x, w, tuple(wins))


def maxout_bwd(residuals: MaxoutResiduals, dy: Array) -> tuple[Array, Array, Array]:
    """dz_p = dy · 1[p won], then as for a linear layer: dx = Σ_p dz_p w_pᵀ, dw_p = xᵀ dz_p, db_p = Σ_B dz_p.

    Derivation: y_h = z_ph for the winning p, so the maximum routes dy_h to that piece alone; the others
    do not influence y (almost everywhere; at a tie the first is the winner).
    """
    x, w, wins = residuals
    accumulate = accumulation_dtype(dy.dtype)
    dz = [dy]
    for win in reversed(wins):  # undo y = where(win, z, y), the last piece first
        dz[:1] = [jnp.where(win, 0, dz[0]), jnp.where(win, dz[0], 0)]
    leading = tuple(range(x.ndim - 1))
    dx = sum(jnp.matmul(d, w[p].T, preferred_element_type=accumulate) for p, d in enumerate(dz))
    dw = [jax.lax.dot_general(x, d, ((leading, leading), ((), ())), preferred_element_type=accumulate) for d in dz]
    db = [jnp.sum(d, axis=leading) for d in dz]
    return jnp.asarray(dx).astype(x.dtype), jnp.stack(dw).astype(w.dtype), jnp.stack(db)
