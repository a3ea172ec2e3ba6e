"""The verdict: a gradient against autodiff and against finite differences, and who is to blame if they differ.

Autodiff in float64 is exact to rounding, costs one backward pass and points to the entry, so it decides at any size.
Finite differences know nothing of derivatives, so they decide when the gradient and autodiff differ:

    gradient ≠ autodiff = differences    the gradient is wrong
    gradient = differences ≠ autodiff    autodiff is: a custom rule in the function, or it is unstable there
    gradient = autodiff ≠ differences    nothing is shown

A stop_gradient in the function is meant: differences are taken with what it returns held constant.

PASS needs a comparison that would have seen a mistake: each verdict has the smallest error that would have been called
WRONG, and where this is coarse, the verdict is INCONCLUSIVE.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fundamentals.gradcheck import differences, kinks, own_types
from fundamentals.gradcheck.comparison import (
    Error,
    compare,
    imprecise,
    index,
    linearity,
    valued_probe,
)
from fundamentals.gradcheck.precision import Narrow
from fundamentals.gradcheck.probes import cotangents, free, is_special, nudge, perturb, polish
from fundamentals.gradcheck.report import Leaf, Verdict
from fundamentals.gradcheck.rounding import Probe, Rounding
from fundamentals.gradcheck.subject import Problem

COARSE = 1e-3  # a comparison that sees no less shows nothing
UNDEFINED = 64  # entries without autodiff that finite differences look at
LARGE = 1_000_000  # entries from which on every evaluation counts


class Options(NamedTuple):
    """Of a check; see `fundamentals.gradcheck`."""

    seed: int = 0
    cotangent: Any = None
    points: int | Sequence[tuple[Any, ...]] = 2
    order: int = 1
    kinks: str = "classify"
    budget: str = "fast"
    diagnose: bool = True


class Evidence(NamedTuple):
    """What verdicts stand on, for the diagnosis to work with."""

    leaves: list[Leaf]
    probes: list[Probe]  # the arguments given, then others
    ignores: list[bool]  # for each leaf, whether it is the same for all cotangents
    nonlinear: list[bool]  # … not linear in them
    hidden: bool  # right at the arguments given and wrong at others
    imprecise: Narrow | None  # right but for rounding to this type
    kink: kinks.Kink | None
    careful: bool  # other points are outside of the domain
    notes: list[str]
    failed: dict[int, own_types.Failure]  # right in float64, not in the types given


def judge(problem: Problem, options: Options, others: Sequence[list[Any]]) -> Evidence:
    """Compare. `others` are leaves of further arguments, given by the user."""
    count = len(problem.which)
    # Not the numbers that a caller who draws the arguments by the same seed has: dy = x makes xᵀ dy symmetric.
    random = np.random.RandomState([options.seed, 1])
    large = sum(problem.leaves[i].size for i in problem.which) > LARGE
    notes = list(problem.notes)
    given = _given_cotangent(problem, options.cotangent)
    first = problem.leaves, given if given is not None else cotangents(problem.outputs, random, problem.is_loss)
    values, home = valued_probe(problem, *first)
    if not all(np.all(np.isfinite(y)) for y in values):
        reason = "the function itself is not finite at these arguments"
        return _nothing(problem, reason, notes)
    side = None if problem.program is None or large else kinks.compile_side(problem.program)
    kink = kinks.find_kink(problem, side, *first, home.truth, options.seed) if home.truth and not large else None
    if kink is not None:
        home = _mended(home, kink, notes)
    probes = [home]
    for leaves in others:
        values, probe = valued_probe(problem, leaves, cotangents(problem.outputs, random, problem.is_loss))
        if not all(np.all(np.isfinite(y)) for y in values):
            raise ValueError("points: the function is not finite at one of them")
        probes.append(probe)
    wanted = options.points if isinstance(options.points, int) else 0
    if large:  # where every evaluation counts, look elsewhere only if something here can hide a mistake
        wanted = min(wanted, int(any(is_special(problem.leaves[i]) for i in problem.which)))
    for k in range(wanted):
        moved = _moved(problem, random, kink is not None)
        if moved is not None:
            probes.append(moved)
        if k == 0 and not large:  # one that keeps nothing that an argument obeys, as zeros and symmetries hide mistakes
            moved = _moved(problem, random, kink is not None, free)
            if moved is not None:
                probes.insert(1 + len(others), moved)
    if large:
        notes.append("more than a million entries: finite differences were not asked")

    ignores, nonlinear = linearity(problem, probes[-1], random) if not problem.is_loss else ([False] * count,) * 2
    # At a kink a last place changes the gradient itself.
    rounding = None if problem.numeric else Rounding(problem)
    errors = [
        [compare(problem, p, i, None if kink is not None and p is home else rounding) for i in range(count)]
        if p.truth
        else []
        for p in probes
    ]
    if large and any(e.nonfinite or e.relative > e.tolerance for e in errors[0]):
        kink = kinks.find_kink(problem, None, *first, home.truth, options.seed)
    slopes = _slopes(problem, probes[-1], side, random, large, options.budget)
    careful = False
    if any(s is not None and s.differs_from_both for s in slopes):
        again = _slopes(problem, home, side, random, large, options.budget)
        if not any(s is not None and s.differs_from_both for s in again):
            # The domain has an end that the function does not tell: an index out of bounds. No other points, then.
            careful, slopes, probes, errors = True, again, [home], errors[:1]
    rounded = imprecise(problem, probes)
    undefined = [_where_undefined(problem, home, i, side) if home.truth else "" for i in range(count)]
    leaves, hidden = [], False
    failed = own_types.failures(problem, home)
    for i in range(count):
        leaf = _verdict(
            problem, i, probes, [e[i] for e in errors if e], slopes[i], kink, ignores[i] or nonlinear[i], notes
        )
        if leaf.verdict is Verdict.PASS and i in rounded and problem.narrow is not None:
            leaf = leaf._replace(
                verdict=Verdict.WRONG, relative_error=rounded[i], detail=f"rounded to {problem.narrow.dtype}"
            )
        if undefined[i] and leaf.verdict in (Verdict.PASS, Verdict.KINK):
            verdict = Verdict.WRONG if undefined[i].startswith("autodiff is not finite, and") else Verdict.INCONCLUSIVE
            leaf = leaf._replace(verdict=verdict, detail=undefined[i])
        worse = (Verdict.PASS, Verdict.KINK) if i in failed and failed[i].error is None else (Verdict.PASS,)
        if i in failed and leaf.verdict in worse:
            leaf = leaf._replace(verdict=failed[i].verdict, detail=failed[i].detail)
            leaf = leaf._replace(relative_error=failed[i].error) if failed[i].error is not None else leaf
        slope = slopes[i]
        if slope is not None:
            leaf = leaf._replace(differences=slope.relative)
        hidden |= leaf.detail.startswith(_HIDDEN)
        leaves.append(leaf)
    if problem.narrow_primal is not None and not problem.precise:
        notes.append(
            f"the function computes in {problem.narrow_primal.dtype}"
            + (f" ({problem.narrow_primal.line})" if problem.narrow_primal.line else "")
            + ", so that smaller errors than those under “detects” cannot be seen"
        )
    if kink is not None:
        notes.append("a kink: " + ", ".join(kink.lines[:3]))
    return Evidence(
        leaves, probes, ignores, nonlinear, hidden, problem.narrow if rounded else None, kink, careful, notes, failed
    )


_HIDDEN = "right at the arguments given, wrong at others"


def _verdict(
    problem: Problem,
    i: int,
    probes: list[Probe],
    errors: list[Error],
    slope: Any,
    kink: Any,
    dependent: bool,
    notes: list[str],
) -> Leaf:
    path = problem.paths[i]
    if not problem.leaves[problem.which[i]].size:
        return Leaf(path, Verdict.PASS, 0.0, 0.0, "empty")
    if not errors:
        return _by_differences(path, probes, i, slope)
    detects = max(e.tolerance for e in errors)
    worst = max(errors, key=lambda e: e.relative / e.tolerance)
    wrong = [e.nonfinite or e.relative > e.tolerance for e in errors]
    if kink is not None and any(
        np.any(hi - lo > kinks.JUMP * kinks.scale_of(hi)) for lo, hi in [(kink.lowest[i], kink.highest[i])]
    ):
        home = probes[0]
        if any(wrong[1:]):
            return Leaf(
                path,
                Verdict.WRONG,
                max(e.relative for e in errors[1:]),
                detects,
                "also off the kink, " + next(e.where for e, w in zip(errors[1:], wrong[1:], strict=True) if w),
            )
        smooth = kink.highest[i] - kink.lowest[i] <= kinks.JUMP * kinks.scale_of(kink.highest[i])
        apart = np.abs(home.manual[i] - home.truth[i])[smooth & np.isfinite(home.truth[i])]
        worst_smooth = float(np.max(apart, initial=0.0)) / (kinks.scale_of(home.truth[i]) or 1.0)
        if worst_smooth > detects:
            return Leaf(path, Verdict.WRONG, worst_smooth, detects, "where no kink is")
        outside = kinks.impossible(problem, home, i, seed=0) if wrong[0] else ""
        if outside:
            return Leaf(path, Verdict.WRONG, errors[0].relative, detects, f"at a kink, and no convention: {outside}")
        return Leaf(
            path, Verdict.KINK, max((e.relative for e in errors[1:]), default=0.0), detects, _convention(kink, home, i)
        )
    disputed = slope is not None and np.isfinite(slope.bar)
    if any(wrong) or dependent:
        if disputed and slope.sides_with_manual and not dependent:
            notes.append(
                f"{path}: finite differences agree with the gradient given and not with autodiff; the function has a "
                "custom rule that is wrong, or autodiff of it is unstable"
            )
            return Leaf(path, Verdict.PASS, worst.relative, slope.detects, "by finite differences; autodiff differs")
        if wrong[0] or dependent:
            return Leaf(
                path, Verdict.WRONG, worst.relative, detects, worst.where if any(wrong) else "in how it depends on dy"
            )
        return Leaf(path, Verdict.INCONCLUSIVE, worst.relative, detects, f"{_HIDDEN}: {worst.where}")
    if detects > COARSE:
        return Leaf(path, Verdict.INCONCLUSIVE, worst.relative, detects, "rounding hides what could be wrong")
    if disputed and slope.differs_from_both:
        return Leaf(
            path,
            Verdict.INCONCLUSIVE,
            worst.relative,
            detects,
            f"agrees with autodiff, but finite differences give {slope.value:.6g} ± {slope.bar:.1g} for "
            f"{slope.given:.6g} along a random direction",
        )
    return Leaf(path, Verdict.PASS, worst.relative, detects, "")


def _mended(home: Probe, kink: kinks.Kink, notes: list[str]) -> Probe:
    """Autodiff of a smooth function can be wrong where a comparison in it is a tie: at 0, of log(e^x + 1) written with
    |x|. What it is on both sides holds there.
    """
    truth = []
    for t, m, low, high in zip(home.truth, home.manual, kink.lowest, kink.highest, strict=True):
        allowed = kinks.JUMP * max(kinks.scale_of(low), kinks.scale_of(high))
        off = kinks.off(t, low, high)
        if np.any(off):
            notes.append("autodiff differs from its own limit, the same from all sides, where a comparison is a tie")
        truth.append(np.where(off, np.where(np.abs(m - low) <= allowed, m, (low + high) / 2), t))
    return home._replace(truth=truth)


class _Slopes(NamedTuple):
    """A directional derivative of one leaf, three times."""

    value: float
    bar: float
    given: float  # by the gradient
    autodiff: float | None
    size: float  # that ⟨g, u⟩ is expected to have
    reason: str

    @property
    def relative(self) -> float | None:
        """The difference of the gradient from finite differences."""
        return abs(self.given - self.value) / self.size if self.bar < 1e-2 * self.size else None

    @property
    def detects(self) -> float:
        return max(5 * self.bar, 1e-9 * self.size) / self.size if self.size else 0.0

    def _far(self, other: float) -> bool:
        return abs(other - self.value) > 5 * self.bar and abs(other - self.value) > 1e-5 * self.size

    @property
    def sides_with_manual(self) -> bool:
        return (
            self.autodiff is not None and self._far(self.autodiff) and not self._far(self.given) and self.detects < 1e-4
        )

    @property
    def differs_from_both(self) -> bool:
        return self.autodiff is not None and self._far(self.autodiff) and self._far(self.given)


def _slopes(
    problem: Problem, probe: Probe, side: Any, random: np.random.RandomState, large: bool, budget: str
) -> list[_Slopes | None]:
    """Finite differences along a random direction of ±1 times the size of the leaf, one leaf at a time."""
    found: list[_Slopes | None] = []
    rungs = 2 if large else 8
    if problem.numeric or (large and probe.truth):
        return [None] * len(problem.which)
    for i, number in enumerate(problem.which):
        x = probe.leaves[number]
        if not x.size:
            found.append(None)
            continue
        trials = []
        for _ in range({"fast": 1, "full": 3}[budget] if probe.truth else 5):
            size = np.sqrt(np.mean(np.abs(x) ** 2)) or 1.0
            u = size * np.where(random.standard_normal(x.shape) < 0, -1.0, 1.0)
            if np.iscomplexobj(x):
                u = u * np.exp(1j * random.uniform(0, 2 * np.pi, x.shape))
            step = differences.slope(
                side.held(probe.leaves) if side else lambda leaves: (problem.value(leaves), []),
                probe.leaves,
                {number: u},
                probe.dy,
                rungs,
            )
            by = [float(np.sum(np.real(g[i] * u))) if g else None for g in (probe.manual, probe.truth)]
            reference = probe.truth[i] if probe.truth else probe.manual[i]
            expected = float(np.sqrt(np.sum(np.abs(np.where(np.isfinite(reference), reference, 0) * u) ** 2)))
            trials.append(_Slopes(step.value, step.bar, by[0] or 0.0, by[1], expected, step.reason))
        settled = [trial for trial in trials if np.isfinite(trial.bar)] or trials
        found.append(max(settled, key=lambda s: abs(s.given - s.value) / (s.bar + 1e-300)))
    return found


def _where_undefined(problem: Problem, probe: Probe, i: int, side: Any) -> str:
    """What finite differences say of entries where autodiff is NaN and the gradient is not; empty if they agree."""
    if problem.numeric or np.isfinite(np.sum(probe.truth[i])):
        return ""
    places = np.argwhere(~np.isfinite(probe.truth[i]) & np.isfinite(probe.manual[i]))
    if not len(places):
        return ""
    number = problem.which[i]
    x = probe.leaves[number]
    size = np.sqrt(np.mean(np.abs(np.where(np.isfinite(x), x, 0)) ** 2)) or 1.0
    value = side.held(probe.leaves) if side else lambda leaves: (problem.value(leaves), [])
    for place in places[:UNDEFINED]:
        u = np.zeros_like(x)
        u[tuple(place)] = size
        step = differences.slope(value, probe.leaves, {number: u}, probe.dy)
        given = float(np.real(probe.manual[i][tuple(place)] * size))
        if not np.isfinite(step.bar):
            return f"autodiff is not finite at {index(place)}, and differences do not settle there: {step.reason}"
        if abs(given - step.value) > 5 * step.bar and abs(given - step.value) > 1e-6 * max(abs(given), abs(step.value)):
            right, found = step.value / size, given / size
            return f"autodiff is not finite, and differences give {right:.6g} at {index(place)} for {found:.6g}"
    if len(places) > UNDEFINED:
        return f"autodiff is not finite at {len(places)} entries"
    return ""


def _by_differences(path: str, probes: list[Probe], i: int, slope: _Slopes | None) -> Leaf:
    if slope is None or not np.isfinite(slope.bar):
        return Leaf(
            path, Verdict.INCONCLUSIVE, None, None, "no autodiff, and " + (slope.reason if slope else "no size")
        )
    error = abs(slope.given - slope.value) / (slope.size or 1.0)
    if error > max(slope.detects, 1e-7):
        return Leaf(
            path, Verdict.WRONG, error, max(slope.detects, 1e-7), "along a random direction, by finite differences"
        )
    if slope.detects > COARSE:
        return Leaf(path, Verdict.INCONCLUSIVE, error, slope.detects, "finite differences are too coarse")
    return Leaf(path, Verdict.PASS, error, max(slope.detects, 1e-7), "by finite differences")


def _moved(
    problem: Problem, random: np.random.RandomState, off_kinks: bool, change: Callable[..., Any] = perturb
) -> Probe | None:
    """A probe at other arguments, at which the function is finite."""
    for spread in (0.3, 0.03, 0.003):
        leaves = list(problem.leaves)
        for i in problem.which:
            leaves[i] = change(leaves[i], random, spread)
            if off_kinks:
                leaves[i] = polish(nudge(leaves[i], random, 1e-2 * spread))
        values, probe = valued_probe(problem, leaves, cotangents(problem.outputs, random, problem.is_loss))
        if all(np.all(np.isfinite(y)) for y in values):
            return probe
    return None


def _given_cotangent(problem: Problem, cotangent: Any) -> list[Any] | None:
    if cotangent is None:
        return None
    leaves = jax.tree.leaves(cotangent)
    shapes = [np.shape(x) for x in leaves]
    expected = [y.shape for y in problem.outputs]
    if shapes != expected:
        raise ValueError(f"cotangent has the shapes {shapes}; the result of the function has {expected}")
    if any(np.iscomplexobj(x) and y.dtype.kind != "c" for x, y in zip(leaves, problem.outputs, strict=True)):
        raise ValueError("cotangent is complex; the result of the function is real")
    cotangents = [np.asarray(x).astype(y.dtype) for x, y in zip(leaves, problem.outputs, strict=True)]
    if not all(np.all(np.isfinite(x)) for x in cotangents) or not any(np.any(x) for x in cotangents if x.size):
        raise ValueError("cotangent is not finite, or 0 everywhere: nothing could be seen with it")
    return cotangents


def _nothing(problem: Problem, reason: str, notes: list[str]) -> Evidence:
    leaves = [Leaf(path, Verdict.INCONCLUSIVE, None, None, reason) for path in problem.paths]
    return Evidence(leaves, [], [False] * len(leaves), [False] * len(leaves), False, None, None, False, notes, {})


def _convention(kink: kinks.Kink, home: Probe, i: int) -> str:
    place = np.unravel_index(np.argmax(kink.highest[i] - kink.lowest[i]), kink.highest[i].shape)
    low, high = kink.lowest[i][place], kink.highest[i][place]
    return (
        f"at {index(place)} it takes {np.real(home.manual[i][place]):.4g}, autodiff "
        f"{np.real(home.truth[i][place]):.4g}; from the sides {low:.4g} and {high:.4g}"
    )
