"""Reading JAX programs: any JAX function as a flat list of equations, each with its line in the source.

`jax.make_jaxpr` turns a function into a program, but one whose calls hold programs of their own: `jit`, `checkpoint`,
`custom_jvp`, `custom_vjp`. `flatten` evaluates it equation by equation under a second trace, so that every call is
replaced by what it computes. Two things follow:

- autodiff of a flat program is that of plain arithmetic: custom derivative rules are gone, and what they ought to
  compute is there to compare them with;
- each equation stands for one operation at one place of the user's file, and each variable is one value. Operands that
  are broadcast are so by an equation of their own.

Loops stay single equations, but for scans of at most `unroll` steps, of which every step is written out. The equations
are JAX's own (`jax.extend.core`): `Primitive.bind(*operands, **equation.params)` evaluates one.

`count` goes through a program without evaluating it: how many matrix products does it ask for, and how many would be
left if no value was computed twice? The difference is recomputation. What an equation costs is said in `_flops`.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util

from fundamentals import _flops
from fundamentals.base import Array

# Calls that are replaced by the program that they hold. Not shard_map, whose program sees other shapes.
PLAIN_CALLS = {"jit", "closed_call", "eval_jaxpr", "remat2"}  # remat2: jax.checkpoint
CUSTOM_CALLS = {"custom_jvp_call", "custom_vjp_call"}  # with a derivative that their author gave
_CALLS = PLAIN_CALLS | CUSTOM_CALLS

# Operations entry by entry, which take operands of size 1 along an axis, or no axes at all, and broadcast them.
_BROADCASTING = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "max", "min", "atan2", "nextafter", "complex"),
    *("and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge"),
}

# A `jit` of this name returns its first operands as they are. The rest of them only keep the compiler from seeing it.
RECOMPUTE_LATER = "recompute_later"

# So many equations, steps of loops counted each, are compared with each other, which takes about a second.
_LOOKED_INTO = 100_000


class Operation(NamedTuple):
    """All equations of one primitive in a program, by the convention of `Counts`."""

    times: int  # how often it is evaluated
    flops: int  # of all evaluations together
    matmuls: int = 0  # of all evaluations together
    counted: bool = True  # whether it is known how many FLOPs it takes; 0 stands for those that are not


class Counts(NamedTuple):
    """The matrix products of a program, convolutions among them, and all of its operations.

    What has no axis to sum over, or gives a single number, is no matrix product: compilers multiply and add there.

    Each step of a loop counts, and of a branch the most expensive case; `while` loops, whose steps nobody knows, count
    once. FLOPs are 2·m·n·k for a product of matrices [m, k] and [k, n], likewise for convolutions, where products with
    padding don't count; 1 for each entry of the result of arithmetic entry by entry, be it a sum or a tanh; 1 for each
    entry that a reduction is given; and 0 for what moves, chooses, converts or compares entries, or computes with
    integers. `str` is a table to read.
    """

    matmuls: int
    flops: int  # of all products
    distinct: int  # matmuls that are left where equal operations on equal values are merged
    opaque: tuple[str, ...]  # equations with matmuls inside that were not seen: "while, file.py:12 (function)"
    operations: Mapping[str, Operation]  # by the primitive's name, the most FLOPs first

    @property
    def all_flops(self) -> int:
        """Of all operations, not of products alone."""
        return sum(operation.flops for operation in self.operations.values())

    def __str__(self) -> str:
        times = sum(operation.times for operation in self.operations.values())
        rows = [(name, found.times, found.flops, found.matmuls) for name, found in self.operations.items()]
        rows.append(
            ("products alone", sum(x.times for x in self.operations.values() if x.matmuls), self.flops, self.matmuls)
        )
        rows.append(("total", times, self.all_flops, self.matmuls))
        texts = [(name, *(f"{number:,}" for number in numbers)) for name, *numbers in rows]
        uncounted = [name for name, found in self.operations.items() if not found.counted]
        texts = [(*row[:2], "–" if row[0] in uncounted else row[2], row[3]) for row in texts]
        head = ("operation", "times", "FLOPs", "matmuls")
        widths = [max(len(row[i]) for row in [head, *texts]) for i in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
            for row in [head, *texts]
        ]
        rule = "─" * len(lines[0])
        notes = [f"–: not counted: {', '.join(uncounted)}"] if uncounted else []
        repeated = self.matmuls - self.distinct
        notes += [f"matmuls that repeat others: {repeated:,}"] if repeated else []
        notes += [f"seen as a whole: {where}" for where in self.opaque]
        notes += (
            ["steps of while loops: nobody knows how many, so each counts once"] if "while" in self.operations else []
        )
        return "\n".join([lines[0], rule, *lines[1:-2], *([rule] if lines[1:-2] else []), *lines[-2:], *notes])


class Program(NamedTuple):
    """A function at arguments of given shapes."""

    jaxpr: core.ClosedJaxpr  # of the leaves of the arguments, in order
    inputs: tuple[str, ...]  # the path of each leaf: "[0].w"
    outputs: Any  # the structure of the result

    @property
    def equations(self) -> Sequence[Any]:
        """In the order in which they are evaluated."""
        equations: Sequence[Any] = self.jaxpr.jaxpr.eqns
        return equations

    def __call__(self, *args: Any) -> Any:
        """The function's result at other arguments of the same structure and shapes."""
        return jax.tree.unflatten(self.outputs, core.jaxpr_as_fun(self.jaxpr)(*jax.tree.leaves(args)))


def flatten(function: Callable[..., Any], *args: Any, unroll: int = 0) -> Program:
    """The program of a function, with nothing in it but operations.

    Args:
      function: of any pytrees of arrays.
      *args: example arguments; of arrays only shapes and dtypes matter.
      unroll: scans of at most so many steps are written out; longer ones, and other loops, stay whole.
    """
    nested, result = jax.make_jaxpr(function, return_shape=True)(*args)
    leaves = jax.tree_util.tree_leaves_with_path(args)
    values = [leaf for _, leaf in leaves]
    jaxpr = jax.make_jaxpr(lambda *operands: _flat(nested.jaxpr, nested.consts, operands, unroll, None))(*values)
    names = tuple(jax.tree_util.keystr(path) for path, _ in leaves)
    return Program(jaxpr, names, jax.tree.structure(result))


def line(equation: core.JaxprEqn) -> str:
    """Where the user wrote it: `/path/to/file.py:12 (function)`; empty where no line of theirs is known."""
    text = source_info_util.summarize(equation.source_info)  # file:line:column (function)
    place, bracket, function = text.partition(" (")
    parts = place.split(":")
    return ":".join(parts[:-1] if len(parts) > 2 and parts[-1].isdecimal() else parts) + bracket + function


def short(place: str) -> str:
    """`file.py:12 (function)` of what `line` gives."""
    path, bracket, function = place.partition(" (")
    return path.replace("\\", "/").rpartition("/")[2] + bracket + function


def site(equation: core.JaxprEqn) -> Any:
    """The calls that lead to where an equation is from, to be compared with those of others: the same in each step of a
    loop. None where they are not known.
    """
    traceback: Any = equation.source_info.traceback
    if traceback is None:
        return None
    codes, instructions = traceback.raw_frames()
    return tuple(codes), tuple(instructions)


def evaluate(
    jaxpr: core.Jaxpr, constants: Sequence[Any], operands: Sequence[Any], apply: Callable[[int, Any, list[Any]], Any]
) -> dict[Any, Any]:
    """The value of every variable, of constants and operands first, then in the order of the equations.

    Args:
      jaxpr: a program.
      constants, operands: values of its constants and arguments.
      apply: (number, equation, operands) → results; `execute` is what evaluates an equation as it is.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))
    for i, equation in enumerate(jaxpr.eqns):
        results = apply(i, equation, read(known, equation.invars))
        known |= dict(zip(equation.outvars, results, strict=True))
    return known


def read(known: dict[Any, Any], variables: Sequence[Any]) -> list[Any]:
    """The values of variables, some of which may be literals."""
    return [variable.val if isinstance(variable, core.Literal) else known[variable] for variable in variables]


def execute(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def _flat(jaxpr: Any, constants: Sequence[Any], operands: Sequence[Any], unroll: int, caller: Any) -> list[Any]:
    """The results, by operations alone; `caller` is where it is called from, for what JAX itself wrote inside."""

    def apply(_: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        info = equation.source_info if caller is None or line(equation) else caller
        with source_info_util.user_context(info.traceback):
            if equation.primitive.name in _CALLS:
                return _flat(*held(equation), operands, unroll, info)
            if equation.primitive.name == "scan" and equation.params["length"] <= unroll:
                return _unrolled(equation, operands, unroll, info)
            return execute(equation, _broadcast(equation, operands))

    return read(evaluate(jaxpr, constants, operands, apply), jaxpr.outvars)


def _broadcast(equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """The operands, all of the shape of the result if that is what the operation makes of them. Not literals."""
    if equation.primitive.name not in _BROADCASTING:
        return operands
    (result,) = equation.outvars
    shape = result.aval.shape  # type: ignore[attr-defined]
    return [
        x
        if isinstance(variable, core.Literal) or jnp.shape(x) == shape
        else jax.lax.broadcast_in_dim(x, shape, range(len(shape)) if jnp.ndim(x) else ())
        for variable, x in zip(equation.invars, operands, strict=True)
    ]


def held(equation: core.JaxprEqn) -> tuple[Any, Sequence[Any]]:
    """The one program that a call or a scan holds, and its constants; versions of JAX name it differently."""
    (inner,) = (value for value in equation.params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr))
    return (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())


def _unrolled(equation: core.JaxprEqn, operands: list[Any], unroll: int, info: Any) -> list[Any]:
    """A scan, step by step."""
    body, constants = held(equation)
    length = equation.params["length"]
    whole, carried = whole_and_carried(equation, body)
    fixed, state, sequences = operands[: whole - carried], operands[whole - carried : whole], operands[whole:]
    emitted: list[list[Array]] = [[] for _ in range(length)]
    steps = range(length)
    for i in reversed(steps) if equation.params["reverse"] else steps:
        items = [jax.lax.index_in_dim(sequence, i, keepdims=False) for sequence in sequences]
        results = _flat(body, constants, [*fixed, *state, *items], unroll, info)
        state, emitted[i] = results[:carried], results[carried:]
    return [*state, *(jnp.stack(column) for column in zip(*emitted, strict=True))]


def whole_and_carried(equation: core.JaxprEqn, body: Any) -> tuple[int, int]:
    """How many operands of a scan are constants or state, and how many are state. It shows in their shapes: versions of
    JAX name the counts differently.
    """

    def same(outer: Any, inner: Any) -> bool:
        return bool(outer.aval.shape == inner.aval.shape)

    whole = sum(map(same, equation.invars, body.invars))
    return whole, sum(map(same, equation.outvars, body.outvars))


def count(jaxpr: core.ClosedJaxpr) -> Counts:
    """The matrix products that a program asks for, and how many of them repeat others.

    Calls are replaced by what they compute, as in `flatten`, `shard_map` by what one device does, and scans by their
    steps, so that a value computed once in one loop and again in another is seen to be the same. Equations that neither
    a result nor an effect needs don't count. `while` loops, branches and scans that are too long (100,000 equations in
    all, each step's counted) are compared as a whole: what they repeat inside is not seen.

    Reference: the numbering of values is that of Cocke and Schwartz 1970, over the whole program.
    """
    ledger = _Ledger()
    inputs = [ledger.value(("input", i)) for i, _ in enumerate(jaxpr.jaxpr.invars)]
    return ledger.total(ledger.enter(jaxpr.jaxpr, jaxpr.consts, inputs, None))


class _Work(NamedTuple):
    """What an equation asks for."""

    matmuls: int
    flops: int  # of products
    operations: Mapping[str, Operation]  # its own, or those that it holds
    opaque: tuple[int, str] | None  # if they are inside: which equation, and what to call it


_NOTHING = _Work(0, 0, {}, None)


class _Record(NamedTuple):
    """An equation, at one step of every loop around it."""

    number: int  # shared by all that compute the same
    operands: Sequence[int]
    work: _Work
    twins: list[int]  # the records of the same equation at the other steps


class _Ledger:
    """The values of a program in the order in which they are computed."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.classes: list[int] = []  # of each value; equal ones have the same
        self.makers: list[int] = []  # the record of each value; -1 for inputs
        self.records: list[_Record] = []
        self.stacks: dict[int, list[int]] = {}  # a value that a scan has stacked → those of its steps
        self.shards: dict[int, tuple[int, str]] = {}  # a result of shard_map → what it is on a device, and its spec
        self.twins: dict[Any, list[int]] = {}
        self.known: dict[int, tuple[core.JaxprEqn, int, _Work]] = {}  # what never changes about an equation
        self.effects: list[int] = []  # records that are needed whatever the results are
        self.left = _LOOKED_INTO

    def number(self, key: Any) -> int:
        """The same for equal keys."""
        return self.numbers.setdefault(key, len(self.numbers))

    def value(self, key: Any, maker: int = -1) -> int:
        """A new value; those of the same key are equal."""
        self.classes.append(self.number(key))
        self.makers.append(maker)
        return len(self.classes) - 1

    def enter(self, jaxpr: Any, constants: Sequence[Any], operands: Sequence[int], path: int | None) -> list[int]:
        """The values of the results. `path` tells the steps of a scan from those of another; None outside of scans."""
        known: dict[Any, int] = dict(zip(jaxpr.invars, operands, strict=True))
        known |= {
            variable: self.value(("constant", id(x))) for variable, x in zip(jaxpr.constvars, constants, strict=True)
        }

        def at(variable: Any) -> int:
            if not isinstance(variable, core.Literal):
                return known[variable]
            return self.value(("literal", str(variable.aval), repr(variable.val)))

        for equation in jaxpr.eqns:
            results = self.apply(equation, [at(variable) for variable in equation.invars], path)
            known |= dict(zip(equation.outvars, results, strict=True))
        return [at(variable) for variable in jaxpr.outvars]

    def apply(self, equation: core.JaxprEqn, operands: list[int], path: int | None) -> list[int]:
        """The values of the results of an equation of any kind."""
        name = equation.primitive.name
        if _passes_through(equation):
            return operands[: len(equation.outvars)]
        inner = None if path is None else self.number(("inside", path, id(equation)))
        if name in _CALLS:
            return self.enter(*held(equation), operands, inner)
        if name == "shard_map":
            return self.on_devices(equation, operands, inner)
        if name == "scan":
            size = _size(equation)
            if path is not None or size <= self.left:  # what is inside has been counted with what is around it
                self.left -= size if path is None else 0
                return self.unroll(equation, operands, inner)
        return self.record(equation, operands, path)

    def record(self, equation: core.JaxprEqn, operands: list[int], path: int | None) -> list[int]:
        """The values of the results of an operation."""
        if id(equation) not in self.known:  # the equation is kept as well: another one must not get its id
            unique = id(equation) if equation.effects else 0
            code = self.number((equation.primitive.name, unique, _comparable(equation.params)))
            self.known[id(equation)] = (equation, code, _work(equation))
        _, code, work = self.known[id(equation)]
        number = self.number((code, *(self.classes[x] for x in operands)))
        self.effects += [len(self.records)] if equation.effects else []
        twin = None if path is None else (path, id(equation))
        return self.make(number, operands, len(equation.outvars), work, twin)

    def make(
        self, number: int, operands: Sequence[int], results: int, work: _Work = _NOTHING, twin: Any = None
    ) -> list[int]:
        """The values of so many results of a new record."""
        index = len(self.records)
        twins = [] if twin is None else self.twins.setdefault(twin, [])
        twins.append(index)
        self.records.append(_Record(number, operands, work, twins))
        return [self.value((number, "result", i), index) for i in range(results)]

    def unroll(self, equation: core.JaxprEqn, operands: list[int], inner: int | None) -> list[int]:
        """A scan, step by step; `inner` is its path if it is inside another."""
        body, constants = held(equation)
        whole, carried = whole_and_carried(equation, body)
        path = self.number(("scan", len(self.records))) if inner is None else inner
        fixed, state, sequences = operands[: whole - carried], operands[whole - carried : whole], operands[whole:]
        steps = range(equation.params["length"])
        emitted: list[list[int]] = [[0] * len(steps) for _ in body.outvars[carried:]]
        for i in reversed(steps) if equation.params["reverse"] else steps:
            results = self.enter(body, constants, [*fixed, *state, *(self.item(x, i) for x in sequences)], path)
            state = results[:carried]
            for column, x in zip(emitted, results[carried:], strict=True):
                column[i] = x
        return [*state, *map(self.stack, emitted)]

    def on_devices(self, equation: core.JaxprEqn, operands: list[int], inner: int | None) -> list[int]:
        """A `shard_map`, which is the program of one device."""
        ins, outs = ([str(spec) for spec in equation.params[f"{way}_specs"]] for way in ("in", "out"))
        shards = []
        for x, spec in zip(operands, ins, strict=True):
            shard, came_as = self.shards.get(x, (0, ""))
            if came_as != spec:
                (shard,) = self.make(self.number(("shard", self.classes[x], spec)), [x], 1)
            shards.append(shard)
        wholes = []
        for x, spec in zip(self.enter(*held(equation), shards, inner), outs, strict=True):
            (whole,) = self.make(self.number(("whole", self.classes[x], spec)), [x], 1)
            self.shards[whole] = (x, spec)
            wholes.append(whole)
        return wholes

    def item(self, sequence: int, i: int) -> int:
        """What a step of a scan gets of a sequence: what an earlier scan has put there, if one has."""
        if sequence in self.stacks:
            return self.stacks[sequence][i]
        return self.make(self.number(("item", self.classes[sequence], i)), [sequence], 1)[0]

    def stack(self, column: list[int]) -> int:
        number = self.number(("stack", *(self.classes[x] for x in column)))
        (result,) = self.make(number, column, 1)
        self.stacks[result] = column
        return result

    def total(self, results: Sequence[int]) -> Counts:
        """Over all that the results need."""
        waiting = [*self.effects, *(self.makers[x] for x in results)]
        needed: set[int] = set()
        while waiting:
            index = waiting.pop()
            if index >= 0 and index not in needed:
                needed.add(index)
                waiting += (self.makers[x] for x in self.records[index].operands)
                waiting += self.records[index].twins
                self.records[index].twins.clear()  # once is enough
        records = [self.records[index] for index in sorted(needed)]
        # Equations in loops come up many times with the same work, which is gone through once.
        often = Counter(id(record.work) for record in records)
        works = {id(record.work): record.work for record in records}
        operations = _merged([(times, works[key].operations) for key, times in often.items()])
        return Counts(
            sum(record.work.matmuls for record in records),
            sum(record.work.flops for record in records),
            sum({record.number: record.work.matmuls for record in records}.values()),
            tuple({r.work.opaque: r.work.opaque[1] for r in records if r.work.opaque}.values()),
            dict(sorted(operations.items(), key=lambda item: (-item[1].flops, -item[1].times, item[0]))),
        )


def _passes_through(equation: core.JaxprEqn) -> bool:
    """Whether the results of an equation are its first operands, whatever the compiler makes of it."""
    name, params = equation.primitive.name, equation.params
    if name == "reduce_precision":  # where it keeps all of it: JAX rounds what it saves once more
        kept = jnp.finfo(equation.outvars[0].aval.dtype)  # type: ignore[attr-defined]
        return bool(params["exponent_bits"] >= kept.nexp and params["mantissa_bits"] >= kept.nmant)
    if name == "jit":
        if params.get("name") != RECOMPUTE_LATER:
            return False
        pairs: list[Any] = [(x.aval, y.aval) for x, y in zip(equation.invars, equation.outvars, strict=False)]
        return len(pairs) == len(equation.outvars) and all(x.shape == y.shape and x.dtype == y.dtype for x, y in pairs)
    return name in {"optimization_barrier", "name", "copy", "copy_p", "sharding_constraint", "pvary"}


def _size(equation: core.JaxprEqn) -> int:
    """How many equations there are in one, steps of scans counted each."""
    if equation.primitive.name not in _CALLS | {"scan", "shard_map"}:
        return 1
    body, _ = held(equation)
    return int(equation.params.get("length", 1)) * (1 + sum(map(_size, body.eqns)))


def _comparable(params: dict[str, Any]) -> tuple[Any, ...]:
    """Parameters as something to compare and to hash."""
    return tuple((name, _text(value) if _unhashable(value) else value) for name, value in sorted(params.items()))


def _unhashable(value: Any) -> bool:
    if any(True for _ in programs(value)):
        return True
    try:
        hash(value)
    except TypeError:
        return True
    return False


def _text(value: Any) -> str:
    """Programs that are written alike, and hold the same constants, compute the same."""
    return f"{value} {[id(x) for program in programs(value) for x in getattr(program, 'consts', ())]}"


def programs(value: Any) -> Iterator[Any]:
    """Those in a parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from programs(item)


def matmuls(equation: core.JaxprEqn) -> int:
    """Matrix products of one equation, those of the programs that it holds among them."""
    return _work(equation).matmuls


def _work(equation: core.JaxprEqn) -> _Work:
    """What one equation asks for, the programs that it holds included."""
    name, params = equation.primitive.name, equation.params
    product = _flops.product(equation)
    if product:
        return _single(name, product.flops, int(product.is_matmul), True)
    inner = [program for value in params.values() for program in programs(value)]
    if not inner or name in _flops.COMBINING:
        known = _flops.other(equation)
        return _single(name, known or 0, None, known is not None)
    parts = [count(_closed(program)) for program in inner]
    if name == "cond":
        parts = [max(parts, key=lambda part: (part.flops, part.matmuls, part.all_flops))]
    times = int(params["length"]) if name == "scan" else 1
    matmuls, flops = times * sum(part.matmuls for part in parts), times * sum(part.flops for part in parts)
    operations = _merged([(times, part.operations) for part in parts])
    if name == "while":
        operations["while"] = Operation(1, 0)
    if not matmuls:
        return _Work(0, flops, operations, None)
    place = short(line(equation))
    return _Work(matmuls, flops, operations, (id(equation), f"{name}, {place}" if place else name))


@functools.lru_cache(maxsize=4096)
def _single(name: str, flops: int, matmuls: int | None, counted: bool) -> _Work:
    """Of one operation; None matmuls: it is no product. Kept, since few equations are unlike all others."""
    operations = {name: Operation(1, flops, matmuls or 0, counted)}
    return _Work(matmuls or 0, 0 if matmuls is None else flops, operations, None)


def _merged(parts: Iterable[tuple[int, Mapping[str, Operation]]]) -> dict[str, Operation]:
    """All operations of some, each so many times."""
    tally: dict[str, list[int]] = {}
    for times, operations in parts:
        for name, found in operations.items():
            sums = tally.setdefault(name, [0, 0, 0, 1])
            sums[0] += times * found.times
            sums[1] += times * found.flops
            sums[2] += times * found.matmuls
            sums[3] &= found.counted
    return {name: Operation(sums[0], sums[1], sums[2], bool(sums[3])) for name, sums in tally.items()}


def _closed(program: Any) -> core.ClosedJaxpr:
    return program if isinstance(program, core.ClosedJaxpr) else core.ClosedJaxpr(program, ())
