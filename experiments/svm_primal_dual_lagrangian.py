"""What `svm_primal_dual` measures of the Lagrangian: stationary, a saddle; kinks; what the notes have otherwise."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.svm_primal_dual_solutions import Case, Primal, fit
from experiments.svm_problems import Problem
from fundamentals import svm
from fundamentals.base import Array

FAR = 1e6  # by which multipliers are moved
MARGIN = 0.5  # of points that can be separated
ROUNDS = 100  # of alternation, at most


class Stationary(NamedTuple):
    """The Lagrangian at the solution, and its minimum at other multipliers."""

    gradients: tuple[float, float, float]  # largest entries by w, b, ξ: w and b from the primal, α from the dual
    allowed: float  # of the first, by the gaps
    saddle: tuple[float, float]  # least ℒ(w, b, ξ; α*) − ℒ*, largest ℒ(w*, b*, ξ*; α) − ℒ*, relative to ℒ*
    between: float  # P(w) − D(α*), which bounds by how much it may be none, relative to ℒ*
    minimum: float  # largest |min ℒ − dual objective| over random feasible α, relative to the largest of these
    excess: float  # largest |ℒ elsewhere − min ℒ − ½‖w − w(α)‖²|, relative to the largest ℒ there
    weak: float  # the largest dual objective of these α less the least primal of random w and b, relative to ℒ*
    unbalanced: tuple[float, float]  # at a random α that does not balance: ∂ℒ/∂b, and −Σ α y


class Kink(NamedTuple):
    """The subgradient where a margin is exactly kept."""

    by_hand: np.ndarray  # [3, D + 1], by w and b, one point at y f = 1 − 2⁻²⁰, 1, 1 + 2⁻²⁰
    autodiff: np.ndarray  # likewise
    expected: np.ndarray  # likewise
    at_optimum: float  # ‖∂P/∂w‖ / ‖w‖ by this convention, the points on the margin left to rounding's side: 0
    mended: float  # … with −α y x for each of these


class Product(NamedTuple):
    """Random machines for one point of each class, and the notes' 1 − Π y f ≤ 0."""

    margins: tuple[float, float]  # y f of a machine that satisfies it
    draws: int
    satisfied: int
    both_wrong: int  # of these, misclassify both points
    each: int  # draws that keep both margins
    each_and_product: int
    mirrored: tuple[float, float]  # of the widest margin the wrong way round: y f of both points, their product


class Recipe(NamedTuple):
    """Fix α, minimize; fix that w, maximize over α. Beside it, ascent on the dual."""

    slopes: tuple[float, float, float]  # largest ∂ℒ/∂α at α, at α + 10⁶, and by 1 − y f
    overshoot: float
    steps: np.ndarray  # [T], of ascent, from 1
    sums: np.ndarray  # [T], Σ α, w fixed throughout
    predicted: np.ndarray  # [T]
    again: np.ndarray  # [R], Σ α, w minimized anew after steps `overshoot` times too long, Σ α y = 0 granted
    ascent: np.ndarray  # [T], Σ α, w minimized anew in every step: ascent on the dual
    optimum: float  # Σ α of the solution
    corners: np.ndarray  # [R], relative distance of the dual objective from its maximum: 0 ≤ α ≤ C granted as well
    between: int  # the most α strictly between 0 and C in any round
    free: int  # … at the optimum
    dual: np.ndarray  # [T], the distance, of ascent on the dual
    distances: tuple[float, float]  # … at its end, α ≥ 0 and 0 ≤ α ≤ C
    bounds: tuple[float, float]  # what theory allows of it


def stationary(
    case: Case, solution: Primal, machine: svm.SupportVectorMachine, random: np.random.RandomState, *, draws: int
) -> Stationary:
    """Of a linear problem: gradients by `jax.grad` at w from the primal and α from the dual; and random others.

    w from the primal is within √(2 gap) of the optimum, Σ α y x within √gap' of it, gap' that of the dual's machine. At
    these w and α, ℒ is between D(α) and P(w), which bound the saddle.
    """
    n, dimensions = case.points.x.shape
    uniform = random.uniform(size=(draws, 2 + dimensions + 4 * n))
    found = jax.jit(_measure)(case.points, case.c, solution.w, np.float64(solution.bias), machine.alpha, uniform)
    gradients, saddle, between, minimum, excess, weak, unbalanced = jax.tree.map(float, found)
    allowed = np.sqrt(2 * max(solution.gap, 0)) + np.sqrt(max(float(machine.gap), 0))
    return Stationary(gradients, float(allowed), saddle, between, minimum, excess, weak, unbalanced)


def _measure(points: Problem, c: Array, w: Array, bias: Array, alpha: Array, uniform: Array) -> tuple[Any, ...]:
    """The fields of `Stationary`, without what is allowed; all that is random in it is made of uniform [M, …]."""
    x, y = points
    lagrangian = functools.partial(svm.lagrangian, x=x, y=y, c=c)
    violation = 1 - y * (x @ w + bias)
    slack = jnp.where(violation > 0, violation, 0.0)
    value, by = jax.value_and_grad(lagrangian, argnums=(0, 1, 2))(w, bias, slack, alpha, c - alpha)
    n = len(y)
    parts = np.cumsum([1, len(w), 1, n, n, n])
    near, to_w, to_b, to_slack, to_alpha, other_mu, loose = jnp.split(uniform, parts, axis=1)
    near = near**4  # many of what is drawn is not far from the solution
    other_w = w[None] + near * jnp.linalg.norm(w) * (4 * to_w - 2)
    other_b = bias + (near * (4 * to_b - 2))[:, 0]
    other_slack = slack[None] + near * (2 * to_slack - slack[None])
    other_alpha = alpha[None] + near * (balanced(c * to_alpha, y) - alpha[None])
    other_mu, loose = c * other_mu, c * loose[0]
    gram = svm.linear_kernel(x, x)
    each = jax.vmap(lambda w, b, s, a: lagrangian(w, b, s, a, c - a))
    over_w = jax.vmap(lambda w, b, s: lagrangian(w, b, s, alpha, c - alpha))(other_w, other_b, other_slack)
    over_alpha = jax.vmap(lambda a, m: lagrangian(w, bias, slack, a, m))(other_alpha, other_mu)
    duals = jax.vmap(lambda a: svm.dual_objective(a, y, gram))(other_alpha)
    primals = jax.vmap(lambda w, b: svm.primal_objective(w, b, x, y, c=c))(other_w, other_b)
    minimizers = (other_alpha * y[None]) @ x
    least = each(minimizers, other_b, other_slack, other_alpha)
    elsewhere = each(other_w, other_b, other_slack, other_alpha)
    away = 0.5 * jnp.sum((other_w - minimizers) ** 2, axis=1)
    between = svm.primal_objective(w, bias, x, y, c=c) - svm.dual_objective(alpha, y, gram)
    by_bias = jax.grad(lagrangian, argnums=1)(w, bias, slack, loose, c - loose)
    return (
        tuple(jnp.max(jnp.abs(g)) for g in by), (jnp.min(over_w - value) / value, jnp.max(over_alpha - value) / value),
        between / value, jnp.max(jnp.abs(least - duals)) / jnp.max(jnp.abs(duals)),
        jnp.max(jnp.abs(elsewhere - least - away)) / jnp.max(jnp.abs(elsewhere)),
        (jnp.max(duals) - jnp.min(primals)) / value, (by_bias, -loose @ y),
    )  # fmt: skip


def balanced(alpha: Array, y: Array | np.ndarray) -> Array:
    """α of the heavier class made smaller so that Σ α y = 0: [..., N] of [..., N], within the same bounds."""
    sums = [jnp.sum(jnp.where(y == side, alpha, 0.0), axis=-1, keepdims=True) for side in (1, -1)]
    least = jnp.minimum(*sums)
    return alpha * jnp.where(y == 1, least / sums[0], least / sums[1])


def kink(case: Case, machine: svm.SupportVectorMachine) -> Kink:
    """At a point that is a power of two, so that y f is exact; and at the optimum of a linear problem."""
    c, delta = 2.0, 2.0**-20
    x, y = np.array([[0.5, 2.0]]), np.array([1.0])

    @jax.jit
    def gradients(w: Array, b: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        cost, residuals = svm.primal_objective_fwd(w, b, x, y, c=c)
        by_hand = svm.primal_objective_bwd(residuals, jnp.ones_like(cost))[:2]
        return by_hand, jax.grad(functools.partial(svm.primal_objective, c=c), argnums=(0, 1))(w, b, x, y)

    rows = []
    for margin in (1 - delta, 1.0, 1 + delta):
        found = gradients(np.array([2.0 * margin, 0.0]), np.float64(0))
        pulled = c * np.array([0.5, 2.0, 1.0]) * (margin < 1)  # C y (x, 1) where the margin is violated
        rows.append([*(np.append(*pair) for pair in found), np.array([2.0 * margin, 0, 0]) - pulled])
    by_hand, autodiff, expected = np.swapaxes(np.array(rows), 0, 1)
    (points_x, points_y), alpha, w = case.points, np.asarray(machine.alpha), np.asarray(svm.weights(machine))
    free = (alpha > 0) & (alpha < case.c)
    pulls = alpha[:, None] * points_y[:, None] * points_x  # those outside have α = 0
    subgradient = w - pulls[~free].sum(axis=0)
    length = np.linalg.norm(w)
    mended = np.linalg.norm(subgradient - pulls[free].sum(axis=0))
    return Kink(by_hand, autodiff, expected, float(np.linalg.norm(subgradient) / length), float(mended / length))


def product(random: np.random.RandomState, draws: int) -> Product:
    """Machines w, b for x = (1, 0) of class 1 and (−1, 0) of class −1, where the widest margin is w = (1, 0), b = 0."""
    x, y = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([1.0, -1.0])
    machines = random.normal(size=(draws, 3)) * [3, 3, 1]
    margins = y * (machines[:, :2] @ x.T + machines[:, 2:])
    satisfied = 1 - margins.prod(axis=1) <= 0
    each = np.all(1 - margins <= 0, axis=1)
    wrong = np.all(margins < 0, axis=1)
    first, second = (float(margin) for margin in margins[np.argmax(satisfied & wrong)])
    mirrored = y * (x @ [-1.0, 0.0])  # as short as the right one
    return Product(
        (first, second), draws, int(satisfied.sum()), int((satisfied & wrong).sum()), int(each.sum()),
        int((each & satisfied).sum()), (float(mirrored[0]), float(mirrored.prod())),
    )  # fmt: skip


def separated(points: Problem, margin: float) -> Problem:
    """The same points, each moved off the line through 0 to its class's side, by a margin more than it was off.

    The line is the one half-way between the centres of `svm_problems.gaussians`.
    """
    x, y = points
    normal = np.full(2, np.sqrt(0.5))
    off = x @ normal
    moved = y * (np.abs(off) + margin)
    return points._replace(x=x + (moved - off)[:, None] * normal)


def project(alpha: Array, y: Array | np.ndarray, c: Array | float) -> Array:
    """The nearest α with 0 ≤ α ≤ c and Σ α y = 0.

    It is clip(α − t y, 0, c), by the conditions of optimality. Σ y clip(α − t y, 0, c) falls in t, linearly between the
    t at which an entry reaches 0 or c; the root is between the two of these around it.
    """
    ends = jnp.sort(jnp.concatenate([alpha * y, (alpha - c) * y]))
    sums = jnp.clip(alpha[None, :] - ends[:, None] * y[None, :], 0.0, c) @ y
    last = jnp.clip(jnp.sum(sums >= 0) - 1, 0, len(ends) - 2)
    (left, right), (above, below) = ends[last + jnp.arange(2)], sums[last + jnp.arange(2)]
    t = left + (right - left) * above / jnp.where(above > below, above - below, 1.0)
    return jnp.clip(alpha - t * y, 0.0, c)


def recipe(case: Case, machine: svm.SupportVectorMachine, *, steps: int, overshoot: float, tolerance: float) -> Recipe:
    """On points that can be separated, with α ≥ 0 alone; and on a linear problem, with 0 ≤ α ≤ C.

    The hard margin's Lagrangian is ½‖w‖² + Σ α (1 − y f). At fixed w and b its slope along α is 1 − y f, whatever α is:
    above 0 for a margin that is not kept, so that there is no maximum. One starts half-way to the solution.

    A step of length s along that slope, then w anew, is α ← α + s (1 − Q α) as far as bounds allow: near the solution
    it multiplies what is left by 1 − s λ', λ' the largest eigenvalue of Q among the support vectors' α with Σ α y = 0.
    For s > 2/λ' it can't settle there; the recipe's full maximum is s → ∞.
    """
    apart = separated(case.points, MARGIN)
    hard = fit(*apart, kernel=svm.linear_kernel, c=FAR, tolerance=tolerance, relative_gap=math.inf)  # any gap
    start, bias = np.asarray(hard.alpha) / 2, np.asarray(hard.bias) / 2
    rate, soft_rate = map(_rate, (apart, case.points))
    sums, slopes, violations = jax.jit(_rise, static_argnums=4)(apart, start, bias, rate, steps)
    rises = start[None] + rate * np.arange(1, steps + 1)[:, None] * np.asarray(violations)[None]
    no_bound, bound, rounds = np.float64(np.inf), np.float64(case.c), min(steps, ROUNDS)
    longest = 2 / _curvature(apart, np.asarray(hard.alpha))
    again, _ = _ascend(apart, np.float64(overshoot * longest), start, no_bound, rounds)
    ascent, hard_dual = _ascend(apart, rate, start, no_bound, steps)
    _, dual = _ascend(case.points, soft_rate, np.zeros_like(start), bound, steps)
    between, jumping = _jump(case.points, bound, rounds)
    alpha, best, hard_best = np.asarray(machine.alpha), float(machine.dual), float(hard.dual)
    # Of a concave D whose gradient changes by at most λ times the change of α, after k steps of 1/λ:
    # D* − D ≤ λ ‖α₀ − α*‖² / 2k (A. Beck and M. Teboulle, SIAM J. Imaging Sciences 2, 2009, theorem 3.1).
    hard_bound = float(np.sum(start**2)) / float(rate) / (2 * steps * hard_best)
    soft_bound = float(np.sum(alpha**2)) / float(soft_rate) / (2 * steps * best)
    return Recipe(
        (float(slopes[0]), float(slopes[1]), float(np.max(violations))), overshoot, np.arange(1, steps + 1),
        np.asarray(sums), np.maximum(rises, 0).sum(axis=1), np.asarray(again), np.asarray(ascent),
        2 * float(start.sum()), 1 - np.asarray(jumping) / best, int(between.max()),
        int(((alpha > 0) & (alpha < case.c)).sum()), 1 - np.asarray(dual) / best,
        (1 - float(hard_dual[-1]) / hard_best, 1 - float(dual[-1]) / best), (hard_bound, soft_bound),
    )  # fmt: skip


def _rate(points: Problem) -> np.float64:
    """1/λ, λ the largest eigenvalue of Q, the dual's matrix (y x)(y x)ᵀ: steps so long never lose."""
    return np.float64(1 / np.linalg.norm(points.x, 2) ** 2)


def _curvature(points: Problem, alpha: np.ndarray) -> float:
    """λ' of `recipe`: of the matrix (y x)(y x)ᵀ of the points with α > 0, without the direction y."""
    x, y = (a[alpha > 0] for a in points)
    pulls = y[:, None] * x
    pulls = pulls - y[:, None] * (y @ pulls)[None] / len(y)
    return float(np.linalg.norm(pulls, 2) ** 2)


def _rise(
    points: Problem, start: Array, bias: Array, rate: Array, count: int
) -> tuple[Array, tuple[Array, Array], Array]:
    """The notes' second step, w fixed: Σ α after each step of ascent; the largest slope at α, and far off; 1 − y f."""
    (x, y), none = points, jnp.zeros_like(start)
    w = (start * y) @ x

    def slope(alpha: Array) -> Array:
        found: Array = jax.grad(svm.lagrangian, argnums=3)(w, bias, none, alpha, none, x, y, c=1.0)
        return found

    def step(alpha: Array, _: None) -> tuple[Array, Array]:
        risen = alpha + rate * slope(alpha)
        alpha = jnp.where(risen > 0, risen, 0.0)
        return alpha, jnp.sum(alpha)

    _, sums = jax.lax.scan(step, start, None, length=count)
    return sums, (jnp.max(slope(start)), jnp.max(slope(start + FAR))), 1 - y * (x @ w + bias)


@functools.partial(jax.jit, static_argnums=4)
def _ascend(points: Problem, rate: Array, start: Array, cap: Array, count: int) -> tuple[Array, Array]:
    """Σ α and D after each step with 0 ≤ α ≤ cap and Σ α y = 0; w is Σ α y x in each."""
    x, y = points

    def step(alpha: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        risen = alpha + rate * (1 - y * (x @ ((alpha * y) @ x)))  # b is the multiplier of the projection
        alpha = project(risen, y, jnp.minimum(cap, 2 * jnp.max(jnp.abs(risen)) + 1))  # above that it is no bound
        own = (alpha * y) @ x
        return alpha, (jnp.sum(alpha), jnp.sum(alpha) - 0.5 * own @ own)

    return jax.lax.scan(step, start, None, length=count)[1]


@functools.partial(jax.jit, static_argnums=2)
def _jump(points: Problem, c: Array, count: int) -> tuple[Array, Array]:
    """Number of points with 0 < α < c, and D: α maximizes ℒ at the last w with 0 ≤ α ≤ c and Σ α y = 0, in each round.

    That is a linear program: its solution is where a point that is far along the slope is projected to.
    """
    x, y = points

    def round_(alpha: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        alpha = project(FAR * c * (1 - y * (x @ ((alpha * y) @ x))), y, c)
        own = (alpha * y) @ x
        return alpha, (jnp.sum((alpha > 0) & (alpha < c)), jnp.sum(alpha) - 0.5 * own @ own)

    return jax.lax.scan(round_, jnp.zeros_like(y), None, length=count)[1]
