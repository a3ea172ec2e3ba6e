"""What the tests of the gradient checker share: a layer, a call, and views of a report."""

import jax.numpy as jnp
import numpy as np

from fundamentals import gradcheck

RANDOM = np.random.RandomState(0)
X, W, B = (RANDOM.normal(size=size).astype(np.float32) for size in ((5, 3), (3, 7), (7,)))
KINKED = np.array([0.0, 1.5, -2.5, 3.5], np.float32)


def check(primal, backward, *args, **options):
    return gradcheck.check_vjp(primal, lambda *args: (primal(*args), args), backward, args, **options)


def layer(x, w, b):
    return jnp.tanh(x @ w + b[None, :])


def layer_bwd(args, dy):
    x, w, b = args
    da = dy * (1 - layer(x, w, b) ** 2)
    return da @ w.T, x.T @ da, da.sum(0)


def relu(x):
    return jnp.where(x > 0, x, 0)


def only(report):
    (leaf,) = report.leaves
    return leaf


def causes(report):
    return [diagnosis.cause for diagnosis in report.diagnoses]
