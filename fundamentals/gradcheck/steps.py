"""Mistakes that are made in every step of a loop, or off by one step.

The steps of a loop that is written out, in Python or as a scan of few steps, are found by where their equations come
from: one place in the user's file, reached by the same calls, has an equation in every step. What a step takes from the
one before it is the loop's state.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from fundamentals.gradcheck.hypotheses import Hypothesis, fan_out, literal, path_hypothesis, rule_hypothesis, scaled
from fundamentals.gradcheck.precision import is_key
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge, is_inexact
from fundamentals.program import line, site

STEPS = 64  # at most


def loops(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A path or a local rule in every step of a loop, or in every call of a helper; steps that keep the wrong state."""
    scene = scenes[0]
    steps_of = places(stage)
    kinds = _kinds(stage, steps_of)
    reached = set(stage.edges)

    def edges_of(numbers: Sequence[int]) -> list[tuple[Edge, ...]]:
        operands = range(len(stage.flat.equations[numbers[0]].invars))
        every = [tuple(Edge(i, operand) for i in numbers) for operand in operands]
        return [
            g for g in every if reached.issuperset(g) and any(stage.reach[stage.variable(e)] & set(left) for e in g)
        ]

    steps = sorted((g for numbers in steps_of for g in edges_of(numbers)), key=lambda g: fan_out(stage, g[0]))
    groups = steps + sorted((g for numbers in kinds for g in edges_of(numbers)), key=lambda g: fan_out(stage, g[0]))
    sizes, scalars = stage.numbers(scene)

    def in_all(hypothesis: Hypothesis, group: Sequence[Edge]) -> Hypothesis:
        where = f", in all {len(group)} steps" if group in steps else f", and at {len(group) - 1} more like it"
        return hypothesis._replace(detail=hypothesis.detail + where)

    def scaled_path(group: tuple[Edge, ...], coefficient: float) -> Hypothesis:
        hypothesis = path_hypothesis(stage, group, coefficient, sizes, scalars)
        return hypothesis._replace(gradient=stage.remembered((group, coefficient), hypothesis.gradient))

    for coefficient in (0.0, 2.0, -1.0):
        for group in groups:
            yield in_all(scaled_path(group, coefficient), group)
    for group in groups:
        factor = literal(stage, group[0])
        if factor and abs(factor) != 1:
            hypothesis = scaled_path(group, 1 / factor)
            text = f"the factor {factor:.6g} of {stage.place(group[0])} is missing on the path that goes through it"
            yield in_all(
                hypothesis._replace(cause=Cause.PATH_SCALE, detail=text, fix=f"multiply by {factor:.6g}"), group
            )
    yield from _overwritten(stage, steps)
    yield from _shifted(stage, steps_of, _chains(stage, steps_of))
    for group in groups:
        for wrong in stage.wrongs(scene, group[-1]):
            if not wrong.tier:
                hypothesis = rule_hypothesis(stage, group, wrong)
                gradient = stage.remembered((group, wrong.label), hypothesis.gradient)
                yield in_all(hypothesis._replace(gradient=gradient), group)


def places(stage: Stage) -> list[tuple[int, ...]]:
    """Equations, by number, that are the same place in every step."""
    groups = _alike(stage, site)
    # A helper that is called at several places of a step may have been traced at the first of them only.
    counts = {len(group) for group in groups}
    for group in list(groups):
        for count in counts:
            if count < len(group) and len(group) % count == 0:
                times = len(group) // count
                groups += [group[k::times] for k in range(times)]
    return groups


def _kinds(stage: Stage, steps: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Equations of the same line, and of the same kind wherever they are: the same mistake made several times."""
    groups = [*_alike(stage, line), *_alike(stage, lambda _: "anywhere")]
    return [group for group in dict.fromkeys(groups) if group not in steps]


def _alike(stage: Stage, where: Callable[[Any], Any]) -> list[tuple[int, ...]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for i, equation in enumerate(stage.flat.equations):
        key = where(equation)
        if key:
            shapes = tuple((v.aval.shape, v.aval.dtype) for v in equation.invars)
            found[key, equation.primitive.name, shapes, _settings(equation)].append(i)
    return [tuple(numbers) for numbers in found.values() if 1 < len(numbers) <= STEPS]


def _settings(equation: Any) -> str:
    """The parameters of an equation but for those that tell which step it is in."""
    moving = {"start_indices", "limit_indices"} if equation.primitive.name == "slice" else set()
    return str({key: value for key, value in equation.params.items() if key not in moving})


def _overwritten(stage: Stage, groups: list[tuple[Edge, ...]]) -> Iterator[Hypothesis]:
    """What all steps give back to a value is assigned, step by step."""
    by_variable: dict[Any, list[tuple[Edge, ...]]] = defaultdict(list)
    for group in groups:
        variables = {stage.variable(e) for e in group}
        if len(variables) == 1:
            by_variable[next(iter(variables))].append(group)
    for variable, uses in by_variable.items():
        for place, which in ((0, "first"), (-1, "last")):
            dropped = [e for group in uses for e in group if e != group[place]]
            name = stage.name(variable)
            yield Hypothesis(
                Cause.OVERWRITE,
                f"of what {len(uses[0])} steps give back to {name}, only the {which} step's is in its gradient: "
                "assigned where it should be added to",
                f"+= for =: add up what comes back to {name} from every step",
                scaled(stage, dict.fromkeys(dropped, 0.0)),
            )


class _Chain(NamedTuple):
    """What is carried from step to step."""

    values: tuple[Any, ...]  # before the first step, if it is known, and after every step
    taken: tuple[tuple[Edge, ...], ...]  # for each step the edges by which it takes what came before


def _chains(stage: Stage, steps: list[tuple[int, ...]]) -> list[_Chain]:
    """The state of each loop."""
    equations = stage.flat.equations
    makes: dict[Any, tuple[tuple[int, ...], int, int]] = {}  # result, number of steps → its place, step, which result
    for numbers in steps:
        for step, i in enumerate(numbers):
            for k, v in enumerate(equations[i].outvars):
                makes[v, len(numbers)] = (numbers, step, k)
    carried: dict[Any, list[list[Edge]]] = {}
    values: dict[Any, list[Any]] = {}
    for numbers in steps:
        for operand in range(len(equations[numbers[0]].invars)):
            taken = [equations[i].invars[operand] for i in numbers]
            if any(isinstance(v, core.Literal) or not is_inexact(v) for v in taken):
                continue
            sources = [makes[v, len(numbers)] for v in taken[1:] if (v, len(numbers)) in makes]
            if len(sources) < len(numbers) - 1:
                continue
            source, _, result = sources[0]
            if any(s != (source, step, result) for step, s in enumerate(sources)):
                continue
            key = source, result, taken[0]
            values[key] = [taken[0], *(equations[i].outvars[result] for i in source)]
            edges = carried.setdefault(key, [[] for _ in numbers])
            for step, i in enumerate(numbers):
                edges[step].append(Edge(i, operand))
    return [_Chain(tuple(values[key]), tuple(map(tuple, carried[key]))) for key in carried]


_OTHER_STEPS: tuple[tuple[Callable[[int, int], int], str, str], ...] = (
    (lambda k, n: k - 1, "the step before", "keep what each step needs"),
    (lambda k, n: 0, "the first step", "keep what each step needs"),
    (lambda k, n: n - 1, "the last step", "keep what each step needs"),
    (lambda k, n: k + 1, "the step after", "keep what each step needs"),
    (lambda k, n: n - 1 - k, "the same number from the other end", "go backward in reverse order"),
)


def _shifted(stage: Stage, steps: list[tuple[int, ...]], chains: list[_Chain]) -> Iterator[Hypothesis]:
    """Each step goes back with the state, or with something else, of another step.

    Either only what is multiplied by it is another's, or the whole step is gone through again from another state.
    """

    def of_other(
        taken: Any, words: str, pick: Callable[[int, int], int], whole: bool, carried: Any = frozenset()
    ) -> Callable[[Scene], Any]:
        key = tuple(taken), words, whole, bool(carried)
        return stage.remembered(key, partial(_of_other_steps, stage, taken, pick, whole, carried))

    together = [chains] if len(chains) > 1 else []
    for chosen in [*together, *([c] for c in chains)]:
        names = " and ".join(dict.fromkeys(stage.name(c.values[-1]) for c in chosen))
        taken = [(c.taken, c.values) for c in chosen]
        for whole in (False, True):
            yield Hypothesis(
                Cause.WRONG_OPERAND,
                f"in the steps that make {names}: off by one; the state after each step stands for the state before it",
                "use h[t − 1], the state that the step started from",
                of_other(taken, "after", lambda k, n: k + 1, whole),
            )
            for pick, words, fix in _OTHER_STEPS[:3]:
                yield Hypothesis(
                    Cause.WRONG_OPERAND,
                    f"in the steps that make {names}: every step uses the state of {words}",
                    fix,
                    of_other(taken, words, pick, whole),
                )
    usable = {v for v in stage.names if not is_key(v.aval)}
    carried = {e for chain in chains for edges in chain.taken for e in edges}
    for numbers in steps:
        for operand in range(len(stage.flat.equations[numbers[0]].invars)):
            edges = tuple((Edge(i, operand),) for i in numbers)
            operands = [stage.flat.equations[i].invars[operand] for i in numbers]
            if any(isinstance(v, core.Literal) for v in operands) or carried.intersection(e for (e,) in edges):
                continue
            own = next((c for c in chains if tuple(operands) == c.values[1:]), None)
            if own is not None:  # the state that a step makes, where it uses that itself
                yield Hypothesis(
                    Cause.WRONG_OPERAND,
                    f"in the backward pass of {stage.place(edges[0][0])}: off by one; the state before each step "
                    "stands for the state after it",
                    "use h[t], the state that the step made",
                    of_other([(edges, own.values)], "before", lambda k, n: k, False),
                )
                continue
            if len(set(operands)) < len(operands) or not usable.issuperset(operands):
                continue
            for pick, words, fix in _OTHER_STEPS:
                for whole in (False, True):
                    yield Hypothesis(
                        Cause.WRONG_OPERAND,
                        f"in the backward pass of {stage.place(edges[0][0])}: every step uses what {words} kept",
                        fix,
                        of_other([(edges, _sequence(stage, operands))], words, pick, whole, carried=carried),
                    )


class _Item(NamedTuple):
    """One item of a sequence, which no step may have taken."""

    of: Any
    axis: int
    place: int


def _sequence(stage: Stage, values: list[Any]) -> tuple[Any, ...]:
    """What steps take; of a sequence that is sliced, item by item, also the items before and after these."""
    slices = []
    for v in values:
        equation = stage.flat.equations[stage.maker[v]] if v in stage.maker else None
        while equation is not None and equation.primitive.name in ("squeeze", "reshape"):
            source = equation.invars[0]
            equation = stage.flat.equations[stage.maker[source]] if source in stage.maker else None
        if equation is None or equation.primitive.name != "slice":
            return tuple(values)
        slices.append(equation)
    of = slices[0].invars[0]
    starts = [e.params["start_indices"] for e in slices]
    moving = [axis for axis in range(of.aval.ndim) if len({s[axis] for s in starts}) > 1]
    if any(e.invars[0] is not of for e in slices) or len(moving) != 1:
        return tuple(values)
    (axis,) = moving
    apart = {b[axis] - a[axis] for a, b in itertools.pairwise(starts)}
    wide = any(e.params["limit_indices"][axis] - e.params["start_indices"][axis] != 1 for e in slices)
    if len(apart) != 1 or wide:
        return tuple(values)
    return tuple(_Item(of, axis, s[axis]) for s in starts)


def _of_other_steps(
    stage: Stage,
    taken: Sequence[tuple[Any, Any]],
    pick: Callable[[int, int], int],
    whole: bool,
    carried: set[Edge],
    scene: Scene,
) -> Sequence[Any]:
    """taken: for each step the edges at which it takes something; and what there is to take. whole: what is computed
    from that in the step follows, but for what is carried to the next; otherwise all other uses are of what the forward
    pass made.
    """
    known = scene.sweep.values
    others: dict[Edge, Any] = {}
    if not whole:
        others = {e: known[v] for v, edges in stage.edges_of.items() for e in edges}
    else:
        others = {e: known[stage.variable(e)] for e in carried}
        for _, values in taken:
            for v in values:
                if not isinstance(v, _Item):
                    others |= dict.fromkeys(stage.edges_of.get(v, []), known[v])
    for edges_of_steps, values in taken:
        for k, edges in enumerate(edges_of_steps):
            place = min(max(pick(k, len(edges_of_steps)), 0), len(values) - 1)
            value = values[place]
            if isinstance(value, _Item):
                value = values[k]
                at = value.place + (pick(k, len(values)) - k) * (values[1].place - values[0].place)
                at = min(max(at, 0), value.of.aval.shape[value.axis] - 1)
                others |= dict.fromkeys(edges, np.take(known[value.of], at, value.axis))
            else:
                others |= dict.fromkeys(edges, known[value])
    return stage.substituted(scene, others)
