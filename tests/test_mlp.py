"""The multilayer perceptron: values and gradients against NumPy loops and float64 autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, assert_slopes, fill, relative_error

from fundamentals.catalogue import RULES
from fundamentals.models import mlp

ACTIVATIONS = ["relu", "silu", "softmax"]  # one that keeps its output, one its input, one that mixes entries
LOSSES = ["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "hinge"]


def problem(loss="softmax_cross_entropy", sizes=(7, 5, 3, 11), pieces=None, examples=13):
    rng = np.random.RandomState(0)
    params = fill(lambda key: mlp.init(key, sizes, pieces=pieces, dtype=jnp.float64))
    x = jnp.asarray(rng.normal(size=(examples, sizes[0])))
    labels = rng.randint(0, sizes[-1], size=examples)
    one_hot = labels[:, None] == np.arange(sizes[-1])
    targets = {"softmax_cross_entropy": labels, "hinge": 2 * one_hot - 1}.get(loss, one_hot * 0.8 + 0.1)
    return params, x, jnp.asarray(targets)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.usefixtures("x64")
def test_gradient_for_every_kind_of_activation(activation):
    params, x, targets = problem()
    rules = {"activation": RULES[activation].rule}
    found = jax.jit(lambda *a: mlp.loss_and_gradient(*a, **rules))(params, x, targets)
    expected = jax.jit(jax.value_and_grad(lambda *a: mlp.loss(*a, **rules)))(params, x, targets)
    assert relative_error(found, expected) <= TOLERANCE["float64"]


@pytest.mark.parametrize(("loss", "pieces"), [*((loss, None) for loss in LOSSES), (LOSSES[0], 3)])
@pytest.mark.usefixtures("x64")
def test_gradient_for_every_loss(loss, pieces):
    params, x, targets = problem(loss, pieces=pieces)
    rules = {"loss_rule": RULES[loss].rule}
    found = jax.jit(lambda *a: mlp.loss_and_gradient(*a, **rules))(params, x, targets)
    expected = jax.jit(jax.value_and_grad(lambda *a: mlp.loss(*a, **rules)))(params, x, targets)
    assert relative_error(found, expected) <= TOLERANCE["float64"]


@pytest.mark.parametrize("sizes", [(7, 11), (7, 2, 11), (7, 6, 5, 4, 3, 11)])
@pytest.mark.usefixtures("x64")
def test_gradient_at_every_depth(sizes):
    params, x, targets = problem(sizes=sizes)
    loss_and_gradient = jax.jit(mlp.loss_and_gradient)
    _, found = loss_and_gradient(params, x, targets)
    assert_slopes(lambda p: loss_and_gradient(p, x, targets)[0], params, found, "the gradient of ")


@pytest.mark.usefixtures("x64")
def test_forward_and_gradient_against_numpy_loops():
    # One hidden tanh layer, squared error: the derivation of a blackboard, sum by sum.
    params, x, t = problem("squared_error", sizes=(3, 2, 2), examples=4)
    (w1, b1), (w2, b2) = jax.tree.map(np.asarray, params)
    x, t = np.asarray(x), np.asarray(t)
    dw1, db1, dw2, db2, total = np.zeros((3, 2)), np.zeros(2), np.zeros((2, 2)), np.zeros(2), 0.0
    for n in range(4):
        h = [np.tanh(sum(x[n, d] * w1[d, j] for d in range(3)) + b1[j]) for j in range(2)]
        y = [sum(h[j] * w2[j, k] for j in range(2)) + b2[k] for k in range(2)]
        total += 0.5 * sum((y[k] - t[n, k]) ** 2 for k in range(2)) / 4
        for k in range(2):
            delta = (y[k] - t[n, k]) / 4
            db2[k] += delta
            for j in range(2):
                dw2[j, k] += h[j] * delta
                db1[j] += w2[j, k] * delta * (1 - h[j] ** 2)
                for d in range(3):
                    dw1[d, j] += x[n, d] * w2[j, k] * delta * (1 - h[j] ** 2)
    rules = {"activation": RULES["tanh"].rule, "loss_rule": RULES["squared_error"].rule}
    loss, gradient = jax.jit(lambda *a: mlp.loss_and_gradient(*a, **rules))(params, x, t)
    np.testing.assert_allclose(loss, total, rtol=1e-13)
    assert relative_error(gradient, (mlp.Layer(dw1, db1), mlp.Layer(dw2, db2))) <= 1e-13


@pytest.mark.usefixtures("x64")
def test_extra_leading_axes_are_examples():
    params, x, labels = problem(examples=12)
    loss_and_gradient = jax.jit(mlp.loss_and_gradient)
    flat = loss_and_gradient(params, x, labels)
    shaped = loss_and_gradient(params, x.reshape(3, 4, -1), labels.reshape(3, 4))
    assert relative_error(shaped, flat) <= TOLERANCE["float64"]


def test_init_shapes_keys_and_defaults():
    init = jax.jit(mlp.init, static_argnames=("sizes", "pieces"))
    params = init(jax.random.key(0), sizes=(64, 32, 10))
    assert [layer.w.shape for layer in params] == [(64, 32), (32, 10)]
    assert not any(np.any(layer.b) for layer in params)
    assert abs(np.var(params[0].w) * 64 / 2 - 1) < 0.15  # He
    w = jax.tree.map(np.asarray, init(jax.random.key(0), sizes=(5, 5, 5, 5), pieces=2))
    assert [layer.w.shape for layer in w] == [(2, 5, 5), (2, 5, 5), (5, 5)]
    drawn = [w[0].w[0], w[0].w[1], w[1].w[0], w[1].w[1], w[2].w]
    assert all(np.any(a != b) for i, a in enumerate(drawn) for b in drawn[:i])  # no key twice


def test_dtype_follows_the_parameters():
    params = fill(lambda key: mlp.init(key, (7, 5, 3), dtype=jnp.bfloat16))
    x, labels = jnp.ones((2, 7), jnp.bfloat16), jnp.array([0, 2])
    loss, gradient = jax.jit(mlp.loss_and_gradient)(params, x, labels)
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, gradient))} == {jnp.dtype(jnp.bfloat16)}
