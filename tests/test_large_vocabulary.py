"""A large vocabulary's memory: a tiny run, what the verdicts notice, the flags."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, large_vocabulary, measure
from experiments.measure import Point

TINY = {"vocabularies": "32,128", "examples": 16, "inputs": 4, "chunk_size": 8, "repeats": 2, "judge_at": 128}
TARGETS = {"smallest": 64, "tolerance": 1e-5, "judge_at": 128, "target_memory": 4, "target_time": 1.1}


def test_run(tmp_path):
    given = TINY | {"target_memory": 2, "target_time": 0}
    verdicts = large_vocabulary.run(**parse(large_vocabulary, **given, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    points = {(p["form"], p["size"]): p for p in results["points"]}
    assert list(points) == [(form, v) for v in (32, 128) for form in ("autodiff", "library", "by hand")]
    assert all(len(p["seconds"]) == 2 for p in points.values())
    for form in ("library", "by hand"):
        assert points[form, 128]["difference"] < 1e-5
    for form in ("autodiff", "by hand"):  # w and its cotangent are no temporaries
        gradients = 4 * (128 * 4 + 16 * 4)
        assert points[form, 128]["total_bytes"] - points[form, 128]["temp_bytes"] >= 2 * gradients
    assert points["autodiff", 128]["temp_bytes"] >= 2 * 16 * 128 * 4
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert [(v.claim, v.holds) for v in verdicts] == [
        ("memory by hand does not grow with V", True),
        ("memory of autodiff grows as V", True),
        ("memory at V = 128: autodiff / by hand", True),
        ("losses and gradients by hand are autodiff's, at every V that ran", True),
    ]
    assert (tmp_path / "large_vocabulary.png").exists()


def test_a_wrong_backward_pass_fails(tmp_path, monkeypatch):
    bwd = large_vocabulary.linear_cross_entropy_bwd

    def wrong(residuals, dy, *, chunk_size=1024):
        dx, dw, none = bwd(residuals, dy, chunk_size=chunk_size)
        return dx, 1.001 * dw, none

    monkeypatch.setattr(large_vocabulary, "linear_cross_entropy_bwd", wrong)
    given = TINY | {"vocabularies": "32", "repeats": 1}
    (verdict,) = large_vocabulary.run(**parse(large_vocabulary, **given, output_dir=tmp_path))
    assert not verdict.holds
    assert verdict.measured == "1.0e-03"


def test_losses_are_those_of_the_formula():
    x, w, labels, dy = large_vocabulary.arguments(jax.random.key(3), 5, 3, 7, "float32")
    z = np.asarray(x, float) @ np.asarray(w, float)
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(5), labels]
    for form in large_vocabulary.passes(2).values():
        losses, (dx, dw) = jax.jit(form)(x, w, labels, dy)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert (dx.shape, dw.shape) == (x.shape, w.shape)


def measured(**changed):
    """As predicted, but for the functions of V in `changed`: temp bytes, seconds and differences by form."""
    made = {
        "autodiff": lambda v: (1000 * v, 1.0, None),
        "library": lambda v: (1000 * v, 1.0, 1e-7),
        "by hand": lambda v: (20000, 1.05, 1e-6),
    } | {name.replace("_", " "): function for name, function in changed.items()}
    return [
        Point(form, v, temp, temp, (seconds,), difference)
        for v in (64, 128, 256)
        for form, function in made.items()
        for temp, seconds, difference in [function(v)]
    ]


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, []),
        ({"by_hand": lambda v: (5000 * v**0.2, 1.05, 1e-6)}, [0]),
        ({"autodiff": lambda v: (100 * v**1.5, 1.0, None)}, [1]),
        ({"by_hand": lambda v: (33000, 1.05, 1e-6)}, [2]),
        ({"by_hand": lambda v: (20000, 1.2, 1e-6)}, [3]),
        ({"by_hand": lambda v: (20000, 1.05, float("nan") if v == 64 else 1e-6)}, [4]),
    ],
)
def test_verdicts_notice(changed, fails):
    verdicts = large_vocabulary.judge(measured(**changed), **TARGETS)
    assert [i for i, verdict in enumerate(verdicts) if not verdict.holds] == fails
    assert len(verdicts) == 5


def test_judges_only_what_it_measured_and_was_asked():
    assert len(large_vocabulary.judge(measured(), **TARGETS | {"judge_at": 512})) == 3
    assert len(large_vocabulary.judge(measured(), **TARGETS | {"smallest": 256})) == 3
    assert len(large_vocabulary.judge(measured(), **TARGETS | {"target_memory": 0, "target_time": 0})) == 3


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    def compare(size, *args, **kwargs):
        if size > 32:
            raise KeyboardInterrupt
        return [Point("by hand", size, 100, 200, (0.1,), None)]

    monkeypatch.setattr(measure, "compare", compare)
    with pytest.raises(KeyboardInterrupt):
        large_vocabulary.run(**parse(large_vocabulary, **TINY, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert [p["size"] for p in results["points"]] == [32]


def test_float64_needs_x64(tmp_path):
    with pytest.raises(common.UserError, match="jax_enable_x64"):
        large_vocabulary.run(**parse(large_vocabulary, **TINY, dtype="float64", output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("vocabularies", "256,128"), ("vocabularies", "a"), ("chunk_size", 0), ("tolerance", -1)]
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError):
        parse(large_vocabulary, **{name: value})
