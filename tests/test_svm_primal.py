"""The linear machine by its primal, and the two problems' algebra: against NumPy, autodiff, and the dual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import svm


def blobs(seed, n=60, d=3):
    random = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 3 == 0, 1, -1)
    return random.normal(size=(n, d)) + 0.5 * y[:, None], y, random.uniform(0.3, 2, size=n)


def objective(w, bias, x, y, c):
    return w @ w / 2 + (c * np.maximum(0, 1 - y * (x @ w + bias))).sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relative_gap", [1e-2, 1e-6])
def test_the_optimum_lies_within_the_gap(relative_gap):
    x, y, c = blobs(0)
    machine = svm.fit_primal(x, y, c=c, relative_gap=relative_gap)
    w, bias = np.asarray(machine.w), float(machine.bias)
    assert machine.converged
    assert machine.gap <= relative_gap * machine.primal
    np.testing.assert_allclose(machine.primal, objective(w, bias, x, y, c), rtol=1e-12)
    best = svm.fit_dual(x, y, kernel=svm.linear_kernel, c=c, relative_gap=1e-9)
    assert machine.dual <= best.primal
    assert machine.primal >= best.dual
    # P is strongly convex in w: ½‖w − w*‖² ≤ P(w) − P*
    assert np.linalg.norm(w - svm.weights(best)) ** 2 / 2 <= machine.gap + best.gap
    history, number = machine.history, int(machine.iterations)
    assert np.isfinite(history.primal[:number]).all()
    assert np.isnan(history.dual[number:]).all()
    assert (np.diff(history.primal[:number]) <= 0).all()
    assert (np.diff(history.dual[:number]) >= 0).all()
    assert history.primal[number - 1] - history.dual[number - 1] == machine.gap


@pytest.mark.usefixtures("x64")
def test_as_many_planes_as_there_are_iterations_or_fewer(monkeypatch):
    x, y, c = blobs(1)
    from fundamentals.svm import primal

    plenty = svm.fit_primal(x, y, c=c, relative_gap=1e-4, max_iterations=100)
    monkeypatch.setattr(primal, "PLANES", 8)
    few = svm.fit_primal(x, y, c=c, relative_gap=1e-4, max_iterations=101)
    assert plenty.converged
    assert few.converged
    assert few.iterations > 8
    np.testing.assert_allclose(few.primal, plenty.primal, rtol=2e-4)
    with pytest.warns(RuntimeWarning, match="fit_primal: not converged after 3 iterations"):
        stopped = svm.fit_primal(x, y, c=c, relative_gap=1e-4, max_iterations=3)
    assert not stopped.converged
    assert stopped.iterations == 3
    assert stopped.gap > 1e-4 * stopped.primal


def test_where_the_origin_is_does_not_matter():
    x, y, c = blobs(7)
    near = svm.fit_primal(x.astype(np.float32), y, c=c)
    far = svm.fit_primal((x + 1000).astype(np.float32), y, c=c)
    assert far.converged
    np.testing.assert_allclose(far.primal, near.primal, rtol=2e-3)
    np.testing.assert_allclose(far.w, near.w, atol=0.1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(4))
def test_the_best_bias_is_at_a_kink_with_a_subgradient_of_0(seed):
    x, y, c = blobs(seed, n=17)
    scores = np.round(x @ [1.0, -0.5, 0.2], 1)  # kinks coincide
    bias, a = jax.jit(svm.best_bias)(scores, y.astype(float), c)
    kinks = y - scores
    costs = [(c * np.maximum(0, 1 - y * (scores + b))).sum() for b in kinks]
    np.testing.assert_allclose((c * np.maximum(0, 1 - y * (scores + float(bias)))).sum(), min(costs), rtol=1e-12)
    a, excess = np.asarray(a), y * (scores + float(bias)) - 1
    np.testing.assert_allclose((a * y).sum(), 0, atol=1e-12)
    assert ((a >= 0) & (a <= c)).all()
    np.testing.assert_array_equal(a[excess < -1e-9], c[excess < -1e-9])
    assert not a[excess > 1e-9].any()


@pytest.mark.usefixtures("x64")
def test_at_w_0_all_points_of_a_class_share_a_kink():
    y = np.array([1.0, 1, 1, 1, -1, -1])
    bias, a = svm.best_bias(np.zeros(6), y, np.ones(6))
    np.testing.assert_allclose(bias, 1)
    np.testing.assert_allclose(a, [0.5, 0.5, 0.5, 0.5, 1, 1])


@pytest.mark.usefixtures("x64")
def test_subgradient_descent_is_what_the_textbook_says():
    x, y, c = blobs(2)
    machine = svm.pegasos(x, y, c=c, key=jax.random.key(0), num_steps=50, batch_size=None, record_every=20)
    w, bias, history = np.zeros(3), 0.0, []
    for t in range(1, 51):
        a = np.where(y * (x @ w + bias) < 1, c * y, 0)
        w, bias = w - (w - a @ x) / t, bias + a.sum() / c.sum() / t**0.5
        w *= min(1, np.sqrt(c.sum()) / np.linalg.norm(w))
        if t in (20, 40):
            history.append(objective(w, bias, x, y, c))
    np.testing.assert_allclose(machine.w, w, rtol=1e-9)
    np.testing.assert_allclose(machine.bias, bias, rtol=1e-9)
    np.testing.assert_allclose(machine.history, history, rtol=1e-9)
    np.testing.assert_allclose(machine.primal, objective(w, bias, x, y, c), rtol=1e-9)


def test_stochastic_steps_come_near_the_optimum():
    x, y, c = blobs(3)
    x, c = x.astype(np.float32), c.astype(np.float32)
    best = svm.fit_primal(x, y, c=c)
    near = svm.pegasos(x, y, c=c, key=jax.random.key(1), num_steps=4000, batch_size=4)
    far = svm.pegasos(x, y, c=c, key=jax.random.key(1), num_steps=40, batch_size=4)
    assert best.converged
    assert best.w.dtype == near.w.dtype == jnp.float32
    assert near.primal <= 1.02 * best.primal <= far.primal
    assert near.history.shape == (0,)
    np.testing.assert_array_equal(svm.predict(near, x), np.where(x @ near.w + near.bias > 0, 1, -1))
    again = svm.pegasos(x, y, c=c, key=jax.random.key(2), num_steps=40, batch_size=4)
    assert (again.w != far.w).any()


@pytest.mark.usefixtures("x64")
def test_at_the_kink_the_subgradient_is_0_by_hand_and_by_autodiff():
    x, y = np.array([[2.0, 0.0], [-1.0, 1.0]]), np.array([1, -1])
    w, bias = np.array([0.25, 0.0]), 0.5  # y f = 1 for the first point, −0.25 for the second
    cost, residuals = svm.primal_objective_fwd(w, bias, x, y, c=3.0)
    np.testing.assert_allclose(cost, 0.25**2 / 2 + 3 * 1.25)
    dw, dbias, *_ = svm.primal_objective_bwd(residuals, jnp.ones_like(cost))
    np.testing.assert_allclose(dw, w + 3 * x[1])
    np.testing.assert_allclose(dbias, 3)
    both = jax.grad(lambda w, b: svm.primal_objective(w, b, x, y, c=3.0), argnums=(0, 1))(w, bias)
    np.testing.assert_allclose(both[0], dw)
    np.testing.assert_allclose(both[1], dbias)


@pytest.mark.usefixtures("x64")
def test_the_lagrangian_is_stationary_at_the_optimum_and_a_lower_bound_elsewhere():
    x, y, c = blobs(4, n=23)
    machine = svm.fit_dual(x, y, kernel=svm.linear_kernel, c=c, tolerance=1e-10)
    w, bias, alpha = svm.weights(machine), machine.bias, machine.alpha
    slack = jnp.maximum(0, 1 - y.astype(float) * (x @ w + bias))
    primal = (w, bias, slack)

    def value(primal, alpha, multipliers):
        return svm.lagrangian(*primal, alpha, multipliers, x, y, c=c)

    np.testing.assert_allclose(value(primal, alpha, c - alpha), machine.primal, rtol=1e-8)
    for gradient in jax.grad(value)(primal, alpha, c - alpha):
        np.testing.assert_allclose(gradient, np.zeros(gradient.shape), atol=1e-8)
    # At other feasible prices its minimum, where w = Σ α y x, is their dual objective, and smaller.
    random = np.random.default_rng(5)
    other = random.uniform(0, 0.2, size=23)
    other[y > 0] *= other[y < 0].sum() / other[y > 0].sum()
    minimum = value(((other * y) @ x, random.normal(), random.uniform(size=23)), other, c - other)
    np.testing.assert_allclose(minimum, svm.dual_objective(other, y, x @ x.T), rtol=1e-9)
    assert minimum < machine.dual


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "fit_primal: relative_gap is 0", lambda x, y: svm.fit_primal(x, y, c=1.0, relative_gap=0)),
        (ValueError, "max_iterations is 0", lambda x, y: svm.fit_primal(x, y, c=1.0, max_iterations=0)),
        (ValueError, "x has D = 0", lambda x, y: svm.fit_primal(x[:, :0], y, c=1.0)),
        (ValueError, "y has the value 2", lambda x, y: svm.fit_primal(x, 2 * y, c=1.0)),
        (
            TypeError,
            "pegasos: key has dtype uint32",
            lambda x, y: svm.pegasos(x, y, c=1.0, key=jax.random.PRNGKey(0), num_steps=2),
        ),
        (ValueError, "num_steps is 0", lambda x, y: svm.pegasos(x, y, c=1.0, key=jax.random.key(0), num_steps=0)),
        (
            ValueError,
            "batch_size is 0",
            lambda x, y: svm.pegasos(x, y, c=1.0, key=jax.random.key(0), num_steps=2, batch_size=0),
        ),
        (
            ValueError,
            "primal_objective: x has shape [9, 3]; expected [N, D] with D = 2 from w [2]",
            lambda x, y: svm.primal_objective(np.ones(2), 0.0, x, y, c=1.0),
        ),
        (ValueError, "dual_objective: gram has shape", lambda x, y: svm.dual_objective(x[:, 0], y, x)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(error, message, call):
    x, y, _ = blobs(6, n=9)
    with pytest.raises(error) as raised:
        call(x.astype(np.float32), y)
    assert message in str(raised.value)
