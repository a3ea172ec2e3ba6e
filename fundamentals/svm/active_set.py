"""Pairwise steps on an active set of points, in rounds, until the optimum or what was asked for.

Each step (`smo`) takes two rows of the Gram matrix K and a pass over all points, which is wasted on points that stay
where they are: α = 0 far beyond the margin, α = c far inside of it. So the steps run on an active set, the points that
are free (0 < α < c) or violate their condition most, until these agree among themselves; then the errors of all points
are brought up to date and another set is chosen. (In libsvm's words this is shrinking, with every round an unshrinking;
the choice by violation is that of T. Joachims, Making large-scale SVM learning practical, 1999, section 3.) A round
ends when the active set's violation is a tenth of what the whole set's was, or what was asked for.

Of few points all are active. Of some thousand, all of K is kept, and all points take the first steps, which are often
all that it needs; then half of them are active. Of more, a quarter, and K is never whole: memory is that of the active
set's part and of some rows with all points, however many points there are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, DTypeLike
from fundamentals.svm import smo
from fundamentals.svm.arguments import in_full_precision
from fundamentals.svm.machines import Kernel

WHOLE = 2048
"""Up to so many points, all of K is kept."""

FEW = 512
"""Up to so many points, all of them take part in every step, however many steps there are."""

ROWS = 256
"""The most rows of K with all points that are computed at a time."""

ROUNDS = 50
"""Rounds without progress (the violation below its best, or a higher dual objective) after which it is given up."""


class Problem(NamedTuple):
    """A dual in signed coefficients β = α y, and what is asked of its solution."""

    kernel: Kernel
    x: Array  # [N, D]
    y: Array  # [N], ±1
    low: Array  # [N], bounds of β: [0, c] for y = 1, [−c, 0] for y = −1
    high: Array  # [N]
    tolerance: Array  # [], of the violation
    relative_gap: Array  # [], of the duality gap; infinite where any will do
    max_steps: Array  # [], int32


class Sizes(NamedTuple):
    """The numbers of points that a program is compiled for."""

    active: int
    rows: int  # of K with all points, at a time


class Quality(NamedTuple):
    """How good a β is, and the bias that goes with it."""

    bias: Array  # []
    dual: Array  # []
    gap: Array  # []
    violation: Array  # []
    enough: Array  # [], bool: it is what was asked for


class Solution(NamedTuple):
    """Where the rounds end."""

    beta: Array  # [N]
    steps: Array  # [], int32
    quality: Quality


class Progress(NamedTuple):
    """The state between two rounds."""

    beta: Array  # [N]
    errors: Array  # [N], Kβ − y
    steps: Array  # [], int32
    target: Array  # [], the violation worked for: the tolerance, or less where the gap asks for it
    best: Array  # [], the smallest violation so far
    since: Array  # [], int32: rounds since that fell, or the dual objective rose
    quality: Quality


def choose_sizes(function: str, n: int, dtype: DTypeLike, memory_bytes: int) -> Sizes:
    """How many of n points are active: all of few, a quarter of many, and what fits, K twice while it is computed."""
    _checks.positive_integers(function, memory_bytes=memory_bytes)
    itemsize = jnp.dtype(dtype).itemsize
    active = n if n <= WHOLE else max(WHOLE // 2, n // 4)
    active = min(active, int((memory_bytes / 2 / itemsize) ** 0.5))
    rows = min(ROWS, active, memory_bytes // (2 * n * itemsize))
    if min(active, rows) < min(n, 16):
        least = 2 * itemsize * max(16 * n, 256)
        raise ValueError(f"{function}: memory_bytes is {memory_bytes}; expected at least {least} for {n} points")
    return Sizes(active, rows)


@functools.partial(jax.jit, static_argnames="sizes")
@in_full_precision
def solve(problem: Problem, sizes: Sizes) -> Solution:
    """The whole program, from the points to coefficients and what they are worth."""
    n = len(problem.y)
    if sizes.active == n:
        gram = problem.kernel(problem.x, problem.x)
        return _one_after_the_other(functools.partial(_whole_set, n // 2 if n > FEW else n), gram, problem)
    return _one_after_the_other(functools.partial(_active_sets, sizes), problem)


def quality(problem: Problem, beta: Array, errors: Array) -> Quality:
    """Bias, objective, gap and violation of a β with its errors.

    The bias is the mean of −E over the free points, each of which says y f = 1; without any, the middle of [m, M].
    """
    y, low, high = problem.y, problem.low, problem.high
    top, bottom = smo.extremes(beta, errors, low, high)
    free = (beta > low) & (beta < high)
    number = jnp.sum(free)
    # Traced labels may be of one class only: then nothing can rise, or nothing fall.
    middle = jnp.where(jnp.isinf(bottom), top, jnp.where(jnp.isinf(top), bottom, (top + bottom) / 2))
    average = jnp.sum(jnp.where(free, -errors, 0)) / jnp.maximum(number, 1).astype(y.dtype)
    bias = jnp.where(number > 0, average, middle)
    excess = y * (errors + bias)  # y f − 1
    alpha, price = jnp.abs(beta), high - low
    gap = jnp.sum(jnp.where(excess > 0, alpha * excess, (alpha - price) * excess))  # equation 7 of `objectives`
    dual = jnp.sum(beta * (y - errors)) / 2
    violation = jnp.where(jnp.isfinite(dual), jnp.maximum(top - bottom, 0), jnp.nan)  # extremes pass over NaN
    primal = jnp.maximum(dual + gap, jnp.finfo(y.dtype).tiny)
    enough = (violation <= problem.tolerance) & (gap <= problem.relative_gap * primal)
    return Quality(bias, dual, gap, violation, enough)


def _one_after_the_other(solve: Callable[..., Solution], *args: Any) -> Solution:
    """Under vmap, a loop over what is mapped: a batched while_loop would run each lane as long as the longest."""
    solution: Solution = jax.custom_batching.sequential_vmap(lambda *args: solve(*args))(*args)
    return solution


def _whole_set(size: int, gram: Array, problem: Problem) -> Solution:
    """Steps on all points, and if these were many, rounds on the active ones among them, whose steps are cheaper."""
    y = problem.y
    beta, errors, steps = jnp.zeros_like(y), -y, jnp.int32(0)

    def afresh(beta: Array) -> Array:
        errors: Array = jnp.matmul(gram, beta) - y
        return errors

    if size < len(y):
        some = jnp.minimum(2 * len(y), problem.max_steps)
        first = _ascend(problem, gram, jnp.arange(len(y)), beta, errors, problem.tolerance, some)
        beta, errors, steps = first.beta, afresh(first.beta), first.steps

    def round_(state: Progress) -> tuple[Array, Array, Array]:
        if size < len(y):
            active = _most_urgent(problem, state, size)
            part = gram[active][:, active]
        else:
            active, part = jnp.arange(len(y)), gram
        pairs = _ascend_in_round(problem, state, part, active)
        beta = state.beta.at[active].set(pairs.beta)
        return beta, afresh(beta), pairs.steps

    return _rounds(problem, round_, afresh, beta, errors, steps)


def _active_sets(sizes: Sizes, problem: Problem) -> Solution:
    """Rounds on active points whose rows of K are computed where they are needed."""
    kernel, x, y = problem.kernel, problem.x, problem.y

    def add(errors: Array, points: Array, change: Array) -> Array:
        """The errors after a change [A] of the coefficients of some points [A]: rows of K for those that did change."""
        order = jnp.argsort(change == 0)  # stable: these first
        points, change = points[order], change[order]
        number = jnp.sum(change != 0)

        def some(i: Array, errors: Array) -> Array:
            # The last block may begin earlier, to end with the array: what it repeats counts as 0.
            begin = jnp.minimum(i * sizes.rows, len(points) - sizes.rows)
            new = jnp.arange(sizes.rows) + begin >= i * sizes.rows
            rows = kernel(x[jax.lax.dynamic_slice_in_dim(points, begin, sizes.rows)], x)
            weights = jnp.where(new, jax.lax.dynamic_slice_in_dim(change, begin, sizes.rows), 0)
            return errors + jnp.matmul(weights, rows)

        updated: Array = jax.lax.fori_loop(0, -(-number // sizes.rows), some, errors)
        return updated

    def round_(state: Progress) -> tuple[Array, Array, Array]:
        active = _most_urgent(problem, state, sizes.active)
        points = x[active]
        pairs = _ascend_in_round(problem, state, kernel(points, points), active)
        errors = add(state.errors, active, pairs.beta - state.beta[active])
        beta = state.beta.at[active].set(pairs.beta)
        return beta, errors, pairs.steps

    def afresh(beta: Array) -> Array:
        return add(-y, jnp.arange(len(y), dtype=jnp.int32), beta)

    return _rounds(problem, round_, afresh, jnp.zeros_like(y), -y, jnp.int32(0))


def _most_urgent(problem: Problem, state: Progress, size: int) -> Array:
    """The active set: a quarter from either end of what violates most, then free points, then the nearest to violating.

    From either end, as a step needs a point that rises and one that falls: at the start all of a class are equally
    urgent.
    """
    beta, errors, low, high = state.beta, state.errors, problem.low, problem.high
    top, bottom = smo.extremes(beta, errors, low, high)
    rising = jax.lax.top_k(jnp.where(beta < high, -errors, -jnp.inf), max(size // 4, 1))[1]
    falling = jax.lax.top_k(jnp.where(beta > low, errors, -jnp.inf), max(size // 4, 1))[1]
    surplus = -errors - (top + bottom) / 2  # of a point at its lower bound: > 0 where it wants to rise
    free = (beta > low) & (beta < high)
    at_bound = jnp.where(low < high, jnp.where(beta <= low, surplus, -surplus), -jnp.inf)
    urgency = jnp.where(free, 1 + 2 * jnp.max(jnp.abs(surplus)), at_bound)
    urgency = urgency.at[rising].set(jnp.inf).at[falling].set(jnp.inf)
    return jax.lax.top_k(urgency, size)[1]


def _ascend_in_round(problem: Problem, state: Progress, gram: Array, active: Array) -> smo.Pairs:
    """Steps on the active points until their violation is a tenth of that of all, or what is worked for."""
    tolerance = state.target
    if len(active) < len(problem.y):
        top, bottom = smo.extremes(state.beta, state.errors, problem.low, problem.high)
        tolerance = jnp.maximum(0.99 * tolerance, 0.1 * (top - bottom))
    left = problem.max_steps - state.steps
    return _ascend(problem, gram, active, state.beta[active], state.errors[active], tolerance, left)


def _ascend(
    problem: Problem, gram: Array, active: Array, beta: Array, errors: Array, tolerance: Array, max_steps: Array
) -> smo.Pairs:
    low, high = problem.low[active], problem.high[active]
    return smo.ascend(gram, beta, errors, low, high, tolerance=tolerance, max_steps=max_steps)


def _rounds(
    problem: Problem,
    round_: Callable[[Progress], tuple[Array, Array, Array]],
    afresh: Callable[[Array], Array],
    beta: Array,
    errors: Array,
    steps: Array,
) -> Solution:
    """Rounds until all that was asked for is there, or cannot be had. The last is judged by errors computed afresh."""

    def unfinished(state: Progress) -> Array:
        now = state.quality
        return ~now.enough & ~jnp.isnan(now.violation) & (state.steps < problem.max_steps) & (state.since < ROUNDS)

    def target(violation: Array, target: Array) -> Array:
        return jnp.where(violation <= target, target / 10, target)

    def next_round(state: Progress) -> Progress:
        beta, errors, steps = round_(state)
        steps = state.steps + steps
        now, before = quality(problem, beta, errors), state.quality
        rounding = 8 * jnp.finfo(beta.dtype).eps * jnp.abs(before.dual)
        better = (now.violation < state.best) | (now.dual > before.dual + rounding)
        since = jnp.where(better, 0, state.since + 1)
        ends = now.enough | (now.violation <= state.target) | (steps >= problem.max_steps) | (since >= ROUNDS)
        errors = jax.lax.cond(ends, afresh, lambda _: errors, beta)
        now = quality(problem, beta, errors)
        best = jnp.minimum(state.best, now.violation)
        return Progress(beta, errors, steps, target(now.violation, state.target), best, since, now)

    now = quality(problem, beta, errors)
    first = target(now.violation, problem.tolerance)
    start = Progress(beta, errors, steps, first, now.violation, jnp.int32(0), now)
    end = jax.lax.while_loop(unfinished, next_round, start)
    return Solution(end.beta, end.steps, end.quality)
