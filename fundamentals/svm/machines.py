"""What is fitted, and what it says of new points."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import _checks
from fundamentals.base import Array, ArrayLike
from fundamentals.svm.arguments import in_full_precision
from fundamentals.svm.kernels import linear_kernel

BLOCK = 1024
"""Points whose decision values are computed at a time: what bounds the memory of a prediction."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["parameters"], meta_fields=["function", "options"])
@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel with its hyperparameters: those that are floating numbers may be traced, the others are constants.

    So that a program compiled for one γ serves all, and `jax.vmap` can go over them.
    """

    function: Callable[..., Array]
    options: tuple[tuple[str, Hashable], ...]
    parameters: dict[str, Any]

    def __call__(self, x: ArrayLike, z: ArrayLike) -> Array:
        """The Gram matrix of x [N, D] and z [M, D], [N, M]."""
        return self.function(x, z, **dict(self.options), **self.parameters)


def as_kernel(function: str, kernel: Any) -> Kernel:
    """A callable, or a `functools.partial` of one with keywords, with its floating keywords set apart."""
    if isinstance(kernel, Kernel):
        return kernel
    if not callable(kernel):
        raise TypeError(
            f"{function}: kernel is {kernel!r}; expected a function of two arrays of points, such as "
            "svm.linear_kernel or functools.partial(svm.rbf_kernel, gamma=0.1)"
        )
    if not isinstance(kernel, functools.partial) or kernel.args:
        return Kernel(kernel, (), {})
    parameters, options = {}, []
    for name, value in sorted(kernel.keywords.items()):
        if isinstance(value, np.integer | np.bool_):
            value = value.item()
        if isinstance(value, float | np.generic | np.ndarray | jax.Array):
            parameters[name] = value
        else:
            options.append((name, value))
    return Kernel(kernel.func, tuple(options), parameters)


class Support(NamedTuple):
    """The training points that take part in decisions."""

    indices: Array  # [S], int32
    vectors: Array  # [S, D]
    coefficients: Array  # [S] or [P, S], α_i y_i


def support(beta: Array, x: Array) -> Support:
    """The points x [N, D] whose signed coefficients β [N], or [P, N] in any row, are not 0.

    Where β is traced, a size may not depend on it: all points, these first. Else they are gathered by NumPy, as JAX
    would compile for every number of them.
    """
    if isinstance(beta, jax.core.Tracer):
        unused = jnp.all(jnp.atleast_2d(beta) == 0, axis=0)
        order = jnp.argsort(unused).astype(jnp.int32)  # stable
        return Support(order, x[order], beta[..., order])
    values = np.asarray(beta)
    chosen = np.flatnonzero(np.any(np.atleast_2d(values) != 0, axis=0)).astype(np.int32)
    return Support(*jax.device_put((chosen, np.asarray(x)[chosen], values[..., chosen])))


class SupportVectorMachine(NamedTuple):
    """A decision function f(x) = Σ α_i y_i K(x_i, x) + b, and how close to the optimum it is.

    Fitted inside `jit` or `vmap`, `support` has N entries, as its size may not depend on values: support vectors first,
    then points whose coefficient is 0.
    """

    alpha: Array  # [N], 0 ≤ α ≤ c: the price of each training point's margin
    bias: Array  # []
    support: Array  # [S], int32: the training points with α > 0
    support_vectors: Array  # [S, D], those points
    coefficients: Array  # [S], α_i y_i of those
    kernel: Kernel
    primal: Array  # [], the primal objective of w = Σ α_i y_i φ(x_i) and the bias
    dual: Array  # [], the dual objective of α; the optimum lies between the two
    gap: Array  # [], primal − dual ≥ 0
    violation: Array  # [], m − M of `smo`: by how much the worst pair of points violates the conditions of optimality
    iterations: Array  # [], int32: steps of two coefficients
    converged: Array  # [], bool: whether violation and gap are what was asked for

    def __repr__(self) -> str:
        number = "" if isinstance(self.alpha, jax.core.Tracer) else f"{np.count_nonzero(self.alpha)} of "
        return f"SupportVectorMachine({', '.join([f'{number}{self.alpha.shape[-1]} points', *_summary(self)])})"


class LinearMachine(NamedTuple):
    """A decision function f(x) = wᵀx + b, with a certificate."""

    w: Array  # [D]
    bias: Array  # []
    primal: Array  # [], the primal objective
    dual: Array  # [], a lower bound of every primal objective
    gap: Array  # [], primal − dual ≥ 0
    iterations: Array  # [], int32
    converged: Array  # [], bool: whether the gap is what was asked for
    history: "History"

    def __repr__(self) -> str:
        return f"LinearMachine({', '.join(_summary(self))})"


class History(NamedTuple):
    """What an iterative method reached, NaN after its end."""

    primal: Array  # [iterations], the best primal objective so far
    dual: Array  # [iterations], the best lower bound so far


class OneVsOne(NamedTuple):
    """A machine for each pair of K classes, P = K (K − 1) / 2, voting."""

    classes: Array  # [K], the labels, ascending
    pairs: Array  # [P, 2], int32: positions in `classes`; the first has the positive decision values
    alpha: Array  # [P, N], 0 for the points of other classes
    bias: Array  # [P]
    support: Array  # [S], int32: the training points with α > 0 in any pair
    support_vectors: Array  # [S, D]
    coefficients: Array  # [P, S]
    kernel: Kernel
    primal: Array  # [P]
    dual: Array  # [P]
    gap: Array  # [P]
    violation: Array  # [P]
    iterations: Array  # [P], int32
    converged: Array  # [P], bool


def decision_function(machine: Any, x: ArrayLike) -> Array:
    """The decision values f(x), whose sign is the prediction and whose ±1 is the margin.

    Args:
      machine: what a `fit` function of this package returned.
      x: points [B, D], finite.

    Returns:
      [B]; of a `OneVsOne` [B, P], positive where the first class of the pair wins.
    """
    (x,) = _checks.arrays("decision_function", x=(x, "B D"))
    _check_machine("decision_function", machine)
    _checks.finite("decision_function", "x", x)
    if jnp.ndim(machine.bias) != isinstance(machine, OneVsOne):
        raise ValueError(
            "decision_function: machine has a batch axis; expected one machine: jax.vmap(svm.predict, (0, None))(…)"
        )
    if isinstance(machine, SupportVectorMachine | OneVsOne):
        size = machine.support_vectors.shape[-1]
    else:
        size = machine.w.shape[-1]
    if x.shape[1] != size:
        raise ValueError(f"decision_function: x has shape {list(x.shape)}; expected [B, D] with D = {size}")
    if isinstance(machine, SupportVectorMachine):
        return _kernel_values(machine, x)[:, 0] + machine.bias
    if isinstance(machine, OneVsOne):
        return _kernel_values(machine, x) + machine.bias[None, :]
    values: Array = jnp.matmul(x.astype(machine.w.dtype), machine.w) + machine.bias
    return values


def predict(machine: Any, x: ArrayLike) -> Array:
    """The predicted labels: −1 or +1 by the sign of the decision value (0 counts as −1), or the class with most votes.

    Among classes with equally many votes the first wins, as in libsvm.

    Args:
      machine: what a `fit` function of this package returned.
      x: points [B, D].

    Returns:
      [B], integers.
    """
    values = decision_function(machine, x)
    if not isinstance(machine, OneVsOne):
        return jnp.where(values > 0, jnp.int32(1), jnp.int32(-1))
    first, second = machine.pairs[:, 0], machine.pairs[:, 1]
    winners = jnp.where(values > 0, first[None, :], second[None, :])
    numbers = jnp.arange(len(machine.classes), dtype=winners.dtype)
    votes = jnp.sum(winners[:, :, None] == numbers[None, None, :], axis=1)
    labels: Array = machine.classes[jnp.argmax(votes, axis=1)]
    return labels


def weights(machine: Any) -> Array:
    """w = Σ α_i y_i x_i, equation (4) of `objectives`: the normal of the separating plane, of the linear kernel.

    Args:
      machine: what a `fit` function of this package returned.

    Returns:
      [D]; of a `OneVsOne` [P, D].

    Raises:
      ValueError: the kernel is another one, whose w lives in the space of its features.
    """
    _check_machine("weights", machine)
    if not isinstance(machine, SupportVectorMachine | OneVsOne):
        w: Array = machine.w
        return w
    if machine.kernel.function is not linear_kernel:
        name = getattr(machine.kernel.function, "__name__", repr(machine.kernel.function))
        raise ValueError(f"weights: the kernel is {name}; expected linear_kernel, whose features are the inputs")
    return jnp.matmul(machine.coefficients, machine.support_vectors)


def _kernel_values(machine: SupportVectorMachine | OneVsOne, x: Array) -> Array:
    """Σ_s coefficients_ps K(x_b, x_s), [B, P], P = 1 for a single machine."""
    points: Any = machine.support_vectors
    coefficients: Any = jnp.atleast_2d(machine.coefficients)
    number = len(machine.support_vectors)
    if number == 0:
        return jnp.zeros((len(x), len(jnp.atleast_1d(machine.bias))), machine.bias.dtype)
    x = x.astype(machine.bias.dtype)
    if not isinstance(points, jax.core.Tracer) and not isinstance(coefficients, jax.core.Tracer):
        # Up to a multiple of 128 by repeating the last with coefficient 0: machines of about one size share a program.
        more = -number % 128
        points = np.pad(np.asarray(points), ((0, more), (0, 0)), mode="edge")
        coefficients = np.pad(np.asarray(coefficients), ((0, 0), (0, more)))
    values: Array = _sums(machine.kernel, x, points, coefficients)
    return values


@jax.jit
@in_full_precision
def _sums(kernel: Kernel, x: Array, points: Array, coefficients: Array) -> Array:
    """`BLOCK` points at a time, where there are more."""
    if len(x) <= BLOCK:
        return jnp.matmul(kernel(x, points), coefficients.T)
    blocks = jnp.pad(x, ((0, -len(x) % BLOCK), (0, 0)), mode="edge").reshape(-1, BLOCK, x.shape[1])
    sums = jax.lax.map(lambda block: jnp.matmul(kernel(block, points), coefficients.T), blocks)
    values: Array = sums.reshape(-1, len(coefficients))[: len(x)]
    return values


def _check_machine(function: str, machine: Any) -> None:
    if not isinstance(machine, SupportVectorMachine | OneVsOne) and not hasattr(machine, "w"):
        raise TypeError(
            f"{function}: machine is of type {type(machine).__name__}; expected what a fit function of svm returned"
        )


def _summary(machine: SupportVectorMachine | LinearMachine) -> list[str]:
    names = ("bias", "primal", "dual", "gap", "iterations", "converged")
    values = [(name, getattr(machine, name)) for name in names]
    known = [(n, v) for n, v in values if not isinstance(v, jax.core.Tracer) and jnp.ndim(v) == 0]
    return [f"{name}={v if v.dtype.kind in 'bi' else format(float(v), '.6g')}" for name, v in known]
