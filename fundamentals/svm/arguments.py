"""What every fit asks of its data, and of the machine that it runs on."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype
from fundamentals.svm.objectives import prices

F = TypeVar("F", bound=Callable[..., Any])


def in_full_precision(function: F) -> F:
    """Distances and errors are differences, of which an accelerator's TF32 products, of three digits, leave little."""
    return cast(F, jax.default_matmul_precision("highest")(function))


def checked(function: str, x: ArrayLike, y: ArrayLike, c: ArrayLike) -> tuple[Array, Array, Array]:
    """Points [N, D], labels [N] and prices [N] in the dtype that is computed in, checked as far as values are known."""
    x, y = _checks.arrays(function, x=(x, "N D"), y=(y, "N", "real"))
    _checks.not_empty(function, "x", x.shape[0], "N")
    _checks.not_empty(function, "x", x.shape[1], "D")
    _checks.finite(function, "x", x)
    _checks.signs(function, "y", y)
    _checks.both_signs(function, "y", y)
    x = x.astype(accumulation_dtype(x.dtype))
    return x, y.astype(x.dtype), jnp.broadcast_to(prices(function, c, x), y.shape)
