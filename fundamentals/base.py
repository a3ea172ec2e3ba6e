"""The contract every differentiable function of this library keeps, and the words it is written in.

A rule is three adjacent functions named by the first:

    f(x, …)               -> y                  the textbook function; jax.grad differentiates this
    f_fwd(x, …)           -> (y, residuals)     what the backward pass keeps, and nothing more
    f_bwd(residuals, dy)  -> (dx, …)            derived by hand; one entry per positional argument

`dx` is the cotangent of x: the gradient ∂L/∂x of whatever scalar L is differentiated in the end, where `dy` is ∂L/∂y.
It has the shape and dtype of x. (Partial derivatives of a rule by itself are written ∂y/∂x.) Integer arguments get
None. Options are keyword-only. The backward pass takes those that it needs, with the values that the forward pass had
(not a PRNG key, for example, since what was drawn is kept). Nothing is differentiated with respect to an option.

Shape letters, wherever a docstring or an error message writes a shape:

    B  batch (examples)         K  classes              ...  any leading axes, possibly none
    D  inputs (features)        P  maxout pieces        []   a scalar
    H  outputs (hidden units)   V  vocabulary (rows of a table, or classes where they are many)

    sequences                   images                              attention
    T  time steps               H, W    height and width            T, S  queries, keys
                                kH, kW  those of a kernel           N, K  query heads, key and value heads
                                C, O    channels in, channels out   H     size of a head

Half precision means float16 and bfloat16. Sums over half-precision numbers are taken in float32
and rounded once.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

Array: TypeAlias = jax.Array
ArrayTree: TypeAlias = chex.ArrayTree
Numeric: TypeAlias = chex.Numeric
PRNGKey: TypeAlias = chex.PRNGKey
Shape: TypeAlias = tuple[int, ...]
Tree = TypeVar("Tree")
Initializer: TypeAlias = Callable[[PRNGKey, Shape, DTypeLike], Array]

__all__ = [
    "Array",
    "ArrayLike",
    "ArrayTree",
    "DTypeLike",
    "Initializer",
    "Numeric",
    "PRNGKey",
    "Rule",
    "Shape",
    "accumulation_dtype",
    "bind",
    "hand_derived",
    "product_dtype",
    "vary_together",
]


class Rule(NamedTuple):
    """A differentiable function with its backward pass: the three functions of the module docstring.

    `fwd` and `bwd` follow the protocol of `jax.custom_vjp`, so any pair plugs in there:
    `f.defvjp(rule.fwd, rule.bwd)`.
    """

    primal: Callable[..., Any]
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., tuple[Any, ...]]


def bind(rule: Rule, **options: Any) -> Rule:
    """Fix keyword-only options of a rule, in each of its functions that takes them.

    Example: `bind(Rule(elu, elu_fwd, elu_bwd), alpha=0.5)`.

    Raises:
      TypeError: the primal takes no such option.
    """
    accepted = _options(rule.primal)
    for name in options:
        if name not in accepted:
            raise TypeError(
                f"bind: {_name(rule.primal)} has no option {name!r}; expected one of {sorted(accepted) or 'no options'}"
            )
    if not options:
        return rule
    needed = {name: value for name, value in options.items() if name in _options(rule.bwd)}
    return Rule(
        functools.partial(rule.primal, **options),
        functools.partial(rule.fwd, **options),
        functools.partial(rule.bwd, **needed),
    )


def hand_derived(rule: Rule) -> Callable[..., Any]:
    """A drop-in replacement for `rule.primal` whose reverse mode is `rule.bwd`.

    For research code that wants the speed or memory of the hand-derived backward pass inside
    `jax.grad`. As with any `jax.custom_vjp`, forward mode (`jax.jvp`) is not available. Keyword-only options are
    constants: their gradient is 0, where autodiff of the primal may give another. Those that are arrays (a key, a mask)
    may be traced or mapped over.

    Args:
      rule: the function and its passes.

    Returns:
      A function called as the primal is, keyword-only options included.

    Example: `jax.grad(lambda x: hand_derived(Rule(elu, elu_fwd, elu_bwd))(x, alpha=0.5).sum())`.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"hand_derived: rule is {rule!r}; expected a Rule(primal, fwd, bwd)")
    signature = inspect.signature(rule.primal)

    @functools.wraps(rule.primal)
    def function(*args: Any, **kwargs: Any) -> Any:
        # custom_vjp resolves no keyword-only arguments. Those that are arrays become operands without a cotangent, as
        # it may not close over what is traced; the others are bound.
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            options = ", ".join(sorted(_options(rule.primal))) or "none"
            raise TypeError(f"{_name(rule.primal)}: {error}; its keyword-only options: {options}") from None
        arrays = {name: value for name, value in bound.kwargs.items() if isinstance(value, jax.Array | np.ndarray)}
        constants = bind(rule, **{name: value for name, value in bound.kwargs.items() if name not in arrays})

        def primal(arrays: dict[str, Any], *args: Any) -> Any:
            return bind(constants, **arrays).primal(*args)

        def fwd(arrays: dict[str, Any], *args: Any) -> tuple[Any, Any]:
            y, residuals = bind(constants, **arrays).fwd(*args)
            return y, ({name: value for name, value in arrays.items() if name in _options(rule.bwd)}, residuals)

        def bwd(kept: tuple[dict[str, Any], Any], dy: Any) -> tuple[Any, ...]:
            arrays, residuals = kept
            cotangents = bind(constants, **arrays).bwd(residuals, dy)
            if not isinstance(cotangents, tuple) or len(cotangents) != len(bound.args):
                given = type(cotangents).__name__
                given += f" of {len(cotangents)}" if isinstance(cotangents, tuple) else ""
                raise TypeError(
                    f"hand_derived: the backward pass of {_name(rule.primal)} returned a {given}; expected a tuple of "
                    f"{len(bound.args)}, one cotangent for each positional argument"
                )
            return None, *cotangents

        differentiable = jax.custom_vjp(primal)
        differentiable.defvjp(fwd, bwd)
        return differentiable(*vary_together((arrays, *bound.args)))

    return function


def vary_together(tree: Tree) -> Tree:
    """The same arrays, each of them varying over every `jax.shard_map` mesh axis that any of them varies over.

    Outside of `shard_map` it changes nothing. Inside, it is what the state of a loop and the cotangents of a custom_vjp
    ask for; the cotangent of an array that is the same on all devices is summed over them, as autodiff does.
    """
    leaves, structure = jax.tree.flatten(tree)
    axes = [_varying_axes(leaf) for leaf in leaves]
    union = frozenset[str]().union(*axes)
    varying = [
        jax.lax.pcast(leaf, tuple(union - own), to="varying")
        if union - own and isinstance(leaf, jax.Array | np.ndarray)
        else leaf
        for leaf, own in zip(leaves, axes, strict=True)
    ]
    result: Tree = jax.tree.unflatten(structure, varying)
    return result


def product_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which cotangents of `dtype` numbers meet other operands in a matrix product: float32 for float16.

    Inside of a rule they may leave float16's range, 6e-8 to 65504, and come back: 1/B of a large batch, or a difference
    that a small operand multiplies. bfloat16 has the range of float32.
    """
    return jnp.dtype(jnp.float32 if jnp.dtype(dtype) == jnp.float16 else dtype)


def _varying_axes(x: Any) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying if isinstance(x, jax.Array) else frozenset()


def accumulation_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which sums of `dtype` numbers are taken: float32 for half precision, else its own."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def _options(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", repr(function))
