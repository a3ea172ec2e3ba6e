"""Programs of `batch_size`: gradients of minibatches, sums and means, training at many learning rates, sharpness."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import initializers, optimizers
from fundamentals.base import Array, ArrayTree, PRNGKey
from fundamentals.catalogue import RULES
from fundamentals.models import mlp

METHODS = ("sgd", "momentum", "rmsprop", "adam")
TANH = RULES["tanh"].rule  # smooth: second derivatives exist everywhere
CROSS_ENTROPY = mlp.SOFTMAX_CROSS_ENTROPY
loss = functools.partial(mlp.loss, activation=TANH)
loss_and_gradient = functools.partial(mlp.loss_and_gradient, activation=TANH)


class Examples(NamedTuple):
    """What is learned."""

    x: Array  # [N, D]
    labels: Array  # [N]


@jax.jit
def losses(params: mlp.Params, examples: Examples) -> Array:
    """The loss of all examples, for networks with a leading axis."""
    result: Array = jax.vmap(lambda p: loss(p, *examples))(params)
    return result


class Lanes(NamedTuple):
    """Networks that are trained side by side: S seeds, E learning rates."""

    params: mlp.Params  # [S, E, …]
    states: Any  # of the optimizer, [S, E, …]
    reached: Array  # [S, E] bool: the loss has been at the target or below
    at_target: mlp.Params  # [S, E, …], where that was for the first time


def mean_gradient(params: mlp.Params, batch: Examples) -> mlp.Params:
    """Of the mean loss."""
    gradients: mlp.Params = loss_and_gradient(params, *batch)[1]
    return gradients


def summed_gradient(params: mlp.Params, batch: Examples) -> mlp.Params:
    """Of the sum of the losses: every example's loss has cotangent 1, none is divided by n."""
    logits, residuals = mlp.mlp_fwd(params, batch.x, activation=TANH)
    losses, loss_residuals = CROSS_ENTROPY.fwd(logits, batch.labels)
    dlogits = CROSS_ENTROPY.bwd(loss_residuals, jnp.ones_like(losses))[0]
    return mlp.mlp_bwd(residuals, dlogits, activation=TANH)[0]


def taken(examples: Examples, indices: Array) -> Examples:
    """The examples with these indices."""
    return Examples(examples.x[indices], examples.labels[indices])


def dot(a: ArrayTree, b: ArrayTree) -> Array:
    """The inner product of two pytrees."""
    products = [jnp.vdot(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return jnp.sum(jnp.stack(products))


# The noise of a minibatch's gradient.


@jax.jit
def noise_level(params: mlp.Params, examples: Examples) -> tuple[Array, mlp.Params]:
    """(σ², the full gradient): the mean square of a single example's deviation, from the gradients of all of them."""
    one_each = Examples(examples.x[:, None], examples.labels[:, None])  # N batches of one
    gradients = jax.vmap(mean_gradient, in_axes=(None, 0))(params, one_each)
    full = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
    apart = jax.tree.map(lambda g, mean: g - mean[None], gradients, full)
    return dot(apart, apart) / len(examples.labels), full


@jax.jit
def squared_deviations(params: mlp.Params, examples: Examples, full: mlp.Params, batches: Array) -> Array:
    """|ĝ − g|² for each minibatch, [K] of [K, n] indices."""

    def deviation(indices: Array) -> Array:
        apart = jax.tree.map(jnp.subtract, mean_gradient(params, taken(examples, indices)), full)
        return dot(apart, apart)

    result: Array = jax.lax.map(deviation, batches)
    return result


def drawn(key: PRNGKey, *, draws: int, n: int, total: int, replace: bool) -> np.ndarray:
    """Indices of so many minibatches, [draws, n]. By NumPy: JAX would compile a sort for every size."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    if replace:
        return random.integers(0, total, (draws, n), dtype=np.int32)
    everything = np.broadcast_to(np.arange(total, dtype=np.int32), (draws, total))
    return random.permuted(everything, axis=1)[:, :n]


# Sum against mean.


@functools.partial(jax.jit, static_argnames="gradient")
def trajectory(
    gradient: Callable[..., mlp.Params], eta: Array, params: mlp.Params, examples: Examples, batches: Array
) -> mlp.Params:
    """The parameters after each step of gradient descent, one step for each of [T, n] indices."""
    optimizer = optimizers.sgd(eta)

    def step(carry: Any, indices: Array) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradient(params, taken(examples, indices)), state, params)
        params = optimizers.apply_updates(params, updates)
        return (params, state), params

    result: mlp.Params = jax.lax.scan(step, (params, optimizer.init(params)), batches)[1]
    return result


# Training.


@functools.partial(jax.jit, static_argnames="sizes")
def networks(keys: PRNGKey, *, sizes: tuple[int, ...]) -> mlp.Params:
    """A network for each key, in float32."""
    params: mlp.Params = jax.vmap(lambda key: mlp.init(key, sizes, initializer=initializers.xavier_normal()))(keys)
    return params


@functools.partial(jax.jit, static_argnames="method")
def start(params: mlp.Params, etas: Array, *, method: str) -> Lanes:
    """From S networks: all learning rates begin with the same parameters."""

    def one(params: mlp.Params, eta: Array) -> Lanes:
        return Lanes(params, getattr(optimizers, method)(eta).init(params), jnp.array(False), params)

    lanes: Lanes = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(params, etas)
    return lanes


def _steps(method: str, etas: Array, params: Any, states: Any, examples: Examples, batches: Array) -> Any:
    """A step of all E learning rates for each of [T, n] indices: they see the same minibatches."""

    def step(carry: Any, indices: Array) -> Any:
        batch = taken(examples, indices)

        def lane(eta: Array, params: Any, state: Any) -> Any:
            updates, state = getattr(optimizers, method)(eta).update(mean_gradient(params, batch), state, params)
            return optimizers.apply_updates(params, updates), state

        return jax.vmap(lane)(etas, *carry), None

    return jax.lax.scan(step, (params, states), batches)[0]


@functools.partial(jax.jit, static_argnames=("method", "n"))
def train(
    lanes: Lanes, etas: Array, examples: Examples, order: Array, target: Array, *, method: str, n: int
) -> tuple[Lanes, Array]:
    """All steps with the examples in this order, [S, examples]; then the loss of all examples, [S, E]."""

    def of_seed(params: Any, states: Any, indices: Array) -> Any:
        params, states = _steps(method, etas, params, states, examples, indices.reshape(-1, n))
        return params, states, jax.vmap(lambda p: loss(p, *examples))(params)

    params, states, losses = jax.vmap(of_seed)(lanes.params, lanes.states, order)
    now = ~lanes.reached & (losses <= target)
    at_target = jax.tree.map(
        lambda new, old: jnp.where(now.reshape(now.shape + (1,) * (new.ndim - 2)), new, old), params, lanes.at_target
    )
    return Lanes(params, states, lanes.reached | now, at_target), losses


@functools.partial(jax.jit, static_argnames=("method", "n"))
def epoch_of_one(params: Any, state: Any, eta: Array, examples: Examples, order: Array, *, method: str, n: int) -> Any:
    """An epoch of a single network, to be timed."""
    etas, params, states = jax.tree.map(lambda leaf: leaf[None], (eta, params, state))
    return _steps(method, etas, params, states, examples, order.reshape(-1, n))


# Sharpness: the largest eigenvalue of the Hessian.


def _power_iterations(params: Any, v: Any, examples: Examples, count: int) -> tuple[Any, Array]:
    """(v, vᵀHv) after so many Hessian-vector products: derivatives of the gradient by hand, along v."""
    along = jax.linearize(lambda p: mean_gradient(p, examples), params)[1]  # the part that v has no part in, once

    def iterate(carry: Any, _: None) -> Any:
        v, _ = carry
        hv = along(v)
        norm = jnp.sqrt(dot(hv, hv))
        return (jax.tree.map(lambda leaf: leaf / norm, hv), dot(v, hv)), None

    start = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
    (v, sharpness), _ = jax.lax.scan(iterate, (v, start), None, length=count)
    return v, sharpness


@functools.partial(jax.jit, static_argnames="count")
def sharpness(params: Any, key: PRNGKey, examples: Examples, *, count: int = 60) -> tuple[Any, Array]:
    """The eigenvectors and eigenvalues of largest magnitude, for networks with a leading axis."""

    def one(params: Any) -> tuple[Any, Array]:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        v = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        norm = jnp.sqrt(dot(v, v))
        return _power_iterations(params, jax.tree.unflatten(structure, [leaf / norm for leaf in v]), examples, count)

    result: tuple[Any, Array] = jax.vmap(one)(params)
    return result


@functools.partial(jax.jit, static_argnames="full")
def descend(params: Any, v: Any, etas: Array, examples: Examples, batches: Array, *, full: bool) -> tuple[Array, Array]:
    """The loss of all examples before each step and after the last, [S, E, T + 1]; the sharpness before, [S, E, T].

    Gradient descent of S networks with E learning rates, one step for each of [T, n] indices. The eigenvectors v are
    those at the start; they change slowly, so that a few power iterations at each step keep up. Without `full`, for
    minibatches, no sharpness.
    """

    def lane(params: Any, v: Any, eta: Array) -> Any:
        def step(carry: Any, indices: Array) -> Any:
            params, v = carry
            if full:
                v, curvature = _power_iterations(params, v, examples, 2)
                before, gradient = loss_and_gradient(params, *examples)
            else:
                curvature, before = jnp.full((), jnp.nan), loss(params, *examples)
                gradient = mean_gradient(params, taken(examples, indices))
            updates, _ = optimizers.sgd(eta).update(gradient, optimizers.sgd(eta).init(params), params)
            return (optimizers.apply_updates(params, updates), v), (before, curvature)

        (params, _), (losses, curvatures) = jax.lax.scan(step, (params, v), batches)
        return jnp.append(losses, loss(params, *examples)), curvatures

    over_etas = jax.vmap(lane, in_axes=(None, None, 0))
    result: tuple[Array, Array] = jax.vmap(over_etas, in_axes=(0, 0, None))(params, v, etas)
    return result


def first_below(losses: np.ndarray, target: float, parts: int) -> np.ndarray:
    """Epochs until the loss is at the target, of losses [evaluations, …], so many an epoch; infinite if it never is."""
    there = losses <= target
    return np.where(there.any(axis=0), (there.argmax(axis=0) + 1) / parts, np.inf)
