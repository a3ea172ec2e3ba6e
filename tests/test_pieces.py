"""Stages cut after their matrix products: values, gradients, what becomes an operand and what is passed on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import relative_error

from fundamentals.base import hand_derived
from fundamentals.catalogue import RULES
from fundamentals.memory.checkpointing import chain, pieces
from fundamentals.memory.checkpointing.planning import Pieces

B, D = 3, 4
RNG = np.random.RandomState(0)
CLOSED = RNG.normal(size=(D, D)).astype(np.float32)


def block(p, x):
    """Two products and an identity beside them; one parameter is read by several pieces, one by none."""
    h = jnp.tanh(x @ p["w"] + jnp.broadcast_to(p["b"], x.shape))
    return x + jnp.sin(h @ p["v"] + jnp.broadcast_to(p["b"], x.shape))


@jax.jit
def behind_jit(p, x):
    return jax.nn.gelu(x @ p["w"]) @ CLOSED.astype(x.dtype)


def with_key(p, carry):
    x, key = carry
    mask = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(mask, x @ p["w"], 0) * 2, key


def mutable(p, x):
    total = jax.new_ref(jnp.zeros_like(x))
    total[...] = jnp.tanh(x @ p["w"])
    return total[...] @ p["v"]


def params():
    return {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in
            (("w", (D, D)), ("v", (D, D)), ("b", (D,)), ("none", (2,)))}  # fmt: skip


X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
P = params()
CASES = {
    "block": (block, X, 3),
    "behind jit": (behind_jit, X, 2),
    "linear": (lambda p, x: x @ p["w"], X, 1),
    "no product": (lambda p, x: jnp.tanh(x), X, 1),
    "convolution": (lambda p, x: jnp.convolve(x[0], p["b"], mode="same")[None] * x, X, 2),
    "rule": (lambda p, x: hand_derived(RULES["linear"].rule)(jnp.tanh(x), p["w"], p["b"]) ** 2, X, 2),
    "loop": (lambda p, x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ p["w"]), None), x, length=2)[0] * 2, X, 2),
    "key": (with_key, (X, jax.random.key(3)), 2),
    "parameters in the carry": (lambda p, x: (x @ p["w"], p["v"], 1.0), X, 1),
    "mutable array": (mutable, X, 1),
    "two outputs that are one": (lambda p, x: (y := x @ p["w"], y, x), X, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_pieces_are_the_stage(name):
    stage, x, count = CASES[name]
    for cut in (False, True):
        found, result = pieces.trace(stage, P, jax.eval_shape(lambda: x), cut=cut)
        assert len(found) == (count if cut else 1)
        carry = jax.tree.leaves(x)
        for piece in found:
            assert len(piece.shapes[1]) == len(carry)
            carry = piece.run(piece.operands, carry)
        expected = stage(P, x)
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        for a, b in zip(carry, jax.tree.leaves(expected), strict=True):
            if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_read_and_what_is_passed_on():
    first, second, third = pieces.trace(block, P, X, cut=True)[0]
    sizes = [[operand.shape for operand in piece.operands] for piece in (first, second, third)]
    assert sizes == [[(D, D)], [(D,), (D, D)], [(D,)]]
    assert [[shape.shape for shape in piece.passed_on] for piece in (first, second, third)] == [[X.shape]] * 2 + [[]]
    assert [len(piece.shapes[2]) for piece in (first, second, third)] == [2, 2, 1]


@pytest.mark.parametrize("schedule", [((0,), (1, 2), 3, 4), (((0, 1), 2, 3), 4), (0, (1, 2), (3,), 4)])
def test_gradients_of_chains_of_pieces(schedule, x64):
    p, x = jax.tree.map(lambda a: a.astype(jnp.float64), ([P, P], X))

    def loss(apply):
        scalar = lambda p, x: jnp.sum(apply(p, x) ** 2)  # noqa: E731
        frozen = jax.grad(lambda b, x: scalar([{**p[0], "b": b}], x))  # all but a bias
        return jax.jit(lambda p, x: (jax.grad(scalar, (0, 1))(p, x), jax.grad(scalar, 1)(p, x), frozen(p[0]["b"], x)))(
            p, x
        )

    def composition(p, x):  # tied: two stages with the same parameters
        return behind_jit(p[0], block(p[0], x))

    found = loss(lambda p, x: chain([block, behind_jit], Pieces(schedule, (3, 2)))([p[0], p[0]], x))
    assert relative_error(found, loss(composition)) <= 1e-14


def test_masks_of_keys_in_parameters_are_drawn_again():
    # Of a key alone, and not of the carry, a mask could be drawn once, before all else, and kept.
    length, rows = 6, 256

    def dropout(p, x):
        return jnp.where(jax.random.bernoulli(p["key"], 0.9, x.shape), jnp.tanh(x @ p["w"]), 0)

    def loss(w, keys, x):
        params = [{"w": w, "key": key} for key in keys]
        return jnp.sum(chain([dropout] * length, schedule)(params, x) ** 2)

    schedule = tuple((i,) for i in range(length))
    x = jax.ShapeDtypeStruct((rows, D), jnp.float32)
    lowered = jax.jit(jax.grad(loss)).lower(P["w"], jax.random.split(jax.random.key(0), length), x)
    state = 4 * rows * D
    assert lowered.compile().memory_analysis().temp_size_in_bytes <= 13 * state  # 23 where it is not prepared apart


def test_what_is_prepared():
    stage = lambda p, x: jnp.where(jax.random.bernoulli(p[0], 0.5, x.shape), x @ jnp.sin(p[1]), p[2])  # noqa: E731
    p = jax.random.key(0), jnp.ones((D, D)), jnp.float32(0)
    first, second = pieces.trace(stage, p, X, cut=True)[0]
    # The mask where it is read, of the key; not what is as large as the weights, nor a number that is broadcast.
    assert [len(piece.prepared_from) for piece in (first, second)] == [0, 1]
    assert second.operands[second.prepared_from[0]] is p[0]
    assert [v.aval.dtype for v in second.prepare.jaxpr.outvars] == [jnp.bool_]
    assert [len(piece.shapes[2]) for piece in (first, second)] == [1, 1]
