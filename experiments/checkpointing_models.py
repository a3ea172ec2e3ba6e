"""Models of `gradient_checkpointing`: chains of stages (params_i, carry) → carry, and a long recurrent network.

The shapes of chains are those in which checkpointing is used: an MLP, one with dropout and a transformer, of equal
stages, and a convolutional network whose early stages hold most of the memory and whose late ones cost as much.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array
from fundamentals.memory.checkpointing.chains import Stage

CLASSES = 10
NAMES = ("mlp", "dropout", "cnn", "transformer")


class Layer(NamedTuple):
    """A linear or convolutional layer."""

    w: Array
    b: Array


class Block(NamedTuple):
    """A transformer's."""

    qkv: Array  # [M, 3 M]
    output: Array  # [M, M]
    widen: Layer
    narrow: Layer


class Model(NamedTuple):
    """A chain that ends in logits [B, K], with data to train it on."""

    name: str
    stages: tuple[Stage, ...]
    params: list[Any]
    x: Any  # the first carry
    labels: Array  # [B]


def dense(p: Layer, x: Array) -> Array:
    """A hidden layer of the MLP."""
    return jax.nn.gelu(add(x @ p.w, p.b))


def classify(p: Layer, x: Array) -> Array:
    """The last stage of each model: logits of the average over all but examples and features."""
    x = jnp.mean(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    return add(x @ p.w, p.b)


def convolve(p: Layer, x: Array, stride: int = 1) -> Array:
    """3 × 3, and an activation."""
    x = jax.lax.conv_general_dilated(x, p.w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.gelu(add(x, p.b))


halve = functools.partial(convolve, stride=2)


def dropped(p: Layer, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    """A hidden layer beside an identity, with dropout: of each entry that is left out nothing is added."""
    x, key = carry
    key, own = jax.random.split(key)
    kept = jax.random.bernoulli(own, 0.9, x.shape)
    return x + jnp.where(kept, dense(p, x) / 0.9, jnp.zeros_like(x)), key


def classify_carried(p: Layer, carry: tuple[Array, Array]) -> Array:
    """Of a carry with a key."""
    return classify(p, carry[0])


def block(p: Block, x: Array) -> Array:
    """Attention and two layers, each after a normalization and beside an identity."""
    heads = 4
    q, k, v = jnp.split((normalize(x) @ p.qkv).reshape(*x.shape[:2], heads, -1), 3, axis=-1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(x.shape) @ p.output
    return x + add(dense(p.widen, normalize(x)) @ p.narrow.w, p.narrow.b)


def add(x: Array, b: Array) -> Array:
    """A bias for each feature."""
    return x + jnp.broadcast_to(b, x.shape)


def normalize(x: Array) -> Array:
    """Along features."""
    return (x - jnp.mean(x, -1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5)


def mlp(rng: np.random.Generator, *, layers: int, batch: int) -> Model:
    """Hidden layers of 128, and the last."""
    width = 128
    sizes: list[tuple[int, ...]] = [*[(width, width)] * layers, (width, CLASSES)]
    return _model("mlp", (dense,) * layers + (classify,), sizes, (batch, width), rng)


def dropout(rng: np.random.Generator, *, layers: int, batch: int) -> Model:
    """The same beside identities, with dropout, whose key is handed on."""
    plain = mlp(rng, layers=layers, batch=batch)
    carry = plain.x, jax.random.key(int(rng.integers(2**32)))
    return plain._replace(name="dropout", stages=(dropped,) * layers + (classify_carried,), x=carry)


def cnn(rng: np.random.Generator, *, convolutions: int, batch: int) -> Model:
    """Four resolutions, 32 × 32 with 8 channels to 4 × 4 with 64, of so many convolutions each, and the last layer."""
    stages: list[Stage] = []
    sizes: list[tuple[int, ...]] = []
    previous = 3
    for level in range(4):
        channels = 8 * 2**level
        for i in range(convolutions):
            stages.append(halve if level and not i else convolve)
            sizes.append((3, 3, previous, channels))
            previous = channels
    return _model("cnn", (*stages, classify), [*sizes, (previous, CLASSES)], (batch, 32, 32, 3), rng)


def transformer(rng: np.random.Generator, *, blocks: int, batch: int) -> Model:
    """Blocks over 64 positions of 64 features with four heads, and the last layer."""
    width, length = 64, 64
    inner = (width, 4 * width)

    def init() -> Block:
        qkv, output = _normal(rng, (width, 3 * width)), _normal(rng, (width, width))
        return Block(qkv, output, _layer(rng, inner), _layer(rng, inner[::-1]))

    last = _model("transformer", (classify,), [(width, CLASSES)], (batch, length, width), rng)
    return last._replace(
        stages=(block,) * blocks + (classify,), params=[*(init() for _ in range(blocks)), *last.params]
    )


def _model(
    name: str, stages: tuple[Stage, ...], sizes: list[tuple[int, ...]], shape: Any, rng: np.random.Generator
) -> Model:
    labels = jnp.asarray(rng.integers(0, CLASSES, shape[0]), jnp.int32)
    return Model(name, stages, [_layer(rng, size) for size in sizes], jnp.asarray(rng.normal(size=shape)), labels)


def _layer(rng: np.random.Generator, shape: tuple[int, ...]) -> Layer:
    """Biases are off 0."""
    return Layer(_normal(rng, shape), jnp.asarray(0.1 * rng.normal(size=shape[-1])))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """He's initialization."""
    return jnp.asarray(rng.normal(size=shape) * (2 / math.prod(shape[:-1])) ** 0.5)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean over examples."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def loss(apply: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    """(params, x, labels) → the loss of a chain that is computed by `apply`."""
    return lambda params, x, labels: cross_entropy(apply(params, x), labels)


class Rnn(NamedTuple):
    """The parameters of a recurrent network."""

    x: Array  # [D, U]
    h: Array  # [U, U]
    b: Array  # [U]


def rnn(rng: np.random.Generator, *, steps: int, units: int = 32, batch: int = 16) -> tuple[Rnn, Array]:
    """A network whose gradients neither explode nor vanish at once, and a sequence [T, B, D] for it."""
    h = 0.95 * np.linalg.qr(rng.normal(size=(units, units)))[0]
    x, b = rng.normal(size=(4, units)), 0.1 * rng.normal(size=units)
    return Rnn(*map(jnp.asarray, (x, h, b))), jnp.asarray(0.1 * rng.normal(size=(steps, batch, 4)))


def rnn_loss(scan: Callable[..., Any]) -> Callable[[Rnn, Array], Array]:
    """(params, sequence) → a loss to which every step adds; `scan` is `jax.lax.scan`, or as it."""

    def loss_fn(params: Rnn, xs: Array) -> Array:
        def step(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
            h, total = carry
            h = jnp.tanh(add(x @ params.x + h @ params.h, params.b))
            return (h, total + jnp.mean(jnp.cosh(h))), None

        first = jnp.zeros((xs.shape[1], params.b.shape[0]), xs.dtype)
        (_, total), _ = scan(step, (first, jnp.zeros((), xs.dtype)), xs)
        mean: Array = total / xs.shape[0]
        return mean

    return loss_fn
