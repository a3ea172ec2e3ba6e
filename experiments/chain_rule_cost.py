"""What do gradients cost: by the chain rule weight for weight, by differences, by backpropagation?

1. A chain of L layers (`chain_rules`, which derives the numbers). Each ∂f/∂w_h from its own formula takes 1, 3, 5, …
   matrix products from the last layer on, L² in all. With G_h = G_{h+1} w_{h+1} diag A′(z_h) it takes 3L − 2. Both are
   written down, counted in their programs, timed, and compared with `jax.grad`. Nothing is compiled as a whole: XLA
   would find what the long way computes twice, and leave 3L − 2.
2. A network with P parameters. Central differences evaluate the loss 2P times; `jax.grad` is a few evaluations' work.
3. Wider networks and deeper ones. A layer of [d_{ℓ−1}, d_ℓ] takes 2·B·d_{ℓ−1}·d_ℓ FLOPs forward, as many for the
   gradient of its weights, and as many for that of its inputs, which the first layer does not need. So loss and
   gradient together take 3 − d_0·d_1 / Σ d_{ℓ−1}·d_ℓ times what the loss takes: less than 3, for any number of
   parameters.
4. A gradient is a row times a Jacobian, (1×n) = (1×m)·(m×n). Column times matrix, as the notes print it, has no
   meaning.

Expected: all of that, exactly where it is counted. In times, exponents near 2 and 1; a ratio that grows with P; and a
gradient that costs a few losses, however large the network is. (Small networks' times are those of starting an
operation, not of computing it: their ratios are smaller.)

    python -m experiments.chain_rule_cost --flagfile=configs/chain_rule_cost.flags

Ctrl-C leaves what is finished.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.flatten_util import ravel_pytree

from experiments import chain_rule_cost_figures, chain_rule_cost_verdicts, chain_rules, common, measure
from fundamentals.base import Array, PRNGKey
from fundamentals.catalogue import RULES
from fundamentals.catalogue.examples import parameters
from fundamentals.graph.counting import count
from fundamentals.models import mlp

RESULTS, FIGURE = FILES = ("results.json", "chain_rule_cost.png")
TANH = RULES["tanh"].rule  # smooth: on either side of a kink, differences are of another slope
SHORT = 5  # rounds for one of longer calls
INPUTS, OUTPUTS = 64, 10  # of the networks that grow
FEW_INPUTS, FEW_OUTPUTS = 8, 4  # of those that are differentiated by differences


class ChainCost(NamedTuple):
    """The gradients of one chain."""

    depth: int
    naive: int  # matmuls
    reuse: int
    distinct: int  # of the naive ones, where none is computed twice
    naive_entrywise: int  # without those that multiply with a diagonal matrix
    reuse_entrywise: int


class ChainTime(NamedTuple):
    """The medians of all rounds."""

    depth: int
    naive: float
    reuse: float


class Numeric(NamedTuple):
    """A gradient by differences beside backpropagation's."""

    parameters: int
    evaluations: float  # products of matrices, over those of one loss
    flops: float  # of the products, over those of loss and gradient by backpropagation
    seconds: float
    backpropagation: float  # seconds, of loss and gradient
    error: float  # the largest, relative to the largest entry, in float64
    by_hand: float  # the same of the gradient derived by hand


class Growth(NamedTuple):
    """A network's loss with gradient, over its loss alone."""

    hidden: tuple[int, ...]
    parameters: int
    counted: float  # FLOPs of products
    by_hand: float  # the same, of the gradient derived by hand
    predicted: float
    all_flops: float  # with those of activations and losses
    seconds: float  # the ratio of times, compiled
    loss_seconds: float


class Layout(NamedTuple):
    """One vector-Jacobian product."""

    difference: float  # of row times Jacobian from jax.vjp's
    error: str  # what column times matrix raises


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_list("depths", ["1", "2", "3", "10", "30", "100"], "L, of chains to count, ascending.", **options)
    flags.DEFINE_list("timed_depths", ["16", "32", "64", "96"], "L, of chains to time, ascending.", **options)
    flags.DEFINE_integer("width", 32, "n, of the chains.", lower_bound=2, **options)
    flags.DEFINE_integer("batch", 32, "B, of the chains.", lower_bound=2, **options)
    flags.DEFINE_list("numeric_widths", ["10", "40", "160"], "Hidden units, ascending.", **options)
    flags.DEFINE_list("widths", ["32", "64", "128", "256", "512"], "Of three hidden layers, ascending.", **options)
    flags.DEFINE_list("layers", ["1", "2", "4", "8"], "Hidden layers, of 128 units, ascending.", **options)
    flags.DEFINE_integer("examples", 64, "B, of the networks.", lower_bound=1, **options)
    flags.DEFINE_integer("repeats", 5, "Rounds of timing.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of weights and inputs.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/chain_rule_cost", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)
    for name in ("depths", "timed_depths", "numeric_widths", "widths", "layers"):
        flags.register_validator(name, measure.are_ascending, "expected ascending positive integers", flag_values)


def run(
    *,
    depths: Sequence[str],
    timed_depths: Sequence[str],
    width: int,
    batch: int,
    numeric_widths: Sequence[str],
    widths: Sequence[str],
    layers: Sequence[str],
    examples: int,
    repeats: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Count, time, print, draw and judge."""
    folder = common.output_folder(output_dir, FILES, dict(locals()), overwrite=overwrite)
    keys = dict(zip(("chain", "numeric", "growth", "layout"), jax.random.split(jax.random.key(seed), 4), strict=True))
    shapes = [(int(width),) * 3 for width in widths] + [(128,) * int(number) for number in layers]
    found: dict[str, list[Any]] = {"chains": [], "times": [], "numeric": [], "growth": [], "layout": []}
    verdicts: list[common.Verdict] = []
    results: dict[str, Any] = {"complete": False}
    judge = chain_rule_cost_verdicts
    try:
        with jax.default_matmul_precision("highest"), common.interruptible(), common.progress() as bar:
            steps = len(depths) + len(numeric_widths) + len(shapes) + 2
            task = bar.add_task("gradients", total=steps, note="counting matmuls of chains")
            for depth in map(int, depths):
                found["chains"].append(count_chain(keys["chain"], depth, width, batch))
                bar.advance(task)
            apart = chain_differences(keys["chain"], min(int(depths[-1]), 20), width, batch)
            verdicts += judge.chains(first_counts(keys["chain"], width, batch), found["chains"], apart)
            bar.update(task, note="timing chains")
            found["times"] = time_chains(keys["chain"], list(map(int, timed_depths)), width, batch, repeats)
            verdicts += judge.chain_times(found["times"])
            bar.update(task, advance=1, note="central differences")
            for hidden in map(int, numeric_widths):
                found["numeric"].append(numeric(keys["numeric"], hidden, examples, repeats))
                bar.advance(task)
            verdicts += judge.numeric(found["numeric"])
            bar.update(task, note="growing networks")
            for hidden_sizes in shapes:
                found["growth"].append(growth(keys["growth"], hidden_sizes, examples, repeats))
                bar.advance(task)
            verdicts += judge.growth(found["growth"])
            found["layout"].append(layout(keys["layout"]))
            verdicts += judge.layout(found["layout"][0])
            bar.advance(task)
            results["complete"] = True
    except KeyboardInterrupt:
        common.console.print(f"interrupted after {len(verdicts)} verdicts")
        raise
    finally:
        report(folder, found, verdicts, results)
    return verdicts


def count_chain(key: PRNGKey, depth: int, width: int, batch: int) -> ChainCost:
    """Matmuls of a chain's gradients, beyond the forward pass that both have behind them."""
    weights, x = chain_rules.make(key, depth, width, batch)
    stored = jax.eval_shape(chain_rules.forward, weights, x)

    def entrywise(gradients: Callable[..., Any]) -> int:
        return count(lambda weights, stored: gradients(weights, stored, chain_rules.by_entry), weights, stored).matmuls

    alone, together = (count(gradients, weights, stored) for gradients in (chain_rules.naive, chain_rules.reuse))
    return ChainCost(
        depth,
        alone.matmuls,
        together.matmuls,
        alone.distinct,
        entrywise(chain_rules.naive),
        entrywise(chain_rules.reuse),
    )


def first_counts(key: PRNGKey, width: int, batch: int) -> list[int]:
    """Matmuls of ∂f/∂w_L, ∂f/∂w_{L−1}, ∂f/∂w_{L−2} for L = 5, each on its own."""
    weights, x = chain_rules.make(key, 5, width, batch)
    stored = jax.eval_shape(chain_rules.forward, weights, x)
    return [
        count(lambda weights, stored, h=h: chain_rules.alone(weights, stored, h), weights, stored).matmuls
        for h in (5, 4, 3)
    ]


def chain_differences(key: PRNGKey, depth: int, width: int, batch: int) -> dict[str, float]:
    """Of both ways' gradients from jax.grad's, in float64."""
    with jax.enable_x64(True):
        weights, x = jax.tree.map(lambda a: a.astype(jnp.float64), chain_rules.make(key, depth, width, batch))
        stored = chain_rules.forward(weights, x)
        expected = jax.jit(jax.grad(chain_rules.chain))(weights, x)
        ways = {"naive": chain_rules.naive, "reuse": chain_rules.reuse}
        return {
            name: measure.relative_difference(gradients(weights, stored), expected) for name, gradients in ways.items()
        }


def time_chains(key: PRNGKey, depths: Sequence[int], width: int, batch: int, repeats: int) -> list[ChainTime]:
    """Operation by operation, as they are written. Every round is of all depths: what slows one, slows the others."""
    chains = [chain_rules.make(key, depth, width, batch) for depth in depths]
    stored = [jax.block_until_ready(chain_rules.forward(*each)) for each in chains]
    times: list[dict[str, list[float]]] = [{"naive": [], "reuse": []} for _ in depths]
    for number in range(-1, repeats):  # the first warms up
        for each, kept, own in zip(chains, stored, times, strict=True):
            for name, gradients in (("naive", chain_rules.naive), ("reuse", chain_rules.reuse)):
                if number < 0 and each is not chains[-1]:
                    continue  # the same operations as those of the longest
                begin = time.perf_counter()
                jax.block_until_ready(gradients(each.weights, kept))
                own[name] += [time.perf_counter() - begin] if number >= 0 else []
    medians = [{name: statistics.median(rounds) for name, rounds in own.items()} for own in times]
    return [ChainTime(depth, **median) for depth, median in zip(depths, medians, strict=True)]


def _medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds; in turn, once warm."""
    for call in calls.values():
        measure.finished(call)
    times = measure.in_turn(calls, repeats, float("inf"))
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def numeric(key: PRNGKey, hidden: int, examples: int, repeats: int) -> Numeric:
    """Differences and backpropagation for a network of one hidden layer."""
    sizes = (FEW_INPUTS, hidden, FEW_OUTPUTS)
    loss, params, by_hand = _network(key, sizes, examples)
    flat, _ = ravel_pytree(params)
    one, both = count(loss, flat), count(jax.value_and_grad(loss), flat)
    differences = count(lambda flat: chain_rules.numeric_gradient(loss, flat, 1e-2), flat)
    by_differences = measure.compiled(lambda flat: chain_rules.numeric_gradient(loss, flat, 1e-2), [flat])
    backpropagation = measure.compiled(jax.value_and_grad(loss), [flat])
    seconds = _medians({"n": lambda: by_differences(flat), "b": lambda: backpropagation(flat)}, repeats)
    with jax.enable_x64(True):
        loss, params, by_hand = _network(key, sizes, examples, jnp.float64)
        flat, _ = ravel_pytree(params)
        exact = jax.jit(jax.grad(loss))(flat)
        # The rounding of a loss of order 1, over ε, against the third derivative times ε²: ε ≈ 10⁻¹⁶ᐟ³.
        near = jax.jit(lambda flat: chain_rules.numeric_gradient(loss, flat, 1e-5))(flat)
        hand, _ = ravel_pytree(jax.jit(by_hand)(params)[1])
        errors = [measure.relative_difference(gradient, exact) for gradient in (near, hand)]
    evaluations, flops = differences.matmuls / one.matmuls, differences.flops / both.flops
    return Numeric(flat.size, evaluations, flops, seconds["n"], seconds["b"], *errors)


def _network(
    key: PRNGKey, sizes: Sequence[int], examples: int, dtype: Any = jnp.float32
) -> tuple[Callable[[Array], Array], mlp.Params, Callable[[mlp.Params], Any]]:
    """A loss of all parameters in a row, the parameters, and (loss, gradient) derived by hand."""
    params, x, y = _drawn(key, sizes, examples, dtype)
    _, unravel = ravel_pytree(params)
    return (
        lambda flat: mlp.loss(unravel(flat), x, y, activation=TANH),
        params,
        lambda params: mlp.loss_and_gradient(params, x, y, activation=TANH),
    )


def _drawn(key: PRNGKey, sizes: Sequence[int], examples: int, dtype: Any = jnp.float32) -> tuple[Any, Array, Array]:
    """Parameters of a network, inputs and labels."""
    random = chain_rules.generator(key)
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), parameters(random, lambda key: mlp.init(key, sizes)))
    x = jnp.asarray(random.normal(size=(examples, sizes[0])), dtype)
    return params, x, jnp.asarray(random.integers(0, sizes[-1], size=examples))


def growth(key: PRNGKey, hidden: tuple[int, ...], examples: int, repeats: int) -> Growth:
    """The loss with its gradient over the loss alone: counted, predicted, timed."""
    sizes = (INPUTS, *hidden, OUTPUTS)
    params, x, y = _drawn(key, sizes, examples)
    forms: dict[str, Callable[..., Any]] = {
        "loss": mlp.loss,
        "both": jax.value_and_grad(mlp.loss),
        "by hand": mlp.loss_and_gradient,
    }
    counts = {name: count(form, params, x, y) for name, form in forms.items()}
    programs = {name: jax.jit(forms[name]) for name in ("loss", "both")}
    seconds = _medians(
        {name: functools.partial(form, params, x, y) for name, form in programs.items()}, SHORT * repeats
    )
    products = [a * b for a, b in itertools.pairwise(sizes)]
    return Growth(
        hidden,
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        counts["both"].flops / counts["loss"].flops,
        counts["by hand"].flops / counts["loss"].flops,
        (3 * sum(products) - products[0]) / sum(products),
        counts["both"].all_flops / counts["loss"].all_flops,
        seconds["both"] / seconds["loss"],
        seconds["loss"],
    )


def layout(key: PRNGKey) -> Layout:
    """ȳ J is the VJP, for a function of 5 numbers that returns 3; and what the other layout does."""
    with jax.enable_x64(True):
        w_key, x_key, y_key = jax.random.split(key, 3)
        w = jax.random.normal(w_key, (3, 5), jnp.float64)
        x, dy = jax.random.normal(x_key, (5,), jnp.float64), jax.random.normal(y_key, (3,), jnp.float64)

        def f(x: Array) -> Array:
            return jnp.tanh(w @ x)

        matrix = jax.jacfwd(f)(x)  # m × n
        (expected,) = jax.vjp(f, x)[1](dy)
        difference = measure.relative_difference((dy[None, :] @ matrix)[0], expected)
        error = ""
        try:
            dy[:, None] @ matrix
        except TypeError as mismatch:
            error = str(mismatch).splitlines()[0]
        return Layout(difference, error)


def report(
    folder: Path, found: dict[str, list[Any]], verdicts: Sequence[common.Verdict], results: dict[str, Any]
) -> None:
    """Tables, figure and results of what is finished."""
    if found["chains"]:
        rows = [[f"{n:,}" for n in chain] for chain in found["chains"]]
        head = ["L", "each alone", "reuse", "distinct", "alone, entrywise", "reuse, entrywise"]
        common.table("A chain's gradients: matmuls", head, rows)
    if found["times"]:
        rows = [
            [f"{c.depth:,}", *(measure.time_text([t]) for t in c[1:]), f"{c.naive / c.reuse:.1f}"]
            for c in found["times"]
        ]
        common.table("… and times, operation by operation", ["L", "each alone", "reuse", "ratio"], rows)
    if found["numeric"]:
        rows = [
            [f"{n.parameters:,}", f"{n.evaluations:,.10g}", f"{n.flops:,.0f}", measure.time_text([n.seconds]),
             measure.time_text([n.backpropagation]), f"{n.seconds / n.backpropagation:,.1f}", f"{n.error:.0e}"]
            for n in found["numeric"]
        ]  # fmt: skip
        head = ["P", "losses", "FLOPs ratio", "takes", "backprop", "time ratio", "error"]
        common.table("Central differences beside backpropagation", head, rows)
    if found["growth"]:
        rows = [
            [f"{len(g.hidden)} × {g.hidden[0]}", f"{g.parameters:,}", f"{g.counted:.3f}", f"{g.by_hand:.3f}",
             f"{g.predicted:.3f}", f"{g.all_flops:.3f}", f"{g.seconds:.2f}", measure.time_text([g.loss_seconds])]
            for g in found["growth"]
        ]  # fmt: skip
        head = ["hidden", "P", "FLOPs", "by hand", "formula", "all FLOPs", "time", "loss"]
        common.table("Loss and gradient over the loss alone", head, rows)
    if any(found.values()):
        common.save_figure(chain_rule_cost_figures.draw(found), folder / FIGURE)
    if verdicts:
        common.print_verdicts(verdicts)
    content = {name: [record._asdict() for record in records] for name, records in found.items()}
    common.write_json(folder / RESULTS, results | content | {"verdicts": [v._asdict() for v in verdicts]})
    common.console.print(f"written to {folder}", markup=False)


if __name__ == "__main__":
    common.main(define_flags, run)
