"""Leaf helpers to compare forms of one computation: their memory, their times in turn, how both grow with a size."""

import functools
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from experiments import common

GIB = 2**30
Result = TypeVar("Result")
Pair = tuple[str, str]  # two forms, the first to be divided by the second


class Point(NamedTuple):
    """One form at one size."""

    form: str
    size: int
    temp_bytes: int | None  # None: not XLA's program, or memory did not do to compile it
    total_bytes: int | None  # with arguments and outputs
    seconds: tuple[float, ...]  # of each round; empty where it was not run
    difference: float | None  # of its results from those of the first form that ran


class Growth(NamedTuple):
    """Over sizes from `first` to `last`, bytes grow as size ** exponent."""

    exponent: float
    first: int
    last: int


def compare(
    size: int,
    forms: Mapping[str, Callable[..., Any]],
    args: Sequence[jax.Array],
    peers: Mapping[str, Callable[[], Any]],
    *,
    memory_limit: float,
    repeats: int,
    seconds: float,
    note: Callable[[str], None],
) -> list[Point]:
    """Compile each form, run those that fit, compare what they return, time them in turn.

    The first run warms up, and its results are compared. It counts only where it leaves no time for another.

    Args:
      size: what the points are filed under.
      forms: functions of the arguments.
      args: the arguments.
      peers: the same computation without JAX, closed over its arguments.
      memory_limit: bytes; a form whose arguments, outputs and temporaries need more is compiled, but not run.
      repeats: the most rounds.
      seconds: no round begins later than this.
      note: told what is being done.
    """
    points: dict[str, Point] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for form, function in forms.items():
        note(f"compiling {form}")
        program = unless_out_of_memory(functools.partial(compiled, function, args))
        memory = program.memory_analysis() if program else None
        temp = total = None
        if memory:
            temp = memory.temp_size_in_bytes
            total = temp + memory.argument_size_in_bytes + memory.output_size_in_bytes
        points[form] = Point(form, size, temp, total, (), None)
        if program and (total is None or total <= memory_limit):
            calls[form] = functools.partial(program, *args)
    for form, call in peers.items():
        points[form] = Point(form, size, None, None, (), None)
        calls[form] = call
    first: dict[str, list[float]] = {}
    expected = None
    for form, call in list(calls.items()):
        note(f"running {form}")
        start = time.perf_counter()
        result = unless_out_of_memory(functools.partial(finished, call))
        if result is None:
            del calls[form]
            continue
        first[form] = [time.perf_counter() - start]
        if expected is None:
            expected = result
        else:
            points[form] = points[form]._replace(difference=relative_difference(result, expected))
    result = expected = None  # their memory is wanted
    note("timing")
    times = in_turn(calls, repeats, seconds - sum(once for [once] in first.values())) or first
    return [point._replace(seconds=tuple(times.get(form, ()))) for form, point in points.items()]


def compiled(function: Callable[..., Any], args: Sequence[jax.Array]) -> jax.stages.Compiled:
    """The program of the function of these arguments."""
    return jax.jit(function).lower(*args).compile()


def finished(call: Callable[[], Any]) -> Any:
    """What the call returns, once it is computed."""
    return jax.block_until_ready(call())


def in_turn(calls: Mapping[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, list[float]]:
    """The seconds that each call takes, a list of rounds, each in an order of its own: what runs before a call leaves
    caches to it, and threads that have not come to rest.

    At most `repeats` rounds, none begun after `seconds`; empty if there was no time for any.
    """
    times: dict[str, list[float]] = {}
    orders = list(itertools.permutations(calls))
    random.Random(0).shuffle(orders)
    start = time.perf_counter()
    for number in range(repeats):
        if time.perf_counter() - start >= seconds:
            break
        for form in orders[number % len(orders)]:
            begin = time.perf_counter()
            finished(calls[form])
            times.setdefault(form, []).append(time.perf_counter() - begin)
    return times


def unless_out_of_memory(call: Callable[[], Result]) -> Result | None:
    """What the call returns, or None if XLA reports that memory does not do."""
    try:
        return call()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def relative_difference(found: Any, expected: Any) -> float:
    """For each array the largest difference over the largest entry of the expected one; of these, the largest."""

    def relative(a: Any, b: Any) -> float:
        a, b = (np.asarray(x) for x in (a, b))
        wide = np.float64 if b.dtype.itemsize == 8 else np.float32
        a, b = a.astype(wide), b.astype(wide)
        return float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1))

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([relative(a, b) for a, b in pairs]))  # NaN if any is, unlike Python's max


def at(points: Sequence[Point], form: str, size: int) -> Point | None:
    """The point of a form at a size, if there is one."""
    return next((point for point in points if (point.form, point.size) == (form, size)), None)


def temp_ratio(points: Sequence[Point], pair: Pair, size: int) -> float | None:
    """The first form's temporary bytes over the second's, if both are known."""
    a, b = (at(points, form, size) for form in pair)
    return a.temp_bytes / b.temp_bytes if a and b and a.temp_bytes is not None and b.temp_bytes else None


def time_ratio(points: Sequence[Point], pair: Pair, size: int) -> float | None:
    """The first form's time over the second's, the median over rounds, if both ran."""
    a, b = (at(points, form, size) for form in pair)
    if not (a and b and a.seconds and b.seconds):
        return None
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))


def growth(points: Sequence[Point], form: str, smallest: int) -> Growth | None:
    """The exponent of the form's temporary bytes from a size on: least squares on logarithms. None if of one size."""
    known = sorted((p.size, p.temp_bytes) for p in points if p.form == form and p.size >= smallest and p.temp_bytes)
    if len(known) < 2:
        return None
    sizes, values = np.log(np.asarray(known, float)).T
    return Growth(float(np.polyfit(sizes, values, 1)[0]), known[0][0], known[-1][0])


def growth_verdict(
    claim: str, found: Growth | None, letter: str, bounds: tuple[float, float], notes: str
) -> list[common.Verdict]:
    """Whether an exponent lies in an interval (with −∞: below a bound); nothing if it was not measured."""
    if not found:
        return []
    lowest, highest = bounds
    measured = f"{letter}^{found.exponent:.2f} for {letter} from {found.first:,} to {found.last:,}"
    predicted = f"{letter}^{lowest} … {letter}^{highest}" if math.isfinite(lowest) else f"≤ {letter}^{highest}"
    return [common.Verdict(claim, measured, predicted, lowest <= found.exponent <= highest, notes)]


def ratio_verdict(
    claim: str, ratio: float | None, relation: Literal["≥", "≤"], target: float, notes: str
) -> list[common.Verdict]:
    """Whether a ratio reaches, or keeps below, its target; nothing if it was not measured, or the target is 0."""
    if ratio is None or not target:
        return []
    holds = ratio >= target if relation == "≥" else ratio <= target
    return [common.Verdict(claim, f"{ratio:.2f}", f"{relation} {target:g}", holds, notes)]


def difference_verdict(
    claim: str, points: Sequence[Point], form: str, tolerance: float, notes: str
) -> list[common.Verdict]:
    """Whether a form's results are the reference's at every size; nothing if they were not compared."""
    differences = [p.difference for p in points if p.form == form and p.difference is not None]
    if not differences:
        return []
    largest = float(np.max(differences))
    return [common.Verdict(claim, f"{largest:.1e}", f"≤ {tolerance:.0e}", largest <= tolerance, notes)]


def print_points(
    what: str, letter: str, points: Sequence[Point], temp_pairs: Sequence[Pair], time_pairs: Sequence[Pair]
) -> None:
    """Two tables, of memory and of time, a row for each size: the forms, then ratios of pairs of them."""
    forms = list(dict.fromkeys(p.form for p in points))
    compiled_forms = [form for form in forms if any(p.form == form and p.temp_bytes is not None for p in points)]
    temp_pairs, time_pairs = ([p for p in pairs if set(p) <= set(forms)] for pairs in (temp_pairs, time_pairs))
    temp_rows, time_rows = [], []
    for size in dict.fromkeys(p.size for p in points):
        own = {p.form: p for p in points if p.size == size}
        temps = [bytes_text(own[form].temp_bytes) for form in compiled_forms]
        times = [time_text(own[form].seconds) for form in forms]
        temp_rows.append([f"{size:,}", *temps, *(ratio_text(temp_ratio(points, pair, size)) for pair in temp_pairs)])
        time_rows.append([f"{size:,}", *times, *(ratio_text(time_ratio(points, pair, size)) for pair in time_pairs)])
    common.table(f"Temporary memory, {what}", [letter, *compiled_forms, *map(" / ".join, temp_pairs)], temp_rows)
    common.table(f"Time, {what}", [letter, *forms, *map(" / ".join, time_pairs)], time_rows)


def print_not_run(points: Sequence[Point], letter: str, memory_limit: float) -> None:
    """Which programs were compiled, but are too large to run."""
    for point in points:
        if not point.seconds and point.total_bytes is not None:
            limit = f"--memory_limit is {bytes_text(memory_limit)}"
            needs = f"not run: {point.form} at {letter} = {point.size:,} needs {bytes_text(point.total_bytes)}"
            common.console.print(f"{needs}; {limit}" if point.total_bytes > memory_limit else f"{needs}, out of memory")


def bytes_text(count: float | None) -> str:
    """1536 as 1.5K."""
    if count is None:
        return "–"
    unit = min(3, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**unit:.1f}{('', 'K', 'M', 'G')[unit]}" if unit else f"{count:.0f}"


def ratio_text(ratio: float | None) -> str:
    """Two decimals."""
    return "–" if ratio is None else f"{ratio:.2f}"


def time_text(seconds: Sequence[float]) -> str:
    """The median as 1.5ms."""
    if not seconds:
        return "–"
    median = statistics.median(seconds)
    if median < 1e-3:
        return f"{1e6 * median:.0f}µs"
    return f"{1e3 * median:.1f}ms" if median < 1 else f"{median:.2f}s"


def are_ascending(values: Sequence[str]) -> bool:
    """Whether these are one or more positive integers, each larger than the one before: for a flag of sizes."""
    if not values or not all(v.isascii() and v.isdecimal() for v in values):
        return False
    sizes = list(map(int, values))
    return sizes[0] > 0 and sizes == sorted(set(sizes))


def write_points(
    path: Path,
    points: Sequence[Point],
    temp_pairs: Sequence[Pair],
    time_pairs: Sequence[Pair],
    verdicts: Sequence[common.Verdict],
    *,
    complete: bool,
) -> None:
    """The points and what was made of them, as JSON."""
    sizes = list(dict.fromkeys(point.size for point in points))
    ratios = {
        "temp_bytes": {" / ".join(pair): {n: temp_ratio(points, pair, n) for n in sizes} for pair in temp_pairs},
        "seconds": {" / ".join(pair): {n: time_ratio(points, pair, n) for n in sizes} for pair in time_pairs},
    }
    content = {"complete": complete, "verdicts": [v._asdict() for v in verdicts], "ratios": ratios}
    common.write_json(path, content | {"points": [point._asdict() for point in points]})
