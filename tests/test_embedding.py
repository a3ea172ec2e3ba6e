"""Embedding: repeated ids, ids out of range, what is kept, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import autodiff, hand

from fundamentals import hand_derived
from fundamentals.base import Rule
from fundamentals.layers import embedding, embedding_bwd, embedding_fwd

EMBEDDING = Rule(embedding, embedding_fwd, embedding_bwd)
TABLE = jnp.arange(15.0).reshape(5, 3) + 1
IDS = np.array([[4, 0, 4], [1, 4, 0]])


def test_values_and_cotangents():
    rng = np.random.RandomState(0)
    dy = rng.normal(size=(2, 3, 3)).astype(np.float32)
    y, expected = np.empty((2, 3, 3)), np.zeros((5, 3))
    for a in range(2):
        for b in range(3):
            y[a, b] = TABLE[IDS[a, b]]
            expected[IDS[a, b]] += dy[a, b]
    np.testing.assert_array_equal(embedding(TABLE, IDS), y)
    dtable, dids = hand(EMBEDDING, (TABLE, IDS), jnp.asarray(dy))
    np.testing.assert_allclose(dtable, expected, rtol=1e-6)
    assert dids is None


@pytest.mark.parametrize("ids", [3, [], [[1, 2]], np.zeros((2, 0, 3), int), np.full((2, 1, 2, 1), 4, np.uint8)])
def test_ids_of_any_shape(ids):
    ids = np.asarray(ids, int) if isinstance(ids, list) else ids
    y = embedding(TABLE, ids)
    np.testing.assert_array_equal(y, np.asarray(TABLE)[ids])
    dtable, _ = hand(EMBEDDING, (TABLE, ids), jnp.ones_like(y))
    counts = np.bincount(np.ravel(ids).astype(int), minlength=5)
    np.testing.assert_array_equal(dtable, np.tile(counts[:, None], 3))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint32])
def test_ids_out_of_range_under_jit(dtype):
    # 300 rows: more than int8 has numbers. −1 is not the last row, and 2³² − 1 neither.
    table = jnp.ones((300, 2))
    bad = {jnp.int8: [-1, -128], jnp.int32: [300, -300], jnp.uint32: [300, 2**32 - 1]}[dtype]
    ids = jnp.array([bad[0], 7, bad[1]], dtype)
    both = jax.jit(lambda ids, dy: (embedding(table, ids), hand(EMBEDDING, (table, ids), dy)[0]))
    by_autodiff = jax.jit(lambda ids, dy: autodiff(EMBEDDING, (table, ids), dy)[0])
    y, dtable = both(ids, jnp.ones((3, 2)))
    np.testing.assert_array_equal(np.isnan(y), [[True] * 2, [False] * 2, [True] * 2])
    expected = np.zeros((300, 2))
    expected[7] = 1
    np.testing.assert_array_equal(dtable, expected)
    np.testing.assert_array_equal(by_autodiff(ids, jnp.ones((3, 2))), expected)


@pytest.mark.parametrize(("dtype", "largest"), [(jnp.float16, 2048), (jnp.bfloat16, 256)])
def test_repeated_ids_accumulate_wide(dtype, largest):
    # Counted in the half precision itself, the sum would stop at the first number whose successor it lacks.
    ids = jnp.zeros(2 * largest, jnp.int32)
    dtable, _ = hand(EMBEDDING, (TABLE.astype(dtype), ids), jnp.ones((2 * largest, 3), dtype))
    assert dtable.dtype == dtype
    np.testing.assert_array_equal(dtable[0], [2 * largest] * 3)
    assert not np.any(dtable[1:])


def test_the_table_is_not_kept():
    _, residuals = jax.eval_shape(embedding_fwd, TABLE, IDS)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in residuals) == 6 * 4  # six ids, as int32


def test_hand_derived_under_vmap_and_checkpoint():
    tables, ids = jnp.stack([TABLE, -TABLE]), jnp.asarray(IDS)
    gradient = jax.grad(jax.checkpoint(lambda table, ids: hand_derived(EMBEDDING)(table, ids).sum()))
    for axes, args in [((0, None), (tables, ids[0])), ((None, 0), (TABLE, ids)), ((0, 0), (tables, ids))]:
        found = jax.jit(jax.vmap(gradient, axes))(*args)
        for i in range(2):
            row = np.asarray(args[1] if axes[1] is None else args[1][i])
            np.testing.assert_array_equal(found[i], np.tile(np.bincount(row, minlength=5)[:, None], 3))


MESSAGES = {
    "embedding: ids has values from -1 to 4; expected row indices in [0, 5)": lambda: embedding(
        TABLE, np.array([4, -1])
    ),
    "embedding: ids has values from 5 to 5; expected row indices in [0, 5)": lambda: embedding(TABLE, jnp.array(5)),
    # without x64, JAX would take this for 1
    "embedding: ids has values from 4294967297 to 4294967297; expected row indices in [0, 5)": lambda: embedding(
        TABLE, np.array([2**32 + 1])
    ),
    "embedding: table has V = 0; expected V ≥ 1": lambda: embedding(TABLE[:0], jnp.zeros(2, int)),
    "embedding: table has shape [3]; expected [V, D]": lambda: embedding(TABLE[0], IDS),
}
TYPE_MESSAGES = {
    "embedding: ids has dtype float32; expected an integer dtype": lambda: embedding(TABLE, jnp.ones(2)),
    "embedding: ids has dtype bool; expected an integer dtype": lambda: embedding(TABLE, jnp.ones(2, bool)),
    "embedding: table has dtype int32; expected a floating dtype": lambda: embedding(TABLE.astype(int), IDS),
}


@pytest.mark.parametrize(
    ("message", "error", "call"),
    [(m, ValueError, c) for m, c in MESSAGES.items()] + [(m, TypeError, c) for m, c in TYPE_MESSAGES.items()],
    ids=[*MESSAGES, *TYPE_MESSAGES],
)
def test_message(message, error, call):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
