"""Which distribution, output layer and cost belong to an output type, and what is lost where they do not match?

First, for each output type, the gradient of the cost with respect to what the output layer takes (a logit, a mean): by
hand, by `jax.grad`, and by the formula "prediction − target" in NumPy, on random examples. The cost is compared with
−log of the distribution, and the probability that it gives to all targets together with 1.

Then an inverse map with several answers, of C. M. Bishop, Mixture Density Networks, 1994: t ~ U(0, 1),
x = f(t) + U(−0.1, 0.1) with f(t) = t + 0.3 sin(2πt), and t is to be told from x. The same network learns it with a
squared error, with one Gaussian of learned scale (a control) and with a mixture. Two yardsticks, on examples held out:
the negative log-likelihood, and the error of the answer sent back through the map, f(answer) − x, which is at most 0.1
where the answer could have given its x. (The distance to the curve f would mislead: about x = 0.5 the noise bridges its
branches, and what lies between them is as likely as what lies on them.)

Expected: gradients and costs equal to rounding, ≤ 1e-5 of their scale in float32, ≤ 1e-12 with --jax_enable_x64=true.
The mixture is more likely than the best that a squared error can do, E(t | x), and its answers lie within the noise;
many of the squared error's lie between the branches, where no t could have given the x.

    python -m experiments.output_distributions --flagfile=configs/output_distributions.flags

Ctrl-C leaves what is finished; the verdicts on the inverse map come with its training.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, figures, inverse_map, output_types
from experiments.inverse_map import TANH, Examples, Head
from fundamentals import initializers, optimizers
from fundamentals.base import Array
from fundamentals.models import mlp

RESULTS, FIGURE = FILES = ("results.json", "output_distributions.png")
CHUNK = 100  # steps of training between two looks at it


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_integer("seed", 0, "Of examples and parameters.", lower_bound=0, upper_bound=2**32 - 1, **options)
    flags.DEFINE_integer(
        "examples", 1000, "Random ones of each output type; to train with; held out.", lower_bound=2, **options
    )
    flags.DEFINE_integer("components", 5, "Of a mixture.", lower_bound=2, **options)
    flags.DEFINE_list("hidden_sizes", ["32"], "Units of each hidden layer, with tanh; empty for none.", **options)
    flags.DEFINE_integer("steps", 4000, "Of training, each with all examples.", lower_bound=1, **options)
    flags.DEFINE_float("learning_rate", 0.005, "Of Adam.", lower_bound=0.0, **options)
    flags.DEFINE_string("output_dir", "results/output_distributions", "Where results and figure go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace the results of an earlier run.", **options)

    def are_sizes(values: Sequence[str]) -> bool:
        return all(value.isascii() and value.isdecimal() and int(value) > 0 for value in values)

    flags.register_validator("hidden_sizes", are_sizes, message="expected positive integers", flag_values=flag_values)


class Network(NamedTuple):
    """What one step changes."""

    params: mlp.Params
    optimizer_state: Any


class Score(NamedTuple):
    """How the targets held out are predicted."""

    nll: float  # per example
    map_error: float  # root mean square of f(answer) − x
    impossible: float  # fraction of the answers that could not have given their x


def run(
    *,
    seed: int,
    examples: int,
    components: int,
    hidden_sizes: Sequence[str],
    steps: int,
    learning_rate: float,
    output_dir: str,
    overwrite: bool,
) -> list[common.Verdict]:
    """Compare, train, report, judge."""
    settings = dict(locals())
    with common.user_errors():
        optimizer = optimizers.adam(learning_rate)
    folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite)
    # One seed, named keys; float64 where the caller asked JAX for it.
    types_key, train_key, held_out_key, params_key = jax.random.split(jax.random.key(seed), 4)
    dtype = jnp.dtype(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)
    bound = 1e-12 if dtype == jnp.float64 else 1e-5
    train, held_out = (inverse_map.sample(key, examples, dtype) for key in (train_key, held_out_key))
    heads = inverse_map.heads(components)
    networks: dict[str, Network] = {}
    results: dict[str, Any] = {"complete": False, "settings": settings, "history": []}
    verdicts: list[common.Verdict] = []
    precise = jax.default_matmul_precision("highest")  # TF32 alone would make two right gradients differ by 5e-4
    try:
        with precise, common.interruptible(), common.progress() as bar:
            task = bar.add_task("comparing gradients", total=steps, note="")
            measurements = output_types.measure(types_key, examples, components, dtype)
            mismatch = output_types.unlearn(dtype)
            results |= {"output_types": [m._asdict() for m in measurements], "mismatch": mismatch._asdict()}
            verdicts += _judge_types(measurements, mismatch, bound)
            _print_types(measurements, dtype)

            for name, head in heads.items():
                sizes = [1, *map(int, hidden_sizes), head.outputs]
                # One key for all: they start from the same hidden layers.
                params = mlp.init(params_key, sizes, initializer=initializers.xavier_normal(), dtype=dtype)
                networks[name] = Network(params, optimizer.init(params))
            apart = {name: _gradients_apart(head, networks[name].params, train) for name, head in heads.items()}
            results["gradients_apart"] = apart
            verdicts.append(_judge_gradients(apart, bound))

            bar.update(task, description="training")
            train_some = {name: jax.jit(functools.partial(_train, head, optimizer)) for name, head in heads.items()}
            for done in range(0, steps, CHUNK):
                count = min(CHUNK, steps - done)
                networks = {name: train_some[name](network, train, count) for name, network in networks.items()}
                record: dict[str, float] = {"step": done + count}
                for name, network in networks.items():
                    record[name] = float(jnp.mean(inverse_map.nll(heads[name], network.params, held_out, train)))
                results["history"].append(record)
                bar.update(task, advance=count, note=f"−log likelihood of the mixture {record['mixture']:.2f}")
            results["complete"] = True
    except KeyboardInterrupt:
        done = results["history"][-1]["step"] if results["history"] else 0
        common.console.print(f"interrupted after {done} of {steps} steps")
        raise
    finally:
        if results["history"]:
            with precise:
                learned = {name: network.params for name, network in networks.items()}
                judged = _report_map(folder, heads, learned, train, held_out, results)
            verdicts += judged if results["complete"] else []
        if verdicts:
            common.print_verdicts(verdicts)
        common.write_json(folder / RESULTS, results | {"verdicts": [v._asdict() for v in verdicts]})
        common.console.print(f"written to {folder}", markup=False)
    return verdicts


def _train(head: Head, optimizer: optimizers.Optimizer, network: Network, train: Examples, count: Array) -> Network:
    """Some steps of training with all examples, the gradients by hand from end to end."""
    x = inverse_map.standardized(train.x)

    def step(_: Array, network: Network) -> Network:
        _, gradients = mlp.loss_and_gradient(network.params, x, train.t, activation=TANH, loss_rule=head.rule)
        updates, state = optimizer.update(gradients, network.optimizer_state, network.params)
        return Network(optimizers.apply_updates(network.params, updates), state)

    result: Network = jax.lax.fori_loop(0, count, step, network)
    return result


def _gradients_apart(head: Head, params: mlp.Params, train: Examples) -> dict[str, float]:
    """For each parameter the gradient by hand from jax.grad's, compiled apart."""
    x, t = inverse_map.standardized(train.x), train.t
    by_hand = functools.partial(mlp.loss_and_gradient, activation=TANH, loss_rule=head.rule)
    by_autodiff = jax.grad(functools.partial(mlp.loss, activation=TANH, loss_rule=head.rule))
    _, found = jax.jit(by_hand)(params, x, t)
    expected = jax.jit(by_autodiff)(params, x, t)
    named = jax.tree_util.tree_leaves_with_path(expected)
    return {
        jax.tree_util.keystr(path): output_types.difference(leaf, reference)
        for (path, reference), leaf in zip(named, jax.tree.leaves(found), strict=True)
    }


def _print_types(measurements: Sequence[output_types.Measurement], dtype: Any) -> None:
    described = [(t.notes, t.output, t.distribution, t.layer, t.cost) for t in output_types.TYPES]
    common.table("What belongs together", ["notes", "output", "distribution", "output layer", "cost"], described)
    rows = []
    for kind, m in zip(output_types.TYPES, measurements, strict=True):
        of_cost = f"{m.nll:.1e}", f"{m.total:.1e}"
        for name, formula in kind.formulas.items():
            rows.append((kind.notes, name, formula, f"{m.by_hand[name]:.1e}", f"{m.by_autodiff[name]:.1e}", *of_cost))
            of_cost = "", ""
    common.table(
        f"Relative differences, {dtype}: gradients and cost from NumPy's formulas, total probability from 1",
        ["notes", "gradient of the cost", "is", "by hand", "jax.grad", "cost", "total"],
        rows,
    )


def _judge_types(
    measurements: Sequence[output_types.Measurement], mismatch: output_types.Mismatch, bound: float
) -> list[common.Verdict]:
    verdicts = []
    for kind, m in zip(output_types.TYPES, measurements, strict=True):
        by_hand, by_autodiff = max(m.by_hand.values()), max(m.by_autodiff.values())
        verdicts += [
            common.Verdict(
                f"{kind.distribution}: the gradient is {', '.join(kind.formulas.values())}; by hand, by jax.grad",
                f"{by_hand:.1e}, {by_autodiff:.1e}", f"≤ {bound:.0e}", max(by_hand, by_autodiff) <= bound,
                kind.notes,
            ),
            common.Verdict(
                f"{kind.distribution}: the cost is its −log; total probability 1", f"{m.nll:.1e}, {m.total:.1e}",
                f"≤ {bound:.0e}", max(m.nll, m.total) <= bound, kind.notes,
            ),
        ]  # fmt: skip
    slopes, steps = (mismatch.slopes, mismatch.expected_slopes), (mismatch.steps, mismatch.expected_steps)
    return [
        *verdicts,
        common.Verdict(
            f"at z = {output_types.MISTAKE:.0f}, t = 1: a squared error's (p − t) p (1 − p), cross-entropy's p − t",
            "{1:.2e}, {0:.2f}".format(*slopes[0]), "{1:.2e}, {0:.2f}".format(*slopes[1]),
            all(math.isclose(*pair, rel_tol=1e-5) for pair in zip(*slopes, strict=True)), "H1",
        ),
        common.Verdict(
            "steps until that is unlearned: a squared error's, cross-entropy's",
            "{1}, {0}".format(*steps[0]), "{1:.0f}, {0:.0f}".format(*steps[1]),
            all(math.isclose(*pair, rel_tol=0.05) for pair in zip(*steps, strict=True)), "H1",
        ),
    ]  # fmt: skip


def _judge_gradients(apart: dict[str, dict[str, float]], bound: float) -> common.Verdict:
    largest, head = max((max(values.values()), head) for head, values in apart.items())
    return common.Verdict(
        "through head and network, the gradient by hand is jax.grad's", f"{largest:.1e} ({head})",
        f"≤ {bound:.0e}", largest <= bound, "H3, H4",
    )  # fmt: skip


@np.errstate(over="ignore", invalid="ignore")  # of a training that diverged
def _report_map(
    folder: Path,
    heads: dict[str, Head],
    params: dict[str, mlp.Params],
    train: Examples,
    held_out: Examples,
    results: dict[str, Any],
) -> list[common.Verdict]:
    """Table, figure and verdicts of the inverse map; its scores go to the results."""
    x, t = (np.asarray(a, np.float64)[:, 0] for a in held_out)
    nlls = {
        name: np.asarray(inverse_map.nll(head, params[name], held_out, train), np.float64)
        for name, head in heads.items()
    }
    told = {
        name: np.asarray(inverse_map.answers(head, params[name], held_out.x), np.float64)
        for name, head in heads.items()
    }
    mean, density = inverse_map.exact(x)
    variance = np.mean((t - mean) ** 2)
    nlls["E(t | x)"] = 0.5 * np.log(2 * np.pi * variance) + 0.5 * (t - mean) ** 2 / variance
    told["E(t | x)"] = mean
    scores = {}
    for name, values in nlls.items():
        error = inverse_map.f(told[name]) - x
        possible = np.abs(error) <= inverse_map.NOISE
        scores[name] = Score(float(values.mean()), math.sqrt(np.mean(error**2)), 1 - float(possible.mean()))
    lowest = -float(np.log(density).mean())
    rows = [(name, f"{s.nll:.3f}", f"{s.map_error:#.2g}", f"{s.impossible:.1%}") for name, s in scores.items()]
    common.table(
        f"The inverse map, {len(x)} examples held out; E(t | x) is the best that a squared error can learn",
        ["learned with", "−log likelihood", "f(answer) − x, RMS", "impossible"],
        [*rows, ("the true density", f"{lowest:.3f}", "", "")],
    )
    results["inverse_map"] = {"scores": {name: s._asdict() for name, s in scores.items()}, "true_density_nll": lowest}

    common.save_figure(
        _figure(heads, params, train, held_out, results["history"], (scores["E(t | x)"].nll, lowest)), folder / FIGURE
    )
    return _judge_map(scores, nlls["squared error"] - nlls["mixture"])


def _judge_map(scores: dict[str, Score], gain: np.ndarray) -> list[common.Verdict]:
    """Claim 21; the gain is the mixture's in −log likelihood, for each example."""
    mixture, squared, limit = scores["mixture"], scores["squared error"], scores["E(t | x)"]
    error = float(np.std(gain) / math.sqrt(len(gain)))
    noise = inverse_map.NOISE / math.sqrt(3)
    return [
        common.Verdict(
            "−log likelihood held out: a mixture's is below a squared error's, learned and at its best",
            f"{mixture.nll:.2f}, {squared.nll:.2f} (± {error:.2f})", f"below {limit.nll:.2f}",
            mixture.nll < limit.nll and float(np.mean(gain)) > 3 * error, "claim 21",
        ),
        common.Verdict(
            "a mixture's answers are on a branch, within the noise; a squared error's are not",
            f"{mixture.map_error:#.2g}, {squared.map_error:#.2g}", f"≤ {noise:.2g}, above",
            mixture.map_error <= noise < squared.map_error, "claim 21",
        ),
    ]  # fmt: skip


def _figure(
    heads: dict[str, Head],
    params: dict[str, mlp.Params],
    train: Examples,
    held_out: Examples,
    history: Sequence[dict[str, float]],
    limits: tuple[float, float],
) -> Any:
    dtype = train.x.dtype
    x, t = np.linspace(-0.05, 1.05, 221), np.linspace(-0.1, 1.1, 241)
    told = {
        name: np.asarray(inverse_map.answers(head, params[name], jnp.asarray(x[:, None], dtype)), np.float64)
        for name, head in heads.items()
    }
    plane = [jnp.asarray(a.reshape(-1, 1), dtype) for a in np.meshgrid(x, t)]
    density = np.exp(-np.asarray(inverse_map.nll(heads["mixture"], params["mixture"], Examples(*plane), train)))
    logits, means, _ = inverse_map.split(inverse_map.outputs_at(params["mixture"], jnp.asarray(x[:, None], dtype)))
    z = np.linspace(-10, 10, 201)
    matched, mismatched = map(np.asarray, output_types.slopes(jnp.asarray(z, dtype)))
    return figures.output_distributions(
        data=(np.asarray(held_out.x)[:, 0], np.asarray(held_out.t)[:, 0]),
        f=inverse_map.f,
        noise=inverse_map.NOISE,
        grid=(x, t),
        answers=told | {"E(t | x)": inverse_map.exact(x)[0]},
        density=density.reshape(len(t), len(x)),
        components=(np.asarray(jax.nn.softmax(logits)), np.asarray(means)[..., 0]),
        history=history,
        limits=limits,
        slopes=(z, matched, mismatched),
    )


if __name__ == "__main__":
    common.main(define_flags, run)
