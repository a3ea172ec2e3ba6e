"""Local derivatives of what works entry by entry: y = f(a, b, …), with ∂y/∂a, ∂y/∂b, … as large as y.

The chain rule is one multiplication, downstream = upstream × local. A local derivative that is a mask selects: upstream
passes where it is true, and nothing does elsewhere, not even NaN. None: nothing passes at all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Entrywise(NamedTuple):
    """An operation's local derivatives."""

    formulas: tuple[str, ...]  # of each operand; y is the result, a and b are operands, x an only one
    local: Callable[[Any, Sequence[Any], Mapping[str, Any]], tuple[Any, ...]]  # (y, operands, parameters) → one each


def _of(formula: str, derivative: Callable[[Any, Any], Any]) -> Entrywise:
    """Of one operand, from the result and it."""
    return Entrywise((formula,), lambda y, operands, _: (derivative(y, *operands),))


def _of_two(formulas: tuple[str, str], derivatives: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Entrywise:
    return Entrywise(formulas, lambda y, operands, _: derivatives(y, *operands))


def _nonzero(x: Any) -> Any:
    """x, with 1 for 0: where another factor is 0, or the logarithm is to be."""
    return jnp.where(x == 0, jnp.ones_like(x), x)


def _larger(a: Any, b: Any) -> Any:
    """1 where a is larger, ½ where both are the same, else 0."""
    return jnp.where(a == b, jnp.asarray(0.5, a.dtype), (a > b).astype(a.dtype))


def _power(y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    if jnp.issubdtype(b.dtype, jnp.integer):
        b = b.astype(a.dtype)
    slope = jnp.where(b == 0, jnp.zeros_like(y), b * jax.lax.pow(*jnp.broadcast_arrays(a, _nonzero(b) - 1)))
    return slope, y * jnp.log(_nonzero(a))


def _integer_power(y: Any, operands: Sequence[Any], params: Mapping[str, Any]) -> tuple[Any]:
    (x,), n = operands, params["y"]
    return (0.0 if n == 0 else n * jax.lax.integer_pow(x, n - 1),)


def _chosen(y: Any, operands: Sequence[Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
    which, *cases = operands
    if which.dtype == bool:
        return None, ~which, which
    return None, *(which == i for i in range(len(cases)))


def _clamped(y: Any, operands: Sequence[Any], params: Mapping[str, Any]) -> tuple[Any, ...]:
    low, x, high = operands
    return (low > x) & (low < high), (x > low) & (x < high), x > high


_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)

ENTRYWISE: dict[str, Entrywise] = {
    # arithmetic
    "add": _of_two(("1", "1"), lambda y, a, b: (1.0, 1.0)),
    "add_any": _of_two(("1", "1"), lambda y, a, b: (1.0, 1.0)),
    "sub": _of_two(("1", "−1"), lambda y, a, b: (1.0, -1.0)),
    "mul": _of_two(("b", "a"), lambda y, a, b: (b, a)),
    "div": _of_two(("1/b", "−y/b"), lambda y, a, b: (1 / b, -y / b)),
    "rem": _of_two(("1", "−trunc(a/b)"), lambda y, a, b: (1.0, -jnp.trunc(a / b))),
    "pow": _of_two(("b·aᵇ⁻¹", "y·ln a"), _power),
    "integer_pow": Entrywise(("n·xⁿ⁻¹",), _integer_power),
    "square": _of("2x", lambda y, x: 2 * x),
    "one_minus_square": _of("−2x", lambda y, x: -2 * x),
    "neg": _of("−1", lambda y, x: -1.0),
    "abs": _of("1, or −1 for x < 0", lambda y, x: jnp.where(x >= 0, jnp.ones_like(x), -jnp.ones_like(x))),
    "sqrt": _of("1/(2y)", lambda y, x: 0.5 / y),
    "rsqrt": _of("−y/(2x)", lambda y, x: -0.5 * y / x),
    "cbrt": _of("1/(3y²)", lambda y, x: 1 / (3 * y * y)),
    "atan2": _of_two(("b/(a² + b²)", "−a/(a² + b²)"), lambda y, a, b: (b / (a * a + b * b), -a / (a * a + b * b))),
    # exponentials
    "exp": _of("y", lambda y, x: y),
    "exp2": _of("y·ln 2", lambda y, x: y * math.log(2)),
    "expm1": _of("y + 1", lambda y, x: y + 1),
    "log": _of("1/x", lambda y, x: 1 / x),
    "log2": _of("1/(x·ln 2)", lambda y, x: 1 / (x * math.log(2))),
    "log1p": _of("1/(1 + x)", lambda y, x: 1 / (1 + x)),
    "logistic": _of("y(1 − y)", lambda y, x: y * (1 - y)),
    # trigonometric and hyperbolic
    "sin": _of("cos x", lambda y, x: jnp.cos(x)),
    "cos": _of("−sin x", lambda y, x: -jnp.sin(x)),
    "tan": _of("1 + y²", lambda y, x: 1 + y * y),
    "asin": _of("1/√(1 − x²)", lambda y, x: jax.lax.rsqrt((1 - x) * (1 + x))),
    "acos": _of("−1/√(1 − x²)", lambda y, x: -jax.lax.rsqrt((1 - x) * (1 + x))),
    "atan": _of("1/(1 + x²)", lambda y, x: 1 / (1 + x * x)),
    "sinh": _of("cosh x", lambda y, x: jnp.cosh(x)),
    "cosh": _of("sinh x", lambda y, x: jnp.sinh(x)),
    "tanh": _of("1 − y²", lambda y, x: (1 - y) * (1 + y)),
    "asinh": _of("1/√(x² + 1)", lambda y, x: jax.lax.rsqrt(x * x + 1)),
    "acosh": _of("1/√(x² − 1)", lambda y, x: jax.lax.rsqrt(x - 1) * jax.lax.rsqrt(x + 1)),
    "atanh": _of("1/(1 − x²)", lambda y, x: 1 / ((1 - x) * (1 + x))),
    # special functions
    "erf": _of("2/√π·exp(−x²)", lambda y, x: _TWO_OVER_ROOT_PI * jnp.exp(-x * x)),
    "erfc": _of("−2/√π·exp(−x²)", lambda y, x: -_TWO_OVER_ROOT_PI * jnp.exp(-x * x)),
    "erf_inv": _of("√π/2·exp(y²)", lambda y, x: jnp.exp(y * y) / _TWO_OVER_ROOT_PI),
    "lgamma": _of("digamma(x)", lambda y, x: jax.lax.digamma(x)),
    "digamma": _of("polygamma(1, x)", lambda y, x: jax.lax.polygamma(jnp.ones_like(x), x)),
    # kinks: at a tie of max and min each operand gets half
    "max": _of_two(("[a > b]", "[b > a]"), lambda y, a, b: (_larger(a, b), _larger(b, a))),
    "min": _of_two(("[a < b]", "[b < a]"), lambda y, a, b: (_larger(b, a), _larger(a, b))),
    "select_n": Entrywise(("–", "[not chosen]", "[chosen]"), _chosen),
    "clamp": Entrywise(("[low > x]", "[low < x < high]", "[x > high]"), _clamped),
    # copies
    "copy": _of("1", lambda y, x: 1.0),
    "copy_p": _of("1", lambda y, x: 1.0),
    "convert_element_type": _of("1", lambda y, x: 1.0),
    "optimization_barrier": Entrywise(("1",), lambda y, operands, _: (1.0,) * len(operands)),
    "name": _of("1", lambda y, x: 1.0),
    "pvary": Entrywise(("1",), lambda y, operands, _: (1.0,) * len(operands)),
    "device_put": Entrywise(("1",), lambda y, operands, _: (1.0,) * len(operands)),
    "sharding_constraint": _of("1", lambda y, x: 1.0),
}

# Of these no gradient comes back: they are constant between jumps, or meant to block it.
FLAT = {
    *("floor", "ceil", "round", "sign", "is_finite", "stop_gradient", "iota", "argmax", "argmin"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "reduce_and", "reduce_or", "reduce_xor"),
    *("shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count", "clz", "bitcast_convert_type"),
    *("random_bits", "random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split", "random_clone"),
    *("threefry2x32", "axis_index", "debug_callback", "debug_print"),
}
