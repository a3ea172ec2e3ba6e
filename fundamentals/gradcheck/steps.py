"""Mistakes that are made in every step of a loop, or off by one step."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.hypotheses import (
    Hypothesis,
    altered,
    fan_out,
    path_hypothesis,
    rule_hypothesis,
)
from fundamentals.gradcheck.operators import wrong_cotangents
from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.scenes import Scene, Stage, Tangents
from fundamentals.gradcheck.sweep import Edge, is_inexact
from fundamentals.program import line


def loops(stage: Stage, scenes: list[Scene], tangents: Tangents, left: list[int]) -> Iterator[Hypothesis]:
    """A path or local rule in every step of a loop that is written out, or in every call of a helper."""
    scene = scenes[0]
    edges = stage.edges
    groups: dict[Any, list[Edge]] = defaultdict(list)
    for edge in edges:
        equation = stage.equation(edge)
        if line(equation) and stage.reach[equation.invars[edge.operand]] & set(left):
            shapes = tuple(v.aval.shape for v in equation.invars)
            groups[equation.primitive.name, line(equation), edge.operand, shapes, str(equation.params)].append(edge)
    loops = [tuple(group) for group in groups.values() if 1 < len(group) <= 64]
    sizes, scalars = stage.numbers(scene)
    for coefficient in (0.0, 2.0, -1.0):
        for group in sorted(loops, key=lambda g: fan_out(stage, g[0])):
            hypothesis = path_hypothesis(stage, group, coefficient, sizes, scalars)
            yield hypothesis._replace(detail=hypothesis.detail + f", in all {len(group)} steps")
    for group in loops:
        for wrong in wrong_cotangents(stage.view(scene, group[-1])):
            if "`" not in wrong.label:
                hypothesis = rule_hypothesis(stage, group, wrong)
                yield hypothesis._replace(detail=hypothesis.detail + f", in all {len(group)} steps")
    for group in loops:
        yield from _shifted(stage, scene, group)


def _shifted(stage: Stage, scene: Scene, group: tuple[Edge, ...]) -> Iterator[Hypothesis]:
    """Local rules evaluated with what another step kept."""
    numbers = sorted({e.equation for e in group})
    equations = [stage.equation(Edge(k, 0)) for k in numbers]

    def of_step(pick: Callable[[int], int]) -> Callable[[Any, Any], Any]:
        def alter(view: Any, c: Any) -> Any:
            other = pick(numbers.index(view.edge.equation))
            if not 0 <= other < len(numbers):
                return c
            return _pulled(view, view.operands_of(equations[other]))

        return alter

    for pick, words in (
        (lambda k: k + 1, "the step after"),
        (lambda k: k - 1, "the step before"),
        (lambda k: 0, "the first step"),
        (lambda k: len(numbers) - 1, "the last step"),
    ):
        yield Hypothesis(
            Cause.WRONG_OPERAND,
            f"in the backward pass of {stage.place(group[0])}: every step uses what {words} kept",
            "keep what each step needs, and take it in reverse order",
            partial(altered, stage, group, of_step(pick)),
        )
    # The state that a step returns in place of the one that it takes: h[t] for h[t-1].
    for edge in group[:1]:
        for operand in range(len(equations[0].invars)):
            if operand == edge.operand:
                continue
            carried = [e.invars[operand] for e in equations]
            literal = any(isinstance(v, core.Literal) for v in carried)
            if literal or len(set(map(id, carried))) < 2 or not is_inexact(carried[-1]):
                continue
            for last in _like(stage, carried[-1]):

                def alter(view: Any, c: Any, operand: int = operand, carried: Any = carried, last: Any = last) -> Any:
                    k = numbers.index(view.edge.equation)
                    operands = list(view.operands)
                    operands[operand] = view.swept.values[carried[k + 1] if k + 1 < len(carried) else last]
                    return _pulled(view, operands)

                yield Hypothesis(
                    Cause.WRONG_OPERAND,
                    f"in the backward pass of {stage.place(group[0])}: off by one step; the state after the step "
                    "stands for the state before it",
                    "use h[t − 1], the state that the step started from",
                    partial(altered, stage, group, alter),
                )


def _like(stage: Stage, variable: Any) -> list[Any]:
    """Results of the same shape that come after a value."""
    names = list(stage.names)
    start = names.index(variable) + 1 if not isinstance(variable, core.Literal) and variable in stage.names else 0
    return [v for v in names[start:] if v.aval.shape == variable.aval.shape and is_inexact(v)]


def _pulled(view: Any, operands: list[Any]) -> Any:
    """The cotangent of the operand in question, of the equation at other operands."""
    number = view.edge.operand
    with jax.enable_x64(True):

        def of_one(x: Any) -> Any:
            results = view.equation.primitive.bind(
                *[x if j == number else jnp.asarray(v) for j, v in enumerate(operands)], **view.equation.params
            )
            return results[0] if view.equation.primitive.multiple_results else results

        return np.asarray(jax.vjp(of_one, jnp.asarray(operands[number]))[1](jnp.asarray(view.g))[0])
