"""Losses of class labels, with their backward passes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, Numeric, accumulation_dtype


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
    labels: Array  # [...], K where the label was out of range, K + 1 where it was the ignored one


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, label_smoothing: Numeric = 0.0, ignored_label: int | None = None
) -> Array:
    """−log softmax(logits)[label]: categorical targets, given as class indices.

    With ε = label_smoothing it is −Σ_k q_k log softmax(logits)_k for the targets q = (1 − ε) one-hot(label) + ε/K,
    of which every class has some: C. Szegedy et al. 2016, section 7.

    Args:
      logits: [..., K].
      labels: [...], integers in [0, K), or the ignored label.
      label_smoothing: ε in [0, 1); where it is traced, unchecked.
      ignored_label: a label, a class or not (say −1), whose examples have loss 0 and cotangent 0, whatever their
        logits. The mean over the others divides by how many they are, which is the caller's to count.

    Returns:
      [...], one loss per example, ≥ 0.

    Raises:
      ValueError: a label is out of range. Under `jit`, where labels have no value to look at, the loss of
        that example is NaN instead, and its cotangent dy p, as if no class were right. Or label_smoothing is out of
        range.
      TypeError: ignored_label is not an integer.
    """
    return softmax_cross_entropy_fwd(logits, labels, label_smoothing=label_smoothing, ignored_label=ignored_label)[0]


def softmax_cross_entropy_fwd(
    logits: ArrayLike, labels: ArrayLike, *, label_smoothing: Numeric = 0.0, ignored_label: int | None = None
) -> tuple[Array, SoftmaxCrossEntropyResiduals]:
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
    _checks.interval("softmax_cross_entropy", "[0, 1)", label_smoothing=label_smoothing)
    check_labels("softmax_cross_entropy", given, classes, ignored_label)
    labels, ignored = class_indices(labels, classes, ignored_label)
    wide = logits.astype(accumulation_dtype(logits.dtype))
    if ignored is not None:
        wide = jnp.where(ignored[..., None], 0, wide)  # so that padding may be anything, NaN too
    largest = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
    exponentials = jnp.exp(wide - largest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    # log Σ e^z − z_label, the maximum subtracted from the logit first: it is exact there, and the
    # difference of two large numbers is never taken.
    labelled = jnp.take_along_axis(wide, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    below = largest - labelled
    if not _checks.is_zero(label_smoothing):
        epsilon = jnp.asarray(label_smoothing, wide.dtype)
        below = (1 - epsilon) * below + epsilon * jnp.mean(largest - wide, axis=-1, keepdims=True)
    y = (jnp.log(total) + below)[..., 0]
    if ignored is not None:
        y = jnp.where(ignored, 0, y)
    return y.astype(logits.dtype), SoftmaxCrossEntropyResiduals(exponentials.astype(logits.dtype), total, labels)


def softmax_cross_entropy_bwd(
    residuals: SoftmaxCrossEntropyResiduals,
    dy: Array,
    *,
    label_smoothing: Numeric = 0.0,
    ignored_label: int | None = None,
) -> tuple[Array, None]:
    """dlogits = dy (softmax(logits) − q), q = one-hot(label) or smoothed: prediction minus target. 0 where ignored.

    Derivation: y = log Σ_j e^(z_j) − Σ_j q_j z_j, as the q_j sum to 1. The first term has the derivative
    e^(z_k) / Σ_j e^(z_j) = p_k, the second −q_k = −(1 − ε) [k = label] − ε/K. So a dense array of p − ε/K, and one
    correction per example.
    """
    exponentials, total, labels = residuals
    classes = exponentials.shape[-1]
    g = dy.astype(total.dtype)
    if ignored_label is not None:
        g = jnp.where(labels > classes, 0, g)
    d = exponentials.astype(total.dtype) * (g[..., None] / total)
    if not _checks.is_zero(label_smoothing):
        epsilon = jnp.asarray(label_smoothing, total.dtype)
        d, g = d + (g * (-epsilon / classes))[..., None], (1 - epsilon) * g
    return _subtract_at_labels(d, labels, g).astype(dy.dtype), None


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


class MulticlassHingeResiduals(NamedTuple):
    """What `multiclass_hinge_bwd` needs."""

    violated: Array  # [..., K], bool: the class comes within 1 of the label's score; False for the label itself
    labels: Array  # [...], K where the label was out of range


def multiclass_hinge(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Σ_{j ≠ label} max(0, 1 + s_j − s_label): each wrong class is to score 1 less than the right one.

    J. Weston and C. Watkins, Support vector machines for multi-class pattern recognition, 1999. (K. Crammer and
    Y. Singer 2001 take the largest term where this takes the sum.) At a kink the derivative is 0.

    Args:
      scores: [..., K].
      labels: [...], integers in [0, K).

    Returns:
      [...], one loss per example, ≥ 0.

    Raises:
      ValueError: a label is out of range. Under `jit`, where labels have no value to look at, the loss of
        that example is NaN instead, and its scores' cotangents are dy, as if each class violated the margin.
    """
    return multiclass_hinge_fwd(scores, labels)[0]


def multiclass_hinge_fwd(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, MulticlassHingeResiduals]:
    """Keeps which margins were violated, a byte per score, and the labels. Not the scores."""
    given = labels
    scores, labels = _checks.arrays("multiclass_hinge", scores=(scores, "... K"), labels=(labels, "...", "integer"))
    classes = scores.shape[-1]
    _checks.not_empty("multiclass_hinge", "scores", classes, "K")
    _checks.label_range("multiclass_hinge", "labels", given, classes)
    labels, _ = class_indices(labels, classes)
    wide = scores.astype(accumulation_dtype(scores.dtype))
    labelled = jnp.take_along_axis(wide, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    at_label = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) == labels[..., None]
    slack = jnp.where(at_label, 0, 1 + (wide - labelled))
    terms = jnp.where(slack <= 0, 0, slack)
    y = jnp.sum(terms, axis=-1)
    # Read off the terms, not the slack: XLA's CPU compiler then needs no buffer but the cotangent's, 0.8 × the time.
    return y.astype(scores.dtype), MulticlassHingeResiduals(~(terms <= 0), labels)


def multiclass_hinge_bwd(residuals: MulticlassHingeResiduals, dy: Array) -> tuple[Array, None]:
    """dscores_j = dy where class j violates the margin, else 0; dscores_label = −dy times how many do.

    Derivation: y = Σ_{j ∈ V} (1 + s_j − s_label) over the violating classes V, so ∂y/∂s_j = 1 for j ∈ V and
    ∂y/∂s_label = −|V|. At the kink s_j = s_label − 1 the subgradient 0 out of the interval between 0 and 1.
    """
    violated, labels = residuals
    g = dy.astype(accumulation_dtype(dy.dtype))
    d = jnp.where(violated, g[..., None], 0)
    return _subtract_at_labels(d, labels, jnp.sum(d, axis=-1)).astype(dy.dtype), None


def check_labels(function: str, labels: ArrayLike, classes: int, ignored_label: int | None) -> None:
    """Labels are classes or the ignored one; the message names the option to those who count on a default for it."""
    if ignored_label is not None:
        _checks.integer(function, "ignored_label", ignored_label)
    hint = " (ignored_label names one to leave out)" if ignored_label is None else ""
    _checks.label_range(function, "labels", labels, classes, ignored=ignored_label, hint=hint)


def class_indices(labels: Array, classes: int, ignored_label: int | None = None) -> tuple[Array, Array | None]:
    """int32 labels, K where out of range and K + 1 where ignored; and a mask of the latter, if there can be any."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # which might not hold K
    indices = jnp.where((labels < 0) | (labels >= classes), classes, labels).astype(jnp.int32)
    if ignored_label is None:
        return indices, None
    limits = jnp.iinfo(labels.dtype)
    # A number that the dtype does not hold equals no label; compared with them, it would wrap around.
    holds = limits.min <= ignored_label <= limits.max
    ignored = labels == ignored_label if holds else jnp.zeros(labels.shape, bool)
    return jnp.where(ignored, classes + 1, indices), ignored


def _subtract_at_labels(rows: Array, labels: Array, amounts: Array) -> Array:
    """rows [..., K] less the amounts [...] at the labels [...]; nothing where the label is K or above."""

    def subtract(row: Array, label: Array, amount: Array) -> Array:
        return row.at[label].add(-amount, mode="drop")

    for _ in range(labels.ndim):  # one scatter over all leading axes, each of which may be sharded
        subtract = jax.vmap(subtract)
    return subtract(rows, labels, amounts)
