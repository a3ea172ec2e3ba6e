"""Kernels and the dual: against exhaustive search, formulas in NumPy, published numbers, and libsvm if installed."""

import functools
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from svm_cases import KERNELS, RBF, blobs, gram

from fundamentals import svm


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
    x, y = blobs(seed, 50)
    return np.concatenate([x, x[:10]]), np.concatenate([y, -y[:5], y[5:10]])


PROBLEMS = {  # of one size, 60 in the plane, which is compiled once for each kernel
    "linear, separable": (lambda: blobs(0, 60, apart=8.0), "linear", 10.0),
    "linear, overlapping": (lambda: blobs(1, 90, d=3), "linear", 1.0),
    "rbf, overlapping": (lambda: blobs(2, 60), "rbf", 1.0),
    "rbf, large C": (lambda: blobs(3, 60), "rbf", 100.0),
    "cubic": (lambda: blobs(4, 60), "cubic", 1.0),
    "imbalanced": (lambda: tuple(a[np.r_[3:60, 0:9:3]] for a in blobs(5, 60)), "rbf", 1.0),
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
def test_a_grid_is_one_call_and_equals_its_fits():
    x, y = blobs(11, 60)
    gammas, cs = np.array([0.1, 1.0]), np.array([0.2, 2.0, 30.0])

    def fit(gamma, c):
        return svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=gamma), c=c, tolerance=1e-9)

    grid = jax.jit(jax.vmap(lambda gamma: jax.vmap(lambda c: fit(gamma, c))(cs)))(gammas)
    assert grid.alpha.shape == (2, 3, 60)
    grid = jax.device_get(grid)
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


@pytest.mark.usefixtures("x64")
def test_the_bias_is_the_mean_over_free_points():
    x, y = blobs(8, 60)
    machine = svm.fit_dual(x, y, kernel=RBF, c=2.0, tolerance=0.5)
    alpha = np.asarray(machine.alpha)
    free = (alpha > 0) & (alpha < 2)
    assert free.sum() > 5
    np.testing.assert_allclose(machine.bias, (y - gram("rbf", x, x) @ (alpha * y))[free].mean(), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_classes_vote_pair_by_pair():
    random = np.random.default_rng(14)
    labels = np.repeat([7, 2, 30, 4], [30, 30, 30, 15])  # pairs of two sizes to compile, one of them that of PROBLEMS
    x = random.normal(size=(len(labels), 2)) + 1.5 * np.stack([labels % 3, labels % 5], axis=1)
    c = random.uniform(0.5, 2, size=len(labels))
    machine = svm.fit_one_vs_one(x, labels, kernel=RBF, c=c, tolerance=1e-8)
    np.testing.assert_array_equal(machine.classes, [2, 4, 7, 30])
    new = random.normal(size=(1500, 2)) * 3 + 3  # more than are computed at a time
    values = np.asarray(svm.decision_function(machine, new))
    votes, alpha = np.zeros((len(new), 4), int), np.asarray(machine.alpha)
    for p, (a, b) in enumerate(itertools.combinations(range(4), 2)):
        first, second = np.asarray(machine.classes)[[a, b]]
        chosen = np.isin(labels, [first, second])
        pair = svm.fit_dual(
            x[chosen], np.where(labels[chosen] == first, 1, -1), kernel=RBF, c=c[chosen], tolerance=1e-8
        )
        np.testing.assert_allclose(alpha[p][chosen], pair.alpha, atol=1e-5)
        assert not alpha[p][~chosen].any()
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
    one = jax.tree.map(lambda leaf: leaf[1], jax.device_get(mapped))
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
