"""The problem that a support vector machine solves, three times: primal, Lagrangian, dual.

N points x_i with labels y_i = ±1, a weight c_i > 0 for what each may cost, decision values f_i = wᵀφ(x_i) + b.

The primal weighs a wide margin, 1/‖w‖, against violations of it. With the slack ξ_i written as a variable it is a
quadratic program:

  (1)  P(w, b) = ½‖w‖² + Σ c_i max(0, 1 − y_i f_i)
  (2)  minimize ½‖w‖² + Σ c_i ξ_i  subject to  1 − ξ_i − y_i f_i ≤ 0  and  −ξ_i ≤ 0, for every point by itself

A multiplier α_i ≥ 0 for each margin and μ_i ≥ 0 for each slack put a price on the constraints:

  (3)  ℒ(w, b, ξ; α, μ) = ½‖w‖² + Σ c_i ξ_i + Σ α_i (1 − ξ_i − y_i f_i) − Σ μ_i ξ_i

Where the constraints hold, each term with a multiplier is ≤ 0, so ℒ ≤ P and min_{w, b, ξ} ℒ ≤ min P for any prices: a
lower bound, and the dual problem asks for the best one, max_{α, μ ≥ 0} [min_{w, b, ξ} ℒ]. The inner minimum belongs to
each α anew; with (w, b, ξ) held where it once was, the maximum over α would be +∞ wherever a constraint is violated.
It is found by setting derivatives to 0:

  (4)  ∂ℒ/∂w = 0: w = Σ α_i y_i φ(x_i)       ∂ℒ/∂b = 0: Σ α_i y_i = 0       ∂ℒ/∂ξ_i = 0: μ_i = c_i − α_i

(where the second or the third does not hold, ℒ is linear and its minimum −∞). Then μ_i ≥ 0 says α_i ≤ c_i, and

  (5)  D(α) = Σ α_i − ½ Σ_i Σ_j α_i α_j y_i y_j K(x_i, x_j),   0 ≤ α_i ≤ c_i,   Σ α_i y_i = 0

in which the points appear in inner products alone. So does the decision, with w from (4):

  (6)  f(x) = Σ α_i y_i K(x_i, x) + b

For any w = Σ α_i y_i φ(x_i) with feasible α, the gap is a sum of terms ≥ 0, of which the one or the other is 0:

  (7)  P − D = Σ [α_i (y_i f_i − 1 + ξ_i) + (c_i − α_i) ξ_i]   with  ξ_i = max(0, 1 − y_i f_i)

It is 0 at the optimum (strong duality: the problem is convex and (2) always has a point strictly inside), so that there
both products are 0 for every point, which is complementary slackness: α_i = 0 beyond the margin, y_i f_i = 1 where
0 < α_i < c_i, and α_i = c_i inside of it. Only points with α_i > 0, the support vectors, take part in (6).

C. Cortes and V. Vapnik, Support-vector networks, Machine Learning 20, 1995; S. Boyd and L. Vandenberghe, Convex
optimization, 2004, chapter 5.
"""

from typing import NamedTuple

import jax.numpy as jnp

from fundamentals import _checks, losses
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class PrimalObjectiveResiduals(NamedTuple):
    """What `primal_objective_bwd` needs."""

    w: Array  # [D]
    x: Array  # [N, D]
    c: Array  # [N] or []
    hinges: losses.HingeResiduals


def primal_objective(w: ArrayLike, bias: ArrayLike, x: ArrayLike, y: ArrayLike, *, c: ArrayLike) -> Array:
    """½‖w‖² + Σ c_i max(0, 1 − y_i (wᵀx_i + b)), equation (1). The bias is not penalized.

    Args:
      w: weights [D].
      bias: [].
      x: points [N, D].
      y: labels [N], −1 or +1, integers or in the dtype of the points.
      c: the price of a violation, > 0: a number, or one for each point [N].

    Returns:
      [].

    Raises:
      ValueError: the shapes do not fit, a label is neither −1 nor +1, or c ≤ 0.
    """
    return primal_objective_fwd(w, bias, x, y, c=c)[0]


def primal_objective_fwd(
    w: ArrayLike, bias: ArrayLike, x: ArrayLike, y: ArrayLike, *, c: ArrayLike
) -> tuple[Array, PrimalObjectiveResiduals]:
    """Keeps the weights, the points and which margins were violated. Not the decision values."""
    w, bias, x, y = _checks.arrays("primal_objective", w=(w, "D"), bias=(bias, ""), x=(x, "N D"), y=(y, "N", "real"))
    price = prices("primal_objective", c, x)
    wide = accumulation_dtype(x.dtype)
    scores = (jnp.matmul(x, w, preferred_element_type=wide) + bias.astype(wide)).astype(x.dtype)
    hinges, residuals = losses.hinge_fwd(scores, y)
    w_wide = w.astype(wide)
    cost = jnp.sum(w_wide * w_wide) / 2 + jnp.sum(price * hinges.astype(wide))
    return cost.astype(x.dtype), PrimalObjectiveResiduals(w, x, price, residuals)


def primal_objective_bwd(residuals: PrimalObjectiveResiduals, dcost: Array) -> tuple[Array, Array, Array, Array | None]:
    """With a_i = c_i where the margin is violated, else 0: dw = w − Σ a_i y_i x_i, db = −Σ a_i y_i, times dcost.

    Derivation: P = ½ wᵀw + Σ c_i h(f_i) with f_i = wᵀx_i + b, and the hinge's derivative h′ = −y_i where y_i f_i < 1,
    else 0, so that df_i = −a_i y_i. The chain rule gives dw = w + Σ df_i x_i, db = Σ df_i and dx_i = df_i w. At the
    kink y_i f_i = 1 each number a_i between 0 and c_i gives a subgradient; this takes 0. (The dual is about choosing
    them so that dw = 0 and db = 0: then a = α, equation (4).)
    """
    w, x, price, hinges = residuals
    wide = accumulation_dtype(x.dtype)
    dcost = dcost.astype(wide)
    dscores, dy = losses.hinge_bwd(hinges, jnp.broadcast_to(dcost * price, x.shape[:1]))
    dscores = dscores.astype(wide)
    dw = dcost * w.astype(wide) + jnp.matmul(dscores, x.astype(wide))
    dx = dscores[:, None] * w.astype(wide)[None, :]
    return (
        dw.astype(w.dtype),
        jnp.sum(dscores).astype(x.dtype),
        dx.astype(x.dtype),
        None if dy is None else dy.astype(x.dtype),
    )


def dual_objective(alpha: ArrayLike, y: ArrayLike, gram: ArrayLike) -> Array:
    """D = Σ α_i − ½ Σ_i Σ_j α_i α_j y_i y_j K_ij, equation (5). The constraints on α are not looked at.

    Args:
      alpha: [N].
      y: labels [N], −1 or +1.
      gram: K(x_i, x_j), [N, N].

    Returns:
      [].
    """
    alpha, y, gram = _checks.arrays("dual_objective", alpha=(alpha, "N"), y=(y, "N", "real"), gram=(gram, "N N"))
    _checks.signs("dual_objective", "y", y)
    signed = alpha * y.astype(alpha.dtype)
    return jnp.sum(alpha) - jnp.sum(signed * jnp.matmul(gram, signed)) / 2


def lagrangian(
    w: ArrayLike,
    bias: ArrayLike,
    slack: ArrayLike,
    alpha: ArrayLike,
    multipliers: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    c: ArrayLike,
) -> Array:
    """½‖w‖² + Σ c_i ξ_i + Σ α_i (1 − ξ_i − y_i f_i) − Σ μ_i ξ_i, equation (3), for the linear kernel.

    Args:
      w: weights [D].
      bias: [].
      slack: ξ [N].
      alpha: multipliers of the margins, α [N].
      multipliers: those of the slack, μ [N].
      x: points [N, D].
      y: labels [N], −1 or +1.
      c: the price of a violation, a number or [N].

    Returns:
      [].
    """
    w, bias, slack, alpha, multipliers, x, y = _checks.arrays(
        "lagrangian",
        w=(w, "D"),
        bias=(bias, ""),
        slack=(slack, "N"),
        alpha=(alpha, "N"),
        multipliers=(multipliers, "N"),
        x=(x, "N D"),
        y=(y, "N", "real"),
    )
    _checks.signs("lagrangian", "y", y)
    price = prices("lagrangian", c, x)
    margins = y.astype(x.dtype) * (jnp.matmul(x, w) + bias)
    cost = jnp.sum(w * w) / 2 + jnp.sum(price * slack)
    return cost + jnp.sum(alpha * (1 - slack - margins)) - jnp.sum(multipliers * slack)


def prices(function: str, c: ArrayLike, x: Array) -> Array:
    """c as an array [] or [N] in the dtype of sums over x, checked as far as its values are known."""
    price = _checks.array(function, "c", c, "real")
    if price.shape not in ((), x.shape[:1]):
        raise ValueError(f"{function}: c has shape {list(price.shape)}; expected a number, or [N] = [{x.shape[0]}]")
    _checks.positive(function, "c", price)
    return price.astype(accumulation_dtype(x.dtype))
