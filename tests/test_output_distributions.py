"""Output types and the inverse map: what is measured, what must be noticed, interruptions, flags."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from oracles import TOLERANCE, autodiff, cotangent_like, hand, relative_error
from scripts import parse

from experiments import common, inverse_map, output_distributions, output_types
from experiments.output_distributions import Score
from fundamentals.models import mlp

SMALL = {"examples": "40", "components": "2", "hidden_sizes": "3", "steps": "150"}
NO_MISMATCH = output_types.Mismatch((-1.0, -4e-5), (-1.0, -4e-5), (11, 22063), (11.0, 22059.0))


def measurements(**changes):
    rows = [
        output_types.Measurement(kind.notes, *[dict.fromkeys(kind.formulas, 1e-7)] * 2, nll=1e-7, total=1e-7)
        for kind in output_types.TYPES
    ]
    return [row._replace(**changes) if row.notes == "H2" else row for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    verdicts = output_distributions.run(**parse(output_distributions, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text())


def test_every_row_of_the_notes_is_judged_and_the_formulas_hold(finished):
    folder, verdicts, results = finished
    rows = ["H1", "H1", "H2", "H2", "H3", "H3", "H4", "H4", "H1", "H1", "H3, H4", "claim 21", "claim 21"]
    assert [v.notes for v in verdicts] == rows
    assert all(v.holds for v in verdicts[:11])  # a training as short as this proves nothing about the claim
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert results["complete"]
    assert (folder / "output_distributions.png").read_bytes().startswith(b"\x89PNG")


def test_results(finished):
    _, _, results = finished
    assert [row["notes"] for row in results["output_types"]] == ["H1", "H2", "H3", "H4"]
    assert set(results["output_types"][3]["by_hand"]) == {"logits", "means", "log-scales"}
    assert [record["step"] for record in results["history"]] == [100, 150]
    assert set(results["gradients_apart"]) == set(inverse_map.heads(2))
    assert len(results["gradients_apart"]["mixture"]) == 4
    scores = results["inverse_map"]["scores"]
    assert set(scores) == {"squared error", "one Gaussian", "mixture", "E(t | x)"}
    assert scores["mixture"]["nll"] == pytest.approx(results["history"][-1]["mixture"], rel=1e-5)
    assert results["inverse_map"]["true_density_nll"] < min(s["nll"] for s in scores.values())


def test_effective_flags_repeat_the_run(finished, tmp_path):
    folder, _, results = finished
    values = flags.FlagValues()
    output_distributions.define_flags(values)
    values(["", *values.read_flags_from_files([f"--flagfile={folder / common.FLAGFILE}"])])
    assert {name: str(values[name].value) for name in values} == {
        name: str(value) for name, value in results["settings"].items()
    }


@pytest.mark.parametrize("notes", ["H1", "H2", "H3", "H4"])
def test_a_wrong_rule_is_noticed(notes, monkeypatch):
    (kind,) = (kind for kind in output_types.TYPES if kind.notes == notes)

    def wrong(*args):
        examples = kind.examples(*args)
        right = examples.rule
        rule = right._replace(
            primal=lambda *a: 1.001 * right.primal(*a),
            bwd=lambda *a: tuple(d if d is None else 0.999 * d for d in right.bwd(*a)),
        )
        return examples._replace(rule=rule, costs=[1.01 * examples.costs[0]], totals=0.99 * examples.totals)

    monkeypatch.setattr(output_types, "TYPES", (kind._replace(examples=wrong),))
    (measured,) = output_types.measure(jax.random.key(0), 20, 3, jnp.float32)
    for name in kind.formulas:
        assert measured.by_hand[name] == pytest.approx(1e-3, rel=0.01)
        assert measured.by_autodiff[name] == pytest.approx(1e-3, rel=0.01)
    assert measured.nll == pytest.approx(0.01, rel=0.01)
    assert measured.total == pytest.approx(0.01, rel=0.01)


def test_what_is_not_a_number_is_infinitely_far():
    assert output_types.difference([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert output_types.difference([0.5], [0.0]) == 0.5
    assert output_types.difference([0.0, 0.0], [0.0, 0.0]) == 0
    assert output_types.difference([np.nan, 1.0], [1.0, 1.0]) == np.inf
    assert output_types.difference([1.0], [np.nan]) == np.inf


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, None),
        ({"by_hand": {"logits": 2e-5}}, 2),
        ({"by_autodiff": {"logits": np.inf}}, 2),
        ({"nll": 2e-5}, 3),
        ({"total": np.inf}, 3),
    ],
)
def test_verdicts_on_output_types(changes, row):
    verdicts = output_distributions._judge_types(measurements(**changes), NO_MISMATCH, 1e-5)
    assert [i for i, v in enumerate(verdicts) if not v.holds] == ([] if row is None else [row])


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"slopes": (-1.0, -5e-5)}, 8),
        ({"slopes": (np.nan, -4e-5)}, 8),
        ({"steps": (11, 100)}, 9),
        ({"steps": (12, 22063)}, 9),
    ],
)
def test_verdicts_on_the_mismatch(changes, row):
    verdicts = output_distributions._judge_types(measurements(), NO_MISMATCH._replace(**changes), 1e-5)
    assert [i for i, v in enumerate(verdicts) if not v.holds] == [row]


def test_verdict_on_gradients_names_the_worst():
    apart = {"mixture": {"[0].w": 1e-7, "[1].b": 2e-5}, "squared error": {"[0].w": 1e-6}}
    verdict = output_distributions._judge_gradients(apart, 1e-5)
    assert (verdict.holds, verdict.measured) == (False, "2.0e-05 (mixture)")
    assert output_distributions._judge_gradients(apart, 1e-4).holds


@pytest.mark.parametrize(
    ("mixture", "squared", "gain", "holds"),
    [
        (Score(-1.0, 0.03, 0.0), Score(-0.2, 0.1, 0.2), 0.8, [True, True]),
        (Score(-0.1, 0.03, 0.0), Score(-0.2, 0.1, 0.2), -0.1, [False, True]),
        (Score(-0.21, 0.03, 0.0), Score(-0.1, 0.1, 0.2), 0.11, [False, True]),  # better than what was learned only
        (Score(-1.0, 0.07, 0.1), Score(-0.2, 0.1, 0.2), 0.8, [True, False]),
        (Score(-1.0, 0.03, 0.0), Score(-0.2, 0.04, 0.0), 0.8, [True, False]),
        (Score(np.nan, np.nan, 1.0), Score(-0.2, 0.1, 0.2), np.nan, [False, False]),
    ],
)
def test_verdicts_on_claim_21(mixture, squared, gain, holds):
    scores = {"mixture": mixture, "squared error": squared, "E(t | x)": Score(-0.22, 0.08, 0.2)}
    spread = np.array([-1.0, 1.0] * 500)
    assert [v.holds for v in output_distributions._judge_map(scores, gain + spread)] == holds
    assert not output_distributions._judge_map(scores, gain + 100 * spread)[0].holds  # by chance


def test_unlearning_against_the_formula(x64):
    z = jnp.array([-10.0, -1.0, 0.0, 3.0])
    p = 1 / (1 + np.exp(-np.asarray(z)))
    matched, mismatched = output_types.slopes(z)
    np.testing.assert_allclose(matched, p - 1, rtol=1e-12)
    np.testing.assert_allclose(mismatched, (p - 1) * p * (1 - p), rtol=1e-12)


def test_exact_density_and_mean():
    # f runs through x ± 0.1 once, twice, or in one long interval; and at the very ends of what x can be.
    x = np.array([-0.0999999, 0.1, 0.38, 0.5, 0.65, 1.0999999])
    mean, density = inverse_map.exact(x)
    t = (np.arange(1_000_000) + 0.5) / 1_000_000
    possible = np.abs(t + 0.3 * np.sin(2 * np.pi * t) - x[1:5, None]) <= 0.1
    np.testing.assert_allclose(density[1:5], 1 / possible.mean(axis=1), rtol=1e-3)
    np.testing.assert_allclose(mean[1:5], (possible * t).sum(axis=1) / possible.sum(axis=1), rtol=1e-3)
    np.testing.assert_allclose(mean[[0, 5]], [0, 1], atol=1e-4)
    assert np.all(density[[0, 5]] > 1000)


def test_examples_are_of_the_map():
    x, t = (np.asarray(a)[:, 0] for a in inverse_map.sample(jax.random.key(0), 1000, jnp.float32))
    error = x - (t + 0.3 * np.sin(2 * np.pi * t))
    assert -0.1001 < error.min() < -0.098
    assert 0.098 < error.max() < 0.1001
    assert abs(np.corrcoef(error, t)[0, 1]) < 0.1
    np.testing.assert_allclose([t.mean(), t.std()], [0.5, 12**-0.5], atol=0.02)


def test_mixture_head(x64):
    random = np.random.RandomState(0)
    outputs, targets = random.normal(size=(4, 9)), random.normal(size=(4, 1))
    rule = inverse_map.heads(3)["mixture"].rule
    a, mu, s = np.split(outputs, 3, axis=-1)
    weights = np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True)
    densities = np.exp(-0.5 * ((targets - mu) / np.exp(s)) ** 2) / (np.exp(s) * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(
        jax.jit(rule.primal)(outputs, targets), -np.log((weights * densities).sum(axis=-1)), rtol=1e-13
    )
    dy = cotangent_like(jnp.zeros(4, jnp.float64))
    args = jnp.asarray(outputs), jnp.asarray(targets)
    found, expected = jax.jit(lambda *args: (hand(rule, args, dy), autodiff(rule, args, dy)))(*args)
    assert relative_error(found, expected) <= TOLERANCE["float64"]


def test_answers_and_likelihoods(x64):
    # Networks of one layer, whose outputs are their biases.
    def network(*biases):
        return (mlp.Layer(jnp.zeros((1, len(biases))), jnp.array(biases)),)

    squared, _, mixture = inverse_map.heads(2).values()
    x, t = jnp.array([[0.1], [0.9]]), jnp.array([[0.0], [1.0]])
    train, held_out = inverse_map.Examples(x, t), inverse_map.Examples(x, t + 0.5)
    np.testing.assert_allclose(inverse_map.answers(squared, network(0.5), x), [0.5, 0.5])
    np.testing.assert_allclose(inverse_map.answers(mixture, network(0.1, 0.2, 7.0, 8.0, 0.0, 0.0), x), [8.0, 8.0])
    # The training targets are ½ away from ½, so the variance is ¼; those held out are 0 and 1 away.
    expected = 0.5 * np.log(2 * np.pi * 0.25) + np.array([0, 0.5 / 0.25])
    np.testing.assert_allclose(inverse_map.nll(squared, network(0.5), held_out, train), expected, rtol=1e-12)
    expected = 0.5 * np.log(2 * np.pi) - np.log(0.25 + 0.75 * np.exp(-0.5 * np.array([2.0, 1.0]) ** 2))
    args = mixture, network(0.0, np.log(3.0), 0.0, 2.0, 0.0, 0.0)
    found = inverse_map.nll(*args, inverse_map.Examples(x, jnp.array([[0.0], [1.0]])), train)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], 0.5 * np.log(2 * np.pi) + 0.5, rtol=1e-12)  # 1 away from both


@pytest.fixture
def measured_before(monkeypatch):
    """Instead of all that comes before the training."""
    monkeypatch.setattr(output_types, "measure", lambda *args: measurements())
    monkeypatch.setattr(output_types, "unlearn", lambda dtype: NO_MISMATCH)
    monkeypatch.setattr(output_distributions, "_gradients_apart", lambda *args: {"[0].w": 1e-7})


@pytest.mark.usefixtures("measured_before", "undrawn")
def test_interruption_leaves_what_is_finished(tmp_path, monkeypatch):
    progress = common.progress()
    monkeypatch.setattr(common, "progress", lambda: progress)

    def update(task, advance=0, **fields):
        if advance:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "update", update)
    with pytest.raises(KeyboardInterrupt):
        output_distributions.run(**parse(output_distributions, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert [record["step"] for record in results["history"]] == [100]
    assert len(results["verdicts"]) == 11
    assert "claim 21" not in [v["notes"] for v in results["verdicts"]]
    assert set(results["inverse_map"]["scores"]) == {"squared error", "one Gaussian", "mixture", "E(t | x)"}
    assert (tmp_path / "output_distributions.png").exists()


@pytest.mark.usefixtures("measured_before", "undrawn")
def test_divergence_is_reported(tmp_path):
    given = SMALL | {"learning_rate": "1e30", "steps": "3"}
    verdicts = output_distributions.run(**parse(output_distributions, **given, output_dir=tmp_path))
    assert [v.holds for v in verdicts if v.notes == "claim 21"] == [False, False]
    scores = json.loads((tmp_path / "results.json").read_text())["inverse_map"]["scores"]
    assert scores["mixture"]["impossible"] == 1
    assert scores["mixture"]["nll"] is None


def test_earlier_results_are_not_overwritten_unless_told(finished):
    folder, _, _ = finished
    before = (folder / "results.json").read_bytes()
    with pytest.raises(common.UserError, match="holds an earlier run"):
        output_distributions.run(**parse(output_distributions, **SMALL, output_dir=folder))
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "-1"),
        ("examples", "1"),
        ("components", "1"),
        ("hidden_sizes", "8,0"),
        ("hidden_sizes", "²"),
        ("steps", "0"),
        ("learning_rate", "-1"),
    ],
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=re.escape(name)):
        parse(output_distributions, **{name: value})


def test_bad_settings_before_anything_is_written(tmp_path):
    with pytest.raises(common.UserError, match="learning_rate is nan"):
        output_distributions.run(**parse(output_distributions, learning_rate="nan", output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
