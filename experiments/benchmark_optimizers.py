"""How near is an optimizer's step to the time that its bytes take to move?

One step of a method and of `apply_updates`, in one `jax.jit` with parameters and state donated, at 10⁵ to 10⁸
parameters in one array or in many; the same of optax, and of torch (its fused step, where it has one), if they are
installed. The floor is measured in the same run, on arrays of the same sizes: a program that reads and writes every
byte which a step must (gradients and parameters read, parameters written, each moment read and written) with one
multiplication each.

Expected: not slower than optax and no more temporary memory; at 10⁷ parameters in float32 at most 1.4 × the floor, if
they are in many arrays. XLA makes three loops of Adam on a CPU, one for each array that is written, so that gradients
are read twice and new moments again: 10 passes over memory where 7 would do, 1.43 × the floor at best for an array
that no cache holds. With XLA_FLAGS=--xla_backend_extra_options=xla_cpu_use_multi_output_fusion it makes two. What
does not help: blocks of an array one after the other cost 5 to 50 × as much, as XLA copies what they are put into.

    python -m experiments.benchmark_optimizers --flagfile=configs/benchmark_optimizers.flags

All are timed in turn, in orders that differ, and torch in a session of its own with this library, as its threads go on
for a while. Half of the time their arrays are placed in the opposite order, which makes as much difference as anything:
2 to 7 % between equal programs. Read the ratios, medians over rounds with their standard errors. A ratio is judged if
there were 20 rounds, with two standard errors to spare: that of equal programs is as often above 1 as below.
"""

import importlib
import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, figures, measure
from fundamentals import optimizers

FILES = ("results.json", "benchmark_optimizers.png")
ROUNDS = 20  # at least, for a standard error that means something
OURS, OPTAX, TORCH, FLOOR = "fundamentals", "optax", "torch", "floor"


class Method(NamedTuple):
    """One method here and elsewhere, and how many moments it keeps."""

    ours: Callable[[], optimizers.Optimizer]
    optax: Callable[[Any], Any]
    torch: Callable[[Any, Any], Any]
    moments: int


METHODS = {
    "sgd": Method(lambda: optimizers.sgd(1e-3), lambda o: o.sgd(1e-3), lambda t, p: t.SGD(p, 1e-3, fused=True), 0),
    "momentum": Method(
        lambda: optimizers.momentum(1e-3),
        lambda o: o.sgd(1e-3, momentum=0.9),
        lambda t, p: t.SGD(p, 1e-3, momentum=0.9, fused=True),
        1,
    ),
    "adagrad": Method(
        lambda: optimizers.adagrad(1e-3, eps_root=1e-7, initial_accumulator=0.1),
        lambda o: o.adagrad(1e-3),
        lambda t, p: t.Adagrad(p, 1e-3, fused=True),
        1,
    ),
    "rmsprop": Method(
        lambda: optimizers.rmsprop(1e-3), lambda o: o.rmsprop(1e-3), lambda t, p: t.RMSprop(p, 1e-3, alpha=0.9), 1
    ),
    "adadelta": Method(lambda: optimizers.adadelta(), lambda o: o.adadelta(1.0), lambda t, p: t.Adadelta(p), 2),
    "adam": Method(lambda: optimizers.adam(1e-3), lambda o: o.adam(1e-3), lambda t, p: t.Adam(p, 1e-3, fused=True), 2),
    "adamw": Method(
        lambda: optimizers.adamw(1e-3, weight_decay=1e-4),
        lambda o: o.adamw(1e-3),
        lambda t, p: t.AdamW(p, 1e-3, weight_decay=1e-4, fused=True),
        2,
    ),
}


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_multi_enum("methods", ["adam"], list(METHODS), "What to measure.", **options)
    sizes = ["100000", "1000000", "10000000"]
    flags.DEFINE_list("sizes", sizes, "Numbers of parameters, ascending.", **options)
    flags.DEFINE_list("arrays", ["1", "100"], "In how many arrays of about one size, ascending.", **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32", "float64"], "Of parameters.", **options)
    flags.DEFINE_bool("peers", True, "Compare with optax and torch, if they are installed.", **options)
    flags.DEFINE_integer("repeats", 60, "Most rounds to time at one size.", lower_bound=2, **options)
    flags.DEFINE_float("seconds", 4.0, "No round begins later than this, but for two.", lower_bound=0.0, **options)
    flags.DEFINE_float("target_optax", 1.0, "Time / optax's, at most; 0: not judged.", lower_bound=0.0, **options)
    flags.DEFINE_float("target_floor", 1.4, "Time / the floor, at most; 0: not judged.", lower_bound=0.0, **options)
    flags.DEFINE_integer(
        "judge_at", 10**7, "The number of parameters at which the floor is judged.", lower_bound=1, **options
    )
    flags.DEFINE_integer("seed", 0, "Of the gradients.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/benchmark_optimizers", "Where the table and the figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    for name in ("sizes", "arrays"):
        flags.register_validator(
            name, measure.are_ascending, message="expected ascending positive integers", flag_values=flag_values
        )


class Ratio(NamedTuple):
    """Of two times, the median over rounds."""

    median: float
    standard_error: float
    rounds: int


class Row(NamedTuple):
    """One method at one size."""

    method: str
    size: int
    arrays: int
    seconds: dict[str, tuple[float, ...]]  # a step's, in each round, by form
    beside: dict[str, tuple[float, ...]]  # ours in the same rounds
    temp_bytes: dict[str, int | None]  # None where the device does not say

    def ratio(self, form: str) -> Ratio | None:
        """Our time over that of a form, if that was measured."""
        if form not in self.beside:
            return None
        ratios = [a / b for a, b in zip(self.beside[form], self.seconds[form], strict=True)]
        median = statistics.median(ratios)
        deviation = statistics.median(abs(r - median) for r in ratios)
        # 1.4826 turns the median deviation into a standard one, 1.2533 a mean's error into a median's.
        return Ratio(median, 1.4826 * deviation * 1.2533 / math.sqrt(len(ratios)), len(ratios))


def run(
    *,
    methods: Sequence[str],
    sizes: Sequence[str],
    arrays: Sequence[str],
    dtype: str,
    peers: bool,
    repeats: int,
    seconds: float,
    target_optax: float,
    target_floor: float,
    judge_at: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise common.UserError("--dtype=float64 needs --jax_enable_x64=true")
    if int(arrays[-1]) > int(sizes[0]):
        raise common.UserError(f"--arrays={arrays[-1]} is more than the {sizes[0]} parameters of the smallest size")
    if target_floor and str(judge_at) not in sizes:
        raise common.UserError(f"--judge_at={judge_at} is none of --sizes={','.join(sizes)}; expected one")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    rows: list[Row] = []
    total = len(methods) * len(sizes) * len(arrays)
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("measuring", total=total, note="")
            for name in methods:
                for size in map(int, sizes):
                    for count in map(int, arrays):
                        bar.update(task, note=f"{name}, {size:,} in {count}")
                        gradients = drawn(seed, size, count, dtype)
                        rows.append(measured(name, gradients, peers, repeats, seconds))
                        bar.advance(task)
    finally:
        verdicts: list[common.Verdict] = []
        if rows:
            verdicts = judge(rows, target_optax, target_floor, judge_at)
            report(rows, verdicts)
            complete = len(rows) == total
            if not complete:
                common.console.print(f"interrupted: {len(rows)} of {total} are measured")
            common.write_json(
                folder / FILES[0],
                {
                    "complete": complete,
                    "verdicts": [v._asdict() for v in verdicts],
                    "rows": [row._asdict() | ratios(row) for row in rows],
                },
            )
            common.save_figure(figures.steps(f"A step of an optimizer, {dtype}", panels(rows)), folder / FILES[1])
    return verdicts


def drawn(seed: int, size: int, count: int, dtype: str) -> dict[str, Any]:
    """Random gradients: so many numbers in so many arrays whose sizes differ by one at most."""
    random = np.random.default_rng(seed)
    parts = [size // count + (i < size % count) for i in range(count)]
    return {f"w{i}": jnp.asarray(random.standard_normal(n, np.float32), jnp.dtype(dtype)) for i, n in enumerate(parts)}


def measured(name: str, gradients: Any, peers: bool, repeats: int, seconds: float) -> Row:
    """Time a step of every form in turn."""
    leaves = jax.tree.leaves(gradients)
    row = Row(name, sum(leaf.size for leaf in leaves), len(leaves), {}, {}, {})
    forms = [OURS, FLOOR] + [OPTAX] * (peers and installed(OPTAX))
    sessions = [forms]
    if peers and installed(TORCH) and jax.default_backend() == "cpu":
        sessions.append([OURS, TORCH])
    for session in sessions:
        # Where the arrays of a form lie makes a difference of some percent, even between equal programs, and the first
        # to be made is the slower one: half of the time each order.
        halves = []
        for order in (session, session[::-1]):
            made = {form: stepper(form, METHODS[name], gradients) for form in order}
            row.temp_bytes.update({form: temp for form, (_, temp) in made.items()})
            halves.append(timed({form: call for form, (call, _) in made.items()}, repeats, seconds / 2 / len(sessions)))
            del made  # its arrays, before the others are made
        # Both halves in one number of a round, so that the difference cancels in ratios.
        times = {
            form: tuple(math.sqrt(a * b) for a, b in zip(halves[0][form], halves[1][form], strict=False))
            for form in session
        }
        for form in session[1:]:
            row.seconds[form], row.beside[form] = times[form], times[OURS]
        row.seconds.setdefault(OURS, times[OURS])
    return row


def installed(library: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(library) is not None


def stepper(form: str, method: Method, gradients: Any) -> tuple[Callable[[], Any], int | None]:
    """A function that makes one step from where the last one ended, and the temporary bytes of its program."""
    if form == FLOOR:
        return streaming(method.moments, gradients)
    if form == TORCH:
        return torch_step(method, gradients), None
    if form == OPTAX:
        optax = importlib.import_module("optax")
        theirs = method.optax(optax)
        return stepping(theirs.init, theirs.update, optax.apply_updates, gradients)
    ours = method.ours()
    return stepping(ours.init, ours.update, optimizers.apply_updates, gradients)


def timed(calls: dict[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, tuple[float, ...]]:
    """The seconds of one step in each round, at least two, by form."""
    for call in calls.values():
        measure.finished(call)  # warm: pages are touched, and what compiles late has compiled
    once = measure.in_turn(calls, 3, math.inf)
    # Several steps to a round where one is too short for the clock.
    steps = max(1, int(2e-3 / min(min(times) for times in once.values())))
    several = {form: partial(repeated, call, steps) for form, call in calls.items()}
    first, rest = measure.in_turn(several, 2, math.inf), measure.in_turn(several, repeats - 2, seconds)
    return {form: tuple(t / steps for t in first[form] + rest.get(form, [])) for form in calls}


def repeated(call: Callable[[], Any], steps: int) -> Any:
    """So many steps; only the last is waited for."""
    for _ in range(steps):
        result = call()
    return result


def stepping(
    init: Callable[[Any], Any], update: Callable[..., Any], apply: Callable[..., Any], gradients: Any
) -> tuple[Callable[[], Any], int | None]:
    """The step of a method, with parameters and state donated."""

    def step(carried: Any, gradients: Any) -> Any:
        params, state = carried
        updates, state = update(gradients, state, params)
        return apply(params, updates), state

    params = jax.tree.map(jnp.copy, gradients)
    return _carried(step, (params, jax.jit(init)(params)), gradients)


def stream(carried: Any, gradients: Any) -> Any:
    """The floor: gradients and parameters read, parameters written, each moment read and written, once."""
    params, moments = carried
    params = jax.tree.map(lambda p, g: p + g * jnp.asarray(1e-3, g.dtype), params, gradients)
    return params, jax.tree.map(lambda m: m * jnp.asarray(0.999, m.dtype), moments)


def streaming(moments: int, gradients: Any) -> tuple[Callable[[], Any], int | None]:
    """The floor, for so many moments."""
    wide = [optimizers.momentum(1.0).init(gradients).velocity for _ in range(moments)]
    return _carried(stream, (jax.tree.map(jnp.copy, gradients), wide), gradients)


def _carried(step: Callable[..., Any], carried: Any, gradients: Any) -> tuple[Callable[[], Any], int | None]:
    program = jax.jit(step, donate_argnums=0).lower(carried, gradients).compile()
    memory, held = program.memory_analysis(), [carried]

    def call() -> Any:
        held[0] = program(held[0], gradients)
        return held[0]

    return call, memory.temp_size_in_bytes if memory else None


def torch_step(method: Method, gradients: Any) -> Callable[[], Any]:
    """The same in torch, on copies."""
    torch = importlib.import_module("torch")
    params = []
    for g in jax.tree.leaves(gradients):
        x = torch.from_numpy(np.array(g, np.float32)).to(getattr(torch, str(g.dtype)))
        params.append(x.clone().requires_grad_())
        params[-1].grad = x
    optimizer: Callable[[], Any] = method.torch(torch.optim, params).step
    return optimizer


def ratios(row: Row) -> dict[str, Any]:
    """The ratios of a row, for the file."""
    found = {form: row.ratio(form) for form in (OPTAX, TORCH, FLOOR)}
    return {"ratios": {form: ratio._asdict() for form, ratio in found.items() if ratio}}


def panels(rows: Sequence[Row]) -> dict[str, dict[str, dict[int, float]]]:
    """Median seconds by panel, form and number of parameters."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        panel = found.setdefault(f"{row.method}, {row.arrays} array{'s' if row.arrays > 1 else ''}", {})
        for form, seconds in row.seconds.items():
            if seconds:
                panel.setdefault(form, {})[row.size] = statistics.median(seconds)
    return found


def judge(rows: Sequence[Row], target_optax: float, target_floor: float, judge_at: int) -> list[common.Verdict]:
    """By method: the row with the largest ratio to optax, the most memory, the ratio to the floor for each count of
    arrays. What had too few rounds is not judged.
    """
    verdicts = []
    for name in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        with_optax = [(row, ratio) for row in own if (ratio := row.ratio(OPTAX)) and ratio.rounds >= ROUNDS]
        if with_optax and target_optax:
            verdicts.append(_worst(f"{name}: time / optax's, at every size", with_optax, target_optax))
            more = [
                (row.temp_bytes[OURS] or 0) - (row.temp_bytes[OPTAX] or 0)
                for row, _ in with_optax
                if row.temp_bytes[OURS] is not None
            ]
            if more:
                # Scalars of the step, such as 1 − βᵗ, are no memory that grows with anything.
                claim = f"{name}: temporary memory beyond optax's, at every size"
                verdicts.append(common.Verdict(claim, f"{max(more)} B", "≤ 1024 B", max(more) <= 1024))
        for row in own:
            if row.size == judge_at and target_floor and (ratio := row.ratio(FLOOR)) and ratio.rounds >= ROUNDS:
                claim = f"{name}: time / that of moving the bytes, {row.arrays} array{'s' if row.arrays > 1 else ''}"
                verdicts.append(_worst(claim, [(row, ratio)], target_floor))
    return verdicts


def _worst(claim: str, measured: Sequence[tuple[Row, Ratio]], target: float) -> common.Verdict:
    row, ratio = max(measured, key=lambda pair: pair[1].median)
    where = f"{ratio.median:.3f} ± {ratio.standard_error:.3f} at {row.size:,} in {row.arrays}"
    holds = all(each.median - 2 * each.standard_error <= target for _, each in measured)
    return common.Verdict(claim, where, f"≤ {target:g}", holds)


def report(rows: Sequence[Row], verdicts: Sequence[common.Verdict]) -> None:
    """Print the times, the ratios and the verdicts."""
    forms = [form for form in (OURS, OPTAX, TORCH, FLOOR) if any(form in row.seconds for row in rows)]
    others = forms[1:]

    def text(ratio: Ratio | None) -> str:
        return f"{ratio.median:.2f} ± {ratio.standard_error:.2f}" if ratio else "–"

    common.table(
        "Time of a step, and ours over that of others",
        ["method", "parameters", "arrays", *forms, *(f"/ {form}" for form in others), "temp"],
        [
            [
                row.method,
                f"{row.size:,}",
                row.arrays,
                *(measure.time_text(row.seconds.get(form, ())) for form in forms),
                *(text(row.ratio(form)) for form in others),
                measure.bytes_text(row.temp_bytes[OURS]),
            ]
            for row in rows
        ],
    )
    common.print_verdicts(verdicts)
    few = [row for row in rows if (ratio := row.ratio(FLOOR)) and ratio.rounds < ROUNDS]
    if few:
        places = ", ".join(f"{row.method} at {row.size:,} in {row.arrays}" for row in few)
        common.console.print(f"not judged, fewer than {ROUNDS} rounds: {places}")


if __name__ == "__main__":
    common.main(define_flags, run)
