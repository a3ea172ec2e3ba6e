"""Causes: a known mistake of each kind is named, its twin passes, and what is no single mistake is said to be none."""

import jax.numpy as jnp
import numpy as np
import pytest
from scripts import parse

from experiments import benchmark_gradcheck, gradcheck_scale
from experiments.mutants import MASKED, MUTANTS, TRAPS
from fundamentals import gradcheck
from fundamentals.gradcheck.differences import slope
from fundamentals.gradcheck.naming import name_number, undo
from fundamentals.gradcheck.probes import perturb, polish

X = np.random.RandomState(0).normal(size=(5, 3)).astype(np.float32)
# Of the mutants with each cause, one that compiles little.
ROWS = {
    13: "SIGN", 11: "SCALE", 2: "TRANSPOSE", 56: "LAYOUT", 3: "UNREDUCED", 5: "WRONG_AXIS", 6: "SWAPPED",
    33: "ZERO", 9: "MISSING_PATH", 10: "DOUBLED_PATH", 8: "PATH_SIGN", 7: "PATH_SCALE",
    20: "COTANGENT_IGNORED", 25: "COTANGENT_NONLINEAR", 22: "MISSING_FACTOR", 21: "EXTRA_FACTOR",
    27: "WRONG_OPERAND", 52: "OVERWRITE", 75: "SUPPORT", 57: "NONFINITE", 72: "PRECISION",
    29: "OTHER_FORWARD",
}  # fmt: skip


def check(subject, backward, **options):
    args = subject.arguments(0, jnp.dtype("float32"))
    return gradcheck.check_vjp(subject.primal, lambda *a: (subject.primal(*a), a), backward, args, **options)


@pytest.mark.parametrize("row", ROWS, ids=ROWS.get)
def test_each_cause_is_named(row):
    mutant = next(m for m in MUTANTS if m.number == row)
    report = check(mutant.subject, mutant.subject.backward)
    assert report.verdict in ("WRONG", "CONTRACT")
    first = report.diagnoses[0]
    assert (first.cause, first.verified) == (ROWS[row], True), report
    assert first.cause in mutant.causes
    assert first.fix
    assert check(mutant.subject, mutant.twin).verdict == "PASS"


@pytest.mark.parametrize(
    "name", ["relu at 0, slope ½", "sum of batch norm", "straight-through estimator", "iterative solution"]
)
def test_traps_are_not_called_wrong(name):
    trap = next(t for t in TRAPS if t.name == name)
    assert str(check(trap.subject, trap.subject.backward).verdict) in trap.verdicts


def test_masked_mistakes_do_not_pass():
    masked = MASKED[0]
    assert not check(masked.subject, masked.subject.backward).passed


def test_what_is_no_known_mistake_is_unexplained_and_localized():
    def layer(x, w):
        return jnp.sin(x) @ w

    def backward(args, dy):
        x, w = args
        return dy @ w.T * jnp.cos(x) * (1 + jnp.sin(7 * x) ** 2), jnp.sin(x).T @ dy

    w = np.random.RandomState(1).normal(size=(3, 7)).astype(np.float32)
    report = gradcheck.check_vjp(layer, lambda *a: (layer(*a), a), backward, (X, w))
    (diagnosis,) = report.diagnoses
    assert (diagnosis.cause, diagnosis.leaf, diagnosis.verified) == ("UNEXPLAINED", "x", False)
    assert (
        "the gradient for w is right, so the mistake is in what only x goes through: test_diagnosis.py"
        in diagnosis.detail
    )


def test_invariances_are_hints():
    def centred(x):
        return jnp.tanh(x - x.mean(1, keepdims=True))

    def backward(args, dy):
        d = dy * (1 - centred(args[0]) ** 2)
        return (d - 0.37 * d.mean(1, keepdims=True) * args[0],)

    report = gradcheck.check_vjp(centred, lambda x: (centred(x), (x,)), backward, (X,))
    assert "sums to 0 along axis 1" in report.diagnoses[0].detail


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (-1, "−1"),
        (5, "5"),
        (0.2, "1/5"),
        (15, "15"),
        (5**0.5, "√5"),
        (0.8, "4/5"),
        (5 / 3, "5/3"),
        (0.7, "0.7"),
        (-3, "−3"),
    ],
)
def test_numbers_have_names(number, text):
    sizes = {5: ["axis 0 of x"], 3: ["axis 1 of x"]}
    assert name_number(number, sizes, {"0.3": 0.3}).text == text
    assert name_number(1.2345678, sizes, {}) is None
    assert (undo("dx", "1/5"), undo("dx", "√5")) == ("multiply dx by 5", "divide dx by √5")


def test_finite_differences_know_their_error():
    x, dy, u = np.linspace(0.5, 2.5, 5), np.linspace(-1, 2, 5), np.full(5, 1.5)

    def of(function, side=lambda x: []):
        return slope(lambda leaves: ([function(leaves[0])], side(leaves[0])), [x], {0: u}, [dy])

    exact = np.sum(dy * u * np.cos(x))
    smooth = of(np.sin)
    assert abs(smooth.value - exact) <= smooth.bar <= 1e-11
    random = np.random.RandomState(0)
    noisy = of(lambda x: np.sin(x) + 1e-7 * random.normal(size=5))
    assert abs(noisy.value - exact) <= 5 * noisy.bar
    assert 1e-7 <= noisy.bar <= 1e-3
    # A kink nearby, at 2.51: the steps get smaller until they do not cross it.
    kinked = of(lambda x: np.abs(x - 2.51), lambda x: [np.sign(x - 2.51)])
    assert abs(kinked.value + np.sum(dy * u)) <= 1e-8
    assert of(lambda x: np.where(x < 0.5, np.nan, x)).reason == "the edge of the domain is too near"


def test_perturbed_arguments_obey_what_they_obeyed():
    random = np.random.RandomState(0)
    rows = random.dirichlet(np.ones(3), 5)
    assert np.allclose(perturb(rows, random).sum(1), 1, rtol=0, atol=1e-15)
    assert not np.array_equal(perturb(rows, random), rows)
    rounded = rows.astype(np.float32).astype(np.float64)
    assert np.max(np.abs(rounded.sum(1) - 1)) > 1e-9
    assert np.max(np.abs(polish(rounded).sum(1) - 1)) < 1e-15
    labels = np.array([1.0, -1.0, 1.0, -1.0])
    assert np.array_equal(perturb(labels, random), labels)
    symmetric = X.astype(np.float64).T @ X.astype(np.float64)
    changed = perturb((symmetric + symmetric.T) / 2, random)
    assert np.array_equal(changed, changed.T)
    assert np.all(np.sign(perturb(X, random)) == np.sign(X))
    assert np.ptp(perturb(np.ones(4), random)) > 0


def test_benchmark_scores_what_it_runs(tmp_path, capsys):
    flags = {"rows": "13,25", "peers": "false", "output_dir": tmp_path / "scores"}
    verdicts = benchmark_gradcheck.run(**parse(benchmark_gradcheck, **flags))
    assert [v.measured for v in verdicts] == ["2/2", "2/2 = 100.0%", "0 alarms in 2"]
    assert all(v.holds for v in verdicts)
    assert "mean squared error" in capsys.readouterr().out
    assert (tmp_path / "scores" / "results.json").exists()


def test_one_wrong_entry_of_many_is_found(tmp_path):
    flags = {"width": "23", "repeats": "1", "output_dir": tmp_path / "scale"}
    found = gradcheck_scale.run(**parse(gradcheck_scale, **flags))[1]  # the first is a time
    assert found.holds, found
