"""Losses."""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals import losses
from fundamentals.base import DTypeLike, PRNGKey, Rule, bind
from fundamentals.catalogue.examples import Entry, Sizes, normal, with_zero


def _predictions_and_targets(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    predictions_key, targets_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return with_zero(normal(predictions_key, shape, dtype)), normal(targets_key, shape, dtype)


def _logits_and_probabilities(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits_key, targets_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return with_zero(normal(logits_key, shape, dtype)), jax.random.uniform(targets_key, shape).astype(dtype)


def _logits_and_labels(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits_key, labels_key = jax.random.split(key)
    labels = jax.random.randint(labels_key, (sizes.B,), 0, sizes.K).at[-1].set(sizes.K - 1).at[-2].set(sizes.K - 1)
    return with_zero(normal(logits_key, (sizes.B, sizes.K), dtype)), labels


def _logits_and_labels_to_ignore(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits, labels = _logits_and_labels(key, dtype, sizes)
    return logits, labels.at[1::2].set(-1)


def _scores_and_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores_key, labels_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return normal(scores_key, shape, dtype), 2 * jax.random.bernoulli(labels_key, shape=shape).astype(jnp.int32) - 1


def _scores_and_float_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores, labels = _scores_and_signs(key, dtype, sizes)
    return scores, labels.astype(dtype)


def _inputs_weights_and_labels(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    x_key, w_key, labels_key = jax.random.split(key, 3)
    labels = jax.random.randint(labels_key, (sizes.B,), 0, sizes.V).at[-1].set(sizes.V - 1).at[-2].set(sizes.V - 1)
    w = with_zero(normal(w_key, (sizes.D, sizes.V), dtype, sizes.D**-0.5))
    return with_zero(normal(x_key, (sizes.B, sizes.D), dtype)), w, labels


def _gaussians(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scales_key, others_key = jax.random.split(key)
    means, targets = _predictions_and_targets(others_key, dtype, sizes)
    return means, normal(scales_key, means.shape, dtype, 0.5), targets


def _mixtures(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    logits_key, means_key, scales_key, targets_key = jax.random.split(key, 4)
    shape = (sizes.B, sizes.N, sizes.D)
    means = with_zero(normal(means_key, shape, dtype, 0.5))  # overlapping, so that no component has all the weight
    log_scales = normal(scales_key, shape, dtype, 0.3)
    return normal(logits_key, shape[:2], dtype), means, log_scales, normal(targets_key, (sizes.B, sizes.D), dtype)


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
    "mixture_density_nll": Entry(
        Rule(losses.mixture_density_nll, losses.mixture_density_nll_fwd, losses.mixture_density_nll_bwd), _mixtures
    ),
    "linear_cross_entropy": Entry(
        Rule(losses.linear_cross_entropy, losses.linear_cross_entropy_fwd, losses.linear_cross_entropy_bwd),
        _inputs_weights_and_labels,
    ),
}
