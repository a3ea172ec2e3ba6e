"""How long does a support vector machine take to fit, beside libsvm, and is it the same machine?

scikit-learn's `SVC` is libsvm (C. Chang and C. Lin, 2011). Where it is installed, both fit the same points in turn, in
one process and in float64, to the same tolerance of the KKT conditions, libsvm with its defaults (shrinking, 200 MB of
cache): medians of times after compilation, dual objectives, support vectors. Where it is not, there are our times alone
and nothing is compared. Objectives of both are computed in NumPy, from the coefficients.

Then a grid over C and γ, ours in one call of `jax.vmap`, libsvm's in a loop. And with --large_points a fit whose Gram
matrix would not fit, each solver in a process of its own whose peak memory is measured, interpreter and libraries
included.

libsvm runs on one core. JAX uses all there are for products of matrices, such as the Gram matrix; its steps run on one.

Expected: objectives within 1e-5 relative; support vectors of one alone lie on the margin, within ten tolerances; at
most twice libsvm's time on 1,800 and 4,000 points with the RBF kernel; the grid in less time than libsvm's loop;
20,000 points within 1 GiB.

    python -m experiments.benchmark_svm --flagfile=configs/benchmark_svm.flags

`configs/benchmark_svm_all.flags` includes the 20,000 points. Ctrl-C leaves what is finished.
"""

import functools
import importlib
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import benchmark_svm_figures, common, measure, svm_problems
from experiments.benchmark_svm_cases import CASES, bound_kernel, dual_objective, gram, installed, planned, svc
from experiments.benchmark_svm_verdicts import LIBSVM, OBJECTIVE, OURS, ROUNDS, Grid, Large, Row, judge
from experiments.svm_problems import Problem
from fundamentals import svm
from fundamentals.base import Array

RESULTS, FIGURE = FILES = ("results.json", "benchmark_svm.png")


class Fit(NamedTuple):
    """What a solver found."""

    alpha: np.ndarray  # [N]
    objective: float  # dual, in NumPy
    support: int
    bias: float


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_list("problems", list(CASES), "What to fit; empty: nothing.", **options)
    flags.DEFINE_list("sizes", ["1800", "4000"], "Points where times are judged, ascending.", **options)
    flags.DEFINE_integer("points", 1000, "Of the other problems.", lower_bound=4, upper_bound=20_000, **options)
    flags.DEFINE_integer("grid_points", 1000, "Of the grid over C and γ; 0: none.", lower_bound=0, **options)
    flags.DEFINE_list("grid_cs", ["0.1", "1", "10", "100", "1000"], "C of the grid.", **options)
    flags.DEFINE_list("grid_gammas", ["0.01", "0.03", "0.1", "0.3", "1"], "γ of the grid.", **options)
    flags.DEFINE_integer("large_points", 0, "Of the fit whose memory is measured; 0: none.", lower_bound=0, **options)
    flags.DEFINE_float("tolerance", 1e-3, "Of the KKT conditions, for both.", **options)
    flags.DEFINE_bool("peers", True, "Compare with libsvm, if scikit-learn is installed.", **options)
    flags.DEFINE_integer("repeats", 15, "Most rounds of timing.", lower_bound=1, **options)
    flags.DEFINE_float(
        "seconds", 1.0, f"No round of a problem begins later, but for the first {ROUNDS}.", lower_bound=0.0, **options
    )
    flags.DEFINE_float("target_time", 2.0, "Time / libsvm's, at most; 0: not judged.", lower_bound=0.0, **options)
    flags.DEFINE_float("target_memory", 1.0, "GiB, at most; 0: not judged.", lower_bound=0.0, **options)
    flags.DEFINE_integer("seed", 0, "Of the points.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/benchmark_svm", "Where the table and the figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    flags.register_validator(
        "problems",
        lambda names: set(names) <= set(CASES),
        message=f"expected some of {', '.join(CASES)}",
        flag_values=flag_values,
    )
    flags.register_validator(
        "sizes", measure.are_ascending, message="expected ascending positive integers", flag_values=flag_values
    )
    for name in ("grid_cs", "grid_gammas"):
        flags.register_validator(name, _are_positive, message="expected positive numbers", flag_values=flag_values)
    flags.register_validator(
        "tolerance", lambda value: 0 < value < 1, message="expected a number between 0 and 1", flag_values=flag_values
    )


def _are_positive(values: Sequence[str]) -> bool:
    try:
        return bool(values) and all(0 < float(value) < math.inf for value in values)
    except ValueError:
        return False


def run(
    *,
    problems: Sequence[str],
    sizes: Sequence[str],
    points: int,
    grid_points: int,
    grid_cs: Sequence[str],
    grid_gammas: Sequence[str],
    large_points: int,
    tolerance: float,
    peers: bool,
    repeats: int,
    seconds: float,
    target_time: float,
    target_memory: float,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Fit, time, print, draw and judge."""
    settings = dict(locals())
    cs, gammas = ([float(value) for value in values] for values in (grid_cs, grid_gammas))
    chosen = planned(problems, [int(size) for size in sizes], points)
    if not (chosen or grid_points or large_points):
        raise common.UserError("nothing to do; expected --problems, --grid_points or --large_points")
    for flag, given in (("grid_points", grid_points), ("large_points", large_points), ("sizes", int(sizes[0]))):
        if 0 < given < 4:
            raise common.UserError(f"--{flag}={given}; expected 4 or more" + (", or 0" if flag != "sizes" else ""))
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    peers = peers and installed()
    solvers = [OURS] + [LIBSVM] * peers
    rows: list[Row] = []
    grid: Grid | None = None
    large: list[Large] = []
    complete = False
    verdicts: list[common.Verdict] = []
    try:
        with jax.enable_x64(True), common.interruptible(), common.progress() as bar:
            total = len(chosen) + bool(grid_points) + len(solvers) * bool(large_points)
            task = bar.add_task("fitting", total=total, note="")
            for name, n in chosen:
                bar.update(task, note=f"{name}, {n:,} points")
                rows.append(compare(name, n, tolerance, peers, repeats, seconds, seed))
                bar.advance(task)
            if grid_points:
                bar.update(task, note=f"a grid over C and γ, {grid_points:,} points")
                grid = compare_grid(grid_points, cs, gammas, tolerance, peers, repeats, seconds, seed)
                bar.advance(task)
            if large_points:
                for solver in solvers:
                    bar.update(task, note=f"{solver}, {large_points:,} points")
                    large.append(in_a_process(solver, large_points, tolerance, seed))
                    bar.advance(task)
            complete = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted: {len(rows)} of {len(chosen)} problems are finished")
        raise
    finally:
        verdicts = judge(rows, grid, large, tolerance=tolerance, target_time=target_time, target_memory=target_memory)
        report(folder, rows, grid, large, verdicts, peers=peers, complete=complete)
    return verdicts


def our_fit(machine: svm.SupportVectorMachine, problem: Problem, options: Mapping[str, Any]) -> Fit:
    """From the machine's support vectors and coefficients."""
    support, coefficients = np.asarray(machine.support), np.asarray(machine.coefficients)
    alpha = np.zeros(len(problem.y))
    alpha[support] = coefficients * problem.y[support]
    return Fit(alpha, dual_objective(alpha, problem, options), int(np.count_nonzero(alpha)), float(machine.bias))


def their_fit(machine: Any, problem: Problem, options: Mapping[str, Any]) -> Fit:
    """From scikit-learn's dual_coef_ and support_."""
    alpha = np.zeros(len(problem.y))
    alpha[machine.support_] = np.abs(machine.dual_coef_[0])
    return Fit(alpha, dual_objective(alpha, problem, options), len(machine.support_), float(machine.intercept_[0]))


def farthest_tie(fits: Sequence[Fit], problem: Problem, options: Mapping[str, Any]) -> tuple[int, float]:
    """Support vectors of one solver alone, and the largest distance of their y f from 1, by either."""
    ours, theirs = fits
    alone = np.flatnonzero((ours.alpha > 0) != (theirs.alpha > 0))
    if not len(alone):
        return 0, 0.0
    rows = gram(problem.x[alone], problem.x, options)
    margins = [problem.y[alone] * (rows @ (fit.alpha * problem.y) + fit.bias) for fit in fits]
    return len(alone), float(np.max(np.abs(np.stack(margins) - 1)))


def compare(name: str, n: int, tolerance: float, peers: bool, repeats: int, seconds: float, seed: int) -> Row:
    """Fit one problem with both, time them in turn."""
    case = CASES[name]
    problem = case.draw(np.random.RandomState(seed), n)
    kernel, options = bound_kernel(case, problem.x)
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    calls: dict[str, Callable[[], Any]] = {
        OURS: lambda: svm.fit_dual(x, y, kernel=kernel, c=case.c, tolerance=tolerance)
    }
    if peers:
        calls[LIBSVM] = lambda: svc(case.c, tolerance, options).fit(problem.x, problem.y)
    begin = time.perf_counter()
    machine = measure.finished(calls[OURS])
    first = time.perf_counter() - begin
    ours = our_fit(machine, problem, options)
    fits = {OURS: ours}
    differing = tie = None
    if peers:
        fits[LIBSVM] = their_fit(calls[LIBSVM](), problem, options)
        differing, tie = farthest_tie(list(fits.values()), problem, options)
    beyond = max(0.0, -float(ours.alpha.min()), float(ours.alpha.max()) - case.c) / case.c
    unbalanced = abs(float(ours.alpha @ problem.y)) / float(ours.alpha.sum())
    return Row(
        name,
        case.kernel,
        len(problem.y),
        problem.x.shape[1],
        case.c,
        case.timed,
        timed(calls, repeats, seconds),
        first,
        {solver: fit.objective for solver, fit in fits.items()},
        {solver: fit.support for solver, fit in fits.items()},
        differing,
        tie,
        max(beyond, unbalanced),
        abs(float(machine.dual) - ours.objective) / abs(ours.objective),
        bool(machine.converged),
        int(machine.iterations),
    )


def timed(calls: Mapping[str, Callable[[], Any]], repeats: int, seconds: float) -> dict[str, list[float]]:
    """The seconds of each call in each round: `ROUNDS` of them, and more while there is time."""
    first = min(ROUNDS, repeats)
    found = measure.in_turn(calls, first, math.inf)
    rest = measure.in_turn(calls, repeats - first, seconds - sum(map(sum, found.values())))
    return {solver: times + rest.get(solver, []) for solver, times in found.items()}


def compare_grid(
    n: int,
    cs: Sequence[float],
    gammas: Sequence[float],
    tolerance: float,
    peers: bool,
    repeats: int,
    seconds: float,
    seed: int,
) -> Grid:
    """A machine for each C and γ: one call of `vmap`, and a loop."""
    problem = svm_problems.interactions(np.random.RandomState(seed), n)
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def fit(x: Array, y: Array, c: Array, gamma: Array) -> tuple[Array, Array]:
        options: dict[str, Any] = {"gamma": gamma}
        machine = svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, **options), c=c, tolerance=tolerance)
        return machine.alpha, machine.converged

    whole = jax.jit(jax.vmap(jax.vmap(fit, (None, None, 0, None)), (None, None, None, 0)))
    pairs = [(c, {"kernel": "rbf", "gamma": gamma}) for gamma in gammas for c in cs]

    def loop() -> list[Any]:
        return [svc(c, tolerance, options).fit(problem.x, problem.y) for c, options in pairs]

    arguments = x, y, jnp.asarray(cs, x.dtype), jnp.asarray(gammas, x.dtype)
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: whole(*arguments)}
    if peers:
        calls[LIBSVM] = loop
    begin = time.perf_counter()
    alphas, converged = measure.finished(calls[OURS])
    first = time.perf_counter() - begin
    relative = None
    if peers:
        differences = []
        for alpha, machine, (_, options) in zip(np.asarray(alphas).reshape(-1, n), loop(), pairs, strict=True):
            theirs = their_fit(machine, problem, options).objective
            differences.append(abs(dual_objective(alpha, problem, options) - theirs) / abs(theirs))
        relative = float(np.max(differences))
    times = timed(calls, repeats, seconds)
    return Grid(n, len(pairs), times, first, relative, bool(np.asarray(converged).all()))


def in_a_process(solver: str, n: int, tolerance: float, seed: int) -> Large:
    """Fit in a process of its own; the objective here."""
    case = CASES["interactions"]
    problem = case.draw(np.random.RandomState(seed), n)
    _, options = bound_kernel(case, problem.x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alpha.npy"
        given = (solver, n, tolerance, seed, path.as_posix())
        code = f"from experiments import benchmark_svm; benchmark_svm.fit_alone{given!r}"
        root = Path(__file__).parents[1]
        finished = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(f"{solver} with {n:,} points: {finished.stderr.strip()[-2000:]}")
        measured = json.loads(finished.stdout.splitlines()[-1])
        alpha = np.load(path)
    objective = dual_objective(alpha, problem, options)
    return Large(solver, n, objective=objective, support=int(np.count_nonzero(alpha)), **measured)


def fit_alone(solver: str, n: int, tolerance: float, seed: int, path: str) -> None:
    """In the process of its own: fit twice, write α to a file, print times and memory as JSON."""
    case = CASES["interactions"]
    problem = case.draw(np.random.RandomState(seed), n)
    kernel, options = bound_kernel(case, problem.x)
    with jax.enable_x64(True):
        x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
        fit: Callable[[], Any] = functools.partial(svm.fit_dual, x, y, kernel=kernel, c=case.c, tolerance=tolerance)
        if solver == LIBSVM:
            fit = functools.partial(svc(case.c, tolerance, options).fit, problem.x, problem.y)
        before, times = peak_bytes(), []
        for _ in range(2):
            begin = time.perf_counter()
            machine = measure.finished(fit)
            times.append(time.perf_counter() - begin)
        used = peak_bytes()
    alpha = np.zeros(n)
    if solver == LIBSVM:
        alpha[machine.support_] = np.abs(machine.dual_coef_[0])
    else:
        alpha[:] = machine.alpha
    np.save(path, alpha)
    record = {"seconds": times[1], "first": times[0], "peak_bytes": used, "before_bytes": before}
    print(json.dumps(record | {"converged": solver == LIBSVM or bool(machine.converged)}))


def peak_bytes() -> int:
    """The most memory that this process had in use at any time."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage's number begins with what the parent had in use
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    resource = importlib.import_module("resource")  # macOS; not on Windows
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def report(
    folder: Path,
    rows: Sequence[Row],
    grid: Grid | None,
    large: Sequence[Large],
    verdicts: Sequence[common.Verdict],
    *,
    peers: bool,
    complete: bool,
) -> None:
    """Tables, figure and results of what is finished."""
    if rows:
        _print_rows(rows)
        common.save_figure(benchmark_svm_figures.draw(rows, OBJECTIVE), folder / FIGURE)
    if grid:
        common.table(
            f"C × γ = {grid.fits} fits, {grid.points:,} points",
            ["first call", "one call of vmap", "libsvm, a loop", "ratio"],
            [
                [measure.time_text([grid.first]), measure.time_text(grid.seconds.get(OURS, [])),
                 measure.time_text(grid.seconds.get(LIBSVM, [])), measure.ratio_text(grid.ratio)]
            ],
        )  # fmt: skip
    if large:
        common.table(
            f"{large[0].points:,} points, each solver in a process of its own",
            ["solver", "first fit", "second fit", "peak memory", "before the fit", "support vectors"],
            [
                [fit.solver, measure.time_text([fit.first]), measure.time_text([fit.seconds]),
                 measure.bytes_text(fit.peak_bytes), measure.bytes_text(fit.before_bytes), f"{fit.support:,}"]
                for fit in large
            ],
        )  # fmt: skip
    if verdicts:
        common.print_verdicts(verdicts)
    if not peers:
        why = "" if installed() else ": scikit-learn is not installed (pip install scikit-learn)"
        common.console.print(f"not compared with libsvm, nor judged beside it{why}", markup=False)
    few = [
        f"{name}, {points:,}"
        for name, points, seconds in (
            *((row.name, row.points, row.seconds) for row in rows if row.timed),
            *([("the grid", grid.points, grid.seconds)] if grid else []),
        )
        if peers and len(seconds.get(OURS, [])) < ROUNDS
    ]
    if few:
        common.console.print(f"times not judged, fewer than {ROUNDS} rounds: {'; '.join(few)}")
    content = {
        "complete": complete,
        "peers": peers,
        "rows": [row._asdict() | {"relative": row.relative, "ratio": row.ratio} for row in rows],
        "grid": grid._asdict() | {"ratio": grid.ratio} if grid else None,
        "large": [fit._asdict() for fit in large],
        "verdicts": [verdict._asdict() for verdict in verdicts],
    }
    common.write_json(folder / RESULTS, content)
    common.console.print(f"written to {folder}", markup=False)


def _print_rows(rows: Sequence[Row]) -> None:
    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.0e}"

    def counted(number: int | None) -> str:
        return "–" if number is None else f"{number:,}"

    common.table(
        "Times of a fit, median over rounds; support vectors: ours, libsvm's, of one alone",
        ["problem", "kernel", "points", "C", "first", "ours", "libsvm", "ratio", "objective", "support vectors"],
        [
            [
                row.name,
                row.kernel,
                f"{row.points:,}",
                f"{row.c:g}",
                measure.time_text([row.first]),
                measure.time_text(row.seconds.get(OURS, [])),
                measure.time_text(row.seconds.get(LIBSVM, [])),
                measure.ratio_text(row.ratio),
                text(row.relative),
                ", ".join(
                    "–" if n is None else f"{n:,}" for n in (row.support[OURS], row.support.get(LIBSVM), row.differing)
                ),
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    common.main(define_flags, run)
