"""Wrong backward passes along a sequence: embedding, recurrent layers, cumulative sum and product. Rows 52–57."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant


def embedding(table: Array, ids: Array) -> Array:
    """The rows of the table [V, D] that the ids name."""
    return table[ids]


def embedding_bwd(args: Args, dy: Array) -> Cotangents:
    """Each dy is added to its row, and rows may be named more than once."""
    table, ids = args
    return jnp.zeros_like(table).at[ids].add(dy), None


def rows_set(args: Args, dy: Array) -> Cotangents:
    """Each dy is written to its row: the last of several is left."""
    table, ids = args
    return jnp.zeros_like(table).at[ids].set(dy), None


def repeated_ids(seed: int, dtype: Any) -> Args:
    """A table [7, 3], and five ids of which two are the same."""
    random = np.random.RandomState(seed)
    a, b, c, d = random.permutation(7)[:4]
    return array(random.normal(size=(7, 3)), dtype), array([a, b, a, c, d])


def rnn(x: Array, h0: Array, w_x: Array, w_h: Array, b: Array) -> Array:
    """h_t = tanh(x_t w_x + h_{t−1} w_h + b), all of them: x [T, D] → [T, H]. By `lax.scan`."""

    def step(h: Array, x_t: Array) -> tuple[Array, Array]:
        h = jnp.tanh(x_t @ w_x + h @ w_h + b)
        return h, h

    return jax.lax.scan(step, h0, x)[1]


def rnn_unrolled(x: Array, h0: Array, w_x: Array, w_h: Array, b: Array) -> Array:
    """The same, by a loop in Python."""
    h, states = h0, []
    for x_t in x:
        h = jnp.tanh(x_t @ w_x + h @ w_h + b)
        states.append(h)
    return jnp.stack(states)


def rnn_bwd(args: Args, dy: Array) -> Cotangents:
    """dz_t = (dy_t + dh_t) (1 − h_t²) with dh_{t−1} = dz_t w_hᵀ, from the last step to the first.

    The rest is that of a linear layer: dx = dz w_xᵀ, dw_x = xᵀ dz, dw_h = Σ_t h_{t−1}ᵀ dz_t, db = Σ_t dz_t.
    """
    return _rnn_bwd(args, dy, carried=1, previous=1)


def carry_dropped(args: Args, dy: Array) -> Cotangents:
    """dz_t = dy_t (1 − h_t²), without what comes from the next step."""
    return _rnn_bwd(args, dy, carried=0, previous=1)


def state_of_this_step(args: Args, dy: Array) -> Cotangents:
    """dw_h = Σ_t h_tᵀ dz_t, with h_t for h_{t−1}."""
    return _rnn_bwd(args, dy, carried=1, previous=0)


def _rnn_bwd(args: Args, dy: Array, *, carried: int, previous: int) -> Cotangents:
    x, h0, w_x, w_h, b = args
    h = rnn_unrolled(x, h0, w_x, w_h, b)
    dh, dz = jnp.zeros_like(h0), []
    for t in reversed(range(len(x))):
        dz.append((dy[t] + carried * dh) * (1 - h[t] ** 2))
        dh = dz[-1] @ w_h.T
    dpre = jnp.stack(dz[::-1])
    states = jnp.concatenate([h0[None, :], h])[1 - previous : 1 - previous + len(x)]
    return dpre @ w_x.T, dh, x.T @ dpre, states.T @ dpre, jnp.sum(dpre, axis=0)


def dropout_rnn(x: Array, h0: Array, w: Array, keep: Array) -> Array:
    """h_t = tanh(x_t + (keep_t h_{t−1}) w): recurrent dropout with a mask per step, keep [T, H] of 0 and 1."""
    h, states = h0, []
    for x_t, keep_t in zip(x, keep, strict=True):
        h = jnp.tanh(x_t + jnp.where(keep_t > 0, h, 0) @ w)
        states.append(h)
    return jnp.stack(states)


def dropout_rnn_bwd(args: Args, dy: Array) -> Cotangents:
    """dh_{t−1} = keep_t (dz_t wᵀ), dw = Σ_t (keep_t h_{t−1})ᵀ dz_t."""
    return _dropout_rnn_bwd(args, dy, args[3])


def first_mask(args: Args, dy: Array) -> Cotangents:
    """The mask of the first step at every step."""
    return _dropout_rnn_bwd(args, dy, jnp.broadcast_to(args[3][:1], args[3].shape))


def _dropout_rnn_bwd(args: Args, dy: Array, keep: Array) -> Cotangents:
    x, h0, w, _ = args
    h = dropout_rnn(*args)
    dh, dw, dx = jnp.zeros_like(h0), jnp.zeros_like(w), []
    for t in reversed(range(len(x))):
        dx.append((dy[t] + dh) * (1 - h[t] ** 2))
        dh = jnp.where(keep[t] > 0, dx[-1] @ w.T, 0)
        dw = dw + jnp.outer(jnp.where(keep[t] > 0, h[t - 1] if t else h0, 0), dx[-1])
    return jnp.stack(dx[::-1]), dh, dw, None


def masks(seed: int, dtype: Any) -> Args:
    """x [5, 3], h0, w, and masks in which each step drops another unit."""
    keep = 1 - np.eye(3)[(seed + np.arange(5)) % 3]
    return *gaussians((5, 3), (3,), (3, 3))(seed, dtype), array(keep)


def cumsum(x: Array) -> Array:
    """y_i = Σ_{j ≤ i} x_j, along the last axis."""
    return jnp.cumsum(x, axis=-1)


def cumsum_bwd(args: Args, dy: Array) -> Cotangents:
    """dx_j = Σ_{i ≥ j} dy_i."""
    return (jnp.cumsum(dy[:, ::-1], axis=-1)[:, ::-1],)


def cumsum_forward(args: Args, dy: Array) -> Cotangents:
    """dx_j = Σ_{i ≤ j} dy_i: the sum is not reversed."""
    return (jnp.cumsum(dy, axis=-1),)


def cumprod(x: Array) -> Array:
    """y_i = Π_{j ≤ i} x_j, along the last axis."""
    return jnp.cumprod(x, axis=-1)


def cumprod_bwd(args: Args, dy: Array) -> Cotangents:
    """dx_j = Σ_{i ≥ j} dy_i y_i / x_j, the quotient taken as the product without x_j."""
    (x,) = args
    dx = []
    for j in range(x.shape[-1]):
        others = jnp.cumprod(x.at[:, j].set(1), axis=-1)
        dx.append(jnp.sum((dy * others)[:, j:], axis=-1))
    return (jnp.stack(dx, axis=-1),)


def cumprod_divided(args: Args, dy: Array) -> Cotangents:
    """Σ_{i ≥ j} dy_i y_i, divided by x_j: 0/0 at a zero."""
    (x,) = args
    return (cumsum_bwd(args, dy * cumprod(x))[0] / x,)


def cumprod_guarded(args: Args, dy: Array) -> Cotangents:
    """Σ_{i ≥ j} dy_i y_i, divided by x_j, and 0 at a zero."""
    (x,) = args
    return (jnp.where(x == 0, 0, cumsum_bwd(args, dy * cumprod(x))[0] / jnp.where(x == 0, 1, x)),)


def with_zero(seed: int, dtype: Any) -> Args:
    """x [3, 5] with one entry 0, and no other near it, as products would be small."""
    random = np.random.RandomState(seed)
    x = random.uniform(0.5, 2, size=(3, 5)) * random.choice([-1, 1], size=(3, 5))
    x[1, 2] = 0
    return (array(x, dtype),)


EMBEDDING = Subject(embedding, embedding_bwd, repeated_ids)
RNN = Subject(rnn, rnn_bwd, gaussians((5, 2), (3,), (2, 3), (3, 3), (3,)))
RNN_UNROLLED = RNN._replace(primal=rnn_unrolled)
DROPOUT_RNN = Subject(dropout_rnn, dropout_rnn_bwd, masks)
CUMSUM = Subject(cumsum, cumsum_bwd, gaussians((3, 5)))
CUMPROD = Subject(cumprod, cumprod_bwd, with_zero)

MUTANTS = (
    mutant(52, "embedding", EMBEDDING, rows_set, "OVERWRITE"),
    mutant(53, "RNN", RNN, carry_dropped, "MISSING_PATH", (0, 1, 2, 3, 4)),
    mutant(53, "RNN, unrolled", RNN_UNROLLED, carry_dropped, "MISSING_PATH", (0, 1, 2, 3, 4)),
    mutant(54, "RNN", RNN, state_of_this_step, "WRONG_OPERAND", (3,)),
    mutant(55, "RNN with recurrent dropout", DROPOUT_RNN, first_mask, "WRONG_OPERAND", (0, 1, 2)),
    mutant(56, "cumulative sum", CUMSUM, cumsum_forward, "LAYOUT TRANSPOSE"),
    mutant(57, "cumulative product", CUMPROD, cumprod_divided, "NONFINITE SUPPORT"),
    mutant(57, "cumulative product", CUMPROD, cumprod_guarded, "SUPPORT"),
)
