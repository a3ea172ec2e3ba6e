"""What optimizers are compared on: functions of two variables, regressions with rare features, the digits.

Each group shares one gradient and one loss, so that a method is compiled once for all of its problems.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.landscapes import Landscape, landscapes
from fundamentals import data
from fundamentals.base import Array, ArrayTree
from fundamentals.models import mlp

SPARSE, EVEN, DIGITS = "sparse_regression", "even_regression", "digits"
FUNCTIONS = (*landscapes(100.0), SPARSE, EVEN, DIGITS)
FEATURES, BATCH, LABEL_NOISE = 256, 32, 0.1  # of the regressions; digits have batches of the same size
SPARSE_GOAL = 0.01  # of the loss at the start
DIGITS_GOAL, HIDDEN, EVERY = 0.2, 32, 5  # mean cross-entropy of the training set, looked at each so many steps


class Problem(NamedTuple):
    """What is minimized; `setting` is data, so that one compiled program serves several problems."""

    gradient: Callable[[Any, Any, Any], Any]  # (setting, params, randomness of one step)
    watch: Callable[[Any, Any], Array]  # (setting, params) → [1 or more], first the loss
    setting: Any
    start: ArrayTree
    randomness: Any  # [runs, looks, steps a look, …]
    goal: float


def landscape_problems(
    places: dict[str, Landscape], functions: Sequence[str], key: Array, runs: int, steps: int, tolerance: float
) -> dict[str, Problem]:
    """Those of two variables; the setting is which it is, the randomness what is added to the gradient."""
    chosen = {name: place for name, place in places.items() if name in functions}
    branches = [place.f for place in chosen.values()]

    def value(index: Array, theta: Array) -> Array:
        result: Array = jax.lax.switch(index, branches, theta)
        return result

    def gradient(index: Array, theta: Array, noise: Array) -> Array:
        slope: Array = jax.grad(value, argnums=1)(index, theta)
        return slope + noise

    def watch(index: Array, theta: Array) -> Array:
        return jnp.append(value(index, theta), theta)

    white = jax.random.normal(key, (runs, steps, 1, 2))
    return {
        name: Problem(
            gradient, watch, jnp.asarray(i), jnp.asarray(place.start), place.noise * white, place.goal(tolerance)
        )
        for i, (name, place) in enumerate(chosen.items())
    }


def frequencies(function: str) -> np.ndarray:
    """How often each feature occurs: as words do, or all as often as those on average."""
    rare = 1 / np.arange(1, FEATURES + 1)
    return rare if function == SPARSE else np.full(FEATURES, rare.mean())


def regressions(functions: Sequence[str], seed: int, runs: int, steps: int) -> dict[str, Problem]:
    """Linear regression from features ±1 that occur with probability p; its loss above the least, ½ Σ p (w − w*)²."""
    dtype = jnp.result_type(float)
    if SPARSE not in functions and EVEN not in functions:
        return {}

    def gradient(setting: tuple[Array, Array], w: Array, batch: tuple[Array, Array]) -> Array:
        x, noise = batch[0].astype(dtype), batch[1]
        return (x @ (w - setting[1]) - LABEL_NOISE * noise) @ x / BATCH

    def watch(setting: tuple[Array, Array], w: Array) -> Array:
        p, true_w = setting
        return 0.5 * jnp.sum(p * (w - true_w) ** 2, keepdims=True)

    random = np.random.default_rng(seed)  # ten times as fast as JAX's on a CPU, and there are some 10⁸ numbers
    true_w = jnp.asarray(random.standard_normal(FEATURES), dtype)
    shape = (runs, steps, 1, BATCH)
    noise = jnp.asarray(random.standard_normal(shape, np.float32), dtype)
    uniform = random.random((*shape, FEATURES), np.float32)
    signs = random.integers(0, 2, uniform.shape, np.int8) * np.int8(2) - np.int8(1)
    problems = {}
    for name in (SPARSE, EVEN):
        if name in functions:
            p = jnp.asarray(frequencies(name), dtype)
            x = jnp.asarray((uniform < frequencies(name)) * signs)
            start = jnp.zeros(FEATURES)
            goal = SPARSE_GOAL * float(watch((p, true_w), start)[0])
            problems[name] = Problem(gradient, watch, (p, true_w), start, (x, noise), goal)
    return problems


def digit_problems(functions: Sequence[str], key: Array, epochs: int) -> dict[str, Problem]:
    """An MLP on the digits, its gradient by hand from end to end."""
    if DIGITS not in functions:
        return {}
    train = data.digits().train
    x, labels = jnp.asarray(train.inputs.reshape(len(train.labels), -1)), jnp.asarray(train.labels)

    def gradient(setting: tuple[Array, Array], params: mlp.Params, batch: Array) -> mlp.Params:
        return mlp.loss_and_gradient(params, setting[0][batch], setting[1][batch])[1]

    def watch(setting: tuple[Array, Array], params: mlp.Params) -> Array:
        return mlp.loss(params, *setting)[None]

    params_key, order_key = jax.random.split(key)
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(labels)))(jax.random.split(order_key, epochs))
    whole = EVERY * (orders.size // (BATCH * EVERY)) * BATCH
    batches = orders.reshape(-1)[:whole].reshape(1, -1, EVERY, BATCH)
    start = mlp.init(params_key, (x.shape[1], HIDDEN, 10))
    return {DIGITS: Problem(gradient, watch, (x, labels), start, batches, DIGITS_GOAL)}


def exact_bound(p: np.ndarray, weights: np.ndarray, goal: float = SPARSE_GOAL, etas: int = 400) -> float:
    """Least iterations of exact gradient descent at any η: Σ pᵢ w*ᵢ² (1 − ηpᵢ)²ᵗ falls to the goal, relative to t = 0.

    With noise the mean of w is the same, and the mean loss is at least the loss of the mean.
    It diverges from η = 2/max p.
    """
    loss = p * weights**2 / np.sum(p * weights**2)
    fewest = math.inf
    for eta in 2 / p.max() * np.arange(1, etas + 1) / etas:
        left = (1 - eta * p) ** 2
        if not np.sum(loss * left**4096) <= goal:
            continue
        low, high = 0, 4096  # the loss only falls with t
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if np.sum(loss * left**middle) <= goal else (middle, high)
        fewest = min(fewest, high)
    return fewest
