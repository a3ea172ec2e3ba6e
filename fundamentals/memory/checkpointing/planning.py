"""Plans: which stages of a chain are kept and which are computed again, for a budget of bytes that is kept.

The dynamic program's schedules are the best ones for a model of memory: tapes, checkpoints and workspaces, added. The
compiled program differs from it. XLA puts temporaries into the buffers of results that are not written yet, shares
buffers, computes residuals again in fused loops. So a plan is not believed, but compiled: a budget is promised only
of a program whose memory has been looked up.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import _checks
from fundamentals.base import ArrayTree
from fundamentals.memory.checkpointing.chains import Stage, chain
from fundamentals.memory.checkpointing.costs import stage_costs, temp_bytes
from fundamentals.memory.checkpointing.dynamic_program import StageCost, frontier, peak, solve
from fundamentals.memory.checkpointing.schedules import (
    Action,
    Schedule,
    actions,
    binomial,
    check,
    forward_evaluations,
    stages_of,
    store_all,
)

CANDIDATES = 16
"""Schedules of the frontier that a budget is tried on, in equal ratios of memory."""

SCALARS = 256
"""Bytes for numbers that a loss makes on its way: sums, counts, rates."""


class Plan(NamedTuple):
    """What the reverse pass of a chain keeps and computes again: plain data."""

    schedule: Schedule  # see `schedules`
    peak_bytes: int  # predicted temp memory of the compiled gradient, by compiling it for a loss
    modelled_bytes: int  # the same by adding up tapes, checkpoints and workspaces: what the dynamic program sees
    forward_evaluations: int  # of stages, taped or not; at least one each
    time: float  # FLOPs of both passes over those of storing all
    lower_bound: int  # modelled bytes below which no schedule gets
    costs: tuple[StageCost, ...]
    input_bytes: int

    @property
    def actions(self) -> Iterator[Action]:
        """What the reverse pass does, in order."""
        return actions(self.schedule)

    def to_json(self) -> str:
        """All of it; `Plan.from_json` gives it back."""
        return json.dumps(self._asdict() | {"costs": [cost._asdict() for cost in self.costs]})

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan that `to_json` wrote. A ValueError says what is missing or does not fit together."""
        try:
            fields = json.loads(text)
            costs = tuple(StageCost(**cost) for cost in fields["costs"])
            plan = cls(**fields | {"schedule": _tuples(fields["schedule"]), "costs": costs})
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"Plan.from_json: {error}; expected what Plan.to_json wrote") from None
        check(plan.schedule, len(costs))
        return plan

    def __str__(self) -> str:
        """A table of the stages: what is kept of each, how often it is computed."""
        counted = _evaluations(self.schedule)
        taped = {node for node in self.schedule if isinstance(node, int)}
        heads = {next(iter(stages_of(node))) for node in self.schedule if isinstance(node, tuple)}
        lines = [f"{'stage':>5}  {'first pass':<12} {'computed':>8}  {'tape':>10}  {'output':>10}"]
        for i, cost in enumerate(self.costs):
            first = "tape" if i in taped else "keep input" if i in heads else "–"
            lines.append(f"{i:>5}  {first:<12} {counted[i]:>7}×  {_show(cost.tape):>10}  {_show(cost.output):>10}")
        lines.append(
            f"peak {_show(self.peak_bytes)} compiled, {_show(self.modelled_bytes)} modelled, no schedule below "
            f"{_show(self.lower_bound)}; {self.forward_evaluations} forward evaluations, {self.time:.3f} × the FLOPs"
        )
        return "\n".join(lines)


def plan(
    stages: Sequence[Stage],
    params: Sequence[Any],
    x: ArrayTree,
    *,
    budget: int | str | None = None,
    slots: int | None = None,
    max_time: float | None = None,
) -> Plan:
    """The schedule with the fewest FLOPs that keeps a budget, or the one with least memory in a time.

    Args:
      stages: l functions or rules, as for `chain`.
      params: one entry for each; of arrays only shapes and dtypes matter (`jax.ShapeDtypeStruct` will do).
      x: the first carry.
      budget: bytes, as a number or "64MiB", of temp memory (`compiled.memory_analysis().temp_size_in_bytes`) of the
        gradient of a scalar function of the chain's output, on the present backend and with the present settings;
        arguments and gradients are not counted. Candidates are compiled, from the fastest on, until one keeps it, both
        where the first carry is differentiated and where not. The scalar function is taken to be a sum of squares and
        of log Σ exp along the last axis; one that needs more for itself (cosh keeps four arrays) needs that, too.
      slots: c ≥ 1: as many checkpoints as the binomial schedule may have (Griewank & Walther 2000), for equal stages.
      max_time: FLOPs, in those of storing all, ≥ 1: the least memory that may be had for that.

    A larger budget never gives a slower plan, nor one of lower peak.

    Raises:
      ValueError: not one of the three is given, a budget can't be read or kept: then it names the least that can.

    Reference: Beaumont et al. 2024 for the dynamic program, over FLOPs of the compiled stages.
    """
    given = {"budget": budget, "slots": slots, "max_time": max_time}
    if sum(value is not None for value in given.values()) != 1:
        named = [name for name, value in given.items() if value is not None]
        raise ValueError(f"plan: {' and '.join(named) or 'nothing'} given; expected one of budget, slots and max_time")
    problem = _Problem(tuple(stages), params, x)
    if slots is not None:
        return problem.plan(binomial(len(stages), slots))
    if max_time is not None:
        _checks.interval("plan", "[1, inf)", max_time=max_time)
        fast = [schedule for schedule in problem.candidates() if problem.time(schedule) <= max_time * (1 + 1e-12)]
        return min((problem.plan(schedule) for schedule in fast), key=lambda p: (p.peak_bytes, p.time))
    limit = to_bytes(budget)
    least = None
    for schedule in problem.candidates():
        found = problem.temp(schedule, limit)
        if found <= limit:
            return problem.plan(schedule)
        least = found if least is None else min(least, found)
    least = min(problem.temp(schedule) for schedule in problem.candidates())
    raise ValueError(f"plan: a budget of {limit:,} bytes can't be kept; expected at least {least:,} ({_show(least)})")


def pareto(stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree) -> tuple[Plan, ...]:
    """The frontier of time and memory, the fastest plan first: each of the others needs less memory, and more time.

    As measured: candidates whose compiled program needs no less than that of a faster one are left out.
    """
    problem = _Problem(tuple(stages), params, x)
    found: list[Plan] = []
    for schedule in problem.candidates():
        candidate = problem.plan(schedule)
        if not found or candidate.peak_bytes < found[-1].peak_bytes:
            found.append(candidate)
    return tuple(found)


class _Problem:
    """Stages at shapes: their costs, candidates, and what has been compiled."""

    def __init__(self, stages: tuple[Stage, ...], params: Sequence[Any], x: ArrayTree) -> None:
        if len(params) != len(stages):
            raise ValueError(f"plan: params has {len(params)} entries; expected one for each of {len(stages)} stages")
        self.stages, self.x = stages, jax.eval_shape(lambda: x)
        self.params = [jax.eval_shape(lambda p=p: p) for p in params]
        leaves, structure = jax.tree.flatten((self.params, self.x))
        # Two questions about one chain compile its candidates once.
        key = (stages, structure, tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves))
        self.costs, self.input_bytes, self.compiled = _known((*key, jax.config.read("jax_enable_x64")), self)

    def candidates(self) -> list[Schedule]:
        """From the fastest to the one of least memory, as modelled; storing all is the first."""
        if not self.stages:
            return [()]
        everything = store_all(len(self.stages))
        most = peak(everything, self.costs, self.input_bytes)
        solutions = frontier(solve(self.costs, self.input_bytes, most))
        if not solutions:
            return [everything]
        least = min(solution.bytes for solution in solutions)
        chosen = [everything]
        for size in np.geomspace(max(most, 1), max(least, 1), CANDIDATES):
            fitting = next((s for s in solutions if s.bytes <= size), solutions[-1])
            if fitting.schedule not in chosen:
                chosen.append(fitting.schedule)
        return chosen

    def temp(self, schedule: Schedule, limit: float = float("inf")) -> int:
        """Bytes of the compiled gradient; where that of the parameters alone is beyond the limit, of that."""
        found = self._compile(schedule, False)
        return found if found > limit else max(found, self._compile(schedule, True))

    def _compile(self, schedule: Schedule, by_input: bool) -> int:
        key = (schedule, by_input)
        if key not in self.compiled:
            apply = chain(self.stages, schedule)

            def gradient(params: Any, x: ArrayTree) -> Any:
                y, pullback = jax.vjp(apply, params, x)
                dparams, dx = pullback(jax.tree.map(_cotangent, y))
                found = jax.tree.leaves((dparams, dx) if by_input else dparams)
                return [g for g in found if g.dtype != jax.dtypes.float0]

            self.compiled[key] = temp_bytes(jax.jit(gradient).lower(self.params, self.x).compile()) + SCALARS
        return int(self.compiled[key])

    def time(self, schedule: Schedule) -> float:
        counted = _evaluations(schedule)
        forward = [cost.forward for cost in self.costs]
        once = sum(forward) + sum(cost.backward for cost in self.costs)
        again = sum((counted[i] - 1) * f for i, f in enumerate(forward))
        return 1 + again / once if once else 1.0

    def plan(self, schedule: Schedule) -> Plan:
        solutions = self.candidates()
        return Plan(
            schedule=schedule,
            peak_bytes=self.temp(schedule),
            modelled_bytes=peak(schedule, self.costs, self.input_bytes) if self.stages else 0,
            forward_evaluations=forward_evaluations(schedule),
            time=self.time(schedule),
            lower_bound=min(peak(s, self.costs, self.input_bytes) for s in solutions) if self.stages else 0,
            costs=self.costs,
            input_bytes=self.input_bytes,
        )


@functools.lru_cache(maxsize=64)
def _store(key: Any) -> dict[str, Any]:
    return {}


def _known(key: Any, problem: _Problem) -> tuple[tuple[StageCost, ...], int, dict[Any, int]]:
    """Costs and compiled programs' memory, kept by what they depend on."""
    store = _store(key)
    if "costs" not in store:
        store["costs"] = stage_costs(problem.stages, problem.params, problem.x)
        store["compiled"] = {}
    return (*store["costs"], store["compiled"])


def _cotangent(y: Any) -> Any:
    """That of half the sum of squares and of the sum of log Σ exp, for regression's and classification's losses."""
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return np.zeros(y.shape, jax.dtypes.float0)
    if jnp.issubdtype(y.dtype, jnp.complexfloating) or not y.ndim:
        return y
    return y + jax.nn.softmax(y, axis=-1)


def _evaluations(schedule: Schedule) -> dict[int, int]:
    """How often each stage is computed."""
    counted: dict[int, int] = {}
    for action in actions(schedule):
        if action.kind in ("forward", "tape"):
            counted[action.stage] = counted.get(action.stage, 0) + 1
    return counted


def _tuples(nodes: Any) -> Schedule:
    return tuple(_tuples(node) if isinstance(node, list) else node for node in nodes)


_UNITS = {"": 1, "B": 1} | {f"{p}iB": 2 ** (10 * (i + 1)) for i, p in enumerate("KMGT")}
_UNITS |= {f"{p}B": 1000 ** (i + 1) for i, p in enumerate("kMGT")} | {"KB": 1000}


def to_bytes(size: Any) -> int:
    """Bytes of a number, or of "64MiB", "1.5 GB", "800kB"."""
    expected = 'expected bytes ≥ 0, or a size such as "64MiB" or "1.5GB"'
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
        if not found or found[2] not in _UNITS:
            raise ValueError(f"plan: budget is {size!r}; {expected}")
        return int(float(found[1]) * _UNITS[found[2]])
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
        raise ValueError(f"plan: budget is {size!r}; {expected}")
    return int(size)


def _show(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
