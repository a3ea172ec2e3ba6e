"""What both forms of attention share: their operands, who may attend to whom, and the scores.

Scores have the axes [B, K, G, T, S]: the N heads of queries are K groups of G, which share a head of keys and values.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype


class Pattern(NamedTuple):
    """Who may attend to whom. The arrays have the axes B, K, G, T, S of the scores, each of them whole or 1."""

    causal: bool
    mask: Array | None
    query_lengths: Array | None
    key_lengths: Array | None

    def __call__(
        self, queries: Array, keys: Array, new_queries: Array | None = None, new_keys: Array | None = None
    ) -> Array | None:
        """For consecutive positions [t], [s], of which those that are not new do not count: bool [B, K, G, t, s]."""
        row, column = queries.reshape(1, 1, 1, -1, 1), keys.reshape(1, 1, 1, 1, -1)
        conditions = []
        if self.causal:
            conditions.append(row >= column)
        if self.mask is not None:
            tile = self.mask
            for axis, positions in ((3, queries), (4, keys)):
                if tile.shape[axis] != 1:
                    tile = jax.lax.dynamic_slice_in_dim(tile, positions[0], positions.size, axis)
            conditions.append(tile)
        if self.query_lengths is not None:
            conditions.append(row < self.query_lengths)
        if self.key_lengths is not None:
            conditions.append(column < self.key_lengths)
        if new_queries is not None:
            conditions.append(new_queries.reshape(row.shape))
        if new_keys is not None:
            conditions.append(new_keys.reshape(column.shape))
        return functools.reduce(jnp.logical_and, conditions) if conditions else None

    def reaches(self, queries: Array, keys: Array) -> Array | None:
        """Whether a tile of these positions may have anything to attend to; None where every tile may."""
        conditions = []
        if self.causal:
            conditions.append(queries[-1] >= keys[0])
        if self.query_lengths is not None:
            conditions.append(queries[0] < jnp.max(self.query_lengths, initial=0))
        if self.key_lengths is not None:
            conditions.append(keys[0] < jnp.max(self.key_lengths, initial=0))
        return functools.reduce(jnp.logical_and, conditions) if conditions else None


def pattern(
    function: str,
    q: Array,
    k: Array,
    causal: bool,
    mask: ArrayLike | None,
    query_lengths: ArrayLike | None,
    key_lengths: ArrayLike | None,
) -> Pattern:
    """The options, checked, with the axes of the scores."""
    (batch, queries, heads, _), keys, groups = q.shape, k.shape[1], k.shape[2]

    def grouped(x: Array) -> Array:  # [B, N, …] → [B, K, G, …]
        split = (1, 1) if x.shape[1] == 1 else (groups, heads // groups)
        return x.reshape(x.shape[0], *split, *x.shape[2:])

    def lengths(name: str, value: ArrayLike | None, longest: int) -> Array | None:
        if value is None:
            return None
        given = _checks.array(function, name, value, "integer")
        given = given.astype(jnp.int32) if given.dtype.itemsize < 4 else jnp.clip(given, 0, longest).astype(jnp.int32)
        if given.ndim == 1:
            _checks.broadcastable(function, name, given, "B", (batch,))
            given = given[:, None]
        _checks.broadcastable(function, name, given, "B N", (batch, heads))
        return grouped(given)[..., None, None]

    _checks.boolean(function, causal=causal)
    if mask is not None:
        mask = _checks.array(function, "mask", mask, "boolean")
        _checks.broadcastable(function, "mask", mask, "B N T S", (batch, heads, queries, keys))
        mask = grouped(mask)
    query_lengths = lengths("query_seq_lengths", query_lengths, queries)
    key_lengths = lengths("key_value_seq_lengths", key_lengths, keys)
    return Pattern(causal, mask, query_lengths, key_lengths)


def operands(
    function: str, q: ArrayLike, k: ArrayLike, v: ArrayLike, scale: Numeric | None
) -> tuple[Array, Array, Array]:
    """The operands, checked."""
    _checks.scalar(function, "scale", 0 if scale is None else scale)
    arrays = _checks.arrays(function, q=(q, "B T N H"), k=(k, "B S K H"), v=(v, "B S K H"))
    (_, queries, heads, size), (_, keys, groups, _) = arrays[0].shape, arrays[1].shape
    for name, count, letter in (("q", queries, "T"), ("q", size, "H"), ("k", keys, "S"), ("k", groups, "K")):
        _checks.not_empty(function, name, count, letter)
    if heads % groups:
        raise ValueError(f"{function}: q has N = {heads} heads; expected a multiple of K = {groups} from k")
    q, k, v = arrays
    return q, k, v


def scores(products: Array, scale: Array, allowed: Array | None) -> Array:
    """(1) from the products Σ_h q_th k_sh: scaled, and −∞ where the query may not attend to the key."""
    s = products * scale
    return s if allowed is None else jnp.where(allowed, s, -jnp.inf)


def scale_of(scale: Numeric | None, q: Array) -> Array:
    """H^−½ unless given, in the accumulation dtype."""
    return jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, accumulation_dtype(q.dtype))


def finite(largest: Array) -> Array:
    """A row's maximum as something to subtract: 0 where the row has nothing to attend to, so that −∞ stays −∞."""
    largest = jax.lax.stop_gradient(largest)
    return jnp.where(largest == -jnp.inf, 0, largest)


def by_group(x: Array, k: Array) -> Array:
    """[B, T, N, H] → [B, K, G, T, H]."""
    batch, length, heads, size = x.shape
    return x.reshape(batch, length, k.shape[2], heads // k.shape[2], size).transpose(0, 2, 3, 1, 4)


def by_head(x: Array) -> Array:
    """[B, K, G, T, H] → [B, T, N, H]."""
    batch, groups, per_group, length, size = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * per_group, size)
