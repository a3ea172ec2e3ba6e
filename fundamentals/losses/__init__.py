"""Losses with their backward passes, never reduced over the batch: one number per example.

(`binary_cross_entropy` and `hinge` are elementwise: one number per example and unit, where there are several.) The
caller takes the mean, or a weighted one, and so decides what a batch is. Predictions come first, targets last. A
cotangent `dy` has the shape of the losses: for the mean over B examples it is 1/B everywhere.
Every function raises `ValueError` for a wrong shape or label and `TypeError` for a wrong dtype.
"""

from fundamentals.losses.classification import (
    BinaryCrossEntropyResiduals,
    HingeResiduals,
    MulticlassHingeResiduals,
    SoftmaxCrossEntropyResiduals,
    binary_cross_entropy,
    binary_cross_entropy_bwd,
    binary_cross_entropy_fwd,
    hinge,
    hinge_bwd,
    hinge_fwd,
    multiclass_hinge,
    multiclass_hinge_bwd,
    multiclass_hinge_fwd,
    softmax_cross_entropy,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
)
from fundamentals.losses.divergences import GaussianKlResiduals, gaussian_kl, gaussian_kl_bwd, gaussian_kl_fwd
from fundamentals.losses.linear_cross_entropy import (
    LinearCrossEntropyResiduals,
    linear_cross_entropy,
    linear_cross_entropy_bwd,
    linear_cross_entropy_fwd,
)
from fundamentals.losses.regression import (
    GaussianNllResiduals,
    MixtureDensityNllResiduals,
    SquaredErrorResiduals,
    gaussian_nll,
    gaussian_nll_bwd,
    gaussian_nll_fwd,
    mixture_density_nll,
    mixture_density_nll_bwd,
    mixture_density_nll_fwd,
    squared_error,
    squared_error_bwd,
    squared_error_fwd,
)

__all__ = [
    "BinaryCrossEntropyResiduals",
    "GaussianKlResiduals",
    "GaussianNllResiduals",
    "HingeResiduals",
    "LinearCrossEntropyResiduals",
    "MixtureDensityNllResiduals",
    "MulticlassHingeResiduals",
    "SoftmaxCrossEntropyResiduals",
    "SquaredErrorResiduals",
    "binary_cross_entropy",
    "binary_cross_entropy_bwd",
    "binary_cross_entropy_fwd",
    "gaussian_kl",
    "gaussian_kl_bwd",
    "gaussian_kl_fwd",
    "gaussian_nll",
    "gaussian_nll_bwd",
    "gaussian_nll_fwd",
    "hinge",
    "hinge_bwd",
    "hinge_fwd",
    "linear_cross_entropy",
    "linear_cross_entropy_bwd",
    "linear_cross_entropy_fwd",
    "mixture_density_nll",
    "mixture_density_nll_bwd",
    "mixture_density_nll_fwd",
    "multiclass_hinge",
    "multiclass_hinge_bwd",
    "multiclass_hinge_fwd",
    "softmax_cross_entropy",
    "softmax_cross_entropy_bwd",
    "softmax_cross_entropy_fwd",
    "squared_error",
    "squared_error_bwd",
    "squared_error_fwd",
]
