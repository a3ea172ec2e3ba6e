"""What an entry of the catalogue is, and how large and how random its example arguments are.

Drawn by NumPy: nothing is compiled, which for most rules would take longer than the rule itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fundamentals.base import DTypeLike, PRNGKey, Rule


class Sizes(NamedTuple):
    """How large example arguments are, by the shape letters of `base`; E is the B of sequences and images."""

    B: int = 5
    D: int = 7
    H: int = 3
    K: int = 11
    P: int = 2
    E: int = 2
    T: int = 5  # time steps, or queries; there are T + 2 keys
    N: int = 4
    W: int = 5  # image width; the height is W + 2
    C: int = 3  # channels, also those of an attention head
    V: int = 13


class Entry(NamedTuple):
    """A rule and, drawn by `example(random, dtype, sizes)`, a tuple of NumPy arrays: positional arguments for it."""

    rule: Rule
    example: Callable[[np.random.Generator, DTypeLike, Sizes], tuple[Any, ...]]
    depth: int = 1  # rules in sequence, each of which rounds: errors are up to √depth times those of one

    def arguments(self, key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
        """Example arguments, nearly the same numbers in every floating dtype. The key must not be traced."""
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        arguments: tuple[Any, ...] = jax.device_put(self.example(random, dtype, sizes))
        return arguments  # not by jnp.asarray, which would compile for every shape


def normal(random: np.random.Generator, shape: Sequence[int], dtype: DTypeLike, scale: float = 1.5) -> np.ndarray:
    """Numbers around a mean that is not zero."""
    return (scale * random.normal(size=shape) + 0.2 * scale).astype(dtype)


def with_zero(x: np.ndarray) -> np.ndarray:
    """The same array, its first entry exactly 0."""
    x = x.copy()
    x.flat[0] = 0
    return x


def integers(random: np.random.Generator, shape: Sequence[int], below: int) -> np.ndarray:
    """Labels or ids, the last two of them the largest that there is."""
    drawn = random.integers(0, below, size=shape).astype(np.int32)
    drawn.flat[-2:] = below - 1
    return drawn


def parameters(random: np.random.Generator, init: Callable[[PRNGKey], Any]) -> Any:
    """Parameters of the shapes that `init(key)` gives, with biases that are not 0 and scales that are not 1."""

    def one(x: jax.ShapeDtypeStruct) -> np.ndarray:
        mean, scale = (0.5, 0.2) if len(x.shape) == 1 else (0.0, math.prod(x.shape[:-1]) ** -0.5)
        return np.asarray(mean + scale * random.normal(size=x.shape), x.dtype)

    return jax.tree.map(one, jax.eval_shape(init, jax.random.key(0)))
