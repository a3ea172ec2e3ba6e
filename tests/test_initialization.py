"""Initialization: closed forms, NumPy transcriptions, results that make verdicts fail, a small run, flags."""

import contextlib
import copy
import itertools
import json
import math
from unittest.mock import create_autospec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, initialization, initialization_networks, initialization_verdicts
from experiments import initialization_theory as theory
from fundamentals import initializers
from fundamentals.models import mlp

SMALL = {
    "width": 16, "depth": 3, "networks": 4, "examples": 3, "tied_widths": "4", "trained_width": 5, "hidden_layers": 2,
    "large": 3,
    "trained_networks": 2, "sgd_rates": "0.1", "adam_rates": "0.01", "steps": 3, "batch": 8,
}  # fmt: skip
SETTINGS = parse(initialization)


@contextlib.contextmanager
def cheaper():
    """Fewer draws, ties with sgd only, no deep network trained: programs take their time to compile."""
    row = {"loss": [[1.0], [0.9]], "accuracy": [[0.1], [0.2]]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        for module in (initialization, initialization_verdicts):
            patch.setattr(module, "DRAW_SHAPE", (50, 200))
            patch.setattr(module, "METHODS", ("sgd",))
        spec = create_autospec(initialization_networks.train_deep, return_value=row)
        patch.setattr(initialization_networks, "train_deep", spec)
        yield patch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with cheaper():
        verdicts = initialization.run(**parse(initialization, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_what_needs_no_training_holds_in_a_small_run(finished):
    folder, verdicts, results = finished
    assert results["complete"]
    assert len(verdicts) == 31
    untrained = [v for v in verdicts if not v.claim.startswith(("trained", "random", "tanh, 5"))]
    assert [v.claim for v in untrained if not v.holds] == []
    assert all((folder / name).exists() for name in initialization.FILES)
    with pytest.raises(common.UserError, match="holds an earlier run"):
        initialization.run(**parse(initialization, **SMALL, output_dir=folder))


def test_an_interrupted_run_goes_on_to_the_same_rows(tmp_path, finished):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with cheaper() as patch:
        patch.setattr(initialization_networks, "linear_networks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            initialization.run(**parse(initialization, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert [*results["rows"]] == [f"square, {name}" for name in theory.SLOPES]
    with cheaper() as patch:
        patch.delattr(initialization_networks, "signals")  # what is finished is not measured again
        initialization.run(**parse(initialization, **SMALL, output_dir=tmp_path, resume=True))
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == finished[2]["rows"]


def test_signals_by_transcription(x64):
    random = np.random.default_rng(0)
    w, x, dy = random.normal(size=(3, 16, 16)), random.normal(size=(3, 16)), random.normal(size=(3, 16))
    stddev = np.array([0.01, 1.0, 0.125, 0.25, 0.35])
    for activation in ("tanh", "relu"):
        found = initialization_networks.signals(*map(jnp.asarray, (w, x, dy, stddev)), activation=activation)
        for lane, scale in enumerate(stddev):
            y, kept = x, []
            for layer in scale * w:
                z = y @ layer
                y, slope = (np.tanh(z), 1 - np.tanh(z) ** 2) if activation == "tanh" else (np.maximum(z, 0), z > 0)
                kept.append((y, slope))
            g, gradients = dy, []
            for layer, (_, slope) in zip(scale * w[::-1], kept[::-1], strict=True):
                g = (g * slope) @ layer.T
                gradients.append(np.mean(g**2))
            np.testing.assert_allclose(found[0][:, lane], [np.mean(y**2) for y, _ in kept], rtol=1e-10)
            np.testing.assert_allclose(found[1][:, lane], gradients[::-1], rtol=1e-10)
            np.testing.assert_allclose(found[2][:, lane], [y for y, _ in kept], rtol=1e-8, atol=1e-30)


def test_linear_networks_by_weights_that_are_scaled_first():
    widths = [5, 3, 7]
    row = initialization_networks.linear_networks(widths, networks=2, examples=4, seed=3)
    random = initialization_networks.generator(3, "5,3,7")
    means = []
    for _ in range(2):
        x, dy = (random.standard_normal((4, n)) for n in (5, 7))
        w = [random.standard_normal(shape) * math.sqrt(2 / sum(shape)) for shape in itertools.pairwise(widths)]
        up, down = [x, x @ w[0], x @ w[0] @ w[1]], [dy @ w[1].T @ w[0].T, dy @ w[1].T, dy]
        means.append([[np.mean(a**2) / np.mean(b**2) for a in arrays] for arrays, b in ((up, x), (down, dy))])
    names = [*theory.RULES]
    for direction, name in enumerate(("forward", "backward")):
        values = np.array(means)[:, direction]
        np.testing.assert_allclose(row[name][names.index("Xavier")], values.mean(axis=0))
        error = values.std(axis=0, ddof=1) / math.sqrt(2)
        np.testing.assert_allclose(row[f"{name}_error"][names.index("Xavier")], error, atol=1e-15)


def test_closed_forms():
    he, s3 = (theory.square(a, v, width=64, depth=10) for a, v in (("relu", 2 / 64), ("linear", 1 / 256)))
    np.testing.assert_allclose([he.forward, he.backward], np.ones((2, 11)), rtol=1e-12)
    np.testing.assert_allclose(s3.forward, 4.0 ** -np.arange(11))
    np.testing.assert_allclose(s3.backward, 4.0 ** np.arange(-10, 1))
    assert s3.forward[-1] == pytest.approx(9.5e-7, rel=5e-3)
    tanh = theory.square("tanh", 1 / 64, width=64, depth=2)
    z = np.random.default_rng(0).normal(size=(2, 10**5))
    drawn = [np.tanh(z[0]) ** 2, (1 - np.tanh(z[0]) ** 2) ** 2, np.tanh(math.sqrt(tanh.forward[1]) * z[1]) ** 2]
    np.testing.assert_allclose([tanh.forward[1], tanh.backward[0] / tanh.backward[1], tanh.forward[2]],
                               [np.mean(d) for d in drawn], rtol=2e-2)  # fmt: skip
    assert tanh.forward_off[2] == pytest.approx(np.var(drawn[0]) / np.mean(drawn[0]) ** 2 / 64, rel=0.03)
    slopes = [(1 - np.tanh(s * z[0]) ** 2) ** 2 for s in (1, math.sqrt(tanh.forward[1]))]
    spreads = [np.var(d) / np.mean(d) ** 2 for d in (*slopes, drawn[0], drawn[2])]
    assert tanh.backward_off[0] == pytest.approx(sum(spreads) / 64, rel=0.03)
    late = theory.square("tanh", 1 / 64, width=64, depth=40).forward
    assert 1 / late[40] - 1 / late[39] == pytest.approx(2, rel=0.05)  # as 1/(2l)
    up_down = theory.linear_stack("Xavier", [256, 64, 256])
    np.testing.assert_allclose([up_down.forward, up_down.backward[::-1]], [[1, 1.6, 0.64]] * 2)
    np.testing.assert_allclose(theory.linear_stack("1/n_in", [512, 32]).backward, [1 / 16, 1])
    assert pytest.approx(0.87962566103423978) == theory.CUT_STDDEV
    assert theory.largest_of(1, 0.5) == pytest.approx(0.674489750)
    assert math.erf(theory.largest_of(1000, 0.3) / math.sqrt(2)) ** 1000 == pytest.approx(0.3)


def test_a_step_from_zeros_moves_the_last_bias_by_what_is_frequent(finished):
    # The gradient of the last bias is softmax(0) − frequency; the first batch is drawn as in the run.
    known = initialization_networks.digits()
    batch = initialization_networks.generator(0, "ties").integers(0, len(known.labels), (1, 8))
    with jax.enable_x64(True):
        arguments = {"eta": 0.1, "width": 4, "steps": 1, "batch": 8, "seed": 0}
        row = initialization_networks.train_ties(initializers.zeros, "tanh", "sgd", **arguments)
    frequency = np.bincount(known.labels[batch[0]], minlength=10) / 8
    assert row["moved"] == [0, 0, 0, 0, 0, pytest.approx(0.1 * np.abs(0.1 - frequency).max())]


def test_lanes_by_autodiff():
    known = initialization_networks.digits()
    initializer = initialization_networks.scheme("S3", 0.01, 1.0)
    shape = {"width": 5, "depth": 2, "networks": 2, "steps": 1, "batch": 8, "seed": 1}
    row = initialization_networks.train_deep(initializer, "tanh", "sgd", [0.1, 0.5], **shape)
    batches = initialization_networks.generator(1, "training").integers(0, len(known.labels), (2, 1, 8))
    params = mlp.init(jax.random.split(jax.random.key(1), 2)[1], (64, 5, 5, 10), initializer=initializer)
    assert float(jnp.std(params[1].w)) == pytest.approx(math.sqrt(1 / 20), rel=0.4)

    def loss(params, which):
        y = jnp.asarray(known.x[which])
        for w, b in params[:-1]:
            y = jnp.tanh(jnp.dot(y, w) + b[None])
        logits = jnp.dot(y, params[-1].w) + params[-1].b[None]
        labels = jnp.asarray(known.labels[which])[:, None]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=1))

    @jax.jit
    def after_a_step(params):
        stepped = jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params, batches[1, 0]))
        return loss(stepped, np.arange(len(known.labels)))

    assert row["loss"][1][1] == pytest.approx(float(after_a_step(params)) / math.log(10), rel=1e-5)


def clear():
    """Rows of the default config in which every verdict holds."""
    rows = {}

    def of(predicted):
        found = {name: [getattr(p, name).tolist() for p in predicted] for name in ("forward", "backward")}
        errors = {f"{name}_error": [[0.01 * v for v in lane] for lane in lanes] for name, lanes in found.items()}
        return found | errors

    for activation in theory.SLOPES:
        rows[f"square, {activation}"] = of(initialization_verdicts.predictions(activation, SETTINGS).values())
    for name, widths in theory.STACKS.items():
        rows[f"stack, {name}"] = of([theory.linear_stack(rule, widths) for rule in theory.RULES])
    for name, largest, variance in (("He", 4.9, 1.0), ("Xavier", 2.2, 0.2), ("He of JAX", 2.27368, 1.0)):
        rows[f"draws, {name}"] = {"largest": largest, "variance": variance, "error": 0.0014}
    for method in ("sgd", "adam"):
        tied = {"apart": 1e-13, "nearest": 0.0, "accuracy": 0.2}
        for name in ("0, sigmoid, 32", "c, tanh, 32", "c, tanh, 30"):
            rows[f"ties, {name}, {method}"] = tied | {"moved": [0.1] * 6}
        rows[f"ties, 0, tanh, 32, {method}"] = tied | {"moved": [0.0] * 5 + [0.1]}
        rows[f"ties, random, tanh, 32, {method}"] = {"apart": 2, "nearest": 0.7, "accuracy": 0.97, "moved": [0.1] * 6}
        for activation, name in itertools.product(("tanh", "relu"), ("small", "large", "S3", "Xavier", "He")):
            low = name == initialization_verdicts.MATCHED[activation]
            loss = 0.02 if low else 0.9 if method == "sgd" else 0.3
            row = {"loss": [[1.0, loss]] * 3, "accuracy": [[0.1, 0.9]] * 3}
            rows[f"training, {name}, {activation}, {method}"] = row
    return rows


def failing(rows):
    return [v.claim for v in initialization_verdicts.judge(rows, SETTINGS) if not v.holds]


def test_clear_rows_hold():
    assert failing(clear()) == []


@pytest.mark.parametrize(
    ("key", "path", "value", "fails"),
    [
        ("square, linear", ("forward", 2, 10), 8.9e-7, ["linear, 5 schemes: E x²", "linear, S3"]),
        ("square, linear", ("backward", 3, 4), 1.06, ["linear, 5 schemes: E dx²"]),
        ("square, relu", ("backward", 4, 0), 0.94, ["relu, 5 schemes: E dx²", "relu, He"]),
        ("square, relu", ("forward", 4, 5), math.nan, ["relu, 5 schemes: E x²"]),
        ("square, tanh", ("forward", 3, 10), 0.06, ["tanh, 5 schemes: E x²", "tanh, Xavier"]),
        ("square, tanh", ("forward", 1, 10), 1.01, ["tanh, 5 schemes: E x²", "large, tanh: E x²"]),
        ("square, tanh", ("forward", 1, 10), 0.89, ["tanh, 5 schemes: E x²", "large, tanh: E x²"]),
        ("square, tanh", ("forward", 1, 10), math.nan, ["tanh, 5 schemes: E x²", "large, tanh: E x²"]),
        ("square, relu", ("forward", 0, 10), 1.5, ["relu, 5 schemes: E x²", "small, σ"]),
        ("square, tanh", ("backward", 1, 0), 0.9, ["tanh, 5 schemes: E dx²", "large, σ"]),
        ("stack, funnel", ("backward", 0, 0), 1.0, ["linear, 512 → 256"]),
        ("stack, up and down", ("forward", 2, 10), 1.0, ["linear, 256 → 64"]),
        ("draws, He", ("largest",), 2.2737, ["He, draws"]),
        ("draws, He", ("variance",), 1.01, ["He, draws"]),
        ("draws, He of JAX", ("largest",), 4.9, ["He of JAX"]),
        ("draws, Xavier", ("variance",), 0.3125, ["Xavier, n_in"]),
        ("ties, 0, tanh, 32, sgd", ("moved", 2), 1e-9, ["c = 0, tanh"]),
        ("ties, 0, tanh, 32, adam", ("moved", 5), 0.0, ["c = 0, tanh"]),
        ("ties, 0, sigmoid, 32, sgd", ("apart",), 1e-5, ["c = 0, sigmoid"]),
        ("ties, c, tanh, 30, adam", ("apart",), 1e-5, ["c = 0.01, tanh, 2 × 30"]),
        ("ties, c, tanh, 32, adam", ("moved", 0), 0.0, ["c = 0.01, tanh, 2 × 32"]),
        ("ties, random, tanh, 32, sgd", ("nearest",), 0.01, ["random"]),
        ("ties, random, tanh, 32, sgd", ("accuracy",), 0.5, ["random"]),
        ("training, Xavier, tanh, sgd", ("loss", 1, 1), 0.3, ["trained, tanh, sgd, Xavier"]),
        ("training, S3, relu, sgd", ("loss", 1, 0), 0.3, ["trained, relu, sgd, small"]),
        ("training, large, tanh, sgd", ("loss", 0, 0), 0.3, ["trained, tanh, sgd, small"]),
        ("training, He, relu, adam", ("loss", 0, 1), math.nan, ["trained, relu, adam, He"]),
        ("training, S3, tanh, adam", ("loss", 0, 1), 0.9, ["trained, tanh, adam, S3"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed(key, path, value, fails):
    rows = copy.deepcopy(clear())
    *way, last = path
    place = rows[key]
    for step in way:
        place = place[step]
    place[last] = value
    found = failing(rows)
    assert len(found) == len(fails)
    assert all(claim.startswith(start) for claim, start in zip(found, fails, strict=True))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"small": 4}, "expected the first to be less"),
        ({"constant": 0}, "--constant=0.0; expected a finite number > 0"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flag, message):
    with pytest.raises(common.UserError, match=message):
        initialization.run(**parse(initialization, **SMALL | flag, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tied_widths", "1"),
        ("tied_widths", ""),
        ("sgd_rates", ""),
        ("adam_rates", ""),
        ("tied_widths", "8,8"),
        ("sgd_rates", "0"),
        ("adam_rates", "x"),
        ("networks", 2),
        ("seed", -1),
    ],
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(initialization, **{name: value})
