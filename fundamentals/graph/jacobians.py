"""The Jacobian of a function, formed in full: its bytes against those of a VJP, and the pattern of its zeros.

    found = jacobian(jnp.tanh, x)
    found.matrix  # [M, N], rows for entries of the result, columns for those of x
    print(found)  # 12 × 12, diagonal, known from the program; 576 B, its VJP 96 B

Backpropagation never forms it. For a row vector ȳ (1×M) it computes x̄ = ȳ J (1×N), which holds M + N numbers where J
has M·N; and where J is diagonal, x̄ is ȳ times the diagonal, entry by entry.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals import program
from fundamentals.base import Array, DTypeLike
from fundamentals.graph.entrywise import ENTRYWISE, FLAT
from fundamentals.graph.sparsity import describe

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_RESHAPING = {"reshape", "squeeze", "broadcast_in_dim"}  # of as many entries, these keep their order
_LINEAR = _RESHAPING | {"add", "add_any", "sub", "neg", "copy", "copy_p", "convert_element_type", "name"}


class JacobianBytes(NamedTuple):
    """What a Jacobian would take, and what its VJP does."""

    jacobian: int  # bytes of all M·N entries
    vjp: int  # of the cotangent that comes in, M entries, and of the one that goes out, N
    shape: tuple[int, int]  # (M, N)

    def __str__(self) -> str:
        m, n = self.shape
        return f"Jacobian {m:,} × {n:,}: {_size(self.jacobian)}; VJP {_size(self.vjp)}"


class Jacobian(NamedTuple):
    """A Jacobian at one x, with what is zero in it there and nearby."""

    matrix: Array  # [M, N], ∂y_m/∂x_n, of the result's dtype
    bytes: int  # of the matrix
    vjp_bytes: int  # of the cotangent that comes in, M entries, and of the one that goes out, N
    pattern: str  # "diagonal", "block diagonal (5 blocks of 3 × 7)", …: the most specific that is true
    nonzero: int  # entries that are not zero at x; the pattern may allow for more
    proven: bool  # whether the program says so: no entry of the result takes more than its own entry of x

    def __str__(self) -> str:
        m, n = self.matrix.shape
        how = "known from the program" if self.proven else "as found at x and three points beside it"
        return (
            f"Jacobian {m:,} × {n:,}, {self.pattern} ({how}): {self.nonzero:,} of {m * n:,} entries not zero at x; "
            f"{_size(self.bytes)}, VJP {_size(self.vjp_bytes)}"
        )


def jacobian_bytes(fn: Callable[..., Any], x: Any) -> JacobianBytes:
    """What the Jacobian of a function would take, by shapes alone: nothing is computed.

    Args:
      fn: a function of one array, whose result is one floating array.
      x: the array, of any shape, or a `jax.ShapeDtypeStruct`.

    Raises:
      TypeError: fn is no function, x is not one floating array, or the result is not.

    Example:
      jacobian_bytes(jnp.tanh, jax.ShapeDtypeStruct((100, 4096), jnp.float32)).jacobian / 2**30  # 625 GiB
    """
    return _bytes("jacobian_bytes", fn, x)


def jacobian(fn: Callable[..., Any], x: Any, *, max_bytes: int = 2**30) -> Jacobian:
    """The Jacobian of a function, in full, and its pattern.

    It is computed row by row (`jax.jacrev`) or column by column (`jax.jacfwd`), whichever takes fewer passes.

    An entry may be zero by chance: relu's diagonal is where x < 0. The pattern is therefore that of all entries which
    are not zero at x or at one of three points beside it: y = x + σ·N(0, 1), −y and |y|, with the root mean square of x
    for σ (1 for x = 0). Each entry has been on both sides of 0 there, and all of them together above it. It remains an
    observation, unless the program proves it: if all operations from x to the result work entry by entry, the Jacobian
    is diagonal whatever x is.

    Args:
      fn: a function of one array, whose result is one floating array.
      x: the array, of any shape; N entries.
      max_bytes: of the matrix, M·N entries. Up to three of them are held at a time.

    Returns:
      A `Jacobian`. Its pattern is one of: empty, zero, identity, scalar times identity, diagonal, permutation,
      selection (one entry a row), block diagonal, lower or upper triangular, banded, dense, or neither of them, with
      the share of entries that are not zero.

    Raises:
      TypeError: fn is no function, x is not one floating array, or the result is not.
      ValueError: the matrix would take more than `max_bytes`.
    """
    sizes = _bytes("jacobian", fn, x)
    m, n = sizes.shape
    if sizes.jacobian > max_bytes:
        raise ValueError(
            f"jacobian: the matrix has {m:,} × {n:,} entries, which take {_size(sizes.jacobian)}; expected at "
            f"most max_bytes = {_size(max_bytes)} (its VJP takes {_size(sizes.vjp)}; jacobian_bytes tells without it)"
        )
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError("jacobian: x is a ShapeDtypeStruct; expected an array (jacobian_bytes takes shapes)")
    x = jnp.asarray(x)
    result = jax.eval_shape(fn, x)
    if not m * n:
        return Jacobian(jnp.zeros((m, n), result.dtype), 0, sizes.vjp, "empty", 0, True)
    compute = _computer(fn, x, (m, n), result.dtype)
    matrix = compute(x)
    values = np.asarray(matrix)
    support, constant = values != 0, True
    for beside in _beside(x):
        others = np.asarray(compute(beside))
        support |= (others != 0) & np.isfinite(others)  # outside of its domain, a function tells nothing
        constant = constant and bool((others == values).all())
    flat = program.flatten(fn, x)
    proven = works_entry_by_entry(flat)
    if proven:
        off = ~np.eye(m, dtype=bool)
        # The derivative may be another one than that of the program: one that its author gave, which need not be right.
        proven = not (support & off & np.isfinite(values)).any()
    if proven:
        support &= ~off  # 0 · ∞ is no entry
    pattern = describe(support, values if constant else None)
    if proven and not _is_linear(flat):
        pattern = "diagonal"  # what else it seems to be here, it need not be elsewhere
    return Jacobian(matrix, sizes.jacobian, sizes.vjp, pattern, int(np.count_nonzero(values)), proven)


def works_entry_by_entry(flat: program.Program) -> bool:
    """Whether each entry of the result depends on the entry of x at its place alone: then the Jacobian is diagonal.

    Args:
      flat: a program of one array and one result, by `program.flatten`. Where it has loops or branches that x enters,
        the answer is no.
    """
    (x,) = flat.jaxpr.jaxpr.invars
    size = x.aval.size
    following = {x}
    for equation in flat.equations:
        dependent = [v for v in equation.invars if not isinstance(v, core.Literal) and v in following]
        name = equation.primitive.name
        if not dependent or name in FLAT:
            continue
        shape = equation.outvars[0].aval.shape
        entrywise = name in ENTRYWISE and all(v.aval.shape == shape for v in dependent)
        if not (entrywise or name in _RESHAPING) or any(v.aval.size != size for v in equation.outvars):
            return False
        following |= set(equation.outvars)
    (result,) = flat.jaxpr.jaxpr.outvars
    return bool(result.aval.size == size)


def _is_linear(flat: program.Program) -> bool:
    """Whether the Jacobian is the same at every x, as operations that never multiply x with itself tell."""
    following = set(flat.jaxpr.jaxpr.invars)
    for equation in flat.equations:
        dependent = [not isinstance(v, core.Literal) and v in following for v in equation.invars]
        name = equation.primitive.name
        if not any(dependent) or name in FLAT:
            continue
        factors = (name == "mul" and sum(dependent) == 1) or (name == "div" and not dependent[1])
        if not factors and name not in _LINEAR:
            return False
        following |= set(equation.outvars)
    return True


def _beside(x: Array) -> list[Array]:
    """Points in the neighbourhood of x, each entry on either side of 0, where kinks are, and all above it, where square
    roots are.
    """
    scale = float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))
    scale = scale if 0 < scale < math.inf else 1.0
    point = x + jnp.asarray(scale, x.dtype) * jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    return [point, -point, jnp.abs(point)]


def _computer(fn: Callable[..., Any], x: Array, shape: tuple[int, int], dtype: DTypeLike) -> Callable[[Array], Array]:
    """The Jacobian as a function of x: compiled, row by row or column by column, whichever takes fewer passes.

    Some functions can be differentiated in one of both ways only: `while` loops forward, `custom_vjp` backward.
    """
    m, n = shape

    def flattened(x: Array) -> Array:
        return jnp.reshape(fn(x), m)

    ways = [jax.jacrev, jax.jacfwd] if m <= n else [jax.jacfwd, jax.jacrev]
    errors: list[Exception] = []
    for way in ways:
        try:
            return jax.jit(lambda x, way=way: way(flattened)(x).reshape(m, n).astype(dtype)).lower(x).compile()
        except (TypeError, ValueError, NotImplementedError) as error:
            errors.append(error)
    raise errors[0]


def _bytes(function: str, fn: Callable[..., Any], x: Any) -> JacobianBytes:
    """Of a checked function at a checked x."""
    if not callable(fn):
        raise TypeError(f"{function}: fn is of type {type(fn).__name__}; expected a function of one array")
    if not isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | float):
        raise TypeError(f"{function}: x is of type {type(x).__name__}; expected one floating array")
    given = x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(f"{function}: x has dtype {given.dtype}; expected a floating dtype")
    try:
        result = jax.eval_shape(fn, given)
    except Exception as error:
        error.add_note(f"{function}: fn was called with one array {list(given.shape)}; functools.partial binds others")
        raise
    if not isinstance(result, jax.ShapeDtypeStruct):
        raise TypeError(f"{function}: fn returned {jax.tree.structure(result)}; expected one floating array")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"{function}: fn returned an array of dtype {result.dtype}; expected a floating dtype")
    m, n = math.prod(result.shape), math.prod(given.shape)
    itemsize = result.dtype.itemsize
    return JacobianBytes(m * n * itemsize, m * itemsize + n * given.dtype.itemsize, (m, n))


def _size(size: int) -> str:
    """Bytes for reading."""
    unit = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{size} B" if not unit else f"{size / 1024**unit:.4g} {_UNITS[unit]}"
