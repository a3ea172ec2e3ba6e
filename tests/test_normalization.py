"""Normalization: values from loops in NumPy, far means, no variance, what is kept, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from oracles import TOLERANCE, assert_close, autodiff, cotangent_like, hand, widen

from fundamentals import hand_derived
from fundamentals.base import Rule, bind
from fundamentals.layers import (
    batch_norm,
    batch_norm_bwd,
    batch_norm_fwd,
    batch_norm_inference,
    batch_norm_inference_bwd,
    batch_norm_inference_fwd,
    batch_statistics,
    layer_norm,
    layer_norm_bwd,
    layer_norm_fwd,
    rms_norm,
    rms_norm_bwd,
    rms_norm_fwd,
)

BATCH_NORM = Rule(batch_norm, batch_norm_fwd, batch_norm_bwd)
INFERENCE = Rule(batch_norm_inference, batch_norm_inference_fwd, batch_norm_inference_bwd)
LAYER_NORM = Rule(layer_norm, layer_norm_fwd, layer_norm_bwd)
RMS_NORM = Rule(rms_norm, rms_norm_fwd, rms_norm_bwd)
OF_ITS_OWN_STATISTICS = pytest.mark.parametrize("rule", [BATCH_NORM, LAYER_NORM, RMS_NORM], ids=lambda r: r[0].__name__)


def arguments(rule, x):
    """x with a scale and, where the rule takes one, an offset."""
    features = np.arange(x.shape[-1])
    scale, offset = (jnp.asarray(np.asarray(a, x.dtype)) for a in (1 - features / 4, features / 2 - 1))
    return (x, scale, offset)[: 2 if rule is RMS_NORM else 3]


@functools.cache
def compiled(rule):
    """(args, dy) → the value, and the cotangents by hand and by autodiff, as NumPy arrays."""
    program = jax.jit(lambda args, dy: (rule.primal(*args), hand(rule, args, dy), autodiff(rule, args, dy)))
    return lambda args, dy: jax.tree.map(np.asarray, program(args, dy))


def test_values():
    rng = np.random.RandomState(0)
    x, scale, offset = rng.normal(3, 2, size=(2, 3, 4)), rng.normal(size=4), rng.normal(size=4)
    mean, variance = rng.normal(size=4), rng.uniform(0.5, 2, size=4)
    batch, layer, rms, inference = (np.empty_like(x) for _ in range(4))
    for c in range(4):
        column = [x[a, b, c] for a in range(2) for b in range(3)]
        mu = sum(column) / 6
        var = sum((v - mu) ** 2 for v in column) / 6
        for a in range(2):
            for b in range(3):
                row = list(x[a, b])
                row_mu, square = sum(row) / 4, sum(v * v for v in row) / 4
                row_var = sum((v - row_mu) ** 2 for v in row) / 4
                batch[a, b, c] = scale[c] * (x[a, b, c] - mu) / (var + 0.1) ** 0.5 + offset[c]
                layer[a, b, c] = scale[c] * (x[a, b, c] - row_mu) / (row_var + 0.1) ** 0.5 + offset[c]
                rms[a, b, c] = scale[c] * x[a, b, c] / (square + 0.1) ** 0.5
                inference[a, b, c] = scale[c] * (x[a, b, c] - mean[c]) / (variance[c] + 0.1) ** 0.5 + offset[c]
    with jax.enable_x64(True):
        for f, args, expected in [
            (batch_norm, (x, scale, offset), batch),
            (layer_norm, (x, scale, offset), layer),
            (rms_norm, (x, scale), rms),
            (batch_norm_inference, (x, scale, offset, mean, variance), inference),
        ]:
            found = jax.jit(functools.partial(f, eps=0.1))(*args)
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f.__name__)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.usefixtures("x64")
def test_batch_statistics(dtype):
    x = jnp.asarray(np.random.RandomState(0).normal(3, 2, size=(3, 5, 2)), dtype)
    mean, variance = jax.jit(batch_statistics)(x)
    exact = np.asarray(x, np.float64).reshape(15, 2)
    assert mean.dtype == variance.dtype == (dtype if dtype == "float64" else "float32")
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-6)
    scale, offset = jnp.array([2, -1], dtype), jnp.array([0.5, 0.25], dtype)
    given = jax.jit(batch_norm_inference)(x, scale, offset, mean, variance)
    own = jax.jit(batch_norm)(x, scale, offset)
    assert given.dtype == own.dtype == dtype
    np.testing.assert_array_equal(np.asarray(given, np.float64), np.asarray(own, np.float64))


def test_given_statistics_may_be_wider_than_the_features():
    args = (*arguments(INFERENCE, jnp.array([[300.0, -2.0, 5.0]], jnp.bfloat16)), jnp.ones(3), jnp.full(3, 4.0))
    dy = jnp.array([[1.0, 2.0, 3.0]], jnp.bfloat16)
    y, found, _ = compiled(INFERENCE)(args, dy)
    assert y.dtype == jnp.bfloat16
    assert [c.dtype for c in found] == [jnp.bfloat16] * 3 + [jnp.float32] * 2
    with jax.enable_x64(True):
        _, _, exact = compiled(INFERENCE)(widen(args), widen(dy))
    assert_close(found[:3], exact[:3], TOLERANCE["bfloat16"], "cotangent ")
    assert_close(found[3:], exact[3:], TOLERANCE["float32"], "cotangent of statistic ")


@pytest.mark.parametrize("rule", [BATCH_NORM, LAYER_NORM], ids=["batch", "layer"])
@pytest.mark.usefixtures("x64")
def test_a_far_mean_cancels_no_digits(rule):
    # The mean of squares is 1e8, the variance 1: in float32 their difference would have no digit. What remains is the
    # rounding of the mean, by a few 2⁻¹⁰, which shifts all x̂ alike.
    x = jnp.asarray(1e4 + np.random.RandomState(0).normal(size=(509, 509)), jnp.float32)
    ones, dy = jnp.ones(509, jnp.float32), cotangent_like(x)
    _, residuals = jax.jit(rule.fwd)(x, ones, ones)
    exact = np.asarray(x, np.float64).var(axis=0 if rule is BATCH_NORM else 1, keepdims=True)
    np.testing.assert_allclose(residuals.rstd, 1 / np.sqrt(exact + 1e-5), rtol=3e-6)
    y, found, by_autodiff = compiled(rule)((x, ones, ones), dy)
    exact_y, _, expected = compiled(rule)(widen((x, ones, ones)), widen(dy))
    np.testing.assert_allclose(y, exact_y, atol=4e-3)
    for cotangents in (found, by_autodiff):
        assert_close(cotangents[0], expected[0], 1e-3, "dx")
        assert_close(cotangents[1:], expected[1:], 5e-3, "cotangent of parameter ")


@OF_ITS_OWN_STATISTICS
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_variance_and_extremes(rule, dtype):
    # Of a power of two of equal numbers the mean is that number. Of three it is where the product with 1/3 is rounded
    # before it is subtracted, which a compiler may leave out (a fused multiply-add), and ε⁻¹ᐟ² = 316 enlarges that.
    x = jnp.full((4, 4), 0 if rule is RMS_NORM else 2.5, dtype)
    args, dy = arguments(rule, x), cotangent_like(x)
    y, found, _ = compiled(rule)(args, dy)
    with jax.enable_x64(True):
        expected = compiled(rule)(widen(args), widen(dy))[2]
    np.testing.assert_array_equal(y, np.broadcast_to(0 if rule is RMS_NORM else args[2], y.shape))
    assert np.all(np.isfinite(np.asarray(found[0], np.float64)))
    assert_close(found, expected, TOLERANCE[dtype], "cotangent ")
    assert not np.any(found[1])
    x = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4], [1e-4, -1e-4, 1e4]], dtype)
    for leaf in jax.tree.leaves(compiled(rule)(arguments(rule, x), cotangent_like(x))):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


@pytest.mark.usefixtures("x64")
def test_cotangents_are_orthogonal_to_what_cancels():
    # Adding to, or stretching, what is normalized changes nothing, if eps does not either.
    x = jnp.asarray(np.random.RandomState(0).normal(1, 2, size=(5, 7)))
    dy = cotangent_like(x)
    for rule, axis in [(BATCH_NORM, 0), (LAYER_NORM, 1), (RMS_NORM, 1)]:
        dx = jax.jit(lambda *args, rule=bind(rule, eps=1e-30): hand(rule, args, dy)[0])(*arguments(rule, x))
        np.testing.assert_allclose(jnp.sum(dx * x, axis=axis), 0, atol=1e-13)
        if rule is not RMS_NORM:
            np.testing.assert_allclose(jnp.sum(dx, axis=axis), 0, atol=1e-13)


@OF_ITS_OWN_STATISTICS
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_kept(rule, dtype):
    x = jnp.ones((4, 8, 16), dtype)
    args = arguments(rule, x)
    kept = jax.eval_shape(lambda *args: rule.fwd(*args)[1], *args)
    sets = 16 if rule is BATCH_NORM else 4 * 8
    statistics = 4 * sets * (1 if rule is RMS_NORM else 2)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in kept) == x.nbytes + args[1].nbytes + statistics


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_statistics_are_wide(dtype):
    # Sums of 4096 numbers: squares of 300 are no float16, and a running sum in bfloat16 would stop at 256.
    x = np.where(np.arange(4096) % 2 == 0, 300, -100).astype(dtype)[None]
    ones, zeros = np.ones(4096, dtype), np.zeros(4096, dtype)
    np.testing.assert_array_equal(jax.jit(layer_norm)(x, ones, zeros)[0, :2], [1, -1])
    y, (_, dscale, doffset), _ = compiled(BATCH_NORM)((x.T, ones[:1], zeros[:1]), np.ones((4096, 1), dtype))
    np.testing.assert_array_equal(y[:2, 0], [1, -1])
    assert (doffset[0], dscale[0]) == (4096, 0)
    y = np.asarray(jax.jit(rms_norm)(x, ones)[0, :2], float)
    np.testing.assert_allclose(y, np.array([3, -1]) / 5**0.5, rtol=4e-3)


@pytest.mark.parametrize(
    ("rule", "shape"), [(LAYER_NORM, (4,)), (LAYER_NORM, (2, 0, 4)), (LAYER_NORM, (2, 3, 5, 4)), (RMS_NORM, (2, 3, 4))]
)
def test_examples_may_have_any_leading_axes(rule, shape):
    x = jnp.asarray(np.random.RandomState(0).normal(size=shape), jnp.float32)
    args, dy = arguments(rule, x), cotangent_like(x)
    y, found, expected = compiled(rule)(args, dy)
    assert y.shape == shape
    assert_close(found, expected, 1e-6, "cotangent ")


def test_one_example_alone_becomes_the_offset():
    for x in (jnp.array([3.0, -1.0]), jnp.array([[3.0, -1.0]])):
        args = x, jnp.array([2.0, 5.0]), jnp.array([0.5, 0.25])
        np.testing.assert_array_equal(batch_norm(*args).reshape(2), args[2])
        np.testing.assert_array_equal(hand(BATCH_NORM, args, jnp.ones_like(x))[0], jnp.zeros_like(x))


def test_eps_may_be_traced():
    x = jnp.array([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]])
    args = arguments(LAYER_NORM, x)
    found = jax.vmap(lambda eps: hand_derived(LAYER_NORM)(*args, eps=eps))(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(found[1], layer_norm(*args, eps=1.0), rtol=1e-6)


def test_sharded_examples_are_not_gathered():
    mesh = Mesh(jax.devices()[:2], ("d",))
    split, whole = NamedSharding(mesh, PartitionSpec(None, "d")), NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(jnp.ones((3, 4, 5)), split)
    for rule in (BATCH_NORM, LAYER_NORM, RMS_NORM):
        args = (x, *jax.device_put(arguments(rule, x)[1:], whole))
        text = jax.jit(lambda args, dy, rule=rule: hand(rule, args, dy)).lower(args, x).compile().as_text()
        assert "all-reduce" in text
        assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


X, D4 = jnp.ones((2, 4)), jnp.ones(4)
MESSAGES = {
    "batch_norm: scale has shape [3]; expected [D] with D = 4 from x [2, 4]": lambda: batch_norm(X, jnp.ones(3), D4),
    "batch_norm: x has shape [0, 4]; expected at least one example": lambda: batch_norm(X[:0], D4, D4),
    "batch_norm: x has shape []; expected [..., D]": lambda: batch_norm(jnp.ones(()), D4, D4),
    "batch_norm: eps is 0; expected a number in (0, inf)": lambda: batch_norm(X, D4, D4, eps=0),
    "batch_statistics: x has shape [2, 0, 4]; expected at least one example": lambda: batch_statistics(
        X[:, None][:, :0]
    ),
    "batch_norm_inference: mean has shape [3]; expected [4] as in scale": lambda: batch_norm_inference(
        X, D4, D4, jnp.ones(3), jnp.ones(3)
    ),
    "batch_norm_inference: variance has shape [3]; expected [D] with D = 4 from mean [4]": lambda: batch_norm_inference(
        X, D4, D4, D4, jnp.ones(3)
    ),
    "batch_norm_inference: eps is -1.0; expected a number in (0, inf)": lambda: batch_norm_inference(
        X, D4, D4, D4, D4, eps=-1.0
    ),
    "layer_norm: offset has shape [2, 4]; expected [D] with D = 4 from x [2, 4]": lambda: layer_norm(X, D4, X),
    "layer_norm: x has D = 0; expected D ≥ 1": lambda: layer_norm(X[:, :0], D4[:0], D4[:0]),
    "layer_norm: eps is nan; expected a number in (0, inf)": lambda: layer_norm(X, D4, D4, eps=float("nan")),
    "rms_norm: scale has shape [5]; expected [D] with D = 4 from x [2, 4]": lambda: rms_norm(X, jnp.ones(5)),
    "rms_norm: x has D = 0; expected D ≥ 1": lambda: rms_norm(X[:, :0], D4[:0]),
    "rms_norm: eps is -1; expected a number in (0, inf)": lambda: rms_norm(X, D4, eps=-1),
}
TYPE_MESSAGES = {
    "batch_norm: offset has dtype bfloat16; expected float32 as in scale": lambda: batch_norm(
        X, D4, D4.astype(jnp.bfloat16)
    ),
    "batch_norm_inference: mean has dtype int32; expected a floating dtype": lambda: batch_norm_inference(
        X, D4, D4, jnp.arange(4), D4
    ),
    "batch_norm_inference: variance has dtype float16; expected float32 as in mean": lambda: batch_norm_inference(
        X, D4, D4, D4, D4.astype(jnp.float16)
    ),
    "layer_norm: x has dtype int32; expected a floating dtype": lambda: layer_norm(jnp.ones((2, 4), int), D4, D4),
    "rms_norm: eps is '1' (str); expected a number in (0, inf)": lambda: rms_norm(X, D4, eps="1"),
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
