"""The cost of Jacobians: a small run in which the verdicts hold, functions that make them fail, flags."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, jacobian_cost, jacobian_cost_figures
from fundamentals import activations

SMALL = {"size": 96, "batch": 10, "repeats": 1}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    verdicts = jacobian_cost.run(**parse(jacobian_cost, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert [v.claim for v in verdicts if not v.holds] == []
    assert [v.notes for v in verdicts] == ["J1, claim 3"] * 2 + ["J1", "J2, claim 3"] + ["J2"] * 5
    assert results["complete"]
    assert (results["formed"]["bytes"], results["formed"]["vjp_bytes"]) == (4 * 96**2, 8 * 96)
    assert results["formed"]["diagonal"] == [0.0, 1.0]
    assert results["batch"]["bytes"] == 4 * 960**2
    patterns = {p["name"]: p["found"] for p in results["patterns"]}
    assert len(patterns) == 12
    assert patterns["softmax of rows"] == "block diagonal (4 blocks of 6 × 6)"
    assert (folder / "jacobian_cost.png").read_bytes().startswith(b"\x89PNG")


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    with pytest.raises(common.UserError, match="holds an earlier run"):
        jacobian_cost.run(**parse(jacobian_cost, **SMALL, output_dir=folder))


def test_the_notes_numbers():
    found = jacobian_cost.batch_bytes(100, 4096)
    assert (found.shape, found.bytes) == ((409_600, 409_600), 625 * 2**30)
    first, second = jacobian_cost.judge_batch(found, 100)
    assert (first.measured, first.holds, second.holds) == ("625 GiB", True, True)
    assert not jacobian_cost.judge_batch(found._replace(refusal=""), 100)[1].holds


def test_a_function_that_mixes_entries_is_noticed(monkeypatch):
    monkeypatch.setattr(activations, "relu", activations.softmax)
    found = jacobian_cost.form(KEY, 64, 1)
    assert [v.holds for v in jacobian_cost.judge_formed(found)] == [True, True, True, False, False]


def test_a_leaky_relu_is_noticed(monkeypatch):
    monkeypatch.setattr(activations, "relu", activations.leaky_relu)
    found = jacobian_cost.form(KEY, 64, 1)
    assert [v.holds for v in jacobian_cost.judge_formed(found)] == [True, True, True, True, False]


def test_a_wrong_vjp_is_noticed():
    found = jacobian_cost.form(KEY, 64, 1)._replace(difference=1e-4)
    assert not jacobian_cost.judge_formed(found)[2].holds
    assert not jacobian_cost.judge_formed(found._replace(difference=float("nan")))[2].holds


def test_patterns_that_are_not_as_derived_are_noticed():
    x = jnp.asarray(np.random.RandomState(0).normal(size=(4, 6)), jnp.float32)
    right = jacobian_cost.pattern("tanh", jnp.tanh, x, "diagonal")
    wrong = jacobian_cost.pattern("softmax", activations.softmax, x, "diagonal")
    assert [v.holds for v in jacobian_cost.judge_patterns([right])] == [True, True]
    assert [v.holds for v in jacobian_cost.judge_patterns([right, wrong])] == [False, False]


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn):
    right, calls = jacobian_cost.pattern, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return right(*args)

    monkeypatch.setattr(jacobian_cost, "pattern", interrupt)
    with pytest.raises(KeyboardInterrupt):
        jacobian_cost.run(**parse(jacobian_cost, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["patterns"]), len(results["verdicts"])) == (2, 7)


def test_the_figure_has_a_picture_for_each():
    patterns = [
        jacobian_cost.Pattern("f", "dense", "dense", False, 6, shape, np.ones(shape, bool))
        for shape in ((2, 3), (1, 6))
    ]
    figure = jacobian_cost_figures.draw(patterns)
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["f", "f"]


@pytest.mark.parametrize(
    ("name", "value"), [("size", 0), ("size", 100_000), ("batch", 0), ("repeats", 0), ("seed", -1)]
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(jacobian_cost, **{name: value})
