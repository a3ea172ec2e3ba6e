"""Layers."""

from typing import Any

import jax

from fundamentals import layers
from fundamentals.base import Array, ArrayLike, DTypeLike, PRNGKey, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, normal, with_zero


def _linear(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, b_key = jax.random.split(key, 3)
    w = with_zero(normal(w_key, (sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return with_zero(normal(x_key, (sizes.B, sizes.D), dtype)), w, normal(b_key, (sizes.H,), dtype)


def _attention(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    q_key, k_key, v_key = jax.random.split(key, 3)
    q = with_zero(normal(q_key, (sizes.E, sizes.T, sizes.N, sizes.C), dtype, 0.7))
    shape = (sizes.E, sizes.T + 2, sizes.N // 2, sizes.C)  # two heads of queries share one of keys and values
    return q, normal(k_key, shape, dtype, 0.7), normal(v_key, shape, dtype)


def _normalized(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, scale_key, offset_key = jax.random.split(key, 3)
    scale, offset = normal(scale_key, (sizes.D,), dtype), normal(offset_key, (sizes.D,), dtype)
    return with_zero(normal(x_key, (sizes.B, sizes.D), dtype)), scale, offset


def _normalized_images(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, scale_key, offset_key = jax.random.split(key, 3)
    scale, offset = normal(scale_key, (sizes.C,), dtype), normal(offset_key, (sizes.C,), dtype)
    return with_zero(normal(x_key, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype)), scale, offset


def _normalized_by_given(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    mean_key, variance_key = jax.random.split(jax.random.fold_in(key, 1))
    variance = 0.5 + jax.random.uniform(variance_key, (sizes.D,))
    return *_normalized(key, dtype, sizes), normal(mean_key, (sizes.D,), dtype), variance.astype(dtype)


def _scaled(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return _normalized(key, dtype, sizes)[:2]


def _dropped(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return (with_zero(normal(key, (sizes.B, sizes.D), dtype)),)


def _table_and_ids(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    table_key, ids_key = jax.random.split(key)
    ids = jax.random.randint(ids_key, (sizes.E, sizes.T), 0, sizes.V).at[0, -2:].set(sizes.V - 1)
    return with_zero(normal(table_key, (sizes.V, sizes.D), dtype)), ids


def _recurrent(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, h0_key, w_x_key, w_h_key, b_key = jax.random.split(key, 5)
    x = with_zero(normal(x_key, (sizes.E, sizes.T, sizes.D), dtype))
    w_x = normal(w_x_key, (sizes.D, sizes.H), dtype, 0.5 * sizes.D**-0.5)
    w_h = normal(w_h_key, (sizes.H, sizes.H), dtype, 0.5 * sizes.H**-0.5)
    return x, normal(h0_key, (sizes.E, sizes.H), dtype, 0.5), w_x, w_h, normal(b_key, (sizes.H,), dtype, 0.1)


def _convolved(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, b_key = jax.random.split(key, 3)
    x = with_zero(normal(x_key, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype))
    w = with_zero(normal(w_key, (3, 2, sizes.C, 2 * sizes.C), dtype, (6 * sizes.C) ** -0.5))
    return x, w, normal(b_key, (2 * sizes.C,), dtype)


def _pooled(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return (with_zero(normal(key, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype)),)


# With a key of their own, made when they are called: made here, it would start JAX on import.
def dropout(x: ArrayLike, *, rate: float) -> Array:
    """`layers.dropout` with a fixed key."""
    return layers.dropout(x, key=jax.random.key(0), rate=rate)


def dropout_fwd(x: ArrayLike, *, rate: float) -> tuple[Array, layers.DropoutResiduals]:
    """`layers.dropout_fwd` with the same key."""
    return layers.dropout_fwd(x, key=jax.random.key(0), rate=rate)


_DROPOUT = Rule(dropout, dropout_fwd, layers.dropout_bwd)
_BATCH_NORM = Rule(layers.batch_norm, layers.batch_norm_fwd, layers.batch_norm_bwd)
_BATCH_NORM_INFERENCE = Rule(
    layers.batch_norm_inference, layers.batch_norm_inference_fwd, layers.batch_norm_inference_bwd
)
_LAYER_NORM = Rule(layers.layer_norm, layers.layer_norm_fwd, layers.layer_norm_bwd)
_RMS_NORM = Rule(layers.rms_norm, layers.rms_norm_fwd, layers.rms_norm_bwd)
_ATTENTION = Rule(layers.attention, layers.attention_fwd, layers.attention_bwd)
_BLOCKWISE_ATTENTION = Rule(layers.blockwise_attention, layers.blockwise_attention_fwd, layers.blockwise_attention_bwd)
_CONV2D = Rule(layers.conv2d, layers.conv2d_fwd, layers.conv2d_bwd)
_MAX_POOL2D = Rule(layers.max_pool2d, layers.max_pool2d_fwd, layers.max_pool2d_bwd)
_AVERAGE_POOL2D = Rule(layers.average_pool2d, layers.average_pool2d_fwd, layers.average_pool2d_bwd)

RULES: dict[str, Entry] = {
    "linear": Entry(Rule(layers.linear, layers.linear_fwd, layers.linear_bwd), _linear),
    "conv2d": Entry(_CONV2D, _convolved),
    "conv2d(stride=2)": Entry(bind(_CONV2D, stride=2), _convolved),
    "conv2d(stride=(2, 3), padding='VALID')": Entry(bind(_CONV2D, stride=(2, 3), padding="VALID"), _convolved),
    "conv2d(padding=((2, 0), (0, 1)))": Entry(bind(_CONV2D, padding=((2, 0), (0, 1))), _convolved),
    "max_pool2d": Entry(_MAX_POOL2D, _pooled),
    "max_pool2d(window=(3, 2), stride=(2, 1))": Entry(bind(_MAX_POOL2D, window=(3, 2), stride=(2, 1)), _pooled),
    "average_pool2d": Entry(_AVERAGE_POOL2D, _pooled),
    "average_pool2d(window=(3, 2), stride=(2, 1))": Entry(bind(_AVERAGE_POOL2D, window=(3, 2), stride=(2, 1)), _pooled),
    "attention": Entry(_ATTENTION, _attention),
    "attention(causal=True)": Entry(bind(_ATTENTION, causal=True), _attention),
    "blockwise_attention": Entry(_BLOCKWISE_ATTENTION, _attention),
    "blockwise_attention(causal=True)": Entry(bind(_BLOCKWISE_ATTENTION, causal=True), _attention),
    "batch_norm": Entry(_BATCH_NORM, _normalized),
    "batch_norm(images)": Entry(_BATCH_NORM, _normalized_images),
    "batch_norm(eps=0.5)": Entry(bind(_BATCH_NORM, eps=0.5), _normalized),
    "batch_norm_inference": Entry(_BATCH_NORM_INFERENCE, _normalized_by_given),
    "batch_norm_inference(eps=0.5)": Entry(bind(_BATCH_NORM_INFERENCE, eps=0.5), _normalized_by_given),
    "layer_norm": Entry(_LAYER_NORM, _normalized),
    "layer_norm(eps=0.5)": Entry(bind(_LAYER_NORM, eps=0.5), _normalized),
    "rms_norm": Entry(_RMS_NORM, _scaled),
    "rms_norm(eps=0.5)": Entry(bind(_RMS_NORM, eps=0.5), _scaled),
    "dropout(rate=0.3)": Entry(bind(_DROPOUT, rate=0.3), _dropped),
    "embedding": Entry(Rule(layers.embedding, layers.embedding_fwd, layers.embedding_bwd), _table_and_ids),
    "rnn": Entry(Rule(layers.rnn, layers.rnn_fwd, layers.rnn_bwd), _recurrent),
}
