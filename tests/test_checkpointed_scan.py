"""Checkpointed scans: values and gradients of lax.scan, by the fewest evaluations, in a memory that does not grow."""

import functools
import gc
import re
import weakref
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from oracles import relative_error

from fundamentals.memory.checkpointing import scans, schedules
from fundamentals.memory.checkpointing.scans import checkpointed_scan

RANDOM = np.random.RandomState(0)
W = RANDOM.normal(size=(3, 3)) / 2
H = RANDOM.normal(size=3)


def arrays(tree):
    return jax.device_put(tree)


def loss(scan, params, h, xs, length=None):
    """A loop with a count in its carry, which closes over what it is differentiated with respect to."""

    def body(carry, x):
        new = jnp.tanh(params["w"] @ carry["h"] + x["x"]) + params["b"] * jnp.cos(carry["i"].astype(carry["h"].dtype))
        return {"h": new, "i": carry["i"] + 1}, (jnp.sin(new * x["x"]), carry["i"], None)

    last, (ys, counts, _) = scan(body, {"h": h, "i": 0}, xs, length)
    return jnp.sum(last["h"] ** 3) + jnp.sum(ys * jnp.cos(jnp.arange(ys.size).reshape(ys.shape))), counts


def problem(length):
    xs = {"x": RANDOM.normal(size=(length, 3)), "none": None}
    return arrays(({"w": W, "b": H[::-1].copy()}, H, xs))


def differentiated(scan, function=loss):
    return jax.jit(jax.value_and_grad(functools.partial(function, scan), argnums=(0, 1, 2), has_aux=True))


class Counter:
    """How often a body is evaluated while a program runs."""

    def __init__(self):
        self.count = 0

    def scan(self, slots, **options):
        def scan(body, *args):
            def counted(carry, x):
                jax.debug.callback(self.add)
                return body(carry, x)

            return checkpointed_scan(counted, *args, slots=slots, **options)

        return scan

    def add(self):
        self.count += 1

    def read(self):
        jax.effects_barrier()
        return self.count


# No step, one, as many slots as steps and more, primes; with 3 slots, 10 = β(3, 2) and 11 steps.
LENGTHS_AND_SLOTS = {0: [1], 1: [2], 2: [2], 7: [1], 10: [3], 11: [3, 10**9], 13: [None]}


@pytest.mark.parametrize("length", LENGTHS_AND_SLOTS)
@pytest.mark.usefixtures("x64")
def test_equals_scan_by_the_fewest_evaluations(length):
    args = problem(length)
    expected = differentiated(jax.lax.scan)(*args)
    for slots in LENGTHS_AND_SLOTS[length]:
        counter = Counter()
        found = differentiated(counter.scan(slots))(*args)
        assert relative_error(found, expected) <= 1e-12
        known = scans.fewest_slots(length) if slots is None else slots
        # From a loop of no steps, lax.scan hoists what depends on nothing, as the counting does.
        assert not length or counter.read() == schedules.fewest_forwards(length, known)


def test_evaluations_of_a_long_loop():
    counter = Counter()

    def last(scan, w, h, xs):
        return scan(lambda h, _: (jnp.sin(w * h), None), h, None, 1000)[0], None

    differentiated(counter.scan(20), last)(jnp.float32(0.9), jnp.float32(1), None)
    assert counter.read() == schedules.fewest_forwards(1000, 20) == 3747


def test_the_device_splits_as_the_schedule_does():
    # The tables for all l ≤ 256 and c ≤ 32, of which there are few, padded so that one program reads them all. Padding
    # that is read would be a split in error.
    lengths, slots = np.arange(2, 257, dtype=np.int32), np.arange(1, 33, dtype=np.int32)
    split = jax.jit(jax.vmap(jax.vmap(scans._split, (None, 0, None)), (None, None, 0)))
    tables = {}
    for c in slots.tolist():
        for length in lengths.tolist():
            tables.setdefault((c, scans._binomials(length, c).shape[1]), []).append(length)
    for (c, columns), served in tables.items():
        padded = np.full((33, 24), np.iinfo(np.int32).max, np.int32)
        padded[: c + 1, :columns] = scans._binomials(served[-1], c)
        splits = np.asarray(split(padded, lengths, slots)).tolist()

        # The steps that are not taped: up to a split j, then what is left with a slot less, then the first j again.
        @functools.cache
        def forwards(length, c, splits=splits):
            if length == 1:
                return 0
            j = splits[c - 1][length - 2]
            assert 1 <= j < length
            if c == 1:
                assert j == length - 1
                return length * (length - 1) // 2
            return j + forwards(length - j, c - 1) + forwards(j, c)

        for length in served:
            assert forwards(length, c) + length == schedules.fewest_forwards(length, c)


def test_slots_unless_given():
    for length in range(1, 2000):
        c = scans.fewest_slots(length)
        assert comb(c + 2, 2) >= length
        assert c == 1 or comb(c + 1, 2) < length
    assert (scans.fewest_slots(0), scans.fewest_slots(1000)) == (1, 44)


@pytest.mark.usefixtures("x64")
def test_in_reverse_and_transformed():
    params, h, xs = problem(7)
    many = jnp.stack([h, 2 * h, -h])

    def nested(scan, params, h, xs):
        """A scan in a scan in a scan."""

        def body(h, x):
            h, _ = scan(lambda h, _: (jnp.tanh(params["w"] @ h), None), h, None, 3)
            return h + x["x"], jnp.sum(h)

        def outer(h, x):
            return scan(body, h * x, xs)

        h, ys = jax.lax.scan(outer, h, jnp.arange(1.0, 3.0))
        return jnp.sum(h) + jnp.sum(ys**2)

    def total(scan, params, many, xs):
        mapped = jax.vmap(lambda h: loss(functools.partial(scan, reverse=True), params, h, xs))
        remat = jax.checkpoint(functools.partial(loss, scan))
        values, counts = mapped(many)
        return jnp.sum(values) + nested(scan, params, h, xs) + remat(params, h, xs)[0], counts

    expected = differentiated(jax.lax.scan, total)(params, many, xs)
    found = differentiated(functools.partial(checkpointed_scan, slots=2), total)(params, many, xs)
    assert relative_error(found, expected) <= 1e-12
    np.testing.assert_array_equal(found[0][1], np.tile(np.arange(7)[::-1], (3, 1)))


@pytest.mark.usefixtures("x64")
def test_keys_and_masks_are_replayed():
    def total(scan, w, h, key):
        def body(carry, x):
            h, key = carry
            key, drawn = jax.random.split(key)
            mask = jax.random.bernoulli(drawn, 0.5, h.shape) & x["mask"]
            h = jnp.where(mask, jnp.tanh(w @ h), h) + jax.random.uniform(x["key"], h.shape)
            return (h, key), {"key": key, "mask": mask, "h": h}

        xs = {"key": jax.random.split(key, 11), "mask": jnp.arange(33).reshape(11, 3) % 4 > 0}
        (h, key), ys = scan(body, (h, key), xs)
        return jnp.sum(h) + jnp.sum(ys["h"] ** 2), (jax.random.key_data(key), jax.random.key_data(ys["key"]), ys)

    def run(scan):
        function = jax.jit(jax.value_and_grad(functools.partial(total, scan), argnums=(0, 1), has_aux=True))
        ((value, (key, keys, ys)), gradient) = function(jnp.asarray(W), jnp.asarray(H), jax.random.key(3))
        return value, key, keys, ys["mask"], ys["h"], gradient

    assert relative_error(run(functools.partial(checkpointed_scan, slots=3)), run(jax.lax.scan)) <= 1e-12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(dtype):
    # 2¹⁰ cotangents of 1 + 1/128: added in bfloat16, they would stay at 256.
    def total(w, x):
        _, ys = checkpointed_scan(lambda h, x: (h, w * x), jnp.zeros((), dtype), x, slots=3)
        return jnp.sum(ys, dtype=jnp.float32)

    gradient = jax.jit(jax.grad(total))(jnp.ones((), dtype), jnp.full(1024, 1 + 1 / 128, dtype))
    assert (gradient.dtype, float(gradient)) == (dtype, 1032)


def test_types_are_those_of_scan():
    for scan in (jax.lax.scan, checkpointed_scan):
        x = jnp.arange(4.0)
        gradient = jax.jit(jax.grad(lambda w, scan=scan, x=x: scan(lambda c, x: (c + w * x, c), 0, x)[0]))(2.0)
        assert (gradient, gradient.dtype) == (6, jnp.float32)  # an init of 0 is a float32 to be
        carry, ys = scan(lambda c, x: (c + 1, x), 0.0, jnp.arange(4))
        assert carry.weak_type
        assert ys.dtype == jnp.int32
        with pytest.raises(TypeError, match="carry input and carry output must have equal types"):
            scan(lambda c, x: (c.astype(jnp.int32), x), jnp.ones(3), x)
        with pytest.raises(TypeError, match="scan body output must be a pair"):
            scan(lambda c, x: c, jnp.ones(3), x)


@pytest.mark.usefixtures("x64")
def test_second_derivatives():
    w, h = arrays((W, H))

    def value(scan, w):
        h_last, ys = scan(lambda h, _: (jnp.tanh(w @ h), h[0]), h, None, 7)
        return jnp.sum(h_last**2) + jnp.sum(ys**3)

    ours = functools.partial(value, functools.partial(checkpointed_scan, slots=2))
    found, expected = (
        jax.jit(lambda w, f=f: jax.jvp(jax.grad(f), (w,), (jnp.cos(w),)))(w)
        for f in (ours, functools.partial(value, jax.lax.scan))
    )
    assert relative_error(found, expected) <= 1e-12

    def twice(w):
        return jnp.sum(jax.grad(ours)(w) ** 2)

    for function in (jax.grad(twice), jax.grad(lambda w: jax.value_and_grad(ours)(w)[0])):
        with pytest.raises(NotImplementedError, match=r"checkpointed_scan: reverse mode of a gradient.*jax\.jvp"):
            jax.eval_shape(function, w)
    with pytest.raises(TypeError, match=r"jvp.*custom_vjp"):
        jax.jvp(ours, (w,), (w,))


def gru_loss(scan, params, h, length):
    def body(h, _):
        z, r = jax.nn.sigmoid(h @ params[0]), jax.nn.sigmoid(h @ params[1])
        return (1 - z) * h + z * jnp.tanh((r * h) @ params[2]), jnp.mean(h)

    h, ys = scan(body, h, None, length)
    return jnp.sum(h**2) + jnp.sum(ys)


def gru_gradient(scan, length):
    types = (jax.ShapeDtypeStruct((3, 256, 256), jnp.float32), jax.ShapeDtypeStruct((64, 256), jnp.float32))
    return jax.jit(jax.grad(functools.partial(gru_loss, scan, length=length), argnums=(0, 1))).lower(*types)


def test_memory_and_size_of_the_program():
    def ours(length):
        return gru_gradient(functools.partial(checkpointed_scan, slots=10), length)

    def temporary(lowered):
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(ours(1024)) <= 0.01 * temporary(gru_gradient(jax.lax.scan, 1024))
    assert ours(64).as_text().count("\n") == ours(10_000).as_text().count("\n")


def test_no_cotangents_of_data():
    def last(w, h, xs):
        return jnp.sum(checkpointed_scan(lambda h, x: (jnp.tanh(w * h + x), h), h, xs, slots=3)[0])

    def buffers(argnums):
        program = str(jax.make_jaxpr(jax.grad(last, argnums))(1.0, jnp.ones(8), jnp.ones((307, 8))))
        return len(re.findall(r"f32\[307,8\] = broadcast_in_dim", program))

    assert (buffers(0), buffers((0, 2))) == (1, 2)  # ys; and cotangents of xs, if asked for; never of ys


def test_nothing_is_kept_of_a_body():
    def gradient_and_body(w):
        def body(h, _):
            return w * h, None

        return jax.grad(lambda h: jnp.sum(checkpointed_scan(body, h, None, 2)[0]))(w), weakref.ref(body)

    gradient, body = gradient_and_body(jnp.full(3, 2.0))
    gc.collect()
    np.testing.assert_array_equal(gradient, np.full(3, 4.0))
    assert body() is None


def test_what_a_method_reads_is_read_again():
    class Cell:
        def step(self, h, x):
            return self.w * h, h

    cell, gradient = Cell(), jax.grad(lambda h: checkpointed_scan(cell.step, h, None, 3)[0])
    for cell.w in (jnp.float32(2), jnp.float32(3)):
        assert gradient(1.0) == cell.w**3


@pytest.mark.usefixtures("x64")
def test_shard_map():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    params, h, xs = problem(14)

    def total(scan, params, h, xs):
        def local(params, h, xs):
            value, counts = loss(scan, params, jax.lax.pcast(h, "d", to="varying"), xs)
            return jax.lax.psum(value, "d"), counts

        specs = PartitionSpec(), PartitionSpec(), PartitionSpec("d")
        outputs = PartitionSpec(), PartitionSpec("d")
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=True)(params, h, xs)

    expected = differentiated(jax.lax.scan, total)(params, h, xs)
    found = differentiated(functools.partial(checkpointed_scan, slots=3), total)(params, h, xs)
    assert relative_error(found, expected) <= 1e-12


def step(h, x):
    return h, x


BAD = [
    (lambda: checkpointed_scan(3, 0.0, None, 4), TypeError, "checkpointed_scan: body is of type int; expected a func"),
    (lambda: checkpointed_scan(step, 0.0, None, 4, slots=0), ValueError, "checkpointed_scan: slots is 0; expected an"),
    (
        lambda: checkpointed_scan(step, 0.0, None, 4, slots=2.0),
        TypeError,
        "checkpointed_scan: slots is 2.0 (float); expected an integer ≥ 1",
    ),
    (lambda: checkpointed_scan(step, 0.0, None, -1), ValueError, "checkpointed_scan: length is -1; expected an integ"),
    (
        lambda: checkpointed_scan(step, 0.0, None, 4.0),
        TypeError,
        "checkpointed_scan: length is 4.0 (float); expected an integer ≥ 0",
    ),
    (
        lambda: jax.jit(lambda n: checkpointed_scan(step, 0.0, None, n))(4),
        TypeError,
        "checkpointed_scan: length is traced (an argument of jit that is not static",
    ),
    (
        lambda: checkpointed_scan(step, 0.0, {"a": None}),
        ValueError,
        "checkpointed_scan: xs has no arrays, and length is None; expected one of them",
    ),
    (
        lambda: checkpointed_scan(step, 0.0, {"a": jnp.ones(3), "b": [jnp.ones((4, 2))]}),
        ValueError,
        "checkpointed_scan: xs['a'] has 3, xs['b'][0] has 4; expected one number of steps",
    ),
    (
        lambda: checkpointed_scan(step, 0.0, jnp.ones(3), 5),
        ValueError,
        "checkpointed_scan: length is 5, xs has 3; expected one number of steps",
    ),
    (
        lambda: checkpointed_scan(step, 0.0, {"a": 1.0}),
        ValueError,
        "checkpointed_scan: xs['a'] has shape []; expected [l, ...], an axis of steps",
    ),
    (
        lambda: checkpointed_scan(step, 0.0, None, 4, reverse=1),
        TypeError,
        "checkpointed_scan: reverse is 1 (int); expected True or False",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
