"""Functions and calls that are not what they should be: a verdict and a message, never a traceback from inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import B, W, X, causes, check, layer, layer_bwd, only, relu

from fundamentals import gradcheck
from fundamentals.gradcheck import Cause


def test_numpy_is_called_as_it_is_and_judged_by_differences():
    def loss(w):
        return float(np.sum(np.asarray(w) ** 3))

    report = gradcheck.check_gradient(loss, lambda w: 3 * np.asarray(w) ** 2, (W,))
    assert (report.verdict, only(report).detects) == ("PASS", 1e-6)
    wrong = gradcheck.check_gradient(loss, lambda w: np.asarray(w) ** 2, (W,))
    assert (wrong.verdict, causes(wrong)) == ("WRONG", [Cause.SCALE])
    assert gradcheck.check_gradient(lambda w: jnp.sum(w**3), lambda w: 3 * np.asarray(w) ** 2, (W,)).passed


def test_functions_that_refuse_float64_are_checked_all_the_same():
    def carried(x):  # a carry of another type than the sequence would be a TypeError
        return jax.lax.scan(lambda h, row: (h * row, None), jnp.ones(3, jnp.float32), x)[0]

    def closed_over(x):
        return x @ jnp.asarray(W)

    def backward(args, dy):
        x, y = args[0], carried(args[0])
        return (y[None] * dy[None] / x,)

    assert check(carried, backward, X).verdict == "PASS"
    with jax.numpy_dtype_promotion("strict"):
        assert check(closed_over, lambda args, dy: (dy @ jnp.asarray(W).T,), X).verdict == "PASS"


def test_integers_keys_empty_arrays_and_axes_of_length_one():
    ids = np.array([2, 0, 2])

    def embed(table, ids):
        return table[ids]

    def add(args, dy):
        return jnp.zeros_like(args[0]).at[args[1]].add(dy), None

    def overwrite(args, dy):
        return jnp.zeros_like(args[0]).at[args[1]].set(dy), None

    assert check(embed, add, X, ids).passed
    assert causes(check(embed, overwrite, X, ids)) == [Cause.OVERWRITE]

    def noisy(x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)

    def same_noise(args, dy):
        return noisy(dy, args[1]), None

    assert check(noisy, same_noise, X, jax.random.key(0)).passed
    assert only(check(lambda x: 2 * x, lambda args, dy: (2 * dy,), np.zeros((0, 3), np.float32))).detail == "empty"
    assert check(lambda x: x.sum(0), lambda args, dy: (dy[None],), np.ones((1, 1), np.float32)).passed


STRAY = []


def leaking(args, dy):
    STRAY.append(args[0])
    return (2 * STRAY[0] * dy,)


CALLS = []


def counting(args, dy):
    CALLS.append(1)
    return (len(CALLS) * dy,)


def in_place(args, dy):
    x = np.asarray(args[0])
    return (float(np.sum(x)) * dy,)


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda args, dy: (np.float32(np.random.rand()) * dy,), "depends on chance"),
        (counting, "depends on chance or on a state"),
        (leaking, "a side effect"),
        (lambda args, dy: 1 / 0, "raised ZeroDivisionError at test_contract.py:"),
        (lambda args, dy: dy, "expected a tuple of 1"),
        (lambda args, dy: (dy, dy), "a tuple of 2; expected a tuple of 1"),
        (lambda args, dy: ([dy],), "the gradient for x is a list of 1; x is an array"),
        (lambda args, dy: (dy[0],), "is float32[3]; x is float32[5, 3]"),
        (lambda args, dy: (dy.astype(jnp.float16),), "is float16; x is float32"),
        (lambda args, dy: ("no",), "expected an array"),
    ],
)
def test_breaches_of_the_contract_are_told(backward, message):
    report = check(lambda x: x**2, backward, X)
    assert report.verdict == "CONTRACT"
    assert message in " ".join(str(report).split())


def test_functions_that_do_not_work_are_told():
    def twice(args, dy):
        return (2 * dy,)

    def raising(x):
        return x @ x

    assert "the function raised TypeError at test_contract.py:" in str(check(raising, twice, X))
    assert "two calls of the function" in str(check(lambda x: x * np.float32(np.random.rand()), twice, X))
    assert "not finite at these arguments" in only(check(jnp.log, twice, np.float32([-1.0, 2.0]))).detail
    assert "no argument is floating" in str(check(lambda x: x, twice, np.arange(3)))
    assert "none of it floating" in str(check(lambda x: x.astype(int), twice, X))
    assert "one floating scalar" in str(gradcheck.check_gradient(lambda x: x, lambda x: x, (X,)))
    other = gradcheck.check_vjp(lambda x: 2 * x, lambda x: (2.5 * x, None), lambda _, dy: (2 * dy,), (X,))
    assert (other.verdict, causes(other)) == ("CONTRACT", [Cause.OTHER_FORWARD])
    assert "expected (y, residuals)" in str(gradcheck.check_vjp(relu, relu, lambda _, dy: (dy,), (X,)))


def test_wrong_shapes_are_explained():
    def unreduced(args, dy):
        dx, dw, _ = layer_bwd(args, dy)
        return dx, dw, dy * (1 - layer(*args) ** 2)

    def transposed(args, dy):
        dx, dw, db = layer_bwd(args, dy)
        return dx, dw.T, db

    report = check(layer, unreduced, X, W, B)
    assert (report.verdict, causes(report)) == ("CONTRACT", [Cause.UNREDUCED])
    assert report.diagnoses[0].fix == "db.sum(axis=0)"
    assert causes(check(layer, transposed, X, W, B)) == [Cause.TRANSPOSE]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check(relu, relu, X, point=3), TypeError, "unknown option 'point'"),
        (lambda: check(relu, relu, X, kinks="no"), ValueError, "expected 'classify' or 'strict'"),
        (lambda: check(relu, relu, X, order=3), ValueError, "order is 3"),
        (lambda: check(relu, relu, X, points=-1), ValueError, "points is -1"),
        (lambda: check(relu, relu, X, seed=-1), ValueError, "seed is -1"),
        (
            lambda: check(relu, lambda a, dy: (dy,), X, points=[(X[:2],)]),
            ValueError,
            "another structure or other shapes",
        ),
        (lambda: check(relu, lambda a, dy: (dy,), X, cotangent=X[:2]), ValueError, "cotangent has the shapes"),
        (lambda: check(lambda x, s: x, lambda a, dy: (dy,), X, "mean"), TypeError, "s is 'mean'; expected an array"),
        (lambda: gradcheck.check_vjp(relu, relu, relu, X), TypeError, "args is a ndarray; expected a tuple"),
        (lambda: gradcheck.check_vjp(relu, None, relu, (X,)), TypeError, "fwd is None; expected a function"),
        (lambda: gradcheck.check_rule(relu, (X,)), TypeError, r"expected \(primal, fwd, bwd\)"),
        (lambda: gradcheck.check_gradient(relu, relu, (X,), argnums=3), ValueError, "argnums is 3"),
        (lambda: gradcheck.check_gradient(relu, relu, (X,), cotangent=X), ValueError, "a loss has none"),
    ],
)
def test_unusable_calls_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_configuration_of_the_caller_is_left_alone():
    before = jax.config.values.copy()
    check(layer, layer_bwd, X, W, B)
    assert jax.config.values == before
    assert jnp.zeros(()).dtype == jnp.float32


def test_functions_that_raise_or_take_odd_arguments_get_a_report():
    def raising(w):
        if np.asarray(w)[0, 0] != X[0, 0]:
            raise ValueError("no other argument")
        return float(np.sum(np.asarray(w) ** 2))

    assert gradcheck.check_gradient(raising, lambda w: 2 * np.asarray(w), (X,)).verdict == "CONTRACT"
    tree = {"a": X, "b": None}
    assert check(lambda t: 2 * t["a"], lambda args, dy: ({"a": 2 * dy, "b": None},), tree).passed
    assert "is None" in str(gradcheck.check_gradient(lambda x: (x**2).sum(), lambda x: None, (X,)))
    assert gradcheck.check_gradient(lambda x: (x**2).sum(), lambda x: 2 * x, (X,), argnums=np.int64(0)).passed
    assert gradcheck.check_custom_vjp(lambda x: x**2, (X,)).verdict == "INCONCLUSIVE"
    with pytest.raises(TypeError, match="x is traced; check gradients outside of jit"):
        jax.jit(lambda x: check(relu, relu, x))(X)
    for cotangent in (0 * X, np.nan * X):
        with pytest.raises(ValueError, match="nothing could be seen"):
            check(lambda x: x**2, lambda args, dy: (2 * args[0] * dy,), X, cotangent=cotangent)
    mesh = jax.make_mesh((1,), ("i",))
    doubled = jax.shard_map(lambda x: 2 * x, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    assert check(doubled, lambda args, dy: (2 * dy,), X).passed
