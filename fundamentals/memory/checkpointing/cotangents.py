"""Which arrays have cotangents, in rules of `jax.custom_vjp` that are told (symbolic_zeros)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Leaves = list[Any]
"""Arrays; None stands for those that are elsewhere."""


def part(leaves: Leaves, flags: Sequence[bool]) -> tuple[Leaves, Leaves]:
    """Leaves with a flag, and those without, None in place of the others: what is None is static."""
    pairs = list(zip(leaves, flags, strict=True))
    return [leaf if flag else None for leaf, flag in pairs], [None if flag else leaf for leaf, flag in pairs]


def join(some: Leaves, others: Leaves) -> Leaves:
    """All of what `part` parted."""
    return [b if a is None else a for a, b in zip(some, others, strict=True)]


def zeros(type_: Any, *leading: int) -> Any:
    """Of that type, with other axes before its own."""
    shape = (*leading, *type_.shape)
    if type_.dtype == jax.dtypes.float0:
        return np.zeros(shape, type_.dtype)
    axes = tuple(type_.manual_axis_type.varying)  # of shard_map's mesh, otherwise none
    found = jnp.zeros(shape, type_.dtype)
    return jax.lax.pcast(found, axes, to="varying") if axes else found


def has_cotangent(leaf: Any) -> bool:
    """Of an argument of the forward pass: whether anything is differentiated by it."""
    return leaf.perturbed and bool(jnp.issubdtype(leaf.value.dtype, jnp.inexact))


def is_zero(cotangent: Any) -> bool:
    """Whether nothing depends on a result."""
    return isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
