"""The last linear layer and softmax cross-entropy in one rule, which never holds the logits [..., V] of all classes.

With logits z_v = Σ_d x_d w_dv, targets q = (1 − ε) one-hot(label) + ε/V and p = softmax(z), for each example:

    (1)  y    = log Σ_v e^(z_v) − Σ_v q_v z_v
    (2)  dz_v = dy (p_v − q_v)                 softmax_cross_entropy_bwd
    (3)  dx_d = Σ_v dz_v w_dv                  linear_bwd
         dw_dv = Σ_b x_bd dz_bv                over all examples b

A chunk of classes at a time, (1) needs the maximum m of the logits so far, Σ e^(z − m), rescaled when m grows, and what
it finds of Σ q (m − z). One number per example, l = log Σ_v e^(z_v), then gives the probabilities of any chunk,
e^(z − l). The backward pass takes its logits again, adds the chunk's share to dx, and writes its columns of dw, once.

That is 4 matrix products where 3 do with all logits kept. Computing dx and dw in the forward pass would save one, but
would have to know dy there: it is right for a mean, and wrong for weights per example.
(The same for GPUs: E. Wijmans et al., Cut your losses in large-vocabulary language models, 2024.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals._blocks import Blocks
from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype, product_dtype, vary_together
from fundamentals.losses.classification import check_labels, class_indices


class LinearCrossEntropyResiduals(NamedTuple):
    """What `linear_cross_entropy_bwd` needs."""

    x: Array  # [..., D]
    w: Array  # [D, V]
    labels: Array  # [...], V where the label was out of range, V + 1 where it was the ignored one
    log_sum_exp: Array  # [...], of the logits, in the accumulation dtype


def linear_cross_entropy(
    x: ArrayLike,
    w: ArrayLike,
    labels: ArrayLike,
    *,
    chunk_size: int = 1024,
    label_smoothing: Numeric = 0.0,
    ignored_label: int | None = None,
) -> Array:
    """−log softmax(x w)[label]: `softmax_cross_entropy(x @ w, labels)` in memory that does not grow with V.

    What needs little memory is `hand_derived` of this rule; `jax.grad` of this function itself is right, too, but keeps
    every chunk. Call it under `jit`: eagerly, its loops are compiled at each call. Inputs may be sharded over their
    leading axes; where w is sharded over V, each chunk of it is gathered.

    Args:
      x: inputs of the last layer [..., D].
      w: its weights [D, V].
      labels: [...], integers in [0, V), or the ignored label.
      chunk_size: classes at a time; V need not be a multiple. The largest temporary arrays are [..., chunk_size].
      label_smoothing: as in `softmax_cross_entropy`.
      ignored_label: likewise.

    Returns:
      [...], one loss per example, ≥ 0.

    Raises:
      ValueError: the shapes do not fit, or a label is out of range. Under `jit`, where labels have no value to look at,
        the loss of that example is NaN instead, and its cotangent that of an example with no right class, dy p.
      TypeError: the dtypes are not floating or not the same, chunk_size or ignored_label is not an integer.
    """
    options = {"chunk_size": chunk_size, "label_smoothing": label_smoothing, "ignored_label": ignored_label}
    return linear_cross_entropy_fwd(x, w, labels, **options)[0]


def linear_cross_entropy_fwd(
    x: ArrayLike,
    w: ArrayLike,
    labels: ArrayLike,
    *,
    chunk_size: int = 1024,
    label_smoothing: Numeric = 0.0,
    ignored_label: int | None = None,
) -> tuple[Array, LinearCrossEntropyResiduals]:
    """Keeps the operands, the labels and a number per example. No logits: the backward pass takes each chunk again."""
    given = labels  # before JAX, without x64, takes the upper half off 64-bit integers
    arrays = _checks.arrays("linear_cross_entropy", x=(x, "... D"), w=(w, "D V"), labels=(labels, "...", "integer"))
    x, w, labels = vary_together(arrays)
    classes = w.shape[1]
    _checks.not_empty("linear_cross_entropy", "w", classes, "V")
    _checks.positive_integers("linear_cross_entropy", chunk_size=chunk_size)
    _checks.interval("linear_cross_entropy", "[0, 1)", label_smoothing=label_smoothing)
    check_labels("linear_cross_entropy", given, classes, ignored_label)
    labels, ignored = class_indices(labels, classes, ignored_label)
    if ignored is not None:
        x = jnp.where(ignored[..., None], 0, x)  # so that padding may be anything, NaN too
    wide = accumulation_dtype(x.dtype)
    chunks = Blocks(classes, chunk_size)

    def one_chunk(state: tuple[Array, Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array, Array], None]:
        m, total, labelled, spread = state
        z = jnp.matmul(x, chunks.block(w, i, axis=1), preferred_element_type=wide)
        inside, position = _position(labels, chunks, i)
        found = jnp.take_along_axis(z, position[..., None], axis=-1)[..., 0]
        new = chunks.is_new(i)
        counted = z if new is None else jnp.where(_over_classes(new, z), z, -jnp.inf)
        largest = jax.lax.stop_gradient(jnp.maximum(m, jnp.max(counted, axis=-1)))
        total = jnp.exp(m - largest) * total + jnp.sum(jnp.exp(counted - largest[..., None]), axis=-1)
        if not _checks.is_zero(label_smoothing):
            below = largest[..., None] - z
            below = below if new is None else jnp.where(_over_classes(new, z), below, 0)
            before = jnp.where(i == 0, 0, (i * chunks.size).astype(wide) * (largest - m))
            spread = spread + before + jnp.sum(below, axis=-1)
        return (largest, total, jnp.where(inside, found, labelled), spread), None

    zero = jnp.zeros_like(x, shape=labels.shape, dtype=wide)
    # For the smoothing Σ_v (m − z_v), not Σ_v z_v: no difference of large sums. A label in no chunk, being out of
    # range, leaves its logit NaN.
    state = (zero - jnp.inf, zero, zero + jnp.nan, zero)
    (m, total, labelled, spread), _ = jax.lax.scan(one_chunk, state, chunks.order())
    below = m - labelled  # first, as both may be large
    if not _checks.is_zero(label_smoothing):
        epsilon = jnp.asarray(label_smoothing, wide)
        below = (1 - epsilon) * below + epsilon * (spread / classes)
    log_total = jnp.log(total)
    y = log_total + below  # (1)
    if ignored is not None:
        y = jnp.where(ignored, 0, y)
    return y.astype(x.dtype), LinearCrossEntropyResiduals(x, w, labels, m + log_total)


def linear_cross_entropy_bwd(
    residuals: LinearCrossEntropyResiduals,
    dy: Array,
    *,
    chunk_size: int = 1024,
    label_smoothing: Numeric = 0.0,
    ignored_label: int | None = None,
) -> tuple[Array, Array, None]:
    """dx = dz wᵀ, dw = xᵀ dz with dz = dy (p − q), chunk by chunk. 0 where ignored.

    Derivation: equations (2) and (3) of the module. dx is a sum over classes and dw has a column for each, so a chunk
    gives its part alone once p is known there, e^(z − l).
    """
    (x, w, labels, log_sum_exp), dy = vary_together((residuals, dy))
    wide, narrow, classes = log_sum_exp.dtype, product_dtype(x.dtype), w.shape[1]
    chunks = Blocks(classes, chunk_size)
    leading = tuple(range(labels.ndim))
    g = dy.astype(wide)
    if ignored_label is not None:
        g = jnp.where(labels > classes, 0, g)
    epsilon = jnp.asarray(label_smoothing, wide)
    at_label, everywhere = (1 - epsilon) * g, epsilon / classes * g
    # Transposed once, or every chunk's product would do it again.
    x_transposed = jax.lax.optimization_barrier(jnp.moveaxis(x, -1, 0).astype(narrow))

    def one_chunk(cotangents: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        dx, dw = cotangents
        w_i = chunks.block(w, i, axis=1)
        z = jnp.matmul(x, w_i, preferred_element_type=wide)
        dz = jnp.exp(z - log_sum_exp[..., None]) * g[..., None]  # (2)
        if not _checks.is_zero(label_smoothing):
            dz = dz - everywhere[..., None]
        inside, position = _position(labels, chunks, i)
        is_label = inside[..., None] & (
            position[..., None] == _over_classes(jnp.arange(chunks.size, dtype=jnp.int32), z)
        )
        dz = jnp.where(is_label, dz - at_label[..., None], dz).astype(narrow)
        dw_i = jnp.tensordot(
            x_transposed, dz, (tuple(a + 1 for a in leading), leading), preferred_element_type=wide
        )  # (3)
        new = chunks.is_new(i)
        w_new = w_i if new is None else jnp.where(new[None], w_i, 0)
        dx = dx + jnp.matmul(dz, w_new.T.astype(narrow), preferred_element_type=wide)
        return (dx, chunks.write(dw, dw_i.astype(w.dtype), i, axis=1)), None

    zeros = jnp.zeros_like(x, dtype=wide), jnp.zeros_like(w)
    (dx, dw), _ = jax.lax.scan(one_chunk, zeros, chunks.order())
    return dx.astype(x.dtype), dw, None


def _position(labels: Array, chunks: Blocks, i: Array) -> tuple[Array, Array]:
    """Whether a label is in chunk i, and where in it (somewhere, if not)."""
    position = labels - chunks.start(i)
    return (position >= 0) & (position < chunks.size), jnp.clip(position, 0, chunks.size - 1)


def _over_classes(x: Array, z: Array) -> Array:
    """[chunk_size] as [1, …, chunk_size], to stand beside the logits."""
    return x.reshape((1,) * (z.ndim - 1) + x.shape)
