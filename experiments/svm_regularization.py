"""What does C do to a support vector machine: to violations, to the margin, to bias and variance?

In float64, C from 2⁻⁷ to 2¹⁰, several training sets at each: two clouds with the linear kernel, whose best boundary is
a line; two moons with the RBF kernel, that overlap; images of two digits with either kernel. Of each kind all fits are
one program, `jax.vmap` over training sets and over C. Each is solved until the gap of primal and dual is a millionth of
the objective.

Expected: the larger C, the smaller Σ ξ and the larger ‖w‖, the narrower so the margin 2/‖w‖, in each training set: at
no step of C the other way. Machines that are solved to a gap may differ from that by as much as their gaps allow, which
is derived (`svm_regularization_verdicts.steps`), and by no more. The slope of the optimum, as a function of C, is Σ ξ.

The notes say that variance grows with C, and bias as C falls. The variance of f over training sets grows, with ‖w‖.
That of predictions grows too where classes overlap and the kernel is flexible: on the moons, where the least validation
error is between the ends. It hardly does on the others, and on digits, that can be told apart, it may be less in
between than at either end. Stiffness is bias where the machine is too stiff: at small C, moons and digits are not
learned even as far as they were given. On clouds, it is none: the best boundary is a line, and found at every C.

    python -m experiments.svm_regularization --flagfile=configs/svm_regularization.flags

Ctrl-C leaves what is finished.
"""

import math
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import common, svm_regularization_figures, svm_regularization_paths, svm_regularization_verdicts
from experiments.svm_regularization_paths import Path, power_text

RESULTS, FIGURE = FILES = ("results.json", "svm_regularization.png")
ROWS = 7  # of a path's table


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("lowest", -7, "log₂ of the smallest C.", lower_bound=-20, upper_bound=20, **options)
    flags.DEFINE_integer("highest", 10, "log₂ of the largest C.", lower_bound=-20, upper_bound=20, **options)
    flags.DEFINE_integer("sets", 12, "R, training sets of each kind.", lower_bound=3, upper_bound=1000, **options)
    flags.DEFINE_integer("points", 100, "N, of a training set, even.", lower_bound=4, upper_bound=1000, **options)
    flags.DEFINE_integer("validation", 1000, "Clouds and moons to validate with, even.", lower_bound=2, **options)
    flags.DEFINE_float("apart", 2.0, "Distance of the clouds' centres; each has variance 1.", **options)
    flags.DEFINE_float("noise", 0.35, "Standard deviation from the moons' arcs, of radius 1.", **options)
    flags.DEFINE_float("gamma", 2.0, "γ of the RBF kernel on the moons.", **options)
    flags.DEFINE_list("digits", ["3", "8"], "Two digits.", **options)
    flags.DEFINE_float("digit_gamma", 0.05, "γ of the RBF kernel on digits.", **options)
    flags.DEFINE_float("relative_gap", 1e-6, "Of each fit, over its primal objective.", **options)
    flags.DEFINE_integer("grid", 80, "Points along each axis of the planes that are drawn.", lower_bound=2, **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/svm_regularization", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def are_digits(values: Sequence[str]) -> bool:
        return len(values) == len(set(values)) == 2 and set(values) <= set("0123456789")

    flags.register_validator("digits", are_digits, message="expected two of 0 to 9", flag_values=flag_values)


def run(
    *,
    lowest: int,
    highest: int,
    sets: int,
    points: int,
    validation: int,
    apart: float,
    noise: float,
    gamma: float,
    digits: Sequence[str],
    digit_gamma: float,
    relative_gap: float,
    grid: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Follow the paths, print, draw and judge."""
    settings = dict(locals())
    for name in ("apart", "noise", "gamma", "digit_gamma", "relative_gap"):
        if not 0 < settings[name] < math.inf:
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number > 0")
    for name in ("points", "validation"):
        if settings[name] % 2:
            raise common.UserError(f"--{name}={settings[name]}; expected an even number, as many of each class")
    if lowest >= highest:
        raise common.UserError(f"--lowest={lowest}, --highest={highest}; expected the first to be less")
    least = svm_regularization_paths.images([int(digit) for digit in digits])
    if points // 2 > least:
        raise common.UserError(f"--points={points}; expected at most {2 * least}, with so many images of either digit")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    c = 2.0 ** np.arange(lowest, highest + 1)
    paths: list[Path] = []
    complete = False
    try:
        with (
            jax.enable_x64(True),
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            task = bar.add_task("training sets", total=4, note="")
            populations = svm_regularization_paths.populations(
                seed,
                sets=sets,
                points=points,
                validation=validation,
                apart=apart,
                noise=noise,
                gamma=gamma,
                digits=[int(digit) for digit in digits],
                digit_gamma=digit_gamma,
            )
            for population in populations:
                bar.update(task, description=population.name, note=f"{sets * len(c)} fits")
                paths.append(svm_regularization_paths.follow(population, c, relative_gap=relative_gap, grid=grid))
                bar.advance(task)
            complete = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(paths)} of 4 paths")
        raise
    finally:
        verdicts = svm_regularization_verdicts.judge(paths)
        _report(folder, paths, verdicts, settings, complete=complete)
    return verdicts


def _report(
    folder: File, paths: list[Path], verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, figure and results of what is finished."""
    for path in paths:
        rows = []
        for k in np.unique(np.linspace(0, len(path.c) - 1, ROWS).round().astype(int)):
            means = [float(values[:, k].mean()) for values in (path.slack, path.width, path.inside, path.support)]
            errors = [path.training_error[:, k].mean(), path.validation_error[:, k].mean(), path.vote_error[k]]
            over_sets = [path.variance[k], path.prediction_variance[k]]
            rows.append(
                [power_text(path.c[k]), f"{means[0]:.4g}", f"{means[1]:.3g}", f"{means[2]:.1f}", f"{means[3]:.1f}",
                 *(f"{error:.3f}" for error in errors), *(f"{value:.2g}" for value in over_sets)]
            )  # fmt: skip
        head = ["C", "Σξ", "2/‖w‖", "α = C", "α > 0", "training", "validation", "of the vote", "var f", "var sign f"]
        title = f"{path.name}: means over training sets, errors, variances ({path.steps_in_all:,} steps of two α)"
        common.table(title, head, rows)
    if paths:
        common.save_figure(svm_regularization_figures.draw(paths), folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings, "verdicts": [verdict._asdict() for verdict in verdicts]}
    common.write_json(folder / RESULTS, content | {"paths": [_plain(path) for path in paths]})
    common.console.print(f"written to {folder}", markup=False)


def _plain(path: Path) -> dict[str, Any]:
    """Without what is only drawn; means over training sets of what is not judged one by one."""
    left_out = {"values", "labels", "limits", "planes"}
    fields = {name: value for name, value in path._asdict().items() if name not in left_out}
    more = {name: getattr(path, name) for name in ("vote_error", "variance", "prediction_variance")}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in (fields | more).items()}


if __name__ == "__main__":
    common.main(define_flags, run)
