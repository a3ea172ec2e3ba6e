"""What would a Jacobian cost, and what is in it?

1. relu of 4096 numbers has a Jacobian of 4096 × 4096: 64 MiB in float32, formed here in full. Off its diagonal it is
   exactly zero, on it 0 or 1. A VJP needs the cotangent that comes in and the one that goes out, 32 KiB, and is the
   same as the product of a row with the matrix. Both are timed.
2. A batch of 100 makes it 409,600 × 409,600: 625 GiB, which is computed from shapes, and refused.
3. "Use only matching elements" is right for functions entry by entry, whose Jacobian is diagonal. The patterns of
   others are found and drawn: softmax of each row and layer normalization mix a row, so there is a block for each
   example; batch normalization mixes examples; a running sum is triangular; a transposition permutes.

Expected: all of that.

    python -m experiments.jacobian_cost --flagfile=configs/jacobian_cost.flags

Ctrl-C leaves what is finished.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, jacobian_cost_figures, measure
from fundamentals import activations, layers
from fundamentals.base import Array, PRNGKey
from fundamentals.graph.jacobians import Jacobian, jacobian, jacobian_bytes

RESULTS, FIGURE = FILES = ("results.json", "jacobian_cost.png")
EXAMPLES, FEATURES, UNITS = 4, 6, 3  # of the patterns: small enough to see each entry
LENGTH = 24
BOUND = 1e-6  # of relative differences, in float32
NOTES_SIZE, NOTES_BATCH = 4096, 100  # what the notes' numbers are of


class Formed(NamedTuple):
    """A Jacobian in full, and its VJP."""

    size: int
    bytes: int
    vjp_bytes: int
    pattern: str
    off_diagonal: int  # entries that are not zero
    diagonal: tuple[float, ...]  # the values there
    difference: float  # of row × matrix from the VJP, relative
    forming: float  # seconds
    product: float  # of row × matrix, once it is formed
    vjp: float


class Batch(NamedTuple):
    """A Jacobian that nobody forms."""

    shape: tuple[int, int]
    bytes: int
    vjp_bytes: int
    refusal: str  # what is said if it is asked for


class Pattern(NamedTuple):
    """What is not zero in a function's Jacobian."""

    name: str
    expected: str
    found: str
    proven: bool
    nonzero: int
    shape: tuple[int, int]
    support: np.ndarray  # [M, N]


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    flags.DEFINE_integer("size", NOTES_SIZE, "N, of the Jacobian that is formed.", upper_bound=16384, **positive)
    flags.DEFINE_integer("batch", NOTES_BATCH, "Examples of the Jacobian that is not.", **positive)
    flags.DEFINE_integer("repeats", 15, "Rounds of timing.", **positive)
    flags.DEFINE_integer("seed", 0, "Of inputs and weights.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/jacobian_cost", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def run(*, size: int, batch: int, repeats: int, seed: int, output_dir: str, overwrite: bool) -> list[common.Verdict]:
    """Form, time, print, draw and judge."""
    folder = common.output_folder(output_dir, FILES, dict(locals()), overwrite=overwrite)
    formed_key, pattern_key = jax.random.split(jax.random.key(seed))
    formed: Formed | None = None
    whole: Batch | None = None
    patterns: list[Pattern] = []
    verdicts: list[common.Verdict] = []
    complete = False
    try:
        with jax.default_matmul_precision("highest"), common.interruptible(), common.progress() as bar:
            functions = examples(pattern_key)
            task = bar.add_task("Jacobians", total=2 + len(functions), note="by shapes")
            whole = batch_bytes(batch, size)
            bar.update(task, advance=1, note=f"{size:,} × {size:,}")
            formed = form(formed_key, size, repeats)
            verdicts += judge_formed(formed) + judge_batch(whole, batch)
            bar.update(task, advance=1, note="patterns")
            for name, (function, x, expected) in functions.items():
                patterns.append(pattern(name, function, x, expected))
                bar.advance(task)
            verdicts += judge_patterns(patterns)
            complete = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(patterns)} of {len(functions)} patterns")
        raise
    finally:
        report(folder, formed, whole, patterns, verdicts, complete=complete)
    return verdicts


def form(key: PRNGKey, size: int, repeats: int) -> Formed:
    """The Jacobian of relu, its product with a row, and the VJP that is the same."""
    x_key, dy_key = jax.random.split(key)
    x, dy = jax.random.normal(x_key, (size,)), jax.random.normal(dy_key, (size,))
    found = jacobian(activations.relu, x, max_bytes=2**30)
    matrix = np.asarray(found.matrix)
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    full = jax.jit(jax.jacrev(activations.relu)).lower(x).compile()
    multiply = jax.jit(lambda dy, matrix: dy @ matrix).lower(dy, found.matrix).compile()
    vjp = jax.jit(lambda x, dy: jax.vjp(activations.relu, x)[1](dy)[0]).lower(x, dy).compile()
    calls = {"form": lambda: full(x), "multiply": lambda: multiply(dy, found.matrix), "vjp": lambda: vjp(x, dy)}
    for call in calls.values():
        measure.finished(call)
    times = {name: statistics.median(t) for name, t in measure.in_turn(calls, repeats, float("inf")).items()}
    return Formed(
        size,
        found.matrix.nbytes,
        found.vjp_bytes,
        found.pattern,
        int(np.count_nonzero(off)),
        tuple(map(float, np.unique(np.diagonal(matrix)))),
        measure.relative_difference(multiply(dy, found.matrix), vjp(x, dy)),
        times["form"],
        times["multiply"],
        times["vjp"],
    )


def batch_bytes(batch: int, size: int) -> Batch:
    """By shapes alone; and what happens to who asks for it."""
    x = jax.ShapeDtypeStruct((batch, size), jnp.float32)
    needed = jacobian_bytes(activations.relu, x)
    refusal = ""
    try:
        jacobian(activations.relu, x, max_bytes=needed.jacobian - 1)
    except ValueError as error:
        refusal = str(error)
    return Batch(needed.shape, needed.jacobian, needed.vjp, refusal)


def examples(key: PRNGKey) -> dict[str, tuple[Callable[[Array], Array], Array, str]]:
    """Functions, where to take their Jacobians, and the patterns that these have."""
    x_key, w_key, line_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (EXAMPLES, FEATURES))
    w = jax.random.normal(w_key, (FEATURES, UNITS))
    line = jax.random.normal(line_key, (LENGTH,))
    ones, zeros = jnp.ones(FEATURES), jnp.zeros(FEATURES)
    b, d = EXAMPLES, FEATURES
    rows = f"block diagonal ({b} blocks of {d} × {d})"
    return {
        "relu": (activations.relu, x, "diagonal"),
        "tanh": (activations.tanh, x, "diagonal"),
        "x + x": (lambda x: x + x, x, "scalar times identity"),
        "softmax of rows": (activations.softmax, x, rows),
        "layer norm": (lambda x: layers.layer_norm(x, ones, zeros), x, rows),
        "batch norm": (lambda x: layers.batch_norm(x, ones, zeros), x, f"diagonal blocks ({b} × {b} of {d} × {d})"),
        "X W, a batch": (lambda x: x @ w, x, f"block diagonal ({b} equal blocks of {UNITS} × {d})"),
        "cumulative sum": (jnp.cumsum, line, "lower triangular"),
        "convolution": (_convolve, line, "banded (1 below, 1 above the diagonal)"),
        "transposition": (jnp.transpose, x, "permutation"),
        "every second": (lambda x: x[:, ::2], x, "selection (one entry a row)"),
        "x / ‖x‖": (lambda x: x / jnp.linalg.norm(x), line, "dense"),
    }


def _convolve(x: Array) -> Array:
    return jnp.convolve(x, jnp.array([1.0, -2.0, 0.5]), mode="same")


def pattern(name: str, function: Callable[[Array], Array], x: Array, expected: str) -> Pattern:
    """Of one function; the entries that are not zero at x."""
    found: Jacobian = jacobian(function, x)
    support = np.asarray(found.matrix) != 0
    m, n = support.shape
    return Pattern(name, expected, found.pattern, found.proven, found.nonzero, (m, n), support)


def judge_formed(found: Formed) -> list[common.Verdict]:
    """Row J1 and claim 3."""
    n = found.size
    matrix, vjp = 4 * n * n, 2 * 4 * n
    return [
        common.Verdict(f"the Jacobian of {n:,} → {n:,}, float32, formed", _binary(found.bytes), _binary(matrix),
                       found.bytes == matrix, "J1, claim 3"),
        common.Verdict("… its VJP: both cotangents", _binary(found.vjp_bytes), _binary(vjp), found.vjp_bytes == vjp,
                       "J1, claim 3"),
        common.Verdict("… row × Jacobian is the VJP: relative difference", f"{found.difference:.1e}", f"≤ {BOUND:.0e}",
                       bool(found.difference <= BOUND), "J1"),
        common.Verdict("relu: entries off the diagonal that are not exactly 0", f"{found.off_diagonal:,}", "0",
                       found.off_diagonal == 0, "J2, claim 3"),
        common.Verdict("… and the values on it", ", ".join(f"{v:g}" for v in found.diagonal), "0, 1",
                       set(found.diagonal) <= {0.0, 1.0} and (n < 64 or len(found.diagonal) == 2), "J2"),
    ]  # fmt: skip


def judge_batch(found: Batch, batch: int) -> list[common.Verdict]:
    """Row J2."""
    m, n = found.shape
    size = n // batch
    expected = 4 * (batch * size) ** 2
    return [
        common.Verdict(f"a batch of {batch:,}: {m:,} × {n:,}, computed from shapes", _binary(found.bytes),
                       _binary(expected), found.bytes == expected, "J2"),
        common.Verdict("… and refused if asked for, with its size", "refused" if found.refusal else "formed", "refused",
                       _binary(found.bytes) in found.refusal, "J2"),
    ]  # fmt: skip


def judge_patterns(found: Sequence[Pattern]) -> list[common.Verdict]:
    """Row J2: where "only matching elements" is right, and where it is not."""
    right = [p for p in found if p.found == p.expected]
    entrywise = [p for p in found if p.expected in ("diagonal", "scalar times identity")]
    proven = [p for p in found if p.proven]
    return [
        common.Verdict("entry by entry, and so by the program: diagonal", f"{len(proven)} of {len(found)}",
                       f"{len(entrywise)} of {len(found)}", proven == entrywise, "J2"),
        common.Verdict("patterns as derived, of all functions", f"{len(right)} of {len(found)}",
                       f"{len(found)} of {len(found)}", len(right) == len(found), "J2"),
    ]  # fmt: skip


def _binary(size: int) -> str:
    """Bytes for reading, with their unit in full."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    unit = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**unit:.4g} {units[unit]}"


def report(
    folder: Path,
    formed: Formed | None,
    whole: Batch | None,
    patterns: Sequence[Pattern],
    verdicts: Sequence[common.Verdict],
    *,
    complete: bool,
) -> None:
    """Tables, figure and results of what is finished."""
    if whole:
        rows = [
            [f"{whole.shape[0]:,} × {whole.shape[1]:,}", _binary(whole.bytes), _binary(whole.vjp_bytes), "–", "–", "–"]
        ]
        if formed:
            times = [measure.time_text([t]) for t in (formed.forming, formed.product, formed.vjp)]
            rows.insert(
                0, [f"{formed.size:,} × {formed.size:,}", _binary(formed.bytes), _binary(formed.vjp_bytes), *times]
            )
        head = ["relu", "Jacobian", "VJP", "forming", "row × J", "VJP takes"]
        common.table("What it costs", head, rows)
    if patterns:
        rows = [
            [p.name, f"{p.shape[0]} × {p.shape[1]}", f"{p.nonzero:,}", p.found, "program" if p.proven else "numbers"]
            for p in patterns
        ]
        common.table(
            "What is in it", ["function", "Jacobian", "not zero", "pattern", "known from"], rows, folds="pattern"
        )
        common.save_figure(jacobian_cost_figures.draw(patterns), folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    records = [{name: value for name, value in p._asdict().items() if name != "support"} for p in patterns]
    content = {
        "complete": complete,
        "formed": formed._asdict() if formed else None,
        "batch": whole._asdict() if whole else None,
        "patterns": records,
        "verdicts": [verdict._asdict() for verdict in verdicts],
    }
    common.write_json(folder / RESULTS, content)
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
