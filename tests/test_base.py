"""What binds, wraps and cuts: options of rules, hand_derived, blocks of an axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from fundamentals import Rule, hand_derived
from fundamentals._blocks import Blocks
from fundamentals.base import bind, vary_together


def masked(x, *, mask, factor=1.0):
    return masked_fwd(x, mask=mask, factor=factor)[0]


def masked_fwd(x, *, mask, factor=1.0):
    return jnp.where(mask, factor * x, 0), x.dtype.type(0)


def masked_bwd(residuals, dy, *, mask, factor=1.0):
    return (jnp.where(mask, 10 * factor * dy, 0),)  # ten times too large, to be told from autodiff


MASKED = Rule(masked, masked_fwd, masked_bwd)


def drawn(x, *, key):
    return drawn_fwd(x, key=key)[0]


def drawn_fwd(x, *, key):
    noise = jax.random.normal(key, x.shape)
    return noise * x, noise


def drawn_bwd(noise, dy):
    return (10 * noise * dy,)


DRAWN = Rule(drawn, drawn_fwd, drawn_bwd)
X = jnp.arange(1.0, 4.0)
MASK = jnp.array([True, False, True])


def test_bind_gives_each_function_the_options_that_it_takes():
    key = jax.random.key(0)
    rule = bind(DRAWN, key=key)
    y, noise = rule.fwd(X)
    np.testing.assert_array_equal(rule.primal(X), y)
    np.testing.assert_array_equal(rule.bwd(noise, X)[0], 10 * noise * X)
    twice = bind(bind(MASKED, factor=2.0), mask=MASK)
    np.testing.assert_array_equal(twice.primal(X), [2, 0, 6])
    np.testing.assert_array_equal(twice.bwd(None, X)[0], [20, 0, 60])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_hand_derived_takes_options_at_the_call(transform):
    f = transform(lambda x, mask: hand_derived(MASKED)(x, mask=mask, factor=2.0).sum())
    np.testing.assert_array_equal(jax.grad(f)(X, MASK), [20, 0, 20])
    np.testing.assert_array_equal(jax.grad(f)(X, ~MASK), [0, 20, 0])


def test_hand_derived_takes_bound_arrays():
    f = hand_derived(bind(MASKED, mask=np.array([False, True, True])))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: f(x).sum()))(X), [0, 10, 10])


def test_keys_and_masks_may_be_mapped_over_and_scanned():
    keys = jax.random.split(jax.random.key(1), 4)
    gradient = jax.grad(lambda x, key: hand_derived(DRAWN)(x, key=key).sum())
    expected = np.stack([10 * jax.random.normal(key, X.shape) for key in keys])
    np.testing.assert_allclose(jax.vmap(gradient, in_axes=(None, 0))(X, keys), expected, rtol=1e-6)
    _, scanned = jax.lax.scan(lambda c, key: (c, gradient(X, key)), 0, keys)
    np.testing.assert_allclose(scanned, expected, rtol=1e-6)
    masks = jnp.stack([MASK, ~MASK])
    by_mask = jax.vmap(jax.grad(lambda x, mask: hand_derived(MASKED)(x, mask=mask).sum()), in_axes=(None, 0))
    np.testing.assert_array_equal(by_mask(X, masks), 10 * masks.astype(float))


def test_an_array_option_has_no_gradient():
    np.testing.assert_array_equal(
        jax.grad(lambda factor: hand_derived(MASKED)(X, mask=MASK, factor=factor).sum())(jnp.float32(2)), 0
    )


@pytest.mark.parametrize("options", [{}, {"mask": MASK, "other": 1}], ids=["missing", "unknown"])
def test_wrong_options(options):
    with pytest.raises(TypeError, match=r"masked: .*argument"):
        hand_derived(MASKED)(X, **options)


def test_vary_together():
    mesh = Mesh(jax.devices()[:2], ("d",))

    def on_one_device(x, y):
        x, y = vary_together((x, y))
        return jax.lax.scan(lambda c, v: (c + v, None), y, x)[0][None]  # y alone would be the same on both

    f = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(PartitionSpec("d"), PartitionSpec()), out_specs=PartitionSpec("d")
    )
    np.testing.assert_array_equal(f(jnp.arange(4.0), jnp.float32(10)), [11, 15])
    tree = {"a": np.ones(2), "b": jnp.ones(3)}
    assert vary_together(tree)["a"] is tree["a"]  # outside of shard_map nothing changes
    assert vary_together(tree)["b"] is tree["b"]


@pytest.mark.parametrize("size", range(1, 9))
def test_blocks_cover_every_position_once(size):
    blocks = Blocks(7, size)
    seen = []
    for i in blocks.order():
        positions, new = np.asarray(blocks.indices(i)), blocks.is_new(i)
        assert len(positions) == min(size, 7)
        np.testing.assert_array_equal(blocks.block(jnp.arange(7), i, 0), positions)
        seen.extend(positions if new is None else positions[np.asarray(new)])
    assert seen == list(range(7))
    x = blocks.write(jnp.zeros((2, 7)), jnp.ones((2, blocks.size)), blocks.order()[-1], 1)
    np.testing.assert_array_equal(blocks.add(x, x[:, -blocks.size :], blocks.order()[-1], 1)[:, -blocks.size :], 2)
