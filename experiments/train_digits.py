"""Can a network learn to read digits from gradients derived by hand, and are they autodiff's?

Trains a network (`--model=mlp`, `cnn`, `rnn` or `transformer`) on real handwritten digits with `--gradients=hand` (the
model's loss_and_gradient), `autodiff` (jax.grad of its loss) or `lockstep`: both gradients at every step, their largest
relative difference for every parameter, and two networks, one trained with each, compared where they end.

Expected: ≥ 97 % of the test digits read right after some seconds on a CPU; gradients equal to rounding, ≤ 1e-5 of their
scale in float32, ≤ 1e-12 with --jax_enable_x64=true.

    python -m experiments.train_digits --flagfile=configs/train_digits.flags

and likewise with configs/train_digits_cnn.flags, train_digits_rnn.flags and train_digits_transformer.flags. With
`--num_microbatches=K` either gradient is accumulated over K parts of each batch: the same, in less memory. With
`--memory_budget=1MiB` it keeps that budget, by computing again what it has no memory to keep (`fundamentals.memory`).

Ctrl-C leaves what is finished: figures, results and a checkpoint after the last whole epoch. `--resume` continues from
the checkpoint as if never interrupted, bit for bit. For a run that is killed, one is written in between, every
`--checkpoint_every` epochs.
"""

import functools
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common, digit_models, digit_progress, figures
from experiments.digit_progress import Network, Progress
from fundamentals import activations, data, initializers, optimizers
from fundamentals.catalogue import RULES
from fundamentals.memory import Plan
from fundamentals.memory.checkpointing.planning import to_bytes

OPTIMIZERS: dict[str, Callable[..., optimizers.Optimizer]] = {
    "sgd": optimizers.sgd,
    "momentum": optimizers.momentum,
    "adagrad": optimizers.adagrad,
    "adadelta": optimizers.adadelta,
    "rmsprop": optimizers.rmsprop,
    "adam": optimizers.adam,
    "adamw": optimizers.adamw,
}
INITIALIZERS: dict[str, Callable[..., Any]] = {
    "zeros": lambda: initializers.zeros,
    "constant": initializers.constant,
    "normal": initializers.normal,
    "uniform": initializers.uniform,
    "xavier_uniform": initializers.xavier_uniform,
    "xavier_normal": initializers.xavier_normal,
    "he_uniform": initializers.he_uniform,
    "he_normal": initializers.he_normal,
    "lecun_normal": initializers.lecun_normal,
    "orthogonal": initializers.orthogonal,
}
SCALED = ("constant", "normal", "uniform", "orthogonal")  # these take a number: normal(0.05)
ACTIVATIONS = [name for name in RULES if hasattr(activations, name)]
LOSSES = ["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "hinge"]
RESULTS, FIGURE, CHECKPOINT = FILES = ("results.json", "train_digits.png", "checkpoint.npz")


def define_flags(flag_values: flags.FlagValues) -> None:
    """The flags of this script."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_enum("model", "mlp", ["mlp", "cnn", "rnn", "transformer"], "What is trained.", **options)
    flags.DEFINE_enum("gradients", "lockstep", ["hand", "autodiff", "lockstep"], "Who computes them.", **options)
    flags.DEFINE_enum(
        "optimizer", "adam", list(OPTIMIZERS), "The method; its other settings are its defaults.", **options
    )
    flags.DEFINE_float("learning_rate", 0.003, "Of the optimizer.", lower_bound=0.0, **options)
    flags.DEFINE_integer(
        "batch_size", 32, "Examples a step; an incomplete last batch is left out.", lower_bound=1, **options
    )
    flags.DEFINE_integer(
        "num_microbatches", 1, "Parts of a batch whose gradients are accumulated.", lower_bound=1, **options
    )
    flags.DEFINE_string(
        "memory_budget",
        None,
        "Bytes, or a size such as 64MiB: the most that the compiled gradient of a batch, or with --num_microbatches of "
        "one of them, may take beside its inputs and outputs (XLA's temp_size_in_bytes). Activations are computed "
        "again to keep it. Empty: no budget.",
        **options,
    )
    flags.DEFINE_integer("epochs", 40, "Passes over the training part.", lower_bound=1, **options)
    flags.DEFINE_list(
        "hidden_sizes",
        ["128", "64"],
        "Units of each hidden layer (mlp, rnn), channels of each stage (cnn), width of each block (transformer).",
        **options,
    )
    flags.DEFINE_enum(
        "activation",
        "gelu",
        ACTIVATIONS,
        "Between layers; the rnn has tanh. maxout (mlp) has two pieces.",
        **options,
    )
    flags.DEFINE_enum("norm", "layer_norm", list(digit_models.NORMS), "Of the cnn.", **options)
    flags.DEFINE_integer("heads", 4, "Of the transformer.", lower_bound=1, **options)
    flags.DEFINE_enum("attention", "dense", list(digit_models.ATTENTIONS), "Of the transformer.", **options)
    flags.DEFINE_enum("tokens", "rows", ["rows", "pixels"], "What the transformer's sequence is made of.", **options)
    flags.DEFINE_string(
        "initializer",
        "he_normal",
        f"Of the weights: one of {', '.join(INITIALIZERS)}; with a number as in normal(0.05).",
        **options,
    )
    flags.DEFINE_enum("loss", "softmax_cross_entropy", LOSSES, "All but the first take one output a class.", **options)
    flags.DEFINE_integer(
        "seed", 0, "Of the parameters and the order of examples.", lower_bound=0, upper_bound=2**32 - 1, **options
    )
    flags.DEFINE_string("data_set", "digits", "digits is in the box; other names are files in --data_dir.", **options)
    flags.DEFINE_string("data_dir", None, "Folder with IDX or NPZ files, see fundamentals/data.py.", **options)
    flags.DEFINE_string("output_dir", "results/train_digits", "Where results, figure and checkpoint go.", **options)
    flags.DEFINE_bool("overwrite", False, "Replace what an earlier run left in --output_dir.", **options)
    flags.DEFINE_bool("resume", False, "Continue the run whose checkpoint is in --output_dir.", **options)
    flags.DEFINE_integer(
        "checkpoint_every", 5, "Epochs between checkpoints; 0: only at the end.", lower_bound=0, **options
    )
    flags.DEFINE_float("target_accuracy", 0.0, "Of the test digits, to be judged; 0: not judged.", 0.0, 1.0, **options)

    def are_sizes(values: Sequence[str]) -> bool:
        return all(value.isascii() and value.isdecimal() and int(value) > 0 for value in values)

    def is_read_by(read: Callable[[str], Any], text: str) -> bool:
        try:
            read(text)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from error
        return True

    flags.register_validator("hidden_sizes", are_sizes, message="expected positive integers", flag_values=flag_values)
    flags.register_validator("initializer", functools.partial(is_read_by, _initializer), flag_values=flag_values)
    flags.register_validator(
        "memory_budget", lambda text: not text or is_read_by(to_bytes, text), flag_values=flag_values
    )


def run(
    *,
    model: str,
    gradients: str,
    optimizer: str,
    learning_rate: float,
    batch_size: int,
    num_microbatches: int,
    memory_budget: str | None,
    epochs: int,
    hidden_sizes: Sequence[str],
    activation: str,
    norm: str,
    heads: int,
    attention: str,
    tokens: str,
    initializer: str,
    loss: str,
    seed: int,
    data_set: str,
    data_dir: str | None,
    output_dir: str,
    overwrite: bool,
    resume: bool,
    checkpoint_every: int,
    target_accuracy: float,
) -> list[common.Verdict]:
    """Train, report, judge."""
    settings = dict(locals())
    start_time = time.perf_counter()
    with common.user_errors():
        method = OPTIMIZERS[optimizer](learning_rate)
        dataset = data.load(data_set, data_dir)
        if batch_size > len(dataset.train.labels):
            raise ValueError(
                f"--batch_size={batch_size} is more than the {len(dataset.train.labels)} training examples"
            )
        if num_microbatches > batch_size:
            raise ValueError(f"--num_microbatches={num_microbatches} is more than --batch_size={batch_size}")
        if num_microbatches > 1 and (model, norm) == ("cnn", "batch_norm"):
            raise ValueError(
                f"--num_microbatches={num_microbatches} with --norm=batch_norm, which would normalize each microbatch "
                "by itself; expected --norm=layer_norm, or one microbatch"
            )
        if resume and overwrite:
            raise ValueError("--resume continues the earlier run and --overwrite drops it; expected one of them")
        dtype = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32  # as the caller asked JAX for it
        classes = 1 + max(int(split.labels.max()) for split in dataset)
        network_model = digit_models.build(
            model,
            image=dataset.train.inputs.shape[1:],
            classes=classes,
            hidden_sizes=[int(size) for size in hidden_sizes],
            activation=None if activation == "maxout" else RULES[activation].rule,
            initializer=_initializer(initializer),
            loss_rule=RULES[loss].rule,
            norm=norm,
            heads=heads,
            attention=attention,
            tokens=tokens,
            dtype=dtype,
        )

    params_key, order_key = jax.random.split(jax.random.key(seed))  # one seed, named keys
    inputs = {name: jnp.asarray(network_model.read(split.inputs), dtype) for name, split in dataset._asdict().items()}
    targets = {name: _targets(split.labels, loss, classes, dtype) for name, split in dataset._asdict().items()}
    params = jax.jit(network_model.init)(params_key)  # one program, not one for each array
    names = ["hand", "autodiff"] if gradients == "lockstep" else [gradients]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    network = Network(params, method.init(params))
    done = Progress(0, dict.fromkeys(names, network), [], np.zeros((0, len(paths))))
    precise = jax.default_matmul_precision("highest")  # TF32 alone would make two right gradients differ by 5e-4
    plans: dict[str, Plan] = {}
    if memory_budget:
        common.console.print(f"planning gradients in {to_bytes(memory_budget):,} bytes ...")
        x, y = (arrays["train"][: -(-batch_size // num_microbatches)] for arrays in (inputs, targets))
        with common.user_errors(), precise:
            plans = digit_models.plans(network_model, names, params, x, y, memory_budget)
        for name, plan in plans.items():
            common.console.print(f"{name}: {plan.peak_bytes:,} bytes, {plan.time:.3f} × the FLOPs of storing all")

    identity = digit_progress.identity(settings, dataset, dtype)
    if resume:
        with common.user_errors():
            folder = Path(output_dir)
            done = digit_progress.load(folder / CHECKPOINT, done, identity)
            if done.epoch > epochs:
                raise ValueError(f"{folder / CHECKPOINT} is {done.epoch} epochs old; expected --epochs to be more")
            common.write_flags(folder, settings)
        common.console.print(f"resuming after epoch {done.epoch}")
    else:
        folder = common.output_folder(output_dir, FILES, settings, overwrite=overwrite, resumable=True)
        if checkpoint_every:
            digit_progress.save(folder / CHECKPOINT, done, identity)

    # The functions that one step is made of, compiled apart: neither gradient can borrow from the other.
    gradient = {name: jax.jit(f) for name, f in digit_models.gradients(network_model, num_microbatches, plans).items()}

    @jax.jit
    def update(network: Network, gradients: Any) -> Network:
        updates, state = method.update(gradients, network.optimizer_state, network.params)
        return Network(optimizers.apply_updates(network.params, updates), state)

    @jax.jit
    def evaluate(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return network_model.loss(params, x, y), jnp.argmax(network_model.apply(params, x), axis=-1)

    def score(params: Any, part: str) -> tuple[float, float, np.ndarray]:
        mean, predictions = evaluate(params, inputs[part], targets[part])
        return (
            float(mean),
            float(np.mean(np.asarray(predictions) == getattr(dataset, part).labels)),
            np.asarray(predictions),
        )

    steps = len(dataset.train.labels) // batch_size
    interrupted = False
    common.console.print("epoch   train: loss, accuracy   validation: loss, accuracy   gradients apart")
    try:
        with precise, common.interruptible(), common.progress() as bar:
            task = bar.add_task("training", total=epochs * steps, completed=done.epoch * steps, note="")
            for epoch in range(done.epoch + 1, epochs + 1):
                networks = dict(done.networks)
                order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(dataset.train.labels))
                differences = []
                for batch in np.asarray(order)[: steps * batch_size].reshape(steps, batch_size):
                    x, y = inputs["train"][batch], targets["train"][batch]
                    for name in names:
                        _, slope = gradient[name](networks[name].params, x, y)
                        if gradients == "lockstep" and name == "hand":
                            _, reference = gradient["autodiff"](networks[name].params, x, y)
                            differences.append(_relative_differences(slope, reference))
                        networks[name] = update(networks[name], slope)
                    bar.advance(task)
                record: dict[str, float] = {"epoch": epoch}
                for part in ("train", "validation"):
                    record[f"{part}_loss"], record[f"{part}_accuracy"], _ = score(networks[names[0]].params, part)
                rows = np.asarray(jax.device_get(differences), float).reshape(-1, len(paths))
                done = Progress(epoch, networks, [*done.history, record], np.concatenate([done.differences, rows]))
                common.console.print(_line(record, rows))
                if checkpoint_every and epoch % checkpoint_every == 0 and epoch < epochs:
                    digit_progress.save(folder / CHECKPOINT, done, identity)
                if digit_progress.diverged(done):
                    common.console.print(f"the training diverged in epoch {epoch}: try a smaller --learning_rate")
                    break
    except KeyboardInterrupt:
        interrupted = True
        common.console.print(
            f"interrupted after {done.epoch} of {epochs} epochs; --resume, without --overwrite, goes on"
        )
    with precise:
        digit_progress.save(folder / CHECKPOINT, done, identity)
        tests = {name: score(done.networks[name].params, "test") for name in names}
    verdicts = _report(
        folder, settings, dataset, done, paths, tests, plans, dtype, interrupted, time.perf_counter() - start_time
    )
    if interrupted:
        raise KeyboardInterrupt
    return verdicts


def _initializer(text: str) -> Any:
    """`NAME` or `NAME(NUMBER)` as an initializer."""
    match = re.fullmatch(r"(\w+)(?:\(([^()]+)\))?", text)
    if not match or match[1] not in INITIALIZERS:
        raise ValueError(f"expected one of {', '.join(INITIALIZERS)}, the number in brackets: normal(0.05)")
    name, number = match.groups()
    if (number is not None) != (name in SCALED) and name != "orthogonal":
        raise ValueError(f"expected {name}({'NUMBER)' if name in SCALED else ''}".removesuffix("(") + f", not {text}")
    return INITIALIZERS[name](*([] if number is None else [float(number)]))


def _targets(labels: np.ndarray, loss: str, classes: int, dtype: Any) -> jax.Array:
    """What the loss compares the outputs with: labels, or a number for each class."""
    if loss == "softmax_cross_entropy":
        return jnp.asarray(labels)
    one_hot = labels[:, None] == np.arange(classes)
    return jnp.asarray(2 * one_hot.astype(np.int32) - 1) if loss == "hinge" else jnp.asarray(one_hot, dtype)


@jax.jit
def _relative_differences(manual: Any, reference: Any) -> jax.Array:
    """For each parameter the largest difference over the largest entry of the reference.

    NaN where the reference is not finite: there is nothing to compare with. Infinite where only the other is not.
    """
    pairs = list(zip(jax.tree.leaves(manual), jax.tree.leaves(reference), strict=True))
    errors = jnp.stack([jnp.max(jnp.abs(a - b)) for a, b in pairs])
    scales = jnp.stack([jnp.max(jnp.abs(b)) for _, b in pairs])
    ratios = jnp.where(errors == 0, 0, jnp.where(jnp.isfinite(errors), errors / scales, jnp.inf))
    return jnp.where(jnp.isfinite(scales), ratios, jnp.nan)


def _line(record: dict[str, float], differences: np.ndarray) -> str:
    text = f"{record['epoch']:5d}"
    for part, width in (("train", 16), ("validation", 20)):
        text += f"{record[f'{part}_loss']:{width}.4f} {record[f'{part}_accuracy']:8.2%}"
    return text + (f"{differences.max():18.1e}" if differences.size else "")


def _report(
    folder: Path,
    settings: dict[str, Any],
    dataset: data.Dataset,
    done: Progress,
    paths: list[str],
    tests: dict[str, tuple[float, float, np.ndarray]],
    plans: dict[str, Plan],
    dtype: Any,
    interrupted: bool,
    wall_s: float,
) -> list[common.Verdict]:
    """Tables, verdicts, results.json and the figure of what is done."""
    truth = dataset.test.labels
    rows = [
        (name, f"{mean:.4f}", f"{accuracy:.2%}", f"{np.sum(predictions != truth)} of {len(truth)}")
        for name, (mean, accuracy, predictions) in tests.items()
    ]
    common.table(f"Test, after {done.epoch} epochs", ["gradients", "loss", "accuracy", "misread"], rows)
    bound = 1e-12 if dtype == jnp.float64 else 1e-5
    verdicts, lockstep = [], None
    if digit_progress.diverged(done):
        last = done.history[-1]
        verdicts.append(
            common.Verdict(
                "the training stays finite", f"loss {last['train_loss']} in epoch {done.epoch}", "finite", False
            )
        )
    finite = done.differences[~np.isnan(done.differences).any(axis=1)]  # the steps with a gradient to compare with
    if len(finite):
        lockstep = _compare(done.networks, paths, finite, tests)
        largest = lockstep["gradient_difference"]
        worst = max(largest, key=largest.__getitem__)
        verdicts.append(
            common.Verdict(
                "the gradient derived by hand is jax.grad's, at every step",
                f"{largest[worst]:.1e} ({worst})", f"≤ {bound:.0e}", largest[worst] <= bound, "B3, B10",
            )
        )  # fmt: skip
    if len(finite) and not digit_progress.diverged(done):
        by_hand, by_autodiff = tests["hand"][1], tests["autodiff"][1]
        verdicts.append(
            common.Verdict(
                "trained with either, the network ends at the same accuracy",
                f"{by_hand:.2%} and {by_autodiff:.2%}", "within 1 %", abs(by_hand - by_autodiff) <= 0.01, "B10",
            )
        )  # fmt: skip
    if settings["target_accuracy"] and not interrupted:
        accuracy, target = min(accuracy for _, accuracy, _ in tests.values()), settings["target_accuracy"]
        predicted = f"≥ {100 * target:g}%"
        verdicts.append(
            common.Verdict("it reads the test digits", f"{accuracy:.2%}", predicted, accuracy >= target, "B10")
        )
    if verdicts:
        common.print_verdicts(verdicts)
    common.write_json(
        folder / RESULTS,
        {
            "settings": settings,
            "interrupted": interrupted,
            "epochs": done.epoch,
            "session_wall_s": wall_s,
            "memory_plans": {
                name: {"budget": to_bytes(settings["memory_budget"]), "peak_bytes": plan.peak_bytes, "time": plan.time}
                for name, plan in plans.items()
            },
            "test": {name: {"loss": mean, "accuracy": accuracy} for name, (mean, accuracy, _) in tests.items()},
            "lockstep": lockstep,
            "verdicts": [verdict._asdict() for verdict in verdicts],
            "history": done.history,
        },
    )
    predictions = next(iter(tests.values()))[2]
    figure = figures.training(done.history, done.differences, paths, bound, dataset.test, predictions)
    common.save_figure(figure, folder / FIGURE)
    common.console.print(f"{wall_s:.1f} s; results, figure and checkpoint are in {folder}", markup=False)
    return verdicts


def _compare(
    networks: dict[str, Network],
    paths: list[str],
    differences: np.ndarray,
    tests: dict[str, tuple[float, float, np.ndarray]],
) -> dict[str, Any]:
    """The two gradients over all steps, and the two networks where they ended."""
    by_hand, by_autodiff = networks["hand"].params, networks["autodiff"].params
    apart = np.asarray(_relative_differences(by_hand, by_autodiff)).tolist()
    largest = differences.max(axis=0).tolist()
    shapes = ["×".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(by_hand)]
    common.table(
        f"By hand against jax.grad, relative to each parameter's largest entry, {len(differences)} steps",
        ["parameter", "shape", "gradients apart", "the two networks end apart"],
        [(p, shape, f"{g:.1e}", f"{d:.1e}") for p, shape, g, d in zip(paths, shapes, largest, apart, strict=True)],
    )
    return {
        "steps": len(differences),
        "gradient_difference": dict(zip(paths, largest, strict=True)),
        "final_parameter_difference": dict(zip(paths, apart, strict=True)),
        "same_predictions": int(np.sum(tests["hand"][2] == tests["autodiff"][2])),
    }


if __name__ == "__main__":
    common.main(define_flags, run)
