"""Two classes to tell apart, for support vector machines: points [N, D] in float64 and labels ±1, from seeded NumPy."""

from typing import NamedTuple

import numpy as np

from fundamentals import data


class Problem(NamedTuple):
    """Points of two classes."""

    x: np.ndarray  # [N, D] float64
    y: np.ndarray  # [N] int, ±1


def floating(problem: Problem) -> Problem:
    """The same with labels in float64, for those who multiply points with them: JAX promotes nothing under `strict`."""
    return problem._replace(y=problem.y.astype(problem.x.dtype))


def signs(random: np.random.RandomState, n: int) -> np.ndarray:
    """Labels, half of them (or one more) positive, in random order."""
    return random.permutation(np.where(np.arange(n) % 2 == 0, 1, -1))


def circles(random: np.random.RandomState, n: int, *, inner: float = 0.5, noise: float = 0.1) -> Problem:
    """A ring inside a ring: radii `inner` (labels 1) and 1, normal noise on both coordinates.

    No line does better than ¾, whatever the noise: points and their opposites have the same labels, so that on each
    line through the centre lie −, +, +, −, of which a threshold gets three right.
    """
    y, angle = signs(random, n), random.uniform(0, 2 * np.pi, n)
    radius = np.where(y > 0, inner, 1.0)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Problem(x + noise * random.normal(size=(n, 2)), y)


def xor(random: np.random.RandomState, n: int, *, noise: float = 0.3) -> Problem:
    """Four normal clusters at (±1, ±1); the label is the sign of the centre's product.

    No line does better than ¾, whatever the noise: it gets three of the four mirror images of a point right.
    """
    y, first = signs(random, n), signs(random, n)
    return Problem(np.stack([first, first * y], axis=1) + noise * random.normal(size=(n, 2)), y)


def moons(random: np.random.RandomState, n: int, *, noise: float = 0.12) -> Problem:
    """Two half rings of radius 1, one reaching into the other, normal noise on both coordinates."""
    y, angle = signs(random, n), random.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(y[:, None] > 0, upper, [1.0, 0.5] - upper) - [0.5, 0.25]
    return Problem(x + noise * random.normal(size=(n, 2)), y)


def gaussians(
    random: np.random.RandomState, n: int, *, distance: float, dimensions: int = 2, positives: float = 0.5
) -> Problem:
    """Two normal clusters of variance 1; a fraction of the labels is positive.

    Their centres are `distance` apart, on the diagonal: 0 is half-way.
    """
    count = max(1, min(n - 1, round(positives * n)))
    y = random.permutation(np.where(np.arange(n) < count, 1, -1))
    centre = np.full(dimensions, 0.5 * distance / np.sqrt(dimensions))
    return Problem(y[:, None] * centre + random.normal(size=(n, dimensions)), y)


def interactions(random: np.random.RandomState, n: int, *, dimensions: int = 10, noise: float = 0.3) -> Problem:
    """Normal points; the label is the sign of x₀x₁ + ½x₂, with normal noise before the sign is taken."""
    x = random.normal(size=(n, dimensions))
    score = x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + noise * random.normal(size=n)
    return Problem(x, np.where(score > 0, 1, -1))


def duplicated(problem: Problem, random: np.random.RandomState, *, flipped: float = 0.1) -> Problem:
    """Every point twice, in random order; of the second copies a fraction has the other label.

    The Gram matrix is singular: which of two copies carries the coefficient is not determined, their sum is.
    """
    x, y = np.tile(problem.x, (2, 1)), np.tile(problem.y, 2)
    copies = np.arange(len(problem.y), len(y))
    y[copies[random.uniform(size=len(copies)) < flipped]] *= -1
    order = random.permutation(len(y))
    return Problem(x[order], y[order])


def digit_pair(split: data.Split, positive: int, negative: int) -> Problem:
    """The images of two digits as rows of 64 pixels."""
    chosen = np.isin(split.labels, (positive, negative))
    x = split.inputs[chosen].reshape(-1, 64).astype(np.float64)
    return Problem(x, np.where(split.labels[chosen] == positive, 1, -1))


def digit_halves() -> Problem:
    """All 1,797 handwritten digits: 5 to 9 are labelled 1, 0 to 4 are labelled −1."""
    parts = data.digits()
    x = np.concatenate([part.inputs for part in parts]).reshape(-1, 64).astype(np.float64)
    return Problem(x, np.where(np.concatenate([part.labels for part in parts]) >= 5, 1, -1))


def scale_gamma(x: np.ndarray) -> float:
    """One over dimensions times the variance of all entries: what scikit-learn calls gamma="scale"."""
    return float(1 / (x.shape[1] * x.var()))
