"""Narrow types in programs: where a function leaves float64, and the same function without that.

A cast to float32 in the middle of a function bounds how exactly its gradient can be compared, and hides small mistakes
under rounding. A program can be evaluated as if the cast were not there, so that the mathematics is compared in float64
and rounding is judged by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.naming import short
from fundamentals.program import Program, evaluate, read


class Narrow(NamedTuple):
    """The least exact type that a program computes in."""

    dtype: Any
    line: str  # where it first does


def narrowest(program: Program) -> Narrow | None:
    """The floating type with the fewest digits that an equation results in, if it is narrower than float64."""
    found: Narrow | None = None
    for equation in program.equations:
        for dtype in [*(variable.aval.dtype for variable in equation.outvars), *_held(equation)]:
            if jnp.issubdtype(dtype, jnp.inexact) and (
                jnp.finfo(dtype).eps
                > (found.dtype and jnp.finfo(found.dtype).eps if found else jnp.finfo(np.float64).eps)
            ):
                found = Narrow(np.dtype(dtype), short(equation))
    return found


def widened(program: Program) -> Program:
    """The same program with every number in float64, or complex128. To be called under `jax.enable_x64(True)`.

    Raises:
      TypeError: a loop or another equation that holds a program of narrow numbers.
    """
    jaxpr = program.jaxpr.jaxpr

    def apply(_: int, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        if any(isinstance(value, core.Jaxpr | core.ClosedJaxpr) for value in equation.params.values()) and list(
            _held(equation)
        ):
            raise TypeError(f"{equation.primitive.name} ({short(equation)}) computes in {next(iter(_held(equation)))}")
        if equation.primitive.name == "reduce_precision":
            return operands
        params = {
            name: wide(value) if name.endswith(("dtype", "element_type")) and value is not None else value
            for name, value in equation.params.items()
        }
        results = equation.primitive.bind(*map(_wide, operands), **params)
        return list(results) if equation.primitive.multiple_results else [results]

    def function(*operands: Any) -> list[Any]:
        constants = [_wide(constant) for constant in program.jaxpr.consts]
        return read(evaluate(jaxpr, constants, list(map(_wide, operands)), apply), jaxpr.outvars)

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, wide(v.aval.dtype)) for v in jaxpr.invars]
    return Program(jax.make_jaxpr(function)(*shapes), program.inputs, program.outputs)


def wide(dtype: Any) -> Any:
    """float64 for floating types, complex128 for complex ones, others as they are."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def is_inexact(x: Any) -> bool:
    """Whether an array holds floating or complex numbers."""
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def is_key(x: Any) -> bool:
    """Whether an array holds typed PRNG keys."""
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def widen(x: Any) -> Any:
    """An array as NumPy's, in float64 if it is floating; a key as it is."""
    return x if is_key(x) else np.asarray(x).astype(wide(x.dtype))


def _wide(x: Any) -> Any:
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    return jnp.asarray(x, wide(dtype)) if jnp.issubdtype(dtype, jnp.inexact) else x


def _held(equation: core.JaxprEqn) -> Any:
    """Narrow floating types in the programs that an equation holds."""
    for value in equation.params.values():
        for held in value if isinstance(value, tuple) else (value,):
            jaxpr = held.jaxpr if isinstance(held, core.ClosedJaxpr) else held
            if isinstance(jaxpr, core.Jaxpr):
                for inner in jaxpr.eqns:
                    for dtype in (getattr(variable.aval, "dtype", None) for variable in inner.outvars):
                        if dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).eps > 1e-15:
                            yield dtype
                    yield from _held(inner)
