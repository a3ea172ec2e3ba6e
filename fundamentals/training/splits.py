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
    """Disjoint index sets whose sizes are in proportion to the fractions.

    Args:
      examples: labels [N], integers; or N, where there are no classes.
      fractions: of each part, for example (0.7, 0.1, 0.2); they are positive and sum to 1.
      stratified: each class is split in these proportions, by itself. Otherwise all examples are, together.
      every_class: a part without an example of a class is an error.
      seed: of the shuffle.

    Returns:
      For each fraction sorted indices [n], none of them empty; together they are 0 … N − 1.

    Raises:
      ValueError: the fractions don't sum to 1, or a part is left empty, or without a class where each should have it.
      TypeError: the labels are no integers.

    Example: `train, validation, test = split(labels, (0.7, 0.1, 0.2))`.
    """
    counted = isinstance(examples, int | np.integer)
    labels = np.zeros(_count(examples), np.int32) if counted else np.asarray(examples)
    if labels.ndim != 1:
        raise ValueError(f"training.split: examples has shape {list(labels.shape)}; expected labels [N], or N")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"training.split: examples has dtype {labels.dtype}; expected integer labels, or their number")
    shares = _fractions(fractions)
    _checks.boolean("training.split", stratified=stratified, every_class=every_class)
    _checks.counts("training.split", seed=seed)
    random = np.random.RandomState(seed)  # the legacy generator: its stream is frozen for ever
    classes = np.unique(labels)
    groups = [np.flatnonzero(labels == label) for label in classes] if stratified else [np.arange(len(labels))]
    bounds = np.cumsum([0, *shares])
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for members in groups:
        shuffled = random.permutation(members)
        cuts = np.round(bounds * len(members)).astype(int)
        for part, start, stop in zip(parts, cuts[:-1], cuts[1:], strict=True):
            part.append(shuffled[start:stop])
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


def _count(examples: ArrayLike) -> int:
    _checks.positive_integers("training.split", examples=examples)
    return int(np.asarray(examples))


def _fractions(fractions: Sequence[float]) -> list[float]:
    shares = np.asarray(fractions, float) if len(np.shape(fractions)) == 1 else np.empty(0)
    if not shares.size or not np.all(shares > 0) or not math.isclose(shares.sum(), 1):
        given = fractions if isinstance(fractions, float | int) else list(fractions)
        raise ValueError(f"training.split: fractions is {given}; expected positive numbers of sum 1")
    return shares.tolist()  # type: ignore[no-any-return]
