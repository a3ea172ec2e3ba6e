"""Does clipping the gradient do what a lower learning rate cannot?

A step of gradient descent is η‖∇L‖ long: the loss decides. `clip_by_global_norm(c)` bounds it by ηc and keeps its
direction; `clip_by_value` turns it. That is measured on the gradients of a recurrent network, and in every step below.

Then two losses, each at many rates, without clipping and with. A descent "reaches" its target if the loss is at most
that in all of the last tenth of its steps, and "lands" there if it does so after a jump: a step longer than all of the
parameters together at the start, on the cliff the distance to the minimum. If it is neither, it "diverges" if the loss
is not finite in that tenth or above that of the start; or "jumps"; or else "stalls".

1. A cliff, along a line: a plateau of slope s, a drop over a width W, a valley of the same slope. In N steps a rate
   below distance / (s N) does not leave the plateau. Any other steps onto the face of the cliff, where the gradient G
   is steep, and is thrown η G far; to come back at η s a step takes G / s steps, more than there are, at any rate. (A
   step lands so near to the edge that G is harmless with a probability of some N W² / (6 η H).) Above 2δ/s, δ the
   rounding of the bottom, no descent settles: it swings, s (η s / 2 − δ) above the minimum.
2. A recurrent network that has to tell the first symbol of a long sequence with noise, its recurrent matrix ρ times an
   orthogonal one, ρ = 2. In the linear part of tanh, gradients through k steps are then ρᵏ as large: they vanish for
   ρ < 1, explode for ρ > 1. Elsewhere ρᵏ is only a bound, as saturated units pass less.

Expected: without clipping no rate reaches the target, on either loss; with it, from every start some do. The notes say
that lower rates stall and higher ones diverge. Three things are to be added. "Stalls" is within a budget of steps. On
the recurrent network a few descents land by luck, at high rates, after a step that makes another network of it; no rate
does so from every start. And it takes gradients that explode: with --radius=1.5 some rates reach the target from some
starts, and there a lower rate does help, so that the verdict on the recurrent network fails.

    python -m experiments.gradient_clipping --flagfile=configs/gradient_clipping.flags

Ctrl-C leaves what is finished.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import clipping_problems, common, gradient_clipping_figures
from experiments.clipping_problems import Cliff, Trace

RESULTS, FIGURE = FILES = ("results.json", "gradient_clipping.png")
FREE, CLIPPED = "without", "with"
BOUND = 1e-5  # of relative differences, in float32
LINEAR = 1e-3  # of gradients through time from ρᵏ: the states are not quite 0


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    cliff_rates = ["0.01", "0.03", "0.1", "0.3", "1", "3", "10", "30", "100"]
    rnn_rates = ["0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1", "3", "10"]
    flags.DEFINE_list("cliff_rates", cliff_rates, "η on the cliff, ascending.", **options)
    flags.DEFINE_float("cliff_clip", 0.1, "c on the cliff.", **options)
    flags.DEFINE_float("cliff_target", 1e-4, "Loss to reach on the cliff.", **options)
    flags.DEFINE_integer("cliff_steps", 1000, "N, of each descent.", lower_bound=10, **options)
    flags.DEFINE_float("slope", 0.01, "s, of plateau and valley.", **options)
    flags.DEFINE_float("rounding", 0.02, "δ, of the bottom.", **options)
    flags.DEFINE_float("height", 100.0, "H, of the cliff.", **options)
    flags.DEFINE_float("width", 0.04, "W, of the cliff.", **options)
    flags.DEFINE_float("edge", -1.0, "Where the cliff begins; the minimum is at 0.", **options)
    flags.DEFINE_float("start", -2.2, "Where the descent begins.", **options)
    flags.DEFINE_list("rnn_rates", rnn_rates, "η of the recurrent network, ascending.", **options)
    flags.DEFINE_float("rnn_clip", 0.3, "c of the recurrent network.", **options)
    flags.DEFINE_float("rnn_target", 0.01, "Loss to reach, in nats.", **options)
    flags.DEFINE_integer("rnn_steps", 500, "Of each training, with all sequences.", lower_bound=10, **options)
    flags.DEFINE_float("radius", 2.0, "ρ, of the recurrent matrix.", **options)
    flags.DEFINE_list("radii", ["0.5", "0.9", "1", "1.1", "2"], "ρ to send gradients through, ascending.", **options)
    flags.DEFINE_integer("length", 50, "T, of the sequences.", lower_bound=2, **options)
    flags.DEFINE_integer("units", 16, "Of the recurrent network.", **positive)
    flags.DEFINE_integer("examples", 16, "Sequences.", **positive)
    flags.DEFINE_float("noise", 0.3, "Standard deviation of all that follows the symbol.", lower_bound=0, **options)
    flags.DEFINE_integer("starts", 5, "Networks, each with sequences of its own.", **positive)
    flags.DEFINE_integer("seed", 0, "Of networks and sequences.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/gradient_clipping", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    for name in ("cliff_rates", "rnn_rates", "radii"):
        flags.register_validator(name, _are_ascending, "expected ascending positive numbers", flag_values)


def _are_ascending(values: Sequence[str]) -> bool:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    return bool(numbers) and all(0 < a < math.inf for a in numbers) and numbers == sorted(set(numbers))


def run(
    *,
    cliff_rates: Sequence[str],
    cliff_clip: float,
    cliff_target: float,
    cliff_steps: int,
    slope: float,
    rounding: float,
    height: float,
    width: float,
    edge: float,
    start: float,
    rnn_rates: Sequence[str],
    rnn_clip: float,
    rnn_target: float,
    rnn_steps: int,
    radius: float,
    radii: Sequence[str],
    length: int,
    units: int,
    examples: int,
    noise: float,
    starts: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, descend, print, draw and judge."""
    settings = dict(locals())
    names = ["cliff_clip", "cliff_target", "slope", "rounding", "height", "width", "rnn_clip", "rnn_target", "radius"]
    for name in names:
        if not 0 < settings[name] < math.inf:
            raise common.UserError(f"--{name}={settings[name]}; expected a finite number > 0")
    if not -math.inf < start < edge < -width:
        raise common.UserError(f"--start={start}, --edge={edge}, --width={width}; expected start < edge < −width")
    if cliff_clip < slope:
        raise common.UserError(
            f"--cliff_clip={cliff_clip} is below --slope={slope}; expected one that spares the plateau"
        )
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    cliff = Cliff(slope, rounding, height, width, edge, start)
    rates = {"cliff": np.array(cliff_rates, float), "rnn": np.array(rnn_rates, float)}
    targets = {"cliff": cliff_target, "rnn": rnn_target}
    bounds = {"cliff": cliff_clip, "rnn": rnn_clip}
    task_key, time_key = jax.random.split(jax.random.key(seed))
    results: dict[str, Any] = {"complete": False, "settings": settings}
    traces: dict[tuple[str, str], Trace] = {}
    through_time: dict[str, np.ndarray] = {}
    norms: dict[str, np.ndarray] = {"cliff": np.array(abs(start))}
    verdicts: list[common.Verdict] = []
    try:
        with (
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            task = bar.add_task("clipping", total=6, note="single steps")
            make = functools.partial(
                clipping_problems.recall_task, length=length, units=units, examples=examples, noise=noise, radius=radius
            )
            tasks = jax.jit(jax.vmap(make))(jax.random.split(task_key, starts))
            norms["rnn"] = clipping_problems.parameter_norms(tasks)
            steps = clipping_problems.measure_steps(tasks, rates["rnn"], rnn_clip)
            results["steps"] = steps._asdict()
            verdicts += judge_steps(steps)
            bar.update(task, advance=1, note="gradients through time")
            rhos = np.array(radii, float)
            through_time = clipping_problems.gradients_through_time(time_key, rhos, length, units)
            results["through_time"] = {name: values.tolist() for name, values in through_time.items()}
            verdicts += judge_through_time(rhos, through_time)
            bar.advance(task)
            for where, max_norm in ((FREE, None), (CLIPPED, cliff_clip)):
                bar.update(task, note=f"cliff, {where} clipping")
                traces["cliff", where] = clipping_problems.descend_cliff(cliff, rates["cliff"], max_norm, cliff_steps)
                bar.advance(task)
            verdicts += judge_cliff(
                cliff, rates["cliff"], traces["cliff", FREE], traces["cliff", CLIPPED], cliff_target
            )
            for where, max_norm in ((FREE, None), (CLIPPED, rnn_clip)):
                bar.update(task, note=f"recurrent network, {where} clipping")
                traces["rnn", where] = clipping_problems.descend_rnn(tasks, rates["rnn"], max_norm, rnn_steps)
                bar.advance(task)
            verdicts.append(
                judge_claim_6("recurrent network", rates["rnn"], outcomes("rnn", traces, norms, rnn_target))
            )
            verdicts += judge_lengths(rates, bounds, traces)
            results["complete"] = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(traces)} of 4 groups of descents")
        raise
    finally:
        report(folder, cliff, rates, targets, norms, traces, through_time, verdicts, results)
    return verdicts


def outcomes(
    problem: str, traces: dict[tuple[str, str], Trace], norms: dict[str, np.ndarray], target: float
) -> dict[str, np.ndarray]:
    """What became of each descent on a problem, [..., rates], without clipping and with."""
    found = {}
    for where in (FREE, CLIPPED):
        if (problem, where) in traces:
            trace = traces[problem, where]
            longest = np.broadcast_to(norms[problem][..., None], trace.losses.shape[:-1])
            found[where] = np.empty(longest.shape, dtype="<U8")
            for i in np.ndindex(longest.shape):
                found[where][i] = clipping_problems.outcome(trace.losses[i], trace.lengths[i], longest[i], target)
    return found


def judge_steps(steps: clipping_problems.Steps) -> list[common.Verdict]:
    """Row O3: lengths and directions."""
    close = np.allclose(steps.by_value, steps.expected_by_value, rtol=1e-3, atol=0)
    return [
        common.Verdict("a step of gradient descent is η‖∇L‖ long: relative difference", f"{steps.length:.1e}",
                       f"≤ {BOUND:.0e}", steps.length <= BOUND, "O3"),
        common.Verdict("… and η min(‖∇L‖, c) if clipped by the norm", f"{steps.clipped:.1e}", f"≤ {BOUND:.0e}",
                       steps.clipped <= BOUND, "O3"),
        common.Verdict("clipping by the norm keeps the direction: angle", f"{steps.angle:.1e}°", f"≤ {BOUND:.0e}°",
                       steps.angle <= BOUND, "O3"),
        common.Verdict("clipping by the value turns it, by", _from_to(steps.by_value),
                       _from_to(steps.expected_by_value),
                       close and min(steps.by_value) > 1, "O3"),
    ]  # fmt: skip


def _from_to(angles: Sequence[float]) -> str:
    return f"{min(angles):.1f}° to {max(angles):.1f}°" if len(angles) > 1 else f"{angles[0]:.1f}°"


def judge_through_time(radii: np.ndarray, found: dict[str, np.ndarray]) -> list[common.Verdict]:
    """Claim 5: ρᵏ."""
    expected = radii[:, None] ** np.arange(found["linear"].shape[1])
    apart = float(np.max(np.abs(found["linear"] / expected - 1)))
    ends, k = found["linear"][:, -1], expected.shape[1] - 1
    sides = all((end < 1) == (radius < 1) for end, radius in zip(ends, radii, strict=True) if radius != 1)
    bounded = float(np.max((found["noise"] / expected)[:, 1:]))
    return [
        common.Verdict(
            f"gradients through {k} steps, ρ = {radii[0]:g} and {radii[-1]:g}, linear part of tanh: ρᵏ at every k",
            f"{ends[0]:.3g}, {ends[-1]:.3g}", f"{expected[0, -1]:.3g}, {expected[-1, -1]:.3g}",
            apart <= LINEAR and sides, "claim 5",
        ),
        common.Verdict(
            "with inputs of order 1: at most ρᵏ; the largest part of it", f"{bounded:.3g}", "≤ 1",
            bounded <= 1 + BOUND, "claim 5",
        ),
    ]  # fmt: skip


def judge_cliff(cliff: Cliff, rates: np.ndarray, free: Trace, clipped: Trace, target: float) -> list[common.Verdict]:
    """Claim 6 on the cliff, and why it holds there."""
    found = outcomes("cliff", {("cliff", FREE): free, ("cliff", CLIPPED): clipped}, {"cliff": np.array(-cliff.start)},
                     target)  # fmt: skip
    steps = free.losses.shape[-1]
    least = (cliff.edge - cliff.start) / (cliff.slope * steps)
    most = 2 * cliff.rounding / cliff.slope
    left = rates[np.any(free.positions > cliff.edge, axis=-1)]
    verdicts = [
        judge_claim_6("cliff", rates, found),
        common.Verdict(
            "the lowest of these rates that leaves the plateau in time", f"{min(left, default=math.nan):g}",
            f"first above {least:.3g}", list(left) == list(rates[rates > least]), "claim 6",
        ),
    ]  # fmt: skip
    middle = (rates > least) & (rates < most)
    if middle.any():  # the way back, in steps, of those that ought to be thrown
        back = free.gradients[middle].max(axis=-1) / cliff.slope
        verdicts.append(
            common.Verdict(
                "rates from there to 2δ/s are thrown: steps to come back, at least",
                f"{back.min():,.0f}", f"> {steps:,}", bool(back.min() > steps), "claim 6",
            )
        )  # fmt: skip
    swinging = np.flatnonzero(rates > most)
    if len(swinging):
        rate, loss = rates[swinging[0]], float(clipped.losses[swinging[0], -1])
        expected = cliff.slope * (rate * cliff.slope / 2 - cliff.rounding)
        verdicts.append(
            common.Verdict(
                f"clipped or not, above η = {most:g} it swings: at η = {rate:g}, the loss stays at", f"{loss:.2e}",
                f"{expected:.2e}", abs(loss / expected - 1) <= 0.05, "O3",
            )
        )  # fmt: skip
    return verdicts


def judge_claim_6(problem: str, rates: np.ndarray, found: dict[str, np.ndarray]) -> common.Verdict:
    """Without clipping no descent reaches the target, nor does a rate land from all starts; with it each start has one.

    Args:
      problem: its name.
      rates: η.
      found: outcomes [starts, rates] or [rates], without clipping and with.
    """
    free, clipped = (np.atleast_2d(found[where]) for where in (FREE, CLIPPED))
    reaching, landing, reached = free == "reaches", free == "lands", clipped == "reaches"
    starts = int(reached.any(axis=1).sum())
    best = f", most at η = {rates[np.argmax(reached.sum(axis=0))]:g}" if starts else ""
    return common.Verdict(
        f"{problem}: descents that reach the target without clipping ({landing.sum()} of {free.size} land by a jump); "
        "starts from which some rate does with it",
        f"{reaching.sum()}; {starts}{best}", f"0; {len(free)}",
        not reaching.any() and not landing.all(axis=0).any() and starts == len(free), "claim 6",
    )  # fmt: skip


def judge_lengths(
    rates: dict[str, np.ndarray], bounds: dict[str, float], traces: dict[tuple[str, str], Trace]
) -> list[common.Verdict]:
    """Row O3 and claim 5, in all steps of all descents."""
    apart, above, longest = 0.0, 0.0, 0.0
    for (problem, where), trace in traces.items():
        rate, bound = rates[problem][:, None], bounds[problem]
        if where == CLIPPED:
            above = max(above, float(np.max(trace.lengths / (rate * bound))))
        else:
            finite = np.isfinite(trace.gradients) & np.isfinite(trace.lengths) & (trace.gradients > 0)
            expected = (rate * trace.gradients)[finite]
            apart = max(apart, float(np.max(np.abs(trace.lengths[finite] / expected - 1), initial=0)))
            longest = max(longest, float(np.max((trace.lengths / (rate * bound))[finite], initial=0)))
    return [
        common.Verdict("all steps of all descents without clipping are η‖∇L‖ long: relative difference",
                       f"{apart:.1e}", f"≤ {BOUND:.0e}", apart <= BOUND, "O3"),
        common.Verdict(f"… and with it at most ηc: the longest, over ηc (without: {longest:.1e})",
                       f"{above:.6f}", "≤ 1", above <= 1 + BOUND, "O3, claim 5"),
    ]  # fmt: skip


def report(
    folder: Path,
    cliff: Cliff,
    rates: dict[str, np.ndarray],
    targets: dict[str, float],
    norms: dict[str, np.ndarray],
    traces: dict[tuple[str, str], Trace],
    through_time: dict[str, np.ndarray],
    verdicts: Sequence[common.Verdict],
    results: dict[str, Any],
) -> None:
    """Tables, figure and results of what is finished."""
    for problem, title in (("cliff", "Cliff"), ("rnn", "Recurrent network, the worst of all starts")):
        rows = []
        for where, found in outcomes(problem, traces, norms, targets[problem]).items():
            trace = traces[problem, where]
            tail = trace.losses[..., -max(trace.losses.shape[-1] // 10, 1) :].max(axis=-1)
            best, longest = trace.losses.min(axis=-1), trace.lengths.max(axis=-1)
            results[f"{problem}, {where} clipping"] = {
                "rates": rates[problem].tolist(), "outcome": found.tolist(), "last_tenth": tail.tolist(),
                "final": trace.losses[..., -1].tolist(), "best": best.tolist(), "largest_step": longest.tolist(),
            }  # fmt: skip
            jumped = ~np.all(trace.lengths <= norms[problem][..., None, None], axis=-1)
            columns = [np.atleast_2d(a) for a in (tail, best, longest, jumped, found)]
            for i, rate in enumerate(rates[problem]):
                own = [a[:, i] for a in columns]
                numbers = [f"{a.max():.3g}" for a in own[:3]]
                states = ", ".join(
                    f"{np.sum(own[4] == s)} × {s}" if len(own[4]) > 1 else str(s) for s in sorted(set(own[4]))
                )
                rows.append((f"{where} clipping", f"{rate:g}", *numbers, str(int(own[3].sum())), states))
        if rows:
            head = ["", "η", "last tenth", "best loss", "longest step", "jumped", "outcome"]
            common.table(f"{title}; target {targets[problem]:g}", head, rows)
    if traces or through_time:
        figure = gradient_clipping_figures.draw(cliff, rates, targets, traces, through_time, results["settings"])
        common.save_figure(figure, folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    common.write_json(folder / RESULTS, results | {"verdicts": [verdict._asdict() for verdict in verdicts]})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
