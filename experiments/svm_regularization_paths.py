"""What `svm_regularization` measures: machines of several training sets along a path of C, all in one program."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.svm_problems import Problem, digit_pair, floating, gaussians, moons
from fundamentals import data, svm
from fundamentals.base import Array, ArrayLike


class Population(NamedTuple):
    """Training sets of one kind, points to validate with, and the kernel for them; labels are floating."""

    name: str
    sets: Problem  # x [R, N, D], y [R, N]
    validation: Problem  # x [M, D], y [M]
    kernel: Callable[[ArrayLike, ArrayLike], Array]
    kind: str
    best_error: float | None  # that of the best boundary there is, where it is known
    limits: tuple[np.ndarray, np.ndarray] | None  # corners of the part of the plane to draw; None where there is none


LINE, NOISE, APART = "line", "noise", "apart"
"""The kinds: the best boundary is one that the machine can draw; classes overlap, and it can bend as it likes; classes
can be told apart."""


class Path(NamedTuple):
    """Machines of R training sets at each of K values of C; all arrays but the first are [R, K, …]."""

    name: str
    kind: str
    best_error: float | None
    c: np.ndarray  # [K], ascending
    primal: np.ndarray  # objective
    dual: np.ndarray
    slack: np.ndarray  # Σ ξ
    squared_norm: np.ndarray  # ‖w‖²
    inside: np.ndarray  # points with α = C
    support: np.ndarray  # points with α > 0
    training_error: np.ndarray
    validation_error: np.ndarray
    steps: np.ndarray
    values: np.ndarray  # [R, K, M], f at the validation points
    labels: np.ndarray  # [M], 1 and −1, theirs
    limits: tuple[np.ndarray, np.ndarray] | None
    planes: np.ndarray | None  # [R, K, G, G], f over the part of the plane that is drawn

    @property
    def width(self) -> np.ndarray:
        """Of the margin, 2/‖w‖."""
        width: np.ndarray = 2 / np.sqrt(self.squared_norm)
        return width

    @property
    def vote_error(self) -> np.ndarray:
        """[K], of what most of the R machines predict: what is wrong whatever the training set is."""
        votes = np.mean(self.values > 0, axis=0)
        errors: np.ndarray = np.mean((votes > 0.5) != (self.labels > 0), axis=-1)
        return errors

    @property
    def variance(self) -> np.ndarray:
        """[K], of f over training sets, in units of the margin's ±1; the mean over validation points."""
        return variance(self.values)

    @property
    def prediction_variance(self) -> np.ndarray:
        """[K], of whether f > 0; at most ¼ but for R/(R − 1)."""
        return variance((self.values > 0).astype(float))

    @property
    def steps_in_all(self) -> int:
        """Of two α, in all fits."""
        return int(self.steps.sum())


def variance(values: np.ndarray) -> np.ndarray:
    """Of [R, K, M] over R, unbiased; the mean over M, [K]."""
    means: np.ndarray = values.var(axis=0, ddof=1).mean(axis=-1)
    return means


def growth(values: np.ndarray) -> tuple[float, float]:
    """The logarithm of the variance at the last K over that at the first; its standard error, by leaving out sets."""

    def of(values: np.ndarray) -> float:
        first, last = variance(values)
        return float(np.log(last / first)) if min(first, last) > 0 else np.nan

    ends = values[:, [0, -1]]
    without = [of(np.delete(ends, r, axis=0)) for r in range(len(ends))]
    return of(ends), float(np.sqrt((len(ends) - 1) * np.var(without)))


def populations(
    seed: int,
    *,
    sets: int,
    points: int,
    validation: int,
    apart: float,
    noise: float,
    gamma: float,
    digits: Sequence[int],
    digit_gamma: float,
) -> list[Population]:
    """Clouds and moons, each set drawn anew; and images of two digits, in sets that share images.

    Each set has as many points of either class.
    """

    def drawn(make: Callable[[np.random.RandomState, int], Problem], number: int) -> tuple[Problem, Problem]:
        train, held_out = (np.random.RandomState([seed, number, part]) for part in (0, 1))
        pool = make(train, sets * points)
        rows = np.concatenate([side.reshape(sets, -1) for side in _sides(pool)], axis=1)
        return floating(_chosen(pool, rows)), floating(make(held_out, validation))

    cloud = drawn(functools.partial(gaussians, distance=apart), 0)
    moon = drawn(functools.partial(moons, noise=noise), 1)
    images, random = data.digits(), np.random.RandomState([seed, 2])
    pool, *others = (digit_pair(part, *digits) for part in (images.train, images.validation, images.test))
    sides = _sides(pool)
    rows = np.array([np.concatenate([random.permutation(side)[: points // 2] for side in sides]) for _ in range(sets)])
    own = floating(_chosen(pool, rows))
    rest = floating(Problem(*(np.concatenate(parts) for parts in zip(*others, strict=True))))
    names = f"digits {digits[0]}/{digits[1]}"
    limits = []
    for _, (x, _) in (cloud, moon):
        low, high = np.quantile(x, [0.002, 0.998], axis=0)
        limits.append((low - 0.2, high + 0.2))
    best = 0.5 * math.erfc(apart / 2 / math.sqrt(2))  # Φ(−apart/2): of the line half-way between the centres
    return [
        Population("clouds, linear", *cloud, svm.linear_kernel, LINE, best, limits[0]),
        Population("moons, RBF", *moon, functools.partial(svm.rbf_kernel, gamma=gamma), NOISE, None, limits[1]),
        Population(f"{names}, linear", own, rest, svm.linear_kernel, APART, None, None),
        Population(f"{names}, RBF", own, rest, functools.partial(svm.rbf_kernel, gamma=digit_gamma), APART, None, None),
    ]


def _sides(problem: Problem) -> list[np.ndarray]:
    """Which points are positive, and which are negative."""
    return [np.flatnonzero(problem.y == side) for side in (1, -1)]


def _chosen(problem: Problem, rows: np.ndarray) -> Problem:
    return Problem(problem.x[rows], problem.y[rows])


def follow(population: Population, c: np.ndarray, *, relative_gap: float, grid: int) -> Path:
    """Fit all sets at all C, in one program.

    Args:
      population: the sets.
      c: [K], ascending.
      relative_gap: of each fit, over its primal objective.
      grid: points along each axis of the plane, where one is drawn.
    """
    (fresh, labels), kernel, limits = population.validation, population.kernel, population.limits
    places = _places(limits, grid) if limits else fresh[:0]

    def measure(x: Array, y: Array, c: Array) -> tuple[Array, ...]:
        machine = svm.fit_dual(x, y, kernel=kernel, c=c, relative_gap=relative_gap)
        signed = machine.alpha * y
        own = kernel(x, x) @ signed
        slack = 1 - y * (own + machine.bias)
        errors = jnp.where(slack >= 1, 1.0, 0.0)  # y f ≤ 0
        f = kernel(np.concatenate([fresh, places]), x) @ signed + machine.bias
        return (
            machine.primal, machine.dual, jnp.sum(jnp.where(slack > 0, slack, 0.0)), signed @ own,
            jnp.sum(machine.alpha >= c), jnp.sum(machine.alpha > 0), jnp.mean(errors), machine.iterations, f,
        )  # fmt: skip

    over_c = jax.vmap(measure, in_axes=(None, None, 0))
    program = jax.jit(jax.vmap(over_c, in_axes=(0, 0, None)))
    found = [np.asarray(values) for values in program(*population.sets, c)]
    primal, dual, slack, squared_norm, inside, support, training_error, steps, f = found
    values, planes = f[..., : len(fresh)], f[..., len(fresh) :]
    validation_error = np.mean((values > 0) != (labels > 0), axis=-1)
    return Path(
        population.name, population.kind, population.best_error, c, primal, dual, slack, squared_norm, inside, support,
        training_error, validation_error, steps, values, labels, limits,
        planes.reshape(*planes.shape[:2], grid, grid) if limits else None,
    )  # fmt: skip


def _places(limits: tuple[np.ndarray, np.ndarray], grid: int) -> np.ndarray:
    axes = [np.linspace(low, high, grid) for low, high in zip(*limits, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)


def images(digits: Sequence[int]) -> int:
    """How many there are to train with, of the digit that has fewer."""
    labels = data.digits().train.labels
    return min(int(np.sum(labels == digit)) for digit in digits)


def power_text(c: float) -> str:
    """C = 0.0078125 as 1/128."""
    return f"{c:.4g}" if c >= 1 else f"1/{1 / c:.4g}"
