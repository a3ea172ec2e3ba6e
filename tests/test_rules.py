"""The contract of every rule in the catalogue. A rule gets all of these tests by having a row there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, cotangent_like, finite_differences, hand, is_floating, relative_error, widen

from fundamentals import hand_derived
from fundamentals.catalogue import RULES

EVERY_RULE = pytest.mark.parametrize("name", RULES)


def example(name, dtype, seed=0):
    rule, arguments = RULES[name]
    args = arguments(jax.random.key(seed), dtype)
    return rule, args, cotangent_like(jax.eval_shape(rule.primal, *args))


@EVERY_RULE
@pytest.mark.usefixtures("x64")
def test_equals_jax_vjp_in_float64(name):
    rule, args, dy = example(name, jnp.float64)
    found = jax.jit(lambda args, dy: hand(rule, args, dy))(args, dy)
    expected = jax.jit(lambda args, dy: autodiff(rule, args, dy))(args, dy)
    assert relative_error(found, expected) <= TOLERANCE["float64"]


@EVERY_RULE
@pytest.mark.usefixtures("x64")
def test_equals_finite_differences(name):
    rule, args, dy = example(name, jnp.float64, seed=1)
    found = hand(rule, args, dy)
    for i, arg in enumerate(args):
        if is_floating(arg):
            expected = finite_differences(lambda v, i=i: jnp.vdot(dy, rule.primal(*args[:i], v, *args[i + 1 :])), arg)
            assert relative_error(found[i], expected) <= 1e-7
        else:
            assert found[i] is None


@EVERY_RULE
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.usefixtures("x64")
def test_in_lower_precision(name, dtype):
    # Against the exact derivative at the same, already rounded, numbers. x64 is on: nothing may widen by accident.
    rule, args, dy = example(name, jnp.dtype(dtype))
    y, found = jax.jit(lambda args, dy: (rule.primal(*args), hand(rule, args, dy)))(args, dy)
    exact_y, exact = widen(args), widen(dy)
    exact_y, exact = rule.primal(*exact_y), autodiff(rule, exact_y, exact)
    assert y.dtype == dtype
    assert relative_error(y, exact_y) <= TOLERANCE[dtype]
    assert relative_error(found, exact) <= TOLERANCE[dtype]
    for arg, cotangent in zip(args, found, strict=True):
        for a, c in zip(jax.tree.leaves(arg), jax.tree.leaves(cotangent), strict=False):
            assert (c.shape, c.dtype) == (a.shape, a.dtype)


@EVERY_RULE
@pytest.mark.usefixtures("x64")
def test_is_linear_in_the_cotangent(name):
    rule, args, dy = example(name, jnp.float64)
    _, residuals = rule.fwd(*args)
    other = cotangent_like(dy, seed=8)
    combined = rule.bwd(residuals, 2.5 * dy - 0.5 * other)
    separate = jax.tree.map(lambda a, b: 2.5 * a - 0.5 * b, rule.bwd(residuals, dy), rule.bwd(residuals, other))
    assert relative_error(combined, separate) <= TOLERANCE["float64"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(rule.bwd(residuals, jnp.zeros_like(dy))))


@EVERY_RULE
def test_plugs_into_custom_vjp(name):
    rule, args, dy = example(name, jnp.float32)
    differentiable = tuple(i for i, arg in enumerate(args) if is_floating(arg))
    scalar = jax.jit(jax.grad(lambda *args: jnp.vdot(dy, hand_derived(rule)(*args)), differentiable))
    expected = tuple(hand(rule, args, dy)[i] for i in differentiable)
    assert relative_error(scalar(*args), expected) <= TOLERANCE["float32"]


@EVERY_RULE
def test_under_vmap(name):
    rule, _, dy = example(name, jnp.float32)
    examples = [RULES[name].arguments(jax.random.key(seed), jnp.float32) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples)
    found = jax.jit(jax.vmap(lambda args: (rule.primal(*args), hand(rule, args, dy))))(stacked)
    expected = [(rule.primal(*args), hand(rule, args, dy)) for args in examples]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    assert relative_error(found, expected) <= TOLERANCE["float32"]


@EVERY_RULE
def test_primal_is_plain(name):
    # A primal that was itself a custom_vjp would make jax.grad compare the hand derivation with itself.
    rule, args, _ = example(name, jnp.float32)
    text = str(jax.make_jaxpr(rule.primal)(*args))
    assert "custom_vjp" not in text


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_cross_entropy"])
def test_no_jacobian_is_materialized(name):
    rule, args, _ = example(name, jnp.float32)
    wide = (jnp.zeros((2, 1009)), *args[1:]) if len(args) == 1 else (jnp.zeros((2, 1009)), jnp.zeros(2, jnp.int32))
    dy = jnp.ones(jax.eval_shape(rule.primal, *wide).shape)
    jaxpr = jax.make_jaxpr(lambda args, dy: hand(rule, args, dy))(wide, dy)
    largest = max(v.aval.size for equation in _equations(jaxpr.jaxpr) for v in equation.outvars)
    assert largest <= 2 * 1009


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from _equations(value.jaxpr)
