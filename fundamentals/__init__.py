"""Backpropagation and optimization as a university course teaches them: pure functions in JAX.

Every backward pass is derived by hand, beside its forward pass, and compared with `jax.grad`.
Start at `activations` for how a rule is written, at `models.mlp` for how rules compose, at
`catalogue.RULES` for all of them; at `optimizers` for the methods, and what other libraries call them;
at `graph` to look at the gradient of any function; at `svm` for machines whose optimum is proven.
"""

from fundamentals import (
    activations,
    base,
    catalogue,
    data,
    graph,
    initializers,
    layers,
    losses,
    memory,
    models,
    optimizers,
)
from fundamentals.base import Rule, hand_derived

__all__ = [
    "Rule",
    "activations",
    "base",
    "catalogue",
    "data",
    "graph",
    "hand_derived",
    "initializers",
    "layers",
    "losses",
    "memory",
    "models",
    "optimizers",
]
__version__ = "0.1.0"
