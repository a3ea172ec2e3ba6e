"""Which stages a reverse pass keeps, and which it computes again: schedules as nested tuples.

A schedule of stages 0 … l − 1 has one node for each stage or group of stages, in order:

- an integer i: stage i is *taped*: when the forward pass comes to it, what its backward pass needs is kept;
- a tuple: a group, of which the forward pass keeps the first stage's input only, its *checkpoint*. When the backward
  pass comes to it, the group is computed again from there, now as a schedule of its own.

So `(0, 1, 2)` stores all, `((0, 1), (2, 3), 4)` has two segments and a taped stage, and `(((0,), 1), 2)` recomputes
each stage from the beginning. Every *persistent* schedule is one (a checkpoint is kept until its backward pass is done;
Beaumont et al. 2024): a schedule is a tree, and no action that it stands for can be forgotten. A stage is computed once
for each tuple that it is in.

Steps of equal cost, l of them, with room for c states, the first input's among them (Griewank & Walther 2000, Revolve):
with β(c, r) = C(c + r, c) and the smallest r for which l ≤ β(c, r), a reverse pass needs at least

    t(l, c) = r l − β(c + 1, r − 1)                                                                              (1)

steps that are not taped, besides the l that are: `binomial(l, c)` makes no more.
"""

import functools
import itertools
import reprlib
from collections.abc import Callable, Iterator
from math import comb
from typing import Any, NamedTuple

from fundamentals import _checks

Schedule = tuple[Any, ...]
"""Of integers and schedules."""

DEEPEST = 256
"""Tuples in each other, the schedule itself among them. Python prints, compares and parses them, and JAX traces chains,
by recursion, which ends at some 500 (a plan's JSON) to 900. `checkpointed_scan` has no such limit.
"""


class Action(NamedTuple):
    """What a reverse pass does next."""

    kind: str  # "keep" a stage's input, "forward", "tape" (forward, and keep what backward needs) or "backward"
    stage: int


def store_all(length: int) -> Schedule:
    """Every stage taped in the forward pass: most memory, no stage computed again."""
    _checks.counts("store_all", length=length)
    return tuple(range(length))


def recompute_all(length: int) -> Schedule:
    """Each stage computed again from the first input: least memory, l (l + 1) / 2 forward evaluations; l ≤ DEEPEST."""
    _checks.counts("recompute_all", length=length)
    _check_depth("recompute_all", length, DEEPEST)
    schedule: Schedule = ()
    for i in range(length):
        schedule = (schedule, i) if i else (i,)
    return schedule


def uniform(length: int, segments: int | None = None, *, tape_last: bool = True) -> Schedule:
    """Equal segments, each computed again once: O(√l) memory with √l of them (Chen et al. 2016).

    Args:
      length: l stages.
      segments: how many; the nearest integer to √l unless given. Some are a stage longer if l is no multiple.
      tape_last: the last segment, whose backward pass comes first, is taped instead. To compute it again saves nothing.
    """
    _checks.counts("uniform", length=length)
    count = max(1, round(length**0.5)) if segments is None else segments
    _checks.positive_integers("uniform", segments=count)
    count = min(count, length)
    groups: list[Any] = []
    for s in range(count):
        first, last = (s * length + count - 1) // count, ((s + 1) * length + count - 1) // count
        groups.append(tuple(range(first, last)))
    return (*groups[:-1], *groups[-1]) if groups and tape_last else tuple(groups)


def binomial(length: int, slots: int) -> Schedule:
    """The fewest forward evaluations of l equal stages with c slots for states, t(l, c) + l (Griewank & Walther 2000).

    Args:
      length: l stages.
      slots: c ≥ 1 inputs of stages that are kept at a time, that of the first stage among them. With l or more, there
        is nothing more to win.

    Raises:
      ValueError: l > β(c, DEEPEST − 1), which is 256 for one slot, 32,896 for two: groups would be nested deeper.
    """
    _checks.counts("binomial", length=length)
    _checks.positive_integers("binomial", slots=slots)
    length, slots = int(length), int(slots)
    _check_depth("binomial", length, comb(min(slots, length) + DEEPEST - 1, DEEPEST - 1))
    return _binomial(0, length, slots)


def _check_depth(function: str, length: int, most: int) -> None:
    if length > most:
        raise ValueError(
            f"{function}: length is {length}; expected at most {most}, as groups are at most {DEEPEST} deep"
        )


def _binomial(first: int, length: int, slots: int) -> Schedule:
    # A loop over what follows the first group, a recursion into the groups: as deep as checkpoints are replaced.
    nodes: list[Any] = []
    while length > 1:
        split = length - 1 if slots == 1 else binomial_split(length, slots)
        nodes.append(_binomial(first, split, slots))
        first, length, slots = first + split, length - split, max(slots - 1, 1)
    return (*nodes, *range(first, first + length))


def binomial_split(length: int, slots: int) -> int:
    """After how many of l ≥ 2 steps the next of c ≥ 2 slots is filled, so that no optimum is missed.

    The first j steps are reversed last, with all c slots again, the others before, with c − 1. By (1), t(j, c) +
    t(l − j, c − 1) + j is least wherever β(c, r − 2) ≤ j ≤ β(c, r − 1) and β(c − 1, r − 1) ≤ l − j ≤ β(c − 1, r).
    """
    r = repetitions(length, slots)
    return max(comb(slots + r - 2, slots) if r > 1 else 1, length - comb(slots - 1 + r, slots - 1))


def repetitions(length: int, slots: int) -> int:
    """r of (1): how often a step is computed at most before it is taped."""
    if slots == 1:
        return max(length - 1, 0)
    r = 0
    while comb(slots + r, slots) < length:
        r += 1
    return r


def fewest_forwards(length: int, slots: int) -> int:
    """t(l, c) + l of (1): no reverse pass of l equal steps with c slots makes fewer forward evaluations."""
    _checks.counts("fewest_forwards", length=length)
    _checks.positive_integers("fewest_forwards", slots=slots)
    if length <= 1:
        return length
    r = repetitions(length, slots)
    return r * length - comb(slots + r, slots + 1) + length


def stages_of(schedule: Schedule) -> Iterator[int]:
    """The stages of a schedule, in order."""
    return (stage for stage, _ in _leaves(schedule))


def _leaves(schedule: Schedule) -> Iterator[tuple[Any, int]]:
    """What is no group, in order, and in how many tuples it is. Without recursion: nothing has been checked yet."""
    pending = [iter(schedule)]
    while pending:
        for node in pending[-1]:
            if isinstance(node, tuple) and node:
                pending.append(iter(node))
                break
            yield node, len(pending)
        else:
            pending.pop()


def actions(schedule: Schedule) -> Iterator[Action]:
    """What a reverse pass does, in order, from the first stage's input to its cotangent."""
    # What remains to be done, the last of it first: schedules to be computed from a checkpoint, nodes to be reversed.
    pending: list[Callable[[], Iterator[Action]]] = []

    def compute(schedule: Schedule) -> Iterator[Action]:
        for node in schedule:
            if isinstance(node, tuple):
                stages = tuple(stages_of(node))
                yield Action("keep", stages[0])
                yield from (Action("forward", i) for i in stages)
                pending.append(functools.partial(compute, node))
            else:
                yield Action("tape", node)
                pending.append(functools.partial(iter, (Action("backward", node),)))

    yield from compute(schedule)
    while pending:
        yield from pending.pop()()


def evaluations(schedule: Schedule) -> dict[int, int]:
    """How often each stage is computed, taped or not: once for each tuple that it is in."""
    return dict(_leaves(schedule))


def forward_evaluations(schedule: Schedule) -> int:
    """How many stages a reverse pass computes, taped or not."""
    return sum(evaluations(schedule).values())


def kept(schedule: Schedule) -> tuple[int, int]:
    """The most checkpoints, and the most tapes, that are kept at a time; an input next to be taped is not one."""
    checkpoints: set[int] = set()
    tapes: set[int] = set()
    most = (0, 0)
    for action in actions(schedule):
        if action.kind == "keep":
            checkpoints.add(action.stage)
        elif action.kind == "tape":
            checkpoints.discard(action.stage)
            tapes.add(action.stage)
        elif action.kind == "backward":
            tapes.discard(action.stage)
        most = (max(most[0], len(checkpoints)), max(most[1], len(tapes)))
    return most


def check(schedule: Any, length: int, function: str = "chain") -> None:
    """A ValueError unless each of l stages is in the schedule once, in order, in groups that are not empty.

    Nor may they be in more than DEEPEST tuples. It is raised at the first entry that is wrong.
    """
    if not isinstance(schedule, tuple):
        given = type(schedule).__name__
        raise ValueError(f"{function}: the schedule is a {given}; expected a plan, or a tuple of stages")
    found = 0
    for found, (node, depth) in enumerate(_leaves(schedule), 1):
        if not isinstance(node, int) or isinstance(node, bool):
            shown = reprlib.repr(node)
            raise ValueError(
                f"{function}: {shown} is in the schedule; expected stages, and tuples of them that hold some"
            )
        if depth > DEEPEST:
            raise ValueError(f"{function}: stage {node} is in {depth} nested tuples; expected at most {DEEPEST}")
        if node != found - 1:
            break
    else:
        if found == length:
            return
    stages = reprlib.repr(tuple(itertools.islice(stages_of(schedule), 8)))
    expected = f"0 … {length - 1}, each once, in order" if length else "none"
    raise ValueError(f"{function}: the schedule has stages {stages}; expected {expected}")
