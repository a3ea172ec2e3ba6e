"""Jacobians: known patterns, degenerate shapes, what is proven and what is not, bytes, hostile input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import activations, layers
from fundamentals.graph.jacobians import jacobian, jacobian_bytes
from fundamentals.graph.sparsity import describe

X = jnp.asarray(np.random.RandomState(1).normal(size=(5, 7)), jnp.float32)
LINE = X.reshape(-1)
W = jnp.asarray(np.random.RandomState(2).normal(size=(7, 3)), jnp.float32)
ONES, ZEROS = jnp.ones(7), jnp.zeros(7)


@jax.custom_vjp
def mixing_on_the_way_back(x):
    return jnp.sin(x)


mixing_on_the_way_back.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x) + dy.sum(),))


@pytest.mark.parametrize(
    ("fn", "pattern", "nonzero", "proven"),
    [
        (jnp.tanh, "diagonal", 35, True),
        (activations.gelu, "diagonal", 35, True),
        (lambda x: jax.jit(jax.nn.sigmoid)(x).reshape(7, 5) * 2.0, "diagonal", 35, True),
        (lambda x: x * jnp.arange(1.0, 8.0)[None], "diagonal", 35, True),
        (lambda x: x * x + jnp.exp(-x), "diagonal", 35, True),
        (lambda x: x - 3.0, "identity", 35, True),
        (lambda x: x / 4.0 + x, "scalar times identity", 35, True),
        (jnp.floor, "zero", 0, True),
        (lambda x: jax.lax.stop_gradient(x), "zero", 0, True),
        (lambda x: jnp.ones(4), "zero", 0, False),
        (lambda x: jnp.sin(x) * jnp.where(x.sum() > 0, 2.0, 3.0), "diagonal", 35, False),
        (lambda x: x.T, "permutation", 35, False),
        (lambda x: x[::-1], "permutation", 35, False),
        (lambda x: x[1:3], "selection (one entry a row)", 14, False),
        (lambda x: x[jnp.array([2, 2, 0])], "selection (one entry a row)", 21, False),
        (lambda x: 2 * x[1:3], "one entry a row", 14, False),
        (lambda x: jnp.pad(x, 1), "at most one entry a row", 35, False),
        (activations.softmax, "block diagonal (5 blocks of 7 × 7)", 245, False),
        (lambda x: layers.layer_norm(x, ONES, ZEROS), "block diagonal (5 blocks of 7 × 7)", 245, False),
        (lambda x: layers.batch_norm(x, ONES, ZEROS), "diagonal blocks (5 × 5 of 7 × 7)", 175, False),
        (lambda x: x @ W, "block diagonal (5 equal blocks of 3 × 7)", 105, False),
        (lambda x: jnp.cumsum(x, 1), "block diagonal (5 equal blocks of 7 × 7, each lower triangular)", 140, False),
        (lambda x: x.sum(axis=1), "block diagonal (5 equal blocks of 1 × 7)", 35, False),
        (lambda x: jnp.cumsum(x.reshape(-1)), "lower triangular", 35 * 36 // 2, False),
        (lambda x: jnp.cumsum(x.reshape(-1), axis=0)[::-1][::-1] + x.reshape(-1)[0], "lower triangular", 630, False),
        (lambda x: jax.lax.cumsum(x.reshape(-1), reverse=True), "upper triangular", 630, False),
        (lambda x: jnp.convolve(x.reshape(-1), jnp.array([1.0, 2.0, 3.0]), "same"),
         "banded (1 below, 1 above the diagonal)", 103, False),
        (lambda x: jnp.diff(x.reshape(-1)), "banded (0 below, 1 above the diagonal)", 68, False),
        (lambda x: x.sum(), "dense", 35, False),
        (lambda x: x / jnp.linalg.norm(x), "dense", 35 * 35, False),
        (lambda x: jnp.outer(x[0], x[1]), "sparse (5.7 % not zero)", 98, False),
        (mixing_on_the_way_back, "dense", 35 * 35, False),
        (lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x * x + 1, x), "diagonal", 35, False),
    ],
)  # fmt: skip
def test_patterns(fn, pattern, nonzero, proven):
    found = jacobian(fn, X)
    assert (found.pattern, found.nonzero, found.proven) == (pattern, nonzero, proven)
    m, n = found.matrix.shape
    assert n == 35
    assert (found.bytes, found.vjp_bytes) == (4 * m * n, 4 * (m + n))
    assert pattern in str(found)


@pytest.mark.parametrize("rows", [2, 9])
def test_the_matrix_is_that_of_differences(x64, rows):
    w = np.random.RandomState(0).normal(size=(rows, 6))
    x = np.random.RandomState(3).normal(size=(2, 3))

    def f(x):
        return jnp.sin(w @ x.reshape(6)).reshape(rows, 1)

    found = jacobian(f, x)
    np.testing.assert_allclose(found.matrix, np.cos(w @ x.reshape(6))[:, None] * w, rtol=1e-12)
    assert found.matrix.dtype == np.float64


def test_zeros_by_chance_are_no_pattern():
    x = jnp.array([1.0, -2.0, -3.0, 4.0])
    found = jacobian(activations.relu, x)
    np.testing.assert_array_equal(found.matrix, np.diag([1.0, 0.0, 0.0, 1.0]))
    assert (found.pattern, found.nonzero) == ("diagonal", 2)
    assert jacobian(lambda x: activations.relu(x + 1e3), x).pattern == "diagonal"  # an identity only here
    assert jacobian(lambda x: activations.relu(x) * activations.relu(x)[::-1], -x * x).pattern != "zero"
    assert jacobian(jnp.square, jnp.zeros(3)).pattern == "diagonal"
    assert jacobian(jnp.square, jnp.zeros(3)).nonzero == 0


def test_not_a_number_is_no_entry():
    found = jacobian(jnp.sqrt, jnp.array([0.0, 1.0, 4.0]))
    assert (found.pattern, found.proven) == ("diagonal", True)
    assert jacobian(lambda x: jnp.log(jnp.cumsum(x)), jnp.array([1.0, 2.0, 3.0])).pattern == "lower triangular"


def test_degenerate_shapes():
    assert jacobian(jnp.sin, 0.5).matrix.shape == (1, 1)
    assert jacobian(lambda x: x, jnp.float32(2)).pattern == "identity"
    empty = jacobian(jnp.sin, jnp.zeros((0, 3)))
    assert (empty.matrix.shape, empty.pattern, empty.bytes) == ((0, 0), "empty", 0)
    assert jacobian(lambda x: x[:0], X).matrix.shape == (0, 35)
    column = jacobian(lambda x: x * jnp.ones(4), jnp.float32(3))
    assert (column.matrix.shape, column.pattern) == ((4, 1), "selection (one entry a row)")


def test_half_precision_has_half_the_bytes():
    found = jacobian(jnp.tanh, X.astype(jnp.bfloat16))
    assert (found.bytes, found.vjp_bytes, found.matrix.dtype) == (2 * 35 * 35, 4 * 35, jnp.bfloat16)
    wide = jacobian(lambda x: x.astype(jnp.float32).sum(axis=0), X.astype(jnp.float16))
    assert (wide.bytes, wide.vjp_bytes, wide.matrix.dtype) == (4 * 7 * 35, 4 * 7 + 2 * 35, jnp.float32)


def test_bytes_by_shapes_alone():
    x = jax.ShapeDtypeStruct((100, 4096), jnp.float32)
    found = jacobian_bytes(jnp.tanh, x)
    assert found == (625 * 2**30, 2 * 4 * 409_600, (409_600, 409_600))
    assert str(found) == "Jacobian 409,600 × 409,600: 625 GiB; VJP 3.125 MiB"
    with pytest.raises(ValueError, match=r"which take 625 GiB; expected at most max_bytes = 1 GiB"):
        jacobian(jnp.tanh, x)
    one = jacobian_bytes(jnp.tanh, jax.ShapeDtypeStruct((4096,), jnp.float32))
    assert one == (64 * 2**20, 32 * 2**10, (4096, 4096))
    assert jacobian_bytes(lambda x: x.sum(), X) == (140, 144, (1, 35))
    with pytest.raises(ValueError, match="max_bytes = 100 B"):
        jacobian(jnp.tanh, X, max_bytes=100)


def test_hostile_input():
    for function in (jacobian, functools.partial(jacobian_bytes)):
        with pytest.raises(TypeError, match="fn is of type Array"):
            function(X, X)
        with pytest.raises(TypeError, match="x has dtype int32; expected a floating dtype"):
            function(jnp.sin, jnp.arange(3))
        with pytest.raises(TypeError, match="x is of type list; expected one floating array"):
            function(jnp.sin, [X])
        with pytest.raises(TypeError, match="fn returned PyTreeDef"):
            function(lambda x: (x, x), X)
        with pytest.raises(TypeError, match="fn returned an array of dtype int32"):
            function(jnp.argmax, X)
        with pytest.raises(TypeError) as caught:
            function(jnp.add, X)
        assert "functools.partial binds others" in caught.value.__notes__[-1]
    with pytest.raises(TypeError, match="x is a ShapeDtypeStruct; expected an array"):
        jacobian(jnp.sin, jax.ShapeDtypeStruct((3,), jnp.float32))


def test_words_for_supports():
    assert describe(np.zeros((0, 3), bool)) == "empty"
    uneven = np.zeros((5, 5), bool)
    uneven[:2, :2] = uneven[2:, 2:] = True
    assert describe(uneven) == "block diagonal (2 blocks of different sizes)"
    assert describe(np.ones((3, 4), bool)) == "dense"
    assert describe(np.eye(4, dtype=bool), np.eye(4)) == "identity"
    assert describe(np.eye(4, dtype=bool), np.diag([1.0, 2, 3, 4])) == "diagonal"
    assert describe(np.triu(np.ones((4, 4), bool))) == "upper triangular"
    assert describe(np.tril(np.ones((4, 4), bool), -1)) == "lower triangular"
