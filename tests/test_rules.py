"""The contract of every rule in the catalogue. A rule gets all of these tests by having a row there."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    TOLERANCE,
    assert_close,
    autodiff,
    cotangent_like,
    finite_differences,
    hand,
    is_floating,
    relative_error,
    widen,
)

from fundamentals import hand_derived
from fundamentals.catalogue import RULES

ROOT = Path(__file__).parents[1]
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
    assert_close(found, expected, TOLERANCE["float64"], f"{name}: against jax.vjp, the cotangent of argument ")


@EVERY_RULE
@pytest.mark.usefixtures("x64")
def test_equals_finite_differences(name):
    rule, args, dy = example(name, jnp.float64, seed=1)
    found = hand(rule, args, dy)
    for i, arg in enumerate(args):
        if is_floating(arg):
            expected = finite_differences(lambda v, i=i: jnp.vdot(dy, rule.primal(*args[:i], v, *args[i + 1 :])), arg)
            assert_close(
                found[i], expected, 1e-7, f"{name}: against finite differences, the cotangent of argument [{i}]"
            )
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
    assert_close(y, exact_y, TOLERANCE[dtype], f"{name}: the value")
    assert_close(found, exact, TOLERANCE[dtype], f"{name}: in {dtype}, the cotangent of argument ")
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
    # With a backward pass that is twice too large, so that autodiff's own gradient would be noticed.
    rule, args, dy = example(name, jnp.float32)
    doubled = rule._replace(bwd=lambda residuals, dy: jax.tree.map(lambda c: 2 * c, rule.bwd(residuals, dy)))
    differentiable = tuple(i for i, arg in enumerate(args) if is_floating(arg))
    scalar = jax.jit(jax.grad(lambda *args: jnp.vdot(dy, hand_derived(doubled)(*args)), differentiable))
    expected = tuple(jax.tree.map(lambda c: 2 * c, hand(rule, args, dy)[i]) for i in differentiable)
    assert_close(scalar(*args), expected, TOLERANCE["float32"], f"{name}: by hand_derived, the cotangent of argument ")


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


def test_sharded_batches_are_not_gathered():
    # Two devices, an array whose second of three axes is sharded: all that may be communicated are the sums over it.
    code = """
import jax, jax.numpy as jnp, re
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fundamentals.catalogue import RULES
mesh = Mesh(jax.devices(), ("d",))
put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
x, w, b = jnp.ones((3, 4, 5)), jnp.ones((5, 7)), jnp.ones(7)
cases = {
    "linear": (put(x, None, "d"), put(w), put(b)),
    "maxout": (put(x, None, "d"), put(jnp.ones((2, 5, 7))), put(jnp.ones((2, 7)))),
    "softmax_cross_entropy": (put(x, None, "d"), put(jnp.zeros((3, 4), int), None, "d")),
}
for name, args in cases.items():
    rule = RULES[name].rule
    def both(args, dy):
        y, residuals = rule.fwd(*args)
        return y, rule.bwd(residuals, dy)
    y = jax.eval_shape(rule.primal, *args)
    dy = put(jnp.ones(y.shape), None, "d")
    text = jax.jit(both).lower(args, dy).compile().as_text()
    found = set(re.findall("all-gather|all-to-all|collective-permute", text))
    assert not found, (name, found)
    assert len(jax.devices()) == 2 and dy.sharding.num_devices == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
