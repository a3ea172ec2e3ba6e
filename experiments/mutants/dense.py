"""Wrong backward passes of linear layers, weight decay, and a value that is used twice: rows 1–10 and 72."""

import jax.numpy as jnp
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, gaussians, mutant

DECAY = 0.3


def linear(x: Array, w: Array, b: Array) -> Array:
    """y = x w + b, x [B, D], w [D, H], b [H]."""
    return x @ w + b[None, :]


def linear_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy wᵀ, dw = xᵀ dy, db = Σ_b dy_b."""
    x, w, _ = args
    return dy @ w.T, x.T @ dy, jnp.sum(dy, axis=0)


def dw_transposed(args: Args, dy: Array) -> Cotangents:
    """dw = dyᵀ x for xᵀ dy."""
    dx, _, db = linear_bwd(args, dy)
    return dx, dy.T @ args[0], db


def dx_by_w(args: Args, dy: Array) -> Cotangents:
    """dx = dy w for dy wᵀ."""
    _, dw, db = linear_bwd(args, dy)
    return dy @ args[1], dw, db


def db_unsummed(args: Args, dy: Array) -> Cotangents:
    """db = dy, not summed over the batch."""
    dx, dw, _ = linear_bwd(args, dy)
    return dx, dw, dy


def db_mean(args: Args, dy: Array) -> Cotangents:
    """db = mean of dy over the batch for its sum."""
    dx, dw, _ = linear_bwd(args, dy)
    return dx, dw, jnp.mean(dy, axis=0)


def db_other_axis(args: Args, dy: Array) -> Cotangents:
    """db = dy summed over the units for the batch."""
    dx, dw, _ = linear_bwd(args, dy)
    return dx, dw, jnp.sum(dy, axis=1)


def dx_dw_swapped(args: Args, dy: Array) -> Cotangents:
    """dx and dw are returned in each other's place."""
    dx, dw, db = linear_bwd(args, dy)
    return dw, dx, db


def dw_in_bfloat16(args: Args, dy: Array) -> Cotangents:
    """xᵀ dy is multiplied and accumulated in bfloat16."""
    dx, dw, db = linear_bwd(args, dy)
    return dx, (args[0].T.astype(jnp.bfloat16) @ dy.astype(jnp.bfloat16)).astype(dw.dtype), db


def ridge(w: Array, x: Array, t: Array) -> Array:
    """‖x w − t‖² + λ‖w‖²."""
    return jnp.sum(jnp.square(x @ w - t)) + DECAY * jnp.sum(w * w)


def ridge_bwd(args: Args, dy: Array) -> Cotangents:
    """With r = x w − t: dw = dy (2 xᵀ r + 2 λ w), dx = 2 dy r wᵀ, dt = −2 dy r."""
    w, x, t = args
    dr = 2 * dy * (x @ w - t)
    return x.T @ dr + dy * 2 * DECAY * w, dr @ w.T, -dr


def decay_halved(args: Args, dy: Array) -> Cotangents:
    """λ w for 2 λ w."""
    dw, dx, dt = ridge_bwd(args, dy)
    return dw - dy * DECAY * args[0], dx, dt


def decay_negative(args: Args, dy: Array) -> Cotangents:
    """−2 λ w for 2 λ w."""
    dw, dx, dt = ridge_bwd(args, dy)
    return dw - dy * 4 * DECAY * args[0], dx, dt


def reused(x: Array, w: Array) -> Array:
    """y = tanh(x) + x w: x acts in two ways."""
    return jnp.tanh(x) + x @ w


def reused_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (1 − tanh² x) + dy wᵀ."""
    x, w = args
    return dy * (1 - jnp.tanh(x) ** 2) + dy @ w.T, x.T @ dy


def assigned(args: Args, dy: Array) -> Cotangents:
    """The second branch's dx is assigned where it should be added."""
    x, w = args
    return dy @ w.T, x.T @ dy


def added_twice(args: Args, dy: Array) -> Cotangents:
    """The first branch's dx is added twice."""
    dx, dw = reused_bwd(args, dy)
    return dx + dy * (1 - jnp.tanh(args[0]) ** 2), dw


LINEAR = Subject(linear, linear_bwd, gaussians((5, 3), (3, 2), (2,)))
LINEAR_SQUARE_W = LINEAR._replace(arguments=gaussians((5, 3), (3, 3), (3,)))
LINEAR_SQUARE_Y = LINEAR._replace(arguments=gaussians((5, 3), (3, 5), (5,)))
LINEAR_SQUARE = LINEAR._replace(arguments=gaussians((3, 3), (3, 3), (3,)))
LINEAR_LONG = LINEAR._replace(arguments=gaussians((23, 3), (3, 2), (2,)))
RIDGE = Subject(ridge, ridge_bwd, gaussians((3, 2), (5, 3), (5, 2)))
REUSED = Subject(reused, reused_bwd, gaussians((5, 3), (3, 3)))

MUTANTS = (
    mutant(1, "linear, square", LINEAR_SQUARE_W, dw_transposed, "TRANSPOSE", (1,)),
    mutant(1, "linear", LINEAR, dw_transposed, "TRANSPOSE", (1,)),
    mutant(2, "linear, square", LINEAR_SQUARE_W, dx_by_w, "TRANSPOSE"),
    mutant(3, "linear", LINEAR, db_unsummed, "UNREDUCED", (2,)),
    mutant(4, "linear", LINEAR, db_mean, "SCALE EXTRA_FACTOR", (2,)),
    mutant(5, "linear, square", LINEAR_SQUARE_Y, db_other_axis, "WRONG_AXIS", (2,)),
    mutant(5, "linear", LINEAR, db_other_axis, "WRONG_AXIS", (2,)),
    mutant(6, "linear, square", LINEAR_SQUARE, dx_dw_swapped, "SWAPPED", (0, 1)),
    mutant(6, "linear", LINEAR, dx_dw_swapped, "SWAPPED", (0, 1)),
    # Half of the term; as w · w uses w twice, also one of two equal ways.
    mutant(7, "weight decay", RIDGE, decay_halved, "PATH_SCALE MISSING_PATH"),
    mutant(8, "weight decay", RIDGE, decay_negative, "PATH_SIGN"),
    mutant(9, "value used twice", REUSED, assigned, "MISSING_PATH"),
    mutant(10, "value used twice", REUSED, added_twice, "DOUBLED_PATH"),
    mutant(72, "linear", LINEAR_LONG, dw_in_bfloat16, "PRECISION", (1,)),
)
