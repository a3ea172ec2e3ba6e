"""Programs of `gradient_accumulation`: ragged batches, three gradients of each, their memory, epochs of training."""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import measure
from fundamentals import data, optimizers
from fundamentals.base import Array, ArrayTree, Rule, bind
from fundamentals.catalogue import RULES
from fundamentals.memory import accumulate
from fundamentals.models import language_model, mlp

NOTHING = -1  # the label of what does not count: padding, or an image that nobody has labelled
CROSS_ENTROPY = bind(mlp.SOFTMAX_CROSS_ENTROPY, ignored_label=NOTHING)
MLP = bind(Rule(mlp.mlp, mlp.mlp_fwd, mlp.mlp_bwd), activation=RULES["tanh"].rule)
LANGUAGE_MODEL = bind(
    Rule(
        language_model.transformer_language_model,
        language_model.transformer_language_model_fwd,
        language_model.transformer_language_model_bwd,
    ),
    heads=2,
)


class Batch(NamedTuple):
    """What a loss is taken of."""

    x: Any  # [B, D], or tokens [B, T]; an array of NumPy or JAX, or the shape of one
    labels: Any  # [B] or [B, T]


class Problem(NamedTuple):
    """A model and a batch of which not all counts."""

    name: str
    model: Rule
    params: Any
    batch: Batch
    labels: np.ndarray  # those of the batch if all of it counted


class Errors(NamedTuple):
    """Gradients of one batch in K microbatches, from that of the batch at once: relative differences."""

    problem: str
    k: int
    counts: list[int]  # of labels, in each microbatch
    autodiff: float  # accumulated
    by_hand: float  # likewise
    means: float  # the mean of the microbatches' means
    even: float | None  # the same, where all microbatches have equal counts; of the first problem


class Memory(NamedTuple):
    """Temporary bytes of compiled programs."""

    k: int
    fixed_microbatch: int  # K microbatches of M examples
    at_once: int  # their K M examples at once; with K = 1, one microbatch alone
    fixed_batch: int  # the largest of these batches, in K microbatches


class Epoch(NamedTuple):
    """The same examples in the same order: in batches of B, each in K microbatches; and in batches of B/K."""

    k: int
    apart: float  # parameters after each step, from those of batches of B at once: relative difference
    updates: int
    updates_of_small: int
    losses: list[float]  # of all examples, after each update
    losses_of_small: list[float]


# The two batches.


def images(seed: int, *, examples: int) -> Problem:
    """Digits, in float64. The further down the batch, the fewer have a label; the last fifteenth has none."""
    random = np.random.default_rng(seed)
    place = np.arange(examples)
    train = data.digits().train
    x, labels = train.inputs[:examples].reshape(examples, -1), train.labels[:examples].astype(np.int32)
    labelled = (random.random(examples) > place / examples) & (place < examples - -(-examples // 15))
    labelled[0] = True
    widths: tuple[int, ...] = (x.shape[1], 32, 10)
    params = jax.jit(functools.partial(mlp.init, sizes=widths, dtype=jnp.float64))(jax.random.key(seed))
    return _problem("MLP", MLP, params, x.astype(np.float64), labels, labelled)


def sequences(seed: int, *, examples: int, length: int) -> Problem:
    """Padded sequences of random tokens and lengths, for a model in float64; of the last fifteenth nothing counts."""
    random = np.random.default_rng(seed)
    vocabulary = 29
    text = random.integers(0, vocabulary, (examples, length + 1), dtype=np.int32)
    lengths = random.integers(1, length + 1, examples)
    lengths[examples - -(-examples // 15) :] = 0
    small: dict[str, Any] = {"vocabulary": vocabulary, "length": length, "width": 16, "layers": 1}
    params = jax.jit(functools.partial(language_model.init, **small, dtype=jnp.float64))(jax.random.key(seed))
    counted = np.arange(length) < lengths[:, None]
    return _problem("language model", LANGUAGE_MODEL, params, text[:, :-1], text[:, 1:], counted)


def _problem(name: str, model: Rule, params: Any, x: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> Problem:
    ragged = np.where(counted, labels, np.int32(NOTHING))
    return Problem(name, model, params, Batch(x, ragged), labels)


# The gradient of a batch, in three ways.


def whole(model: Rule, params: Any, batch: Batch) -> Array:
    """[], the mean loss of what counts, of the batch at once: the oracle. Only the model is that of the others."""
    log_p = jax.nn.log_softmax(model.primal(params, batch.x))
    counted = batch.labels != NOTHING
    found = jnp.take_along_axis(log_p, jnp.where(counted, batch.labels, 0)[..., None], axis=-1)[..., 0]
    number: Array = jnp.maximum(1, jnp.sum(counted)).astype(found.dtype)
    return -jnp.sum(jnp.where(counted, found, 0)) / number


def summed(model: Rule, params: Any, batch: Batch) -> tuple[Array, Array]:
    """(sum, weight): the loss as `accumulate` wants it."""
    losses = CROSS_ENTROPY.primal(model.primal(params, batch.x), batch.labels)
    return jnp.sum(losses), jnp.sum(batch.labels != NOTHING)


def summed_and_gradient(model: Rule, params: Any, batch: Batch) -> tuple[tuple[Array, Array], Any]:
    """((sum, weight), gradient of the sum), by hand from end to end: the cotangent of every loss is 1."""
    logits, residuals = model.fwd(params, batch.x)
    losses, loss_residuals = CROSS_ENTROPY.fwd(logits, batch.labels)
    dlogits = CROSS_ENTROPY.bwd(loss_residuals, jnp.ones_like(losses))[0]
    return (jnp.sum(losses), jnp.sum(batch.labels != NOTHING)), model.bwd(residuals, dlogits)[0]


def accumulated(model: Rule, k: int) -> Callable[..., Any]:
    """(params, batch) → (loss, gradient), by autodiff."""
    return accumulate(functools.partial(summed, model), num_microbatches=k)


def accumulated_by_hand(model: Rule, k: int) -> Callable[..., Any]:
    """The same, without autodiff."""
    return accumulate(gradient_fn=functools.partial(summed_and_gradient, model), num_microbatches=k)


def at_once(model: Rule) -> Callable[..., Any]:
    """(params, batch) → (loss, gradient) of the batch as one."""
    return jax.value_and_grad(functools.partial(whole, model))


def mean_of_means(function: Callable[..., Any], params: Any, batch: Batch, k: int) -> Any:
    """The mean of what the function gives for each microbatch: the loop of many trainers. That of nothing is 0."""
    found = [function(params, microbatch) for microbatch in split(batch, k)]
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *found)


def split(batch: Batch, k: int) -> list[Batch]:
    """⌈B / K⌉ examples that follow each other, and again; the last may be fewer."""
    size = -(-len(batch.labels) // k)
    return [Batch(batch.x[i : i + size], batch.labels[i : i + size]) for i in range(0, len(batch.labels), size)]


def quick(function: Callable[..., Any], *args: Any) -> jax.stages.Lowered:
    """To be compiled where numbers are wanted, not speed: without LLVM's optimizations it takes half the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}).lower(*args)


def compiled(lowered: Sequence[jax.stages.Lowered]) -> list[jax.stages.Compiled]:
    """In threads: compiling is most of what this experiment does."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def errors(problem: Problem, sizes: Sequence[int], *, control: bool) -> list[Errors]:
    """For every K; with `control` also of equal counts."""
    model, params, batch = problem.model, problem.params, problem.batch
    batches = {"ragged": batch}
    if control:
        fits = len(problem.labels) // math.lcm(*sizes) * math.lcm(*sizes)
        batches["even"] = Batch(batch.x[:fits], problem.labels[:fits])
    parts = {len(part.labels): part for each in batches.values() for k in (1, *sizes) for part in split(each, k)}
    forms = [make(model, k) for make in (accumulated, accumulated_by_hand) for k in sizes]
    programs = compiled(
        [quick(at_once(model), params, part) for part in parts.values()] + [quick(f, params, batch) for f in forms]
    )
    by_length = dict(zip(parts, programs, strict=False))

    def together(params: Any, batch: Batch) -> Any:
        return by_length[len(batch.labels)](params, batch)

    expected = {name: together(params, each) for name, each in batches.items()}
    apart = [
        measure.relative_difference(program(params, batch), expected["ragged"]) for program in programs[len(parts) :]
    ]
    found = []
    for k, autodiff, by_hand in zip(sizes, apart, apart[len(sizes) :], strict=False):
        means = {
            name: measure.relative_difference(mean_of_means(together, params, each, k), expected[name])
            for name, each in batches.items()
        }
        counts = [int(np.sum(part.labels != NOTHING)) for part in split(batch, k)]
        found.append(Errors(problem.name, k, counts, autodiff, by_hand, means["ragged"], means.get("even")))
    return found


# Memory, and time.


def arguments(sizes: Sequence[int], examples: int) -> tuple[Any, Batch]:
    """Shapes of an MLP of these layers, and of a batch for it: enough to compile, in float32."""
    params = jax.eval_shape(functools.partial(mlp.init, sizes=tuple(sizes)), jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((examples, sizes[0]), jnp.float32)
    return params, Batch(inputs, jax.ShapeDtypeStruct((examples,), jnp.int32))


def temp_bytes(program: jax.stages.Compiled) -> int:
    """What it allocates besides arguments and outputs."""
    memory = program.memory_analysis()
    assert memory is not None  # of this backend it is known
    return int(memory.temp_size_in_bytes)


def memory(
    layers: Sequence[int], microbatch: int, sizes: Sequence[int]
) -> tuple[list[Memory], dict[int, jax.stages.Compiled]]:
    """For every K; and the programs of the batch that stays the same. Nothing is run."""

    def lowered(function: Callable[..., Any], examples: int) -> jax.stages.Lowered:
        return jax.jit(function).lower(*arguments(layers, examples))

    programs = compiled([
        *(lowered(accumulated(MLP, k), k * microbatch) for k in sizes),
        *(lowered(at_once(MLP), k * microbatch) for k in sizes),
        *(lowered(accumulated(MLP, k), sizes[-1] * microbatch) for k in sizes[:-1]),
    ])  # fmt: skip
    n = len(sizes)
    fixed_batch = [*programs[2 * n :], programs[n - 1]]
    bytes_ = [[temp_bytes(program) for program in group] for group in (programs[:n], programs[n : 2 * n], fixed_batch)]
    found = [Memory(k, *each) for k, *each in zip(sizes, *bytes_, strict=True)]
    return found, dict(zip(sizes, fixed_batch, strict=True))


def seconds(
    programs: dict[int, jax.stages.Compiled], layers: Sequence[int], examples: int, seed: int, repeats: int
) -> dict[int, list[float]]:
    """Of a batch's gradient, by K: rounds in turn."""
    random = np.random.default_rng(seed)
    params_like, batch_like = arguments(layers, examples)
    params = jax.tree.map(lambda p: jnp.asarray(0.01 * random.normal(size=p.shape), p.dtype), params_like)
    x = jnp.asarray(random.normal(size=batch_like.x.shape), jnp.float32)
    batch = Batch(x, jnp.asarray(random.integers(0, layers[-1], examples), jnp.int32))
    calls = {str(k): functools.partial(program, params, batch) for k, program in programs.items()}
    for call in calls.values():
        measure.finished(call)  # warms up
    return {int(k): times for k, times in measure.in_turn(calls, repeats, math.inf).items()}


# Training.


def training_set(seed: int, batch: int) -> Batch:
    """The digits of an epoch in whole batches, shuffled, three of ten without a label, in float64."""
    train = data.digits().train
    random = np.random.default_rng(seed)
    order = random.permutation(len(train.labels))[: len(train.labels) // batch * batch]
    labels = np.where(random.random(len(order)) < 0.7, train.labels[order], NOTHING)
    x = train.inputs[order].reshape(len(order), -1)
    return Batch(x.astype(np.float64), labels.astype(np.int32))


def epoch(gradient: Callable[..., Any], params: ArrayTree, examples: Batch, *, rate: float, size: int) -> Any:
    """((parameters, Adam's state) in the end, (parameters, the loss of all examples) after each update)."""
    optimizer = optimizers.adam(rate)

    def step(carry: Any, batch: Batch) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradient(params, batch)[1], state, params)
        params = optimizers.apply_updates(params, updates)
        return (params, state), (params, whole(MLP, params, examples))

    batches = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), examples)
    return jax.lax.scan(step, (params, optimizer.init(params)), batches)


def epochs(seed: int, *, batch: int, rate: float, sizes: Sequence[int]) -> tuple[list[Epoch], list[float]]:
    """For every K; and the losses with batches of B at once."""
    examples = training_set(seed, batch)
    params = images(seed, examples=1).params
    forms = [(at_once(MLP), batch), *((accumulated(MLP, k), batch) for k in sizes)]
    forms += [(at_once(MLP), batch // k) for k in sizes]
    lowered = [quick(functools.partial(epoch, f, rate=rate, size=size), params, examples) for f, size in forms]
    (_, (expected, losses)), *results = [program(params, examples) for program in compiled(lowered)]
    found = []
    for k, accumulating, small in zip(sizes, results, results[len(sizes) :], strict=False):
        (_, state), (trajectory, own) = accumulating
        (_, state_of_small), (_, losses_of_small) = small
        apart = measure.relative_difference(trajectory, expected)
        both = np.asarray(own).tolist(), np.asarray(losses_of_small).tolist()
        found.append(Epoch(k, apart, int(state.step), int(state_of_small.step), *both))
    return found, np.asarray(losses).tolist()
