"""Attention: values by a loop over queries, masks and lengths, tiles of every fit, the memory claim."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, assert_close, autodiff, both, cotangent_like, hand, relative_error, widen

from fundamentals import Rule, hand_derived
from fundamentals.base import bind
from fundamentals.layers import (
    attention,
    attention_bwd,
    attention_fwd,
    blockwise_attention,
    blockwise_attention_bwd,
    blockwise_attention_fwd,
)

DENSE = Rule(attention, attention_fwd, attention_bwd)
BLOCKWISE = Rule(blockwise_attention, blockwise_attention_fwd, blockwise_attention_bwd)
BOTH = pytest.mark.parametrize("rule", [DENSE, bind(BLOCKWISE, block_size=4)], ids=["dense", "blockwise"])


def operands(t, s, n=2, k=2, h=3, b=2, dtype=np.float64, seed=0):
    rng = np.random.RandomState(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in ((b, t, n, h), (b, s, k, h), (b, s, k, h))]


def by_loop(q, k, v, allowed, scale=None, dy=None):
    """Equations (1) to (3), one query at a time, and the cotangents of q, k and v."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    dy = np.zeros_like(q) if dy is None else np.asarray(dy)
    y, dq, dk, dv = map(np.zeros_like, (q, q, k, v))
    for b, t, n in itertools.product(*map(range, q.shape[:3])):
        group = n // (q.shape[2] // k.shape[2])
        keys = np.flatnonzero(np.broadcast_to(allowed, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))[b, n, t])
        if keys.size:
            s = k[b, keys, group] @ q[b, t, n] * scale
            p = np.exp(s - s.max())
            p /= p.sum()
            y[b, t, n] = p @ v[b, keys, group]
            dp = v[b, keys, group] @ dy[b, t, n]
            ds = (np.diag(p) - np.outer(p, p)) @ dp * scale  # by the whole Jacobian of softmax
            dq[b, t, n] = ds @ k[b, keys, group]
            dk[b, keys, group] += np.outer(ds, q[b, t, n])
            dv[b, keys, group] += np.outer(p, dy[b, t, n])
    return y, (dq, dk, dv)


def lower(t, s):
    return np.arange(t)[:, None] >= np.arange(s)


RANDOM = np.random.RandomState(1).uniform(size=(2, 4, 6, 7)) < 0.4
CASES = {
    "plain": ({}, True),
    "causal": ({"causal": True}, lower(6, 7)),
    "mask": ({"mask": RANDOM}, RANDOM),
    "mask of keys": ({"mask": RANDOM[:, :1, :1]}, RANDOM[:, :1, :1]),
    "mask of heads, causal": ({"mask": RANDOM[:1, :, :, :1], "causal": True}, RANDOM[:1, :, :, :1] & lower(6, 7)),
    "lengths": (
        {"query_seq_lengths": np.array([2, 6]), "key_value_seq_lengths": np.array([7, 3])},
        (np.arange(6)[:, None] < np.array([2, 6])[:, None, None, None])
        & (np.arange(7) < np.array([7, 3])[:, None, None, None]),
    ),
    "a length for each head": (
        {"key_value_seq_lengths": np.array([[1, 5, 0, 7]])},
        np.arange(7) < np.array([1, 5, 0, 7])[:, None, None],
    ),
    "scale": ({"scale": -0.25}, True),
}


@pytest.mark.parametrize(("case", "heads"), [*((case, 2) for case in CASES), ("causal", 4), ("causal", 1)])
@BOTH
@pytest.mark.usefixtures("x64")
def test_values_and_cotangents(rule, heads, case):
    options, allowed = CASES[case]
    args = operands(6, 7, n=4, k=heads)
    dy = cotangent_like(args[0])
    expected = by_loop(*args, allowed, options.get("scale"), dy)
    assert_close(both(bind(rule, **options))(args, dy), expected, 1e-12, f"{case}: ")
    attends = np.broadcast_to(allowed, (2, 4, 6, 7)).any(axis=-1)
    if rule is DENSE and not attends.all():  # such queries must not make autodiff's cotangents NaN
        assert_close(both(bind(rule, **options), autodiff)(args, dy), expected, 1e-12, f"{case}, autodiff: ")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("t", "s", "block_size"), [(1, 1, 3), (1, 6, 1), (5, 2, 2), (8, 8, 4), (9, 7, 5), (5, 9, 7), (7, 9, 100)]
)
@pytest.mark.usefixtures("x64")
def test_tiles_of_every_fit(t, s, block_size, causal):
    args = operands(t, s, b=1, seed=t)
    rule = bind(BLOCKWISE, block_size=block_size, causal=causal)
    dy = cotangent_like(args[0])
    found, expected = both(rule)(args, dy), by_loop(*args, lower(t, s) if causal else True, dy=dy)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)  # of one key, dq and dk are 0


@pytest.mark.usefixtures("x64")
def test_autodiff_of_the_blockwise_primal():
    args = tuple(operands(7, 5))
    options = {"causal": True, "key_value_seq_lengths": jnp.array([0, 4]), "block_size": 3}
    rule, dy = bind(BLOCKWISE, **options), cotangent_like(args[0])
    assert_close(both(rule, autodiff)(args, dy), both(rule)(args, dy), 1e-12, "")


@BOTH
def test_equals_jax_nn(rule):
    # Where every query attends to something; the library averages all values where it does not.
    q, k, v = operands(6, 7, n=4, k=2, dtype=np.float32)
    mask = RANDOM.copy()
    mask[..., 0] = True
    options = {"mask": mask, "key_value_seq_lengths": np.array([7, 3], np.int32)}

    def theirs(q, k, v):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, **options)

    dy = operands(6, 7, n=4, seed=5, dtype=np.float32)[0]
    expected = both(Rule(theirs, theirs, theirs), autodiff)((q, k, v), dy)
    found = both(bind(rule, causal=True, **options))((q, k, v), dy)
    assert relative_error(found, expected) <= TOLERANCE["float32"]


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_extreme_scores(rule, dtype):
    # One score far above the others takes all; scores equal at 1e4 · 1e4, where they fit, share.
    big = 1e4 if dtype == "float32" else 100.0
    q = np.full((1, 1, 1, 2), big, jnp.dtype(dtype))
    k = np.array([[big, big], [-big, -big], [big, big]], q.dtype)[None, :, None]
    v = np.array([[1.0, 2.0], [30.0, 40.0], [5.0, 6.0]], q.dtype)[None, :, None]
    y, cotangents = both(rule)((q, k, v), np.ones_like(q))
    np.testing.assert_array_equal(np.asarray(y)[0, 0, 0], [3, 4])
    for cotangent in cotangents:
        assert np.isfinite(np.asarray(cotangent, np.float32)).all()


@BOTH
def test_half_precision_accumulates_in_float32(rule):
    # The mean of 4099 values of 1 and one of 4097: a float16 sum of either would be off.
    n = 4100
    q, k, v = np.zeros((1, 1, 1, 1), np.float16), np.zeros((1, n, 1, 1), np.float16), np.ones((1, n, 1, 1), np.float16)
    v[0, 0, 0, 0] = 4096
    rule = bind(rule, block_size=1000) if rule is not DENSE else rule
    exact = (n - 1 + 4096) / n
    assert abs(jax.jit(rule.primal)(q, k, v).item() - exact) < 2e-3


@BOTH
def test_scores_beyond_float16(rule):
    # q·k = 90000 is no float16; with this scale the scores are 0.9 and 0.
    q, k = np.full((1, 1, 1, 1), 300, np.float16), np.array([300.0, 0.0], np.float16).reshape(1, 2, 1, 1)
    v = np.array([1.0, 0.0], np.float16).reshape(1, 2, 1, 1)
    y = jax.jit(rule.primal)(q, k, v, scale=1e-5)
    np.testing.assert_allclose(y.item(), 1 / (1 + np.exp(-0.9)), rtol=2e-3)


@BOTH
def test_cotangents_of_scores_beyond_float16(rule):
    # dp = Σ_h dy v_jh = ±64 · 1e4, and half of it is ds: neither is a float16, but times a small k it is again.
    q, k, v = (
        np.zeros((1, 1, 1, 64), np.float16),
        np.zeros((1, 2, 1, 64), np.float16),
        np.ones((1, 2, 1, 64), np.float16),
    )
    k[0, 0] = 1e-3
    v *= np.array([[1e4], [-1e4]], np.float16)[:, None]
    _, (dq, dk, dv) = both(rule)((q, k, v), np.ones_like(q))
    np.testing.assert_allclose(np.asarray(dq, float), 64e4 / 2 * 1e-3 / 8, rtol=2e-3)
    np.testing.assert_array_equal(dk, 0)
    np.testing.assert_array_equal(dv, 0.5)


@pytest.mark.usefixtures("x64")
def test_cotangents_of_large_values_in_bfloat16():
    # The values' mean of 32 cancels in ds, if Σ dy y is taken of outputs that are not rounded.
    rng = np.random.RandomState(0)
    q, k, v, dy = (rng.normal(size=(1, 64, 1, 32)).astype(jnp.bfloat16) for _ in range(4))
    args = q, k, (v.astype(np.float32) + 32).astype(jnp.bfloat16)
    _, exact = both(DENSE, autodiff)(widen(args), widen(dy))
    for rule in (DENSE, bind(BLOCKWISE, block_size=16)):
        assert_close(both(rule)(args, dy)[1][0], exact[0], 0.05, "dq")


@BOTH
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "int64"])
@pytest.mark.usefixtures("x64")
def test_lengths_of_any_integer_dtype(rule, dtype):
    q, k, v = operands(6, 7)
    lengths = np.array([2, 250], dtype)  # more than there are is all
    expected, _ = by_loop(q, k, v, np.arange(7) < np.array([2, 7])[:, None, None, None])
    found = jax.jit(rule.primal)(q, k, v, key_value_seq_lengths=lengths)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_no_examples():
    for rule in (DENSE, BLOCKWISE):
        q, k, v = operands(3, 4, b=0)
        primal = jax.jit(bind(rule, causal=True, key_value_seq_lengths=np.zeros(0, int)).primal)
        assert primal(q, k, v).shape == (0, 3, 2, 3)


def test_blockwise_keeps_no_array_of_all_scores():
    # Every array of the program, residuals included, is smaller than one head's [T, S].
    q, k, v = operands(256, 256, n=1, k=1, h=2, b=1, dtype=np.float32)
    rule = bind(BLOCKWISE, block_size=32, causal=True)
    jaxpr = jax.make_jaxpr(lambda *args: hand(rule, args, q))(q, k, v)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from sizes(inner.jaxpr)

    assert max(sizes(jaxpr.jaxpr)) <= 2048


def test_blockwise_skips_tiles_above_the_diagonal():
    # NaN beyond the diagonal's tiles is never read: were it multiplied by a probability of 0, it would spread.
    q, k, v = operands(8, 8, dtype=np.float32)
    rule = bind(BLOCKWISE, block_size=2, causal=True)
    k[:, 4:], v[:, 4:] = np.nan, np.nan
    y = np.asarray(jax.jit(rule.primal)(q, k, v))
    assert np.isfinite(y[:, :4]).all()
    assert np.isnan(y[:, 4:]).all()


@pytest.mark.parametrize("block_size", [2, 16])
def test_blockwise_skips_tiles_beyond_the_lengths(block_size):
    # Several tiles of keys, and one: NaN that no query may attend to is not even multiplied by 0.
    q, k, v = operands(8, 4, dtype=np.float32)
    v[1] = np.nan
    options = {"key_value_seq_lengths": np.array([[4], [0]]), "query_seq_lengths": np.array([8, 0])}
    y = jax.jit(bind(BLOCKWISE, block_size=block_size, **{n: o[1:] for n, o in options.items()}).primal)
    np.testing.assert_array_equal(y(q[1:], k[1:], v[1:]), 0)


@BOTH
def test_options_may_be_traced(rule):
    q, k, v = operands(6, 7, n=4, k=2, dtype=np.float32)
    lengths = jnp.array([[3, 7], [0, 5]])
    f = hand_derived(rule)

    def loss(q, lengths, scale):
        return jnp.sum(f(q, k, v, key_value_seq_lengths=lengths, mask=jnp.asarray(RANDOM), scale=scale) ** 2)

    found = jax.jit(jax.vmap(jax.grad(jax.checkpoint(loss)), in_axes=(None, 0, None)))(q, lengths, 0.3)
    for row, one in zip(lengths, found, strict=True):
        primal = functools.partial(attention, key_value_seq_lengths=row, mask=RANDOM, scale=0.3)
        expected = jax.jit(jax.grad(lambda q, primal=primal: jnp.sum(primal(q, k, v) ** 2)))(q)
        assert relative_error(one, expected) <= TOLERANCE["float32"]


X, K2, K3 = jnp.ones((2, 5, 4, 3)), jnp.ones((2, 6, 2, 3)), jnp.ones((2, 6, 3, 3))
BAD = {
    "k has shape [2, 6, 2, 4]; expected [B, S, K, H] with B = 2, H = 3 from q [2, 5, 4, 3]": (
        lambda f: f(X, jnp.ones((2, 6, 2, 4)), K2)
    ),
    "v has shape [2, 7, 2, 3]; expected [B, S, K, H]": lambda f: f(X, K2, jnp.ones((2, 7, 2, 3))),
    "q has N = 4 heads; expected a multiple of K = 3 from k": lambda f: f(X, K3, K3),
    "k has S = 0; expected S ≥ 1": lambda f: f(X, K2[:, :0], K2[:, :0]),
    "q has T = 0; expected T ≥ 1": lambda f: f(X[:, :0], K2, K2),
    "mask has shape [5, 7]; expected [B, N, T, S] = [2, 4, 5, 6], or 1s": lambda f: f(X, K2, K2, mask=RANDOM[0, 0, :5]),
    "mask has shape [2, 2, 5, 6]; expected [B, N, T, S]": lambda f: f(X, K2, K2, mask=np.ones((2, 2, 5, 6), bool)),
    "mask has dtype float32; expected bool": lambda f: f(X, K2, K2, mask=jnp.ones((2, 4, 5, 6))),
    "query_seq_lengths has shape [3]; expected [B] = [2], or 1s": (
        lambda f: f(X, K2, K2, query_seq_lengths=np.array([1, 2, 3]))
    ),
    "key_value_seq_lengths has dtype float32; expected an integer dtype": (
        lambda f: f(X, K2, K2, key_value_seq_lengths=jnp.ones(2))
    ),
    "scale has shape [6]; expected a number": lambda f: f(X, K2, K2, scale=jnp.ones(6)),
    "causal is 'no' (str); expected True or False": lambda f: f(X, K2, K2, causal="no"),
    "v has dtype bfloat16; expected float32 as in k": lambda f: f(X, K2, K2.astype(jnp.bfloat16)),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("f", [attention, blockwise_attention])
def test_bad_operands(f, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        BAD[message](f)
    assert f"{f.__name__}: {message}" in str(raised.value)


@pytest.mark.parametrize(("block_size", "error"), [(0, ValueError), (-4, ValueError), (2.0, TypeError)])
def test_bad_block_size(block_size, error):
    with pytest.raises(error, match=f"blockwise_attention: block_size is {block_size}.*expected an integer ≥ 1"):
        blockwise_attention(X, K2, K2, block_size=block_size)
