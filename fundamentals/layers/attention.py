"""Scaled dot-product attention as the textbook writes it.

For one example and one head, with queries q [T, H], keys k and values v [S, H] (A. Vaswani et al., Attention is all you
need, 2017, equation 1):

    (1)  s_tj = scale Σ_h q_th k_jh             scores; −∞ where query t may not attend to key j
    (2)  p_tj = e^(s_tj) / Σ_i e^(s_ti)          probabilities; a row with nothing to attend to is 0
    (3)  y_th = Σ_j p_tj v_jh

Backwards, from dy:

    (4)  dv_jh = Σ_t p_tj dy_th                  (3) is linear in v
    (5)  dp_tj = Σ_h dy_th v_jh                  and in p
    (6)  ds_tj = p_tj (dp_tj − d_t)              softmax's Jacobian, with d_t = Σ_i p_ti dp_ti
    (7)  dq_th = scale Σ_j ds_tj k_jh            (1) is linear in q
         dk_jh = scale Σ_t ds_tj q_th            and in k

The scores, the probabilities and their cotangents are [T, S] each: that is what attention's memory goes to.
`attention` keeps p; `blockwise_attention` never has more than a tile of any of them.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype, product_dtype
from fundamentals.layers.attention_scores import by_group, finite, operands, pattern, scale_of, scores


class AttentionResiduals(NamedTuple):
    """What `attention_bwd` needs. The N heads of queries are K groups of G, which share a head of keys and values."""

    q: Array  # [B, T, N, H]
    k: Array  # [B, S, K, H]
    v: Array  # [B, S, K, H]
    probabilities: Array  # [B, K, G, T, S]


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    scale: Numeric | None = None,
) -> Array:
    """softmax(scale · q kᵀ) v, for every example and head.

    The layout, the mask, the lengths and the scale are those of `jax.nn.dot_product_attention`; `causal` is `is_causal`
    there. A query attends to a key where `causal`, `mask` and the lengths all allow it; a query that may attend to
    nothing gets zeros. What is masked must still be finite.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, S, K, H], N a multiple of K: each head of keys and values serves N / K heads of queries.
      v: values [B, S, K, H].
      causal: query t attends to keys 0 … t only.
      mask: bool [B, N, T, S], each axis of it whole or 1: True where the query may attend to the key.
      query_seq_lengths: integers [B], or broadcastable to [B, N]: how many of the T queries count; the rest get zeros.
      key_value_seq_lengths: likewise, how many of the S keys. A length below 0 is 0, and one above S (or T) is all.
      scale: of the scores; None for H^−½.

    Returns:
      [B, T, N, H].

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating or not the same, the mask is not bool, the lengths are not integers.
    """
    lengths = {"query_seq_lengths": query_seq_lengths, "key_value_seq_lengths": key_value_seq_lengths}
    return attention_fwd(q, k, v, causal=causal, mask=mask, scale=scale, **lengths)[0]


def attention_fwd(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    mask: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    scale: Numeric | None = None,
) -> tuple[Array, AttentionResiduals]:
    """Keeps the operands and the probabilities, [T, S] for every head. Not the scores: softmax' is a function of p.

    And not the mask, since p is 0 where it forbids, and so is ds.
    """
    q, k, v = operands("attention", q, k, v, scale)
    may_attend = pattern("attention", q, k, causal, mask, query_seq_lengths, key_value_seq_lengths)
    positions = jnp.arange(q.shape[1], dtype=jnp.int32), jnp.arange(k.shape[1], dtype=jnp.int32)
    qk = jnp.einsum("bkgth,bskh->bkgts", by_group(q, k), k, preferred_element_type=accumulation_dtype(q.dtype))
    s = scores(qk, scale_of(scale, q), may_attend(*positions))  # (1)
    e = jnp.exp(s - finite(jnp.max(s, axis=-1, keepdims=True)))
    total = jnp.sum(e, axis=-1, keepdims=True)
    p = (e / jnp.where(total == 0, 1, total)).astype(q.dtype)  # (2)
    y = jnp.einsum("bkgts,bskh->btkgh", p, v, preferred_element_type=s.dtype)  # (3)
    return y.reshape(q.shape).astype(q.dtype), AttentionResiduals(q, k, v, p)


def attention_bwd(
    residuals: AttentionResiduals, dy: Array, *, scale: Numeric | None = None
) -> tuple[Array, Array, Array]:
    """dq = scale · ds k, dk = scale · dsᵀ q, dv = pᵀ dy, where ds = p (dp − Σ p dp) and dp = dy vᵀ.

    Derivation: equations (4) to (7) of the module, one line each.
    """
    q, k, v, p = residuals
    wide = accumulation_dtype(q.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    dy = by_group(dy, k)
    dv = product("bkgts,bkgth->bskh", p, dy)  # (4)
    dp = product("bkgth,bskh->bkgts", dy, v)  # (5)
    p = p.astype(wide)
    narrow = product_dtype(q.dtype)
    ds = (p * (dp + -jnp.sum(p * dp, axis=-1, keepdims=True))).astype(narrow)  # (6)
    scale = scale_of(scale, q)
    dq = scale * product("bkgts,bskh->btkgh", ds, k.astype(narrow))  # (7)
    dk = scale * product("bkgts,bkgth->bskh", ds, by_group(q, k).astype(narrow))
    return dq.reshape(q.shape).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
