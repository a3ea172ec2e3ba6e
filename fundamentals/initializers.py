"""Weight initializers: callables `(key, shape, dtype) -> Array`, as in `jax.nn.initializers`.

A weight array [..., D, H] has fan_in = D · R and fan_out = H · R, where R is the product of the leading
axes: 1 for a linear layer's [D, H], the window size for a convolution's [height, width, D, H].

The scale of the weights decides whether signals survive depth. For z = x w with independent, zero-mean
entries, Var(z) = fan_in Var(w) E[x²]; for the backward pass dx = dz wᵀ, Var(dx) = fan_out Var(w) Var(dz). Keeping the
first constant wants Var(w) = 1 / fan_in, keeping the second 1 / fan_out; relu halves E[x²], hence He's factor 2.

Every initializer raises `ValueError` for a shape that has no fans and `TypeError` for a dtype that is not floating.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, DTypeLike, Initializer, Numeric, PRNGKey, Shape, accumulation_dtype


def zeros(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
    """All zeros: for biases. For weights it keeps the units of a layer identical for ever. Draws no randomness."""
    del key
    _checks.floating_dtype("zeros", dtype)
    return jnp.zeros(shape, dtype)


def constant(c: Numeric) -> Initializer:
    """Every entry equal to c. The variance is 0: no symmetry is broken. Draws no randomness."""
    _checks.interval("constant", "(-inf, inf)", c=c)

    def constant_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        del key
        _checks.floating_dtype("constant", dtype)
        return jnp.full(shape, c, dtype)

    return constant_init


def normal(stddev: Numeric) -> Initializer:
    """N(0, stddev²): variance stddev², whatever the fans."""
    _checks.interval("normal", "[0, inf)", stddev=stddev)

    def normal_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _normal("normal", key, shape, dtype, stddev)

    return normal_init


def uniform(scale: Numeric) -> Initializer:
    """U(−scale, scale): variance scale² / 3. (`jax.nn.initializers.uniform` is U[0, scale).)"""
    _checks.interval("uniform", "[0, inf)", scale=scale)

    def uniform_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _uniform("uniform", key, shape, dtype, scale)

    return uniform_init


def xavier_uniform() -> Initializer:
    """U(−a, a), a = √(6 / (fan_in + fan_out)): variance 2 / (fan_in + fan_out).

    The compromise between the forward and the backward condition, for tanh-like units.
    Reference: Glorot & Bengio 2010, eq. 16 ("normalized initialization").
    """

    def xavier_uniform_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _uniform("xavier_uniform", key, shape, dtype, math.sqrt(6 / sum(_fans("xavier_uniform", shape))))

    return xavier_uniform_init


def xavier_normal() -> Initializer:
    """N(0, 2 / (fan_in + fan_out)), not truncated. Reference: Glorot & Bengio 2010, eq. 12."""

    def xavier_normal_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _normal("xavier_normal", key, shape, dtype, math.sqrt(2 / sum(_fans("xavier_normal", shape))))

    return xavier_normal_init


def he_uniform() -> Initializer:
    """U(−a, a), a = √(6 / fan_in): variance 2 / fan_in, for relu. Reference: He et al. 2015, eq. 10."""

    def he_uniform_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _uniform("he_uniform", key, shape, dtype, math.sqrt(6 / _fans("he_uniform", shape)[0]))

    return he_uniform_init


def he_normal() -> Initializer:
    """N(0, 2 / fan_in), for relu, which lets through half of E[z²]. Reference: He et al. 2015, eq. 10.

    Not truncated. (`jax.nn.initializers.he_normal` truncates at 2σ before rescaling, so its largest entry is
    about 2.27 standard deviations.)
    """

    def he_normal_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _normal("he_normal", key, shape, dtype, math.sqrt(2 / _fans("he_normal", shape)[0]))

    return he_normal_init


def lecun_normal() -> Initializer:
    """N(0, 1 / fan_in), not truncated: keeps the forward variance. Reference: LeCun et al. 1998, eq. 16."""

    def lecun_normal_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return _normal("lecun_normal", key, shape, dtype, math.sqrt(1 / _fans("lecun_normal", shape)[0]))

    return lecun_normal_init


def orthogonal(gain: Numeric = 1.0) -> Initializer:
    """gain · a uniformly distributed matrix with orthonormal rows or columns, whichever are fewer.

    [..., D, H] is read as a matrix [D · R, H]. Its entries have variance gain² / max(D · R, H), and where D · R ≥ H
    it satisfies wᵀ w = gain² I, so the map keeps lengths and a deep linear network keeps its gradient.
    Reference: Saxe, McClelland & Ganguli 2014, section 3.
    """
    _checks.interval("orthogonal", "(0, inf)", gain=gain)

    def orthogonal_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        _fans("orthogonal", shape)
        wide = _wide("orthogonal", dtype)  # there is no half-precision QR
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = jnp.linalg.qr(jax.random.normal(key, (max(rows, columns), min(rows, columns)), wide))
        # QR leaves the signs of r's diagonal free; fixing them makes the distribution uniform (Mezzadri 2007).
        q = q * jnp.where(jnp.diag(r) < 0, -1, 1).astype(wide)[None, :]
        q = q if rows >= columns else q.T
        return (jnp.asarray(gain, wide) * q).reshape(shape).astype(dtype)

    return orthogonal_init


def _normal(name: str, key: PRNGKey, shape: Shape, dtype: DTypeLike, stddev: Numeric) -> Array:
    wide = _wide(name, dtype)
    return (jnp.asarray(stddev, wide) * jax.random.normal(key, shape, wide)).astype(dtype)


def _uniform(name: str, key: PRNGKey, shape: Shape, dtype: DTypeLike, bound: Numeric) -> Array:
    wide = _wide(name, dtype)
    return (jnp.asarray(bound, wide) * jax.random.uniform(key, shape, wide, -1, 1)).astype(dtype)


def _wide(name: str, dtype: DTypeLike) -> Any:
    """The dtype to draw in: half-precision uniforms take only a few hundred values."""
    _checks.floating_dtype(name, dtype)
    return accumulation_dtype(dtype)


def _fans(name: str, shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight array [..., D, H]."""
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"{name}: shape is {list(shape)}; expected [..., D, H] without empty axes, which has fans")
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field
