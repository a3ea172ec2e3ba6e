"""Primal and dual: a small run in which the verdicts hold, closed forms, measurements that make them fail, flags."""

import itertools
import json

import jax
import numpy as np
import pytest
from absl import flags
from scripts import parse

from experiments import common, svm_primal_dual, svm_primal_dual_verdicts
from experiments import svm_primal_dual_lagrangian as lagrangian
from experiments import svm_primal_dual_solutions as solutions
from experiments.svm_problems import Problem
from fundamentals import svm

SMALL = {
    "points": 24, "moon_points": 24, "fresh_points": 20, "gamma": 0.5, "records": 20, "stochastic_steps": 200,
    "draws": 50, "steps": 400,
}  # fmt: skip
JUDGED = {"relative_gap": 1e-6, "tolerance": 1e-9}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("finished"), []
    judge = svm_primal_dual_verdicts.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_figure", lambda figure, path: path.write_bytes(b""))
        patch.setattr(svm_primal_dual_verdicts, "judge", lambda m, **given: found.append(m) or judge(m, **given))
        verdicts = svm_primal_dual.run(**parse(svm_primal_dual, **SMALL, output_dir=folder))
    return folder, verdicts, json.loads((folder / "results.json").read_text()), found[0]


def test_verdicts_hold(finished):
    folder, verdicts, results, measured = finished
    assert [v.claim for v in verdicts if not v.holds] == []
    assert [v.notes for v in verdicts] == [
        "V7, claim 15", "V7, claim 15", "claim 15", "claim 15", "V7", "V2, claim 15", "V4", "V2", "V2", "V2", "V2, V4",
        "V4, claim 15", "V4", "V4, claim 15", "V4", "V4", "V4, claim 15", "V5", "V5, V7", "V7", "V7", "V7",
        "V6", "V6", "V6", "V7", "V7", "V7", "V7", "V7",
    ]  # fmt: skip
    assert results["complete"]
    assert all(v["holds"] is True for v in results["verdicts"])
    assert len(results["measured"]["groups"][0]["alpha"]) == 24
    assert [sum(map(np.sum, g.members)) for g in measured.groups] == [24, 24]
    assert (folder / "svm_primal_dual.png").exists()


def test_earlier_results_are_not_overwritten_unless_told(finished):
    with pytest.raises(common.UserError, match="holds an earlier run"):
        svm_primal_dual.run(**parse(svm_primal_dual, **SMALL, output_dir=finished[0]))


def test_two_points_by_the_closed_form(x64):
    # The widest margin between two points: w = 2 (x₊ − x₋) / ‖x₊ − x₋‖², f = 0 half-way, α = 2 / ‖x₊ − x₋‖² of both.
    x = np.array([[1.0, 3.0], [-0.5, 1.0]])
    d = x[0] - x[1]
    points = Problem(x, np.array([1.0, -1.0]))
    case = solutions.Case("two", points, points, 10.0, svm.linear_kernel)
    machine = solutions.solve(case, **JUDGED)
    np.testing.assert_allclose(machine.alpha, 2 / (d @ d) * np.ones(2), rtol=1e-12)
    np.testing.assert_allclose(svm.weights(machine), 2 * d / (d @ d), rtol=1e-12)
    assert float(machine.bias) == pytest.approx(-2 * d @ x.mean(axis=0) / (d @ d))
    groups = solutions.groups(case, machine, tolerance=1e-9)
    assert [m.sum() for m in groups.members] == [0, 2, 0]
    np.testing.assert_allclose(groups.margins, 1)


def test_projection_against_all_choices_of_bounds(x64):
    # Its conditions of optimality: each α at 0, at c, or free; of the 3⁵ choices, the nearest that is feasible.
    random = np.random.RandomState(0)
    y, c = np.array([1.0, -1.0, 1.0, 1.0, -1.0]), 0.7
    project = jax.jit(lagrangian.project)
    for alpha in 2 * random.normal(size=(4, 5)):
        best, nearest = np.inf, None
        for choice in itertools.product((0.0, c, None), repeat=5):
            free = np.array([value is None for value in choice])
            candidate = np.array([0.0 if value is None else value for value in choice])
            if free.any():
                t = (alpha[free] @ y[free] + candidate @ y) / free.sum()
                candidate[free] = alpha[free] - t * y[free]
            feasible = abs(candidate @ y) < 1e-9 and candidate.min() >= -1e-9 and candidate.max() <= c + 1e-9
            if feasible and np.sum((candidate - alpha) ** 2) < best:
                best, nearest = np.sum((candidate - alpha) ** 2), candidate
        np.testing.assert_allclose(project(alpha, y, c), nearest, atol=1e-12)


def test_balanced_and_separated(x64):
    y = np.array([1.0, -1.0, 1.0, -1.0])
    alpha = jax.jit(lagrangian.balanced)(np.array([[1.0, 2.0, 3.0, 4.0]]), y)
    np.testing.assert_allclose(alpha, [[1, 4 / 3, 3, 8 / 3]])
    x = np.random.RandomState(0).normal(size=(4, 2))
    moved = lagrangian.separated(Problem(x, y), 0.5)
    assert np.min(y * (moved.x @ [1, 1]) / np.sqrt(2)) >= 0.5
    np.testing.assert_allclose(moved.x @ [1, -1], x @ [1, -1])  # along the clouds' line


def test_kink_by_hand():
    expected = [[2 - 1 - 2**-19, -4, -2], [2, 0, 0], [2 + 2**-19, 0, 0]]  # w − C y x where y f < 1, C = 2, x = (½, 2)
    with jax.enable_x64(True):
        points = Problem(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([1.0, -1.0]))
        case = solutions.Case("two", points, points, 10.0, svm.linear_kernel)
        found = lagrangian.kink(case, solutions.solve(case, **JUDGED))
    np.testing.assert_array_equal(found.expected, expected)
    np.testing.assert_array_equal(found.by_hand, expected)
    assert (found.at_optimum, found.mended) == (1.0, 0.0)  # both points are on the margin: w alone


def failing(measured):
    return [i for i, v in enumerate(svm_primal_dual_verdicts.judge(measured, **JUDGED)) if not v.holds]


def change_closing(measured, **changes):
    return measured._replace(closings=[measured.closings[0], measured.closings[1]._replace(**changes)])


def changed(name, **changes):
    return lambda m: m._replace(**{name: getattr(m, name)._replace(**changes)})


def changed_group(**changes):
    return lambda m: m._replace(groups=[m.groups[0]._replace(**changes), m.groups[1]])


def scaled_margin(measured):
    margins = measured.groups[0].margins.copy()
    margins[np.argmax(measured.groups[0].members[0])] = 0.9  # α = 0 inside of the margin
    return changed_group(margins=margins)(measured)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda m: m, []),
        (lambda m: change_closing(m, gap=2e-6), [0]),
        (lambda m: change_closing(m, gap=float("nan")), [0, 2]),
        (lambda m: change_closing(m, dual=m.closings[1].dual[::-1]), [1]),
        (lambda m: change_closing(m, primal=0.99 * m.closings[1].primal), [1]),
        (lambda m: change_closing(m, products=-m.closings[1].products), [2]),
        (lambda m: change_closing(m, difference=1e-9), [3]),
        (lambda m: change_closing(m, bounds=(-1e-3, 0.0)), [4]),
        (lambda m: change_closing(m, balance=1e-3), [4]),
        (lambda m: changed("primal", objective=1.001 * m.primal.objective)(m), [5]),
        (lambda m: changed("primal", w=1.1 * m.primal.w)(m), [6]),
        (lambda m: changed("primal", steps=m.primal.steps[::-1])(m), [7]),
        (lambda m: changed("kink", by_hand=m.kink.by_hand[[0, 0, 2]])(m), [8, 9]),
        (lambda m: changed("kink", autodiff=m.kink.autodiff[::-1])(m), [9]),
        (changed("kink", mended=1e-3), [10]),
        (scaled_margin, [11]),
        (changed_group(violation=1e-3), [11]),
        (changed_group(left_out=1.0), [12]),
        (changed_group(left_out_bound=float("nan")), [12]),
        (lambda m: changed("left_out", changes=1 + m.left_out.changes)(m), [15]),
        (lambda m: changed("left_out", changes=0 * m.left_out.changes)(m), [15]),
        (lambda m: m._replace(identities=[m.identities[0]._replace(difference=1e-9), m.identities[1]]), [16]),
        (changed("stationary", gradients=(1.0, 0.0, 0.0)), [17]),
        (changed("stationary", gradients=(0.0, 1e-3, 0.0)), [17]),
        (changed("stationary", saddle=(-0.1, -0.1)), [18]),
        (changed("stationary", saddle=(0.1, 0.1)), [18]),
        (changed("stationary", minimum=1e-6), [19]),
        (changed("stationary", excess=1e-6), [19]),
        (changed("stationary", weak=0.1), [20]),
        (changed("stationary", unbalanced=(1.0, 1.001)), [21]),
        (changed("product", both_wrong=0), [22]),
        (changed("product", margins=(0.5, 3.0)), [22]),
        (changed("product", each_and_product=1), [23]),
        (changed("product", mirrored=(1.0, 1.0)), [24]),
        (changed("recipe", slopes=(0.5, 0.4, 0.5)), [25]),
        (lambda m: changed("recipe", sums=1.001 * m.recipe.sums)(m), [26]),
        (lambda m: changed("recipe", again=m.recipe.ascent)(m), [27]),
        (changed("recipe", between=5), [28]),
        (lambda m: changed("recipe", corners=0 * m.recipe.corners)(m), [28]),
        (lambda m: changed("recipe", distances=(2 * m.recipe.bounds[0], 0.0))(m), [29]),
        (changed("recipe", distances=(float("nan"), 0.0)), [29]),
    ],
)
def test_what_is_wrong_is_noticed(finished, change, fails):
    assert failing(change(finished[3])) == fails


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch, undrawn):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(solutions, "primal", interrupt)
    with pytest.raises(KeyboardInterrupt):
        svm_primal_dual.run(**parse(svm_primal_dual, **SMALL, output_dir=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["complete"]
    assert (len(results["measured"]["closings"]), len(results["verdicts"])) == (2, 5)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"points": 25}, "expected an even number"), ({"c": 0.0}, "expected a finite number > 0"),
        ({"relative_gap": "nan"}, "expected a finite number"), ({"gamma": -1.0}, "expected a finite number > 0"),
        ({"overshoot": 1.0}, "expected a finite number > 1"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path, flag, message):
    with pytest.raises(common.UserError, match=message):
        svm_primal_dual.run(**parse(svm_primal_dual, **SMALL | flag, output_dir=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("name", "value"), [("points", 2), ("steps", 10), ("draws", 0), ("seed", -1)])
def test_bad_flags(name, value):
    with pytest.raises(flags.IllegalFlagValueError, match=name):
        parse(svm_primal_dual, **{name: value})
