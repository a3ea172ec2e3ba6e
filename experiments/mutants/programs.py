"""Wrong backward passes of dropout, of residual blocks, and of programs that leave the beaten track: rows 64–75.

Row 72, precision, stands with the linear layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

KEPT = 0.6  # of the units


def dropout(x: Array, key: Array) -> Array:
    """x / kept where it is kept, else 0."""
    return jnp.where(jax.random.bernoulli(key, KEPT, x.shape), x / KEPT, 0)


def dropout_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy / kept where x was kept, by the same key."""
    x, key = args
    return jnp.where(jax.random.bernoulli(key, KEPT, x.shape), dy / KEPT, 0), None


def mask_forgotten(args: Args, dy: Array) -> Cotangents:
    """dy / kept everywhere, without the mask."""
    return dy / KEPT, None


def rate_forgotten(args: Args, dy: Array) -> Cotangents:
    """dy where x was kept, without 1 / kept."""
    dx, _ = dropout_bwd(args, dy)
    return dx * KEPT, None


def fresh_mask(args: Args, dy: Array) -> Cotangents:
    """A mask that the backward pass draws anew."""
    x, key = args
    return dropout_bwd((x, jax.random.fold_in(key, 1)), dy)


def keyed(seed: int, dtype: Any) -> Args:
    """x [5, 7] and a key."""
    return *gaussians((5, 7))(seed, dtype), jax.random.key(seed)


def residual(x: Array, w: Array) -> Array:
    """x + tanh(x w)."""
    return x + jnp.tanh(x @ w)


def residual_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy + dz wᵀ, dw = xᵀ dz, dz = dy (1 − tanh²)."""
    dx, dw = skip_dropped(args, dy)
    return dy + dx, dw


def skip_dropped(args: Args, dy: Array) -> Cotangents:
    """dx = dz wᵀ, without the dy that skips the layer."""
    x, w = args
    dz = dy * (1 - jnp.tanh(x @ w) ** 2)
    return dz @ w.T, x.T @ dz


def prenorm(x: Array, scale: Array, w: Array) -> Array:
    """x + n w, n = γ x / √(mean x² + 0.1): a residual block that normalizes what enters its layer."""
    return x + rms_norm(x, scale) @ w


def rms_norm(x: Array, scale: Array) -> Array:
    """n."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 0.1) * scale[None, :]


def rms_norm_bwd(x: Array, scale: Array, dn: Array) -> Cotangents:
    """dx and dγ."""
    r = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 0.1)
    d, xhat = dn * scale[None, :], x * r
    return r * (d - xhat * jnp.mean(d * xhat, axis=-1, keepdims=True)), jnp.sum(dn * xhat, axis=0)


def prenorm_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy + what dn = dy wᵀ becomes in the normalization."""
    x, scale, w = args
    dx, dscale = rms_norm_bwd(x, scale, dy @ w.T)
    return dy + dx, dscale, rms_norm(x, scale).T @ dy


def skip_normalized(args: Args, dy: Array) -> Cotangents:
    """The dy that skips the layer goes through the normalization, too: (dy + dn) · dnorm for dy + dn · dnorm."""
    x, scale, w = args
    _, dscale, dw = prenorm_bwd(args, dy)
    return rms_norm_bwd(x, scale, dy + dy @ w.T)[0], dscale, dw


def gated(x: Array, w: Array) -> Array:
    """x σ(x w)."""
    return x * jax.nn.sigmoid(x @ w)


def gated_bwd(args: Args, dy: Array) -> Cotangents:
    """With s = σ(x w) and dz = dy x s (1 − s): dx = dy s + dz wᵀ, dw = xᵀ dz."""
    x, w = args
    s = jax.nn.sigmoid(x @ w)
    dz = dy * x * s * (1 - s)
    return dy * s + dz @ w.T, x.T @ dz


def gate_stopped(args: Args, dy: Array) -> Cotangents:
    """Autodiff of a function with a stray stop_gradient, on the x that enters the gate."""
    dx, dw = jax.vjp(lambda x, w: x * jax.nn.sigmoid(lax.stop_gradient(x) @ w), *args)[1](dy)
    return dx, dw


def norm(x: Array) -> Array:
    """‖x‖, row by row, with the gradient 0 at 0."""
    square = jnp.sum(x * x, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def norm_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy x / ‖x‖, and 0 at 0."""
    (x,) = args
    y = norm(x)
    return (x * (dy / jnp.where(y > 0, y, 1))[:, None],)


def norm_divided(args: Args, dy: Array) -> Cotangents:
    """x / ‖x‖ also at 0: 0/0."""
    (x,) = args
    return (dy[:, None] * x / norm(x)[:, None],)


def zero_row(seed: int, dtype: Any) -> Args:
    """x [5, 3], a row of which is 0."""
    x = np.random.RandomState(seed).normal(size=(5, 3))
    x[2] = 0
    return (array(x, dtype),)


def complex_product(a: Array, b: Array) -> Array:
    """a b, of complex numbers."""
    return a * b


def complex_product_bwd(args: Args, dy: Array) -> Cotangents:
    """da = dy b, db = dy a, in JAX's convention: nothing is conjugated."""
    a, b = args
    return dy * b, dy * a


def conjugated(args: Args, dy: Array) -> Cotangents:
    """da = dy b̄ and db = dy ā, conjugated."""
    a, b = args
    return dy * jnp.conj(b), dy * jnp.conj(a)


def complex_gaussians(seed: int, dtype: Any) -> Args:
    """a, b [5, 3], of the complex dtype whose parts are of this one."""
    a, b, c, d = gaussians(*[(5, 3)] * 4)(seed, dtype)
    return lax.complex(a, b), lax.complex(c, d)


def product_in_pairs(a: Array, b: Array) -> Array:
    """The same in pairs of reals: a [2, 5], real parts in the first row."""
    return jnp.stack([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def product_in_pairs_bwd(args: Args, dy: Array) -> Cotangents:
    """da = dy b̄, db = dy ā: the transpose of multiplying by b is multiplying by its conjugate."""
    a, b = args
    sign = jnp.asarray([[1], [-1]], a.dtype)
    return product_in_pairs(dy, b * sign), product_in_pairs(dy, a * sign)


def unconjugated(args: Args, dy: Array) -> Cotangents:
    """da = dy b for dy b̄."""
    return product_in_pairs(dy, args[1]), product_in_pairs_bwd(args, dy)[1]


def summed(x: Array) -> Array:
    """Σ of tanh x over the devices, on each of them: x [devices, D]."""
    y: Array = jax.vmap(lambda x: lax.psum(jnp.tanh(x), "device"), axis_name="device")(x)
    return y


def summed_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = Σ over the devices of dy, times 1 − tanh²."""
    (x,) = args
    return (jax.vmap(lambda x, dy: lax.psum(dy, "device") * (1 - jnp.tanh(x) ** 2), axis_name="device")(x, dy),)


def summed_again(args: Args, dy: Array) -> Cotangents:
    """dy is summed over the devices once more, though all have the sum."""
    total = jax.vmap(lambda dy: lax.psum(dy, "device"), axis_name="device")(dy)
    return summed_bwd(args, total)


def tempered_softplus(x: Array, beta: Array) -> Array:
    """log(1 + e^βx) / β, β > 0 per column."""
    return jnp.log1p(jnp.exp(beta[None, :] * x)) / beta[None, :]


def tempered_softplus_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy σ(βx), dβ = Σ dy (x σ(βx) − y) / β."""
    x, beta = args
    s = jax.nn.sigmoid(beta[None, :] * x)
    return dy * s, jnp.sum(dy * (x * s - tempered_softplus(x, beta)), axis=0) / beta


def zero_for_beta(args: Args, dy: Array) -> Cotangents:
    """Zeros for β, which was not thought to need a gradient."""
    return tempered_softplus_bwd(args, dy)[0], jnp.zeros_like(args[1])


def temperatures(seed: int, dtype: Any) -> Args:
    """x [5, 3], and β of neither sign nor size to cause trouble."""
    return *gaussians((5, 3))(seed, dtype), array(np.random.RandomState(seed).uniform(0.5, 2, size=3), dtype)


def solve(u: Array, b: Array) -> Array:
    """u⁻¹ b, u upper triangular [N, N]; what is below its diagonal is not read."""
    return jax.scipy.linalg.solve_triangular(u, b)


def solve_bwd(args: Args, dy: Array) -> Cotangents:
    """db = u⁻ᵀ dy; du = −db yᵀ, up to the diagonal."""
    du, db = triangle_forgotten(args, dy)
    return jnp.triu(du), db


def triangle_forgotten(args: Args, dy: Array) -> Cotangents:
    """du = −db yᵀ, not masked below the diagonal."""
    u, b = args
    db = jax.scipy.linalg.solve_triangular(u, dy, trans="T")
    return -db @ solve(u, b).T, db


def triangular(seed: int, dtype: Any) -> Args:
    """u [5, 5], full, with a diagonal about 2, and b [5, 3]."""
    random = np.random.RandomState(seed)
    return array(0.5 * random.normal(size=(5, 5)) + 2 * np.eye(5), dtype), array(random.normal(size=(5, 3)), dtype)


DROPOUT = Subject(dropout, dropout_bwd, keyed)
RESIDUAL = Subject(residual, residual_bwd, gaussians((5, 3), (3, 3)))
PRENORM = Subject(prenorm, prenorm_bwd, gaussians((5, 3), (3,), (3, 3)))
GATED = Subject(gated, gated_bwd, gaussians((5, 3), (3, 3)))
NORM = Subject(norm, norm_bwd, zero_row)
COMPLEX = Subject(complex_product, complex_product_bwd, complex_gaussians)
PAIRS = Subject(product_in_pairs, product_in_pairs_bwd, gaussians((2, 5), (2, 5)))
SUMMED = Subject(summed, summed_bwd, gaussians((3, 5)))
TEMPERED = Subject(tempered_softplus, tempered_softplus_bwd, temperatures)
SOLVE = Subject(solve, solve_bwd, triangular)

MUTANTS = (
    mutant(64, "dropout", DROPOUT, mask_forgotten, "MISSING_FACTOR SUPPORT"),
    mutant(65, "dropout", DROPOUT, rate_forgotten, "SCALE MISSING_FACTOR"),
    mutant(66, "dropout", DROPOUT, fresh_mask, "WRONG_OPERAND"),
    mutant(67, "residual block", RESIDUAL, skip_dropped, "MISSING_PATH"),
    mutant(68, "pre-norm residual block", PRENORM, skip_normalized, "EXTRA_FACTOR"),
    mutant(69, "gated unit", GATED, gate_stopped, "MISSING_PATH"),
    mutant(70, "norm at 0", NORM, norm_divided, "NONFINITE"),
    # The conjugate in the place of the number. Multiplying by a complex number is, in reals, a scaled rotation, so that
    # it is also the transpose, or the sign of what goes through the imaginary part. None is truer than the others.
    mutant(71, "complex product", COMPLEX, conjugated, "WRONG_OPERAND TRANSPOSE PATH_SIGN", (0, 1)),
    mutant(71, "complex product, in pairs", PAIRS, unconjugated, "TRANSPOSE PATH_SIGN"),
    # By how many devices there are: a constant multiple, and a factor that does not belong there.
    mutant(73, "sum over devices", SUMMED, summed_again, "SCALE EXTRA_FACTOR"),
    mutant(74, "softplus with a temperature", TEMPERED, zero_for_beta, "ZERO", (1,)),
    mutant(75, "triangular solve", SOLVE, triangle_forgotten, "SUPPORT MISSING_FACTOR"),
)
