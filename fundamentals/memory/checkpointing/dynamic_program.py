"""The cheapest schedule of unlike stages in a given memory, by dynamic programming (Beaumont et al. 2024, "rotor").

Memory, while stages s … t are reversed, is counted beyond the input of stage s: tapes, checkpoints, what is being
computed, and the cotangent of the output of t, which waits. Two things may be done with stage s:

- tape it: its tape, which includes its output, stays until its backward pass. What follows has that much less:

      C(s, t, m) = f_s + b_s + C(s + 1, t, m − tape_s);                                                            (1)

- make s … j − 1 a group: the input of stage j is computed and kept until j … t are reversed, and the group is computed
  again as a schedule of its own, with all of the memory:

      C(s, t, m) = Σ_{s ≤ i < j} f_i + C(j, t, m − output_{j−1}) + C(s, j − 1, m),   s < j ≤ t.                     (2)

Of both the cheapest is taken. Each is possible only where the ways through the stages fit, too:

- forward, stage i holds its input, unless that is counted already, its output or tape, and its workspace;
- backward, it holds its tape, the cotangents of its output and of its input, and its workspace.

The schedule is the best one among the persistent ones, whose checkpoints stay until what follows is reversed. (The
problem without that condition is NP-hard; loc. cit.) Memory is divided into buckets. Sizes are rounded up to whole
buckets, so that no schedule needs more than it is given; that may miss one that fits barely.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fundamentals.memory.checkpointing.schedules import DEEPEST, Schedule, check, stages_of


class StageCost(NamedTuple):
    """What one stage costs. Times in any one unit, e.g. FLOPs or seconds; memory in bytes."""

    forward: float
    backward: float
    output: int  # kept where the next stage's input is a checkpoint
    tape: int  # kept from its forward to its backward pass: what that needs, and the output
    forward_workspace: int = 0  # beyond input and output
    backward_workspace: int = 0  # beyond the tape and both cotangents
    again: float | None = None  # forward for the tape alone, where nobody reads the output; unless given, as forward


class Solution(NamedTuple):
    """The cheapest schedule that the memory allows."""

    schedule: Schedule
    time: float  # in the unit of the costs
    bytes: int  # that it needs, unrounded


class Table(NamedTuple):
    """C(s, t, m) for all stages of a chain and all m, of which any schedule is read off."""

    costs: tuple[StageCost, ...]
    input_bytes: int
    bucket: float  # bytes
    cost: np.ndarray  # [l, l, m] C(s, t, m); ∞ where nothing fits
    choice: np.ndarray  # [l, l, m] 0 for (1), else j − s of (2)


def solve(costs: Sequence[StageCost], input_bytes: int, memory: int, buckets: int = 500) -> Table:
    """C(s, t, m) for m = 0 … buckets.

    Args:
      costs: of l ≥ 1 stages.
      input_bytes: of the input of stage 0, whose cotangent is counted; it itself is not.
      memory: bytes that the last bucket stands for.
      buckets: in how many memory is divided.

    Time: O(l³ · buckets).
    """
    length, size = len(costs), buckets + 1
    bucket = max(memory, 1) / buckets
    inputs = [input_bytes, *(c.output for c in costs)]  # of stage i, for all i ≤ l

    tape, kept = ([_buckets(b, bucket, size) for b in sizes] for sizes in ([c.tape for c in costs], inputs[1:]))
    cost = np.full((length, length, size), np.inf)
    # cost[j, t] where the input of j is to be kept, too: the right side of (2)
    after = np.full((length, length, size), np.inf)
    choice = np.zeros((length, length, size), np.int16)
    total = np.concatenate([[0.0], np.cumsum([c.forward for c in costs])])
    for t in range(length):
        for s in range(t, -1, -1):
            stage, found = costs[s], cost[s, t]
            if s == t:
                # Who computes a group again wants its tapes, not its output.
                again = stage.forward if stage.again is None else stage.again
                found[:] = (stage.forward if t == length - 1 else again) + stage.backward
            else:
                _shift(found, cost[s + 1, t], tape[s])
                found += stage.forward + stage.backward
            backward = inputs[s] + inputs[s + 1] + stage.backward_workspace
            needed = stage.tape + max(backward, inputs[t + 1] + stage.forward_workspace)
            found[: _buckets(needed, bucket, size)] = np.inf
            if s < t:
                group = after[s + 1 : t + 1, t] + cost[s, s:t]  # [t − s, m]
                group += (total[s + 1 : t + 1] - total[s])[:, None]
                way = 0
                for i in range(s, t):
                    way = max(way, (inputs[i] if i > s else 0) + inputs[i + 1] + costs[i].forward_workspace)
                    group[i - s, : _buckets(way + inputs[t + 1], bucket, size)] = np.inf
                best = np.argmin(group, axis=0)
                value = np.take_along_axis(group, best[None], axis=0)[0]
                better = value < found
                found[better] = value[better]
                choice[s, t, better] = best[better] + 1
            if s:
                _shift(after[s, t], found, kept[s - 1])
    return Table(tuple(costs), input_bytes, bucket, cost, choice)


def _buckets(count: int, bucket: float, size: int) -> int:
    """How many buckets hold a count of bytes."""
    return min(int(np.ceil(count / bucket)), size)


def _shift(target: np.ndarray, source: np.ndarray, by: int) -> None:
    """target[m] = source[m − by], ∞ where that is less than nothing."""
    target[:by] = np.inf
    if by < len(target):
        target[by:] = source[: len(source) - by]


def read(table: Table, memory: int | None = None) -> Solution | None:
    """The cheapest schedule in the given bytes, or in all that the table has.

    None where none fits, or where the cheapest is nested deeper than `schedules.DEEPEST`.
    """
    last, size = len(table.costs) - 1, table.cost.shape[2]
    m = size - 1 if memory is None else min(int(memory // table.bucket), size - 1)
    if m < 0 or not np.isfinite(table.cost[0, last, m]):
        return None
    kept = [_buckets(c.output, table.bucket, size) for c in table.costs]
    tape = [_buckets(c.tape, table.bucket, size) for c in table.costs]

    deepest = 0

    def build(s: int, t: int, m: int, depth: int) -> Schedule:
        nonlocal deepest
        deepest = max(deepest, depth)
        if depth > DEEPEST:
            return ()  # of no use, as is the whole
        nodes: list[Any] = []
        while s <= t:
            width = int(table.choice[s, t, m])
            if width:
                j = s + width
                nodes.append(build(s, j - 1, m, depth + 1))
                s, m = j, m - kept[j - 1]
            else:
                nodes.append(s)
                s, m = s + 1, m - tape[s]
        return tuple(nodes)

    schedule = build(0, last, m, 1)
    if deepest > DEEPEST:
        return None
    return Solution(schedule, float(table.cost[0, last, m]), peak(schedule, table.costs, table.input_bytes))


def frontier(table: Table) -> list[Solution]:
    """What `read` gives for all bucket counts, cheapest first, each once: what less memory costs."""
    whole = table.cost[0, len(table.costs) - 1]
    found: list[Solution] = []
    for m in range(len(whole) - 1, -1, -1):
        if not np.isfinite(whole[m]):
            break
        if m and whole[m - 1] == whole[m]:
            continue  # as cheap in less
        solution = read(table, int(np.ceil(m * table.bucket)))
        if solution is not None and (not found or solution.bytes < found[-1].bytes):
            found.append(solution)
    return found


def peak(schedule: Schedule, costs: Sequence[StageCost], input_bytes: int) -> int:
    """The most bytes that a schedule holds at a time, beyond the first input: by going through it, action by action.

    Raises:
      ValueError: the schedule is not one of so many stages.
    """
    check(schedule, len(costs), "peak")
    inputs = [input_bytes, *(c.output for c in costs)]
    most = 0

    def reverse(schedule: Schedule, held: int) -> None:
        nonlocal most
        last = list(stages_of(schedule))[-1]
        waiting = inputs[last + 1]  # the cotangent
        left = []  # by each node: its tape, or its output
        for node in schedule:
            if isinstance(node, tuple):
                first, *_ = stages = list(stages_of(node))
                for i in stages:
                    passing = (inputs[i] if i > first else 0) + inputs[i + 1] + costs[i].forward_workspace
                    most = max(most, held + waiting + passing)
                left.append(inputs[stages[-1] + 1] if stages[-1] < last else 0)
            else:
                most = max(most, held + waiting + costs[node].tape + costs[node].forward_workspace)
                left.append(costs[node].tape)
            held += left[-1]
        for node, size in zip(reversed(schedule), reversed(left), strict=True):
            held -= size
            if isinstance(node, tuple):
                reverse(node, held)
            else:
                cotangents = inputs[node] + inputs[node + 1]
                most = max(most, held + size + cotangents + costs[node].backward_workspace)

    reverse(schedule, 0)
    return most
