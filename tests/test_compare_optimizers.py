"""The optimizers compared: landscapes, a small run, what the verdicts notice, flags."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, compare_optimizers, landscapes
from experiments import compare_optimizers_claims as claims
from experiments import compare_optimizers_problems as problems
from experiments import compare_optimizers_steps as steps
from fundamentals import optimizers

KEY = jax.random.key(3)
SMALL = {"steps": 60, "sparse_steps": 300, "runs": 2, "samples": 500, "lowest_rate": 1e-2, "kappas": "10,100"}


def test_minima_and_hessians(x64):
    places = landscapes.landscapes(50.0)
    there = jax.jit(
        lambda: {
            n: [g(jnp.asarray(p.minimum)) for g in (p.f, jax.grad(p.f), jax.hessian(p.f))] for n, p in places.items()
        }
    )()
    for name, (value, gradient, hessian) in there.items():
        assert float(value) == pytest.approx(places[name].lowest, abs=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
        np.testing.assert_allclose(hessian, places[name].hessian, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", problems.FUNCTIONS[:7])
def test_starts_and_windows(name):
    place = landscapes.landscapes(50.0)[name]
    assert place.goal(0.0) == place.lowest < place.goal(0.1) < float(place.f(jnp.asarray(place.start)))
    left, right, bottom, top = place.window
    for x, y in (place.start, place.minimum):
        assert left < x < right
        assert bottom < y < top


def test_values_of_landscapes():
    point = jnp.asarray([0.5, -0.25])
    values = {name: float(place.f(point)) for name, place in landscapes.landscapes(10.0).items()}
    assert values["ravine"] == pytest.approx(0.5 * (0.25 + 10 * 0.0625))
    assert values["rosenbrock"] == pytest.approx(0.25 + 100 * 0.25)
    expected = (1.5 - 0.5 * 1.25) ** 2 + (2.25 - 0.5 * 0.9375) ** 2 + (2.625 - 0.5 * (1 + 0.25**3)) ** 2
    assert values["beale"] == pytest.approx(expected)
    assert values["saddle"] == pytest.approx(0.25 - 0.0625 + 0.5 * 0.25**4)
    along, across = 0.5 * math.sqrt(0.75) - 0.25 * 0.5, -0.5 * 0.5 - 0.25 * math.sqrt(0.75)
    assert values["turned_ravine"] == pytest.approx(0.5 * (along**2 + 10 * across**2))


def test_run(tmp_path, undrawn):
    given = {"methods": "sgd,adagrad,adam", "functions": "ravine,sparse_regression"}
    verdicts = compare_optimizers.run(**parse(compare_optimizers, **SMALL, **given, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert [v.notes.split(",")[0] for v in verdicts] == [
        *["O5"] * 2, *["O9"] * 4, *["O7"] * 2, *["O8"] * 3, *["O10–O14"] * 2, "O12", "O13", "O14", *["O4"] * 4, "O14",
    ]  # fmt: skip
    assert [v.claim for v in verdicts if not v.holds] == []
    scores = {(s["method"], s["function"]): s for s in results["scores"]}
    assert len(scores) == 6
    ravine = scores["sgd", "ravine"]
    assert ravine["rate"] < 2 / 100
    assert len(ravine["losses"]) == 60
    assert scores["adagrad", "sparse_regression"]["iterations"] < scores["sgd", "sparse_regression"]["iterations"]
    assert (tmp_path / "compare_optimizers.png").exists()


def test_digits_learn():
    functions = [problems.DIGITS]
    (problem,) = problems.digit_problems(functions, KEY, epochs=1).values()
    program = jax.jit(compare_optimizers.sweep(compare_optimizers.METHODS["momentum"], problem))
    score, _ = compare_optimizers.best("momentum", problems.DIGITS, problem, program, np.array([1e-3, 0.1]))
    assert score.rate == pytest.approx(0.1)
    assert len(score.losses) == 1258 // 160
    assert score.losses[-1] < 0.8 < 1.5 < score.losses[0]


def holds(claim):
    return [verdict.holds for verdict in claim.verdicts]


def test_verdicts_notice_a_wrong_descent(monkeypatch):
    right = optimizers.sgd
    monkeypatch.setattr(optimizers, "sgd", lambda rate: right(1.01 * rate))
    assert holds(claims.stability(100.0)) == [False, False]
    assert holds(steps.equalized(100.0))[0] is True  # a ratio does not see the rate that much
    monkeypatch.setattr(optimizers, "sgd", lambda rate: right(1.2 * rate))
    assert holds(steps.leaving_a_saddle(KEY, 500))[1] is False
    assert holds(steps.stationary(KEY, 500)) == [False, False]


def test_verdicts_notice_wrong_velocities(monkeypatch):
    right = optimizers.momentum

    def wrong(rate, beta=0.9, **options):
        return right(rate, 0.8 * beta, **options)

    monkeypatch.setattr(optimizers, "momentum", wrong)
    assert holds(claims.scaling([10.0, 100.0])) == [True, False]
    assert not any(holds(claims.bookkeeping()))
    assert holds(claims.undamped()) == [True, False]
    assert holds(claims.normalizations(KEY, 500)) == [False, False, False]


def test_verdict_notices_a_literal_map_with_decay(monkeypatch):
    def decayed(theta, velocity, eigenvalue, rate):
        velocity = 0.99 * velocity - rate * eigenvalue * theta
        return theta + velocity, velocity

    monkeypatch.setattr(claims, "literal_step", decayed)
    assert holds(claims.undamped()) == [False, False]


def test_verdicts_notice_wrong_adaptive_methods(monkeypatch):
    adam, rmsprop = optimizers.adam, optimizers.rmsprop
    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "adam", lambda *args, bias_correction=True: adam(*args))
        assert holds(steps.bias_correction(100.0)) == [False]
    with monkeypatch.context() as patch:  # RMSProp that does not forget, AdaGrad that does
        patch.setattr(optimizers, "rmsprop", lambda rate, decay=0.9: optimizers.adagrad(rate))
        assert holds(steps.rates()) == [True, False]
    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "adagrad", rmsprop)
        assert holds(steps.rates()) == [False, True]
    monkeypatch.setattr(optimizers, "adagrad", lambda rate: optimizers.momentum(rate))
    assert holds(steps.equalized(100.0)) == [True, False]


def scores(**iterations):
    return [compare_optimizers.Score(method, problems.SPARSE, n, 0.1, False, []) for method, n in iterations.items()]


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        ({"sgd": 900, "adagrad": 76, "adam": 143}, [True]),
        ({"sgd": 900, "adagrad": 76, "adam": 900}, [False]),
        ({"sgd": 900, "adagrad": 901, "adam": 143}, [False]),
        ({"sgd": 900, "adagrad": math.nan, "adam": 143}, [False]),
        ({"sgd": 900, "adagrad": 20, "adam": math.nan}, [False]),
        ({"sgd": 50, "adagrad": 20, "adam": 30}, [False]),  # faster than exact gradient descent can be
        ({"sgd": 900, "adam": 30}, []),
    ],
)
def test_judging_rare_features(iterations, expected):
    regressions = problems.regressions([problems.SPARSE], 0, 1, 1)
    assert [v.holds for v in compare_optimizers.judge_sparse(scores(**iterations), regressions)] == expected


def test_bound_of_exact_descent():
    p, weights = np.array([1.0, 0.5, 0.1]), np.array([1.0, -2.0, 1.5])
    fewest = math.inf
    for rate in np.linspace(0.01, 2, 400):
        error, count = weights, 0
        while np.sum(p * error**2) > 0.01 * np.sum(p * weights**2) and count < 300:
            error, count = error - rate * p * error, count + 1
        fewest = min(fewest, count if count < 300 else math.inf)
    assert problems.exact_bound(p, weights) == pytest.approx(fewest, abs=1)


def test_when_a_loss_stays_below():
    values = np.array([[3.0, 1, 2, 1, 1], [1, 1, 1, 1, 1], [3, 1, 1, 1, 2], [3, 1, 1, 1, np.nan], [np.nan, 3, 1, 1, 1]])
    np.testing.assert_equal(compare_optimizers.stays_below(values, 1.0), [4, 1, np.nan, np.nan, 3])
    np.testing.assert_equal(claims.first_below(values, 1.0), [2, 1, 2, 2, 3])


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, undrawn, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "equalized", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare_optimizers.run(**parse(compare_optimizers, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert len(results["verdicts"]) == 11


def test_earlier_results_stay(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(common.UserError, match="holds an earlier run"):
        compare_optimizers.run(**parse(compare_optimizers, **SMALL, output_dir=tmp_path))


def test_rates_must_be_in_order(tmp_path):
    given = {"lowest_rate": 1.0, "highest_rate": 0.1, "output_dir": tmp_path / "new"}
    with pytest.raises(common.UserError, match=r"--highest_rate=0\.1; expected at least --lowest_rate=1"):
        compare_optimizers.run(**parse(compare_optimizers, **given))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("methods", "adam,unknown"), ("functions", "hill"), ("kappas", "10"), ("kappas", "100,10"), ("kappas", "a,b"),
     ("kappa", 1.0), ("samples", 10), ("runs", 0), ("tolerance", 0)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError):
        parse(compare_optimizers, **{name: value})
