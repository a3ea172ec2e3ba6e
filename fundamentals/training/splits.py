"""Disjoint parts of a data set: to fit, to choose, to report. Indices, in NumPy, the same on every machine."""

import math
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from fundamentals import _checks


def split(
    examples: ArrayLike,
    fractions: Sequence[float],
    *,
    stratified: bool = True,
    every_class: bool = True,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Disjoint index sets whose sizes are in proportion to the fractions, to within one example.

    Args:
      examples: labels [N], integers; or N, where there are no classes.
      fractions: of each part, for example (0.7, 0.1, 0.2); they are positive and sum to 1.
      stratified: each class is split in these proportions, too, as far as whole examples and sizes of parts allow.
      every_class: a part without an example of a class is an error.
      seed: of the shuffle, below 2³².

    Returns:
      For each fraction sorted indices [n], none of them empty; together they are 0 … N − 1.

    Raises:
      ValueError: the fractions don't sum to 1, or a part is left empty, or without a class where each should have it.
      TypeError: the labels are no integers.

    Example: `train, validation, test = split(labels, (0.7, 0.1, 0.2))`.
    """
    if isinstance(examples, int | np.integer):
        _checks.positive_integers("training.split", examples=examples)
        labels = np.zeros(int(examples), np.int32)
    else:
        labels = np.asarray(examples)
    if labels.ndim != 1:
        raise ValueError(f"training.split: examples has shape {list(labels.shape)}; expected labels [N], or N")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"training.split: examples has dtype {labels.dtype}; expected integer labels, or their number")
    shares = _fractions(fractions)
    _checks.boolean("training.split", stratified=stratified, every_class=every_class)
    _checks.counts("training.split", seed=seed)
    _checks.interval("training.split", "[0, 4294967296)", seed=seed)
    random = np.random.RandomState(seed)  # the legacy generator: its stream is frozen for ever
    classes = np.unique(labels)
    groups = [np.flatnonzero(labels == label) for label in classes] if stratified else [np.arange(len(labels))]
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for members, counts in zip(groups, _counts([len(members) for members in groups], shares), strict=True):
        shuffled = random.permutation(members)
        for part, chosen in zip(parts, np.split(shuffled, np.cumsum(counts)[:-1]), strict=True):
            part.append(chosen)
    result = tuple(np.sort(np.concatenate(part)) if part else np.empty(0, int) for part in parts)
    for i, indices in enumerate(result):
        where = f"training.split: part {i}, {shares[i]:g} of {len(labels)} examples,"
        if not len(indices):
            raise ValueError(f"{where} is empty; expected a larger fraction, or more examples")
        missing = np.setdiff1d(classes, labels[indices])
        if every_class and missing.size:
            raise ValueError(
                f"{where} has none of class {missing[0]}, of which there are {np.sum(labels == missing[0])}; expected "
                "a larger fraction, more examples, or every_class=False"
            )
    return result


def _counts(sizes: Sequence[int], shares: np.ndarray) -> np.ndarray:
    """How many of each class go to each part, [classes, parts].

    Each class is rounded by itself. Many classes may be rounded the same way: while that leaves a part an example or
    more off, one goes from the largest part to the smallest, measured by what is due, of the class that minds least.
    """
    due = np.outer(sizes, shares)
    bounds = np.cumsum([0, *shares])
    counts = np.array([np.diff(np.round(bounds * size)) for size in sizes], int).reshape(due.shape)
    while True:
        surplus = counts - due
        of_parts = surplus.sum(axis=0)
        if np.abs(of_parts).max(initial=0) < 1:
            return counts
        largest, smallest = np.argmax(of_parts), np.argmin(of_parts)
        chosen = np.argmax(np.where(counts[:, largest] > 0, surplus[:, largest] - surplus[:, smallest], -np.inf))
        counts[chosen, largest] -= 1
        counts[chosen, smallest] += 1


def _fractions(fractions: Sequence[float]) -> np.ndarray:
    try:
        shares = np.asarray(fractions, float)
    except (TypeError, ValueError):
        shares = np.empty(0)
    if shares.ndim != 1 or not shares.size or not np.all(shares > 0) or not math.isclose(shares.sum(), 1, rel_tol=1e-6):
        given = list(fractions) if isinstance(fractions, Sequence) else fractions
        raise ValueError(f"training.split: fractions is {given}; expected positive numbers of sum 1")
    total: float = shares.sum()
    return shares / total
