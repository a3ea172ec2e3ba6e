"""Training in less memory: exact accumulation of gradients over microbatches."""

from fundamentals.memory import accumulation
from fundamentals.memory.accumulation import accumulate

__all__ = ["accumulate", "accumulation"]
