"""What an entry of the catalogue is, and how large and how random its example arguments are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals.base import Array, DTypeLike, PRNGKey, Rule


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
    """A rule, and `arguments(key, dtype, sizes=Sizes())`, a tuple of positional arguments for it."""

    rule: Rule
    arguments: Callable[..., tuple[Any, ...]]
    depth: int = 1  # rules in sequence, each of which rounds: errors are up to √depth times those of one


def normal(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike, scale: float = 1.5) -> Array:
    """Numbers around a mean that is not zero; drawn in float32 for every dtype, so that they are nearly the same."""
    return (scale * jax.random.normal(key, shape, jnp.float32) + 0.2 * scale).astype(dtype)


def with_zero(x: Array) -> Array:
    """The same array, its first entry exactly 0."""
    return x.at[(0,) * x.ndim].set(0)


def biases(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An initializer whose biases are not 0."""
    return normal(key, shape, dtype, 0.1)
