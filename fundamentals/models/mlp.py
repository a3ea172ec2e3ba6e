"""Multilayer perceptron: linear layers with an activation between them, and its backward pass by hand.

    x_0 = x,   z_l = x_{l−1} w_l + b_l,   x_l = f(z_l)  (hidden layers),   logits = x_{L−1} w_L + b_L

(w_l and b_l are params[l − 1].) Backpropagation is the same list of rules read from the end: each `_bwd` takes the
cotangent of its output and hands the cotangent of its input to the layer before. Nothing is computed twice, so the
backward pass costs about two forward passes at any depth: one for the weights' cotangents, one for the inputs'.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks, activations, initializers, losses
from fundamentals.activations import MaxoutResiduals, maxout_bwd, maxout_fwd
from fundamentals.base import Array, ArrayLike, DTypeLike, Initializer, PRNGKey, Rule, bind
from fundamentals.layers.linear import LinearResiduals, linear_bwd, linear_fwd
from fundamentals.models.objective import mean_loss, mean_loss_and_gradient
from fundamentals.models.stages import Stages, as_rule

RELU = Rule(activations.relu, activations.relu_fwd, activations.relu_bwd)
SOFTMAX_CROSS_ENTROPY = Rule(
    losses.softmax_cross_entropy, losses.softmax_cross_entropy_fwd, losses.softmax_cross_entropy_bwd
)


class Layer(NamedTuple):
    """The parameters of one layer. A hidden layer with a leading axis P is a maxout layer."""

    w: Array  # [D, H] or [P, D, H]
    b: Array  # [H] or [P, H]


Params = tuple[Layer, ...]


class HiddenResiduals(NamedTuple):
    """What one hidden layer keeps."""

    linear: LinearResiduals
    activation: Any


class MlpResiduals(NamedTuple):
    """What `mlp_bwd` needs."""

    hidden: tuple[HiddenResiduals | MaxoutResiduals, ...]
    output: LinearResiduals


def init(
    key: PRNGKey,
    sizes: Sequence[int],
    *,
    initializer: Initializer = initializers.he_normal(),
    bias_initializer: Initializer = initializers.zeros,
    pieces: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters for layers of the given sizes.

    Args:
      key: a PRNG key; each layer draws from its own.
      sizes: inputs, hidden layers, outputs: `(64, 128, 10)` has one hidden layer of 128 units.
      initializer: of the weights; it sees each piece's [D, H].
      bias_initializer: of the biases.
      pieces: None for hidden layers that take an activation; P for maxout layers of P pieces.
      dtype: of all parameters.

    Returns:
      One `Layer` for each consecutive pair of sizes.

    Raises:
      ValueError: fewer than two sizes, or one that is not positive.
    """
    _checks.key("mlp.init", "key", key)
    _checks.layer_sizes("mlp.init", "sizes", sizes, 2, "the inputs and the outputs")
    if pieces is not None:
        _checks.positive_integers("mlp.init", pieces=pieces)
    layers = []
    keys = jax.random.split(key, len(sizes) - 1)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        w_key, b_key = jax.random.split(keys[index])
        if pieces is None or index == len(sizes) - 2:
            layer = Layer(initializer(w_key, (inputs, outputs), dtype), bias_initializer(b_key, (outputs,), dtype))
        else:
            w = [initializer(k, (inputs, outputs), dtype) for k in jax.random.split(w_key, pieces)]
            b = [bias_initializer(k, (outputs,), dtype) for k in jax.random.split(b_key, pieces)]
            layer = Layer(jnp.stack(w), jnp.stack(b))
        layers.append(layer)
    return tuple(layers)


def mlp(params: Params, x: ArrayLike, *, activation: Rule = RELU) -> Array:
    """The logits of the network.

    Args:
      params: the layers, from `init`.
      x: inputs [..., D].
      activation: the rule between the layers, of one array; maxout layers do without.

    Returns:
      Logits [..., K].

    Raises:
      ValueError: there are no layers, or the shapes do not fit.
    """
    return mlp_fwd(params, x, activation=activation)[0]


def mlp_fwd(params: Params, x: ArrayLike, *, activation: Rule = RELU) -> tuple[Array, MlpResiduals]:
    """Keeps what each layer keeps.

    Under `jit` that is one array a hidden layer where the activation keeps its output, since the next layer
    keeps the same array as its input; activations that keep their input (gelu, silu) double it.
    """
    _checks.rule("mlp", "activation", activation)
    if not isinstance(params, tuple | list):
        raise TypeError(f"mlp: params is of type {type(params).__name__}; expected a sequence of layers")
    if not params:
        raise ValueError("mlp: params is empty; expected at least one layer")
    for i, layer in enumerate(params):
        _checks.instance("mlp", f"params[{i}]", layer, Layer)
    *hidden, output = params
    residuals = []
    for layer in hidden:
        x, layer_residuals = _hidden_fwd(layer, x, activation)
        residuals.append(layer_residuals)
    logits, output_residuals = _output_fwd(output, x)
    return logits, MlpResiduals(tuple(residuals), output_residuals)


def mlp_bwd(residuals: MlpResiduals, dlogits: Array, *, activation: Rule = RELU) -> tuple[Params, Array]:
    """(dparams, dx): the chain rule, layer by layer from the last.

    Derivation: the loss depends on x_{l−1} only through z_l, so each step needs no more than the cotangent
    that the step after it produced: dx_l → dz_l = f_bwd(dx_l) → (dx_{l−1}, dw_l, db_l) = linear_bwd(dz_l).
    """
    dlayer, dx = _output_bwd(residuals.output, dlogits)
    dparams = [dlayer]
    for layer_residuals in reversed(residuals.hidden):
        dlayer, dx = _hidden_bwd(layer_residuals, dx, activation)
        dparams.append(dlayer)
    return tuple(reversed(dparams)), dx


apply = mlp


def loss(
    params: Params,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    activation: Rule = RELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> Array:
    """The mean loss of a batch: what `jax.grad` differentiates.

    Args:
      params: the layers.
      x: inputs [..., D].
      targets: what `loss_rule` takes beside the logits [..., K]: labels [...], or [..., K].
      activation: the rule between the layers.
      loss_rule: a rule of (logits, targets). A loss per unit [..., K] is summed over the units.

    Returns:
      [], the sum of all losses over the number of examples.
    """
    return mean_loss("mlp.loss", _model(activation), params, x, targets, loss_rule)


def loss_and_gradient(
    params: Params,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    activation: Rule = RELU,
    loss_rule: Rule = SOFTMAX_CROSS_ENTROPY,
) -> tuple[Array, Params]:
    """(loss, dparams), equal to `jax.value_and_grad(loss)`, by hand from end to end. Arguments as for `loss`."""
    return mean_loss_and_gradient("mlp.loss", _model(activation), params, x, targets, loss_rule)


def stages(params: Params, *, activation: Rule = RELU) -> Stages:
    """The network as a chain (see `models.stages`): a stage for each layer. Arguments as for `mlp`."""
    _checks.rule("mlp.stages", "activation", activation)
    hidden = as_rule(_hidden_fwd, _hidden_bwd, activation=activation)
    return Stages((hidden,) * (len(params) - 1) + (as_rule(_output_fwd, _output_bwd),), tuple(params))


def _model(activation: Rule) -> Rule:
    return bind(Rule(mlp, mlp_fwd, mlp_bwd), activation=activation)


def _hidden_fwd(layer: Layer, x: ArrayLike, activation: Rule) -> tuple[Array, HiddenResiduals | MaxoutResiduals]:
    if jnp.ndim(layer.w) == 3:
        return maxout_fwd(x, *layer)
    z, linear_residuals = linear_fwd(x, *layer)
    y, activation_residuals = activation.fwd(z)
    return y, HiddenResiduals(linear_residuals, activation_residuals)


def _hidden_bwd(residuals: HiddenResiduals | MaxoutResiduals, dy: Array, activation: Rule) -> tuple[Layer, Array]:
    if isinstance(residuals, MaxoutResiduals):
        dx, dw, db = maxout_bwd(residuals, dy)
        return Layer(dw, db), dx
    (dz,) = activation.bwd(residuals.activation, dy)
    return _output_bwd(residuals.linear, dz)


def _output_fwd(layer: Layer, x: ArrayLike) -> tuple[Array, LinearResiduals]:
    return linear_fwd(x, *layer)


def _output_bwd(residuals: LinearResiduals, dy: Array) -> tuple[Layer, Array]:
    dx, dw, db = linear_bwd(residuals, dy)
    return Layer(dw, db), dx
