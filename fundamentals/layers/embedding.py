"""Embedding: rows of a table, looked up by their index."""

from typing import NamedTuple

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class EmbeddingResiduals(NamedTuple):
    """What `embedding_bwd` needs."""

    ids: Array  # [...], V where the id was out of range
    no_columns: Array  # [V, 0]: the table's height and dtype, in no bytes


def embedding(table: ArrayLike, ids: ArrayLike) -> Array:
    """table[ids]: one row for each id, as one-hot(ids) · table would give, without the matrix product.

    Args:
      table: [V, D].
      ids: [...], integers in [0, V).

    Returns:
      [..., D], in the dtype of the table.

    Raises:
      ValueError: the table has no rows, or an id is out of range. Under `jit`, where ids have no value to look at, the
        row of that id is NaN instead (−1 is not the last row), and no cotangent arrives in the table from there.
      TypeError: the table is not floating, or the ids are not integers.
    """
    return embedding_fwd(table, ids)[0]


def embedding_fwd(table: ArrayLike, ids: ArrayLike) -> tuple[Array, EmbeddingResiduals]:
    """Keeps the ids. Not the table: y is linear in it, so its cotangent needs its shape and dtype, not its numbers."""
    given = ids  # before JAX, without x64, takes the upper half off 64-bit integers
    table, ids = _checks.arrays("embedding", table=(table, "V D"), ids=(ids, "...", "integer"))
    rows = table.shape[0]
    _checks.not_empty("embedding", "table", rows, "V")
    _checks.label_range("embedding", "ids", given, rows, "row")
    ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # which might not hold V
    ids = jnp.where((ids < 0) | (ids >= rows), rows, ids).astype(jnp.int32)
    y = jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)
    return y, EmbeddingResiduals(ids, table[:, :0])


def embedding_bwd(residuals: EmbeddingResiduals, dy: Array) -> tuple[Array, None]:
    """dtable_v = Σ dy over all positions whose id is v: a scatter, which adds where ids repeat.

    Derivation: y_bd = Σ_v 1[id_b = v] table_vd, so dtable_vd = Σ_b 1[id_b = v] dy_bd. Rows that no id names get 0.
    """
    ids, no_columns = residuals
    dtable = jnp.zeros((no_columns.shape[0], dy.shape[-1]), accumulation_dtype(dy.dtype))
    return dtable.at[ids].add(dy.astype(dtable.dtype), mode="drop").astype(no_columns.dtype), None
