"""Do the primal and the dual of a support vector machine meet, and do w and α predict the same?

In float64, two clouds of points with the linear kernel and two moons with the RBF kernel.

1. The objectives P of the primal and D of the dual, while the dual is solved two α at a time. Their gap is a sum of
   products, α (y f − 1 + ξ) and (C − α) ξ, each ≥ 0. The primal by itself: cutting planes from its subgradient, and
   stochastic steps.
2. What an α says of its point, what is lost without the points whose α is 0, without any one, and predictions at fresh
   points from w = Σ α y φ(x) and from α and the kernel.
3. The subgradient where a margin is exactly kept, and the Lagrangian's gradients at the solution.
4. The notes' constraint 1 − Π y f ≤ 0, of random machines for two points.
5. The notes' recipe for the dual: fix α, minimize over w; fix that w, maximize over α. Beside it ascent on the dual
   itself, max over α of [min over w of ℒ].

Expected: the gap closes, to 1e-6 of the objective and further; solutions are the same as far as their gaps can tell,
which is derived: ‖w − w*‖² ≤ 2 (P − P*). α = 0 outside the margin, 0 < α < C on it, α = C inside; points with α = 0 may
as well not be there. (Without one with α > 0 the boundary may stay too: others can take over.) The subgradient with 0
at the kink is not 0 at the optimum: the α of the points on the margin are the subgradients that make it so. The product
of two violated margins is positive, so that the notes' constraint takes two wrongs for right; it is y f ≥ 1 of each
point by itself. And with w fixed the Lagrangian is linear in α with slope 1 − y f: of a violated constraint it has no
maximum. With Σ α y = 0 granted, which the notes omit, and steps of a finite length, it swings as soon as they are
longer than 2 over the dual's curvature; with 0 ≤ α ≤ C granted as well, it jumps between corners. Only if the minimum
over w is taken anew for every α does the dual come to the optimum.

    python -m experiments.svm_primal_dual --flagfile=configs/svm_primal_dual.flags

Ctrl-C leaves what is finished.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import common, svm_primal_dual_figures, svm_primal_dual_verdicts
from experiments import svm_primal_dual_lagrangian as lagrangian
from experiments import svm_primal_dual_solutions as solutions
from experiments.svm_primal_dual_solutions import Case
from experiments.svm_primal_dual_verdicts import Measured
from experiments.svm_problems import Problem, floating, gaussians, moons
from fundamentals import svm

RESULTS, FIGURE = FILES = ("results.json", "svm_primal_dual.png")


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    flags.DEFINE_integer("points", 80, "Of the two clouds, an even number.", lower_bound=8, upper_bound=1000, **options)
    flags.DEFINE_float("apart", 2.5, "Distance of the clouds' centres; each has variance 1.", **options)
    flags.DEFINE_float("c", 1.0, "C of the linear machine.", **options)
    flags.DEFINE_integer("moon_points", 120, "Of the two moons, even.", lower_bound=8, upper_bound=1000, **options)
    flags.DEFINE_float("noise", 0.25, "Standard deviation from the moons' arcs, of radius 1.", **options)
    flags.DEFINE_float("moon_c", 10.0, "C of the machine with the RBF kernel.", **options)
    flags.DEFINE_float("gamma", 1.0, "γ of the RBF kernel.", **options)
    flags.DEFINE_integer("fresh_points", 200, "To predict, even.", lower_bound=2, **options)
    flags.DEFINE_float("relative_gap", 1e-6, "Gap at which to stop, over the primal objective.", **options)
    flags.DEFINE_float("tolerance", 1e-9, "Violation of optimality at which to stop elsewhere.", **options)
    flags.DEFINE_integer("records", 1000, "Of the objectives until then, at least.", **positive)
    flags.DEFINE_integer("stochastic_steps", 2000, "Of Pegasos.", lower_bound=10, **options)
    flags.DEFINE_integer("draws", 1000, "Random w, b, ξ and α.", **positive)
    flags.DEFINE_integer("steps", 4000, "Of ascent.", lower_bound=20, upper_bound=100_000, **options)
    flags.DEFINE_float("overshoot", 4.0, "Steps with w fixed, over the longest that can converge.", **options)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/svm_primal_dual", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def run(
    *,
    points: int,
    apart: float,
    c: float,
    moon_points: int,
    noise: float,
    moon_c: float,
    gamma: float,
    fresh_points: int,
    relative_gap: float,
    tolerance: float,
    records: int,
    stochastic_steps: int,
    draws: int,
    steps: int,
    overshoot: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Solve, measure, print, draw and judge."""
    settings = dict(locals())
    for name in ("apart", "c", "noise", "moon_c", "gamma", "relative_gap", "tolerance"):
        if not 0 < settings[name] < math.inf:
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number > 0")
    for name in ("points", "moon_points", "fresh_points"):
        if settings[name] % 2:
            raise common.UserError(f"--{name}={settings[name]}; expected an even number, as many of each class")
    if not 1 < overshoot < math.inf:
        raise common.UserError(f"--overshoot={overshoot}; expected a finite number > 1")
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    measured = Measured()
    cases: list[Case] = []
    machines: list[svm.SupportVectorMachine] = []
    complete = False
    try:
        with (
            jax.enable_x64(True),
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            task = bar.add_task("", total=8, note="")

            def begin(what: str) -> None:
                bar.update(task, advance=bool(machines), description=what)

            begin("solutions")
            clouds = _drawn(functools.partial(gaussians, distance=apart), points, fresh_points, (seed, 0))
            arcs = _drawn(functools.partial(moons, noise=noise), moon_points, fresh_points, (seed, 1))
            for_lagrangian, for_product = (np.random.RandomState([seed, k]) for k in (2, 3))
            linear = Case("linear", *clouds, c, svm.linear_kernel)
            curved = Case("RBF", *arcs, moon_c, functools.partial(svm.rbf_kernel, gamma=gamma))
            cases = [linear, curved]
            accuracy = {"tolerance": tolerance, "relative_gap": relative_gap}
            machines = [solutions.solve(case, **accuracy) for case in cases]
            pairs = list(zip(cases, machines, strict=True))
            begin("objectives")
            found = [solutions.closing(*pair, relative_gap=relative_gap, records=records) for pair in pairs]
            measured = measured._replace(closings=found)
            begin("primal")
            primal = solutions.primal(
                linear, machines[0], jax.random.key(seed), relative_gap=relative_gap, num_steps=stochastic_steps
            )
            measured = measured._replace(primal=primal)
            begin("what α means")
            measured = measured._replace(groups=[solutions.groups(*pair, tolerance=tolerance) for pair in pairs])
            begin("one left out")
            measured = measured._replace(
                left_out=solutions.leave_one_out(linear, machines[0], tolerance=tolerance),
                identities=solutions.identities(linear, machines[0], tolerance=tolerance),
            )
            begin("Lagrangian")
            measured = measured._replace(
                kink=lagrangian.kink(linear, machines[0]),
                stationary=lagrangian.stationary(linear, primal, machines[0], for_lagrangian, draws=draws),
                product=lagrangian.product(for_product, 10 * draws),
            )
            begin("the recipe")
            measured = measured._replace(
                recipe=lagrangian.recipe(linear, machines[0], steps=steps, overshoot=overshoot, tolerance=tolerance)
            )
            complete = True
    except KeyboardInterrupt:
        common.console.print("interrupted")
        raise
    finally:
        verdicts = svm_primal_dual_verdicts.judge(measured, relative_gap=relative_gap, tolerance=tolerance)
        _report(folder, cases, machines, measured, verdicts, settings, complete=complete)
    return verdicts


def _drawn(
    draw: Callable[[np.random.RandomState, int], Problem], points: int, fresh_points: int, seed: tuple[int, int]
) -> tuple[Problem, Problem]:
    """To train with and to predict, from two streams of a seed."""
    train, fresh = (np.random.RandomState([*seed, part]) for part in (0, 1))
    return floating(draw(train, points)), floating(draw(fresh, fresh_points))


def _report(
    folder: Path,
    cases: list[Case],
    machines: list[svm.SupportVectorMachine],
    measured: Measured,
    verdicts: list[common.Verdict],
    settings: dict[str, Any],
    *,
    complete: bool,
) -> None:
    """Tables, figure and results of what is finished."""
    if measured.closings:
        rows = []
        for case, machine, closing in zip(cases, machines, measured.closings, strict=True):
            alpha = np.asarray(machine.alpha)
            counts = [
                int(np.sum(alpha <= 0)),
                int(np.sum((alpha > 0) & (alpha < case.c))),
                int(sum(alpha >= case.c)),
            ]
            numbers = [f"{len(alpha)}", f"{case.c:g}", *map(str, counts), f"{closing.optimum:.6f}"]
            ends = [f"{closing.iterations[-1]:,}", f"{closing.gap:.0e}", f"{int(machine.iterations):,}"]
            rows.append([case.name, *numbers, *ends, f"{float(machine.gap) / closing.optimum:.0e}"])
        head = ["kernel", "points", "C", "α = 0", "between", "α = C", "optimum", "steps", "to a gap of", "steps", "to"]
        common.table("Solutions", head, rows)
    if len(measured.closings) == 2:
        with jax.enable_x64(True):
            figure = svm_primal_dual_figures.draw(cases, machines, measured)
        common.save_figure(figure, folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {
        "complete": complete,
        "settings": settings,
        "verdicts": [verdict._asdict() for verdict in verdicts],
        "measured": _plain(measured),
    }
    common.write_json(folder / RESULTS, content)
    common.console.print(f"written to {folder}", markup=False)


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, arrays as lists."""
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


if __name__ == "__main__":
    common.main(define_flags, run)
