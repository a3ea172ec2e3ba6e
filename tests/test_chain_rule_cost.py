"""The costs of gradients: a small run in which the verdicts hold, ways that make them fail, flags."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import chain_rule_cost, chain_rule_cost_figures, chain_rule_cost_verdicts, chain_rules, common
from fundamentals.graph.counting import count

SMALL = {
    "depths": "1,2,7", "timed_depths": "2,3", "width": 3, "batch": 2, "numeric_widths": "2", "widths": "8",
    "layers": "1", "examples": 5, "repeats": 1,
}  # fmt: skip
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        verdicts = chain_rule_cost.run(**parse(chain_rule_cost, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_verdicts_hold(finished):
    folder, verdicts, results = finished
    assert [v.notes for v in verdicts] == [
        "M2", "M2, claim 2", "M3, claim 2", "M2, M3", "M3", "M1, M3", "M2", "M3",
        "B7, claim 1", "B7", "B7", "B2, claim 1", "B2", "B2, claim 1", "B3", "B3",
    ]  # fmt: skip
    times = (6, 7, 13)  # of so small problems they say nothing
    assert [v.claim for i, v in enumerate(verdicts) if not v.holds and i not in times] == []
    assert results["complete"]
    assert results["chains"][-1] == {
        "depth": 7, "naive": 49, "reuse": 19, "distinct": 19, "naive_entrywise": 28, "reuse_entrywise": 13,
    }  # fmt: skip
    assert [n["evaluations"] for n in results["numeric"]] == [2 * n["parameters"] for n in results["numeric"]]
    assert results["growth"][0]["hidden"] == [8, 8, 8]
    assert (folder / "chain_rule_cost.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    with pytest.raises(common.UserError, match="holds an earlier run"):
        chain_rule_cost.run(**parse(chain_rule_cost, **SMALL, output_dir=folder))


def test_a_single_formula_by_hand(x64):
    weights, x = chain_rules.make(KEY, 2, 3, 2)
    stored = chain_rules.forward(weights, x)
    first = np.tanh(weights[0] @ x)
    second = np.tanh(weights[1] @ first)
    upstream = 1 - second**2
    expected = ((np.asarray(weights[1]).T @ upstream) * (1 - first**2)) @ np.asarray(x).T
    np.testing.assert_allclose(chain_rules.alone(weights, stored, 1), expected, rtol=1e-12)
    np.testing.assert_allclose(chain_rules.alone(weights, stored, 2), upstream @ first.T, rtol=1e-12)


def test_wrong_gradients_and_wasteful_ones_are_noticed(monkeypatch):
    def judge():
        counted = [chain_rule_cost.count_chain(KEY, depth, 3, 2) for depth in (1, 4)]
        first = chain_rule_cost.first_counts(KEY, 3, 2)
        apart = chain_rule_cost.chain_differences(KEY, 4, 3, 2)
        return [v.holds for v in chain_rule_cost_verdicts.chains(first, counted, apart)]

    assert judge() == [True] * 6
    right = chain_rules.reuse
    with monkeypatch.context() as patch:
        patch.setattr(chain_rules, "reuse", lambda w, s, *rest: tuple(1.0001 * g for g in right(w, s, *rest)))
        assert judge() == [True, True, True, True, True, False]
    with monkeypatch.context() as patch:
        patch.setattr(chain_rules, "reuse", chain_rules.naive)
        assert judge() == [True, True, False, True, False, True]
    with monkeypatch.context() as patch:
        patch.setattr(chain_rules, "naive", right)  # too good to be what the notes describe
        assert judge() == [True, False, True, True, False, True]


def test_one_sided_differences_are_noticed(monkeypatch):
    def one_sided(loss, params, step):
        moves = step * jnp.eye(params.size, dtype=params.dtype)
        here = loss(params)
        return jax.lax.map(lambda move: (loss(params + move) - here) / step, moves)

    monkeypatch.setattr(chain_rules, "numeric_gradient", one_sided)
    found = [chain_rule_cost.numeric(KEY, 2, 5, 1)]
    assert found[0].evaluations == found[0].parameters + 1  # what does not change is evaluated once
    verdicts = chain_rule_cost_verdicts.numeric(found)
    assert [v.holds for v in verdicts] == [False, False, True]


def test_central_differences_are_exact_for_a_parabola(x64):
    params = jnp.array([1.0, -2.0, 0.5])
    found = chain_rules.numeric_gradient(lambda p: (p**2).sum(), params, 0.25)
    np.testing.assert_allclose(found, 2 * params, rtol=1e-12)
    assert count(lambda p: chain_rules.numeric_gradient(jnp.sum, p, 1e-3), params).operations["reduce_sum"].times == 6


def test_the_predicted_ratio():
    found = chain_rule_cost.growth(KEY, (8,), 5, 1)
    assert found.predicted == found.counted == found.by_hand == (3 * (64 * 8 + 8 * 10) - 64 * 8) / (64 * 8 + 8 * 10)
    assert found.parameters == 64 * 8 + 8 + 8 * 10 + 10
    worse = found._replace(counted=3.1)
    assert not chain_rule_cost_verdicts.growth([worse])[0].holds


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(chain_rule_cost, "numeric", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chain_rule_cost.run(**parse(chain_rule_cost, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["chains"]), results["numeric"], len(results["verdicts"])) == (3, [], 8)
    assert (tmp_path / "chain_rule_cost.png").exists()


def test_the_figure_takes_what_there_is():
    found = {name: [] for name in ("chains", "times", "numeric", "growth")}
    assert len(chain_rule_cost_figures.draw(found).axes) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("depths", "2,1"), ("timed_depths", "a"), ("widths", "0,1"), ("width", 1), ("batch", 1), ("repeats", 0),
     ("numeric_widths", ""), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(chain_rule_cost, **{name: value})


def test_times_that_grow_otherwise_are_noticed():
    def verdicts(naive, reuse, seconds):
        times = [chain_rule_cost.ChainTime(depth, depth**naive, depth**reuse) for depth in (10, 40)]
        found = [chain_rule_cost.Numeric(p, 2.0 * p, p, p**seconds, 1.0, 1e-9, 1e-16) for p in (10, 100)]
        judged = [*chain_rule_cost_verdicts.chain_times(times), chain_rule_cost_verdicts.numeric(found)[-1]]
        return [v.holds for v in judged]

    assert verdicts(2, 1, 1) == [True] * 3
    assert verdicts(1.2, 1, 0.2) == [False, True, False]
    assert verdicts(2, 2, 1.8) == [True, False, False]
