"""Cutting an axis into blocks of one size, for loops whose body must always see the same shapes."""

import jax
import jax.numpy as jnp

from fundamentals.base import Array


class Blocks:
    """The positions 0 … length − 1 of an axis in `number` blocks of one size.

    Nothing is padded. Where the blocks do not fit, the last one starts earlier and overlaps the one before; `is_new`
    tells which of its positions still count.
    """

    def __init__(self, length: int, size: int):
        self.length = length
        self.size = min(size, length)
        self.number = -(-self.length // self.size)

    def order(self) -> Array:
        """The blocks' numbers, to loop over."""
        return jnp.arange(self.number, dtype=jnp.int32)

    def start(self, i: Array) -> Array:
        """The first position of block i."""
        return jnp.minimum(i * self.size, self.length - self.size)

    def indices(self, i: Array) -> Array:
        """The positions of block i, [size]."""
        return self.start(i) + jnp.arange(self.size, dtype=jnp.int32)

    def is_new(self, i: Array) -> Array | None:
        """[size] bool: the positions that no block before i has; None where no blocks overlap."""
        return None if self.length % self.size == 0 else self.indices(i) >= i * self.size

    def block(self, x: Array, i: Array, axis: int) -> Array:
        """Block i of an array."""
        return jax.lax.dynamic_slice_in_dim(x, self.start(i), self.size, axis)

    def write(self, x: Array, update: Array, i: Array, axis: int) -> Array:
        """The array with block i replaced; in place, where it is the state of a loop."""
        return jax.lax.dynamic_update_slice_in_dim(x, update, self.start(i), axis)

    def add(self, x: Array, update: Array, i: Array, axis: int) -> Array:
        """The array with `update` added to block i."""
        return self.write(x, self.block(x, i, axis) + update, i, axis)
