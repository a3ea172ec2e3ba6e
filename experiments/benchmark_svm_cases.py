"""The problems of `benchmark_svm`; kernels and the dual objective in NumPy; scikit-learn's estimator."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import svm_problems
from experiments.svm_problems import Problem
from fundamentals import svm
from fundamentals.base import Array

SCALE = 0.0  # γ: one over dimensions times variance
BLOCK = 1000  # rows of a Gram matrix at a time


class Case(NamedTuple):
    """A problem, a kernel and C."""

    draw: Callable[[np.random.RandomState, int], Problem]
    kernel: str  # as scikit-learn calls it
    c: float
    options: Mapping[str, float] = {}  # gamma, degree, offset
    timed: bool = False  # at each of --sizes, and judged


def _digits(random: np.random.RandomState, n: int) -> Problem:
    problem = svm_problems.digit_halves()
    chosen = random.permutation(len(problem.y))[:n]
    return Problem(problem.x[chosen], problem.y[chosen])


def _duplicated(random: np.random.RandomState, n: int) -> Problem:
    return svm_problems.duplicated(svm_problems.moons(random, n // 2), random)


DIGITS = {"gamma": SCALE}
CUBIC = {"gamma": 1.0, "degree": 3, "offset": 1.0}
PARTLY = functools.partial(svm_problems.gaussians, distance=2.5, positives=0.05)
CASES = {
    "digits": Case(_digits, "rbf", 1.0, DIGITS, timed=True),
    "interactions": Case(svm_problems.interactions, "rbf", 1.0, {"gamma": 0.1}, timed=True),
    "rings": Case(functools.partial(svm_problems.circles, noise=0.3), "rbf", 10.0, {"gamma": 0.5}, timed=True),
    "digits_linear": Case(_digits, "linear", 1.0),
    "digits_polynomial": Case(_digits, "poly", 1.0, CUBIC | DIGITS),
    "separable": Case(functools.partial(svm_problems.gaussians, distance=8.0), "linear", 1.0),
    "overlapping": Case(functools.partial(svm_problems.gaussians, distance=2.0), "linear", 1.0),
    "separable_rbf": Case(functools.partial(svm_problems.circles, noise=0.05), "rbf", 100.0, {"gamma": 1.0}),
    "imbalanced": Case(PARTLY, "rbf", 10.0, {"gamma": 0.5}),
    "imbalanced_linear": Case(PARTLY, "linear", 1.0),
    "duplicated": Case(_duplicated, "rbf", 10.0, {"gamma": 0.5}),
    "moons": Case(functools.partial(svm_problems.moons, noise=0.2), "poly", 1.0, CUBIC),
}


def planned(problems: Sequence[str], sizes: Sequence[int], points: int) -> list[tuple[str, int]]:
    """Names and numbers of points: those that are timed at each size, of digits there are only so many."""
    found = []
    for name in problems:
        case = CASES[name]
        for n in sizes if case.timed else [points]:
            available = min(n, 1797) if case.draw is _digits else n
            if (name, available) not in found:
                found.append((name, available))
    return found


def installed() -> bool:
    """Whether scikit-learn can be imported."""
    return importlib.util.find_spec("sklearn") is not None


def svc(c: float, tolerance: float, options: Mapping[str, Any]) -> Any:
    """scikit-learn's estimator, with its defaults."""
    return importlib.import_module("sklearn.svm").SVC(C=c, tol=tolerance, **options)


def bound_kernel(case: Case, x: np.ndarray) -> tuple[Callable[[Array, Array], Array], dict[str, Any]]:
    """The kernel here, and the arguments that make it scikit-learn's."""
    gamma = case.options.get("gamma", 1.0) or svm_problems.scale_gamma(x)
    if case.kernel == "linear":
        return svm.linear_kernel, {"kernel": "linear"}
    if case.kernel == "rbf":
        return functools.partial(svm.rbf_kernel, gamma=gamma), {"kernel": "rbf", "gamma": gamma}
    degree, offset = int(case.options["degree"]), case.options["offset"]
    ours = functools.partial(svm.polynomial_kernel, degree=degree, offset=offset, gamma=gamma)
    return ours, {"kernel": "poly", "degree": degree, "coef0": offset, "gamma": gamma}


def gram(x: np.ndarray, z: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """The kernel in NumPy, [N, M], from scikit-learn's arguments."""
    products = x @ z.T
    if options["kernel"] == "linear":
        return np.asarray(products)
    if options["kernel"] == "poly":
        return np.asarray((options["gamma"] * products + options["coef0"]) ** options["degree"])
    squares = (x**2).sum(axis=1)[:, None] + (z**2).sum(axis=1)[None, :] - 2 * products
    return np.asarray(np.exp(-options["gamma"] * np.maximum(squares, 0)))


def dual_objective(alpha: np.ndarray, problem: Problem, options: Mapping[str, Any]) -> float:
    """Σα − ½ Σ Σ αᵢ αⱼ yᵢ yⱼ K(xᵢ, xⱼ), in NumPy, so many rows at a time."""
    support = np.flatnonzero(alpha)
    x, coefficients = problem.x[support], (alpha * problem.y)[support]
    quadratic = 0.0
    for start in range(0, len(support), BLOCK):
        part = slice(start, start + BLOCK)
        quadratic += float(coefficients[part] @ gram(x[part], x, options) @ coefficients)
    return float(alpha.sum()) - 0.5 * quadratic
