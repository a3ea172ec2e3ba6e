"""How far a fitted machine is from the optimum, computed anew from the data that it was fitted to."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike
from fundamentals.svm.machines import SupportVectorMachine, decision_function
from fundamentals.svm.objectives import prices


class Slackness(NamedTuple):
    """The products that complementary slackness says are 0 at the optimum, all ≥ 0, and the slack in them."""

    margin: Array  # [N], α_i (y_i f_i − 1 + ξ_i): a price is paid only for a margin that is met without excess
    bound: Array  # [N], (c_i − α_i) ξ_i: there is slack only where the price is at its bound
    slack: Array  # [N], ξ_i = max(0, 1 − y_i f_i)


def complementary_slackness(machine: SupportVectorMachine, x: ArrayLike, y: ArrayLike, *, c: ArrayLike) -> Slackness:
    """The products of multipliers and constraints, equation (7) of `objectives`; they sum to the duality gap.

    Args:
      machine: what `fit_dual` returned.
      x: the training points [N, D].
      y: their labels [N], −1 or +1.
      c: what a violation cost: a number, or one for each point [N].

    Returns:
      A `Slackness` of arrays [N].

    Raises:
      ValueError: the shapes do not fit, or the machine was not fitted to so many points.
    """
    return _slackness(machine, *_excess("complementary_slackness", machine, x, y, c))


def duality_gap(machine: SupportVectorMachine, x: ArrayLike, y: ArrayLike, *, c: ArrayLike) -> Array:
    """P − D ≥ 0: an upper bound of how much the primal objective is above the optimum, and the dual below it.

    Args:
      machine: what `fit_dual` returned.
      x: the training points [N, D].
      y: their labels [N], −1 or +1.
      c: what a violation cost: a number, or one for each point [N].

    Returns:
      [].
    """
    products = _slackness(machine, *_excess("duality_gap", machine, x, y, c))
    return jnp.sum(products.margin + products.bound)


def kkt_violations(machine: SupportVectorMachine, x: ArrayLike, y: ArrayLike, *, c: ArrayLike) -> Array:
    """How far each point's margin y f is from where its α says that it is.

    α = 0 says y f ≥ 1; α = c says y f ≤ 1; between them y f = 1.

    Args:
      machine: what `fit_dual` returned.
      x: the training points [N, D].
      y: their labels [N], −1 or +1.
      c: what a violation cost: a number, or one for each point [N].

    Returns:
      [N], ≥ 0, at most `machine.violation` but for rounding.
    """
    price, excess = _excess("kkt_violations", machine, x, y, c)
    below = jnp.where((machine.alpha < price) & (excess < 0), -excess, 0)
    above = jnp.where((machine.alpha > 0) & (excess > 0), excess, 0)
    return below + above


def _slackness(machine: SupportVectorMachine, price: Array, excess: Array) -> Slackness:
    slack = jnp.where(excess < 0, -excess, 0)
    return Slackness(machine.alpha * jnp.where(excess > 0, excess, 0), (price - machine.alpha) * slack, slack)


def _excess(function: str, machine: Any, x: ArrayLike, y: ArrayLike, c: ArrayLike) -> tuple[Array, Array]:
    """c [N] and y f − 1 [N]."""
    _checks.instance(function, "machine", machine, SupportVectorMachine)
    x, y = _checks.arrays(function, x=(x, "N D"), y=(y, "N", "real"))
    _checks.signs(function, "y", y)
    if machine.alpha.shape != y.shape:
        raise ValueError(
            f"{function}: machine has {len(machine.alpha)} multipliers; expected N = {len(y)}, one for each point in x"
        )
    x = x.astype(machine.alpha.dtype)
    price = jnp.broadcast_to(prices(function, c, x), y.shape)
    return price, y.astype(x.dtype) * decision_function(machine, x) - 1
