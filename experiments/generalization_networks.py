"""Networks of `generalization`: many, trained side by side as one program, on few images of the digits each."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import activations, data, layers, losses, optimizers, training
from fundamentals.base import Array, PRNGKey
from fundamentals.models import mlp

BATCH = 50  # images of a step
LEARNING_RATE = 3e-3  # of Adam; three times its default, as steps are few
EVERY = 20  # steps from one look at the scores to the next
PATIENCE = 8  # looks without a better validation loss, after which training would stop
LOSS, ERROR = 0, 1  # the scores of a part

TOPICS = "overfitting", "transfer", "selection", "capacity"


class Digits(NamedTuple):
    """All images in the box: first those to draw from, then the test part, that is for the report."""

    images: np.ndarray  # [N, 64]
    labels: np.ndarray  # [N]
    pool: np.ndarray  # indices
    test: np.ndarray  # indices


class Lanes(NamedTuple):
    """What each of L networks is trained with: everything but the images has an axis of L."""

    params: mlp.Params
    labels: Any  # [L, N]
    batches: Any  # [L, T, BATCH], indices of images, a row for each step
    parts: tuple[Any, ...]  # of indices [L, n], to score: the second is watched by early stopping
    keys: PRNGKey  # [L], of dropout
    learning_rate: Any  # [L]
    weight_decay: Any  # [L], λ of AdamW, of weights only
    rate: Any  # [L], of dropout
    trains: Any  # [L], 1, or 0 where hidden layers are frozen


class Trained(NamedTuple):
    """What became of them."""

    params: mlp.Params  # at the end
    scores: Array  # [L, looks, parts, 2], loss and error
    best_scores: Array  # [L, parts, 2], where early stopping would have gone back to
    best_step: Array  # [L]
    stopped: Array  # [L], whether it would have stopped before the end


def digits() -> Digits:
    """Of 8 × 8 pixels in [0, 1]."""
    parts = data.digits()
    images = np.concatenate([part.inputs.reshape(len(part.labels), -1) for part in parts])
    labels = np.concatenate([part.labels for part in parts]).astype(np.int32)
    where = np.arange(len(labels), dtype=np.int32)
    known = len(labels) - len(parts.test.labels)
    return Digits(images, labels, where[:known], where[known:])


def generator(seed: int, topic: str, repeat: int = 0) -> np.random.Generator:
    """One seed, a stream for each topic and repeat."""
    return np.random.default_rng((seed, TOPICS.index(topic), repeat))


def network(random: np.random.Generator, sizes: Sequence[int], within: Sequence[int]) -> mlp.Params:
    """A network of these sizes, He's initialization, padded with zeros to the sizes `within`.

    It stays what it is: relu and its derivative are 0 at 0, so what is padded gets no gradient. Networks of several
    widths are so one program, at the cost of the widest. By NumPy, that compiles nothing.
    """
    result = []
    for (inputs, outputs), shape in zip(itertools.pairwise(sizes), itertools.pairwise(within), strict=True):
        w: Any = np.zeros(shape, np.float32)
        w[:inputs, :outputs] = random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs))
        b: Any = np.zeros(shape[1], np.float32)
        result.append(mlp.Layer(w, b))
    return tuple(result)


def stacked(trees: Sequence[Any]) -> Any:
    """Pytrees of equal shapes, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def logits(params: mlp.Params, x: Array, key: PRNGKey | None = None, rate: Any = 0.0) -> Array:
    """`mlp`, with dropout of hidden units where there is a key: in training."""
    *hidden, output = params
    for index, layer in enumerate(hidden):
        x = activations.relu(layers.linear(x, *layer))
        if key is not None:
            x = layers.dropout(x, key=jax.random.fold_in(key, index), rate=rate)
    return layers.linear(x, *output)


def score(params: mlp.Params, x: Array, labels: Array) -> Array:
    """[mean loss, share of errors]."""
    found = logits(params, x)
    wrong = jnp.argmax(found, axis=-1) != labels
    loss = jnp.mean(losses.softmax_cross_entropy(found, labels))
    return jnp.stack([loss, jnp.mean(wrong, dtype=loss.dtype)])


@functools.partial(jax.jit, static_argnames=("every", "dropout", "stops"))
def train(images: Array, lanes: Lanes, *, every: int, dropout: bool = False, stops: bool = False) -> Trained:
    """AdamW on each lane's minibatches, to the end. Every so many steps it is scored.

    `stops`: early stopping looks on, by the loss of the second part. Training does not stop: both can be compared.
    """

    def one(lane: Lanes) -> Trained:
        optimizer = optimizers.adamw(
            lane.learning_rate, weight_decay=lane.weight_decay, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)
        )
        stopping = training.early_stopping(PATIENCE)

        def scores(params: mlp.Params) -> Array:
            found = [score(params, images[part], lane.labels[part]) for part in lane.parts]
            return jnp.stack(found)

        def step(carry: Any, now: Any) -> Any:
            params, state = carry
            batch, index = now
            key = jax.random.fold_in(lane.keys, index) if dropout else None

            def loss(params: mlp.Params) -> Array:
                found = logits(params, images[batch], key, lane.rate)
                return jnp.mean(losses.softmax_cross_entropy(found, lane.labels[batch]))

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            hidden = jax.tree.map(lambda u: u * lane.trains, updates[:-1])
            return (optimizers.apply_updates(params, (*hidden, updates[-1])), state), None

        def look(carry: Any, now: Any) -> Any:
            trained, watcher = carry
            trained, _ = jax.lax.scan(step, trained, now)
            found = scores(trained[0])
            if stops:
                watcher = stopping.update(found[1, LOSS], trained[0], watcher)
            return (trained, watcher), found

        steps = lane.batches.shape[0]
        now = lane.batches.reshape(steps // every, every, -1), jnp.arange(steps).reshape(-1, every)
        start = (lane.params, optimizer.init(lane.params)), stopping.init(lane.params)
        ((params, _), watcher), history = jax.lax.scan(look, start, now)
        best = scores(watcher.best_params) if stops else history[-1]
        return Trained(params, history, best, (watcher.best_step + 1) * every, watcher.stopped)

    result: Trained = jax.vmap(one)(lanes)
    return result


def lanes(
    params: mlp.Params,
    labels: np.ndarray,
    batches: np.ndarray,
    parts: Sequence[np.ndarray],
    *,
    seed: int = 0,
    learning_rate: Any = LEARNING_RATE,
    weight_decay: Any = 0.0,
    rate: float = 0.0,
    trains: float = 1.0,
) -> Lanes:
    """`Lanes` from what differs; labels [N] and parts [n] may be the same in all lanes."""
    count = len(batches)

    def each(values: Any, dtype: Any, axes: int) -> np.ndarray:
        values = np.asarray(values, dtype)
        return values if values.ndim > axes else np.broadcast_to(values, (count, *values.shape))

    numbers = (each(value, np.float32, 0) for value in (learning_rate, weight_decay, rate, trains))
    keys = jax.random.split(jax.random.key(seed), count)
    scored = tuple(each(part, np.int32, 1) for part in parts)
    return Lanes(params, each(labels, np.int32, 1), np.asarray(batches, np.int32), scored, keys, *numbers)
