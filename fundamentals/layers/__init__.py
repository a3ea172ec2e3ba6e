"""Layers with their backward passes. Import the functions: `from fundamentals.layers import linear`."""

from fundamentals.layers.linear import LinearResiduals, linear, linear_bwd, linear_fwd

__all__ = ["LinearResiduals", "linear", "linear_bwd", "linear_fwd"]
