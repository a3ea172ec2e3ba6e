"""What does the last layer of a language model cost as its vocabulary gets larger?

A linear layer to V classes and softmax cross-entropy: N losses and, for a cotangent of each, the cotangents of x [N, D]
and w [D, V], in one `jax.jit`. Autodiff of `softmax_cross_entropy(x @ w, labels)`, autodiff of the same written with
`jax.nn.logsumexp`, and `linear_cross_entropy` by hand, a chunk of classes at a time. Temporary memory is what XLA
allocates for the compiled program besides arguments and outputs: neither w nor its cotangent counts.

Expected: autodiff holds the logits and their cotangents, [N, V] each, so its memory grows as V. By hand it is that of a
chunk, whatever V. It takes 4 matrix products where autodiff takes 3, which it about makes up for by moving less memory.

    python -m experiments.large_vocabulary --flagfile=configs/large_vocabulary.flags

A program that needs more than --memory_limit is compiled and not run. The forms are timed in turn, in orders that
differ; read the ratios, medians over rounds, rather than the times.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import common, figures, measure
from fundamentals.base import Rule, hand_derived
from fundamentals.losses import (
    linear_cross_entropy,
    linear_cross_entropy_bwd,
    linear_cross_entropy_fwd,
    softmax_cross_entropy,
)

FILES = ("results.json", "large_vocabulary.png")
AUTODIFF, LIBRARY, BY_HAND = "autodiff", "library", "by hand"
TEMP_PAIRS = [(AUTODIFF, BY_HAND), (LIBRARY, BY_HAND)]
TIME_PAIRS = [(BY_HAND, AUTODIFF), (BY_HAND, LIBRARY)]


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    vocabularies = ["512", "2048", "8192", "32768", "131072"]
    flags.DEFINE_list("vocabularies", vocabularies, "V, the numbers of classes, ascending.", **options)
    flags.DEFINE_integer("examples", 2048, "N, positions in the text that get a loss.", lower_bound=1, **options)
    flags.DEFINE_integer("inputs", 512, "D, inputs of the last layer.", lower_bound=1, **options)
    flags.DEFINE_integer("chunk_size", 1024, "Classes at a time, by hand.", lower_bound=1, **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32", "float64"], "Of x and w.", **options)
    flags.DEFINE_float("memory_limit", 8.0, "GiB; a program that needs more is not run.", lower_bound=0.0, **options)
    flags.DEFINE_integer("repeats", 7, "Most rounds to time at one V.", lower_bound=1, **options)
    flags.DEFINE_float("seconds", 12.0, "No round begins later than this.", lower_bound=0.0, **options)
    flags.DEFINE_float("tolerance", 1e-5, "Of results, relative to the largest entry.", lower_bound=0.0, **options)
    flags.DEFINE_integer(
        "judge_at",
        32768,
        "The V at which the targets are judged; their defaults are for 32768.",
        lower_bound=1,
        **options,
    )
    flags.DEFINE_float(
        "target_memory", 16.0, "Memory of autodiff / by hand, at least; 0: not judged.", lower_bound=0.0, **options
    )
    flags.DEFINE_float(
        "target_time", 1.1, "Time by hand / autodiff's, at most; 0: not judged.", lower_bound=0.0, **options
    )
    flags.DEFINE_integer("seed", 0, "Of the random arrays.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/large_vocabulary", "Where the tables and the figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    flags.register_validator(
        "vocabularies", measure.are_ascending, message="expected ascending positive integers", flag_values=flag_values
    )


def run(
    *,
    vocabularies: Sequence[str],
    examples: int,
    inputs: int,
    chunk_size: int,
    dtype: str,
    memory_limit: float,
    repeats: int,
    seconds: float,
    tolerance: float,
    judge_at: int,
    target_memory: float,
    target_time: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise common.UserError("--dtype=float64 needs --jax_enable_x64=true")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    limits: dict[str, Any] = {"memory_limit": memory_limit * measure.GIB, "repeats": repeats, "seconds": seconds}
    points: list[measure.Point] = []
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("measuring", total=len(vocabularies), note="")
            for classes in map(int, vocabularies):

                def note(doing: str, classes: int = classes) -> None:
                    bar.update(task, note=f"V = {classes:,}: {doing}")

                arrays = arguments(jax.random.key(seed), examples, inputs, classes, dtype)
                points += measure.compare(classes, passes(chunk_size), arrays, {}, note=note, **limits)
                bar.advance(task)
    finally:
        verdicts: list[common.Verdict] = []
        if points:
            verdicts = judge(
                points,
                smallest=4 * chunk_size,  # below, a chunk is most of it, or all
                tolerance=tolerance,
                judge_at=judge_at,
                target_memory=target_memory,
                target_time=target_time,
            )
            _report(folder, points, verdicts, settings, complete=points[-1].size == int(vocabularies[-1]))
    return verdicts


def arguments(key: jax.Array, examples: int, inputs: int, classes: int, dtype: str) -> list[jax.Array]:
    """x, w, labels and a cotangent for each loss, such that logits are of order 1."""
    x_key, w_key, labels_key, cotangents_key = jax.random.split(key, 4)
    x = jax.random.normal(x_key, (examples, inputs), jnp.dtype(dtype))
    w = jax.random.normal(w_key, (inputs, classes), jnp.dtype(dtype)) * inputs**-0.5
    labels = jax.random.randint(labels_key, (examples,), 0, classes)
    return [x, w, labels, jax.random.normal(cotangents_key, (examples,), jnp.dtype(dtype))]


def passes(chunk_size: int) -> dict[str, Callable[..., Any]]:
    """Each form as a function of x, w, labels and dy, to the losses and the cotangents of x and w."""
    rule = Rule(linear_cross_entropy, linear_cross_entropy_fwd, linear_cross_entropy_bwd)
    forms: dict[str, Callable[..., Any]] = {
        AUTODIFF: lambda x, w, labels: softmax_cross_entropy(x @ w, labels),
        LIBRARY: _by_log_sum_exp,
        BY_HAND: functools.partial(hand_derived(rule), chunk_size=chunk_size),
    }

    def both_passes(loss: Callable[..., Any], x: Any, w: Any, labels: Any, dy: Any) -> Any:
        y, vjp = jax.vjp(lambda x, w: loss(x, w, labels), x, w)
        return y, vjp(dy)

    return {form: functools.partial(both_passes, loss) for form, loss in forms.items()}


def _by_log_sum_exp(x: jax.Array, w: jax.Array, labels: jax.Array) -> jax.Array:
    logits = x @ w
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def judge(
    points: Sequence[measure.Point],
    *,
    smallest: int,
    tolerance: float,
    judge_at: int,
    target_memory: float,
    target_time: float,
) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    by_hand, autodiff = (measure.growth(points, form, smallest) for form in (BY_HAND, AUTODIFF))
    saved = measure.temp_ratio(points, (AUTODIFF, BY_HAND), judge_at)
    slower = measure.time_ratio(points, (BY_HAND, AUTODIFF), judge_at)
    where, everywhere = f"at V = {judge_at:,}", "losses and gradients by hand are autodiff's, at every V that ran"
    return [
        *measure.growth_verdict("memory by hand does not grow with V", by_hand, "V", (-math.inf, 0.1), "H2"),
        *measure.growth_verdict("memory of autodiff grows as V", autodiff, "V", (0.9, 1.1), "H2"),
        *measure.ratio_verdict(f"memory {where}: autodiff / by hand", saved, "≥", target_memory, "H2"),
        *measure.ratio_verdict(f"time {where}: by hand / autodiff", slower, "≤", target_time, "H2"),
        *measure.difference_verdict(everywhere, points, BY_HAND, tolerance, "B3, H2"),
    ]


def _report(
    folder: Path,
    points: Sequence[measure.Point],
    verdicts: list[common.Verdict],
    settings: dict[str, Any],
    *,
    complete: bool,
) -> None:
    if not complete:
        common.console.print(f"interrupted: complete up to V = {points[-1].size:,}")
    what = f"linear layer and cross-entropy, {settings['dtype']} [{settings['examples']}, {settings['inputs']}] × V"
    measure.print_points(what, "V", points, TEMP_PAIRS, TIME_PAIRS)
    measure.print_not_run(points, "V", settings["memory_limit"] * measure.GIB)
    if verdicts:
        common.print_verdicts(verdicts)
    if settings["judge_at"] not in {point.size for point in points}:
        common.console.print(f"targets not judged: V = {settings['judge_at']:,} was not measured")
    measure.write_points(folder / FILES[0], points, TEMP_PAIRS, TIME_PAIRS, verdicts, complete=complete)
    figure = figures.growth(what[0].upper() + what[1:], "V", points, {AUTODIFF: 1.0, BY_HAND: 0.0}, {BY_HAND: 1.0})
    common.save_figure(figure, folder / FILES[1])
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
