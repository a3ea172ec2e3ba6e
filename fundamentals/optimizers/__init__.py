"""Optimizers as pairs of pure functions with their state as data; `core` states the contract."""

from fundamentals.optimizers.adaptive import AdamState, RmspropState, adam, rmsprop
from fundamentals.optimizers.core import LearningRate, Optimizer, apply_updates
from fundamentals.optimizers.gradient_descent import MomentumState, SgdState, momentum, sgd

__all__ = [
    "AdamState",
    "LearningRate",
    "MomentumState",
    "Optimizer",
    "RmspropState",
    "SgdState",
    "adam",
    "apply_updates",
    "momentum",
    "rmsprop",
    "sgd",
]
