"""Accumulated gradients, measured: a small run in which the verdicts hold, methods that make them fail, flags."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, gradient_accumulation, gradient_accumulation_figures, microbatches
from experiments.gradient_accumulation import Measured
from experiments.microbatches import Epoch, Errors, Memory

SMALL = {
    "num_microbatches": "1,2,4", "examples": 9, "length": 5, "batch_size": 300, "hidden_sizes": "64",
    "microbatch_size": 256, "repeats": 2,
}  # fmt: skip
KS = [1, 2, 4]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, errors, epochs = tmp_path_factory.mktemp("finished"), microbatches.errors, microbatches.epochs

    def of_images(problem, sizes, *, control):  # sequences take long to compile: they have a test of their own
        return errors(problem, sizes[:2], control=control) if problem.name == "MLP" else []

    def of_one(*args, sizes, **options):
        return epochs(*args, sizes=sizes[:1], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        patch.setattr(microbatches, "errors", of_images)
        patch.setattr(microbatches, "epochs", of_one)
        verdicts = gradient_accumulation.run(**parse(gradient_accumulation, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert len(verdicts) == 9
    assert {v.notes for v in verdicts} == {"K1, claim 7"}
    assert [v.claim for v in verdicts if not v.holds] == []
    assert results["complete"]
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert [(e["problem"], e["k"]) for e in results["errors"]] == [("MLP", 1), ("MLP", 2)]
    assert [(e["k"], e["updates"], e["updates_of_small"]) for e in results["epochs"]] == [(2, 4, 8)]
    assert set(results["seconds"]) == {"1", "2", "4"}
    assert (folder / "gradient_accumulation.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    before = (folder / "results.json").read_bytes()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        gradient_accumulation.run(**parse(gradient_accumulation, **SMALL, output_dir=folder))
    assert (folder / "results.json").read_bytes() == before


def test_the_language_model_in_two_microbatches(x64):
    # Without blocks, which take long to compile and know nothing of microbatches.
    problem = microbatches.sequences(1, examples=6, length=5)
    encoder = problem.params.encoder._replace(blocks=())
    problem = problem._replace(params=problem.params._replace(encoder=encoder))
    (two,) = microbatches.errors(problem, [2], control=False)
    assert (two.k, len(two.counts), two.even) == (2, 2, None)
    assert two.counts[0] != two.counts[1]
    assert max(two.autodiff, two.by_hand) <= 1e-12
    assert two.means > 1e-2


def judge_errors():  # the right programs are those of `finished`, compiled there
    found = microbatches.errors(microbatches.images(0, examples=9), [1, 2], control=True)
    return [v.holds for v in gradient_accumulation.judge(Measured(errors=found))]


def judge_epochs():
    found, _ = microbatches.epochs(0, batch=300, rate=0.01, sizes=[2])
    return [v.holds for v in gradient_accumulation.judge(Measured(epochs=found))]


def wrong_accumulate(loss_fn=None, *, num_microbatches, gradient_fn=None):
    """The mean of the microbatches' means."""

    def mean_and_gradient(params, batch):
        if gradient_fn is not None:
            return tuple(of_means(functools.partial(divided, gradient_fn), params, batch))

        def mean(params, batch):
            s, w = loss_fn(params, batch)
            return s / jnp.maximum(1, w).astype(s.dtype)

        return of_means(jax.value_and_grad(mean), params, batch)

    def divided(gradient_fn, params, batch):
        (s, w), gradient = gradient_fn(params, batch)
        count = jnp.maximum(1, w).astype(s.dtype)
        return s / count, jax.tree.map(lambda g: g / count, gradient)

    def of_means(function, params, batch):
        found = [function(params, part) for part in microbatches.split(batch, num_microbatches)]
        return jax.tree.map(lambda *leaves: sum(leaves) / len(found), *found)

    return mean_and_gradient


def test_a_mean_of_means_is_noticed(x64, monkeypatch):
    assert judge_errors() == [True] * 4
    monkeypatch.setattr(microbatches, "accumulate", wrong_accumulate)
    assert judge_errors() == [False, False, True, True]
    assert judge_epochs() == [False, True]


def test_a_gradient_by_hand_that_is_wrong_is_noticed(x64, monkeypatch):
    right = microbatches.summed_and_gradient

    def wrong(model, params, batch):
        value, (first, *rest) = right(model, params, batch)
        return value, (first._replace(b=first.b * (1 + 1e-11)), *rest)

    monkeypatch.setattr(microbatches, "summed_and_gradient", wrong)
    assert judge_errors() == [True, False, True, True]


def test_means_that_are_right_are_noticed(x64, monkeypatch):
    # As if every trainer did it right: then there is nothing to warn of.
    monkeypatch.setattr(microbatches, "mean_of_means", lambda function, params, batch, k: function(params, batch))
    assert judge_errors() == [True, True, False, True]


def test_means_that_are_never_right_are_noticed(x64, monkeypatch):
    right = microbatches.mean_of_means

    def wrong(*args):
        return jax.tree.map(lambda leaf: leaf * (1 + 1e-11), right(*args))

    monkeypatch.setattr(microbatches, "mean_of_means", wrong)
    assert judge_errors() == [True, True, False, False]


def test_the_batches_are_ragged():
    with jax.enable_x64(True):
        for problem in (microbatches.images(0, examples=90), microbatches.sequences(0, examples=90, length=24)):
            counts = {k: [np.sum(b.labels >= 0) for b in microbatches.split(problem.batch, k)] for k in (4, 8, 16, 32)}
            assert [len(c) for c in counts.values()] == [4, 8, 15, 30]
            assert all(len(set(c)) > 2 for c in counts.values())
            assert [0 in c for c in counts.values()] == [False, True, True, True]
            assert np.all((problem.batch.labels == problem.labels) | (problem.batch.labels == -1))
            assert {leaf.dtype for leaf in jax.tree.leaves(problem.params)} == {np.dtype(np.float64)}


def test_the_gradient_at_once_is_that_of_the_formula(x64):
    problem = microbatches.images(0, examples=5)
    w, b = (np.asarray(leaf) for leaf in problem.params[0])
    v, c = (np.asarray(leaf) for leaf in problem.params[1])
    h = np.tanh(problem.batch.x @ w + b)
    z = h @ v + c
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    counted = np.flatnonzero(problem.batch.labels >= 0)
    dz = np.zeros_like(p)
    dz[counted] = p[counted] / len(counted)
    dz[counted, problem.batch.labels[counted]] -= 1 / len(counted)
    loss, gradient = jax.jit(microbatches.at_once(problem.model))(problem.params, problem.batch)
    np.testing.assert_allclose(loss, -np.log(p[counted, problem.batch.labels[counted]]).mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient[1].w, h.T @ dz, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(gradient[0].b, (dz @ v.T * (1 - h**2)).sum(0), rtol=1e-10, atol=1e-14)


def test_activations_that_are_kept_are_noticed(monkeypatch):
    def keeping(loss_fn=None, *, num_microbatches, gradient_fn=None):  # of all microbatches, until the end
        def mean_and_gradient(params, batch):
            def total(params):
                parts = jax.tree.map(lambda x: x.reshape(num_microbatches, -1, *x.shape[1:]), batch)
                return jnp.sum(jax.lax.scan(lambda _, b: (None, loss_fn(params, b)[0]), None, parts)[1])

            return jax.value_and_grad(total)(params)

        return mean_and_gradient

    def judge():
        found, _ = microbatches.memory([64, 64, 10], 256, KS)
        measured = Measured(memory=found, parameters=64 * 64 + 64 * 10 + 74, microbatch_bytes=4 * 256 * 65)
        return [v.holds for v in gradient_accumulation.judge(measured)]

    assert judge() == [True, True, True]
    monkeypatch.setattr(microbatches, "accumulate", keeping)
    assert judge() == [False, False, False]


RIGHT = Measured(
    errors=[Errors("MLP", 1, [7], 1e-16, 1e-16, 0.0, 0.0), Errors("MLP", 2, [5, 2], 1e-15, 1e-16, 0.3, 1e-16)],
    epochs=[Epoch(1, 0.0, 3, 3, [1.0] * 3, [1.0] * 3), Epoch(2, 1e-15, 3, 6, [1.0] * 3, [0.5] * 6)],
    memory=[Memory(1, 100, 90, 900), Memory(2, 149, 200, 500), Memory(4, 150, 400, 150)],
    parameters=12,
    microbatch_bytes=10,
)


@pytest.mark.parametrize(
    ("field", "row", "changed", "fails"),
    [
        ("errors", 1, {}, []),
        ("errors", 1, {"autodiff": 2e-12}, [0]),
        ("errors", 1, {"autodiff": float("nan")}, [0]),
        ("errors", 0, {"by_hand": 2e-12}, [1]),
        ("errors", 1, {"means": 1e-3}, [2]),
        ("errors", 0, {"means": 1e-11}, [2]),
        ("errors", 1, {"even": 2e-12}, [3]),
        ("memory", 1, {"fixed_microbatch": 148}, [4]),
        ("memory", 2, {"fixed_microbatch": 149}, []),
        ("memory", 0, {"at_once": 89}, [5]),
        ("memory", 1, {"fixed_batch": 900}, [6]),
        ("epochs", 1, {"apart": 2e-10}, [7]),
        ("epochs", 1, {"updates": 6}, [8]),
    ],
)
def test_every_verdict_notices(field, row, changed, fails):
    rows = list(getattr(RIGHT, field))
    rows[row] = rows[row]._replace(**changed)
    verdicts = gradient_accumulation.judge(RIGHT._replace(**{field: rows}))
    assert [i for i, verdict in enumerate(verdicts) if not verdict.holds] == fails
    assert len(verdicts) == 9


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(microbatches, "errors", lambda *args, **options: RIGHT.errors)
    monkeypatch.setattr(microbatches, "epochs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gradient_accumulation.run(**parse(gradient_accumulation, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["errors"]), len(results["verdicts"]), results["memory"]) == (4, 4, [])
    assert (tmp_path / "gradient_accumulation.png").exists()


def test_the_figure_takes_what_there_is():
    for measured in (RIGHT._replace(memory=(), epochs=()), RIGHT._replace(losses=[1.0] * 3)):
        assert len(gradient_accumulation_figures.draw(measured, 6, 2).axes) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_microbatches", "2,4,8"), ("num_microbatches", "1,2"), ("num_microbatches", "1,4,2"), ("hidden_sizes", ""),
     ("hidden_sizes", "8,0"), ("examples", 0), ("batch_size", 0), ("length", 1), ("learning_rate", -1), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(gradient_accumulation, **{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": 31}, "--examples=31; expected at least 32, which all --num_microbatches divide"),
        ({"batch_size": 100}, "--batch_size=100; expected a multiple of 32, which all --num_microbatches divide"),
        ({"examples": 1259}, "--examples=1259 is more than the 1258 training digits"),
        ({"batch_size": 1280}, "--batch_size=1280 is more than the 1258 training digits"),
        ({"learning_rate": "inf"}, "--learning_rate=inf; expected a finite number"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=re.escape(message)):
        gradient_accumulation.run(**parse(gradient_accumulation, **given, output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
