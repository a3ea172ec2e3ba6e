"""The contract every differentiable function of this library keeps, and the words it is written in.

A rule is three adjacent functions named by the first:

    f(x, …)               -> y                  the textbook function; jax.grad differentiates this
    f_fwd(x, …)           -> (y, residuals)     what the backward pass keeps, and nothing more
    f_bwd(residuals, dy)  -> (dx, …)            derived by hand; one entry per positional argument

`dx` is the cotangent of x: the gradient ∂L/∂x of whatever scalar L is differentiated in the end, where `dy` is ∂L/∂y.
It has the shape and dtype of x. (Partial derivatives of a rule by itself are written ∂y/∂x.) Integer arguments get
None. Options are keyword-only, and the same for the forward and the backward pass.

Shape letters, wherever a docstring or an error message writes a shape:

    B  batch (examples)         K  classes              ...  any leading axes, possibly none
    D  inputs (features)        P  maxout pieces
    H  outputs (hidden units)   [] a scalar

Half precision means float16 and bfloat16. Sums over half-precision numbers are taken in float32
and rounded once.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

Array: TypeAlias = jax.Array
ArrayTree: TypeAlias = chex.ArrayTree
Numeric: TypeAlias = chex.Numeric
PRNGKey: TypeAlias = chex.PRNGKey
Shape: TypeAlias = tuple[int, ...]
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
    """Fix the keyword-only options of a rule, in all three functions alike.

    Example: `bind(Rule(elu, elu_fwd, elu_bwd), alpha=0.5)`.

    Raises:
      TypeError: the primal takes no such option.
    """
    accepted = {
        name
        for name, parameter in inspect.signature(rule.primal).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
    }
    for name in options:
        if name not in accepted:
            raise TypeError(
                f"bind: {_name(rule.primal)} has no option {name!r}; expected one of {sorted(accepted) or 'no options'}"
            )
    return Rule(*(functools.partial(function, **options) for function in rule)) if options else rule


def hand_derived(rule: Rule) -> Callable[..., Any]:
    """A drop-in replacement for `rule.primal` whose reverse mode is `rule.bwd`.

    For research code that wants the speed or memory of the hand-derived backward pass inside
    `jax.grad`. As with any `jax.custom_vjp`, forward mode (`jax.jvp`) is not available; keyword-only options are
    constants, which nothing differentiates through.

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
        # custom_vjp resolves no keyword-only arguments: they are bound here, the arrays stay positional.
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{_name(rule.primal)}: {error}") from None
        primal, fwd, bwd = bind(rule, **bound.kwargs)
        differentiable = jax.custom_vjp(primal)
        differentiable.defvjp(fwd, bwd)
        return differentiable(*bound.args)

    return function


def accumulation_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which sums of `dtype` numbers are taken: float32 for half precision, else its own."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", repr(function))
