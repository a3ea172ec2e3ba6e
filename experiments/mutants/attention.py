"""Wrong backward passes of attention and of rotary positions: rows 46–51.

Attention is y = P v with P = softmax(s), s = q kᵀ / √d. With dP = dy vᵀ,

    dv = Pᵀ dy,   ds = P (dP − Σ_s dP P),   dq = ds k / √d,   dk = dsᵀ q / √d.
"""

import jax.numpy as jnp
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, gaussians, mutant

GROUP = 3


def softmax(s: Array) -> Array:
    """Along the last axis."""
    e = jnp.exp(s)
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_bwd(p: Array, dp: Array) -> Array:
    """ds = P (dP − Σ dP P)."""
    return p * (dp - jnp.sum(dp * p, axis=-1, keepdims=True))


def attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kᵀ / √d) v, q [T, d], k [S, d], v [S, E]."""
    return softmax(q @ k.T / q.shape[-1] ** 0.5) @ v


def attention_bwd(args: Args, dy: Array) -> Cotangents:
    """The equations of the module docstring."""
    q, k, v = args
    p = softmax(q @ k.T / q.shape[-1] ** 0.5)
    ds = softmax_bwd(p, dy @ v.T) / q.shape[-1] ** 0.5
    return ds @ k, ds.T @ q, p.T @ dy


def scale_forgotten(args: Args, dy: Array) -> Cotangents:
    """dq = ds k and dk = dsᵀ q, without 1/√d."""
    dq, dk, dv = attention_bwd(args, dy)
    root = args[0].shape[-1] ** 0.5
    return dq * root, dk * root, dv


def dv_transposed(args: Args, dy: Array) -> Cotangents:
    """dv = P dy for Pᵀ dy."""
    q, k, _ = args
    dq, dk, _ = attention_bwd(args, dy)
    return dq, dk, softmax(q @ k.T / q.shape[-1] ** 0.5) @ dy


def normalizer_dropped(args: Args, dy: Array) -> Cotangents:
    """ds = P dP: what goes through the softmax's normalizer is dropped."""
    q, k, v = args
    p = softmax(q @ k.T / q.shape[-1] ** 0.5)
    ds = p * (dy @ v.T) / q.shape[-1] ** 0.5
    return ds @ k, ds.T @ q, p.T @ dy


def causal(s: Array, v: Array) -> Array:
    """P v, P = softmax of the scores s [T, T] up to the diagonal, 0 above it."""
    return causal_softmax(s) @ v


def causal_softmax(s: Array) -> Array:
    """P."""
    e = jnp.tril(jnp.exp(s))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def causal_bwd(args: Args, dy: Array) -> Cotangents:
    """ds = P (dP − Σ dy y), which is Σ dP P; dv = Pᵀ dy."""
    s, v = args
    p = causal_softmax(s)
    return p * (dy @ v.T - jnp.sum(dy * (p @ v), axis=-1, keepdims=True)), p.T @ dy


def mask_forgotten(args: Args, dy: Array) -> Cotangents:
    """ds takes P anew from s and the sum Σ e^s that was kept, and does not mask it again."""
    s, v = args
    p = causal_softmax(s)
    unmasked = jnp.exp(s) / jnp.sum(jnp.tril(jnp.exp(s)), axis=-1, keepdims=True)
    return unmasked * (dy @ v.T - jnp.sum(dy * (p @ v), axis=-1, keepdims=True)), p.T @ dy


def grouped(q: Array, k: Array, v: Array) -> Array:
    """Attention whose heads share k and v in groups of three: q [3N, T, d], k and v [N, T, d]."""
    k, v = jnp.repeat(k, GROUP, axis=0), jnp.repeat(v, GROUP, axis=0)
    return softmax(q @ k.mT / q.shape[-1] ** 0.5) @ v


def grouped_bwd(args: Args, dy: Array) -> Cotangents:
    """The sums of dk and dv over each group."""
    dq, dk, dv = unsummed(args, dy)
    groups = (-1, GROUP, *dk.shape[1:])
    return dq, jnp.sum(dk.reshape(groups), axis=1), jnp.sum(dv.reshape(groups), axis=1)


def unsummed(args: Args, dy: Array) -> Cotangents:
    """dk and dv have an entry per query head, not summed over the group."""
    q, k, v = args
    k, v = jnp.repeat(k, GROUP, axis=0), jnp.repeat(v, GROUP, axis=0)
    p = softmax(q @ k.mT / q.shape[-1] ** 0.5)
    ds = softmax_bwd(p, dy @ v.mT) / q.shape[-1] ** 0.5
    return ds @ k, ds.mT @ q, p.mT @ dy


def last_head(args: Args, dy: Array) -> Cotangents:
    """dk and dv are those of the last query head of each group, not their sum."""
    dq, dk, dv = unsummed(args, dy)
    return dq, dk[GROUP - 1 :: GROUP], dv[GROUP - 1 :: GROUP]


def rotate(x: Array, sign: int) -> Array:
    """Pairs (x_i, x_{i+D/2}) of position t are rotated by ± t / 10^i."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[0], dtype=x.dtype)[:, None] / 10 ** jnp.arange(half, dtype=x.dtype)[None, :]
    cos, sin = jnp.cos(angle), sign * jnp.sin(angle)
    a, b = x[:, :half], x[:, half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def rotary(x: Array) -> Array:
    """Rotary positions, x [T, D]."""
    return rotate(x, 1)


def rotary_bwd(args: Args, dy: Array) -> Cotangents:
    """dy rotated back: the transpose of a rotation is its inverse."""
    return (rotate(dy, -1),)


def rotated_again(args: Args, dy: Array) -> Cotangents:
    """+ sin for − sin: dy is rotated forward."""
    return (rotate(dy, 1),)


ATTENTION = Subject(attention, attention_bwd, gaussians((5, 3), (7, 3), (7, 2)))
ATTENTION_SQUARE = ATTENTION._replace(arguments=gaussians((5, 3), (5, 3), (5, 2)))
CAUSAL = Subject(causal, causal_bwd, gaussians((5, 5), (5, 3)))
GROUPED = Subject(grouped, grouped_bwd, gaussians((2 * GROUP, 5, 2), (2, 5, 2), (2, 5, 2)))
ROTARY = Subject(rotary, rotary_bwd, gaussians((5, 6)))

MUTANTS = (
    mutant(46, "attention", ATTENTION, scale_forgotten, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(47, "attention, square", ATTENTION_SQUARE, dv_transposed, "TRANSPOSE", (2,)),
    mutant(48, "attention", ATTENTION, normalizer_dropped, "MISSING_PATH", (0, 1)),
    mutant(49, "causal attention", CAUSAL, mask_forgotten, "SUPPORT MISSING_FACTOR"),
    mutant(50, "grouped-query attention", GROUPED, unsummed, "UNREDUCED", (1, 2)),
    # The sum over the group is missing; and what is left is what a loop with `=` for `+=` leaves.
    mutant(50, "grouped-query attention", GROUPED, last_head, "UNREDUCED OVERWRITE", (1, 2)),
    mutant(51, "rotary positions", ROTARY, rotated_again, "PATH_SIGN TRANSPOSE"),
)
