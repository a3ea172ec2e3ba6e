"""A recurrent layer, and backpropagation through time.

One cell is applied T times, with the same weights:

    (1)  z_t = x_t w_x + h_{t−1} w_h + b
    (2)  h_t = tanh(z_t),  t = 1 … T

Let dy_t = ∂L/∂y_t be the cotangent of the output y_t = h_t alone. The loss depends on h_t in two ways, by y_t and by
z_{t+1}; with dz_t := ∂L/∂z_t and dz_{T+1} := 0, the chain rule is a recurrence that runs backwards:

    (3)  dh_t = dy_t + dz_{t+1} w_hᵀ
    (4)  dz_t = dh_t ∘ (1 − h_t²)                           since tanh′ = 1 − tanh²
    (5)  dh_0 = dz_1 w_hᵀ                                   h_0 is no output

Unrolled, dz_t holds dy_s for all s ≥ t, each multiplied s − t times by (1 − h²) and w_hᵀ: gradients vanish or explode
with the powers of w_h. All else is no recurrence. The weights are shared by all steps, so their cotangents add up:

    (6)  dx_t = dz_t w_xᵀ
    (7)  dw_x = Σ_t x_tᵀ dz_t,  dw_h = Σ_t h_{t−1}ᵀ dz_t,  db = Σ_t Σ_B dz_t

Only (3) and (4) must go step by step. (6) and (7) are taken after the loop from all dz at once: T small products and
additions to [H, H] in memory become one matrix product over T · B rows. Autodiff's loop carries the sum of dw_h along.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype, vary_together


class RnnResiduals(NamedTuple):
    """What `rnn_bwd` needs."""

    x: Array  # [B, T, D]
    h0: Array  # [B, H]
    w_x: Array  # [D, H]
    w_h: Array  # [H, H]
    y: Array  # [B, T, H], the states


def rnn(x: ArrayLike, h0: ArrayLike, w_x: ArrayLike, w_h: ArrayLike, b: ArrayLike) -> Array:
    """All states of a recurrent network, h_t = tanh(x_t w_x + h_{t−1} w_h + b); Elman 1990.

    Args:
      x: inputs [B, T, D]. No steps, T = 0, give no states.
      h0: the state before the first step [B, H].
      w_x: weights of the input [D, H].
      w_h: weights of the state before [H, H].
      b: bias [H].

    Returns:
      The states after each step [B, T, H], in the dtype of x, to which each is rounded.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return rnn_fwd(x, h0, w_x, w_h, b)[0]


def rnn_fwd(x: ArrayLike, h0: ArrayLike, w_x: ArrayLike, w_h: ArrayLike, b: ArrayLike) -> tuple[Array, RnnResiduals]:
    """Keeps the arguments but the bias, and the states, which are the output. Not z: tanh′ is a polynomial in h.

    In half precision that polynomial is 0 where the state is so near to ±1 that it was rounded to it.
    """
    x, h0, w_x, w_h, b = _checks.arrays(
        "rnn", x=(x, "B T D"), h0=(h0, "B H"), w_x=(w_x, "D H"), w_h=(w_h, "H H"), b=(b, "H")
    )
    accumulate = accumulation_dtype(x.dtype)
    inputs = jnp.matmul(x, w_x, preferred_element_type=accumulate) + b.astype(accumulate)[None, None]
    h0, w_h, inputs = vary_together((h0, w_h, inputs))

    def step(h: Array, step_inputs: Array) -> tuple[Array, Array]:
        z = step_inputs + jnp.matmul(h, w_h, preferred_element_type=accumulate)
        h = jnp.tanh(z).astype(h.dtype)
        return h, h

    _, states = jax.lax.scan(step, h0, jnp.moveaxis(inputs, 1, 0))
    y = jnp.moveaxis(states, 0, 1)
    return y, RnnResiduals(x, h0, w_x, w_h, y)


def rnn_bwd(residuals: RnnResiduals, dy: Array) -> tuple[Array, Array, Array, Array, Array]:
    """dx_t = dz_t w_xᵀ, dh0 = dz_1 w_hᵀ, dw_x = Σ_t x_tᵀ dz_t, dw_h = Σ_t h_{t−1}ᵀ dz_t, db = Σ_t Σ_B dz_t.

    With dz_t = (dy_t + dz_{t+1} w_hᵀ) ∘ (1 − h_t²) from the last step to the first.

    Derivation: equations (1) to (7) at the top of this module.
    """
    x, h0, w_x, w_h, y = residuals
    accumulate = accumulation_dtype(x.dtype)

    def step(dh: Array, dy_and_h: tuple[Array, Array]) -> tuple[Array, Array]:
        dy_t, h = (a.astype(accumulate) for a in dy_and_h)
        dz = ((dy_t + dh) * (1 - h * h)).astype(x.dtype)
        return jnp.matmul(dz, w_h.T, preferred_element_type=accumulate), dz

    def over_steps(a: Array, b: Array) -> Array:  # aᵀ b, over all examples and steps
        return jax.lax.dot_general(a, b, (((0, 1), (0, 1)), ((), ())), preferred_element_type=accumulate)

    dh, w_h, dy, y = vary_together((jnp.zeros(h0.shape, accumulate), w_h, dy, y))
    dh0, dz = jax.lax.scan(step, dh, (jnp.moveaxis(dy, 1, 0), jnp.moveaxis(y, 1, 0)), reverse=True)
    dz = jnp.moveaxis(dz, 0, 1)
    before = jnp.concatenate([h0[:, None], y], axis=1)[:, :-1]
    dx = jnp.matmul(dz, w_x.T, preferred_element_type=accumulate)
    # (dzᵀ x)ᵀ: to transpose x, XLA's CPU compiler would copy it, and keep the copy throughout the loops: 1.7 × the
    # memory. Rounded before it is transposed, as the compiler has no transposed product of bfloat16 in float32.
    dw_x, dw_h = over_steps(dz, x).astype(x.dtype).T, over_steps(before, dz).astype(x.dtype)
    return dx.astype(x.dtype), dh0.astype(x.dtype), dw_x, dw_h, jnp.sum(dz, axis=(0, 1))
