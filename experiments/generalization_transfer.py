"""Transfer: `generalization` from digits 0–4, of which all labels are known, to digits 5–9, of which few are."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import generalization_networks as networks
from experiments.generalization_networks import Digits
from fundamentals.models import mlp

FROZEN, TUNED, RANDOM, SCRATCH = WAYS = "transferred, frozen", "transferred, tuned", "random, frozen", "from scratch"
PLAIN, LIT = "even light", "uneven light"
DECAY = 0.1  # λ, of the network that is transferred
WAVES = 3  # frequencies of the light along each axis, 0 of both left out


class Source(NamedTuple):
    """R networks that know digits 0–4."""

    images: np.ndarray  # [N, 64], in one light
    known: mlp.Params  # [R, …]
    error: float  # on test images of 0–4


def lit(images: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """Images, each in a light of its own: a sum of smooth waves over the image, each normal of size `amount`.

    That is what all digits have in common, and nothing that few of them would tell.
    """
    places = (np.arange(8) + 0.5) / 8
    waves = [np.cos(np.pi * k * places) for k in range(WAVES)]
    patterns = np.array([np.outer(a, b).ravel() for a in waves for b in waves][1:])
    patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)
    strengths = random.normal(0, amount, (len(images), len(patterns)))
    result: np.ndarray = (images + strengths @ patterns).astype(np.float32)
    return result


def sizes(hidden: int) -> tuple[int, ...]:
    """Of the network, of five classes: the digit modulo 5."""
    return 64, hidden, hidden, 5


def tests(digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    """Test images of 0–4 and of 5–9, as many of either: so that all networks are one program."""
    low = digits.labels[digits.test] < 5
    halves = digits.test[low], digits.test[~low]
    count = min(map(len, halves))
    return halves[0][:count], halves[1][:count]


def learn_source(digits: Digits, light: float, *, steps: int, repeats: int, hidden: int, seed: int) -> Source:
    """Train on all of 0–4."""
    random = networks.generator(seed, "transfer")
    images = lit(digits.images, light, random) if light else digits.images
    shape = sizes(hidden)
    params = networks.stacked([networks.network(random, shape, shape) for _ in range(repeats)])
    source = digits.pool[digits.labels[digits.pool] < 5]
    batches = random.choice(source, (repeats, steps, networks.BATCH))
    lanes = networks.lanes(params, digits.labels % 5, batches, tests(digits), weight_decay=DECAY)
    found = networks.train(images, lanes, every=steps)
    known = jax.tree.map(np.asarray, found.params)
    return Source(images, known, float(np.mean(np.asarray(found.scores)[:, -1, 0, networks.ERROR])))


def measure(digits: Digits, source: Source, count: int, *, steps: int, repeats: int, seed: int) -> dict[str, Any]:
    """Each way with `count` labels of each of 5–9, the same labels and the same steps in all ways: test errors [R]."""
    hidden = source.known[0].w.shape[-1]
    shape = sizes(hidden)
    fresh, batches = [], []
    for repeat in range(repeats):
        random = networks.generator(seed, "transfer", 1 + repeat)
        fresh.append(networks.network(random, shape, shape))
        orders = [random.permutation(digits.pool[digits.labels[digits.pool] == label]) for label in range(5, 10)]
        few = np.concatenate([order[:count] for order in orders])  # fewer are part of more
        batches.append(random.choice(few, (steps, networks.BATCH)))
    started = networks.stacked(fresh)
    transferred = (*source.known[:-1], started[-1])  # hidden layers; the output is new
    starts = {FROZEN: (transferred, 0.0), TUNED: (transferred, 1.0), RANDOM: (started, 0.0), SCRATCH: (started, 1.0)}
    result = {}
    for way in WAYS:
        params, trains = starts[way]
        lanes = networks.lanes(params, digits.labels % 5, np.array(batches), tests(digits), trains=trains)
        scores = np.asarray(networks.train(source.images, lanes, every=steps).scores)[:, -1, 1]
        result[way] = scores[:, networks.ERROR].astype(float).tolist()
    return {"labels": count, "source_error": source.error, "errors": result}


def jobs(
    digits: Digits, *, counts: Sequence[int], light: float, steps: int, repeats: int, hidden: int, seed: int
) -> dict[str, Callable[[], dict[str, Any]]]:
    """A row for each number of labels, in even and uneven light."""

    @functools.cache
    def source(amount: float) -> Source:
        return learn_source(digits, amount, steps=steps, repeats=repeats, hidden=hidden, seed=seed)

    def job(amount: float, count: int) -> Callable[[], dict[str, Any]]:
        return lambda: measure(digits, source(amount), count, steps=steps, repeats=repeats, seed=seed)

    lights = ((LIT, light), (PLAIN, 0.0))
    return {f"{kind}, {count} labels": job(amount, count) for kind, amount in lights for count in counts}
