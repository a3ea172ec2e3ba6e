"""What `gradient_checkpointing` measured, and a verdict on each of its claims."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import common, measure
from experiments.checkpointing_schedules import EQUINOX, SLOTS, STEPS, Counted, Searched
from fundamentals.memory.checkpointing.schedules import Schedule

NOTES = "K2, claim 8"
EXACT = 1e-12  # relative difference of gradients in float64
PREDICTED = 0.1  # relative difference of predicted from measured memory
STORED, LAYERS, SEGMENTS = "store all", "every layer", "√l segments"
LEAN, FEWER = 0.6, 0.5  # of the memory, of the recomputation of equal segments
SHORT, JUDGED_STEPS, JUDGED_SLOTS = 64, 1024, 10  # of the recurrent network
SLACK = 1.02  # FLOPs of compiled programs differ a little for other reasons


class Form(NamedTuple):
    """One way to a gradient, compiled."""

    name: str
    group: str  # of the figure: "stored", "segments", "binomial", "planned", "jax.checkpoint"
    schedule: Schedule | None  # None: jax.checkpoint decides
    pieces: tuple[int, ...]  # into which the schedule's stages are cut
    temp_bytes: int  # measured
    predicted: int | None  # by compiling it for another loss; None where it was not planned
    modelled: int | None  # by adding up what is alive, of what was planned
    evaluations: int | None  # of whole stages' forward passes
    planned_time: float | None  # FLOPs in those of storing all, from pieces and schedule
    time: float  # the same, of compiled programs
    flops: float  # of the compiled program
    difference: float  # of its gradient from that of storing all, relative
    seconds: tuple[float, ...] = ()


class Promise(NamedTuple):
    """A budget, and the plan for it."""

    budget: int
    predicted: int
    temp_bytes: int
    time: float


class Chain(NamedTuple):
    """What was measured of one chain."""

    name: str
    length: int
    forms: Sequence[Form]
    uniform: Sequence[Form]  # all numbers of segments
    promises: Sequence[Promise]
    minimum: int  # bytes, of the smallest budget
    refusal: str  # what is said of one byte less
    forward_flops: float


class Recurrent(NamedTuple):
    """What was measured of the recurrent network."""

    stored_bytes: int  # of lax.scan, JUDGED_STEPS
    temp_bytes: int  # of checkpointed_scan with JUDGED_SLOTS
    steps: int
    difference: float  # of its gradient after all steps from that of lax.scan
    seconds: float
    stored_seconds: float
    compile_short: Sequence[float]
    compile_long: Sequence[float]


class Measured(NamedTuple):
    """All that is finished."""

    chains: Sequence[Chain] = ()
    counted: Counted | None = None
    searched: Searched | None = None
    planning_seconds: float | None = None
    recurrent: Recurrent | None = None


def judge(measured: Measured) -> list[common.Verdict]:
    """A verdict on each claim that was measured."""
    verdicts = []
    if measured.chains:
        verdicts += _judge_promises(measured.chains)
        verdicts += _judge_savings(measured.chains)
    differences = [form.difference for found in measured.chains for form in (*found.forms, *found.uniform)]
    if measured.recurrent:
        differences.append(measured.recurrent.difference)
    if differences:
        largest = float(np.max(differences))  # NaN if any is
        verdicts.insert(0, common.Verdict(
            f"{len(differences)} ways to a gradient give that of storing all: relative difference",
            f"{largest:.1e}", f"≤ {EXACT:.0e}", largest <= EXACT, NOTES,
        ))  # fmt: skip
    for found in measured.chains:
        if found.uniform:
            verdicts.append(_judge_unlike(found))
    if measured.chains:
        verdicts.append(_judge_others(measured.chains))
    if measured.counted:
        verdicts += _judge_binomial(measured.counted)
    if measured.searched and measured.planning_seconds is not None:
        verdicts += _judge_search(measured.searched, measured.planning_seconds)
    if measured.recurrent:
        verdicts += _judge_recurrent(measured.recurrent)
    return verdicts


def _judge_promises(chains: Sequence[Chain]) -> list[common.Verdict]:
    """Budgets, predictions, monotonicity."""
    promises = [(found, promise) for found in chains for promise in found.promises]
    over = [p.temp_bytes - p.budget for _, p in promises]
    kept = [p.temp_bytes <= p.budget for _, p in promises]
    refused = [f"at least {found.minimum:,}" in found.refusal for found in chains]
    apart = [
        abs(form.predicted / form.temp_bytes - 1)
        for found in chains
        for form in found.forms
        if form.predicted is not None
    ]
    monotone = all(
        a.time >= b.time and a.predicted <= b.predicted and a.temp_bytes <= b.temp_bytes
        for found in chains
        for a, b in itertools.pairwise(found.promises)
    )
    most = max(over)
    text = f", {most} B over" if most > 0 else ""
    return [
        common.Verdict(
            "a budget is kept: temporary memory of the compiled gradient, at most",
            f"{sum(kept)} of {len(kept)}{text}", f"{len(kept)} of {len(kept)}", all(kept), NOTES,
        ),
        common.Verdict(
            "… and one byte less than the least is refused, naming the least", f"{sum(refused)} of {len(refused)}",
            f"{len(refused)} of {len(refused)}", all(refused), NOTES,
        ),
        common.Verdict(
            f"predicted and measured memory of {len(apart)} plans, apart", f"{max(apart):.2%}", f"≤ {PREDICTED:.0%}",
            max(apart) <= PREDICTED, NOTES,
        ),
        common.Verdict(
            "the larger the budget, the less time and the higher the peak", "in every step" if monotone else "not so",
            "in every step", monotone, NOTES,
        ),
    ]  # fmt: skip


def _judge_savings(chains: Sequence[Chain]) -> list[common.Verdict]:
    """Claim 8: bytes down, FLOPs up by one forward pass at most."""
    shares, added, bounds, holds = [], [], [], True
    for found in chains:
        stored = find(found, STORED)
        for form in (find(found, LAYERS), find(found, SEGMENTS)):
            share, more = form.temp_bytes / stored.temp_bytes, form.flops - stored.flops
            shares.append(share)
            added.append(more / stored.flops)
            bounds.append(found.forward_flops / stored.flops)
            once = form.evaluations is not None and form.evaluations <= 2 * found.length
            holds &= share < 1 and once and 0 < more <= SLACK * found.forward_flops
    return [
        common.Verdict(
            "each layer or √l segments recomputed once: memory, in that of storing all",
            f"{min(shares):.2f} to {max(shares):.2f}", "< 1", max(shares) < 1, NOTES,
        ),
        common.Verdict(
            "… for at most one more forward pass: FLOPs of the compiled programs, added",
            f"{min(added):.1%} to {max(added):.1%}", f"> 0, ≤ {min(bounds):.1%} to {max(bounds):.1%}", bool(holds),
            NOTES,
        ),
    ]  # fmt: skip


def _judge_unlike(found: Chain) -> common.Verdict:
    """A plan against all equal segments, where stages are unlike."""
    memory, again = against_uniform(found.uniform, [form for form in found.forms if form.group == "planned"])
    return common.Verdict(
        f"{found.name}: plans against the best equal segments: memory in their time; recomputation in their memory",
        f"{memory:.2f}; {again:.2f}", f"≤ {LEAN}, or ≤ {FEWER}", memory <= LEAN or again <= FEWER, NOTES,
    )  # fmt: skip


def _judge_others(chains: Sequence[Chain]) -> common.Verdict:
    """Against all else, as compiled."""
    ratios = {}
    for found in chains:
        planned = [form for form in found.forms if form.group == "planned"]
        for form in (*found.forms, *found.uniform):
            if form.group != "planned":
                fitting = [own.time for own in planned if own.temp_bytes <= SLACK * form.temp_bytes]
                ratios[found.name, form.name] = min(fitting, default=math.inf) / form.time
    worst = max(ratios, key=lambda key: ratios[key])
    return common.Verdict(
        f"a plan in {SLACK} × the memory of any of the {len(ratios)} other ways: FLOPs, in theirs, at most",
        f"{ratios[worst]:.3f} ({', '.join(worst)})", f"≤ {SLACK}", ratios[worst] <= SLACK, NOTES,
    )  # fmt: skip


def against_uniform(uniform: Sequence[Form], planned: Sequence[Form]) -> tuple[float, float]:
    """The least ratios of a plan's memory in the time of equal segments, and of its recomputation in their memory.

    Only segments count that no others beat in both.
    """
    memory = again = math.inf
    for form in best_uniform(uniform):
        fast = [p.temp_bytes for p in planned if p.time <= form.time * (1 + 1e-9)]
        lean = [p.time - 1 for p in planned if p.temp_bytes <= form.temp_bytes]
        memory = min(memory, min(fast, default=math.inf) / form.temp_bytes)
        again = min(again, min(lean, default=math.inf) / (form.time - 1))
    return memory, again


def best_uniform(uniform: Sequence[Form]) -> list[Form]:
    """Numbers of segments that no other beats in memory and time."""
    return [
        form
        for form in uniform
        if not any(
            (o.temp_bytes <= form.temp_bytes and o.time < form.time)
            or (o.temp_bytes < form.temp_bytes and o.time <= form.time)
            for o in uniform
        )
    ]


def _judge_binomial(counted: Counted) -> list[common.Verdict]:
    return [
        common.Verdict(
            f"binomial schedules, l ≤ {counted.lengths}, c ≤ {counted.slots}: evaluations other than t(l, c) + l",
            f"{counted.wrong:,} of {counted.lengths * counted.slots:,}", "0", counted.wrong == 0, NOTES,
        ),
        common.Verdict(
            f"… evaluations a step, l = {STEPS:,}, c = {SLOTS}; by bisection; published schedule of Equinox's loop",
            f"{counted.binomial:.3f}; {counted.bisection:.3f}", f"3.747 < {EQUINOX:.2f}",
            counted.binomial == 3.747 and counted.binomial < min(counted.bisection, EQUINOX), NOTES,
        ),
    ]  # fmt: skip


def _judge_search(searched: Searched, seconds: float) -> list[common.Verdict]:
    return [
        common.Verdict(
            f"dynamic program, not the best of all schedules ({searched.schedules:,} of {searched.longest} stages)",
            f"{searched.wrong:,} of {searched.chains:,} chains", "0", searched.wrong == 0 and searched.feasible > 0,
            NOTES,
        ),
        common.Verdict(
            "… 100 stages in 500 buckets are planned in (of one core)", measure.time_text([seconds]), "≤ 1s",
            seconds <= 1, NOTES,
        ),
    ]  # fmt: skip


def _judge_recurrent(found: Recurrent) -> list[common.Verdict]:
    share = found.temp_bytes / found.stored_bytes
    growth = statistics.median(found.compile_long) / statistics.median(found.compile_short)
    return [
        common.Verdict(
            f"{JUDGED_STEPS:,} recurrent steps with {JUDGED_SLOTS} carries: memory, in that of lax.scan",
            f"{share:.2%}", "≤ 2 %", share <= 0.02, NOTES,
        ),
        common.Verdict(
            f"compile time of {found.steps:,} steps, in that of {SHORT}", f"{growth:.2f}", "≤ 1.2", growth <= 1.2, NOTES
        ),
    ]  # fmt: skip


def find(found: Chain, name: str) -> Form:
    """A chain's form by its name."""
    return next(form for form in found.forms if form.name == name)
