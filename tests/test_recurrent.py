"""The recurrent layer: values and cotangents from loops in NumPy, no steps, long products, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_close, autodiff, hand

from fundamentals.base import Rule
from fundamentals.layers import rnn, rnn_bwd, rnn_fwd

RNN = Rule(rnn, rnn_fwd, rnn_bwd)
BY_HAND = jax.jit(lambda args, dy: (rnn(*args), hand(RNN, args, dy)))
BY_AUTODIFF = jax.jit(lambda args, dy: (rnn(*args), autodiff(RNN, args, dy)))


def arguments(dtype=np.float32):
    """x, h0, w_x, w_h, b with B = 2, T = 3, D = 5, H = 4."""
    rng = np.random.RandomState(0)
    return tuple(rng.normal(size=size).astype(dtype) for size in [(2, 3, 5), (2, 4), (5, 4), (4, 4), (4,)])


@pytest.mark.usefixtures("x64")
def test_values_and_backpropagation_through_time():
    x, h0, w_x, w_h, b = arguments(np.float64)
    dy = np.random.RandomState(1).normal(size=(2, 3, 4))
    y = np.zeros((2, 3, 4))
    dx, dh0, dw_x, dw_h, db = (np.zeros_like(a) for a in (x, h0, w_x, w_h, b))
    for n in range(2):
        h = [h0[n]]
        for t in range(3):
            h.append(np.tanh(x[n, t] @ w_x + h[t] @ w_h + b))
            y[n, t] = h[t + 1]
        for s in range(3):  # each output's own path through time, apart
            dh = dy[n, s]
            for t in range(s, -1, -1):
                dz = dh * (1 - h[t + 1] ** 2)
                dx[n, t] += w_x @ dz
                dw_x += np.outer(x[n, t], dz)
                dw_h += np.outer(h[t], dz)
                db += dz
                dh = w_h @ dz
            dh0[n] += dh
    found_y, found = BY_HAND((x, h0, w_x, w_h, b), dy)
    np.testing.assert_allclose(found_y, y, rtol=1e-13)
    assert_close(found, (dx, dh0, dw_x, dw_h, db), 1e-13, "cotangent of argument ")


@pytest.mark.parametrize(("e", "t", "d", "h"), [(2, 0, 5, 4), (2, 1, 5, 4), (0, 3, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0)])
def test_empty_and_single(e, t, d, h):
    # Small enough that tanh does not saturate, where 1 − y² has few digits.
    args = tuple(np.full(shape, 0.1, np.float32) for shape in [(e, t, d), (e, h), (d, h), (h, h), (h,)])
    dy = np.ones((e, t, h), np.float32)
    y, found = BY_HAND(args, dy)
    assert y.shape == (e, t, h)
    assert_close(found, BY_AUTODIFF(args, dy)[1], 1e-6, "cotangent of argument ")
    for arg, cotangent in zip(args, found, strict=True):
        assert cotangent.shape == arg.shape


@pytest.mark.usefixtures("x64")
def test_only_what_comes_before_influences_an_output():
    dy = np.zeros((2, 3, 4))
    dy[0, 1] = 1
    _, (dx, dh0, _, _, _) = BY_HAND(arguments(np.float64), dy)
    np.testing.assert_array_equal(np.any(np.asarray(dx), axis=-1), [[True, True, False], [False] * 3])
    np.testing.assert_array_equal(np.any(np.asarray(dh0), axis=-1), [True, False])


@pytest.mark.parametrize(("radius", "norm"), [(0.5, 0.5**20), (1.0, 1.0), (2.0, 2.0**20)])
@pytest.mark.usefixtures("x64")
def test_gradients_vanish_and_explode_with_the_powers_of_the_recurrent_weights(radius, norm):
    # At h = 0 the cell is linear: dh_0 = dy_T (w_hᵀ)ᵀ, and w_h is a rotation times the radius.
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    args = np.zeros((1, 20, 3)), np.zeros((1, 2)), np.ones((3, 2)), radius * rotation, np.zeros(2)
    dy = np.zeros((1, 20, 2))
    dy[0, -1, 0] = 1
    _, (_, dh0, _, _, _) = BY_HAND(args, dy)
    np.testing.assert_allclose(np.linalg.norm(dh0), norm, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_extremes_are_finite(dtype):
    dtype = jnp.dtype(dtype)
    x = np.array([[[1e4], [-1e4], [0.0]]], dtype)
    args = x, np.zeros((1, 2), dtype), np.ones((1, 2), dtype), np.full((2, 2), 100, dtype), np.zeros(2, dtype)
    for leaf in jax.tree.leaves(BY_HAND(args, np.ones((1, 3, 2), dtype))):
        assert leaf.dtype == dtype
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_are_wide(dtype):
    # All states are 0, where tanh′ = 1. Over 4096 steps a sum of ones in half precision would stop early.
    t = 4096
    args = (np.ones((1, t, 1)), np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((2, 2)), np.zeros(2))
    args = tuple(arg.astype(dtype) for arg in args)
    _, (_, _, dw_x, _, db) = BY_HAND(args, np.ones((1, t, 2), dtype))
    np.testing.assert_array_equal(dw_x, [[t, t]])
    np.testing.assert_array_equal(db, [t, t])
    # The cotangent of a state is carried in float32: 4096 + 1, no number of either dtype, less 4096.
    x, h0, w_x, _, b = args
    w_h = np.array([[1, 1], [0, 0]], dtype)
    _, (_, dh0, _, _, _) = BY_HAND((x[:, :2], h0, w_x, w_h, b), np.array([[[-4096, 0], [4096, 1]]], dtype))
    np.testing.assert_array_equal(dh0, [[1, 0]])


def test_what_is_kept():
    args = arguments()
    y, residuals = rnn_fwd(*args)
    assert residuals.y is y
    assert [leaf.shape for leaf in residuals] == [args[0].shape, args[1].shape, args[2].shape, args[3].shape, y.shape]


def test_the_loops_hold_no_sums_over_steps():
    # One loop forwards, one back; the backward one carries [B, H] and hands out dz: weights' cotangents come after it.
    jaxpr = jax.make_jaxpr(lambda args, dy: RNN.bwd(RNN.fwd(*args)[1], dy))(arguments(), np.ones((2, 3, 4), np.float32))
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert [scan.params["reverse"] for scan in scans] == [False, True]
    for scan in scans:
        assert [v.aval.shape for v in scan.outvars] == [(2, 4), (3, 2, 4)]


A = {
    "x": np.ones((2, 5, 7), np.float32),
    "h0": np.ones((2, 3), np.float32),
    "w_x": np.ones((7, 3), np.float32),
    "w_h": np.ones((3, 3), np.float32),
    "b": np.ones(3, np.float32),
}
MESSAGES = {
    "rnn: x has shape [5, 7]; expected [B, T, D]": lambda: rnn(**A | {"x": A["x"][0]}),
    "rnn: h0 has shape [3, 3]; expected [B, H] with B = 2 from x [2, 5, 7]": lambda: rnn(**A | {"h0": A["w_h"]}),
    "rnn: w_x has shape [3, 3]; expected [D, H] with D = 7, H = 3 from x [2, 5, 7] and h0 [2, 3]": lambda: rnn(
        **A | {"w_x": A["w_h"]}
    ),
    "rnn: w_h has shape [3, 7]; expected [H, H] with H = 3 from h0 [2, 3]": lambda: rnn(**A | {"w_h": A["w_x"].T}),
    "rnn: b has shape [7]; expected [H] with H = 3 from h0 [2, 3]": lambda: rnn(**A | {"b": jnp.ones(7)}),
}
TYPE_MESSAGES = {
    "rnn: w_h has dtype float16; expected float32 as in w_x": lambda: rnn(**A | {"w_h": jnp.ones((3, 3), jnp.float16)}),
    "rnn: x has dtype int32; expected a floating dtype": lambda: rnn(**A | {"x": jnp.ones((2, 5, 7), int)}),
}


@pytest.mark.parametrize(
    ("message", "error", "call"),
    [(m, ValueError, c) for m, c in MESSAGES.items()] + [(m, TypeError, c) for m, c in TYPE_MESSAGES.items()],
    ids=[*MESSAGES, *TYPE_MESSAGES],
)
def test_message(message, error, call):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
