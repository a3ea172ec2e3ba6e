"""Causal transformer language model, and its backward pass by hand.

    tokens [B, T] → embedding → + positions → causal encoder (`transformer`) → w [M, V] → logits [B, T, V]

The logits of a position predict the next token. They are the largest array of a language model, and training does
without them: in `loss` and `loss_and_gradient`, `linear_cross_entropy` stands for the last product and the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, initializers, losses
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule, accumulation_dtype, bind
from fundamentals.layers.embedding import EmbeddingResiduals, embedding_bwd, embedding_fwd
from fundamentals.models.transformer import (
    ATTENTION,
    GELU,
    Encoder,
    EncoderResiduals,
    first_positions,
    init_encoder,
    sum_positions,
    transformer_encoder_bwd,
    transformer_encoder_fwd,
)

LINEAR_CROSS_ENTROPY = Rule(
    losses.linear_cross_entropy, losses.linear_cross_entropy_fwd, losses.linear_cross_entropy_bwd
)


class Params(NamedTuple):
    """The parameters of a language model."""

    table: Array  # [V, M]
    positions: Array  # [T, M]
    encoder: Encoder
    w: Array  # [M, V]


class LanguageModelResiduals(NamedTuple):
    """What `transformer_language_model_bwd` needs."""

    table: EmbeddingResiduals
    no_positions: Array  # [L, 0]: how many positions the parameters have, in no bytes
    encoder: EncoderResiduals
    y: Array  # [B, T, M], the encoder's output
    w: Array  # [M, V]


def init(
    key: PRNGKey,
    *,
    vocabulary: int,
    length: int,
    width: int,
    layers: int,
    hidden: int | None = None,
    initializer: Initializer = initializers.xavier_uniform(),
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters for at most `length` tokens; the other arguments as for `transformer.init_encoder`."""
    _checks.key("language_model.init", "key", key)
    _checks.positive_integers("language_model.init", vocabulary=vocabulary, length=length)
    table_key, position_key, encoder_key, output_key = jax.random.split(key, 4)
    encoder = init_encoder(encoder_key, width=width, layers=layers, hidden=hidden, initializer=initializer, dtype=dtype)
    small = initializers.normal(0.02)
    table, positions = small(table_key, (vocabulary, width), dtype), small(position_key, (length, width), dtype)
    return Params(table, positions, encoder, initializer(output_key, (width, vocabulary), dtype))


def transformer_language_model(
    params: Params, tokens: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> Array:
    """The logits of the next token after each: causal, so those at position t depend on tokens 0 … t.

    Args:
      params: from `init`.
      tokens: integers in [0, V), [B, T], T no more than there are positions.
      heads, attention, activation: as for `transformer.transformer_encoder`; the attention is made causal here.

    Returns:
      Logits [B, T, V].

    Raises:
      ValueError: the shapes do not fit, the sequence is empty or longer than there are positions, or a token is out of
        range. Under `jit`, where tokens have no value to look at, everything that depends on that token is NaN instead.
    """
    return transformer_language_model_fwd(params, tokens, heads=heads, attention=attention, activation=activation)[0]


def transformer_language_model_fwd(
    params: Params, tokens: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> tuple[Array, LanguageModelResiduals]:
    """Keeps what each layer keeps."""
    y, (table, no_positions, encoder) = _decode_fwd(params, tokens, heads, attention, activation)
    logits = jnp.matmul(y, params.w, preferred_element_type=accumulation_dtype(y.dtype)).astype(y.dtype)
    return logits, LanguageModelResiduals(table, no_positions, encoder, y, params.w)


def transformer_language_model_bwd(
    residuals: LanguageModelResiduals,
    dlogits: Array,
    *,
    heads: int,
    attention: Rule = ATTENTION,
    activation: Rule = GELU,
) -> tuple[Params, None]:
    """(dparams, None): the product with w, the encoder, the positions and the table; tokens have no cotangent.

    Derivation: logits = y w, so dy = dlogits wᵀ and dw = yᵀ dlogits, the sum over all positions. Then as in the
    classifier; embedding_bwd adds up the positions that hold the same token.
    """
    y, w = residuals.y, residuals.w
    accumulate = accumulation_dtype(y.dtype)
    dy = jnp.matmul(dlogits, w.T, preferred_element_type=accumulate).astype(y.dtype)
    dw = jnp.einsum("btm,btv->mv", y, dlogits, preferred_element_type=accumulate).astype(w.dtype)
    return _decode_bwd(
        (residuals.table, residuals.no_positions, residuals.encoder), dy, dw, heads, attention, activation
    ), None


apply = transformer_language_model


def loss(
    params: Params,
    tokens: ArrayLike,
    targets: ArrayLike,
    *,
    heads: int,
    attention: Rule = ATTENTION,
    activation: Rule = GELU,
    chunk_size: int = 1024,
    ignored_label: int | None = None,
) -> Array:
    """The mean cross-entropy of the next tokens: what `jax.grad` differentiates.

    Args:
      params: from `init`.
      tokens: integers [B, T].
      targets: the next tokens, integers [B, T]: of a text, `text[:, :-1]` are the tokens and `text[:, 1:]` the targets.
      heads, attention, activation: as for `transformer.transformer_encoder`.
      chunk_size, ignored_label: as for `linear_cross_entropy`, so that no array holds the logits [B, T, V].

    Returns:
      [], the sum of all losses over the number of targets that are not ignored; 0 if there is none.

    (`loss_and_gradient` never holds the logits; `jax.grad` of this keeps every chunk of them.)
    """
    y, _ = _decode_fwd(params, tokens, heads, attention, activation)
    rule = bind(LINEAR_CROSS_ENTROPY, chunk_size=chunk_size, ignored_label=ignored_label)
    losses_, residuals = rule.fwd(y, params.w, targets)
    return _weighted_sum(losses_, _weights(residuals))


def loss_and_gradient(
    params: Params,
    tokens: ArrayLike,
    targets: ArrayLike,
    *,
    heads: int,
    attention: Rule = ATTENTION,
    activation: Rule = GELU,
    chunk_size: int = 1024,
    ignored_label: int | None = None,
) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end, and without logits.

    Arguments as for `loss`.
    """
    y, residuals = _decode_fwd(params, tokens, heads, attention, activation)
    rule = bind(LINEAR_CROSS_ENTROPY, chunk_size=chunk_size, ignored_label=ignored_label)
    losses_, loss_residuals = rule.fwd(y, params.w, targets)
    weights = _weights(loss_residuals)
    dy, dw, _ = rule.bwd(loss_residuals, weights)
    return _weighted_sum(losses_, weights), _decode_bwd(residuals, dy, dw, heads, attention, activation)


def _weights(residuals: losses.LinearCrossEntropyResiduals) -> Array:
    """1 over the number of targets that count, 0 for the ignored ones, in the accumulation dtype."""
    ignored = residuals.labels > residuals.w.shape[1]
    counted = jnp.where(ignored, 0, jnp.ones_like(residuals.log_sum_exp))
    return counted / jnp.maximum(1, jnp.sum(counted))


def _weighted_sum(losses_: Array, weights: Array) -> Array:
    return jnp.sum(losses_.astype(weights.dtype) * weights).astype(losses_.dtype)


def _decode_fwd(
    params: Params, tokens: ArrayLike, heads: int, attention: Rule, activation: Rule
) -> tuple[Array, tuple[EmbeddingResiduals, Array, EncoderResiduals]]:
    """The language model without its last product."""
    _checks.instance("transformer_language_model", "params", params, Params)
    _checks.arrays("transformer_language_model", tokens=(tokens, "B T", "integer"))
    z, table = embedding_fwd(params.table, tokens)
    z = z + first_positions("transformer_language_model", params.positions, z)
    causal = bind(attention, causal=True)
    y, encoder = transformer_encoder_fwd(params.encoder, z, heads=heads, attention=causal, activation=activation)
    return y, (table, params.positions[:, :0], encoder)


def _decode_bwd(
    residuals: tuple[EmbeddingResiduals, Array, EncoderResiduals],
    dy: Array,
    dw: Array,
    heads: int,
    attention: Rule,
    activation: Rule,
) -> Params:
    table, no_positions, encoder = residuals
    causal = bind(attention, causal=True)
    dencoder, dz = transformer_encoder_bwd(encoder, dy, heads=heads, attention=causal, activation=activation)
    dtable, _ = embedding_bwd(table, dz)
    return Params(dtable, sum_positions(no_positions, dz), dencoder, dw)
