"""The contract of every rule in the catalogue. A rule gets all of these tests by having a row there.

Compiling takes most of their time, so that the programs of a rule are shared by its tests (one file, one process).
"""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from oracles import (
    TOLERANCE,
    assert_close,
    autodiff,
    both,
    cast,
    cotangent_like,
    hand,
    is_floating,
    widen,
)

from fundamentals import gradcheck, hand_derived
from fundamentals.base import bind
from fundamentals.catalogue import RULES, Entry, models

ROOT = Path(__file__).parents[1]


def of_sizes(example, **changed):
    return lambda random, dtype, sizes: example(random, dtype, sizes._replace(**changed))


def without_blocks(example):
    def smaller(random, dtype, sizes):
        params, x = example(random, dtype, sizes)
        return params._replace(encoder=params.encoder._replace(blocks=())), x

    return smaller


# Options that make loops of small arguments, and are not worth a benchmark. (Loops of every length are compared with
# formulas in the tests of these functions.)
RULES = RULES | {
    "blockwise_attention(causal=True)": Entry(  # in the catalogue, of a single tile, as is blockwise_attention
        bind(RULES["blockwise_attention"].rule, block_size=4, causal=True),
        of_sizes(RULES["blockwise_attention"].example, T=3),
    ),
    "linear_cross_entropy(chunk_size=9, label_smoothing=0.1, ignored_label=12)": Entry(
        bind(RULES["linear_cross_entropy"].rule, chunk_size=9, label_smoothing=0.1, ignored_label=12),
        RULES["linear_cross_entropy"].example,
    ),
}
# What they add to the encoder, which has a row of its own; the gradients of their losses, with blocks, are compared
# with autodiff's in test_models.
for name in ("transformer_classifier", "transformer_language_model"):
    RULES[name] = RULES[name]._replace(example=without_blocks(RULES[name].example))
EVERY_RULE = pytest.mark.parametrize("name", RULES)
# Each function once: with its default options, or else with those that come first.
BY_DEFAULT = list({name.split("(")[0]: name for name in reversed(RULES)}.values())[::-1]
# Options that compute something else than the default, not the same of other sizes or numbers.
OWN_ARITHMETIC = {
    "gelu(approximate=False)",
    "attention(causal=True)",
    "softmax_cross_entropy(label_smoothing=0.1, ignored_label=-1)",
    "linear_cross_entropy(chunk_size=9, label_smoothing=0.1, ignored_label=12)",
}


@functools.cache
def drawn(name, seed):
    """Arguments in float32, and a cotangent."""
    entry = RULES[name]
    args = entry.arguments(jax.random.key(seed), jnp.float32)
    return args, cotangent_like(jax.eval_shape(entry.rule.primal, *args))


def example(name, dtype, seed=0):
    return cast(drawn(name, seed), dtype)


def tolerance(name, dtype):
    return TOLERANCE[dtype] * RULES[name].depth ** 0.5


@functools.cache
def by_hand(name):
    return both(RULES[name].rule)


@functools.cache
def by_autodiff(name):
    return both(RULES[name].rule, autodiff)


@EVERY_RULE
def test_equals_autodiff_and_finite_differences_and_is_linear_in_the_cotangent(name):
    args, _ = example(name, jnp.float32)
    report = gradcheck.assert_rule(RULES[name].rule, args)
    assert report.verdict == "PASS", report
    for leaf in report.leaves:
        assert leaf.relative_error <= TOLERANCE["float64"], report
        assert leaf.differences is not None, report
        assert leaf.differences <= 1e-7, report
    with jax.enable_x64(True):
        _, cotangents = jax.eval_shape(by_hand(name), *example(name, jnp.float64))
    assert [c is None for c in cotangents] == [not is_floating(arg) for arg in args]


@EVERY_RULE
@pytest.mark.usefixtures("x64")
def test_in_lower_precision(name):
    # Against the exact derivative at the same, already rounded, numbers. x64 is on: nothing may widen by accident.
    # (That the numbers are right in float32, too, is judged below, with x64 off; here those of each rule by default:
    # models are composed of these, and options change no dtype.)
    rounded = ["float16"] if name in OWN_ARITHMETIC else []
    if name in BY_DEFAULT and name not in models.RULES:
        rounded = ["float16", "bfloat16"]
    for dtype in ("float32", "float16", "bfloat16"):
        args, dy = example(name, jnp.dtype(dtype))
        if dtype not in rounded:
            y, found = jax.eval_shape(by_hand(name), args, dy)
        else:
            y, found = by_hand(name)(args, dy)
            exact_y, exact = by_autodiff(name)(widen(args), widen(dy))
            assert_close(y, exact_y, tolerance(name, dtype), f"{name}: in {dtype}, the value")
            assert_close(found, exact, tolerance(name, dtype), f"{name}: in {dtype}, the cotangent of argument ")
        assert y.dtype == dtype
        for arg, cotangent in zip(args, found, strict=True):
            for a, c in zip(jax.tree.leaves(arg), jax.tree.leaves(cotangent), strict=False):
                assert (c.shape, c.dtype) == (a.shape, a.dtype)


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_hand_derived_under_grad_checkpoint_vmap_and_shard_map(name):
    # Four examples of the first argument, two on each of two devices; the others have two examples, the same on both
    # devices, and their cotangents are summed over these. The backward pass is made twice too large, so that autodiff's
    # own gradient would be noticed. In float32, against the exact derivative at the same numbers.
    rule = RULES[name].rule
    doubled = rule._replace(bwd=lambda residuals, dy: jax.tree.map(lambda c: 2 * c, rule.bwd(residuals, dy)))
    (args, dy), (others, _) = example(name, jnp.float32), example(name, jnp.float32, seed=1)
    examples = [args, others, (others[0], *args[1:]), (args[0], *others[1:])]
    differentiable = tuple(i for i, arg in enumerate(args) if is_floating(arg))

    @jax.checkpoint
    def scalar(*args):
        y = hand_derived(doubled)(*args)
        return jnp.vdot(dy, y), y

    def on_one_device(*args):
        cotangents, y = jax.vmap(jax.grad(scalar, differentiable, has_aux=True))(*args)
        return y, cotangents

    split, same = PartitionSpec("d"), PartitionSpec()
    sharded = jax.shard_map(
        on_one_device,
        mesh=Mesh(jax.devices()[:2], ("d",)),
        in_specs=(split, *(same for _ in args[1:])),
        out_specs=(split, tuple(split if i == 0 else same for i in differentiable)),
    )
    operands = stack([e[0] for e in examples]), *map(lambda *two: stack(two), args[1:], others[1:])
    if name in models.RULES and name != "mlp":  # composed of the others: it remains that they can be traced
        _, found = jax.eval_shape(sharded, *operands)
        assert jax.tree.map(shape_and_dtype, found) == tuple(
            jax.tree.map(shape_and_dtype, operands[i]) for i in differentiable
        )
        return
    y, found = jax.jit(sharded)(*operands)
    with jax.enable_x64(True):
        each = [by_autodiff(name)(widen(e), widen(dy)) for e in examples]
    cotangents = [stack([cotangents[i] for _, cotangents in each]) for i in differentiable]
    expected = tuple(
        jax.tree.map(lambda c, i=i: 2 * (c if i == 0 else c[:2] + c[2:]), cotangent)
        for i, cotangent in zip(differentiable, cotangents, strict=True)
    )
    values = stack([y for y, _ in each])
    assert_close(y, values, tolerance(name, "float32"), f"{name}: by hand_derived, the value")
    assert_close(found, expected, tolerance(name, "float32"), f"{name}: by hand_derived, the cotangent of argument ")


def shape_and_dtype(x):
    return x.shape, x.dtype


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@EVERY_RULE
def test_primal_is_plain(name):
    # A primal that was itself a custom_vjp would make jax.grad compare the hand derivation with itself.
    args, _ = example(name, jnp.float32)
    text = str(jax.make_jaxpr(RULES[name].rule.primal)(*args))
    assert "custom_vjp" not in text


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_cross_entropy"])
def test_no_jacobian_is_materialized(name):
    rule, (args, _) = RULES[name].rule, example(name, jnp.float32)
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
    # Two devices, an array with one sharded axis: all that may be communicated are the sums over it.
    code = """
import jax, jax.numpy as jnp, re
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fundamentals.base import bind
from fundamentals.catalogue import RULES, Entry
mesh = Mesh(jax.devices(), ("d",))
put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
x, w, b = jnp.ones((3, 4, 5)), jnp.ones((5, 7)), jnp.ones(7)
sharded, vector = put(x, None, "d"), put(jnp.ones(5))
heads, images = put(jnp.ones((4, 3, 2, 5)), "d"), put(jnp.ones((4, 6, 6, 3)), "d")
labels = put(jnp.zeros((3, 4), int), None, "d")
cases = {
    "linear": (sharded, put(w), put(b)),
    "maxout": (sharded, put(jnp.ones((2, 5, 7))), put(jnp.ones((2, 7)))),
    "batch_norm": (sharded, vector, vector),
    "layer_norm": (sharded, vector, vector),
    "rms_norm": (sharded, vector),
    "conv2d": (images, put(jnp.ones((3, 3, 3, 2))), put(jnp.ones(2))),
    "max_pool2d": (images,),
    "average_pool2d": (images,),
    "attention": (heads, heads, heads),
    "blockwise_attention": (heads, heads, heads),
    "multiclass_hinge": (sharded, labels),
    "softmax_cross_entropy": (sharded, labels),
    "linear_cross_entropy": (sharded, put(w), labels),
}
for name, args in cases.items():
    rule = RULES[name].rule
    def both(args, dy):
        y, residuals = rule.fwd(*args)
        return y, rule.bwd(residuals, dy)
    y = jax.eval_shape(rule.primal, *args)
    dy = put(jnp.ones(y.shape), *args[0].sharding.spec)
    text = jax.jit(both).lower(args, dy).compile().as_text()
    found = set(re.findall("all-gather|all-to-all|collective-permute", text))
    assert not found, (name, found)
    assert len(jax.devices()) == 2 and dy.sharding.num_devices == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
