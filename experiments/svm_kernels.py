"""What can a kernel tell apart that a line can't, and what is a kernel?

1. Two Gaussians, circles, XOR and moons, with the linear, the polynomial and the RBF kernel, on test points drawn
   after training. No line gets more than ¾ of circles or XOR right, by symmetry (`svm_problems`). Drawn: the decision
   regions, f = 0 and the margins f = ±1, the support vectors.
2. K(x, z) = φ(x)ᵀφ(z): the linear and the quadratic kernel against their features, in float64, on points in the plane
   and on digits, where φ has 2,145 entries that the kernel never computes. The linear machine on φ(x) is the quadratic
   one on x.
3. Digits, ten classes one-vs-one. C = 1 and γ = 1 / (64 · variance of the pixels), the defaults of scikit-learn:
   nothing is chosen. Test accuracy; and, as one of 359 test digits is 0.28 %, also that of five folds of all 1,797
   digits, as many to train with.
4. f(x) is a sum over support vectors, of how similar they are to x: recomputed in NumPy from nothing else, and drawn
   for test digits, with the support vectors that say most.

Expected: the linear kernel fails on circles and XOR (≤ ¾), is the worst on moons, and does well on Gaussians and
digits; the others ≥ 95 % on circles, XOR and moons; features to rounding, ≤ 1e-12 relative; RBF on digits ≥ 98.5 %.

    python -m experiments.svm_kernels --flagfile=configs/svm_kernels.flags

Everything is in float64. Ctrl-C leaves what is finished.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, measure, svm_kernels_figures, svm_problems
from experiments.svm_kernels_verdicts import (
    DISTANCE,
    FOLDS,
    KERNELS,
    LINEAR,
    POLYNOMIAL,
    RBF,
    SAME_MACHINE,
    Features,
    Plane,
    Recognition,
    judge_digits,
    judge_features,
    judge_planes,
)
from experiments.svm_problems import Problem
from fundamentals import data, svm, training
from fundamentals.base import Array

RESULTS, PLANES, DIGITS = FILES = ("results.json", "svm_kernels.png", "svm_kernels_digits.png")
GRID = 101  # places along each axis of a picture
SHOWN = 4  # support vectors for and against, and test digits

Kernel = Callable[[Array, Array], Array]


class Contribution(NamedTuple):
    """A test digit, and what the support vectors of one pair of classes say of it."""

    image: np.ndarray  # [64]
    label: int
    read: int
    classes: tuple[int, int]  # positive, negative
    value: float  # f
    bias: float
    terms: np.ndarray  # [S] coefficient × K
    images: np.ndarray  # [S, 64]
    labels: np.ndarray  # [S]


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("points", 200, "In the plane, to train with.", lower_bound=4, upper_bound=5000, **options)
    flags.DEFINE_integer("test_points", 2000, "In the plane, to test with.", lower_bound=1, **options)
    flags.DEFINE_float("c", 10.0, "C in the plane.", **options)
    flags.DEFINE_integer("degree", 3, "Of the polynomial kernel.", **options)
    flags.DEFINE_float("offset", 1.0, "Of the polynomial kernel.", **options)
    flags.DEFINE_float("gamma", 1.0, "Of the RBF kernel in the plane.", **options)
    flags.DEFINE_float("digits_c", 1.0, "C on digits.", **options)
    flags.DEFINE_float("digits_gamma", 0.0, "γ on digits; 0: 1 / (64 · variance of the pixels).", **options)
    flags.DEFINE_integer(
        "digits_limit", 1258, "Digits to train with, at most.", lower_bound=100, upper_bound=1258, **options
    )
    flags.DEFINE_integer("seed", 0, "Of the points.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/svm_kernels", "Where results and figures go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    for name in ("c", "gamma", "digits_c"):
        flags.register_validator(name, _positive, message="expected a positive number", flag_values=flag_values)
    for name in ("offset", "digits_gamma"):
        flags.register_validator(name, _not_negative, message="expected a number ≥ 0", flag_values=flag_values)
    flags.register_validator(
        "degree", lambda value: 1 <= value <= 10, message="expected 1 to 10", flag_values=flag_values
    )


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _not_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def run(
    *,
    points: int,
    test_points: int,
    c: float,
    degree: int,
    offset: float,
    gamma: float,
    digits_c: float,
    digits_gamma: float,
    digits_limit: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Fit, compare, print, draw and judge."""
    folder = common.output_folder(output_dir, FILES, dict(locals()), overwrite=overwrite)
    problems = plane_problems(points, test_points, seed)
    planes: list[Plane] = []
    features: list[Features] = []
    recognitions: list[Recognition] = []
    contributions: list[Contribution] = []
    identity: float | None = None
    verdicts: list[common.Verdict] = []
    complete = False
    try:
        with (
            jax.enable_x64(True),
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            total = len(KERNELS) * (len(problems) + 1 + FOLDS) + 1
            task = bar.add_task("fitting", total=total, note="")
            kernels = bound_kernels(degree, offset, gamma, poly_gamma=1.0)
            programs = {
                name: jax.jit(functools.partial(fit_and_evaluate, each, c, 1e-3)) for name, each in kernels.items()
            }
            for problem, (train, test) in problems.items():
                for name, program in programs.items():
                    bar.update(task, note=f"{problem}, {name}")
                    planes.append(fit_plane(problem, name, program, train, test))
                    bar.advance(task)
            verdicts += judge_planes(planes, test_points)
            bar.update(task, note="features")
            train_part, _, test_part = data.digits()
            train_part = data.Split(*(a[:digits_limit] for a in train_part))
            features += compare_features(problems["circles"][0], pixels(train_part), offset, c)
            verdicts += judge_features(features)
            bar.advance(task)
            width = digits_gamma or svm_problems.scale_gamma(pixels(train_part))
            for name, kernel in bound_kernels(degree, offset, width, poly_gamma=width).items():
                bar.update(task, note=f"digits, {name}")
                machine = fit_digits(kernel, train_part, digits_c)
                read = recognize(machine, train_part, pixels(test_part))
                bar.advance(task)
                folded = folded_total = 0
                for number, (rest, part) in enumerate(folds(train_part)):
                    bar.update(task, note=f"digits, {name}, fold {number + 1} of {FOLDS}")
                    folded_read = recognize(fit_digits(kernel, rest, digits_c), rest, pixels(part))
                    folded += int((folded_read != part.labels).sum())
                    folded_total += len(part.labels)
                    bar.advance(task)
                errors, support = int((read != test_part.labels).sum()), len(np.asarray(machine.support))
                recognitions.append(Recognition(name, errors, len(read), support, folded, folded_total))
                if name == RBF:
                    identity = from_support_vectors(machine, pixels(test_part), width)
                    contributions += contribute(machine, test_part, read, train_part.labels, width)
            verdicts += judge_digits(recognitions, identity)
            complete = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(planes)} machines in the plane, {len(recognitions)} of digits")
        raise
    finally:
        report(folder, planes, features, recognitions, contributions, verdicts, complete=complete)
    return verdicts


def plane_problems(points: int, test_points: int, seed: int) -> dict[str, tuple[Problem, Problem]]:
    """Training and test points in the plane, from two streams of a seed for each."""

    def drawn(function: Callable[..., Problem], number: int, **options: Any) -> tuple[Problem, Problem]:
        train, test = (np.random.RandomState([seed, number, part]) for part in (0, 1))
        return function(train, points, **options), function(test, test_points, **options)

    return {
        "two Gaussians": drawn(svm_problems.gaussians, 0, distance=DISTANCE),
        "circles": drawn(svm_problems.circles, 1),
        "XOR": drawn(svm_problems.xor, 2),
        "moons": drawn(svm_problems.moons, 3),
    }


def bound_kernels(degree: int, offset: float, gamma: float, *, poly_gamma: float) -> dict[str, Kernel]:
    """The three kernels with their hyperparameters bound."""
    polynomial = functools.partial(svm.polynomial_kernel, degree=degree, offset=offset, gamma=poly_gamma)
    return {
        LINEAR: svm.linear_kernel,
        POLYNOMIAL: polynomial,
        RBF: functools.partial(svm.rbf_kernel, gamma=gamma),
    }


def fit_and_evaluate(
    kernel: Kernel, c: float, tolerance: float, x: Array, y: Array, points: Array
) -> tuple[Array, Array]:
    """α and decision values: to be compiled once for all problems of one size."""
    machine = svm.fit_dual(x, y, kernel=kernel, c=c, tolerance=tolerance)
    return machine.alpha, svm.decision_function(machine, points)


def fit_plane(
    problem: str, name: str, program: Callable[..., tuple[Array, Array]], train: Problem, test: Problem
) -> Plane:
    """One kernel on one problem, with its decision values all over the picture.

    Args:
      problem: its name.
      name: of the kernel.
      program: `fit_and_evaluate` of the kernel, compiled.
      train: what to fit.
      test: what to report.
    """
    low, high = train.x.min(axis=0), train.x.max(axis=0)
    middle, half = (low + high) / 2, 0.56 * (high - low).max()  # a square with some room
    axes = tuple(np.linspace(middle[i] - half, middle[i] + half, GRID) for i in (0, 1))
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    points = np.concatenate([train.x, test.x, grid])
    alpha, values = map(np.asarray, program(*map(jnp.asarray, (train.x, train.y, points))))
    train_accuracy, accuracy = (
        float(np.mean(np.where(own > 0, 1, -1) == part.y))
        for own, part in zip(np.split(values, [len(train.y), len(train.y) + len(test.y)]), (train, test), strict=False)
    )
    picture = values[-len(grid) :].reshape(GRID, GRID)
    support = np.flatnonzero(alpha)
    return Plane(problem, name, accuracy, train_accuracy, support, train.x, train.y, (axes[0], axes[1]), picture)


def compare_features(plane: Problem, digits: np.ndarray, offset: float, c: float) -> list[Features]:
    """K against φᵀφ in the plane and on digits; in the plane, also the machines."""
    quadratic = functools.partial(svm.polynomial_kernel, degree=2, offset=offset)
    pairs: dict[str, tuple[Kernel, Callable[[Array], Array]]] = {
        "linear": (svm.linear_kernel, svm.linear_features),
        "polynomial, degree 2": (quadratic, functools.partial(svm.quadratic_features, offset=offset)),
    }
    found = []
    for name, (kernel, features) in pairs.items():
        for points, x in (("circles", plane.x), ("digits", digits[:100])):
            given = jnp.asarray(x)
            phi, products, expected = jax.jit(functools.partial(_features, kernel, features))(given)
            difference = measure.relative_difference(products, expected)
            machines = None
            if points == "circles" and name != "linear":  # whose features are the points
                y = jnp.asarray(plane.y)
                of_kernel, of_features = (
                    jax.jit(functools.partial(fit_and_evaluate, each, c, SAME_MACHINE / 1000))(z, y, z)[1]
                    for each, z in ((kernel, given), (svm.linear_kernel, phi))
                )
                machines = measure.relative_difference(of_features, of_kernel)
            found.append(Features(name, points, x.shape[1], phi.shape[1], difference, machines))
    return found


def _features(kernel: Kernel, features: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """φ, φφᵀ and K."""
    phi = features(x)
    return phi, phi @ phi.T, kernel(x, x)


def fit_digits(kernel: Kernel, train: data.Split, c: float) -> svm.OneVsOne:
    """All 45 pairs of classes."""
    return svm.fit_one_vs_one(jnp.asarray(pixels(train)), jnp.asarray(train.labels), kernel=kernel, c=c)


def recognize(machine: svm.OneVsOne, train: data.Split, images: np.ndarray) -> np.ndarray:
    """The labels read, [N].

    With all training points in the place of the support vectors, most with coefficients of 0: so that machines have one
    shape, and one program reads with all of them.
    """
    coefficients = np.zeros((len(machine.pairs), len(train.labels)))
    coefficients[:, np.asarray(machine.support)] = machine.coefficients
    padded = machine._replace(
        support=jnp.arange(len(train.labels)),
        support_vectors=jnp.asarray(pixels(train)),
        coefficients=jnp.asarray(coefficients),
    )
    return np.asarray(jax.jit(svm.predict)(padded, jnp.asarray(images)))


def pixels(split: data.Split) -> np.ndarray:
    """Images as rows, [N, 64]."""
    return split.inputs.reshape(-1, 64).astype(np.float64)


def folds(train: data.Split) -> Iterator[tuple[data.Split, data.Split]]:
    """Five times a fifth of all digits to test with, and of the rest as many of each class as `train` has."""
    everything = data.Split(*(np.concatenate(arrays) for arrays in zip(*data.digits(), strict=True)))
    counts = np.bincount(train.labels)
    for part in training.split(everything.labels, [1 / FOLDS] * FOLDS):
        rest = np.setdiff1d(np.arange(len(everything.labels)), part)
        chosen = [rest[everything.labels[rest] == label][:count] for label, count in enumerate(counts)]
        first = np.sort(np.concatenate(chosen))
        yield data.Split(*(a[first] for a in everything)), data.Split(*(a[part] for a in everything))


def numpy_rbf(x: np.ndarray, z: np.ndarray, gamma: float) -> np.ndarray:
    """exp(−γ ‖x − z‖²) as the formula says, [N, M]."""
    squares = ((x[:, None, :] - z[None, :, :]) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-gamma * squares))


def from_support_vectors(machine: svm.OneVsOne, x: np.ndarray, gamma: float) -> float:
    """Decision values from support vectors, coefficients and biases alone, in NumPy: the relative difference."""
    similarity = numpy_rbf(x, np.asarray(machine.support_vectors), gamma)
    values = similarity @ np.asarray(machine.coefficients).T + np.asarray(machine.bias)
    return measure.relative_difference(jax.jit(svm.decision_function)(machine, jnp.asarray(x)), values)


def contribute(
    machine: svm.OneVsOne, test: data.Split, read: np.ndarray, labels: np.ndarray, gamma: float
) -> list[Contribution]:
    """For test digits, what each support vector adds to the decision value of the pair that is the closest.

    Args:
      machine: with the RBF kernel.
      test: the test part.
      read: [N], the labels read.
      labels: of the training points.
      gamma: of the kernel.
    """
    wrong, right = np.flatnonzero(read != test.labels), np.flatnonzero(read == test.labels)
    values = np.asarray(jax.jit(svm.decision_function)(machine, jnp.asarray(pixels(test))))
    pairs, classes = np.asarray(machine.pairs), np.asarray(machine.classes)
    support = np.asarray(machine.support)
    found = []
    for index in [*right[: SHOWN // 2], *wrong[: SHOWN - SHOWN // 2]]:
        mine = np.flatnonzero((classes[pairs] == read[index]).any(axis=1))
        pair = int(mine[np.argmin(np.abs(values[index, mine]))])
        vectors = np.asarray(machine.support_vectors)
        similarity = numpy_rbf(pixels(test)[index : index + 1], vectors, gamma)[0]
        terms = np.asarray(machine.coefficients)[pair] * similarity
        used = np.asarray(machine.coefficients)[pair] != 0
        first, second = (int(label) for label in classes[pairs[pair]])
        found.append(
            Contribution(
                pixels(test)[index], int(test.labels[index]), int(read[index]), (first, second),
                float(values[index, pair]), float(np.asarray(machine.bias)[pair]),
                terms[used], vectors[used], labels[support[used]],
            )
        )  # fmt: skip
    return found


def report(
    folder: Path,
    planes: Sequence[Plane],
    features: Sequence[Features],
    recognitions: Sequence[Recognition],
    contributions: Sequence[Contribution],
    verdicts: Sequence[common.Verdict],
    *,
    complete: bool,
) -> None:
    """Tables, figures and results of what is finished."""
    if planes:
        common.table(
            f"In the plane, {len(planes[0].y)} training points",
            ["problem", "kernel", "train", "test", "support vectors"],
            [[p.problem, p.kernel, f"{p.train_accuracy:.1%}", f"{p.accuracy:.1%}", len(p.support)] for p in planes],
        )
        common.save_figure(svm_kernels_figures.planes(planes), folder / PLANES)
    if features:
        common.table(
            "K against φᵀφ",
            ["kernel", "points", "inputs", "features", "K, relative", "decision values, relative"],
            [
                [f.kernel, f.points, f.inputs, f"{f.features:,}", f"{f.difference:.1e}",
                 "–" if f.machines is None else f"{f.machines:.1e}"]
                for f in features
            ],
        )  # fmt: skip
    if recognitions:
        common.table(
            "Digits, one-vs-one: accuracy and errors",
            ["kernel", "test", "", f"{FOLDS} folds", "", "support vectors"],
            [
                [r.kernel, f"{1 - r.errors / r.total:.2%}", r.errors, f"{1 - r.folded_errors / r.folded_total:.2%}",
                 r.folded_errors, r.support]
                for r in recognitions
            ],
        )  # fmt: skip
    if contributions:
        common.save_figure(svm_kernels_figures.similarities(contributions), folder / DIGITS)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {
        "complete": complete,
        "planes": [
            {"problem": p.problem, "kernel": p.kernel, "test": p.accuracy, "train": p.train_accuracy,
             "support": len(p.support)}
            for p in planes
        ],
        "features": [f._asdict() for f in features],
        "digits": [r._asdict() for r in recognitions],
        "verdicts": [verdict._asdict() for verdict in verdicts],
    }  # fmt: skip
    common.write_json(folder / RESULTS, content)
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
