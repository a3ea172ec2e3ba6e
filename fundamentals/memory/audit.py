"""What a program costs once it is compiled, and whether what it was to recompute is still recomputed.

Checkpointing trades time for memory: values of the forward pass are thrown away and computed again when the backward
pass needs them. To the compiler they are the same expressions twice, and it may merge them, which puts every value back
into memory: XLA's CPU backend did in JAX 0.10, without a word. So a plan that holds on paper is compared with the
program that runs:

- requested: the matrix products in the program that JAX hands to the compiler, steps of loops counted each;
- distinct: those that are left where equal operations on equal values are merged (`program.count`);
- compiled: those in the program that the compiler made of it.

Requested − distinct is recomputation. Matrix products are what is counted because a compiler leaves them whole: it
fuses, splits and repeats operations entry by entry as it likes. How often those are recomputed is not told.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals import program
from fundamentals.memory import compiled as xla

# Verdicts on recomputation.
NONE = "none of the matmuls"  # is requested twice
NONE_SEEN = "none seen"  # but there are loops or branches that were not looked into
SURVIVED = "survived"  # compiled ≥ requested
PARTLY = "partly removed"
REMOVED = "removed by the compiler"  # compiled ≤ distinct
UNKNOWN = "unknown"  # the numbers don't compare

_JITTED: type = type(jax.jit(lambda: None))
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Saved(NamedTuple):
    """An array that the forward pass keeps for the backward pass."""

    operation: str  # what computes it, "tanh" or "tanh in scan"; of an argument its path, "[0]['w']"
    kind: str  # "computed"; "argument"; "constant": known without the arguments
    shape: tuple[int, ...]
    dtype: str
    bytes: int  # an argument is there anyway, and a constant need not be kept: count what is computed
    source: str  # "file.py:12 (function)"; empty where it is not known


class Audit(NamedTuple):
    """What a compiled program costs. `print` it for a table. None where the backend does not tell."""

    backend: str
    temp_bytes: int | None  # what the program needs while it runs, beside arguments and results
    argument_bytes: int | None
    output_bytes: int | None
    alias_bytes: int | None  # of donated arguments, in whose place results are written
    total_bytes: int | None  # arguments + results + temporaries − aliased
    flops: int  # of the compiled matrix products; loops weighted by their trips, of a branch the most expensive case
    matmuls: int  # compiled
    requested: int
    distinct: int
    recomputation: str  # "none of the matmuls", "none seen", "survived", "partly removed", "removed by the compiler" …
    unknown_loops: tuple[str, ...]  # compiled loops with matmuls, but no trip count that is known: counted once
    saved: tuple[Saved, ...] | None  # of a loss, as by `saved_residuals`; None for other programs
    notes: tuple[str, ...]

    @property
    def saved_bytes(self) -> int | None:
        """Of what is computed; arguments and constants are there anyway."""
        return None if self.saved is None else sum(x.bytes for x in self.saved if x.kind == "computed")

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain dictionaries and lists."""
        fields = self._asdict() | {"saved_bytes": self.saved_bytes}
        saved = None if self.saved is None else [x._asdict() | {"shape": list(x.shape)} for x in self.saved]
        return fields | {"saved": saved, "notes": list(self.notes), "unknown_loops": list(self.unknown_loops)}

    def to_json(self, **options: Any) -> str:
        """`to_dict` as JSON; `options` are those of `json.dumps`."""
        return json.dumps(self.to_dict(), **options)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("temporaries", _size(self.temp_bytes)),
            ("arguments", _size(self.argument_bytes)),
            ("results", _size(self.output_bytes)),
            ("aliased", _size(self.alias_bytes)),
            ("total", _size(self.total_bytes)),
            ("matmuls", f"{self.matmuls} compiled, {self.requested} requested, {self.distinct} distinct"),
            ("FLOPs", f"{self.flops:,} in matmuls, compiled"),
            ("recomputation", self.recomputation + self._numbers()),
        ]
        if self.saved is not None:
            rows.append(("saved", f"{_size(self.saved_bytes)} for the backward pass"))
        lines = [f"compiled for {self.backend}", *(f"  {name:<15}{text}" for name, text in rows)]
        if self.saved is None:
            lines.append("  what is saved for a backward pass: saved_residuals(loss, ...), before it is differentiated")
        computed = Counter(x for x in self.saved or () if x.kind == "computed")
        for (operation, _, shape, dtype, size, source), times in computed.items():
            shown = f"{f'{times} × ' if times > 1 else ''}{dtype}[{', '.join(map(str, shape))}]"
            lines.append(f"    {_size(times * size):<15}{shown}  {operation}{f', {source}' if source else ''}")
        for kind in ("argument", "constant"):
            kept = [x.bytes for x in self.saved or () if x.kind == kind]
            if kept:
                lines.append(f"    {f'{len(kept)} {kind}s':<15}{_size(sum(kept))}, not counted")
        lines += (f"  loop with an unknown number of trips, counted once: {loop}" for loop in self.unknown_loops)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _numbers(self) -> str:
        repeated, left = self.requested - self.distinct, self.matmuls - self.distinct
        return {
            SURVIVED: f": all of {repeated} repeated matmuls",
            PARTLY: f": {left} of {repeated} repeated matmuls are left",
            REMOVED: f": none of {repeated} repeated matmuls is left",
        }.get(self.recomputation, "")


def audit(fn: Callable[..., Any], *args: Any) -> Audit:
    """Compiles a function, without running it, and says what it costs.

    Usually `fn` is a gradient or a whole training step; donation and sharding of a function that is `jax.jit`ted
    already are kept. Memory is what `memory_analysis` of the compiled program says, of one device. Matrix products are
    read in the compiled program itself: XLA's own `cost_analysis` counts the body of a loop once.

    What the verdict on recomputation can't tell:
    - Numbers of matmuls are compared, not the matmuls. A compiler that also turns products into something else (one
      batched product for two; a library's attention kernel) makes them differ for that reason.
    - In `while` loops, branches and very long scans (see `program.count`), nothing is seen to be repeated: "none seen"
      is then what can be said, and `notes` names them. Recomputation in other scans is seen.
    - "unknown": the compiler found out how often a `while` loop runs, or wrote it out, so that numbers don't compare.

    Args:
      fn: of pytrees of arrays.
      *args: its arguments; of arrays, only shapes and dtypes matter, so that they may be `jax.ShapeDtypeStruct`s.

    Returns:
      An `Audit`. If the function returns one floating-point number and its first argument has floating-point leaves,
      then also what would be saved if it were differentiated with respect to that one.

    Raises:
      TypeError: fn is no function, or a leaf of the arguments is no array. Errors of fn itself pass through.

    Example:
      print(audit(jax.grad(loss), params, batch))
    """
    _checked("audit", fn, args)
    traced = (fn if isinstance(fn, _JITTED) else jax.jit(fn)).trace(*args)  # type: ignore[attr-defined]
    counts = program.count(traced.jaxpr)
    compiled = traced.lower().compile()
    cost = xla.cost(compiled.as_text() or "")
    temp, argument, output, alias, total = _memory(compiled)
    whiles = sum(name.startswith("while") for name in counts.opaque)
    notes = [f"not looked into for recomputation: {name}" for name in dict.fromkeys(counts.opaque)]
    if cost.branches:
        notes.append(f"of conditionals with matmuls ({cost.branches}), the most expensive case is counted")
    notes += [f"not counted: the compiler's call of {name}" for name in cost.others]
    return Audit(
        jax.default_backend(),
        temp,
        argument,
        output,
        alias,
        total,
        cost.flops,
        cost.matmuls,
        counts.matmuls,
        counts.distinct,
        _verdict(counts, cost.matmuls, comparable=whiles <= len(cost.unknown)),
        cost.unknown,
        saved_residuals(fn, *args) if _is_loss(traced.out_info, args) else None,
        tuple(notes),
    )


def saved_residuals(fn: Callable[..., Any], *args: Any, argnums: int | tuple[int, ...] = 0) -> tuple[Saved, ...]:
    """What the forward pass of a function keeps for its backward pass.

    It is read in the program of `jax.vjp`, of which nothing is run or compiled. The compiler may still keep less, if it
    computes a value again that is cheap, or more, if it undoes what was checkpointed: see `audit`.

    Args:
      fn: what is to be differentiated, usually a loss; not its gradient.
      *args: as of `audit`.
      argnums: which arguments to differentiate with respect to, as in `jax.grad`.

    Returns:
      One entry for each array, however often it is used: what is computed, in that order, then arguments, then
      constants. Numbers that are written in the program are left out.

    Raises:
      TypeError: as `audit`; or argnums are no integers.
      ValueError: there are no such arguments.

    Example:
      sum(x.bytes for x in saved_residuals(loss, params, batch) if x.kind == "computed")
    """
    _checked("saved_residuals", fn, args)
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in chosen:
        if isinstance(i, bool) or not isinstance(i, int | np.integer):
            raise TypeError(f"saved_residuals: argnums is {argnums!r}; expected integers")
        if not -len(args) <= i < len(args):
            raise ValueError(f"saved_residuals: argnums is {argnums!r}; expected indices of {len(args)} arguments")

    def forward(*args: Any) -> Any:
        def of_chosen(*values: Any) -> Any:
            given = list(args)
            for i, value in zip(chosen, values, strict=True):
                given[i] = value
            return fn(*given)

        return jax.vjp(of_chosen, *(args[i] for i in chosen))

    results = len(jax.tree.leaves(jax.eval_shape(fn, *args)))
    flat = program.flatten(forward, *args)
    jaxpr = flat.jaxpr.jaxpr
    makers = {x: (equation, i) for equation in jaxpr.eqns for i, x in enumerate(equation.outvars)}
    inputs = dict(zip(jaxpr.invars, flat.inputs, strict=True))
    depends = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not isinstance(x, core.Literal) and x in depends for x in equation.invars):
            depends |= set(equation.outvars)
    saved: dict[str, list[Saved]] = {"computed": [], "argument": [], "constant": []}
    for x in dict.fromkeys(x for x in jaxpr.outvars[results:] if not isinstance(x, core.Literal)):
        operation, place = (inputs[x], "") if x in inputs else _origin(*makers[x]) if x in makers else ("array", "")
        kind = "argument" if x in inputs else "computed" if x in depends else "constant"
        aval: Any = x.aval
        saved[kind].append(
            Saved(operation, kind, aval.shape, str(aval.dtype), aval.size * aval.dtype.itemsize, program.short(place))
        )
    return tuple(itertools.chain.from_iterable(saved.values()))


def _origin(equation: core.JaxprEqn, result: int) -> tuple[str, str]:
    """What operation computes one result of an equation, and where."""
    name, place = equation.primitive.name, program.line(equation)
    if name != "scan":
        return name, place
    body: Any = equation.params["jaxpr"].jaxpr
    x = body.outvars[result]
    inner = next((e for e in body.eqns if x in e.outvars), None)
    if inner is None:
        return ("state of scan" if x in body.invars else "scan"), place
    return f"{inner.primitive.name} in scan", program.line(inner) or place


def _checked(function: str, fn: Any, args: tuple[Any, ...]) -> None:
    if not callable(fn):
        raise TypeError(f"{function}: fn is of type {type(fn).__name__}; expected a function")
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        if not isinstance(
            leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | bool | int | float | complex
        ):
            name = f"args{jax.tree_util.keystr(path)}"
            raise TypeError(
                f"{function}: {name} is of type {type(leaf).__name__}; expected an array, a ShapeDtypeStruct or a "
                "number (bind other arguments with functools.partial)"
            )


def _is_loss(result: Any, args: tuple[Any, ...]) -> bool:
    """Whether a function of these arguments has a gradient with respect to the first of them."""
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating) or not args:
        return False
    return any(jnp.issubdtype(jax.typeof(x).dtype, jnp.floating) for x in jax.tree.leaves(args[0]))


def _memory(compiled: Any) -> tuple[int | None, ...]:
    """Bytes of temporaries, arguments, results, what is aliased, and the total."""
    try:
        found = compiled.memory_analysis()
    except NotImplementedError:
        found = None
    if found is None:
        return (None,) * 5
    temp, argument, output, alias = (
        int(getattr(found, f"{name}_size_in_bytes")) for name in ("temp", "argument", "output", "alias")
    )
    return temp, argument, output, alias, argument + output + temp - alias


def _verdict(counts: program.Counts, compiled: int, comparable: bool) -> str:
    if counts.matmuls == counts.distinct:
        return NONE_SEEN if counts.opaque else NONE
    if not comparable:
        return UNKNOWN
    if compiled >= counts.matmuls:
        return SURVIVED
    return REMOVED if compiled <= counts.distinct else PARTLY


def _size(size: int | None) -> str:
    """Bytes for reading."""
    if size is None:
        return "unknown: the backend does not tell"
    unit = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{size} B" if not unit else f"{size / 1024**unit:.4g} {_UNITS[unit]}"
