"""Does accumulating gradients over K microbatches give the large batch's gradient, in the memory of a small one?

Of a batch, part does not count: images without a label, the padding of sequences of different lengths, and at its end
examples of which nothing counts. K need not divide it. Compared in float64 are `jax.value_and_grad` of the mean over
all that counts, at once; `accumulate`, which adds sums and divides once, by autodiff and with gradients derived by
hand; and the mean of the microbatches' means. Then the temporary memory of compiled programs, in float32, of which only
some are run; and an epoch of Adam in batches of B, at once and in microbatches, and in batches of B/K.

Expected:
  `accumulate` gives the gradient at once, to rounding, whatever K, whatever counts;
  the mean of means gives another one, unless the same number counts in all microbatches;
  K microbatches of M take the memory of one and at most one more gradient, the same for all K ≥ 2, where K M examples
    at once take K times as much; a batch that stays the same takes less memory the larger K, until it is that of the
    parameters;
  training goes through the same parameters as with the batch at once, and is updated K times less often than with
    batches of B/K. So the loss after an epoch is higher: microbatches save memory, not passes.

    python -m experiments.gradient_accumulation --flagfile=configs/gradient_accumulation.flags

Time is that of one gradient of the batch that stays the same, the median over rounds in turn; it is not judged. Ctrl-C
leaves what is finished.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import common, gradient_accumulation_figures, measure, microbatches
from experiments.microbatches import Epoch, Errors, Memory
from fundamentals import data

RESULTS, FIGURE = FILES = ("results.json", "gradient_accumulation.png")
NOTES = "K1, claim 7"
EXACT, SAME_PATH, WRONG = 1e-12, 1e-10, 1e-3  # relative differences in float64: of a gradient, of a path, of a mistake


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    counts = ["1", "2", "4", "8", "16", "32"]
    flags.DEFINE_list("num_microbatches", counts, "K, ascending from 1, at least three.", **options)
    flags.DEFINE_integer("examples", 90, "Images, and sequences, of the batches that are compared.", **positive)
    flags.DEFINE_integer("length", 24, "T, of the longest sequence.", lower_bound=2, **options)
    flags.DEFINE_integer("batch_size", 128, "B, of the training, with the middle K and the last.", **positive)
    flags.DEFINE_float("learning_rate", 0.01, "Of Adam.", lower_bound=0.0, **options)
    flags.DEFINE_integer("microbatch_size", 256, "M, of the programs whose memory is measured.", **positive)
    flags.DEFINE_list("hidden_sizes", ["256", "256", "256"], "Of the MLP that they train.", **options)
    flags.DEFINE_integer("repeats", 5, "Rounds to time.", **positive)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/gradient_accumulation", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def are_counts(values: Sequence[str]) -> bool:
        return measure.are_ascending(values) and int(values[0]) == 1 and len(values) >= 3

    def are_sizes(values: Sequence[str]) -> bool:
        return bool(values) and all(v.isascii() and v.isdecimal() and int(v) > 0 for v in values)

    expected = "expected at least three ascending integers, the first 1"
    flags.register_validator("num_microbatches", are_counts, message=expected, flag_values=flag_values)
    flags.register_validator("hidden_sizes", are_sizes, message="expected positive integers", flag_values=flag_values)


class Measured(NamedTuple):
    """All that is finished."""

    errors: Sequence[Errors] = ()
    epochs: Sequence[Epoch] = ()
    losses: Sequence[float] = ()  # after each update with the batch at once
    memory: Sequence[Memory] = ()
    parameters: int = 0
    microbatch_bytes: int = 0
    seconds: dict[int, list[float]] | None = None  # by K


def run(
    *,
    num_microbatches: Sequence[str],
    examples: int,
    length: int,
    batch_size: int,
    learning_rate: float,
    microbatch_size: int,
    hidden_sizes: Sequence[str],
    repeats: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    sizes = [int(k) for k in num_microbatches]
    with common.user_errors():
        _check(sizes, examples, batch_size, learning_rate)
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    measured = Measured()
    complete = False
    precise = jax.default_matmul_precision("highest")
    try:
        with precise, common.interruptible(), common.progress() as bar:
            task = bar.add_task("", total=5, note="")

            def begin(what: str) -> None:
                bar.update(task, advance=bool(measured.errors), description=what)

            with jax.enable_x64(True):
                begin("gradients of images")
                found = microbatches.errors(microbatches.images(seed, examples=examples), sizes, control=True)
                measured = measured._replace(errors=found)
                begin("gradients of sequences")
                problem = microbatches.sequences(seed, examples=examples, length=length)
                found = microbatches.errors(problem, sizes, control=False)
                measured = measured._replace(errors=[*measured.errors, *found])
                begin("training")
                two = [sizes[(len(sizes) - 1) // 2], sizes[-1]]
                epochs, losses = microbatches.epochs(seed, batch=batch_size, rate=learning_rate, sizes=two)
                measured = measured._replace(epochs=epochs, losses=losses)
            begin("memory")
            layers = [64, *map(int, hidden_sizes), 10]
            memory, programs = microbatches.memory(layers, microbatch_size, sizes)
            parameters = sum(d * h + h for d, h in itertools.pairwise(layers))
            own = 4 * microbatch_size * (layers[0] + 1)  # a microbatch with its labels
            measured = measured._replace(memory=memory, parameters=parameters, microbatch_bytes=own)
            begin("time")
            seconds = microbatches.seconds(programs, layers, sizes[-1] * microbatch_size, seed, repeats)
            measured = measured._replace(seconds=seconds)
            complete = True
    except KeyboardInterrupt:
        common.console.print("interrupted")
        raise
    finally:
        verdicts = judge(measured)
        _report(folder, measured, verdicts, settings, complete=complete)
    return verdicts


def _check(sizes: list[int], examples: int, batch_size: int, learning_rate: float) -> None:
    """Of flags that depend on others.

    Raises:
      ValueError: they do not fit.
    """
    digits = len(data.digits().train.labels)
    least = math.lcm(*sizes)
    for name, value in (("examples", examples), ("batch_size", batch_size)):
        if value > digits:
            raise ValueError(f"--{name}={value} is more than the {digits} training digits")
    if examples < least:
        raise ValueError(f"--examples={examples}; expected at least {least}, which all --num_microbatches divide")
    if batch_size % least:
        raise ValueError(
            f"--batch_size={batch_size}; expected a multiple of {least}, which all --num_microbatches divide"
        )
    if not math.isfinite(learning_rate):
        raise ValueError(f"--learning_rate={learning_rate}; expected a finite number")


def judge(measured: Measured) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    return [
        *(_judge_errors(measured.errors) if measured.errors else []),
        *(_judge_memory(measured) if measured.memory else []),
        *(_judge_epochs(measured.epochs) if measured.epochs else []),
    ]


def _judge_errors(errors: Sequence[Errors]) -> list[common.Verdict]:
    autodiff, by_hand = ([getattr(e, form) for e in errors] for form in ("autodiff", "by_hand"))
    one, several = ([e.means for e in errors if (e.k == 1) == alone] for alone in (True, False))
    even = [e.even for e in errors if e.even is not None]
    verdicts = [
        _at_most(
            "accumulated, the gradient is that of the whole batch, at every K: relative difference", autodiff, EXACT
        ),
        _at_most("… and so it is by hand, through gradient_fn", by_hand, EXACT),
    ]
    if several:
        verdicts.append(
            common.Verdict(
                "the mean of the microbatches' means is another gradient, unless K = 1",
                f"{np.max(one):.1e} at K = 1, ≥ {np.min(several):.1e} above", f"≤ {EXACT:.0e}, > {WRONG:.0e}",
                bool(np.max(one) <= EXACT and np.min(several) > WRONG), NOTES,
            )
        )  # fmt: skip
    if even:
        verdicts.append(_at_most("… or in all microbatches the same number counts", even, EXACT))
    return verdicts


def _judge_memory(measured: Measured) -> list[common.Verdict]:
    several = [m.fixed_microbatch for m in measured.memory if m.k > 1]
    falling = [m.fixed_batch for m in measured.memory]
    # Alone, the microbatch is an argument; out of a batch, it is a copy.
    alone, gradient = measured.memory[0].at_once + measured.microbatch_bytes, 4 * measured.parameters
    first, last = measured.memory[1].k, measured.memory[-1].k
    return [
        common.Verdict(
            f"memory of K microbatches is the same for K from {first} to {last}",
            f"{max(several) / min(several) - 1:.3%} apart", "≤ 1 %", max(several) <= 1.01 * min(several), NOTES,
        ),
        common.Verdict(
            "… that of one, and at most one more gradient", measure.bytes_text(max(several)),
            f"≤ {measure.bytes_text(alone)} + 1.05 × {measure.bytes_text(gradient)}",
            max(several) <= alone + 1.05 * gradient, NOTES,
        ),
        common.Verdict(
            f"memory of a batch that stays the same falls with K, from 1 to {last}",
            f"{measure.bytes_text(falling[0])} to {measure.bytes_text(falling[-1])}", "falls in every step",
            all(later < earlier for earlier, later in itertools.pairwise(falling)), NOTES,
        ),
    ]  # fmt: skip


def _judge_epochs(epochs: Sequence[Epoch]) -> list[common.Verdict]:
    fewer = [e.updates_of_small / e.updates for e in epochs]
    trained = ", ".join(f"{e.k}" for e in epochs)
    claim = f"training with K = {trained} goes through the parameters of batches of B at once, at every step"
    return [
        _at_most(claim, [e.apart for e in epochs], SAME_PATH),
        common.Verdict(
            "updates in an epoch: batches of B/K, over batches of B in K microbatches",
            ", ".join(f"{ratio:g}" for ratio in fewer), trained,
            fewer == [e.k for e in epochs], NOTES,
        ),
    ]  # fmt: skip


def _at_most(claim: str, found: Sequence[float], bound: float) -> common.Verdict:
    largest = float(np.max(found))  # NaN if any is
    return common.Verdict(claim, f"{largest:.1e}", f"≤ {bound:.0e}", largest <= bound, NOTES)


def _report(
    folder: Path, measured: Measured, verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, results and figure of what is finished."""
    if measured.errors:
        rows = []
        for e in measured.errors:
            apart = [f"{value:.1e}" for value in (e.autodiff, e.by_hand, e.means)]
            rows.append(
                [e.problem, f"{e.k}", f"{min(e.counts)} to {max(e.counts)}", *apart,
                 "–" if e.even is None else f"{e.even:.1e}"]
            )  # fmt: skip
        columns = ["model", "K", "count in each", "accumulated", "by hand", "mean of means", "… of equal counts"]
        common.table("Gradients of a batch in K microbatches, relative to the batch at once", columns, rows)
    if measured.memory:
        rows = []
        for m in measured.memory:
            texts = [measure.bytes_text(value) for value in (m.at_once, m.fixed_microbatch, m.fixed_batch)]
            rows.append([f"{m.k}", *texts, measure.time_text((measured.seconds or {}).get(m.k, ()))])
        size, last = settings["microbatch_size"], measured.memory[-1].k
        columns = [
            "K", f"K × {size} at once", f"in K of {size}", f"{size * last} in K", f"time of {size * last} in K"
        ]  # fmt: skip
        title = f"Temporary memory, an MLP of {measured.parameters:,} parameters ({4 * measured.parameters:,} bytes)"
        common.table(title, columns, rows)
    if measured.epochs:
        rows = [
            [f"{e.k}", f"{e.updates}", f"{e.losses[-1]:.3f}", f"{e.apart:.1e}", f"{e.updates_of_small}",
             f"{e.losses_of_small[-1]:.3f}"]
            for e in measured.epochs
        ]  # fmt: skip
        batch = settings["batch_size"]
        columns = ["K", f"updates, {batch} in K", "loss", "from at once", f"updates, {batch} / K", "loss"]
        common.table("An epoch of Adam, and the loss after it", columns, rows)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [v._asdict() for v in verdicts]}
    lists = {name: [row._asdict() for row in getattr(measured, name)] for name in ("errors", "epochs", "memory")}
    medians = {k: statistics.median(times) for k, times in (measured.seconds or {}).items()}
    rest = {name: getattr(measured, name) for name in ("losses", "parameters", "microbatch_bytes")}
    common.write_json(folder / RESULTS, content | lists | rest | {"seconds": medians})
    if measured.errors:
        figure = gradient_accumulation_figures.draw(measured, settings["batch_size"], settings["microbatch_size"])
        common.save_figure(figure, folder / FIGURE)
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
