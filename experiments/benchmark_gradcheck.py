"""Does the gradient checker catch wrong gradients, name the mistake, and leave right ones alone?

`experiments/mutants` holds mistakes that people have made, each with its correct twin; traps, which are right and look
wrong; and masked mistakes, which their arguments or cotangent hide. All are checked here, and by others that are used
for this: `jax.test_util.check_grads` and, where torch is installed, `torch.autograd.gradcheck` (one projection).

Expected: every mistake caught, at least 9 in 10 named first; no alarm at twins and traps; no masked mistake passes.

    python -m experiments.benchmark_gradcheck --flagfile=configs/benchmark_gradcheck.flags

A mistake is caught if the verdict is WRONG or CONTRACT, and named if the cause of the first diagnosis is one of those
that the mutant's author allowed.
"""

import collections
import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.test_util import check_grads

from experiments import common
from experiments.mutants import FIFTH, FOURTH, FRESH, HELD_OUT, MASKED, MUTANTS, TRAPS, UNSEEN
from fundamentals import gradcheck

FILES = ("results.json",)
STRANGERS = {"fresh": FRESH, "unseen": UNSEEN, "held_out": HELD_OUT, "fourth": FOURTH, "fifth": FIFTH}
SUITES = {"notes": MUTANTS, **STRANGERS, "strangers": sum(STRANGERS.values(), ())}


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_enum(
        "suite",
        "notes",
        list(SUITES),
        "Known mistakes, or those of one or of all sets of other functions (strangers).",
        **options,
    )
    flags.DEFINE_list("rows", ["all"], "Numbers of mutants, or all.", **options)
    flags.DEFINE_list("dtypes", ["float32"], "Of arguments: float32, float64.", **options)
    flags.DEFINE_integer("seeds", 1, "Number of seeds of arguments and probes.", lower_bound=1, **options)
    flags.DEFINE_bool("peers", True, "Run other checkers too.", **options)
    flags.DEFINE_integer("threads", 2, "Checks at a time.", lower_bound=1, **options)
    flags.DEFINE_string("output_dir", "results/benchmark_gradcheck", "Where the table goes.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    flags.register_validator(
        "dtypes",
        lambda names: names and set(names) <= {"float32", "float64"},
        message="expected float32, float64 or both",
        flag_values=flag_values,
    )
    flags.register_validator(
        "rows",
        lambda rows: rows == ["all"] or (rows and all(row.isascii() and row.isdecimal() for row in rows)),
        message="expected all, or numbers",
        flag_values=flag_values,
    )


class Outcome(NamedTuple):
    """One check of one gradient."""

    kind: str  # "mutant", "twin", "trap", "masked"
    row: int
    title: str
    expected: str
    verdict: str
    cause: str  # of the first diagnosis
    good: bool  # caught; left alone
    named: bool
    seconds: float
    dtype: str
    seed: int
    peers: dict[str, bool]  # whether others object


def run(
    *,
    suite: str,
    rows: list[str],
    dtypes: list[str],
    seeds: int,
    peers: bool,
    threads: int,
    output_dir: str,
    overwrite: bool,
) -> Sequence[common.Verdict]:
    """Check everything, print the table and the scores, and write them."""
    settings = dict(locals())
    every = SUITES[suite]
    mutants = [m for m in every if rows == ["all"] or str(m.number) in rows]
    if not mutants:
        raise common.UserError(
            f"--rows={','.join(rows)}: no such mutant; there are {every[0].number} to {every[-1].number}"
        )
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    others = _peers() if peers else {}
    jobs: list[Callable[[str, int], Outcome]] = []
    twins: set[int] = set()
    for mutant in mutants:
        jobs.append(partial(_mutant, others, mutant))
        if id(mutant.twin) not in twins:  # several mistakes share one
            twins.add(id(mutant.twin))
            jobs.append(partial(_twin, others, mutant))
    if suite == "notes" and rows == ["all"]:
        jobs += [partial(_trap, others, t) for t in TRAPS]
        jobs += [partial(_masked, others, m) for m in MASKED]
    todo = [(job, dtype, seed) for job in jobs for dtype in dtypes for seed in range(seeds)]
    outcomes: list[Outcome] = []
    begun = time.perf_counter()
    with common.progress() as progress, ThreadPoolExecutor(threads) as pool:
        task = progress.add_task("checking", total=len(todo), note="")
        try:
            for outcome in pool.map(lambda one: one[0](*one[1:]), todo):
                outcomes.append(outcome)
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    wall = time.perf_counter() - begun
    _print(outcomes, sorted(others))
    verdicts = _verdicts(outcomes)
    common.print_verdicts(verdicts)
    seconds = [o.seconds for o in outcomes]
    common.console.print(
        f"{len(outcomes)} checks in {wall:.0f} s; median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s each"
    )
    common.write_json(
        folder / FILES[0],
        {"outcomes": [o._asdict() for o in outcomes], "verdicts": [v._asdict() for v in verdicts], "wall_s": wall},
    )
    return verdicts


def _check(subject: Any, backward: Any, dtype: str, seed: int, cotangent: Any = None) -> tuple[Any, float]:
    with jax.enable_x64(dtype == "float64"):
        args = subject.arguments(seed, jnp.dtype(dtype))
        begun = time.perf_counter()
        report = gradcheck.check_vjp(
            subject.primal,
            lambda *a: (subject.primal(*a), a),
            backward,
            args,
            seed=seed,
            cotangent=None if cotangent is None else cotangent(subject.primal(*args)),
        )
        return report, time.perf_counter() - begun


def _mutant(peers: Any, mutant: Any, dtype: str, seed: int) -> Outcome:
    report, seconds = _check(mutant.subject, mutant.subject.backward, dtype, seed)
    cause = str(report.diagnoses[0].cause) if report.diagnoses else ""
    return Outcome(
        "mutant",
        mutant.number,
        f"{mutant.operation}: {mutant.mistake}",
        " ".join(sorted(mutant.causes)),
        str(report.verdict),
        cause,
        str(report.verdict) in ("WRONG", "CONTRACT"),
        cause in mutant.causes,
        seconds,
        dtype,
        seed,
        _ask(peers, mutant.subject, mutant.subject.backward, dtype, seed),
    )


def _twin(peers: Any, mutant: Any, dtype: str, seed: int) -> Outcome:
    report, seconds = _check(mutant.subject, mutant.twin, dtype, seed)
    return Outcome(
        "twin",
        mutant.number,
        mutant.operation,
        "PASS",
        str(report.verdict),
        "",
        str(report.verdict) in ("PASS", "KINK"),
        True,
        seconds,
        dtype,
        seed,
        _ask(peers, mutant.subject, mutant.twin, dtype, seed),
    )


def _trap(peers: Any, trap: Any, dtype: str, seed: int) -> Outcome:
    report, seconds = _check(trap.subject, trap.subject.backward, dtype, seed)
    return Outcome(
        "trap",
        0,
        trap.name,
        " ".join(sorted(trap.verdicts)),
        str(report.verdict),
        "",
        str(report.verdict) in trap.verdicts,
        True,
        seconds,
        dtype,
        seed,
        _ask(peers, trap.subject, trap.subject.backward, dtype, seed),
    )


def _masked(peers: Any, masked: Any, dtype: str, seed: int) -> Outcome:
    report, seconds = _check(masked.subject, masked.subject.backward, dtype, seed, masked.cotangent)
    return Outcome(
        "masked",
        0,
        masked.name,
        "not PASS",
        str(report.verdict),
        str(report.diagnoses[0].cause) if report.diagnoses else "",
        str(report.verdict) not in ("PASS", "KINK"),
        True,
        seconds,
        dtype,
        seed,
        _ask(peers, masked.subject, masked.subject.backward, dtype, seed),
    )


def _ask(peers: dict[str, Any], subject: Any, backward: Any, dtype: str, seed: int) -> dict[str, bool]:
    """Whether other checkers object, at their defaults."""
    found = {}
    for name, peer in peers.items():
        wanted = "float64" if name.startswith("torch") else dtype  # torch advises against less
        with jax.enable_x64(wanted == "float64"):
            found[name] = peer(subject.primal, backward, subject.arguments(seed, jnp.dtype(wanted)))
    return found


def _peers() -> dict[str, Callable[..., bool]]:
    peers: dict[str, Callable[..., bool]] = {"jax": _jax_objects}
    return peers | ({"torch": _torch_objects} if importlib.util.find_spec("torch") else {})


def _split(args: tuple[Any, ...]) -> tuple[list[int], Callable[..., tuple[Any, ...]]]:
    """Positions of floating arguments, and all arguments from those."""
    floating = [i for i, x in enumerate(args) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)]

    def full(*chosen: Any) -> tuple[Any, ...]:
        every = list(args)
        for i, x in zip(floating, chosen, strict=True):
            every[i] = x
        return tuple(every)

    return floating, full


def _jax_objects(primal: Any, backward: Any, args: tuple[Any, ...]) -> bool:
    """`jax.test_util.check_grads` in reverse mode, at its default step and tolerance."""
    floating, full = _split(args)

    @jax.custom_vjp
    def function(*chosen: Any) -> Any:
        return primal(*full(*chosen))

    def pullback(chosen: Any, dy: Any) -> Any:
        cotangents = backward(full(*chosen), dy)
        return tuple(cotangents[i] for i in floating)

    function.defvjp(lambda *chosen: (function(*chosen), chosen), pullback)
    try:
        check_grads(function, tuple(args[i] for i in floating), order=1, modes=["rev"])
    except Exception:
        return True
    return False


def _torch_objects(primal: Any, backward: Any, args: tuple[Any, ...]) -> bool:
    """`torch.autograd.gradcheck` in fast mode: one random projection, at its default step and tolerances."""
    torch: Any = importlib.import_module("torch")
    floating, full = _split(args)

    def to_jax(x: Any) -> Any:
        return jnp.asarray(x.detach().numpy())

    def forward(ctx: Any, *chosen: Any) -> Any:
        ctx.save_for_backward(*chosen)
        return torch.tensor(np.asarray(primal(*full(*map(to_jax, chosen)))))

    def pullback(ctx: Any, dy: Any) -> Any:
        found = backward(full(*map(to_jax, ctx.saved_tensors)), to_jax(dy))
        return tuple(torch.tensor(np.asarray(found[i])) for i in floating)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(pullback)}
    function = type("Function", (torch.autograd.Function,), methods)
    inputs = [torch.tensor(np.asarray(args[i]), requires_grad=True) for i in floating]
    try:
        return not torch.autograd.gradcheck(
            function.apply,  # type: ignore[attr-defined]
            inputs,
            fast_mode=True,
        )
    except Exception:
        return True


def _print(outcomes: list[Outcome], peers: list[str]) -> None:
    groups: dict[Any, list[Outcome]] = collections.defaultdict(list)
    for o in outcomes:
        groups[o.kind, o.row, o.title].append(o)
    rows = []
    for (kind, row, title), same in groups.items():
        if kind == "twin" and all(o.good for o in same):
            continue
        verdicts = " ".join(dict.fromkeys(o.verdict for o in same))
        causes = " ".join(dict.fromkeys(o.cause for o in same if o.cause)) or "–"
        mark = "" if all(o.good and o.named for o in same) else "←"
        objected = [f"{sum(o.peers[name] for o in same)}/{len(same)}" for name in peers]
        rows.append(
            [
                str(row) if row else kind,
                title if kind != "twin" else f"{title} (right)",
                same[0].expected,
                verdicts,
                causes,
                mark,
                *objected,
            ]
        )
    common.table(
        "Wrong gradients, and right ones that look wrong",
        ["", "gradient", "expected", "verdict", "named", "", *peers],
        rows,
        folds="gradient",
    )


def _verdicts(outcomes: list[Outcome]) -> list[common.Verdict]:
    def of(kind: str) -> list[Outcome]:
        return [o for o in outcomes if o.kind == kind]

    def objections(kind: str) -> str:
        names = sorted({name for o in outcomes for name in o.peers})
        each = [f"{name} {sum(o.peers[name] for o in of(kind))}/{len(of(kind))}" for name in names]
        return f" ({', '.join(each)})" if each else ""

    mutants = of("mutant")
    caught, named = sum(o.good for o in mutants), sum(o.good and o.named for o in mutants)
    verdicts = [
        common.Verdict(
            "wrong gradients are caught",
            f"{caught}/{len(mutants)}{objections('mutant')}",
            "all",
            caught == len(mutants),
        ),
        common.Verdict(
            "… and the mistake is named first",
            f"{named}/{len(mutants)} = {named / len(mutants):.1%}",
            "≥ 90 %",
            named >= 0.9 * len(mutants),
        ),
    ]
    for kind, claim in (("twin", "right gradients pass"), ("trap", "right ones that look wrong are not called wrong")):
        if of(kind):
            good = sum(o.good for o in of(kind))
            alarms = f"{len(of(kind)) - good} alarms in {len(of(kind))}{objections(kind)}"
            verdicts.append(common.Verdict(claim, alarms, "0", good == len(of(kind))))
    if of("masked"):
        good = sum(o.good for o in of("masked"))
        verdicts.append(
            common.Verdict(
                "mistakes that the arguments hide do not pass",
                f"{good}/{len(of('masked'))}{objections('masked')}",
                "all",
                good == len(of("masked")),
            )
        )
    return verdicts


if __name__ == "__main__":
    common.main(define_flags, run)
