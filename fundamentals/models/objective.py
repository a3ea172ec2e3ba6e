"""The mean loss of a batch and its gradient, for any model that is a rule of (params, x)."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Rule, accumulation_dtype


class MeanResiduals(NamedTuple):
    """What the backward pass of `mean` needs."""

    loss: Any
    no_losses: Array  # [0, ...] or [0, ..., K]: the shape of the losses, in no bytes
    no_logits: Array  # [0, ..., K]: likewise


def mean(loss_rule: Rule) -> Rule:
    """A rule of (targets, logits [..., K]) → [], the sum of all losses over the number of examples.

    L = (1/B) Σ_b y_b, so every dy_b is dL/B, which the loss rule turns into dlogits. Targets have no cotangent.
    """
    _checks.rule("mean", "loss_rule", loss_rule)

    def primal(targets: ArrayLike, logits: Array) -> Array:
        return _mean(loss_rule.primal(logits, targets), _examples(logits))

    def fwd(targets: ArrayLike, logits: Array) -> tuple[Array, MeanResiduals]:
        losses, residuals = loss_rule.fwd(logits, targets)
        return _mean(losses, _examples(logits)), MeanResiduals(residuals, losses[None][:0], logits[None][:0])

    def bwd(residuals: MeanResiduals, dloss: Array) -> tuple[None, Array]:
        examples = math.prod(residuals.no_logits.shape[1:-1])
        dlosses = jnp.full(residuals.no_losses.shape[1:], dloss * (1 / examples))
        return None, loss_rule.bwd(residuals.loss, dlosses)[0]

    return Rule(primal, fwd, bwd)


def mean_loss(function: str, model: Rule, params: Any, x: ArrayLike, targets: ArrayLike, loss_rule: Rule) -> Array:
    """[], the sum of all losses over the number of examples; `function` is who asks, for messages."""
    _checks.rule(function, "loss_rule", loss_rule)
    logits = model.primal(params, x)
    _check_examples(function, logits, x)
    loss: Array = mean(loss_rule).primal(targets, logits)
    return loss


def mean_loss_and_gradient(
    function: str, model: Rule, params: Any, x: ArrayLike, targets: ArrayLike, loss_rule: Rule
) -> tuple[Array, Any]:
    """(loss, dparams), by hand from end to end: the model's passes, between them those of the mean of losses."""
    _checks.rule(function, "loss_rule", loss_rule)
    logits, residuals = model.fwd(params, x)
    _check_examples(function, logits, x)
    objective = mean(loss_rule)
    loss, loss_residuals = objective.fwd(targets, logits)
    _, dlogits = objective.bwd(loss_residuals, jnp.ones_like(loss))
    return loss, model.bwd(residuals, dlogits)[0]


def _examples(logits: Array) -> int:
    """How many examples the leading axes hold."""
    return math.prod(logits.shape[:-1])


def _check_examples(function: str, logits: Array, x: ArrayLike) -> None:
    if _examples(logits) == 0:
        raise ValueError(f"{function}: x has shape {list(jnp.shape(x))}; expected at least one example")


def _mean(losses: Array, examples: int) -> Array:
    return (jnp.sum(losses, dtype=accumulation_dtype(losses.dtype)) / examples).astype(losses.dtype)
