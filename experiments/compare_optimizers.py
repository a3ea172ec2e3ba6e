"""How do the optimizers of the notes differ, and do they do what theory says?

Each method descends on functions of two variables (`landscapes`), on a regression whose features are rare, and trains
an MLP on the digits. Its learning rate is the best of one grid for all methods, 10^(k/4) from 1e-4 to 10 by default:
the one that needs fewest iterations until the loss has fallen to its goal and stays there. All else is as the library
has it, β = 0.9. Where gradients are noisy, the loss is the mean of some runs. A ravine along the axes is easier than
others for adaptive methods, whose steps have a size for each axis: therefore the turned one. Off quadratics, a few
iterations may be the luck of one large step: look at the paths.

Expected: what the notes say, in closed form, for gradient descent, momentum and adaptive methods on quadratics and a
saddle (`compare_optimizers_claims`, `compare_optimizers_steps`); and, where features are as rare as words, p = 1/i,
that AdaGrad and Adam need fewer iterations than gradient descent. That can't be faster than with exact gradients, where
the error of each weight is multiplied by 1 − ηp: a bound for every η. Where all features are equally frequent, they do
not gain. One claim does not hold as it stands in the notes, that noise makes gradient descent move most where curvature
is high: `compare_optimizers_steps.stationary` says what does.

    python -m experiments.compare_optimizers --flagfile=configs/compare_optimizers.flags

Ctrl-C leaves what is finished.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from experiments import compare_optimizers_claims as claims
from experiments import compare_optimizers_figures as drawing
from experiments import compare_optimizers_problems as problems_of
from experiments import compare_optimizers_steps as steps_of
from experiments.compare_optimizers_problems import EVEN, FUNCTIONS, SPARSE, Problem
from experiments.landscapes import Landscape, landscapes
from fundamentals import optimizers
from fundamentals.base import Array

RESULTS, FIGURE = FILES = ("results.json", "compare_optimizers.png")
METHODS: dict[str, Callable[[Array], optimizers.Optimizer]] = {
    "sgd": lambda rate: optimizers.sgd(rate),
    "momentum": lambda rate: optimizers.momentum(rate),
    "nesterov": lambda rate: optimizers.momentum(rate, nesterov=True),
    "adagrad": lambda rate: optimizers.adagrad(rate),
    "adadelta": lambda rate: optimizers.adadelta(rate),
    "rmsprop": lambda rate: optimizers.rmsprop(rate),
    "adam": lambda rate: optimizers.adam(rate),
    "adamw": lambda rate: optimizers.adamw(rate),
}


class Score(NamedTuple):
    """How one method did on one function at the best learning rate of the grid."""

    method: str
    function: str
    iterations: float  # until the loss is at the goal and stays there; NaN where it never does
    rate: float
    at_edge: bool  # the best rate is the least or the largest of the grid
    losses: list[float]  # the mean over runs, at each look


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1} | options
    flags.DEFINE_list("methods", list(METHODS), "What is compared.", **options)
    flags.DEFINE_list("functions", list(FUNCTIONS), "On what; none: only the claims are measured.", **options)
    flags.DEFINE_float("kappa", 100.0, "Condition number of the ravines.", lower_bound=2.0, upper_bound=1e6, **options)
    flags.DEFINE_list("kappas", ["10", "30", "100", "300", "1000"], "Where growth with κ is measured.", **options)
    flags.DEFINE_float(
        "tolerance", 1e-4, "Of f − its minimum, relative to the start's.", lower_bound=1e-6, upper_bound=0.5, **options
    )
    flags.DEFINE_float("lowest_rate", 1e-4, "Of the grid of learning rates.", lower_bound=1e-12, **options)
    flags.DEFINE_float("highest_rate", 10.0, "Of the grid of learning rates.", lower_bound=1e-12, **options)
    flags.DEFINE_integer("rates_per_decade", 4, "Of the grid of learning rates.", **positive)
    flags.DEFINE_integer("steps", 3000, "At most, on functions of two variables.", **positive)
    flags.DEFINE_integer("sparse_steps", 600, "At most, in the regressions.", **positive)
    flags.DEFINE_integer("epochs", 5, "Of training on the digits.", **positive)
    flags.DEFINE_integer("runs", 8, "Of the noisy ones, averaged.", **positive)
    flags.DEFINE_integer("samples", 10_000, "Runs of what is measured of noise.", lower_bound=500, **options)
    flags.DEFINE_integer("seed", 0, "Of all that is random.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/compare_optimizers", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def are_conditions(values: Sequence[str]) -> bool:
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return False
        ascending = all(a < b for a, b in itertools.pairwise(numbers))
        return len(numbers) >= 2 and ascending and numbers[0] >= 2 and numbers[-1] <= 1e4

    for name, known in (("methods", METHODS), ("functions", FUNCTIONS)):
        flags.register_validator(
            name,
            lambda values, known=tuple(known): all(value in known for value in values),
            message=f"expected some of {', '.join(known)}",
            flag_values=flag_values,
        )
    expected = "expected two or more ascending numbers in 2 … 10000"
    flags.register_validator("kappas", are_conditions, message=expected, flag_values=flag_values)


def run(
    *,
    methods: Sequence[str],
    functions: Sequence[str],
    kappa: float,
    kappas: Sequence[str],
    tolerance: float,
    lowest_rate: float,
    highest_rate: float,
    rates_per_decade: int,
    steps: int,
    sparse_steps: int,
    epochs: int,
    runs: int,
    samples: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure the claims, compare, draw and judge."""
    settings = dict(locals())
    if not (math.isfinite(highest_rate) and highest_rate >= lowest_rate):
        raise common.UserError(f"--highest_rate={highest_rate:g}; expected at least --lowest_rate={lowest_rate:g}")
    methods, functions = list(dict.fromkeys(methods)), list(dict.fromkeys(functions))
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    rates = rate_grid(lowest_rate, highest_rate, rates_per_decade)
    noise_key, white_key, saddle_key, stationary_key, digits_key = jax.random.split(jax.random.key(seed), 5)
    places = landscapes(kappa)
    measurements: list[Callable[[], claims.Claim]] = [
        lambda: claims.stability(kappa),
        lambda: claims.scaling([float(k) for k in kappas]),
        claims.bookkeeping,
        claims.undamped,
        lambda: claims.normalizations(white_key, samples),
        lambda: steps_of.equalized(kappa),
        steps_of.rates,
        lambda: steps_of.bias_correction(kappa),
        lambda: steps_of.leaving_a_saddle(saddle_key, samples),
        lambda: steps_of.stationary(stationary_key, samples),
    ]
    verdicts: list[common.Verdict] = []
    curves: dict[str, np.ndarray] = {}
    scores: list[Score] = []
    paths: dict[tuple[str, str], np.ndarray] = {}
    complete = False
    try:
        with common.interruptible(), common.progress() as bar:
            task = bar.add_task("measuring claims", total=len(measurements) + len(methods) * len(functions), note="")
            for measure in measurements:
                claim = measure()
                verdicts += claim.verdicts
                curves |= claim.curves
                bar.advance(task)
            groups = [
                problems_of.landscape_problems(places, functions, noise_key, runs, steps, tolerance),
                problems_of.regressions(functions, seed, runs, sparse_steps),
                problems_of.digit_problems(functions, digits_key, epochs),
            ]
            bar.update(task, description="comparing")
            for method in methods:
                for problems in groups:
                    program = jax.jit(sweep(METHODS[method], next(iter(problems.values())))) if problems else None
                    for function, problem in problems.items():
                        assert program is not None
                        bar.update(task, note=f"{method} on {function}")
                        score, path = best(method, function, problem, program, rates)
                        scores.append(score)
                        paths[method, function] = path
                        bar.advance(task)
            complete = True
    finally:
        if scores:
            print_scores(scores, places, functions, rates)
            figure = drawing.comparison(places, scores, paths, curves)
            common.save_figure(figure, folder / FIGURE)
        if complete:
            verdicts += judge_sparse(scores, groups[1])
        if verdicts:
            common.print_verdicts(verdicts)
        content = {
            "complete": complete,
            "settings": settings,
            "learning_rates": rates.tolist(),
            "scores": [score._asdict() for score in scores],
            "curves": {name: curve.tolist() for name, curve in curves.items()},
            "verdicts": [v._asdict() for v in verdicts],
        }
        common.write_json(folder / RESULTS, content)
        common.console.print(f"written to {folder}" + ("" if complete else ": interrupted"), markup=False)
    return verdicts


def rate_grid(lowest: float, highest: float, per_decade: int) -> np.ndarray:
    """lowest · 10^(k / per_decade), up to the highest."""
    count = math.floor(per_decade * math.log10(highest / lowest) + 1e-9) + 1
    return lowest * 10.0 ** (np.arange(count) / per_decade)


def sweep(method: Callable[[Array], optimizers.Optimizer], problem: Problem) -> Callable[..., Array]:
    """A function of (setting, start, randomness, rates) to what is watched, [rates, runs, looks, …]: the loop."""

    def descend(setting: Any, start: Any, randomness: Any, rate: Array) -> Array:
        optimizer = method(rate)

        def step(carry: tuple[Any, Any], chance: Any) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            updates, state = optimizer.update(problem.gradient(setting, params, chance), state, params)
            return (optimizers.apply_updates(params, updates), state), None

        def look(carry: tuple[Any, Any], chances: Any) -> tuple[tuple[Any, Any], Array]:
            carry, _ = jax.lax.scan(step, carry, chances)
            return carry, problem.watch(setting, carry[0])

        watched: Array = jax.lax.scan(look, (start, optimizer.init(start)), randomness)[1]
        return watched

    return jax.vmap(jax.vmap(descend, (None, None, 0, None)), (None, None, None, 0))


def best(
    method: str, function: str, problem: Problem, program: Callable[..., Array], rates: np.ndarray
) -> tuple[Score, np.ndarray]:
    """The score at the rate that needs fewest iterations, and what was watched in the first run there."""
    descents = program(problem.setting, problem.start, problem.randomness, jnp.asarray(rates))
    watched = np.asarray(descents, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of what diverged
        losses = watched[..., 0].mean(1)
    every = jax.tree.leaves(problem.randomness)[0].shape[2]
    iterations = every * stays_below(losses, problem.goal)
    if np.isfinite(iterations).any():
        chosen = int(np.nanargmin(iterations))
    else:  # none came to the goal: the one that came nearest
        chosen = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf).min(1)))
    at_edge = chosen in (0, len(rates) - 1)
    score = Score(method, function, float(iterations[chosen]), float(rates[chosen]), at_edge, losses[chosen].tolist())
    return score, watched[chosen, 0]


def stays_below(values: np.ndarray, bound: float) -> np.ndarray:
    """For each row the step, from 1, from which on it is at or below the bound until the end; NaN where it is not."""
    ends_above = ~(values <= bound)[:, ::-1]
    last_above = np.where(ends_above.any(1), values.shape[1] - ends_above.argmax(1), 0)
    return np.where(last_above < values.shape[1], last_above + 1.0, np.nan)


def print_scores(
    scores: Sequence[Score], places: dict[str, Landscape], functions: Sequence[str], rates: np.ndarray
) -> None:
    """Iterations to the goal, a row a function, and the learning rates they need."""
    found = {(score.method, score.function): score for score in scores}
    columns = list(dict.fromkeys(score.method for score in scores))
    conditions = {name: f"{place.condition:.3g}" for name, place in places.items()}

    def table(title: str, show: Callable[[Score], str]) -> None:
        rows = []
        for name in functions:
            cells = [show(found[method, name]) if (method, name) in found else "" for method in columns]
            rows.append([name.replace("_", " "), conditions.get(name, ""), *cells])
        common.table(title, ["function", "κ", *columns], rows)

    grid = f"best of {len(rates)} rates, {rates[0]:.1e} … {rates[-1]:.1e}"
    table(
        f"Iterations until the loss is at its goal and stays there ({grid}; – never)",
        lambda s: f"{s.iterations:.0f}" if s.iterations > 0 else "–",
    )
    table(
        "Learning rate of that (* at an end of the grid)",
        lambda s: f"{s.rate:.2g}" + "*" * s.at_edge if s.iterations > 0 else "–",
    )


def judge_sparse(scores: Sequence[Score], regressions: dict[str, Problem]) -> list[common.Verdict]:
    """Claim 12, where its methods were compared."""
    verdicts = []
    for name in (SPARSE, EVEN):
        own = [score for score in scores if score.function == name]
        found = {score.method: math.inf if math.isnan(score.iterations) else score.iterations for score in own}
        if name not in regressions or not {"sgd", "adagrad", "adam"} <= set(found):
            continue
        sgd, adagrad, adam = found["sgd"], found["adagrad"], found["adam"]
        if name == SPARSE:
            p, weights = (np.asarray(a, np.float64) for a in regressions[name].setting)
            bound = problems_of.exact_bound(p, weights)
            what, expected = "rare and common features", f"< {sgd:.0f}; ≥ {bound:.0f}"
            holds = max(adagrad, adam) < sgd and sgd >= bound
        else:
            what, expected = "features equally frequent", f"≥ {sgd:.0f}"
            holds = min(adagrad, adam) >= sgd
        verdicts.append(
            common.Verdict(
                f"{what}, noisy gradients: iterations of AdaGrad, Adam; gradient descent at its best rate",
                f"{adagrad:.0f}, {adam:.0f}; {sgd:.0f}",
                expected,
                holds,
                "O14, claim 12",
            )
        )  # fmt: skip
    return verdicts


if __name__ == "__main__":
    common.main(define_flags, run)
