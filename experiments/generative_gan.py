"""Generative adversarial networks, for `generative`: on a ring of Gaussians, whose density is known, and on digits.

Against a generator of known density q the best discriminator is known: its logit is log p/q, its value 2 JSD − log 4.
Values are sums over a grid in the plane, and, to compare, means over fresh examples. With Adam the coefficient of the
moving average of gradients is 0.5 instead of 0.9, as in A. Radford et al. 2016: the other player moves, so that older
gradients are of another game.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generative_training as training
from fundamentals import optimizers
from fundamentals.base import Array, PRNGKey, Rule
from fundamentals.catalogue import RULES
from fundamentals.models import gan, mlp

MODES, RADIUS, SPREAD = 8, 2.0, 0.3  # of the ring; neighbours are 5 standard deviations apart
WIDTH = 1.5  # standard deviation of the generator with a known density
EDGE, NODES = 9.0, 181  # of the grid in the plane
NEAR = 3  # standard deviations from a mode, within which a sample is "near" it
B1 = 0.5
LOSSES = ("minimax", "non_saturating")
EXAMPLES = 1000  # that distances are taken of
SINGLE = 128  # fakes whose gradients are taken one by one
GROUPS = 10  # of samples, for a standard error
SIGMOID = RULES["sigmoid"].rule
CENTRES = RADIUS * np.stack([f(2 * np.pi * np.arange(MODES) / MODES) for f in (np.cos, np.sin)], axis=1)


class Batches(NamedTuple):
    """What is drawn for so many steps of R games; by NumPy, as JAX would compile a generator into every program."""

    real: np.ndarray  # [R, steps, B, D]
    first: np.ndarray  # [R, steps, B, Z], noise for the discriminator's fakes
    second: np.ndarray  # likewise, for the generator's


def from_ring(random: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Examples [..., 2] of the mixture of Gaussians."""
    noise = SPREAD * random.standard_normal((*shape, 2), np.float32)
    return np.asarray(CENTRES.astype(np.float32)[random.integers(0, MODES, shape)] + noise)


def batches(random: np.random.Generator, real: np.ndarray, latent: int) -> Batches:
    """Real examples with noise of so many numbers for as many fakes, twice."""
    shape = (*real.shape[:-1], latent)
    return Batches(real, random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32))


def ring_log_density(x: np.ndarray) -> np.ndarray:
    """log p of points [..., 2]."""
    squares = np.sum((x[..., None, :] - CENTRES) ** 2, axis=-1)
    terms = -0.5 * squares / SPREAD**2 - math.log(2 * math.pi * SPREAD**2 * MODES)
    return np.asarray(np.logaddexp.reduce(terms, axis=-1))


def gaussian_log_density(x: np.ndarray) -> np.ndarray:
    """log q of points [..., 2], for the generator that is `WIDTH` times its noise."""
    return np.asarray(-0.5 * np.sum(x * x, axis=-1) / WIDTH**2 - math.log(2 * math.pi * WIDTH**2))


@jax.jit
def start(params: gan.Params) -> Any:
    """The optimizers' states: Adam's, of either player."""
    states: Any = tuple(jax.vmap(optimizers.adam(1.0).init)(own) for own in params)
    return states


@functools.partial(jax.jit, static_argnames="output")
def play(params: gan.Params, states: Any, drawn: Batches, rates: Array, *, output: Rule | None) -> Any:
    """Both players in turn, of R games side by side; returns both, their states, and the losses [R, steps, 2].

    The discriminator moves first, then the generator, with the non-saturating loss, each on fresh noise.

    Args:
      params: with a leading axis R.
      states: from `start`.
      drawn: a batch for each step.
      rates: learning rates of discriminator and generator, [2]; where it is 0, a player stays as it is.
      output: of the generator's last layer.
    """

    def step(carry: Any, batch: Batches) -> Any:
        params, (generator_state, discriminator_state) = carry
        loss, gradient = gan.discriminator_loss_and_gradient(params, batch.real, batch.first, output=output)
        updates, discriminator_state = optimizers.adam(rates[0], b1=B1).update(
            gradient, discriminator_state, params.discriminator
        )
        params = params._replace(discriminator=optimizers.apply_updates(params.discriminator, updates))
        generator_loss, gradient = gan.generator_loss_and_gradient(params, batch.second, output=output)
        updates, generator_state = optimizers.adam(rates[1], b1=B1).update(gradient, generator_state, params.generator)
        params = params._replace(generator=optimizers.apply_updates(params.generator, updates))
        return (params, (generator_state, discriminator_state)), jnp.stack([loss, generator_loss])

    def game(params: gan.Params, states: Any, drawn: Batches) -> Any:
        (params, states), losses = jax.lax.scan(step, (params, states), drawn)
        return params, states, losses

    return jax.vmap(game)(params, states, drawn)


@functools.partial(jax.jit, static_argnames="output")
def generated(generators: mlp.Params, z: Array, *, output: Rule | None) -> Array:
    """Examples [R, n, D] of R generators, of the same noise [n, Z]."""
    result: Array = jax.vmap(lambda generator: gan.generate(generator, z, output=output))(generators)
    return result


@jax.jit
def logits(discriminators: mlp.Params, x: Array) -> Array:
    """s [R, N] of R discriminators for the same x [N, D]."""
    result: Array = jax.vmap(lambda discriminator: mlp.mlp(discriminator, x)[..., 0])(discriminators)
    return result


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'|, unbiased: 0 in expectation if both are of one distribution, else more."""

    def total(a: np.ndarray, b: np.ndarray) -> float:
        squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * a @ b.T
        return float(np.sqrt(np.maximum(squares, 0)).sum())

    x, y = x.astype(float), y.astype(float)
    n, m = len(x), len(y)
    return 2 * total(x, y) / (n * m) - total(x, x) / (n * (n - 1)) - total(y, y) / (m * (m - 1))


def distances(samples: np.ndarray, real: np.ndarray) -> list[list[float]]:
    """Energy distances of groups of samples [R, n, D], [R, groups]."""
    return [[energy_distance(group, real) for group in np.array_split(own, GROUPS)] for own in samples]


def value_at(scores: np.ndarray, log_p: np.ndarray, log_q: np.ndarray, area: float) -> np.ndarray:
    """V = ∫ p log D + q log(1 − D) of logits [R, N] on a grid, whose cells have this area."""
    value: np.ndarray = -(np.logaddexp(0, -scores) @ np.exp(log_p) + np.logaddexp(0, scores) @ np.exp(log_q)) * area
    return value


def measure_discriminator(
    *,
    hidden: Sequence[int],
    learning_rate: float,
    batch_size: int,
    steps: int,
    games: int,
    parts: int,
    key: PRNGKey,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Discriminators against a generator that stays as it is, a Gaussian: their values beside the best one's."""
    random, shape = training.generator(key), (games, steps // parts, batch_size)
    scale = np.tile(np.float32(WIDTH) * np.eye(2, dtype=np.float32), (games, 1, 1))
    fixed = (mlp.Layer(jnp.asarray(scale), jnp.zeros((games, 2))),)
    discriminators = training.initial(random, functools.partial(mlp.init, sizes=(2, *hidden, 1)), games)
    params = gan.Params(fixed, discriminators)
    states = start(params)
    axis = np.linspace(-EDGE, EDGE, NODES)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_p, log_q, area = ring_log_density(grid), gaussian_log_density(grid), (axis[1] - axis[0]) ** 2

    def values() -> np.ndarray:
        return value_at(np.asarray(logits(params.discriminator, grid.astype(np.float32)), float), log_p, log_q, area)

    found = [values()]
    for part in range(parts):
        drawn = batches(random, from_ring(random, shape), 2)
        params, states, _ = play(params, states, drawn, jnp.array([learning_rate, 0], np.float32), output=None)
        found.append(values())
        note(f"step {(part + 1) * (steps // parts)}")
    best = float(value_at((log_p - log_q)[None], log_p, log_q, area)[0])
    return {
        "steps": [part * (steps // parts) for part in range(parts + 1)],
        "value": np.array(found).T.tolist(),  # [R, parts + 1]
        "best": best,
        "jsd": (best + math.log(4)) / 2,
    } | _on_fresh(params, random)


def _on_fresh(params: gan.Params, random: np.random.Generator, examples: int = 20_000) -> dict[str, Any]:
    """Of trained discriminators, on fresh examples of either kind: minus the library's loss, and logits at some.

    Beside them the best value: the mean of log D*(x) + log(1 − D*(x')), D* by the densities, with its error.
    """
    real = from_ring(random, (examples,))
    fake = np.float32(WIDTH) * random.standard_normal((examples, 2), np.float32)
    losses = jax.jit(jax.vmap(gan.discriminator_loss, in_axes=(0, None, None)))(params.discriminator, real, fake)
    of_real, of_fake = (np.asarray(logits(params.discriminator, x), float) for x in (real, fake))
    spread = np.logaddexp(0, -of_real).var(axis=1) + np.logaddexp(0, of_fake).var(axis=1)
    ratios = [ring_log_density(x) - gaussian_log_density(x) for x in (real.astype(float), fake.astype(float))]
    terms = -np.logaddexp(0, -ratios[0]) - np.logaddexp(0, ratios[1])
    best_drawn = [float(terms.mean()), float(terms.std(ddof=1) / math.sqrt(examples))]
    some = np.concatenate([real[:200], fake[:200]])
    scores = np.concatenate([of_real[:, :200], of_fake[:, :200]], axis=1)
    return {
        "fresh_value": (-np.asarray(losses, float)).tolist(),
        "best_drawn": best_drawn,
        "fresh_error": np.sqrt(spread / examples).tolist(),
        "log_ratio": (ring_log_density(some) - gaussian_log_density(some)).round(4).tolist(),
        "logits": scores.round(4).tolist(),
    }


def measure_ring(
    *,
    latent: int,
    hidden: Sequence[int],
    learning_rate: float,
    batch_size: int,
    steps: int,
    games: int,
    parts: int,
    key: PRNGKey,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Both players on the ring: part by part, how far samples are from the mixture; before, both losses' gradients."""
    random, shape = training.generator(key), (games, steps // parts, batch_size)
    init = functools.partial(gan.init, inputs=2, latent=latent, hidden=hidden)
    params: gan.Params = training.initial(random, init, games)
    states = start(params)
    drawn = batches(random, from_ring(random, shape), latent)
    ahead, _, alone = play(params, states, drawn, jnp.array([learning_rate, 0], np.float32), output=None)
    z = random.standard_normal((EXAMPLES, latent), np.float32)
    slopes = gradient_ratios(ahead, z[:SINGLE])
    real, other = (from_ring(random, (EXAMPLES,)) for _ in range(2))

    def look() -> np.ndarray:
        return np.asarray(generated(params.generator, z, output=None), float)

    samples = [look()]
    losses = []
    for part in range(parts):
        drawn = batches(random, from_ring(random, shape), latent)
        params, states, found = play(params, states, drawn, jnp.array([learning_rate] * 2, np.float32), output=None)
        losses.append(np.asarray(found, float)[..., 0].mean(axis=1))
        samples.append(look())
        note(f"step {(part + 1) * (steps // parts)}")
    near, modes = zip(*(zip(*map(near_modes, own), strict=True) for own in samples), strict=True)
    return (
        {
            "steps": [part * (steps // parts) for part in range(parts + 1)],
            "losses": np.array(losses).T.tolist(),  # of the discriminators, the mean in each part, [R, parts]
            "ahead": np.asarray(alone, float)[..., 0].mean(axis=1).tolist(),  # against a generator that stays as it is
            "distances": [distances(samples[i], real) for i in (0, -1)],  # of groups, [2, R, groups]
            "distance": np.transpose([[energy_distance(x, real) for x in own] for own in samples]).tolist(),
            "distance_of_real": energy_distance(other, real),
            "near": np.transpose(near).tolist(),
            "near_of_real": near_modes(other)[0],
            "modes": np.transpose(modes).tolist(),
            "first": samples[0][0, :200].round(3).tolist(),
            "samples": samples[-1][:, :400].round(3).tolist(),
        }
        | slopes
    )


def near_modes(x: np.ndarray) -> tuple[float, int]:
    """The share of points within `NEAR` standard deviations of a mode; modes with a tenth of their due of those."""
    distances = np.sqrt(np.sum((x[:, None] - CENTRES) ** 2, axis=-1))
    near = distances.min(axis=1) <= NEAR * SPREAD
    counts = np.bincount(distances.argmin(axis=1)[near], minlength=MODES)
    return float(near.mean()), int(np.sum(counts >= 0.1 * len(x) / MODES))


def gradient_ratios(params: gan.Params, z: np.ndarray) -> dict[str, Any]:
    """The generator's gradients of both losses, of single fakes and of all together, in float64.

    Of one fake the two are −σ(s) and −σ(−s) times the same ∂s: their ratio is e^s, in every entry. Of many it is a
    ratio of sums of vectors, for which there is no such number; beside it stands mean σ(s) over mean σ(−s).
    """
    with jax.enable_x64(True):
        z = z.astype(float)

        @jax.jit
        def both(params: gan.Params, z: Array) -> Any:
            def norms(z: Array) -> Any:  # and the largest entry of g₁ − e^s g₂, over that of g₁
                first, second = (gan.generator_loss_and_gradient(params, z, kind=kind)[1] for kind in LOSSES)
                s = jnp.mean(mlp.mlp(params.discriminator, gan.generate(params.generator, z)))
                pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
                apart = jnp.stack([jnp.max(jnp.abs(a - jnp.exp(s) * b)) for a, b in pairs])
                largest = jnp.stack([jnp.max(jnp.abs(a)) for a in jax.tree.leaves(first)])
                sizes = optimizers.global_norm(first), optimizers.global_norm(second)
                return s, *sizes, jnp.max(apart) / jnp.max(largest)

            return jax.lax.map(norms, z[:, None]), norms(z)

        players = [jax.tree.map(lambda p, r=r: p[r], training.wide(params)) for r in range(len(params.generator[0].w))]
        alone, together = zip(*(both(own, z) for own in players), strict=True)
    s, first, second, apart = (np.array(values) for values in zip(*alone, strict=True))  # [R, N] each
    _, batch_first, batch_second, _ = np.array(together, float).T
    return {
        "scores": s.round(5).tolist(),
        "ratios": (first / second).tolist(),
        "ratios_apart": float(np.max(apart)),
        "batch_ratios": (batch_first / batch_second).tolist(),
        "batch_ratios_expected": ((1 / (1 + np.exp(-s))).mean(1) / (1 / (1 + np.exp(s))).mean(1)).tolist(),
    }


def measure_digits(
    *,
    latent: int,
    hidden: Sequence[int],
    learning_rate: float,
    batch_size: int,
    steps: int,
    parts: int,
    shown: int,
    key: PRNGKey,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Both players on grey digits: samples with the training image next to each, distances, gradients by hand."""
    images = training.digits(binary=False)
    random, shape = training.generator(key), (1, steps // parts, batch_size)
    pixels = images.train.shape[1]
    init = functools.partial(gan.init, inputs=pixels, latent=latent, hidden=hidden)
    first: gan.Params = training.initial(random, init, 1)
    params, states = first, start(first)
    z = random.standard_normal((EXAMPLES, latent), np.float32)
    losses, far = [], []

    def look() -> np.ndarray:
        found = np.asarray(generated(params.generator, z, output=SIGMOID))
        far.append(distances(found, images.test)[0])
        return np.asarray(found[0])

    samples = look()
    for part in range(parts):
        drawn = batches(random, images.train[random.integers(0, len(images.train), shape)], latent)
        params, states, found = play(params, states, drawn, jnp.array([learning_rate] * 2, np.float32), output=SIGMOID)
        losses.append(float(np.asarray(found)[..., 0].mean()))
        samples = look()
        note(f"step {(part + 1) * (steps // parts)}")
    to_train, nearest = nearest_images(samples, images.train)
    return {
        "steps": [part * (steps // parts) for part in range(parts + 1)],
        "losses": losses,
        "distances": far,  # [parts + 1, groups]
        "distance_of_train": energy_distance(images.train, images.test),
        "samples": samples[:shown].round(3).tolist(),
        "nearest": images.train[nearest[:shown]].round(4).tolist(),
        "to_train": float(np.median(to_train)),
        "test_to_train": float(np.median(nearest_images(images.test, images.train)[0])),
        "gradient_differences": compare_gradients(first, params, images.train[:batch_size], z[:batch_size]),
    }


def nearest_images(x: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each to the nearest other, and which that is."""
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(others * others, axis=1) - 2 * x @ others.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0)), squares.argmin(axis=1)


def compare_gradients(first: gan.Params, last: gan.Params, real: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """By hand against `jax.grad`, at the start and the end: the discriminator's, the generator's of either loss."""
    where = [jax.tree.map(lambda p: p[0], params) for params in (first, last)]

    def discriminator_loss(discriminator: mlp.Params, generator: mlp.Params, real: Array, z: Array) -> Array:
        return gan.discriminator_loss(discriminator, real, gan.generate(generator, z, output=SIGMOID))

    def discriminator_by_hand(discriminator: mlp.Params, generator: mlp.Params, real: Array, z: Array) -> Any:
        return gan.discriminator_loss_and_gradient(gan.Params(generator, discriminator), real, z, output=SIGMOID)

    def generator_by_hand(generator: mlp.Params, discriminator: mlp.Params, z: Array, *, kind: str) -> Any:
        return gan.generator_loss_and_gradient(gan.Params(generator, discriminator), z, kind=kind, output=SIGMOID)

    calls = [(own.discriminator, own.generator, real, z) for own in where]
    found = {"discriminator": training.gradient_difference(discriminator_by_hand, discriminator_loss, calls)}
    for kind in LOSSES:
        by_hand = functools.partial(generator_by_hand, kind=kind)
        loss = functools.partial(gan.generator_loss, kind=kind, output=SIGMOID)
        calls_of_generator = [(own.generator, own.discriminator, z) for own in where]
        found[f"generator, {kind}"] = training.gradient_difference(by_hand, loss, calls_of_generator)
    return found
