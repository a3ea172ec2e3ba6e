"""Audits: counts against formulas and XLA's own, verdicts on recomputation, and what is saved."""

import functools
import inspect
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from fundamentals import program
from fundamentals.memory import Audit, audit, compiled, saved_residuals
from fundamentals.memory import audit as audit_function

LAYERS, N, D = 8, 24, 16
W = jax.ShapeDtypeStruct((LAYERS, D, D), "float32")
WS = [jax.ShapeDtypeStruct((D, D), "float32")] * LAYERS
X = jax.ShapeDtypeStruct((N, D), "float32")
MERGES = jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)  # the compiler undoes checkpointing


def shapes(*sizes, dtype="float32"):
    return [jax.ShapeDtypeStruct(size, dtype) for size in sizes]


def layers(ws, x):
    for w in ws:
        x = jnp.tanh(x @ w)
    return x


def loss(ws, x, segment=None):
    """Of so many layers to a checkpoint."""
    segment = segment or LAYERS + 1
    block = layers if segment > LAYERS else jax.checkpoint(layers)
    for i in range(0, LAYERS, segment):
        x = block(ws[i : i + segment], x)
    return jnp.sum(x * x)


def scanned(w, x, wrap=lambda f: f):
    @wrap
    def step(x, w):
        return jnp.tanh(x @ w), None

    return jnp.sum(jax.lax.scan(step, x, w)[0] ** 2)


def by_xla(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def cost(function, *args):
    return compiled.cost(jax.jit(function).lower(*args).compile().as_text())


def convolution(x, w, **options):
    options = {"window_strides": (1, 1), "padding": ((1, 2), (0, 1))} | options
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("size", [(3, 5, 7), (1, 5, 7), (3, 5, 1), (192, 256, 128)])
@pytest.mark.usefixtures("x64")
def test_products_of_every_size_and_dtype_are_found(dtype, size):
    n, d, h = size
    found = audit(lambda x, w: x @ w, *shapes((n, d), (d, h), dtype=dtype))
    assert (found.matmuls, found.requested, found.flops) == (1, 1, 2 * n * d * h)


def products():
    yield "batched", lambda x, w: x @ w, (3, 5, 7), (3, 7, 11), 2 * 3 * 5 * 7 * 11
    yield "matrix times vector", lambda x, w: x @ w, (5, 7), (7,), 2 * 5 * 7
    yield "one vector per example", lambda x, w: jnp.einsum("bij,bj->bi", x, w), (3, 5, 7), (3, 7), 2 * 3 * 5 * 7
    yield "1 × 1 kernel", functools.partial(convolution, padding="SAME"), (2, 5, 7, 3), (1, 1, 3, 4), 2 * 70 * 3 * 4
    image, kernel = (2, 11, 13, 4), (3, 2, 4, 6)
    # rows: 11 + 3 padded, less 2, is 12 results, of whose 36 entries 1 + 2 + 1 lie in padding; columns: 13 of 2, less 1
    yield "padded", convolution, image, kernel, 2 * 2 * 4 * 6 * (36 - 4) * (26 - 1)
    strides = {"window_strides": (2, 3)}  # rows: 6 results of 3, less 1 at the top and 1 below; columns: 5 of 2, less 1
    yield "strides", functools.partial(convolution, **strides), image, kernel, 2 * 2 * 4 * 6 * (18 - 2) * (10 - 1)
    groups = {"feature_group_count": 2}
    yield "groups", functools.partial(convolution, **groups), image, (3, 2, 2, 6), 2 * 2 * 2 * 6 * 32 * 25
    spread = {"lhs_dilation": (2, 1), "rhs_dilation": (1, 3), "padding": ((0, 0), (0, 0))}
    yield "dilated", functools.partial(convolution, **spread), image, kernel, None


@pytest.mark.parametrize(("function", "left", "right", "flops"), [pytest.param(*p[1:], id=p[0]) for p in products()])
def test_floating_point_operations_are_those_of_the_formula_and_of_xla(function, left, right, flops):
    args = shapes(left, right)
    found = cost(function, *args)
    assert found.matmuls == 1
    assert found.flops == pytest.approx(by_xla(function, *args), rel=0.01)
    if flops:
        assert found.flops == flops


def test_gradients_of_convolutions():
    args = shapes((2, 11, 13, 4), (3, 2, 4, 6))
    gradient = jax.grad(lambda x, w: jnp.sum(convolution(x, w, window_strides=(2, 1)) ** 2), (0, 1))
    found = audit(gradient, *args)
    forward = cost(functools.partial(convolution, window_strides=(2, 1)), *args).flops
    assert (found.matmuls, found.requested, found.flops) == (3, 3, 3 * forward)  # each gradient costs what forward does


def test_products_without_a_sum_or_with_one_result_are_no_matmuls():
    for function, left, right in [(jnp.dot, (5,), (5,)), (jnp.outer, (5,), (7,)), (jnp.matmul, (3, 1, 5), (3, 5, 1))]:
        found = audit(function, *shapes(left, right))
        assert (found.matmuls, found.requested) == (0, 0)


def test_the_gradient_of_an_mlp_costs_three_times_its_layers():
    found = audit(jax.grad(loss), WS, X)
    count = 3 * LAYERS - 1  # forward, dw and dx of each layer, without dx of the first
    assert (found.matmuls, found.requested, found.distinct) == (count, count, count)
    assert found.flops == count * 2 * N * D * D
    assert found.recomputation == "none of the matmuls"
    assert audit(jax.grad(loss, (0, 1)), WS, X).matmuls == count + 1


def test_flops_are_xlas_where_there_are_no_loops():
    args = shapes(*[(64, 64)] * 3, (256, 64))
    assert audit(lambda *a: layers(a[:3], a[3]), *args).flops == pytest.approx(
        by_xla(lambda *a: layers(a[:3], a[3]), *args), rel=0.01
    )


def test_steps_of_loops_are_counted():
    found = audit(jax.grad(scanned), W, X)
    unrolled = audit(jax.grad(loss), WS, X)
    # In a loop, dx of the first layer is computed as well.
    assert (found.matmuls, found.requested, found.distinct) == (unrolled.matmuls + 1,) * 3
    assert found.flops == unrolled.flops + 2 * N * D * D
    assert by_xla(jax.grad(scanned), W, X) < found.flops / 4  # why cost_analysis won't do
    square = jax.ShapeDtypeStruct((D, D), "float32")

    def nested(x):
        def outer(c, _):
            return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), c, length=4)[0], None

        return jax.lax.scan(outer, x, length=3)[0]

    assert audit(nested, square)[6:10] == (12 * 2 * D**3, 12, 12, 12)


def test_a_loop_of_unknown_length_counts_once_and_is_listed():
    def power(n, x):
        return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] @ s[1]), (jnp.int32(0), x))[1]

    found = audit(power, jax.ShapeDtypeStruct((), "int32"), jnp.ones((D, D)))
    assert (found.matmuls, found.requested, found.flops) == (1, 1, 2 * D**3)
    (loop,) = found.unknown_loops
    assert loop.startswith("jit(power)/while")
    assert loop in str(found)
    assert found.recomputation == "none seen"
    assert f"test_audit.py:{inspect.getsourcelines(power)[1] + 1} (" in found.notes[0]


def test_the_most_expensive_branch_is_counted():
    def branches(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)

    found = audit(branches, 0, jnp.ones((D, D)))
    assert (found.matmuls, found.requested, found.flops) == (2, 2, 4 * D**3)
    assert any("most expensive" in note for note in found.notes)


@pytest.mark.parametrize("segment", [1, 4])
def test_checkpointing_of_unrolled_layers_is_seen_to_survive_or_not(segment):
    found = audit(jax.grad(functools.partial(loss, segment=segment)), WS, X)
    plain = 3 * LAYERS - 1
    assert (found.requested, found.distinct) == (plain + LAYERS, plain)
    assert found.recomputation == ("removed by the compiler" if MERGES else "survived")
    assert found.matmuls == (plain if MERGES else plain + LAYERS)
    if segment > 1:
        assert (found.temp_bytes < audit(jax.grad(loss), WS, X).temp_bytes) != MERGES


def test_recomputation_in_loops_survives():
    found = audit(jax.grad(functools.partial(scanned, wrap=jax.checkpoint)), W, X)
    assert (found.requested, found.distinct, found.matmuls) == (4 * LAYERS, 3 * LAYERS, 4 * LAYERS)
    assert found.recomputation == "survived"


def test_recomputation_in_nested_loops_survives():
    @jax.checkpoint
    def segment(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)

    def nested(w, x):
        return jnp.sum(jax.lax.scan(segment, x, w.reshape(2, 4, D, D))[0] ** 2)

    found = audit(jax.grad(nested), W, X)
    assert (found.requested, found.distinct, found.matmuls) == (4 * LAYERS, 3 * LAYERS, 4 * LAYERS)


def test_some_of_it_may_be_removed():
    def twice(x, w):
        def step(c, _):
            return jnp.tanh(c @ w), None

        a, b = (jax.lax.scan(step, x, length=3)[0] for _ in range(2))  # two loops that do the same
        return a + b + x @ w

    found = audit(twice, X, WS[0])
    assert (found.requested, found.distinct) == (7, 3)  # the first step is x @ w as well
    assert (found.matmuls, found.recomputation) == (4, "partly removed")  # the loops are merged, their first step stays
    assert "1 of 4 repeated matmuls" in str(found)


def test_what_only_hides_from_the_compiler_is_looked_through():
    def recompute_later(x, go):
        return jax.lax.cond(go, lambda x: x, jnp.zeros_like, x)

    def other(x, go):
        return jax.lax.cond(go, lambda x: x, jnp.zeros_like, x)

    def again(hide, x, w):
        return x @ w, hide(x) @ w

    ways = [
        jax.lax.optimization_barrier,
        lambda x: checkpoint_name(x, "x"),
        lambda x: jax.lax.reduce_precision(x, 8, 23),
        lambda x: jax.jit(recompute_later)(x, x[0, 0] < jnp.inf),
    ]
    for hide in ways:
        counts = program.count(jax.jit(functools.partial(again, hide)).trace(X, WS[0]).jaxpr)
        assert (counts.matmuls, counts.distinct) == (2, 1)
    for change in (lambda x: jax.lax.reduce_precision(x, 5, 10), lambda x: jax.jit(other)(x, x[0, 0] < jnp.inf)):
        counts = program.count(jax.jit(functools.partial(again, change)).trace(X, WS[0]).jaxpr)
        assert (counts.matmuls, counts.distinct) == (2, 2)


def test_equal_operations_on_other_values_or_with_other_parameters_are_not_repeated():
    def different(x, w, key):
        first, second = (jax.random.normal(k, w.shape) for k in jax.random.split(key))
        return x @ first, x @ second, x @ w, x @ w.T, x @ (w + 1), x @ (w + 2), x[::-1] @ w, x[:, ::-1] @ w

    counts = program.count(jax.jit(different).trace(X, WS[0], jax.random.key(0)).jaxpr)
    assert (counts.matmuls, counts.distinct) == (8, 8)

    def both_ways(w, x):
        return [jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, reverse=r)[0] for r in (False, True)]

    counts = program.count(jax.jit(both_ways).trace(W, X).jaxpr)
    assert (counts.matmuls, counts.distinct) == (2 * LAYERS, 2 * LAYERS)


def test_what_no_result_needs_does_not_count():
    def wasteful(w, x):
        _ = x @ w[1] @ w[2]
        return jax.lax.scan(lambda c, w: (c @ w, (x @ w, c)), x, w)[1][1].sum(0), x @ w[0]

    found = audit(wasteful, W, X)  # c of the last step is not needed, but a loop has no other steps
    assert (found.requested, found.matmuls) == (LAYERS + 1, LAYERS + 1)


def test_what_an_effect_needs_does_count():
    def printing(x, w):
        jax.debug.print("{}", x @ w)
        return x

    found = audit(printing, X, WS[0])
    assert (found.requested, found.matmuls) == (1, 1)


def test_programs_of_several_devices_are_those_of_one():
    mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P(), jax.P("device"))

    def summed(ws, x):
        return jax.lax.psum(loss(ws, x, segment=4), "device")

    sharded = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=jax.P())
    found = audit(jax.grad(sharded), WS, X)
    alone = audit(jax.grad(functools.partial(loss, segment=4)), WS, jax.ShapeDtypeStruct((N // 2, D), "float32"))
    assert found[6:11] == alone[6:11]  # FLOPs, matmuls and verdict
    assert found.requested > found.distinct


def test_long_scans_are_compared_as_a_whole():
    def long(x, w):
        return jax.lax.scan(jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None)), x, length=100_000)[0].sum()

    found = audit(jax.grad(long), X, WS[0])
    assert (found.requested, found.matmuls, found.recomputation) == (300_000, 300_000, "none seen")
    assert any("scan, test_audit.py" in note for note in found.notes)


def test_a_loop_whose_body_never_changes_is_hoisted():
    found = audit(lambda x: jax.lax.scan(lambda c, _: (c + x @ x, None), x, length=6)[0], jnp.ones((D, D)))
    assert (found.requested, found.distinct, found.matmuls) == (6, 1, 1)
    assert found.recomputation == "removed by the compiler"


def test_what_is_recomputed_entry_by_entry_is_not_claimed():
    found = audit(jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.tanh(jnp.exp(x))))), X)
    assert found.recomputation == "none of the matmuls"
    assert (found.matmuls, found.requested, found.flops) == (0, 0, 0)


def test_a_while_loop_that_the_compiler_has_counted_does_not_compare():
    def fixed(x):
        y = jax.lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] @ s[1]), (jnp.int32(0), x))[1]
        return (x @ x) + jax.lax.optimization_barrier(x) @ x + y

    found = audit(fixed, jnp.ones((D, D)))
    assert (found.requested, found.distinct) == (3, 2)
    assert found.matmuls >= 6
    assert found.recomputation == "unknown"


def test_bytes_are_those_of_the_arrays():
    def step(params, x):
        gradients = jax.grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    found = audit(step, WS, X)
    size = 4 * LAYERS * D * D
    assert (found.argument_bytes - 4 * N * D, found.alias_bytes) == (size, 0)
    assert size <= found.output_bytes <= size + 8 * LAYERS  # a tuple of results is a table of addresses
    assert found.total_bytes == found.argument_bytes + found.output_bytes + found.temp_bytes
    donating = audit(jax.jit(step, donate_argnums=0), WS, X)
    assert donating.alias_bytes == size
    assert donating.total_bytes == donating.argument_bytes + donating.output_bytes + donating.temp_bytes - size


def test_nothing_is_run():
    ran = []

    def noisy(x):
        jax.debug.callback(lambda: ran.append(1))
        return jnp.sum(x @ x)

    audit(noisy, jnp.ones((3, 3)))
    saved_residuals(noisy, jnp.ones((3, 3)))
    assert not ran


def saved_of(found, kind="computed"):
    return sorted((x.operation, x.shape, x.bytes) for x in found if x.kind == kind)


def test_what_an_mlp_saves():
    def model(params, x):
        h = x @ params["w"] + params["b"]
        h = jnp.sin(h)
        return jnp.sum(h @ params["v"])

    w, b, v, x = shapes((7, 5), (1, 5), (5, 3), (11, 7))
    params = {"w": w, "b": b, "v": v}
    found = saved_residuals(model, params, x)
    # cos(h) for sin, sin(h) for dv; x for dw and v for dh
    assert saved_of(found) == [("cos", (11, 5), 220), ("sin", (11, 5), 220)]
    assert saved_of(found, "argument") == [("[0]['v']", (5, 3), 60), ("[1]", (11, 7), 308)]
    line = inspect.getsourcelines(model)[1] + 2
    assert {x.source for x in found if x.kind == "computed"} == {
        f"test_audit.py:{line} ({'test_what_an_mlp_saves.<locals>.'}model)"
    }
    assert {x.dtype for x in found} == {"float32"}
    checkpointed = saved_residuals(jax.checkpoint(model), params, x)
    assert saved_of(checkpointed) == []
    assert [name for name, *_ in saved_of(checkpointed, "argument")] == ["[0]['b']", "[0]['v']", "[0]['w']", "[1]"]
    report = audit(model, params, x)
    assert report.saved == found
    assert report.saved_bytes == 440
    assert "2 arguments" in str(report)
    assert audit(jax.grad(model), params, x).saved is None


def test_calls_and_loops_are_looked_through():
    assert saved_of(saved_residuals(jax.jit(lambda x: jax.jit(jnp.sin)(x).sum()), X)) == [("cos", (N, D), 4 * N * D)]
    found = saved_residuals(lambda w, x: scanned(w, x), W, X)
    names = {x.operation for x in found if x.shape == (LAYERS, N, D)}
    assert "state of scan" in names  # for dw
    assert names & {"tanh in scan", "sub in scan", "one_minus_square in scan"}
    only = saved_residuals(functools.partial(scanned, wrap=jax.checkpoint), W, X)
    assert [x.operation for x in only if x.shape == (LAYERS, N, D)] == ["state of scan"]


def test_an_array_is_counted_once_and_constants_are_not():
    mask = np.arange(15.0, dtype=np.float32).reshape(3, 5)

    def masked(x):
        h = jnp.exp(x)
        return jnp.sum(h * mask) + jnp.sum(h * jnp.tril(jnp.ones((3, 5))))

    found = saved_residuals(masked, jnp.ones((3, 5)))
    assert [x.operation for x in found if x.kind == "computed"] == ["exp"]
    assert saved_of(found, "argument") == []
    assert {x.shape for x in found if x.kind == "constant"} == {(3, 5)}


def test_arguments_to_differentiate_with_respect_to():
    w, x = shapes((7, 5), (11, 7))
    product = lambda w, x: jnp.sum(x @ w)  # noqa: E731
    assert [x.operation for x in saved_residuals(product, w, x)] == ["[1]"]
    assert [x.operation for x in saved_residuals(product, w, x, argnums=1)] == ["[0]"]
    assert sorted(x.operation for x in saved_residuals(product, w, x, argnums=(0, -1))) == ["[0]", "[1]"]


def test_reports_are_data():
    for found in (audit(loss, WS, X), audit(jax.grad(loss), WS, X)):
        assert isinstance(found, Audit)
        read = json.loads(found.to_json(indent=1))
        assert read == found.to_dict()
        assert read["matmuls"] == found.matmuls
        assert read["saved_bytes"] == found.saved_bytes
        text = str(found)
        assert str(found.matmuls) in text
        assert found.recomputation in text
        assert max(map(len, text.splitlines())) <= 120
        assert ("saved_residuals" in text) == (found.saved is None)


def test_a_backend_that_does_not_tell():
    class Silent:
        def memory_analysis(self):
            return None

    memory = inspect.getmodule(audit_function)._memory(Silent())
    assert memory == (None,) * 5
    found = audit(loss, WS, X)
    values = dict(zip(Audit._fields[1:6], memory, strict=True))
    assert "unknown" in str(found._replace(**values))


def test_arguments_of_all_kinds():
    key = jax.random.key(0)

    def noisy(params, key, scale, none):
        assert none is None
        return scale * jnp.sum(jax.random.normal(key, (3, 5)) @ params[0])

    found = audit(noisy, (jnp.ones((5, 7)), np.arange(3)), key, 2.0, None)
    assert found.matmuls == 1
    assert audit(lambda: jnp.ones(3)).matmuls == 0


def test_calls_of_libraries_are_read():
    # As on a GPU: the first is [64, 32] · [32, 16], the second a batch of 3 with its first factor transposed.
    text = textwrap.dedent("""\
        HloModule jit_f, is_scheduled=true

        ENTRY %main.1 (a: f32[64,32], b: f32[32,16], c: f32[3,5,7], d: f32[3,5,11], x: f32[2,8,8,4]) -> f32[64,16] {
          %a = f32[64,32]{1,0} parameter(0)
          %b = f32[32,16]{1,0} parameter(1)
          %c = f32[3,5,7]{2,1,0} parameter(2)
          %d = f32[3,5,11]{2,1,0} parameter(3)
          %x = f32[2,8,8,4]{3,2,1,0} parameter(4)
          %k = f32[3,3,4,6]{3,2,1,0} constant({...})
          %g.0 = (f32[64,16]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
          %m.1 = f32[3,7,11]{2,1,0} custom-call(%c, %d), custom_call_target="__onednn$matmul"
          %y.2 = (f32[2,6,6,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3}, \
dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
          %y.3 = f32[2,6,6,6]{3,2,1,0} get-tuple-element(%y.2), index=0
          %x.4 = (f32[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%y.3, %k), window={size=3x3}, \
dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardInput"
          %z.5 = f32[64,16]{1,0} custom-call(%a), custom_call_target="TopK"
          ROOT %r = f32[64,16]{1,0} get-tuple-element(%g.0), index=0
        }
        """)
    found = compiled.cost(text)
    forward = 2 * (2 * 6 * 6 * 6) * (3 * 3 * 4)
    assert found.matmuls == 4
    assert found.flops == 2 * 64 * 32 * 16 + 2 * 3 * 5 * 7 * 11 + 2 * forward
    assert found.others == ("TopK",)


def test_what_a_library_does_is_not_counted_but_named():
    if jax.default_backend() == "cpu":
        (note,) = audit(jnp.linalg.cholesky, jnp.eye(5)).notes
        assert "lapack" in note


@pytest.mark.parametrize(
    ("message", "error", "call"),
    [
        ("audit: fn is of type int; expected a function", TypeError, lambda: audit(3)),
        ("saved_residuals: fn is of type Array", TypeError, lambda: saved_residuals(jnp.ones(3), 1.0)),
        ("args[1]['name'] is of type str; expected an array", TypeError, lambda: audit(loss, WS, {"name": "relu"})),
        ("argnums is 0.5; expected integers", TypeError, lambda: saved_residuals(loss, WS, X, argnums=0.5)),
        ("argnums is 2; expected indices of 2", ValueError, lambda: saved_residuals(loss, WS, X, argnums=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_message(message, error, call):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def test_errors_of_the_function_pass_through():
    class OwnError(Exception):
        pass

    def failing(x):
        raise OwnError("its own words")

    for call in (audit, saved_residuals):
        with pytest.raises(OwnError, match="its own words"):
            call(failing, jnp.ones(3))
