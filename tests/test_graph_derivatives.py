"""Gradients by walking a graph, against `jax.vjp` in float64: every operation of the table, every function here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles import autodiff, both, cast, cotangent_like, is_floating

from fundamentals.catalogue import RULES
from fundamentals.graph.derivatives import has_entry
from fundamentals.graph.graph import trace
from fundamentals.graph.nodes import AUTHOR, FALLBACK, TABLE

pytestmark = pytest.mark.usefixtures("x64")
TOLERANCE = 1e-12
RANDOM = np.random.RandomState(0)
X, Y = (RANDOM.normal(size=(3, 5)) for _ in range(2))
P, Q = (RANDOM.uniform(0.2, 0.9, size=(3, 5)) for _ in range(2))  # positive, below 1
TIES = np.array([[1.0, 2.0, 2.0, -1.0, 2.0], [0.0, 0.0, 3.0, 1.0, -2.0]])
OTHER = np.array([[1.0, 3.0, 1.0, -1.0, 2.0], [0.0, 1.0, 3.0, 0.0, -2.0]])
W, V, S = RANDOM.normal(size=(5, 7)), RANDOM.normal(size=(2, 3, 5)), RANDOM.normal(size=(2, 5, 4))
IMAGE, KERNEL = RANDOM.normal(size=(2, 7, 6, 4)), RANDOM.normal(size=(3, 2, 4, 6))
GROUPED = RANDOM.normal(size=(3, 2, 2, 6))
SERIES, FILTER = RANDOM.normal(size=(2, 3, 11)), RANDOM.normal(size=(5, 3, 4))
IDS, REPEATED = np.array([[4, 0], [2, 4]]), np.array([1, 0, 1])


def gradients_agree(function, *args, fallback=(), rules=()):
    """Of all arguments, for a random cotangent; returns the graph."""
    args = jax.device_put(args)  # jnp.asarray compiles a program for each shape
    y = jax.eval_shape(function, *args)
    dy = jax.tree.map(lambda y: cotangent_like(y) if jnp.issubdtype(y.dtype, jnp.inexact) else None, y)
    graph = trace(function, *args).backward(dy)
    floating = [i for i, arg in enumerate(args) if is_floating(arg)]

    def primal(*values):
        own = dict(zip(floating, values, strict=True))
        y = function(*(own.get(i, arg) for i, arg in enumerate(args)))
        return [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    pullback = jax.jit(lambda values, dy: jax.vjp(primal, *values)[1](dy))  # eagerly, it is a program an operation
    expected = pullback([args[i] for i in floating], jax.tree.leaves(dy))
    assert len(graph.gradients) == len(args)
    for i, arg in enumerate(args):
        if i not in floating:
            assert graph.gradients[i] is None
            continue
        compare(graph.gradients[i], expected[floating.index(i)], arg)
    kinds = {node.operation: node.derivative for node in graph.nodes if node.derivative}
    assert {name for name, kind in kinds.items() if kind == FALLBACK} == set(fallback)
    assert {name for name, kind in kinds.items() if kind == AUTHOR} == set(rules)
    return graph


def compare(found, expected, arg):
    assert jax.tree.structure(found) == jax.tree.structure(arg)
    for dx, right, x in zip(*map(jax.tree.leaves, (found, expected, arg)), strict=True):
        assert (dx.shape, dx.dtype) == (x.shape, x.dtype)
        np.testing.assert_allclose(dx, right, rtol=0, atol=TOLERANCE * max(np.max(np.abs(right), initial=0), 1e-30))


# Each function with its default options, or those that come first, and options that compute something else.
EVERY_FUNCTION = [
    *{name.split("(")[0]: name for name in reversed(RULES)}.values(),
    *("gelu(approximate=False)", "attention(causal=True)", "mlp(maxout)", "conv2d(stride=(2, 3), padding='VALID')"),
    "softmax_cross_entropy(label_smoothing=0.1, ignored_label=-1)",
]


@pytest.mark.parametrize("name", sorted(EVERY_FUNCTION))
def test_every_function_of_the_library(name):
    primal = RULES[name].rule.primal
    args = arguments(name)
    dy = cotangent_like(jax.eval_shape(primal, *args))
    graph = trace(primal, *args).backward(dy)
    _, expected = by_autodiff(name)(args, dy)
    for found, right, arg in zip(graph.gradients, expected, args, strict=True):
        if right is None:
            assert found is None
        else:
            compare(found, right, arg)
    assert {node.derivative for node in graph.nodes} <= {TABLE, ""}  # nothing falls back to jax.vjp


def arguments(name):
    """In float64. Of models, each operation is compiled for each shape: what other rows hold is left out."""
    params, *rest = cast(RULES[name].arguments(jax.random.key(0), jnp.float32), jnp.float64)
    if name == "cnn(activation=gelu)":  # of its two stages, the one with a block, for images of as many channels
        params = params._replace(stages=params.stages[1:])
        channels = params.stages[0].widen.w.shape[2]
        rest = [cotangent_like(jax.ShapeDtypeStruct((2, 4, 3, channels), jnp.float64), seed=1)]
    if name in ("transformer_classifier", "transformer_language_model"):  # whose blocks are the encoder's
        params = params._replace(encoder=params.encoder._replace(blocks=()))
    return params, *rest


@functools.cache
def by_autodiff(name):
    return both(RULES[name].rule, autodiff)


AT_KINKS = np.array([0.0, -1.0, 2.0, 0.0])
ENTRYWISE = {
    "add": (jnp.add, X, Y), "sub": (jnp.subtract, X, Y), "mul": (jnp.multiply, X, Y), "div": (jnp.divide, X, P),
    "rem": (lax.rem, 3 * X, P), "pow": (jnp.power, P, X), "pow at 0": (
        jnp.power, np.array([0.0, 0.0, 2.0]), np.array([2.0, 1.0, 0.0])),
    "integer_pow": (lambda x: x**5 + x**-2, P),
    "square": (lax.square, X), "neg": (jnp.negative, X), "abs": (jnp.abs, AT_KINKS), "sqrt": (jnp.sqrt, P),
    "rsqrt": (lax.rsqrt, P), "cbrt": (jnp.cbrt, X), "atan2": (lax.atan2, X, Y), "exp": (jnp.exp, X),
    "exp2": (lax.exp2, X), "expm1": (jnp.expm1, X), "log": (jnp.log, P), "log1p": (jnp.log1p, P),
    "logistic": (lax.logistic, X), "sin": (jnp.sin, X), "cos": (jnp.cos, X), "tan": (lax.tan, X),
    "asin": (lax.asin, P), "acos": (lax.acos, P), "atan": (lax.atan, X), "sinh": (lax.sinh, X),
    "cosh": (lax.cosh, X), "tanh": (lax.tanh, X), "asinh": (lax.asinh, X), "acosh": (lax.acosh, 1 + P),
    "atanh": (lax.atanh, P), "erf": (lax.erf, X), "erfc": (lax.erfc, X), "erf_inv": (lax.erf_inv, P),
    "lgamma": (lax.lgamma, P), "digamma": (lax.digamma, P), "max": (lax.max, TIES, OTHER),
    "min": (lax.min, TIES, OTHER), "select_n": (lambda x, y: jnp.where(y > 0, x, y), X, Y),
    "clamp": (lambda low, x: lax.clamp(low, x, 0.5 * P), -Q, X),
    "convert_element_type": (lambda x: x.astype(jnp.float32).astype(jnp.float64), X),
}  # fmt: skip
MIXING = {
    "reduce_precision": (lambda x: 0.3 * lax.reduce_precision(0.7 * x, 5, 3), X),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (4, 3, 5), (1, 2)), X[:, :1]),
    "reshape, columns first": (lambda x: jnp.ravel(x, order="F"), X),
    "split into one": (lambda x: jnp.split(x, 1, 1)[0] * 2.0, X), "unstack one": (lambda x: jnp.unstack(x[:1])[0], X),
    "dynamic_slice before the start": (lambda x, i: lax.dynamic_slice(x, (i, 1), (2, 2)), X, np.array(-5)),
    "dynamic_update_slice before the start": (
        lambda x, y, i: lax.dynamic_update_slice(x, y, (i, 1)), X, Y[:2, :2], np.array(-5)),
    "clamp with bounds crossed": (lambda low, x: lax.clamp(low, x, low - 1.5), np.full((3, 5), 1.0), X),
    "reduce_prod of nothing": (lambda x: x.prod(0), X[:0]),
    "convolution of nothing": (
        lambda x, w: lax.conv_general_dilated(x, w, (1,), "VALID"), SERIES[:, :, :3], FILTER.transpose(2, 1, 0)),
    "convolutions side by side": (
        jax.vmap(lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME")), RANDOM.normal(size=(3, 2, 3, 7)),
        RANDOM.normal(size=(3, 4, 3, 3))),
    "reshape": (lambda x: x.reshape(5, 3), X), "squeeze": (lambda x: x.squeeze(1), X[:, :1]),
    "transpose": (lambda x: x.transpose(2, 0, 1), V),
    "rev": (lambda x: lax.rev(x, (1,)), X), "concatenate": (lambda x, y: jnp.concatenate([x, y, x], 1), X, Y),
    "split": (lambda x: jnp.split(x, [1, 4], 1), X), "unused split": (lambda x: jnp.split(x, [1, 4], 1)[1], X),
    "stack": (lambda x, y: jnp.stack([x, y, x], 1), X, Y), "tile": (lambda x: lax.tile(x, (2, 3)), X),
    "unstack": (lambda x: jnp.unstack(x, axis=1)[1:], X),
    "pad": (lambda x, y: lax.pad(x, y, ((2, 0, 1), (-1, 3, 0))), X, np.array(0.3)),
    "slice": (lambda x: lax.slice(x, (0, 1), (3, 5), (2, 3)), X),
    "empty slice": (lambda x: jnp.sum(x[:, 2:2]) + jnp.sum(x), X),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i, 3), (2, 2)), X, np.array(2)),
    "dynamic_update_slice": (lambda x, y: lax.dynamic_update_slice(x, y, (2, 1)), X, Y[:2, :2]),
    "reduce_sum": (lambda x: x.sum(1), V), "reduce_prod": (lambda x: x.prod((0, 2)), V),
    "reduce_prod of zeros": (lambda x: x.prod(1), np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0], [4.0, 2.0, 0.5]])),
    "reduce_max": (lambda x: x.max(1), TIES), "reduce_min": (lambda x: x.min(0), TIES),
    "reduce_window_sum": (
        lambda x: lax.reduce_window(
            x, 0.0, lax.add, (2, 3), (2, 1), ((1, 0), (-1, 2)), (1, 2), (2, 1)), RANDOM.normal(size=(6, 5))),
    "cumsum": (lambda x: lax.cumsum(x, 1) + lax.cumsum(x, 0, reverse=True), X),
    "dot_general": (lambda x, w: x @ w, X, W),
    "batched dot_general": (lambda a, b: jnp.einsum("bij,bjk->bki", a, b), V, S),
    "two contracted axes": (lambda a, b: lax.dot_general(a, b, (((2, 0), (0, 2)), ((), ()))), V, V.transpose(2, 1, 0)),
    "vector and matrix": (lambda x, w: x @ w, X[0], W),
    "conv_general_dilated": (
        lambda x, w: lax.conv_general_dilated(
            x, w, (2, 3), ((1, 0), (-1, 4)), (2, 1), (1, 2), ("NHWC", "HWIO", "NHWC")), IMAGE, KERNEL),
    "grouped convolution": (
        lambda x, w: lax.conv_general_dilated(
            x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2), IMAGE, GROUPED),
    "convolution along one axis": (
        lambda x, w: lax.conv_general_dilated(x, w, (2,), "VALID", rhs_dilation=(2,)), SERIES, FILTER),
    "cropped convolution": (
        lambda x, w: lax.conv_general_dilated(x, w, (1,), ((-2, -1),), lhs_dilation=(3,)), SERIES, FILTER),
    "gather": (lambda x, i: x[i], X.T, IDS), "take along axis": (lambda x: jnp.take_along_axis(x, IDS, 1), X[:2]),
    "gather outside": (lambda x: x.at[jnp.array([1, 9, -1])].get(mode="fill", fill_value=0), X),
    "scatter-add": (lambda x, y: x.at[REPEATED].add(y), X, Y),
    "scatter": (lambda x, y: x.at[REPEATED, :2].set(y), X, Y[:, :2]),
    "scatter outside": (lambda x, y: x.at[jnp.array([1, 9])].set(y, mode="drop"), X, Y[:2]),
    "sort": (lambda x: jnp.sort(x, 0), X), "sort by key": (lambda x, y: lax.sort((x, y), num_keys=1), X, Y),
    "top_k": (lambda x: lax.top_k(x, 2), X), "stop_gradient": (lambda x: x * lax.stop_gradient(x), X),
    "floor": (lambda x: x * jnp.floor(x) * jnp.sign(x), 3 * X),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRYWISE)
def test_entry_by_entry(name):
    graph = gradients_agree(*ENTRYWISE[name])
    nodes = [node for node in graph.nodes if node.operation == name.split()[0]]
    assert nodes
    for node in nodes:  # upstream × local = downstream
        for i, local, dx in zip(node.operands, node.local, node.downstream, strict=True):
            if dx is not None:
                assert local is not None
                whole = np.broadcast_to(node.upstream * np.asarray(local, node.upstream.dtype), node.value.shape)
                np.testing.assert_allclose((whole.sum() if dx.ndim == 0 else whole).astype(dx.dtype), dx, rtol=1e-14)
                assert graph.nodes[i].value.shape == dx.shape


@pytest.mark.parametrize("name", MIXING)
def test_mixing_entries(name):
    graph = gradients_agree(*MIXING[name])
    assert name in {node.operation for node in graph.nodes} or not has_entry(name)


def scanned(w, xs, h):
    def step(h, x):
        h = jnp.tanh(w * h + x)
        return h, (h * h, x > 0)

    return lax.scan(step, h, xs)


def until(x, limit):
    def step(c):
        return c[0] * x + 1, c[1] + 1, c[2] + jnp.sin(x * c[2])

    return lax.while_loop(lambda c: c[0] < limit, step, (x, 0, x))


def scan_of_while(x, ns):
    def step(c, n):
        return lax.fori_loop(0, n, lambda i, c: jnp.sin(c) * x, c), c * x

    return lax.scan(step, x * x, ns)


def cases(i, x, y):
    return lax.switch(i, [lambda x, y: x * y, lambda x, y: jnp.sin(x) * y, lambda x, y: x * 1.0], x, y)


def cond_in_scan(x, flags):
    return lax.scan(lambda c, f: (lax.cond(f, lambda c: c * x, lambda c: jnp.sin(c), c), c), x, flags)


def straight_through(x):
    rounded = jax.custom_vjp(lambda x: jnp.round(x))
    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (2 * dy,))
    return jnp.sum(rounded(3 * x) * x)


NS = np.array([2, 0, 3], np.int32)
PROGRAMS = {
    "scan": (scanned, np.array(0.7), RANDOM.normal(size=(4, 2)), RANDOM.normal(size=2)),
    "scan in reverse": (
        lambda w, xs: lax.scan(lambda c, x: (jnp.sin(c * w) + x, c * x), w, xs, reverse=True), 0.7, X[0]),
    "empty scan": (lambda w, xs: lax.scan(lambda c, x: (c * w + x, c), w, xs), 0.7, X[0, :0]),
    "scan in scan": (
        lambda w, xs: lax.scan(lambda c, x: lax.scan(lambda c, y: (jnp.sin(c * w) * y, c), c, x), w, xs), 0.7, X),
    "while": (until, np.array(1.3), np.array(5.0)),
    "while without a step": (until, np.array(1.3), np.array(0.5)),
    "switch": (cases, np.array(1), X, Y), "switch, clamped": (cases, np.array(7), X, Y),
    "cond in scan": (cond_in_scan, np.array(0.7), np.array([True, False, True])),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(x) * x), X),
    "fan-out": (lambda x: x * x + jnp.sin(x) * x + x, X),
    "output is input": (lambda x, y: (x, x, y * x), X, Y), "unused argument": (lambda x, y: x.sum(), X, Y),
    "integers": (lambda tree, i: tree["x"][i] * tree["n"], {"x": X, "n": np.array(2.0)}, IDS[0] % 3),
    "constants": (lambda x: jnp.sum(x @ jnp.asarray(W) + jnp.arange(7.0)[None]), X),
    "logarithm of base 2": (jnp.log2, P),
    "vmap": (jax.vmap(lambda x, w: jnp.tanh(w @ x), (0, None)), X, W.T),
    "one number many times": (lambda x, y: x * y + x, np.array(0.3), Y),
    "gradient in it": (lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(x) ** 3))(x) * x, X),
    "normal distribution": (lambda x: jax.scipy.stats.norm.logpdf(x, 0.3, 2.0), X),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    function, *args = PROGRAMS[name]
    if not name.startswith("while"):
        gradients_agree(function, *args)
        return
    x, limit = args  # which jax.grad refuses to differentiate in reverse: forward mode is the witness
    dy = (0.3, None, -1.7)
    graph = trace(function, x, limit).backward(dy)
    forward_mode = jax.jit(lambda x: jax.jvp(lambda x: function(x, limit), (x,), (jnp.ones(()),)))
    (a, _, c), (da, _, dc) = forward_mode(x)
    assert graph.value[0] == a
    assert graph.value[2] == c
    np.testing.assert_allclose(graph.gradients[0], 0.3 * da - 1.7 * dc, rtol=TOLERANCE)
    assert graph.gradients[1] == 0


def test_nan_and_infinity_come_back_as_they_do_from_jax():
    for function, x in ((jnp.max, jnp.array([1.0, jnp.nan])), (lambda x: jnp.cbrt(x).sum(), jnp.array([0.0, 8.0]))):
        np.testing.assert_array_equal(trace(function, x).backward().gradients[0], jax.grad(function)(x))


def test_loops_that_have_ended_are_left_alone():
    def rooted(x):
        return lax.while_loop(lambda c: c[1] > 0, lambda c: (jnp.sqrt(c[1]) * c[0], c[1] - 1.0), (x, x))[0]

    xs = np.array([1.0, 3.0, -2.0])
    found = trace(lambda x: jnp.sum(jax.vmap(rooted)(x)), xs).backward().gradients[0]
    slope = jax.jit(lambda x: jax.jvp(rooted, (x,), (jnp.ones(()),))[1])
    expected = [slope(x) for x in xs]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_a_long_while_loop():
    def grown(x):
        return lax.while_loop(lambda c: c[1] < 5000, lambda c: (jnp.sin(c[0]) + x, c[1] + 1), (x, 0))[0]

    graph = trace(grown, 0.3).backward()
    np.testing.assert_allclose(graph.gradients[0], jax.jvp(grown, (0.3,), (1.0,))[1], rtol=1e-9)


def test_while_loops_side_by_side():
    def grown(x, limit):
        return lax.while_loop(lambda c: c[0] < limit, lambda c: (c[0] * x + 1, c[1] * jnp.sin(c[0] * x)), (x, x))

    xs, dy = np.array([1.3, 2.0, 9.0, 1.1]), np.asarray(cotangent_like(np.zeros((2, 4))))
    graph = trace(jax.vmap(grown, (0, None)), xs, 7.0).backward(tuple(dy))
    _, slopes = jax.jit(lambda x: jax.jvp(lambda x: jax.vmap(grown, (0, None))(x, 7.0), (x,), (jnp.ones(4),)))(xs)
    np.testing.assert_allclose(graph.gradients[0], dy[0] * slopes[0] + dy[1] * slopes[1], rtol=TOLERANCE)


def test_a_while_loop_inside_a_scan():
    x, dy = np.array(0.7), np.asarray(cotangent_like(np.zeros(3)))
    graph = trace(scan_of_while, x, NS).backward((0.4, dy))
    _, (dc, dys) = jax.jit(lambda x: jax.jvp(lambda x: scan_of_while(x, NS), (x,), (jnp.ones(()),)))(x)
    np.testing.assert_allclose(graph.gradients[0], 0.4 * dc + dys @ dy, rtol=TOLERANCE)


def test_rules_of_their_own_are_kept():
    x = np.array([-1.0, 0.0, 2.0])
    gradients_agree(jax.nn.relu, x, rules=["custom_jvp_call"])  # 0 at 0, where max has ½
    gradients_agree(straight_through, x, rules=["custom_vjp_call"])
    graph = trace(straight_through, x).backward()
    np.testing.assert_allclose(graph.gradients[0], 2 * 3 * x + np.round(3 * x), rtol=TOLERANCE)


def test_what_is_not_in_the_table_is_jax_s_and_says_so():
    matrix = W[:, :5] @ W[:, :5].T + np.eye(5)
    graph = gradients_agree(lambda a: jnp.linalg.cholesky(a).sum(), matrix, fallback=["cholesky"])
    assert "jax.vjp" in str(graph)
    assert not has_entry("cholesky")


def test_complex_numbers_on_the_way():
    gradients_agree(lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, X[0], fallback=["fft", "abs", "convert_element_type"])


def test_half_precision_keeps_its_dtype():
    x = X.astype(jnp.bfloat16)
    graph = trace(lambda x: jnp.sum(jnp.tanh(x) * 2 * x), x).backward()
    assert all(n.upstream is None or n.upstream.dtype == n.value.dtype for n in graph.nodes)
    wide = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(x) * 2 * x)))(x.astype(np.float64))
    np.testing.assert_allclose(np.asarray(graph.gradients[0], np.float64), wide, rtol=0.05, atol=0.02)
