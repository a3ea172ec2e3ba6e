"""Overfitting and what is done about it: `generalization` on few images of the digits, some with wrong labels."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import generalization_networks as networks
from experiments.generalization_networks import Digits
from fundamentals import training

NONE, DECAY, DROPOUT, BOTTLENECK = "none", "weight decay", "dropout", "bottleneck"
CLEAN = ", right labels"


class Few(NamedTuple):
    """R repeats, of a training and a validation part, disjoint, and labels of their own."""

    labels: np.ndarray  # [R, N]
    train: np.ndarray  # [R, n]
    validation: np.ndarray  # [R, n]
    batches: np.ndarray  # [R, T, BATCH]
    seeds: np.ndarray  # [R], of networks


def draw(digits: Digits, *, few: int, wrong: float, steps: int, repeats: int, seed: int) -> Few:
    """About `few` images of each class to train, as many to validate. Of all labels, test too, a share is wrong.

    Wrong labels are in every part alike, so that all three are of the same distribution.
    """
    share = few * 10 / len(digits.pool)
    found: list[tuple[Any, ...]] = []
    for repeat in range(repeats):
        random = networks.generator(seed, "overfitting", repeat)
        cut = int(random.integers(2**31))
        train, validation, _ = training.split(digits.labels[digits.pool], (share, share, 1 - 2 * share), seed=cut)
        count = len(digits.labels)
        others = (digits.labels + random.integers(1, 10, count, dtype=np.int32)) % 10
        labels = np.where(random.random(count) < wrong, others, digits.labels)
        batches = random.choice(train, (steps, networks.BATCH))
        found.append((labels, train, validation, batches, random.integers(2**31)))
    return Few(*map(np.array, zip(*found, strict=True)))


def settings(decays: Sequence[float], rates: Sequence[float], widths: Sequence[int]) -> list[tuple[str, float]]:
    """Every regularizer at every strength; the strength of none is 0."""
    grid = ((DECAY, decays), (DROPOUT, rates), (BOTTLENECK, widths))
    return [(NONE, 0.0)] + [(name, float(value)) for name, values in grid for value in values]


def name(kind: str, strength: float, wrong: bool = True) -> str:
    """The key of a row."""
    return (kind if kind == NONE else f"{kind} {strength:g}") + ("" if wrong else CLEAN)


def measure(digits: Digits, few: Few, kind: str, strength: float, *, hidden: int, seed: int) -> dict[str, Any]:
    """One setting, in all repeats: scores [train, validation, test] × [loss, error], at the end and where it stopped.

    A bottleneck is in the second of two hidden layers.
    """
    width = int(strength) if kind == BOTTLENECK else hidden
    full = 64, hidden, hidden, 10
    sizes = 64, hidden, width, 10
    params = [networks.network(np.random.default_rng(one), sizes, full) for one in few.seeds]
    options: dict[str, Any] = {"weight_decay": strength} if kind == DECAY else {}
    if kind == DROPOUT:
        options["rate"] = strength
    lanes = networks.lanes(
        networks.stacked(params),
        few.labels,
        few.batches,
        (few.train, few.validation, np.broadcast_to(digits.test, (len(few.train), len(digits.test)))),
        seed=seed,
        **options,
    )
    found = networks.train(digits.images, lanes, every=networks.EVERY, dropout=kind == DROPOUT, stops=True)
    found = jax.tree.map(np.asarray, found._replace(params=None))
    scores = found.scores.astype(float)
    return {
        "kind": kind,
        "strength": strength,
        "end": scores[:, -1].tolist(),
        "best": found.best_scores.astype(float).tolist(),
        "best_step": found.best_step.tolist(),
        "stopped": found.stopped.tolist(),
        "curves": scores.mean(axis=0).tolist(),
        "curve_errors": (scores.std(axis=0, ddof=1) / len(scores) ** 0.5).tolist(),
    }


def jobs(
    digits: Digits,
    *,
    few: int,
    wrong: float,
    steps: int,
    repeats: int,
    hidden: int,
    grid: Sequence[tuple[str, float]],
    again: Sequence[tuple[str, float]],
    seed: int,
) -> dict[str, Callable[[], dict[str, Any]]]:
    """A row for each setting of the grid, and of those `again` with right labels only."""

    @functools.cache
    def drawn(share: float) -> Few:
        return draw(digits, few=few, wrong=share, steps=steps, repeats=repeats, seed=seed)

    def job(share: float, kind: str, strength: float) -> Callable[[], dict[str, Any]]:
        return lambda: measure(digits, drawn(share), kind, strength, hidden=hidden, seed=seed)

    result = {name(kind, strength): job(wrong, kind, strength) for kind, strength in grid}
    return result | {name(kind, strength, False): job(0.0, kind, strength) for kind, strength in again}
