"""Optimizers: NumPy transcriptions of the papers, states, dtypes, interface."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import optimizers

STEPS = 50


def numpy_sgd(theta, gradient, eta):
    for _ in range(STEPS):
        theta = theta - eta * gradient(theta)
    return theta


def numpy_momentum(theta, gradient, eta, beta=0.9, nesterov=False):
    v = np.zeros_like(theta)
    for _ in range(STEPS):
        g = gradient(theta)
        v = beta * v + g
        theta = theta - eta * (g + beta * v if nesterov else v)
    return theta


def numpy_rmsprop(theta, gradient, eta, decay=0.9, eps=0.0, eps_root=1e-8):
    s = np.zeros_like(theta)
    for _ in range(STEPS):
        g = gradient(theta)
        s = decay * s + (1 - decay) * g**2
        theta = theta - eta * g / (np.sqrt(s + eps_root) + eps)
    return theta


def numpy_adam(theta, gradient, eta, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, STEPS + 1):
        g = gradient(theta)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - eta * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
    return theta


CASES = [
    (optimizers.sgd, numpy_sgd, {}),
    (optimizers.momentum, numpy_momentum, {}),
    (optimizers.momentum, numpy_momentum, {"beta": 0.5, "nesterov": True}),
    (optimizers.rmsprop, numpy_rmsprop, {}),
    (optimizers.rmsprop, numpy_rmsprop, {"decay": 0.99, "eps": 1e-3, "eps_root": 0.0}),
    (optimizers.adam, numpy_adam, {}),
    (optimizers.adam, numpy_adam, {"b1": 0.0, "b2": 0.9, "eps": 1e-2}),
    (optimizers.adam, numpy_adam, {"eps": 0.0, "eps_root": 1e-3}),
]
EVERY_METHOD = pytest.mark.parametrize("method", [case[0] for case in CASES[::2]], ids=lambda m: m.__name__)
CURVATURE = np.array([[3.0, 1.0], [1.0, 0.5]])


def descend(optimizer, params, gradient, steps=STEPS):
    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        return (optimizers.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), None, length=steps)[0])(params)


@pytest.mark.parametrize(("method", "transcription", "options"), CASES)
@pytest.mark.usefixtures("x64")
def test_trajectory_is_the_papers(method, transcription, options):
    start = np.array([1.0, -2.0])
    found, _ = descend(method(0.05, **options), jnp.asarray(start), lambda x: jnp.asarray(CURVATURE) @ x)
    expected = transcription(start, lambda x: CURVATURE @ x, 0.05, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_adam_first_step_is_the_learning_rate():
    # Whatever the gradient's size. 1 − float32(0.999)¹ taken naively would be off by 1e-5.
    optimizer = optimizers.adam(0.01)
    gradients = jnp.array([1e-3, -1.0, 1e4])
    updates, _ = optimizer.update(gradients, optimizer.init(gradients))
    np.testing.assert_allclose(updates, -0.01 * np.sign(gradients), rtol=1.1e-5, atol=0)
    exact = -0.01 * np.asarray(gradients, np.float64) / (np.abs(np.asarray(gradients, np.float64)) + 1e-8)
    np.testing.assert_allclose(updates, exact, rtol=4e-7)


@EVERY_METHOD
def test_learning_rate_may_be_a_function_of_the_step(method):
    rates = np.array([0.1, 0.01, 0.0], np.float32)
    scheduled, plain = method(lambda step: jnp.asarray(rates)[step]), method(1.0)
    params = jnp.array([1.0, -2.0])
    state, reference = scheduled.init(params), plain.init(params)
    for rate in rates:
        updates, state = scheduled.update(params, state)
        unscaled, reference = plain.update(params, reference)
        np.testing.assert_allclose(updates, rate * unscaled, rtol=1e-6)
    assert int(state.step) == 3
    assert state.step.dtype == jnp.int32


@EVERY_METHOD
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.usefixtures("x64")
def test_dtypes(method, dtype):
    params = {"a": [jnp.ones((2, 3), dtype), None], "b": jnp.ones((), dtype)}
    optimizer = method(0.1)
    (final, state) = descend(optimizer, params, lambda p: p, steps=2)
    wide = jnp.float32 if dtype in (jnp.float16, jnp.bfloat16) else dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(final, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[1:])} <= {jnp.dtype(wide)}
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))


def test_small_updates_of_half_precision_parameters_are_not_lost_in_the_moments():
    # v grows by 1e-3 g² a step; in bfloat16 that increment vanishes beside a v of 0.3 or more.
    optimizer = optimizers.adam(0.0)
    params = jnp.ones((1,), jnp.bfloat16)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(1500):
        _, state = update(params, state)
    np.testing.assert_allclose(state.second_moment, 1 - 0.999**1500, rtol=1e-4)


@EVERY_METHOD
def test_compiles_once(method):
    optimizer = method(0.1)
    chex.clear_trace_counter()  # which counts by the name of the function

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optimizers.apply_updates(params, updates), state

    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)


@EVERY_METHOD
def test_zero_gradients_leave_parameters_alone(method):
    params = jnp.array([1.0, -2.0])
    final, _ = descend(method(0.1), params, jnp.zeros_like)
    np.testing.assert_array_equal(final, params)


def test_gradient_descent_is_stable_up_to_two_over_the_largest_curvature():
    # O5 of the notes: in the ravine x² / 2 + 20 y² / 2 the limit is η = 2 / 20.
    curvature = jnp.array([1.0, 20.0])
    inside, _ = descend(optimizers.sgd(0.099), jnp.ones(2), lambda x: curvature * x, steps=500)
    outside, _ = descend(optimizers.sgd(0.101), jnp.ones(2), lambda x: curvature * x, steps=500)
    assert np.max(np.abs(inside)) < 1e-2
    assert np.abs(outside[0]) < 1e-2
    assert np.abs(outside[1]) > 1e3  # diverges in the steep coordinate only
