"""Bias² and variance against capacity: `generalization` of polynomials and of networks, on a curve that is known.

N points x_i in [−1, 1], the same in each of R training sets; targets f(x_i) + ε_i, ε of variance σ². A polynomial of
degree d has p = d + 1 coefficients. Least squares projects the targets: f̂ = H y, H = Hᵀ = H², tr H = p. So, of means
over the points, exactly

    bias² = |(1 − H) f|² / N        variance = σ² p / N        error = bias² + variance                             (1)

What is measured has known distributions. With normal ε, N V / σ² of the measured variance V is χ² of p (R − 1) degrees
of freedom, over R − 1. The mean prediction is H f + H ε̄, so that of its squared distance from f only |H ε̄|² is drawn:
R |H ε̄|² / σ² is χ² of p degrees. How far χ² of n degrees is from n, but for e^(−t) on each side, is at most (B. Laurent
and P. Massart 2000, lemma 1)

    2 √(n t) + 2 t.                                                                                                 (2)
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generalization_networks as networks
from fundamentals import losses, optimizers, training
from fundamentals.base import Array, Rule
from fundamentals.catalogue import RULES
from fundamentals.models import mlp

TANH = RULES["tanh"].rule
SQUARED = Rule(losses.squared_error, losses.squared_error_fwd, losses.squared_error_bwd)
ETA = 0.01
LOOKS = 8  # at a network: after 1, ½, ¼ … of its steps
SLOPE = 3.0  # standard deviation of the slopes that a network starts with
RARE = math.log(1e4)  # t: a right measurement is outside once in 10⁴ on either side


def curve(x: np.ndarray) -> np.ndarray:
    """f. Neither even nor odd: each degree brings it nearer."""
    return np.sin(np.pi * x + 0.5)


def points(count: int) -> np.ndarray:
    """Evenly in [−1, 1]."""
    return (np.arange(count) + 0.5) / count * 2 - 1


def targets(count: int, noise: float, sets: int, seed: int) -> np.ndarray:
    """Of R training sets, [R, N]: the same for polynomials and networks."""
    random = networks.generator(seed, "capacity")
    return curve(points(count)) + random.normal(0, noise, (sets, count))


def decompose(predictions: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Bias², variance and error, means over points; and each without one of the training sets, [R], for jackknives."""
    sets = len(predictions)
    without = (np.arange(sets)[:, None] + np.arange(1, sets)) % sets
    with jax.enable_x64(True):
        found = _parts(jnp.asarray(predictions, jnp.float64), jnp.asarray(truth), jnp.asarray(without))
        whole, jackknife = jax.tree.map(lambda a: np.asarray(a).tolist(), found)
    result: dict[str, Any] = whole._asdict()
    return result | {"without": jackknife._asdict()}


@jax.jit
def _parts(predictions: Array, truth: Array, without: Array) -> Any:
    def parts(values: Array) -> training.BiasVariance:
        return training.BiasVariance(*map(jnp.mean, training.bias_variance(values, truth)))

    return parts(predictions), jax.lax.map(lambda rows: parts(predictions[rows]), without)


def project(degree: int, count: int) -> np.ndarray:
    """H, by an orthonormal basis of the polynomials on the points."""
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(points(count), degree))
    result: np.ndarray = basis @ basis.T
    return result


def allowed(degrees: int) -> float:
    """Equation (2)."""
    return 2 * math.sqrt(degrees * RARE) + 2 * RARE


def measure_polynomial(degree: int, *, count: int, noise: float, sets: int, seed: int) -> dict[str, Any]:
    """One degree: measured, and equation (1); how far the one may be from the other."""
    truth, h = curve(points(count)), project(degree, count)
    found = decompose(targets(count, noise, sets, seed) @ h, truth)
    p = degree + 1
    of_variance = noise**2 / count * allowed(p * (sets - 1)) / (sets - 1)
    return found | {
        "capacity": degree,
        "predicted": {"bias_squared": float(np.mean((truth - h @ truth) ** 2)), "variance": noise**2 * p / count},
        # Of |H ε̄|², less the variance over R, that the estimate takes off.
        "allowed": {"bias_squared": noise**2 / count * allowed(p) / sets + of_variance / sets, "variance": of_variance},
    }


def start(width: int, count: int, seed: int) -> mlp.Params:
    """So many networks of one hidden layer. Slopes of both signs, kinks spread over [−1, 1]."""
    random = networks.generator(seed, "capacity", 1 + width)
    w = random.normal(0, SLOPE, (count, 1, width))
    b = w[:, 0] * random.uniform(-1, 1, (count, width))
    v = random.normal(0, width**-0.5, (count, width, 1))
    layers = (w, b), (v, np.zeros((count, 1)))
    return tuple(mlp.Layer(*(jnp.asarray(a, jnp.float32) for a in layer)) for layer in layers)


@functools.partial(jax.jit, static_argnames="looks")
def fit(params: mlp.Params, x: Array, y: Array, *, looks: tuple[int, ...]) -> Array:
    """Predictions [R, looks, N] after so many steps of Adam each, with all points, of y [R, N]."""

    def one(params: mlp.Params, y: Array) -> Array:
        optimizer, bounds = optimizers.adam(ETA), jnp.asarray((0, *looks), jnp.int32)

        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            _, gradient = mlp.loss_and_gradient(params, x, y[:, None], activation=TANH, loss_rule=SQUARED)
            updates, state = optimizer.update(gradient, state, params)
            return optimizers.apply_updates(params, updates), state

        def look(carry: Any, index: Any) -> Any:
            carry = jax.lax.fori_loop(bounds[index], bounds[index + 1], step, carry)
            return carry, mlp.mlp(carry[0], x, activation=TANH)[:, 0]

        _, found = jax.lax.scan(look, (params, optimizer.init(params)), jnp.arange(len(looks)))
        return jnp.asarray(found)

    result: Array = jax.vmap(one)(params, y)
    return result


def measure_network(
    width: int, *, starts: int, count: int, noise: float, sets: int, steps: int, seed: int
) -> dict[str, Any]:
    """One width: at the end, and on the way. Of so many starts with each training set, the one that fits it best.

    From a single start, a unit or two may end in many places: variance, but not of the training set. With the best of
    several it is nearer to least squares, so that by equation (1), to first order, variance is σ² p / N of p = 3 H + 1
    parameters, as long as these are few.
    """
    truth, y = curve(points(count)), targets(count, noise, sets, seed)
    looks = tuple(max(1, steps >> power) for power in reversed(range(LOOKS)))
    x = points(count).astype(np.float32)[:, None]
    repeated = np.repeat(y, starts, axis=0).astype(np.float32)
    found = np.asarray(fit(start(width, sets * starts, seed), x, repeated, looks=looks)).astype(float)
    missed = np.mean((found[:, -1] - repeated) ** 2, axis=1).reshape(sets, starts)
    best = np.arange(sets) * starts + missed.argmin(axis=1)
    ways = [decompose(found[best, index], truth) for index in range(LOOKS)]
    return ways[-1] | {
        "capacity": width,
        "training_error": float(missed.min(axis=1).mean()),
        "first_order": noise**2 * min(1.0, (3 * width + 1) / count),
        "steps": list(looks),
        "on_the_way": ways,
    }


def jobs(
    *, degrees: int, widths: Sequence[int], starts: int, count: int, noise: float, sets: int, steps: int, seed: int
) -> dict[str, Callable[[], dict[str, Any]]]:
    """A row for each degree and each width."""
    same: dict[str, Any] = {"count": count, "noise": noise, "sets": sets, "seed": seed}
    result = {f"degree {d}": functools.partial(measure_polynomial, d, **same) for d in range(degrees + 1)}
    more: dict[str, Any] = same | {"starts": starts, "steps": steps}
    return result | {f"width {width}": functools.partial(measure_network, width, **more) for width in widths}
