"""Support vector machines with any kernel, by their dual problem.

`objectives` has the problem, `smo` a step of its solution, `active_set` which points take the steps.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike
from fundamentals.svm import smo
from fundamentals.svm.active_set import Problem, Solution, choose_sizes, quality, solve
from fundamentals.svm.arguments import check_norm, checked, in_full_precision, warn_unless_converged
from fundamentals.svm.kernels import linear_kernel, polynomial_kernel, rbf_kernel
from fundamentals.svm.machines import Kernel, SupportVectorMachine, as_kernel, support


def fit_dual(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kernel: Any,
    c: ArrayLike,
    tolerance: float = 1e-3,
    relative_gap: float | None = None,
    max_iterations: int | None = None,
    memory_bytes: int = 2**28,
) -> SupportVectorMachine:
    """The support vector machine with a kernel, by maximizing the dual (equation 5 of `objectives`).

    All is one program, compiled once for each shape, kernel and option that is not a floating number. Under `jax.vmap`
    (over C, γ, data) fits run one after the other, each for as long as it needs; a Gram matrix that does not depend on
    what is mapped over is computed once. A fit is a search, not a formula: it has no reverse-mode derivative.

    Args:
      x: points [N, D], float32 or float64 (half precision is computed in float32). Features of one scale, around 0, as
        rounding is relative to their size: float32 has 7 digits for ‖x‖², in which distances are differences.
      y: labels [N], −1 or +1, of both kinds.
      kernel: a function of points [N, D] and [M, D] that returns their Gram matrix [N, M]: `linear_kernel`, or another
        with its hyperparameters bound, `functools.partial(rbf_kernel, gamma=0.1)`. One of your own must be positive
        semidefinite; a new lambda for every fit is compiled for every fit.
      c: the price of a violated margin, > 0: a number, or one for each point [N], by which to weigh classes or points.
      tolerance: of the violation m − M of the conditions of optimality (`smo`, equation 3): libsvm's stopping rule.
      relative_gap: where given, the duality gap is to be at most this part of the primal objective, too (the tolerance
        is tightened until it is).
      max_iterations: steps after which to stop, converged or not. If None, 100 N and at least ten million.
      memory_bytes: what Gram matrices may take. Up to 2,048 points all of K is kept, if it fits; of more points a
        quarter is active at a time, or as many as fit.

    Returns:
      A `SupportVectorMachine`; its field `converged` says whether it is what was asked for, and if not, outside of
      `jit` and `vmap`, so does a RuntimeWarning.

    Raises:
      ValueError: shapes do not fit, labels are not ±1 or of one kind only, a number is NaN, infinite or out of range,
        or the kernel's values are. (Traced, the objectives are NaN then, and `converged` False.)
      TypeError: dtypes are not floating, or the kernel is no function.

    Example: `fit_dual(x, y, kernel=functools.partial(rbf_kernel, gamma=0.5), c=1.0)`.
    """
    problem = prepare("fit_dual", x, y, kernel, c, tolerance, relative_gap, max_iterations)
    sizes = choose_sizes("fit_dual", len(problem.y), problem.y.dtype, memory_bytes)
    machine = _machine(problem, solve(problem, sizes))
    warn_unless_converged("fit_dual", machine)
    return machine


class DualTrace(NamedTuple):
    """The two objectives while steps are taken."""

    iterations: Array  # [R], int32
    primal: Array  # [R], of w = Σ α_i y_i φ(x_i) and the bias of that moment
    dual: Array  # [R]
    violation: Array  # [R]


def trace_dual(x: ArrayLike, y: ArrayLike, *, kernel: Any, c: ArrayLike, num_records: int, every: int = 1) -> DualTrace:
    """Primal and dual objective after `every`, 2 `every`, … steps of plain SMO on the whole Gram matrix.

    Args:
      x: points [N, D].
      y: labels [N], −1 or +1.
      kernel: as for `fit_dual`.
      c: as for `fit_dual`.
      num_records: R.
      every: steps between two records.

    Returns:
      A `DualTrace`; where the optimum is reached before the end, it repeats it.
    """
    _checks.positive_integers("trace_dual", num_records=num_records, every=every)
    problem = prepare("trace_dual", x, y, kernel, c, 1e-3, None, None)
    trace: DualTrace = _trace(problem, num_records, every)
    return trace


def prepare(
    function: str,
    x: ArrayLike,
    y: ArrayLike,
    kernel: Any,
    c: ArrayLike,
    tolerance: float,
    relative_gap: float | None,
    max_iterations: int | None,
) -> Problem:
    """The arguments of a fit, checked as far as their values are known."""
    x, y, price = checked(function, x, y, c)
    _checks.interval(function, "(0, inf)", tolerance=tolerance)
    if relative_gap is not None:
        _checks.interval(function, "(0, inf)", relative_gap=relative_gap)
    if max_iterations is None:
        max_iterations = max(10**7, 100 * len(y))
    _checks.positive_integers(function, max_iterations=max_iterations)
    bound = as_kernel(function, kernel)
    _check_gram(function, bound, x)
    return Problem(
        bound,
        x,
        y,
        jnp.where(y > 0, 0, -price),
        jnp.where(y > 0, price, 0),
        jnp.asarray(tolerance, x.dtype),
        jnp.asarray(jnp.inf if relative_gap is None else relative_gap, x.dtype),
        jnp.int32(min(max_iterations, 2**31 - 1)),
    )


def _check_gram(function: str, kernel: Kernel, x: Array) -> None:
    """What is wrong with a kernel, or with its hyperparameters, is told here, while they have values."""
    two, three = (jax.ShapeDtypeStruct((n, x.shape[1]), x.dtype) for n in (2, 3))
    try:
        gram = jax.eval_shape(kernel, two, three)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(f"{function}: kernel can't be traced; expected a function written in jax.numpy") from error
    except (TypeError, ValueError) as error:
        if "required keyword-only" in str(error):
            hint = "bind it, as in functools.partial(svm.rbf_kernel, gamma=0.1)"
            raise TypeError(f"{function}: kernel {error}; {hint}") from None
        if kernel.function in (linear_kernel, polynomial_kernel, rbf_kernel):
            raise
        raise ValueError(
            f"{function}: kernel failed on points {list(two.shape)} and {list(three.shape)}; expected their Gram "
            "matrix [2, 3] (of a k that takes two points, jax.vmap(jax.vmap(k, (None, 0)), (0, None)) gives it)"
        ) from error
    if not isinstance(gram, jax.ShapeDtypeStruct) or gram.shape != (2, 3) or gram.dtype != x.dtype:
        raise ValueError(
            f"{function}: kernel returned {gram} for points {list(two.shape)} and {list(three.shape)}; "
            f"expected their Gram matrix, {x.dtype} [2, 3]"
        )


def _machine(problem: Problem, solution: Solution) -> SupportVectorMachine:
    beta, steps, (bias, dual, gap, violation, enough) = solution
    _checks.finite_objective("fit_dual", dual)
    check_norm("fit_dual", jnp.sum(jnp.abs(beta)), dual)
    indices, vectors, coefficients = support(beta, problem.x)
    return SupportVectorMachine(
        alpha=jnp.abs(beta),
        bias=bias,
        support=indices,
        support_vectors=vectors,
        coefficients=coefficients,
        kernel=problem.kernel,
        primal=dual + gap,
        dual=dual,
        gap=gap,
        violation=violation,
        iterations=steps,
        converged=enough,
    )


@functools.partial(jax.jit, static_argnames=("num_records", "every"))
@in_full_precision
def _trace(problem: Problem, num_records: int, every: int) -> DualTrace:
    gram = problem.kernel(problem.x, problem.x)

    def record(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], DualTrace]:
        beta, errors, steps = state
        rounding = 8 * jnp.finfo(errors.dtype).eps * jnp.max(jnp.abs(errors))
        pairs = smo.ascend(
            gram, beta, errors, problem.low, problem.high, tolerance=rounding, max_steps=jnp.int32(every)
        )
        steps = steps + pairs.steps
        now = quality(problem, pairs.beta, pairs.errors)
        return (pairs.beta, pairs.errors, steps), DualTrace(steps, now.dual + now.gap, now.dual, now.violation)

    start = jnp.zeros_like(problem.y), -problem.y, jnp.int32(0)
    return jax.lax.scan(record, start, None, length=num_records)[1]
