"""Counting operations: by hand, in loops and branches, at the edges; and what is no function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals.graph.counting import count
from fundamentals.program import Operation

X = jax.ShapeDtypeStruct((3, 5), jnp.float32)
W = jax.ShapeDtypeStruct((5, 7), jnp.float32)
S = jax.ShapeDtypeStruct((5, 5), jnp.float32)


def operations(fn, *args):
    """By primitive: times, FLOPs, matmuls."""
    return {name: tuple(found)[:3] for name, found in count(fn, *args).operations.items()}


def test_a_layer_by_hand():
    found = count(lambda w, x, b: jnp.tanh(x @ w + b).sum(), W, X, jnp.ones((3, 7)))
    assert found.operations == {
        "dot_general": Operation(1, 2 * 3 * 5 * 7, 1),
        "add": Operation(1, 21),
        "tanh": Operation(1, 21),
        "reduce_sum": Operation(1, 21),  # of what goes in
    }
    assert (found.matmuls, found.flops, found.distinct, found.opaque) == (1, 210, 1, ())
    assert found.all_flops == 210 + 63
    assert next(iter(found.operations)) == "dot_general"  # the most expensive first


def test_its_gradient_by_hand():
    found = operations(jax.grad(lambda w, x: 0.5 * ((x @ w) ** 2).sum()), W, X)
    assert found["dot_general"] == (2, 420, 2)  # forward, and xᵀ times the residual; the input's gradient is not wanted
    both = operations(jax.grad(lambda w, x: 0.5 * ((x @ w) ** 2).sum(), argnums=(0, 1)), W, X)
    assert both["dot_general"] == (3, 630, 3)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: x.T.reshape(-1)[2:9], {}),
        (lambda x: jnp.where(x > 0, x, 1.0), {}),
        (lambda x: x.astype(jnp.int32) * 3 + 1, {}),
        (lambda x: jnp.argmax(x, axis=1), {}),
        (lambda x: jnp.sort(x), {}),
        (lambda x: jnp.maximum(x, 0.0), {"max": 15}),
        (lambda x: x**3, {"integer_pow": 15}),
        (lambda x: x.max(axis=0), {"reduce_max": 15}),
        (lambda x: jnp.cumsum(x, axis=1), {"cumsum": 15}),
        (lambda x: x.at[jnp.array([0, 0])].add(1.0), {"scatter-add": 10}),
        (lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID"),
         {"reduce_window_max": 3 * 4 * 2}),
        (lambda x: jax.lax.reduce(x, 1.0, lambda a, b: a * b + a, (0,)), {"reduce": 15}),
        (lambda x: jnp.zeros((0, 4)) * 2.0, {}),
        (lambda x: x[0, 0] * 2.0, {"mul": 1}),
        (lambda x: jax.lax.add(jax.lax.complex(x, x), jax.lax.complex(x, x)), {"add": 15}),
    ],
)  # fmt: skip
def test_each_kind_of_operation(fn, expected):
    found = count(fn, X)
    assert {name: op.flops for name, op in found.operations.items() if op.flops} == expected
    assert all(op.counted for op in found.operations.values())
    assert found.flops == 0


def test_products_of_every_kind():
    image, kernel = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 4))
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert operations(convolve, image, kernel) == {"conv_general_dilated": (1, 2 * 2 * 16 * 4 * 27, 1)}
    dot = operations(jnp.dot, jnp.ones(7), jnp.ones(7))
    assert dot["dot_general"] == (1, 14, 0)  # a single number is no matrix product
    batched = operations(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((4, 2, 3)), jnp.ones((4, 3, 5)))
    assert batched["dot_general"] == (1, 4 * 2 * 2 * 3 * 5, 1)
    outer = operations(lambda a, b: jnp.einsum("i,j->ij", a, b), jnp.ones(4), jnp.ones(6))
    assert sum(matmuls for *_, matmuls in outer.values()) == 0


def test_what_can_not_be_counted_says_so():
    found = count(jnp.linalg.svd, S)
    assert not found.operations["svd"].counted
    assert found.operations["svd"].flops == 0
    assert "–: not counted: svd" in str(found)
    assert "not counted" not in str(count(jnp.sin, X))


def steps(body, length):
    return lambda x: jax.lax.scan(lambda c, _: (body(c), None), x, length=length)[0]


def test_scans_count_each_step_also_inside_each_other():
    inner = steps(lambda c: jnp.tanh(c @ jnp.ones((5, 5))), 3)
    found = operations(steps(lambda c: inner(c) + 1.0, 4), X)
    assert found["dot_general"] == (12, 12 * 2 * 3 * 5 * 5, 12)
    assert found["tanh"] == (12, 12 * 15, 0)
    assert found["add"] == (4, 4 * 15, 0)


def test_scans_too_long_to_be_written_out_count_the_same():
    inner = steps(lambda c: jnp.tanh(c @ jnp.ones((5, 5))), 300)
    found = count(steps(inner, 1000), X)
    assert found.operations["tanh"] == Operation(300_000, 300_000 * 15)
    assert (found.matmuls, found.flops) == (300_000, 300_000 * 150)
    assert found.operations["dot_general"] == Operation(300_000, 300_000 * 150, 300_000)
    assert found.opaque
    assert found.opaque[0] in str(found)


def test_while_loops_count_once():
    found = operations(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * jnp.exp(x), x), X)
    assert found["exp"] == (1, 15, 0)
    assert found["reduce_sum"] == (1, 15, 0)  # of the condition
    known = operations(lambda x: jax.lax.fori_loop(0, 6, lambda i, x: jnp.exp(x), x), X)
    assert known["exp"] == (6, 90, 0)


def test_branches_count_the_most_expensive_case():
    def branch(x):
        return jax.lax.switch(0, [lambda x: x, lambda x: jnp.sin(jnp.sin(x)), lambda x: jnp.cos(x)], x)

    assert operations(lambda i, x: jax.lax.switch(i, [jnp.cos, lambda x: jnp.sin(jnp.sin(x))], x), 0, X)["sin"] == (
        2,
        30,
        0,
    )
    assert "cos" not in operations(lambda i, x: branch(x), 0, X)
    product = operations(lambda b, x: jax.lax.cond(b, lambda x: x @ jnp.ones((5, 5)), lambda x: x, x), True, X)
    assert product["dot_general"] == (1, 150, 1)
    looped = operations(lambda b, x: steps(lambda c: jax.lax.cond(b, jnp.tanh, lambda c: c, c), 8)(x), True, X)
    assert looped["tanh"] == (8, 120, 0)


def test_calls_are_seen_through_and_repetition_is_seen():
    def layer(w, x):
        return jnp.tanh(x @ w)

    def loss(w, x):
        return jax.checkpoint(jax.jit(layer))(w, jax.nn.relu(x)).sum()

    found = count(jax.value_and_grad(loss), S, X)
    assert found.operations["dot_general"].times == found.matmuls == 3  # forward, again, and the gradient
    assert found.distinct == 2
    assert "matmuls that repeat others: 1" in str(found)
    assert found.operations["max"].times == 1


def test_what_is_not_needed_does_not_count():
    def loss(w, x):
        jnp.exp(x @ w)  # dropped
        return (x * 2).sum()

    assert set(operations(loss, W, X)) == {"mul", "reduce_sum"}


def test_nothing_and_arguments_of_any_structure():
    found = count(lambda: 1.0)
    assert (found.matmuls, found.all_flops, found.operations) == (0, 0, {})
    assert str(found).splitlines()[-1].split() == ["total", "0", "0", "0"]
    tree = {"a": 1.5, "b": [np.ones(4), (jnp.ones(4),)]}
    assert operations(lambda t: t["a"] * t["b"][0] + t["b"][1][0], tree)["add"] == (1, 4, 0)


def test_the_table_is_aligned():
    lines = str(count(steps(lambda c: jnp.tanh(c @ jnp.ones((5, 5))), 3000), X)).splitlines()
    assert lines[0].split() == ["operation", "times", "FLOPs", "matmuls"]
    assert lines[2].split() == ["dot_general", "3,000", "450,000", "3,000"]
    assert lines[-1].split()[0] == "total"
    assert lines[-2].split() == ["products", "alone", "3,000", "450,000", "3,000"]
    assert len({len(line) for line in lines}) == 1


def test_while_loops_count_once_and_say_so():
    text = str(count(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ c, x), jnp.ones((5, 5))))
    assert "while" in text
    assert "nobody knows how many" in text


def test_hostile_input():
    with pytest.raises(TypeError, match="count: fn is of type int; expected a function"):
        count(3, X)
    with pytest.raises(TypeError, match=r"count: args\[0\]\['a'\] is of type str; expected an array"):
        count(lambda x: 1.0, {"a": "b"})
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        count(lambda x: 1.0 if x.sum() > 0 else 2.0, X)
    assert "count: <lambda> was being traced" in caught.value.__notes__[-1]
    with pytest.raises(ZeroDivisionError):
        count(lambda x: x / (1 // 0), X)
