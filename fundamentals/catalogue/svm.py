"""Kernels, and the primal objective of a support vector machine."""

from typing import Any

from numpy.random import Generator

from fundamentals import svm
from fundamentals.base import DTypeLike, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, normal, with_zero


def _points(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    x, z = normal(random, (sizes.B, sizes.H), dtype, 0.5), normal(random, (sizes.D, sizes.H), dtype, 0.5)
    z[2] = x[1]  # a distance of 0
    return with_zero(x), z


def _machine_and_labelled_points(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    w, bias = with_zero(normal(random, (sizes.D,), dtype, 0.5)), normal(random, (), dtype, 0.5)
    return (
        w,
        bias,
        normal(random, (sizes.B, sizes.D), dtype),
        (2 * random.integers(0, 2, size=sizes.B) - 1).astype("i4"),
    )


_POLYNOMIAL = Rule(svm.polynomial_kernel, svm.polynomial_kernel_fwd, svm.polynomial_kernel_bwd)

RULES: dict[str, Entry] = {
    "linear_kernel": Entry(Rule(svm.linear_kernel, svm.linear_kernel_fwd, svm.linear_kernel_bwd), _points),
    "polynomial_kernel(degree=3, offset=0.5, gamma=0.7)": Entry(
        bind(_POLYNOMIAL, degree=3, offset=0.5, gamma=0.7), _points
    ),
    "rbf_kernel(gamma=0.3)": Entry(
        bind(Rule(svm.rbf_kernel, svm.rbf_kernel_fwd, svm.rbf_kernel_bwd), gamma=0.3), _points
    ),
    "primal_objective(c=0.7)": Entry(
        bind(Rule(svm.primal_objective, svm.primal_objective_fwd, svm.primal_objective_bwd), c=0.7),
        _machine_and_labelled_points,
    ),
}
