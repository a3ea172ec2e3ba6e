"""An inverse map with several answers, and the heads that learn it: a squared error, and mixtures of Gaussians.

C. M. Bishop, Mixture Density Networks, 1994: t ~ U(0, 1), x = f(t) + U(−0.1, 0.1), and t is to be told from x.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import losses
from fundamentals.base import Array, PRNGKey, Rule
from fundamentals.catalogue import RULES
from fundamentals.models import mlp

NOISE = 0.1  # of x, half the width of its uniform distribution
TANH = RULES["tanh"].rule  # between the layers


class Examples(NamedTuple):
    """What is learned."""

    x: Array  # [B, 1]
    t: Array  # [B, 1], the targets


class Head(NamedTuple):
    """What stands on the network."""

    rule: Rule  # of (outputs [B, outputs], targets [B, 1])
    outputs: int


def f(t: Any) -> Any:
    """The forward map, t + 0.3 sin(2πt): it takes each value between 0.41 and 0.59 three times."""
    return t + 0.3 * np.sin(2 * np.pi * t)


def sample(key: PRNGKey, count: int, dtype: Any) -> Examples:
    """Random examples."""
    target_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(target_key, (count, 1), dtype)
    noise = jax.random.uniform(noise_key, (count, 1), dtype, -NOISE, NOISE)
    return Examples(jnp.asarray(f(np.asarray(t)), dtype) + noise, t)


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E(t | x), p(t | x)): given x, t is uniform on {t: |f(t) − x| ≤ 0.1}, which may be two intervals."""
    grid = (np.arange(100_000) + 0.5) / 100_000
    order = np.argsort(f(grid))
    low, high = (np.searchsorted(f(grid)[order], x + shift) for shift in (-NOISE, NOISE))
    low = np.minimum(low, len(grid) - 1)
    count = np.maximum(high - low, 1)  # at the ends of the range of x the set may fall between two points
    sums = np.concatenate([[0], np.cumsum(grid[order])])
    return (sums[low + count] - sums[low]) / count, len(grid) / count


def heads(components: int) -> dict[str, Head]:
    """What is compared."""
    mixture = Rule(mixture_head, mixture_head_fwd, mixture_head_bwd)
    return {
        "squared error": Head(RULES["squared_error"].rule, 1),
        "one Gaussian": Head(mixture, 3),
        "mixture": Head(mixture, 3 * components),
    }


def mixture_head(outputs: Array, targets: Array) -> Array:
    """The mixture density loss [B] of a network's outputs [B, 3K] and targets [B, 1]."""
    return mixture_head_fwd(outputs, targets)[0]


def mixture_head_fwd(outputs: Array, targets: Array) -> tuple[Array, losses.MixtureDensityNllResiduals]:
    """Keeps what the loss keeps; nothing for the layer, which is a split."""
    return losses.mixture_density_nll_fwd(*split(outputs), targets)


def mixture_head_bwd(residuals: losses.MixtureDensityNllResiduals, dy: Array) -> tuple[Array, Array]:
    """(doutputs, dtargets). Derivation: the parts stand side by side in the outputs, so their cotangents do, too."""
    dlogits, dmeans, dlog_scales, dtargets = losses.mixture_density_nll_bwd(residuals, dy)
    return jnp.concatenate([dlogits, dmeans[..., 0], dlog_scales[..., 0]], axis=-1), dtargets


def split(outputs: Array) -> tuple[Array, Array, Array]:
    """Outputs [..., 3K] as logits [..., K], means [..., K, 1] and log-scales [..., K, 1]."""
    logits, means, log_scales = jnp.split(outputs, 3, axis=-1)
    return logits, means[..., None], log_scales[..., None]


def standardized(x: Array) -> Array:
    """What the network sees: x with mean 0 and variance 1."""
    return (x - 0.5) / 0.3


def outputs_at(params: mlp.Params, x: Array) -> Array:
    """The network's outputs [B, outputs] for x [B, 1]."""
    return mlp.apply(params, standardized(x), activation=TANH)


@functools.partial(jax.jit, static_argnames="head")
def nll(head: Head, params: mlp.Params, examples: Examples, train: Examples) -> Array:
    """−log p(t | x) of each example, [B]. A squared error's variance is the best one for the training examples."""
    outputs = outputs_at(params, examples.x)
    if head.outputs > 1:
        y: Array = head.rule.primal(outputs, examples.t)
        return y
    log_scale = 0.5 * jnp.log(jnp.mean(jnp.square(outputs_at(params, train.x) - train.t)))
    return losses.gaussian_nll(outputs, jnp.full_like(outputs, log_scale), examples.t)


@functools.partial(jax.jit, static_argnames="head")
def answers(head: Head, params: mlp.Params, x: Array) -> Array:
    """One t for each x, [B]: the output, or the mean of the component of largest weight."""
    outputs = outputs_at(params, x)
    if head.outputs == 1:
        return outputs[:, 0]
    logits, means, _ = split(outputs)
    return jnp.take_along_axis(means[..., 0], jnp.argmax(logits, axis=-1, keepdims=True), axis=-1)[:, 0]
