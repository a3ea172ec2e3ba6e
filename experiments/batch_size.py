"""What does the size n of a minibatch change: the noise of its gradient, the learning rate η, the passes over the data?

An MLP on the digits in the box, N of them, drawn n at a time. Measured at fixed parameters: the mean squared deviation
of a minibatch's gradient from the full one. In training: epochs, and time, until the loss of all examples is at a
target, over a grid of n and η. Without noise (n = N): whether the loss rises in a step, and the sharpness λ at every
step, the largest eigenvalue of the Hessian, by power iterations.

Expected, with σ² the mean square of one example's deviation, computed from the gradients of all N:
  noise σ²/n with replacement, σ²/n · (N − n)/(N − 1) without;
  of a sum, η/n gives the same training as η of a mean; at another n, that η/n does not;
  far below the limits of η, noise averages out and all n follow one path, the gradient flow: η · steps is the same;
  the best η is η_max / (1 + B/n) (McCandlish et al., An Empirical Model of Large-Batch Training, 2018): it grows at
    most as n, up to a limit, so that small n need fewer epochs;
  as long as η < 2/λ a full batch's loss falls in every step; at the same η, a minibatch's now and then rises.

That η < 2/λ bounds the best η is exact for a quadratic loss only, whose λ is constant. Of this network λ at the start
does not bound it: a step that is too long there moves to where λ is smaller, and the best η is above 2/λ of the start.
Judged is λ where training reaches the target. Gradient descent with a long step hovers about η λ = 2 (Cohen et al.,
Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, 2021), and the best η is known to half a
step of the grid: so η λ is predicted to be at most 2, times the root of the ratio of neighbours in the grid.

    python -m experiments.batch_size --flagfile=configs/batch_size.flags

Time to the target is that of an epoch of one network, the median over rounds in turn, times the epochs. Ctrl-C leaves
what is finished.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import batch_size_figures, batch_size_verdicts, common, measure, minibatches
from experiments.batch_size_verdicts import Cells, Descent, Measured, Noise, Sums
from experiments.minibatches import Examples
from fundamentals import data, optimizers
from fundamentals.models import mlp

RESULTS, FIGURE = FILES = ("results.json", "batch_size.png")
PARTS = 4  # of an epoch, at whose ends the loss is looked at
PATIENCE = 10  # epochs; a network whose loss was no lower in so many than in as many before is given up
SUM_STEPS, SUM_ETA = 50, 0.1  # of the comparison of sum and mean; stable also at three times this η
SUM_SIZES = 24, 72  # no powers of two, by which a division is exact: sum and mean would be the same to the last bit


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("examples", 1024, "N, the digits to train with; at most 1258.", lower_bound=2, **options)
    flags.DEFINE_list(
        "batch_sizes", ["1", "4", "16", "64", "256", "1024"], "n, ascending divisors of N; the last is N.", **options
    )
    etas = [f"{2.0**k:g}" for k in range(-6, 3)]
    flags.DEFINE_list("learning_rates", etas, "η, ascending.", **options)
    flags.DEFINE_list("hidden_sizes", ["32"], "Units of each hidden layer, with tanh; empty for none.", **options)
    flags.DEFINE_enum("optimizer", "sgd", list(minibatches.METHODS), "That trains. Theory is of sgd.", **options)
    flags.DEFINE_float("target", 0.1, "Loss of all examples to reach.", lower_bound=0.0, **options)
    flags.DEFINE_integer("epochs", 100, "Most passes over the examples.", lower_bound=1, **options)
    flags.DEFINE_integer("seeds", 3, "Networks at each n and η.", lower_bound=1, **options)
    flags.DEFINE_integer("draws", 500, "Minibatches of each n, to measure their noise.", lower_bound=10, **options)
    flags.DEFINE_integer("steps", 80, "Of the runs whose every step is looked at.", lower_bound=1, **options)
    flags.DEFINE_integer("repeats", 7, "Most rounds to time.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of parameters and draws.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/batch_size", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def are_sizes(values: Sequence[str]) -> bool:
        return all(value.isascii() and value.isdecimal() and int(value) > 0 for value in values)

    def are_rates(values: Sequence[str]) -> bool:
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return False
        return bool(numbers) and numbers == sorted(set(numbers)) and numbers[0] > 0 and math.isfinite(numbers[-1])

    for name, check, expected in (
        ("batch_sizes", measure.are_ascending, "ascending positive integers"),
        ("learning_rates", are_rates, "ascending positive numbers"),
        ("hidden_sizes", are_sizes, "positive integers"),
    ):
        flags.register_validator(name, check, message=f"expected {expected}", flag_values=flag_values)


class Problem(NamedTuple):
    """What all parts of the experiment share."""

    params: mlp.Params  # [S, …], networks at the start
    inputs: np.ndarray  # [N, D]
    labels: np.ndarray  # [N]
    widths: tuple[int, ...]  # of the network's layers
    sizes: list[int]  # n
    etas: np.ndarray  # [E]
    keys: tuple[jax.Array, jax.Array, jax.Array]  # of the orders of training, of draws, of eigenvectors

    def examples(self, dtype: Any) -> Examples:
        """In a dtype."""
        return Examples(jnp.asarray(self.inputs, dtype), jnp.asarray(self.labels))


def run(
    *,
    examples: int,
    batch_sizes: Sequence[str],
    learning_rates: Sequence[str],
    hidden_sizes: Sequence[str],
    optimizer: str,
    target: float,
    epochs: int,
    seeds: int,
    draws: int,
    steps: int,
    repeats: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw, judge."""
    settings = dict(locals())
    with common.user_errors():
        problem = _problem(examples, [*map(int, batch_sizes)], learning_rates, hidden_sizes, seeds, seed)
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    measured = Measured(problem.sizes, problem.etas, target, epochs, optimizer)
    complete = False
    precise = jax.default_matmul_precision("highest")
    try:
        with precise, common.interruptible(), common.progress() as bar:
            task = bar.add_task("", total=len(problem.sizes) + 4, note="")

            def begin(what: str) -> None:
                bar.update(task, description=what, note="")

            begin("noise")
            with jax.enable_x64(True):
                measured = measured._replace(noise=measure_noise(problem, draws))
                bar.advance(task)
                begin("sum and mean")
                measured = measured._replace(sums=compare_sum_and_mean(problem))
            bar.advance(task)
            begin("every step")
            measured = measured._replace(descent=follow(problem, steps))
            bar.advance(task)
            for n in problem.sizes:
                begin(f"training, n = {n}")
                note = functools.partial(bar.update, task)
                cells = reach(problem, optimizer, n, target=target, epochs=epochs, note=note)
                measured = measured._replace(cells=[*measured.cells, cells])
                bar.advance(task)
            begin("timing")
            measured = measured._replace(seconds=time_epochs(problem, optimizer, repeats))
            complete = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted: training complete for {len(measured.cells)} of {len(problem.sizes)} n")
        raise
    finally:
        verdicts = batch_size_verdicts.judge(measured)
        _report(folder, measured, verdicts, settings, complete=complete)
    return verdicts


def _problem(
    examples: int, sizes: list[int], learning_rates: Sequence[str], hidden_sizes: Sequence[str], seeds: int, seed: int
) -> Problem:
    train = data.digits().train
    if examples > len(train.labels):
        raise ValueError(f"--examples={examples} is more than the {len(train.labels)} training digits")
    listed = ",".join(map(str, sizes))
    if sizes[-1] != examples or any(examples % n for n in sizes) or len(sizes) < 2:
        raise ValueError(
            f"--batch_sizes={listed}; expected at least two divisors of --examples={examples}, it the last"
        )
    inputs = train.inputs[:examples].reshape(examples, -1)
    widths = (inputs.shape[1], *map(int, hidden_sizes), 1 + int(train.labels.max()))
    etas = np.array([float(eta) for eta in learning_rates])
    params_key, *keys = jax.random.split(jax.random.key(seed), 4)  # one seed, named keys
    params = minibatches.networks(jax.random.split(params_key, seeds), sizes=widths)
    order_key, draw_key, v_key = keys
    return Problem(params, inputs, train.labels[:examples], widths, sizes, etas, (order_key, draw_key, v_key))


def _network_in_float64(problem: Problem) -> mlp.Params:
    """The first of the networks that are trained."""
    params: mlp.Params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p)[0], jnp.float64), problem.params)
    return params


def measure_noise(problem: Problem, draws: int) -> list[Noise]:
    """Both ways to draw, at every n, in float64."""
    _, draw_key, _ = problem.keys
    params = _network_in_float64(problem)
    examples = problem.examples(jnp.float64)
    variance, full = minibatches.noise_level(params, examples)
    result = []
    for index, n in enumerate(problem.sizes):
        key = jax.random.fold_in(draw_key, index)
        for replace, way in zip((True, False), jax.random.split(key), strict=True):
            batches = minibatches.drawn(way, draws=draws, n=n, total=len(problem.labels), replace=replace)
            found = np.asarray(minibatches.squared_deviations(params, examples, full, batches))
            error = float(found.std(ddof=1) / math.sqrt(draws))
            result.append(Noise(n, replace, float(found.mean()), error, float(variance), len(problem.labels)))
    return result


def compare_sum_and_mean(problem: Problem) -> Sums:
    """Two pairs of trainings, at two sizes, with one η of the sum; in float64."""
    _, draw_key, _ = problem.keys
    params = _network_in_float64(problem)
    examples = problem.examples(jnp.float64)
    n, larger = SUM_SIZES
    indices = minibatches.drawn(draw_key, draws=SUM_STEPS, n=larger, total=len(problem.labels), replace=True)

    def train(gradient: Callable[..., Any], eta: float, size: int) -> Any:
        return minibatches.trajectory(gradient, np.float64(eta), params, examples, indices[:, :size])

    def first_step(trajectory: Any) -> float:
        pairs = zip(jax.tree.leaves(trajectory), jax.tree.leaves(params), strict=True)
        return math.sqrt(sum(np.sum((np.asarray(after)[0] - np.asarray(before)) ** 2) for after, before in pairs))

    means = [train(minibatches.mean_gradient, SUM_ETA, size) for size in (n, larger)]
    sums = [train(minibatches.summed_gradient, SUM_ETA / n, size) for size in (n, larger)]
    apart, larger_apart = (measure.relative_difference(*pair) for pair in zip(sums, means, strict=True))
    return Sums(n, larger, SUM_STEPS, apart, larger_apart, first_step(sums[1]) / first_step(means[1]))


def follow(problem: Problem, steps: int) -> Descent:
    """Every step of gradient descent with all examples, and of one with few at an η that is stable without noise."""
    order_key, _, v_key = problem.keys
    examples, total = problem.examples(jnp.float32), len(problem.labels)
    params = problem.params
    v, at_start = minibatches.sharpness(params, v_key, examples)
    at_start = np.asarray(at_start)
    # Far below 2/λ there is nothing to see, and far above, the network is thrown out at once.
    near = problem.etas * at_start.max()
    etas = problem.etas[(near > 0.5) & (near < 12)]
    everything = jnp.broadcast_to(jnp.arange(total), (steps, total))
    losses, curvatures = minibatches.descend(params, v, jnp.asarray(etas, jnp.float32), examples, everything, full=True)
    found = Descent(etas, at_start, np.asarray(losses), np.asarray(curvatures))
    if found.stable_eta is None:
        return found
    n = problem.sizes[(len(problem.sizes) - 1) // 2]
    batches = minibatches.drawn(order_key, draws=steps, n=n, total=total, replace=False)
    eta = jnp.asarray(etas[[found.stable_eta]], jnp.float32)
    noisy, _ = minibatches.descend(params, v, eta, examples, batches, full=False)
    return found._replace(few=n, few_losses=np.asarray(noisy)[:, 0])


def reach(
    problem: Problem,
    optimizer: str,
    n: int,
    *,
    target: float,
    epochs: int,
    note: Callable[..., None],
) -> Cells:
    """Train with every η until each network reached the target or was given up, or the epochs are over."""
    order_key, _, v_key = problem.keys
    examples, total = problem.examples(jnp.float32), len(problem.labels)
    etas = jnp.asarray(problem.etas, jnp.float32)
    params, seeds = problem.params, len(problem.params[0].w)
    lanes = minibatches.start(params, etas, method=optimizer)
    at_start = np.asarray(minibatches.losses(params, examples))
    parts = math.gcd(PARTS, total // n)
    losses: list[np.ndarray] = []
    given_up = np.zeros((seeds, len(etas)), bool)
    for epoch in range(epochs):
        key = jax.random.fold_in(order_key, epoch)  # the same order at every n and η
        order = minibatches.drawn(key, draws=seeds, n=total, total=total, replace=False).reshape(seeds, parts, -1)
        for part in range(parts):
            arguments = lanes, etas, examples, order[:, part], jnp.float32(target)
            lanes, now = minibatches.train(*arguments, method=optimizer, n=n)
            losses.append(np.asarray(now))
        reached = np.asarray(lanes.reached)
        given_up |= stuck(np.array(losses), PATIENCE * parts)
        note(note=f"epoch {epoch + 1}, {reached.sum()} of {reached.size} at the target")
        if (reached | given_up).all():
            break
    history = np.array(losses)
    found = minibatches.first_below(history, target, parts)
    diverged = np.isinf(found) & ~(history[-1] < at_start[:, None])
    cells = Cells(n, found, diverged, parts, np.full(seeds, np.nan))
    if (best := cells.best) is None:
        return cells
    _, curvature = minibatches.sharpness(
        jax.tree.map(lambda p: np.asarray(p)[:, best], lanes.at_target), v_key, examples
    )
    return cells._replace(sharpness=np.where(np.isfinite(found[:, best]), np.asarray(curvature), np.nan))


def stuck(losses: np.ndarray, patience: int) -> np.ndarray:
    """Whether the lowest of the last losses, of [evaluations, …], is not below that of as many before; or no number."""
    last: np.ndarray = ~np.isfinite(losses[-1])
    if len(losses) < 2 * patience:
        return last
    now, before = losses[-patience:].min(axis=0), losses[-2 * patience : -patience].min(axis=0)
    result: np.ndarray = last | ~(now < before)
    return result


def time_epochs(problem: Problem, optimizer: str, repeats: int) -> dict[int, float]:
    """Seconds of an epoch of one network at each n."""
    order_key, _, _ = problem.keys
    examples = problem.examples(jnp.float32)
    eta = jnp.float32(problem.etas[0])  # small: it stays finite
    params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p)[0]), problem.params)
    states = getattr(optimizers, optimizer)(eta).init(params)
    order = minibatches.drawn(order_key, draws=1, n=len(problem.labels), total=len(problem.labels), replace=False)[0]
    calls = {
        str(n): functools.partial(minibatches.epoch_of_one, params, states, eta, examples, order, method=optimizer, n=n)
        for n in problem.sizes
    }
    for call in calls.values():
        measure.finished(call)  # compiles
    times = measure.in_turn(calls, repeats, math.inf)
    return {int(n): float(np.median(seconds)) for n, seconds in times.items()}


def _report(
    folder: Path, measured: Measured, verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, results and figure of what is finished."""
    batch_size_verdicts.print_tables(measured)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {"complete": complete, "settings": settings} | measured.as_json()
    common.write_json(folder / RESULTS, content | {"verdicts": [v._asdict() for v in verdicts]})
    if measured.noise:
        common.save_figure(batch_size_figures.draw(measured), folder / FIGURE)
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
