"""The reverse sweep: its gradient is autodiff's, and a change at one edge is what it would be in the user's file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_close

from fundamentals import program
from fundamentals.gradcheck.sweep import Edge, compile_sweep

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = np.random.RandomState(0)
X, SCALE, DY = RANDOM.normal(size=(3, 5)), 1 + RANDOM.normal(size=(1, 5)), RANDOM.normal(size=(3, 5))


def norm(x, scale, *, of_mean=lambda m: m, by_scale=lambda y, scale: y * scale):
    centred = x - of_mean(jnp.mean(x, axis=1, keepdims=True))
    return by_scale(centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=1, keepdims=True) + 1e-5), scale)


def swept(function, args, dy):
    flat = program.flatten(function, *args, unroll=4)
    run = compile_sweep(flat)

    def changed(additions=()):
        return run(jax.tree.leaves(args), dy, dict(additions))

    return flat, changed(), changed


def pullback(function, *args):
    return jax.jit(lambda *args: jax.vjp(function, *args)[1](DY))(*args)


def edges_of(flat, primitive, operand):
    return [
        Edge(i, operand)
        for i, equation in enumerate(flat.equations)
        if equation.primitive.name == primitive and operand < len(equation.invars)
    ]


def test_gradient_is_autodiffs_and_values_are_known():
    flat, found, _ = swept(norm, (X, SCALE), [DY])
    assert_close(found.gradient, list(pullback(norm, X, SCALE)), 1e-13, "")
    np.testing.assert_allclose(found.values[flat.jaxpr.jaxpr.outvars[0]], norm(X, SCALE), rtol=1e-12)


def test_a_dropped_path_is_the_gradient_of_a_function_that_stops_it():
    flat, found, change = swept(norm, (X, SCALE), [DY])
    edge, *_ = edges_of(flat, "sub", 1)  # the mean, in x − mean
    expected = pullback(lambda *args: norm(*args, of_mean=jax.lax.stop_gradient), X, SCALE)
    assert_close(change({edge: -found.cotangents[edge]}).gradient, list(expected), 1e-12, "")


def test_a_wrong_local_rule_is_the_gradient_of_a_function_that_has_it():
    @jax.custom_vjp
    def without_factor(y, scale):
        return y * scale

    without_factor.defvjp(lambda y, scale: (y * scale, y), lambda y, dy: (dy, jnp.sum(dy * y, axis=0, keepdims=True)))
    flat, found, change = swept(norm, (X, SCALE), [DY])
    edge = edges_of(flat, "mul", 0)[-1]
    expected = pullback(lambda *args: norm(*args, by_scale=without_factor), X, SCALE)
    assert_close(change({edge: DY - found.cotangents[edge]}).gradient, list(expected), 1e-12, "")


def test_each_use_of_a_value_has_its_own_cotangent():
    def f(x):
        return jnp.sin(x) * x

    x = X[0]
    flat, found, change = swept(f, (x,), [DY[0]])
    (sine,), (product,) = edges_of(flat, "sin", 0), edges_of(flat, "mul", 1)
    np.testing.assert_allclose(found.cotangents[sine], DY[0] * x * np.cos(x), rtol=1e-13)
    np.testing.assert_allclose(found.cotangents[product], DY[0] * np.sin(x), rtol=1e-13)
    twice = change({product: found.cotangents[product]})
    np.testing.assert_allclose(twice.gradient[0], DY[0] * (x * np.cos(x) + 2 * np.sin(x)), rtol=1e-12)


def test_steps_of_a_scan_have_edges_of_their_own():
    # h₂ = tanh(w h₁ + x₂), h₁ = tanh(w h₀ + x₁): without the state's path the second step alone is left.
    def last(w, x):
        return jax.lax.scan(lambda h, row: (jnp.tanh(w * h + row), None), jnp.zeros(5), x)[0]

    flat, found, change = swept(last, (SCALE[0], X[:2]), [DY[0]])
    edge = edges_of(flat, "mul", 1)[-1]
    dw, dx = change({edge: -found.cotangents[edge]}).gradient
    h1 = np.tanh(X[0])
    dz = DY[0] * (1 - np.tanh(SCALE[0] * h1 + X[1]) ** 2)
    np.testing.assert_allclose(dw, dz * h1, rtol=1e-12)
    np.testing.assert_allclose(dx, [np.zeros(5), dz], rtol=1e-12, atol=1e-15)


def test_integers_and_keys_have_no_cotangent():
    def f(table, ids, key):
        return table[ids] * jax.random.normal(key, (2, 5), jnp.float64), ids

    ids, key = jnp.array([2, 2]), jax.random.key(0)
    flat, found, _ = swept(f, (X, ids, key), [DY[:2], None])
    assert flat.inputs == ("[0]", "[1]", "[2]")
    assert [g is None for g in found.gradient] == [False, True, True]
    expected = np.zeros_like(X)
    expected[2] = (DY[:2] * np.asarray(jax.random.normal(key, (2, 5), jnp.float64))).sum(0)
    np.testing.assert_allclose(found.gradient[0], expected, rtol=1e-13)


def test_cotangents_of_results_are_summed_over_their_uses():
    # y = sin(x); z = y · x + y: the cotangent of y is dz (x + 1), also after a change at one of its uses.
    flat, found, change = swept(lambda x: jnp.sin(x) * x + jnp.sin(x), (X[0],), [DY[0]])
    (y, _) = (equation.outvars[0] for equation in flat.equations if equation.primitive.name == "sin")
    (product,) = edges_of(flat, "mul", 0)
    np.testing.assert_allclose(found.outputs[y], DY[0] * X[0], rtol=1e-13)
    np.testing.assert_allclose(change({product: DY[0]}).outputs[y], DY[0] * (X[0] + 1), rtol=1e-13)


def test_gates_scale_paths_one_after_the_other_and_other_values_stand_for_those_used():
    # y = sin(x)³ by two products; gates on the two uses of one sine, and cos(x) for the sine in the last product.
    def cube(x):
        s = jnp.sin(x)
        return (s * s) * s

    flat, found, _ = swept(cube, (X[0],), [DY[0]])
    run = compile_sweep(flat)
    square, product = edges_of(flat, "mul", 0)
    s, c = np.sin(X[0]), np.cos(X[0])
    twice = run([X[0]], [DY[0]], {}, {square: 0.0, product: 2.0})
    # d(s²·s) = 2·(the first factor s² through its second operand alone) + s²
    np.testing.assert_allclose(twice.gradient[0], DY[0] * c * (2 * s * s + s * s), rtol=1e-12)
    np.testing.assert_allclose(twice.cotangents[square], 2 * found.cotangents[square], rtol=1e-12)
    last = edges_of(flat, "mul", 1)[-1]
    kept = run([X[0]], [DY[0]], {}, {}, {last: c})
    np.testing.assert_allclose(kept.gradient[0], DY[0] * c * (2 * s * c + s * s), rtol=1e-12)
