"""Kernels: inner products of features that are never computed. K(x, z) = φ(x)ᵀ φ(z).

Each is a rule like any other (`base`): it maps points x [N, D] and z [M, D] to their Gram matrix [N, M], and its
backward pass is derived by hand. The feature maps φ of the linear kernel and of the polynomial one of degree 2 are here
to be looked at: the Gram matrix is φ(x) φ(z)ᵀ. That of a polynomial of degree d has binomial(D + d, d) entries, and
that of the RBF kernel infinitely many.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype


class LinearKernelResiduals(NamedTuple):
    """What `linear_kernel_bwd` needs."""

    x: Array  # [N, D]
    z: Array  # [M, D]


def linear_kernel(x: ArrayLike, z: ArrayLike) -> Array:
    """K(x, z) = xᵀ z, of all pairs.

    Args:
      x: points [N, D].
      z: points [M, D].

    Returns:
      The Gram matrix [N, M].

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the dtypes are not floating, or not the same.
    """
    return linear_kernel_fwd(x, z)[0]


def linear_kernel_fwd(x: ArrayLike, z: ArrayLike) -> tuple[Array, LinearKernelResiduals]:
    """Keeps the points. Not their Gram matrix, on which the derivative does not depend."""
    x, z = _checks.arrays("linear_kernel", x=(x, "N D"), z=(z, "M D"))
    return _products(x, z).astype(x.dtype), LinearKernelResiduals(x, z)


def linear_kernel_bwd(residuals: LinearKernelResiduals, dk: Array) -> tuple[Array, Array]:
    """dx = dk z, dz = dkᵀ x.

    Derivation: K_nm = Σ_d x_nd z_md, so that dx_nd = Σ_m dk_nm z_md and dz_md = Σ_n dk_nm x_nd.
    """
    x, z = residuals
    return _times(dk, z).astype(x.dtype), _times(dk.T, x).astype(z.dtype)


class PolynomialKernelResiduals(NamedTuple):
    """What `polynomial_kernel_bwd` needs."""

    x: Array  # [N, D]
    z: Array  # [M, D]
    base: Array  # [N, M], γ xᵀ z + offset


def polynomial_kernel(x: ArrayLike, z: ArrayLike, *, degree: int, offset: Numeric, gamma: Numeric = 1.0) -> Array:
    """K(x, z) = (γ xᵀ z + offset)^degree: the inner product of all monomials up to the degree, weighted.

    With γ = 1 as courses write it; libsvm has the γ too (`gamma`, `coef0`, `degree` there).

    Args:
      x: points [N, D].
      z: points [M, D].
      degree: an integer ≥ 1.
      offset: ≥ 0; the larger, the more the lower degrees weigh. 0 leaves the monomials of exactly this degree.
      gamma: > 0.

    Returns:
      The Gram matrix [N, M].

    Raises:
      ValueError: the shapes do not fit, degree < 1, offset < 0, or gamma ≤ 0.
      TypeError: the dtypes are not floating, or not the same; degree is not an integer.
    """
    return polynomial_kernel_fwd(x, z, degree=degree, offset=offset, gamma=gamma)[0]


def polynomial_kernel_fwd(
    x: ArrayLike, z: ArrayLike, *, degree: int, offset: Numeric, gamma: Numeric = 1.0
) -> tuple[Array, PolynomialKernelResiduals]:
    """Keeps the base of the power, not the power: with an even degree it has lost the sign."""
    x, z = _checks.arrays("polynomial_kernel", x=(x, "N D"), z=(z, "M D"))
    _checks.positive_integers("polynomial_kernel", degree=degree)
    _checks.interval("polynomial_kernel", "[0, inf)", offset=offset)
    _checks.interval("polynomial_kernel", "(0, inf)", gamma=gamma)
    base = _positive(gamma, x) * _products(x, z) + _scalar(offset, x)
    return (base**degree).astype(x.dtype), PolynomialKernelResiduals(x, z, base)


def polynomial_kernel_bwd(
    residuals: PolynomialKernelResiduals, dk: Array, *, degree: int, gamma: Numeric = 1.0
) -> tuple[Array, Array]:
    """With g = degree · γ · base^(degree − 1) ∘ dk: dx = g z, dz = gᵀ x.

    Derivation: K = base^degree entry by entry, dK = degree · base^(degree − 1) ∘ dbase; and base_nm = γ x_nᵀ z_m +
    offset is the linear kernel times γ.
    """
    x, z, base = residuals
    g = degree * _scalar(gamma, x) * base ** (degree - 1) * dk.astype(base.dtype)
    return _times(g, z).astype(x.dtype), _times(g.T, x).astype(z.dtype)


class RbfKernelResiduals(NamedTuple):
    """What `rbf_kernel_bwd` needs."""

    x: Array  # [N, D]
    z: Array  # [M, D]
    k: Array  # [N, M], the Gram matrix


def rbf_kernel(x: ArrayLike, z: ArrayLike, *, gamma: Numeric) -> Array:
    """K(x, z) = exp(−γ ‖x − z‖²): 1 at the same point, 0 far away on the scale of 1/√γ.

    Accurate to about γ · ε · R², with ε = 1e-7 in float32 and 2e-16 in float64 and R the largest distance of a point
    from the mean of z: one point a thousand times as far as the others costs these their digits. Scale features, or
    compute in float64, where γ R² is large.

    Args:
      x: points [N, D].
      z: points [M, D].
      gamma: > 0. 1 / (D · variance of the features) is a usual first guess.

    Returns:
      The Gram matrix [N, M].

    Raises:
      ValueError: the shapes do not fit, or gamma ≤ 0.
      TypeError: the dtypes are not floating, or not the same.
    """
    return rbf_kernel_fwd(x, z, gamma=gamma)[0]


def rbf_kernel_fwd(x: ArrayLike, z: ArrayLike, *, gamma: Numeric) -> tuple[Array, RbfKernelResiduals]:
    """Keeps the points and the Gram matrix, not the distances: the derivative of exp is exp.

    ‖x − z‖² is computed as ‖x‖² + ‖z‖² − 2 xᵀz, one matrix product instead of N·M·D differences. What the difference of
    large numbers loses is kept small by measuring from the mean of z, which changes no distance.
    """
    x, z = _checks.arrays("rbf_kernel", x=(x, "N D"), z=(z, "M D"))
    _checks.interval("rbf_kernel", "(0, inf)", gamma=gamma)
    u, v = _centred(x, z)
    distances = jnp.sum(u * u, axis=1)[:, None] + jnp.sum(v * v, axis=1)[None, :] - 2 * _products(u, v)
    k = jnp.exp(-_positive(gamma, x) * jnp.where(distances <= 0, 0, distances))
    return k.astype(x.dtype), RbfKernelResiduals(x, z, k)


def rbf_kernel_bwd(residuals: RbfKernelResiduals, dk: Array, *, gamma: Numeric) -> tuple[Array, Array]:
    """With g = −2γ k ∘ dk: dx_n = Σ_m g_nm (x_n − z_m), dz_m = Σ_n g_nm (z_m − x_n).

    Derivation: K = exp(−γ s) with s_nm = ‖x_n − z_m‖², so ds = −γ k ∘ dk; and ∂s_nm/∂x_n = 2 (x_n − z_m) = −∂s_nm/∂z_m.
    The sums of differences are again taken from the mean of z: Σ_m g_nm (x_n − z_m) = x_n Σ_m g_nm − (g z)_n.
    """
    x, z, k = residuals
    u, v = _centred(x, z)
    g = -2 * _scalar(gamma, x) * k * dk.astype(k.dtype)
    dx = jnp.sum(g, axis=1)[:, None] * u - _times(g, v)
    dz = jnp.sum(g, axis=0)[:, None] * v - _times(g.T, u)
    return dx.astype(x.dtype), dz.astype(z.dtype)


def linear_features(x: ArrayLike) -> Array:
    """φ(x) = x, the features of the linear kernel. [N, D]."""
    return _checks.arrays("linear_features", x=(x, "N D"))[0]


def quadratic_features(x: ArrayLike, *, offset: Numeric, gamma: Numeric = 1.0) -> Array:
    """φ of the polynomial kernel of degree 2: (γ x_d²)_d, (√2 γ x_d x_e)_{d<e}, (√(2 γ offset) x_d)_d, offset.

    Expand (γ Σ_d x_d z_d + c)² = Σ_d γ² x_d² z_d² + 2 Σ_{d<e} γ² x_d x_e z_d z_e + 2 γ c Σ_d x_d z_d + c²; each term is
    a feature of x times that of z.

    Args:
      x: points [N, D].
      offset: ≥ 0.
      gamma: > 0.

    Returns:
      [N, (D + 1)(D + 2) / 2].
    """
    (x,) = _checks.arrays("quadratic_features", x=(x, "N D"))
    _checks.interval("quadratic_features", "[0, inf)", offset=offset)
    _checks.interval("quadratic_features", "(0, inf)", gamma=gamma)
    first, second = jnp.triu_indices(x.shape[1], k=1)
    scale, constant = _scalar(gamma, x).astype(x.dtype), _scalar(offset, x).astype(x.dtype)
    return jnp.concatenate(
        [
            scale * x**2,
            math.sqrt(2) * scale * x[:, first] * x[:, second],
            jnp.sqrt(2 * scale * constant) * x,
            jnp.broadcast_to(constant, (len(x), 1)),
        ],
        axis=1,
    )


def _products(x: Array, z: Array) -> Array:
    """X zᵀ, half precision accumulated in float32."""
    return jnp.matmul(x, z.T, preferred_element_type=accumulation_dtype(x.dtype))


def _times(g: Array, x: Array) -> Array:
    """The same of a cotangent [N, M] with points [M, D]."""
    wide = accumulation_dtype(x.dtype)
    return jnp.matmul(g.astype(wide), x.astype(wide))


def _centred(x: Array, z: Array) -> tuple[Array, Array]:
    wide = accumulation_dtype(x.dtype)
    x, z = x.astype(wide), z.astype(wide)
    mean = jax.lax.stop_gradient(jnp.mean(z, axis=0, keepdims=True))
    return x - mean, z - mean


def _positive(value: Any, x: Array) -> Array:
    """A positive option; NaN where it is traced, so that nobody could tell, and is not."""
    number = _scalar(value, x)
    return jnp.where(number > 0, number, jnp.nan) if isinstance(number, jax.core.Tracer) else number


def _scalar(value: Any, x: Array) -> Array:
    """An option as a number in the dtype that sums over x have, so that nothing is promoted."""
    return jnp.asarray(value, accumulation_dtype(x.dtype))
