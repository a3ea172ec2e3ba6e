"""Placements of ε: a small run in which the verdicts hold, methods that make them fail, flags."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, epsilon_placement
from fundamentals import optimizers

SMALL = {"points": 33, "later_step": 5, "hidden": 8, "epochs": 8}
SIZES = np.geomspace(1e-12, 1e4, 17).astype(np.float32)
BY_NAME = {(v.name, v.placement): v for v in epsilon_placement.VARIANTS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        verdicts = epsilon_placement.run(**parse(epsilon_placement, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert [v.notes for v in verdicts] == [
        "O10", "O11", "O12", "O14", "O15", "O10, O11", "O14", "O14", "O10, O12, O14", "O10, O12, O14",
        "O14", "O14", "O14", "O14",
    ]  # fmt: skip
    assert [v.claim for v in verdicts if not v.holds] == []
    assert results["complete"]
    assert len(results["curves"]) == 16
    assert {len(c["lengths"]) for c in results["curves"]} == {33}
    assert len(results["training"]["inside, 2^-20, ε too"]) == 8
    assert (folder / "epsilon_placement.png").exists()


def test_known_thresholds(finished):
    # Half of η: at ε outside; at √(ε/3) inside; at ε / √(1 − β₂) for Keras's.
    _, _, results = finished
    half = {(c["name"], c["placement"]): c["half_at"] for c in results["curves"] if c["step"] == 1}
    assert half["Adam", "outside"] == pytest.approx(1e-8, rel=1e-5)
    assert half["Adam", "inside"] == pytest.approx(5.7735e-5, rel=1e-5)
    assert half["Adam", "ε̂"] == pytest.approx(3.16228e-7, rel=1e-5)


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    with pytest.raises(common.UserError, match="holds an earlier run"):
        epsilon_placement.run(**parse(epsilon_placement, **SMALL, output_dir=folder))


def judge(variant):
    """Of one method, by the formula of its name."""
    curves = [epsilon_placement.measure(variant, 1e-3, 1e-8, k, SIZES) for k in (1, 4)]
    others = [
        epsilon_placement.Curve(*key, "X", 1, np.ones(1), np.ones(1), half, half)
        for key, half in [(("RMSProp", "inside"), 2.0), (("RMSProp", "outside"), 1.0), (("Adam", "inside"), 2.0),
                          (("Adam", "outside"), 1.0), (("Adam", "ε̂"), 2.0)]
    ]  # fmt: skip
    return epsilon_placement.judge_curves([*curves, *others], 1e-5)[0].holds


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        (("RMSProp", "inside"), lambda eta, eps: optimizers.rmsprop(eta, 0.9, eps, 0.0)),
        (("RMSProp", "outside"), lambda eta, eps: optimizers.rmsprop(eta, 0.9, 0.0, eps)),
        (("AdaGrad", "inside"), lambda eta, eps: optimizers.adagrad(eta, 0.0, eps, initial_accumulator=1e-9)),
        (("Adam", "outside"), lambda eta, eps: optimizers.adam(eta, eps=eps, eps_hat=True)),
        (("Adam", "ε̂"), lambda eta, eps: optimizers.adam(eta, eps=eps)),
        (("Adam", "inside"), lambda eta, eps: optimizers.adam(eta, eps=0.0, eps_root=eps, bias_correction=False)),
        (("Adam, uncorrected", "outside"), lambda eta, eps: optimizers.adam(eta, eps=eps)),
    ],
)
def test_another_placement_is_noticed(key, wrong):
    assert not judge(BY_NAME[key]._replace(make=wrong))


def test_half_way_point_by_bisection():
    found = epsilon_placement.half_at(lambda g: g / (g + jnp.float32(3e-5)), jnp.float32)
    assert float(found) == pytest.approx(3e-5, rel=1e-5)


def test_largest_difference_against_a_fine_grid():
    r = np.geomspace(0.1, 10, 1_000_001)
    difference = 1 / np.sqrt(1 + r * r) - 1 / (1 + r)
    largest, where = epsilon_placement.largest_difference()
    assert largest == pytest.approx(difference.max(), rel=1e-10)
    assert where == pytest.approx(r[np.argmax(difference)], rel=1e-4)


def test_unmatched_placements_are_noticed():
    right = [epsilon_placement.match(name, 1e-3, 1e-8, 401) for name in ("RMSProp", "Adam")]
    assert [v.holds for v in epsilon_placement.judge_matched(right, 1e-5)] == [True, True]
    higher = [(ratio, 1.002 * difference) for ratio, difference in right]
    assert [v.holds for v in epsilon_placement.judge_matched(higher, 1e-5)] == [False, True]
    elsewhere = [(1.2 * ratio, difference) for ratio, difference in right]
    assert [v.holds for v in epsilon_placement.judge_matched(elsewhere, 1e-5)] == [True, False]


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, []),
        ({"inside, 2^0": 1.2}, [0]),
        ({"outside, 2^-10": 1.2}, [1]),
        ({"inside, 2^-10": 1.0}, [1]),
        ({"outside, 2^-20": 1.0}, [2]),
        ({"inside, 2^-20": 1.5}, [2]),
        ({"inside, 2^0": np.nan, "outside, 2^-10": np.nan, "inside, 2^-20": np.nan}, [0, 1, 2]),
    ],
)
def test_verdicts_on_the_training(changed, fails):
    final = {"outside, 2^0": 1.0, "inside, 2^0": 1.01, "outside, 2^-10": 1.0, "inside, 2^-10": 4.0,
             "outside, 2^-20": 2.0, "inside, 2^-20": 7.0} | changed  # fmt: skip
    losses = {name: np.array([9.0, value]) for name, value in final.items()}
    verdicts = epsilon_placement.judge_training(losses, {"inside, 2^-10, ε too": True}, 0.05)
    assert [i for i, v in enumerate(verdicts) if not v.holds] == fails
    assert not epsilon_placement.judge_training(losses, {"a": True, "b": False}, 0.05)[3].holds


def test_an_adam_that_adds_to_epsilon_sees_the_units(monkeypatch):
    adam = optimizers.adam
    monkeypatch.setattr(optimizers, "adam", lambda eta, b1, b2, eps, eps_root: adam(eta, b1, b2, eps + 1e-9, eps_root))
    _, identical = epsilon_placement.train(1e-3, 1e-8, 8, 8, 64, 0, jnp.float32)
    assert len(identical) == 4
    assert not any(identical.values())


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn):
    measure, calls = epsilon_placement.measure, []

    def interrupt(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(epsilon_placement, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        epsilon_placement.run(**parse(epsilon_placement, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert [(c["name"], c["step"]) for c in results["curves"]] == [("RMSProp", 1)]
    assert (tmp_path / "epsilon_placement.png").exists()


def test_float64(x64):
    curve = epsilon_placement.measure(BY_NAME["Adam", "inside"], 1e-3, 1e-8, 3, SIZES.astype(np.float64))
    np.testing.assert_allclose(curve.lengths, curve.predicted, rtol=1e-13)
    assert jax.config.read("jax_enable_x64")


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", 0), ("eps", 1), ("points", 3), ("later_step", 1), ("hidden", 0), ("epochs", 0), ("batch_size", 1259),
     ("alike", -1), ("seed", -1), ("learning_rate", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(epsilon_placement, **{name: value})


@pytest.mark.parametrize("value", [0, "inf", "nan"])
def test_a_bad_learning_rate_before_anything_is_written(tmp_path, value):
    with pytest.raises(common.UserError, match="--learning_rate="):
        epsilon_placement.run(**parse(epsilon_placement, learning_rate=value, output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
