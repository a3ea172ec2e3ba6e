"""Computational graphs of any JAX function: values forward, gradients backward.

    graph = trace(lambda x, y, z: (x + y) * z, -2.0, 5.0, -4.0).backward()
    graph.gradients  # (-4, -4, 3)

`trace` takes JAX's own program of a function and evaluates it operation by operation; `Graph.backward` walks it from
the last node to the first, each node multiplying what comes in by its own derivative (`derivatives`, a table by hand).
It is backpropagation as taught, for looking at; for training, `jax.grad` compiles. `count` says what a function costs,
`jacobian` which of its inputs each output depends on.
"""

from fundamentals.graph.counting import count
from fundamentals.graph.graph import Graph, trace
from fundamentals.graph.jacobians import Jacobian, JacobianBytes, jacobian, jacobian_bytes
from fundamentals.graph.nodes import Node
from fundamentals.graph.nonfinite import NonFinite
from fundamentals.program import Counts

__all__ = [
    "Counts",
    "Graph",
    "Jacobian",
    "JacobianBytes",
    "Node",
    "NonFinite",
    "count",
    "jacobian",
    "jacobian_bytes",
    "trace",
]
