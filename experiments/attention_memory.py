"""What does the gradient of attention cost as the sequence gets longer?

The gradient of a weighted sum of the output with respect to q, k and v, in one `jax.jit`, for T queries and keys:
autodiff of the textbook form, autodiff of `jax.nn.dot_product_attention`, the blockwise form derived by hand, and torch
where it is installed. Temporary memory is what XLA allocates for the compiled program besides arguments and outputs.

Expected: autodiff keeps the scores and probabilities of all pairs, so its memory grows as T². By hand, tile by tile, it
grows no faster than T, under a constant for the tiles. Every form does work proportional to T², but the blockwise one
keeps a tile where the processor's cache is and skips those that `causal` leaves empty.

    python -m experiments.attention_memory --flagfile=configs/attention_memory.flags

A program that needs more than --memory_limit is compiled and not run. The forms are timed in turn, in orders that
differ; read the ratios, medians over rounds, rather than the times.
"""

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, figures, measure
from fundamentals.base import Rule, hand_derived
from fundamentals.layers import (
    attention,
    blockwise_attention,
    blockwise_attention_bwd,
    blockwise_attention_fwd,
)

FILES = ("results.json", "attention_memory.png")
TEXTBOOK, LIBRARY, BY_HAND, TORCH = "textbook", "library", "by hand", "torch"
TEMP_PAIRS = [(TEXTBOOK, BY_HAND), (LIBRARY, BY_HAND)]
TIME_PAIRS = [(TEXTBOOK, BY_HAND), (LIBRARY, BY_HAND), (BY_HAND, TORCH)]


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    lengths = [str(2**i) for i in range(8, 15)]
    flags.DEFINE_list("lengths", lengths, "T, the numbers of queries and keys, ascending.", **options)
    flags.DEFINE_integer("batch", 1, "Examples.", lower_bound=1, **options)
    flags.DEFINE_integer("heads", 4, "Heads, of queries, keys and values alike.", lower_bound=1, **options)
    flags.DEFINE_integer("head_size", 64, "Size of a head.", lower_bound=1, **options)
    flags.DEFINE_bool("causal", True, "A query attends to no later key.", **options)
    flags.DEFINE_integer("block_size", 512, "Queries in a tile of the form by hand.", lower_bound=1, **options)
    flags.DEFINE_enum("dtype", "float32", ["float16", "bfloat16", "float32", "float64"], "Of all arrays.", **options)
    flags.DEFINE_bool(
        "torch", True, "Time torch, too, where it is installed: on the CPU, and not in bfloat16.", **options
    )
    flags.DEFINE_float("memory_limit", 8.0, "GiB; a program that needs more is not run.", lower_bound=0.0, **options)
    flags.DEFINE_integer("repeats", 7, "Most rounds to time at one length.", lower_bound=1, **options)
    flags.DEFINE_float("seconds", 12.0, "No round begins later than this.", lower_bound=0.0, **options)
    flags.DEFINE_float("tolerance", 1e-5, "Of gradients, relative to the largest entry.", lower_bound=0.0, **options)
    flags.DEFINE_integer(
        "judge_at",
        4096,
        "The length at which the targets are judged; their defaults are for 4096.",
        lower_bound=1,
        **options,
    )
    flags.DEFINE_float(
        "target_memory", 40.0, "Textbook memory / memory by hand, at least; 0: not judged.", lower_bound=0.0, **options
    )
    flags.DEFINE_float(
        "target_speedup", 5.0, "The library's time / time by hand, at least; 0: not judged.", lower_bound=0.0, **options
    )
    flags.DEFINE_float(
        "target_torch", 1.5, "Time by hand / torch's time, at most; 0: not judged.", lower_bound=0.0, **options
    )
    flags.DEFINE_integer("seed", 0, "Of the random arrays.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/attention_memory", "Where the tables and the figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    flags.register_validator(
        "lengths", measure.are_ascending, message="expected ascending positive integers", flag_values=flag_values
    )


def run(
    *,
    lengths: Sequence[str],
    batch: int,
    heads: int,
    head_size: int,
    causal: bool,
    block_size: int,
    dtype: str,
    torch: bool,
    memory_limit: float,
    repeats: int,
    seconds: float,
    tolerance: float,
    judge_at: int,
    target_memory: float,
    target_speedup: float,
    target_torch: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise common.UserError("--dtype=float64 needs --jax_enable_x64=true")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    with_torch = torch and dtype != "bfloat16" and jax.default_backend() == "cpu" and _is_installed("torch")
    limits: dict[str, Any] = {"memory_limit": memory_limit * measure.GIB, "repeats": repeats, "seconds": seconds}
    points: list[measure.Point] = []
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("measuring", total=len(lengths), note="")
            for length in map(int, lengths):

                def note(doing: str, length: int = length) -> None:
                    bar.update(task, note=f"T = {length:,}: {doing}")

                keys = jax.random.split(jax.random.key(seed), 4)
                shape = (batch, length, heads, head_size)
                arrays = [jax.random.normal(key, shape, jnp.dtype(dtype)) for key in keys]
                peers = {TORCH: torch_gradient(*arrays, causal=causal)} if with_torch else {}
                forms = gradients(causal, block_size)
                points += measure.compare(length, forms, arrays, peers, note=note, **limits)
                bar.advance(task)
    finally:
        verdicts: list[common.Verdict] = []
        if points:
            verdicts = judge(
                points,
                smallest=4 * block_size,  # below, by hand it is a tile or two, and all of them
                tolerance=tolerance,
                judge_at=judge_at,
                target_memory=target_memory,
                target_speedup=target_speedup,
                target_torch=target_torch,
            )
            _report(folder, points, verdicts, settings, complete=points[-1].size == int(lengths[-1]))
    return verdicts


def gradients(causal: bool, block_size: int) -> dict[str, Callable[..., Any]]:
    """Each form as a function of q, k, v [B, T, N, H] and the weights of the output, to the gradients of q, k and v."""
    blockwise = hand_derived(Rule(blockwise_attention, blockwise_attention_fwd, blockwise_attention_bwd))
    forms: dict[str, Callable[..., Any]] = {
        TEXTBOOK: functools.partial(attention, causal=causal),
        LIBRARY: functools.partial(jax.nn.dot_product_attention, is_causal=causal),
        BY_HAND: functools.partial(blockwise, causal=causal, block_size=block_size),
    }

    def gradient(attend: Callable[..., Any], q: Any, k: Any, v: Any, weights: Any) -> Any:
        return jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v) * weights), (0, 1, 2))(q, k, v)

    return {form: functools.partial(gradient, attend) for form, attend in forms.items()}


def torch_gradient(q: Any, k: Any, v: Any, weights: Any, *, causal: bool) -> Callable[[], Any]:
    """The same by torch, from arrays in its own layout [B, N, T, H], which cost it no time here."""
    torch = importlib.import_module("torch")
    arrays = [torch.tensor(np.asarray(x)).transpose(1, 2).contiguous() for x in (q, k, v, weights)]
    operands = [x.requires_grad_() for x in arrays[:3]]

    def gradient() -> Any:
        y = torch.nn.functional.scaled_dot_product_attention(*operands, is_causal=causal)
        return [d.transpose(1, 2) for d in torch.autograd.grad(y, operands, arrays[3])]

    return gradient


def judge(
    points: Sequence[measure.Point],
    *,
    smallest: int,
    tolerance: float,
    judge_at: int,
    target_memory: float,
    target_speedup: float,
    target_torch: float,
) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    by_hand, textbook = (measure.growth(points, form, smallest) for form in (BY_HAND, TEXTBOOK))
    saved = measure.temp_ratio(points, (TEXTBOOK, BY_HAND), judge_at)
    faster = measure.time_ratio(points, (LIBRARY, BY_HAND), judge_at)
    slower = measure.time_ratio(points, (BY_HAND, TORCH), judge_at)
    where, everywhere = f"at T = {judge_at:,}", "gradients by hand are autodiff's, at every length that ran"
    return [
        *measure.growth_verdict("memory by hand grows no faster than T", by_hand, "T", (-math.inf, 1.1), "N7"),
        *measure.growth_verdict("memory of the textbook form grows as T²", textbook, "T", (1.8, 2.2), "N7"),
        *measure.ratio_verdict(f"memory {where}: textbook / by hand", saved, "≥", target_memory, "N7"),
        *measure.ratio_verdict(f"time {where}: library / by hand", faster, "≥", target_speedup, "N7"),
        *measure.ratio_verdict(f"time {where}: by hand / torch", slower, "≤", target_torch, "N7"),
        *measure.difference_verdict(everywhere, points, BY_HAND, tolerance, "B3, N7"),
    ]


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _report(
    folder: Path,
    points: Sequence[measure.Point],
    verdicts: list[common.Verdict],
    settings: dict[str, Any],
    *,
    complete: bool,
) -> None:
    if not complete:
        common.console.print(f"interrupted: complete up to T = {points[-1].size:,}")
    what = f"{settings['dtype']} [{settings['batch']}, T, {settings['heads']}, {settings['head_size']}]"
    what += ", causal" if settings["causal"] else ""
    measure.print_points(f"gradient of attention, {what}", "T", points, TEMP_PAIRS, TIME_PAIRS)
    measure.print_not_run(points, "T", settings["memory_limit"] * measure.GIB)
    if verdicts:
        common.print_verdicts(verdicts)
    if settings["judge_at"] not in {point.size for point in points}:
        common.console.print(f"targets not judged: T = {settings['judge_at']:,} was not measured")
    measure.write_points(folder / FILES[0], points, TEMP_PAIRS, TIME_PAIRS, verdicts, complete=complete)
    guides = {TEXTBOOK: 2.0, BY_HAND: 1.0}, {BY_HAND: 2.0}
    figure = figures.growth(f"Gradient of attention, {what}", "T", points, *guides)
    common.save_figure(figure, folder / FILES[1])
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
