"""What every fit asks of its data, and of the machine that it runs on."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike, accumulation_dtype
from fundamentals.svm.objectives import prices

F = TypeVar("F", bound=Callable[..., Any])


def in_full_precision(function: F) -> F:
    """Distances and errors are differences, of which an accelerator's TF32 products, of three digits, leave little."""
    return cast(F, jax.default_matmul_precision("highest")(function))


def check_norm(function: str, total: Array, dual: Array) -> None:
    """‖w‖² = 2 (Σ α − D) is not negative but for rounding, as it may be with a kernel that is none; if it is known."""
    if isinstance(dual, jax.core.Tracer):
        return
    if np.any(np.asarray(total - dual) < -1e-3 * np.asarray(total)):
        raise ValueError(f"{function}: ‖w‖² is negative; expected a kernel that is positive semidefinite")


def warn_unless_converged(function: str, machine: Any) -> None:
    """Tell who called a fit that it is not what was asked for; where it is traced, its fields alone tell."""
    if isinstance(machine.converged, jax.core.Tracer):
        return
    missed = ~np.atleast_1d(np.asarray(machine.converged))
    if missed.any():
        gap = np.max(np.atleast_1d(machine.gap / machine.primal)[missed])
        warnings.warn(
            f"{function}: not converged after {np.max(machine.iterations)} iterations"
            + (f" ({missed.sum()} of {missed.size} pairs)" if missed.size > 1 else "")
            + f"; the gap is {gap:.1g} of the objective. Scale the features, compute in float64, or ask for less",
            RuntimeWarning,
            stacklevel=3,
        )


def checked(function: str, x: ArrayLike, y: ArrayLike, c: ArrayLike) -> tuple[Array, Array, Array]:
    """Points [N, D], labels [N] and prices [N] in the dtype that is computed in, checked as far as values are known.

    Where they are traced, what is wrong with them makes the points NaN, and with these all that is computed from them.
    """
    x, y = _checks.arrays(function, x=(x, "N D"), y=(y, "N", "real"))
    _checks.not_empty(function, "x", x.shape[0], "N")
    _checks.not_empty(function, "x", x.shape[1], "D")
    _checks.finite(function, "x", x)
    _checks.signs(function, "y", y)
    _checks.both_signs(function, "y", y)
    x = x.astype(accumulation_dtype(x.dtype))
    price = jnp.broadcast_to(prices(function, c, x), y.shape)
    if any(isinstance(value, jax.core.Tracer) for value in (x, y, price)):
        valid = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.abs(y) == 1) & jnp.all((price > 0) & jnp.isfinite(price))
        x = jnp.where(valid, x, jnp.nan)
    return x, y.astype(x.dtype), price
