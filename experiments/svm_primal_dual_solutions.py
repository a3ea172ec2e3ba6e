"""What `svm_primal_dual` measures of solutions: objectives that close, what α means, predictions from w and from α."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.svm_problems import Problem
from fundamentals import svm
from fundamentals.base import Array, ArrayLike, PRNGKey

Kernel = Callable[[ArrayLike, ArrayLike], Array]
fit = jax.jit(svm.fit_dual, static_argnames="kernel")  # in one program, whose support vectors are padded to N
trace = jax.jit(svm.trace_dual, static_argnames=("kernel", "num_records", "every"))
pegasos = jax.jit(svm.pegasos, static_argnames=("num_steps", "record_every"))


class Case(NamedTuple):
    """Points, C, a kernel, and points that nothing is fitted to; labels are floating."""

    name: str
    points: Problem
    fresh: Problem
    c: float
    kernel: Kernel


class Closing(NamedTuple):
    """Primal and dual objective while the dual is solved; and of a machine that is stopped by its relative gap."""

    name: str
    iterations: np.ndarray  # [R]
    primal: np.ndarray  # [R]
    dual: np.ndarray  # [R]
    optimum: float  # dual objective of the machine that is solved to a tolerance
    gap: float  # P − D of the other machine, from its α and the data, relative to the optimum
    products: np.ndarray  # [2, N], its products of complementary slackness, likewise
    difference: float  # their sum less the gap
    bounds: tuple[float, float]  # the least α and the least C − α of it
    balance: float  # |Σ α y| / Σ α


class Primal(NamedTuple):
    """The primal problem solved without α, stochastic steps at it, and the dual solution beside them."""

    upper: np.ndarray  # [T], objective of cutting planes
    lower: np.ndarray  # [T], their bound
    gap: float  # absolute, at the end
    objective: float
    w: np.ndarray  # [D]
    bias: float
    dual_objective: float
    dual_gap: float
    dual_w: np.ndarray  # Σ α y x
    steps: np.ndarray  # [S], objective of Pegasos


class Groups(NamedTuple):
    """y f of the points and their α; and the machine without those of α = 0."""

    name: str
    alpha: np.ndarray  # [N], in units of C
    margins: np.ndarray  # [N], y f
    violation: float  # by which the margins may be off
    left_out: float  # largest change of fresh decision values without the points of α = 0
    left_out_bound: float  # what the gaps of both machines allow

    @property
    def members(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """α = 0, 0 < α < C, α = C: which points, [N] each."""
        zero, full = self.alpha <= 0, self.alpha >= 1
        return zero, ~zero & ~full, full


class Identity(NamedTuple):
    """Decision values at fresh points from w = Σ α y φ(x), and from α and the kernel; relative to the largest."""

    name: str
    difference: float


class LeaveOneOut(NamedTuple):
    """By how much w changes if one point is left out."""

    changes: np.ndarray  # [N], ‖Δw‖ / ‖w‖
    bounds: np.ndarray  # [N], by which the gaps of both machines allow it to be measured although it does not change


def solve(case: Case, *, tolerance: float, relative_gap: float) -> svm.SupportVectorMachine:
    """Until no two α violate the conditions of optimality by more than a tolerance, and P − D is that part of P."""
    machine: svm.SupportVectorMachine = fit(
        *case.points, kernel=case.kernel, c=case.c, tolerance=tolerance, relative_gap=relative_gap
    )
    return machine


def closing(case: Case, machine: svm.SupportVectorMachine, *, relative_gap: float, records: int) -> Closing:
    """Objectives until they are `relative_gap` from each other, at about so many of the iterations until then.

    Args:
      case: what is solved.
      machine: its solution.
      relative_gap: where to stop.
      records: at least so many, if there are as many iterations.
    """
    x, y = case.points
    stopped = solve(case, tolerance=1.0, relative_gap=relative_gap)
    every = max(int(stopped.iterations) // records, 1)
    count = 2 * math.ceil(int(stopped.iterations) / every)  # of two equally good pairs, rounding may choose another
    found = trace(x, y, kernel=case.kernel, c=case.c, num_records=count, every=every)
    steps, above, below = (np.asarray(a) for a in (found.iterations, found.primal, found.dual))
    end = int(np.argmax(above - below <= relative_gap * above)) or count  # 0: not reached

    @jax.jit
    def measure(machine: svm.SupportVectorMachine) -> tuple[Array, ...]:
        slackness = svm.complementary_slackness(machine, x, y, c=case.c)
        signed = machine.alpha * y
        own = case.kernel(x, x) @ signed
        violations = 1 - y * (own + machine.bias)
        loss = jnp.sum(jnp.where(violations > 0, violations, 0.0))
        return jnp.stack([slackness.margin, slackness.bound]), signed, signed @ own, loss

    products, signed, length, loss = (np.asarray(a) for a in measure(stopped))
    alpha, optimum = np.abs(signed), float(machine.dual)
    gap = (length / 2 + case.c * loss) - (alpha.sum() - length / 2)  # length = ‖w‖²
    return Closing(
        case.name, steps[: end + 1], above[: end + 1], below[: end + 1], optimum,
        float(gap) / optimum, products / optimum, float(products.sum() - gap) / optimum,
        (float(alpha.min()), float(case.c - alpha.max())), float(abs(signed.sum()) / alpha.sum()),
    )  # fmt: skip


def primal(
    case: Case, machine: svm.SupportVectorMachine, key: PRNGKey, *, relative_gap: float, num_steps: int
) -> Primal:
    """Cutting planes and Pegasos, on a linear problem whose dual solution is known."""
    x, y = case.points
    found = svm.fit_primal(x, y, c=case.c, relative_gap=relative_gap)
    known = np.isfinite(np.asarray(found.history.primal))
    steps = pegasos(x, y, c=case.c, key=key, num_steps=num_steps, record_every=1).history
    return Primal(
        np.asarray(found.history.primal)[known], np.asarray(found.history.dual)[known], float(found.gap),
        float(found.primal), np.asarray(found.w), float(found.bias), float(machine.dual), float(machine.gap),
        np.asarray(svm.weights(machine)), np.asarray(steps),
    )  # fmt: skip


def groups(case: Case, machine: svm.SupportVectorMachine, *, tolerance: float) -> Groups:
    """Which α go with which margins; and the machine fitted without the points whose α is 0.

    Both machines' w are within √gap of the one optimum, as ½‖w − w*‖² is at most P(w) − P* and at most D* − D(α). At a
    point whose margin is kept exactly b is y − wᵀφ(x), up to the tolerance: so f(z) changes by at most
    ‖Δw‖ (‖φ(z)‖ + ‖φ(x)‖) and two tolerances.
    """
    (x, y), fresh = case.points, case.fresh.x

    @jax.jit
    def measure(machine: svm.SupportVectorMachine) -> tuple[Array, ...]:
        norms = [jnp.sqrt(jax.vmap(lambda z: case.kernel(z[None], z[None])[0, 0])(z)) for z in (x, fresh)]
        violations = svm.kkt_violations(machine, x, y, c=case.c)
        return svm.decision_function(machine, x) * y, svm.decision_function(machine, fresh), violations, *norms

    @jax.jit
    def refit(x: Array, y: Array) -> tuple[Array, Array]:
        without = svm.fit_dual(x, y, kernel=case.kernel, c=case.c, tolerance=tolerance)
        return svm.decision_function(without, fresh), without.gap

    margins, values, violations, norms, fresh_norms = (np.asarray(a) for a in measure(machine))
    alpha = np.asarray(machine.alpha)
    kept = np.flatnonzero(alpha > 0)
    values_without, gap_without = (np.asarray(a) for a in refit(*(a[kept] for a in case.points)))
    length = math.sqrt(max(float(machine.gap), 0)) + math.sqrt(max(float(gap_without), 0))
    free = (alpha > 0) & (alpha < case.c)
    bound = length * (fresh_norms.max() + norms[free].min()) + 2 * tolerance if free.any() else math.nan
    change = float(np.max(np.abs(values - values_without)))
    return Groups(case.name, alpha / case.c, margins, float(violations.max()), change, float(bound))


def identities(case: Case, machine: svm.SupportVectorMachine, *, tolerance: float) -> list[Identity]:
    """Of the linear machine; and on its points one with the polynomial kernel of degree 2, whose φ is explicit."""
    (x, y), fresh = case.points, case.fresh.x
    kernel = functools.partial(svm.polynomial_kernel, degree=2, offset=1.0)
    phi = functools.partial(svm.quadratic_features, offset=1.0)

    @jax.jit
    def measure(machine: svm.SupportVectorMachine) -> tuple[tuple[Array, Array], ...]:
        squared = svm.fit_dual(x, y, kernel=kernel, c=case.c, tolerance=tolerance)
        of_squares = squared.coefficients @ phi(squared.support_vectors)
        return (
            (svm.decision_function(machine, fresh), jnp.matmul(fresh, svm.weights(machine)) + machine.bias),
            (svm.decision_function(squared, fresh), phi(fresh) @ of_squares + squared.bias),
        )

    def apart(from_alpha: Array, from_w: Array) -> float:
        return float(np.max(np.abs(np.asarray(from_w) - np.asarray(from_alpha))) / np.max(np.abs(from_alpha)))

    names = "linear", "degree 2"
    return [Identity(name, apart(*values)) for name, values in zip(names, measure(machine), strict=True)]


def leave_one_out(case: Case, machine: svm.SupportVectorMachine, *, tolerance: float) -> LeaveOneOut:
    """Of a linear machine: all N machines of N − 1 points, in one program."""
    n = len(case.points.y)
    others = np.array([np.delete(np.arange(n), i) for i in range(n)])

    @jax.jit
    @jax.vmap
    def without_one(rows: Array) -> tuple[Array, Array]:
        x, y = (jnp.asarray(a)[rows] for a in case.points)
        own = svm.fit_dual(x, y, kernel=svm.linear_kernel, c=case.c, tolerance=tolerance)
        return (own.alpha * y) @ x, own.gap

    w = svm.weights(machine)
    without, gaps = (np.asarray(a) for a in without_one(others))
    length: Any = np.linalg.norm(w)
    changes = np.linalg.norm(without - np.asarray(w)[None], axis=1) / length
    bounds = (np.sqrt(np.maximum(gaps, 0)) + math.sqrt(max(float(machine.gap), 0))) / length
    return LeaveOneOut(changes, bounds)
