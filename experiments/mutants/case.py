"""What a mutant is: a function, a right backward pass of it, a wrong one, and the names that fit the mistake.

`CAUSES` are all the names that a checker may give. A mutant lists those that are right. There is more than one only
where they describe the same wrong result equally truly:

    a number that was forgotten, 1/N say    SCALE by N, or MISSING_FACTOR 1/N
    a mask that was forgotten               MISSING_FACTOR, or SUPPORT: wrong exactly where the mask is 0
    a mask that was inverted                WRONG_OPERAND, or SUPPORT
    the map itself for its adjoint          TRANSPOSE, or what transposing comes to: LAYOUT where the matrix is one of
                                            shifts (convolution, cumulative sum), PATH_SIGN where it is a rotation

Any class of three is justified where it stands.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

Args: TypeAlias = tuple[Any, ...]
Cotangents: TypeAlias = tuple[Any, ...]

CAUSES = {
    "SIGN": "the negative",
    "SCALE": "a constant multiple",
    "TRANSPOSE": "a matrix, or the map, for its transpose",
    "LAYOUT": "axes or positions permuted, flipped, shifted, or read with the wrong stride",
    "UNREDUCED": "not summed over an axis along which the argument was broadcast",
    "WRONG_AXIS": "reduced or counted along another axis",
    "SWAPPED": "two arguments' cotangents exchanged",
    "ZERO": "0 for an argument that matters",
    "MISSING_PATH": "one of the ways in which the argument acts is left out",
    "DOUBLED_PATH": "one of them is counted twice",
    "PATH_SIGN": "one of them has the wrong sign",
    "PATH_SCALE": "one of them has the wrong factor",
    "COTANGENT_IGNORED": "does not depend on dy, where it should",
    "COTANGENT_NONLINEAR": "is not linear in dy",
    "MISSING_FACTOR": "a factor is left out",
    "EXTRA_FACTOR": "a factor is taken that does not belong there",
    "WRONG_OPERAND": "the right formula of the wrong quantity",
    "OVERWRITE": "assigned where contributions add up",
    "SUPPORT": "wrong at some entries only, which a condition tells from the rest",
    "NONFINITE": "NaN or infinite where the derivative is finite",
    "PRECISION": "right but for rounding that the dtype does not explain",
    "STRUCTURE": "wrong number, shapes or dtypes of cotangents",
    "OTHER_FORWARD": "the derivative of a slightly different function",
    "UNEXPLAINED": "none of these",
}


class Subject(NamedTuple):
    """A function and a backward pass of it."""

    primal: Callable[..., Any]  # (*args) → y, one array; textbook JAX, never a custom_vjp
    backward: Callable[[Args, Any], Cotangents]  # (args, dy) → a cotangent per argument, None for integers and keys
    arguments: Callable[[int, Any], Args]  # (seed, dtype) → args


class Mutant(NamedTuple):
    """A wrong backward pass, beside the right one."""

    number: int  # of the mistake; variants of one, such as square and rectangular, share it
    operation: str
    mistake: str
    subject: Subject  # with the wrong backward pass
    twin: Callable[[Args, Any], Cotangents]  # the right one
    causes: frozenset[str]  # any one of these names the mistake
    leaves: tuple[int, ...]  # the arguments whose cotangents are wrong


class Trap(NamedTuple):
    """A right backward pass, or one as good as right, that a hasty checker would call wrong."""

    name: str
    subject: Subject
    verdicts: frozenset[str]  # those allowed


class Masked(NamedTuple):
    """A wrong backward pass at a probe that hides it: no checker may say PASS of that probe alone."""

    name: str
    subject: Subject
    cotangent: Callable[[Any], Any] | None  # y → dy of the probe; None for a random one


def mutant(
    number: int,
    operation: str,
    right: Subject,
    wrong: Callable[[Args, Any], Cotangents],
    causes: str,
    leaves: tuple[int, ...] = (0,),
) -> Mutant:
    """A mutant whose mistake is the docstring of `wrong`, and whose causes are separated by spaces."""
    mistake = (inspect.getdoc(wrong) or "").removesuffix(".")
    subject = right._replace(backward=wrong)
    return Mutant(number, operation, mistake, subject, right.backward, frozenset(causes.split()), leaves)


def gaussians(*shapes: tuple[int, ...], scale: float = 1.0) -> Callable[[int, Any], Args]:
    """Arguments of these shapes, normally distributed: no entry is 0 or 1, and no two are alike."""

    def arguments(seed: int, dtype: Any) -> Args:
        random = np.random.RandomState(seed)
        return tuple(array(scale * random.normal(size=shape), dtype) for shape in shapes)

    return arguments


def array(values: Any, dtype: Any = np.int32) -> Any:
    """JAX's array of NumPy's numbers; cast by NumPy, as a compiled cast for each shape would take longer."""
    return jnp.asarray(np.asarray(values).astype(dtype))
