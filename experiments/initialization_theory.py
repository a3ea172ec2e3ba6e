"""Theory of `initialization`: variances of weights, and how wide networks scale activations and gradients by them.

A layer z = x W, y = f(z) with n_in inputs and n_out outputs; entries of W independent, of mean 0 and variance σ². With
q the mean of x² and g that of dy², over units and networks,

    E z² = n_in σ² q        q ← E f(√(n_in σ² q) ζ)²,        g ← n_out σ² E f′(√(n_in σ² q) ζ)² g,        ζ ~ N(0, 1)

    f linear    q ← n_in σ² q        g ← n_out σ² g          at any width
    f relu      q ← n_in σ² q / 2    g ← n_out σ² g / 2      at any width: the sign of z is a coin, whatever |z| is
    f tanh      the integrals        the integrals           as n → ∞ (Poole et al. 2016, Schoenholz et al. 2017)

At width n the mean square of a layer fluctuates about what is expected, relatively by κ / n with κ = Var f² / (E f²)²,
and so, for gradients, do those of f′². Where the next is no linear function of it, its mean is off by about as much:
with tanh, by no more than the sum over layers is meant here.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# ∫ over ±12 standard deviations. Equidistant, as f′ is a narrow peak where weights are large, which quadratures made
# for polynomials miss.
NODES = np.arange(-2000, 2001) * 6e-3  # 0 among them
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()
SLOPES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {  # f and f′
    "linear": lambda z: (z, np.ones_like(z)),
    "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
    "relu": lambda z: (np.maximum(z, 0), np.sqrt(np.heaviside(z, 0.5))),  # at the kink half of the square
}
EXACT = "linear", "relu"  # at any width


class Predicted(NamedTuple):
    """From the inputs, layer 0, to the last."""

    forward: np.ndarray  # [L + 1], mean square of the activations, 1 of the inputs
    backward: np.ndarray  # [L + 1], of the gradients, 1 at the last layer
    forward_off: np.ndarray  # [L + 1], relative, by how much a finite width may be off
    backward_off: np.ndarray


def variances(small: float, large: float) -> dict[str, Callable[[int, int], float]]:
    """σ² by scheme, of n_in and n_out; `small` and `large` are standard deviations."""
    return {
        "small": lambda n_in, n_out: small**2,
        "large": lambda n_in, n_out: large**2,
        "S3": lambda n_in, n_out: 1 / (2 * n_in + 2 * n_out),
        "Xavier": lambda n_in, n_out: 2 / (n_in + n_out),
        "He": lambda n_in, n_out: 2 / n_in,
    }


@functools.cache
def square(activation: str, variance: float, *, width: int, depth: int) -> Predicted:
    """Layers of one width."""
    forward, factors, spread, slope_spread = [1.0], [], [], []
    for _ in range(depth):
        f, slope = SLOPES[activation](math.sqrt(width * variance * forward[-1]) * NODES)
        squares, slopes = f**2, slope**2
        mean, slope_mean = (float(WEIGHTS @ values) for values in (squares, slopes))
        forward.append(mean)
        factors.append(width * variance * slope_mean)
        spread.append(float(WEIGHTS @ squares**2) / mean**2 - 1)
        slope_spread.append(float(WEIGHTS @ slopes**2) / slope_mean**2 - 1)
    backward = np.cumprod([1.0, *factors[::-1]])[::-1]
    if activation in EXACT:
        return Predicted(np.array(forward), backward, np.zeros(depth + 1), np.zeros(depth + 1))
    # Layer 1 is exact, as its inputs are given.
    forward_off = np.cumsum([0.0, 0.0, *spread[:-1]]) / width
    backward_off = (np.cumsum([0.0, *slope_spread[::-1]])[::-1] + np.append(np.full(depth, sum(spread)), 0)) / width
    return Predicted(np.array(forward), backward, forward_off, backward_off)


STACKS = {"funnel": [512, 256, 128, 64, 32], "up and down": [256, 64] * 5 + [256]}  # widths
RULES: dict[str, Callable[[int, int], float]] = {
    "1/n_in": lambda n_in, n_out: 1 / n_in,
    "1/n_out": lambda n_in, n_out: 1 / n_out,
    "Xavier": lambda n_in, n_out: 2 / (n_in + n_out),
}


def linear_stack(rule: str, widths: list[int]) -> Predicted:
    """Linear layers of any widths."""
    pairs = list(itertools.pairwise(widths))
    forward = np.cumprod([1.0, *(n_in * RULES[rule](n_in, n_out) for n_in, n_out in pairs)])
    backward = np.cumprod([1.0, *(n_out * RULES[rule](n_in, n_out) for n_in, n_out in pairs[::-1])])[::-1]
    return Predicted(forward, backward, 0 * forward, 0 * forward)


def largest_of(count: int, probability: float) -> float:
    """t with P(largest of so many |ζ| ≤ t) = probability, by Newton's steps on the logarithm of the tail."""
    tail = -math.expm1(math.log(probability) / count)  # P(|ζ| > t) of one
    t = math.sqrt(2 * math.log(1 / tail))
    for _ in range(50):
        there = math.erfc(t / math.sqrt(2))
        t += math.log(there / tail) * there / (math.sqrt(2 / math.pi) * math.exp(-(t**2) / 2))
    return t


# A standard normal cut at ±2 has this standard deviation; divided by it, its largest entry is 2.27.
CUT = 2.0
CUT_STDDEV = math.sqrt(1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2)))
