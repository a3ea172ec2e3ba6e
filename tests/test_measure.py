"""Comparing forms of one computation: what is compiled, run, timed and compared, and what is made of the numbers."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import measure
from experiments.measure import Point

LIMITS = {"memory_limit": math.inf, "repeats": 2, "seconds": 60.0, "note": lambda doing: None}


def test_compares_and_times():
    notes = []
    forms = {"plain": lambda x: 2 * x, "off": lambda x: 2.02 * x}
    limits = LIMITS | {"note": notes.append}
    points = measure.compare(8, forms, [jnp.ones(8)], {"numpy": lambda: np.full(8, 2.2, np.float32)}, **limits)
    assert [(p.form, p.size, len(p.seconds)) for p in points] == [("plain", 8, 2), ("off", 8, 2), ("numpy", 8, 2)]
    assert points[0].difference is None
    assert points[1].difference == pytest.approx(0.01, rel=1e-3)
    assert points[2].difference == pytest.approx(0.1, rel=1e-3)
    assert points[0].total_bytes == points[0].temp_bytes + 2 * 8 * 4
    assert points[2].temp_bytes is None
    assert notes == ["compiling plain", "compiling off", "running plain", "running off", "running numpy", "timing"]


def test_compiles_but_does_not_run_what_needs_more_memory():
    def large(x):
        square = jnp.outer(x, x)
        return (square @ square) @ x

    forms = {"large": large, "small": lambda x: x * jnp.sum(x)}
    large, small = measure.compare(64, forms, [jnp.ones(64)], {}, **LIMITS | {"memory_limit": 64 * 64 * 4})
    assert large.temp_bytes >= 64 * 64 * 4
    assert large.seconds == ()
    assert len(small.seconds) == 2
    assert small.difference is None  # the first that ran is what others are compared with


def test_counts_the_first_run_where_there_is_no_time_for_another():
    (point,) = measure.compare(8, {"one": jnp.sin}, [jnp.ones(8)], {}, **LIMITS | {"seconds": 0.0})
    assert len(point.seconds) == 1


@pytest.mark.parametrize("where", ["compile", "run"])
def test_passes_by_what_is_out_of_memory(where, monkeypatch):
    def fail(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")

    peers = {"peer": fail} if where == "run" else {}
    points = measure.compare(8, {"one": jnp.sin} if where == "run" else {"one": fail}, [jnp.ones(8)], peers, **LIMITS)
    assert [(p.form, len(p.seconds)) for p in points] == ([("one", 2), ("peer", 0)] if where == "run" else [("one", 0)])


def test_other_errors_are_not_swallowed():
    def fail(x):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        measure.compare(8, {"one": fail}, [jnp.ones(8)], {}, **LIMITS)


def test_every_call_runs_after_every_other():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = measure.in_turn(calls, 6, math.inf)
    rounds = {"".join(order[i : i + 3]) for i in range(0, 18, 3)}
    assert rounds == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 6, "b": 6, "c": 6}


def test_stops_when_time_is_over():
    times = measure.in_turn({"sleep": lambda: time.sleep(0.02)}, 1000, 0.05)
    assert 1 <= len(times["sleep"]) <= 3


def test_relative_difference():
    one, two = np.array([1.0, -4.0], np.float32), np.array([[0.0]], np.float32)
    assert measure.relative_difference([one, two], [one, two]) == 0
    assert measure.relative_difference([one + 1, two], [one, two]) == 0.25
    assert measure.relative_difference([one, two + 3], [one, two]) == 3
    assert math.isnan(measure.relative_difference([one, two * np.nan], [one, two]))
    assert math.isnan(measure.relative_difference([one * np.nan, two], [one, two]))
    half = jnp.asarray([1.0, -4.0], jnp.bfloat16)
    assert measure.relative_difference([half + 1], [half]) == 0.25
    assert measure.relative_difference([np.array([1.0 + 1e-12])], [np.array([1.0])]) == pytest.approx(1e-12, rel=1e-3)


def points(form, exponent, constant=0.0):
    return [Point(form, n, int(constant + 64 * n**exponent), 0, (), None) for n in (16, 32, 64, 128)]


def test_growth():
    assert measure.growth(points("a", 2), "a", 32) == pytest.approx((2, 32, 128))
    assert measure.growth(points("a", 0), "a", 1) == pytest.approx((0, 16, 128), abs=1e-12)
    assert 0 < measure.growth(points("a", 1, constant=2000), "a", 1).exponent < 0.9
    assert measure.growth(points("a", 2), "a", 128) is None
    assert measure.growth(points("a", 2), "b", 1) is None


def test_ratios_are_of_one_round_each():
    measured = [
        Point("a", 8, 30, 0, (1.0, 20.0, 3.0), None),  # the machine was busy in the second round
        Point("b", 8, 10, 0, (0.5, 10.0, 1.0), None),
        Point("c", 8, 0, 0, (), None),
    ]
    assert measure.time_ratio(measured, ("a", "b"), 8) == 2
    assert measure.temp_ratio(measured, ("a", "b"), 8) == 3
    for a, b in (("a", "c"), ("a", "d")):
        assert measure.time_ratio(measured, (a, b), 8) is None
        assert measure.temp_ratio(measured, (a, b), 8) is None


def test_texts():
    assert [measure.bytes_text(n) for n in (None, 0, 1023, 1536, 3 * 2**20, 5.5 * 2**30, 2**45)] == [
        "–", "0", "1023", "1.5K", "3.0M", "5.5G", "32768.0G",
    ]  # fmt: skip
    assert [measure.time_text(s) for s in ([], [2e-5], [0.1, 0.0125, 0.001], [2.5])] == ["–", "20µs", "12.5ms", "2.50s"]


@pytest.mark.parametrize(
    ("values", "holds"), [("1", 1), ("1,2,30", 1), ("2,1", 0), ("2,2", 0), ("0,1", 0), ("", 0), ("1,x", 0), ("-1", 0)]
)
def test_ascending(values, holds):
    assert measure.are_ascending(values.split(",") if values else []) == bool(holds)
