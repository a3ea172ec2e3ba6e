"""One deep chain and its gradients: each by the chain rule on its own, all by reuse, all by differences.

    x_ℓ = A(w_ℓ x_{ℓ−1}),   f = the sum of all entries of x_L

x is [n, B], a column for each example; w_ℓ is [n, n]; A is tanh. With z_ℓ = w_ℓ x_{ℓ−1}, the row of an example and the
matrix diag A′(z_ℓ) in place of the notes' scalars,

    ∂f/∂z_h = A′(z_L) w_L diag A′(z_{L−1}) w_{L−1} … w_{h+1} diag A′(z_h) = G_h   (1×n; of all examples, [B, n])
    ∂f/∂w_h = G_hᵀ x_{h−1}ᵀ                                                        (summed over examples: [n, B]·[B, n])

The forward pass, which both need once, has stored x_ℓ and A′(z_ℓ). G_L is A′(z_L) itself: the gradient of a sum is 1.
Every · above is a product of matrices, with a sum over n or B terms. So ∂f/∂w_h takes 2(L − h) + 1 of them on its own:
1, 3, 5, …, in all L². With G_h = G_{h+1} w_{h+1} diag A′(z_h) it takes 2 to get from G_{h+1} to G_h, L − 1 times,
and 1 for each weight: 2(L − 1) + L = 3L − 2.

Nobody multiplies with a diagonal matrix. Entry by entry it is no product of matrices: L(L + 1)/2 and 2L − 1 are left.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array, PRNGKey


class Stored(NamedTuple):
    """What the forward pass leaves for the gradients."""

    inputs: tuple[Array, ...]  # x_0 … x_{L−1}, each [n, B]
    slopes: tuple[Array, ...]  # A′(z_1) … A′(z_L), each a row for every example [B, n]
    diagonals: tuple[Array, ...]  # the same as matrices [B, n, n]


class Chain(NamedTuple):
    """A chain and an input."""

    weights: tuple[Array, ...]  # w_1 … w_L, each [n, n]
    x: Array  # [n, B]


def make(key: PRNGKey, depth: int, width: int, batch: int) -> Chain:
    """A random chain; gradients neither vanish nor explode soon."""
    random = generator(key)
    x, weights = random.normal(size=(width, batch)), random.normal(size=(depth, width, width)) * 1.2 * width**-0.5
    return Chain(tuple(jnp.asarray(w) for w in weights), jnp.asarray(x))


def generator(key: PRNGKey) -> np.random.Generator:
    """For what would take JAX longer to compile than to compute: random numbers of many shapes."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def chain(weights: Sequence[Array], x: Array) -> Array:
    """f, a number: what `jax.grad` differentiates."""
    for w in weights:
        x = jnp.tanh(_product(w, x))
    return x.sum()


def forward(weights: Sequence[Array], x: Array) -> Stored:
    """What the gradients need."""
    inputs, slopes = [], []
    for w in weights:
        inputs.append(x)
        x = jnp.tanh(_product(w, x))
        slopes.append((1 - x * x).T)
    eye = jnp.eye(x.shape[0], dtype=x.dtype)[None]
    return Stored(tuple(inputs), tuple(slopes), tuple(slope[:, :, None] * eye for slope in slopes))


def by_diagonal(g: Array, stored: Stored, index: int) -> Array:
    """G diag A′: for each example a row times a matrix."""
    return jax.lax.dot_general(g, stored.diagonals[index], (((1,), (1,)), ((0,), (0,))))


def by_entry(g: Array, stored: Stored, index: int) -> Array:
    """The same, without a matrix."""
    return g * stored.slopes[index]


Slope = Callable[[Array, Stored, int], Array]


def alone(weights: Sequence[Array], stored: Stored, h: int, slope: Slope = by_diagonal) -> Array:
    """∂f/∂w_h, h from 1 to L, from its formula, and nothing else."""
    g = stored.slopes[-1]
    for k in range(len(weights), h, -1):
        g = slope(_product(g, weights[k - 1]), stored, k - 2)
    return _product(g.T, stored.inputs[h - 1].T)


def naive(weights: Sequence[Array], stored: Stored, slope: Slope = by_diagonal) -> tuple[Array, ...]:
    """All gradients, each on its own."""
    return tuple(alone(weights, stored, h, slope) for h in range(1, len(weights) + 1))


def reuse(weights: Sequence[Array], stored: Stored, slope: Slope = by_diagonal) -> tuple[Array, ...]:
    """All gradients, each G from the one after it: backpropagation."""
    g = stored.slopes[-1]
    gradients = [_product(g.T, stored.inputs[-1].T)]
    for h in range(len(weights) - 1, 0, -1):
        g = slope(_product(g, weights[h]), stored, h - 1)
        gradients.append(_product(g.T, stored.inputs[h - 1].T))
    return tuple(reversed(gradients))


def numeric_gradient(loss: Callable[[Array], Array], params: Array, step: float) -> Array:
    """Central differences, (L(θ + εe_i) − L(θ − εe_i)) / 2ε for each of the P parameters: 2P evaluations.

    Args:
      loss: of the parameters [P].
      params: [P].
      step: ε.

    Returns:
      [P].
    """
    places = jnp.arange(params.size)

    def entry(i: Array) -> Array:
        move = jnp.where(places == i, jnp.asarray(step, params.dtype), jnp.zeros_like(params))
        return (loss(params + move) - loss(params - move)) / (2 * step)

    gradient: Array = jax.lax.map(entry, places)
    return gradient


def _product(a: Array, b: Array) -> Array:
    result: Array = jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())))
    return result
