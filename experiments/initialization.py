"""What does the variance of initial weights do to activations, to gradients, to training? And no variance at all?

Deep networks of one width, several of each kind, linear, with tanh and with relu, in float64; weights are the same
normal draws in all schemes, times σ: small, large, S3's σ² = 1 / (2 n_in + 2 n_out), Xavier's, He's. Mean squares of
activations and gradients by layer, beside theory (`initialization_theory`).

Expected:
  S3's σ² is 4 times too small: a linear stack of one width loses 4× a layer, in ten layers all but 9.5e-7;
  Xavier's keeps it there, He's with relu. With tanh and Xavier's, activations still fall, but as about 1/(2 l) after
    l layers, not geometrically;
  small weights shrink both. Large ones let both explode, but with tanh, which is saturated then, only gradients do;
  where n_in ≠ n_out, σ² = 1/n_in keeps activations and 1/n_out gradients, and no σ² both. Xavier's is the harmonic mean
    of the two (the notes have that of n_in and n_out), and keeps neither. Where widths go up and down it loses both,
    layer by layer, as either of the two would not: 4 n_in n_out / (n_in + n_out)² is less than 1;
  he_normal here is normal; that of `jax.nn.initializers` is cut at 2.27 standard deviations, its variance is the same;
  units that start alike stay alike: with constant weights all units of a layer are one, after any number of steps, up
    to rounding, which differs where vector instructions treat some columns differently (at width 30, not at 32). With
    zeros, and tanh, nothing but the bias of the last layer moves. Random weights break the tie.
  Does it then train? An MLP on the digits in the box, ten hidden layers, plain gradient descent at several η, the best
    of them: with Xavier and tanh, and He and relu, yes; with small, large and S3's, no. Adam, whose steps don't depend
    on the gradient's scale, does train S3's, if more slowly. (Large ones with relu it trains in part, to a loss far
    above that of guessing: that is in the table, not judged.)

    python -m experiments.initialization --flagfile=configs/initialization.flags

Ctrl-C leaves what is finished; --resume goes on with the rest.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import (
    common,
    initialization_figures,
    initialization_networks,
    initialization_theory,
    initialization_verdicts,
    measure,
    sweeps,
)
from experiments.initialization_networks import DRAWN, Row
from experiments.initialization_verdicts import DRAW_SHAPE, METHODS, TRAINED
from fundamentals import initializers
from fundamentals.base import Initializer

RESULTS, VARIANCES, HISTOGRAMS = FILES = ("results.json", "initialization.png", "initialization_histograms.png")


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("width", 256, "n, of each layer.", lower_bound=2, **options)
    flags.DEFINE_integer("depth", 10, "L, of the networks that are measured.", lower_bound=2, **options)
    flags.DEFINE_integer("networks", 48, "That are measured, of each kind.", lower_bound=3, **options)
    flags.DEFINE_integer("examples", 32, "Inputs of each network that is measured.", lower_bound=1, **options)
    flags.DEFINE_float("small", 0.01, "σ that is small.", **options)
    flags.DEFINE_float("large", 1.0, "σ that is large.", **options)
    flags.DEFINE_float("constant", 0.01, "All weights of a network that starts with ties.", **options)
    flags.DEFINE_list("tied_widths", ["32", "30"], "Units of each of two layers, to start with ties.", **options)
    flags.DEFINE_float("tied_sgd_rate", 0.1, "η of sgd there.", **options)
    flags.DEFINE_float("tied_adam_rate", 0.01, "η of adam there.", **options)
    flags.DEFINE_integer("trained_width", 64, "Of each hidden layer, to train.", lower_bound=1, **options)
    flags.DEFINE_integer("hidden_layers", 10, "Of the networks that are trained.", lower_bound=1, **options)
    flags.DEFINE_integer("trained_networks", 3, "Of each scheme.", lower_bound=1, **options)
    flags.DEFINE_list("sgd_rates", ["0.03", "0.1", "0.3"], "η to train with.", **options)
    flags.DEFINE_list("adam_rates", ["0.001", "0.003"], "η to train with.", **options)
    flags.DEFINE_integer("steps", 300, "Of training.", lower_bound=1, **options)
    flags.DEFINE_integer("batch", 64, "Examples of a step.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    sweeps.define_flags(flag_values, "initialization")

    def are_widths(values: Sequence[str]) -> bool:
        return 0 < len(values) == len(set(values)) and all(measure.are_ascending([v]) and int(v) > 1 for v in values)

    def are_rates(values: Sequence[str]) -> bool:
        try:
            return bool(values) and all(0 < float(value) < math.inf for value in values)
        except ValueError:
            return False

    for names, check, expected in (
        (["tied_widths"], are_widths, "different integers > 1"),
        (["sgd_rates", "adam_rates"], are_rates, "positive numbers"),
    ):
        for name in names:
            flags.register_validator(name, check, message=f"expected {expected}", flag_values=flag_values)


def run(
    *,
    width: int,
    depth: int,
    networks: int,
    examples: int,
    small: float,
    large: float,
    constant: float,
    tied_widths: Sequence[str],
    tied_sgd_rate: float,
    tied_adam_rate: float,
    trained_width: int,
    hidden_layers: int,
    trained_networks: int,
    sgd_rates: Sequence[str],
    adam_rates: Sequence[str],
    steps: int,
    batch: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
    resume: bool,
) -> list[common.Verdict]:
    """Measure what is not measured yet, print, draw, judge."""
    settings = dict(locals())
    for name in ("small", "large", "constant", "tied_sgd_rate", "tied_adam_rate"):
        if not 0 < settings[name] < math.inf:
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number > 0")
    if small >= large:
        raise common.UserError(f"--small={small}, --large={large}; expected the first to be less")
    parts = _parts(settings)
    folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
    precise = jax.default_matmul_precision("highest")
    try:
        with precise, common.interruptible(), common.progress() as bar:
            task = bar.add_task("", total=len(parts), note="")
            for key, part in parts.items():
                bar.update(task, description=key, note="")
                if key not in rows:
                    rows[key] = sweeps.keep(folder, key, part())
                bar.advance(task)
    finally:
        verdicts = initialization_verdicts.judge(rows, settings)
        _report(folder, rows, verdicts, settings, complete=len(rows) == len(parts))
        sweeps.report_unfinished(len(rows), len(parts))
    return verdicts


def _parts(settings: dict[str, Any]) -> dict[str, Callable[[], Row]]:
    """All that is measured, by key."""

    def some(*names: str, **others: str) -> dict[str, Any]:
        """Settings as arguments, renamed where an argument has another name."""
        return {name: settings[flag] for name, flag in ({name: name for name in names} | others).items()}

    schemes = initialization_theory.variances(settings["small"], settings["large"])
    stddev = np.sqrt([variance(settings["width"], settings["width"]) for variance in schemes.values()])
    shape = some("width", "depth", "networks", "examples", "seed")
    parts: dict[str, Callable[[], Row]] = {}
    for activation in initialization_theory.SLOPES:
        parts[f"square, {activation}"] = in_float64(
            initialization_networks.square_networks, activation, stddev, **shape
        )
    for name, widths in initialization_theory.STACKS.items():
        parts[f"stack, {name}"] = functools.partial(
            initialization_networks.linear_networks, widths, **some("networks", "examples", "seed")
        )
    for name in DRAWN:
        parts[f"draws, {name}"] = functools.partial(
            initialization_networks.draw, name, DRAW_SHAPE, seed=settings["seed"]
        )
    for method in METHODS:
        numbers = some("steps", "batch", "seed", eta=f"tied_{method}_rate")
        first, *_ = widths = [*map(int, settings["tied_widths"])]
        cases: list[tuple[str, Initializer, int]] = [
            ("0, tanh", initializers.zeros, first),
            ("0, sigmoid", initializers.zeros, first),
        ]
        cases += [("c, tanh", initializers.constant(settings["constant"]), width) for width in widths]
        cases += [("random, tanh", initializers.xavier_normal(), first)]
        for name, initializer, width in cases:
            parts[f"ties, {name}, {width}, {method}"] = in_float64(
                initialization_networks.train_ties, initializer, name.split(", ")[1], method, width=width, **numbers
            )
    deep = some("steps", "batch", "seed", width="trained_width", depth="hidden_layers", networks="trained_networks")
    for activation, method in TRAINED:
        for name in schemes:
            parts[f"training, {name}, {activation}, {method}"] = functools.partial(
                initialization_networks.train_deep,
                initialization_networks.scheme(name, settings["small"], settings["large"]),
                activation,
                method,
                [float(rate) for rate in settings[f"{method}_rates"]],
                **deep,
            )
    return parts


def in_float64(measurement: Callable[..., Row], *args: Any, **kwargs: Any) -> Callable[[], Row]:
    """The measurement of these arguments, to be taken in float64."""

    def measured() -> Row:
        with jax.enable_x64(True):
            return measurement(*args, **kwargs)

    return measured


def _report(
    folder: Path, rows: dict[str, Row], verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, results and figures of what is finished."""
    initialization_verdicts.print_tables(rows, settings)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [v._asdict() for v in verdicts], "rows": rows}
    common.write_json(folder / RESULTS, content)
    if any(key.startswith("square") for key in rows):
        common.save_figure(initialization_figures.variances(rows, settings), folder / VARIANCES)
        common.save_figure(initialization_figures.histograms(rows, settings), folder / HISTOGRAMS)
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
