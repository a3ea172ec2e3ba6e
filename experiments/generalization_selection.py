"""The best of many on one validation set: `generalization` of its score to fresh images.

Candidates are trained once. What is drawn again and again is the validation set, a test set as fresh, and which of the
candidates are compared. They are drawn, with replacement, from images that no candidate was trained on: so that the
skill of each, its accuracy on all of them, is known exactly.

The score of a candidate is its skill plus the luck of the set. Luck has a part that all share (a set is easy for all)
and one of its own, of variance s² = (variance − covariance) / m of m images. Skills vary by τ². Of k candidates with
normal skill and luck, E_k the mean of the largest of k standard normal numbers, the best score has luck

    E[score − skill] = s² / √(s² + τ²) E_k                                                                          (1)

in it: all that is chosen is luck where skills are equal. Whatever the distributions are, luck in one of m images is
within an interval of length 1, so (Hoeffding 1963) that of the luckiest of k is no more, on average, than

    √(ln k / 2m).                                                                                                   (2)
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generalization_networks as networks
from experiments.generalization_networks import Digits
from fundamentals import training

GUESSES, SEEDS, SETTINGS = FAMILIES = "guesses", "other seeds", "other settings"
CLASSES = 10
TEST = 359  # images of a fresh test set, as many as the digits' test part has
FEW = 10  # images of each class to train candidates with
GRID = np.linspace(-9, 9, 18001)  # to integrate normal densities


class Expected(NamedTuple):
    """Of k independent standard normal numbers."""

    largest: float  # E max
    square: float  # E max²


def expected_maximum(k: int) -> Expected:
    """E max and E max² of k standard normal numbers, by their density k φ Φ^(k − 1)."""
    density = np.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi)
    step = GRID[1] - GRID[0]
    below = np.cumsum(density) * step - density * step / 2
    weights = k * density * below ** (k - 1) * step
    return Expected(float(weights @ GRID), float(weights @ GRID**2))


def best_guess(k: int, m: int) -> float:
    """The expected best of k scores, shares of right answers among m, by guessing: exact, from the binomial."""
    chances = np.array([math.comb(m, j) * (CLASSES - 1) ** (m - j) / CLASSES**m for j in range(m + 1)])
    at_most = np.minimum(np.cumsum(chances), 1)
    return float(np.sum(1 - at_most[:-1] ** k) / m)


def train_candidates(digits: Digits, kind: str, *, candidates: int, steps: int, hidden: int, seed: int) -> np.ndarray:
    """Which of the other images each candidate gets right, [K, N].

    All are trained with the same few images: with other seeds only; or with other widths, learning rates and decays.
    """
    random = networks.generator(seed, "selection", FAMILIES.index(kind))
    orders = [random.permutation(np.flatnonzero(digits.labels == label)) for label in range(CLASSES)]
    few = np.concatenate([order[:FEW] for order in orders])
    others = np.concatenate([order[FEW:] for order in orders])
    learning_rate, decay = np.full(candidates, networks.LEARNING_RATE), np.zeros(candidates)
    widths = np.full(candidates, hidden)
    if kind == SETTINGS:
        learning_rate = np.exp(random.uniform(math.log(1e-3), math.log(1e-2), candidates))
        decay = np.exp(random.uniform(math.log(1e-3), 0, candidates))
        widths = random.choice([max(1, hidden // 4), max(1, hidden // 2), hidden], candidates)
    full = 64, hidden, hidden, CLASSES
    params = [networks.network(random, (64, width, width, CLASSES), full) for width in widths]
    batches = random.choice(few, (candidates, steps, networks.BATCH))
    lanes = networks.lanes(
        networks.stacked(params), digits.labels, batches, (few,), learning_rate=learning_rate, weight_decay=decay
    )
    found = networks.train(digits.images, lanes, every=steps)
    answers = np.asarray(_answers(found.params, digits.images[others]))
    return np.asarray(answers == digits.labels[others])


@jax.jit
def _answers(params: Any, x: Any) -> Any:
    return jax.vmap(lambda p: jnp.argmax(networks.logits(p, x), axis=-1))(params)


def draw_scores(right: np.ndarray, *, m: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all candidates on `draws` validation sets of m images and on as many test sets, [draws, K] each."""
    scores = []
    for key, size in zip(jax.random.split(jax.random.key(seed)), (m, TEST), strict=True):
        drawn = np.asarray(training.resample(right.shape[1], draws, key=key, size=size))
        counts = np.zeros((draws, right.shape[1]), np.float32)
        np.add.at(counts, (np.arange(draws)[:, None], drawn), 1)
        scores.append((counts @ right.T.astype(np.float32)).astype(float) / size)  # whole numbers: exact
    return scores[0], scores[1]


def choose(
    validation: np.ndarray, test: np.ndarray, skill: np.ndarray, counts: list[int], random: np.random.Generator
) -> dict[str, Any]:
    """In each draw, the best of the first k of the candidates in an order of its own; ties go to the earlier.

    Returns:
      By k, means over draws and their standard errors: what the best scores, on validation and test sets, and what it
      is worth; the optimism, score less test score; at the last k less at the first that chooses at all.
    """
    draws = len(validation)
    order = random.permuted(np.broadcast_to(np.arange(len(skill)), (draws, len(skill))), axis=1)
    found = np.take_along_axis(validation, order, axis=1)
    rows = np.arange(draws)
    best = [order[rows, found[:, :k].argmax(axis=1)] for k in counts]
    scores, tests, skills = (
        np.array([values[rows, one] for one in best])
        for values in (validation, test, np.broadcast_to(skill, test.shape))
    )
    optimism = scores - tests
    grows = optimism[-1] - optimism[min(1, len(counts) - 1)]

    def with_error(values: np.ndarray) -> dict[str, Any]:
        errors = values.std(axis=-1, ddof=1) / math.sqrt(draws)
        return {"mean": values.mean(axis=-1).tolist(), "error": errors.tolist()}

    return {
        "counts": counts,
        "validation": with_error(scores),
        "test": with_error(tests),
        "skill": with_error(skills),
        "optimism": with_error(optimism),
        "unbiased": with_error(tests - skills),
        "grows": with_error(grows),
    }


def luck(right: np.ndarray, m: int) -> dict[str, float]:
    """s, τ and the mean skewness of a score, of what is drawn from all images."""
    skill = right.mean(axis=1)
    covariance = np.cov(right.astype(float), bias=True)
    variance = float(np.trace(covariance)) / len(right)
    shared = float(covariance.sum() - np.trace(covariance)) / (len(right) * (len(right) - 1))
    spread = np.maximum(skill * (1 - skill), 1e-12)
    return {
        "s": math.sqrt(max(variance - shared, 0) / m),
        "tau": float(skill.std(ddof=1)),
        "skewness": float(np.mean((1 - 2 * skill) / np.sqrt(spread * m))),
    }


def measure(
    digits: Digits, kind: str, *, candidates: int, m: int, draws: int, steps: int, hidden: int, seed: int
) -> dict[str, Any]:
    """One family of candidates."""
    counts = [2**power for power in range(int(math.log2(candidates)) + 1)]
    random = networks.generator(seed, "selection", len(FAMILIES))
    if kind == GUESSES:
        scores = [random.binomial(size, 1 / CLASSES, (draws, candidates)) / size for size in (m, TEST)]
        found = choose(scores[0], scores[1], np.full(candidates, 1 / CLASSES), counts, random)
        return {"kind": kind, "m": m, "predicted": [best_guess(k, m) - 1 / CLASSES for k in counts]} | found
    right = train_candidates(digits, kind, candidates=candidates, steps=steps, hidden=hidden, seed=seed)
    validation, test = draw_scores(right, m=m, draws=draws, seed=seed)
    found = choose(validation, test, right.mean(axis=1), counts, random)
    lucky = luck(right, m)
    s, tau = lucky["s"], lucky["tau"]
    scale = s**2 / math.sqrt(s**2 + tau**2)
    predicted = [scale * expected_maximum(k).largest for k in counts]
    return {"kind": kind, "m": m, "predicted": predicted, "luck": lucky} | found


def jobs(
    digits: Digits, *, candidates: int, validated: int, draws: int, steps: int, hidden: int, seed: int
) -> dict[str, Callable[[], dict[str, Any]]]:
    """A row for each family."""
    options = {"candidates": candidates, "m": validated, "draws": draws, "steps": steps, "hidden": hidden, "seed": seed}
    return {f"selection, {kind}": functools.partial(measure, digits, kind, **options) for kind in FAMILIES}
