"""Losses with their backward passes, never reduced over the batch: one number per example.

(`binary_cross_entropy` and `hinge` are elementwise: one number per example and unit, where there are several.) The
caller takes the mean, or a weighted one, and so decides what a batch is. Predictions come first, targets second. A
cotangent `dy` has the shape of the losses: for the mean over B examples it is 1/B everywhere.
Every function raises `ValueError` for a wrong shape or label and `TypeError` for a wrong dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype


class SquaredErrorResiduals(NamedTuple):
    """What `squared_error_bwd` needs."""

    difference: Array  # [..., D], predictions − targets


def squared_error(predictions: ArrayLike, targets: ArrayLike) -> Array:
    """½ ‖predictions − targets‖², summed over the last axis: Gaussian targets of unit variance.

    Up to a constant, the negative log-likelihood of targets ~ N(predictions, I).

    Args:
      predictions: [..., D].
      targets: [..., D].

    Returns:
      [...], one loss per example.
    """
    return squared_error_fwd(predictions, targets)[0]


def squared_error_fwd(predictions: ArrayLike, targets: ArrayLike) -> tuple[Array, SquaredErrorResiduals]:
    """Keeps the difference: one array instead of the two it came from."""
    predictions, targets = _checks.arrays(
        "squared_error", predictions=(predictions, "... D"), targets=(targets, "... D")
    )
    difference = predictions - targets
    wide = difference.astype(accumulation_dtype(difference.dtype))
    y = 0.5 * jnp.sum(wide * wide, axis=-1)
    return y.astype(difference.dtype), SquaredErrorResiduals(difference)


def squared_error_bwd(residuals: SquaredErrorResiduals, dy: Array) -> tuple[Array, Array]:
    """dpredictions = dy (predictions − targets), dtargets = −dpredictions.

    Derivation: y = ½ Σ_d e_d² with e = predictions − targets, so ∂y/∂e_d = e_d; ∂e/∂targets = −1.
    """
    (difference,) = residuals
    d = dy[..., None] * difference
    return d, -d


class BinaryCrossEntropyResiduals(NamedTuple):
    """What `binary_cross_entropy_bwd` needs."""

    logits: Array  # [...]
    targets: Array  # [...]


def binary_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> Array:
    """−t log σ(z) − (1 − t) log(1 − σ(z)), elementwise, from logits z: Bernoulli targets.

    Args:
      logits: [...].
      targets: [...], probabilities in [0, 1] in the dtype of the logits (soft targets are welcome).

    Returns:
      [...].

    Raises:
      ValueError: a target is outside [0, 1] (checked where its value is known, so not under `jit`).
    """
    return binary_cross_entropy_fwd(logits, targets)[0]


def binary_cross_entropy_fwd(logits: ArrayLike, targets: ArrayLike) -> tuple[Array, BinaryCrossEntropyResiduals]:
    """Keeps the logits and the targets. Not σ(z), which the backward pass takes again.

    −log σ(z) = softplus(−z) and −log(1 − σ(z)) = softplus(z), and both are log(1 + e^−|z|) plus what is linear: |z|
    where the prediction is wrong. So no logarithm of a number that has rounded to 0, and a small loss keeps its digits.
    """
    logits, targets = _checks.arrays("binary_cross_entropy", logits=(logits, "..."), targets=(targets, "..."))
    _checks.probabilities("binary_cross_entropy", "targets", targets)
    positive = logits >= 0  # both branches switch on the same test, so that autodiff is right at 0, too
    tail = jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits)))
    y = tail + jnp.where(positive, (1 - targets) * logits, -targets * logits)
    return y, BinaryCrossEntropyResiduals(logits, targets)


def binary_cross_entropy_bwd(residuals: BinaryCrossEntropyResiduals, dy: Array) -> tuple[Array, Array]:
    """dlogits = dy (σ(z) − t): prediction minus target; dtargets = −dy z.

    Derivation: y = (1 − t) softplus(z) + t softplus(−z) and softplus′ = σ, so ∂y/∂z = (1 − t) σ(z) − t σ(−z), which is
    σ(z) − t, and ∂y/∂t = softplus(−z) − softplus(z) = −z. With r = σ(−|z|) it is taken as (1 − t) − r for z ≥ 0 and
    −t + r for z < 0: where the prediction is right, σ(z) − t would be a difference of two numbers near 1 and lose r.
    """
    logits, targets = residuals
    positive = logits >= 0
    e = jnp.exp(jnp.where(positive, -logits, logits))
    signed_r = jnp.where(positive, -e, e) / (1 + e)
    return dy * ((positive.astype(logits.dtype) - targets) + signed_r), -dy * logits


class SoftmaxCrossEntropyResiduals(NamedTuple):
    """What `softmax_cross_entropy_bwd` needs."""

    exponentials: Array  # [..., K], e^(logits − max logits)
    total: Array  # [..., 1], their sum, in the accumulation dtype
    labels: Array  # [...], K where the label was out of range


def softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """−log softmax(logits)[label]: categorical targets, given as class indices.

    Args:
      logits: [..., K].
      labels: [...], integers in [0, K).

    Returns:
      [...], one loss per example, ≥ 0.

    Raises:
      ValueError: a label is out of range. Under `jit`, where labels have no value to look at, the loss of
        that example is NaN instead.
    """
    return softmax_cross_entropy_fwd(logits, labels)[0]


def softmax_cross_entropy_fwd(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, SoftmaxCrossEntropyResiduals]:
    """Keeps the exponentials, their row sums and the labels. Not the logits, and no one-hot labels.

    Exponentials, because recomputing them from the logits costs 1.4 × the time of the whole rule on a CPU;
    not probabilities, because dividing by the sum is left to one number per example.
    """
    given = labels  # before JAX, without x64, takes the upper half off 64-bit integers
    logits, labels = _checks.arrays(
        "softmax_cross_entropy", logits=(logits, "... K"), labels=(labels, "...", "integer")
    )
    classes = logits.shape[-1]
    _checks.not_empty("softmax_cross_entropy", "logits", classes, "K")
    _checks.label_range("softmax_cross_entropy", "labels", given, classes)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # which might not hold K
    labels = jnp.where((labels < 0) | (labels >= classes), classes, labels).astype(jnp.int32)
    wide = logits.astype(accumulation_dtype(logits.dtype))
    largest = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
    exponentials = jnp.exp(wide - largest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    # log Σ e^z − z_label, the maximum subtracted from the logit first: it is exact there, and the
    # difference of two large numbers is never taken.
    labelled = jnp.take_along_axis(wide, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    y = (jnp.log(total) + (largest - labelled))[..., 0]
    return y.astype(logits.dtype), SoftmaxCrossEntropyResiduals(exponentials.astype(logits.dtype), total, labels)


def softmax_cross_entropy_bwd(residuals: SoftmaxCrossEntropyResiduals, dy: Array) -> tuple[Array, None]:
    """dlogits = dy (softmax(logits) − one-hot(label)): prediction minus target.

    Derivation: y = log Σ_j e^(z_j) − z_label. The first term has the derivative e^(z_k) / Σ_j e^(z_j) = p_k,
    the second −1 at k = label and 0 elsewhere. So a dense array of p, and one correction per example.
    """
    exponentials, total, labels = residuals
    g = dy.astype(total.dtype)
    d = exponentials.astype(total.dtype) * (g[..., None] / total)

    def subtract_at_label(row: Array, label: Array, amount: Array) -> Array:
        return row.at[label].add(-amount, mode="drop")

    for _ in range(labels.ndim):  # one scatter over all leading axes, each of which may be sharded
        subtract_at_label = jax.vmap(subtract_at_label)
    return subtract_at_label(d, labels, g).astype(dy.dtype), None


class HingeResiduals(NamedTuple):
    """What `hinge_bwd` needs."""

    labels: Array  # [...]
    violated: Array  # [...], bool: the margin is not kept
    scores: Array | None  # [...], where the labels are floating and so have a cotangent


def hinge(scores: ArrayLike, labels: ArrayLike) -> Array:
    """max(0, 1 − label · score), elementwise: the support vector machine's loss. At the kink its derivative is 0.

    Args:
      scores: [...], decision values.
      labels: [...], −1 or +1, integers or in the dtype of the scores.

    Returns:
      [...].

    Raises:
      ValueError: a label is neither −1 nor +1 (checked where its value is known, so not under `jit`).
    """
    return hinge_fwd(scores, labels)[0]


def hinge_fwd(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, HingeResiduals]:
    """Keeps the labels and which margins were violated. Not the scores, unless floating labels ask for a cotangent."""
    scores, labels = _checks.arrays("hinge", scores=(scores, "..."), labels=(labels, "...", "real"))
    _checks.signs("hinge", "labels", labels)
    slack = 1 - labels.astype(scores.dtype) * scores
    y = jnp.where(slack <= 0, 0, slack)  # not maximum: its gradient at the kink is ½
    has_cotangent = jnp.issubdtype(labels.dtype, jnp.floating)
    return y, HingeResiduals(labels, ~(slack <= 0), scores if has_cotangent else None)


def hinge_bwd(residuals: HingeResiduals, dy: Array) -> tuple[Array, Array | None]:
    """dscores = −dy · label where the margin is violated, else 0; dlabels likewise with the scores.

    Derivation: y = 1 − t s where that is positive, so ∂y/∂s = −t and ∂y/∂t = −s; elsewhere y = 0 is constant. At the
    kink t s = 1 the subgradient 0 out of the interval between them.
    """
    labels, violated, scores = residuals
    g = jnp.where(violated, -dy, 0)
    return g * labels.astype(dy.dtype), None if scores is None else g * scores
