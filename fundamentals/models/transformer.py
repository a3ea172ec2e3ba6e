"""Transformer encoder with normalization before each sublayer, a classifier on it, and their backward passes by hand.

    block     x → x + attention(q, k, v) w_o + b_o    where q, k and v are the thirds of norm(x) w_qkv
              x → x + mlp(norm(x))                    two linear layers, an activation between them
    encoder   x → blocks → norm                       (A. Vaswani et al. 2017; norm first: R. Xiong et al. 2020)

    classifier  x [B, T, D] → linear → + positions → encoder → average over T → linear → logits [B, K]

Every sublayer stands beside an identity: its input's cotangent is that of the sum plus what comes through the sublayer.
There is no bias in q, k and v: softmax would not notice that of k, whose gradient would be 0 and rounding errors.
`width` M is the size of a position's vector; each of the N heads has M / N of it. (`language_model` is the other head.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, activations, initializers, layers
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule, accumulation_dtype, bind
from fundamentals.layers.linear import LinearResiduals, linear_bwd, linear_fwd
from fundamentals.layers.normalization import LayerNormResiduals, layer_norm_bwd, layer_norm_fwd
from fundamentals.models.mlp import SOFTMAX_CROSS_ENTROPY, Layer
from fundamentals.models.objective import mean_loss, mean_loss_and_gradient
from fundamentals.models.stages import Stages, as_rule

ATTENTION = Rule(layers.attention, layers.attention_fwd, layers.attention_bwd)
GELU = Rule(activations.gelu, activations.gelu_fwd, activations.gelu_bwd)


class Norm(NamedTuple):
    """The parameters of a layer normalization."""

    scale: Array  # [M]
    offset: Array  # [M]


class Block(NamedTuple):
    """The parameters of a block."""

    attention_norm: Norm
    qkv: Array  # [M, 3 M]: one product gives queries, keys and values
    output: Layer  # [M, M], [M]
    mlp_norm: Norm
    hidden: Layer  # [M, F], [F]
    narrow: Layer  # [F, M], [M]


class Encoder(NamedTuple):
    """The parameters of the blocks and of the normalization after them."""

    blocks: tuple[Block, ...]
    norm: Norm


class Classifier(NamedTuple):
    """The parameters of a classifier of sequences of vectors."""

    inputs: Layer  # [D, M], [M]
    positions: Array  # [T, M]
    encoder: Encoder
    output: Layer  # [M, K], [K]


class BlockResiduals(NamedTuple):
    """What a block keeps."""

    attention_norm: LayerNormResiduals
    qkv: LinearResiduals
    attention: Any
    output: LinearResiduals
    mlp_norm: LayerNormResiduals
    hidden: LinearResiduals
    activation: Any
    narrow: LinearResiduals


class EncoderResiduals(NamedTuple):
    """What `transformer_encoder_bwd` needs."""

    blocks: tuple[BlockResiduals, ...]
    norm: LayerNormResiduals


def init_encoder(
    key: PRNGKey,
    *,
    width: int,
    layers: int,
    hidden: int | None = None,
    initializer: Initializer = initializers.xavier_uniform(),
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Parameters of an encoder.

    Args:
      key: a PRNG key; each array draws from its own.
      width: M.
      layers: blocks.
      hidden: units between the two linear layers of a block; None for 4 M.
      initializer: of the weights; biases and offsets begin as 0, scales as 1.
      dtype: of all parameters.

    Raises:
      ValueError: a size is not positive.
    """
    _checks.key("transformer.init", "key", key)
    _checks.positive_integers("transformer.init", width=width, layers=layers)
    hidden = 4 * width if hidden is None else hidden
    _checks.positive_integers("transformer.init", hidden=hidden)
    norm = Norm(jnp.ones(width, dtype), jnp.zeros(width, dtype))

    def block(key: PRNGKey) -> Block:
        *qkv_keys, output_key, widen_key, narrow_key = jax.random.split(key, 6)
        qkv = jnp.concatenate([initializer(k, (width, width), dtype) for k in qkv_keys], axis=1)
        output = linear_layer(output_key, (width, width), initializer, dtype)
        widen = linear_layer(widen_key, (width, hidden), initializer, dtype)
        narrow = linear_layer(narrow_key, (hidden, width), initializer, dtype)
        return Block(norm, qkv, output, norm, widen, narrow)

    return Encoder(tuple(block(k) for k in jax.random.split(key, layers)), norm)


def init(
    key: PRNGKey,
    *,
    inputs: int,
    length: int,
    width: int,
    layers: int,
    outputs: int,
    hidden: int | None = None,
    initializer: Initializer = initializers.xavier_uniform(),
    dtype: DTypeLike = jnp.float32,
) -> Classifier:
    """Parameters of a classifier of sequences [length, inputs]; the other arguments as for `init_encoder`."""
    _checks.key("transformer.init", "key", key)
    _checks.positive_integers("transformer.init", inputs=inputs, length=length, outputs=outputs)
    input_key, position_key, encoder_key, output_key = jax.random.split(key, 4)
    encoder = init_encoder(encoder_key, width=width, layers=layers, hidden=hidden, initializer=initializer, dtype=dtype)
    positions = initializers.normal(0.02)(position_key, (length, width), dtype)
    return Classifier(
        linear_layer(input_key, (inputs, width), initializer, dtype),
        positions,
        encoder,
        linear_layer(output_key, (width, outputs), initializer, dtype),
    )


def transformer_encoder(
    params: Encoder, x: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> Array:
    """The blocks and the last normalization.

    Args:
      params: from `init_encoder`.
      x: [B, T, M].
      heads: N, which divides M.
      attention: a rule of (q, k, v) [B, T, N, H], dense or blockwise; options bound: `bind(ATTENTION, causal=True)`.
      activation: a rule of one array, between the linear layers.

    Returns:
      [B, T, M].

    Raises:
      ValueError: the shapes do not fit, or the number of heads does not divide M.
    """
    return transformer_encoder_fwd(params, x, heads=heads, attention=attention, activation=activation)[0]


def transformer_encoder_fwd(
    params: Encoder, x: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> tuple[Array, EncoderResiduals]:
    """Keeps what each layer keeps: under `jit`, an array that two layers keep is one."""
    _checks.rule("transformer_encoder", "attention", attention)
    _checks.rule("transformer_encoder", "activation", activation)
    _checks.instance("transformer_encoder", "params", params, Encoder)
    (y,) = _checks.arrays("transformer_encoder", x=(x, "B T M"))
    _check_heads("transformer_encoder", heads, y.shape[2], "x")
    residuals = []
    for block in params.blocks:
        y, block_residuals = _block_fwd(block, y, heads, attention, activation)
        residuals.append(block_residuals)
    y, norm = layer_norm_fwd(y, *params.norm)
    return y, EncoderResiduals(tuple(residuals), norm)


def transformer_encoder_bwd(
    residuals: EncoderResiduals, dy: Array, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> tuple[Encoder, Array]:
    """(dparams, dx): the last normalization, then each block from the last.

    Derivation: a block is x' = x + A(x), x'' = x' + F(x'). Both terms of a sum get its cotangent: with d'' that of x'',
    d' = d'' + F_bwd(d'') and d = d' + A_bwd(d'). Inside A and F, each layer hands its input's cotangent to the one
    before it.
    """
    dy, *dnorm = layer_norm_bwd(residuals.norm, dy)
    dblocks = []
    for block_residuals in reversed(residuals.blocks):
        dblock, dy = _block_bwd(block_residuals, dy, heads, attention, activation)
        dblocks.append(dblock)
    return Encoder(tuple(reversed(dblocks)), Norm(*dnorm)), dy


class EmbedResiduals(NamedTuple):
    """What the input layer and the positions keep."""

    inputs: LinearResiduals
    no_positions: Array  # [L, 0]: how many positions the parameters have, in no bytes


class AverageResiduals(NamedTuple):
    """What the average and the output layer keep."""

    no_vectors: Array  # [0, T, M]: how many are averaged, in no bytes
    output: LinearResiduals


class ClassifierResiduals(NamedTuple):
    """What `transformer_classifier_bwd` needs."""

    embed: EmbedResiduals
    encoder: EncoderResiduals
    average: AverageResiduals


def transformer_classifier(
    params: Classifier, x: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> Array:
    """The logits of a sequence.

    Args:
      params: from `init`.
      x: sequences [B, T, D], T no more than there are positions.
      heads, attention, activation: as for `transformer_encoder`.

    Returns:
      Logits [B, K].

    Raises:
      ValueError: the shapes do not fit, the sequence is empty, or longer than there are positions.
    """
    return transformer_classifier_fwd(params, x, heads=heads, attention=attention, activation=activation)[0]


def transformer_classifier_fwd(
    params: Classifier, x: ArrayLike, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> tuple[Array, ClassifierResiduals]:
    """Keeps what each layer keeps. Not the encoder's output, whose mean is taken: its derivative is 1/T."""
    _checks.instance("transformer_classifier", "params", params, Classifier)
    (x,) = _checks.arrays("transformer_classifier", x=(x, "B T D"))
    z, embed = _embed_fwd((params.inputs, params.positions), x)
    y, encoder = transformer_encoder_fwd(params.encoder, z, heads=heads, attention=attention, activation=activation)
    logits, average = _average_fwd(params.output, y)
    return logits, ClassifierResiduals(embed, encoder, average)


def transformer_classifier_bwd(
    residuals: ClassifierResiduals, dlogits: Array, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU
) -> tuple[Classifier, Array]:
    """(dparams, dx): the output layer, the average, the encoder, the input layer.

    Derivation: the average of T vectors gives each of them 1/T of its cotangent. The positions are added to each of the
    B examples, so theirs is summed over B.
    """
    doutput, dy = _average_bwd(residuals.average, dlogits)
    dencoder, dz = transformer_encoder_bwd(
        residuals.encoder, dy, heads=heads, attention=attention, activation=activation
    )
    dembed, dx = _embed_bwd(residuals.embed, dz)
    return Classifier(*dembed, dencoder, doutput), dx


apply = transformer_classifier


def loss(
    params: Classifier,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    heads: int,
    attention: Rule = ATTENTION,
    activation: Rule = GELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> Array:
    """The classifier's mean loss of a batch: what `jax.grad` differentiates.

    Args:
      params: from `init`.
      x: sequences [B, T, D].
      targets: what `loss_rule` takes beside the logits [B, K].
      heads, attention, activation: as for `transformer_encoder`.
      loss_rule: a rule of (logits, targets).

    Returns:
      [].
    """
    return mean_loss("transformer.loss", _classifier(heads, attention, activation), params, x, targets, loss_rule)


def loss_and_gradient(
    params: Classifier,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    heads: int,
    attention: Rule = ATTENTION,
    activation: Rule = GELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> tuple[Array, Classifier]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    model = _classifier(heads, attention, activation)
    return mean_loss_and_gradient("transformer.loss", model, params, x, targets, loss_rule)


def stages(params: Classifier, *, heads: int, attention: Rule = ATTENTION, activation: Rule = GELU) -> Stages:
    """The classifier as a chain (see `models.stages`): input layer and positions, each block, and what is after them.

    Arguments as for `transformer_classifier`.
    """
    _checks.rule("transformer.stages", "attention", attention)
    _checks.rule("transformer.stages", "activation", activation)
    _checks.instance("transformer.stages", "params", params, Classifier)
    _check_heads("transformer.stages", heads, params.positions.shape[1], "params")
    block = as_rule(_block_fwd, _block_bwd, heads=heads, attention=attention, activation=activation)
    blocks, norm = params.encoder
    return Stages(
        (as_rule(_embed_fwd, _embed_bwd), *[block] * len(blocks), as_rule(_head_fwd, _head_bwd)),
        ((params.inputs, params.positions), *blocks, (norm, params.output)),
    )


def _classifier(heads: int, attention: Rule, activation: Rule) -> Rule:
    rule = Rule(transformer_classifier, transformer_classifier_fwd, transformer_classifier_bwd)
    return bind(rule, heads=heads, attention=attention, activation=activation)


def first_positions(function: str, positions: Array, z: Array) -> Array:
    """[1, T, M], the first T of the L positions, for z [B, T, M]; `function` is who asks, for messages."""
    length = z.shape[1]
    _checks.not_empty(function, "x", length, "T")
    if length > positions.shape[0]:
        raise ValueError(
            f"{function}: x has T = {length}; expected at most the {positions.shape[0]} positions of params"
        )
    return positions[None, :length]


def sum_positions(no_positions: Array, dz: Array) -> Array:
    """[L, M], 0 for the positions that were not used."""
    dpositions = jnp.sum(dz, axis=0)
    return jnp.pad(dpositions, ((0, no_positions.shape[0] - dz.shape[1]), (0, 0)))


def linear_layer(key: PRNGKey, shape: tuple[int, int], initializer: Initializer, dtype: DTypeLike) -> Layer:
    """Weights drawn, biases 0."""
    return Layer(initializer(key, shape, dtype), jnp.zeros(shape[1], dtype))


def _block_fwd(params: Block, x: Array, heads: int, attention: Rule, activation: Rule) -> tuple[Array, BlockResiduals]:
    normalized, attention_norm = layer_norm_fwd(x, *params.attention_norm)
    qkv = jnp.matmul(normalized, params.qkv, preferred_element_type=accumulation_dtype(x.dtype)).astype(x.dtype)
    split = (*x.shape[:2], heads, x.shape[2] // heads)
    q, k, v = (third.reshape(split) for third in jnp.split(qkv, 3, axis=-1))
    projected = LinearResiduals(normalized, params.qkv)
    attended, attention_residuals = attention.fwd(q, k, v)
    mixed, output = linear_fwd(attended.reshape(x.shape), *params.output)
    x = x + mixed
    normalized, mlp_norm = layer_norm_fwd(x, *params.mlp_norm)
    z, hidden = linear_fwd(normalized, *params.hidden)
    h, activated = activation.fwd(z)
    y, narrow = linear_fwd(h, *params.narrow)
    return x + y, BlockResiduals(
        attention_norm, projected, attention_residuals, output, mlp_norm, hidden, activated, narrow
    )


def _block_bwd(
    residuals: BlockResiduals, dy: Array, heads: int, attention: Rule, activation: Rule
) -> tuple[Block, Array]:
    dh, *dnarrow = linear_bwd(residuals.narrow, dy)
    (dz,) = activation.bwd(residuals.activation, dh)
    dnormalized, *dhidden = linear_bwd(residuals.hidden, dz)
    dx, *dmlp_norm = layer_norm_bwd(residuals.mlp_norm, dnormalized)
    dy = dy + dx  # of x + mixed
    dattended, *doutput = linear_bwd(residuals.output, dy)
    split = (*dy.shape[:2], heads, dy.shape[2] // heads)
    thirds = (d.reshape(dy.shape) for d in attention.bwd(residuals.attention, dattended.reshape(split)))
    dnormalized, dqkv, _ = linear_bwd(residuals.qkv, jnp.concatenate(list(thirds), axis=-1))  # without a bias
    dx, *dattention_norm = layer_norm_bwd(residuals.attention_norm, dnormalized)
    dblock = Block(
        Norm(*dattention_norm),
        dqkv,
        Layer(*doutput),
        Norm(*dmlp_norm),
        Layer(*dhidden),
        Layer(*dnarrow),
    )
    return dblock, dy + dx


def _embed_fwd(params: tuple[Layer, Array], x: Array) -> tuple[Array, EmbedResiduals]:
    layer, positions = params
    z, inputs = linear_fwd(x, *layer)
    z = z + first_positions("transformer_classifier", positions, z)
    return z, EmbedResiduals(inputs, positions[:, :0])


def _embed_bwd(residuals: EmbedResiduals, dz: Array) -> tuple[tuple[Layer, Array], Array]:
    dx, *dinputs = linear_bwd(residuals.inputs, dz)
    return (Layer(*dinputs), sum_positions(residuals.no_positions, dz)), dx


def _average_fwd(output: Layer, y: Array) -> tuple[Array, AverageResiduals]:
    mean = jnp.mean(y.astype(accumulation_dtype(y.dtype)), axis=1).astype(y.dtype)
    logits, residuals = linear_fwd(mean, *output)
    return logits, AverageResiduals(y[:0], residuals)


def _average_bwd(residuals: AverageResiduals, dlogits: Array) -> tuple[Layer, Array]:
    dmean, *doutput = linear_bwd(residuals.output, dlogits)
    _, length, width = residuals.no_vectors.shape
    return Layer(*doutput), jnp.broadcast_to((dmean / length)[:, None], (dmean.shape[0], length, width))


def _head_fwd(params: tuple[Norm, Layer], x: Array) -> tuple[Array, tuple[LayerNormResiduals, AverageResiduals]]:
    norm, output = params
    y, normalized = layer_norm_fwd(x, *norm)
    logits, average = _average_fwd(output, y)
    return logits, (normalized, average)


def _head_bwd(
    residuals: tuple[LayerNormResiduals, AverageResiduals], dlogits: Array
) -> tuple[tuple[Norm, Layer], Array]:
    normalized, average = residuals
    doutput, dy = _average_bwd(average, dlogits)
    dx, *dnorm = layer_norm_bwd(normalized, dy)
    return (Norm(*dnorm), doutput), dx


def _check_heads(function: str, heads: int, width: int, source: str) -> None:
    _checks.positive_integers(function, heads=heads)
    if width % heads:
        raise ValueError(f"{function}: heads is {heads}; expected a divisor of M = {width} from {source}")
