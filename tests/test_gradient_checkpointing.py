"""Checkpointing, measured: a small run in which the verdicts hold, numbers that make each of them fail, flags."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import (
    checkpointing_models,
    checkpointing_schedules,
    checkpointing_verdicts,
    common,
    gradient_checkpointing,
    gradient_checkpointing_figures,
)
from experiments.checkpointing_schedules import Counted, Searched
from experiments.checkpointing_verdicts import Chain, Form, Measured, Promise, Recurrent
from fundamentals.memory.checkpointing import dynamic_program, planning, schedules

SMALL = {
    "model": "mlp", "layers": 3, "mlp_batch": 256, "budgets": 3, "slots": "2", "lengths": 12, "most_slots": 4,
    "chains": 70, "repeats": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        patch.setattr(checkpointing_schedules, "planning_seconds", lambda *args: 0.1)
        patch.setattr(planning, "CANDIDATES", 3)  # to compile
        verdicts = gradient_checkpointing.run(**parse(gradient_checkpointing, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert len(verdicts) == 12
    assert {v.notes for v in verdicts} == {"K2, claim 8"}
    assert [v.claim for v in verdicts if not v.holds] == []
    assert results["complete"]
    (chain,) = results["chains"]
    assert (chain["name"], chain["length"], len(chain["promises"])) == ("mlp", 4, 3)
    assert [form["name"] for form in chain["forms"][:4]] == [
        "store all", "every layer", "√l segments", "binomial, c = 2"
    ]  # fmt: skip
    assert all(form["difference"] <= 1e-12 for form in chain["forms"])
    assert (folder / "gradient_checkpointing.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    before = (folder / "results.json").read_bytes()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        gradient_checkpointing.run(**parse(gradient_checkpointing, **SMALL, output_dir=folder))
    assert (folder / "results.json").read_bytes() == before


def test_the_recurrent_network(x64):
    found = gradient_checkpointing.measure_rnn(np.random.default_rng(0), 128, 5, 1, lambda text: None)
    assert found.temp_bytes <= 0.02 * found.stored_bytes
    assert found.difference <= 1e-12
    assert (len(found.compile_short), len(found.compile_long)) == (1, 1)


@pytest.mark.parametrize("name", ["dropout", "cnn", "transformer"])
def test_stages_go_together(name, x64):
    sizes = {"dropout": {"layers": 3}, "cnn": {"convolutions": 1}, "transformer": {"blocks": 3}}[name]
    model = getattr(checkpointing_models, name)(np.random.default_rng(0), batch=3, **sizes)
    assert len(model.stages) == len(model.params) == {"cnn": 5}.get(name, 4)
    carry, shapes = model.x, []
    for stage, p in zip(model.stages, model.params, strict=True):
        carry = jax.eval_shape(stage, p, carry)
        shapes.append(jax.tree.leaves(carry)[0].shape)
    expected = {
        "cnn": [(3, 32, 32, 8), (3, 16, 16, 16), (3, 8, 8, 32), (3, 4, 4, 64), (3, 10)],
        "transformer": [(3, 64, 64)] * 3 + [(3, 10)],
        "dropout": [(3, 128)] * 3 + [(3, 10)],
    }
    assert shapes == expected[name]
    assert {leaf.dtype for leaf in jax.tree.leaves((model.params, jax.tree.leaves(model.x)[0], carry))} == {
        np.dtype(np.float64)
    }


def test_the_loss_is_that_of_the_formula():
    logits = np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = checkpointing_models.cross_entropy(jnp.asarray(logits), jnp.array([1, 0]))
    np.testing.assert_allclose(found, -np.log([p[0, 1], p[1, 0]]).mean(), rtol=1e-6)


def test_counts_of_evaluations():
    for length in (1, 2, 3, 7, 10, 11, 35, 36, 100):
        for slots in (1, 2, 3, 5, 100):
            assert checkpointing_schedules.fewest(length, slots) == schedules.fewest_forwards(length, slots)
    counted = checkpointing_schedules.count(20, 5)
    assert (counted.wrong, counted.binomial) == (0, 3.747)
    schedules.check(checkpointing_schedules.bisect(0, 37, 4), 37)
    assert schedules.kept(checkpointing_schedules.bisect(0, 37, 4)) == (5, 1)


def test_another_schedule_than_the_binomial_is_noticed(monkeypatch):
    monkeypatch.setattr(schedules, "binomial", lambda steps, c: checkpointing_schedules.bisect(0, steps, c - 1))
    counted = checkpointing_schedules.count(20, 5)
    assert counted.wrong > 0
    assert [v.holds for v in checkpointing_verdicts.judge(Measured(counted=counted))] == [False, False]


def test_the_simulation_agrees_with_hand_counting():
    ones = np.ones((7, 3, 1), int) * np.array([1, 2, 3, 5, 0, 0, 1])[:, None, None]
    costs = checkpointing_schedules.Costs(ones, np.array([4]))
    # Three tapes of 5 and the cotangents of 3 and 3; or one tape, one checkpoint of 3, and the same.
    assert [int(a[0]) for a in checkpointing_schedules.simulate((0, 1, 2), costs)] == [9, 21]
    assert [int(a[0]) for a in checkpointing_schedules.simulate(((0, 1), 2), costs)] == [11, 16]
    assert [int(a[0]) for a in checkpointing_schedules.simulate((((0,), 1), 2), costs)] == [12, 14]
    assert [len(checkpointing_schedules.all_schedules(0, n)) for n in range(1, 8)] == [1, 2, 6, 22, 90, 394, 1806]


@pytest.mark.parametrize("mistake", ["dear", "lean", "infeasible"])
def test_a_wrong_dynamic_program_is_noticed(monkeypatch, mistake):
    read, solve = dynamic_program.read, dynamic_program.solve

    def wrong(table):
        found = read(table)
        if mistake == "infeasible" or found is None:
            return None
        if mistake == "lean":
            return found._replace(bytes=found.bytes - 1)
        return found

    def greedy(costs, input_bytes, memory, buckets):  # with less memory than it was given
        return solve(costs, input_bytes, max(memory - 3, 1), buckets=max(buckets - 3, 1))

    monkeypatch.setattr(dynamic_program, "read", wrong)
    if mistake == "dear":
        monkeypatch.setattr(dynamic_program, "solve", greedy)
    assert checkpointing_schedules.search(70, 5, 0).wrong > 10


def form(name, group, temp, time, schedule=(0, 1), **changed):
    found = Form(name, group, schedule, (1, 1), temp, temp, temp, 3, time, time, 90 * time, 1e-16, (1.0,))
    return found._replace(**changed)


CHAIN = Chain(
    "cnn",
    2,
    [
        form("store all", "stored", 100, 1.0),
        form("every layer", "segments", 60, 1.3, evaluations=4),
        form("√l segments", "segments", 70, 1.2, evaluations=4),
        form("plan", "planned", 100, 1.0),
        form("plan", "planned", 41, 1.1),
    ],
    [form("2", "segments", 70, 1.2), form("3", "segments", 75, 1.25)],
    [Promise(41, 41, 41, 1.1), Promise(100, 100, 100, 1.0)],
    41,
    "expected at least 41 (41 B)",
    27.0,
)
RIGHT = Measured(
    [CHAIN],
    Counted(256, 32, 0, 3.747, 4.9),
    Searched(100, 80, 7, 1806, 0),
    0.5,
    Recurrent(1000, 20, 10_000, 1e-15, 1.0, 1.0, [1.0, 2.0, 9.0], [1.0, 2.2, 9.0]),
)


def changed(**fields):
    return RIGHT._replace(chains=[CHAIN._replace(**fields)])


def replaced(field, index, **fields):
    rows = list(getattr(CHAIN, field))
    rows[index] = rows[index]._replace(**fields)
    return changed(**{field: rows})


@pytest.mark.parametrize(
    ("measured", "fails"),
    [
        (RIGHT, []),
        (replaced("forms", 1, difference=2e-12), [0]),
        (replaced("forms", 1, difference=float("nan")), [0]),
        (replaced("uniform", 1, difference=2e-12), [0]),
        (replaced("promises", 0, temp_bytes=42), [1]),
        (changed(refusal="a plan of 40 bytes"), [2]),
        (changed(minimum=40), [2]),
        (replaced("forms", 3, predicted=111), [3]),
        (replaced("forms", 3, predicted=89), [3]),
        (replaced("promises", 0, time=0.9), [4]),
        (replaced("promises", 0, predicted=101), [4]),
        (replaced("forms", 1, temp_bytes=100, predicted=100), [5, 6]),
        (replaced("forms", 1, flops=118.0), [6]),
        (replaced("forms", 1, flops=90.0), [6]),  # the compiler computes nothing again
        (replaced("forms", 1, evaluations=5), [6]),
        (replaced("forms", 4, temp_bytes=43, predicted=43, time=1.11), [7]),
        (replaced("forms", 4, temp_bytes=70, predicted=70, time=1.099), [8]),  # half of the recomputation
        (replaced("forms", 4, time=1.2), []),  # or six tenths of the memory
        (replaced("forms", 2, time=1.07), [8]),
        (replaced("forms", 2, time=1.08), []),
        (replaced("forms", 1, temp_bytes=40, predicted=40), [8]),
        (RIGHT._replace(counted=RIGHT.counted._replace(wrong=1)), [9]),
        (RIGHT._replace(counted=RIGHT.counted._replace(binomial=3.748)), [10]),
        (RIGHT._replace(counted=RIGHT.counted._replace(bisection=3.7)), [10]),
        (RIGHT._replace(searched=RIGHT.searched._replace(wrong=1)), [11]),
        (RIGHT._replace(searched=RIGHT.searched._replace(feasible=0)), [11]),
        (RIGHT._replace(planning_seconds=1.1), [12]),
        (RIGHT._replace(recurrent=RIGHT.recurrent._replace(temp_bytes=21)), [13]),
        (RIGHT._replace(recurrent=RIGHT.recurrent._replace(compile_long=[2.5] * 3)), [14]),
        (RIGHT._replace(recurrent=RIGHT.recurrent._replace(difference=1e-11)), [0]),
    ],
)
def test_every_verdict_notices(measured, fails):
    verdicts = checkpointing_verdicts.judge(measured)
    assert [i for i, verdict in enumerate(verdicts) if not verdict.holds] == fails
    assert len(verdicts) == 15


def test_segments_that_others_beat_are_no_rivals():
    assert [f.name for f in checkpointing_verdicts.best_uniform(CHAIN.uniform)] == ["2"]
    memory, again = checkpointing_verdicts.against_uniform(CHAIN.uniform, CHAIN.forms[3:])
    np.testing.assert_allclose((memory, again), (41 / 70, 0.1 / 0.2))


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpointing_schedules, "planning_seconds", lambda *args: 0.1)
    monkeypatch.setattr(gradient_checkpointing, "measure_chain", lambda *args, **options: CHAIN)
    monkeypatch.setattr(gradient_checkpointing, "time_chain", lambda model, found, *args: found)
    monkeypatch.setattr(gradient_checkpointing, "measure_rnn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gradient_checkpointing.run(**parse(gradient_checkpointing, **SMALL | {"model": "all"}, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["chains"]), len(results["verdicts"]), results["recurrent"]) == (4, 16, None)
    assert (tmp_path / "gradient_checkpointing.png").exists()


def test_the_figure_takes_one_chain_or_more():
    for chains in ([CHAIN], [CHAIN, CHAIN._replace(uniform=())], [CHAIN] * 4):
        shown = [axes for axes in gradient_checkpointing_figures.draw(chains).axes if axes.axison]
        assert len(shown) == len(chains) + 1


def test_other_settings_are_back_after_planning():
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.raises(ValueError, match="stop"), gradient_checkpointing.quick_compilation():
        raise ValueError("stop")
    assert jax.config.read("jax_disable_most_optimizations") == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "rnns"), ("layers", 2), ("convolutions", 0), ("blocks", 2), ("budgets", 1), ("slots", "3,2"),
     ("slots", ""), ("rnn_steps", 64), ("chains", 6), ("compilations", 0), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(gradient_checkpointing, **{name: value})
