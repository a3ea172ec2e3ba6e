"""Activations."""

from typing import Any

from numpy.random import Generator

from fundamentals import activations
from fundamentals.base import DTypeLike, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, normal, with_zero


def _elementwise(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return (normal(random, (sizes.B, sizes.D), dtype),)


def _logits(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    return (with_zero(normal(random, (sizes.B, sizes.K), dtype)),)


def _maxout(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    w = with_zero(normal(random, (sizes.P, sizes.D, sizes.H), dtype, sizes.D**-0.5))
    return with_zero(normal(random, (sizes.B, sizes.D), dtype)), w, normal(random, (sizes.P, sizes.H), dtype)


_GELU = Rule(activations.gelu, activations.gelu_fwd, activations.gelu_bwd)
_ELU = Rule(activations.elu, activations.elu_fwd, activations.elu_bwd)
_LEAKY_RELU = Rule(activations.leaky_relu, activations.leaky_relu_fwd, activations.leaky_relu_bwd)
_TANH = Rule(activations.tanh, activations.tanh_fwd, activations.tanh_bwd)

RULES: dict[str, Entry] = {
    "sigmoid": Entry(Rule(activations.sigmoid, activations.sigmoid_fwd, activations.sigmoid_bwd), _elementwise),
    "tanh": Entry(_TANH, _elementwise),
    "relu": Entry(Rule(activations.relu, activations.relu_fwd, activations.relu_bwd), _elementwise),
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
}
