"""Every method against a NumPy transcription of its paper, each convention of the table, and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import optimizers
from fundamentals.optimizers import adadelta, adagrad, adam, adamw, chain, l2_regularization, momentum, rmsprop, sgd

STEPS = 100

# A transcription is a generator: it takes θ, yields the next θ for each gradient that it is sent.


def numpy_sgd(theta, eta):
    while True:
        theta = theta - eta * (yield theta)


def numpy_polyak(theta, eta, beta, nesterov=False):
    v = np.zeros_like(theta)
    while True:
        g = yield theta
        v = beta * v + g
        theta = theta - eta * (g + beta * v if nesterov else v)


def numpy_sutskever(theta, eta, beta, nesterov=False):
    """Eqs. 1–4 of the paper. Nesterov's gradient is taken at θ + μ v: these are those points, as in Keras."""
    v = np.zeros_like(theta)
    while True:
        g = yield theta
        v = beta * v - eta * g
        theta = theta + (beta * v - eta * g if nesterov else v)


def numpy_average(theta, eta, beta, nesterov=False):
    v = np.zeros_like(theta)
    while True:
        g = yield theta
        v = beta * v + (1 - beta) * g
        theta = theta - eta * (beta * v + (1 - beta) * g if nesterov else v)


def numpy_variance_preserving(theta, eta, beta):
    v = np.zeros_like(theta)
    while True:
        v = np.sqrt(beta) * v + np.sqrt(1 - beta) * (yield theta)
        theta = theta - eta * v


def numpy_adagrad(theta, eta, outside=0.0, inside=1e-8, start=0.0):
    total = np.full_like(theta, start)
    while True:
        g = yield theta
        total = total + g**2
        theta = theta - eta * g / (np.sqrt(total + inside) + outside)


def numpy_rmsprop(theta, eta, rho=0.9, outside=0.0, inside=1e-8):
    s = np.zeros_like(theta)
    while True:
        g = yield theta
        s = rho * s + (1 - rho) * g**2
        theta = theta - eta * g / (np.sqrt(s + inside) + outside)


def numpy_adadelta(theta, eta=1.0, rho=0.9, eps=1e-6):
    squared_gradient, squared_step = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        g = yield theta
        squared_gradient = rho * squared_gradient + (1 - rho) * g**2
        step = -np.sqrt(squared_step + eps) / np.sqrt(squared_gradient + eps) * g
        squared_step = rho * squared_step + (1 - rho) * step**2
        theta = theta + eta * step


def numpy_adam(theta, eta, b1=0.9, b2=0.999, outside=1e-8, inside=0.0, decay=0.0, penalty=0.0):
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = (yield theta) + penalty * theta
        t += 1
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        theta = theta - eta * (m_hat / (np.sqrt(v_hat + inside) + outside) + decay * theta)


def numpy_keras_adam(theta, eta, b1=0.9, b2=0.999, eps=1e-7, decay=0.0, inside=0.0):
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t += 1
        theta = theta - decay * eta * theta
        alpha = eta * np.sqrt(1 - b2**t) / (1 - b1**t)
        m, v = m + (g - m) * (1 - b1), v + (g**2 - v) * (1 - b2)
        theta = theta - m * alpha / (np.sqrt(v + inside) + eps)


def numpy_uncorrected_adam(theta, eta, outside=1e-8, inside=0.0, decay=0.0, b1=0.9, b2=0.999):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - eta * (m / (np.sqrt(v + inside) + outside) + decay * theta)


CASES = {
    "sgd": (sgd(0.05), numpy_sgd, (0.05,)),
    "momentum": (momentum(0.05, 0.8), numpy_polyak, (0.05, 0.8)),
    "momentum, nesterov": (momentum(0.05, 0.8, nesterov=True), numpy_polyak, (0.05, 0.8, True)),
    "momentum, steps": (momentum(0.05, 0.8, normalization="steps"), numpy_sutskever, (0.05, 0.8)),
    "momentum, steps, nesterov": (
        momentum(0.05, 0.8, normalization="steps", nesterov=True), numpy_sutskever, (0.05, 0.8, True),
    ),
    "momentum, average": (momentum(0.05, 0.8, normalization="average"), numpy_average, (0.05, 0.8)),
    "momentum, average, nesterov": (
        momentum(0.05, 0.8, normalization="average", nesterov=True), numpy_average, (0.05, 0.8, True),
    ),
    "momentum, variance preserving": (
        momentum(0.05, 0.8, normalization="variance_preserving"), numpy_variance_preserving, (0.05, 0.8),
    ),
    "adagrad": (adagrad(0.3), numpy_adagrad, (0.3,)),
    "adagrad, outside": (adagrad(0.3, eps=1e-2, eps_root=0.0), numpy_adagrad, (0.3, 1e-2, 0.0)),
    "adagrad, keras": (adagrad(0.3, eps_root=1e-7, initial_accumulator=0.1), numpy_adagrad, (0.3, 0.0, 1e-7, 0.1)),
    "rmsprop": (rmsprop(0.05), numpy_rmsprop, (0.05,)),
    "rmsprop, outside": (rmsprop(0.05, 0.99, eps=1e-3, eps_root=0.0), numpy_rmsprop, (0.05, 0.99, 1e-3, 0.0)),
    "adadelta": (adadelta(), numpy_adadelta, ()),
    "adadelta, all": (adadelta(0.5, 0.95, 1e-3), numpy_adadelta, (0.5, 0.95, 1e-3)),
    "adam": (adam(0.05), numpy_adam, (0.05,)),
    "adam, inside": (adam(0.05, eps=0.0, eps_root=1e-3), numpy_adam, (0.05, 0.9, 0.999, 0.0, 1e-3)),
    "adam, no first moment": (adam(0.05, b1=0.0, b2=0.9, eps=1e-2), numpy_adam, (0.05, 0.0, 0.9, 1e-2)),
    "adam, keras": (adam(0.05, eps=1e-3, eps_hat=True), numpy_keras_adam, (0.05, 0.9, 0.999, 1e-3)),
    "adam, uncorrected": (adam(0.05, bias_correction=False), numpy_uncorrected_adam, (0.05,)),
    "adam, both, of the uncorrected": (
        adam(0.05, eps=1e-3, eps_root=1e-2, eps_hat=True), numpy_keras_adam, (0.05, 0.9, 0.999, 1e-3, 0.0, 1e-2),
    ),
    "adam, uncorrected, inside": (
        adam(0.05, eps=0.0, eps_root=1e-3, bias_correction=False), numpy_uncorrected_adam, (0.05, 0.0, 1e-3),
    ),
    "adamw, inside": (
        adamw(0.05, eps=0.0, eps_root=1e-3, weight_decay=0.1), numpy_adam, (0.05, 0.9, 0.999, 0.0, 1e-3, 0.1),
    ),
    "adamw, keras": (
        adamw(0.05, eps=1e-3, eps_hat=True, weight_decay=0.1), numpy_keras_adam, (0.05, 0.9, 0.999, 1e-3, 0.1),
    ),
    "adamw, uncorrected": (
        adamw(0.05, weight_decay=0.1, bias_correction=False), numpy_uncorrected_adam, (0.05, 1e-8, 0.0, 0.1),
    ),
    "adamw": (adamw(0.05, weight_decay=0.1), numpy_adam, (0.05, 0.9, 0.999, 1e-8, 0.0, 0.1)),
    "adam with a penalty": (
        chain(l2_regularization(0.1), adam(0.05)), numpy_adam, (0.05, 0.9, 0.999, 1e-8, 0.0, 0.0, 0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_equals_the_transcription(name):
    optimizer, transcription, arguments = CASES[name]
    random = np.random.RandomState(0)
    start = {"w": random.normal(size=(3, 2)), "b": [random.normal(size=5), None], "s": np.float64(0.7)}
    noise = jax.tree.map(lambda x: random.normal(size=(STEPS, *np.shape(x))), start)

    def body(carry, noise):
        params, state = carry
        gradients = jax.tree.map(lambda p, n: 0.3 * p + n, params, noise)
        updates, state = optimizer.update(gradients, state, params)
        params = optimizers.apply_updates(params, updates)
        return (params, state), params

    params = jax.tree.map(jnp.asarray, start)
    _, found = jax.jit(lambda p, noise: jax.lax.scan(body, (p, optimizer.init(p)), noise))(params, noise)
    for theta, n, trajectory in zip(*map(jax.tree.leaves, (start, noise, found)), strict=True):
        method = transcription(np.asarray(theta), *arguments)
        theta = next(method)
        expected = [theta := method.send(0.3 * theta + gradient) for gradient in n]
        np.testing.assert_allclose(trajectory, expected, rtol=0, atol=1e-12 * np.max(np.abs(expected)), err_msg=name)


# Dive into Deep Learning, sections 12.6–12.8 (1.0.3): 0.1 x₁² + 2 x₂² from (−5, −2), after 20 steps, ε = 1e-6 inside.
PRINTED = {
    "sgd": (sgd(0.4), (-0.943467, -0.000073)),
    "sgd, divergent": (sgd(0.6), (-0.387814, -1673.365109)),
    "momentum": (momentum(0.6, 0.5), (0.007188, 0.002553)),
    "momentum, weak": (momentum(0.6, 0.25), (-0.126340, -0.186632)),
    "adagrad": (adagrad(0.4, eps_root=1e-6), (-2.382563, -0.158591)),
    "adagrad, large": (adagrad(2.0, eps_root=1e-6), (-0.002295, 0.0)),
    "rmsprop": (rmsprop(0.4, 0.9, eps_root=1e-6), (-0.010599, 0.0)),
}


def valley(optimizer):
    params = jnp.array([-5.0, -2.0])
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(20):
        updates, state = update(jnp.array([0.2, 4.0]) * params, state, params)
        params = optimizers.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.usefixtures("x64")
def test_traces_of_dive_into_deep_learning(name):
    optimizer, printed = PRINTED[name]
    np.testing.assert_allclose(valley(optimizer), printed, rtol=0, atol=0.5000001e-6)


@pytest.mark.usefixtures("x64")
def test_a_printed_trace_tells_where_epsilon_is():
    outside = valley(adagrad(0.4, eps=1e-6, eps_root=0.0))
    assert abs(outside[0] - PRINTED["adagrad"][1][0]) > 0.5000001e-6
    assert abs(outside[1] - PRINTED["adagrad"][1][1]) <= 0.5000001e-6  # where gradients are large it does not matter


# The assignments of CS231n, FullyConnectedNets.ipynb: one step, from given moments. First row and last entry.
def line(start, stop):
    return jnp.linspace(start, stop, 20).reshape(4, 5)


def one_step(optimizer, state):
    w, dw = line(-0.4, 0.6), line(-0.6, 0.4)
    updates, state = optimizer.update(dw, state, w)
    return optimizers.apply_updates(w, updates), state


def assert_printed(found, first_row, last):
    np.testing.assert_allclose(found[0], first_row, rtol=0, atol=0.51e-8)
    np.testing.assert_allclose(found[-1, -1], last, rtol=0, atol=0.51e-8)


@pytest.mark.usefixtures("x64")
def test_steps_of_cs231n():
    method = momentum(1e-3, normalization="steps")
    w, state = one_step(method, method.init(line(0, 1))._replace(velocity=line(0.6, 0.9)))
    assert_printed(w, [0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789], 1.4096)
    assert_printed(state.velocity, [0.5406, 0.55475789, 0.56891579, 0.58307368, 0.59723158], 0.8096)

    method = rmsprop(1e-2, decay=0.99, eps=1e-8, eps_root=0.0)
    w, state = one_step(method, method.init(line(0, 1))._replace(second_moment=line(0.6, 0.9)))
    assert_printed(w, [-0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247], 0.59576619)
    assert_printed(state.second_moment, [0.5976, 0.6126277, 0.6277108, 0.64284931, 0.65804321], 0.8926)

    method = adam(1e-2)  # the sixth update: their t is raised before it is used
    state = method.init(line(0, 1))._replace(
        step=jnp.int32(5), first_moment=line(0.6, 0.9), second_moment=line(0.7, 0.5)
    )
    w, state = one_step(method, state)
    assert_printed(w, [-0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977], 0.59801459)
    assert_printed(state.first_moment, [0.48, 0.49947368, 0.51894737, 0.53842105, 0.55789474], 0.85)
    assert_printed(state.second_moment, [0.69966, 0.68908382, 0.67851319, 0.66794809, 0.65738853], 0.49966)


# The examples in optax's documentation: Σ x² from (1, 2, 3), its value after each of five steps, to three digits.
OPTAX = {
    "sgd": (sgd(0.003), (13.8, 13.7, 13.5, 13.3, 13.2)),
    "adagrad": (adagrad(1.0, eps_root=1e-7, initial_accumulator=0.1), (5.01, 2.40, 1.25, 0.686, 0.385)),
    "adadelta": (adadelta(10.0), (13.6, 13.2, 12.9, 12.5, 12.1)),
    "rmsprop": (rmsprop(0.003), (13.9, 13.8, 13.7, 13.7, 13.6)),
    "adam": (adam(0.003), (14.0, 13.9, 13.9, 13.9, 13.8)),
    "adamw": (adamw(0.003, weight_decay=1e-4), (14.0, 13.9, 13.9, 13.9, 13.8)),
}


@pytest.mark.parametrize("name", OPTAX)
def test_examples_of_optax(name):
    optimizer, printed = OPTAX[name]
    params = jnp.array([1.0, 2.0, 3.0])
    state, values = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update(2 * params, state, params)
        params = optimizers.apply_updates(params, updates)
        values.append(float(jnp.sum(params**2)))
    assert [f"{value:.2E}" for value in values] == [f"{value:.2E}" for value in printed]


@pytest.mark.parametrize(
    ("optimizer", "printed"),
    [
        (rmsprop(0.1, eps_root=1e-7), 9.683772),
        (adam(0.1, eps=1e-7, eps_hat=True), 9.9),
    ],
)
def test_examples_of_keras(optimizer, printed):
    # The docstrings of keras.optimizers: x²/2 from 10, after one step.
    x = jnp.array(10.0)
    updates, _ = optimizer.update(x, optimizer.init(x), x)
    np.testing.assert_allclose(x + updates, printed, rtol=0, atol=1e-6)


def test_example_of_keras_with_momentum():
    # SGD(learning_rate=0.1, momentum=0.9): the first step is 0.1, the second 0.18, of x²/2 from 1.
    optimizer = momentum(0.1, 0.9, normalization="steps")
    x, steps = jnp.array(1.0), []
    state = optimizer.init(x)
    for _ in range(2):
        update, state = optimizer.update(x, state, x)
        x = x + update
        steps.append(-float(update))
    np.testing.assert_allclose(steps, [0.1, 0.18], rtol=1e-6)
