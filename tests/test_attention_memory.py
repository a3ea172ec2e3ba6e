"""Attention's memory: a tiny run, what the verdicts notice, torch, the flags."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import attention_memory, common, measure
from experiments.measure import Point

TINY = {"lengths": "16,64", "heads": 2, "head_size": 4, "block_size": 4, "repeats": 2, "judge_at": 64, "torch": False}
TARGETS = {"smallest": 64, "tolerance": 1e-5, "judge_at": 128}
TARGETS |= {"target_memory": 4, "target_speedup": 5, "target_torch": 1.5}


def test_run(tmp_path):
    given = TINY | {"memory_limit": 1e-4}  # 100 KiB: not for the T² forms at T = 64
    verdicts = attention_memory.run(**parse(attention_memory, **given, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    points = {(p["form"], p["size"]): p for p in results["points"]}
    assert list(points) == [(form, n) for n in (16, 64) for form in ("textbook", "library", "by hand")]
    for form in ("textbook", "library"):
        assert points[form, 64]["temp_bytes"] >= 2 * 64 * 64 * 4
        assert points[form, 64]["seconds"] == []
        assert len(points[form, 16]["seconds"]) == 2
    assert len(points["by hand", 64]["seconds"]) == 2
    assert points["by hand", 64]["temp_bytes"] < 64 * 64 * 4
    assert points["by hand", 16]["difference"] < 1e-5
    ratios = results["ratios"]["temp_bytes"]["textbook / by hand"]
    assert ratios["64"] == points["textbook", 64]["temp_bytes"] / points["by hand", 64]["temp_bytes"]
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert [v.claim for v in verdicts] == [
        "memory by hand grows no faster than T",
        "memory of the textbook form grows as T²",
        "memory at T = 64: textbook / by hand",
        "gradients by hand are autodiff's, at every length that ran",
    ]
    assert verdicts[0].holds
    assert verdicts[1].holds
    assert verdicts[3].holds
    assert (tmp_path / "attention_memory.png").exists()


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    def compare(size, *args, **kwargs):
        if size > 16:
            raise KeyboardInterrupt
        return [Point("by hand", size, 100, 200, (0.1,), None)]

    monkeypatch.setattr(measure, "compare", compare)
    with pytest.raises(KeyboardInterrupt):
        attention_memory.run(**parse(attention_memory, **TINY, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert [p["size"] for p in results["points"]] == [16]


def measured(**changed):
    """As predicted, but for the functions of T in `changed`: temp bytes, seconds and differences by form."""
    made = {
        "textbook": lambda n: (100 * n**2, 10.0, None),
        "library": lambda n: (150 * n**2, 6.0, 1e-7),
        "by hand": lambda n: (1000 * n, 1.0, 1e-6),
        "torch": lambda n: (None, 0.8, 1e-7),
    } | {name.replace("_", " "): function for name, function in changed.items()}
    return [
        Point(form, n, temp, temp, (seconds,), difference)
        for n in (64, 128, 256)
        for form, function in made.items()
        for temp, seconds, difference in [function(n)]
    ]


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, []),
        ({"by_hand": lambda n: (10 * n**1.2, 1.0, 1e-6)}, [0]),
        ({"textbook": lambda n: (10000 * n, 10.0, None)}, [1]),
        ({"textbook": lambda n: (n**2.3, 10.0, None)}, [1, 2]),
        ({"by_hand": lambda n: (5000 * n, 1.0, 1e-6)}, [2]),
        ({"library": lambda n: (150 * n**2, 4.0, 1e-7)}, [3]),
        ({"torch": lambda n: (None, 0.6, 1e-7)}, [4]),
        ({"by_hand": lambda n: (1000 * n, 1.0, 1e-6 if n < 256 else 1e-4)}, [5]),
        ({"by_hand": lambda n: (1000 * n, 1.0, float("nan") if n == 64 else 0.0)}, [5]),
    ],
)
def test_verdicts_notice(changed, fails):
    verdicts = attention_memory.judge(measured(**changed), **TARGETS)
    assert [i for i, verdict in enumerate(verdicts) if not verdict.holds] == fails
    assert len(verdicts) == 6


def test_judges_only_what_it_measured_and_was_asked():
    assert len(attention_memory.judge(measured(), **TARGETS | {"judge_at": 512})) == 3
    assert len(attention_memory.judge(measured(), **TARGETS | {"smallest": 256})) == 4
    assert len(attention_memory.judge(measured(), **TARGETS | {"target_speedup": 0, "target_torch": 0})) == 4
    assert len(attention_memory.judge([p for p in measured() if p.form != "torch"], **TARGETS)) == 5


@pytest.mark.parametrize("causal", [False, True])
def test_torch_has_the_same_gradients(causal):
    pytest.importorskip("torch")
    arrays = [jnp.asarray(x) for x in np.random.RandomState(0).normal(size=(4, 2, 8, 3, 4)).astype(np.float32)]
    textbook = attention_memory.gradients(causal, 4)["textbook"](*arrays)
    found = attention_memory.torch_gradient(*arrays, causal=causal)()
    assert [tuple(x.shape) for x in found] == [(2, 8, 3, 4)] * 3
    assert measure.relative_difference(found, textbook) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_forms_take_the_flags(causal):
    q, k, v, weights = np.random.RandomState(0).normal(size=(4, 1, 4, 1, 2)).astype(np.float32)
    weights[:, 1:] = 0
    _, _, dv = jax.jit(attention_memory.gradients(causal, 2)["textbook"])(q, k, v, weights)
    assert np.any(dv[:, 1:]) != causal


def test_float64_needs_x64(tmp_path):
    with pytest.raises(common.UserError, match="jax_enable_x64"):
        attention_memory.run(**parse(attention_memory, **TINY, dtype="float64", output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("lengths", "256,128"), ("lengths", "0,128"), ("lengths", ""), ("block_size", 0), ("memory_limit", -1)],
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError):
        parse(attention_memory, **{name: value})
