"""What derivatives are compared with: autodiff in double precision, and finite differences that know no autodiff."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fundamentals.base import Rule
from fundamentals.catalogue import Entry

# Largest error of a gradient relative to its largest entry, by the dtype that it is computed in: a few last places.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 5e-3, "bfloat16": 3e-2}


def is_floating(tree: Any) -> bool:
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(tree))


@functools.cache
def _draw(arguments: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(lambda key: arguments(key, jnp.float32))


def draw(entry: Entry, seed: int) -> Any:
    """Example arguments, float32 and int32.

    Drawing costs more than most rules: the program is compiled once for all rules that share it, and the many
    parameters of a model are drawn by NumPy.
    """
    if entry.depth == 1:
        args = _draw(entry.arguments)(jax.random.key(seed))
        return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.int32), args)
    random = np.random.RandomState(seed)

    def fill(x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(random.randint(0, 13, x.shape), jnp.int32)
        scale = np.prod(x.shape[:-1]) ** -0.5 if len(x.shape) > 1 else 0.2
        return jnp.asarray((scale * random.normal(size=x.shape) + 0.5 * (len(x.shape) == 1)).astype(np.float32))

    return jax.tree.map(fill, jax.eval_shape(lambda key: entry.arguments(key, jnp.float32), jax.random.key(0)))


def cast(tree: Any, dtype: Any) -> Any:
    """The same numbers in another floating dtype. By NumPy: a compiled cast for each shape would take longer."""
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x).astype(dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def widen(tree: Any) -> Any:
    """The same numbers, in float64."""
    return cast(tree, np.float64)


def cotangent_like(y: Any, seed: int = 7) -> Any:
    """Random, so that no sum of cotangents and no symmetry hides a mistake."""
    return jnp.asarray(np.random.RandomState(seed).normal(size=y.shape).astype(y.dtype))


def hand(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, ...]:
    """Cotangents by the rule."""
    return rule.bwd(rule.fwd(*args)[1], dy)


def autodiff(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, ...]:
    """Cotangents by `jax.vjp` of the primal; None for arguments that are not floating."""
    floating = [i for i, arg in enumerate(args) if is_floating(arg)]

    def primal(*values: Any) -> Any:
        replaced = dict(zip(floating, values, strict=True))
        return rule.primal(*(replaced.get(i, arg) for i, arg in enumerate(args)))

    cotangents = dict(zip(floating, jax.vjp(primal, *(args[i] for i in floating))[1](dy), strict=True))
    return tuple(cotangents.get(i) for i in range(len(args)))


def finite_differences(function: Callable[[Any], Any], at: Any, step: float = 1e-4) -> Any:
    """The gradient of a scalar function of a pytree, one coordinate at a time, fourth order, in float64.

    (8 [f(x+h) − f(x−h)] − [f(x+2h) − f(x−2h)]) / 12h, with an error of h⁴/30 of the fifth derivative.
    """
    flat, unravel = ravel_pytree(at)
    directions = step * jnp.eye(flat.size, dtype=flat.dtype)
    values = jax.jit(jax.vmap(lambda shift: function(unravel(flat + shift))))
    one = values(directions) - values(-directions)
    two = values(2 * directions) - values(-2 * directions)
    return unravel((8 * one - two) / (12 * step))


def assert_close(found: Any, expected: Any, tolerance: float, what: str) -> None:
    """Every leaf within the tolerance of its own scale, or an error that names the first that is not."""
    names = jax.tree_util.tree_leaves_with_path(expected)
    for (path, b), a in zip(names, jax.tree.leaves(found), strict=True):
        error = relative_error(a, b)
        assert error <= tolerance, f"{what}{jax.tree_util.keystr(path)} is {error:.1e} off; expected ≤ {tolerance:.0e}"


def relative_error(found: Any, expected: Any) -> float:
    """The largest |found − expected| of each leaf over the leaf's largest |expected|; the worst leaf's."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        error = np.max(np.abs(a - b), initial=0.0)
        worst = max(worst, float(error / np.max(np.abs(b), initial=0.0)) if error else 0.0)
        if np.isnan(error):
            return float("nan")
    return worst
