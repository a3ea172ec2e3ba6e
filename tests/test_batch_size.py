"""Sizes of minibatches: a small run, wrong methods that must be noticed, the formulas, the flags."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from jax.flatten_util import ravel_pytree
from oracles import fill
from scripts import parse

from experiments import batch_size, batch_size_verdicts, common, minibatches
from experiments.batch_size_verdicts import Cells, Descent, Measured, Noise, Sums
from fundamentals.models import mlp

SMALL = {
    "examples": 96,
    "batch_sizes": "1,96",
    "learning_rates": "0.03125,0.25,0.5,2,8",
    "hidden_sizes": "6",
    "target": 0.3,
    "epochs": 150,
    "seeds": 1,
    "draws": 200,
    "steps": 40,
    "repeats": 1,
}


def problem(sizes=(3, 12)):
    return batch_size._problem(sizes[-1], list(sizes), ["0.1", "0.5"], ["6"], 1, 0)  # the network of `test_run`


@pytest.mark.usefixtures("undrawn")
def test_run(tmp_path):
    verdicts = batch_size.run(**parse(batch_size, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["complete"]
    assert results["verdicts"] == [v._asdict() for v in verdicts]
    assert [(v.claim, v.holds) for v in verdicts if not v.holds] == []
    rows = [v.notes for v in verdicts]
    noise, rates = ["O4, claim 9"] * 3, ["O4, claim 9", "O5, claim 9"]
    assert rows[:5] == [*noise, "O2", "O2"]
    assert rows[5:8] == ["O4, O5", "O5", "O4, claim 9"]
    assert rows[8] == "O4, claim 9"
    assert rows[-2:] == rates
    assert [(cells["n"], cells["parts"]) for cells in results["cells"]] == [(1, 4), (96, 1)]
    assert set(results["seconds_of_an_epoch"]) == {"1", "96"}
    assert (tmp_path / "batch_size.png").exists()


def test_noise_with_gradients_that_are_not_the_mean_is_noticed(monkeypatch):
    with jax.enable_x64(True):
        right = batch_size.measure_noise(problem(), 100)
        assert [v.holds for v in batch_size_verdicts._judge_noise(right)] == [True] * 3
        # As if n had no effect: the noise of the first example of each minibatch.
        monkeypatch.setattr(minibatches, "taken", lambda e, i: minibatches.Examples(e.x[i[:1]], e.labels[i[:1]]))
        minibatches.squared_deviations.clear_cache()
        wrong = batch_size.measure_noise(problem(), 100)
    minibatches.squared_deviations.clear_cache()
    assert [v.holds for v in batch_size_verdicts._judge_noise(wrong)] == [False] * 3


def test_a_sum_that_is_a_mean_is_noticed(monkeypatch):
    with jax.enable_x64(True):
        right = batch_size.compare_sum_and_mean(problem((48, 96)))  # the examples of `test_run`
        monkeypatch.setattr(minibatches, "summed_gradient", minibatches.mean_gradient)
        wrong = batch_size.compare_sum_and_mean(problem((48, 96)))
    assert [v.holds for v in batch_size_verdicts._judge_sums(right)] == [True, True]
    assert right.first_step == pytest.approx(3, rel=1e-12)
    assert [v.holds for v in batch_size_verdicts._judge_sums(wrong)] == [False, False]


def test_noise_level_and_gradients_of_every_draw(x64):
    params = fill(lambda key: mlp.init(key, (64, 4, 10), dtype=jnp.float64))
    examples = problem((3, 6)).examples(jnp.float64)
    variance, full = minibatches.noise_level(params, examples)
    gradient = jax.jit(jax.grad(minibatches.loss))

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    singles = np.array([flat(gradient(params, examples.x[i : i + 1], examples.labels[i : i + 1])) for i in range(6)])
    np.testing.assert_allclose(flat(full), singles.mean(0), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(variance, ((singles - singles.mean(0)) ** 2).sum(1).mean(), rtol=1e-12)
    # All 6 · 5 ordered pairs without replacement, all 36 with: the means are the predictions, exactly.
    for replace in (True, False):
        pairs = [(i, j) for i in range(6) for j in range(6) if replace or i != j]
        exact = np.mean([((singles[list(pair)].mean(0) - singles.mean(0)) ** 2).sum() for pair in pairs])
        predicted = Noise(2, replace, 0.0, 0.0, float(variance), 6).predicted
        assert predicted == pytest.approx(exact, rel=1e-12)
    batches = minibatches.drawn(jax.random.key(1), draws=50, n=4, total=6, replace=False)
    assert all(len(set(batch)) == 4 for batch in batches.tolist())


def test_sharpness_is_the_largest_eigenvalue_of_the_hessian(x64):
    params = fill(lambda key: mlp.init(key, (64, 2, 10), dtype=jnp.float64), seed=1)  # of which none is as negative
    examples = problem((3, 6)).examples(jnp.float64)
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda leaf: minibatches.loss(unravel(leaf), *examples)))(flat)
    some = jax.tree.map(lambda leaf: leaf[None], params)
    _, found = minibatches.sharpness(some, jax.random.key(1), examples, count=300)
    assert float(found[0]) == pytest.approx(np.linalg.eigvalsh(np.asarray(hessian))[-1], rel=1e-6)


def test_first_below_and_stuck():
    losses = np.array([[3.0, 3.0, np.nan, 2.0], [2.0, 2.0, np.nan, 3.0], [1.0, 2.5, np.nan, 2.5], [4.0, 1.9, 1.0, 2.2]])
    np.testing.assert_array_equal(minibatches.first_below(losses, 1.0, 2), [1.5, np.inf, 2.0, np.inf])
    assert batch_size.stuck(losses, 2).tolist() == [False, False, True, True]
    assert batch_size.stuck(losses[:3], 2).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        (lambda one: one._replace(measured=one.predicted), [True, True, True]),
        (lambda one: one._replace(measured=one.predicted + 5 * one.error), [True, False, False]),
        (lambda one: one._replace(measured=one.variance / one.n), [True, True, False]),  # N forgotten
        (lambda one: one._replace(measured=one.variance / one.n**0.5), [False, False, False]),
    ],
)
def test_verdicts_on_noise(change, holds):
    ones = [Noise(n, replace, 0.0, 8 / n * 0.01, 8.0, 16) for n in (1, 4, 16) for replace in (True, False)]
    verdicts = batch_size_verdicts._judge_noise([change(one) for one in ones])
    assert [v.holds for v in verdicts] == holds


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True]),
        ({"apart": 2e-12}, [False, True]),
        ({"apart": math.nan}, [False, True]),
        ({"first_step": 1.0}, [True, False]),
        ({"larger_apart": 1e-13}, [True, False]),
    ],
)
def test_verdicts_on_sums(changes, holds):
    sums = Sums(24, 72, 50, 1e-15, 0.5, 3.0)._replace(**changes)
    assert [v.holds for v in batch_size_verdicts._judge_sums(sums)] == holds


def descents(stable=(3.0, 2.0, 1.0), beyond=(3.0, 4.0, 1.0), few=(3.0, 1.0, 2.0)):
    losses = np.array([[stable, (3.0, 2.0, 1.0), beyond]])
    return Descent(np.array([0.1, 0.25, 1.0]), np.array([5.0]), losses, np.full((1, 3, 2), 5.0), 4, np.array([few]))


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True, True]),
        ({"stable": (3.0, 2.0, 2.1)}, [False, True, True]),
        ({"stable": (3.0, 2.0, np.nan)}, [False, True, True]),
        ({"beyond": (3.0, 2.0, 1.0)}, [True, False, True]),
        ({"few": (3.0, 2.0, 1.0)}, [True, True, False]),
    ],
)
def test_verdicts_on_steps(changes, holds):
    assert descents().stable_eta == 1
    assert [v.holds for v in batch_size_verdicts._judge_descent(descents(**changes))] == holds


def trained(changes=(), optimizer="sgd", sharpness=1.0):
    """Epochs n / (η N) times 32, and the best at η = n/16 up to 1; N = 64."""
    etas, sizes = 2.0 ** np.arange(-8, 3), [1, 4, 16, 64]
    cells = []
    for n in sizes:
        best = min(1.0, n / 16)
        epochs = np.where(etas <= best, 32 / etas * n / 64, np.inf)
        epochs = np.array([dict(changes).get((n, float(eta)), value) for eta, value in zip(etas, epochs, strict=True)])
        cells.append(Cells(n, epochs[None], np.isinf(epochs)[None], 4, np.array([sharpness])))
    return Measured(sizes, etas, 0.1, 1000, optimizer, cells=cells)


@pytest.mark.parametrize(
    ("changes", "sharpness", "holds"),
    [
        ({}, 1.0, [True, True, True, True]),
        ({(1, 0.0625): 40.0, (1, 0.03125): 50.0, (1, 0.015625): 60.0}, 1.0, [False, True, True, True]),
        ({(4, 1 / 64): 200.0}, 1.0, [True, False, True, True]),
        ({(4, 2.0): 1.0}, 1.0, [True, True, False, True]),  # n = 4 has its best above the others'
        ({(64, 4.0): 16.0}, 0.1, [True, True, False, True]),  # at the edge of the grid
        ({}, 2.82, [True, True, True, True]),
        ({}, 2.84, [True, True, True, False]),
        ({}, np.nan, [True, True, True, False]),
    ],
)
def test_verdicts_on_training(changes, sharpness, holds):
    verdicts = batch_size_verdicts.judge(trained(changes, sharpness=sharpness))
    assert [v.holds for v in verdicts] == holds
    assert [v.notes for v in verdicts] == ["O4, claim 9", "O4", "O4, claim 9", "O5, claim 9"]


def test_growth_and_what_is_judged():
    power, last = batch_size_verdicts.growth(trained())
    assert power == pytest.approx(1.0)
    assert last == 16
    assert len(batch_size_verdicts.judge(trained(optimizer="adam"))) == 1
    nowhere = {(16, eta): math.inf for eta in 2.0 ** np.arange(-8, 3)}
    assert [v.holds for v in batch_size_verdicts.judge(trained(nowhere))] == [True, False]
    interrupted = trained()._replace(cells=trained().cells[:2])
    assert batch_size_verdicts.judge(interrupted) == []


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    def reach(*args, **kwargs):
        raise KeyboardInterrupt

    noise = [Noise(n, replace, 2 / n, 0.1, 2.0, 96) for n in (1, 2) for replace in (True, False)]
    monkeypatch.setattr(batch_size, "measure_noise", lambda *args: noise)
    monkeypatch.setattr(batch_size, "compare_sum_and_mean", lambda *args: Sums(24, 72, 50, 1e-15, 0.5, 3.0))
    monkeypatch.setattr(batch_size, "follow", lambda *args: descents())
    monkeypatch.setattr(batch_size, "reach", reach)
    with pytest.raises(KeyboardInterrupt):
        batch_size.run(**parse(batch_size, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert results["cells"] == []
    assert len(results["verdicts"]) == 8
    assert (tmp_path / "batch_size.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(common.UserError, match="holds an earlier run"):
        batch_size.run(**parse(batch_size, **SMALL, output_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_sizes", "4,1"),
        ("batch_sizes", "a"),
        ("learning_rates", "0.5,0.1"),
        ("learning_rates", "0,1"),
        ("learning_rates", "nan"),
        ("hidden_sizes", "0"),
        ("optimizer", "newton"),
        ("draws", 1),
        ("epochs", 0),
    ],
)
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(batch_size, **{name: value})


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"examples": 1259, "batch_sizes": "1,1259"}, "1258 training digits"),
        ({"batch_sizes": "2,12"}, "divisors of --examples=96"),
        ({"batch_sizes": "5,96"}, "divisors of --examples=96"),
        ({"batch_sizes": "96"}, "at least two"),
    ],
)
def test_bad_settings_before_anything_is_written(given, match, tmp_path):
    with pytest.raises(common.UserError, match=match):
        batch_size.run(**parse(batch_size, **SMALL | given, output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
