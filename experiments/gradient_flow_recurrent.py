"""Gradients through time of `gradient_flow`, by the library's recurrent network, and the steps they would make.

The network's input weights are the identity, so that the cotangents of its inputs are those of z, and
dh_{T−k} = dz_{T−k+1} w_hᵀ. All networks, of all spectral radii and kinds, are one program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradient_flow_networks import length
from fundamentals import initializers, optimizers
from fundamentals.base import Array
from fundamentals.layers import rnn_bwd, rnn_fwd

QUIET, DRIVEN, SHEARED = KINDS = ("near zero", "driven", "sheared")
SETTLE = 50  # steps before the first to which a gradient is followed: until then h forgets where it started
STATE = 1e-4  # length of the largest state near zero
SHEAR_RADIUS = 0.9


def shear(units: int, radius: float, size: float) -> np.ndarray:
    """[n, n], all of whose eigenvalues are `radius`: blocks [[radius, size], [0, radius]]. n is even."""
    result = radius * np.eye(units)
    result[np.arange(0, units, 2), np.arange(1, units, 2)] = size
    return result


def sheared_growth(radius: float, size: float, lags: np.ndarray) -> np.ndarray:
    """The root mean square of ‖c (Mᵏ)ᵀ‖ / ‖c‖ over directions c, of linear steps.

    A block's power is [[ρᵏ, k a ρᵏ⁻¹], [0, ρᵏ]], and the mean of the squared ratio is its ‖·‖_F² / 2.
    """
    growth: np.ndarray = np.sqrt(radius ** (2 * lags) + (lags * size * radius ** (lags - 1)) ** 2 / 2)
    return growth


def measure(
    key: Array, kind: str, radii: Sequence[float], *, networks: int, units: int, lags: int, noise: float, size: float
) -> dict[str, Any]:
    """Gradients of c · h_T, c of length 1, through `lags` steps, of several networks at each radius.

    Args:
      key: the same for all kinds.
      kind: `QUIET`, no inputs and states so small that tanh is linear; `DRIVEN`, by noise; `SHEARED`, as QUIET, but
        with a matrix that is not normal.
      radii: ρ; w_h = ρ · orthogonal. `SHEARED` takes them for its eigenvalues.
      networks: R.
      units: n.
      lags: to follow a gradient.
      noise: standard deviation of the inputs.
      size: of the shear.

    Returns:
      lists: "lags", log₁₀ ‖dh_{T−k}‖, [radii, R, lags]; "states", the largest |h| of each step that a gradient passes,
      likewise; "norms", ‖w_h‖₂, [radii].
    """
    lag_norms, states, _, norms = _measure(key, kind, radii, networks, units, lags, noise, size)
    return {
        "lags": np.log10(lag_norms).tolist(),
        "states": states.tolist(),
        "norms": norms.tolist(),
    }


def clip(
    key: Array, radii: Sequence[float], *, networks: int, units: int, lags: int, max_norm: float, learning_rate: float
) -> dict[str, Any]:
    """The first step of gradient descent with the gradients near zero, with and without clipping to c.

    Returns:
      lists [radii, R]: "gradients", their norms; "free" and "clipped", the norms of the steps; "turned", how far the
      clipped one's direction is from the gradient's, as the length of the difference of unit vectors.
    """
    _, _, gradients, _ = _measure(key, QUIET, radii, networks, units, lags, 0.0, 0.0)
    free = optimizers.sgd(learning_rate)
    clipped = optimizers.chain(optimizers.clip_by_global_norm(max_norm), free)

    def one(gradient: Any) -> tuple[Array, ...]:
        norm = optimizers.global_norm
        steps = [method.update(gradient, method.init(gradient), gradient)[0] for method in (free, clipped)]
        size, end = norm(gradient), norm(steps[1])
        turned = norm(jax.tree.map(lambda step, g: step / end + g / size, steps[1], gradient))
        return size, *map(norm, steps), turned

    values = jax.jit(jax.vmap(jax.vmap(one)))(gradients)
    return {name: v.tolist() for name, v in zip(("gradients", "free", "clipped", "turned"), values, strict=True)}


def _measure(
    key: Array,
    kind: str,
    radii: Sequence[float],
    networks: int,
    units: int,
    lags: int,
    noise: float,
    size: float,
) -> tuple[Any, ...]:
    matrix_key, input_key, state_key, end_key = jax.random.split(key, 4)
    orthogonal = jax.vmap(lambda k: initializers.orthogonal()(k, (units, units), jnp.float64))
    bases = np.asarray(orthogonal(jax.random.split(matrix_key, networks)))
    steps = SETTLE + lags
    rho = np.asarray(radii, float)
    if kind == SHEARED:
        blocks = np.stack([shear(units, radius, size) for radius in rho])
        w_h = bases @ blocks[:, None] @ np.swapaxes(bases, -1, -2)
        norms = np.linalg.norm(blocks, 2, axis=(1, 2))
    else:
        w_h = rho[:, None, None, None] * bases
        norms = rho
    direction = jax.random.normal(state_key, (networks, 1, units), jnp.float64)
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    x = np.zeros((networks, 1, steps, units))
    h0 = np.zeros((len(rho), networks, 1, units))
    if kind == DRIVEN:
        x = noise * np.asarray(jax.random.normal(input_key, x.shape, jnp.float64))
    else:
        h0 = STATE * np.minimum(1, rho**-steps)[:, None, None, None] * np.asarray(direction)
    dy = jax.random.normal(end_key, (networks, units), jnp.float64)
    dy /= jnp.linalg.norm(dy, axis=-1, keepdims=True)
    lag_norms, states, gradients = _through_time(jnp.asarray(x), jnp.asarray(h0), jnp.asarray(w_h), dy)
    return np.asarray(lag_norms)[..., :lags], np.asarray(states)[..., :lags], gradients, norms


@jax.jit
def _through_time(x: Array, h0: Array, w_h: Array, dy: Array) -> tuple[Array, Array, Any]:

    def one(x: Array, h0: Array, w_h: Array, dy: Array) -> tuple[Array, Array, Any]:
        units = w_h.shape[0]
        y, residuals = rnn_fwd(x, h0, jnp.eye(units, dtype=x.dtype), w_h, jnp.zeros(units, x.dtype))
        dz, _, dw_x, dw_h, db = rnn_bwd(residuals, jnp.zeros_like(y).at[:, -1].set(dy))
        dh = jnp.matmul(dz[0], w_h.T)
        return length(dh, (1,))[::-1], jnp.max(jnp.abs(y[0]), axis=-1)[::-1], (dw_x, dw_h, db)

    return jax.vmap(jax.vmap(one), in_axes=(None, 0, 0, None))(x, h0, w_h, dy)
