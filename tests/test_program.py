"""Programs: nothing but operations is left, they compute the same, and each knows its line."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import program


@jax.custom_vjp
def wrongly_differentiated(x):
    return jnp.sin(x)


wrongly_differentiated.defvjp(lambda x: (jnp.sin(x), x), lambda x, dy: (7 * dy,))


def cell(state, row):
    state = jnp.tanh(0.5 * state + row)
    return state, (state, 2 * row)


def calls(tree):
    x = jax.nn.relu(tree["x"] - 0.1)
    x = jax.jit(lambda x: jax.checkpoint(jnp.exp)(jax.jit(jnp.cos)(x)))(x)
    return {"y": wrongly_differentiated(x), "n": tree["n"] + 1}


def scanned(x, h, *, reverse=False):
    return jax.lax.scan(cell, h, x, reverse=reverse)


TREE = {"x": jnp.asarray(np.random.RandomState(0).normal(size=(3, 4)), jnp.float32), "n": jnp.int32(5)}
NAMES = {"jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call", "eval_jaxpr", "scan", "while", "cond"}


def names(found):
    return [equation.primitive.name for equation in found.equations]


def test_calls_are_replaced_by_what_they_compute():
    found = program.flatten(calls, TREE)
    assert not NAMES & set(names(found))
    assert names(found).count("sin") == 1
    assert found.inputs == ("[0]['n']", "[0]['x']")
    x = np.maximum(0, np.asarray(TREE["x"]) - 0.1)
    result = found(TREE)
    np.testing.assert_allclose(result["y"], np.sin(np.exp(np.cos(x))), rtol=1e-6)
    assert result["n"] == 6


def test_derivatives_are_those_of_the_arithmetic():
    found = program.flatten(wrongly_differentiated, 0.3)
    np.testing.assert_allclose(jax.grad(found)(0.3), np.cos(0.3), rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_short_scans_are_written_out(reverse):
    x, h = TREE["x"], jnp.arange(4.0)
    found = program.flatten(lambda x, h: scanned(x, h, reverse=reverse), x, h, unroll=3)
    assert not NAMES & set(names(found))
    assert names(found).count("tanh") == 3
    state, states = np.arange(4.0), np.zeros((3, 4))
    for t in (2, 1, 0) if reverse else (0, 1, 2):
        states[t] = state = np.tanh(0.5 * state + np.asarray(x[t]))
    last, (all_states, doubled) = found(x, h)
    np.testing.assert_allclose(last, state, rtol=1e-6)
    np.testing.assert_allclose(all_states, states, rtol=1e-6)
    np.testing.assert_array_equal(doubled, 2 * x)


def test_constants_of_a_scan_keep_their_place():
    w, b = jnp.array([2.0, 3.0]), jnp.array([1.0, -1.0])
    x = jnp.arange(4.0).reshape(2, 2)
    found = program.flatten(lambda w, b: jax.lax.scan(lambda c, row: (w * c - row, c + b), b, x), w, b, unroll=2)
    states = [np.asarray(b)]
    for row in np.asarray(x):
        states.append(np.asarray(w) * states[-1] - row)
    last, emitted = found(w, b)
    np.testing.assert_array_equal(last, states[2])
    np.testing.assert_array_equal(emitted, np.stack(states[:2]) + np.asarray(b))


def test_calls_inside_of_loops_are_replaced():
    @jax.checkpoint
    def segment(state, rows):
        return jax.lax.scan(lambda c, row: (jnp.sin(c + row), None), state, rows)

    def loss(h, x):
        return jax.lax.scan(segment, h, x)[0].sum()

    h, x = jnp.arange(3.0), jnp.arange(12.0).reshape(2, 2, 3) / 7
    found = program.flatten(jax.grad(loss), h, x, unroll=2)
    assert not NAMES & set(names(found))
    np.testing.assert_allclose(found(h, x), jax.grad(loss)(h, x), rtol=1e-6)


def test_a_scan_that_emits_nothing():
    found = program.flatten(lambda x: jax.lax.scan(lambda c, _: (c * c, None), x, length=3)[0], 2.0, unroll=3)
    assert found(2.0) == 256


def test_other_loops_stay_whole():
    def loops(x):
        x = jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)
        x = jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: 2 * x, x)
        return jax.lax.scan(lambda c, _: (c + 1, None), x, length=5)[0]

    x = jnp.ones(3)
    found = program.flatten(loops, x, unroll=4)
    assert {"cond", "while", "scan"} <= set(names(found))
    expected = np.full(3, np.sin(1.0))
    while expected.sum() < 100:
        expected = 2 * expected
    np.testing.assert_allclose(found(x), expected + 5, rtol=1e-6)


def test_every_equation_knows_its_line():
    found = program.flatten(calls, TREE)
    first = inspect.getsourcelines(calls)[1]
    lines = {equation.primitive.name: program.line(equation) for equation in found.equations}
    assert lines["max"] == f"{__file__}:{first + 1} (calls)"  # JAX's own, inside relu: where that is called
    assert lines["sub"] == f"{__file__}:{first + 1} (calls)"
    assert lines["exp"].startswith(f"{__file__}:{first + 2} (calls")
    assert (
        lines["sin"]
        == f"{__file__}:{inspect.getsourcelines(wrongly_differentiated.__wrapped__)[1] + 2} (wrongly_differentiated)"
    )
    found = program.flatten(scanned, TREE["x"], jnp.ones(4), unroll=3)
    (tanh, *_) = (program.line(equation) for equation in found.equations if equation.primitive.name == "tanh")
    assert tanh == f"{__file__}:{inspect.getsourcelines(cell)[1] + 1} (cell)"


@pytest.mark.usefixtures("x64")
def test_dtypes_and_keys_pass_through():
    def f(x, key):
        return x.astype(jnp.float16), x * jax.random.normal(key, x.shape, x.dtype)

    x, key = jnp.ones(3, jnp.float64), jax.random.key(1)
    narrow, drawn = program.flatten(f, x, key)(x, key)
    assert (narrow.dtype, drawn.dtype) == ("float16", "float64")
    np.testing.assert_array_equal(drawn, jax.random.normal(key, (3,), jnp.float64))
