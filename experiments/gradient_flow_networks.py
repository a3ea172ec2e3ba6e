"""Random networks of `gradient_flow`: what is left of a gradient at the first layer, for networks of several depths.

The first L layers of a stack are the network of depth L: one forward pass, then one backward pass in which a cotangent
of its own enters at each of the depths. All passes are those of the library. Of one example the gradient of the weights
is an outer product, so that ‖dw‖ = ‖x‖ ‖db‖: it is never formed. As the backward pass is linear, the cotangent is
scaled to length 1 at each layer, and its logarithm kept: 10⁻³⁰⁰ is no limit.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradient_flow_theory import AFTER, BEFORE, EPS, MAXOUT, PIECES, RESIDUAL
from fundamentals import initializers
from fundamentals.activations import maxout_bwd, maxout_fwd
from fundamentals.base import Array, Initializer
from fundamentals.catalogue import RULES
from fundamentals.layers import layer_norm_bwd, layer_norm_fwd, linear_bwd, linear_fwd

SMALL, XAVIER, HE, LARGE, ORTHOGONAL = INITIALIZATIONS = ("small", "Xavier", "He", "large", "orthogonal")


@functools.lru_cache  # the same function each time, of which JAX knows the program
def initialization(name: str, small: float, large: float, width: int) -> tuple[Initializer, float]:
    """The library's initializer, and s², n times the variance of a weight. At equal widths LeCun's is Xavier's."""
    return {
        SMALL: (initializers.normal(small), small**2 * width),
        XAVIER: (initializers.xavier_normal(), 1.0),
        HE: (initializers.he_normal(), 2.0),
        LARGE: (initializers.normal(large), large**2 * width),
        ORTHOGONAL: (initializers.orthogonal(), 1.0),
    }[name]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("networks", "depth", "width"))
def draw_weights(initializer: Initializer, key: Array, *, networks: int, depth: int, width: int) -> Array:
    """[L, R, P, n, n], of P pieces of maxout; others take the first. The same key draws the same numbers, scaled."""

    def one(key: Array) -> Array:
        return initializer(key, (width, width), jnp.float64)

    keys = jax.random.split(key, (depth, networks, PIECES))
    w: Array = jax.lax.map(jax.vmap(jax.vmap(one)), keys)
    return w


def draw_ends(key: Array, networks: int, width: int) -> tuple[Array, Array]:
    """Inputs of mean square 1 and cotangents of length 1, each [R, 1, n]."""
    x, dy = (
        v / jnp.linalg.norm(v, axis=-1, keepdims=True)
        for v in jax.random.normal(key, (2, networks, 1, width), jnp.float64)
    )
    return x * width**0.5, dy


def _layer_fwd(activation: str, block: str, x: Array, w: Array) -> tuple[Array, Any]:
    """x [1, n], w [P, n, n]."""
    width = x.shape[-1]
    if activation == MAXOUT:
        y, largest = maxout_fwd(x, w, jnp.zeros((len(w), width), x.dtype))
        return y, (largest, None, None)
    ones, zeros = jnp.ones(width, x.dtype), jnp.zeros(width, x.dtype)
    norm: Any = None
    z, linear = linear_fwd(x, w[0], zeros)
    if block == BEFORE:
        z, norm = layer_norm_fwd(z, ones, zeros, eps=EPS)
    y, kept = RULES[activation].rule.fwd(z)
    if block == AFTER:
        y, norm = layer_norm_fwd(y, ones, zeros, eps=EPS)
    return x + y if block == RESIDUAL else y, (linear, kept, norm)


def _layer_bwd(activation: str, block: str, residuals: Any, dy: Array) -> tuple[Array, Array]:
    """(dx, db), both [1, n]; db [P, n] of maxout."""
    linear, kept, norm = residuals
    if activation == MAXOUT:
        dx, _, db = maxout_bwd(linear, dy)
        return dx, db
    dout = layer_norm_bwd(norm, dy)[0] if block == AFTER else dy
    (dz,) = RULES[activation].rule.bwd(kept, dout)
    if block == BEFORE:
        dz = layer_norm_bwd(norm, dz)[0]
    dx, _, db = linear_bwd(linear, dz)
    return dx + dy if block == RESIDUAL else dx, db


def length(v: Array, axes: tuple[int, ...]) -> Array:
    """The Euclidean norm over `axes`, also of what is too small to be squared."""
    largest = jnp.max(jnp.abs(v), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return jnp.squeeze(scale, axes) * jnp.sqrt(jnp.sum(jnp.square(v / scale), axis=axes))


@functools.partial(jax.jit, static_argnames=("activation", "block", "depths"))
def flow(w: Array, x: Array, dy: Array, *, activation: str, block: str, depths: tuple[int, ...]) -> tuple[Array, Array]:
    """log₁₀ of ‖dx_0‖ / ‖dx_L‖ and of ‖dw_1‖ / ‖dw_L‖, each [R, depths].

    Args:
      w: the stack [L, R, P, n, n].
      x: inputs [R, 1, n].
      dy: the cotangents that enter, of length 1, [R, 1, n].
      activation: its name.
      block: what surrounds it.
      depths: ascending, the last L.
    """
    pieces = w if activation == MAXOUT else w[:, :, :1]
    ends = jnp.asarray(depths) - 1

    def forward(x: Array, w: Array) -> tuple[Array, Any]:
        y, (linear, *others) = jax.vmap(functools.partial(_layer_fwd, activation, block))(x, w)
        # The backward loop takes the weights from where they are: the loop would keep a copy of all.
        return y, (linear._replace(w=None), others, length(x, (1, 2)))

    def backward(carry: tuple[Array, Array], layer: Any) -> tuple[tuple[Array, Array], Array]:
        d, logs = carry  # [R, depths, 1, n] and [R, depths]
        index, w, (linear, others, size_x) = layer
        d = jnp.where((ends == index)[None, :, None, None], dy[:, None], d)
        one = jax.vmap(functools.partial(_layer_bwd, activation, block), in_axes=(None, 0))
        dx, db = jax.vmap(one)((linear._replace(w=w if activation == MAXOUT else w[:, 0]), *others), d)
        size = length(dx, (2, 3))
        entered = (ends >= index)[None]
        weights = logs + jnp.log10(size_x)[:, None] + jnp.log10(length(db, tuple(range(2, db.ndim))))
        logs = jnp.where(entered, logs + jnp.log10(size), 0)
        return (dx / jnp.where(size > 0, size, 1)[..., None, None], logs), weights

    _, kept = jax.lax.scan(forward, x, pieces)
    start = jnp.zeros((len(x), len(depths), *dy.shape[1:])), jnp.zeros((len(x), len(depths)))
    (_, signal), weights = jax.lax.scan(backward, start, (jnp.arange(len(w)), pieces, kept), reverse=True)
    last = jnp.stack([weights[end, :, k] for k, end in enumerate(np.asarray(depths) - 1)], axis=1)
    return signal, weights[0] - last


def spectral_norms(w: np.ndarray) -> np.ndarray:
    """‖w‖₂ of each matrix of a stack [L, R, n, n]: the root of the largest eigenvalue of wᵀ w."""
    norms: np.ndarray = np.sqrt(np.linalg.eigvalsh(np.einsum("lrij,lrik->lrjk", w, w, optimize=True))[..., -1])
    return norms
