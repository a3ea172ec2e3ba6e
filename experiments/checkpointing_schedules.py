"""Schedules of `gradient_checkpointing` against arithmetic and brute force: nothing is compiled or differentiated."""

import functools
import time
from typing import NamedTuple

import numpy as np

from fundamentals.memory.checkpointing import StageCost, dynamic_program, schedules
from fundamentals.memory.checkpointing.schedules import Schedule

STEPS, SLOTS = 1000, 20
EQUINOX = 4.80  # forward evaluations a step of STEPS with SLOTS: published schedule of Equinox's checkpointed loop


class Counted(NamedTuple):
    """Forward evaluations of binomial schedules, by going through their actions."""

    lengths: int  # 1 … l
    slots: int  # 1 … c
    wrong: int  # of l c schedules, those with another number than t(l, c) + l
    binomial: float  # evaluations a step of STEPS, with SLOTS
    bisection: float  # likewise, if each checkpoint is put in the middle of what is ahead


class Searched(NamedTuple):
    """The dynamic program against all schedules there are, on random chains."""

    chains: int
    feasible: int  # those which some schedule fits
    longest: int  # stages
    schedules: int  # of a chain that long
    wrong: int  # dearer or cheaper than the best, other memory or time than said, or wrongly infeasible


class Costs(NamedTuple):
    """Of n chains of l stages."""

    stages: np.ndarray  # [7, l, n], in the order of `StageCost`
    inputs: np.ndarray  # [n], bytes of the first input


def fewest(length: int, slots: int) -> int:
    """t(l, c) + l, by adding up: β(c, r) − β(c, r − 1) steps can be reversed with r repetitions, but not with fewer.

    Such steps are computed r times before they are taped; of those with the most repetitions, as many as are left.
    """
    total, reached, r, beta = length, 0, 0, 1
    while reached < length:
        total += r * (min(beta, length) - reached)
        reached, r = beta, r + 1
        beta = beta * (slots + r) // r
    return total


def count(lengths: int, slots: int) -> Counted:
    """Go through the binomial schedule of every l up to some length, with every c up to some slots."""
    wrong = 0
    for length in range(1, lengths + 1):
        for c in range(1, slots + 1):
            wrong += _evaluations(schedules.binomial(length, c)) != fewest(length, c)
    binomial, bisection = schedules.binomial(STEPS, SLOTS), bisect(0, STEPS, SLOTS - 1)
    return Counted(lengths, slots, wrong, _evaluations(binomial) / STEPS, _evaluations(bisection) / STEPS)


def _evaluations(schedule: Schedule) -> int:
    return sum(action.kind in ("forward", "tape") for action in schedules.actions(schedule))


def bisect(first: int, length: int, free: int) -> Schedule:
    """The rule of Equinox's reverse pass: the next checkpoint in the middle, or at every step where slots do for it."""
    nodes: list[Schedule | int] = []
    while length > 2 and free > 0:
        split = 1 if length - 2 <= free else length // 2
        nodes.append(bisect(first, split, free))
        first, length, free = first + split, length - split, free - 1
    rest: Schedule = (first,)
    for i in range(first + 1, first + length):
        rest = (rest, i)
    return (*nodes, *rest)


@functools.cache
def all_schedules(first: int, last: int) -> tuple[Schedule, ...]:
    """All schedules of stages first … last − 1 whose last stage is taped.

    A group that ends a schedule is computed twice in a row, from the same checkpoint, and saves nothing.
    """
    if last - first == 1:
        return ((first,),)
    found = [(first, *rest) for rest in all_schedules(first + 1, last)]
    for middle in range(first + 1, last):
        rests = all_schedules(middle, last)
        found += [(group, *rest) for group in all_schedules(first, middle) for rest in rests]
    return tuple(found)


def simulate(schedule: Schedule, costs: Costs) -> tuple[np.ndarray, np.ndarray]:
    """Time and peak of a schedule on each chain, [n]: goes through its actions with a list of what is alive."""
    forward, backward, output, tape, forward_workspace, backward_workspace, again = costs.stages
    inputs = np.concatenate([costs.inputs[None], output])
    alive = {"cotangent": inputs[len(output)]}
    elapsed, peak = np.zeros_like(costs.inputs), np.zeros_like(costs.inputs)
    passing = None  # the stage whose input was computed last, and is kept by nobody so far

    def at_once(*others: np.ndarray) -> None:
        np.maximum(peak, sum((*alive.values(), *others)), out=peak)

    listed = list(schedules.actions(schedule))
    for (kind, i), following in zip(listed, [*listed[1:], None], strict=True):
        if passing == i and kind in ("keep", "tape"):
            alive[f"input {i}"] = inputs[i]
            passing = None
        if kind == "forward":
            at_once(inputs[i + 1], forward_workspace[i], *([inputs[i]] if passing == i else []))
            elapsed += forward[i]
            passing = i + 1
        elif kind == "tape":
            alive[f"tape {i}"] = tape[i]
            at_once(forward_workspace[i])
            unread = i < len(output) - 1 and following == ("backward", i)  # a group, computed again, ends here
            elapsed += again[i] if unread else forward[i]
            passing = None
        elif kind == "backward":
            at_once(inputs[i], backward_workspace[i])
            elapsed += backward[i]
            del alive[f"tape {i}"]
            alive.pop(f"input {i}", None)
            alive["cotangent"] = inputs[i]
            passing = None
    return elapsed, peak


def search(chains: int, longest: int, seed: int) -> Searched:
    """Solve random chains of 1 … longest stages, each in a memory of its own, and go through all of their schedules."""
    rng = np.random.default_rng(seed)
    wrong = feasible = 0
    lengths = [1 + i % longest for i in range(chains)]
    for length in range(1, longest + 1):
        n = lengths.count(length)
        costs = random_costs(rng, length, n)
        known = all_schedules(0, length)
        index = {schedule: i for i, schedule in enumerate(known)}
        times, peaks = (np.array(a) for a in zip(*(simulate(s, costs) for s in known), strict=True))  # [schedules, n]
        lowest, highest = peaks.min(0), peaks.max(0)
        memory = np.maximum(rng.integers(lowest - 2, highest + 3), 1)
        best = np.where(peaks <= memory, times, np.iinfo(times.dtype).max).min(0)
        for k in range(n):
            stages = [StageCost(*map(int, costs.stages[:, i, k])) for i in range(length)]
            size = int(memory[k])  # as many buckets: nothing is rounded
            found = dynamic_program.read(dynamic_program.solve(stages, int(costs.inputs[k]), size, buckets=size))
            feasible += memory[k] >= lowest[k]
            if found is None or memory[k] < lowest[k]:
                wrong += (found is None) != (memory[k] < lowest[k])
                continue
            at = index.get(found.schedule)
            right = at is not None and (found.time, found.bytes) == (times[at, k], peaks[at, k])
            wrong += not (right and found.time == best[k] and found.bytes <= size)
    return Searched(chains, int(feasible), longest, len(all_schedules(0, longest)), int(wrong))


def random_costs(rng: np.random.Generator, length: int, chains: int) -> Costs:
    """Small integers. A tape includes its output."""

    def draw(low: int, high: int) -> np.ndarray:
        return rng.integers(low, high, (length, chains))

    forward, output = draw(1, 20), draw(1, 9)
    again = np.minimum(forward, draw(0, 20))
    stages = [forward, forward + draw(0, 20), output, output + draw(0, 12), draw(0, 4), draw(0, 4), again]
    return Costs(np.stack(stages), rng.integers(1, 9, chains))


def planning_seconds(length: int, buckets: int, seed: int) -> float:
    """To plan one random chain, of one core: the table, and the schedule in half of the memory."""
    stages = [
        StageCost(*map(int, row)) for row in random_costs(np.random.default_rng(seed), length, 1).stages[:, :, 0].T
    ]
    total = sum(stage.tape for stage in stages) + 30
    begin = time.thread_time()
    table = dynamic_program.solve(stages, 1, total, buckets=buckets)
    found = dynamic_program.read(table, total // 2)
    seconds = time.thread_time() - begin
    return seconds if found else float("inf")
