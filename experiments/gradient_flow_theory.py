"""What mean-field theory says of gradients in wide random networks, and by how much a finite width may differ.

Layers of equal width n without biases, w_ij of variance s²/n, x_l = φ(z_l), z_l = x_{l−1} w_l. Given x, the z of wide
layers are independent and normal. With Q_l the mean square of x_l, and E over z ~ N(0, q_l) (Poole et al. 2016;
Schoenholz et al. 2017):

    (1)  q_l = s² Q_{l−1},  Q_l = E[φ²]                         forward
    (2)  ‖dz_l‖² = D_l ‖dx_l‖²,      D_l = E[φ′²]               backward: dz = dx ∘ φ′
    (3)  ‖dx_{l−1}‖² = χ_l ‖dx_l‖²,  χ_l = s² D_l               dx_{l−1} = dz_l w_lᵀ
    (4)  ‖dw_l‖² = n Q_{l−1} ‖dz_l‖²                            dw = xᵀ dz, of one example

so that in a network of L layers

    (5)  ‖dx_0‖² / ‖dx_L‖² = Π_{l=1…L} χ_l
    (6)  ‖dw_1‖² / ‖dw_L‖² = (Q_0 D_1) / (Q_{L−1} D_L) · Π_{l=2…L} χ_l

Maxout of P pieces is not a function of one z: Q = E[max²] of P independent normals, and D = 1, as one piece of slope 1
wins. For P = 2, E[max²] = q; so χ = s², and it is 1/n that keeps both norms, not He's 2/n.

Other layers change (1) to (3). r is what layer normalization multiplies by, 1 / √(variance + ε):

    (7)  residual, x + φ(x w):          χ = 1 + s² E[φ′²];  Q_l = Q_{l−1} + 2 m_{l−1} E[φ] + E[φ²], m the mean of x
         (if E[φ] is 0 or φ is bounded. The mean of residual ReLUs grows with x, and in deep networks of finite width
         the cotangent's part along it, of one in n, outgrows all others: they are left out)
    (8)  normalized before, φ(N(x w)):  q = 1 (less ε),  D = r² E[φ′²], r² = 1 / (s² Q + ε):  χ ≈ E[φ′²] / E[φ²]
    (9)  normalized after, N(φ(x w)):   Q = 1 (less ε),  D = r² E[φ′²], r² = 1 / (Var φ + ε): χ ≈ q E[φ′²] / Var φ

By the Gaussian Poincaré inequality, Var φ ≤ q E[φ′²]. So (9) is at least 1, whatever φ and s: what is normalized after
the activation does not vanish. (8) is at least 1 if φ has mean 0; not for the sigmoid, whose E[φ²] is mostly E[φ]².

Finite width. Of independent terms, ‖dx_{l−1}‖² / ‖dx_l‖² = (s²/n) Σ_j φ′(z_j)² g_j² has a relative variance of V/n,

    (10) V = 3 E[φ′⁴] / E[φ′²]² − 1,

so that the mean of its logarithm is V/2n below the logarithm of its mean (5 for ReLU: Hanin & Nica 2018). Likewise
Q_l, with U = E[φ⁴] / E[φ²]² − 1. The mean of ln ‖·‖² of L layers may thus differ from (5) and (6) by Σ (V + U)/2n to
leading order: `allowance`. Of (5) alone V shifts it, by −Σ V/2n: `shift`, and its standard deviation is √(Σ V/n):
`spread`; exactly so, to this order, where φ(a z) = a φ(z), as χ does not depend on Q then, and weights are Gaussian
(orthogonal ones fluctuate less). Where a residual layer adds little, V of the whole layer is small, but that of dz at
either end, in (6), is not: (V_1 + V_L)/2n more.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

PLAIN, RESIDUAL, BEFORE, AFTER = BLOCKS = ("plain", "residual", "normalized before", "normalized after")
EPS = 1e-5  # of layer normalization
PIECES = 2  # of maxout
_STEP = 5e-3
_Z = np.arange(-10 + _STEP / 2, 10, _STEP)  # midpoints: none is at a kink, and half of them on either side
_WEIGHTS = _STEP * np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)
_BELOW = np.cumsum(_WEIGHTS) - _WEIGHTS / 2  # the normal distribution function
SLOPE = 0.01  # of leaky ReLU

Function = Callable[[np.ndarray], np.ndarray]


def _logistic(z: np.ndarray) -> np.ndarray:
    y: np.ndarray = 0.5 * (1 + np.tanh(z / 2))
    return y


# Written anew, apart from the rules that are measured.
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (_logistic, lambda z: _logistic(z) * _logistic(-z)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.minimum(np.abs(z), 300)) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "leaky_relu": (lambda z: np.maximum(z, SLOPE * z), lambda z: np.where(z > 0, 1, SLOPE)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
}
MAXOUT = "maxout"


class Moments(NamedTuple):
    """Of φ(z) and φ′(z), z ~ N(0, q)."""

    mean: float  # E[φ]
    second: float  # E[φ²]
    kurtosis: float  # E[φ⁴] / E[φ²]²
    slope_second: float  # E[φ′²]
    slope_fourth: float


class Flow(NamedTuple):
    """log₁₀ of norms' ratios for networks of 1 … L layers, each [L]."""

    signal: np.ndarray  # ‖dx_0‖ / ‖dx_L‖, (5)
    weights: np.ndarray  # ‖dw_1‖ / ‖dw_L‖, (6)
    allowance: np.ndarray  # by which means of signal may differ at this width
    weights_allowance: np.ndarray  # of weights
    shift: np.ndarray  # of the mean of signal, of plain networks with Gaussian weights
    spread: np.ndarray  # of single networks, likewise


def moments(activation: str, q: float) -> Moments:
    """By the midpoint rule, whose error is far below that of any measurement, also where φ′ is narrow."""
    if activation == MAXOUT:
        weights = PIECES * _BELOW ** (PIECES - 1) * _WEIGHTS
        value, slope = math.sqrt(q) * _Z, np.ones_like(_Z)
    else:
        function, derivative = ACTIVATIONS[activation]
        weights, value, slope = _WEIGHTS, function(math.sqrt(q) * _Z), derivative(math.sqrt(q) * _Z)
    square, slope_square = value * value, slope * slope
    second = float(weights @ square)
    relative = square / second  # φ⁴ itself may be too small for float64
    powers = relative * relative, slope_square, slope_square * slope_square
    return Moments(float(weights @ value), second, *(float(weights @ power) for power in powers))


def flow(activation: str, block: str, variance: float, depth: int, width: int) -> Flow:
    """Predictions.

    Args:
      activation: its name.
      block: one of `BLOCKS`.
      variance: s², n times that of a weight.
      depth: L, of the deepest network.
      width: n.
    """
    second, mean = 1.0, 0.0  # Q and m of x
    inputs, slopes, gains, variances, backwards, ends_variances = [], [], [], [], [], []
    for _ in range(depth):
        inputs.append(second)
        q = variance * second
        scale = 1.0
        if block == BEFORE:
            scale = 1 / (q + EPS)
            q *= scale
        m = moments(activation, q)
        gain = variance * scale * m.slope_second
        backward = 3 * m.slope_fourth / m.slope_second**2 - 1
        ends_variances.append(backward)
        forward = m.kurtosis - 1
        if block == RESIDUAL:
            after = second + 2 * mean * m.mean + m.second
            backward = (4 * gain + backward * gain**2) / (1 + gain) ** 2
            forward = (4 * second * m.second + forward * m.second**2) / after**2
            slopes.append(m.slope_second)
            gains.append(1 + gain)
            second, mean = after, mean + m.mean
        elif block == AFTER:
            spread = m.second - m.mean**2
            scale = 1 / (spread + EPS)
            slopes.append(scale * m.slope_second)
            gains.append(scale * gain)
            second = spread * scale
        else:
            slopes.append(scale * m.slope_second)
            gains.append(gain)
            second = m.second
        if block in (BEFORE, AFTER):
            forward += 4  # the backward pass takes two of n directions away: ln(1 − 2/n), on top of its fluctuations
        variances.append(backward + forward)
        backwards.append(backward)
    gain_sums = np.cumsum(np.log10(gains))
    ends = np.log10(inputs[0] * slopes[0]) - np.log10(np.multiply(inputs, slopes))
    total = np.cumsum(variances) / width
    own = np.cumsum(backwards) / width
    ends_total = total + (ends_variances[0] + np.array(ends_variances)) / width
    return Flow(
        gain_sums / 2,
        (ends + gain_sums - gain_sums[0]) / 2,
        total / 2 / (2 * math.log(10)),
        ends_total / 2 / (2 * math.log(10)),
        -own / 2 / (2 * math.log(10)),
        np.sqrt(own) / (2 * math.log(10)),
    )


def recurrent(radius: float, noise: float, lags: int, width: int) -> Flow:
    """As `flow`, with lags k = 1 … in the place of layers: signal is ‖dh_{T−k}‖ / ‖dh_T‖. Only it and its allowance.

    A tanh network far from its start, w_h = radius · orthogonal, driven by inputs of standard deviation `noise`:
    q = radius² E[φ²] + noise² at all steps, and χ = radius² E[φ′²]. Its steps share w_h; for wide networks that does
    not matter (Chen, Pennington & Schoenholz 2018).
    """
    q = radius**2 + noise**2
    for _ in range(100):  # with noise it is soon steady
        q = radius**2 * moments("tanh", q).second + noise**2
    m = moments("tanh", q)
    k = np.arange(1, lags + 1)
    total = k * (3 * m.slope_fourth / m.slope_second**2 + m.kurtosis - 2) / width
    unknown = np.full(lags, math.nan)
    signal = k * math.log10(radius**2 * m.slope_second) / 2
    return Flow(signal, unknown, total / 2 / (2 * math.log(10)), unknown, unknown, unknown)
