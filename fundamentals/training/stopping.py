"""Early stopping as a pair of pure functions, its state plain data, in the shape of an optimizer.

    stopping = early_stopping(patience=10)
    state = stopping.init(params)
    for … :
        params, … = step(params, …)
        state = stopping.update(validation_loss, params, state)
        if state.stopped: break
    params = state.best_params

Inside of `lax.scan` and `vmap`, where no loop breaks, a state that has stopped does not change any more: training may
go on beside it, at its cost, and the result is the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayTree, Numeric


class EarlyStoppingState(NamedTuple):
    """What has been best so far, and how long ago that was."""

    best_params: Any  # of the update with the best score; before there is one, those of `init`
    best_score: Array  # [], floating; ±inf before there is one
    best_step: Array  # [], int32, counted from 0; −1 before there is one
    step: Array  # [], int32, how many updates there were before it stopped
    waited: Array  # [], int32, how many of these since the best
    stopped: Array  # [], bool; then nothing changes any more


class EarlyStopping(NamedTuple):
    """Two pure functions: `init(params) -> state`, `update(score, params, state) -> state`."""

    init: Callable[[ArrayTree], EarlyStoppingState]
    update: Callable[[Numeric, ArrayTree, EarlyStoppingState], EarlyStoppingState]


def early_stopping(patience: int, *, min_delta: Numeric = 0.0, mode: str = "min") -> EarlyStopping:
    """Stop after `patience` updates in a row without a better score, and keep the parameters of the best.

    I. Goodfellow, Y. Bengio and A. Courville, Deep learning, 2016, algorithm 7.1. The best score is the least of many,
    and so too good: the error to report is that of `best_params` on examples that had no part in it.

    Args:
      patience: updates without improvement after which it stops, ≥ 1.
      min_delta: by how much a score has to be better than the best to count, ≥ 0.
      mode: "min" where less is better (a loss), "max" where more is (an accuracy).

    Returns:
      An `EarlyStopping`. Scores are compared in float32, in x64 in float64. A score of NaN is no improvement. The state
      has its own copy of the parameters, so that theirs may be donated; `update` reads both and writes one.

    Raises:
      ValueError: patience < 1, min_delta < 0, or a mode that there is not; by `update`, a score with axes, or
        parameters of another structure or other shapes than those of `init`.
      TypeError: parameters of other dtypes than those of `init`, or a score that is no number.
    """
    _checks.positive_integers("early_stopping", patience=patience)
    _checks.interval("early_stopping", "[0, inf)", min_delta=min_delta)
    _checks.choice("early_stopping", "mode", mode, ("min", "max"))
    sign = 1.0 if mode == "min" else -1.0

    def init(params: ArrayTree) -> EarlyStoppingState:
        score, none = jnp.asarray(sign * jnp.inf, jnp.result_type(float)), jnp.asarray(0, jnp.int32)
        return EarlyStoppingState(
            jax.tree.map(lambda x: jnp.array(x, copy=True), params), score, none - 1, none, none, jnp.asarray(False)
        )

    def update(score: Numeric, params: ArrayTree, state: EarlyStoppingState) -> EarlyStoppingState:
        _checks.instance("early_stopping", "state", state, EarlyStoppingState)
        score = _checks.array("early_stopping", "score", score, "real").astype(state.best_score.dtype)
        _checks.scalar("early_stopping", "score", score)
        _checks.same_shapes("early_stopping", "state.best_params", state.best_params, params=params)
        _checks.same_dtypes("early_stopping", "state.best_params", state.best_params, params=params)
        margin = jnp.asarray(min_delta, score.dtype)
        running = ~state.stopped
        better = running & (sign * (state.best_score - score) > margin)
        waited = jnp.where(better, 0, state.waited + running.astype(jnp.int32))
        return EarlyStoppingState(
            jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params),
            jnp.where(better, score, state.best_score),
            jnp.where(better, state.step, state.best_step),
            state.step + running.astype(jnp.int32),
            waited,
            waited >= patience,
        )

    return EarlyStopping(init, update)
