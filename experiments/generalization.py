"""What does a network that fits few examples know of others? Overfitting, what is done about it, and how to tell.

Five questions, on the digits and on a curve that is known:

  overfitting   about 40 images of each digit, a fifth of all labels wrong: training loss falls on, validation loss
                turns. Early stopping goes back to where that was least; is it better on the test part, too?
  regularizers  weight decay, dropout, a bottleneck, each at the strength that validation chose: is the gap from
                training to test loss narrower, and test loss less? A gap alone narrows, too, if training fails.
  transfer      hidden layers that learned digits 0–4, frozen, and few labels of 5–9; against the same network from
                scratch, against hidden layers that learned nothing, and against going on from there.
  selection     the best of many on one validation set: what is its score there, and on a fresh test set?
  capacity      bias² and variance: polynomials by degree, measured and in theory; networks by width and by steps

Expected: as the notes say, but for three things. A bottleneck narrows the gap where it keeps a network from fitting
wrong labels. Right labels it fits, and then the gap is not narrower by as much as a tenth. Transfer wins where the
tasks share what few labels can't teach: here the light of each image, that is uneven, and to be ignored. In even light,
as the digits are in the box, the pixels of 5–9 tell more than what is left of them once 0–4 are told apart, and frozen
features lose at any number of labels. And the variance of networks rises with their width if each is the best of a few
starts: from one start, the narrowest may end in many places, which is variance, too.

    python -m experiments.generalization --flagfile=configs/generalization.flags

Ctrl-C leaves the rows that are finished; --resume goes on with the next.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import common, generalization_figures, generalization_tables, generalization_verdicts, sweeps
from experiments import generalization_capacity as capacity
from experiments import generalization_networks as networks
from experiments import generalization_overfitting as overfitting
from experiments import generalization_selection as selection
from experiments import generalization_transfer as transfer

RESULTS, OVERFITTING, CAPACITY = FILES = (
    "results.json",
    "generalization_overfitting.png",
    "generalization_capacity.png",
)
CLASS = 142  # images of the rarest digit, outside of the test part


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer(
        "few", 40, "Images of each digit to train with, and to validate.", lower_bound=1, upper_bound=70, **options
    )
    flags.DEFINE_float("wrong", 0.2, "Share of wrong labels.", lower_bound=0.0, upper_bound=0.9, **options)
    flags.DEFINE_integer("hidden", 64, "Units of each of two hidden layers.", lower_bound=4, **options)
    flags.DEFINE_integer("steps", 600, f"Of training, a multiple of {networks.EVERY}.", lower_bound=1, **options)
    flags.DEFINE_integer("repeats", 16, "R, of all but the best of many.", lower_bound=3, **options)
    flags.DEFINE_list("decays", ["0.1", "0.3", "1", "3"], "λ of AdamW.", **options)
    flags.DEFINE_list("rates", ["0.25", "0.5", "0.75"], "Of dropout.", **options)
    flags.DEFINE_list("bottlenecks", ["4", "8", "16"], "Units of the second hidden layer.", **options)
    flags.DEFINE_list("labels", ["1", "2", "5", "10", "20", "50"], "Of each of 5–9, ascending.", **options)
    flags.DEFINE_float("light", 1.5, "Standard deviation of each wave of the light.", lower_bound=0.01, **options)
    flags.DEFINE_integer("candidates", 64, "Most to choose from.", lower_bound=4, **options)
    flags.DEFINE_integer("validated", 100, "m, images of a validation set to choose by.", lower_bound=2, **options)
    flags.DEFINE_integer("draws", 4000, "Of such sets.", lower_bound=10, **options)
    flags.DEFINE_integer("degrees", 12, "The highest, of polynomials.", lower_bound=1, upper_bound=50, **options)
    flags.DEFINE_list("widths", ["1", "2", "4", "8", "16", "32"], "Of networks on the curve, ascending.", **options)
    flags.DEFINE_integer("starts", 4, "Of a network on the curve; the best is taken.", lower_bound=1, **options)
    flags.DEFINE_integer("points", 30, "N, of the curve.", lower_bound=2, **options)
    flags.DEFINE_float("noise", 0.3, "σ, of its targets.", lower_bound=0.01, **options)
    flags.DEFINE_integer("sets", 100, "Training sets of the curve.", lower_bound=3, **options)
    flags.DEFINE_integer("curve_steps", 4096, "Of a network on the curve.", lower_bound=128, **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**31 - 1, **options)
    sweeps.define_flags(flag_values, "generalization")

    def numbers(lowest: float, highest: float, *, whole: bool = False) -> Callable[[Sequence[str]], bool]:
        def check(values: Sequence[str]) -> bool:
            try:
                found = [int(value) if whole else float(value) for value in values]
            except ValueError:
                return False
            return bool(found) and found == sorted(set(found)) and lowest <= found[0] and found[-1] <= highest

        return check

    for name, check, expected in (
        ("decays", numbers(1e-6, 1e3), "ascending, from 1e-6 to 1000"),
        ("rates", numbers(0.01, 0.99), "ascending, from 0.01 to 0.99"),
        ("bottlenecks", numbers(1, 10**6, whole=True), "ascending positive integers"),
        ("labels", numbers(1, CLASS, whole=True), f"ascending integers from 1 to {CLASS}"),
        ("widths", numbers(1, 4096, whole=True), "ascending integers from 1 to 4096"),
    ):
        flags.register_validator(name, check, message=f"expected {expected}", flag_values=flag_values)


def run(
    *,
    few: int,
    wrong: float,
    hidden: int,
    steps: int,
    repeats: int,
    decays: Sequence[str],
    rates: Sequence[str],
    bottlenecks: Sequence[str],
    labels: Sequence[str],
    light: float,
    candidates: int,
    validated: int,
    draws: int,
    degrees: int,
    widths: Sequence[str],
    starts: int,
    points: int,
    noise: float,
    sets: int,
    curve_steps: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
    resume: bool,
) -> list[common.Verdict]:
    """Measure row by row, print, draw and judge."""
    settings = dict(locals())
    for name in ("wrong", "light", "noise"):
        if not math.isfinite(settings[name]):
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number")
    if steps % networks.EVERY:
        raise common.UserError(f"--steps={steps}; expected a multiple of {networks.EVERY}, from look to look")
    if int(bottlenecks[-1]) >= hidden:
        raise common.UserError(f"--bottlenecks={','.join(bottlenecks)}; expected less than --hidden={hidden}")
    if degrees >= points:
        raise common.UserError(f"--degrees={degrees}; expected less than --points={points}, to have one solution")
    folder, rows = sweeps.start(output_dir, FILES, settings, overwrite=overwrite, resume=resume)
    digits = networks.digits()
    same: dict[str, Any] = {"steps": steps, "repeats": repeats, "hidden": hidden, "seed": seed}
    grid = overfitting.settings([*map(float, decays)], [*map(float, rates)], [*map(int, bottlenecks)])

    def overfit(again: Sequence[tuple[str, float]] = ()) -> dict[str, Callable[[], dict[str, Any]]]:
        return overfitting.jobs(digits, few=few, wrong=wrong, grid=grid, again=again, **same)

    def with_right_labels() -> dict[str, Callable[[], dict[str, Any]]]:
        kinds = (overfitting.NONE, overfitting.DECAY, overfitting.DROPOUT, overfitting.BOTTLENECK)
        found = [rows[name] for name in (generalization_verdicts.chosen(rows, kind) for kind in kinds) if name]
        return overfit([(row["kind"], row["strength"]) for row in found])

    stages: list[Callable[[], dict[str, Callable[[], dict[str, Any]]]]] = [
        overfit,
        with_right_labels,  # at the strengths that were chosen
        lambda: transfer.jobs(digits, counts=[*map(int, labels)], light=light, **same),
        lambda: selection.jobs(
            digits,
            candidates=candidates,
            validated=validated,
            draws=draws,
            steps=steps // 4,
            hidden=hidden // 2,
            seed=seed,
        ),
        lambda: capacity.jobs(
            degrees=degrees,
            widths=[*map(int, widths)],
            starts=starts,
            count=points,
            noise=noise,
            sets=sets,
            steps=curve_steps,
            seed=seed,
        ),
    ]
    total = len(grid) + 4 + 2 * len(labels) + len(selection.FAMILIES) + degrees + 1 + len(widths)
    complete = False
    try:
        with common.interruptible(), jax.default_matmul_precision("highest"), common.progress() as bar:
            task = bar.add_task("rows", total=total, completed=len(rows), note="")
            for stage in stages:
                for key, job in stage().items():
                    if key not in rows:
                        bar.update(task, note=key)
                        rows[key] = sweeps.keep(folder, key, job())
                        bar.advance(task)
            complete = True
    finally:
        verdicts = generalization_verdicts.judge(rows)
        _report(folder, rows, verdicts, settings, complete=complete)
        sweeps.report_unfinished(len(rows), total)
    return verdicts


def _report(
    folder: Path, rows: dict[str, Any], verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, figures and results of what is finished."""
    generalization_tables.print_tables(rows)
    if rows:
        common.save_figure(generalization_figures.draw_overfitting(rows), folder / OVERFITTING)
        common.save_figure(generalization_figures.draw_capacity(rows), folder / CAPACITY)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [verdict._asdict() for verdict in verdicts]}
    common.write_json(folder / RESULTS, content | {"rows": rows})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
