"""What does it cost to walk a graph, beside `jax.grad` without `jit`?

Both evaluate a network operation by operation, the graph with its values known, `jax.grad` forward and backward. The
graph does the same products and keeps every number that it meets. Expected: at most twice the time, once everything
that JAX compiles for single operations is compiled.

    python -m experiments.benchmark_graph --flagfile=configs/benchmark_graph.flags
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import common, measure
from experiments.common import Verdict
from experiments.graph_examples import network
from fundamentals import graph

BOUND = 2.0


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("batch_size", 128, "Examples.", lower_bound=1, **options)
    flags.DEFINE_integer("inputs", 784, "Features of an example.", lower_bound=1, **options)
    flags.DEFINE_integer("hidden", 256, "Units of the first layer.", lower_bound=1, **options)
    flags.DEFINE_integer("classes", 10, "Outputs.", lower_bound=2, **options)
    flags.DEFINE_integer("repeats", 60, "Rounds, both forms in turn.", lower_bound=1, **options)
    flags.DEFINE_integer("seed", 0, "Of parameters and examples.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_string("output_dir", "results/benchmark_graph", "Where results go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)


def run(
    *,
    batch_size: int,
    inputs: int,
    hidden: int,
    classes: int,
    repeats: int,
    seed: int,
    output_dir: str,
    overwrite: bool,
) -> Sequence[Verdict]:
    """Time both in turn. Returns the verdict."""
    settings = dict(locals())
    folder = common.output_folder(output_dir, ["results.json"], settings, overwrite=overwrite)
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "w1": jax.random.normal(keys[0], (inputs, hidden)) * inputs**-0.5,
        "b1": jnp.zeros(hidden),
        "w2": jax.random.normal(keys[1], (hidden, classes)) * hidden**-0.5,
        "b2": jnp.zeros(classes),
    }
    x, labels = jax.random.normal(keys[2], (batch_size, inputs)), jax.random.randint(keys[3], (batch_size,), 0, classes)

    def loss(params: Any) -> Any:
        return network(params, x, labels)

    gradient = jax.grad(loss)
    traced = graph.trace(loss, params)
    calls = {
        "graph.backward()": lambda: traced.backward().gradients,
        "trace and backward": lambda: graph.trace(loss, params).backward().gradients,
        "jax.grad, no jit": lambda: (gradient(params),),
    }
    results = [measure.finished(call) for call in calls.values()]  # compiles every operation
    times = measure.in_turn(calls, repeats, float("inf"))
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    ratio = medians["graph.backward()"] / medians["jax.grad, no jit"]
    difference = measure.relative_difference(results[0], results[2])
    common.table(
        f"The gradient of a two-layer network, {len(traced.nodes)} nodes",
        ["form", "median", "in jax.grad's"],
        [[name, f"{1e3 * t:.2f} ms", f"{t / medians['jax.grad, no jit']:.2f}"] for name, t in medians.items()],
    )
    claim = "the time of walking a graph, in that of jax.grad without jit"
    verdicts = [
        Verdict(claim, f"{ratio:.2f}", f"≤ {BOUND:g}", ratio <= BOUND),
        Verdict("both gradients are the same", f"{difference:.0e}", "≤ 1e-05", difference <= 1e-5),
    ]
    common.print_verdicts(verdicts)
    common.write_json(folder / "results.json", {"seconds": times, "verdicts": [v._asdict() for v in verdicts]})
    return verdicts


if __name__ == "__main__":
    common.main(define_flags, run)
