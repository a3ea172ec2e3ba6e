"""Fully visible belief network and NADE, for `generative`: likelihoods of digits, sums over all small images, samples.

Beside them two baselines in closed form or nearly: pixels that are independent, each white as often as in training
images, and a mixture of such, by expectation-maximization. Both are smoothed by one white and one black image more.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generative_training as training
from experiments.generative_training import Images
from fundamentals.base import Array, PRNGKey
from fundamentals.models import autoregressive

KINDS = ("fvbn", "nade")
SMALL_HIDDEN = 16  # units of the NADE whose images are all enumerated
LEAST_EXPECTED = 5.0  # of the cells of a chi-square test; rarer images are one cell together


def gradient(params: autoregressive.Params, images: Array, noise: Array) -> tuple[Array, Any]:
    """The mean of −log p, and its gradient by hand; there is no noise."""
    return autoregressive.loss_and_gradient(params, images)


def costs(params: autoregressive.Params, images: Array, noise: Array) -> Array:
    """−log p of each image."""
    return -autoregressive.log_likelihood(params, images)


def start_fvbn(pixels: int) -> autoregressive.FvbnParams:
    """Zeros: the loss is convex."""
    return autoregressive.FvbnParams(jnp.zeros((pixels, pixels)), jnp.zeros(pixels))


def start_nade(random: np.random.Generator, pixels: int, hidden: int) -> autoregressive.NadeParams:
    """Weights of variance 2/(D + H) (Xavier's), biases 0."""
    w, v = jnp.asarray(random.normal(0, math.sqrt(2 / (pixels + hidden)), (2, pixels, hidden)), np.float32)
    return autoregressive.NadeParams(w, v, jnp.zeros(pixels), jnp.zeros(hidden))


def measure_model(
    kind: str,
    *,
    hidden: int,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    shown: int,
    key: PRNGKey,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train one of `KINDS` on binary digits: log p of each test image, samples, gradients against `jax.grad`."""
    images = training.digits(binary=True)
    random = training.generator(key)
    pixels = images.train.shape[1]
    params = start_fvbn(pixels) if kind == "fvbn" else start_nade(random, pixels, hidden)
    settings: dict[str, Any] = {"learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs}
    fitted = training.fit(params, images, gradient, costs, **settings, latent=0, random=random, note=note)
    note("samples, gradients")
    samples = jax.jit(autoregressive.sample, static_argnames="examples")(fitted.params, key=key, examples=shown)
    calls = [(own, images.train[:batch_size]) for own in (params, fitted.params)]
    apart = training.gradient_difference(autoregressive.loss_and_gradient, autoregressive.loss, calls)
    return {
        "parameters": used_parameters(params),
        "best": fitted.best,
        "train": fitted.train,
        "validation": fitted.validation,
        "test": np.asarray(jax.jit(autoregressive.log_likelihood)(fitted.params, images.test), float).tolist(),
        "samples": np.asarray(samples, int).tolist(),
        "gradient_difference": apart,
    }


def used_parameters(params: autoregressive.Params) -> int:
    """Of an FVBN's weights, those above the diagonal."""
    size = sum(int(leaf.size) for leaf in jax.tree.leaves(params))
    return size if isinstance(params, autoregressive.NadeParams) else size - params.b.size * (params.b.size + 1) // 2


def measure_baselines(*, components: int, key: PRNGKey, note: Callable[[str], None]) -> dict[str, Any]:
    """log p of each test image under independent pixels, and under a mixture of such."""
    images = training.digits(binary=True)
    random = training.generator(key)
    models = {name: fit_mixture(images, k, random) for name, k in (("independent", 1), ("mixture", components))}
    found = {name: mixture_log_likelihood(*model, images.test).tolist() for name, model in models.items()}
    return found | {"components": components}


def fit_mixture(
    images: Images, components: int, random: np.random.Generator, rounds: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [K] and probabilities of white [K, D], after so many rounds of expectation-maximization."""
    x = images.train.astype(float)
    shares = random.dirichlet(np.ones(components), len(x))  # [N, K]
    for _ in range(rounds):
        counts = shares.sum(axis=0)
        weights = (counts + 1) / (len(x) + components)
        white = (shares.T @ x + 1) / (counts[:, None] + 2)
        joint = _joint(weights, white, x)
        shares = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    return weights, white


def mixture_log_likelihood(weights: np.ndarray, white: np.ndarray, images: np.ndarray) -> np.ndarray:
    """log Σ_k weight_k Π_d p(x_d | k), [N]."""
    return np.asarray(np.logaddexp.reduce(_joint(weights, white, images.astype(float)), axis=1))


def _joint(weights: np.ndarray, white: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(weights) + x @ np.log(white).T + (1 - x) @ np.log1p(-white).T)


def measure_small(kind: str, *, pixels: int, samples: int, key: PRNGKey, note: Callable[[str], None]) -> dict[str, Any]:
    """All 2^D images under a model with random parameters, in float64: Σ p(x), and how often samples are which image.

    Parameters are drawn from N(0, 1), so that pixels depend on each other a lot; what is measured is true of any.
    """
    random = training.generator(key)
    shapes = [(pixels, pixels), (pixels,)] if kind == "fvbn" else [(pixels, SMALL_HIDDEN)] * 2 + [pixels, SMALL_HIDDEN]
    drawn: Any = [random.normal(size=shape) for shape in shapes]
    params = autoregressive.FvbnParams(*drawn) if kind == "fvbn" else autoregressive.NadeParams(*drawn)
    with jax.enable_x64(True):
        everything = training.every_image(pixels).astype(float)
        p = np.exp(np.asarray(jax.jit(autoregressive.log_likelihood)(params, everything)))
        draw = jax.jit(autoregressive.sample, static_argnames="examples")
        found = np.asarray(draw(params, key=key, examples=samples))
    counts = np.bincount(training.indices(found), minlength=len(p))
    statistic, freedom = chi_square(counts, p)
    return {
        "pixels": pixels,
        "sum": float(p.sum()),
        "excess": float(p.sum() - 1),
        "samples": samples,
        "chi_square": statistic,
        "freedom": freedom,
        "white": found.mean(axis=0).tolist(),
        "white_predicted": (p @ everything).tolist(),
    }


def chi_square(counts: np.ndarray, p: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic of counts against probabilities, and its degrees of freedom.

    Rare cells are one together, and so are as many of the others, from the smallest on, as that one needs to expect
    enough itself.
    """
    order = np.argsort(p)
    seen, due = counts[order], (p * counts.sum())[order]
    rare = int(np.searchsorted(due, LEAST_EXPECTED))
    if rare > 0:
        rare = max(rare, int(np.searchsorted(np.cumsum(due), LEAST_EXPECTED)) + 1)
        seen, due = np.append(seen[:rare].sum(), seen[rare:]), np.append(due[:rare].sum(), due[rare:])
    return float(np.sum((seen - due) ** 2 / due)), len(seen) - 1
