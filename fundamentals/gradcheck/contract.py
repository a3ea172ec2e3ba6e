"""What a function and its gradient have to keep before there is anything to compare, each breach with its name."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.precision import is_inexact, is_key
from fundamentals.gradcheck.report import Cause, Diagnosis

# What a function raises that asks for numbers while it is traced: it is then called with numbers.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


class ContractError(Exception):
    """There is no gradient to compare: a breach of the contract, by name."""

    def __init__(self, cause: Cause, detail: str, fix: str = "", leaf: str = "") -> None:
        super().__init__(detail)
        self.diagnosis = Diagnosis(cause, leaf, detail, fix, True)


class ShapeError(ContractError):
    """A leaf of another shape, whose numbers may still tell what happened."""

    def __init__(self, path: str, leaf: int, found: Any, expected: Any) -> None:
        super().__init__(
            Cause.STRUCTURE,
            f"the gradient for {path} is {found.dtype}{list(found.shape)}; {path} is "
            f"{expected.dtype}{list(expected.shape)}",
            "a gradient has the shape of what it is the gradient for",
            path,
        )
        self.leaf = leaf
        self.path = path


def describe(tree: Any) -> str:
    """Shapes and dtypes, in words."""
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return "nothing"
    if len(leaves) == 1 and jax.tree_util.treedef_is_leaf(structure):
        return f"{jnp.dtype(leaves[0].dtype).name if not is_key(leaves[0]) else 'key'}{list(leaves[0].shape)}"
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")


def shape_of(function: Callable[..., Any], args: Any, what: str, shapes: Any) -> tuple[Any, bool]:
    """Shapes of a result, and whether they took a call with numbers."""
    try:
        (once, result, _), (again, _, _) = (_traced(function, shapes) for _ in range(2))
        if once != again:
            raise ContractError(*_chance(what))
        return result, False
    except UNTRACEABLE:
        result = called(lambda: function(*args), what)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.asarray(x).dtype), result), True
    except Exception as error:
        raise breach(what, error) from error


def called(call: Callable[[], Any], what: str) -> Any:
    """The result of a call, whose exceptions are breaches."""
    try:
        return call()
    except ContractError:
        raise
    except Exception as error:
        raise breach(what, error) from error


def breach(what: str, error: Exception) -> ContractError:
    """An exception of the user's functions as a breach of the contract."""
    if isinstance(error, ContractError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, jax.errors.UnexpectedTracerError):
        text = "it keeps arrays of an earlier call, in a global or a closure: a side effect"
    if "read-only" in text:
        text += ": copy an argument before changing it"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_foreign(f.filename)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return ContractError(Cause.STRUCTURE, f"{what} raised {type(error).__name__}{place}: {text[:300]}")


def _is_foreign(path: str) -> bool:
    """Whether a line is not the user's."""
    return path.startswith(str(Path(__file__).parent)) or "site-packages" in path or path.startswith("<frozen")


def inspect(manual: Any, given: list[Any], shapes: list[Any], dy: list[Any], paths: list[str], which: Any) -> Any:
    """The program of the gradient in the types given; None where it has to be called with numbers.

    Raises:
      ContractError: shapes or dtypes are wrong, it raises, or two calls differ.
    """
    program = None
    try:
        (once, (gradient, _), program), (again, _, _) = (
            _traced(lambda *a: manual(a[: len(shapes)], a[len(shapes) :]), [*shapes, *dy]) for _ in range(2)
        )
        if once != again:
            raise ContractError(*_chance("the gradient"))
    except UNTRACEABLE:
        ones = [np.ones(d.shape, d.dtype) for d in dy]
        before = [x if is_key(x) else np.array(x) for x in given]
        gradient, _ = called(lambda: manual(given, ones), "the gradient")
        other, _ = called(lambda: manual(given, ones), "the gradient")
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(gradient, other, strict=True)):
            raise ContractError(*_chance("the gradient")) from None
        if any(
            not is_key(a) and not np.array_equal(a, b, equal_nan=is_inexact(a))
            for a, b in zip(before, given, strict=True)
        ):
            raise ContractError(Cause.STRUCTURE, "the gradient changes its arguments in place") from None
        gradient = [jnp.asarray(g) for g in gradient]
    except ContractError:
        raise
    except Exception as error:
        raise breach("the gradient", error) from error
    for path, i, found in zip(paths, which, gradient, strict=True):
        if found.shape != shapes[i].shape or not is_inexact(found):
            raise ShapeError(path, i, found, shapes[i])
    wrong = [(p, f, shapes[i]) for p, i, f in zip(paths, which, gradient, strict=True) if f.dtype != shapes[i].dtype]
    if wrong and program is not None:
        path, found, expected = wrong[0]
        raise ContractError(
            Cause.STRUCTURE,
            f"the gradient for {path} is {found.dtype}; {path} is {expected.dtype}",
            f"return d{path}.astype({path}.dtype)",
            path,
        )
    return program


def _chance(what: str) -> tuple[Cause, str, str]:
    return (
        Cause.STRUCTURE,
        f"two calls of {what} with the same arguments differ: it depends on chance or on a state outside",
        "pass a PRNG key as an argument, and use the same one in forward and backward pass",
    )


def _traced(function: Any, shapes: Sequence[Any]) -> tuple[Any, Any, core.ClosedJaxpr]:
    """What identifies the program, the shapes of its result, and the program."""
    jaxpr, result = jax.make_jaxpr(lambda *a: function(*a), return_shape=True)(*shapes)
    constants = [np.asarray(c).tobytes() if not is_key(jnp.asarray(c)) else b"" for c in jaxpr.consts]
    return (str(jaxpr.jaxpr), constants), result, jaxpr
