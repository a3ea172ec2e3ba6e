"""Several classes: a machine for each pair of them, which vote. All are fitted in one compiled program.

S. Knerr, L. Personnaz and G. Dreyfus, Single-layer learning revisited, 1990; libsvm does the same.
"""

import functools
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike
from fundamentals.svm.active_set import Problem, Sizes, Solution, choose_sizes, solve
from fundamentals.svm.arguments import check_norm, warn_unless_converged
from fundamentals.svm.dual import prepare
from fundamentals.svm.machines import OneVsOne, support


def fit_one_vs_one(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    kernel: Any,
    c: ArrayLike,
    tolerance: float = 1e-3,
    relative_gap: float | None = None,
    max_iterations: int | None = None,
    memory_bytes: int = 2**28,
) -> OneVsOne:
    """`fit_dual` for each of the K (K − 1) / 2 pairs of classes, on the points of the two.

    The pairs are fitted one after the other in one program; each is padded to the size of the largest, by points whose
    α is bound to 0.

    Args:
      x: points [N, D].
      labels: their classes [N], any integers, at least two different ones. Not traced: what classes there are decides
        shapes.
      kernel: as for `fit_dual`, and so are the options that follow.
      c: the price of a violated margin, a number or one for each point [N].
      tolerance: of each pair's violation.
      relative_gap: of each pair's duality gap.
      max_iterations: for each pair.
      memory_bytes: what Gram matrices may take.

    Returns:
      A `OneVsOne`.

    Raises:
      ValueError, TypeError: as `fit_dual`; or labels of one class only.
    """
    if isinstance(labels, jax.core.Tracer):
        raise TypeError("fit_one_vs_one: labels is traced (an argument of jit or vmap); expected known labels")
    known = np.asarray(labels)  # under jit, what JAX makes of them is traced
    x, _ = _checks.arrays("fit_one_vs_one", x=(x, "N D"), labels=(labels, "N", "integer"))
    classes = np.unique(known)
    if len(classes) < 2:
        raise ValueError(f"fit_one_vs_one: labels has {len(classes)} class; expected at least two")
    members = [np.flatnonzero(known == label) for label in classes]
    pairs = list(combinations(range(len(classes)), 2))
    largest = max(len(members[a]) + len(members[b]) for a, b in pairs)
    index = np.zeros((len(pairs), largest), np.int32)
    sign = np.zeros((len(pairs), largest), np.int8)  # 0: padding
    for row, (a, b) in enumerate(pairs):
        both = np.concatenate([members[a], members[b]])
        index[row, : len(both)] = both
        sign[row, : len(both)] = np.where(np.arange(len(both)) < len(members[a]), 1, -1)
    signs = jnp.asarray(np.where(known == classes[0], 1, -1))  # any two classes, for the checks
    problem = prepare("fit_one_vs_one", x, signs, kernel, c, tolerance, relative_gap, max_iterations)
    sizes = choose_sizes("fit_one_vs_one", largest, problem.x.dtype, memory_bytes)
    solution: Solution = _solve_pairs(problem, jnp.asarray(index), jnp.asarray(sign), sizes)
    rows = jnp.arange(len(pairs))[:, None]
    # Padding points to 0, whose β is added: it is 0.
    beta = jnp.zeros((len(pairs), len(known)), problem.x.dtype).at[rows, index].add(solution.beta)
    quality = solution.quality
    _checks.finite_objective("fit_one_vs_one", quality.dual)
    indices, vectors, coefficients = support(beta, problem.x)
    check_norm("fit_one_vs_one", jnp.sum(jnp.abs(beta), axis=1), quality.dual)
    machine = OneVsOne(
        classes=jnp.asarray(classes),
        pairs=jnp.asarray(pairs, jnp.int32),
        alpha=jnp.abs(beta),
        bias=quality.bias,
        support=indices,
        support_vectors=vectors,
        coefficients=coefficients,
        kernel=problem.kernel,
        primal=quality.dual + quality.gap,
        dual=quality.dual,
        gap=quality.gap,
        violation=quality.violation,
        iterations=solution.steps,
        converged=quality.enough,
    )
    warn_unless_converged("fit_one_vs_one", machine)
    return machine


@functools.partial(jax.jit, static_argnames="sizes")
def _solve_pairs(problem: Problem, index: Array, sign: Array, sizes: Sizes) -> Solution:
    def one(pair: tuple[Array, Array]) -> Solution:
        points, sign = pair
        price = (problem.high - problem.low)[points]
        low, high = jnp.where(sign < 0, -price, 0), jnp.where(sign > 0, price, 0)  # both 0 where the sign is
        y = sign.astype(price.dtype)
        solution: Solution = solve(problem._replace(x=problem.x[points], y=y, low=low, high=high), sizes)
        return solution

    solutions: Solution = jax.lax.map(one, (index, sign))
    return solutions
