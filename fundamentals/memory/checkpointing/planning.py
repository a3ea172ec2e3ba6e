"""Plans: which stages of a chain are kept and which are computed again, for a budget of bytes that is kept.

The dynamic program's schedules are the best ones for a model of memory: tapes, checkpoints and workspaces, added. The
compiled program differs from it. XLA puts temporaries into the buffers of results that are not written yet, shares
buffers, computes residuals again in fused loops. So a plan is not believed, but compiled: a budget is promised only
of a program whose memory has been looked up.
"""

import functools
import itertools
import json
import math
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
    evaluations,
    forward_evaluations,
    stages_of,
    store_all,
    uniform,
)

CANDIDATES = 16
"""Schedules of the frontier that a budget is tried on, in equal ratios of memory."""

SLOTS = (2, 3)
"""Of the binomial schedules among the candidates."""

BUCKETS = 500
"""In how many the dynamic program divides memory."""

MOST_PIECES = 200
"""Stages are cut unless that makes more than so many pieces: the dynamic program takes the cube of their number."""

PACKING = 0.05
"""What is added to the memory of a compiled program, since XLA packs buffers by rules of thumb: of 248 programs with
other losses, with the first carry's gradient and without, with the value and without, 10 needed more than the plan's,
the most 4.9 %."""

SCALARS = 512
"""Bytes for numbers that a loss makes on its way: sums, counts, rates."""

Loss = Callable[[Any], Any]
"""The chain's output → []."""


class Plan(NamedTuple):
    """What the reverse pass of a chain keeps and computes again: plain data."""

    schedule: Schedule  # see `schedules`; of pieces
    pieces: tuple[int, ...]  # into how many each stage is cut, 1 if it is not
    peak_bytes: int  # predicted temp memory of the compiled gradient, by compiling it for a loss; see `PACKING`
    modelled_bytes: int  # the same by adding up tapes, checkpoints and workspaces: what the dynamic program sees
    forward_evaluations: int  # of pieces, taped or not; at least one each
    time: float  # FLOPs of both passes over those of storing all
    lower_bound: int  # modelled bytes below which no schedule gets
    costs: tuple[StageCost, ...]  # of pieces
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
            lists = {"schedule": _tuples(fields["schedule"]), "pieces": tuple(fields["pieces"]), "costs": costs}
            plan = cls(**fields | lists)
        except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"Plan.from_json: {error}; expected what Plan.to_json wrote") from None
        whole = [*plan.pieces, *(getattr(plan, name) for name in _INTEGERS)]
        numbers = [plan.time, *(number for cost in costs for number in cost if number is not None)]
        if not all(_is_count(n) for n in whole) or not all(_is_number(n) for n in numbers):
            raise ValueError("Plan.from_json: found what is no number ≥ 0; expected what Plan.to_json wrote")
        if len(costs) != sum(plan.pieces):
            raise ValueError(
                f"Plan.from_json: found the costs of {len(costs)} pieces; expected those of {sum(plan.pieces)}"
            )
        check(plan.schedule, len(costs), "Plan.from_json")
        return plan

    def __str__(self) -> str:
        """A table of the stages and their pieces: what is kept of each, how often it is computed."""
        counted = evaluations(self.schedule)
        taped = {node for node in self.schedule if isinstance(node, int)}
        heads = {next(iter(stages_of(node))) for node in self.schedule if isinstance(node, tuple)}
        names = [
            f"{stage}.{piece}" if count > 1 else f"{stage}"
            for stage, count in enumerate(self.pieces)
            for piece in range(count)
        ]
        lines = [f"{'stage':>6}  {'first pass':<12} {'computed':>8}  {'tape':>10}  {'output':>10}"]
        for i, (name, cost) in enumerate(zip(names, self.costs, strict=True)):
            first = "tape" if i in taped else "keep input" if i in heads else "–"
            lines.append(f"{name:>6}  {first:<12} {counted[i]:>7}×  {_show(cost.tape):>10}  {_show(cost.output):>10}")
        lines.append(
            f"peak {_show(self.peak_bytes)} compiled, {_show(self.modelled_bytes)} modelled, none modelled below "
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
    cut: bool = True,
) -> Plan:
    """The schedule with the fewest FLOPs that keeps a budget, or the one with least memory in a time.

    Args:
      stages: l functions or rules, as for `chain`.
      params: one entry for each; of arrays only shapes and dtypes matter (`jax.ShapeDtypeStruct` will do), and which of
        them are one: those are taken to be tied.
      x: the first carry.
      budget: bytes, as a number or "64MiB", of temp memory (`compiled.memory_analysis().temp_size_in_bytes`) of the
        gradient of a scalar function of the chain's output by all parameters, or by these and the first carry, on the
        present backend and with the present settings; arguments and gradients are not counted. (By fewer, it may need
        more: where there are no arrays of gradients yet to be written, temporaries can't be put there. Nor are arrays
        counted that stages close over and that are differentiated.) Candidates are compiled, from the fastest on, until
        one keeps it.
      slots: c ≥ 1: as many checkpoints as the binomial schedule may have (Griewank & Walther 2000), for equal stages,
        which stay whole.
      max_time: FLOPs, in those of storing all, ≥ 1: the least memory that a candidate needs for that.
      loss: the scalar function of the chain's output, whose own memory is in the budget. Unless given, it is taken to
        be a cross-entropy with integer labels along the last axis and, for the gradient by the first carry, too, a mean
        of squares. One that needs more for itself than these has to be given for the budget to be kept.
      cut: stages may be cut after their matrix products (see `pieces`). Else each is kept or computed again as a whole,
        which takes more of both, memory and time, but is what textbooks do.

    Candidates are some of the schedules on the dynamic program's frontier, and those of textbooks. A larger budget
    never gives a slower plan, nor one of lower peak. Of other shapes than it was made for, a plan promises nothing.

    Raises:
      ValueError: not one of the three is given, a budget can't be read or kept: then it names the least that can; the
        loss is no scalar, or params has not one entry for each stage.
      TypeError: stages, params or the loss are of another kind.

    Reference: Beaumont et al. 2024 for the dynamic program, over FLOPs of the compiled stages.
    """
    given = {"budget": budget, "slots": slots, "max_time": max_time}
    if sum(value is not None for value in given.values()) != 1:
        named = [name for name, value in given.items() if value is not None]
        raise ValueError(f"plan: {' and '.join(named) or 'nothing'} given; expected one of budget, slots and max_time")
    problem = _Problem(stages, params, x, loss, cut=cut and slots is None)
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
    stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree, *, loss: Loss | None = None, cut: bool = True
) -> tuple[Plan, ...]:
    """The frontier of time and memory, the fastest plan first: each of the others needs less memory, and no less time.

    Arguments are those of `plan`. As measured: candidates whose compiled program needs no less than that of a faster
    one are left out.
    """
    problem = _Problem(stages, params, x, loss, cut=cut)
    found: list[Plan] = []
    for schedule in problem.candidates:
        candidate = problem.plan(schedule)
        if not found or candidate.peak_bytes < found[-1].peak_bytes:
            found.append(candidate)
    return tuple(found)


class Pieces(NamedTuple):
    """What `chain` reads of a plan."""

    schedule: Schedule
    pieces: tuple[int, ...]


class _Problem:
    """Stages at shapes: their costs, candidates, and what has been compiled."""

    def __init__(
        self, stages: Sequence[Stage], params: Sequence[Any], x: ArrayTree, loss: Loss | None, *, cut: bool
    ) -> None:
        if not isinstance(stages, list | tuple):
            raise TypeError(f"plan: stages is of type {type(stages).__name__}; expected a list or tuple of functions")
        if len(params) != len(stages):
            raise ValueError(f"plan: params has {len(params)} entries; expected one for each of {len(stages)} stages")
        if isinstance(params, dict | str):
            raise TypeError(f"plan: params is of type {type(params).__name__}; expected a sequence of entries")
        if not (loss is None or callable(loss)):
            raise TypeError(f"plan: loss is of type {type(loss).__name__}; expected a function of the chain's output")
        self.stages, self.loss, self.x = stages, loss, jax.eval_shape(lambda: x)
        # Parameters that are one array have one gradient. (Of shapes it is not known: each stands for an array.)
        leaves, self.structure = jax.tree.flatten(list(params))
        keys = [i if isinstance(leaf, jax.ShapeDtypeStruct) else ("tied", id(leaf)) for i, leaf in enumerate(leaves)]
        arrays = dict(zip(keys, leaves, strict=True))
        self.places = [list(arrays).index(key) for key in keys]
        self.arrays = [jax.eval_shape(lambda leaf=leaf: leaf) for leaf in arrays.values()]
        whole = Pieces(store_all(len(stages)), (1,) * len(stages))
        own = self._params(self.arrays)
        self.targets = jax.eval_shape(lambda params, x: _targets(chain(stages, whole)(params, x)), own, self.x)
        # Two questions about one chain compile its candidates once. What is remembered are numbers, by the program: a
        # stage that has changed is another, and what it closes over is not kept.
        program = jax.make_jaxpr(self._gradient(whole, True))
        names = (
            "jax_enable_x64",
            "jax_default_matmul_precision",
            "jax_default_device",
            "jax_threefry_partitionable",
        )
        settings = (str(getattr(jax.config, name)) for name in names)
        key = (str(program(self.arrays, self.x, self.targets)), str(jax.tree.structure((params, x))), *settings)
        known = _known((*key, str(jax.devices()[0]), cut))
        if "costs" not in known:
            costs, first = stage_costs(stages, own, self.x, cut=cut)
            if sum(map(len, costs)) > max(MOST_PIECES, len(stages)):
                costs, first = stage_costs(stages, own, self.x)
            known["costs"] = tuple(map(len, costs)), tuple(itertools.chain(*costs)), first
        (self.pieces, self.costs, self.input_bytes), self.compiled = known["costs"], known.setdefault("compiled", {})
        self.everything = store_all(len(self.costs))

    def _params(self, arrays: Sequence[Any]) -> list[Any]:
        params: list[Any] = jax.tree.unflatten(self.structure, [arrays[k] for k in self.places])
        return params

    @functools.cached_property
    def frontier(self) -> list[Schedule]:
        """Of the dynamic program, from the fastest on."""
        if not self.stages:
            return []
        most = peak(self.everything, self.costs, self.input_bytes)
        # Sizes are rounded up: as many buckets more as stages, so that storing all fits.
        solutions = frontier(solve(self.costs, self.input_bytes, most + most * len(self.costs) // BUCKETS, BUCKETS))
        return [solution.schedule for solution in solutions]

    @functools.cached_property
    def candidates(self) -> list[Schedule]:
        """From the fastest on, storing all first: some of the frontier, and the textbook's, of whole stages.

        Those need less memory than modelled where the compiled program shares what the model adds.
        """
        length = len(self.stages)
        if not length:
            return [()]
        sizes = [peak(schedule, self.costs, self.input_bytes) for schedule in self.frontier]
        chosen = {self.everything}
        for size in np.geomspace(max(*sizes, 1), max(min(sizes), 1), CANDIDATES):
            fitting = (s for s, own in zip(self.frontier, sizes, strict=True) if own <= size)
            chosen.add(next(fitting, self.frontier[-1]))
        textbook = [uniform(length, length), uniform(length), *(binomial(length, c) for c in SLOTS)]
        chosen |= {_in_pieces(schedule, self.pieces) for schedule in textbook}
        return sorted(chosen, key=lambda s: (s != self.everything, self.time(s), peak(s, self.costs, self.input_bytes)))

    def temp(self, schedule: Schedule, limit: float = float("inf")) -> int:
        """Bytes of the compiled gradient; where that of the parameters alone is beyond the limit, of that."""
        found = self._compile(schedule, False)
        return found if found > limit else max(found, self._compile(schedule, True))

    def _compile(self, schedule: Schedule, by_input: bool) -> int:
        key = (schedule, by_input)
        if key not in self.compiled:
            gradient = jax.jit(self._gradient(Pieces(schedule, self.pieces), by_input))
            compiled = gradient.lower(self.arrays, self.x, self.targets).compile()
            self.compiled[key] = math.ceil(temp_bytes(compiled) * (1 + PACKING)) + SCALARS
        return int(self.compiled[key])

    def _gradient(self, schedule: "Pieces", by_input: bool) -> Any:
        """The value and the gradient of a loss, the gradient by the first carry only if asked for."""
        apply = chain(self.stages, schedule)
        assumed = _mean_of_squares if by_input else _cross_entropy

        def value_and_gradient(arrays: list[Any], x: ArrayTree, targets: Any) -> Any:
            def objective(arrays: list[Any], x: ArrayTree) -> Any:
                y = apply(self._params(arrays), x)
                found = self.loss(y) if self.loss else assumed(y, targets)
                if jnp.shape(found) != ():
                    raise ValueError(f"plan: loss returns shape {list(jnp.shape(found))}; expected a scalar, []")
                return found

            value, pullback = jax.vjp(objective, arrays, x)
            darrays, dx = pullback(jnp.ones_like(value))
            found = jax.tree.leaves((darrays, dx) if by_input else darrays)
            return value, [g for g in found if g.dtype != jax.dtypes.float0]

        return value_and_gradient

    def time(self, schedule: Schedule) -> float:
        """FLOPs, in those of storing all."""
        counted, last = evaluations(schedule), _last_of_groups(schedule)
        once = sum(cost.forward + cost.backward for cost in self.costs)
        more = 0.0
        for i, cost in enumerate(self.costs):
            more += (counted[i] - 1) * cost.forward
            if i in last and cost.again is not None:
                more += cost.again - cost.forward
        return 1 + more / once if once else 1.0

    def plan(self, schedule: Schedule) -> Plan:
        return Plan(
            schedule=schedule,
            pieces=self.pieces,
            peak_bytes=self.temp(schedule),
            modelled_bytes=peak(schedule, self.costs, self.input_bytes) if self.costs else 0,
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


def _in_pieces(schedule: Schedule, pieces: Sequence[int]) -> Schedule:
    """A schedule of stages as one of their pieces."""
    ends = list(itertools.accumulate(pieces))

    def expand(nodes: Schedule) -> Schedule:
        parts = ((expand(n),) if isinstance(n, tuple) else range(ends[n] - pieces[n], ends[n]) for n in nodes)
        return tuple(itertools.chain(*parts))

    return expand(schedule)


def _last_of_groups(schedule: Schedule) -> set[int]:
    """Pieces that end a group: computed again for their tapes, not for their output, which has been read."""
    return {node[-1] for node in _groups(schedule) if isinstance(node[-1], int)}


def _groups(schedule: Schedule) -> Iterator[Schedule]:
    for node in schedule:
        if isinstance(node, tuple):
            yield node
            yield from _groups(node)


_INTEGERS = ("peak_bytes", "modelled_bytes", "forward_evaluations", "lower_bound", "input_bytes")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


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
