"""Scaled dot-product attention tile by tile, in memory proportional to T + S instead of T · S.

The scores and probabilities of `attention`, [T, S] for each head, are never whole. Two numbers per query replace them
(M. Rabe and C. Staats, Self-attention does not need O(n²) memory, 2021; T. Dao et al., FlashAttention, 2022). With the
equations (1) to (7) of `attention`:

    (8)  l_t = log Σ_i e^(s_ti)            so that p_tj = e^(s_tj − l_t), recomputed where it is needed
    (9)  d_t = Σ_h dy_th y_th              since Σ_i p_ti dp_ti = Σ_i p_ti Σ_h dy_th v_ih = Σ_h dy_th Σ_i p_ti v_ih

The forward pass goes through the tiles of a row from left to right. It knows the largest score so far, m, and rescales
what it has summed when a larger one comes (M. Milakov and N. Gimelshein, Online normalizer calculation for softmax,
2018):

    (10)  m' = max(m, max_j s_tj),   r = e^(m − m'),   z' = r z + Σ_j e^(s_tj − m'),   a' = r a + Σ_j e^(s_tj − m') v_j

and ends with y = a / z and l = m + log z. The whole takes 7 matrix products where the textbook form takes 6.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals._blocks import Blocks
from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype, product_dtype, vary_together
from fundamentals.layers.attention_scores import (
    Pattern,
    by_group,
    by_head,
    finite,
    operands,
    pattern,
    scale_of,
    scores,
)


class BlockwiseAttentionResiduals(NamedTuple):
    """What `blockwise_attention_bwd` needs."""

    q: Array  # [B, T, N, H]
    k: Array  # [B, S, K, H]
    v: Array  # [B, S, K, H]
    y: Array  # [B, T, N, H], in the accumulation dtype: rounded, (9) would be a sum of its errors
    log_sum_exp: (
        Array  # [B, K, G, T], of each query's scores, in the accumulation dtype; +∞ where it attends to nothing
    )


def blockwise_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    scale: Numeric | None = None,
    block_size: int = 512,
) -> Array:
    """`attention`, tile by tile: the same function of the same arguments in memory proportional to T + S, not T · S.

    What needs little memory is `hand_derived` of this rule; `jax.grad` of this function itself is right, too, but keeps
    every tile that it meets. Tiles that `causal` and the lengths leave empty are skipped. Call it under `jit`: eagerly,
    its loops are compiled at each call.

    Args:
      q, k, v, causal, mask, query_seq_lengths, key_value_seq_lengths, scale: as for `attention`.
      block_size: queries in a tile; it has half as many keys, which measured fastest. T and S need not be multiples.

    Returns:
      [B, T, N, H].

    Raises:
      ValueError, TypeError: as `attention`; the block size is not a positive integer.
    """
    return blockwise_attention_fwd(
        q,
        k,
        v,
        causal=causal,
        mask=mask,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
        scale=scale,
        block_size=block_size,
    )[0]


def blockwise_attention_fwd(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    scale: Numeric | None = None,
    block_size: int = 512,
) -> tuple[Array, BlockwiseAttentionResiduals]:
    """Keeps the operands, the output and one number per query, its row's log-sum-exp (8).

    Not the probabilities: with these, the backward pass recomputes any tile of them by one matrix product and one exp.
    """
    q, k, v = operands("blockwise_attention", q, k, v, scale)
    may_attend = pattern("blockwise_attention", q, k, causal, mask, query_seq_lengths, key_value_seq_lengths)
    q, k, v, may_attend = vary_together((q, k, v, may_attend))
    rows, columns = _tiling(q, k, block_size)
    wide = accumulation_dtype(q.dtype)
    factor = scale_of(scale, q)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)

    def one_row(done: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        q_i = by_group(rows.block(q, i, axis=1), k)

        def one_tile(state: tuple[Array, Array, Array], j: Array) -> tuple[Array, Array, Array]:
            m, z, a = state
            allowed = may_attend(rows.indices(i), columns.indices(j), new_keys=columns.is_new(j))
            s = scores(product("bkgth,bskh->bkgts", q_i, columns.block(k, j, axis=1)), factor, allowed)  # (1)
            largest = jax.lax.stop_gradient(jnp.maximum(m, jnp.max(s, axis=-1)))
            e = jnp.exp(s - finite(largest)[..., None])  # (10)
            r = jnp.exp(m - finite(largest))
            ev = product("bkgts,bskh->bkgth", e.astype(v.dtype), columns.block(v, j, axis=1))
            return largest, r * z + jnp.sum(e, axis=-1), r[..., None] * a + ev

        a = jnp.zeros_like(q_i, dtype=wide)
        z = a[..., 0]
        m, z, a = _over_tiles(one_tile, (z - jnp.inf, z, a), i, rows, columns, may_attend)
        nothing = z == 0
        y_i = a / jnp.where(nothing, 1, z)[..., None]
        l_i = jnp.where(nothing, jnp.inf, m + jnp.log(jnp.where(nothing, 1, z)))  # (8)
        y, log_sum_exp = done
        return (rows.write(y, by_head(y_i), i, axis=1), rows.write(log_sum_exp, l_i, i, axis=3)), None

    groups = (k.shape[0], k.shape[2], q.shape[2] // k.shape[2], q.shape[1])
    empty = jnp.zeros_like(q, dtype=wide), jnp.zeros_like(q, shape=groups, dtype=wide)
    (y, log_sum_exp), _ = jax.lax.scan(one_row, empty, rows.order())
    return y.astype(q.dtype), BlockwiseAttentionResiduals(q, k, v, y, log_sum_exp)


def blockwise_attention_bwd(
    residuals: BlockwiseAttentionResiduals,
    dy: Array,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    scale: Numeric | None = None,
    block_size: int = 512,
) -> tuple[Array, Array, Array]:
    """The cotangents of `attention_bwd`, each tile's share added to its rows of dq and its columns of dk and dv.

    Derivation: equations (4) to (7) are sums over keys (dq) and over queries (dk, dv), so each tile can give its part
    alone, once it knows its probabilities, e^(s − l) by (8), and d_t, which (9) takes from y.

    Tiles are [B, K, s, G, t] here, keys before queries: dv = pᵀ dy, dk = dsᵀ q and dqᵀ = kᵀ dsᵀ are then products of
    the tile as it lies in memory. With queries first, two of them would transpose it and all take a third longer.
    """
    may_attend = pattern(
        "blockwise_attention", residuals.q, residuals.k, causal, mask, query_seq_lengths, key_value_seq_lengths
    )
    residuals, dy, may_attend = vary_together((residuals, dy, may_attend))
    q, k, v, y, log_sum_exp = residuals
    narrow = product_dtype(q.dtype)
    rows, columns = _tiling(q, k, block_size)
    wide = accumulation_dtype(q.dtype)
    factor = scale_of(scale, q)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)

    def one_row(cotangents: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], None]:
        q_i, dy_i, y_i = (by_group(rows.block(x, i, axis=1), k) for x in (q, dy, y))
        l_i = rows.block(log_sum_exp, i, axis=3)[:, :, None]
        d_i = jnp.sum(dy_i.astype(wide) * y_i, axis=-1)[:, :, None]  # (9)
        q_t, dy_t = jnp.moveaxis(q_i, -1, 2), jnp.moveaxis(dy_i, -1, 2)  # transposed: [B, K, H, G, t]

        def one_tile(state: tuple[Array, Array, Array], j: Array) -> tuple[Array, Array, Array]:
            dq_t, dk, dv = state
            k_j, v_j = columns.block(k, j, axis=1), columns.block(v, j, axis=1)
            allowed = may_attend(rows.indices(i), columns.indices(j), rows.is_new(i), columns.is_new(j))
            allowed = None if allowed is None else jnp.moveaxis(allowed, -1, 2)
            p = jnp.exp(scores(product("bskh,bkhgt->bksgt", k_j, q_t), factor, allowed) - l_i)
            dv_j = product("bksgt,bkgth->bksh", p.astype(dy.dtype), dy_i)  # (4)
            dp = product("bskh,bkhgt->bksgt", v_j, dy_t)  # (5)
            ds = (p * (dp - d_i)).astype(narrow)  # (6)
            dq_t = dq_t + product("bskh,bksgt->bkhgt", k_j.astype(narrow), ds)  # (7)
            dk_j = product("bksgt,bkgth->bksh", ds, q_i.astype(narrow))
            return (
                dq_t,
                columns.add(dk, dk_j.swapaxes(1, 2), j, axis=1),
                columns.add(dv, dv_j.swapaxes(1, 2), j, axis=1),
            )

        dq, dk, dv = cotangents
        state = jnp.zeros_like(q_t, dtype=wide), dk, dv
        dq_t, dk, dv = _over_tiles(one_tile, state, i, rows, columns, may_attend)
        return (rows.add(dq, by_head(jnp.moveaxis(dq_t, 2, -1)), i, axis=1), dk, dv), None

    zeros = jnp.zeros_like(q, dtype=wide), jnp.zeros_like(k, dtype=wide), jnp.zeros_like(v, dtype=wide)
    (dq, dk, dv), _ = jax.lax.scan(one_row, zeros, rows.order())
    return (factor * dq).astype(q.dtype), (factor * dk).astype(k.dtype), dv.astype(v.dtype)


def _over_tiles(
    one_tile: Callable[..., Any], state: Any, i: Array, rows: Blocks, columns: Blocks, pattern: Pattern
) -> Any:
    """The state after every tile of row i that the pattern reaches."""
    if columns.number == 1 and pattern.query_lengths is None and pattern.key_lengths is None:
        return one_tile(state, jnp.int32(0))  # which `causal` always reaches: no loop, no question

    def body(state: Any, j: Array) -> tuple[Any, None]:
        reached = pattern.reaches(rows.indices(i), columns.indices(j))
        if reached is None:
            return one_tile(state, j), None
        return jax.lax.cond(reached, one_tile, lambda state, j: state, state, j), None

    return jax.lax.scan(body, state, columns.order())[0]


def _tiling(q: Array, k: Array, block_size: int) -> tuple[Blocks, Blocks]:
    """How the queries and the keys are cut into blocks."""
    _checks.positive_integers("blockwise_attention", block_size=block_size)
    return Blocks(q.shape[1], block_size), Blocks(k.shape[1], max(1, block_size // 2))
