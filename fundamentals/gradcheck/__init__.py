"""Verification of gradients that were derived by hand. (In the making: the reverse sweep that diagnosis stands on.)"""

from fundamentals.gradcheck.sweep import Edge, Sweep, sweep

__all__ = ["Edge", "Sweep", "sweep"]
