"""Programs of `initialization`: signals through deep networks, draws of initializers, ties of units, training."""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import initialization_theory
from fundamentals import data, initializers, optimizers
from fundamentals.base import Array, DTypeLike, Initializer, PRNGKey, Rule, Shape
from fundamentals.catalogue import RULES
from fundamentals.models import mlp

Row = dict[str, Any]
ACTIVATIONS = {
    "linear": Rule(lambda x: x, lambda x: (x, None), lambda residuals, dy: (dy,)),
    "tanh": RULES["tanh"].rule,
    "relu": RULES["relu"].rule,
    "sigmoid": RULES["sigmoid"].rule,
}
BINS = 41
RANGES = {"tanh": (-1.0, 1.0), "relu": (0.0, 4.0)}  # of the histograms


class Digits(NamedTuple):
    """The training digits, with mean square 1."""

    x: np.ndarray  # [N, 64]
    labels: np.ndarray  # [N]


def digits() -> Digits:
    """From the box."""
    train = data.digits().train
    x = train.inputs.reshape(len(train.labels), -1)
    return Digits(x / np.sqrt(np.mean(x**2)), train.labels)


def generator(seed: int, part: str) -> np.random.Generator:
    """Draws of their own for each part of the experiment."""
    return np.random.default_rng([seed, *part.encode()])


# Signals through deep networks.


@functools.partial(jax.jit, static_argnames="activation")
def signals(w: Array, x: Array, dy: Array, stddev: Array, *, activation: str) -> tuple[Array, Array, Array]:
    """One network with weights `stddev · w`, for each of S standard deviations.

    Args:
      w: [L, n, n], standard normal.
      x: [B, n], the inputs.
      dy: [B, n], the cotangents of the last layer's activations.
      stddev: [S].
      activation: of every layer.

    Returns:
      Mean squares of the activations of layers 1 to L and of the gradients of layers 0 to L − 1, each [L, S]; the
      activations [L, S, B, n].
    """
    rule, scale = ACTIVATIONS[activation], stddev[:, None, None]

    def forward(x: Array, w: Array) -> tuple[Array, Any]:
        y, residuals = rule.fwd(x @ w * scale)
        return y, (y, residuals)

    def backward(dy: Array, layer: Any) -> tuple[Array, Array]:
        w, residuals = layer
        (dz,) = rule.bwd(residuals, dy)
        dx = dz @ w.T * scale
        return dx, jnp.mean(dx**2, axis=(1, 2))

    lanes = (len(stddev), *x.shape)
    _, (y, residuals) = jax.lax.scan(forward, jnp.broadcast_to(x, lanes), w)
    _, gradients = jax.lax.scan(backward, jnp.broadcast_to(dy, lanes), (w, residuals), reverse=True)
    return jnp.mean(y**2, axis=(2, 3)), gradients, y


def square_networks(
    activation: str, stddev: np.ndarray, *, width: int, depth: int, networks: int, examples: int, seed: int
) -> Row:
    """Mean squares by layer in several networks, the same standard normal weights in every scheme.

    Inputs have mean square 1, each, and gradients of the last layer are normal, so that both start at 1.
    """
    random = generator(seed, activation)
    forward, backward, counts = [], [], []
    ones = np.ones((1, len(stddev)))
    for number in range(networks):
        x, dy = (random.standard_normal((examples, width)) for _ in range(2))
        x, dy = (a / np.sqrt(np.mean(a**2, axis=1, keepdims=True)) for a in (x, dy))
        w = random.standard_normal((depth, width, width))
        squares, gradients, y = signals(*map(jnp.asarray, (w, x, dy, stddev)), activation=activation)
        forward.append(np.concatenate([ones, squares]).T)
        backward.append(np.concatenate([gradients, ones]).T)
        if number == 0 and activation in RANGES:
            counts = [[_counts(layer, RANGES[activation]) for layer in lane] for lane in np.asarray(y).swapaxes(0, 1)]
    return summary(forward, backward) | {"counts": counts}


def _counts(values: np.ndarray, limits: tuple[float, float]) -> list[int]:
    """A histogram, without what relu sets to 0."""
    counts: list[int] = np.histogram(values[values != 0], BINS, limits)[0].tolist()
    return counts


def summary(forward: list[np.ndarray], backward: list[np.ndarray]) -> Row:
    """Means over networks, and their standard errors."""
    row = {}
    for name, values in (("forward", np.array(forward)), ("backward", np.array(backward))):
        row[name] = values.mean(axis=0).tolist()
        row[f"{name}_error"] = (values.std(axis=0, ddof=1) / math.sqrt(len(values))).tolist()
    return row


def linear_networks(widths: list[int], *, networks: int, examples: int, seed: int) -> Row:
    """The same of linear layers of any widths, by each rule of `initialization_theory.RULES`.

    σ only scales what is linear: standard normal weights do for all rules, and mean squares are multiplied by σ².
    """
    random = generator(seed, ",".join(map(str, widths)))
    shapes = list(itertools.pairwise(widths))
    factors = np.array([[rule(*shape) for shape in shapes] for rule in initialization_theory.RULES.values()])
    ones = np.ones((len(factors), 1))
    scale_up = np.cumprod(np.hstack([ones, factors]), axis=1)
    scale_down = np.cumprod(np.hstack([ones, factors[:, ::-1]]), axis=1)[:, ::-1]
    forward, backward = [], []
    for _ in range(networks):
        x, dy = (random.standard_normal((examples, n)) for n in (widths[0], widths[-1]))
        w = [random.standard_normal(shape) for shape in shapes]
        up, down = [np.mean(x**2)], [np.mean(dy**2)]
        for layer in w:
            x = x @ layer
            up.append(np.mean(x**2))
        for layer in w[::-1]:
            dy = dy @ layer.T
            down.append(np.mean(dy**2))
        forward.append(np.array(up) / up[0] * scale_up)
        backward.append(np.array(down[::-1]) / down[0] * scale_down)
    return summary(forward, backward)


# Draws.

DRAWN = {
    "He": (initializers.he_normal(), 2.0),  # and the variance, times n_in
    "Xavier": (initializers.xavier_normal(), None),
    "He of JAX": (jax.nn.initializers.he_normal(), 2.0),
}


def draw(name: str, shape: tuple[int, int], *, seed: int) -> Row:
    """What an initializer draws, in float32, over √(2 / n_in): the largest, the variance and its standard error."""
    key = jax.random.fold_in(jax.random.key(seed), list(DRAWN).index(name))
    values = np.asarray(DRAWN[name][0](key, shape, jnp.float32), np.float64) / math.sqrt(2 / shape[0])
    squares = values**2
    error = float(squares.std() / math.sqrt(squares.size))
    return {"largest": float(np.abs(values).max()), "variance": float(squares.mean()), "error": error}


# Training.


@functools.partial(jax.jit, static_argnames=("activation", "method"))
def trained(
    params: mlp.Params, eta: Array, batches: Array, x: Array, labels: Array, *, activation: str, method: str
) -> tuple[mlp.Params, Array, Array]:
    """(parameters, loss and accuracy of all examples) after a step on each of the batches [T, B] of indices."""
    rule, optimizer = ACTIVATIONS[activation], getattr(optimizers, method)(eta)

    def step(carried: Any, batch: Array) -> tuple[Any, None]:
        params, state = carried
        _, gradient = mlp.loss_and_gradient(params, x[batch], labels[batch], activation=rule)
        updates, state = optimizer.update(gradient, state, params)
        return (optimizers.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    logits = mlp.mlp(params, x, activation=rule)
    right = jnp.mean((jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(x.dtype))
    return params, mlp.loss(params, x, labels, activation=rule), right


@functools.partial(jax.jit, static_argnames=("activation", "method"))
def trained_lanes(
    params: mlp.Params, etas: Array, batches: Array, x: Array, labels: Array, *, activation: str, method: str
) -> tuple[Array, Array]:
    """(losses, accuracies) [S, E] of S networks, with batches [S, T, B], at E learning rates."""

    def one(params: mlp.Params, eta: Array, batches: Array) -> tuple[Array, Array]:
        _, loss, right = trained(params, eta, batches, x, labels, activation=activation, method=method)
        return loss, right

    over_etas = jax.vmap(one, in_axes=(None, 0, None))
    result: tuple[Array, Array] = jax.vmap(over_etas, in_axes=(0, None, 0))(params, etas, batches)
    return result


def train_ties(
    initializer: Initializer,
    activation: str,
    method: str,
    *,
    eta: float,
    width: int,
    steps: int,
    batch: int,
    seed: int,
) -> Row:
    """Two hidden layers, in float64: how far the units of each are apart after training.

    A unit is all its weights: those that come in, its bias, those that go out. `apart` is the distance of the two that
    are farthest, `nearest` of the two that are nearest, each over the median length of a unit's weights.
    """
    known = digits()
    sizes = (known.x.shape[1], width, width, 10)
    start = mlp.init(jax.random.key(seed), sizes, initializer=initializer, dtype=jnp.float64)
    batches = generator(seed, "ties").integers(0, len(known.labels), (steps, batch))
    arguments = jnp.asarray(batches), jnp.asarray(known.x, jnp.float64), jnp.asarray(known.labels)
    params, loss, accuracy = trained(start, jnp.float64(eta), *arguments, activation=activation, method=method)
    layers, before = ([[np.asarray(a) for a in layer] for layer in p] for p in (params, start))
    apart, nearest = [], []
    for (w, b), (outgoing, _) in itertools.pairwise(layers):
        units = np.concatenate([w, b[None], outgoing.T]).T
        distances = np.linalg.norm(units[:, None] - units, axis=-1)
        length = float(np.median(np.linalg.norm(units, axis=1))) or 1.0
        apart.append(float(distances.max()) / length)
        nearest.append(float((distances + np.diag(np.full(width, np.inf))).min()) / length)
    moved = [
        float(np.abs(a - b).max())
        for old, new in zip(before, layers, strict=True)
        for a, b in zip(old, new, strict=True)
    ]
    return {
        "apart": max(apart),
        "nearest": min(nearest),
        "moved": moved,
        "loss": float(loss),
        "accuracy": float(accuracy),
    }


def scheme(name: str, small: float, large: float) -> Initializer:
    """An initializer of a scheme: the library's, where it has one."""
    known = {"Xavier": initializers.xavier_normal(), "He": initializers.he_normal()}
    if name in known:
        return known[name]
    variance = initialization_theory.variances(small, large)[name]

    def scheme_init(key: PRNGKey, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
        return initializers.normal(math.sqrt(variance(shape[0], shape[1])))(key, shape, dtype)

    return scheme_init


def train_deep(
    initializer: Initializer,
    activation: str,
    method: str,
    etas: list[float],
    *,
    width: int,
    depth: int,
    networks: int,
    steps: int,
    batch: int,
    seed: int,
) -> Row:
    """Loss over log 10, and accuracy, of several networks at each learning rate, [networks, etas], in float32."""
    known = digits()
    sizes = (known.x.shape[1], *[width] * depth, 10)
    draws = [mlp.init(key, sizes, initializer=initializer) for key in jax.random.split(jax.random.key(seed), networks)]
    batches = generator(seed, "training").integers(0, len(known.labels), (networks, steps, batch))
    x, labels = jnp.asarray(known.x, jnp.float32), jnp.asarray(known.labels)
    params = jax.tree.map(lambda *a: jnp.stack(a), *draws)
    arguments = params, jnp.asarray(etas, jnp.float32), jnp.asarray(batches), x, labels
    loss, accuracy = trained_lanes(*arguments, activation=activation, method=method)
    return {"loss": (np.asarray(loss, float) / math.log(10)).tolist(), "accuracy": np.asarray(accuracy, float).tolist()}
