"""Output types with their distribution, output layer and cost: the library's gradients beside the formulas in NumPy.

(A categorical distribution is the "multinoulli" of some textbooks.)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import activations, losses
from fundamentals.base import Array, PRNGKey, Rule
from fundamentals.catalogue import RULES

CLASSES, DIMENSIONS = 5, 3  # of the random examples
FEW = 100  # of them, to integrate densities of
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
MISTAKE = -10.0  # a logit, sure of 0 where the target is 1


class Examples(NamedTuple):
    """Random examples of an output type, and what NumPy makes of them in float64, from the definitions."""

    rule: Rule
    outputs: tuple[Array, ...]  # what the output layer takes
    targets: Array
    gradients: tuple[np.ndarray, ...]  # with respect to the outputs, by the formula
    costs: tuple[np.ndarray, ...]  # each [B], by the library: what ought to be −log of the distribution
    nll: np.ndarray  # [B], −log of the distribution
    totals: np.ndarray  # the probability of all targets together, by the cost


class OutputType(NamedTuple):
    """A row of the table."""

    notes: str
    output: str
    distribution: str
    layer: str
    cost: str
    formulas: dict[str, str]  # by output: the gradient of the cost
    examples: Callable[[PRNGKey, int, int, Any], Examples]  # of a key, how many, components, dtype


class Measurement(NamedTuple):
    """The largest differences of an output type, each relative to the largest entry of what is compared with."""

    notes: str
    by_hand: dict[str, float]  # by output: the rule's backward pass, from the formula
    by_autodiff: dict[str, float]  # jax.grad of the primal, from the formula
    nll: float  # the cost, from −log of the distribution
    total: float  # the probability of all targets together, from 1


class Mismatch(NamedTuple):
    """A confident mistake, each pair of (cross-entropy, squared error) behind the same sigmoid."""

    slopes: tuple[float, float]  # gradient with respect to the logit
    expected_slopes: tuple[float, float]
    steps: tuple[int, int]  # of gradient descent at rate 1, until the target is more likely than not
    expected_steps: tuple[float, float]


def _bernoulli(key: PRNGKey, count: int, components: int, dtype: Any) -> Examples:
    del components
    rule = RULES["binary_cross_entropy"].rule
    logit_key, target_key = jax.random.split(key)
    logits = 3 * jax.random.normal(logit_key, (count,), dtype)
    targets = jax.random.bernoulli(target_key, shape=(count,)).astype(dtype)
    z, t = _float64(logits, targets)
    p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))  # of 1 and of 0
    cost = jax.jit(rule.primal)
    totals = sum(np.exp(-x) for x in _float64(*(cost(logits, jnp.full_like(logits, target)) for target in (0, 1))))
    nll = -np.log(np.where(t == 1, p, q))
    return Examples(rule, (logits,), targets, (p - t,), _float64(cost(logits, targets)), nll, np.asarray(totals))


def _categorical(key: PRNGKey, count: int, components: int, dtype: Any) -> Examples:
    del components
    rule = RULES["softmax_cross_entropy"].rule
    logit_key, label_key = jax.random.split(key)
    logits = 3 * jax.random.normal(logit_key, (count, CLASSES), dtype)
    labels = jax.random.randint(label_key, (count,), 0, CLASSES)
    (z,) = _float64(logits)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    one_hot = np.eye(CLASSES)[np.asarray(labels)]
    cost = jax.jit(rule.primal)
    totals = sum(np.exp(-x) for x in _float64(*(cost(logits, jnp.full_like(labels, k)) for k in range(CLASSES))))
    nll = -np.log((p * one_hot).sum(-1))
    return Examples(rule, (logits,), labels, (p - one_hot,), _float64(cost(logits, labels)), nll, np.asarray(totals))


def _gaussian(key: PRNGKey, count: int, components: int, dtype: Any) -> Examples:
    del components
    rule = RULES["squared_error"].rule
    mean_key, target_key = jax.random.split(key)
    means = jax.random.normal(mean_key, (count, DIMENSIONS), dtype)
    targets = 2 * jax.random.normal(target_key, (count, DIMENSIONS), dtype)
    mu, t = _float64(means, targets)
    densities = np.prod(np.exp(-0.5 * (t - mu) ** 2) / math.sqrt(2 * math.pi), axis=-1)
    squared = jax.jit(rule.primal)(means, targets)
    of_unit_scale = jax.jit(losses.gaussian_nll)(means, jnp.zeros_like(means), targets)
    few = means[:FEW, :1]
    totals = _integral(lambda t: rule.primal(few, jnp.full_like(few, t)) + HALF_LOG_2_PI, dtype)
    costs = _float64(squared + DIMENSIONS * HALF_LOG_2_PI, of_unit_scale)  # a squared error leaves the constant out
    return Examples(rule, (means,), targets, (mu - t,), costs, -np.log(densities), totals)


def _mixture(key: PRNGKey, count: int, components: int, dtype: Any) -> Examples:
    rule = RULES["mixture_density_nll"].rule
    logit_key, mean_key, scale_key, target_key = jax.random.split(key, 4)
    logits = jax.random.normal(logit_key, (count, components), dtype)
    means = jax.random.normal(mean_key, (count, components, DIMENSIONS), dtype)
    log_scales = 0.3 * jax.random.normal(scale_key, (count, components, DIMENSIONS), dtype)
    targets = jax.random.normal(target_key, (count, DIMENSIONS), dtype)
    z, mu, s, t = _float64(logits, means, log_scales, targets)
    weights = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    sigma, difference = np.exp(s), mu - t[:, None]
    densities = np.prod(np.exp(-0.5 * (difference / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma), axis=-1)
    joint = weights * densities
    evidence = joint.sum(-1)
    posterior = joint / evidence[:, None]  # Bayes' rule
    gamma = posterior[..., None]
    gradients = weights - posterior, gamma * difference / sigma**2, gamma * (1 - (difference / sigma) ** 2)
    few = logits[:FEW], means[:FEW, :, :1], log_scales[:FEW, :, :1]
    totals = _integral(lambda t: rule.primal(*few, jnp.full_like(few[1][:, 0], t)), dtype)
    costs = _float64(jax.jit(rule.primal)(logits, means, log_scales, targets))
    return Examples(rule, (logits, means, log_scales), targets, gradients, costs, -np.log(evidence), totals)


TYPES = (
    OutputType(
        "H1", "binary", "Bernoulli", "sigmoid", "binary cross-entropy", {"logit": "σ(z) − t"}, _bernoulli
    ),
    OutputType(
        "H2", "discrete", "categorical", "softmax", "cross-entropy", {"logits": "softmax(z) − one-hot(t)"}, _categorical
    ),
    OutputType("H3", "continuous", "Gaussian", "linear", "½ squared error", {"mean": "μ − t"}, _gaussian),
    OutputType(
        "H4", "continuous", "mixture of Gaussians", "mixture density", "−log Σ π N, log-sum-exp",
        {"logits": "π − γ", "means": "γ (μ − t) / σ²", "log-scales": "γ (1 − (μ − t)² / σ²)"}, _mixture,
    ),
)  # fmt: skip


def measure(key: PRNGKey, count: int, components: int, dtype: Any) -> list[Measurement]:
    """Every output type on random examples."""
    result = []
    for own_key, kind in zip(jax.random.split(key, len(TYPES)), TYPES, strict=True):
        examples = kind.examples(own_key, count, components, dtype)
        by_hand, by_autodiff = (
            {name: difference(d, e) for name, d, e in zip(kind.formulas, found, examples.gradients, strict=True)}
            for found in _gradients(examples)
        )
        nll = max(difference(cost, examples.nll) for cost in examples.costs)
        total = difference(examples.totals, np.ones_like(examples.totals))
        result.append(Measurement(kind.notes, by_hand, by_autodiff, nll, total))
    return result


def difference(found: Any, expected: Any) -> float:
    """The largest |found − expected| over the largest |expected|; infinite where either is not finite."""
    a, b = _float64(found, expected)
    ratio = float(np.max(np.abs(a - b)) / np.max(np.abs(b))) if np.any(b) else float(np.max(np.abs(a)))
    return ratio if math.isfinite(ratio) else math.inf


def slopes(z: Array) -> tuple[Array, Array]:
    """The gradients with respect to a logit [...] where the target is 1: of the cross-entropy, of the squared error."""
    one = jnp.ones_like(z)
    _, residuals = losses.binary_cross_entropy_fwd(z, one)
    matched, _ = losses.binary_cross_entropy_bwd(residuals, one)
    p, layer_residuals = activations.sigmoid_fwd(z)
    _, error_residuals = losses.squared_error_fwd(p[..., None], one[..., None])
    dp, _ = losses.squared_error_bwd(error_residuals, one)
    (mismatched,) = activations.sigmoid_bwd(layer_residuals, dp[..., 0])
    return matched, mismatched


def unlearn(dtype: Any) -> Mismatch:
    """A logit that starts from a confident mistake and descends, with either cost."""

    def descend(state: tuple[Array, Array]) -> tuple[Array, Array]:
        z, steps = state
        moving = z < 0
        return jnp.where(moving, z - jnp.stack([slopes(z[0])[0], slopes(z[1])[1]]), z), jnp.where(
            moving, steps + 1, steps
        )

    def unfinished(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] < 0) & jnp.all(state[1] < 100_000)

    start = jnp.full(2, MISTAKE, dtype)
    _, steps = jax.jit(lambda state: jax.lax.while_loop(unfinished, descend, state))((start, jnp.zeros(2, jnp.int32)))
    # At a small rate it is the time that dz/dn = −gradient takes, ∫ dz / |gradient|.
    z = np.linspace(MISTAKE, 0, 100_001)
    p = 1 / (1 + np.exp(-z))
    matched, mismatched = p - 1, (p - 1) * p * (1 - p)
    found = [float(slope) for slope in slopes(start[0])]
    return Mismatch(
        slopes=(found[0], found[1]),
        expected_slopes=(float(matched[0]), float(mismatched[0])),
        steps=(int(steps[0]), int(steps[1])),
        expected_steps=(float(np.trapezoid(-1 / matched, z)), float(np.trapezoid(-1 / mismatched, z))),
    )


def _gradients(examples: Examples) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """By hand and by jax.grad, compiled apart."""
    rule, outputs, targets = examples.rule, examples.outputs, examples.targets

    def by_hand(*outputs: Array) -> tuple[Array, ...]:
        y, residuals = rule.fwd(*outputs, targets)
        return rule.bwd(residuals, jnp.ones_like(y))[: len(outputs)]

    def total(*outputs: Array) -> Array:
        return jnp.sum(rule.primal(*outputs, targets))

    by_autodiff = jax.grad(total, argnums=tuple(range(len(outputs))))
    return jax.jit(by_hand)(*outputs), jax.jit(by_autodiff)(*outputs)


def _integral(cost: Callable[[Array], Array], dtype: Any) -> np.ndarray:
    """∫ e^(−cost(t)) dt over the line: a sum over a grid is exact to rounding where it is this smooth."""
    spacing = 1 / 16
    grid = jnp.asarray(spacing * np.arange(-640, 641), dtype)
    (costs,) = _float64(jax.jit(jax.vmap(cost))(grid))
    return np.asarray(spacing * np.exp(-costs).sum(0))


def _float64(*arrays: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x, np.float64) for x in arrays)
