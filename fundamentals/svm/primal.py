"""The linear machine by its primal: a subgradient descent that knows how far it still has to go, and the textbook's.

Minimize P(w, b) = ½‖w‖² + Σ c_i max(0, 1 − y_i f_i) (`objectives`, equation 1). For a fixed w the best bias is found
exactly (`best_bias`), which leaves a convex function of w alone,

  (1)  R(w) = min_b Σ c_i max(0, 1 − y_i (wᵀx_i + b)),   P(w) = ½‖w‖² + R(w)

At the best b the hinges' subgradients at the kink can be chosen so that the one in b is 0: numbers a_i in [0, c_i] with
Σ a_i y_i = 0. They are a point of the dual, and a subgradient of R:

  (2)  R(v) ≥ Σ a_i (1 − y_i (vᵀx_i + b)) = s − gᵀv   for all v,   s = Σ a_i,  g = Σ a_i y_i x_i,   equal at v = w

So every subgradient ever taken is a plane below R, and the largest of them a lower bound, whose minimum with ½‖v‖² is a
small dual problem in the weights λ of the planes:

  (3)  min_v ½‖v‖² + max_k (s_k − g_kᵀv)  =  max_λ  sᵀλ − ½‖Σ λ_k g_k‖²,   λ ≥ 0, Σ λ_k = 1;   v = Σ λ_k g_k

It is a pairwise problem as the dual of the machine is, and `smo` solves it. Whatever λ is, its value is that of the
machine's dual at α = Σ λ_k a_k: a lower bound of P, and with the best w so far the duality gap. This is the
cutting-plane method; a step of subgradient descent w ← (1 − η) w + η g is one that forgets all planes but their mean.

T. Joachims, Training linear SVMs in linear time, KDD 2006; V. Franc and S. Sonnenburg, Optimized cutting plane
algorithm for large-scale risk minimization, JMLR 10, 2009 (the best w so far, and new planes near it);
S. Shalev-Shwartz, Y. Singer, N. Srebro and A. Cotter, Pegasos: primal estimated sub-gradient solver for SVM,
Mathematical Programming 127, 2011.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, PRNGKey
from fundamentals.svm import smo
from fundamentals.svm.arguments import checked, in_full_precision, warn_unless_converged
from fundamentals.svm.machines import History, LinearMachine
from fundamentals.svm.objectives import primal_objective, primal_objective_bwd, primal_objective_fwd

PLANES = 512
"""The most planes that are kept; then a new one takes the place of the one with the least weight."""

CLOSER = 0.3
"""Every second plane is taken this part of the way from the best w to the minimum of (3), which may be far."""


class Bundle(NamedTuple):
    """The state of the cutting-plane method."""

    slopes: Array  # [K, D], g_k
    offsets: Array  # [K], s_k
    products: Array  # [K, K], g_kᵀ g_l
    weights: Array  # [K], λ
    minimum: Array  # [D], v of equation (3)
    w: Array  # [D], the best so far
    bias: Array  # []
    history: History
    iterations: Array  # [], int32


def fit_primal(
    x: ArrayLike,
    y: ArrayLike,
    *,
    c: ArrayLike,
    relative_gap: float = 1e-3,
    max_iterations: int = 1000,
) -> LinearMachine:
    """The linear support vector machine, by cutting planes, until the duality gap is what was asked for.

    Args:
      x: points [N, D], float32 or float64 (half precision is computed in float32). One evaluation of all of them, a
        product with w and a sort, an iteration.
      y: labels [N], −1 or +1, of both kinds.
      c: the price of a violated margin, > 0: a number, or one for each point [N].
      relative_gap: stops when primal − dual ≤ relative_gap · primal. At least 1e-5 in float32 and 2e-14 in float64,
        which is what rounding leaves of the difference.
      max_iterations: stops there, too.

    Returns:
      A `LinearMachine` with the best w and bias; `converged` says whether the gap is what was asked for.

    Raises:
      ValueError: shapes do not fit, labels are not ±1 or of one kind only, a number is NaN, infinite or out of range.
      TypeError: dtypes are not floating.
    """
    x, y, price = checked("fit_primal", x, y, c)
    least = 100 * float(jnp.finfo(x.dtype).eps)
    _checks.interval("fit_primal", f"[{least:.1g}, inf)", relative_gap=relative_gap)
    _checks.positive_integers("fit_primal", max_iterations=max_iterations)
    _checks.interval("fit_primal", "[1, 1000000]", max_iterations=max_iterations)
    machine: LinearMachine = _cutting_planes(x, y, price, jnp.asarray(relative_gap, x.dtype), max_iterations)
    _checks.finite_objective("fit_primal", machine.primal)
    warn_unless_converged("fit_primal", machine)
    return machine


class StochasticMachine(NamedTuple):
    """A decision function f(x) = wᵀx + b, without a certificate."""

    w: Array  # [D]
    bias: Array  # []
    primal: Array  # [], the primal objective
    history: Array  # [num_steps // record_every], the primal objective on the way


def pegasos(
    x: ArrayLike,
    y: ArrayLike,
    *,
    c: ArrayLike,
    key: PRNGKey,
    num_steps: int,
    batch_size: int | None = 1,
    record_every: int | None = None,
) -> StochasticMachine:
    """The linear support vector machine by stochastic subgradient steps of length 1/t: the textbook form.

    The objective of some points, each counted N/batch_size times, is in the mean that of all. It is strongly convex in
    w with modulus 1, so that steps of 1/t along its subgradient converge at the rate of log(t)/t, after which w is
    projected onto the ball that is known to hold the optimum, ‖w‖² = Σ α − Σ c ξ ≤ Σ c. In the bias, which is not
    penalized, it is not strongly convex; there the steps are 1/√t, of the objective divided by Σ c. Nothing says when
    to stop.

    S. Shalev-Shwartz, Y. Singer, N. Srebro and A. Cotter, Pegasos, 2011, figure 2 (there with λ = 1/Σ c, and everything
    divided by Σ c) and section 6 for the bias.

    Args:
      x: points [N, D].
      y: labels [N], −1 or +1, of both kinds.
      c: the price of a violated margin, a number or one for each point [N].
      key: which points are drawn, with replacement.
      num_steps: T.
      batch_size: points drawn for each step; None takes all, which is subgradient descent and draws nothing.
      record_every: where given, steps between two entries of the history, each of which costs a pass over all points.

    Returns:
      A `StochasticMachine` of the last step.
    """
    x, y, price = checked("pegasos", x, y, c)
    _checks.key("pegasos", "key", key)
    _checks.positive_integers("pegasos", num_steps=num_steps)
    if batch_size is not None:
        _checks.positive_integers("pegasos", batch_size=batch_size)
    if record_every is not None:
        _checks.positive_integers("pegasos", record_every=record_every)
    machine: StochasticMachine = _stochastic_steps(x, y, price, key, num_steps, batch_size, record_every)
    return machine


def best_bias(scores: Array, y: Array, price: Array) -> tuple[Array, Array]:
    """The b that minimizes Σ c_i max(0, 1 − y_i (s_i + b)), and subgradients a with Σ a_i y_i = 0 there.

    The cost is piecewise linear in b with a kink at each t_i = y_i − s_i, where its slope rises by c_i, from minus the
    prices of all positive labels (far left, all of them violated). So b is the first kink at which the slope is no
    longer negative: a weighted quantile of the t_i. There a_i = c_i where violated, 0 where not, and at the kink itself
    the part of c_i that brings the slope to 0.

    Args:
      scores: s [N], decision values without the bias.
      y: labels [N], ±1.
      price: c [N].

    Returns:
      b [] and a [N], 0 ≤ a ≤ c.
    """
    kinks = y - scores
    order = jnp.argsort(kinks)
    positive = jnp.sum(jnp.where(y > 0, price, 0))
    slopes = jnp.cumsum(price[order]) - positive  # right of each kink
    first = jnp.minimum(jnp.sum(slopes < 0), len(y) - 1)
    bias = kinks[order[first]]
    at = kinks == bias
    violated = jnp.where(y > 0, kinks > bias, kinks < bias)
    a = jnp.where(violated & ~at, price, 0)
    # At the kink positive labels go from violated to not, negative ones the other way: a fraction of the way.
    there = jnp.sum(jnp.where(at, price, 0))
    left = jnp.sum(jnp.where(kinks < bias, price, 0)) - positive
    fraction = jnp.clip(-left / there, 0, 1)
    return bias, jnp.where(at, price * jnp.where(y > 0, 1 - fraction, fraction), a)


@functools.partial(jax.jit, static_argnames="max_iterations")
@in_full_precision
def _cutting_planes(x: Array, y: Array, price: Array, relative_gap: Array, max_iterations: int) -> LinearMachine:
    planes = min(PLANES, max_iterations)
    mean = jnp.mean(x, axis=0)
    x = x - mean[None, :]  # moves the bias alone, and leaves more digits to what matters
    dtype, size = x.dtype, x.shape[1]

    def last(history: Array, iterations: Array) -> Array:
        return history[jnp.maximum(iterations - 1, 0)]

    def gap(state: Bundle) -> Array:
        return last(state.history.primal, state.iterations) - last(state.history.dual, state.iterations)

    def unfinished(state: Bundle) -> Array:
        enough = gap(state) <= relative_gap * last(state.history.primal, state.iterations)
        failed = jnp.isnan(gap(state))
        return (state.iterations == 0) | (~enough & ~failed & (state.iterations < max_iterations))

    def iterate(state: Bundle) -> Bundle:
        k = state.iterations
        near = state.w + jnp.asarray(CLOSER, dtype) * (state.minimum - state.w)
        at = jnp.where(k % 2 == 0, state.minimum, near)
        scores = jnp.matmul(x, at)
        bias, a = best_bias(scores, y, price)
        cost = jnp.sum(at * at) / 2 + jnp.sum(price * jnp.maximum(1 - y * (scores + bias), 0))
        before = jnp.where(k == 0, jnp.inf, last(state.history.primal, k))
        better = cost < before
        # The new plane, in an empty place or that of the least weight, which it takes over.
        place = jnp.where(k < planes, k, jax.lax.argmin(state.weights, 0, jnp.int32))
        slope = jnp.matmul(a * y, x)
        slopes = state.slopes.at[place].set(slope)
        offsets = state.offsets.at[place].set(jnp.sum(a))
        row = jnp.matmul(slopes, slope)
        products = state.products.at[place].set(row).at[:, place].set(row)
        lam = jnp.where(k == 0, jnp.zeros(planes, dtype).at[0].set(1), state.weights)
        used = jnp.arange(planes, dtype=jnp.int32) <= k
        best = jnp.minimum(cost, before)
        # The violation of a problem on the simplex bounds its own duality gap: a tenth of the gap that is asked for.
        pairs = smo.ascend(
            products,
            lam,
            jnp.matmul(products, lam) - offsets,
            jnp.zeros(planes, dtype),
            jnp.where(used, jnp.asarray(1, dtype), 0),
            tolerance=0.1 * relative_gap * best,
            max_steps=10 * k + 200,
        )
        minimum = jnp.matmul(pairs.beta, slopes)
        bound = jnp.sum(offsets * pairs.beta) - jnp.sum(minimum * minimum) / 2
        bound = jnp.maximum(bound, jnp.where(k == 0, -jnp.inf, last(state.history.dual, k)))
        bound = jnp.minimum(bound, best)  # above it is rounding
        return Bundle(
            slopes,
            offsets,
            products,
            pairs.beta,
            minimum,
            jnp.where(better, at, state.w),
            jnp.where(better, bias, state.bias),
            History(state.history.primal.at[k].set(best), state.history.dual.at[k].set(bound)),
            k + 1,
        )

    none = jnp.full(max_iterations, jnp.nan, dtype)
    zeros = jnp.zeros(size, dtype)
    end = jax.lax.while_loop(
        unfinished,
        iterate,
        Bundle(
            jnp.zeros((planes, size), dtype),
            jnp.zeros(planes, dtype),
            jnp.zeros((planes, planes), dtype),
            jnp.zeros(planes, dtype),
            zeros,
            zeros,
            jnp.zeros((), dtype),
            History(none, none),
            jnp.int32(0),
        ),
    )
    primal, dual = last(end.history.primal, end.iterations), last(end.history.dual, end.iterations)
    final = primal - dual
    return LinearMachine(
        end.w,
        end.bias - jnp.sum(end.w * mean),
        primal,
        dual,
        final,
        end.iterations,
        final <= relative_gap * primal,
        end.history,
    )


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_size", "record_every"))
def _stochastic_steps(
    x: Array,
    y: Array,
    price: Array,
    key: PRNGKey,
    num_steps: int,
    batch_size: int | None,
    record_every: int | None,
) -> StochasticMachine:
    n, total = len(x), jnp.sum(price)

    def step(state: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        w, bias = state
        points, labels, c = x, y, price
        if batch_size is not None:
            drawn = jax.random.randint(jax.random.fold_in(key, t), (batch_size,), 0, n)
            points, labels, c = x[drawn], y[drawn], price[drawn] * jnp.asarray(n / batch_size, x.dtype)
        cost, residuals = primal_objective_fwd(w, bias, points, labels, c=c)
        dw, dbias, *_ = primal_objective_bwd(residuals, jnp.ones_like(cost))
        rate = 1 / t.astype(x.dtype)
        w = w - rate * dw
        w = w * jnp.minimum(1, jnp.sqrt(total) / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(x.dtype).tiny))
        return (w, bias - jnp.sqrt(rate) * dbias / total), None

    def steps(state: tuple[Array, Array], first: Array, number: int) -> tuple[Array, Array]:
        return jax.lax.scan(step, state, first + jnp.arange(number, dtype=jnp.int32))[0]

    def objective(state: tuple[Array, Array]) -> Array:
        return primal_objective(*state, x, y, c=price)

    def record(state: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], Array]:
        state = steps(state, first, every)
        return state, objective(state)

    state = jnp.zeros(x.shape[1], x.dtype), jnp.zeros((), x.dtype)
    every = num_steps if record_every is None else record_every
    number = 0 if record_every is None else num_steps // every
    state, history = jax.lax.scan(record, state, 1 + every * jnp.arange(number, dtype=jnp.int32))
    state = steps(state, jnp.int32(1 + every * number), num_steps - every * number)
    return StochasticMachine(*state, objective(state), history)
