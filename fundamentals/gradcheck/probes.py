"""Where a gradient is looked at: random cotangents, other points near the one given, and steps off a kink.

A probe that is special hides mistakes: a cotangent of ones those of a softmax, a scale of ones a forgotten scale, zeros
everything that they multiply. So each check also looks at other points: the arguments given, changed at random. What an
argument visibly obeys is kept, since a gradient need not be right where its formula was not derived for: rows that sum
to 1 still do, labels of two values stay labels, signs stay, a symmetric matrix stays symmetric. One more point keeps
none of this but the rows that sum to 1; a gradient that is wrong there alone is neither right nor shown to be wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

SPREAD = 0.3  # relative size of a change


def cotangents(outputs: Sequence[Any], random: np.random.RandomState, is_loss: bool) -> list[Any]:
    """dy: 1 for a loss, else standard normal numbers."""
    if is_loss:
        return [np.ones(y.shape, y.dtype) for y in outputs]
    return [normal(y.shape, y.dtype, random) for y in outputs]


def normal(shape: tuple[int, ...], dtype: Any, random: np.random.RandomState) -> Any:
    """Standard normal numbers, complex ones in both parts."""
    x = random.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * random.standard_normal(shape)
    return np.asarray(x, dtype)


def perturb(x: Any, random: np.random.RandomState, spread: float = SPREAD) -> Any:
    """Another array of the same kind. Not changed: labels, and arrays with a NaN in them."""
    if not x.size or not np.all(np.isfinite(x)):
        return x
    # Large arrays repeat a block of random numbers, and a sample tells whether they are labels: this has to be cheap.
    noise = np.resize(random.standard_normal(min(x.size, 65537)), x.shape)
    sample = x.flat[:4096]
    if np.all(sample == sample[0]) and np.all(x == sample[0]):  # a constant: scales, offsets
        size = np.abs(x.flat[0]) or 1.0
        return (x + spread * size * noise).astype(x.dtype)
    values = np.unique(sample)
    if values.size <= 3 and x.size > values.size and not set(np.real(values)) - {-1.0, 0.0, 1.0} and np.isrealobj(x):
        return x
    changed = x * np.resize(np.exp(spread * noise.flat[:65537]), x.shape)  # keeps signs and zeros
    if _sums_to_one(x):
        return (changed / changed.sum(-1, keepdims=True)).astype(x.dtype)
    if _is_symmetric(x):
        changed = (changed + np.swapaxes(changed, -1, -2)) / 2
    return changed.astype(x.dtype)


def free(x: Any, random: np.random.RandomState, spread: float = SPREAD) -> Any:
    """Another array that obeys nothing but that rows which sum to 1 still do: no zero, sign or symmetry is kept."""
    if not x.size or not np.all(np.isfinite(x)) or (_sums_to_one(x) and not _is_symmetric(x)):  # not the identity
        return perturb(x, random, spread)
    size = np.sqrt(np.mean(np.abs(x) ** 2)) or 1.0
    return (x + spread * size * normal(x.shape, x.dtype, random)).astype(x.dtype)


def polish(x: Any) -> Any:
    """Rows that sum to 1 up to the rounding of the type that they came in, to that of float64."""
    return (x / x.sum(-1, keepdims=True)).astype(x.dtype) if _sums_to_one(x) else x


def _sums_to_one(x: Any) -> bool:
    if not (np.issubdtype(x.dtype, np.floating) and x.ndim and x.shape[-1] > 1 and x.size):
        return False
    first = x.reshape(-1, x.shape[-1])[0]  # which tells most arrays in no time
    return bool(abs(first.sum() - 1) < 1e-6 and np.all(x >= -1e-2) and np.allclose(x.sum(-1), 1, rtol=0, atol=1e-6))


def _is_symmetric(x: Any) -> bool:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        return False
    return all(np.array_equal(part, np.swapaxes(part, -1, -2)) for part in (x[..., :8, :8], x))


def is_special(x: Any) -> bool:
    """Whether an array may hide mistakes: it has few values, zeros, or is symmetric."""
    sample = x.flat[:4096]
    return bool(x.size and (np.unique(sample).size <= 3 or np.mean(sample == 0) > 0.01 or _is_symmetric(x)))


def nudge(x: Any, random: np.random.RandomState, size: float) -> Any:
    """A step so small that it changes nothing but on which side of a kink the point lies."""
    if not x.size:
        return x
    scale = np.sqrt(np.mean(np.abs(np.where(np.isfinite(x), x, 0)) ** 2)) or 1.0
    return (x + size * scale * normal(x.shape, x.dtype, random)).astype(x.dtype)
