"""linear_cross_entropy: a linear layer and softmax_cross_entropy, without the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, assert_close, autodiff, both, cotangent_like, hand

from fundamentals import Rule, hand_derived
from fundamentals.base import bind
from fundamentals.losses import linear_cross_entropy, linear_cross_entropy_bwd, linear_cross_entropy_fwd

RULE = Rule(linear_cross_entropy, linear_cross_entropy_fwd, linear_cross_entropy_bwd)


def operands(b=5, d=3, v=11, seed=0, dtype=np.float64):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(b, d)).astype(dtype), rng.normal(size=(d, v)).astype(dtype), rng.randint(0, v, size=b)


def by_numpy(x, w, labels, epsilon=0.0, ignored=None):
    """−Σ_v q_v log p_v with all logits."""
    z = x @ w
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    q = np.full(z.shape, epsilon / w.shape[1])
    for index, label in np.ndenumerate(labels):
        if label != ignored:
            q[(*index, label)] += 1 - epsilon
    return np.where(labels == ignored, 0, -(q * log_p).sum(-1))


def by_formula(x, w, labels, epsilon, ignored):
    """The same with JAX, for autodiff."""
    log_p = jax.nn.log_softmax(x @ w)
    q = (1 - epsilon) * jax.nn.one_hot(labels, w.shape[1], dtype=x.dtype) + epsilon / w.shape[1]
    return jnp.where(labels == ignored, 0, -jnp.sum(q * log_p, axis=-1))


@jax.jit
def cotangents_by_formula(x, w, labels, epsilon, ignored, dy):
    return jax.vjp(lambda x, w: by_formula(x, w, labels, epsilon, ignored), x, w)[1](dy)


@pytest.mark.parametrize(("epsilon", "ignored"), [(0.0, None), (0.1, None), (0.0, -100), (0.3, 0)])
@pytest.mark.parametrize(("v", "chunk_size"), [(11, 11), (11, 4), (12, 4), (3, 1), (2, 5), (11, 1000)])
@pytest.mark.usefixtures("x64")
def test_every_chunk_size(v, chunk_size, epsilon, ignored):
    # A cotangent for each example, of either sign: a rule that knew only means would fail.
    x, w, labels = operands(v=v)
    if ignored is not None:
        labels[[0, 3]] = ignored
    rule = bind(RULE, chunk_size=chunk_size, label_smoothing=epsilon, ignored_label=ignored)
    args, dy = (jnp.asarray(x), jnp.asarray(w), jnp.asarray(labels)), cotangent_like(jnp.zeros(5))
    value, found = both(rule)(args, dy)
    np.testing.assert_allclose(value, by_numpy(x, w, labels, epsilon, ignored), rtol=1e-12, atol=1e-13)
    expected = cotangents_by_formula(*args, epsilon, -1 if ignored is None else ignored, dy)
    assert_close(found[:2], expected, 1e-12, "the cotangent of argument ")


@pytest.mark.usefixtures("x64")
def test_leading_axes_and_autodiff_of_the_primal():
    rng = np.random.RandomState(3)
    x, w, labels = (
        jnp.asarray(rng.normal(size=(2, 3, 4))),
        jnp.asarray(rng.normal(size=(4, 7))),
        rng.randint(0, 7, (2, 3)),
    )
    rule, dy = bind(RULE, chunk_size=3), jnp.asarray(rng.normal(size=(2, 3)))
    value, found = both(rule)((x, w, labels), dy)
    np.testing.assert_allclose(value, by_numpy(x, w, labels), rtol=1e-12)
    assert_close((value, found), both(rule, autodiff)((x, w, labels), dy), 1e-12, "")


def test_ignored_examples_may_hold_anything():
    x, w, labels = operands(dtype=np.float32)
    x[2], labels[2] = np.nan, -1
    f = hand_derived(bind(RULE, chunk_size=4, ignored_label=-1))
    value, (dx, dw) = jax.jit(jax.value_and_grad(lambda x, w: f(x, w, labels).sum(), (0, 1)))(x, w)
    assert np.isfinite(value)
    assert not np.any(dx[2])
    assert np.isfinite(dx).all()
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_extreme_logits(dtype):
    # Logits of ±1e4: the labelled class of the first example wins by 2e4, that of the second loses by as much.
    x = jnp.asarray([[100.0], [100.0]], dtype)
    w = jnp.asarray([[-100.0, 100.0, -100.0]], dtype)
    rule = bind(RULE, chunk_size=2)
    value, cotangents = both(rule)((x, w, jnp.array([1, 2])), jnp.ones(2, dtype))
    np.testing.assert_allclose(np.asarray(value, np.float32), [0, 2e4], rtol=4e-3)
    for cotangent in cotangents[:2]:
        assert np.isfinite(np.asarray(cotangent, np.float32)).all()


def test_a_loss_of_nearly_nothing_keeps_its_sign():
    x, w, labels = jnp.ones((1, 1)), jnp.asarray([[0.0, 30.0, 0.0]]), jnp.array([1])
    assert 0 <= float(linear_cross_entropy(x, w, labels, chunk_size=1)[0]) < 1e-12


def test_half_precision_accumulates_in_float32():
    # log 4099, of as many equal classes: a float16 sum would stop at 2048.
    x, w = jnp.zeros((1, 1), jnp.float16), jnp.zeros((1, 4099), jnp.float16)
    found = linear_cross_entropy(x, w, jnp.array([0]), chunk_size=4099)
    np.testing.assert_allclose(found, np.log(4099), rtol=1e-3)
    # 4099 examples of cotangent 1 for one weight: p = ½ each, so dw = −½ · 4099, which float16 sums would miss.
    x, w = jnp.ones((4099, 1), jnp.float16), jnp.zeros((1, 2), jnp.float16)
    _, (_, dw, _) = both(RULE)((x, w, jnp.zeros(4099, int)), jnp.ones(4099, jnp.float16))
    np.testing.assert_allclose(dw, [[-2049.5, 2049.5]], rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cotangents_of_a_mean_do_not_vanish(dtype):
    # dy p = 1/4096/4096 is no float16, but the sum of 4096 of them is.
    x, w = jnp.ones((4096, 1), dtype), jnp.zeros((1, 4096), dtype)
    rule = bind(RULE, chunk_size=2048)
    _, (_, dw, _) = both(rule)((x, w, jnp.zeros(4096, int)), jnp.full(4096, 1 / 4096, dtype))
    np.testing.assert_allclose(np.asarray(dw[0, 1:], float), 1 / 4096, rtol=1e-2)


@pytest.mark.parametrize("chunk_size", [64, 1000, 4096])
def test_smoothing_of_large_logits(chunk_size):
    # 2¹² logits around 8192: their sum has no digits left for what they differ by.
    w = 8192.0 + jnp.arange(4096.0)[None] % 5
    found = linear_cross_entropy(jnp.ones((1, 1)), w, jnp.array([3]), chunk_size=chunk_size, label_smoothing=0.5)
    expected = by_numpy(np.ones((1, 1)), np.asarray(w, np.float64), np.array([3]), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_array_holds_all_logits():
    x, w, labels = operands(b=64, d=2, v=512, dtype=np.float32)
    rule = bind(RULE, chunk_size=32)
    jaxpr = jax.make_jaxpr(lambda *args: hand(rule, args, jnp.ones(64)))(x, w, labels)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from sizes(inner.jaxpr)

    assert max(sizes(jaxpr.jaxpr)) <= 64 * 32


def test_labels_out_of_range():
    x, w, labels = operands(dtype=np.float32)
    labels[1] = 11
    with pytest.raises(
        ValueError, match=r"linear_cross_entropy: labels has values from \d to 11; expected class indices"
    ):
        linear_cross_entropy(x, w, labels)
    for chunk_size in (4, 11):
        f = jax.jit(lambda labels, chunk_size=chunk_size: linear_cross_entropy(x, w, labels, chunk_size=chunk_size))
        np.testing.assert_array_equal(np.isnan(f(labels)), [False, True, False, False, False])
        np.testing.assert_array_equal(np.isnan(f(labels - 12)), [True] * 5)
    # The cotangent is that of an example without a right class, dy p.
    dx = jax.jit(lambda *args: hand(bind(RULE, chunk_size=1), args, jnp.ones(1))[0])
    found = dx(jnp.ones((1, 1)), jnp.array([[1.0, 3.0]]), jnp.array([11]))
    p = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(found, [[(1 - p) + 3 * p]], rtol=1e-6)


X, W, LABELS = jnp.ones((5, 3)), jnp.ones((3, 7)), jnp.zeros(5, jnp.int32)
BAD = {
    "w has shape [4, 7]; expected [D, V] with D = 3 from x [5, 3]": lambda f: f(X, jnp.ones((4, 7)), LABELS),
    "labels has shape [5, 1]; expected [...] with ... = [5] from x [5, 3]": lambda f: f(X, W, LABELS[:, None]),
    "labels has dtype float32; expected an integer dtype": lambda f: f(X, W, X[:, 0]),
    "w has V = 0; expected V ≥ 1": lambda f: f(X, W[:, :0], LABELS),
    "chunk_size is 0; expected an integer ≥ 1": lambda f: f(X, W, LABELS, chunk_size=0),
    "chunk_size is 2.5 (float); expected an integer ≥ 1": lambda f: f(X, W, LABELS, chunk_size=2.5),
    "label_smoothing is 1.0; expected a number in [0, 1)": lambda f: f(X, W, LABELS, label_smoothing=1.0),
    "ignored_label is 1.5 (float); expected an integer or None": lambda f: f(X, W, LABELS, ignored_label=1.5),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_operands(message):
    with pytest.raises((ValueError, TypeError)) as raised:
        BAD[message](linear_cross_entropy)
    assert f"linear_cross_entropy: {message}" in str(raised.value)


def test_cotangents_under_vmap():
    x, w, labels = map(jnp.asarray, operands(dtype=np.float32))
    f = hand_derived(bind(RULE, chunk_size=4))
    grad = jax.grad(lambda x, w: f(x, w, labels).sum(), (0, 1))
    found = jax.jit(jax.vmap(grad))(jnp.stack([x, 2 * x]), jnp.stack([w, -w]))
    expected = jax.tree.map(lambda *a: np.stack(a), jax.jit(grad)(x, w), jax.jit(grad)(2 * x, -w))
    assert_close(found, expected, TOLERANCE["float32"], "")
