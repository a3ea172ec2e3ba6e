"""Kernels and the dual: against exhaustive search, formulas in NumPy, published numbers, and libsvm if installed."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import svm
from fundamentals.svm import active_set, dual, smo

RBF = functools.partial(svm.rbf_kernel, gamma=0.5)
CUBIC = functools.partial(svm.polynomial_kernel, degree=3, offset=0.5, gamma=0.7)
KERNELS = {"linear": svm.linear_kernel, "rbf": RBF, "cubic": CUBIC}


def gram(name, x, z):
    """The kernels once more, entry by entry."""
    if name == "rbf":
        return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))
    products = (x[:, None] * z[None]).sum(-1)
    return products if name == "linear" else (0.7 * products + 0.5) ** 3


def blobs(seed, n, d=2, apart=1.0):
    random = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 3 == 0, 1, -1)
    return random.normal(size=(n, d)) + 0.5 * apart * y[:, None], y


def exhaustive(k, y, c):
    """The best dual value over all ways to put each α at 0, at c, or between, where it solves linear equations."""
    n, best = len(y), (-np.inf, None, None)
    for places in itertools.product((0, 1, 2), repeat=n):
        free = np.flatnonzero(np.array(places) == 2)
        beta = np.where(np.array(places) == 1, c * y, 0.0)
        if len(free):
            matrix = np.ones((len(free) + 1, len(free) + 1))
            matrix[:-1, :-1], matrix[-1, -1] = k[np.ix_(free, free)], 0
            right = np.append(y[free] - k[free] @ beta, -beta.sum())
            solution = np.linalg.lstsq(matrix, right, rcond=None)[0]
            beta[free], bias = solution[:-1], solution[-1]
        alpha = beta * y
        if abs(beta.sum()) > 1e-9 or alpha.min() < -1e-9 or (alpha > c + 1e-9).any():
            continue
        value = alpha.sum() - beta @ k @ beta / 2
        if value > best[0] + 1e-12:
            best = value, alpha, bias if len(free) else None
    return best


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("c", [0.3, 5.0])
def test_equals_exhaustive_search(name, c):
    x, y = blobs(3, 7)
    k = gram(name, x, x)
    value, alpha, bias = exhaustive(k, y, c)
    machine = svm.fit_dual(x, y, kernel=KERNELS[name], c=c, tolerance=1e-9)
    assert machine.converged
    np.testing.assert_allclose(machine.dual, value, rtol=1e-9)
    np.testing.assert_allclose(
        k @ (np.asarray(machine.alpha) * y), k @ (alpha * y), atol=1e-6
    )  # α itself may not be unique
    assert bias is not None
    np.testing.assert_allclose(machine.bias, bias, atol=1e-6)
    np.testing.assert_allclose(svm.decision_function(machine, x), k @ (alpha * y) + bias, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_prices_of_each_point_weigh_it():
    x, y = blobs(3, 7)
    c = np.array([0.2, 3.0, 0.5, 1.0, 0.3, 2.0, 0.7])
    k = gram("rbf", x, x)
    value, alpha, _ = exhaustive(k, y, c)
    machine = svm.fit_dual(x, y, kernel=RBF, c=c, tolerance=1e-9)
    np.testing.assert_allclose(machine.dual, value, rtol=1e-9)
    np.testing.assert_allclose(machine.alpha, alpha, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [0.01, 100.0])
def test_two_points_have_a_known_solution(c):
    x, y = np.array([[1.0, 3.0], [4.0, -1.0]]), np.array([1, -1])
    machine = svm.fit_dual(x, y, kernel=svm.linear_kernel, c=c)
    alpha = min(2 / 25, c)  # the distance is 5; the margin is all of it, unless that is too dear
    np.testing.assert_allclose(machine.alpha, [alpha, alpha], rtol=1e-12)
    np.testing.assert_allclose(svm.weights(machine), alpha * (x[0] - x[1]), rtol=1e-12)
    np.testing.assert_allclose(svm.decision_function(machine, x.mean(0, keepdims=True)), [0], atol=1e-12)
    assert machine.gap <= 1e-12
    primal = svm.fit_primal(x, y, c=c, relative_gap=1e-9)
    np.testing.assert_allclose(primal.w, svm.weights(machine), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_published_result_of_libsvm_on_six_points():
    # scikit-learn, svm/tests/test_svm.py, test_libsvm_parameters: dual_coef_ [[-0.25, 0.25]], support_ [1, 3],
    # intercept_ [0]
    x = np.array([[-2, -1], [-1, -1], [-1, -2], [1, 1], [1, 2], [2, 1]], float)
    machine = svm.fit_dual(x, np.array([-1, -1, -1, 1, 1, 1]), kernel=svm.linear_kernel, c=1.0)
    np.testing.assert_array_equal(machine.support, [1, 3])
    np.testing.assert_allclose(machine.coefficients, [-0.25, 0.25], rtol=1e-12)
    np.testing.assert_array_equal(machine.support_vectors, x[[1, 3]])
    np.testing.assert_allclose(machine.bias, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_published_result_of_libsvm_on_heart_scale():
    # The file that libsvm comes with: Statlog (Heart), UCI Machine Learning Repository, https://doi.org/10.24432/C57303,
    # CC BY 4.0; every feature has a few equidistant levels between −1 and 1. What `svm-train heart_scale` prints, of
    # which libsvm's FAQ explains the words: obj = -100.877288, rho = 0.424462, nSV = 132, nBSV = 107.
    with np.load(Path(__file__).with_name("heart_scale.npz")) as file:
        x, y = 2 * file["levels"] / file["steps"] - 1, file["labels"].astype(int)
    assert x.shape == (270, 13)
    machine = svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=1 / 13), c=1.0)
    np.testing.assert_allclose(machine.dual, 100.877288, atol=5e-6)
    np.testing.assert_allclose(machine.bias, -0.424462, atol=1e-3)  # what the tolerance leaves open
    assert len(machine.support) == 132
    assert (machine.alpha == 1).sum() == 107


def duplicated(seed):
    x, y = blobs(seed, 30)
    return np.concatenate([x, x[:10]]), np.concatenate([y, -y[:5], y[5:10]])


PROBLEMS = {
    "linear, separable": (lambda: blobs(0, 40, apart=8.0), "linear", 10.0),
    "linear, overlapping": (lambda: blobs(1, 90, d=3), "linear", 1.0),
    "rbf, overlapping": (lambda: blobs(2, 90), "rbf", 1.0),
    "rbf, large C": (lambda: blobs(3, 60), "rbf", 100.0),
    "cubic": (lambda: blobs(4, 60), "cubic", 1.0),
    "imbalanced": (lambda: tuple(a[np.r_[1:90, 0:9:3]] for a in blobs(5, 90)), "rbf", 1.0),
    "duplicated points": (lambda: duplicated(6), "rbf", 2.0),
    "duplicated points, linear": (lambda: duplicated(7), "linear", 2.0),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_libsvm(name):
    peer = pytest.importorskip("sklearn.svm")
    draw, kernel, c = PROBLEMS[name]
    x, y = draw()
    machine = svm.fit_dual(x, y, kernel=KERNELS[kernel], c=c, tolerance=1e-5)
    options = {"linear": {}, "rbf": {"gamma": 0.5}, "cubic": {"gamma": 0.7, "coef0": 0.5, "degree": 3}}[kernel]
    theirs = peer.SVC(C=c, kernel={"cubic": "poly"}.get(kernel, kernel), tol=1e-5, **options).fit(x, y)
    beta = np.zeros(len(y))
    beta[theirs.support_] = theirs.dual_coef_[0]
    objective = np.abs(beta).sum() - beta @ gram(kernel, x, x) @ beta / 2
    np.testing.assert_allclose(machine.dual, objective, rtol=1e-8)
    np.testing.assert_allclose(svm.decision_function(machine, x), theirs.decision_function(x), atol=5e-4)
    # Which of two equal points is a support vector is a matter of chance.
    points = [{tuple(point) for point in x[support]} for support in (machine.support, theirs.support_)]
    assert len(points[0] ^ points[1]) <= (0 if "duplicated" not in name else 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KERNELS)
def test_the_certificate_is_what_its_formulas_say(name):
    x, y = blobs(8, 60)
    c = np.linspace(0.5, 2, 60)
    machine = svm.fit_dual(x, y, kernel=KERNELS[name], c=c, relative_gap=1e-6)
    k, alpha = gram(name, x, x), np.asarray(machine.alpha)
    assert machine.converged
    assert machine.gap <= 1e-6 * machine.primal
    assert alpha.min() == 0
    assert (alpha <= c).all()
    at_bound = np.abs(alpha - c) < 1e-9
    assert at_bound.any()
    np.testing.assert_array_equal(alpha[at_bound], c[at_bound])  # exactly
    assert abs((alpha * y).sum()) <= 1e-13 * alpha.sum()
    beta = alpha * y
    f = k @ beta + float(machine.bias)
    slack = np.maximum(0, 1 - y * f)
    primal, dual = beta @ k @ beta / 2 + (c * slack).sum(), alpha.sum() - beta @ k @ beta / 2
    np.testing.assert_allclose(machine.primal, primal, rtol=1e-9)
    np.testing.assert_allclose([machine.dual, svm.dual_objective(alpha, y, k)], dual, rtol=1e-12)
    np.testing.assert_allclose(svm.duality_gap(machine, x, y, c=c), primal - dual, atol=1e-9 * primal)
    products = svm.complementary_slackness(machine, x, y, c=c)
    np.testing.assert_allclose(products.slack, slack, atol=1e-12)
    np.testing.assert_allclose(products.margin, alpha * (y * f - 1 + slack), atol=1e-12)
    np.testing.assert_allclose(products.bound, (c - alpha) * slack, atol=1e-12)
    kkt = np.where(alpha < c, np.maximum(0, 1 - y * f), 0) + np.where(alpha > 0, np.maximum(0, y * f - 1), 0)
    np.testing.assert_allclose(svm.kkt_violations(machine, x, y, c=c), kkt, atol=1e-12)
    assert kkt.max() <= machine.violation + 1e-12


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


HARD = {
    "sorted": np.sort(np.resize([1, -1], 300)),
    "sorted the other way": -np.sort(np.resize([1, -1], 300)),
    "rare": np.where(np.arange(300) < 3, 1, -1),
    "rare, at the end": np.where(np.arange(300) < 297, 1, -1),
    "few different points": np.resize([1, -1, -1], 300),
}


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


@pytest.mark.usefixtures("x64")
def test_a_grid_is_one_call_and_equals_its_fits():
    x, y = blobs(11, 47)
    gammas, cs = np.array([0.1, 1.0]), np.array([0.2, 2.0, 30.0])

    def fit(gamma, c):
        return svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=gamma), c=c, tolerance=1e-9)

    grid = jax.jit(jax.vmap(lambda gamma: jax.vmap(lambda c: fit(gamma, c))(cs)))(gammas)
    assert grid.alpha.shape == (2, 3, 47)
    for i, j in itertools.product(range(2), range(3)):
        alone = fit(float(gammas[i]), float(cs[j]))
        np.testing.assert_allclose(grid.alpha[i, j], alone.alpha, atol=1e-6)
        np.testing.assert_allclose(grid.dual[i, j], alone.dual, rtol=1e-12)
        # Traced, all points are listed, those of no support last and with coefficient 0.
        machine = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], grid)
        number = len(alone.support)
        np.testing.assert_array_equal(machine.support[:number], alone.support)
        assert not machine.coefficients[number:].any()
        np.testing.assert_allclose(svm.decision_function(machine, x), svm.decision_function(alone, x), atol=1e-6)
    parts = jax.vmap(lambda c: svm.fit_dual(x, y, kernel=RBF, c=c, memory_bytes=20_000).dual)(cs)
    np.testing.assert_allclose(parts, [svm.fit_dual(x, y, kernel=RBF, c=c).dual for c in cs], rtol=1e-4)


def test_integers_of_numpy_are_options_of_a_kernel():
    x, y = blobs(12, 31)
    cubic = functools.partial(svm.polynomial_kernel, degree=np.int64(3), offset=np.float32(0.5), gamma=0.7)
    machine = svm.fit_dual(x, y, kernel=cubic, c=1.0)
    assert machine.converged
    assert machine.kernel.options == (("degree", 3),)


def test_another_gamma_or_c_compiles_nothing():
    x, y = blobs(12, 31)
    svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=0.3), c=1.0)
    before = active_set.solve._cache_size()
    svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=0.4), c=2.0, tolerance=1e-2)
    assert active_set.solve._cache_size() == before


@pytest.mark.usefixtures("x64")
def test_the_bias_is_the_mean_over_free_points():
    x, y = blobs(8, 60)
    machine = svm.fit_dual(x, y, kernel=RBF, c=2.0, tolerance=0.5)
    alpha = np.asarray(machine.alpha)
    free = (alpha > 0) & (alpha < 2)
    assert free.sum() > 5
    np.testing.assert_allclose(machine.bias, (y - gram("rbf", x, x) @ (alpha * y))[free].mean(), rtol=1e-9)


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
def test_points_that_no_machine_can_separate():
    same = np.ones((6, 2))
    y = np.array([1, 1, 1, 1, -1, -1])
    machine = svm.fit_dual(same, y, kernel=RBF, c=1.0, relative_gap=1e-9)
    assert machine.converged
    np.testing.assert_allclose(machine.primal, 4, rtol=1e-9)  # f = 1 everywhere: two slacks of 2
    np.testing.assert_array_equal(svm.predict(machine, same), 1)
    far = np.array([[0.0], [1e6], [2e6]])
    machine = svm.fit_dual(far, np.array([1, -1, 1]), kernel=RBF, c=10.0)
    np.testing.assert_array_equal(svm.predict(machine, far), [1, -1, 1])


def _nan_point(x, y, c, gamma):
    return x.at[2, 1].set(jnp.nan), y, c, gamma


INVALID = {
    "NaN": _nan_point,
    "labels 0 and 1": lambda x, y, c, gamma: (x, (y + 1) / 2, c, gamma),
    "c = 0": lambda x, y, c, gamma: (x, y, 0 * c, gamma),
    "c = -1": lambda x, y, c, gamma: (x, y, -c, gamma),
    "gamma = -1": lambda x, y, c, gamma: (x, y, c, -gamma),
}


@functools.partial(jax.jit, static_argnames="name")
def spoilt(name, x, y, c, gamma):
    x, y, c, gamma = INVALID[name](x, y, c, gamma)
    machine = svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=gamma), c=c)
    return machine, None if name.startswith("gamma") else svm.fit_primal(x, y, c=c, max_iterations=20)


@pytest.mark.parametrize("name", INVALID)
def test_what_nobody_could_check_is_nan(name):
    x, y = blobs(23, 11)
    for machine in spoilt(name, x.astype(np.float32), y.astype(np.float32), np.float32(1), np.float32(1)):
        if machine is not None:
            assert np.isnan([machine.primal, machine.dual, machine.gap]).all(), machine
            assert not machine.converged


def test_machines_are_shown_in_a_line():
    x, y = blobs(24, 31)
    machine = svm.fit_dual(x, y, kernel=RBF, c=1.0)
    assert repr(machine).startswith(f"SupportVectorMachine({len(machine.support)} of 31 points, bias=")
    assert repr(svm.fit_primal(x.astype(np.float32), y, c=1.0)).endswith("converged=True)")
    shown = []
    jax.jit(lambda c: shown.append(repr(svm.fit_dual(x, y, kernel=RBF, c=c))))(1.0)
    assert shown == ["SupportVectorMachine(31 points)"]


def test_under_jit_one_class_gives_the_constant():
    x = np.ones((3, 2), np.float32)
    machine = jax.jit(lambda y: svm.fit_dual(x, y, kernel=RBF, c=1.0))(jnp.array([-1, -1, -1]))
    assert machine.converged
    np.testing.assert_array_equal(svm.predict(machine, x), -1)
    np.testing.assert_array_equal(machine.gap, 0)


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


@pytest.mark.usefixtures("x64")
def test_classes_vote_pair_by_pair():
    random = np.random.default_rng(14)
    labels = np.repeat([7, 2, 30, 4], [9, 13, 13, 9])  # three sizes of pairs to compile
    x = random.normal(size=(len(labels), 2)) + 1.5 * np.stack([labels % 3, labels % 5], axis=1)
    c = random.uniform(0.5, 2, size=len(labels))
    machine = svm.fit_one_vs_one(x, labels, kernel=RBF, c=c, tolerance=1e-8)
    np.testing.assert_array_equal(machine.classes, [2, 4, 7, 30])
    new = random.normal(size=(1500, 2)) * 3 + 3  # more than are computed at a time
    values = np.asarray(svm.decision_function(machine, new))
    votes = np.zeros((len(new), 4), int)
    for p, (a, b) in enumerate(itertools.combinations(range(4), 2)):
        first, second = np.asarray(machine.classes)[[a, b]]
        chosen = np.isin(labels, [first, second])
        pair = svm.fit_dual(
            x[chosen], np.where(labels[chosen] == first, 1, -1), kernel=RBF, c=c[chosen], tolerance=1e-8
        )
        np.testing.assert_allclose(machine.alpha[p][chosen], pair.alpha, atol=1e-5)
        assert not machine.alpha[p][~chosen].any()
        np.testing.assert_allclose(values[:, p], svm.decision_function(pair, new), atol=1e-5)
        np.add.at(votes, (np.arange(len(new)), np.where(values[:, p] > 0, a, b)), 1)
    assert (np.sort(votes, axis=1)[:, -1] == np.sort(votes, axis=1)[:, -2]).any()  # ties: the first of them
    np.testing.assert_array_equal(svm.predict(machine, new), np.array([2, 4, 7, 30])[votes.argmax(1)])


@pytest.mark.usefixtures("x64")
def test_one_vs_one_under_transformations_and_in_little_memory():
    x, _ = blobs(20, 60)
    labels = np.repeat([0, 1, 2], 20)
    x = x + labels[:, None]
    whole = svm.fit_one_vs_one(x, labels, kernel=RBF, c=2.0, tolerance=1e-7)
    parts = svm.fit_one_vs_one(x, labels, kernel=RBF, c=2.0, tolerance=1e-7, memory_bytes=2 * 8 * 16 * 40)
    mapped = jax.jit(jax.vmap(lambda c: svm.fit_one_vs_one(x, labels, kernel=RBF, c=c, tolerance=1e-7)))(
        np.array([0.5, 2.0])
    )
    one = jax.tree.map(lambda leaf: leaf[1], mapped._replace(classes=jnp.stack([mapped.classes[0]] * 2)))
    for machine in (parts, one):
        assert machine.converged.all()
        np.testing.assert_allclose(machine.dual, whole.dual, rtol=1e-9)
        np.testing.assert_allclose(svm.decision_function(machine, x), svm.decision_function(whole, x), atol=1e-4)


def test_distances_between_points_far_from_the_origin():
    random = np.random.default_rng(21)
    x = (random.normal(size=(9, 3)) + 1000).astype(np.float32)
    np.testing.assert_allclose(
        svm.rbf_kernel(x, x, gamma=0.5), gram("rbf", x.astype(float), x.astype(float)), atol=1e-5
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_their_formulas(name):
    random = np.random.default_rng(15)
    x, z = random.normal(size=(5, 3)) - 100, random.normal(size=(7, 3)) - 100
    np.testing.assert_allclose(KERNELS[name](x, z), gram(name, x, z), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_kernels_are_inner_products_of_features():
    random = np.random.default_rng(16)
    x, z = random.normal(size=(5, 3)), random.normal(size=(7, 3))
    features = functools.partial(svm.quadratic_features, offset=0.3, gamma=0.6)
    assert features(x).shape == (5, 10)
    k = svm.polynomial_kernel(x, z, degree=2, offset=0.3, gamma=0.6)
    np.testing.assert_allclose(features(x) @ features(z).T, k, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(svm.linear_features(x) @ svm.linear_features(z).T, svm.linear_kernel(x, z), rtol=1e-12)


X, Y = blobs(17, 6)
FIT = {"kernel": RBF, "c": 1.0}


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "fit_dual: y has the value 0; expected -1 or +1", lambda: svm.fit_dual(X, Y // 2 + 1, **FIT)),
        (ValueError, "fit_dual: y is 1 everywhere; expected both classes", lambda: svm.fit_dual(X, Y * Y, **FIT)),
        (ValueError, "fit_primal: y is 1 everywhere", lambda: svm.fit_primal(X, Y * Y, c=1.0)),
        (ValueError, "fit_dual: x[0, 1] is nan; expected finite", lambda: svm.fit_dual(X * [1, np.nan], Y, **FIT)),
        (ValueError, "fit_primal: x[0, 0] is inf", lambda: svm.fit_primal(X * np.inf, Y, c=1.0)),
        (ValueError, "fit_dual: c has the value 0.0; expected positive", lambda: svm.fit_dual(X, Y, kernel=RBF, c=0.0)),
        (ValueError, "fit_dual: c has the value -1", lambda: svm.fit_dual(X, Y, kernel=RBF, c=-1)),
        (ValueError, "fit_dual: c has the value inf", lambda: svm.fit_dual(X, Y, kernel=RBF, c=np.inf)),
        (
            ValueError,
            "fit_dual: c has shape [5]; expected a number",
            lambda: svm.fit_dual(X, Y, kernel=RBF, c=X[1:, 0]),
        ),
        (
            ValueError,
            "rbf_kernel: gamma is 0.0; expected a number in (0, inf)",
            lambda: svm.fit_dual(X, Y, kernel=functools.partial(svm.rbf_kernel, gamma=0.0), c=1.0),
        ),
        (
            ValueError,
            "polynomial_kernel: degree is 0; expected an integer ≥ 1",
            lambda: svm.polynomial_kernel(X, X, degree=0, offset=1.0),
        ),
        (ValueError, "offset is -1", lambda: svm.polynomial_kernel(X, X, degree=2, offset=-1.0)),
        (ValueError, "rbf_kernel: z has shape [6, 3]", lambda: svm.rbf_kernel(X, np.ones((6, 3)), gamma=1.0)),
        (ValueError, "fit_dual: y has shape [5]; expected [N] with N = 6", lambda: svm.fit_dual(X, Y[1:], **FIT)),
        (ValueError, "fit_dual: x has N = 0", lambda: svm.fit_dual(X[:0], Y[:0], **FIT)),
        (TypeError, "fit_dual: x has dtype int32", lambda: svm.fit_dual(np.int32(X), Y, **FIT)),
        (TypeError, "fit_dual: kernel is 'rbf'; expected a function", lambda: svm.fit_dual(X, Y, kernel="rbf", c=1.0)),
        (
            ValueError,
            "fit_dual: kernel returned",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: x @ z.T[:, 0], c=1.0),
        ),
        (
            ValueError,
            "fit_dual: ‖w‖² is negative; expected a kernel that is positive semidefinite",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: -x @ z.T, c=1.0),
        ),
        (
            ValueError,
            "fit_dual: kernel failed on points [2, 2] and [3, 2]; expected their Gram matrix",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: jnp.dot(x, z), c=1.0),
        ),
        (
            ValueError,
            "decision_function: machine has a batch axis; expected one machine",
            lambda: svm.predict(jax.vmap(lambda c: svm.fit_dual(X, Y, kernel=RBF, c=c))(np.ones(2)), X),
        ),
        (
            ValueError,
            "decision_function: x[0, 0] is nan",
            lambda: svm.predict(svm.fit_dual(X, Y, **FIT), np.nan * X),
        ),
        (
            TypeError,
            "fit_dual: kernel can't be traced; expected a function written in jax.numpy",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: np.asarray(x) @ np.asarray(z).T, c=1.0),
        ),
        (
            TypeError,
            "'gamma'; bind it, as in functools.partial",
            lambda: svm.fit_dual(X, Y, kernel=svm.rbf_kernel, c=1.0),
        ),
        (
            ValueError,
            "fit_dual: the objective is nan; expected points and a kernel whose values do not overflow",
            lambda: svm.fit_dual(1e30 * X, Y, kernel=svm.linear_kernel, c=1.0),
        ),
        (ValueError, "fit_dual: tolerance is 0", lambda: svm.fit_dual(X, Y, **FIT, tolerance=0)),
        (ValueError, "fit_dual: relative_gap is -1", lambda: svm.fit_dual(X, Y, **FIT, relative_gap=-1)),
        (ValueError, "fit_dual: max_iterations is 0", lambda: svm.fit_dual(X, Y, **FIT, max_iterations=0)),
        (
            ValueError,
            "fit_dual: memory_bytes is 9; expected at least",
            lambda: svm.fit_dual(X, Y, **FIT, memory_bytes=9),
        ),
        (ValueError, "fit_one_vs_one: labels has 1 class", lambda: svm.fit_one_vs_one(X, Y * Y, **FIT)),
        (
            TypeError,
            "fit_one_vs_one: labels is traced",
            lambda: jax.jit(lambda y: svm.fit_one_vs_one(X, y, **FIT))(jnp.asarray(Y)),
        ),
        (
            ValueError,
            "decision_function: x has shape [6, 3]; expected [B, D] with D = 2",
            lambda: svm.decision_function(svm.fit_dual(X, Y, **FIT), np.ones((6, 3), np.float32)),
        ),
        (ValueError, "weights: the kernel is rbf_kernel", lambda: svm.weights(svm.fit_dual(X, Y, **FIT))),
        (TypeError, "decision_function: machine is of type float", lambda: svm.predict(1.0, X)),
        (
            ValueError,
            "duality_gap: machine has 6 multipliers; expected N = 4",
            lambda: svm.duality_gap(svm.fit_dual(X, Y, **FIT), X[:4], Y[:4], c=1.0),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(error, message, call):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
