"""Recurrent classifier: layers of tanh cells over a sequence, a linear layer on the last state, and its backward pass.

    y_0 = x,   y_l = rnn(y_{l−1}, h0 = 0)  (all states of layer l),   logits = (last state of y_L) w + b

The loss sees only the last step of the last layer. Every other cotangent, of T · L − 1 states, gets there through time.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, initializers
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule
from fundamentals.layers.linear import LinearResiduals, linear_bwd, linear_fwd
from fundamentals.layers.recurrent import RnnResiduals, rnn_bwd, rnn_fwd
from fundamentals.models.mlp import SOFTMAX_CROSS_ENTROPY, Layer
from fundamentals.models.objective import mean_loss, mean_loss_and_gradient
from fundamentals.models.stages import Stages, as_rule


class Cell(NamedTuple):
    """The parameters of one recurrent layer."""

    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    b: Array  # [H]


class Params(NamedTuple):
    """The parameters of the network."""

    cells: tuple[Cell, ...]
    output: Layer


class HeadResiduals(NamedTuple):
    """What the output layer keeps."""

    no_states: Array  # [0, B, T, H]: the shape of the last layer's states, in no bytes
    output: LinearResiduals


class RnnClassifierResiduals(NamedTuple):
    """What `rnn_classifier_bwd` needs. Each layer's states are the next layer's x: one array under `jit`."""

    cells: tuple[RnnResiduals, ...]
    head: HeadResiduals


def init(
    key: PRNGKey,
    sizes: Sequence[int],
    *,
    initializer: Initializer = initializers.xavier_uniform(),
    recurrent_initializer: Initializer = initializers.orthogonal(1.0),
    bias_initializer: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters for layers of the given sizes.

    Args:
      key: a PRNG key; each array draws from its own.
      sizes: inputs D, states of each layer, classes K: `(8, 64, 10)` has one layer of 64 units.
      initializer: of w_x and the output's weights.
      recurrent_initializer: of w_h; orthogonal, whose powers neither vanish nor explode.
      bias_initializer: of the biases.
      dtype: of all parameters.

    Raises:
      ValueError: fewer than three sizes, or one that is not positive.
    """
    _checks.key("rnn.init", "key", key)
    _checks.layer_sizes("rnn.init", "sizes", sizes, 3, "the inputs, one layer, the outputs")
    *cell_keys, output_key = jax.random.split(key, len(sizes) - 1)
    cells = []
    for cell_key, (inputs, units) in zip(cell_keys, itertools.pairwise(sizes[:-1]), strict=True):
        x_key, h_key, b_key = jax.random.split(cell_key, 3)
        w_x, w_h = initializer(x_key, (inputs, units), dtype), recurrent_initializer(h_key, (units, units), dtype)
        cells.append(Cell(w_x, w_h, bias_initializer(b_key, (units,), dtype)))
    w_key, b_key = jax.random.split(output_key)
    output = Layer(initializer(w_key, tuple(sizes[-2:]), dtype), bias_initializer(b_key, tuple(sizes[-1:]), dtype))
    return Params(tuple(cells), output)


def rnn_classifier(params: Params, x: ArrayLike) -> Array:
    """The logits of the network after the last step.

    Args:
      params: from `init`.
      x: sequences [B, T, D], T ≥ 1.

    Returns:
      Logits [B, K].

    Raises:
      ValueError: there are no layers or no steps, or the shapes do not fit.
    """
    return rnn_classifier_fwd(params, x)[0]


def rnn_classifier_fwd(params: Params, x: ArrayLike) -> tuple[Array, RnnClassifierResiduals]:
    """Keeps what each layer keeps: the sequence and every state."""
    _checks.instance("rnn_classifier", "params", params, Params)
    if not params.cells:
        raise ValueError("rnn_classifier: params has no cells; expected at least one layer")
    (y,) = _checks.arrays("rnn_classifier", x=(x, "B T D"))
    _checks.not_empty("rnn_classifier", "x", y.shape[1], "T")
    residuals = []
    for cell in params.cells:
        y, cell_residuals = _cell_fwd(cell, y)
        residuals.append(cell_residuals)
    logits, head = _head_fwd(params.output, y)
    return logits, RnnClassifierResiduals(tuple(residuals), head)


def rnn_classifier_bwd(residuals: RnnClassifierResiduals, dlogits: Array) -> tuple[Params, Array]:
    """(dparams, dx): the output layer, then through time in each layer from the last.

    Derivation: the logits depend on the last state alone, so dy is 0 at every other step of the last layer, and rnn_bwd
    takes it from there. The states of a layer are the inputs of the next, whose dx is their dy.
    """
    doutput, dy = _head_bwd(residuals.head, dlogits)
    dcells = []
    for cell_residuals in reversed(residuals.cells):
        dcell, dy = _cell_bwd(cell_residuals, dy)
        dcells.append(dcell)
    return Params(tuple(reversed(dcells)), doutput), dy


apply = rnn_classifier


def loss(params: Params, x: ArrayLike, targets: ArrayLike, *, loss_rule: Rule = SOFTMAX_CROSS_ENTROPY) -> Array:
    """The mean loss of a batch: what `jax.grad` differentiates.

    Args:
      params: from `init`.
      x: sequences [B, T, D].
      targets: what `loss_rule` takes beside the logits [B, K].
      loss_rule: a rule of (logits, targets).

    Returns:
      [].
    """
    return mean_loss("rnn.loss", _MODEL, params, x, targets, loss_rule)


def loss_and_gradient(
    params: Params, x: ArrayLike, targets: ArrayLike, *, loss_rule: Rule = SOFTMAX_CROSS_ENTROPY
) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    return mean_loss_and_gradient("rnn.loss", _MODEL, params, x, targets, loss_rule)


def stages(params: Params) -> Stages:
    """The network as a chain (see `models.stages`): each recurrent layer, over all steps, and the output layer.

    `memory.checkpointed_scan` is for what one layer keeps of many steps.
    """
    _checks.instance("rnn.stages", "params", params, Params)
    cell = as_rule(_cell_fwd, _cell_bwd)
    return Stages((cell,) * len(params.cells) + (as_rule(_head_fwd, _head_bwd),), (*params.cells, params.output))


def _cell_fwd(cell: Cell, x: Array) -> tuple[Array, RnnResiduals]:
    return rnn_fwd(x, jnp.zeros_like(x, shape=(x.shape[0], cell.b.shape[0])), *cell)


def _cell_bwd(residuals: RnnResiduals, dy: Array) -> tuple[Cell, Array]:
    dx, _, *dcell = rnn_bwd(residuals, dy)
    return Cell(*dcell), dx


def _head_fwd(output: Layer, y: Array) -> tuple[Array, HeadResiduals]:
    logits, residuals = linear_fwd(y[:, -1], *output)
    return logits, HeadResiduals(y[None][:0], residuals)


def _head_bwd(residuals: HeadResiduals, dlogits: Array) -> tuple[Layer, Array]:
    dlast, dw, db = linear_bwd(residuals.output, dlogits)
    dy = jnp.zeros(residuals.no_states.shape[1:], dlast.dtype).at[:, -1].set(dlast)
    return Layer(dw, db), dy


_MODEL = Rule(rnn_classifier, rnn_classifier_fwd, rnn_classifier_bwd)
