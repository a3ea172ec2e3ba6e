"""The benchmark of optimizers: its floor moves each byte once, what is slow is noticed, and the rest is reported."""

import json

import jax
import jax.numpy as jnp
import pytest
from scripts import parse

from experiments import benchmark_optimizers as benchmark
from experiments import common
from fundamentals import optimizers

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = {"sizes": "50,2000", "arrays": "1,3", "repeats": "5", "seconds": "0.1", "judge_at": "2000", "peers": "false"}


def test_run(tmp_path, capsys):
    given = SMALL | {"methods": "adam", "target_floor": "1000", "target_optax": "1000"}
    verdicts = benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given))
    assert all(v.holds for v in verdicts)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["size"], row["arrays"]) for row in results["rows"]] == [(50, 1), (50, 3), (2000, 1), (2000, 3)]
    assert all(row["ratios"]["floor"]["median"] > 0 for row in results["rows"])
    assert results["complete"]
    assert "/ floor" in capsys.readouterr().out


@pytest.mark.parametrize("name", benchmark.METHODS)
def test_the_floor_moves_every_byte_of_a_step_once(name):
    # Gradients and parameters read, parameters written, each moment read and written.
    method, gradients = benchmark.METHODS[name], {"w": jnp.ones(1000)}
    state = method.ours().init(gradients)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.size == 1000]
    assert len(moments) == method.moments
    cost = jax.jit(benchmark.stream).lower((gradients, moments), gradients).compile().cost_analysis()
    assert cost["bytes accessed"] == pytest.approx(4000 * (3 + 2 * len(moments)), abs=40)  # and a few scalars


def test_a_slow_method_fails(tmp_path, monkeypatch):
    def slow():
        fast = optimizers.sgd(1e-3)

        def update(gradients, state, params=None):
            gradients = jax.lax.fori_loop(0, 100, lambda _, g: jax.tree.map(jnp.sin, g), gradients)
            return fast.update(gradients, state, params)

        return optimizers.Optimizer(fast.init, update)

    method = benchmark.METHODS["sgd"]._replace(ours=slow)
    monkeypatch.setitem(benchmark.METHODS, "sgd", method)
    given = SMALL | {"methods": "sgd", "sizes": "200000", "arrays": "1", "judge_at": "200000"}
    verdicts = benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given))
    assert not any(v.holds for v in verdicts if "moving the bytes" in v.claim)


def test_ratios_are_of_the_same_rounds():
    row = benchmark.Row("adam", 1, 1, {"fundamentals": (2.0, 30.0, 4.0), "floor": (1.0, 10.0, 2.0)}, {})
    assert row.ratio("floor") == (2.0, 0.0)
    assert row.ratio("optax") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arrays": "1,100", "sizes": "50"}, "--arrays=100 is more than the 50 parameters of the smallest size"),
        ({"dtype": "float64"}, "--dtype=float64 needs --jax_enable_x64=true"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=message):
        benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given))
    assert not (tmp_path / "out").exists()
