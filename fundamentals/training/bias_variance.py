"""Error as bias and variance: what predictors have in common that were trained on different sets, and how they differ.

Of predictions f_1 … f_R at a point, each from a training set of its own, with the mean f̄ and the truth y:

    (1/R) Σ_r (f_r − y)²  =  (f̄ − y)² + (1/R) Σ_r (f_r − f̄)²                                                        (1)

f̄ is a mean of R numbers, so that for independent training sets E (f̄ − y)² = bias² + variance / R, while a variance
with R − 1 is unbiased. Taking that R-th part from one term to the other leaves the sum as it is:

    (1/R) Σ_r (f_r − y)²  =  [(f̄ − y)² − v / R] + v,        v = 1/(R − 1) Σ_r (f_r − f̄)²                            (2)

S. Geman, E. Bienenstock and R. Doursat, Neural networks and the bias/variance dilemma, 1992. Where y is not the truth
but a label with noise of variance σ², σ² is in the bias² and in the error.

Both parts are those of training sets that have nothing in common: fresh draws, or disjoint parts of a large set. Sets
that are resampled from one data set (`resample`) tell how predictions vary given that one. Its own deviation from the
truth, which all of them share, is then in the bias², and counts twice in the error; subsets that overlap vary less.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fundamentals import _checks
from fundamentals.base import Array, PRNGKey, accumulation_dtype


class BiasVariance(NamedTuple):
    """error = bias_squared + variance, at each point."""

    bias_squared: Array  # [...]; an unbiased estimate, so that it may be negative where the bias is small
    variance: Array  # [...], of a training set's predictor around their mean
    error: Array  # [...], mean squared, over training sets


def bias_variance(predictions: ArrayLike, targets: ArrayLike) -> BiasVariance:
    """The parts of the squared error at each point, over R training sets.

    error = mean_r (f_r − y)², variance = Σ_r (f_r − f̄)² / (R − 1), and bias² the difference. Training sets are fresh
    draws, or disjoint parts of a large set. Of sets that are resampled from one data set, what they have in common
    counts as bias, twice in the error, and if they overlap, the variance is too small.

    Args:
      predictions: [R, ...], R ≥ 2 training sets; if they are independent, both parts are unbiased.
      targets: [...], the truth where it is known; a noisy label's variance counts as bias.

    Returns:
      `BiasVariance`, of arrays [...]. Take their means over the points.

    Raises:
      ValueError: R < 2, or the shapes don't fit.
      TypeError: the dtypes are not floating, or differ.
    """
    predictions, targets = (
        _checks.array("bias_variance", name, value)
        for name, value in (("predictions", predictions), ("targets", targets))
    )
    _check_sets("bias_variance", "predictions", predictions, targets)
    if targets.dtype != predictions.dtype:
        raise TypeError(
            f"bias_variance: targets has dtype {targets.dtype}; expected {predictions.dtype} as in predictions"
        )
    wide = accumulation_dtype(predictions.dtype)
    f, y = predictions.astype(wide), targets.astype(wide)
    sets = f.shape[0]
    mean = jnp.mean(f, axis=0)
    squares = jnp.sum((f - mean[None]) ** 2, axis=0)
    variance = squares / (sets - 1)
    bias_squared = (mean - y) ** 2 - variance / sets
    parts = BiasVariance(bias_squared, variance, bias_squared + variance)
    return BiasVariance(*(part.astype(predictions.dtype) for part in parts))


class ZeroOneBiasVariance(NamedTuple):
    """Where bias is 0, error = variance; where it is 1, variance makes some predictions right: see `net_variance`."""

    main: Array  # [...], the label that most training sets lead to; of equally many, the least
    bias: Array  # [...], bool: the main label is wrong
    variance: Array  # [...], the part of the training sets that leads to another
    error: Array  # [...], the part that leads to a wrong one

    @property
    def net_variance(self) -> Array:
        """What variance adds to the error, error − bias: negative where it mends what bias spoils."""
        return self.error - self.bias.astype(self.error.dtype)


def bias_variance_zero_one(labels: ArrayLike, targets: ArrayLike) -> ZeroOneBiasVariance:
    """The parts of the classification error at each point, over R training sets.

    P. Domingos, A unified bias-variance decomposition and its applications, 2000: of two classes, error = bias + (1 − 2
    bias) variance; of more, variance at a biased point mends only what becomes the right label.

    Args:
      labels: [R, ...], integers, what each of R ≥ 2 training sets predicts.
      targets: [...], integers.

    Returns:
      `ZeroOneBiasVariance`, of arrays [...]. Take their means over the points.

    Raises:
      ValueError: R < 2, or the shapes don't fit.
      TypeError: the dtypes are not integer, or no dtype that is available holds both.
    """
    labels, targets = (
        _checks.array("bias_variance_zero_one", name, value, "integer")
        for name, value in (("labels", labels), ("targets", targets))
    )
    _check_sets("bias_variance_zero_one", "labels", labels, targets)
    kind = np.promote_types(labels.dtype, targets.dtype)
    if jax.dtypes.canonicalize_dtype(kind) != kind or kind.kind not in "iu":
        raise TypeError(
            f"bias_variance_zero_one: targets has dtype {targets.dtype}; "
            f"expected one that goes with {labels.dtype} of labels"
        )
    labels, right = labels.astype(kind), targets.astype(kind)
    # Label by label: all pairs at once would take R times the memory.
    votes = jax.lax.map(lambda own: jnp.sum(labels == own[None], axis=0, dtype=jnp.int32), labels)
    most = votes == jnp.max(votes, axis=0)[None]
    main = jnp.min(jnp.where(most, labels, jnp.iinfo(kind).max), axis=0)
    return ZeroOneBiasVariance(main, main != right, _share(labels != main[None]), _share(labels != right[None]))


def resample(examples: int, sets: int, *, key: PRNGKey, size: int | None = None, replace: bool = True) -> Array:
    """Training sets drawn from one: with replacement and of its size, as the bootstrap draws them.

    B. Efron, Bootstrap methods: another look at the jackknife, 1979. How much predictions vary over such sets is what
    one data set can tell; it is not the variance over fresh ones, see `bias_variance`.

    Args:
      examples: N, to draw from.
      sets: R, to draw.
      key: a PRNG key.
      size: of each set; N if not given.
      replace: an example may be drawn again. Otherwise sets are random subsets.

    Returns:
      Indices [R, size], int32.

    Raises:
      ValueError: a number is < 1, or a subset would be larger than the set.
    """
    _checks.key("resample", "key", key)
    size = examples if size is None else size
    _checks.positive_integers("resample", examples=examples, sets=sets, size=size)
    _checks.boolean("resample", replace=replace)
    if replace:
        return jax.random.randint(key, (sets, size), 0, examples, jnp.int32)
    if size > examples:
        raise ValueError(f"resample: size is {size}; expected at most examples = {examples}, as replace is False")
    order = jnp.argsort(jax.random.bits(key, (sets, examples)), axis=1)
    return order[:, :size].astype(jnp.int32)


def _check_sets(function: str, name: str, values: Array, targets: Array) -> None:
    shape = list(values.shape)
    if not shape or shape[0] < 2:
        raise ValueError(f"{function}: {name} has shape {shape}; expected [R, ...] of R ≥ 2 training sets")
    if values.shape[1:] != targets.shape:
        raise ValueError(
            f"{function}: targets has shape {list(targets.shape)}; expected {shape[1:]} from {name} {shape}"
        )


def _share(where: Array) -> Array:
    return jnp.mean(where, axis=0, dtype=jnp.result_type(float))
