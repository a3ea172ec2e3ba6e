"""What must not be called wrong, and probes of which nothing may be concluded.

Traps are right backward passes, or as good as right: another convention at a kink, another order of summation, a
derivative that is tiny, huge, exactly 0, or declared. Masked are mutants at arguments or cotangents that hide them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.mutants import activations, dense, losses, normalization
from experiments.mutants.case import Args, Cotangents, Masked, Subject, Trap, array, gaussians


def at(*values: float) -> Any:
    """Arguments: these values, in every probe, in the midst of others that the seed draws."""

    def arguments(seed: int, dtype: Any) -> Args:
        drawn = np.random.RandomState(seed).normal(size=4)
        return (array(np.concatenate([drawn[:2], values, drawn[2:]]), dtype),)

    return arguments


# Kinks: any slope between the two one-sided ones is right.


def relu_1_at_0(args: Args, dy: Array) -> Cotangents:
    """1 at 0."""
    return (jnp.where(args[0] >= 0, dy, 0),)


def relu_half_at_0(args: Args, dy: Array) -> Cotangents:
    """½ at 0."""
    return (dy * jnp.heaviside(args[0], jnp.asarray(0.5, dy.dtype)),)


def hard_swish(x: Array) -> Array:
    """x min(max(x + 3, 0), 6) / 6."""
    return x * jnp.clip(x + 3, 0, 6) / 6


def hard_swish_bwd(args: Args, dy: Array) -> Cotangents:
    """(2 x + 3) / 6 between −3 and 3, both of them included, though autodiff says otherwise."""
    (x,) = args
    return (dy * jnp.where(x < -3, 0, jnp.where(x <= 3, (2 * x + 3) / 6, 1)),)


def absolute_bwd(args: Args, dy: Array) -> Cotangents:
    """1 at 0."""
    return (jnp.where(args[0] >= 0, dy, -dy),)


def maximum(x: Array) -> Array:
    """The largest, row by row."""
    return jnp.max(x, axis=-1)


def maximum_bwd(args: Args, dy: Array) -> Cotangents:
    """All to the first of those tied, where autodiff gives each a part."""
    (x,) = args
    return (jax.nn.one_hot(jnp.argmax(x, axis=-1), x.shape[-1], dtype=dy.dtype) * dy[:, None],)


def ties(seed: int, dtype: Any) -> Args:
    """Rows of few values, [5, 7]."""
    return (array(np.random.RandomState(seed).randint(3, size=(5, 7)), dtype),)


def sort_bwd(args: Args, dy: Array) -> Cotangents:
    """Back to where it came from, equals in the reverse of their order."""
    order = jnp.argsort(args[0][::-1])
    return (jnp.zeros_like(dy).at[order].set(dy)[::-1],)


# Terms that are 0, and gradients that are 0, tiny or huge.


def stable_logsumexp(x: Array) -> Array:
    """log Σ e^x, the maximum subtracted first as if it were a constant: its two paths cancel."""
    largest = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    return (jnp.log(jnp.sum(jnp.exp(x - largest), axis=-1, keepdims=True)) + largest)[:, 0]


def stable_logsumexp_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy softmax(x)."""
    return (dy[:, None] * jax.nn.softmax(args[0], axis=-1),)


def zero_term_dropped(args: Args, dy: Array) -> Cotangents:
    """Batch norm by way of dvariance and dmean, which leaves out dvariance · mean(−2 (x − μ)): deviations sum to 0."""
    x, scale, _ = args
    centred = x - normalization.mean(x, 0)
    xhat, r = normalization.normalize(x, 0)
    d = dy * scale[None, :]
    dvariance = jnp.sum(d * centred, axis=0, keepdims=True) * -0.5 * r**3
    dmean = -jnp.sum(d * r, axis=0, keepdims=True)
    return d * r + (dvariance * 2 * centred + dmean) / x.shape[0], *normalization.affine_bwd(xhat, dy)


def sum_of_batch_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Σ γ x̂ + β, which does not depend on x or γ, as x̂ sums to 0."""
    return jnp.sum(normalization.batch_norm(x, scale, offset))


def sum_of_batch_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """Zeros, exactly, for x and γ; B for β."""
    x, scale, offset = args
    return jnp.zeros_like(x), jnp.zeros_like(scale), jnp.full_like(offset, x.shape[0]) * dy


def tiny(x: Array, w: Array) -> Array:
    """1e-12 tanh(x w)."""
    return 1e-12 * jnp.tanh(x @ w)


def tiny_bwd(args: Args, dy: Array) -> Cotangents:
    """That of tanh(x w), times 1e-12."""
    return tanh_of_product_bwd(args, 1e-12 * dy)


def huge(x: Array, w: Array) -> Array:
    """1e12 tanh(x w)."""
    return 1e12 * jnp.tanh(x @ w)


def huge_bwd(args: Args, dy: Array) -> Cotangents:
    """That of tanh(x w), times 1e12."""
    return tanh_of_product_bwd(args, 1e12 * dy)


def tanh_of_product_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dz wᵀ, dw = xᵀ dz, dz = dy (1 − tanh²)."""
    x, w = args
    dz = dy * (1 - jnp.tanh(x @ w) ** 2)
    return dz @ w.T, x.T @ dz


def extreme_logsumexp_arguments(seed: int, dtype: Any) -> Args:
    """Rows that reach ±1e4."""
    x = np.random.RandomState(seed).normal(size=(3, 5))
    x[0] += 1e4
    x[1] -= 1e4
    x[2, :2] = 1e4, -1e4
    return (array(x, dtype),)


# The same result by other arithmetic.


def reordered(args: Args, dy: Array) -> Cotangents:
    """That of a linear layer, its sums over the batch taken from the last example to the first."""
    x, w, b = args
    dw, db = jnp.zeros_like(w), jnp.zeros_like(b)
    for x_n, dy_n in zip(x[::-1], dy[::-1], strict=True):
        dw, db = dw + jnp.outer(x_n, dy_n), db + dy_n
    return dy @ w.T, dw, db


def symmetric(x: Array, w: Array) -> Array:
    """x s, s = w + wᵀ."""
    return x @ (w + w.T)


def symmetric_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy s for dy sᵀ, which is the same."""
    x, w = args
    ds = x.T @ dy
    return dy @ (w + w.T), ds + ds.T


def single_precision(x: Array) -> Array:
    """tanh(x) in float32, whatever comes in."""
    return jnp.tanh(x.astype(jnp.float32)).astype(x.dtype)


def wave(x: Array) -> Array:
    """sin 50x: curved so much that a coarse difference misses its slope."""
    return jnp.sin(50 * x)


def wave_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = 50 dy cos 50x."""
    return (50 * dy * jnp.cos(50 * args[0]),)


def log_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy / x."""
    return (dy / args[0],)


def near_the_edge(seed: int, dtype: Any) -> Args:
    """Positive numbers, down to 1e-3: not far below them, the logarithm ends."""
    return (array(10 ** np.random.RandomState(seed).uniform(-3, 0, size=5), dtype),)


# Declared intent, and noise.


def straight_through(x: Array) -> Array:
    """round(x), which says itself that its gradient is to be that of x."""
    return x + lax.stop_gradient(jnp.round(x) - x)


def straight_through_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy."""
    del args
    return (dy,)


def fixed_point(x: Array, w: Array) -> Array:
    """z = tanh(x + w z), iterated until it changes by less than 1e-6: reverse mode cannot differentiate it."""

    def unfinished(state: tuple[Array, Array, int]) -> Array:
        before, z, steps = state
        return (jnp.max(jnp.abs(z - before)) >= 1e-6) & (steps < 100)  # it ends, whatever w is

    def step(state: tuple[Array, Array, int]) -> tuple[Array, Array, int]:
        _, z, steps = state
        return z, jnp.tanh(x + w @ z), steps + 1

    return lax.while_loop(unfinished, step, (jnp.zeros_like(x), jnp.tanh(x), 0))[1]


def fixed_point_bwd(args: Args, dy: Array) -> Cotangents:
    """By the implicit function theorem, (I − wᵀ D) du = dy with D = diag(1 − z²): dx = D du, dw = dx zᵀ."""
    x, w = args
    z = fixed_point(x, w)
    slope = 1 - z**2
    dx = slope * jnp.linalg.solve(jnp.eye(len(x), dtype=x.dtype) - w.T * slope[None, :], dy)
    return dx, jnp.outer(dx, z)


def contraction(seed: int, dtype: Any) -> Args:
    """x [3], and w [3, 3] that halves lengths at least."""
    random = np.random.RandomState(seed)
    x, w = random.normal(size=3), random.normal(size=(3, 3))
    return array(x, dtype), array(w / np.linalg.norm(w) / 2, dtype)


# Arguments of unusual kinds and shapes.


def noisy(x: Array, key: Array) -> Array:
    """tanh(x + noise)."""
    return jnp.tanh(x + jax.random.normal(key, x.shape, x.dtype))


def noisy_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (1 − tanh²), and nothing for the key."""
    return dy * (1 - noisy(*args) ** 2), None


def keyed(seed: int, dtype: Any) -> Args:
    """x [5, 3] and a key."""
    return *gaussians((5, 3))(seed, dtype), jax.random.key(seed)


def gather(x: Array, ids: Array) -> Array:
    """The entries of each row that the ids name."""
    return jnp.take_along_axis(x, ids, axis=-1)


def gather_bwd(args: Args, dy: Array) -> Cotangents:
    """Added where they came from, and nothing for the ids."""
    x, ids = args
    return jnp.sum(jax.nn.one_hot(ids, x.shape[-1], dtype=dy.dtype) * dy[:, :, None], axis=1), None


def ids_of_rows(seed: int, dtype: Any) -> Args:
    """x [3, 5], and two ids per row, the same one in the last."""
    ids = np.stack([np.random.RandomState(seed + i).permutation(5)[:2] for i in range(3)])
    ids[2] = ids[2, :1]
    return *gaussians((3, 5))(seed, dtype), array(ids)


def outer_sum(column: Array, row: Array) -> Array:
    """tanh(column + row), [5, 1] and [1, 3]."""
    return jnp.tanh(column + row)


def outer_sum_bwd(args: Args, dy: Array) -> Cotangents:
    """Summed along the axis of length 1, which stays."""
    d = dy * (1 - outer_sum(*args) ** 2)
    return jnp.sum(d, axis=1, keepdims=True), jnp.sum(d, axis=0, keepdims=True)


def at_scale_1(seed: int, dtype: Any) -> Args:
    """x [5, 3] and γ = 1; and β where there is one."""
    x, offset = gaussians((5, 3), (3,))(seed, dtype)
    return x, jnp.ones_like(offset), offset


def softmax_without_p(args: Args, dy: Array) -> Cotangents:
    """dy − Σ dy p, without the factor p."""
    p = activations.softmax(args[0])
    return (dy - jnp.sum(dy * p, axis=-1, keepdims=True),)


PASS, KINK, UNSURE = frozenset({"PASS"}), frozenset({"PASS", "KINK"}), frozenset({"PASS", "INCONCLUSIVE"})
MATRICES = gaussians((5, 3), (3, 2))
LOGSUMEXP = Subject(stable_logsumexp, stable_logsumexp_bwd, gaussians((5, 3)))

TRAPS = (
    Trap("relu at 0, slope 0", Subject(activations.relu, activations.relu_bwd, at(0, 0)), KINK),
    Trap("relu at 0, slope 1", Subject(activations.relu, relu_1_at_0, at(0, 0)), KINK),
    Trap("relu at 0, slope ½", Subject(activations.relu, relu_half_at_0, at(0, 0)), KINK),
    Trap("hard swish at ±3", Subject(hard_swish, hard_swish_bwd, at(-3, 3)), KINK),
    Trap("|x| at 0", Subject(jnp.abs, absolute_bwd, at(0, 0)), KINK),
    Trap("tied maxima", Subject(maximum, maximum_bwd, ties), KINK),
    Trap("sorted ties", Subject(jnp.sort, sort_bwd, at(0.5, 0.5, 0.5)), KINK),
    Trap("stop_gradient on the maximum", LOGSUMEXP, PASS),
    Trap("logsumexp at ±1e4", LOGSUMEXP._replace(arguments=extreme_logsumexp_arguments), PASS),
    Trap("dropped term that is 0", normalization.BATCH_NORM._replace(backward=zero_term_dropped), PASS),
    # Where the derivative is 0, no scale tells how near to it one has come.
    Trap("sum of batch norm", Subject(sum_of_batch_norm, sum_of_batch_norm_bwd, gaussians((5, 3), (3,), (3,))), UNSURE),
    Trap("gradients of 1e-12", Subject(tiny, tiny_bwd, MATRICES), PASS),
    Trap("gradients of 1e12", Subject(huge, huge_bwd, MATRICES), PASS),
    Trap("reordered sum", dense.LINEAR_LONG._replace(backward=reordered), PASS),
    Trap("symmetric matrix", Subject(symmetric, symmetric_bwd, gaussians((5, 3), (3, 3))), PASS),
    # Seven digits are left: enough to pass, and honest not to.
    Trap("float32 inside", Subject(single_precision, activations.tanh_bwd, gaussians((5, 3))), UNSURE),
    Trap("steep wave", Subject(wave, wave_bwd, gaussians((5,))), PASS),
    Trap("edge of the domain", Subject(jnp.log, log_bwd, near_the_edge), PASS),
    Trap("straight-through estimator", Subject(straight_through, straight_through_bwd, gaussians((5, 3))), PASS),
    # To 1e-6, so that differences are noisy; and there is no reverse mode to compare with.
    Trap("iterative solution", Subject(fixed_point, fixed_point_bwd, contraction), UNSURE),
    Trap("key argument", Subject(noisy, noisy_bwd, keyed), PASS),
    Trap("integer argument", Subject(gather, gather_bwd, ids_of_rows), PASS),
    Trap("axes of length 1", Subject(outer_sum, outer_sum_bwd, gaussians((5, 1), (1, 3))), PASS),
    Trap("scalar argument", Subject(activations.silu, activations.silu_bwd, gaussians(())), PASS),
    Trap("unused argument", normalization.TRAINING, PASS),
    # Of nothing there is nothing to compare.
    Trap("empty batch", dense.LINEAR._replace(arguments=gaussians((0, 3), (3, 2), (2,))), UNSURE),
)

_BATCH_NORM = Subject(normalization.batch_norm, normalization.scale_forgotten, at_scale_1)
_RMS_NORM = Subject(normalization.rms_norm, normalization.scale_twice, lambda seed, dtype: at_scale_1(seed, dtype)[:2])
_FUSED = losses.FUSED._replace(backward=losses.cotangent_ignored)
_SOFTMAX = activations.SOFTMAX

MASKED = (
    Masked("batch norm without γ, at γ = 1", _BATCH_NORM, None),
    Masked("RMS norm with γ twice, at γ = 1", _RMS_NORM, None),
    Masked("cotangent ignored, at 1", _FUSED, jnp.ones_like),
    # The right gradient of a sum of probabilities is 0. The diagonal's is not, so that even this probe shows it; what
    # the sum hides is any multiple of dy − Σ dy p.
    Masked("softmax's diagonal, under .sum()", _SOFTMAX._replace(backward=activations.softmax_diagonal), jnp.ones_like),
    Masked("softmax without its factor p, under .sum()", _SOFTMAX._replace(backward=softmax_without_p), jnp.ones_like),
)
