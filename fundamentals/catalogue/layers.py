"""Layers."""

from typing import Any

import jax
from numpy.random import Generator

from fundamentals import layers
from fundamentals.base import Array, ArrayLike, DTypeLike, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, integers, normal, with_zero


def _linear(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    w = with_zero(normal(random, (sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return with_zero(normal(random, (sizes.B, sizes.D), dtype)), w, normal(random, (sizes.H,), dtype)


def _attention(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    q = with_zero(normal(random, (sizes.E, sizes.T, sizes.N, sizes.C), dtype, 0.7))
    shape = (sizes.E, sizes.T + 2, sizes.N // 2, sizes.C)  # two heads of queries share one of keys and values
    return q, normal(random, shape, dtype, 0.7), normal(random, shape, dtype)


def _normalized(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    scale, offset = normal(random, (sizes.D,), dtype), normal(random, (sizes.D,), dtype)
    return with_zero(normal(random, (sizes.B, sizes.D), dtype)), scale, offset


def _normalized_images(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    scale, offset = normal(random, (sizes.C,), dtype), normal(random, (sizes.C,), dtype)
    return with_zero(normal(random, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype)), scale, offset


def _normalized_by_given(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    variance = 0.5 + random.uniform(size=sizes.D)
    return *_normalized(random, dtype, sizes), normal(random, (sizes.D,), dtype), variance.astype(dtype)


def _scaled(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return _normalized(random, dtype, sizes)[:2]


def _dropped(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return (with_zero(normal(random, (sizes.B, sizes.D), dtype)),)


def _table_and_ids(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    ids = integers(random, (sizes.E, sizes.T), sizes.V)
    return with_zero(normal(random, (sizes.V, sizes.D), dtype)), ids


def _recurrent(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    x = with_zero(normal(random, (sizes.E, sizes.T, sizes.D), dtype))
    w_x = normal(random, (sizes.D, sizes.H), dtype, 0.5 * sizes.D**-0.5)
    w_h = normal(random, (sizes.H, sizes.H), dtype, 0.5 * sizes.H**-0.5)
    return x, normal(random, (sizes.E, sizes.H), dtype, 0.5), w_x, w_h, normal(random, (sizes.H,), dtype, 0.1)


def _convolved(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    x = with_zero(normal(random, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype))
    w = with_zero(normal(random, (3, 2, sizes.C, 2 * sizes.C), dtype, (6 * sizes.C) ** -0.5))
    return x, w, normal(random, (2 * sizes.C,), dtype)


def _pooled(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return (with_zero(normal(random, (sizes.E, sizes.W + 2, sizes.W, sizes.C), dtype)),)


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
