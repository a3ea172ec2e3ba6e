"""What the models of `generative` share: binary digits, training until no better, gradients against `jax.grad`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import measure
from fundamentals import data, optimizers
from fundamentals.base import Array, ArrayTree, PRNGKey

HALF = 0.5  # of white; at least that is 1, as is grey level 8 of 16

DRAWS = 4  # of noise for each validation image

Gradient = Callable[[Any, Array, Array], tuple[Array, Any]]  # parameters, images, noise [N, Z] → loss, its gradient
Costs = Callable[[Any, Array, Array], Array]  # parameters, images [N, D], noise [DRAWS, N, Z] → nats [N]


class Images(NamedTuple):
    """Digits, in a row each."""

    train: np.ndarray  # [N, 64]
    validation: np.ndarray
    test: np.ndarray


class Fitted(NamedTuple):
    """The outcome of `fit`."""

    params: Any  # of the epoch that did best on validation images
    best: int  # that epoch, from 1
    train: list[float]  # nats an image, the mean over each epoch's minibatches
    validation: list[float]  # after each epoch


def digits(*, binary: bool) -> Images:
    """The digits in the box: grey in [0, 1], or each pixel 1 where it is at least half white, else 0."""
    parts = [part.inputs.reshape(len(part.labels), -1) for part in data.digits()]
    return Images(*((part >= HALF).astype(np.float32) if binary else part for part in parts))


def generator(key: PRNGKey) -> np.random.Generator:
    """NumPy's, since JAX would compile one into every program that draws."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def initial(random: np.random.Generator, init: Callable[[PRNGKey], Any], *leading: int) -> Any:
    """Parameters of the shapes that `init` has, as He et al. 2015 draw them: weights of variance 2/inputs, biases 0."""

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        size = (*leading, *shape.shape)
        if len(shape.shape) == 1:
            return np.zeros(size, shape.dtype)
        return np.asarray(random.normal(0, math.sqrt(2 / shape.shape[0]), size), shape.dtype)

    return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0)))


def every_image(pixels: int) -> np.ndarray:
    """All 2^D images, [2^D, D]."""
    return np.array(np.arange(2**pixels)[:, None] >> np.arange(pixels)[::-1] & 1)


def indices(images: np.ndarray) -> np.ndarray:
    """Where binary images [N, D] stand in `every_image`."""
    result: np.ndarray = np.asarray(images, int) @ (1 << np.arange(images.shape[1])[::-1])
    return result


@functools.partial(jax.jit, static_argnames=("gradient", "costs", "learning_rate"))
def _epoch(carry: Any, batches: Any, validation: Any, *, gradient: Gradient, costs: Costs, learning_rate: float) -> Any:
    """A step for each of [T, n, D] images, then the cost of the validation images; the best parameters are kept."""
    optimizer = optimizers.adam(learning_rate)

    def step(inner: Any, given: Any) -> Any:
        params, state = inner
        loss, gradients = gradient(params, *given)
        updates, state = optimizer.update(gradients, state, params)
        return (optimizers.apply_updates(params, updates), state), loss

    params, state, best, least = carry
    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    cost = jnp.mean(costs(params, *validation))
    best = jax.tree.map(lambda new, old: jnp.where(cost < least, new, old), params, best)
    return (params, state, best, jnp.minimum(cost, least)), jnp.stack([jnp.mean(losses), cost])


def fit(
    params: ArrayTree,
    images: Images,
    gradient: Gradient,
    costs: Costs,
    *,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    latent: int,
    random: np.random.Generator,
    note: Callable[[str], None],
) -> Fitted:
    """Train with Adam, by the gradient derived by hand; of all epochs keep the one that did best on validation images.

    Args:
      params: at the start.
      images: to train with, and to choose with; the rest of an epoch that is no whole minibatch is left out.
      gradient: of a minibatch's mean loss. It and `costs` are functions of a module: programs are kept by them.
      costs: of each image.
      learning_rate: η.
      batch_size: of a minibatch.
      epochs: how many.
      latent: Z, numbers of noise that `gradient` and `costs` take for each image; possibly none.
      random: of the order and the noise.
      note: told how far it is.
    """
    count, left = len(images.train) // batch_size, len(images.train) % batch_size
    carry: Any = (params, optimizers.adam(learning_rate).init(params), params, np.float32(np.inf))
    validation = images.validation, random.standard_normal((DRAWS, len(images.validation), latent), np.float32)
    history = []
    for epoch in range(epochs):
        order = random.permutation(len(images.train))[left:].reshape(count, batch_size)
        batches = images.train[order], random.standard_normal((*order.shape, latent), np.float32)
        carry, found = _epoch(carry, batches, validation, gradient=gradient, costs=costs, learning_rate=learning_rate)
        history.append(np.asarray(found))
        note(f"epoch {epoch + 1} of {epochs}")
    train, validation_costs = np.array(history, float).T
    return Fitted(carry[2], int(np.argmin(validation_costs)) + 1, train.tolist(), validation_costs.tolist())


def gradient_difference(
    by_hand: Callable[..., tuple[Array, Any]], loss: Callable[..., Array], calls: Sequence[tuple[Any, ...]]
) -> float:
    """In float64, the largest difference from `jax.grad`, over the largest entry of the array it is in.

    Args:
      by_hand: parameters and what else the loss depends on → loss and gradient.
      loss: of the same; what `jax.grad` differentiates.
      calls: arguments in any dtype: at the start of training and at its end.
    """
    with jax.enable_x64(True):
        both = jax.jit(lambda params, *args: (by_hand(params, *args)[1], jax.grad(loss)(params, *args)))
        return float(np.max([measure.relative_difference(*both(*wide(call))) for call in calls]))


def wide(tree: Any) -> Any:
    """All arrays in float64, as NumPy's."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
