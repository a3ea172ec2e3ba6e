"""How little memory does a gradient need, and what does that cost?

Backpropagation reads what the forward pass computed, from the end on. What is not kept is computed again: all of it
from the input, or from the inputs of some stages, the checkpoints. Compared are

  store all, the usual gradient;
  every layer, and √l segments, recomputed once from their input (T. Chen et al. 2016);
  binomial schedules, the best for equal stages and c checkpoints (A. Griewank & A. Walther 2000);
  plans, the cheapest schedule for a budget of bytes, by dynamic programming (O. Beaumont et al. 2024) over stages that
    are cut after their matrix products;
  `jax.checkpoint` around each of √l segments, alone and with policies,

on an MLP, one with identities and dropout, a convolutional network whose resolutions halve, and a transformer, each
with a loss of its own that planning knows nothing of. Memory is that of compiled programs' temporaries, without
arguments and gradients. Time is FLOPs, in those of storing all; seconds are told, but not judged. Besides, a recurrent
network of thousands of steps, and two schedules on paper: the binomial one against its formula, the dynamic program
against all schedules there are.

Expected:
  all gradients are the same, to rounding;
  a budget of bytes is kept, and the memory of a plan is as predicted; more memory never means more time;
  recomputing once costs at most one more forward pass, about a third of FLOPs, and memory falls to a fraction;
  where stages are unlike, equal segments waste memory: a plan needs at most 0.6 of it in their time, or half of the
    recomputation in their memory;
  whatever has been tried else, segments, binomial schedules or policies: in its memory, a plan takes no more FLOPs;
  memory and compile time of the recurrent network hardly depend on its number of steps.

    python -m experiments.gradient_checkpointing --flagfile=configs/gradient_checkpointing.flags

All is in float64, so that gradients can be compared. In the tables, "FLOPs" are those of compiled programs, "planned"
those of pieces and schedule; memory is "modelled" by adding up, "predicted" by compiling a plan for another loss.
Ctrl-C leaves what is finished; the program ends when what is being compiled is.
"""

import contextlib
import functools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import (
    checkpointing_models,
    checkpointing_schedules,
    common,
    gradient_checkpointing_figures,
    measure,
)
from experiments.checkpointing_models import Model
from experiments.checkpointing_verdicts import (
    JUDGED_SLOTS,
    JUDGED_STEPS,
    LAYERS,
    SEGMENTS,
    SHORT,
    STORED,
    Chain,
    Form,
    Measured,
    Promise,
    Recurrent,
    find,
    judge,
)
from fundamentals.memory.checkpointing import (
    Plan,
    chain,
    checkpointed_scan,
    pareto,
    plan,
    schedules,
    segment_checkpoint,
)
from fundamentals.memory.checkpointing.costs import temp_bytes
from fundamentals.memory.checkpointing.planning import Pieces
from fundamentals.memory.checkpointing.schedules import Schedule

RESULTS, FIGURE = FILES = ("results.json", "gradient_checkpointing.png")
UNLIKE = "cnn"  # the chain of unlike stages
POLICIES = {  # of jax.checkpoint, around each of √l segments
    "jax.checkpoint": None,
    "jax.checkpoint, dots": jax.checkpoint_policies.dots_saveable,
    "jax.checkpoint, nothing": jax.checkpoint_policies.nothing_saveable,
}


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    positive: dict[str, Any] = {"lower_bound": 1, **options}
    names = ["all", *checkpointing_models.NAMES, "rnn"]
    flags.DEFINE_enum("model", "all", names, "Of which the memory is measured.", **options)
    flags.DEFINE_integer("layers", 11, "Of the MLP, besides the last.", lower_bound=3, **options)
    flags.DEFINE_integer("convolutions", 2, "Of the convolutional network at each resolution.", **positive)
    flags.DEFINE_integer(
        "blocks",
        4,
        "Of the transformer, and layers of the MLP with dropout, besides the last.",
        lower_bound=3,
        **options,
    )
    flags.DEFINE_integer("mlp_batch", 1024, "Examples.", **positive)
    flags.DEFINE_integer("cnn_batch", 4, "Examples.", **positive)
    flags.DEFINE_integer("transformer_batch", 8, "Examples.", **positive)
    flags.DEFINE_integer("budgets", 10, "From the least to that of storing all.", lower_bound=2, **options)
    flags.DEFINE_list("slots", ["2", "3"], "c of the binomial schedules, ascending.", **options)
    flags.DEFINE_integer("rnn_steps", 10_000, "Of the recurrent network.", lower_bound=2 * SHORT, **options)
    flags.DEFINE_integer("rnn_slots", 20, "Carries that it keeps.", **positive)
    flags.DEFINE_integer("compilations", 5, "Of the recurrent network, of each length.", **positive)
    flags.DEFINE_integer("lengths", 256, "Up to which binomial schedules are gone through.", **positive)
    flags.DEFINE_integer("most_slots", 32, "Likewise.", **positive)
    flags.DEFINE_integer("chains", 10_000, "Random chains for the dynamic program.", lower_bound=7, **options)
    flags.DEFINE_integer("repeats", 5, "Rounds to time.", **positive)
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/gradient_checkpointing", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    message = "expected ascending positive integers"
    flags.register_validator("slots", measure.are_ascending, message=message, flag_values=flag_values)


def run(
    *,
    model: str,
    layers: int,
    convolutions: int,
    blocks: int,
    mlp_batch: int,
    cnn_batch: int,
    transformer_batch: int,
    budgets: int,
    slots: Sequence[str],
    rnn_steps: int,
    rnn_slots: int,
    compilations: int,
    lengths: int,
    most_slots: int,
    chains: int,
    repeats: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Measure, print, draw and judge."""
    settings = dict(locals())
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    makers: dict[str, Callable[..., Model]] = {
        "mlp": functools.partial(checkpointing_models.mlp, layers=layers, batch=mlp_batch),
        "dropout": functools.partial(checkpointing_models.dropout, layers=blocks, batch=mlp_batch),
        "cnn": functools.partial(checkpointing_models.cnn, convolutions=convolutions, batch=cnn_batch),
        "transformer": functools.partial(checkpointing_models.transformer, blocks=blocks, batch=transformer_batch),
    }
    chosen = [name for name in makers if model in ("all", name)]
    measured, complete = Measured(), False
    try:
        with (
            jax.enable_x64(True),
            jax.default_matmul_precision("highest"),
            common.interruptible(),
            common.progress() as bar,
        ):
            task = bar.add_task("", total=2 * len(chosen) + 3, note="")
            stopped = threading.Event()

            def note(text: str) -> None:
                if stopped.is_set() and threading.current_thread() is not threading.main_thread():
                    raise KeyboardInterrupt
                bar.update(task, note=text)

            def begin(what: str) -> None:
                bar.update(task, advance=measured != Measured(), description=what, note="")

            begin("binomial schedules")
            measured = measured._replace(counted=checkpointing_schedules.count(lengths, most_slots))
            begin("the dynamic program")
            searched = checkpointing_schedules.search(chains, 7, seed)
            seconds = min(checkpointing_schedules.planning_seconds(100, 500, seed) for _ in range(3))
            measured = measured._replace(searched=searched, planning_seconds=seconds)
            models = {name: makers[name](np.random.default_rng(seed)) for name in chosen}
            if chosen:
                begin(", ".join(chosen))
            pool = ThreadPoolExecutor(2)  # compiling leaves Python to others
            try:
                with quick_compilation():
                    counts = [int(c) for c in slots]
                    for found in pool.map(lambda m: measure_chain(m, budgets, counts, note), models.values()):
                        measured = measured._replace(chains=[*measured.chains, found])
                        bar.advance(task)
            finally:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)  # if interrupted, results go first
            for i, found in enumerate(measured.chains):
                begin(f"time of {found.name}")
                timed = time_chain(models[found.name], found, repeats, note)
                measured = measured._replace(chains=[*measured.chains[:i], timed, *measured.chains[i + 1 :]])
            if model in ("all", "rnn"):
                begin("rnn")
                found_rnn = measure_rnn(np.random.default_rng(seed), rnn_steps, rnn_slots, compilations, note)
                measured = measured._replace(recurrent=found_rnn)
            complete = True
    except KeyboardInterrupt:
        common.console.print("interrupted")
        raise
    finally:
        verdicts = judge(measured)
        _report(folder, measured, verdicts, settings, complete=complete)
    return verdicts


def measure_chain(model: Model, budgets: int, slots: Sequence[int], note: Callable[[str], None]) -> Chain:
    """Plan a chain, compile and run all forms of its gradient: in a thread, which has settings of its own."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return _measure_chain(model, budgets, slots, note)


def _measure_chain(model: Model, budgets: int, slots: Sequence[int], note: Callable[[str], None]) -> Chain:
    length = len(model.stages)
    args: tuple[Any, ...] = (model.params, model.x, model.labels)
    problem = (model.stages, model.params, model.x)
    note(f"planning the {model.name}")
    frontier = pareto(*problem)
    sizes = np.geomspace(frontier[-1].peak_bytes, frontier[0].peak_bytes, budgets)
    limits = [frontier[-1].peak_bytes, *(math.ceil(size) for size in sizes[1:-1]), frontier[0].peak_bytes]
    plans = [plan(*problem, budget=limit) for limit in limits]
    binomial = {c: plan(*problem, slots=c) for c in slots if c < length}
    try:
        refusal = f"a plan of {plan(*problem, budget=limits[0] - 1).peak_bytes:,} bytes"
    except ValueError as error:
        refusal = str(error)
    known: dict[Any, Form] = {}
    reference: Any = None

    def measure_form(name: str, group: str, schedule: Schedule | None, own: Plan | None = None) -> Form:
        """Compiled and run once for each schedule."""
        nonlocal reference
        pieces = own.pieces if own else (1,) * length
        key = name if schedule is None else (schedule, pieces)
        if key not in known:
            note(f"{model.name}: {name}")
            program = gradient_program(model, name, None if schedule is None else Pieces(schedule, pieces))
            gradient = program(*args)
            if reference is None:
                reference = gradient
            flops = float((program.cost_analysis() or {}).get("flops", math.nan))
            relative = flops / next(iter(known.values())).flops if known else 1.0
            known[key] = Form(
                name, group, schedule, pieces, temp_bytes(program), None, None,
                schedules.forward_evaluations(schedule) if schedule and pieces == (1,) * length else None, None,
                relative, flops,
                measure.relative_difference(gradient, reference),
            )  # fmt: skip
        form: Form = known[key]._replace(name=name, group=group)
        if own:
            form = form._replace(predicted=own.peak_bytes, modelled=own.modelled_bytes, planned_time=own.time)
        return form

    forms = [
        measure_form(STORED, "stored", frontier[0].schedule, frontier[0]),
        measure_form(LAYERS, "segments", schedules.uniform(length, length)),
        measure_form(SEGMENTS, "segments", schedules.uniform(length)),
        *(measure_form(f"binomial, c = {c}", "binomial", own.schedule, own) for c, own in binomial.items()),
        *(measure_form(name, "jax.checkpoint", None) for name in POLICIES),
    ]
    planned = {
        own.schedule: measure_form(f"plan, {measure.bytes_text(own.peak_bytes)}", "planned", own.schedule, own)
        for own in frontier
    }
    promises = [
        Promise(limit, own.peak_bytes, planned[own.schedule].temp_bytes, own.time)
        for limit, own in zip(limits, plans, strict=True)
    ]
    forms += planned.values()
    counts = range(2, length + 1) if model.name == UNLIKE else ()
    uniform = [measure_form(f"{k} segments", "segments", schedules.uniform(length, k)) for k in counts]
    forward = sum(cost.forward for cost in frontier[0].costs)
    return Chain(model.name, length, forms, uniform, promises, limits[0], refusal, forward)


def gradient_program(model: Model, name: str, schedule: Pieces | None) -> Any:
    """The compiled gradient of a model's loss; without a schedule, with the policy of that name."""
    segments = functools.partial(segment_checkpoint, model.stages, None)
    apply = segments(POLICIES[name]) if schedule is None else chain(model.stages, schedule)
    gradient = jax.jit(jax.grad(checkpointing_models.loss(apply)))
    return gradient.lower(model.params, model.x, model.labels).compile()


def time_chain(model: Model, found: Chain, repeats: int, note: Callable[[str], None]) -> Chain:
    """Some forms of a gradient in turn, compiled with all optimizations. Their memory is that of these programs."""
    planned = [form for form in found.forms if form.group == "planned"]
    names = {STORED, LAYERS, next(iter(POLICIES)), planned[0].name}
    calls, sizes = {}, {}
    for form in found.forms:
        if form.name in names:
            note(f"compiling {form.name}")
            schedule = None if form.schedule is None else Pieces(form.schedule, form.pieces)
            program = gradient_program(model, form.name, schedule)
            calls[form.name] = functools.partial(program, model.params, model.x, model.labels)
            sizes[form.name] = temp_bytes(program)
    times = measure.in_turn(calls, repeats, seconds=20)
    forms = [
        form._replace(seconds=tuple(times.get(form.name, ())), temp_bytes=sizes.get(form.name, form.temp_bytes))
        for form in found.forms
    ]
    return found._replace(forms=forms)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """For programs of which only the memory matters: buffers are assigned before loops are optimized, or not."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def measure_rnn(
    rng: np.random.Generator, steps: int, slots: int, compilations: int, note: Callable[[str], None]
) -> Recurrent:
    """Memory of a moderate number of steps; gradient and compile time of many."""
    params, xs = checkpointing_models.rnn(rng, steps=steps)

    def compiled(scan: Callable[..., Any], length: int) -> tuple[Any, float]:
        """Afresh: a new function is traced, lowered and compiled."""
        shape = jax.ShapeDtypeStruct((length, *xs.shape[1:]), xs.dtype)
        begin = time.perf_counter()
        program = jax.jit(jax.grad(checkpointing_models.rnn_loss(scan))).lower(params, shape).compile()
        return program, time.perf_counter() - begin

    note("memory")
    scans = (jax.lax.scan, functools.partial(checkpointed_scan, slots=JUDGED_SLOTS))
    stored, temp = (temp_bytes(compiled(scan, JUDGED_STEPS)[0]) for scan in scans)
    checkpointed = functools.partial(checkpointed_scan, slots=slots)
    times: dict[int, list[float]] = {SHORT: [], steps: []}
    for i in range(compilations):
        note(f"compilation {i + 1} of {compilations}")
        for length in (SHORT, steps) if i % 2 else (steps, SHORT):
            times[length].append(compiled(checkpointed, length)[1])
    note(f"{steps:,} steps")
    gradients, seconds = [], []
    for scan in (jax.lax.scan, checkpointed):
        program, _ = compiled(scan, steps)
        begin = time.perf_counter()
        gradients.append(measure.finished(functools.partial(program, params, xs)))
        seconds.append(time.perf_counter() - begin)
    difference = measure.relative_difference(gradients[1], gradients[0])
    return Recurrent(stored, temp, steps, difference, seconds[1], seconds[0], times[SHORT], times[steps])


def _report(
    folder: Path, measured: Measured, verdicts: list[common.Verdict], settings: dict[str, Any], *, complete: bool
) -> None:
    """Tables, results and figure of what is finished."""
    for found in measured.chains:
        stored = find(found, STORED)
        rows = []
        for form in (*found.forms, *(u for u in found.uniform if u.schedule not in {f.schedule for f in found.forms})):
            sizes = [measure.bytes_text(size) for size in (form.temp_bytes, form.predicted, form.modelled)]
            rows.append([
                form.name, *sizes, f"{form.temp_bytes / stored.temp_bytes:.2f}",
                "–" if form.evaluations is None else f"{form.evaluations}", f"{form.time:.3f}",
                "–" if form.planned_time is None else f"{form.planned_time:.3f}", measure.time_text(form.seconds),
                _ratio(form, stored),
            ])  # fmt: skip
        columns = [
            "gradient", "memory", "predicted", "modelled", "/ stored", "forwards", "FLOPs", "planned", "time", "ratio"
        ]  # fmt: skip
        common.table(f"{found.name}, {found.length} stages", columns, rows)
    if measured.recurrent:
        r = measured.recurrent
        share = f"{measure.bytes_text(r.temp_bytes)} instead of {measure.bytes_text(r.stored_bytes)}"
        common.console.print(f"rnn, {JUDGED_STEPS:,} steps with {JUDGED_SLOTS} carries: {share}")
        common.console.print(
            f"rnn, {r.steps:,} steps with {settings['rnn_slots']} carries: {measure.time_text([r.seconds])}, lax.scan "
            f"{measure.time_text([r.stored_seconds])}; compiled in {measure.time_text(r.compile_long)}, "
            f"{SHORT} steps in {measure.time_text(r.compile_short)}\n"
        )
    if verdicts:
        common.print_verdicts(verdicts)
    content: dict[str, Any] = {"complete": complete, "settings": settings}
    content["verdicts"] = [v._asdict() for v in verdicts]
    lists = ("forms", "uniform", "promises")
    content["chains"] = [
        found._asdict() | {name: [row._asdict() for row in getattr(found, name)] for name in lists}
        for found in measured.chains
    ]
    for name in ("counted", "searched", "recurrent"):
        value = getattr(measured, name)
        content[name] = None if value is None else value._asdict()
    common.write_json(folder / RESULTS, content | {"planning_seconds": measured.planning_seconds})
    if measured.chains:
        common.save_figure(gradient_checkpointing_figures.draw(measured.chains), folder / FIGURE)
    common.console.print(f"written to {folder}", markup=False)


def _ratio(form: Form, stored: Form) -> str:
    if not form.seconds or not stored.seconds:
        return "–"
    return f"{statistics.median(a / b for a, b in zip(form.seconds, stored.seconds, strict=True)):.2f}"


if __name__ == "__main__":
    common.main(define_flags, run)
