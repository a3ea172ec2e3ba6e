"""Models whose whole backward pass is composed by hand from the rules, one module each."""

from fundamentals.models import mlp

__all__ = ["mlp"]
