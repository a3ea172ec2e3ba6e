"""Losses."""

from typing import Any

import numpy as np
from numpy.random import Generator

from fundamentals import losses
from fundamentals.base import DTypeLike, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, integers, normal, with_zero


def _predictions_and_targets(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    shape = (sizes.B, sizes.D)
    return with_zero(normal(random, shape, dtype)), normal(random, shape, dtype)


def _logits_and_probabilities(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    shape = (sizes.B, sizes.D)
    return with_zero(normal(random, shape, dtype)), random.uniform(size=shape).astype(dtype)


def _logits_and_labels(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    labels = integers(random, (sizes.B,), sizes.K)
    return with_zero(normal(random, (sizes.B, sizes.K), dtype)), labels


def _logits_and_labels_to_ignore(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    logits, labels = _logits_and_labels(random, dtype, sizes)
    return logits, np.where(np.arange(sizes.B) % 2, np.int32(-1), labels)


def _scores_and_signs(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    shape = (sizes.B, sizes.D)
    return normal(random, shape, dtype), (2 * random.integers(0, 2, size=shape) - 1).astype(np.int32)


def _scores_and_float_signs(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    scores, labels = _scores_and_signs(random, dtype, sizes)
    return scores, labels.astype(dtype)


def _inputs_weights_and_labels(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    labels = integers(random, (sizes.B,), sizes.V)
    w = with_zero(normal(random, (sizes.D, sizes.V), dtype, sizes.D**-0.5))
    return with_zero(normal(random, (sizes.B, sizes.D), dtype)), w, labels


def _gaussians(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    means, targets = _predictions_and_targets(random, dtype, sizes)
    return means, normal(random, means.shape, dtype, 0.5), targets


def _codes(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    means, _ = _predictions_and_targets(random, dtype, sizes)
    return means, with_zero(normal(random, means.shape, dtype, 0.5))


def _mixtures(random: Generator, dtype: DTypeLike, sizes: Sizes) -> tuple[Any, ...]:
    shape = (sizes.B, sizes.N, sizes.D)
    means = with_zero(normal(random, shape, dtype, 0.5))  # overlapping, so that no component has all the weight
    log_scales = normal(random, shape, dtype, 0.3)
    return normal(random, shape[:2], dtype), means, log_scales, normal(random, (sizes.B, sizes.D), dtype)


_SOFTMAX_CROSS_ENTROPY = Rule(
    losses.softmax_cross_entropy, losses.softmax_cross_entropy_fwd, losses.softmax_cross_entropy_bwd
)
_HINGE = Rule(losses.hinge, losses.hinge_fwd, losses.hinge_bwd)

RULES: dict[str, Entry] = {
    "squared_error": Entry(
        Rule(losses.squared_error, losses.squared_error_fwd, losses.squared_error_bwd), _predictions_and_targets
    ),
    "binary_cross_entropy": Entry(
        Rule(losses.binary_cross_entropy, losses.binary_cross_entropy_fwd, losses.binary_cross_entropy_bwd),
        _logits_and_probabilities,
    ),
    "softmax_cross_entropy": Entry(_SOFTMAX_CROSS_ENTROPY, _logits_and_labels),
    "softmax_cross_entropy(label_smoothing=0.1, ignored_label=-1)": Entry(
        bind(_SOFTMAX_CROSS_ENTROPY, label_smoothing=0.1, ignored_label=-1), _logits_and_labels_to_ignore
    ),
    "hinge": Entry(_HINGE, _scores_and_signs),
    "hinge(float labels)": Entry(_HINGE, _scores_and_float_signs),
    "multiclass_hinge": Entry(
        Rule(losses.multiclass_hinge, losses.multiclass_hinge_fwd, losses.multiclass_hinge_bwd), _logits_and_labels
    ),
    "gaussian_nll": Entry(Rule(losses.gaussian_nll, losses.gaussian_nll_fwd, losses.gaussian_nll_bwd), _gaussians),
    "gaussian_kl": Entry(Rule(losses.gaussian_kl, losses.gaussian_kl_fwd, losses.gaussian_kl_bwd), _codes),
    "mixture_density_nll": Entry(
        Rule(losses.mixture_density_nll, losses.mixture_density_nll_fwd, losses.mixture_density_nll_bwd), _mixtures
    ),
    "linear_cross_entropy": Entry(
        Rule(losses.linear_cross_entropy, losses.linear_cross_entropy_fwd, losses.linear_cross_entropy_bwd),
        _inputs_weights_and_labels,
    ),
}
