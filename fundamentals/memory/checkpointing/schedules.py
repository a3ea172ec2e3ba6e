"""Which stages a reverse pass keeps, and which it computes again: schedules as nested tuples.

A schedule of stages 0 … l − 1 has one node for each stage or group of stages, in order:

- an integer i: stage i is *taped*: when the forward pass comes to it, what its backward pass needs is kept;
- a tuple: a group, of which the forward pass keeps the first stage's input only, its *checkpoint*. When the backward
  pass comes to it, the group is computed again from there, now as a schedule of its own.

So `(0, 1, 2)` stores all, `((0, 1), (2, 3), 4)` has two segments and a taped stage, and `(((0,), 1), 2)` recomputes
each stage from the beginning. Every *persistent* schedule is one (a checkpoint is kept until its backward pass is done;
Beaumont et al. 2024): a schedule is a tree, and no action that it stands for can be forgotten.

Steps of equal cost, l of them, with room for c states, the first input's among them (Griewank & Walther 2000, Revolve):
with β(c, r) = C(c + r, c) and the smallest r for which l ≤ β(c, r), a reverse pass needs at least

    t(l, c) = r l − β(c + 1, r − 1)                                                                              (1)

steps that are not taped, besides the l that are: `binomial(l, c)` makes no more.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from math import comb
from typing import Any, NamedTuple

from fundamentals import _checks

Schedule = tuple[Any, ...]
"""Of integers and schedules."""


class Action(NamedTuple):
    """What a reverse pass does next."""

    kind: str  # "keep" a stage's input, "forward", "tape" (forward, and keep what backward needs) or "backward"
    stage: int


def store_all(length: int) -> Schedule:
    """Every stage taped in the forward pass: most memory, no stage computed again."""
    _checks.counts("store_all", length=length)
    return tuple(range(length))


def recompute_all(length: int) -> Schedule:
    """Each stage computed again from the first input: least memory, l (l + 1) / 2 forward evaluations."""
    _checks.counts("recompute_all", length=length)
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
    """
    _checks.counts("binomial", length=length)
    _checks.positive_integers("binomial", slots=slots)
    return _binomial(0, length, slots)


def _binomial(first: int, length: int, slots: int) -> Schedule:
    if length <= 1:
        return tuple(range(first, first + length))
    # A loop over what follows the first group, a recursion into the groups: as deep as checkpoints are replaced.
    nodes: list[Any] = []
    while length > 1:
        split = length - 1 if slots == 1 else binomial_split(length, slots)
        nodes.append(_prefix(first, split, slots))
        first, length, slots = first + split, length - split, max(slots - 1, 1)
    return (*nodes, first)


@functools.lru_cache(maxsize=4096)
def _prefix(first: int, length: int, slots: int) -> Schedule:
    if slots == 1:
        schedule: Schedule = (first,)
        for i in range(first + 1, first + length):
            schedule = (schedule, i)
        return schedule
    return _binomial(first, length, slots)


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
    # No recursion: recompute_all(l) is l tuples deep.
    pending: list[Any] = [iter(schedule)]
    while pending:
        for node in pending[-1]:
            if isinstance(node, tuple):
                pending.append(iter(node))
                break
            yield node
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


def forward_evaluations(schedule: Schedule) -> int:
    """How many stages a reverse pass computes, taped or not."""
    return sum(action.kind in ("forward", "tape") for action in actions(schedule))


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


def check(schedule: Sequence[Any], length: int) -> None:
    """A ValueError unless each of l stages is in the schedule once, in order, in groups that are not empty."""
    if not isinstance(schedule, tuple):
        raise ValueError(f"chain: the schedule is a {type(schedule).__name__}; expected a plan, or a tuple of stages")
    pending: list[Any] = [schedule]
    while pending:
        node = pending.pop()
        if not isinstance(node, tuple) or (not node and node is not schedule):
            raise ValueError(f"chain: {node!r} is in the schedule; expected stages, and tuples of them that hold some")
        pending.extend(child for child in node if not isinstance(child, int) or isinstance(child, bool))
    found = tuple(stages_of(tuple(schedule)))
    if found != tuple(range(length)):
        shown = f"{found[:8]}{' …' if len(found) > 8 else ''}"
        raise ValueError(f"chain: the schedule has stages {shown}; expected 0 … {length - 1}, each once, in order")
