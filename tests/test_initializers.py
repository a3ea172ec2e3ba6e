"""Initializers: moments and bounds that their papers state, at a size where chance is small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import initializers as ours

KEY = jax.random.key(3)
SHAPE = (3, 5, 40, 60)  # a convolution's weights: fan_in = 3 · 5 · 40, fan_out = 3 · 5 · 60
FAN_IN, FAN_OUT = 600, 900
VARIANCES = {
    "normal": (ours.normal(0.3), 0.09),
    "uniform": (ours.uniform(0.3), 0.03),
    "xavier_uniform": (ours.xavier_uniform(), 2 / (FAN_IN + FAN_OUT)),
    "xavier_normal": (ours.xavier_normal(), 2 / (FAN_IN + FAN_OUT)),
    "he_uniform": (ours.he_uniform(), 2 / FAN_IN),
    "he_normal": (ours.he_normal(), 2 / FAN_IN),
    "lecun_normal": (ours.lecun_normal(), 1 / FAN_IN),
    "orthogonal": (ours.orthogonal(2.0), 4 / max(FAN_IN, 60)),
}
JAX_OWN = {
    "xavier_uniform": jax.nn.initializers.glorot_uniform(),
    "xavier_normal": jax.nn.initializers.glorot_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "he_normal": jax.nn.initializers.he_normal(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(2.0),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_mean_and_variance(name):
    initializer, variance = VARIANCES[name]
    w = np.asarray(initializer(KEY, SHAPE, jnp.float32), np.float64)
    assert w.shape == SHAPE
    # 36,000 draws: the mean is off by σ/190, a normal's variance by 0.75 %; five of each.
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    assert abs(w.var() / variance - 1) < 5 * np.sqrt(2 / w.size)


@pytest.mark.parametrize("name", JAX_OWN)
def test_variance_is_that_of_jax(name):
    ours_, theirs = (np.var(f(KEY, SHAPE, jnp.float32)) for f in (VARIANCES[name][0], JAX_OWN[name]))
    assert abs(ours_ / theirs - 1) < 5 * np.sqrt(4 / 36000)


@pytest.mark.parametrize(
    ("name", "bound"),
    [("uniform", 0.3), ("xavier_uniform", np.sqrt(6 / (FAN_IN + FAN_OUT))), ("he_uniform", np.sqrt(6 / FAN_IN))],
)
def test_uniform_bounds(name, bound):
    w = VARIANCES[name][0](KEY, SHAPE, jnp.float32)
    assert 0.999 * bound < np.max(w) <= bound
    assert -bound <= np.min(w) < -0.999 * bound


def test_he_normal_is_not_truncated():
    w = ours.he_normal()(KEY, SHAPE, jnp.float32)
    assert np.max(np.abs(w)) > 3.5 * np.sqrt(2 / FAN_IN)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (2, 3, 5)])
@pytest.mark.usefixtures("x64")
def test_orthogonal_rows_or_columns(shape):
    w = np.asarray(ours.orthogonal(1.5)(KEY, shape, jnp.float64)).reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-13)


def test_constants():
    np.testing.assert_array_equal(ours.zeros(KEY, (3,)), np.zeros(3))
    np.testing.assert_array_equal(ours.constant(0.25)(KEY, (2, 3)), np.full((2, 3), 0.25))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", VARIANCES)
def test_dtype_and_keys(name, dtype):
    initializer = VARIANCES[name][0]
    w = initializer(KEY, (4, 6), dtype)
    assert w.dtype == dtype
    np.testing.assert_array_equal(w, initializer(KEY, (4, 6), dtype))
    assert np.any(w != initializer(jax.random.key(4), (4, 6), dtype))
    # Drawn in float32 and rounded once: nearly the same numbers in every dtype.
    np.testing.assert_allclose(np.asarray(w, np.float32), initializer(KEY, (4, 6), jnp.float32), rtol=0.01, atol=1e-6)
