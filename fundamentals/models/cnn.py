"""Convolutional network with residual blocks, and its backward pass by hand.

    stage     x → [max pool, but for the first stage] → f(norm(conv(x))) → blocks
    block     x → f(x + norm(conv(f(norm(conv(x))))))                        (K. He et al. 2016, figure 2)
    network   x → stages → average over the image → linear → logits

A residual block's output is a sum, so its cotangent goes to both terms unchanged: dx gets it once directly, past all
convolutions, and once through them. That direct path is why gradients reach the first stage of a deep network.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, initializers, layers
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule, accumulation_dtype, bind
from fundamentals.layers.convolution import Conv2dResiduals, conv2d_bwd, conv2d_fwd
from fundamentals.layers.linear import LinearResiduals, linear_bwd, linear_fwd
from fundamentals.layers.pooling import MaxPool2dResiduals, max_pool2d_bwd, max_pool2d_fwd
from fundamentals.models.mlp import RELU, SOFTMAX_CROSS_ENTROPY, Layer
from fundamentals.models.objective import mean_loss, mean_loss_and_gradient
from fundamentals.models.stages import Stages, as_rule

LAYER_NORM = Rule(layers.layer_norm, layers.layer_norm_fwd, layers.layer_norm_bwd)


class Convolution(NamedTuple):
    """The parameters of a convolution and of the normalization after it, whose offset stands for a bias."""

    w: Array  # [kH, kW, C, O]
    scale: Array  # [O]
    offset: Array  # [O]


class Block(NamedTuple):
    """The parameters of a residual block."""

    first: Convolution
    second: Convolution


class Stage(NamedTuple):
    """The parameters of one stage: a convolution that changes the number of channels, then blocks that keep it."""

    widen: Convolution
    blocks: tuple[Block, ...]


class Params(NamedTuple):
    """The parameters of the network."""

    stages: tuple[Stage, ...]
    output: Layer


class ConvolutionResiduals(NamedTuple):
    """What a convolution and its normalization keep."""

    convolution: Conv2dResiduals
    norm: Any


class BlockResiduals(NamedTuple):
    """What a residual block keeps."""

    first: ConvolutionResiduals
    activation: Any
    second: ConvolutionResiduals
    sum_activation: Any


class WidenResiduals(NamedTuple):
    """What a stage keeps before its blocks."""

    pool: MaxPool2dResiduals | None
    convolution: ConvolutionResiduals
    activation: Any


class StageResiduals(NamedTuple):
    """What a stage keeps."""

    widen: WidenResiduals
    blocks: tuple[BlockResiduals, ...]


class HeadResiduals(NamedTuple):
    """What the average and the output layer keep."""

    features: Array  # [0, H, W, C]: the size of the last image, in no bytes
    output: LinearResiduals


class CnnResiduals(NamedTuple):
    """What `cnn_bwd` needs."""

    stages: tuple[StageResiduals, ...]
    head: HeadResiduals


def init(
    key: PRNGKey,
    channels: Sequence[int],
    outputs: int,
    *,
    blocks: int = 1,
    kernel_size: int = 3,
    initializer: Initializer = initializers.he_normal(),
    bias_initializer: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters for images of any size that survives the pooling.

    Args:
      key: a PRNG key; each array draws from its own.
      channels: of the image and of each stage: `(1, 16, 32)` reads grey images in two stages.
      outputs: classes K.
      blocks: residual blocks in each stage, 0 for none.
      kernel_size: of all convolutions.
      initializer: of the kernels and the output's weights.
      bias_initializer: of the offsets and of the output's bias; scales begin as 1.
      dtype: of all parameters.

    Raises:
      ValueError: there is no stage, or a size is not positive.
    """
    _checks.key("cnn.init", "key", key)
    _checks.layer_sizes("cnn.init", "channels", channels, 2, "the image's and one stage's")
    _checks.positive_integers("cnn.init", outputs=outputs, kernel_size=kernel_size)
    _checks.counts("cnn.init", blocks=blocks)
    *stage_keys, output_key = jax.random.split(key, len(channels))

    def convolution(key: PRNGKey, inputs: int, outputs: int) -> Convolution:
        w_key, offset_key = jax.random.split(key)
        w = initializer(w_key, (kernel_size, kernel_size, inputs, outputs), dtype)
        return Convolution(w, jnp.ones(outputs, dtype), bias_initializer(offset_key, (outputs,), dtype))

    stages = []
    for stage_key, (inputs, width) in zip(stage_keys, itertools.pairwise(channels), strict=True):
        widen_key, *block_keys = jax.random.split(stage_key, 1 + blocks)
        pairs = (jax.random.split(block_key) for block_key in block_keys)
        residual = tuple(
            Block(convolution(first, width, width), convolution(second, width, width)) for first, second in pairs
        )
        stages.append(Stage(convolution(widen_key, inputs, width), residual))
    w_key, b_key = jax.random.split(output_key)
    output = Layer(initializer(w_key, (channels[-1], outputs), dtype), bias_initializer(b_key, (outputs,), dtype))
    return Params(tuple(stages), output)


def cnn(params: Params, x: ArrayLike, *, norm: Rule = LAYER_NORM, activation: Rule = RELU) -> Array:
    """The logits of the network.

    Args:
      params: from `init`.
      x: images [B, H, W, C].
      norm: a rule of (x, scale, offset): `layer_norm` over the channels of each pixel, so that no image depends on the
        others; or `batch_norm`, then with the statistics of this batch.
      activation: a rule of one array.

    Returns:
      Logits [B, K].

    Raises:
      ValueError: there are no stages, the shapes do not fit, or the image is too small for the pooling.
    """
    return cnn_fwd(params, x, norm=norm, activation=activation)[0]


def cnn_fwd(
    params: Params, x: ArrayLike, *, norm: Rule = LAYER_NORM, activation: Rule = RELU
) -> tuple[Array, CnnResiduals]:
    """Keeps what each layer keeps. Not the pixels that are averaged in the end: a mean's derivative is a constant."""
    _checks.rule("cnn", "norm", norm)
    _checks.rule("cnn", "activation", activation)
    _checks.instance("cnn", "params", params, Params)
    if not params.stages:
        raise ValueError("cnn: params has no stages; expected at least one")
    (y,) = _checks.arrays("cnn", x=(x, "B H W C"))
    residuals = []
    for index, stage in enumerate(params.stages):
        y, stage_residuals = _stage_fwd(stage, y, norm, activation, pool=index > 0)
        residuals.append(stage_residuals)
    logits, head = _head_fwd(params.output, y)
    return logits, CnnResiduals(tuple(residuals), head)


def cnn_bwd(
    residuals: CnnResiduals, dlogits: Array, *, norm: Rule = LAYER_NORM, activation: Rule = RELU
) -> tuple[Params, Array]:
    """(dparams, dx): the output layer, the average, then each stage from the last.

    Derivation: the average of n = H W pixels has the derivative 1/n with respect to each, so all of them get the same
    cotangent. What a block adds to its layers is dx = d + first_bwd(f_bwd(second_bwd(d))), d the cotangent of its sum.
    """
    doutput, dy = _head_bwd(residuals.head, dlogits)
    dstages = []
    for stage_residuals in reversed(residuals.stages):
        dstage, dy = _stage_bwd(stage_residuals, dy, norm, activation)
        dstages.append(dstage)
    return Params(tuple(reversed(dstages)), doutput), dy


apply = cnn


def loss(
    params: Params,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    norm: Rule = LAYER_NORM,
    activation: Rule = RELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> Array:
    """The mean loss of a batch: what `jax.grad` differentiates.

    Args:
      params: from `init`.
      x: images [B, H, W, C].
      targets: what `loss_rule` takes beside the logits [B, K].
      norm, activation: as for `cnn`.
      loss_rule: a rule of (logits, targets).

    Returns:
      [].
    """
    return mean_loss("cnn.loss", _model(norm, activation), params, x, targets, loss_rule)


def loss_and_gradient(
    params: Params,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    norm: Rule = LAYER_NORM,
    activation: Rule = RELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    return mean_loss_and_gradient("cnn.loss", _model(norm, activation), params, x, targets, loss_rule)


def stages(params: Params, *, norm: Rule = LAYER_NORM, activation: Rule = RELU) -> Stages:
    """The network as a chain (see `models.stages`): the convolutions that widen, each block, average and output layer.

    Arguments as for `cnn`.
    """
    _checks.rule("cnn.stages", "norm", norm)
    _checks.rule("cnn.stages", "activation", activation)
    _checks.instance("cnn.stages", "params", params, Params)
    options = {"norm": norm, "activation": activation}
    block = as_rule(_block_fwd, _block_bwd, **options)
    rules: list[Rule] = []
    parts: list[Any] = []
    for index, p in enumerate(params.stages):
        widen = as_rule(functools.partial(_widen_fwd, pool=index > 0), _widen_bwd, **options)
        rules += [widen, *[block] * len(p.blocks)]
        parts += [p.widen, *p.blocks]
    return Stages((*rules, as_rule(_head_fwd, _head_bwd)), (*parts, params.output))


def _model(norm: Rule, activation: Rule) -> Rule:
    return bind(Rule(cnn, cnn_fwd, cnn_bwd), norm=norm, activation=activation)


def _stage_fwd(stage: Stage, x: Array, norm: Rule, activation: Rule, *, pool: bool) -> tuple[Array, StageResiduals]:
    y, widen = _widen_fwd(stage.widen, x, norm, activation, pool=pool)
    residuals = []
    for block in stage.blocks:
        y, block_residuals = _block_fwd(block, y, norm, activation)
        residuals.append(block_residuals)
    return y, StageResiduals(widen, tuple(residuals))


def _stage_bwd(residuals: StageResiduals, dy: Array, norm: Rule, activation: Rule) -> tuple[Stage, Array]:
    dblocks = []
    for block_residuals in reversed(residuals.blocks):
        dblock, dy = _block_bwd(block_residuals, dy, norm, activation)
        dblocks.append(dblock)
    dwiden, dx = _widen_bwd(residuals.widen, dy, norm, activation)
    return Stage(dwiden, tuple(reversed(dblocks))), dx


def _widen_fwd(
    params: Convolution, x: Array, norm: Rule, activation: Rule, *, pool: bool
) -> tuple[Array, WidenResiduals]:
    pooled = None
    if pool:
        x, pooled = max_pool2d_fwd(x)
    y, convolution = _convolution_fwd(params, x, norm)
    y, activated = activation.fwd(y)
    return y, WidenResiduals(pooled, convolution, activated)


def _widen_bwd(residuals: WidenResiduals, dy: Array, norm: Rule, activation: Rule) -> tuple[Convolution, Array]:
    (dy,) = activation.bwd(residuals.activation, dy)
    dparams, dx = _convolution_bwd(residuals.convolution, dy, norm)
    if residuals.pool is not None:
        (dx,) = max_pool2d_bwd(residuals.pool, dx)
    return dparams, dx


def _block_fwd(block: Block, x: Array, norm: Rule, activation: Rule) -> tuple[Array, BlockResiduals]:
    y, first = _convolution_fwd(block.first, x, norm)
    y, activated = activation.fwd(y)
    y, second = _convolution_fwd(block.second, y, norm)
    y, sum_activated = activation.fwd(x + y)
    return y, BlockResiduals(first, activated, second, sum_activated)


def _block_bwd(residuals: BlockResiduals, dy: Array, norm: Rule, activation: Rule) -> tuple[Block, Array]:
    (dsum,) = activation.bwd(residuals.sum_activation, dy)
    dsecond, dy = _convolution_bwd(residuals.second, dsum, norm)
    (dy,) = activation.bwd(residuals.activation, dy)
    dfirst, dx = _convolution_bwd(residuals.first, dy, norm)
    return Block(dfirst, dsecond), dsum + dx


def _head_fwd(output: Layer, y: Array) -> tuple[Array, HeadResiduals]:
    mean = jnp.mean(y.astype(accumulation_dtype(y.dtype)), axis=(1, 2)).astype(y.dtype)
    logits, residuals = linear_fwd(mean, *output)
    return logits, HeadResiduals(y[:0], residuals)


def _head_bwd(residuals: HeadResiduals, dlogits: Array) -> tuple[Layer, Array]:
    dmean, dw, db = linear_bwd(residuals.output, dlogits)
    _, height, width, channels = residuals.features.shape
    shape = (dmean.shape[0], height, width, channels)
    return Layer(dw, db), jnp.broadcast_to((dmean / (height * width))[:, None, None], shape)


def _convolution_fwd(params: Convolution, x: Array, norm: Rule) -> tuple[Array, ConvolutionResiduals]:
    y, convolution = conv2d_fwd(x, params.w, jnp.zeros_like(params.offset))
    y, normalized = norm.fwd(y, params.scale, params.offset)
    return y, ConvolutionResiduals(convolution, normalized)


def _convolution_bwd(residuals: ConvolutionResiduals, dy: Array, norm: Rule) -> tuple[Convolution, Array]:
    dy, dscale, doffset = norm.bwd(residuals.norm, dy)
    dx, dw, _ = conv2d_bwd(residuals.convolution, dy)
    return Convolution(dw, dscale, doffset), dx
