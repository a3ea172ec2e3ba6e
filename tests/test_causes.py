"""Causes that take more than one operation to tell: in every step of a loop, of factors, axes, adjoints and pairs.

Each wrong gradient is autodiff of another function, or is written out, so that nothing of the checker makes it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import gradcheck
from fundamentals.gradcheck import check

RANDOM = np.random.RandomState(0)
X, S, A = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=7), RANDOM.uniform(0.5, 1.5, 7)
IDS, TO = np.array([0, 2, 2, 1, 4, 3], np.int32), np.array([1, 0, 4, 3, 2, 1], np.int32)


def decay(x, a):
    """Three steps, x ← x − 0.1 a x²."""
    for _ in range(3):
        x = x - 0.1 * a * x * x
    return x


def decay_back(states, a, dy, start=0.0, sign=1):
    da = start
    for x in reversed(states):
        da = da - 0.1 * dy * x * x
        dy = dy - sign * 0.2 * dy * a * x
    return dy, da


def states_of(x, a):
    found = [x]
    for _ in range(3):
        found.append(found[-1] - 0.1 * a * found[-1] ** 2)
    return found


def after_the_step(args, dy):
    return decay_back(states_of(*args)[1:], args[1], dy)


def first_step_only(args, dy):
    dx, _ = decay_back(states_of(*args)[:-1], args[1], dy)
    through, _ = decay_back(states_of(*args)[1:-1], args[1], dy)
    return dx, -0.1 * through * args[0] ** 2


def sign_in_every_step(args, dy):
    return decay_back(states_of(*args)[:-1], args[1], dy, sign=-1)


def messages(x):
    """Along the edges of a graph, from IDS to TO."""
    return jax.ops.segment_sum(jnp.tanh(x)[IDS], TO, 5)


def messages_forward(args, dy):
    (x,) = args
    return (jax.ops.segment_sum(dy[IDS], TO, 5) * (1 - jnp.tanh(x) ** 2),)


def layer_norm(x, axis=1):
    centred = x - jnp.mean(x, axis, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis, keepdims=True) + 1e-5)


def batch_norm_back(args, dy):
    return jax.vjp(lambda x: layer_norm(x, 0), *args)[1](dy)


def softmax_other_axis(args, dy):
    p = jax.nn.softmax(args[0], 1)
    return (p * (dy - jnp.sum(p * dy, 0, keepdims=True)),)


def student(x, a):
    """log(1 + x² / a), entry by entry."""
    return jnp.log1p(x * x / a) * a


def student_back(args, dy):
    """The right dx = 2 x a / (a + x²) without the weight a / (a + x²); da by autodiff."""
    return 2 * dy * args[0], jax.vjp(lambda a: student(args[0], a), args[1])[1](dy)[0]


def swish(x):
    return x / (1 + jnp.exp(-x))


def swish_constant(args, dy):
    """The denominator held constant and, as x is both above and below, that is one path of two."""
    return (dy / (1 + jnp.exp(-args[0])),)


def permuted(args, dy):
    return ((2 * args[0] * dy)[np.array([2, 0, 1, 4, 3])],)


def angle(p, q):
    return jnp.cos(p) * jnp.cos(q) + p * p


def angle_back(args, dy):
    """cos p sin q in dp, where sin p cos q is right."""
    p, q = args
    return -dy * jnp.cos(p) * jnp.sin(q) + 2 * dy * p, -dy * jnp.cos(p) * jnp.sin(q)


def factor(a):
    return jnp.linalg.cholesky(a @ a.T + 3 * jnp.eye(3))


def factor_back(args, dy):
    """Φ without the half of its diagonal."""
    (a,) = args
    l = factor(a)  # noqa: E741
    inner = jnp.tril(l.T @ jnp.tril(dy))
    s = jnp.linalg.inv(l).T @ inner @ jnp.linalg.inv(l)
    return ((s + s.T) @ a,)


@pytest.mark.parametrize(
    ("function", "backward", "args", "cause", "words"),
    [
        (decay, after_the_step, (S, A), "WRONG_OPERAND", "the state after each step stands for the state before it"),
        (decay, first_step_only, (S, A), "OVERWRITE", "of what 3 steps give back to a, only the first step's"),
        (decay, sign_in_every_step, (S, A), "PATH_SIGN", "has the wrong sign, and at 5 more like it"),
        (messages, messages_forward, (X,), "TRANSPOSE", "applied to the cotangent as in the forward pass"),
        (layer_norm, batch_norm_back, (X,), "WRONG_AXIS", "along axis 0 in place of axis 1"),
        (
            lambda x: jax.nn.softmax(x, 1),
            softmax_other_axis,
            (X,),
            "WRONG_AXIS",
            "softmax along axis 1, is taken along",
        ),
        (student, student_back, (S, A), "MISSING_FACTOR", "the derivative of log1p is left out"),
        (swish, swish_constant, (S,), "MISSING_PATH", "is dropped"),
        (lambda x: x**2, permuted, (X,), "LAYOUT", "in another order along axis 0: [2, 0, 1, 4, 3]"),
        (angle, angle_back, (S, A), "WRONG_OPERAND", "; and "),
        (factor, factor_back, (X[:3],), "PATH_SCALE", "the diagonal of Φ(lᵀ dl) is not halved"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_the_mistake_is_named_and_verified(function, backward, args, cause, words):
    report = gradcheck.check_vjp(function, lambda *a: (function(*a), a), backward, args)
    first = report.diagnoses[0]
    assert (first.cause, first.verified) == (cause, True), report
    assert words in first.detail, report


def test_a_wrong_gradient_of_a_linear_solve_is_wrong():
    """`jnp.linalg.solve` stops the gradient of its factors, which finite differences must not hold constant."""

    def solve(a, b):
        return jnp.linalg.solve(a @ a.T + jnp.eye(3), b)

    def constant_matrix(args, dy):
        a, _ = args
        return jnp.zeros_like(a), jnp.linalg.solve(a @ a.T + jnp.eye(3), dy)

    a, b = X[:3], S[:3]
    report = gradcheck.check_vjp(solve, lambda *args: (solve(*args), args), constant_matrix, (a, b))
    assert [str(leaf.verdict) for leaf in report.leaves] == ["WRONG", "PASS"]
    assert gradcheck.check_vjp(
        solve, lambda *args: (solve(*args), args), lambda args, dy: jax.vjp(solve, *args)[1](dy), (a, b)
    ).passed


def test_a_gradient_that_is_nan_in_the_types_given_does_not_pass():
    def quotient(x, dy):
        return (dy * jnp.exp(x) / (1 + jnp.exp(x)),)

    def check(x, backward=quotient, function=jax.nn.softplus):
        return gradcheck.check_vjp(function, lambda x: (function(x), x), backward, (x,))

    large = np.array([100.0, 1.0, -2.0])
    report = check(large.astype(np.float32))
    assert (report.verdict, report.diagnoses[0].cause) == ("WRONG", "NONFINITE"), report
    assert "in float32, it is nan at [0]" in report.leaves[0].detail
    with jax.enable_x64(True):
        assert check(jnp.asarray(large)).passed
    assert check(large.astype(np.float32), lambda x, dy: (dy * jax.nn.sigmoid(x),)).passed
    # Where autodiff is no better, the function is to blame.
    same = check(large.astype(np.float32), function=lambda x: jnp.log(1 + jnp.exp(x)))
    assert same.verdict == "INCONCLUSIVE", same
    assert "and so is autodiff's" in same.leaves[0].detail


def test_a_stop_gradient_around_a_linear_solver_is_held():
    """The matrix is the user's constant, also where the solver that closes over it is iterative."""

    def solve(x, b):
        matrix = jnp.diag(jax.lax.stop_gradient(x)) + jnp.eye(3)
        return jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, b, tol=1e-13, maxiter=50)[0]

    def check(dx):
        def bwd(args, dy):
            x, b = args
            return dx(x, b, dy), dy / (x + 1)

        return gradcheck.check_vjp(solve, lambda *a: (solve(*a), a), bwd, (A[:3], S[:3]))

    assert [str(leaf.verdict) for leaf in check(lambda x, b, dy: 0 * x).leaves] == ["PASS", "PASS"]
    assert [str(leaf.verdict) for leaf in check(lambda x, b, dy: -dy * b / (x + 1) ** 2).leaves] == ["WRONG", "PASS"]


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e7), ("bfloat16", 1024.0)])
def test_a_gradient_that_loses_its_digits_in_the_types_given_does_not_pass(dtype, large):
    def bwd(x, dy):
        return (dy * ((x + large) ** 2 - (x - large) ** 2) / (2 * large),)

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), bwd)
    x = jnp.asarray(X, dtype)
    for report in (
        gradcheck.check_vjp(lambda x: x**2, lambda x: (x**2, x), bwd, (x,)),
        gradcheck.check_custom_vjp(square, (x,)),
    ):
        assert (report.verdict, report.diagnoses[0].cause) == ("WRONG", "PRECISION"), report
        assert f"in {dtype}, its error is" in report.leaves[0].detail


def test_a_kink_of_the_types_given_alone_is_no_mistake():
    x = np.array([0.7, 1.0, 2.0, 0.1], np.float32)  # 0.7 in float32 is less than 0.7

    def loss(x):
        return jnp.sum(jnp.where(x > 0.7, x - 0.7, 0.0))

    assert gradcheck.check_gradient(loss, lambda x: jnp.where(x >= 0.7, 1.0, 0.0).astype(x.dtype), (x,)).passed


def test_searches_survive_what_a_function_may_hold():
    """Chunks of a sequence, an equation without a result, an empty sum, a scalar."""

    def f(x, w):
        s = jnp.zeros(2)
        for k in range(2):
            s = jnp.tanh(s * w + x[2 * k : 2 * k + 2] * jnp.exp(s))
        jax.debug.callback(lambda _: None, s)
        return s + jnp.sum(jnp.exp(x[2:2]))

    def bwd(args, dy):
        dx, dw = jax.vjp(f, *args)[1](dy)
        return dx * (1 + jnp.sin(9 * args[0])), dw

    report = gradcheck.check_vjp(f, lambda *a: (f(*a), a), bwd, (S[:4], np.float64(0.7)))
    (diagnosis,) = report.diagnoses
    assert (report.verdict, diagnosis.cause, diagnosis.leaf) == ("WRONG", "UNEXPLAINED", "x"), report
    assert "exception" not in diagnosis.detail


def test_an_order_that_depends_on_the_values_is_not_told_as_one_order():
    report = gradcheck.check_gradient(lambda x: jnp.sum(x**3), lambda x: jnp.sort(3 * x**2), (S,))
    assert not any("in another order" in d.detail for d in report.diagnoses), report


def test_the_search_ends_in_time_and_says_so(monkeypatch):
    monkeypatch.setitem(check.SECONDS, "fast", 0.0)
    report = gradcheck.check_vjp(
        layer_norm, lambda x: (layer_norm(x), (x,)), lambda args, dy: batch_norm_back(args, dy), (X,)
    )
    (diagnosis,) = report.diagnoses
    assert (report.verdict, diagnosis.cause) == ("WRONG", "UNEXPLAINED")
    assert 'budget="full"' in diagnosis.detail


def test_arguments_drawn_by_the_seed_of_the_check_hide_nothing(x64):
    """Were dy the same numbers as x, xᵀ dy would be symmetric."""
    random = np.random.RandomState(0)
    x, w = random.standard_normal((3, 3)), random.standard_normal((3, 3))

    def bwd(args, dy):
        return dy @ args[1].T, dy.T @ args[0]

    report = gradcheck.check_vjp(jnp.matmul, lambda *a: (jnp.matmul(*a), a), bwd, (x, w), seed=0)
    assert [str(leaf.verdict) for leaf in report.leaves] == ["PASS", "WRONG"]
