"""Accumulated gradients: those of the whole batch, for every number of microbatches, masks, keys, devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from oracles import fill, relative_error, widen

from fundamentals.memory import accumulate
from fundamentals.models import mlp

RANDOM = np.random.RandomState(0)
PARAMS = {"w": RANDOM.normal(size=(3, 5)), "v": [RANDOM.normal(size=5), None]}
MASK = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1], float)
BATCH = {"x": RANDOM.normal(size=(23, 3)), "y": RANDOM.normal(size=23), "mask": MASK}


def loss_fn(params, batch):
    errors = (jnp.tanh(batch["x"] @ params["w"]) @ params["v"][0] - batch["y"]) ** 2
    return jnp.sum(batch["mask"] * errors), jnp.sum(batch["mask"])


def numpy_loss_and_gradient(params, batch):
    """By hand, of all examples at once."""
    x, y, mask, w, v = batch["x"], batch["y"], batch["mask"], params["w"], params["v"][0]
    h = np.tanh(x @ w)
    e = h @ v - y
    de = 2 * mask * e / mask.sum()
    dz = de[:, None] * v * (1 - h**2)
    return (mask * e**2).sum() / mask.sum(), {"w": x.T @ dz, "v": [h.T @ de, None]}


def arrays(tree):
    return jax.device_put(tree)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 7, 11, 22, 23, 24, 32])
@pytest.mark.usefixtures("x64")
def test_equals_the_whole_batch(k):
    # 23 examples: a shorter last microbatch, or fewer than k; of 7, some have no example that counts.
    found = jax.jit(accumulate(loss_fn, num_microbatches=k))(arrays(PARAMS), arrays(BATCH))
    assert relative_error(found, numpy_loss_and_gradient(PARAMS, BATCH)) <= 1e-12


@pytest.mark.usefixtures("x64")
def test_the_mean_of_means_is_another_gradient():
    def mean(params, batch):
        s, w = loss_fn(params, batch)
        return s / jnp.maximum(w, 1), jnp.ones(())

    found = accumulate(mean, num_microbatches=8)(arrays(PARAMS), arrays(BATCH))
    assert relative_error(found, numpy_loss_and_gradient(PARAMS, BATCH)) > 0.1


@pytest.mark.usefixtures("x64")
def test_nothing_that_counts():
    for batch in (BATCH | {"mask": 0 * MASK}, {name: value[:0] for name, value in BATCH.items()}):
        loss, gradients = accumulate(loss_fn, num_microbatches=4)(arrays(PARAMS), arrays(batch))
        assert loss == 0
        assert all(not np.any(g) for g in jax.tree.leaves(gradients))


@pytest.mark.usefixtures("x64")
def test_gradients_by_hand():
    def gradient_fn(params, batch):
        x, labels = batch
        loss, gradient = mlp.loss_and_gradient(params, x, labels)
        return (loss * len(x), len(x)), jax.tree.map(lambda g: g * len(x), gradient)

    params = widen(fill(functools.partial(mlp.init, sizes=(3, 4, 5))))
    x, labels = BATCH["x"], np.arange(23) % 5
    found = jax.jit(accumulate(gradient_fn=gradient_fn, num_microbatches=4))(params, (x, labels))
    assert relative_error(found, jax.jit(mlp.loss_and_gradient)(params, x, labels)) <= 1e-12


def test_keys_and_auxiliary_outputs():
    def noisy(params, batch, key):
        kept = jax.random.bernoulli(key, 0.5, batch.shape).astype(batch.dtype)
        return (jnp.sum(params * kept * batch), len(batch)), {"kept": kept}

    batch, key = jnp.arange(1.0, 13.0), jax.random.key(1)
    (loss, aux), gradient = jax.jit(accumulate(noisy, num_microbatches=3, has_aux=True))(jnp.float32(2), batch, key)
    assert aux["kept"].shape == (3, 4)
    kept = np.stack([jax.random.bernoulli(k, 0.5, (4,)) for k in jax.random.split(key, 3)])
    np.testing.assert_array_equal(aux["kept"], kept)  # of which no two are alike
    assert len({tuple(row) for row in kept}) == 3
    np.testing.assert_allclose(gradient, np.sum(kept.ravel() * np.asarray(batch)) / 12, rtol=1e-6)
    np.testing.assert_allclose(loss, 2 * gradient, rtol=1e-6)


def test_half_precision_is_summed_in_float32():
    # 2¹² sums of 1 + 1/128: in bfloat16 the total would stay at 256.
    def loss_fn(params, batch):
        return jnp.sum(params * batch), batch.size

    found = accumulate(loss_fn, num_microbatches=4096)(jnp.bfloat16(1), jnp.full(4096, 1.0078125, jnp.bfloat16))
    loss, gradient = jax.tree.map(float, found)
    assert (loss, gradient) == (1.0078125, 1.0078125)
    assert (found[0].dtype, found[1].dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.usefixtures("x64")
def test_ragged_masks_on_two_devices_with_one_sum_over_them():
    batch = {name: np.concatenate([value, value[:1]]) for name, value in BATCH.items()}
    function = accumulate(loss_fn, num_microbatches=5, axis_name="d")
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("d")), out_specs=PartitionSpec())
    )
    found = sharded(arrays(PARAMS), arrays(batch))
    assert relative_error(found, numpy_loss_and_gradient(PARAMS, batch)) <= 1e-12
    program = sharded.lower(arrays(PARAMS), arrays(batch)).compile().as_text()
    body = next(text for text in re.split(r"\n(?=%|ENTRY)", program) if "all-reduce" in text)
    assert body.startswith("ENTRY")  # after the loop, not in it


def test_memory_is_that_of_one_microbatch_and_its_gradient():
    def loss_fn(params, batch):
        return jnp.sum(jnp.tanh(batch @ params) ** 2), len(batch)

    params = jnp.ones((256, 512))

    def temporary(function, *args):
        return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes

    one = temporary(jax.grad(lambda p, b: loss_fn(p, b)[0]), params, jnp.ones((8, 256)))
    found = [temporary(accumulate(loss_fn, num_microbatches=k), params, jnp.ones((8 * k, 256))) for k in (2, 8, 32)]
    assert max(found) <= one + 1.05 * 4 * params.size
    assert max(found) <= 1.01 * min(found)


BAD = [
    (lambda: accumulate(loss_fn, num_microbatches=0), ValueError, "accumulate: num_microbatches is 0; expected an"),
    (lambda: accumulate(num_microbatches=2), ValueError, "accumulate: neither of loss_fn and gradient_fn are given"),
    (lambda: accumulate(sum, gradient_fn=sum, num_microbatches=2), ValueError, "both of loss_fn and gradient_fn"),
    (
        lambda: accumulate(loss_fn, num_microbatches=2)(PARAMS, BATCH | {"y": np.ones(22)}),
        ValueError,
        "accumulate: batch['mask'] has 23, batch['y'] has 22; expected one number of examples",
    ),
    (
        lambda: accumulate(loss_fn, num_microbatches=2)(PARAMS, BATCH | {"y": np.ones(())}),
        ValueError,
        "accumulate: batch['y'] has shape []; expected [B, ...], an axis of examples",
    ),
    (lambda: accumulate(loss_fn, num_microbatches=2)(PARAMS, {}), ValueError, "accumulate: batch has no arrays"),
    (
        lambda: accumulate(lambda p, b: jnp.sum(p * b), num_microbatches=2)(jnp.ones(()), jnp.ones(4)),
        ValueError,
        "accumulate: what loss_fn gives is no pair; expected (sum, weight)",
    ),
    (
        lambda: accumulate(lambda p, b: (p * b, 1), num_microbatches=2)(jnp.ones(()), jnp.ones(4)),
        ValueError,
        "accumulate: the sum of loss_fn has shape [2]; expected a number",
    ),
    (
        lambda: accumulate(lambda p, b: ((p, 1), b), num_microbatches=2, has_aux=True)(jnp.ones(()), jnp.ones(3)),
        ValueError,
        "accumulate: 3 examples in 2 microbatches leave a shorter last one",
    ),
    (
        lambda: accumulate(gradient_fn=lambda p, b: ((jnp.sum(b), 1), b), num_microbatches=2)(
            jnp.ones(()), jnp.ones(4)
        ),
        ValueError,
        "accumulate: gradient has shape [2]; expected [] as in params",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.float16])
def test_narrow_weights_do_not_wrap(dtype):
    def loss_fn(w, x):
        return jnp.sum(w * x), jnp.asarray(100, dtype)

    x = jnp.ones(800)
    loss, gradient = accumulate(loss_fn, num_microbatches=8)(jnp.float32(2), x)
    assert (loss, gradient) == (2, 1)


def test_what_is_not_a_number_is_not_hidden_where_nothing_counts():
    loss, gradient = accumulate(lambda w, x: (jnp.sum(w * x), jnp.float32(0)), num_microbatches=2)(
        jnp.float32(1), jnp.array([1.0, jnp.nan])
    )
    assert np.isnan(loss)
    assert np.isnan(gradient)


def test_what_is_given_must_be_callable():
    with pytest.raises(TypeError, match="loss_fn is of type int; expected a function"):
        accumulate(3, num_microbatches=2)


def traced_on_two_devices(function, specs):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("d"))
    return jax.jit(sharded)(jnp.array([2.0, 3.0]), jnp.arange(8.0))


def summed(params, batch, *key):
    return jnp.sum(params * batch), jnp.float32(batch.size)


@pytest.mark.parametrize(
    ("axis_name", "message"),
    [
        ("e", "accumulate: axis_name is 'e'; expected axes of the jax.shard_map around it: ['d']"),
        ("d", "accumulate: params varies over ['d']; expected the same on all devices of axis_name 'd'"),
    ],
)
def test_axes_that_are_none_and_params_that_differ_along_one(axis_name, message):
    function = accumulate(summed, num_microbatches=2, axis_name=axis_name)
    with pytest.raises(ValueError, match=re.escape(message)):
        traced_on_two_devices(lambda p, x: function(p[0], x), PartitionSpec("d"))
    with pytest.raises(ValueError, match=r"expected axes of the jax.shard_map around it: \[\]"):
        function(jnp.float32(2), jnp.arange(8.0))


@pytest.mark.parametrize("split", [True, False])
def test_each_device_by_itself(split):
    # Without axis_name, nothing is added over devices, be the params the same on them or not.
    def on_one(params, x):
        key = jax.random.fold_in(jax.random.key(0), jax.lax.axis_index("d"))
        return jax.tree.map(lambda x: x[None], accumulate(summed, num_microbatches=2)(params[0], x, key))

    found = traced_on_two_devices(on_one, (PartitionSpec("d" if split else None), PartitionSpec("d")))
    expected = ([3.0, 16.5], [1.5, 5.5]) if split else ([3.0, 11.0], [1.5, 5.5])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("none", [None, np.zeros(3, jax.dtypes.float0)], ids=["None", "float0"])
def test_integer_parameters_have_no_gradient(none):
    def gradient_fn(params, batch):
        return summed(params["w"], batch), {"w": jnp.sum(batch), "ids": none}

    params = {"w": jnp.float32(2), "ids": jnp.arange(3)}
    loss, gradients = jax.jit(accumulate(gradient_fn=gradient_fn, num_microbatches=2))(params, jnp.arange(7.0))
    np.testing.assert_allclose((loss, gradients["w"]), (6, 3), rtol=1e-6)
    assert (
        gradients["ids"] is None
        if none is None
        else (gradients["ids"].dtype, gradients["ids"].shape)
        == (
            jax.dtypes.float0,
            (3,),
        )
    )
    # Not so of parameters that are numbers.
    message = "gradient has another structure" if none is None else "gradient['ids'] has dtype float0; expected numbers"
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        accumulate(gradient_fn=gradient_fn, num_microbatches=2)(params | {"ids": jnp.ones(3)}, jnp.arange(7.0))


def test_fewer_microbatches_than_asked_for():
    function = accumulate(lambda p, x: (summed(p, x), x), num_microbatches=4, has_aux=True)
    (_, aux), _ = jax.eval_shape(function, jnp.float32(2), jnp.arange(6.0))
    assert aux.shape == (3, 2)


def test_a_complex_gradient_of_a_real_parameter():
    def gradient_fn(params, batch):
        return summed(params["w"], batch), {"w": jnp.sum(batch).astype(jnp.complex64)}

    message = "accumulate: gradient['w'] has dtype complex64; expected numbers like params['w'], of dtype float32"
    with pytest.raises(TypeError, match=re.escape(message)):
        accumulate(gradient_fn=gradient_fn, num_microbatches=2)({"w": jnp.float32(2)}, jnp.arange(8.0))
