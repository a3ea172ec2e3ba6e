"""Variational autoencoder, for `generative`: bounds on digits, and an autoencoder so small that nothing is left open.

With D pixels and one number as the code, all of log p(x) = log ∫ N(z; 0, 1) p(x|z) dz, the bound's expectation over ε
and KL(q(z|x) ‖ p(z|x)) are integrals over a line, for each of the 2^D images. Here they are sums over a fine grid. For
smooth functions that fall off like a Gaussian those are exact to rounding: hidden layers are tanh, without a kink.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generative_training as training
from experiments.generative_training import Images
from fundamentals.base import Array, PRNGKey, Rule
from fundamentals.catalogue import RULES
from fundamentals.models import mlp, vae

TANH = RULES["tanh"].rule
BOUNDS = 100  # of each test image, at most, with fresh draws
SMALL_HIDDEN = 8
NODES, FARTHEST = 801, 12.0  # of the grid; a Gaussian is 1e-32 there
PATCH = np.array([[3, 2], [3, 3], [3, 4], [4, 2], [4, 3], [4, 4]])  # rows and columns of what the small one learns


def costs(params: vae.Params, images: Array, noise: Array, *, activation: Rule = mlp.RELU) -> Array:
    """Minus the bound of each image [N, D], the mean over [R, N, Z] of ε."""
    repeated = jnp.broadcast_to(images, (*noise.shape[:-1], images.shape[-1]))
    return jnp.mean(vae.negative_elbo(params, repeated, noise, activation=activation), axis=0)


small_gradient = functools.partial(vae.loss_and_gradient, activation=TANH)
small_costs = functools.partial(costs, activation=TANH)


@functools.partial(jax.jit, static_argnames="activation")
def _weighted(params: vae.Params, images: Array, noise: Array, *, activation: Rule) -> Array:
    def once(noise: Array) -> Array:
        return vae.importance_weighted_bound(params, images, noise, activation=activation)

    result: Array = jax.lax.map(once, noise)
    return result


def importance_weighted(
    params: vae.Params,
    images: np.ndarray,
    random: np.random.Generator,
    *,
    samples: int,
    repeats: int,
    activation: Rule = mlp.RELU,
) -> np.ndarray:
    """log (1/S) Σ p(x, z_s) / q(z_s|x) of each image, so often with fresh draws, [repeats, N]."""
    latent = params.decoder[0].w.shape[-2]
    noise = random.standard_normal((repeats, samples, len(images), latent)).astype(images.dtype)
    return np.asarray(_weighted(params, images, noise, activation=activation), float)


def measure_digits(
    *,
    latent: int,
    hidden: Sequence[int],
    learning_rate: float,
    batch_size: int,
    epochs: int,
    importance: Sequence[int],
    shown: int,
    key: PRNGKey,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train on binary digits; bounds of each test image; what it reconstructs, draws and finds between two images.

    Each S of `importance` has draws of its own: of shared ones a larger S would always give more, whatever the weights.
    """
    images = training.digits(binary=True)
    random = training.generator(key)
    init = functools.partial(vae.init, inputs=images.train.shape[1], latent=latent, hidden=hidden)
    params = training.initial(random, init)
    settings: dict[str, Any] = {"learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs}
    fitted = training.fit(
        params, images, vae.loss_and_gradient, costs, **settings, latent=latent, random=random, note=note
    )
    note("bounds, gradients")
    best, most = fitted.params, importance[-1]
    weighted = {}
    for samples in importance:
        repeats = min(BOUNDS, math.ceil(most / samples))  # about as many draws for each
        found = importance_weighted(best, images.test, random, samples=samples, repeats=repeats)
        weighted[str(samples)] = found.mean(axis=0).tolist()
    noise = random.standard_normal((min(BOUNDS, most), len(images.test), latent), np.float32)
    epsilon = random.standard_normal((batch_size, latent))
    calls = [(own, images.train[:batch_size], epsilon) for own in (params, best)]
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "best": fitted.best,
        "train": fitted.train,
        "validation": fitted.validation,
        "bound": (-np.asarray(jax.jit(costs)(best, images.test, noise), float)).tolist(),
        "importance_weighted": weighted,
        "gradient_difference": training.gradient_difference(vae.loss_and_gradient, vae.loss, calls),
    } | _pictures(best, images, shown, key)


def _pictures(params: vae.Params, images: Images, shown: int, key: PRNGKey) -> dict[str, Any]:
    """Probabilities of white: of test images through the code's mean, of codes from the prior, of codes on a line."""
    given = jnp.asarray(images.test[:shown])

    @jax.jit
    def draw(params: vae.Params) -> Any:
        means, _ = vae.encode(params, given)
        along = jnp.linspace(0.0, 1.0, shown)[:, None]
        between = (1 - along) * means[:1] + along * means[1:2]
        drawn = jax.random.normal(key, means.shape)
        return [jax.nn.sigmoid(vae.decode(params, z)) for z in (means, between, drawn)]

    reconstructions, interpolations, samples = (np.asarray(rows, float).round(3).tolist() for rows in draw(params))
    names = ("data", "reconstructions", "interpolations", "samples")
    return dict(zip(names, (np.asarray(given).tolist(), reconstructions, interpolations, samples), strict=True))


def measure_small(
    *, importance: Sequence[int], repeats: int, key: PRNGKey, note: Callable[[str], None]
) -> dict[str, Any]:
    """Train on six pixels of the digits, with one number as the code; then all 64 images by quadrature, in float64."""
    images = training.digits(binary=True)
    columns = PATCH @ (8, 1)
    patches = Images(*(part[:, columns] for part in images))
    random = training.generator(key)
    init = functools.partial(vae.init, inputs=len(columns), latent=1, hidden=(SMALL_HIDDEN,))
    settings: dict[str, Any] = {"learning_rate": 0.01, "batch_size": 128, "epochs": 30, "latent": 1}
    start = training.initial(random, init)
    fitted = training.fit(start, patches, small_gradient, small_costs, **settings, random=random, note=note)
    note("quadrature")
    x = training.every_image(len(columns)).astype(float)
    with jax.enable_x64(True):
        params = training.wide(fitted.params)
        exact = quadrature(params, x)
        weighted = {}
        for samples in importance:
            options: dict[str, Any] = {"samples": samples, "repeats": repeats, "activation": TANH}
            found = importance_weighted(params, x, random, **options).mean(axis=1)
            weighted[str(samples)] = [float(found.mean()), float(found.std(ddof=1) / math.sqrt(repeats))]
    shares = np.bincount(training.indices(patches.train), minlength=len(x)) / len(patches.train)
    # Bounds are means over all 64 images, with their standard errors.
    return exact | {"importance_weighted": weighted, "data": shares.tolist()}


def quadrature(params: vae.Params, x: np.ndarray) -> dict[str, Any]:
    """log p(x), the bound, and the divergence of q(z|x) from the posterior, of each image, by sums over a grid.

    The bound is the library's at each node of ε. The rest is written out: the posterior is p(z) p(x|z) at the nodes of
    z, over its sum there.
    """
    nodes = np.linspace(-FARTHEST, FARTHEST, NODES)
    step = nodes[1] - nodes[0]
    log_normal = -0.5 * nodes**2 - 0.5 * math.log(2 * math.pi)

    @jax.jit
    def at_nodes(params: vae.Params, x: Array) -> Any:
        noise = jnp.broadcast_to(nodes[:, None, None], (NODES, len(x), 1))
        costs = vae.negative_elbo(params, jnp.broadcast_to(x, (NODES, *x.shape)), noise, activation=TANH)
        return vae.encode(params, x, activation=TANH), costs, vae.decode(params, nodes[:, None], activation=TANH)

    (means, log_scales), costs, logits = jax.tree.map(np.asarray, at_nodes(params, x))
    bound = -(np.exp(log_normal) * step) @ costs
    # log p(z) p(x|z), [N, nodes]
    joint = log_normal - x @ np.logaddexp(0, -logits).T - (1 - x) @ np.logaddexp(0, logits).T
    log_p = np.logaddexp.reduce(joint, axis=1) + math.log(step)
    log_q = -0.5 * ((nodes - means) / np.exp(log_scales)) ** 2 - log_scales - 0.5 * math.log(2 * math.pi)
    divergence = np.sum(np.exp(log_q) * (log_q - (joint - log_p[:, None])), axis=1) * step
    return {"log_p": log_p.tolist(), "bound": bound.tolist(), "divergence": divergence.tolist()}
