"""Losses: values from the definitions, kinks, extremes, labels."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, cotangent_like, hand, relative_error

from fundamentals import hand_derived, losses
from fundamentals.base import bind
from fundamentals.catalogue import RULES

SOFTMAX_CROSS_ENTROPY, MULTICLASS_HINGE = RULES["softmax_cross_entropy"].rule, RULES["multiclass_hinge"].rule
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])


@functools.partial(jax.jit, static_argnums=0)
def program(rule, args, dy):
    """The value, the cotangents by hand and by autodiff."""
    return rule.primal(*args), hand(rule, args, dy), autodiff(rule, args, dy)


def value_and_cotangents(rule, args, dy):
    """The same as NumPy arrays."""
    return jax.tree.map(np.asarray, program(rule, args, dy))


def value(name, *args):
    """A loss, in one program."""
    return np.asarray(jax.jit(getattr(losses, name))(*args))


@pytest.mark.usefixtures("x64")
def test_values():
    rng = np.random.RandomState(0)
    z, t = rng.normal(size=(2, 3, 5)), rng.uniform(size=(2, 3, 5))
    np.testing.assert_allclose(value("squared_error", z, t), 0.5 * ((z - t) ** 2).sum(axis=-1), rtol=1e-14)
    p = 1 / (1 + np.exp(-z))
    expected = -t * np.log(p) - (1 - t) * np.log(1 - p)
    np.testing.assert_allclose(value("binary_cross_entropy", z, t), expected, rtol=1e-13)
    labels = np.array([[0, 4, 4], [2, 1, 0]])
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, labels[..., None], axis=-1))[..., 0]
    np.testing.assert_allclose(value("softmax_cross_entropy", z, labels), expected, rtol=1e-13)
    signs = np.where(t > 0.5, 1, -1)
    np.testing.assert_allclose(value("hinge", z, signs), np.maximum(0, 1 - signs * z), rtol=1e-14)


@DTYPES
@pytest.mark.parametrize("labels", [np.array([1, -1, 1]), np.array([1.0, -1.0, 1.0])])
@pytest.mark.usefixtures("x64")
def test_hinge_at_the_kink_has_derivative_zero(labels, dtype):
    labels = jnp.asarray(labels, dtype) if labels.dtype == float else labels
    scores = jnp.array([1.0, -1.0, 0.5], dtype)  # on the margin twice, inside once
    dy = jnp.ones(3, dtype)
    for cotangents in value_and_cotangents(RULES["hinge"].rule, (scores, labels), dy)[1:]:
        np.testing.assert_array_equal(cotangents[0], np.array([0.0, 0.0, -1.0]))


@DTYPES
@pytest.mark.usefixtures("x64")
def test_extremes_are_finite_and_agree(dtype):
    logits = jnp.array([[1e4, -1e4, 0.0, 30.0], [-1e4, -1e4, -1e4, 1e4], [0.0, 0.0, 0.0, 0.0]], dtype)
    targets = jnp.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.0], [0.0, 0.5, 1.0, 0.25]], dtype)
    cases = [
        ("binary_cross_entropy", (logits, targets)),
        ("softmax_cross_entropy", (logits, jnp.array([1, 3, 0]))),
        ("hinge", (logits, jnp.array([[1, 1, -1, -1], [-1, 1, 1, 1], [1, -1, 1, -1]]))),
        ("softmax_cross_entropy(label_smoothing=0.1, ignored_label=-1)", (logits, jnp.array([1, 3, -1]))),
        ("multiclass_hinge", (logits, jnp.array([1, 3, 0]))),
    ]
    for name, args in cases:
        rule = RULES[name].rule
        dy = cotangent_like(jax.eval_shape(rule.primal, *args))
        y, found, expected = value_and_cotangents(rule, args, dy)
        assert np.all(np.isfinite(np.asarray(y, np.float64))), name
        assert all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(found)), name
        assert relative_error(found, expected) <= TOLERANCE[dtype], name


def test_binary_cross_entropy_keeps_the_digits_of_a_small_loss():
    # softplus(z) − z is 0 in float32 from z = 17 on; the loss and its gradient are e⁻²⁰.
    z, t = jnp.array([20.0, -20.0]), jnp.array([1.0, 0.0])
    np.testing.assert_allclose(value("binary_cross_entropy", z, t), np.full(2, np.log1p(np.exp(-20.0))), rtol=1e-6)
    (dz, _) = hand(RULES["binary_cross_entropy"].rule, (z, t), jnp.ones(2))
    np.testing.assert_allclose(dz, np.array([-1, 1]) / (1 + np.exp(20.0)), rtol=1e-6)


def test_softmax_cross_entropy_of_large_logits_keeps_its_digits():
    # log Σ e^z alone, near 1e4, would round the loss to a thousandth.
    logits = np.array([[1e4, 1e4 - 3.0, 1e4 - 5.0]], np.float32)
    expected = np.log(1 + np.exp(-3.0) + np.exp(-5.0)) + np.array([0.0, 3.0, 5.0])
    found = value("softmax_cross_entropy", np.repeat(logits, 3, axis=0), np.arange(3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 4, 2**31 - 1])
def test_labels_out_of_range_under_jit_give_nan(label):
    logits = jnp.arange(8.0).reshape(2, 4)
    loss = jax.jit(losses.softmax_cross_entropy)(logits, jnp.array([label, 2]))
    assert np.isnan(loss[0])
    assert np.isfinite(loss[1])


def test_wide_labels_out_of_range():
    logits = jnp.zeros((1, 3))
    with pytest.raises(ValueError, match="labels has values from 4294967297 to 4294967297"):
        losses.softmax_cross_entropy(logits, np.array([2**32 + 1]))  # whose lower half is a class
    with jax.enable_x64(True):
        assert np.isnan(jax.jit(losses.softmax_cross_entropy)(logits, jnp.array([2**32 + 1])))


def test_hinge_of_nan_is_nan_backward_too():
    scores, labels = jnp.array([jnp.nan, 0.5]), jnp.array([1, 1])
    y, *cotangents = value_and_cotangents(RULES["hinge"].rule, (scores, labels), jnp.ones(2))
    assert np.isnan(y[0])
    for dscores, _ in cotangents:
        np.testing.assert_array_equal(dscores, [-1.0, -1.0])


def test_small_integer_labels_of_many_classes():
    logits = jnp.zeros((2, 300))
    np.testing.assert_allclose(
        value("softmax_cross_entropy", logits, np.array([200, 255], np.uint8)), np.log(300), rtol=1e-6
    )


def test_no_examples():
    none, labels, dy = jnp.zeros((0, 3)), jnp.zeros((0,), jnp.int32), jnp.zeros(0)
    for rule in (SOFTMAX_CROSS_ENTROPY, bind(SOFTMAX_CROSS_ENTROPY, ignored_label=0), MULTICLASS_HINGE):
        y, (dlogits, _), _ = value_and_cotangents(rule, (none, labels), dy)
        assert (y.shape, dlogits.shape) == ((0,), (0, 3))
    assert value("squared_error", none, none).shape == (0,)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.usefixtures("x64")
def test_label_smoothing_is_cross_entropy_to_smoothed_targets(traced):
    logits, labels = jnp.asarray(np.random.RandomState(0).normal(size=(3, 5))), jnp.array([0, 4, 4])
    dy = jnp.array([1.0, -2.0, 0.5])

    @jax.jit
    def run(epsilon):
        rule = bind(SOFTMAX_CROSS_ENTROPY, label_smoothing=epsilon if traced else 0.3)
        return program(rule, (logits, labels), dy)

    y, (dlogits, _), (by_autodiff, _) = run(jnp.array(0.3))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    q = 0.7 * np.eye(5)[labels] + 0.3 / 5
    np.testing.assert_allclose(y, -(q * np.log(p)).sum(axis=-1), rtol=1e-13)
    np.testing.assert_allclose(dlogits, dy[:, None] * (p - q), rtol=1e-12)
    np.testing.assert_allclose(by_autodiff, dlogits, rtol=1e-12)


def test_label_smoothing_of_large_logits_keeps_its_digits():
    logits = np.array([[2.0, 0.0, -1.0]], np.float32)
    args = [(logits + c, np.array([1])) for c in (0, 8192)]
    f = jax.jit(functools.partial(losses.softmax_cross_entropy, label_smoothing=0.5))
    y = [f(*a) for a in args]
    np.testing.assert_allclose(y[1], y[0], rtol=1e-6)


@pytest.mark.parametrize(("ignored_label", "dtype"), [(2, np.int32), (-100, np.int64), (-1, np.int8), (7, np.uint8)])
def test_ignored_examples(ignored_label, dtype):
    labels = np.array([1, ignored_label, 3, 0, ignored_label], dtype)
    logits = np.random.RandomState(0).normal(size=(5, 4)).astype(np.float32)
    logits[[1, 4]] = [np.nan, np.inf, -np.inf, 1e4]  # which may be anything
    rule, dy = bind(SOFTMAX_CROSS_ENTROPY, ignored_label=ignored_label), jnp.arange(1.0, 6.0)
    y, *cotangents = value_and_cotangents(rule, (jnp.asarray(logits), labels), dy)
    np.testing.assert_array_equal(rule.primal(logits, labels), y)
    p = np.exp(logits[[0, 2, 3]]) / np.exp(logits[[0, 2, 3]]).sum(axis=-1, keepdims=True)
    one_hot = np.eye(4)[[1, 3, 0]]
    np.testing.assert_allclose(y, np.insert(-np.log(p[one_hot > 0]), [1, 3], 0), rtol=1e-6)
    expected = np.insert(np.array([[1], [3], [4]]) * (p - one_hot), [1, 3], 0, axis=0)
    for dlogits, _ in cotangents:
        np.testing.assert_allclose(dlogits, expected, atol=1e-6)


def test_ignored_label_that_the_dtype_does_not_hold():
    f = jax.jit(functools.partial(losses.softmax_cross_entropy, ignored_label=-100))
    y = f(jnp.zeros((2, 4)), jnp.array([156, 1], jnp.uint8))  # −100, were it to wrap around
    np.testing.assert_allclose(y, [np.nan, np.log(4)], rtol=1e-6)


def test_label_that_is_neither_ignored_nor_a_class():
    logits, labels = jnp.zeros((3, 4)), jnp.array([-1, 4, -2])
    for f in (losses.softmax_cross_entropy, hand_derived(SOFTMAX_CROSS_ENTROPY)):
        y = jax.jit(functools.partial(f, ignored_label=-1))(logits, labels)
        np.testing.assert_array_equal(y, [0, np.nan, np.nan])


ERRORS = {
    "softmax_cross_entropy: labels has values from -2 to 3; expected class indices in [0, 3) or -1": (
        ValueError,
        lambda: losses.softmax_cross_entropy(jnp.zeros((4, 3)), jnp.array([-1, -2, 3, -1]), ignored_label=-1),
    ),
    "softmax_cross_entropy: ignored_label is 1.0 (float); expected an integer or None": (
        TypeError,
        lambda: losses.softmax_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), ignored_label=1.0),
    ),
    "softmax_cross_entropy: ignored_label is True (bool); expected an integer or None": (
        TypeError,
        lambda: losses.softmax_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), ignored_label=True),
    ),
    "softmax_cross_entropy: label_smoothing is 1.0; expected a number in [0, 1)": (
        ValueError,
        lambda: losses.softmax_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), label_smoothing=1.0),
    ),
    "softmax_cross_entropy: label_smoothing has shape [1]; expected a number in [0, 1)": (
        TypeError,
        lambda: losses.softmax_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), label_smoothing=jnp.zeros(1)),
    ),
    "multiclass_hinge: labels has values from 0 to 3; expected class indices in [0, 3)": (
        ValueError,
        lambda: losses.multiclass_hinge(jnp.zeros((2, 3)), jnp.array([0, 3])),
    ),
    "multiclass_hinge: labels has shape [3]; expected [...] with ... = [2] from scores [2, 3]": (
        ValueError,
        lambda: losses.multiclass_hinge(jnp.zeros((2, 3)), jnp.array([0, 1, 2])),
    ),
    "multiclass_hinge: scores has K = 0; expected K ≥ 1": (
        ValueError,
        lambda: losses.multiclass_hinge(jnp.zeros((0, 0)), jnp.zeros(0, jnp.int32)),
    ),
    "multiclass_hinge: labels has dtype float32; expected an integer dtype": (
        TypeError,
        lambda: losses.multiclass_hinge(jnp.zeros((2, 3)), jnp.zeros(2)),
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_messages(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.usefixtures("x64")
def test_multiclass_hinge_values():
    # The three images of the lecture on loss functions of Stanford's CS231n, and the formula in a loop.
    scores = np.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    np.testing.assert_allclose(value("multiclass_hinge", scores, np.array([0, 1, 2])), [2.9, 0, 12.9], rtol=1e-14)
    scores, labels = np.random.RandomState(0).normal(size=(3, 2, 5)), np.array([[0, 4], [2, 2], [1, 3]])
    found = value("multiclass_hinge", scores, labels)
    for i in np.ndindex(3, 2):
        wrong = [j for j in range(5) if j != labels[i]]
        np.testing.assert_allclose(
            found[i], sum(max(0, 1 + scores[i][j] - scores[i][labels[i]]) for j in wrong), rtol=1e-14
        )


@DTYPES
@pytest.mark.usefixtures("x64")
def test_multiclass_hinge_at_the_kink_has_derivative_zero(dtype):
    scores = jnp.array([[2.0, 1.0, 1.5, 1.0], [0.0, 1.0, -1.0, 0.0]], dtype)  # two on the margin, one, and one within
    y, *cotangents = value_and_cotangents(MULTICLASS_HINGE, (scores, jnp.array([0, 1])), jnp.ones(2, dtype))
    np.testing.assert_array_equal(y.astype(float), [0.5, 0])
    for dscores, _ in cotangents:
        np.testing.assert_array_equal(dscores.astype(float), [[-1, 0, 1, 0], [0, 0, 0, 0]])


def test_multiclass_hinge_of_nan_and_of_labels_out_of_range():
    # Every class then counts as violating the margin; a label that is none takes no share.
    scores = jnp.array([[jnp.nan, 0.0, 9.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    args, dy = (scores, jnp.array([0, 3, -1])), jnp.array([1.0, 2.0, 3.0])
    y, *cotangents = value_and_cotangents(MULTICLASS_HINGE, args, dy)
    assert np.all(np.isnan(y))
    for dscores, _ in cotangents:
        np.testing.assert_array_equal(dscores, [[-2, 1, 1], [2, 2, 2], [3, 3, 3]])


def test_multiclass_hinge_sums_in_float32():
    # Counting to 3000 in float16 stops at 2048.
    args = jnp.zeros((1, 3001), jnp.float16), jnp.array([7])
    y, *cotangents = value_and_cotangents(MULTICLASS_HINGE, args, jnp.ones(1, jnp.float16))
    assert y == 3000
    assert cotangents[0][0][0, 7] == -3000
