"""The benchmark of support vector machines: what it computes in NumPy, what makes its verdicts fail, no peer."""

import contextlib
import io
import json
import math
import subprocess
import types

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import benchmark_svm as benchmark
from experiments import benchmark_svm_cases as cases
from experiments import benchmark_svm_figures, common, svm_problems
from experiments import benchmark_svm_verdicts as judging
from experiments.svm_problems import Problem

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = {"problems": "overlapping,imbalanced_linear", "points": 40, "grid_points": 0, "repeats": 2, "seconds": 0}
TARGETS = {"tolerance": 1e-3, "target_time": 2.0, "target_memory": 1.0}
LINEAR = {"kernel": "linear"}


def test_run_without_a_peer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "installed", lambda: False)
    verdicts = benchmark.run(**parse(benchmark, output_dir=tmp_path / "out", **SMALL))
    assert [v.holds for v in verdicts] == [True] * 3
    assert not any("libsvm" in v.claim for v in verdicts)
    assert "not compared with libsvm, nor judged beside it: scikit-learn is not installed" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["complete"]
    assert not results["peers"]
    for row in results["rows"]:
        assert row["converged"]
        assert row["relative"] is row["ratio"] is row["tie"] is None
        assert list(row["seconds"]) == ["fundamentals"]
        assert len(row["seconds"]["fundamentals"]) == 2
    with pytest.raises(common.UserError, match="holds an earlier run"):
        benchmark.run(**parse(benchmark, output_dir=tmp_path / "out", **SMALL))


def test_run_with_libsvm(tmp_path, capsys):
    pytest.importorskip("sklearn")
    verdicts = benchmark.run(**parse(benchmark, output_dir=tmp_path, **SMALL))
    assert [v.holds for v in verdicts] == [True] * 5
    assert verdicts[3].claim == "dual objective, relative to libsvm's: the largest difference of 2 fits"
    printed = capsys.readouterr().out
    assert "not compared" not in printed
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["ratio"] > 0 and row["relative"] < 1e-5 for row in rows)
    assert [row["points"] for row in rows] == [40, 40]


def test_a_grid_and_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    peers = benchmark.installed()
    ran = []

    def here(command, **options):
        ran.append(command[2])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(command[2])
        return types.SimpleNamespace(returncode=0, stdout="noise\n" + printed.getvalue(), stderr="")

    monkeypatch.setattr(subprocess, "run", here)
    given = {"problems": "", "grid_points": 30, "large_points": 30, "repeats": 5, "seconds": 0, "target_memory": 1000}
    given |= {"grid_cs": "1,10", "grid_gammas": "0.1,0.2"}
    verdicts = benchmark.run(**parse(benchmark, output_dir=tmp_path, **given))
    claims = [v.claim.split(",")[0] for v in verdicts]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(ran) == len(results["large"]) == 1 + peers
    assert all(fit["peak_bytes"] >= fit["before_bytes"] > 2**20 for fit in results["large"])
    assert results["grid"]["fits"] == 4
    assert results["grid"]["converged"]
    if peers:
        assert claims == ["grid of 4 fits", "… time of one vmapped call / that of the loop",
                          "peak memory of a fit of 30 points", "… dual objective"]  # fmt: skip
        assert all(v.holds for v in verdicts if "time" not in v.claim)
        ours, theirs = results["large"]
        assert ours["objective"] == pytest.approx(theirs["objective"], rel=1e-5)
    else:
        assert claims == ["peak memory of a fit of 30 points"]


def test_memory_is_measured_in_bytes():
    array = np.ones(2**27 // 8)
    assert array.nbytes < benchmark.peak_bytes() < 2**38


def test_a_process_that_fails_says_why(monkeypatch):
    broken = types.SimpleNamespace(returncode=1, stdout="", stderr="out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: broken)
    with pytest.raises(RuntimeError, match="fundamentals with 50 points: out of memory"):
        benchmark.in_a_process("fundamentals", 50, 1e-3, 0)


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        (LINEAR, lambda p, q: p @ q),
        ({"kernel": "poly", "gamma": 0.3, "coef0": 1.5, "degree": 3}, lambda p, q: (0.3 * p @ q + 1.5) ** 3),
        ({"kernel": "rbf", "gamma": 0.3}, lambda p, q: math.exp(-0.3 * ((p - q) ** 2).sum())),
    ],
)
def test_gram_and_objective(options, formula, monkeypatch):
    random = np.random.RandomState(0)
    x, z, y = random.normal(size=(7, 3)), random.normal(size=(5, 3)), np.array([1, -1, 1, 1, -1, 1, -1])
    expected = [[formula(p, q) for q in z] for p in x]
    np.testing.assert_allclose(cases.gram(x, z, options), expected, rtol=1e-12)
    alpha = np.array([0.5, 0.0, 1.0, 0.25, 0.75, 0.0, 1.0])
    whole = sum(alpha[i] * alpha[j] * y[i] * y[j] * formula(x[i], x[j]) for i in range(len(y)) for j in range(len(y)))
    monkeypatch.setattr(cases, "BLOCK", 2)
    found = cases.dual_objective(alpha, Problem(x, y), options)
    assert found == pytest.approx(alpha.sum() - whole / 2, rel=1e-12)


@pytest.mark.parametrize("name", ["digits_linear", "moons", "rings"])
def test_the_kernel_here_is_that_in_numpy(name, x64):
    case = cases.CASES[name]
    x = case.draw(np.random.RandomState(0), 6).x
    kernel, options = cases.bound_kernel(case, x)
    np.testing.assert_allclose(kernel(jnp.asarray(x), jnp.asarray(x)), cases.gram(x, x, options), rtol=1e-12)


def test_ties():
    x = np.array([[1.0], [-1.0], [1.1]])
    problem = Problem(x, np.array([1, -1, 1]))
    fits = [benchmark.Fit(np.array(a), 0.5, 2, bias) for a, bias in (([0.5, 0.5, 0.0], 0.0), ([0.0, 0.5, 0.5], 0.02))]
    # w = 1 and 1.05: the first point has y f = 1 and 1.07, the third 1.1 and 1.175.
    assert benchmark.farthest_tie(fits, problem, LINEAR) == (2, pytest.approx(0.175))
    assert benchmark.farthest_tie([fits[0], fits[0]], problem, LINEAR) == (0, 0.0)


def row(**more):
    seconds = {"fundamentals": [1.0] * 5, "libsvm": [1.0] * 5}
    given = {"name": "rings", "kernel": "rbf", "points": 1800, "dimensions": 2, "c": 1.0, "timed": True,
             "seconds": seconds, "first": 1.0, "objective": {"fundamentals": 10.0, "libsvm": 10.00005},
             "support": {"fundamentals": 9, "libsvm": 9}, "differing": 1, "tie": 1e-3, "infeasible": 0.0,
             "reported": 0.0, "converged": True, "iterations": 10}  # fmt: skip
    return judging.Row(**given | more)


NAMES = ("converged", "feasible", "reported", "objective", "ties", "time")


@pytest.mark.parametrize(
    ("more", "failing"),
    [
        ({}, None),
        ({"converged": False}, "converged"),
        ({"infeasible": 1e-9}, "feasible"),
        ({"reported": math.nan}, "reported"),
        ({"objective": {"fundamentals": 10.0, "libsvm": 10.001}}, "objective"),
        ({"objective": {"fundamentals": math.nan, "libsvm": 10.0}}, "objective"),
        ({"tie": 0.02}, "ties"),
        ({"tie": math.nan}, "ties"),
        ({"seconds": {"fundamentals": [3.0, 1.0, 3.0, 3.0, 3.0], "libsvm": [1.0] * 5}}, "time"),
    ],
)
def test_judgement(more, failing):
    verdicts = judging.judge([row(), row(**more)], None, [], **TARGETS)
    held = dict(zip((*NAMES, "time again"), [v.holds for v in verdicts], strict=True))
    failing = "time again" if failing == "time" else failing
    assert [name for name, holds in held.items() if not holds] == ([failing] if failing else [])


def test_times_are_judged_where_they_should_be():
    few = row(seconds={"fundamentals": [9.0] * 4, "libsvm": [1.0] * 4})
    other = row(timed=False, seconds={"fundamentals": [9.0] * 5, "libsvm": [1.0] * 5})
    for each in (few, other):
        assert len(judging.judge([each], None, [], **TARGETS)) == 5
    assert len(judging.judge([row()], None, [], **TARGETS | {"target_time": 0.0})) == 5


def test_judgement_of_grid_and_memory():
    steady = {"fundamentals": [0.9] * 5, "libsvm": [1.0] * 5}
    grid = judging.Grid(1000, 25, steady, 1.0, 1e-6, True)
    large = [
        judging.Large(solver, 20_000, 9.0, 9.0, 2**30, 2**28, 5.0, 9, True) for solver in ("fundamentals", "libsvm")
    ]

    def judged(grid, large):
        return [v.holds for v in judging.judge([], grid, large, **TARGETS)]

    assert judged(grid, large) == [True] * 4
    assert judged(grid._replace(relative=math.nan), []) == [False, True]
    assert judged(grid._replace(seconds={"fundamentals": [1.0] * 5, "libsvm": [1.0] * 5}), []) == [True, False]
    assert judged(grid._replace(converged=False), []) == [True, True, False]
    assert judged(None, [large[0]._replace(peak_bytes=2**30 + 1), large[1]]) == [False, True]
    assert judged(None, [large[0]._replace(converged=False)]) == [False]
    assert judged(None, [large[0], large[1]._replace(objective=5.1)]) == [True, False]


def test_planned():
    found = cases.planned(["digits", "rings", "moons", "digits_linear"], [500, 1800, 4000], 3000)
    digits = [("digits", 500), ("digits", 1797)]
    assert found == [
        *digits,
        ("rings", 500),
        ("rings", 1800),
        ("rings", 4000),
        ("moons", 3000),
        ("digits_linear", 1797),
    ]


def test_problems_cover_what_they_should():
    assert {case.kernel for case in cases.CASES.values()} == {"linear", "poly", "rbf"}
    for case in cases.CASES.values():
        problem = case.draw(np.random.RandomState(0), 40)
        assert problem.x.shape[0] == len(problem.y) == 40
        assert set(problem.y) == {-1, 1}
    assert (cases.CASES["imbalanced"].draw(np.random.RandomState(0), 40).y > 0).sum() == 2
    assert len(np.unique(cases.CASES["duplicated"].draw(np.random.RandomState(0), 40).x, axis=0)) == 20
    x, y = svm_problems.gaussians(np.random.RandomState(0), 1000, distance=8.0)
    assert (x[y > 0].sum(axis=1).min() > x[y < 0].sum(axis=1).max()).all()  # separable


@pytest.mark.parametrize("rows", [[row()], [row(), row(objective={"fundamentals": 1.0}, support={"fundamentals": 9},
                                                       seconds={"fundamentals": [1.0]})]])  # fmt: skip
def test_figure(rows):
    figure = benchmark_svm_figures.draw(rows, 1e-5)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["rings, RBF, 1,800"] * len(rows)
    alone = benchmark_svm_figures.draw(rows[1:], 1e-5) if len(rows) > 1 else figure
    assert len(alone.axes) == (1 if len(rows) > 1 else 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"problems": "", "grid_points": 0}, "nothing to do; expected --problems, --grid_points or --large_points"),
        ({"grid_points": 3}, "--grid_points=3; expected 4 or more, or 0"),
        ({"large_points": 2}, "--large_points=2; expected 4 or more, or 0"),
        ({"sizes": "2,50"}, "--sizes=2; expected 4 or more"),
    ],
)
def test_bad_settings_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(common.UserError, match=message):
        benchmark.run(**parse(benchmark, output_dir=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("problems", "moons,suns"), ("sizes", "4000,1800"), ("sizes", ""), ("points", 3), ("tolerance", 0),
     ("tolerance", "nan"), ("grid_cs", "1,x"), ("grid_gammas", "0.1,0"), ("grid_cs", ""), ("repeats", 0),
     ("seconds", -1), ("target_time", -1), ("seed", -1)],
)  # fmt: skip
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(benchmark, **{name: value})
