"""How much a function computes: its operations, their matrix products and FLOPs, counted in its program.

    print(count(jax.value_and_grad(loss), params, batch))

Nothing is evaluated, so that arguments may be of any size, or shapes alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fundamentals import program
from fundamentals.program import Counts

_LEAVES = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, bool, int, float, complex)


def count(fn: Callable[..., Any], *args: Any) -> Counts:
    """The operations of a function at arguments of these shapes, as it was written: before any compiler changes it.

    Calls of `jit`, `checkpoint` and of functions with derivatives of their own are replaced by what they compute. Each
    step of a scan counts, and of a branch the most expensive case; `while` loops, whose steps nobody knows, count once
    (`fori_loop` is a scan if its bounds are numbers). What neither the result nor an effect needs does not count.

    Args:
      fn: a function of pytrees of arrays; a gradient, or a whole training step.
      *args: its arguments; of arrays, only shapes and dtypes matter, so that they may be `jax.ShapeDtypeStruct`s.

    Returns:
      `Counts`: `.matmuls` and their `.flops`, `.all_flops` of all operations together, `.operations` by primitive,
      `.distinct` for the matmuls that are left where nothing is computed twice. `str` makes a table of it. What is
      one FLOP, is said in its docstring.

    Raises:
      TypeError: fn is no function, or a leaf of the arguments is neither an array nor a number. Errors of fn itself
        pass through, with a note.

    Example:
      count(jax.value_and_grad(loss), params, x).flops / count(loss, params, x).flops  # about 3
    """
    if not callable(fn):
        raise TypeError(f"count: fn is of type {type(fn).__name__}; expected a function")
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        if not isinstance(leaf, _LEAVES):
            raise TypeError(
                f"count: args{jax.tree_util.keystr(path)} is of type {type(leaf).__name__}; expected an array, a "
                "ShapeDtypeStruct or a number (bind other arguments with functools.partial)"
            )
    try:
        traced = jax.make_jaxpr(fn)(*args)
    except Exception as error:
        name = getattr(fn, "__name__", type(fn).__name__)
        error.add_note(f"count: {name} was being traced, with arguments of which only shapes and dtypes are known")
        raise
    return program.count(traced)
