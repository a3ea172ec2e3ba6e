"""A third set of wrong backward passes, of other functions: layers, filters, dynamics, 319–337.

From papers and from other libraries, as each docstring says. Losses and likelihoods are in `held_out`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

SEGMENTS = 3
STEP, STEPS = 0.3, 3  # of Euler's method


def highway(x: Array, w: Array, b: Array, v: Array, c: Array) -> Array:
    """A highway layer (Srivastava et al. 2015, equation 3): T H + (1 − T) x, H = tanh(x w + b), T = σ(x v + c).

    x [N, D], w and v [D, D], b and c [D].
    """
    h, t = jnp.tanh(x @ w + b[None]), jax.nn.sigmoid(x @ v + c[None])
    return t * h + (1 - t) * x


def highway_states(args: Args) -> tuple[Array, Array, Array]:
    """x w + b, H and T."""
    x, w, b, v, c = args
    before = x @ w + b[None]
    return before, jnp.tanh(before), jax.nn.sigmoid(x @ v + c[None])


def highway_through(args: Args, dh: Array, dt: Array, carried: Array) -> Cotangents:
    """From those of x w + b and x v + c, and that which x is carried."""
    x, w, _, v, _ = args
    dx = dh @ w.T + dt @ v.T + carried
    return dx, x.T @ dh, jnp.sum(dh, axis=0), x.T @ dt, jnp.sum(dt, axis=0)


def highway_bwd(args: Args, dy: Array) -> Cotangents:
    """Through tanh dy T (1 − H²), through σ dy (H − x) T (1 − T), carried dy (1 − T)."""
    _, h, t = highway_states(args)
    return highway_through(args, dy * t * (1 - h * h), dy * (h - args[0]) * t * (1 - t), dy * (1 - t))


def highway_gate(args: Args, dy: Array) -> Cotangents:
    """Through σ dy H T (1 − T): the T of 1 − T is held constant."""
    _, h, t = highway_states(args)
    return highway_through(args, dy * t * (1 - h * h), dy * h * t * (1 - t), dy * (1 - t))


def highway_not_transposed(args: Args, dy: Array) -> Cotangents:
    """In dx w and v for wᵀ and vᵀ."""
    x, w, _, v, _ = args
    _, h, t = highway_states(args)
    dx = (dy * t * (1 - h * h)) @ w + (dy * (h - x) * t * (1 - t)) @ v + dy * (1 - t)
    return dx, *highway_bwd(args, dy)[1:]


def highway_slope(args: Args, dy: Array) -> Cotangents:
    """The slope of tanh as 1 − (x w + b)² for 1 − H²."""
    before, h, t = highway_states(args)
    return highway_through(args, dy * t * (1 - before**2), dy * (h - args[0]) * t * (1 - t), dy * (1 - t))


def additive(q: Array, k: Array, w: Array, u: Array, v: Array) -> Array:
    """Additive attention (Bahdanau et al. 2015, section 3.1 and A.1.2): Σ_j a_j k_j, a = softmax(tanh(q w + k_j u) v).

    The decoder's state q [Q], the annotations k [N, K], w [Q, H], u [K, H], v [H].
    """
    return jax.nn.softmax(jnp.tanh((q @ w)[None] + k @ u) @ v) @ k


def additive_states(args: Args) -> tuple[Array, Array, Array]:
    """q w + k u and its tanh, both [N, H], and a [N]."""
    q, k, w, u, v = args
    before = (q @ w)[None] + k @ u
    return before, jnp.tanh(before), jax.nn.softmax(jnp.tanh(before) @ v)


def additive_through(args: Args, dy: Array, dscore: Array) -> Cotangents:
    """From those of the output and of the scores [N]."""
    q, k, w, u, v = args
    _, t, a = additive_states(args)
    dbefore = dscore[:, None] * v[None] * (1 - t * t)
    total = jnp.sum(dbefore, axis=0)
    return w @ total, a[:, None] * dy[None] + dbefore @ u.T, jnp.outer(q, total), k.T @ dbefore, t.T @ dscore


def additive_bwd(args: Args, dy: Array) -> Cotangents:
    """dscore = a (da − Σ a da) with da = k dy, and k besides as the values a dyᵀ."""
    _, _, a = additive_states(args)
    da = args[1] @ dy
    return additive_through(args, dy, a * (da - a @ da))


def additive_values(args: Args, dy: Array) -> Cotangents:
    """dk = a dyᵀ: that which acts through the scores is left out."""
    dq, _, dw, du, dv = additive_bwd(args, dy)
    return dq, additive_states(args)[2][:, None] * dy[None], dw, du, dv


def additive_diagonal(args: Args, dy: Array) -> Cotangents:
    """dscore = a da: the sum in the softmax is held constant."""
    return additive_through(args, dy, additive_states(args)[2] * (args[1] @ dy))


def additive_before(args: Args, dy: Array) -> Cotangents:
    """dv from q w + k u for its tanh."""
    before, _, a = additive_states(args)
    da = args[1] @ dy
    return *additive_bwd(args, dy)[:4], before.T @ (a * (da - a @ da))


def kalman(m: Array, p: Array, z: Array, r: Array) -> Array:
    """A scalar Kalman filter's measurement update, as in `filterpy`: m + K (z − m) and (1 − K) p, K = p / (p + r).

    Means m, variances p and measurements z, all [N], the measurements' variance r a scalar; returns [2, N].
    """
    gain = p / (p + r)
    return jnp.stack([m + gain * (z - m), (1 - gain) * p])


def kalman_bwd(args: Args, dy: Array) -> Cotangents:
    """With dK = dm′ (z − m) − dp′ p: dm = (1 − K) dm′, dz = K dm′, dp = (1 − K) dp′ + dK r / (p + r)².

    And dr = −Σ dK p / (p + r)².
    """
    m, p, z, r = args
    gain, (dmean, dvariance) = p / (p + r), dy
    dgain = (dmean * (z - m) - dvariance * p) / (p + r) ** 2
    return (1 - gain) * dmean, (1 - gain) * dvariance + dgain * r, gain * dmean, -jnp.sum(dgain * p)


def kalman_gain(args: Args, dy: Array) -> Cotangents:
    """dp = (1 − K) dp′: the gain is held constant."""
    _, p, _, r = args
    dm, _, dz, dr = kalman_bwd(args, dy)
    return dm, (1 - p / (p + r)) * dy[1], dz, dr


def kalman_noise(args: Args, dy: Array) -> Cotangents:
    """dr = Σ dK p / (p + r)² without the minus."""
    dm, dp, dz, dr = kalman_bwd(args, dy)
    return dm, dp, dz, -dr


def kalman_exchanged(args: Args, dy: Array) -> Cotangents:
    """dm = K dm′ and dz = (1 − K) dm′."""
    dm, dp, dz, dr = kalman_bwd(args, dy)
    return dz, dp, dm, dr


def moving_average(x: Array, h: Array, a: Array) -> Array:
    """Exponential moving average over time, as in Mega (Ma et al. 2023, equation 1): h_t = α h_(t − 1) + (1 − α) x_t.

    x and the averages [T, D]; before them h [D]; the decay α [D].
    """
    return jnp.stack(averages(x, h, a)[1:])


def averages(x: Array, h: Array, a: Array) -> list[Array]:
    """h_0 … h_T."""
    states = [h]
    for t in range(len(x)):
        states.append(a * states[-1] + (1 - a) * x[t])
    return states


def backward_in_time(dy: Array, a: Array) -> Array:
    """g_t = dy_t + α g_(t + 1), [T, D]."""
    sums = [dy[-1]]
    for t in range(len(dy) - 2, -1, -1):
        sums.append(dy[t] + a * sums[-1])
    return jnp.stack(sums[::-1])


def moving_average_through(args: Args, g: Array) -> Cotangents:
    """dx = (1 − α) g, dh = α g_1, dα = Σ g_t (h_(t − 1) − x_t)."""
    x, _, a = args
    before = jnp.stack(averages(*args)[:-1])
    return (1 - a)[None] * g, a * g[0], jnp.sum(g * (before - x), axis=0)


def moving_average_bwd(args: Args, dy: Array) -> Cotangents:
    """g_t = dy_t + α g_(t + 1) from the last to the first, and through each step."""
    return moving_average_through(args, backward_in_time(dy, args[2]))


def moving_average_direct(args: Args, dy: Array) -> Cotangents:
    """dα = Σ dy_t (h_(t − 1) − x_t): dy for g, as if h_(t − 1) did not depend on α."""
    return *moving_average_bwd(args, dy)[:2], moving_average_through(args, dy)[2]


def moving_average_forward(args: Args, dy: Array) -> Cotangents:
    """g_t = dy_t + α g_(t − 1) from the first to the last."""
    return moving_average_through(args, backward_in_time(dy[::-1], args[2])[::-1])


def moving_average_start(args: Args, dy: Array) -> Cotangents:
    """dh = g_1, without α."""
    dx, _, da = moving_average_bwd(args, dy)
    return dx, backward_in_time(dy, args[2])[0], da


def segment_mean(x: Array, ids: Array) -> Array:
    """Mean of the rows of each segment, as `scatter` with `reduce="mean"` in PyTorch Geometric; x [N, D], ids [N]."""
    return jax.ops.segment_sum(x, ids, SEGMENTS) / segment_sizes(ids, x.dtype)


def segment_sizes(ids: Array, dtype: Any) -> Array:
    """Rows in each segment, [S, 1]."""
    return jax.ops.segment_sum(jnp.ones((len(ids), 1), dtype), ids, SEGMENTS)


def segment_mean_bwd(args: Args, dy: Array) -> Cotangents:
    """dx_i = dy of i's segment, divided by the number of rows of that segment."""
    _, ids = args
    return (dy / segment_sizes(ids, dy.dtype))[ids], None


def segment_sum(args: Args, dy: Array) -> Cotangents:
    """dx_i = dy of i's segment, as for the sum."""
    return dy[args[1]], None


def segment_average(args: Args, dy: Array) -> Cotangents:
    """Divided by the number of all rows, as for a mean of all, not by that of the segment."""
    _, ids = args
    return dy[ids] / len(ids), None


def segment_sorted(args: Args, dy: Array) -> Cotangents:
    """Each segment's share repeated for as many rows as it has, one segment after the other, as if ids were sorted."""
    _, ids = args
    sizes = segment_sizes(ids, dy.dtype)
    return (dy / sizes)[jnp.sort(ids)], None


def epidemic(s: Array, i: Array, rates: Array) -> Array:
    """Euler steps of the SIR model (Kermack and McKendrick 1927): s′ = −β s i, i′ = β s i − γ i.

    The susceptible and the infected of N places, s and i [N], returned as [2, N]; the rates β and γ, [2].
    """
    return jnp.stack(epidemic_path(s, i, rates)[-1])


def epidemic_path(s: Array, i: Array, rates: Array) -> list[tuple[Array, Array]]:
    """s and i before the first step and after each."""
    path = [(s, i)]
    for _ in range(STEPS):
        s, i = path[-1]
        new = rates[0] * s * i
        path.append((s - STEP * new, i + STEP * (new - rates[1] * i)))
    return path


def epidemic_through(
    states: list[tuple[Array, Array]], rates: Array, dy: Array, *, sign: int = 1, add: bool = True
) -> Cotangents:
    """Back through a step at each state, last first: dnew = h (di − ds), or with another `sign` of ds.

    ds += dnew β i, di += dnew β s − h di γ, dβ += Σ dnew s i, dγ −= Σ h di i; the rates' last alone unless `add`.
    """
    (ds, di), drates = dy, jnp.zeros_like(rates)
    for s, i in reversed(states):
        dnew = STEP * (di - sign * ds)
        step = jnp.stack([jnp.sum(dnew * s * i), -STEP * jnp.sum(di * i)])
        drates = drates + step if add else step
        ds, di = ds + dnew * rates[0] * i, di + dnew * rates[0] * s - STEP * di * rates[1]
    return ds, di, drates


def epidemic_bwd(args: Args, dy: Array) -> Cotangents:
    """Back through each step at the state before it."""
    return epidemic_through(epidemic_path(*args)[:-1], args[2], dy)


def epidemic_overwritten(args: Args, dy: Array) -> Cotangents:
    """The rates' = for +=: only the first step's share, visited last, is left."""
    ds, di, _ = epidemic_bwd(args, dy)
    return ds, di, epidemic_through(epidemic_path(*args)[:-1], args[2], dy, add=False)[2]


def epidemic_step(args: Args, dy: Array) -> Cotangents:
    """The rates' without the step h."""
    ds, di, drates = epidemic_bwd(args, dy)
    return ds, di, drates / STEP


def epidemic_source(args: Args, dy: Array) -> Cotangents:
    """dnew = h (di + ds), as if the infections were added to s."""
    return epidemic_through(epidemic_path(*args)[:-1], args[2], dy, sign=-1)


def epidemic_after(args: Args, dy: Array) -> Cotangents:
    """Back through each step at the state after it."""
    return epidemic_through(epidemic_path(*args)[1:], args[2], dy)


def segments(seed: int, dtype: Any) -> Args:
    """x [7, 5] in segments of 2, 2 and 3 rows, never in their order."""
    random = np.random.RandomState(seed)
    ids = np.concatenate([[2], random.permutation([0, 1, 1, 2, 2]), [0]])
    return *gaussians((7, 5))(seed, dtype), array(ids)


HIGHWAY = Subject(highway, highway_bwd, gaussians((5, 3), (3, 3), (3,), (3, 3), (3,), scale=0.8))
ADDITIVE = Subject(additive, additive_bwd, gaussians((2,), (5, 3), (2, 7), (3, 7), (7,), scale=0.8))
KALMAN = Subject(kalman, kalman_bwd, between(((7,), -2, 2), ((7,), 0.4, 1.8), ((7,), -2, 2), ((), 0.4, 1.8)))
AVERAGE = Subject(moving_average, moving_average_bwd, between(((7, 3), -2, 2), ((3,), -2, 2), ((3,), 0.25, 0.48)))
SEGMENT = Subject(segment_mean, segment_mean_bwd, segments)
EPIDEMIC = Subject(epidemic, epidemic_bwd, between(((5,), 0.4, 0.9), ((5,), 0.2, 0.7), ((2,), 0.5, 1.4)))

MUTANTS = (
    # One of the two ways of the gate, or H for H − x.
    mutant(319, "highway layer", HIGHWAY, highway_gate, "MISSING_PATH WRONG_OPERAND", (0, 3, 4)),
    mutant(320, "highway layer", HIGHWAY, highway_not_transposed, "TRANSPOSE"),
    mutant(321, "highway layer", HIGHWAY, highway_slope, "WRONG_OPERAND", (0, 1, 2)),
    mutant(322, "additive attention", ADDITIVE, additive_values, "MISSING_PATH", (1,)),
    mutant(323, "additive attention", ADDITIVE, additive_diagonal, "MISSING_PATH", (0, 1, 2, 3, 4)),
    mutant(324, "additive attention", ADDITIVE, additive_before, "WRONG_OPERAND", (4,)),
    mutant(325, "Kalman update", KALMAN, kalman_gain, "MISSING_PATH", (1,)),
    mutant(326, "Kalman update", KALMAN, kalman_noise, "SIGN", (3,)),
    mutant(327, "Kalman update", KALMAN, kalman_exchanged, "SWAPPED", (0, 2)),
    # Of α the earlier steps are left out; or the right formula of dy for g.
    mutant(328, "moving average", AVERAGE, moving_average_direct, "MISSING_PATH WRONG_OPERAND", (2,)),
    # The recursion itself for its adjoint.
    mutant(329, "moving average", AVERAGE, moving_average_forward, "TRANSPOSE LAYOUT", (0, 1, 2)),
    mutant(330, "moving average", AVERAGE, moving_average_start, "MISSING_FACTOR", (1,)),
    mutant(331, "segment mean", SEGMENT, segment_sum, "MISSING_FACTOR"),
    # Counted over all rows; or the right formula of another count.
    mutant(332, "segment mean", SEGMENT, segment_average, "WRONG_AXIS WRONG_OPERAND"),
    mutant(333, "segment mean", SEGMENT, segment_sorted, "LAYOUT"),
    mutant(334, "Euler steps of an epidemic", EPIDEMIC, epidemic_overwritten, "OVERWRITE MISSING_PATH", (2,)),
    mutant(335, "Euler steps of an epidemic", EPIDEMIC, epidemic_step, "SCALE MISSING_FACTOR", (2,)),
    mutant(336, "Euler steps of an epidemic", EPIDEMIC, epidemic_source, "PATH_SIGN", (0, 1, 2)),
    mutant(337, "Euler steps of an epidemic", EPIDEMIC, epidemic_after, "WRONG_OPERAND", (0, 1, 2)),
)
