"""Is a hand-derived backward pass slower than autodiff's?

For every rule of the catalogue, at a small and a large size: the time of forward and backward pass together in one
`jax.jit`, the temporary memory and the FLOPs of the compiled program, and the bytes kept between the passes; by hand
against `jax.vjp` of the primal.

Expected: no rule slower than 1.05 × or using more temporary memory than `jax.vjp`, faster on average. XLA
compiles simple rules to the same program either way; the difference is in what is kept and recomputed. One rule
is slower by design: `linear_cross_entropy` takes the logits twice, four matrix products for autodiff's three, so as not
to keep them; it may take 4/3 of the time and half of the memory.

    python -m experiments.benchmark_rules --flagfile=configs/benchmark_rules.flags

Both programs are timed in turn, in an order that alternates, until the median of the ratios is known to
`--precision` or `--seconds` are over; five times as long while two standard errors do not tell on which side of 1.05 it
is. Read the ratios, medians of pairs measured one after the other; the times are the machine's, and on a busy one may
disagree. The mean of all ratios is judged with two standard errors to spare, as a few rules alone are near 1.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from experiments import common, figures
from fundamentals.catalogue import RULES, Entry, Sizes

LETTERS = ",".join(Sizes._fields)
LARGE = Sizes(B=1024, D=1024, H=512, K=1000, P=3, E=8, T=512, N=4, W=32, C=64, V=8192)
BOUND = 1.05
TRADES = {"linear_cross_entropy": 4 / 3}  # time for memory: the ratio of their matrix products
FILES = ("results.json", "benchmark_rules.png")


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_list("rules", ["all"], "Names of rules, or all.", **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32", "float64"], "Of all arguments.", **options)
    flags.DEFINE_list("small", list(map(str, Sizes())), f"The small size: {LETTERS}.", **options)
    flags.DEFINE_list("large", list(map(str, LARGE)), f"The large size: {LETTERS}.", **options)
    flags.DEFINE_float("seconds", 0.8, "Longest time to measure one rule at one size.", lower_bound=0.0, **options)
    flags.DEFINE_float("precision", 0.005, "Standard error of a ratio to stop at.", lower_bound=0.0, **options)
    flags.DEFINE_integer("seed", 0, "Of the example arguments.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/benchmark_rules", "Where the table and the figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def positive_sizes(values: Sequence[str]) -> bool:
        return len(values) == len(Sizes._fields) and all(v.isascii() and v.isdecimal() and int(v) > 0 for v in values)

    for name in ("small", "large"):
        flags.register_validator(
            name,
            positive_sizes,
            message=f"expected {len(Sizes._fields)} positive integers, {LETTERS}",
            flag_values=flag_values,
        )
    flags.register_validator(
        "rules",
        lambda names: names == ["all"] or (names and set(names) <= set(RULES)),
        message=f"expected all, or some of {', '.join(RULES)}",
        flag_values=flag_values,
    )


class Measurement(NamedTuple):
    """One rule at one size; each pair is (by hand, autodiff)."""

    rule: str
    size: str
    ratio: float  # of the times, median
    standard_error: float
    microseconds: tuple[float, float]
    temp_bytes: tuple[int, int]
    kept_bytes: tuple[int, int]
    flops: tuple[float, float]


def run(
    *,
    rules: Sequence[str],
    dtype: str,
    small: Sequence[str],
    large: Sequence[str],
    seconds: float,
    precision: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise common.UserError("--dtype=float64 needs --jax_enable_x64=true")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    names = list(RULES) if list(rules) == ["all"] else list(rules)
    sizes = {"small": Sizes(*map(int, small)), "large": Sizes(*map(int, large))}
    measurements: list[Measurement] = []
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("measuring", total=len(names) * len(sizes), note="")
            for name in names:
                for label, size in sizes.items():
                    bar.update(task, note=name)
                    args = RULES[name].arguments(jax.random.key(seed), jnp.dtype(dtype), size)
                    measurements.append(_measure(name, label, RULES[name], args, seconds, precision))
                    bar.advance(task)
    finally:
        verdicts = []
        if measurements:
            complete = len(measurements) == len(names) * len(sizes)
            if not complete:
                common.console.print(f"interrupted: {len(measurements)} of {len(names) * len(sizes)} are measured")
            verdicts = _report(folder, measurements, dtype, complete=complete)
    return verdicts


def programs(entry: Entry, args: tuple[Any, ...]) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Forward and backward pass by hand and by autodiff, as functions of (args, dy), and a random dy."""
    rule = entry.rule
    differentiable = [i for i, arg in enumerate(args) if _floating(arg)]

    def by_hand(args: tuple[Any, ...], dy: Any) -> Any:
        y, residuals = rule.fwd(*args)
        cotangents = rule.bwd(residuals, dy)
        return y, [cotangents[i] for i in differentiable]

    def by_autodiff(args: tuple[Any, ...], dy: Any) -> Any:
        y, vjp = jax.vjp(lambda *d: rule.primal(*_insert(args, differentiable, d)), *(args[i] for i in differentiable))
        return y, list(vjp(dy))

    y = jax.eval_shape(rule.primal, *args)
    return by_hand, by_autodiff, jax.random.normal(jax.random.key(1), y.shape, y.dtype)


def _insert(args: tuple[Any, ...], positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    replaced = dict(zip(positions, values, strict=True))
    return [replaced.get(i, arg) for i, arg in enumerate(args)]


def _floating(arg: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(arg))


def _measure(
    name: str, label: str, entry: Entry, args: tuple[Any, ...], seconds: float, precision: float
) -> Measurement:
    by_hand, by_autodiff, dy = programs(entry, args)
    pair = [jax.jit(function).lower(args, dy).compile() for function in (by_hand, by_autodiff)]
    calls = max(1, int(1e-3 / min(_time(program, args, dy, 3) for program in pair for _ in range(2))))
    times: tuple[list[float], list[float]] = ([], [])
    ratios: list[float] = []
    error, limit, start = math.inf, seconds, time.perf_counter()
    while len(ratios) < 10 or (error > precision and time.perf_counter() - start < limit):
        for index in (0, 1) if len(ratios) % 2 else (1, 0):
            times[index].append(_time(pair[index], args, dy, calls))
        ratios.append(times[0][-1] / times[1][-1])
        if len(ratios) >= 10:
            deviation = statistics.median(abs(ratio - statistics.median(ratios)) for ratio in ratios)
            # 1.4826 turns the median deviation into a standard one, 1.2533 a mean's error into a median's.
            error = 1.4826 * deviation * 1.2533 / math.sqrt(len(ratios))
            undecided = abs(statistics.median(ratios) - BOUND) < 2 * error
            limit = 5 * seconds if undecided else seconds
    seconds_each = statistics.median(times[0]), statistics.median(times[1])
    temp = [memory.temp_size_in_bytes if (memory := program.memory_analysis()) else 0 for program in pair]
    flops = [float((program.cost_analysis() or {}).get("flops", math.nan)) for program in pair]
    return Measurement(
        rule=name,
        size=label,
        ratio=statistics.median(ratios),
        standard_error=error,
        microseconds=(1e6 * seconds_each[0], 1e6 * seconds_each[1]),
        temp_bytes=(temp[0], temp[1]),
        kept_bytes=_kept_bytes(entry, args),
        flops=(flops[0], flops[1]),
    )


def _time(program: Callable[..., Any], args: tuple[Any, ...], dy: Any, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = program(args, dy)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def _kept_bytes(entry: Entry, args: tuple[Any, ...]) -> tuple[int, int]:
    """Bytes between the passes where they are compiled apart; arguments kept count, as anything kept does."""
    differentiable = [i for i, arg in enumerate(args) if _floating(arg)]

    def vjp(*args: Any) -> Any:
        chosen = [args[i] for i in differentiable]
        return jax.vjp(lambda *d: entry.rule.primal(*_insert(args, differentiable, d)), *chosen)[1]

    residuals = jax.eval_shape(lambda *a: entry.rule.fwd(*a)[1], *args), jax.eval_shape(vjp, *args)
    by_hand, by_autodiff = (
        sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) for kept in residuals
    )
    return by_hand, by_autodiff


def _report(folder: Any, measurements: list[Measurement], dtype: str, *, complete: bool) -> list[common.Verdict]:
    rows = [
        (
            m.rule,
            m.size,
            "{} / {}".format(*map(_duration, m.microseconds)),
            f"{m.ratio:.3f} ± {m.standard_error:.3f}",
            "{} / {}".format(*map(_bytes, m.temp_bytes)),
            "{} / {}".format(*map(_bytes, m.kept_bytes)),
            f"{m.flops[0] / m.flops[1]:.2f}",
        )
        for m in measurements
    ]
    columns = ["rule", "size", "time", "time ratio", "temp bytes", "kept bytes", "FLOP ratio"]
    common.table(f"Forward and backward pass, {dtype}: by hand / jax.vjp", columns, rows, folds="rule")
    means = {
        size: statistics.geometric_mean(m.ratio for m in measurements if m.size == size)
        for size in dict.fromkeys(m.size for m in measurements)
    }
    overall = statistics.geometric_mean(m.ratio for m in measurements)
    overall_error = overall * math.hypot(*(m.standard_error / m.ratio for m in measurements)) / len(measurements)
    trading = [m for m in measurements if m.rule in TRADES and m.size == "large"]
    slowest = max((m for m in measurements if m not in trading), key=lambda m: m.ratio)
    hungriest = max(measurements, key=lambda m: m.temp_bytes[0] - m.temp_bytes[1])
    excess = hungriest.temp_bytes[0] - hungriest.temp_bytes[1]
    verdicts = [
        common.Verdict(
            "no rule is slower than jax.vjp, but for those that trade time for memory",
            f"{slowest.ratio:.3f} ± {slowest.standard_error:.3f} ({slowest.rule}, {slowest.size})",
            f"≤ {BOUND}", slowest.ratio <= BOUND,
        ),
        common.Verdict(
            "no rule uses more temporary memory", f"{excess:+,} bytes ({hungriest.rule}, {hungriest.size})", "≤ 0",
            excess <= 0,
        ),
        common.Verdict(
            "on average they are not slower",
            f"{overall:.3f} ± {overall_error:.3f} ({', '.join(f'{size} {mean:.3f}' for size, mean in means.items())})",
            "≤ 1.0", overall <= 1 + 2 * overall_error,
        ),
        *(
            common.Verdict(
                f"{m.rule} trades time for memory",
                f"{m.ratio:.3f} × the time, {_bytes(m.temp_bytes[0])} for {_bytes(m.temp_bytes[1])}",
                f"≤ {TRADES[m.rule]:.2f}, half",
                m.ratio <= TRADES[m.rule] and 0 < 2 * m.temp_bytes[0] <= m.temp_bytes[1],
            )
            for m in trading
        ),
    ]  # fmt: skip
    common.print_verdicts(verdicts)
    common.write_json(
        folder / FILES[0],
        {
            "complete": complete,
            "geometric_mean": overall,
            "geometric_mean_standard_error": overall_error,
            "geometric_means": means,
            "verdicts": [v._asdict() for v in verdicts],
            "measurements": [m._asdict() for m in measurements],
        },
    )
    values = {
        size: {m.rule: (m.ratio, m.standard_error) for m in measurements if m.size == size}
        for size in ("small", "large")
    }
    names = list(dict.fromkeys(m.rule for m in measurements))
    figure = figures.ratios(names, values, BOUND, f"Forward and backward pass in one program, {dtype}")
    common.save_figure(figure, folder / FILES[1])
    common.console.print(f"written to {folder}", markup=False)
    return verdicts


def _duration(microseconds: float) -> str:
    return f"{microseconds:.0f}µs" if microseconds < 1000 else f"{microseconds / 1000:.1f}ms"


def _bytes(count: float) -> str:
    for unit in ("", "K"):
        if count < 1024:
            return f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}M"


if __name__ == "__main__":
    common.main(define_flags, run)
