"""Throughput: formulas and verdicts on times that are given. Nothing here is timed to pass or fail."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, throughput, throughput_verdicts
from experiments.throughput_verdicts import Costs, Rounds
from fundamentals import graph
from fundamentals.models import mlp

SMALL = {"widths": "7,5,3", "batch_sizes": "1,4,16,64,256", "products": "8,16", "rounds": 4, "least": 1e-4}
PEAK, BANDWIDTH, OVERHEAD = 1e9, 1e8, 1e-5
COSTS = throughput_verdicts.costs([7, 5, 3, 10], 4)
LIMITS = ["product 8", "product 16", "touch", "empty"]


def given(number, *, fixed=4e-5, rate=PEAK / 2):
    """A round on a device of known peak, bandwidth and overhead, which is slower in each round than in the last."""
    slower = 1 + 0.01 * number
    found = {f"step {batch}": (fixed + batch * COSTS.flops / rate) * slower for batch in (1, 4, 16, 64, 256)}
    exact = {"product 8": 2 * 8**3 / PEAK * 2, "product 16": 2 * 16**3 / PEAK,
             "touch": 2 * COSTS.weight_bytes / BANDWIDTH, "empty": OVERHEAD}  # fmt: skip
    found |= {name: 1.1 * seconds * slower for name, seconds in exact.items()}
    return found | {throughput_verdicts.best(name): seconds * slower for name, seconds in exact.items()}


def rounds(changed=None, **kwargs):
    seconds = [given(number, **kwargs) for number in range(4)]
    return Rounds([one | (changed or {}) for one in seconds], [1, 4, 16, 64, 256], [8, 16], COSTS)


# Seconds that the products of the largest batch take at the peak; at half of it, they take 2 of these.
SHORTEST = 256 * COSTS.flops / PEAK


def noisy(factor):
    """Whose halves differ by this factor in what an empty step takes."""
    found = rounds()
    for one in found.seconds[1::2]:
        one["empty, best"] *= factor / 1.01
    return found


@pytest.fixture
def times(monkeypatch, undrawn):
    """What is timed is not run; the rounds that were asked for."""
    asked = []

    def timed(calls, number):
        assert sorted(calls) == sorted([f"step {batch}" for batch in (1, 4, 16, 64, 256)] + LIMITS)
        asked.append(number)
        return given(number)

    monkeypatch.setattr(throughput, "carried", lambda function, params, *args: lambda: None)
    monkeypatch.setattr(throughput, "repeated", lambda call, least: lambda: 1)
    monkeypatch.setattr(throughput, "timed", timed)
    return asked


def test_a_run_reports_what_is_timed(tmp_path, times):
    verdicts = throughput.run(**parse(throughput, **SMALL, output_dir=tmp_path))
    assert [v.holds for v in verdicts] == [True] * 3
    assert [v.notes for v in verdicts] == ["B10, claim 18", "B9, claim 18", "B10, claim 18"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert results["rounds"] == [given(number) for number in range(4)]
    assert results["roofline"]["peak"] == pytest.approx(PEAK)
    assert results["costs"] == COSTS._asdict()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        throughput.run(**parse(throughput, **SMALL, output_dir=tmp_path))


def test_an_interrupted_run_goes_on_with_the_next_round(tmp_path, monkeypatch, times):
    timed = throughput.timed

    def interrupted(calls, number):
        if number == 2:
            raise KeyboardInterrupt
        return timed(calls, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "timed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            throughput.run(**parse(throughput, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["complete"], len(results["rounds"]), results["verdicts"]) == (False, 2, [])
    assert len(throughput.run(**parse(throughput, **SMALL, output_dir=tmp_path, resume=True))) == 3
    assert times == [0, 1, 2, 3]
    assert len(json.loads((tmp_path / "results.json").read_text())["rounds"]) == 4


def test_a_round_times_everything():
    calls = throughput.programs([3, 2, 10], [1, 4], [2], "float32", 0, 1e-6)
    found = throughput.timed(calls, 0)
    limits = ["product 2", "touch", "empty"]
    assert sorted(found) == sorted(["step 1", "step 4", *limits, *map(throughput_verdicts.best, limits)])
    assert all(0 < seconds < math.inf for seconds in found.values())
    assert all(found[throughput_verdicts.best(name)] <= found[name] for name in limits)


def test_a_step_by_autodiff():
    params = mlp.init(jax.random.key(0), [7, 5, 3, 10])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 7)), jnp.float32)
    labels = jnp.asarray([1, 0, 9, 3])

    def by_autodiff(params):
        return jax.tree.map(lambda p, g: p - throughput.ETA * g, params, jax.grad(mlp.loss)(params, x, labels))

    found, expected = jax.jit(throughput.step)(params, x, labels), jax.jit(by_autodiff)(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    # Before it is compiled, a program has one product more, the cotangent of the inputs, which is not used.
    counts = graph.count(throughput.step, params, x, labels)
    assert counts.flops in (4 * COSTS.flops, 4 * COSTS.flops + 2 * 4 * 7 * 5)
    assert COSTS.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert COSTS.sample_bytes == x.nbytes // 4


def test_formulas():
    assert throughput_verdicts.costs([2, 3, 10], 2) == Costs(2 * (3 * 36 - 6), 2 * (36 + 13), 4)
    found = rounds()
    roof = found.roofline
    np.testing.assert_allclose([roof.peak, roof.bandwidth, roof.overhead], [PEAK, BANDWIDTH, OVERHEAD], rtol=1e-12)
    assert roof.spread == pytest.approx(0.01)  # round 0, and round 1
    traffic = (2 * COSTS.weight_bytes + 64 * 28) / BANDWIDTH
    assert found.least(64) == pytest.approx(
        {"overhead": OVERHEAD, "products": 64 * COSTS.flops / PEAK, "traffic": traffic}
    )
    middle = 1.015  # the median of four rounds
    assert found.line == pytest.approx((4e-5 * middle, 2 * COSTS.flops / PEAK * middle))
    assert found.knee == pytest.approx(4e-5 * PEAK / 2 / COSTS.flops)
    assert found.growth == pytest.approx(2 / 1.1, rel=2e-3)
    assert found.expected_knee == pytest.approx(4e-5 * PEAK / 1.1 / COSTS.flops, rel=2e-3)


@pytest.mark.parametrize(
    ("found", "fails"),
    [
        (rounds(), []),
        (rounds({"step 256": 200 * given(0)["step 1"]}), [0, 1]),
        (rounds(fixed=5e-6, rate=1.2 * PEAK), [1]),
        (rounds(fixed=4e-4, rate=PEAK / (1.1 * 0.75 * 1.1)), []),
        (rounds(fixed=4e-4, rate=PEAK / (0.9 * 0.75 * 1.1)), [2]),  # products are left out
        (rounds({"touch, best": 1.0}), [1]),
        # The growth is judged by the median of the means, a tenth slower than the best.
        (rounds(fixed=4e-4, rate=PEAK / (0.9 * 4 * 1.1)), []),
        (rounds(fixed=4e-4, rate=PEAK / (1.1 * 4 * 1.1)), [2]),  # far below the peak
        (rounds(fixed=0.0, rate=PEAK / 2), [0, 1]),  # nothing is shared, and even one sample is too fast
        (rounds(fixed=SHORTEST * (1 / 0.11 - 2)), []),
        (rounds(fixed=SHORTEST * (1 / 0.09 - 2)), [1]),  # far below the roofline
        (noisy(1.9), []),
        (noisy(2.1), [1]),
    ],
)
def test_what_is_wrong_is_noticed(found, fails):
    verdicts = throughput_verdicts.judge(found, 2.0)
    assert [i for i, v in enumerate(verdicts) if not v.holds] == fails


def test_a_gain_within_its_error_is_none():
    found = rounds()
    for number, one in enumerate(found.seconds):
        one["step 1"] *= (0.02, 3.0, 0.05, 20.0)[number]
    assert not throughput_verdicts.judge_gain(found, 2.0).holds


def test_what_is_predicted_of_the_gain_is_what_is_judged():
    found = rounds()
    exact = 256 * given(0)["step 1"] / given(0)["step 256"]
    for factor, holds in ((0.99, True), (1.01, False)):
        verdict = throughput_verdicts.judge_gain(found, factor * exact)
        assert (verdict.predicted, verdict.holds) == (f"≥ {factor * exact:g}", holds)


def test_noise_is_named():
    assert "too noisy to tell: halves differ by 110 %" in throughput_verdicts.judge_roofline(noisy(2.1)).measured


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_sizes", "2,4,8"), ("batch_sizes", "1,4"), ("batch_sizes", "1,8,4"), ("widths", "8"), ("widths", "0,3"),
     ("products", "16,8"), ("rounds", 2), ("target", 0.5), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(throughput, **{name: value})


def test_no_time_to_measure(tmp_path):
    with pytest.raises(common.UserError, match=r"--least=0\.0; expected a finite number > 0"):
        throughput.run(**parse(throughput, **SMALL | {"least": 0}, output_dir=tmp_path / "none"))
    for target in ("nan", "inf"):
        with pytest.raises(common.UserError, match=f"--target={target}; expected a finite number"):
            throughput.run(**parse(throughput, **SMALL | {"target": target}, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()
