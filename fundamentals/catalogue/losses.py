"""Losses."""

from typing import Any

import jax
import jax.numpy as jnp

from fundamentals import losses
from fundamentals.base import DTypeLike, PRNGKey, Rule
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


def _scores_and_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores_key, labels_key = jax.random.split(key)
    shape = (sizes.B, sizes.D)
    return normal(scores_key, shape, dtype), 2 * jax.random.bernoulli(labels_key, shape=shape).astype(jnp.int32) - 1


def _scores_and_float_signs(key: PRNGKey, dtype: DTypeLike, sizes: Sizes = Sizes()) -> tuple[Any, ...]:
    scores, labels = _scores_and_signs(key, dtype, sizes)
    return scores, labels.astype(dtype)


_HINGE = Rule(losses.hinge, losses.hinge_fwd, losses.hinge_bwd)

RULES: dict[str, Entry] = {
    "squared_error": Entry(
        Rule(losses.squared_error, losses.squared_error_fwd, losses.squared_error_bwd), _predictions_and_targets
    ),
    "binary_cross_entropy": Entry(
        Rule(losses.binary_cross_entropy, losses.binary_cross_entropy_fwd, losses.binary_cross_entropy_bwd),
        _logits_and_probabilities,
    ),
    "softmax_cross_entropy": Entry(
        Rule(losses.softmax_cross_entropy, losses.softmax_cross_entropy_fwd, losses.softmax_cross_entropy_bwd),
        _logits_and_labels,
    ),
    "hinge": Entry(_HINGE, _scores_and_signs),
    "hinge(float labels)": Entry(_HINGE, _scores_and_float_signs),
}
