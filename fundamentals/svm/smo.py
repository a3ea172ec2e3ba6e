"""Sequential minimal optimization: two coordinates of the dual at a time, until no pair violates optimality.

With signed coefficients β_i = α_i y_i the dual (`objectives`, equation 5) reads

  (1)  maximize  D(β) = βᵀy − ½ βᵀKβ,   l_i ≤ β_i ≤ h_i,   Σ β_i = const

where [l_i, h_i] is [0, c_i] for y_i = 1 and [−c_i, 0] for y_i = −1. Its gradient is −E with the errors E = Kβ − y: the
decision value less the label, but for the bias. The smallest step that keeps the sum takes t from one coordinate and
gives it to another:

  (2)  β_i ← β_i + t,  β_j ← β_j − t:   D gains  t (E_j − E_i) − ½ t² a_ij,   a_ij = K_ii + K_jj − 2 K_ij ≥ 0

so that it pays exactly where −E_i > −E_j with i free to rise (β_i < h_i) and j free to fall (β_j > l_j). Let

  (3)  m = max {−E_i : β_i < h_i},   M = min {−E_j : β_j > l_j}

At the optimum m ≤ M, and any bias between them satisfies every margin's condition; m − M > 0 is the violation. The pair
is chosen by second order information (R.-E. Fan, P.-H. Chen and C.-J. Lin, Working set selection using second order
information for training support vector machines, JMLR 6, 2005, WSS 2): i where m is attained, then the j with the
largest gain of an unbounded step,

  (4)  (m + E_j)² / (2 a_ij)   at   t = (m + E_j) / a_ij, then clipped to the bounds of both

and the errors follow with two rows of K: E ← E + t (K_i − K_j).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals.base import Array


class Pairs(NamedTuple):
    """Where pairwise steps have come to."""

    beta: Array  # [N]
    errors: Array  # [N], Kβ − y
    steps: Array  # [], int32
    moved: Array  # [], bool: the last step changed β; where it did not, rounding is all that is left


def ascend(
    gram: Array, beta: Array, errors: Array, low: Array, high: Array, *, tolerance: Array, max_steps: Array
) -> Pairs:
    """Pairwise steps until the violation m − M is at most the tolerance, or `max_steps` were taken.

    Args:
      gram: K [N, N].
      beta: [N], where to start, within the bounds.
      errors: [N], Kβ − y there.
      low: [N].
      high: [N].
      tolerance: [].
      max_steps: [], int32.

    Returns:
      `Pairs`. A β at a bound is equal to it, not only near.
    """
    diagonal = jnp.diagonal(gram)
    # Two equal points have a = 0 and a straight line for a gain: as good as any tiny curvature, as steps are clipped.
    least = jnp.finfo(gram.dtype).eps * jnp.maximum(jnp.max(diagonal), jnp.finfo(gram.dtype).tiny)

    def unfinished(state: tuple[Pairs, Array, Array]) -> Array:
        pairs, top, bottom = state
        return (top - bottom > tolerance) & (pairs.steps < max_steps) & pairs.moved

    def step(state: tuple[Pairs, Array, Array]) -> tuple[Pairs, Array, Array]:
        (beta, errors, steps, _), top, _ = state
        i = _first((beta < high) & (-errors == top))
        row_i = gram[i]
        uphill = top + errors
        curvature = jnp.maximum(diagonal[i] + diagonal - 2 * row_i, least)
        gain = jnp.where((beta > low) & (uphill > 0), uphill * uphill / curvature, -jnp.inf)
        gain = jax.lax.optimization_barrier(gain)  # the same bits in its maximum and where that is looked for
        j = _first(gain == _max(gain))
        row_j = gram[j]
        room_i, room_j = high[i] - beta[i], beta[j] - low[j]
        t = jnp.minimum(uphill[j] / jnp.maximum(diagonal[i] + diagonal[j] - 2 * row_i[j], least), room_i)
        t = jnp.minimum(t, room_j)
        beta_i = jnp.where(t >= room_i, high[i], beta[i] + t)
        beta_j = jnp.where(t >= room_j, low[j], beta[j] - t)
        moved = (beta_i != beta[i]) | (beta_j != beta[j])
        beta = beta.at[i].set(beta_i).at[j].set(beta_j)
        errors = errors + t * (row_i - row_j)
        return Pairs(beta, errors, steps + 1, moved), *extremes(beta, errors, low, high)

    start = Pairs(beta, errors, jnp.int32(0), jnp.bool_(True))
    return jax.lax.while_loop(unfinished, step, (start, *extremes(beta, errors, low, high)))[0]


def extremes(beta: Array, errors: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """m and M of equation (3): the largest −E of what may rise, the smallest of what may fall."""
    return _max(jnp.where(beta < high, -errors, -jnp.inf)), -_max(jnp.where(beta > low, errors, -jnp.inf))


def _max(x: Array) -> Array:
    """The largest entry. `jnp.max` passes on NaN, which takes twice the time on a CPU, and here most of it."""
    least = jnp.asarray(-jnp.inf, x.dtype)
    largest: Array = jax.lax.reduce(x, least, lambda a, b: jax.lax.select(a > b, a, b), dimensions=(0,))
    return largest


def _first(where: Array) -> Array:
    """The first position that is True. (`argmax` of the values takes four times as long on a CPU.)"""
    last = where.shape[0] - 1
    return jnp.min(jnp.where(where, jnp.arange(where.shape[0], dtype=jnp.int32), jnp.int32(last)))
