"""The mean loss of a batch and its gradient, for any model that is a rule of (params, x)."""

import math
from typing import Any

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Rule, accumulation_dtype


def mean_loss(function: str, model: Rule, params: Any, x: ArrayLike, targets: ArrayLike, loss_rule: Rule) -> Array:
    """[], the sum of all losses over the number of examples; `function` is who asks, for messages."""
    _checks.rule(function, "loss_rule", loss_rule)
    logits = model.primal(params, x)
    return _mean(loss_rule.primal(logits, targets), _examples(function, logits, x))


def mean_loss_and_gradient(
    function: str, model: Rule, params: Any, x: ArrayLike, targets: ArrayLike, loss_rule: Rule
) -> tuple[Array, Any]:
    """(loss, dparams), by hand from end to end.

    L = (1/B) Σ_b y_b, so every dy_b is 1/B; the loss rule turns it into dlogits and the model into dparams.
    """
    _checks.rule(function, "loss_rule", loss_rule)
    logits, residuals = model.fwd(params, x)
    examples = _examples(function, logits, x)
    per_example, loss_residuals = loss_rule.fwd(logits, targets)
    dlogits = loss_rule.bwd(loss_residuals, jnp.full_like(per_example, 1 / examples))[0]
    return _mean(per_example, examples), model.bwd(residuals, dlogits)[0]


def _examples(function: str, logits: Array, x: ArrayLike) -> int:
    """How many examples the leading axes hold."""
    examples = math.prod(logits.shape[:-1])
    if examples == 0:
        raise ValueError(f"{function}: x has shape {list(jnp.shape(x))}; expected at least one example")
    return examples


def _mean(losses: Array, examples: int) -> Array:
    return (jnp.sum(losses, dtype=accumulation_dtype(losses.dtype)) / examples).astype(losses.dtype)
