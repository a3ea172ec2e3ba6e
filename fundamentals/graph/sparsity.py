"""The pattern of a matrix's zeros, in words."""

import math

import numpy as np

_DENSE = "dense"


def describe(support: np.ndarray, values: np.ndarray | None = None) -> str:
    """The most specific pattern that is true of a matrix.

    Args:
      support: [M, N], where it is not zero.
      values: [M, N], its entries, where they are the same for every x; None where they depend on it.

    Returns:
      One of "empty", "zero", "identity", "scalar times identity", "diagonal", "permutation", "selection (one entry a
      row)", "at most one entry a row", "block diagonal (B blocks of m × n)", "diagonal blocks (m × n of D × D)",
      "banded (l below, u above the diagonal)", "lower triangular", "upper triangular", "dense", or "sparse (p %
      not zero)".
    """
    m, n = support.shape
    if not m * n:
        return "empty"
    if not support.any():
        return "zero"
    if m == n and not (support & ~np.eye(n, dtype=bool)).any():
        return _diagonal(values)
    if support.sum(axis=1).max() == 1:
        return _one_a_row(support, values)
    return _blocks(support, values) or _interleaved(support) or _near_the_diagonal(support) or _filled(support)


def _diagonal(values: np.ndarray | None) -> str:
    entries = None if values is None else np.diagonal(values)
    if entries is None or not (entries == entries[0]).all():
        return "diagonal"
    return "identity" if entries[0] == 1 else "scalar times identity"


def _one_a_row(support: np.ndarray, values: np.ndarray | None) -> str:
    m, n = support.shape
    everywhere = bool(support.any(axis=1).all())
    if values is None or not everywhere or not (values[support] == 1).all():
        return "one entry a row" if everywhere else "at most one entry a row"
    return "permutation" if m == n and support.any(axis=0).all() else "selection (one entry a row)"


def _blocks(support: np.ndarray, values: np.ndarray | None) -> str:
    """Along the diagonal, as many as there can be of one size; or of different sizes; else nothing."""
    m, n = support.shape
    for count in _divisors(math.gcd(m, n)):
        rows, columns = m // count, n // count
        blocks = support.reshape(count, rows, count, columns)
        own = blocks[np.arange(count), :, np.arange(count), :]  # [count, rows, columns]
        if own.sum() == support.sum():
            inside = describe(np.any(own, axis=0))
            equal = False
            if values is not None:
                parts = values.reshape(count, rows, count, columns)[np.arange(count), :, np.arange(count), :]
                equal = bool((np.abs(parts - parts[0]) <= 1e-5 * np.abs(parts).max()).all())
            detail = "" if inside in (_DENSE, "diagonal") else f", each {inside}"
            return f"block diagonal ({count} {'equal ' if equal else ''}blocks of {rows} × {columns}{detail})"
    return f"block diagonal ({cuts + 1} blocks of different sizes)" if (cuts := _cuts(support)) else ""


def _cuts(support: np.ndarray) -> int:
    """The places where what is above and left of it shares no row or column with what is below and right of it."""
    filled = support[support.any(axis=1)]
    last = np.maximum.accumulate(filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1))
    first = np.minimum.accumulate(filled.argmax(axis=1)[::-1])[::-1]
    return int((last[:-1] < first[1:]).sum())


def _interleaved(support: np.ndarray) -> str:
    """Entries meet only those of the same place in another block, as features do across a batch; else nothing."""
    if support.all():
        return ""
    m, n = support.shape
    rows, columns = np.nonzero(support)
    for size in _divisors(math.gcd(m, n)):
        if (rows % size == columns % size).all():
            return f"diagonal blocks ({m // size} × {n // size} of {size} × {size})"
    return ""


def _near_the_diagonal(support: np.ndarray) -> str:
    """Banded, if the band is at most half as wide as the matrix, or triangular; else nothing."""
    m, n = support.shape
    rows, columns = np.nonzero(support)
    below, above = max(0, int((rows - columns).max())), max(0, int((columns - rows).max()))
    if below + above + 1 <= min(m, n) / 2:
        return f"banded ({below} below, {above} above the diagonal)"
    if m == n and not (below and above):
        return "lower triangular" if below else "upper triangular"
    return ""


def _filled(support: np.ndarray) -> str:
    return _DENSE if support.all() else f"sparse ({100 * support.mean():.2g} % not zero)"


def _divisors(number: int) -> list[int]:
    """Those above 1, the largest first."""
    return [d for d in range(number, 1, -1) if number % d == 0]
