"""What training needs beside gradients: splits, early stopping, bias and variance. Pure functions, no trainer.

    train, validation, test = split(labels, (0.7, 0.1, 0.2))       # indices, as many of each class in proportion
    stopping = early_stopping(patience=10)
    state = stopping.init(params)
    state = stopping.update(validation_loss, params, state)        # inside of jit and lax.scan, too
    parts = bias_variance(predictions, targets)                    # of R training sets: why they are wrong

What is chosen by the validation part is biased on it, so that the test part is for the report, once.
"""

from fundamentals.training.bias_variance import (
    BiasVariance,
    ZeroOneBiasVariance,
    bias_variance,
    bias_variance_zero_one,
    resample,
)
from fundamentals.training.splits import split
from fundamentals.training.stopping import EarlyStopping, EarlyStoppingState, early_stopping

__all__ = [
    "BiasVariance",
    "EarlyStopping",
    "EarlyStoppingState",
    "ZeroOneBiasVariance",
    "bias_variance",
    "bias_variance_zero_one",
    "early_stopping",
    "resample",
    "split",
]
