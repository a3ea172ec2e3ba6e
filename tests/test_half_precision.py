"""Half precision: sums are taken in float32 and rounded once, residuals and moments have the dtype that they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import hand

from fundamentals import activations, initializers, losses, optimizers
from fundamentals.catalogue import RULES
from fundamentals.layers import linear
from fundamentals.models import mlp

HALF = pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])


@HALF
def test_residuals_of_the_logits_shape_are_as_narrow_as_the_logits(dtype):
    logits = jnp.ones((2, 3), dtype)
    assert activations.log_softmax_fwd(logits)[1].exponentials.dtype == dtype
    assert losses.softmax_cross_entropy_fwd(logits, jnp.array([0, 2]))[1].exponentials.dtype == dtype


@HALF
def test_row_sums_are_wide(dtype):
    logits = jnp.zeros((1, 2049), dtype)  # whose sum is no number of either dtype
    for total in (
        activations.log_softmax_fwd(logits)[1].total,
        losses.softmax_cross_entropy_fwd(logits, jnp.array([0]))[1].total,
    ):
        assert (total.dtype, float(total[0, 0])) == (jnp.float32, 2049.0)


def test_softmax_cotangents_are_small_differences_of_large_numbers():
    # y = ¼ exactly, and the mean of dy, 2001.5, is no float16.
    dy = jnp.array([[2001.0, 2002.0, 2003.0, 2000.0]], jnp.float16)
    (dx,) = hand(RULES["softmax"].rule, (jnp.zeros((1, 4), jnp.float16),), dy)
    np.testing.assert_array_equal(dx, [[-0.125, 0.125, 0.375, -0.375]])


def test_matmuls_accumulate_and_add_the_bias_before_rounding():
    # In float16 2049 rounds to 2048, and 2048 + 1 to 2048.
    x, w, b = jnp.ones((1, 2049), jnp.float16), jnp.ones((2049, 1), jnp.float16), jnp.ones(1, jnp.float16)
    assert linear(x, w, b)[0, 0] == 2050
    assert activations.maxout(x, w[None], b[None])[0, 0] == 2050


def test_maxout_adds_its_pieces_before_rounding():
    w = jnp.zeros((3, 1, 3), jnp.float16).at[0, 0, 0].set(2048).at[1, 0, 1].set(1).at[2, 0, 2].set(1)
    args = jnp.ones((1, 1), jnp.float16), w, jnp.zeros((3, 3), jnp.float16)
    (dx, _, _) = hand(RULES["maxout"].rule, args, jnp.ones((1, 3), jnp.float16))
    assert dx[0, 0] == 2050


def test_squares_may_exceed_the_range_where_half_of_them_does_not():
    assert losses.squared_error(jnp.array([[300.0]], jnp.float16), jnp.zeros((1, 1), jnp.float16))[0] == 45000


def test_the_mean_loss_is_summed_wide():
    # 4096 losses of 98 sum to more than float16 holds.
    params = (mlp.Layer(jnp.ones((1, 1), jnp.float16), jnp.zeros(1, jnp.float16)),)
    x, targets = jnp.full((4096, 1), 14, jnp.float16), jnp.zeros((4096, 1), jnp.float16)
    assert mlp.loss(params, x, targets, loss_rule=RULES["squared_error"].rule) == 98


def test_updates_are_wide_and_rounded_once():
    assert optimizers.apply_updates(jnp.float16(2048), jnp.float32(1.0003)) == 2050  # 1.0003 itself would round to 1
    for method in (optimizers.sgd, optimizers.momentum, optimizers.rmsprop, optimizers.adam):
        gradients = jnp.ones(2, jnp.bfloat16)
        assert method(0.1).update(gradients, method(0.1).init(gradients))[0].dtype == jnp.float32


def test_small_labels_of_many_classes_under_jit():
    logits = jnp.zeros((1, 300))
    assert np.isnan(jax.jit(losses.softmax_cross_entropy)(logits, jnp.array([-1], jnp.int8)))[0]


def test_a_label_out_of_range_corrects_no_class():
    _, residuals = losses.softmax_cross_entropy_fwd(jnp.zeros((1, 4)), jnp.array([3]))
    (dlogits, _) = losses.softmax_cross_entropy_bwd(residuals._replace(labels=jnp.array([4])), jnp.ones(1))
    np.testing.assert_array_equal(dlogits, np.full((1, 4), 0.25))


def test_weights_and_biases_draw_from_keys_of_their_own():
    normal = initializers.normal(1.0)
    (layer,) = mlp.init(jax.random.key(0), (1, 5), initializer=normal, bias_initializer=normal)
    assert np.all(layer.w[0] != layer.b)


def test_orthogonal_one_by_one_has_either_sign():
    keys = jax.random.split(jax.random.key(0), 40)
    signs = {float(np.sign(initializers.orthogonal(1.0)(key, (1, 1))[0, 0])) for key in keys}
    assert signs == {-1.0, 1.0}
