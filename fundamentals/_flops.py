"""What one equation of a program costs: floating-point operations, by a convention that a person can check by hand.

- Products and convolutions: 2 for each pair of factors, a multiplication and its addition, so 2·m·n·k for matrices
  [m, k] and [k, n]. Pairs with padding don't count.
- Arithmetic entry by entry (a sum, a quotient, exp, tanh, the larger of two, …): 1 for each entry of the result.
- Reductions and running sums: 1 for each entry that goes in; of windows, for each entry of each window; of `scatter`
  with arithmetic, for each entry that is put there.
- 0 for what moves or chooses entries, converts or compares them, draws random bits, or computes with integers and
  booleans. (Products of integers count as those of floats do.)

What is none of these (decompositions of matrices, Fourier transforms, foreign calls) is not counted, and says so.
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_ARITHMETIC = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "square", "neg", "abs", "sign", "max", "min"),
    *("clamp", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "logistic", "floor", "ceil", "round"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("erf", "erfc", "erf_inv", "lgamma", "digamma", "polygamma", "igamma", "igammac", "bessel_i0e", "bessel_i1e"),
    *("igamma_grad_a", "random_gamma_grad", "regularized_incomplete_beta", "zeta", "nextafter", "conj"),
    *("log2", "one_minus_square"),
}
_REDUCTIONS = {
    *("reduce", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min"),
    *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
}
_WINDOWS = {"reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"}
_SCATTERS = {"scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"}
_MOVES = {
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "dynamic_slice", "dynamic_update_slice", "split"),
    *("gather", "scatter", "concatenate", "pad", "rev", "tile", "select_n", "sort", "top_k", "iota", "empty", "empty2"),
    *("convert_element_type", "bitcast_convert_type", "reduce_precision", "real", "imag", "complex", "copy", "copy_p"),
    *(
        "stop_gradient",
        "device_put",
        "stack",
        "unstack",
        "name",
        "optimization_barrier",
        "sharding_constraint",
        "pvary",
        "pcast",
    ),
    *("argmax", "argmin", "random_wrap", "random_unwrap", "rng_bit_generator", "debug_callback", "debug_print"),
}

# They hold the program that they combine entries with, which is not one to be counted once.
COMBINING = {"reduce", "reduce_window", "select_and_scatter", *_SCATTERS, "scatter"}


class Product(NamedTuple):
    """What a matrix product or a convolution costs."""

    is_matmul: bool
    flops: int


def product(equation: Any) -> Product | None:
    """Of a matrix product or a convolution; None of anything else."""
    name, params = equation.primitive.name, equation.params
    if name not in ("dot_general", "conv_general_dilated"):
        return None
    shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
    left, right, result = shapes[:2] + shapes[-1:]
    if name == "dot_general":
        (contracted, _), (batch, _) = params["dimension_numbers"]
        k = math.prod(left[i] for i in contracted)
        entries = math.prod(result)
        return Product(is_matmul(k, entries, math.prod(left[i] for i in batch)), 2 * k * entries)
    spec = params["dimension_numbers"]
    pairs = 1
    for k, (i, j, o) in enumerate(zip(spec.lhs_spec[2:], spec.rhs_spec[2:], spec.out_spec[2:], strict=True)):
        steps = (params["window_strides"][k], params["padding"][k][0])
        dilations = (params["lhs_dilation"][k], params["rhs_dilation"][k])
        pairs *= window_pairs(left[i], right[j], result[o], *steps, *dilations)
    return Product(True, 2 * result[spec.out_spec[0]] * right[spec.rhs_spec[0]] * right[spec.rhs_spec[1]] * pairs)


def is_matmul(contracted: int, result: int, batch: int) -> bool:
    """Whether a product with so many summands for each entry of the result is one of matrices; see `program.Counts`."""
    return contracted > 1 and result > batch


def window_pairs(image: int, kernel: int, result: int, stride: int, before: int, spread: int, dilation: int) -> int:
    """Along one axis, the pairs of an entry of the result and one of the kernel that meet in an entry of the image,
    not in padding, of which there are so many `before` it, nor in the gaps that the image is `spread` with.
    """
    start = np.arange(result) * stride - before
    pairs = 0
    for j in range(kernel):
        position = start + j * dilation
        pairs += int(np.sum((position >= 0) & (position <= (image - 1) * spread) & (position % spread == 0)))
    return pairs


def other(equation: Any) -> int | None:
    """Floating-point operations of an equation that is no product and holds no program to run; None if not known."""
    name = equation.primitive.name
    if name in _MOVES or not any(_is_inexact(x.aval) for x in equation.outvars):
        return 0
    if name in _ARITHMETIC:
        return sum(int(x.aval.size) for x in equation.outvars)
    if name in _REDUCTIONS:
        # Of several operands together, the second half of them are what `reduce` starts with.
        return sum(int(x.aval.size) for x in equation.invars[: len(equation.outvars)])
    if name in _SCATTERS:
        return int(equation.invars[2].aval.size)
    if name in _WINDOWS:
        return int(equation.outvars[0].aval.size * math.prod(equation.params["window_dimensions"]))
    if name == "select_and_scatter_add":  # finds the largest of each window, and adds there
        return int(equation.invars[0].aval.size * math.prod(equation.params["window_dimensions"]))
    return None


def _is_inexact(aval: Any) -> bool:
    return hasattr(aval, "size") and _inexact(aval.dtype)


@functools.cache
def _inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))
