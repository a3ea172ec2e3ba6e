"""Clipping: a small run in which the verdicts hold, methods that make them fail, outcomes, flags."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import clipping_problems, common, gradient_clipping, gradient_clipping_figures
from experiments.clipping_problems import Cliff, Trace
from fundamentals import optimizers

SMALL = {
    "cliff_rates": "0.1,1,10", "rnn_rates": "0.003,1", "radii": "0.5,2",
    "examples": 8, "starts": 2, "rnn_steps": 300,
}  # fmt: skip
CLIFF = Cliff(0.01, 0.02, 100.0, 0.04, -1.0, -2.2)
RATES = np.array([0.1, 1.0, 10.0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        verdicts = gradient_clipping.run(**parse(gradient_clipping, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert [v.notes for v in verdicts] == [
        "O3", "O3", "O3", "O3", "claim 5", "claim 5",
        "claim 6", "claim 6", "claim 6", "O3", "claim 6", "O3", "O3, claim 5",
    ]  # fmt: skip
    assert [v.claim for v in verdicts if not v.holds] == []
    assert results["complete"]
    assert results["cliff, without clipping"]["outcome"] == ["stalls", "jumps", "stalls"]
    assert results["cliff, with clipping"]["outcome"] == ["stalls", "reaches", "stalls"]
    assert [row[1] for row in results["rnn, with clipping"]["outcome"]] == ["reaches"] * 2
    assert max(np.ravel(results["rnn, with clipping"]["largest_step"])) <= 0.3001
    assert (folder / "gradient_clipping.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    before = (folder / "results.json").read_bytes()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        gradient_clipping.run(**parse(gradient_clipping, **SMALL, output_dir=folder))
    assert (folder / "results.json").read_bytes() == before


def judge_cliff(clip=0.1):
    free, clipped = (clipping_problems.descend_cliff(CLIFF, RATES, c, 1000) for c in (None, clip))
    bounds, traces = {"cliff": 0.1}, {("cliff", "without"): free, ("cliff", "with"): clipped}
    verdicts = [
        *gradient_clipping.judge_cliff(CLIFF, RATES, free, clipped, 1e-4),
        *gradient_clipping.judge_lengths({"cliff": RATES}, bounds, traces),
    ]
    return [v.holds for v in verdicts]


def test_without_clipping_the_verdicts_fail():
    assert judge_cliff(clip=None) == [False, True, True, True, True, False]


def test_steps_of_a_fixed_length_fail(monkeypatch):
    def normalized(rate, max_norm):  # as long for small gradients as for large ones
        def update(g, state, params=None):
            return -rate * 0.01 * jnp.sign(g), state

        return optimizers.Optimizer(optimizers.sgd(rate).init, update)

    monkeypatch.setattr(clipping_problems, "method", normalized)
    # Nothing is thrown, so the target is reached without clipping. No step is η‖∇L‖ long, and on the cliff G is as
    # steep as it was. At the bottom it swings by other amounts.
    assert judge_cliff() == [False, True, True, False, False, True]


def test_a_flat_cliff_fails():
    cliff = CLIFF._replace(height=0.01)
    free, clipped = (clipping_problems.descend_cliff(cliff, RATES, c, 1000) for c in (None, 0.1))
    verdicts = gradient_clipping.judge_cliff(cliff, RATES, free, clipped, 1e-4)
    assert [v.holds for v in verdicts] == [False, True, False, True]  # it goes down, and needs no clipping


@pytest.mark.parametrize(
    ("factor", "fails"), [("length", [0, 1]), ("direction", [2]), ("nothing", []), ("value", [3]), ("bound", [1])]
)
def test_wrong_steps_are_noticed(monkeypatch, factor, fails):
    # The tasks of `finished`, whose program is compiled.
    sizes = {"length": 50, "units": 16, "examples": 8}
    make = functools.partial(clipping_problems.recall_task, **sizes, noise=0.3, radius=2.0)
    tasks = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 2))
    method, value = clipping_problems.method, optimizers.clip_by_value

    def wrong(rate, max_norm):
        if factor == "bound" and max_norm:
            max_norm *= 1.001
        right = method(rate * (1.001 if factor == "length" else 1), max_norm)

        def update(g, state, params=None):
            updates, state = right.update(g, state, params)
            if factor == "direction" and max_norm:
                updates = jax.tree.map(lambda u: jnp.flip(u, 0), updates)  # of the same length
            return updates, state

        return optimizers.Optimizer(right.init, update)

    monkeypatch.setattr(clipping_problems, "method", wrong)
    if factor == "value":
        monkeypatch.setattr(optimizers, "clip_by_value", lambda limit: value(2 * limit))
    steps = clipping_problems.measure_steps(tasks, np.array([0.1]), 0.3)
    assert [i for i, v in enumerate(gradient_clipping.judge_steps(steps)) if not v.holds] == fails


def test_gradients_through_time_that_miss_a_step_are_noticed(monkeypatch):
    radii = np.array([0.5, 2.0])
    bwd = clipping_problems.rnn_bwd

    def judge():  # by the programs of `finished`, as long as they are right
        found = clipping_problems.gradients_through_time(jax.random.split(jax.random.key(0))[1], radii, 50, 16)
        return [v.holds for v in gradient_clipping.judge_through_time(radii, found)]

    assert judge() == [True, True]
    monkeypatch.setattr(
        clipping_problems, "rnn_bwd", lambda r, dy: bwd(r._replace(w_h=r.w_h * 1.01), dy)
    )  # too large by 1 % each step
    assert judge()[0] is False


def test_the_cliffs_gradient_is_that_of_its_formula(x64):
    x = np.array([-2.0, -0.999, -0.98, -0.961, -0.5, -0.01, 0.0, 0.3])
    u = np.clip((x + 1) / 0.04, 0, 1)
    expected = 0.01 * x / np.sqrt(x**2 + 0.02**2) - 6 * 100 / 0.04 * u * (1 - u)
    found = jax.jit(jax.vmap(jax.grad(lambda x: clipping_problems.cliff_loss(CLIFF, x))))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_outcomes():
    steps, fall = np.full(20, 0.1), np.linspace(1, 0, 20)

    def outcome(losses, longest=0.1):
        return clipping_problems.outcome(losses, np.append(steps, longest), 2.0, 0.1)

    assert outcome(fall) == "reaches"
    assert outcome(fall, longest=3.0) == "lands"
    assert outcome(0.5 * (1 + fall)) == "stalls"
    assert outcome(np.append(fall[:-1], 0.2)) == "stalls"  # was there, but not in all of the last tenth
    assert outcome(0.5 * (1 + fall), longest=np.nan) == "jumps"
    assert outcome(1 + fall[::-1], longest=3.0) == "diverges"
    assert outcome(np.append(fall, np.nan)) == "diverges"


@pytest.mark.parametrize(
    ("free", "clipped", "holds"),
    [
        ([["stalls", "jumps"], ["stalls", "lands"]], [["stalls", "reaches"], ["stalls", "reaches"]], True),
        ([["reaches", "jumps"], ["stalls", "lands"]], [["stalls", "reaches"], ["stalls", "reaches"]], False),
        ([["stalls", "lands"], ["stalls", "lands"]], [["stalls", "reaches"], ["stalls", "reaches"]], False),
        ([["stalls", "jumps"], ["stalls", "lands"]], [["reaches", "stalls"], ["stalls", "reaches"]], True),
        ([["stalls", "jumps"], ["stalls", "lands"]], [["stalls", "lands"], ["stalls", "reaches"]], False),
    ],
)
def test_claim_6(free, clipped, holds):
    found = {"without": np.array(free), "with": np.array(clipped)}
    verdict = gradient_clipping.judge_claim_6("network", np.array([0.1, 1.0]), found)
    assert verdict.holds == holds


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(clipping_problems, "descend_rnn", interrupt)
    monkeypatch.setattr(
        clipping_problems, "measure_steps", lambda *args: clipping_problems.Steps(0, 0, 0, [9.0], [9.0])
    )
    with pytest.raises(KeyboardInterrupt):
        gradient_clipping.run(**parse(gradient_clipping, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert "cliff, with clipping" in results
    assert "rnn, without clipping" not in results
    assert len(results["verdicts"]) == 10
    assert (tmp_path / "gradient_clipping.png").exists()


def test_the_figure_takes_a_training_that_overflowed():
    settings = parse(gradient_clipping, **SMALL)
    nan = Trace(*(np.full((2, 2, 20), np.nan) for _ in range(4)))
    traces = {("rnn", where): nan for where in ("without", "with")}
    rates = {"cliff": RATES, "rnn": np.array([0.1, 1.0])}
    figure = gradient_clipping_figures.draw(CLIFF, rates, {"cliff": 1e-4, "rnn": 0.1}, traces, {}, settings)
    assert len(figure.axes) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("cliff_rates", "1,0.1"), ("rnn_rates", "a"), ("radii", "0,1"), ("rnn_rates", "nan"), ("starts", 0),
     ("length", 1), ("noise", -1), ("cliff_steps", 9), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(gradient_clipping, **{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rnn_clip": 0}, "--rnn_clip=0.0; expected"),
        ({"radius": "nan"}, "--radius=nan; expected"),
        ({"start": "-0.5"}, "expected start < edge < −width"),
        ({"cliff_clip": 0.001}, "below --slope"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=message):
        gradient_clipping.run(**parse(gradient_clipping, **given, output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
