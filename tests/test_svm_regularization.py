"""The path of C: a small run in which the verdicts hold, closed forms, paths that make verdicts fail, flags."""

import functools
import json

import jax
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, svm_regularization, svm_regularization_paths, svm_regularization_verdicts
from experiments.svm_problems import Problem
from experiments.svm_regularization_paths import NOISE, Population
from fundamentals import svm

SMALL = {"lowest": -4, "highest": 4, "sets": 5, "points": 40, "validation": 100, "grid": 6}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("finished"), []
    judge = svm_regularization_verdicts.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        patch.setattr(svm_regularization_verdicts, "judge", lambda paths: found.append(paths) or judge(paths))
        verdicts = svm_regularization.run(**parse(svm_regularization, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text()), found[0]


def test_what_must_hold_does(finished):
    folder, verdicts, results, paths = finished
    assert [v.notes for v in verdicts] == ["V1, claim 13"] * 8 + ["claim 13"] + ["V1"] * 9
    assert [v.claim for v in verdicts[:9] if not v.holds] == []  # the others want more training sets
    assert results["complete"]
    assert [p["name"] for p in results["paths"]] == [p.name for p in paths]
    assert np.shape(results["paths"][1]["slack"]) == (5, 9)
    assert (folder / "svm_regularization.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    with pytest.raises(common.UserError, match="holds an earlier run"):
        svm_regularization.run(**parse(svm_regularization, **SMALL, output_dir=finished[0]))


def test_two_points_by_the_closed_form(x64):
    # α = min(C, 2/‖d‖²) of both: w = α d; slack 1 − α ‖d‖²/2 each; the margin is 2/‖w‖; f = 0 half-way.
    x = np.array([[[1.0, 2.0], [0.0, 1.0]]])
    d = x[0, 0] - x[0, 1]
    points = Problem(x, np.array([[1.0, -1.0]]))
    fresh = Problem(x[0], points.y[0])
    c = 2.0 ** np.arange(-3, 3)
    two = Population("two", points, fresh, svm.linear_kernel, NOISE, None, None)
    path = svm_regularization_paths.follow(two, c, relative_gap=1e-9, grid=2)
    alpha = np.minimum(c, 2 / (d @ d))
    np.testing.assert_allclose(path.squared_norm[0], alpha**2 * (d @ d), rtol=1e-9)
    np.testing.assert_allclose(path.slack[0], 2 - alpha * (d @ d), atol=1e-9)
    np.testing.assert_allclose(path.width[0], 2 / (alpha * np.sqrt(d @ d)), rtol=1e-9)
    np.testing.assert_array_equal(path.inside[0], np.where(c <= 2 / (d @ d), 2, 0))
    np.testing.assert_allclose(path.values[0, :, 0], alpha * (d @ d) / 2, rtol=1e-9)
    found = svm_regularization_verdicts.steps(path)
    wrong = np.array([found.slack_rises, found.norm_falls, found.outside])
    assert not wrong.any()
    np.testing.assert_array_equal(found.slack_falls[0], c[1:] <= 1)
    np.testing.assert_array_equal(found.norm_rises[0], c[1:] <= 1)


def test_one_program_is_the_same_as_fit_after_fit(finished):
    path = finished[3][1]
    settings = parse(svm_regularization, **SMALL)
    names = ("sets", "points", "validation", "apart", "noise", "gamma", "digit_gamma")
    with jax.enable_x64(True):
        kinds = svm_regularization_paths.populations(0, digits=(3, 8), **{name: settings[name] for name in names})
        x, y = (a[2] for a in kinds[1].sets)
        kernel = functools.partial(svm.rbf_kernel, gamma=settings["gamma"])
        machine = svm.fit_dual(x, y, kernel=kernel, c=float(path.c[5]), relative_gap=1e-6)
        values = svm.decision_function(machine, kinds[1].validation.x)
        assert all(set(np.unique(k.sets.y)) == {-1, 1} and not k.sets.y.sum(axis=1).any() for k in kinds)
    assert float(machine.primal) == pytest.approx(path.primal[2, 5], rel=2e-6)
    # Either w is within √gap of the optimum, which is 1e-6 of the objective; b is as far off; K(x, x) = 1.
    np.testing.assert_allclose(values, path.values[2, 5], atol=4e-3 * float(machine.primal) ** 0.5 + 2e-3)


def test_variance_by_its_definition():
    values = np.random.RandomState(0).normal(size=(4, 2, 3)) * np.array([1, 3])[:, None]
    expected = [np.mean([np.var(values[:, k, m], ddof=1) for m in range(3)]) for k in range(2)]
    np.testing.assert_allclose(svm_regularization_paths.variance(values), expected)
    change, error = svm_regularization_paths.growth(values)
    assert change == pytest.approx(np.log(expected[1] / expected[0]))
    alone, _ = svm_regularization_paths.growth(values[1:])
    assert 0 < error < 3 * abs(alone - change) + 2


def failing(path):
    return [i for i, v in enumerate(svm_regularization_verdicts.judge([path])) if not v.holds]


def swapped(values):
    """A step of C the other way, in one training set: somewhere between the ends, where there is a step."""
    result = values.copy()
    k = int(np.argmax(np.abs(np.diff(values[0]))))
    result[0, [k, k + 1]] = values[0, [k + 1, k]]
    return result


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda p: {}, set()),
        (lambda p: {"slack": swapped(p.slack)}, {0, 2}),
        (lambda p: {"slack": 2 * p.slack}, {2}),
        (lambda p: {"slack": p.slack[:, ::-1]}, {0, 2}),
        (lambda p: {"slack": np.nan * p.slack}, {0, 2}),
        (lambda p: {"squared_norm": swapped(p.squared_norm)}, {1}),
        (lambda p: {"squared_norm": 0 * p.squared_norm + 1}, {1}),  # nothing is measured
        (lambda p: {"dual": p.primal - 1e-3 * p.primal, "slack": swapped(p.slack)}, {0, 2}),  # more than gaps allow
        (lambda p: {"values": p.values[:, ::-1]}, {3, 4}),
        (lambda p: {"training_error": p.training_error[:, ::-1]}, {5}),
    ],
)
def test_what_is_wrong_is_noticed(finished, change, fails):
    path = finished[3][1]
    falls = np.linspace(0.3, 0.1, len(path.c))[None] + 0.01 * np.arange(5)[:, None]
    spread = np.random.RandomState(0).normal(size=path.values.shape) * (path.c[:, None] + 1) - 1  # more and more signs
    clear = path._replace(training_error=falls, values=spread)
    assert set(failing(clear._replace(**change(clear)))) == fails


def test_a_bias_is_noticed(finished):
    path = finished[3][0]
    assert svm_regularization_verdicts.judge_best(path).holds
    assert not svm_regularization_verdicts.judge_best(path._replace(labels=-path.labels)).holds


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn, finished):
    paths = iter(finished[3][:2])

    def follow(*args, **kwargs):
        for path in paths:
            return path
        raise KeyboardInterrupt

    monkeypatch.setattr(svm_regularization_paths, "follow", follow)
    with pytest.raises(KeyboardInterrupt):
        svm_regularization.run(**parse(svm_regularization, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["paths"]), len(results["verdicts"])) == (2, 10)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"points": 41}, "expected an even number"), ({"points": 1000}, "--points=1000; expected at most"),
        ({"gamma": "inf"}, "expected a finite number > 0"), ({"relative_gap": 0}, "expected a finite number > 0"),
        ({"highest": -4}, "expected the first to be less"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path, flag, message):
    with pytest.raises(common.UserError, match=message):
        svm_regularization.run(**parse(svm_regularization, **SMALL | flag, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("digits", "3,3"), ("digits", "3"), ("sets", 2), ("highest", 30), ("points", 2), ("seed", -1)]
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(svm_regularization, **{name: value})
