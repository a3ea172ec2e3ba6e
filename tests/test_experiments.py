"""The experiments: small runs, verdicts, flags, what is written and what is not."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from digits import DRAWN, few_digits, history, train
from scripts import parse

from experiments import common, digit_models, digit_progress, train_digits

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("loss", train_digits.LOSSES)
def test_lockstep_holds_for_every_loss(tmp_path, loss):
    verdicts = train(tmp_path, loss=loss, activation="gelu", **DRAWN)
    assert [v.holds for v in verdicts] == [True, True]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["lockstep"]["steps"] == 8
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert set(results["test"]) == {"hand", "autodiff"}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cnn", {"hidden_sizes": "8,8"}),
        ("rnn", {"hidden_sizes": "5"}),
        ("transformer", {"hidden_sizes": "4", "heads": "2"}),
    ],
)
def test_lockstep_holds_for_every_model(tmp_path, monkeypatch, name, given):
    monkeypatch.undo()  # the figure is drawn, with parameters of every number
    verdicts = train(tmp_path, model=name, epochs=1, batch_size=90, **given, **DRAWN)
    assert [v.holds for v in verdicts] == [True, True]
    assert json.loads((tmp_path / "results.json").read_text())["lockstep"]["steps"] == 2


def test_lockstep_notices_a_wrong_gradient(tmp_path, monkeypatch):
    # In one parameter, by five times the bound that is stated.
    right = digit_models.mlp.loss_and_gradient

    def wrong(params, x, y, **rules):
        loss, (first, *rest) = right(params, x, y, **rules)
        return loss, (first._replace(b=1.00005 * first.b), *rest)

    monkeypatch.setattr(digit_models.mlp, "loss_and_gradient", wrong)
    verdicts = train(tmp_path)
    assert not verdicts[0].holds
    assert "[0].b" in verdicts[0].measured


def test_lockstep_notices_a_gradient_that_is_not_a_number(tmp_path, monkeypatch):
    right = digit_models.mlp.loss_and_gradient

    def wrong(params, x, y, **rules):
        loss, (first, *rest) = right(params, x, y, **rules)
        return loss, (first._replace(b=first.b * jnp.nan), *rest)

    monkeypatch.setattr(digit_models.mlp, "loss_and_gradient", wrong)
    verdicts = {v.claim: v for v in train(tmp_path)}
    verdict = verdicts["the gradient derived by hand is jax.grad's, at every step"]
    assert (verdict.holds, verdict.measured) == (False, "inf ([0].b)")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gradients", ["hand", "autodiff"])
def test_microbatches_train_as_the_batch_does(tmp_path, gradients):
    for k in (1, 3):  # of 16, 16 and 14 examples
        given = {"batch_size": "46", "gradients": gradients, "activation": "tanh"} | DRAWN
        assert train(tmp_path / str(k), **given, num_microbatches=k) == []
    with np.load(tmp_path / "1" / "checkpoint.npz") as one, np.load(tmp_path / "3" / "checkpoint.npz") as three:
        for name in one:
            if "params" in name:
                assert one[name].dtype == np.float64
                np.testing.assert_allclose(three[name], one[name], rtol=1e-9, atol=1e-12)


def test_lockstep_holds_in_microbatches_and_notices_a_wrong_gradient(tmp_path, monkeypatch):
    given = {"num_microbatches": "4", "activation": "gelu", "epochs": "1"} | DRAWN
    assert [v.holds for v in train(tmp_path / "right", **given)] == [True, True]
    right = digit_models.mlp.loss_and_gradient

    def of_the_sum(params, x, y, **rules):  # divided once more in the end
        loss, gradient = right(params, x, y, **rules)
        return loss, jax.tree.map(lambda g: g / len(x), gradient)

    monkeypatch.setattr(digit_models.mlp, "loss_and_gradient", of_the_sum)
    assert not train(tmp_path / "wrong", **given)[0].holds


def test_microbatches_are_accumulated(tmp_path, monkeypatch):
    asked, accumulate = [], digit_models.accumulate
    monkeypatch.setattr(
        digit_models, "accumulate", lambda *a, **options: asked.append(options) or accumulate(*a, **options)
    )
    train(tmp_path / "1", epochs=1, gradients="hand")
    assert asked == []
    train(tmp_path / "3", epochs=1, gradients="hand", num_microbatches=3)
    assert [options["num_microbatches"] for options in asked] == [3, 3]


def test_divergence_is_called_divergence(tmp_path):
    verdicts = train(tmp_path, epochs=5, learning_rate="1e30")
    assert (verdicts[0].claim, verdicts[0].holds) == ("the training stays finite", False)
    assert verdicts[1].holds  # of the steps before
    assert len(history(tmp_path)) < 5
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["history"][-1]["train_loss"] is None


def test_every_verdict_fails_where_the_hand_gradient_climbs(tmp_path, monkeypatch):
    # Only the network trained by hand goes wrong: each verdict must look at it, and at the other one too.
    right = digit_models.mlp.loss_and_gradient

    def climbing(params, x, y, **rules):
        loss, gradient = right(params, x, y, **rules)
        return loss, jax.tree.map(jnp.negative, gradient)

    monkeypatch.setattr(digit_models.mlp, "loss_and_gradient", climbing)
    verdicts = train(tmp_path, epochs=3, batch_size=4, target_accuracy="0.5", **DRAWN)
    assert [v.holds for v in verdicts] == [False, False, False]


def test_examples_are_shuffled_anew_each_epoch(tmp_path, monkeypatch):
    folded, fold_in = [], jax.random.fold_in
    monkeypatch.setattr(jax.random, "fold_in", lambda key, data: folded.append(data) or fold_in(key, data))
    train(tmp_path, epochs=3, gradients="hand")
    assert folded == [1, 2, 3]


def test_overwriting_drops_the_old_checkpoint_first(tmp_path, monkeypatch):
    train(tmp_path, epochs=1, gradients="hand")
    monkeypatch.setattr(train_digits, "_report", lambda *_: pytest.fail("not reached"))
    monkeypatch.setattr(digit_progress, "save", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        train(tmp_path, epochs=1, gradients="hand", overwrite="true")
    assert os.listdir(tmp_path) == [common.FLAGFILE]  # so that --resume can't take the old run for the new one


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "file"
    common.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        common.write_atomically(path, b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with common.interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_target_accuracy_is_judged(tmp_path):
    assert [v.holds for v in train(tmp_path / "a", gradients="hand", target_accuracy="0.01")] == [True]
    assert [v.holds for v in train(tmp_path / "b", gradients="hand", target_accuracy="0.99")] == [False]


@pytest.mark.parametrize(
    "given",
    [
        {"gradients": "hand", "optimizer": "sgd", "activation": "maxout", "initializer": "orthogonal"},
        {"gradients": "autodiff", "optimizer": "rmsprop", "hidden_sizes": "", "initializer": "normal(0.01)"},
        {"gradients": "hand", "optimizer": "momentum", "activation": "tanh", "initializer": "xavier_uniform"},
        {"gradients": "hand", "model": "cnn", "hidden_sizes": "3", "norm": "batch_norm", "batch_size": "90"},
        {"gradients": "hand", "model": "transformer", "hidden_sizes": "4", "tokens": "pixels", "attention": "blockwise"}
        | {"batch_size": "90"},
    ],
)
def test_other_settings(tmp_path, given):
    assert train(tmp_path, **given) == []
    assert len(history(tmp_path)) == 2


def test_earlier_results_are_not_overwritten_unless_told(tmp_path):
    train(tmp_path, epochs=1)
    before = (tmp_path / "results.json").read_bytes()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(common.UserError, match="holds an earlier run"):
        train(tmp_path, epochs=1)
    assert (tmp_path / "results.json").read_bytes() == before
    drawn = history(tmp_path)
    train(tmp_path, epochs=1, seed=1, overwrite="true")
    assert (tmp_path / "results.json").read_bytes() != before
    assert history(tmp_path) != drawn  # by another seed
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_effective_flags_repeat_the_run(tmp_path):
    train(tmp_path / "a", gradients="hand", seed=3, overwrite="true")
    assert "overwrite" not in (tmp_path / "a" / common.FLAGFILE).read_text()
    values = flags.FlagValues()
    train_digits.define_flags(values)
    values(["", *values.read_flags_from_files([f"--flagfile={tmp_path / 'a' / common.FLAGFILE}"])])
    with few_digits():
        train_digits.run(**({name: values[name].value for name in values} | {"output_dir": tmp_path / "b"}))
    assert history(tmp_path / "b") == history(tmp_path / "a")


BAD_FLAGS = {
    "learning_rate": ("-0.1", "not a non-negative number"),
    "batch_size": ("0", "not a positive integer"),
    "num_microbatches": ("0", "not a positive integer"),
    "epochs": ("0", "not a positive integer"),
    "hidden_sizes": ("8,²", "expected positive integers"),
    "activation": ("cube", "value should be one of <sigmoid"),
    "initializer": ("normal", r"expected normal\(NUMBER\), not normal"),
    "loss": ("guess", "value should be one of <softmax_cross_entropy"),
    "optimizer": ("luck", "value should be one of <sgd"),
    "gradients": ("none", "value should be one of <hand"),
    "seed": (str(2**32), "larger than|integer in the range"),
    "model": ("svm", "value should be one of <mlp"),
    "heads": ("0", "not a positive integer"),
    "tokens": ("words", "value should be one of <rows|pixels>"),
    "attention": ("sparse", "value should be one of <dense|blockwise>"),
    "target_accuracy": ("1.5", r"in the range \[0.0, 1.0\]"),
    "checkpoint_every": ("-1", "not a non-negative integer"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags(name):
    value, message = BAD_FLAGS[name]
    with pytest.raises(flags.IllegalFlagValueError, match=message):
        parse(train_digits, **{name: value})


@pytest.mark.parametrize("text", ["he_normal(2)", "nothing", "normal(", "normal(x)", "uniform(-1)", "orthogonal(0)"])
def test_bad_initializers(text):
    with pytest.raises(flags.IllegalFlagValueError):
        parse(train_digits, initializer=text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": "nan"}, "learning_rate is nan; expected a number in"),
        ({"batch_size": "181"}, "--batch_size=181 is more than the 180 training examples"),
        ({"num_microbatches": "46"}, "--num_microbatches=46 is more than --batch_size=45"),
        (
            {"model": "cnn", "norm": "batch_norm", "num_microbatches": "2"},
            "--num_microbatches=2 with --norm=batch_norm, which would normalize each microbatch by itself",
        ),
        ({"data_set": "mnist"}, "'mnist' is not in the box"),
        ({"data_set": "mnist", "data_dir": "nowhere"}, "nowhere is not a folder"),
        ({"resume": "true", "overwrite": "true"}, "expected one of them"),
        ({"model": "cnn", "hidden_sizes": ""}, "expected the channels of at least one stage of the cnn"),
        ({"model": "cnn", "hidden_sizes": "2,2,2,2,2"}, "has 5 stages, which halve [8, 8] pixels to none"),
        ({"model": "rnn", "hidden_sizes": ""}, "expected the units of at least one layer of the rnn"),
        ({"model": "transformer", "hidden_sizes": "8,4"}, "--hidden_sizes=8,4 with --heads=4; expected one width"),
        ({"model": "transformer", "hidden_sizes": "6"}, "a multiple of the heads"),
        ({"model": "cnn", "activation": "maxout"}, "--activation=maxout is for --model=mlp"),
        ({"data_dir": "here"}, "'digits' is in the box; expected no data_dir"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=re.escape(message)):
        train(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_output_folder_that_is_none():
    with pytest.raises(common.UserError, match="--output_dir is empty"):
        train("")


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(common.UserError, match=r"can't be written"):
        train(tmp_path / "file")


def test_command_line(tmp_path):
    def start(*arguments):
        command = [sys.executable, "-m", "experiments.train_digits", *arguments, f"--output_dir={tmp_path}/out"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    wrong = start("--batch_size=9999")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: --batch_size=9999 is more than the 1258 training examples\n"
    assert "unexpected argument 'adam'" in start("adam").stdout
    assert start("--epochs=0").returncode == 2  # 1 is for claims that fail
    given = ["--epochs=1", "--hidden_sizes=", "--initializer=constant(0.1)", "--jax_enable_x64=true"]
    failing = start(*given, "--target_accuracy=1")
    assert (failing.returncode, "FAILS" in failing.stdout) == (1, True)
    good = start(*given, "--resume")
    assert good.returncode == 0, good.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["environment"]["x64"]
    assert (tmp_path / "out" / "train_digits.png").read_bytes().startswith(b"\x89PNG")
    assert max(results["lockstep"]["gradient_difference"].values()) <= 1e-12
    assert "--jax_enable_x64=true" in (tmp_path / "out" / common.FLAGFILE).read_text()
