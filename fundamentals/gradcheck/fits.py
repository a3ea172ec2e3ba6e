"""What a wrong leaf is of the right one: a multiple, a rearrangement, another leaf, a product with a known tensor, or
the same but on some entries.

These fits know nothing of how the gradient came about, so each says little and costs little. They are tried first.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fundamentals.gradcheck.naming import name_number, undo
from fundamentals.gradcheck.report import Cause


class Fit(NamedTuple):
    """An explanation of one leaf; `label` finds it again at another point."""

    label: str
    cause: Cause
    value: Any  # what the gradient would be
    detail: str
    fix: str


class Known(NamedTuple):
    """What a leaf may be confused or multiplied with, at some point."""

    path: str
    number: int  # of the leaf
    truth: list[Any]  # of all leaves
    paths: tuple[str, ...]
    tensors: Mapping[str, Any]  # by name
    sizes: Mapping[int, list[str]]
    scalars: Mapping[str, float]
    depending: frozenset[str] = frozenset()  # those of them that depend on an argument with a gradient


def alike(a: Any, b: Any, digits: float = 1e-7) -> bool:
    """Whether two arrays agree, relative to the largest entry of the first."""
    if a.shape != b.shape or not np.all(np.isfinite(a)):
        return False
    return bool(np.max(np.abs(a - b), initial=0.0) <= digits * np.max(np.abs(a), initial=0.0))


def scalar_fits(m: Any, known: Known) -> Iterator[Fit]:
    """Nothing, or a multiple."""
    t, path = known.truth[known.number], known.path
    if not np.any(m) and np.any(t):
        yield Fit(
            "0",
            Cause.ZERO,
            np.zeros_like(t),
            f"d{path} is 0 everywhere; it should not be",
            f"compute d{path}; check masks, and bounds that are the wrong way round",
        )
        return
    if np.iscomplexobj(t) and alike(m, np.conj(t)):
        yield Fit(
            "conj",
            Cause.SIGN,
            np.conj(t),
            f"d{path} is the complex conjugate of the right one: its imaginary part has the wrong sign",
            "a conjugate is missing, or too many (JAX does not conjugate)",
        )
    dot = float(np.real(np.vdot(t, t)))
    if not dot or not np.all(np.isfinite(m)):
        return
    alpha = float(np.real(np.vdot(t, m))) / dot
    if not alike(m, alpha * t) or abs(alpha - 1) < 1e-8:
        return
    name = name_number(alpha, known.sizes, known.scalars)
    if name is not None and name.kind == "sign":
        yield Fit("-1", Cause.SIGN, -t, f"d{path} has the wrong sign", f"negate d{path}")
        return
    text = name.text if name else f"{alpha:.6g}"
    meaning = f" ({name.meaning})" if name and name.meaning else ""
    if abs(alpha) > 1:
        detail = (
            f"d{path} is {text} times too large{meaning}"
            if alpha > 0
            else f"d{path} is {text} times the right one{meaning}"
        )
    else:
        detail = f"d{path} is {text} of what it should be{meaning}"
    if name and name.kind in ("size", "scalar", "ratio"):
        detail += (
            ": a mean is missing, or a sum is taken in its place"
            if abs(alpha) > 1
            else ": a mean too many, or taken over too much"
        )
    source = next(
        (
            n
            for n in known.depending
            if name and name.kind == "scalar" and name.meaning in (f"that is {n}", f"that is 1/({n})")
        ),
        None,
    )
    if source is not None and name is not None:
        missing = name.meaning != f"that is {source}"
        cause = Cause.MISSING_FACTOR if missing else Cause.EXTRA_FACTOR
        words = f"d{path} lacks the factor {source}" if missing else f"d{path} has an extra factor {source}"
        yield Fit(name.meaning, cause, alpha * t, words, f"{'multiply by' if missing else 'leave out'} {source}")
        return
    # A number that the arguments change, as that of valid tokens, is the same by name.
    label = name.meaning if name and name.kind == "scalar" else f"{alpha:.7g}"
    yield Fit(label, Cause.SCALE, alpha * t, detail, undo(f"d{path}", text))


def layout_fits(m: Any, known: Known) -> Iterator[Fit]:
    """The right numbers at other places, or those of another leaf."""
    t, path = known.truth[known.number], known.path
    for i, other in enumerate(known.truth):
        if i != known.number and other.shape == t.shape:
            yield Fit(
                f"leaf {i}",
                Cause.SWAPPED,
                other,
                f"d{path} holds the gradient for {known.paths[i]}",
                "return the gradients in the order of the arguments",
            )
    ours, right = ((np.sum(a), np.linalg.norm(a)) for a in (m, t))  # which no rearrangement changes
    scale = float(np.max(np.abs(t), initial=0.0))
    if t.ndim > 5 or not np.allclose(ours, right, rtol=1e-6, atol=1e-6 * scale * t.size):
        return
    permutations = list(itertools.permutations(range(t.ndim)))
    for axes in permutations[1:]:
        moved = np.transpose(t, axes)
        if moved.shape == t.shape:
            yield Fit(
                f"T{axes}",
                Cause.TRANSPOSE,
                moved,
                f"d{path} is transposed (axes {axes})",
                f"return d{path}.T" if t.ndim == 2 else f"transpose d{path} back",
            )
    for count in range(1, min(t.ndim, 3) + 1):
        for flipped in itertools.combinations(range(t.ndim), count):
            yield Fit(
                f"flip{flipped}",
                Cause.LAYOUT,
                np.flip(t, flipped),
                f"d{path} is flipped along axis {_list(flipped)}",
                f"flip d{path} along axis {_list(flipped)}",
            )
    for axis in range(t.ndim):
        for by in range(1, min(t.shape[axis], 16)):
            yield Fit(
                f"roll{axis},{by}",
                Cause.LAYOUT,
                np.roll(t, by, axis),
                f"d{path} is shifted by {by} along axis {axis}",
                f"shift d{path} back",
            )
    for axes in permutations[1:]:
        yield Fit(
            f"reshape{axes}",
            Cause.LAYOUT,
            np.transpose(t, axes).reshape(t.shape),
            f"the entries of d{path} are in the order of axes {axes}",
            f"transpose before the reshape of d{path}",
        )
    for axis in range(t.ndim):  # gates, or heads, that are stored side by side
        for parts in (2, 3, 4):
            if t.shape[axis] % parts == 0 and t.shape[axis] > parts:
                blocks = np.split(t, parts, axis)
                for order in list(itertools.permutations(range(parts)))[1:]:
                    yield Fit(
                        f"blocks{axis},{order}",
                        Cause.LAYOUT,
                        np.concatenate([blocks[k] for k in order], axis),
                        f"the {parts} blocks of axis {axis} of d{path} are in the order {order}",
                        "keep the blocks in the order of the forward pass",
                    )
    for axes in permutations[1:]:
        moved = np.transpose(t, axes)
        for count in range(1, min(t.ndim, 2) + 1):
            for flipped in itertools.combinations(range(t.ndim), count):
                if moved.shape == t.shape:
                    yield Fit(
                        f"T{axes}flip{flipped}",
                        Cause.LAYOUT,
                        np.flip(moved, flipped),
                        f"d{path} is transposed (axes {axes}) and flipped along axis {_list(flipped)}",
                        "undo both",
                    )


def permutation_fits(m: Any, known: Known) -> Iterator[Fit]:
    """The right rows, or columns, in another order."""
    t, path = known.truth[known.number], known.path
    for axis in range(t.ndim):
        n = t.shape[axis]
        rows, given = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (t, m))
        if (
            not 2 < n <= 256
            or n * t.size > 10_000_000
            or not np.all(np.isfinite(m))
            or np.any(np.ptp(rows, axis=0) == 0)
        ):
            continue
        apart = np.max(np.abs(given[:, None] - rows[None]), axis=2) <= 1e-7 * np.max(np.abs(t))
        order, free = [], np.ones(n, bool)
        for k in range(n):
            places = np.flatnonzero(apart[k] & free)
            if not len(places):
                break
            order.append(k if free[k] and apart[k, k] else int(places[0]))
            free[order[-1]] = False
        if len(order) == n and order != list(range(n)):
            yield Fit(
                f"order{axis}: {order}",
                Cause.LAYOUT,
                np.take(t, order, axis),
                f"the right entries of d{path} are in another order along axis {axis}: {order}",
                "put each where the forward pass took it from",
            )


def factor_fits(m: Any, known: Known) -> Iterator[Fit]:
    """A tensor of the forward pass too many or too few."""
    t, path = known.truth[known.number], known.path
    tensors = []
    for name, v in known.tensors.items():
        try:
            wide = np.broadcast_to(v, t.shape) if np.ndim(v) <= t.ndim else None
        except ValueError:
            wide = None
        if wide is not None and np.size(v) > 1 and np.all(np.isfinite(v)) and np.ptp(np.abs(v)) + np.ptp(np.real(v)):
            tensors.append((name, wide))
    with np.errstate(all="ignore"):
        for name, v in tensors:
            yield Fit(f"·{name}", Cause.EXTRA_FACTOR, t * v, f"d{path} has an extra factor {name}", f"leave {name} out")
            yield Fit(
                f"/{name}", Cause.MISSING_FACTOR, t / v, f"d{path} lacks the factor {name}", f"multiply by {name}"
            )


def support_fits(m: Any, known: Known, predicates: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Conditions that tell which entries are wrong: (label, text)."""
    t = known.truth[known.number]
    scale = np.max(np.abs(t), initial=0.0, where=np.isfinite(t))
    wrong = ~(np.abs(m - t) <= 1e-8 * scale)
    if not np.any(wrong) or np.all(wrong):
        return
    for axis in range(t.ndim):
        places = np.unique(np.argwhere(wrong)[:, axis])
        inside = np.zeros(t.shape, bool)
        inside[(slice(None),) * axis + (places,)] = True
        if len(places) < t.shape[axis] and np.array_equal(inside, wrong):
            span = (
                f"{places[0]} to {places[-1]}" if np.ptp(places) + 1 == len(places) > 2 else ", ".join(map(str, places))
            )
            yield f"axis {axis}: {span}", f"d{known.path} is wrong exactly where axis {axis} is {span}"
    for name, predicate in predicates.items():
        try:
            mask = np.broadcast_to(predicate, t.shape)
        except ValueError:
            continue
        if np.array_equal(mask, wrong):
            yield name, f"d{known.path} is wrong exactly {name}"


def predicates_of(x: Any, integers: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions on the entries of an argument that mistakes follow: its values, ties in it, places, indices."""
    x = np.real(x)
    found: dict[str, Any] = {
        "where it is 0": x == 0,
        "where it is positive": x > 0,
        "where it is negative": x < 0,
        "where it is not positive": x <= 0,
        "where it is not negative": x >= 0,
        "where it is beyond ±1": np.abs(x) > 1,
        "where it is within ±1": np.abs(x) <= 1,
    }
    for axis in range(x.ndim):
        n = x.shape[axis]
        if n > 1:
            for place, name in ((0, "first"), (-1, "last")):
                mask = np.zeros(x.shape, bool)
                mask[tuple(place if k == axis else slice(None) for k in range(x.ndim))] = True
                found[f"at the {name} place of axis {axis}"] = mask
            order = np.sort(x, axis=axis)
            largest = np.take(order, [-1], axis)
            tied = (x == largest) & ((x == largest).sum(axis, keepdims=True) > 1)
            found[f"at ties for the maximum along axis {axis}"] = tied
            found[f"at the maximum along axis {axis}"] = x == largest
    if x.ndim >= 2 and min(x.shape[-2:]) > 1:
        rows, columns = np.indices(x.shape[-2:])
        for name, mask in (
            ("above", columns > rows),
            ("below", columns < rows),
            ("on", columns == rows),
            ("on and above", columns >= rows),
            ("on and below", columns <= rows),
        ):
            found[f"{name} the diagonal"] = mask
    values, counts = np.unique(x, return_counts=True)
    found["where its value is repeated"] = np.isin(x, values[counts > 1])
    for name, ids in integers.items():
        ids = np.asarray(ids)
        if ids.dtype == np.bool_ and ids.shape == x.shape[: ids.ndim]:
            shaped = ids.reshape(ids.shape + (1,) * (x.ndim - ids.ndim))
            found[f"where {name} is true"] = np.broadcast_to(shaped, x.shape)
            found[f"where {name} is false"] = np.broadcast_to(~shaped, x.shape)
        if not np.issubdtype(ids.dtype, np.integer):
            continue
        if x.ndim and ids.size and ids.min() >= 0 and ids.max() < x.shape[0]:
            rows = np.zeros(x.shape, bool)
            rows[np.unique(ids)] = True
            found[f"in rows that {name} names"] = rows
            repeated, count = np.unique(ids, return_counts=True)
            again = np.zeros(x.shape, bool)
            again[repeated[count > 1]] = True
            found[f"in rows that {name} names more than once"] = again
        if ids.ndim and x.shape[:-1] == ids.shape and ids.min() >= 0 and ids.max() < x.shape[-1]:
            hit = np.arange(x.shape[-1]) == ids[..., None]
            found[f"at the entry that {name} names"] = hit
            found[f"at all entries but those that {name} names"] = ~hit
    return found


def _list(axes: Any) -> str:
    return ", ".join(map(str, axes))
