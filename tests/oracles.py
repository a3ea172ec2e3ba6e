"""What derivatives are compared with: autodiff in double precision, and finite differences that know no autodiff."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Rule
from fundamentals.catalogue.examples import parameters

# Largest error of a gradient relative to its largest entry, by the dtype that it is computed in: a few last places.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 5e-3, "bfloat16": 3e-2}


def is_floating(tree: Any) -> bool:
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(tree))


def fill(init: Callable[[Any], Any], seed: int = 0) -> Any:
    """Parameters of the shapes that `init(key)` gives, for which nothing is compiled."""
    return jax.device_put(parameters(np.random.default_rng(seed), init))


def cast(tree: Any, dtype: Any) -> Any:
    """The same numbers in another floating dtype.

    By NumPy and `jax.device_put`: a compiled cast for each shape would take longer. (`jnp.asarray` compiles one, too.)
    """
    return jax.tree.map(
        lambda x: jax.device_put(np.asarray(x).astype(dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def widen(tree: Any) -> Any:
    """The same numbers, in float64."""
    return cast(tree, np.float64)


def cotangent_like(y: Any, seed: int = 7) -> Any:
    """Random, so that no sum of cotangents and no symmetry hides a mistake."""
    return jax.device_put(np.random.RandomState(seed).normal(size=y.shape).astype(y.dtype))


def hand(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, ...]:
    """Cotangents by the rule."""
    return both(rule)(args, dy)[1]


def autodiff(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, ...]:
    """Cotangents by `jax.vjp` of the primal; None for arguments that are not floating."""
    return both(rule, autodiff)(args, dy)[1]


def both(rule: Rule, derivative: Callable[..., Any] = hand) -> Callable[[tuple[Any, ...], Any], Any]:
    """(args, dy) → value and cotangents in one program: by the rule, or of its primal by `autodiff`.

    Eagerly, every operation would be compiled alone.
    """
    pair = {hand: _by_hand, autodiff: _by_autodiff}[derivative]
    return jax.jit(lambda args, dy: pair(rule, args, dy))


def _by_hand(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, tuple[Any, ...]]:
    y, residuals = rule.fwd(*args)
    return y, rule.bwd(residuals, dy)


def _by_autodiff(rule: Rule, args: tuple[Any, ...], dy: Any) -> tuple[Any, tuple[Any, ...]]:
    floating = [i for i, arg in enumerate(args) if is_floating(arg)]

    def primal(*values: Any) -> Any:
        replaced = dict(zip(floating, values, strict=True))
        return rule.primal(*(replaced.get(i, arg) for i, arg in enumerate(args)))

    y, pullback = jax.vjp(primal, *(args[i] for i in floating))
    cotangents = dict(zip(floating, pullback(dy), strict=True))
    return y, tuple(cotangents.get(i) for i in range(len(args)))


def assert_slopes(function: Callable[[Any], Any], at: Any, gradient: Any, what: str) -> None:
    """Finite differences of a scalar function, in float64: the gradient gives its slope in every direction.

    In four random directions for each leaf; a wrong entry is in all. Errors are relative to the largest entry of
    the leaf's gradient. (8 [f(x+h) − f(x−h)] − [f(x+2h) − f(x−2h)]) / 12h has an error of h⁴/30 of the fifth
    derivative.
    """
    random, step = np.random.RandomState(0), 1e-4
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, at))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(at)]
    for i, (path, x, g) in enumerate(zip(paths, leaves, map(np.asarray, jax.tree.leaves(gradient)), strict=True)):
        assert x.dtype == g.dtype == np.float64
        for _ in range(4):
            direction = random.normal(size=x.shape)
            direction /= max(np.linalg.norm(direction), 1e-30)

            def value(steps: int, i: int = i, shift: Any = step * direction) -> float:
                moved = [*leaves[:i], leaves[i] + steps * shift, *leaves[i + 1 :]]
                return float(function(jax.tree.unflatten(structure, moved)))

            slope = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * step)
            error = abs(slope - np.vdot(g, direction)) / max(np.max(np.abs(g), initial=0), 1e-30)
            name = what + jax.tree_util.keystr(path)
            assert error <= 1e-7, f"{name} is {error:.1e} off the slope; expected ≤ 1e-07"


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
