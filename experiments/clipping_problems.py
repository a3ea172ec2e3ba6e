"""The losses of `gradient_clipping`, a cliff and a recurrent network, and descent on them at many rates at once."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals import initializers, optimizers
from fundamentals.base import Array, ArrayTree, PRNGKey
from fundamentals.layers.recurrent import rnn_bwd, rnn_fwd
from fundamentals.models import rnn


class Cliff(NamedTuple):
    """A valley with slopes ±s and a bottom rounded over δ at 0; left of it a cliff of height H, over a width W.

    L(x) = s (√(x² + δ²) − δ) + H (1 − u² (3 − 2u)),  u = (x − edge) / W, cut off at 0 and at 1.

    Its derivative is continuous; on the cliff it is −6 H u (1 − u) / W beside s.
    """

    slope: float  # s
    rounding: float  # δ
    height: float  # H
    width: float  # W
    edge: float  # where the cliff begins, < 0
    start: float  # < edge


class Task(NamedTuple):
    """Sequences whose first symbol is to be told after the last, and a network that does not know it yet."""

    x: Array  # [B, T, 2]
    labels: Array  # [B]
    params: rnn.Params


class Trace(NamedTuple):
    """A descent; each array is [..., rates, steps]."""

    losses: np.ndarray  # before the step
    gradients: np.ndarray  # norms, before clipping
    lengths: np.ndarray  # of the steps
    positions: np.ndarray  # x before the step on the cliff, else empty


class Steps(NamedTuple):
    """Updates from one gradient, against what NumPy makes of it; the largest over all gradients and rates."""

    length: float  # of the step from η‖g‖, relative
    clipped: float  # of the step from η min(‖g‖, c), relative
    angle: float  # between −g and the step clipped by norm, degrees
    by_value: list[float]  # the same, clipped by value; one a gradient
    expected_by_value: list[float]


def cliff_loss(cliff: Cliff, x: Array) -> Array:
    """L(x), see `Cliff`."""
    s, delta, height, width, edge, _ = cliff
    u = jnp.clip((x - edge) / width, 0, 1)
    return s * (jnp.sqrt(x * x + delta * delta) - delta) + height * (1 - u * u * (3 - 2 * u))


def recall_task(key: PRNGKey, *, length: int, units: int, examples: int, noise: float, radius: float) -> Task:
    """One of two symbols in the first step, noise in all others; and a network for it.

    Its recurrent matrix is radius · orthogonal: all eigenvalues have that size.
    """
    labels_key, noise_key, params_key = jax.random.split(key, 3)
    labels = jax.random.randint(labels_key, (examples,), 0, 2)
    symbols = jax.nn.one_hot(labels, 2)[:, None]
    x = jnp.concatenate([symbols, noise * jax.random.normal(noise_key, (examples, length - 1, 2))], axis=1)
    recurrent = initializers.orthogonal(radius)
    return Task(x, labels, rnn.init(params_key, (2, units, 2), recurrent_initializer=recurrent))


def method(learning_rate: Any, max_norm: float | None) -> optimizers.Optimizer:
    """Gradient descent, after clipping by the global norm if there is a bound."""
    descent = optimizers.sgd(learning_rate)
    if max_norm is None:
        return descent
    return optimizers.chain(optimizers.clip_by_global_norm(max_norm), descent)


def descend(
    loss_and_gradient: Callable[[ArrayTree], tuple[Array, ArrayTree]],
    params: ArrayTree,
    optimizer: optimizers.Optimizer,
    steps: int,
) -> tuple[Array, Array, Array, Array]:
    """Losses, norms of gradients, lengths of steps, and parameters if they are one number; each [steps]."""

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        params, state = carry
        loss, gradients = loss_and_gradient(params)
        updates, state = optimizer.update(gradients, state, params)
        position = params if isinstance(params, jax.Array) else jnp.zeros((0,))
        measured = loss, optimizers.global_norm(gradients), optimizers.global_norm(updates), position
        return (optimizers.apply_updates(params, updates), state), measured

    _, trace = jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)
    return trace  # type: ignore[no-any-return]


def descend_cliff(cliff: Cliff, rates: np.ndarray, max_norm: float | None, steps: int) -> Trace:
    """From the start, at all rates."""
    of = jax.value_and_grad(functools.partial(cliff_loss, cliff))
    start = jnp.asarray(cliff.start, jnp.float32)
    run = jax.vmap(lambda rate: descend(of, start, method(rate, max_norm), steps))
    return Trace(*(np.asarray(a, np.float64) for a in jax.jit(run)(jnp.asarray(rates, jnp.float32))))


def descend_rnn(tasks: Task, rates: np.ndarray, max_norm: float | None, steps: int) -> Trace:
    """Of all tasks, which have a leading axis, at all rates."""

    def run(task: Task, rate: Array) -> tuple[Array, ...]:
        def of(params: rnn.Params) -> tuple[Array, rnn.Params]:
            return rnn.loss_and_gradient(params, task.x, task.labels)

        return descend(of, task.params, method(rate, max_norm), steps)

    every = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    return Trace(*(np.asarray(a, np.float64) for a in every(tasks, jnp.asarray(rates, jnp.float32))))


def _at(tasks: Task, index: int) -> Task:
    one: Task = jax.tree.map(lambda a: np.asarray(a)[index], tasks)
    return one


def measure_steps(tasks: Task, rates: np.ndarray, max_norm: float) -> Steps:
    """Updates from the first gradient of each network at each rate, against NumPy."""

    @jax.jit
    def updates(gradients: rnn.Params, rate: Any, limit: Any) -> list[Any]:
        methods = [
            method(rate, None),
            method(rate, max_norm),
            optimizers.chain(optimizers.clip_by_value(limit), optimizers.sgd(rate)),
        ]
        return [optimizer.update(gradients, optimizer.init(gradients))[0] for optimizer in methods]

    gradient = jax.jit(lambda task: rnn.loss_and_gradient(task.params, task.x, task.labels)[1])
    length, clipped, turned = 0.0, 0.0, 0.0
    by_value, expected_by_value = [], []
    for index in range(len(tasks.labels)):
        gradients = gradient(_at(tasks, index))
        g = flat(gradients)
        norm = float(np.linalg.norm(g))
        limit = max_norm / math.sqrt(g.size)  # the largest that bounds the norm by the same c
        for rate in rates:
            free, short, cut = map(flat, updates(gradients, jnp.float32(rate), jnp.float32(limit)))
            length = max(length, abs(float(np.linalg.norm(free)) / (rate * norm) - 1))
            clipped = max(clipped, abs(float(np.linalg.norm(short)) / (rate * min(norm, max_norm)) - 1))
            turned = max(turned, angle(short, -g))
        by_value.append(angle(cut, -g))
        expected_by_value.append(angle(np.clip(g, -limit, limit), g))
    return Steps(length, clipped, turned, by_value, expected_by_value)


def parameter_norms(tasks: Task) -> np.ndarray:
    """‖θ‖ of each network before its training."""
    return np.array([np.linalg.norm(flat(_at(tasks, i).params)) for i in range(len(tasks.labels))])


def outcome(losses: np.ndarray, lengths: np.ndarray, start_norm: Any, target: float) -> str:
    """What became of one descent.

    It "reaches" its target if the loss is at most that in all of the last tenth of the steps, and "lands" there if one
    step was longer than `start_norm`, which is a jump. If it is neither, it "diverges" if the loss is not finite in
    that tenth or above that of the start; or "jumps"; or else "stalls".
    """
    last = losses[-max(len(losses) // 10, 1) :]
    jumped = not np.all(lengths <= start_norm)
    if np.all(last <= target):
        return "lands" if jumped else "reaches"
    if not np.all(last <= losses[0]):
        return "diverges"
    return "jumps" if jumped else "stalls"


def gradients_through_time(key: PRNGKey, radii: np.ndarray, length: int, units: int) -> dict[str, np.ndarray]:
    """‖∂L/∂z_{T−k}‖ / ‖∂L/∂z_T‖, a mean over sequences: [radii, T], by k.

    Args:
      key: of matrix, inputs and the cotangent of the last state.
      radii: ρ; the recurrent matrix is ρ · orthogonal.
      length: T.
      units: H.

    Returns:
      "linear": with inputs so small that no state leaves the linear part of tanh. "noise": with inputs of order 1.
    """

    def one(radius: Array, scale: Array) -> Array:
        matrix_key, x_key, dy_key = jax.random.split(key, 3)
        matrix = initializers.orthogonal(1.0)(matrix_key, (units, units), jnp.float32)
        noise = jax.random.normal(x_key, (8, length, units))
        dy = jnp.zeros_like(noise).at[:, -1].set(jax.random.normal(dy_key, (8, units)))
        # With the identity for w_x, the cotangents of the inputs are those of z.
        args = scale * noise, jnp.zeros((8, units)), jnp.eye(units), radius * matrix, jnp.zeros(units)
        norms = jnp.linalg.norm(rnn_bwd(rnn_fwd(*args)[1], dy)[0], axis=-1)
        return jnp.mean(norms / norms[:, -1:], axis=0)[::-1]

    scales = np.concatenate([1e-4 * np.minimum(1, radii**-length), np.ones_like(radii)])
    found = jax.jit(jax.vmap(one))(np.tile(radii, 2).astype(np.float32), scales.astype(np.float32))
    linear, noise = np.split(np.asarray(found, np.float64), 2)
    return {"linear": linear, "noise": noise}


def flat(tree: ArrayTree) -> np.ndarray:
    """All entries, in float64."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors, in degrees; by the half-angle formula of W. Kahan, which loses no digits at 0."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return math.degrees(2 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b))))
