"""Plans: which stages of a chain are kept and which are computed again, for a budget of bytes that is kept.

The dynamic program's schedules are the best ones for a model of memory: tapes, checkpoints and workspaces, added. The
compiled program differs from it. XLA puts temporaries into the buffers of results that are not written yet, shares
buffers, computes residuals again in fused loops. So a plan is not believed, but compiled: a budget is promised only
of a program whose memory has been looked up.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
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

BUCKETS = 500
"""In how many the dynamic program divides memory."""

SCALARS = 512
"""Bytes for numbers that a loss makes on its way: sums, counts, rates."""

Loss = Callable[[Any], Any]
"""The chain's output → []."""


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
    loss: Loss | None = None,
) -> Plan:
    """The schedule with the fewest FLOPs that keeps a budget, or the one with least memory in a time.

    Args:
      stages: l functions or rules, as for `chain`.
      params: one entry for each; of arrays only shapes and dtypes matter (`jax.ShapeDtypeStruct` will do).
      x: the first carry.
      budget: bytes, as a number or "64MiB", of temp memory (`compiled.memory_analysis().temp_size_in_bytes`) of the
        gradient of a scalar function of the chain's output, on the present backend and with the present settings;
        arguments and gradients are not counted. Candidates are compiled, from the fastest on, until one keeps it.
      slots: c ≥ 1: as many checkpoints as the binomial schedule may have (Griewank & Walther 2000), for equal stages.
      max_time: FLOPs, in those of storing all, ≥ 1: the least memory that a candidate needs for that.
      loss: the scalar function of the chain's output, whose own memory is in the budget. Unless given, it is taken to
        be a cross-entropy with integer labels along the last axis and, for the gradient by the first carry, too, a mean
        of squares. One that needs more for itself than these has to be given for the budget to be kept.

    Candidates are some of the schedules on the dynamic program's frontier. A larger budget never gives a slower plan,
    nor one of lower peak.

    Raises:
      ValueError: not one of the three is given, a budget can't be read or kept: then it names the least that can.

    Reference: Beaumont et al. 2024 for the dynamic program, over FLOPs of the compiled stages.
    """
    given = {"budget": budget, "slots": slots, "max_time": max_time}
    if sum(value is not None for value in given.values()) != 1:
        named = [name for name, value in given.items() if value is not None]
        raise ValueError(f"plan: {' and '.join(named) or 'nothing'} given; expected one of budget, slots and max_time")
    problem = _Problem(tuple(stages), params, x, loss)
    if slots is not None:
        return problem.plan(binomial(len(stages), slots))
    if max_time is not None:
        _checks.interval("plan", "[1, inf)", max_time=max_time)
        affordable = [s for s in (*problem.candidates, *problem.frontier) if problem.time(s) <= max_time * (1 + 1e-12)]
        leanest = min(affordable, key=lambda s: peak(s, problem.costs, problem.input_bytes) if s else 0)
        fast = [leanest, *(s for s in affordable if s in problem.candidates)]
        return min((problem.plan(schedule) for schedule in fast), key=lambda p: (p.peak_bytes, p.time))
    limit = to_bytes(budget)
    for schedule in problem.candidates:
        if problem.temp(schedule, limit) <= limit:
            return problem.plan(schedule)
    least = min(problem.temp(schedule) for schedule in problem.candidates)
    raise ValueError(f"plan: a budget of {limit:,} bytes can't be kept; expected at least {least:,} ({_show(least)})")


def pareto(
    stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree, *, loss: Loss | None = None
) -> tuple[Plan, ...]:
    """The frontier of time and memory, the fastest plan first: each of the others needs less memory, and more time.

    As measured: candidates whose compiled program needs no less than that of a faster one are left out.
    """
    problem = _Problem(tuple(stages), params, x, loss)
    found: list[Plan] = []
    for schedule in problem.candidates:
        candidate = problem.plan(schedule)
        if not found or candidate.peak_bytes < found[-1].peak_bytes:
            found.append(candidate)
    return tuple(found)


class _Problem:
    """Stages at shapes: their costs, candidates, and what has been compiled."""

    def __init__(self, stages: tuple[Stage, ...], params: Sequence[Any], x: ArrayTree, loss: Loss | None) -> None:
        if len(params) != len(stages):
            raise ValueError(f"plan: params has {len(params)} entries; expected one for each of {len(stages)} stages")
        self.stages, self.loss, self.x = stages, loss, jax.eval_shape(lambda: x)
        self.params = [jax.eval_shape(lambda p=p: p) for p in params]
        self.targets = jax.eval_shape(lambda params, x: _targets(_composition(stages, params, x)), self.params, self.x)
        # Two questions about one chain compile its candidates once. What is remembered are numbers, by the program: a
        # stage that has changed is another, and what it closes over is not kept.
        program = jax.make_jaxpr(self._gradient(store_all(len(stages)), True))
        names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_device")
        settings = (str(getattr(jax.config, name)) for name in names)
        key = (str(program(self.params, self.x, self.targets)), str(jax.tree.structure((params, x))), *settings)
        known = _known((*key, str(jax.devices()[0])))
        if "costs" not in known:
            known["costs"] = stage_costs(self.stages, self.params, self.x)
        (self.costs, self.input_bytes), self.compiled = known["costs"], known.setdefault("compiled", {})

    @functools.cached_property
    def frontier(self) -> list[Schedule]:
        """Of the dynamic program, from the fastest on."""
        if not self.stages:
            return []
        most = peak(store_all(len(self.stages)), self.costs, self.input_bytes)
        # Sizes are rounded up: as many buckets more as stages, so that storing all fits.
        solutions = frontier(solve(self.costs, self.input_bytes, most + most * len(self.stages) // BUCKETS, BUCKETS))
        return [solution.schedule for solution in solutions]

    @functools.cached_property
    def candidates(self) -> list[Schedule]:
        """From the fastest to the one of least memory, as modelled; storing all is the first."""
        chosen: list[Schedule] = [store_all(len(self.stages))]
        sizes = [peak(schedule, self.costs, self.input_bytes) for schedule in self.frontier]
        if sizes:
            for size in np.geomspace(max(*sizes, 1), max(min(sizes), 1), CANDIDATES):
                fitting = next(
                    (s for s, own in zip(self.frontier, sizes, strict=True) if own <= size), self.frontier[-1]
                )
                if fitting not in chosen:
                    chosen.append(fitting)
        return chosen

    def temp(self, schedule: Schedule, limit: float = float("inf")) -> int:
        """Bytes of the compiled gradient; where that of the parameters alone is beyond the limit, of that."""
        found = self._compile(schedule, False)
        return found if found > limit else max(found, self._compile(schedule, True))

    def _compile(self, schedule: Schedule, by_input: bool) -> int:
        key = (schedule, by_input)
        if key not in self.compiled:
            compiled = jax.jit(self._gradient(schedule, by_input)).lower(self.params, self.x, self.targets).compile()
            self.compiled[key] = temp_bytes(compiled) + SCALARS
        return int(self.compiled[key])

    def _gradient(self, schedule: Schedule, by_input: bool) -> Any:
        """The value and the gradient of a loss, the gradient by the first carry only if asked for."""
        apply = chain(self.stages, schedule)
        assumed = _mean_of_squares if by_input else _cross_entropy

        def value_and_gradient(params: Any, x: ArrayTree, targets: Any) -> Any:
            def objective(params: Any, x: ArrayTree) -> Any:
                y = apply(params, x)
                return self.loss(y) if self.loss else assumed(y, targets)

            value, pullback = jax.vjp(objective, params, x)
            dparams, dx = pullback(jnp.ones_like(value))
            found = jax.tree.leaves((dparams, dx) if by_input else dparams)
            return value, [g for g in found if g.dtype != jax.dtypes.float0]

        return value_and_gradient

    def time(self, schedule: Schedule) -> float:
        counted = _evaluations(schedule)
        forward = [cost.forward for cost in self.costs]
        once = sum(forward) + sum(cost.backward for cost in self.costs)
        again = sum((counted[i] - 1) * f for i, f in enumerate(forward))
        return 1 + again / once if once else 1.0

    def plan(self, schedule: Schedule) -> Plan:
        return Plan(
            schedule=schedule,
            peak_bytes=self.temp(schedule),
            modelled_bytes=peak(schedule, self.costs, self.input_bytes) if self.stages else 0,
            forward_evaluations=forward_evaluations(schedule),
            time=self.time(schedule),
            lower_bound=min((peak(s, self.costs, self.input_bytes) for s in self.frontier), default=0),
            costs=self.costs,
            input_bytes=self.input_bytes,
        )


@functools.lru_cache(maxsize=64)
def _known(key: Any) -> dict[str, Any]:
    """What has been measured of a program: costs of stages, memory of schedules."""
    return {}


def _composition(stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree) -> ArrayTree:
    return chain(stages, store_all(len(stages)))(params, x)


def _targets(y: ArrayTree) -> Any:
    """What losses compare an output with: labels, or another output."""
    return [(jnp.zeros((*leaf.shape[:-1], 1), jnp.int32), leaf) for leaf in map(jnp.asarray, jax.tree.leaves(y))]


def _mean_of_squares(y: ArrayTree, targets: Any) -> Any:
    total = jnp.float32(0)
    for leaf, (_, target) in zip(jax.tree.leaves(y), targets, strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            total += jnp.mean(jnp.abs(leaf - target) ** 2).astype(jnp.float32)
    return total


def _cross_entropy(y: ArrayTree, targets: Any) -> Any:
    total = jnp.float32(0)
    for leaf, (labels, target) in zip(jax.tree.leaves(y), targets, strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim and leaf.shape[-1]:
            chosen = jnp.take_along_axis(jax.nn.log_softmax(leaf, axis=-1), labels, axis=-1)
            total -= jnp.mean(chosen).astype(jnp.float32)
        else:
            total += _mean_of_squares(leaf, [(labels, target)])
    return total


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
