"""The linear layer: leading axes, and accumulation."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import autodiff, cotangent_like, hand, relative_error

from fundamentals.catalogue import RULES
from fundamentals.layers import linear


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 3, 5), (0,)])
@pytest.mark.usefixtures("x64")
def test_any_leading_axes(leading):
    rng = np.random.RandomState(0)
    x, w, b = rng.normal(size=(*leading, 7)), rng.normal(size=(7, 3)), rng.normal(size=3)
    y = linear(x, w, b)
    np.testing.assert_allclose(y, np.einsum("...d,dh->...h", x, w) + b, rtol=1e-12)
    args = tuple(map(jnp.asarray, (x, w, b)))
    dy = cotangent_like(y)
    assert relative_error(hand(RULES["linear"].rule, args, dy), autodiff(RULES["linear"].rule, args, dy)) <= 1e-12


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # 4096 ones: in half precision a running sum stops at 2048 (float16) or 256 (bfloat16).
    x, w, b = jnp.ones((4096, 4096), dtype), jnp.ones((4096, 1), dtype), jnp.zeros(1, dtype)
    assert linear(x, w, b)[0, 0] == 4096
    dx, dw, db = hand(RULES["linear"].rule, (x, w, b), jnp.ones((4096, 1), dtype))
    assert dw[0, 0] == 4096
    assert db[0] == 4096
    assert dx[0, 0] == 1


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 3), (7, 0), (0, 0)])
def test_no_inputs_or_no_outputs(inputs, outputs):
    args = jnp.ones((2, inputs)), jnp.ones((inputs, outputs)), jnp.full(outputs, 0.5)
    y = linear(*args)
    np.testing.assert_array_equal(y, np.full((2, outputs), inputs + 0.5))
    assert relative_error(hand(RULES["linear"].rule, args, y), autodiff(RULES["linear"].rule, args, y)) == 0
