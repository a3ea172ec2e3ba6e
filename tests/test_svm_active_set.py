"""Which points take the steps of the dual, how they end, what is compiled: against all points at once, and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from svm_cases import RBF, blobs, gram

from fundamentals import svm
from fundamentals.svm import active_set, dual, smo

HARD = {
    "sorted": np.sort(np.resize([1, -1], 300)),
    "sorted the other way": -np.sort(np.resize([1, -1], 300)),
    "rare": np.where(np.arange(300) < 3, 1, -1),
    "rare, at the end": np.where(np.arange(300) < 297, 1, -1),
    "few different points": np.resize([1, -1, -1], 300),
}


@pytest.mark.usefixtures("x64")
def test_an_active_set_that_is_not_all_points_finds_the_same():
    x, y = blobs(9, 203)
    whole = svm.fit_dual(x, y, kernel=RBF, c=3.0, relative_gap=1e-9)
    assert active_set.choose_sizes("fit_dual", 203, jnp.float64, 60_000) == (61, 18)  # neither divides 203
    parts = svm.fit_dual(x, y, kernel=RBF, c=3.0, relative_gap=1e-9, memory_bytes=60_000)
    assert parts.converged
    np.testing.assert_allclose(parts.dual, whole.dual, rtol=1e-9)
    np.testing.assert_allclose(parts.alpha, whole.alpha, atol=1e-4)
    np.testing.assert_allclose(svm.duality_gap(parts, x, y, c=3.0), parts.gap, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", HARD)
def test_an_active_set_has_points_to_rise_and_points_to_fall(name):
    # At the start all points of a class are equally urgent, and an active set of one class could do nothing.
    y = HARD[name]
    x = np.random.default_rng(18).normal(size=(300, 2)) + 0.5 * y[:, None]
    x = x[np.arange(300) % 12] if name == "few different points" else x
    fits = [svm.fit_dual(x, y, kernel=RBF, c=2.0, tolerance=1e-6, memory_bytes=b) for b in (2**28, 2 * 8 * 16 * 300)]
    assert all(machine.converged for machine in fits)
    np.testing.assert_allclose(fits[1].dual, fits[0].dual, rtol=1e-8)


def test_the_last_round_is_judged_by_errors_computed_afresh():
    # Rounds that claim to be done, by errors that rounding has spoilt.
    x, y = blobs(19, 9)
    problem = dual.prepare("fit_dual", x.astype(np.float32), y, RBF, 1.0, 1e-3, None, 3)

    def round_(state):
        return jnp.zeros(9), jnp.zeros(9), jnp.int32(1)

    solution = active_set._rounds(problem, round_, lambda beta: -problem.y, jnp.zeros(9), -problem.y, jnp.int32(0))
    assert (solution.steps, solution.quality.violation, solution.quality.enough) == (3, 2, False)


@pytest.mark.usefixtures("x64")
def test_after_many_steps_half_of_the_points_take_the_others(monkeypatch):
    x, y = blobs(9, 101)
    few = svm.fit_dual(x, y, kernel=RBF, c=300.0, tolerance=1e-6)
    assert few.iterations > 202  # as many are taken on all points
    sizes, choose = [], active_set._most_urgent
    monkeypatch.setattr(active_set, "FEW", 100)
    monkeypatch.setattr(active_set, "_most_urgent", lambda *args: sizes.append(args[2]) or choose(*args))
    active_set.solve.clear_cache()
    many = svm.fit_dual(x, y, kernel=RBF, c=300.0, tolerance=1e-6)
    active_set.solve.clear_cache()
    assert sizes
    assert set(sizes) == {50}
    assert many.converged
    np.testing.assert_allclose(many.dual, few.dual, rtol=1e-9)
    np.testing.assert_allclose(svm.decision_function(many, x), svm.decision_function(few, x), atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("memory_bytes", [2**28, 60_000])
def test_running_out_of_iterations_is_told_as_it_is(memory_bytes):
    x, y = blobs(9, 203)
    with pytest.warns(RuntimeWarning, match="fit_dual: not converged after 40 iterations"):
        machine = svm.fit_dual(x, y, kernel=RBF, c=3.0, max_iterations=40, memory_bytes=memory_bytes)
    assert not machine.converged
    assert machine.iterations == 40
    beta = np.asarray(machine.alpha) * y
    errors = gram("rbf", x, x) @ beta - y
    top = (-errors)[beta < np.where(y > 0, 3.0, 0)].max()
    bottom = (-errors)[beta > np.where(y > 0, 0, -3.0)].min()
    np.testing.assert_allclose(machine.violation, top - bottom, rtol=1e-9)
    assert top - bottom > 0.1
    np.testing.assert_allclose(svm.duality_gap(machine, x, y, c=3.0), machine.gap, rtol=1e-9)


def test_float32_ends_where_rounding_begins():
    x, y = blobs(10, 60)
    x = x.astype(np.float32)
    machine = svm.fit_dual(x, y, kernel=RBF, c=10.0)
    assert machine.converged
    assert machine.alpha.dtype == jnp.float32
    with pytest.warns(RuntimeWarning, match="not converged"):
        impossible = svm.fit_dual(x, y, kernel=RBF, c=10.0, relative_gap=1e-12)  # and is not waited for
    assert not impossible.converged
    assert impossible.violation < 1e-4
    half = svm.fit_dual(x.astype(jnp.bfloat16), y, kernel=RBF, c=10.0)
    assert half.converged
    assert half.alpha.dtype == jnp.float32
    assert svm.decision_function(half, x).dtype == jnp.float32


def test_another_gamma_or_c_compiles_nothing():
    x, y = blobs(12, 31)
    svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=0.3), c=1.0)
    before = active_set.solve._cache_size()
    svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=0.4), c=2.0, tolerance=1e-2)
    assert active_set.solve._cache_size() == before


@pytest.mark.usefixtures("x64")
def test_a_curvature_that_rounding_made_negative_is_none():
    k = jnp.array([[1, 1 + 1e-14], [1 + 1e-14, 1]])
    bounds = {"low": jnp.array([0.0, -3.0]), "high": jnp.array([3.0, 0.0])}
    pairs = smo.ascend(k, jnp.zeros(2), jnp.array([-1.0, 1.0]), **bounds, tolerance=1e-3, max_steps=jnp.int32(9))
    np.testing.assert_array_equal(pairs.beta, [3, -3])


def test_products_have_all_their_digits_on_any_device():
    x, y = blobs(22, 9)
    problem = dual.prepare("fit_dual", x.astype(np.float32), y, RBF, 1.0, 1e-3, None, None)
    with jax.default_matmul_precision("tensorfloat32"):
        for sizes in (active_set.Sizes(9, 9), active_set.Sizes(5, 3)):
            text = str(jax.make_jaxpr(lambda problem, sizes=sizes: active_set.solve(problem, sizes))(problem))
            assert text.count("dot_general[") > 1
            assert text.count("Precision.HIGHEST") == 2 * text.count("dot_general[")


@pytest.mark.usefixtures("x64")
def test_the_course_of_steps():
    x, y = blobs(13, 50)
    trace = svm.trace_dual(x, y, kernel=RBF, c=2.0, num_records=40, every=10)
    assert (np.diff(trace.dual) >= -1e-12).all()
    assert (trace.primal >= trace.dual).all()
    assert trace.iterations[0] == 10
    with pytest.warns(RuntimeWarning, match="not converged"):
        early = svm.fit_dual(x, y, kernel=RBF, c=2.0, max_iterations=30)
    np.testing.assert_allclose([trace.dual[2], trace.primal[2]], [early.dual, early.primal], rtol=1e-12)
    best = svm.fit_dual(x, y, kernel=RBF, c=2.0, tolerance=1e-9)
    np.testing.assert_allclose([trace.dual[-1], trace.primal[-1]], [best.dual, best.primal], rtol=1e-9)
