"""Activations: values from NumPy transcriptions of the formulas, kinks, extremes, bad input.

Those of one array share a program for each dtype, of arrays [2, 12].
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, both, cotangent_like, relative_error

from fundamentals import activations, hand_derived
from fundamentals.base import Rule, bind
from fundamentals.catalogue import RULES

ELEMENTWISE = [name for name, entry in RULES.items() if entry.example.__name__ == "_elementwise"]
MAXOUT = RULES["maxout"].rule
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])

X = np.array([-30.0, -3.0, -1.5, -0.25, -1e-5, 0.0, 1e-5, 0.5, 1.0, 2.0, 4.0, 30.0])
ERF = np.vectorize(math.erf)
FORMULAS = {
    "sigmoid": 1 / (1 + np.exp(-X)),
    "tanh": (np.exp(X) - np.exp(-X)) / (np.exp(X) + np.exp(-X)),
    "relu": np.maximum(0, X),
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "leaky_relu(negative_slope=0.3)": np.where(X > 0, X, 0.3 * X),
    "elu": np.where(X > 0, X, np.exp(np.minimum(X, 0)) - 1),
    "elu(alpha=0.5)": np.where(X > 0, X, 0.5 * (np.exp(np.minimum(X, 0)) - 1)),
    "softplus": np.log(1 + np.exp(X)),
    "silu": X / (1 + np.exp(-X)),
    "gelu": 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3))),
    "gelu(approximate=False)": X * 0.5 * (1 + ERF(X / np.sqrt(2))),
}


@functools.cache
def program(name):
    """(x, dy) → value, cotangent by hand, cotangent by autodiff."""
    by_hand, by_autodiff = both(RULES[name].rule), both(RULES[name].rule, autodiff)

    @jax.jit
    def one(x, dy):
        (y, (found,)), (_, (expected,)) = by_hand((x,), dy), by_autodiff((x,), dy)
        return y, found, expected

    return one


def padded(values, dtype):
    """As an array [2, 12], zeros after the values."""
    x = np.zeros((2, len(X)))
    x.flat[: np.size(values)] = np.ravel(values)
    return jnp.asarray(x.astype(dtype))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.usefixtures("x64")
def test_elementwise_values(name):
    assert name in FORMULAS, f"{name} has no entry in FORMULAS: its formula in NumPy, written independently"
    x = padded(X, "float64")
    # The transcriptions lose digits near 0 and far out, hence the absolute part of the tolerance.
    np.testing.assert_allclose(program(name)(x, x)[0][0], FORMULAS[name], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_softmax_values():
    x = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.5]])
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(activations.softmax(x), p, rtol=1e-14)
    np.testing.assert_allclose(activations.log_softmax(x), np.log(p), rtol=1e-13)
    np.testing.assert_allclose(activations.softmax(x + 1e4), p, rtol=1e-11)  # a shift changes nothing


@pytest.mark.usefixtures("x64")
def test_maxout_values():
    rng = np.random.RandomState(0)
    x, w, b = rng.normal(size=(2, 5, 7)), rng.normal(size=(3, 7, 4)), rng.normal(size=(3, 4))
    expected = np.max(np.stack([x @ w[p] + b[p] for p in range(3)]), axis=0)
    np.testing.assert_allclose(activations.maxout(x, w, b), expected, rtol=1e-13)


KINKS = [
    ("relu", 0.0),
    ("leaky_relu", 0.01),
    ("leaky_relu(negative_slope=0.3)", 0.3),
    ("elu", 1.0),
    ("elu(alpha=0.5)", 0.5),
]
SMOOTH_AT_ZERO = [("sigmoid", 0.25), ("tanh", 1.0), ("softplus", 0.5), ("silu", 0.5), ("gelu", 0.5)]


@DTYPES
@pytest.mark.parametrize(("name", "slope"), KINKS + SMOOTH_AT_ZERO)
@pytest.mark.usefixtures("x64")
def test_derivative_at_zero(name, slope, dtype):
    x, dy = padded([0.0, -0.0, 0.0, -0.0], dtype), padded([1.0, -2.0, 0.5, 4.0], dtype)
    for cotangent in program(name)(x, dy)[1:]:
        np.testing.assert_array_equal(cotangent, np.asarray(slope, dtype) * np.asarray(dy))


@pytest.mark.usefixtures("x64")
def test_maxout_ties_go_to_the_first_piece():
    args = x, *_ = jnp.ones((1, 1)), jnp.array([[[1.0]], [[2.0]], [[2.0]]]), jnp.zeros((3, 1))
    for _, (dx, dw, db) in (both(MAXOUT)(args, x), both(MAXOUT, autodiff)(args, x)):
        np.testing.assert_array_equal(dx, [[2.0]])
        np.testing.assert_array_equal(np.ravel(dw), [0, 1, 0])
        np.testing.assert_array_equal(np.ravel(db), [0, 1, 0])


@DTYPES
@pytest.mark.parametrize("name", [*ELEMENTWISE, "softmax", "log_softmax"])
@pytest.mark.usefixtures("x64")
def test_extremes_are_finite_and_agree(name, dtype):
    x = padded([1e4, -1e4, 0.0, 88.0, -88.0, *7 * [1.0], *12 * [-1e4]], dtype)
    y, found, expected = program(name)(x, cotangent_like(x))
    assert np.all(np.isfinite(np.asarray(y, np.float64)))
    assert np.all(np.isfinite(np.asarray(found, np.float64)))
    assert relative_error(found, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", [*ELEMENTWISE, "softmax", "log_softmax"])
@pytest.mark.usefixtures("x64")
def test_nan_is_not_hidden(name):
    x = padded([1.0, np.nan, -1.0], "float32")
    y, found, expected = program(name)(x, np.ones_like(x))
    assert np.isnan(y[0, 1])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.usefixtures("x64")
def test_options_of_another_dtype_do_not_widen(dtype):
    x = jnp.array([-1.0, 2.0], dtype)
    with jax.numpy_dtype_promotion("standard"):
        for option in (np.float32(0.5), np.float64(0.5), jnp.float64(0.5)):
            for rule in (bind(RULES["elu"].rule, alpha=option), bind(RULES["leaky_relu"].rule, negative_slope=option)):
                y, (dx,) = jax.eval_shape(both(rule), (x,), x)
                assert y.dtype == dx.dtype == dtype


@pytest.mark.parametrize(("b", "d", "h"), [(2, 0, 4), (2, 5, 0), (0, 5, 4)])
def test_maxout_without_inputs_outputs_or_examples(b, d, h):
    args = jnp.ones((b, d)), jnp.ones((3, d, h)), jnp.ones((3, h))
    _, cotangents = both(MAXOUT)(args, jnp.ones((b, h)))
    for arg, cotangent in zip(args, cotangents, strict=True):
        assert cotangent.shape == arg.shape


def test_maxout_nan_is_not_hidden():
    w = jnp.array([[[1.0]], [[jnp.nan]], [[5.0]]])
    assert np.isnan(activations.maxout(jnp.ones((1, 1)), w, jnp.zeros((3, 1))))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4)])
def test_elementwise_take_any_shape(shape):
    x = jnp.full(shape, 0.5)
    for name in ELEMENTWISE:
        y, (dx,) = jax.eval_shape(both(RULES[name].rule), (x,), x)
        assert y.shape == dx.shape == shape


def test_softmax_of_many_half_precision_numbers_sums_to_one():
    # 4096 terms: a running sum in bfloat16 would stop at 256.
    y = activations.softmax(jnp.zeros((1, 4096), jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(y, np.float64).sum(), 1, rtol=1e-2)


def test_options_pass_through_hand_derived():
    rule = Rule(activations.elu, activations.elu_fwd, activations.elu_bwd)
    found = jax.grad(lambda x: hand_derived(rule)(x, alpha=0.5))(-1.0)
    np.testing.assert_allclose(found, 0.5 * np.exp(-1.0), rtol=1e-6)


def test_hand_derived_takes_arguments_by_name():
    rule = RULES["linear"].rule
    x, w, b = RULES["linear"].arguments(jax.random.key(0), jnp.float32)
    gradient = jax.grad(lambda w: hand_derived(rule)(x, b=b, w=w).sum())(w)
    np.testing.assert_allclose(gradient, np.tile(x.sum(axis=0)[:, None], (1, w.shape[1])), rtol=1e-5)
