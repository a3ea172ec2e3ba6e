"""Dropout: the mask, how often and how it scales, keys, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import hand_derived
from fundamentals.base import Rule
from fundamentals.layers import dropout, dropout_bwd, dropout_fwd

DROPOUT = Rule(dropout, dropout_fwd, dropout_bwd)
KEY = jax.random.key(0)
X = jnp.arange(1.0, 13.0).reshape(3, 4)


def test_values_and_cotangents_share_one_mask():
    y, residuals = dropout_fwd(X, key=KEY, rate=0.25)
    kept = np.asarray(y) != 0
    assert residuals.kept.dtype == bool
    assert 0 < kept.sum() < X.size
    np.testing.assert_array_equal(residuals.kept, kept)
    np.testing.assert_allclose(y, np.where(kept, np.asarray(X) / 0.75, 0), rtol=1e-6)
    dy = -2 * X
    (dx,) = dropout_bwd(residuals, dy, rate=0.25)
    np.testing.assert_allclose(dx, np.where(kept, np.asarray(dy) / 0.75, 0), rtol=1e-6)
    np.testing.assert_array_equal(jax.vjp(lambda x: dropout(x, key=KEY, rate=0.25), X)[1](dy)[0], dx)


def test_the_backward_pass_uses_the_mask_that_it_is_given():
    _, residuals = dropout_fwd(X, key=KEY, rate=0.5)
    mask = jnp.arange(12).reshape(3, 4) % 3 == 0
    np.testing.assert_array_equal(dropout_bwd(residuals._replace(kept=mask), X, rate=0.5)[0], np.where(mask, 2 * X, 0))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_frequency_and_mean(rate):
    # A million numbers: five standard errors, √(rate (1 − rate) / n) of the frequency.
    n, error = 1_000_000, 5 * (rate * (1 - rate) / 1e6) ** 0.5
    y = np.asarray(dropout(jnp.ones(n), key=KEY, rate=rate), np.float64)
    assert abs((y == 0).mean() - rate) < error
    assert abs(y.mean() - 1) < error / (1 - rate)


def test_keys_decide_the_mask():
    one, two = jax.random.split(KEY)
    first, same, other = (dropout(X, key=key, rate=0.5) for key in (one, one, two))
    np.testing.assert_array_equal(first, same)
    assert np.any(np.asarray(first) != np.asarray(other))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(dropout(X, key=one, rate=0.5), first)
        np.testing.assert_array_equal(dropout(X, key=one, rate=np.float64(0.5)), first)


def test_rate_zero_is_the_identity():
    y, residuals = dropout_fwd(X, key=KEY, rate=0)
    assert residuals.kept is None
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(dropout_bwd(residuals, -X, rate=0)[0], -X)
    assert "random_bits" not in str(jax.make_jaxpr(lambda x: dropout(x, key=KEY, rate=0.0))(X))
    traced = jax.jit(lambda rate: dropout(X, key=KEY, rate=rate))
    np.testing.assert_array_equal(traced(0.0), X)
    np.testing.assert_array_equal(traced(0.5), dropout(X, key=KEY, rate=0.5))


def loss(x, key, rate):
    return jnp.vdot(X, hand_derived(DROPOUT)(x, key=key, rate=rate))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_hand_derived_with_keys_and_rates_mapped_over(wrap):
    keys, rates = jax.random.split(KEY, 3), jnp.array([0.25, 0.5, 0.75])
    gradient = jax.jit(jax.vmap(jax.grad(wrap(loss)), in_axes=(None, 0, 0)))
    for found, key, rate in zip(gradient(X, keys, rates), keys, rates, strict=True):
        y = np.asarray(dropout(X, key=key, rate=rate))
        np.testing.assert_allclose(found, y, rtol=1e-6)  # since ∂y/∂x · X is y itself


def test_the_mask_is_all_that_is_kept():
    _, kept = jax.eval_shape(lambda x: dropout_fwd(x, key=KEY, rate=0.5), X)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(kept)] == [((3, 4), bool)]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_rounds_the_product_not_the_factor(dtype):
    values = jnp.arange(1, 129, dtype=dtype)
    y = np.asarray(dropout(values, key=KEY, rate=0.3), np.float64)
    expected = np.asarray((np.arange(1, 129) / 0.7).astype(dtype), np.float64)
    np.testing.assert_array_equal(y[y != 0], expected[y != 0])
    rounded_twice = np.asarray(values * jnp.asarray(1 / 0.7, dtype), np.float64)
    assert np.any((y != 0) & (rounded_twice != expected))  # or nothing was tested


MESSAGES = {
    "dropout: rate is 1; expected a number in [0, 1)": lambda: dropout(X, key=KEY, rate=1),
    "dropout: rate is -0.1; expected a number in [0, 1)": lambda: dropout(X, key=KEY, rate=-0.1),
    "dropout: rate is 1.5; expected a number in [0, 1)": lambda: dropout(X, key=KEY, rate=jnp.float32(1.5)),
    "dropout: rate is nan; expected a number in [0, 1)": lambda: dropout(X, key=KEY, rate=float("nan")),
    "dropout: key has shape [2]; expected one key": lambda: dropout(X, key=jax.random.split(KEY), rate=0.5),
}
TYPE_MESSAGES = {
    "dropout: key is 0 (int); expected a typed PRNG key, from jax.random.key": lambda: dropout(X, key=0, rate=0.5),
    "dropout: key is None (NoneType); expected a typed PRNG key, from jax.random.key": lambda: dropout(
        X, key=None, rate=0
    ),
    "dropout: key has dtype uint32; expected a typed PRNG key, from jax.random.key": lambda: dropout(
        X, key=jax.random.PRNGKey(0), rate=0.5
    ),
    "dropout: key has dtype int64; expected a typed PRNG key, from jax.random.key": lambda: dropout(
        X, key=np.array([0, 1]), rate=0.5
    ),
    "dropout: x has dtype int32; expected a floating dtype": lambda: dropout(jnp.arange(3), key=KEY, rate=0.5),
    "dropout: rate is '0.5' (str); expected a number in [0, 1)": lambda: dropout(X, key=KEY, rate="0.5"),
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
