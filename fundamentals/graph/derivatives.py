"""The table of derivatives: what an operation sends back to its operands."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fundamentals.graph import control
from fundamentals.graph.calls import Call, Rule
from fundamentals.graph.control import Pullback, is_inexact
from fundamentals.graph.entrywise import ENTRYWISE, FLAT
from fundamentals.graph.lookups import LOOKUPS
from fundamentals.graph.moves import MOVES
from fundamentals.graph.nodes import AUTHOR, FALLBACK, TABLE
from fundamentals.graph.products import PRODUCTS, is_grouped_batch
from fundamentals.graph.sums import SUMS
from fundamentals.program import CUSTOM_CALLS, execute

MIXING: dict[str, Rule] = {**MOVES, **SUMS, **PRODUCTS, **LOOKUPS}
CONTROL: dict[str, tuple[str, Callable[[Call, Sequence[Any], Pullback], tuple[Any, ...]]]] = {
    "scan": ("backward through its steps, from the last to the first", control.scan),
    "while": ("backward through its steps, from the last to the first", control.while_loop),
    "cond": ("through the case that was taken", control.cond),
}


class Derived(NamedTuple):
    """What comes back from an operation."""

    local: tuple[Any, ...]
    downstream: tuple[Any, ...]
    derivative: str  # TABLE, AUTHOR or FALLBACK


def derive(call: Call, g: Any, pullback: Pullback) -> Derived:
    """The local derivatives of an operation and the cotangents of its operands.

    Args:
      call: the operation, and which cotangents are wanted.
      g: the cotangent of its result; a tuple, with None for what is not floating, where it has several.
      pullback: the backward pass of a program that the operation holds.
    """
    name = call.equation.primitive.name
    nothing = (None,) * len(call.operands)
    if name in FLAT:
        return Derived(nothing, nothing, TABLE)
    if name in ENTRYWISE and not _is_complex(call):
        local = ENTRYWISE[name].local(call.results[0], call.operands, call.params)
        local = tuple(d if wanted else None for d, wanted in zip(local, call.wanted, strict=True))
        several = g if isinstance(g, tuple) else (g,) * len(local)
        found = map(_times, several, local, call.operands)
        return Derived(local, tuple(found), TABLE)
    if name in CONTROL:
        several = g if isinstance(g, tuple) else (g,)
        return Derived(nothing, _kept(CONTROL[name][1](call, several, pullback), call), TABLE)
    if name in MIXING and not _is_complex(call) and not is_grouped_batch(name, call.params):
        return Derived(nothing, _kept(MIXING[name].derive(call, g), call), TABLE)
    return Derived(nothing, _by_jax(call, g), AUTHOR if name in CUSTOM_CALLS else FALLBACK)


def has_entry(name: str) -> bool:
    """Whether an operation is in the table."""
    return name in FLAT or name in ENTRYWISE or name in CONTROL or name in MIXING


def _times(g: Any, local: Any, operand: Any) -> Any:
    """Upstream × local, added up where the operand was broadcast."""
    if local is None:
        return None
    shape, dtype = jnp.shape(operand), operand.dtype
    if isinstance(local, float):
        product = g if local == 1 else -g if local == -1 else local * g
    elif local.dtype == bool:
        product = jnp.where(local, g, jnp.zeros((), g.dtype))
    else:
        product = g * local
    if product.shape != shape:
        extra = product.ndim - len(shape)
        product = jnp.sum(product, axis=tuple(range(extra))) if extra else product
        stretched = tuple(i for i, n in enumerate(shape) if n == 1 and product.shape[i] != 1)
        product = jnp.sum(product, axis=stretched, keepdims=True) if stretched else product
    return product if product.dtype == dtype else product.astype(dtype)


def _kept(found: Sequence[Any], call: Call) -> tuple[Any, ...]:
    return tuple(dx if wanted else None for dx, wanted in zip(found, call.wanted, strict=True))


def _is_complex(call: Call) -> bool:
    """Products of complex numbers are as those of real ones; what JAX counts as a derivative beyond is its own."""
    return call.equation.primitive.name not in _HOLOMORPHIC and any(
        jnp.issubdtype(x.dtype, jnp.complexfloating) for x in (*call.operands, *call.results) if hasattr(x, "dtype")
    )


_HOLOMORPHIC = {
    *("add", "add_any", "sub", "mul", "div", "neg", "exp", "log", "sin", "cos", "integer_pow", "square", "select_n"),
    *("reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "concatenate", "reduce_sum", "dot_general"),
}


def _by_jax(call: Call, g: Any) -> tuple[Any, ...]:
    """JAX's own derivative of an operation."""
    chosen = [i for i, wanted in enumerate(call.wanted) if wanted]

    def function(*floating: Any) -> list[Any]:
        operands = list(call.operands)
        for i, x in zip(chosen, floating, strict=True):
            operands[i] = x
        return [y for y in execute(call.equation, operands) if is_inexact(y)]

    _, pullback = jax.vjp(function, *(call.operands[i] for i in chosen))
    cotangents = pullback([dy for dy in (g if isinstance(g, tuple) else (g,)) if dy is not None])
    back: list[Any] = [None] * len(call.operands)
    for i, dx in zip(chosen, cotangents, strict=True):
        back[i] = dx
    return tuple(back)
