"""Evaluation in float64, whatever the caller's configuration: of the function, of its gradient, of autodiff's."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.gradcheck.contract import called
from fundamentals.gradcheck.differences import slope
from fundamentals.gradcheck.precision import is_inexact, is_key
from fundamentals.program import Program

FORWARD = 4096  # entries up to which forward mode takes the place of reverse mode
SMALL = 100_000  # entries of all arguments
NUMERIC = 256  # entries up to which finite differences take each of them


def precisely() -> Any:
    """The context in which everything is evaluated: float64, whole matrix products, no exception at a NaN."""
    stack = contextlib.ExitStack()
    stack.enter_context(jax.enable_x64(True))
    stack.enter_context(jax.default_matmul_precision("highest"))
    stack.enter_context(jax.debug_nans(False))
    stack.enter_context(jax.debug_infs(False))
    stack.enter_context(jax.transfer_guard("allow"))
    return stack


def compiled(function: Callable[..., Any], arrays: Sequence[Any]) -> Callable[..., Any]:
    """`jax.jit`, of a function of such arrays. Where these are small, to compile it takes longer than all its calls, so
    that it is not worth optimizing.
    """
    small = sum(x.size for x in arrays) <= SMALL and jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0} if small else None)


def runner(program: Program) -> Callable[..., Any]:
    """Calls a program with arguments cast to its types."""
    avals = [v.aval for v in program.jaxpr.jaxpr.invars]

    def run(*leaves: Any) -> Any:
        return program(*(x if is_key(x) else jnp.asarray(x, a.dtype) for x, a in zip(leaves, avals, strict=True)))

    return run


def compile_value(function: Callable[..., Any], like: list[Any], eager: bool) -> Callable[[list[Any]], list[Any]]:
    """leaves → floating leaves of the result, as NumPy arrays."""
    run = function if eager else compiled(function, like)

    def call(leaves: list[Any]) -> list[Any]:
        with precisely():
            return [np.asarray(y) for y in run(*leaves)]

    return call


def only_gradient(run: Callable[..., Any]) -> Callable[[list[Any], list[Any]], list[Any]]:
    """The second part of what `compile_truth` returns."""
    return lambda leaves, dy: run(leaves, dy)[1]


def restrict(function: Callable[..., Any], leaves: Sequence[Any], which: Sequence[int]) -> Callable[..., Any]:
    """The function of some of the leaves, the others held where they are."""

    def restricted(*chosen: Any) -> Any:
        full = list(leaves)
        for i, x in zip(which, chosen, strict=True):
            full[i] = x
        return function(*full)

    return restricted


def compile_truth(function: Callable[..., Any], which: tuple[int, ...], like: list[Any], outputs: list[Any]) -> Any:
    """(leaves, dy) → value and gradient by autodiff: in reverse, else (loops of unknown length) forward, entry by
    entry; None where neither works.
    """

    def by_reverse(leaves: list[Any], dy: list[Any]) -> tuple[Any, Any]:
        y, pullback = jax.vjp(restrict(function, leaves, which), *(leaves[i] for i in which))
        return y, pullback([jnp.asarray(d, v.dtype) for d, v in zip(dy, y, strict=True)])

    def by_forward(leaves: list[Any], dy: list[Any]) -> tuple[Any, Any]:
        def scalar(*full: Any) -> Any:
            return sum(jnp.sum(y * jnp.asarray(d, y.dtype)) for y, d in zip(function(*full), dy, strict=True))

        return function(*leaves), jax.jacfwd(scalar, which)(*leaves)

    def usable(derivative: Callable[..., Any]) -> bool:
        try:
            jax.eval_shape(derivative, like, outputs)
        except Exception:
            return False
        return True

    small = sum(like[i].size for i in which) <= FORWARD
    with precisely():
        derivative = by_reverse if usable(by_reverse) else by_forward if small and usable(by_forward) else None
    if derivative is None:
        return None
    run = compiled(derivative, like)

    def call(leaves: list[Any], dy: list[Any]) -> tuple[list[Any], list[Any]]:
        with precisely():
            value, gradient = run(leaves, dy)
            return [np.asarray(y) for y in value], [np.asarray(g) for g in gradient]

    return call


def compile_numeric(
    value: Callable[[list[Any]], list[Any]], which: tuple[int, ...]
) -> Callable[[list[Any], list[Any]], list[Any]]:
    """(leaves, dy) → the gradient by finite differences, entry by entry; NaN where they do not settle."""

    def call(leaves: list[Any], dy: list[Any]) -> list[Any]:
        gradient = []
        for i in which:
            found = np.zeros(leaves[i].shape, leaves[i].dtype)
            size = np.sqrt(np.mean(np.abs(leaves[i]) ** 2)) or 1.0
            coarsest = 0.0
            for place in np.ndindex(found.shape):
                for unit in (1, -1j) if np.iscomplexobj(found) else (1,):
                    u = np.zeros_like(found)
                    u[place] = size * unit
                    step = slope(lambda leaves: (value(leaves), []), leaves, {i: u}, dy)
                    found[place] += unit * step.value / size if np.isfinite(step.bar) else np.nan
                    coarsest = max(coarsest, step.bar / size)
            # What is not known to a millionth is no oracle: the whole leaf is then undecided.
            gradient.append(found if 5 * coarsest <= 1e-6 * np.max(np.abs(found), initial=0.0) else found * np.nan)
        return gradient

    return call


def compile_manual(function: Callable[..., Any], like: list[Any]) -> Callable[..., Any]:
    """(leaves, dy) → what the given gradient returns, of a function of all of them."""
    run = compiled(function, like)

    def call(leaves: list[Any], dy: list[Any]) -> Any:
        with precisely():
            return jax.tree.map(np.asarray, run(*leaves, *dy))

    return call


def compile_as_called(
    function: Callable[..., Any], leaves: list[Any], outputs: list[Any]
) -> Callable[[list[Any], float], list[Any]]:
    """(dy, step) → what a function of (leaves, dy) returns in the caller's types: at the arguments given, all floating
    ones times 1 + step.
    """
    run = compiled(function, leaves)

    def call(dy: list[Any], step: float) -> list[Any]:
        with jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard("allow"):
            cotangents = [jnp.asarray(d, y.dtype) for d, y in zip(dy, outputs, strict=True)]
            near = [x * jnp.asarray(1 + step, x.dtype) if step and is_inexact(x) else x for x in leaves]
            return [np.asarray(g) for g in run(near, cotangents)]

    return call


def call_manual(manual: Any) -> Callable[..., Any]:
    """The same, called with numbers, for functions that cannot be traced."""

    def call(leaves: list[Any], dy: list[Any]) -> Any:
        with precisely():
            copies = [x if is_key(x) else jnp.asarray(x) for x in leaves]
            return jax.tree.map(np.asarray, called(lambda: manual(copies, dy), "the gradient"))

    return call


def without_value(run: Callable[..., Any]) -> Callable[[list[Any], list[Any]], list[Any]]:
    """The gradient only."""
    return lambda leaves, dy: [np.asarray(g) for g in run(leaves, dy)[0]]


def as_function(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (leaves, dy) of one of all of them."""
    return lambda leaves, dy: run(*leaves, *dy)
