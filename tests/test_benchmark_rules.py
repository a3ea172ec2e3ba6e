"""The benchmark: what it measures, what it must notice, its flags."""

import json

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from scripts import parse

from experiments import benchmark_rules


def test_benchmark(tmp_path):
    given = {"rules": "relu,softmax_cross_entropy", "large": "16,8,4,5,2,2,8,2,8,8,16", "seconds": "0.05"}
    verdicts = benchmark_rules.run(**parse(benchmark_rules, **given, output_dir=tmp_path))
    assert len(verdicts) == 3
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert [(m["rule"], m["size"]) for m in results["measurements"]] == [
        (rule, size) for rule in ("relu", "softmax_cross_entropy") for size in ("small", "large")
    ]
    relu = results["measurements"][1]
    assert relu["kept_bytes"][0] == 16 * 8 * 4  # the output, and nothing else
    assert all(time > 0 for m in results["measurements"] for time in m["microseconds"])
    assert (tmp_path / "benchmark_rules.png").exists()


def test_benchmark_notices_a_slow_rule(tmp_path, monkeypatch):
    def slow(residuals, dy):
        return (jax.lax.fori_loop(0, 300, lambda _, d: jnp.sin(d), relu.bwd(residuals, dy)[0]),)

    entry = benchmark_rules.RULES["relu"]
    relu = entry.rule
    monkeypatch.setitem(benchmark_rules.RULES, "relu", entry._replace(rule=relu._replace(bwd=slow)))
    given = {"rules": "relu", "large": "64,64,4,5,2,2,8,2,8,8,16", "seconds": "0.05"}
    verdicts = benchmark_rules.run(**parse(benchmark_rules, **given, output_dir=tmp_path))
    assert (verdicts[0].holds, verdicts[2].holds) == (False, False)
    assert json.loads((tmp_path / "results.json").read_text())["measurements"][1]["ratio"] > 2


def test_a_rule_that_trades_time_for_memory_has_a_claim_of_its_own(tmp_path):
    given = {"rules": "linear_cross_entropy", "large": "64,64,4,5,2,2,8,2,8,8,8192", "seconds": "0.05"}
    verdicts = benchmark_rules.run(**parse(benchmark_rules, **given, output_dir=tmp_path))
    small, large = json.loads((tmp_path / "results.json").read_text())["measurements"]
    assert verdicts[0].measured.startswith(f"{small['ratio']:.3f}")
    assert verdicts[3].measured.startswith(f"{large['ratio']:.3f} × the time")
    by_hand, by_autodiff = large["temp_bytes"]
    assert 2 * by_hand < by_autodiff
    assert verdicts[3].holds == (large["ratio"] <= 4 / 3)


@pytest.mark.parametrize(
    ("name", "value"), [("rules", "relu,nothing"), ("small", "1,2,3"), ("large", "1,2,3,4,5,6,7,8,9,10,0")]
)
def test_bad_benchmark_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError):
        parse(benchmark_rules, **{name: value})
