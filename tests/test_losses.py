"""Losses: values from the definitions, kinks, extremes, labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, cotangent_like, hand, relative_error

from fundamentals import losses
from fundamentals.catalogue import RULES

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])


@pytest.mark.usefixtures("x64")
def test_values():
    rng = np.random.RandomState(0)
    z, t = rng.normal(size=(2, 3, 5)), rng.uniform(size=(2, 3, 5))
    np.testing.assert_allclose(losses.squared_error(z, t), 0.5 * ((z - t) ** 2).sum(axis=-1), rtol=1e-14)
    p = 1 / (1 + np.exp(-z))
    expected = -t * np.log(p) - (1 - t) * np.log(1 - p)
    np.testing.assert_allclose(losses.binary_cross_entropy(z, t), expected, rtol=1e-13)
    labels = np.array([[0, 4, 4], [2, 1, 0]])
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, labels[..., None], axis=-1))[..., 0]
    np.testing.assert_allclose(losses.softmax_cross_entropy(z, labels), expected, rtol=1e-13)
    signs = np.where(t > 0.5, 1, -1)
    np.testing.assert_allclose(losses.hinge(z, signs), np.maximum(0, 1 - signs * z), rtol=1e-14)


@DTYPES
@pytest.mark.parametrize("labels", [np.array([1, -1, 1]), np.array([1.0, -1.0, 1.0])])
@pytest.mark.usefixtures("x64")
def test_hinge_at_the_kink_has_derivative_zero(labels, dtype):
    labels = jnp.asarray(labels, dtype) if labels.dtype == float else labels
    scores = jnp.array([1.0, -1.0, 0.5], dtype)  # on the margin twice, inside once
    dy = jnp.ones(3, dtype)
    for cotangents in (
        hand(RULES["hinge"].rule, (scores, labels), dy),
        autodiff(RULES["hinge"].rule, (scores, labels), dy),
    ):
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
    ]
    for name, args in cases:
        rule = RULES[name].rule
        y = rule.primal(*args)
        dy = cotangent_like(y)
        found, expected = hand(rule, args, dy), autodiff(rule, args, dy)
        assert np.all(np.isfinite(np.asarray(y, np.float64))), name
        assert all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(found)), name
        assert relative_error(found, expected) <= TOLERANCE[dtype], name


def test_binary_cross_entropy_keeps_the_digits_of_a_small_loss():
    # softplus(z) − z is 0 in float32 from z = 17 on; the loss and its gradient are e⁻²⁰.
    z, t = jnp.array([20.0, -20.0]), jnp.array([1.0, 0.0])
    np.testing.assert_allclose(losses.binary_cross_entropy(z, t), np.full(2, np.log1p(np.exp(-20.0))), rtol=1e-6)
    (dz, _) = hand(RULES["binary_cross_entropy"].rule, (z, t), jnp.ones(2))
    np.testing.assert_allclose(dz, np.array([-1, 1]) / (1 + np.exp(20.0)), rtol=1e-6)


def test_softmax_cross_entropy_of_large_logits_keeps_its_digits():
    # log Σ e^z alone, near 1e4, would round the loss to a thousandth.
    logits = jnp.array([[1e4, 1e4 - 3.0, 1e4 - 5.0]])
    expected = np.log(1 + np.exp(-3.0) + np.exp(-5.0)) + np.array([0.0, 3.0, 5.0])
    found = [losses.softmax_cross_entropy(logits, jnp.array([label]))[0] for label in range(3)]
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
    assert np.isnan(losses.hinge(scores, labels)[0])
    rule = RULES["hinge"].rule
    for by in (hand, autodiff):
        np.testing.assert_array_equal(by(rule, (scores, labels), jnp.ones(2))[0], [-1.0, -1.0])


def test_small_integer_labels_of_many_classes():
    logits = jnp.zeros((2, 300))
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(logits, np.array([200, 255], np.uint8)), np.log(300), rtol=1e-6
    )


def test_no_examples():
    assert losses.softmax_cross_entropy(jnp.zeros((0, 3)), jnp.zeros((0,), jnp.int32)).shape == (0,)
    assert losses.squared_error(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0,)
