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
    given = SMALL | {"methods": "adam"}
    verdicts = benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given))
    assert verdicts == []  # too few rounds
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["size"], row["arrays"]) for row in results["rows"]] == [(50, 1), (50, 3), (2000, 1), (2000, 3)]
    assert all(row["ratios"]["floor"]["median"] > 0 for row in results["rows"])
    assert results["complete"]
    printed = capsys.readouterr().out
    assert "/ floor" in printed
    assert "not judged, fewer than 20 rounds: adam at 50 in 1, adam at 50 in 3" in " ".join(printed.split())


@pytest.mark.parametrize("name", benchmark.METHODS)
def test_the_floor_moves_every_byte_of_a_step_once(name):
    # Gradients and parameters read, parameters written, each moment read and written.
    method, gradients = benchmark.METHODS[name], {"w": jnp.ones(1000)}
    state = method.ours().init(gradients)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.size == 1000]
    assert len(moments) == method.moments
    cost = jax.jit(benchmark.stream).lower((gradients, moments), gradients).compile().cost_analysis()
    assert cost["bytes accessed"] == pytest.approx(4000 * (3 + 2 * len(moments)), abs=40)  # and a few scalars


def rows(ours, theirs, floor, **more):
    """Rows at two sizes with times in 20 rounds, ours and those of others, that are steady."""
    given = {"method": "adam", "arrays": 1, "temp_bytes": {"fundamentals": 8, "optax": 8, "floor": 0}} | more
    return [
        benchmark.Row(
            **given,
            size=size,
            seconds={"fundamentals": (a,) * 20, "optax": (b,) * 20, "floor": (c,) * 20},
            beside={"optax": (a,) * 20, "floor": (a,) * 20},
        )
        for size, a, b, c in zip((1000, 2000), ours, theirs, floor, strict=True)
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rows((1, 1), (1, 1), (1, 1)), [True, True, True]),
        (rows((1.1, 1), (1, 1), (1, 1)), [False, True, True]),  # at any size
        (rows((1, 1.1), (1, 1), (1, 1)), [False, True, True]),
        (rows((3, 1.4), (3, 3), (1, 1)), [True, True, True]),  # the floor only where it is judged
        (rows((1, 1.5), (3, 3), (1, 1)), [True, True, False]),
        (rows((1, 1), (1, 1), (1, 1), temp_bytes={"fundamentals": 2000, "optax": 8}), [True, False, True]),
    ],
)
def test_judgement(given, expected):
    verdicts = benchmark.judge(given, 1.0, 1.4, 2000)
    assert [v.claim.split(", ")[0] for v in verdicts] == [
        "adam: time / optax's", "adam: temporary memory beyond optax's", "adam: time / that of moving the bytes",
    ]  # fmt: skip
    assert [v.holds for v in verdicts] == expected


def test_few_or_scattered_rounds():
    row = rows((1, 1), (1, 1), (1, 1))[1]
    few = row._replace(beside={"floor": (9.0,) * 3}, seconds=row.seconds | {"floor": (1.0,) * 3})
    assert benchmark.judge([few], 1.0, 1.4, 2000) == []
    around = tuple(1 + 0.1 * (-1) ** i for i in range(20))
    noisy = row._replace(beside=row.beside | {"optax": around})
    median, error, _ = noisy.ratio("optax")
    assert (median, round(error, 3)) == (1.0, round(1.4826 * 0.1 * 1.2533 / 20**0.5, 3))


def slow():
    fast = optimizers.sgd(1e-3)

    def update(gradients, state, params=None):
        gradients = jax.lax.fori_loop(0, 20, lambda _, g: jax.tree.map(jnp.sin, g), gradients)
        return fast.update(gradients, state, params)

    return optimizers.Optimizer(fast.init, update)


def test_a_slow_method_fails(tmp_path, monkeypatch):
    method = benchmark.METHODS["sgd"]
    monkeypatch.setitem(benchmark.METHODS, "sgd", method._replace(ours=slow))
    given = SMALL | {"methods": "sgd", "sizes": "20000", "arrays": "1", "judge_at": "20000", "repeats": "20"}
    (verdict,) = benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given | {"seconds": "9"}))
    assert verdict.claim.startswith("sgd: time / that of moving the bytes")
    assert not verdict.holds
    measured = benchmark.measured("sgd", benchmark.drawn(0, 20_000, 1, "float32"), False, 5, 0.0)
    step = sorted(measured.seconds["fundamentals"])[1]
    assert step > 3 * sorted(measured.seconds["floor"])[1]
    assert len(measured.seconds["floor"]) == 2  # at least, whatever the time


def test_steps_start_from_where_the_last_one_ended():
    gradients = {"w": jnp.ones(3)}
    optimizer = optimizers.sgd(0.5)
    call, _ = benchmark.stepping(optimizer.init, optimizer.update, optimizers.apply_updates, gradients)
    first = call()[0]["w"]
    assert float(first[0]) == 0.5
    assert float(benchmark.repeated(call, 3)[0]["w"][0]) == -1.0
    assert first.is_deleted()  # donated


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"arrays": "1,100", "sizes": "50", "judge_at": "50"},
            "--arrays=100 is more than the 50 parameters of the smallest size",
        ),
        ({"judge_at": "60"}, "--judge_at=60 is none of --sizes=100000,1000000,10000000; expected one"),
        ({"dtype": "float64"}, "--dtype=float64 needs --jax_enable_x64=true"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=message):
        benchmark.run(**parse(benchmark, output_dir=str(tmp_path / "out"), **given))
    assert not (tmp_path / "out").exists()
