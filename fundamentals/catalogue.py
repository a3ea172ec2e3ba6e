"""Every rule of the library with example arguments: what tests and experiments iterate over.

    for name, entry in RULES.items():
        args = entry.arguments(jax.random.key(0), jnp.float32)
        y, residuals = entry.rule.fwd(*args)
        cotangents = entry.rule.bwd(residuals, jnp.ones_like(y))

Example arguments are never degenerate: sizes are distinct primes, so that a transposed or wrongly summed array cannot
fit by accident; labels repeat; means are not zero, but where the rule has no kink there one entry is exactly 0. A
rule's name is its primal's, with the options where they are not the default.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import activations, losses
from fundamentals.base import Array, DTypeLike, PRNGKey, Rule, bind
from fundamentals.layers import linear, linear_bwd, linear_fwd
from fundamentals.models import mlp


class Sizes(NamedTuple):
    """How large example arguments are, by the shape letters of `base`."""

    B: int = 5
    D: int = 7
    H: int = 3
    K: int = 11
    P: int = 2


class Entry(NamedTuple):
    """A rule, and `arguments(key, dtype, sizes=Sizes())`, a tuple of positional arguments for it."""

    rule: Rule
    arguments: Callable[..., tuple[Any, ...]]


def _elementwise(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return (_normal(key, (sizes.B, sizes.D), dtype),)


def _logits(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return (_with_zero(_normal(key, (sizes.B, sizes.K), dtype)),)


def _maxout(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, b_key = jax.random.split(key, 3)
    w = _with_zero(_normal(w_key, (sizes.P, sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return _with_zero(_normal(x_key, (sizes.B, sizes.D), dtype)), w, _normal(b_key, (sizes.P, sizes.H), dtype)


def _linear(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, b_key = jax.random.split(key, 3)
    w = _with_zero(_normal(w_key, (sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return _with_zero(_normal(x_key, (sizes.B, sizes.D), dtype)), w, _normal(b_key, (sizes.H,), dtype)


def _predictions_and_targets(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    predictions_key, targets_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return _with_zero(_normal(predictions_key, shape, dtype)), _normal(targets_key, shape, dtype)


def _logits_and_probabilities(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits_key, targets_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return _with_zero(_normal(logits_key, shape, dtype)), jax.random.uniform(targets_key, shape).astype(dtype)


def _logits_and_labels(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits_key, labels_key = jax.random.split(key)
    labels = jax.random.randint(labels_key, (sizes.B,), 0, sizes.K).at[-1].set(sizes.K - 1).at[-2].set(sizes.K - 1)
    return _with_zero(_normal(logits_key, (sizes.B, sizes.K), dtype)), labels


def _scores_and_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores_key, labels_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return _normal(scores_key, shape, dtype), 2 * jax.random.bernoulli(labels_key, shape=shape).astype(jnp.int32) - 1


def _scores_and_float_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores, labels = _scores_and_signs(key, dtype, sizes)
    return scores, labels.astype(dtype)


def _mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes(), *, pieces: int | None = None) -> tuple[Any, ...]:
    params_key, x_key = jax.random.split(key)
    widths = (sizes.D, sizes.H, sizes.H + 10, sizes.K)
    params = mlp.init(params_key, widths, bias_initializer=_biases, pieces=pieces, dtype=dtype)
    return params, _with_zero(_normal(x_key, (sizes.B, sizes.D), dtype))


def _maxout_mlp(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    return _mlp(key, dtype, sizes, pieces=sizes.P)


def _biases(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return _normal(key, shape, dtype, 0.1)


def _normal(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike, scale: float = 1.5) -> Array:
    """Numbers around a mean that is not zero; drawn in float32 for every dtype, so that they are nearly the same."""
    return (scale * jax.random.normal(key, shape, jnp.float32) + 0.2 * scale).astype(dtype)


def _with_zero(x: Array) -> Array:
    """The same array, its first entry exactly 0."""
    return x.at[(0,) * x.ndim].set(0)


_GELU = Rule(activations.gelu, activations.gelu_fwd, activations.gelu_bwd)
_ELU = Rule(activations.elu, activations.elu_fwd, activations.elu_bwd)
_LEAKY_RELU = Rule(activations.leaky_relu, activations.leaky_relu_fwd, activations.leaky_relu_bwd)
_TANH = Rule(activations.tanh, activations.tanh_fwd, activations.tanh_bwd)
_HINGE = Rule(losses.hinge, losses.hinge_fwd, losses.hinge_bwd)
_MLP = Rule(mlp.mlp, mlp.mlp_fwd, mlp.mlp_bwd)

RULES: dict[str, Entry] = {
    "sigmoid": Entry(Rule(activations.sigmoid, activations.sigmoid_fwd, activations.sigmoid_bwd), _elementwise),
    "tanh": Entry(_TANH, _elementwise),
    "relu": Entry(mlp.RELU, _elementwise),
    "leaky_relu": Entry(_LEAKY_RELU, _elementwise),
    "leaky_relu(negative_slope=0.3)": Entry(bind(_LEAKY_RELU, negative_slope=0.3), _elementwise),
    "elu": Entry(_ELU, _elementwise),
    "elu(alpha=0.5)": Entry(bind(_ELU, alpha=0.5), _elementwise),
    "softplus": Entry(Rule(activations.softplus, activations.softplus_fwd, activations.softplus_bwd), _elementwise),
    "silu": Entry(Rule(activations.silu, activations.silu_fwd, activations.silu_bwd), _elementwise),
    "gelu": Entry(_GELU, _elementwise),
    "gelu(approximate=False)": Entry(bind(_GELU, approximate=False), _elementwise),
    "softmax": Entry(Rule(activations.softmax, activations.softmax_fwd, activations.softmax_bwd), _logits),
    "log_softmax": Entry(
        Rule(activations.log_softmax, activations.log_softmax_fwd, activations.log_softmax_bwd), _logits
    ),
    "maxout": Entry(Rule(activations.maxout, activations.maxout_fwd, activations.maxout_bwd), _maxout),
    "linear": Entry(Rule(linear, linear_fwd, linear_bwd), _linear),
    "squared_error": Entry(
        Rule(losses.squared_error, losses.squared_error_fwd, losses.squared_error_bwd), _predictions_and_targets
    ),
    "binary_cross_entropy": Entry(
        Rule(losses.binary_cross_entropy, losses.binary_cross_entropy_fwd, losses.binary_cross_entropy_bwd),
        _logits_and_probabilities,
    ),
    "softmax_cross_entropy": Entry(mlp.SOFTMAX_CROSS_ENTROPY, _logits_and_labels),
    "hinge": Entry(_HINGE, _scores_and_signs),
    "hinge(float labels)": Entry(_HINGE, _scores_and_float_signs),
    "mlp": Entry(_MLP, _mlp),
    "mlp(activation=tanh)": Entry(bind(_MLP, activation=_TANH), _mlp),
    "mlp(maxout)": Entry(_MLP, _maxout_mlp),
}
