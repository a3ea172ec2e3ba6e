"""How many samples a second does a training step take, against the size of its batch, and how many could it?

A step of an MLP: the loss and its gradient by hand, then gradient descent, with the parameters donated; in turn with
what shows what the device can do: products of large square matrices (its peak of FLOP/s), a program that reads and
writes each parameter once (its bandwidth, for so many bytes), and a step that does nothing (its overhead). A step of B
samples takes no less than any of

    overhead        B · FLOPs of a sample / peak        (2 · bytes of the weights + B · bytes of a sample) / bandwidth

and samples a second are no more than B over the longest: the roofline (Williams, Waterman & Patterson, 2009).

Expected: with few samples a step goes through all weights, several times, whatever B is: it is as long as their traffic
takes, or overhead does. The more samples share that, the more a second, until products take longer: about from where B
times FLOPs / peak is as long as the rest. Beyond, the time grows with B, and samples a second hardly do. So batches as
large as fill the device; larger ones only cost memory. On a GPU, whose peak is further from its bandwidth, that B is
larger. (B = 1 is a program of its own on a CPU: products with one row are fused with what follows, as others aren't.)

    python -m experiments.throughput --flagfile=configs/throughput.flags

Rounds in turn, each in an order of its own. What is compared with the roofline are the fastest rounds of both, as noise
only adds; steps are compared with each other by medians, and by ratios in the same round. --seed changes numbers, not
times. Ctrl-C leaves the rounds that are finished; --resume goes on with the next.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, measure, sweeps, throughput_figures, throughput_verdicts
from experiments.throughput_verdicts import EMPTY, TOUCH, Rounds
from fundamentals import optimizers
from fundamentals.base import Array
from fundamentals.models import mlp

RESULTS, FIGURE = FILES = ("results.json", "throughput.png")
CLASSES = 10
ETA = 1e-3
BURSTS = 4  # in each round, of what shows what the device can do, so that one of them may be undisturbed
Call = Callable[[], Any]


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_list("widths", ["2048", "2048", "2048"], "Of the inputs and the hidden layers.", **options)
    sizes = ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
    flags.DEFINE_list("batch_sizes", sizes, "B, ascending; the first is 1.", **options)
    flags.DEFINE_list("products", ["512", "1024"], "n of [n, n] products, for the peak.", **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32"], "Of all numbers.", **options)
    flags.DEFINE_integer("rounds", 15, "Of timing all.", lower_bound=3, **options)
    flags.DEFINE_float("least", 0.04, "Seconds that one is repeated for, at least, in a round.", **options)
    flags.DEFINE_float("target", 2.0, "Samples a second, of the largest batch over B = 1.", lower_bound=1.0, **options)
    flags.DEFINE_integer("seed", 0, "Of all numbers.", lower_bound=0, upper_bound=2**32 - 1, **options)
    sweeps.define_flags(flag_values, "throughput")

    def are_sizes(values: Sequence[str]) -> bool:
        return len(values) > 1 and all(measure.are_ascending([value]) for value in values)

    def are_batches(values: Sequence[str]) -> bool:
        return len(values) > 2 and values[0] == "1" and measure.are_ascending(values)

    for name, check, expected in (
        ("widths", are_sizes, "two or more positive integers"),
        ("batch_sizes", are_batches, "1 and two or more larger integers, ascending"),
        ("products", measure.are_ascending, "ascending positive integers"),
    ):
        flags.register_validator(name, check, message=f"expected {expected}", flag_values=flag_values)


def run(
    *,
    widths: Sequence[str],
    batch_sizes: Sequence[str],
    products: Sequence[str],
    dtype: str,
    rounds: int,
    least: float,
    target: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
    resume: bool,
) -> list[common.Verdict]:
    """Time what is not timed yet, print, draw, judge."""
    settings = dict(locals())
    if not 0 < least < math.inf:
        raise common.UserError(f"--least={least}; expected a finite number > 0")
    if not math.isfinite(target):
        raise common.UserError(f"--target={target}; expected a finite number ≥ 1")
    layers, batches, sides = [*map(int, widths), CLASSES], [*map(int, batch_sizes)], [*map(int, products)]
    folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
    costs = throughput_verdicts.costs(layers, jnp.dtype(dtype).itemsize)
    keys = [f"round {number}" for number in range(rounds)]
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("compiling", total=rounds, note="")
            if any(key not in rows for key in keys):
                calls = programs(layers, batches, sides, dtype, seed, least)
            for number, key in enumerate(keys):
                bar.update(task, description=key)
                if key not in rows:
                    rows[key] = sweeps.keep(folder, key, timed(calls, number))
                bar.advance(task)
    finally:
        found = Rounds([rows[key] for key in keys if key in rows], batches, sides, costs)
        verdicts = throughput_verdicts.judge(found, target)
        _report(folder, found, verdicts, settings, complete=len(found.seconds) == rounds)
        sweeps.report_unfinished(len(rows), rounds)
    return verdicts


def step(params: mlp.Params, x: Array, labels: Array) -> mlp.Params:
    """Of gradient descent, the gradient by hand."""
    optimizer = optimizers.sgd(ETA)
    _, gradient = mlp.loss_and_gradient(params, x, labels)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    stepped: mlp.Params = optimizers.apply_updates(params, updates)
    return stepped


def touch(params: mlp.Params) -> mlp.Params:
    """Reads and writes each parameter once: less than any step does."""
    touched: mlp.Params = jax.tree.map(lambda p: p + jnp.asarray(1e-3, p.dtype), params)
    return touched


def programs(
    layers: list[int], batches: list[int], sides: list[int], dtype: str, seed: int, least: float
) -> dict[str, Call]:
    """All that is timed: steps, repeated for `least` seconds or a little more, and the device's limits, in bursts."""
    random = np.random.default_rng(seed)
    params_key = jax.random.key(seed)
    calls: dict[str, Call] = {}
    for batch in batches:
        x = jnp.asarray(random.standard_normal((batch, layers[0]), np.float32), dtype)
        labels = jnp.asarray(random.integers(0, CLASSES, batch))
        calls[f"step {batch}"] = carried(step, mlp.init(params_key, layers, dtype=jnp.dtype(dtype)), x, labels)
    for name, function in ((TOUCH, touch), (EMPTY, lambda params: params)):
        calls[name] = carried(function, mlp.init(params_key, layers, dtype=jnp.dtype(dtype)))
    for n in sides:
        a, b = (jnp.asarray(random.standard_normal((n, n), np.float32), dtype) for _ in range(2))
        calls[f"product {n}"] = functools.partial(jax.jit(jnp.matmul).lower(a, b).compile(), a, b)
    return {name: repeated(call, least if name.startswith("step") else least / BURSTS) for name, call in calls.items()}


def carried(function: Callable[..., Any], params: mlp.Params, *args: Array) -> Call:
    """A call that goes on from the parameters that the last one returned, which are donated to it."""
    program = jax.jit(function, donate_argnums=0, keep_unused=True).lower(params, *args).compile()
    held = [params]

    def call() -> Any:
        held[0] = program(held[0], *args)
        return held[0]

    return call


def repeated(call: Call, least: float) -> Call:
    """As often as takes `least` seconds, only the last is waited for; what it returns is the number of times."""
    for _ in range(2):  # the first touches pages
        begin = time.perf_counter()
        measure.finished(call)
        once = time.perf_counter() - begin
    times = max(1, math.ceil(least / once))

    def several() -> int:
        for _ in range(times):
            result = call()
        jax.block_until_ready(result)
        return times

    return several


def timed(calls: dict[str, Call], number: int) -> dict[str, float]:
    """Seconds of each, in an order of this round's own: of a step, once; of what shows what the device can do, the mean
    of some times here and there in the round, and the best of these.
    """
    limits = [name for name in calls if not name.startswith("step")]
    order = [*calls, *(limits * (BURSTS - 1))]
    found: dict[str, list[float]] = {}
    for name in np.random.default_rng(number).permutation(order).tolist():
        begin = time.perf_counter()
        times = calls[name]()
        found.setdefault(name, []).append((time.perf_counter() - begin) / times)
    best = {throughput_verdicts.best(name): min(found[name]) for name in limits}
    return {name: statistics.mean(seconds) for name, seconds in found.items()} | best


def _report(
    folder: Path, found: Rounds, verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Table, results and figure of the rounds that are finished."""
    content: dict[str, Any] = {"complete": complete, "settings": settings, "rounds": found.seconds}
    if found.seconds:
        throughput_verdicts.print_tables(found, settings)
        common.print_verdicts(verdicts)
        content |= {"roofline": found.roofline._asdict(), "costs": found.costs._asdict()}
        common.save_figure(throughput_figures.draw(found, settings["dtype"]), folder / FIGURE)
    common.write_json(folder / RESULTS, content | {"verdicts": [verdict._asdict() for verdict in verdicts]})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
