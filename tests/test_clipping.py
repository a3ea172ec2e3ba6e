"""Norms, and what clipping does to them: also where squares overflow, and to what is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals.optimizers import NoState, clip_by_global_norm, clip_by_value, global_norm

TREE = {"w": jnp.array([[3.0, 0.0], [-4.0, 0.0]]), "b": (jnp.array(12.0), None)}


def clipped(optimizer, gradients):
    return jax.jit(optimizer.update)(gradients, optimizer.init(gradients))[0]


FORMS = {"eager": lambda f: f, "jit": jax.jit, "vmap": lambda f: jax.jit(lambda x: one_of_two(f, x))}


def one_of_two(function, x):
    """Beside zeros: a branch that is not taken is computed all the same under vmap."""
    return jax.vmap(function)(jnp.stack([jnp.zeros_like(x), x]))[1]


@functools.cache
def programs(form):
    return [FORMS[form](function) for function in (global_norm, jax.grad(global_norm), clip)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-25, 2e-37, 1e30, 6e37, 1e38])
def test_norms_and_their_derivatives_at_any_size(scale, form):
    norm, gradient, clipped_ = programs(form)
    for x in ([1.0, -2.0, 0.0, 2.0], [[2.0, 1.0, 2.0]], [1.2] * 6):
        x = jnp.asarray(np.float32(x) * np.float32(scale))
        exact = np.linalg.norm(np.asarray(x, np.float64).ravel())
        if exact > 3.4e38:
            assert np.isposinf(norm(x))
            continue
        np.testing.assert_allclose(norm(x), exact, rtol=1e-6)
        direction = np.asarray(x, np.float64) / exact
        np.testing.assert_allclose(gradient(x), direction, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(clipped_(x), np.asarray(x) if exact <= 0.5 else 0.5 * direction, rtol=1e-5)


def clip(x):
    return clip_by_global_norm(0.5).update(x, NoState())[0]


def test_norms_in_float64_and_of_a_tree(x64):
    for scale in (1e-300, 1.0, 1e300):
        tree = jax.tree.map(lambda x, scale=scale: jnp.asarray(x, jnp.float64) * scale, TREE)
        np.testing.assert_allclose(global_norm(tree), 13 * scale, rtol=1e-14)


def test_many_small_squares_count():
    # Each square is below what float32 holds with all digits, their sum is not beside the one large entry's.
    x = jnp.append(jnp.full(100_000, 0.9e-19), 1e-17)
    np.testing.assert_allclose(global_norm(x), np.linalg.norm(np.asarray(x, np.float64)), rtol=1e-5)


def test_derivatives_of_clipping():
    # Where it shortens to length c, c / ‖g‖ (1 − ĝ ĝᵀ); elsewhere the identity, at 0 too.
    for x, matrix in (
        ([0.0, 0.0], np.eye(2)),
        ([1e-30, 0.0], np.eye(2)),
        ([3.0, 4.0], 0.1 * np.array([[0.64, -0.48], [-0.48, 0.36]])),
        ([3e30, 4e30], 1e-31 * np.array([[0.64, -0.48], [-0.48, 0.36]])),
    ):
        found = jax.jit(jax.jacobian(clip))(jnp.array(x))
        np.testing.assert_allclose(found, matrix, rtol=1e-5, atol=1e-6 * np.max(np.abs(matrix)))


def test_norm_of_nothing_of_zeros_and_of_mixed_types():
    assert global_norm({}) == global_norm({"w": jnp.zeros((0, 3))}) == global_norm(jnp.zeros(3)) == 0
    halves = {"a": jnp.full(4, 300.0, jnp.float16), "b": jnp.full(4, 400.0, jnp.bfloat16)}
    norm = global_norm(halves)  # 300² is more than float16 holds
    assert (float(norm), norm.dtype) == (1000.0, jnp.float32)
    with jax.enable_x64(True):
        norm = global_norm({"a": jnp.array([3.0], jnp.float32), "b": jnp.array([4.0], jnp.float64)})
        assert (float(norm), norm.dtype) == (5.0, jnp.float64)
    with pytest.raises(TypeError, match=r"global_norm: tree\['ids'\] has dtype int32; expected a floating dtype"):
        global_norm({"ids": jnp.arange(3)})


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e37])
def test_long_gradients_are_shortened_and_keep_their_direction(scale):
    found = clipped(clip_by_global_norm(6.5), jax.tree.map(lambda x: x * jnp.float32(scale), TREE))
    np.testing.assert_allclose(found["w"], np.asarray(TREE["w"]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found["b"][0], 6.0, rtol=1e-6)


def test_short_gradients_are_left_as_they_are():
    for norm in (13.0, 1e9):
        found = clipped(clip_by_global_norm(norm), TREE)
        assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(TREE)))


def test_half_precision_is_clipped_in_float32():
    gradients = {"w": jnp.full(64, 60000.0, jnp.float16)}
    found = clipped(clip_by_global_norm(1.0), gradients)["w"]
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(found, 0.125, rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_direction(bad):
    gradients = {"w": jnp.array([1.0, bad]), "b": jnp.array(2.0)}
    for leaf in jax.tree.leaves(clipped(clip_by_global_norm(1.0), gradients)):
        assert np.all(np.isnan(leaf))
    assert np.isnan(global_norm(gradients)) if np.isnan(bad) else np.isposinf(global_norm(gradients))
    both = {"w": jnp.array([jnp.nan, jnp.inf])}
    assert np.isnan(global_norm(both))
    limited = clipped(clip_by_value(1.5), gradients)
    np.testing.assert_array_equal(limited["w"], np.array([1.0, np.clip(bad, -1.5, 1.5)], np.float32))
    np.testing.assert_array_equal(limited["b"], 1.5)


def test_a_small_limit_of_a_large_gradient():
    found = clipped(clip_by_global_norm(1e-3), jnp.array([3e36, 4e36]))
    np.testing.assert_allclose(found, [6e-4, 8e-4], rtol=1e-6)


def test_a_limit_above_the_largest_number_of_a_dtype():
    found = clipped(clip_by_value(1e5), jnp.array([jnp.inf, -jnp.inf, 3.0], jnp.float16))
    np.testing.assert_array_equal(found, np.array([65504, -65504, 3], np.float16))


def test_clipping_by_value_changes_the_direction():
    found = clipped(clip_by_value(4.0), TREE)
    np.testing.assert_array_equal(found["w"], [[3, 0], [-4, 0]])
    assert found["b"][0] == 4
