"""A fourth set of wrong backward passes, of other functions: geometry, graphs, filters, 424–445.

From papers and from other libraries, as each docstring says. Losses and likelihoods are in `fourth`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

STEPS = 3  # of the upwind scheme
CLIP = 0.5  # of what comes back through the filter


def camera(p: Array, z: Array, f: Array, k: Array) -> Array:
    """A pinhole camera with radial distortion (Brown 1971), as `cv2.projectPoints`: f n (1 + k_1 r² + k_2 r⁴).

    With n = p / z and r² = n · n; points p [N, 2] at the depths z [N], focal lengths f [2] and coefficients k [2].
    """
    n = p / z[:, None]
    r = jnp.sum(n * n, axis=1, keepdims=True)
    return f[None] * n * (1 + k[0] * r + k[1] * r * r)


def camera_normalized(args: Args, dy: Array, *, constant: bool = False) -> tuple[Array, Array, Array]:
    """n, the distorted n (1 + …), and dn; in which the distortion is held constant or is not."""
    p, z, f, k = args
    n = p / z[:, None]
    r = jnp.sum(n * n, axis=1, keepdims=True)
    factor = 1 + k[0] * r + k[1] * r * r
    dr = jnp.sum(dy * f[None] * n, axis=1, keepdims=True) * (k[0] + 2 * k[1] * r)
    return n, n * factor, dy * f[None] * factor + (0 if constant else 2) * dr * n


def camera_through(args: Args, dy: Array, n: Array, distorted: Array, dn: Array) -> Cotangents:
    """dp = dn / z, dz = −dn · n / z, df = Σ dy n (1 + …), dk = Σ (dy f · n) (r², r⁴)."""
    _, z, f, _ = args
    r, along = jnp.sum(n * n, axis=1), jnp.sum(dy * f[None] * n, axis=1)
    dk = jnp.stack([jnp.sum(along * r), jnp.sum(along * r * r)])
    return dn / z[:, None], -jnp.sum(dn * n, axis=1) / z, jnp.sum(dy * distorted, axis=0), dk


def camera_bwd(args: Args, dy: Array) -> Cotangents:
    """dn = dy f (1 + k_1 r² + k_2 r⁴) + 2 n (k_1 + 2 k_2 r²) (dy f · n)."""
    return camera_through(args, dy, *camera_normalized(args, dy))


def camera_undistorted(args: Args, dy: Array) -> Cotangents:
    """dn = dy f (1 + k_1 r² + k_2 r⁴): the radius is held constant."""
    return camera_through(args, dy, *camera_normalized(args, dy, constant=True))


def camera_depth(args: Args, dy: Array) -> Cotangents:
    """dz = −dn · n, without the second 1 / z of −p / z²."""
    dp, dz, df, dk = camera_bwd(args, dy)
    return dp, dz * args[1], df, dk


def camera_focal(args: Args, dy: Array) -> Cotangents:
    """df [N, 2], not summed over the points."""
    dp, dz, _, dk = camera_bwd(args, dy)
    return dp, dz, dy * camera_normalized(args, dy)[1], dk


def gated_graph(x: Array, k: Array, q: Array, v: Array, source: Array, target: Array) -> Array:
    """Gated graph convolution (Bresson and Laurent 2017, equation 11), no skip: Σ_{j → i} σ(x_i k + x_j q) x_j v.

    As PyTorch Geometric's `ResGatedGraphConv(root_weight=False)`; nodes x [N, D], k, q and v [D, H], edges' ends [E].
    """
    gate = jax.nn.sigmoid((x @ k)[target] + (x @ q)[source])
    return jax.ops.segment_sum(gate * (x @ v)[source], target, len(x))


def gated_graph_edges(args: Args, dy: Array, *, slope: bool = True) -> tuple[Array, Array, Array]:
    """The gates, and the cotangents of what goes into them and of the messages x_j v, [E, H]."""
    x, k, q, v, source, target = args
    gate = jax.nn.sigmoid((x @ k)[target] + (x @ q)[source])
    dinner = dy[target] * (x @ v)[source] * gate
    return gate, dinner * (1 - gate) if slope else dinner, dy[target] * gate


def gated_graph_through(args: Args, dinner: Array, dvalue: Array) -> Cotangents:
    """From those of what goes into the gates [E, H], and of x v [N, H]."""
    x, k, q, v, source, target = args
    dkey, dquery = (jnp.zeros((len(x), k.shape[1]), x.dtype).at[i].add(dinner) for i in (target, source))
    return dkey @ k.T + dquery @ q.T + dvalue @ v.T, x.T @ dkey, x.T @ dquery, x.T @ dvalue, None, None


def gated_graph_bwd(args: Args, dy: Array) -> Cotangents:
    """Per edge dy_i σ (1 − σ) x_j v into the gate and dy_i σ into x_j v, added up in the nodes at its ends."""
    _, dinner, dmessage = gated_graph_edges(args, dy)
    return gated_graph_through(args, dinner, jnp.zeros_like(dy).at[args[4]].add(dmessage))


def gated_graph_set(args: Args, dy: Array) -> Cotangents:
    """The messages' `.at[source].set` for `.add`: of the edges from a node, one is left."""
    _, dinner, dmessage = gated_graph_edges(args, dy)
    return gated_graph_through(args, dinner, jnp.zeros_like(dy).at[args[4]].set(dmessage))


def gated_graph_along(args: Args, dy: Array) -> Cotangents:
    """The messages' cotangents sent along the edges, from source to target, and not back."""
    gate, dinner, _ = gated_graph_edges(args, dy)
    return gated_graph_through(args, dinner, jnp.zeros_like(dy).at[args[5]].add(gate * dy[args[4]]))


def gated_graph_slope(args: Args, dy: Array) -> Cotangents:
    """The gate's slope as σ, without 1 − σ."""
    _, dinner, dmessage = gated_graph_edges(args, dy, slope=False)
    return gated_graph_through(args, dinner, jnp.zeros_like(dy).at[args[4]].add(dmessage))


def recursive_filter(x: Array, b: Array, a: Array) -> Array:
    """A linear filter, as `torchaudio.functional.lfilter`: y_t = Σ_k b_k x_(t − k) − Σ_k a_k y_(t − k).

    Signals x [N, T], with b_0 and b_1 in b [2] and a_1 and a_2 in a [2]; all is 0 before the start.
    """

    def step(past: tuple[Array, Array, Array], now: Array) -> tuple[tuple[Array, Array, Array], Array]:
        before, y1, y2 = past
        y = b[0] * now + b[1] * before - a[0] * y1 - a[1] * y2
        return (now, y, y1), y

    zero = jnp.zeros_like(x[:, 0])
    return lax.scan(step, (zero, zero, zero), x.T)[1].T


def delayed(x: Array, steps: int) -> Array:
    """x_(t − steps), and 0 where there is none, [N, T]."""
    t = x.shape[1]
    return jnp.pad(x, ((0, 0), (max(steps, 0), max(-steps, 0))))[:, max(-steps, 0) : max(-steps, 0) + t]


def filter_adjoint(dy: Array, a: Array, *, clipped: bool = False) -> Array:
    """g_t = dy_t − a_1 g_(t + 1) − a_2 g_(t + 2), clipped at each step or not, [N, T]."""
    sums = [jnp.zeros_like(dy[:, 0])] * 2
    for t in range(dy.shape[1] - 1, -1, -1):
        g = dy[:, t] - a[0] * sums[-1] - a[1] * sums[-2]
        sums.append(jnp.clip(g, -CLIP, CLIP) if clipped else g)
    return jnp.stack(sums[:1:-1], axis=1)


def filter_through(args: Args, g: Array, *, ahead: int = 1) -> Cotangents:
    """dx_t = Σ b_k g_(t + k), or g_(t − k) if `ahead` is −1; db_k = Σ g_t x_(t − k), da_k = −Σ g_t y_(t − k)."""
    x, b, _ = args
    y = recursive_filter(*args)
    db = jnp.stack([jnp.sum(g * delayed(x, k)) for k in (0, 1)])
    da = jnp.stack([-jnp.sum(g * delayed(y, k)) for k in (1, 2)])
    return b[0] * g + b[1] * delayed(g, -ahead), db, da


def recursive_filter_bwd(args: Args, dy: Array) -> Cotangents:
    """The poles backward in time, then the zero."""
    return filter_through(args, filter_adjoint(dy, args[2]))


def filter_poles(args: Args, dy: Array) -> Cotangents:
    """da_k = Σ g_t y_(t − k), without the minus."""
    dx, db, da = recursive_filter_bwd(args, dy)
    return dx, db, -da


def filter_delayed(args: Args, dy: Array) -> Cotangents:
    """dx_t = b_0 g_t + b_1 g_(t − 1), the zero's filter itself."""
    g = filter_adjoint(dy, args[2])
    return filter_through(args, g, ahead=-1)


def filter_clipped(args: Args, dy: Array) -> Cotangents:
    """What comes back through each step is clipped, as for recurrent networks."""
    return filter_through(args, filter_adjoint(dy, args[2], clipped=True))


def periodogram(x: Array, w: Array) -> Array:
    """The power of each frequency, as `scipy.signal.periodogram` without a scale: |rfft(w x)|², x [N, T] and w [T]."""
    y = jnp.fft.rfft(x * w[None], axis=1)
    return y.real**2 + y.imag**2


def periodogram_through(args: Args, dz: Array) -> Cotangents:
    """From that of w x."""
    return dz * args[1][None], jnp.sum(dz * args[0], axis=0)


def periodogram_bwd(args: Args, dy: Array) -> Cotangents:
    """d(w x) = Re Σ_k 2 dy_k Y_k e^(2 π i k t / T), by T irfft, which itself doubles all but the first; T is odd."""
    x, w = args
    y = jnp.fft.rfft(x * w[None], axis=1)
    g = (2 * dy).at[:, 1:].divide(2) * y
    return periodogram_through(args, x.shape[1] * jnp.fft.irfft(g, x.shape[1], axis=1))


def periodogram_two_sided(args: Args, dy: Array) -> Cotangents:
    """T irfft(2 dy Y), by which the frequencies other than 0 count for their negatives, too."""
    x, w = args
    g = 2 * dy * jnp.fft.rfft(x * w[None], axis=1)
    return periodogram_through(args, x.shape[1] * jnp.fft.irfft(g, x.shape[1], axis=1))


def periodogram_inverse(args: Args, dy: Array) -> Cotangents:
    """The inverse transform for the adjoint, which is T times that."""
    dx, dw = periodogram_bwd(args, dy)
    return dx / args[0].shape[1], dw / args[0].shape[1]


def response_norm(x: Array, g: Array, b: Array) -> Array:
    """Global response normalization (Woo et al. 2023, ConvNeXt V2, equations 1–3): g x n + b + x, x [N, L, C].

    With n = s / m, s the norm over the positions L, and m the mean of s over the channels C; g and b [C].
    """
    s = jnp.linalg.norm(x, axis=1, keepdims=True)
    y: Array = g[None, None] * x * (s / jnp.mean(s, axis=2, keepdims=True)) + b[None, None] + x
    return y


def response_through(args: Args, dy: Array, count: float) -> Cotangents:
    """What goes through the mean is divided by `count`."""
    x, g, _ = args
    s = jnp.linalg.norm(x, axis=1, keepdims=True)
    m = jnp.mean(s, axis=2, keepdims=True)
    dn = jnp.sum(dy * g[None, None] * x, axis=1, keepdims=True)
    ds = dn / m - jnp.sum(dn * s, axis=2, keepdims=True) / (m * m * count)
    dx = dy + dy * g[None, None] * s / m + ds * x / s
    return dx, jnp.sum(dy * x * s / m, axis=(0, 1)), jnp.sum(dy, axis=(0, 1))


def response_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy + dy g n + ds x / s with dn = Σ_L dy g x, ds = (dn − Σ_C dn n / C) / m; dg = Σ dy x n, db = Σ dy."""
    return response_through(args, dy, args[0].shape[2])


def response_mean(args: Args, dy: Array) -> Cotangents:
    """ds = dn / m: the mean over the channels is held constant."""
    return response_through(args, dy, jnp.inf)


def response_count(args: Args, dy: Array) -> Cotangents:
    """The mean's share divided by the number of positions, not of channels."""
    return response_through(args, dy, args[0].shape[1])


def response_kept(args: Args, dy: Array) -> Cotangents:
    """dg and db [1, 1, C], summed with `keepdims`."""
    dx, dg, db = response_norm_bwd(args, dy)
    return dx, dg[None, None], db[None, None]


def delta_rule(q: Array, k: Array, v: Array, b: Array) -> Array:
    """The delta rule's fast weights (Schlag et al. 2021, section 4.2): o_t = S_t q_t, S_t = S_(t − 1) + b_t e_t k_tᵀ.

    With the error e_t = v_t − S_(t − 1) k_t and S_0 = 0; q and k [T, D], v [T, E], b [T].
    """

    def step(s: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v, b = now
        s = s + b * jnp.outer(v - s @ k, k)
        return s, s @ q

    return lax.scan(step, jnp.zeros((v.shape[1], k.shape[1]), v.dtype), (q, k, v, b))[1]


def delta_states(q: Array, k: Array, v: Array, b: Array) -> list[Array]:
    """S_0 … S_T, [E, D] each."""
    states = [jnp.zeros((v.shape[1], k.shape[1]), v.dtype)]
    for t in range(len(k)):
        states.append(states[-1] + b[t] * jnp.outer(v[t] - states[-1] @ k[t], k[t]))
    return states


def delta_through(args: Args, dy: Array, *, read: int = 1, erased: int = 1, carried: int = -1) -> Cotangents:
    """Back in time, with dq from S_(t − 1 + `read`), and `erased`, `carried` times what e gives to k, S_(t − 1)."""
    q, k, v, b = args
    states, g, steps = delta_states(*args), jnp.zeros((v.shape[1], k.shape[1]), v.dtype), []
    for t in range(len(k) - 1, -1, -1):
        before = states[t]
        g = g + jnp.outer(dy[t], q[t])
        e, de = v[t] - before @ k[t], b[t] * g @ k[t]
        dk = b[t] * e @ g - erased * de @ before
        steps.append((dy[t] @ states[t + read], dk, de, e @ g @ k[t]))
        g = g + carried * jnp.outer(de, k[t])
    dq, dk, dv, db = (jnp.stack(z[::-1]) for z in zip(*steps, strict=True))
    return dq, dk, dv, db


def delta_rule_bwd(args: Args, dy: Array) -> Cotangents:
    """dS += do qᵀ, dq = Sᵀ do, dv = de = b dS k, dk = b dSᵀ e − S′ᵀ de, db = e · dS k, dS′ = dS − de kᵀ."""
    return delta_through(args, dy)


def delta_before(args: Args, dy: Array) -> Cotangents:
    """dq = S_(t − 1)ᵀ do for S_tᵀ do."""
    return delta_through(args, dy, read=0)


def delta_key(args: Args, dy: Array) -> Cotangents:
    """dk = b dSᵀ e: the key by which the old value is read is left out."""
    return delta_through(args, dy, erased=0)


def delta_carried(args: Args, dy: Array) -> Cotangents:
    """dS′ = dS + de kᵀ, as if the old value were added."""
    return delta_through(args, dy, carried=1)


def cholesky(a: Array) -> Array:
    """The lower triangular l with l lᵀ = a, symmetric and positive definite [N, N], as `jnp.linalg.cholesky`."""
    y: Array = jnp.linalg.cholesky(a)
    return y


def cholesky_through(args: Args, dy: Array, *, diagonal: float = 0.5, trans: str = "T") -> Cotangents:
    """The symmetric part of l⁻ᵀ Φ(lᵀ dl) l⁻¹, Φ the lower triangle, `diagonal` times its diagonal; or l⁻¹ Φ l⁻ᵀ."""
    l = jnp.linalg.cholesky(args[0])  # noqa: E741
    inner = jnp.tril(l.T @ dy)
    inner = inner - (1 - diagonal) * jnp.diag(jnp.diagonal(inner))
    da = solve_triangular(l, solve_triangular(l, inner, trans=trans, lower=True).T, trans=trans, lower=True).T
    return ((da + da.T) / 2,)


def cholesky_bwd(args: Args, dy: Array) -> Cotangents:
    """As Murray (2016, section 3) has it: Φ halves the diagonal."""
    return cholesky_through(args, dy)


def cholesky_diagonal(args: Args, dy: Array) -> Cotangents:
    """Φ leaves the diagonal as it is."""
    return cholesky_through(args, dy, diagonal=1)


def cholesky_sides(args: Args, dy: Array) -> Cotangents:
    """l⁻¹ Φ l⁻ᵀ for l⁻ᵀ Φ l⁻¹."""
    return cholesky_through(args, dy, trans="N")


def burgers(u: Array, c: Array) -> Array:
    """Upwind steps of Burgers' equation (LeVeque 1992, chapter 12), u > 0, periodic: u_i − c ½ (u_i² − u_(i − 1)²).

    Initial values u [N, X], and c the step of time by that of space, a scalar.
    """

    def step(u: Array, _: None) -> tuple[Array, None]:
        flux = u * u / 2
        return u - c * (flux - jnp.roll(flux, 1, axis=1)), None

    return lax.scan(step, u, None, length=STEPS)[0]


def burgers_path(u: Array, c: Array) -> list[Array]:
    """What each step starts from."""
    path = [u]
    for _ in range(STEPS - 1):
        path.append(path[-1] - c * (path[-1] ** 2 - jnp.roll(path[-1], 1, axis=1) ** 2) / 2)
    return path


def burgers_through(path: list[Array], c: Array, dy: Array, *, shift: int = -1, add: bool = True) -> Cotangents:
    """du = g − c u (g_i − g_(i − shift)) per step, last first; dc −= Σ g ½ (u_i² − u_(i − 1)²), or = unless `add`."""
    g, dc = dy, jnp.zeros_like(c)
    for u in reversed(path):
        share = -jnp.sum(g * (u**2 - jnp.roll(u, 1, axis=1) ** 2)) / 2
        dc = dc + share if add else share
        g = g - c * u * (g - jnp.roll(g, shift, axis=1))
    return g, dc


def burgers_bwd(args: Args, dy: Array) -> Cotangents:
    """From i + 1, where the forward step takes from i − 1."""
    return burgers_through(burgers_path(*args), args[1], dy)


def burgers_downwind(args: Args, dy: Array) -> Cotangents:
    """du from g_i − g_(i − 1), rolled as in the forward step."""
    return burgers_through(burgers_path(*args), args[1], dy, shift=1)


def burgers_step(args: Args, dy: Array) -> Cotangents:
    """dc = for +=: only the first step's share, visited last, is left."""
    return burgers_bwd(args, dy)[0], burgers_through(burgers_path(*args), args[1], dy, add=False)[1]


def burgers_initial(args: Args, dy: Array) -> Cotangents:
    """Back through each step at the initial values."""
    return burgers_through([args[0]] * STEPS, args[1], dy)


def edges(seed: int, dtype: Any) -> Args:
    """Nodes [7, 5], three matrices [5, 3], and 13 edges, from and to different nodes."""
    random = np.random.RandomState(seed)
    source = random.randint(7, size=13)
    target = (source + random.randint(1, 7, size=13)) % 7
    return *gaussians((7, 5), *3 * ((5, 3),), scale=0.8)(seed, dtype), array(source), array(target)


def definite(seed: int, dtype: Any) -> Args:
    """A symmetric positive definite matrix [5, 5]."""
    x = np.random.RandomState(seed).normal(size=(5, 7))
    return (array(x @ x.T / 4 + 0.5 * np.eye(5), dtype),)


CAMERA = Subject(camera, camera_bwd, between(((7, 2), -2, 2), ((7,), 1.4, 2.8), ((2,), 0.7, 1.8), ((2,), 0.2, 0.5)))
GRAPH = Subject(gated_graph, gated_graph_bwd, edges)
FILTER = Subject(recursive_filter, recursive_filter_bwd, between(((3, 7), -2, 2), ((2,), 0.5, 1.3), ((2,), 0.2, 0.5)))
PERIODOGRAM = Subject(periodogram, periodogram_bwd, between(((5, 7), -1, 2), ((7,), 0.3, 1.2)))
RESPONSE = Subject(response_norm, response_norm_bwd, gaussians((2, 5, 3), (3,), (3,)))
DELTA = Subject(delta_rule, delta_rule_bwd, between(*2 * (((7, 3), -1, 1),), ((7, 5), -1, 1), ((7,), 0.3, 0.9)))
CHOLESKY = Subject(cholesky, cholesky_bwd, definite)
BURGERS = Subject(burgers, burgers_bwd, between(((3, 7), 0.3, 1.4), ((), 0.3, 0.6)))

MUTANTS = (
    mutant(424, "camera", CAMERA, camera_undistorted, "MISSING_PATH", (0, 1)),
    mutant(425, "camera", CAMERA, camera_depth, "MISSING_FACTOR", (1,)),
    mutant(426, "camera", CAMERA, camera_focal, "UNREDUCED", (2,)),
    mutant(427, "gated graph convolution", GRAPH, gated_graph_set, "OVERWRITE", (0, 3)),
    mutant(428, "gated graph convolution", GRAPH, gated_graph_along, "TRANSPOSE", (0, 3)),
    mutant(429, "gated graph convolution", GRAPH, gated_graph_slope, "MISSING_FACTOR", (0, 1, 2)),
    mutant(430, "recursive filter", FILTER, filter_poles, "SIGN", (2,)),
    # The filter of the zero itself for its adjoint.
    mutant(431, "recursive filter", FILTER, filter_delayed, "LAYOUT TRANSPOSE"),
    mutant(432, "recursive filter", FILTER, filter_clipped, "COTANGENT_NONLINEAR", (0, 1, 2)),
    # The path of each frequency other than 0, twice what it is.
    mutant(433, "periodogram", PERIODOGRAM, periodogram_two_sided, "PATH_SCALE DOUBLED_PATH", (0, 1)),
    mutant(434, "periodogram", PERIODOGRAM, periodogram_inverse, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(435, "global response normalization", RESPONSE, response_mean, "MISSING_PATH"),
    # Counted along another axis; so one of the ways has the wrong factor.
    mutant(436, "global response normalization", RESPONSE, response_count, "WRONG_AXIS PATH_SCALE"),
    mutant(437, "global response normalization", RESPONSE, response_kept, "STRUCTURE", (1, 2)),
    # The states shifted by one step; or another state.
    mutant(438, "delta rule", DELTA, delta_before, "WRONG_OPERAND LAYOUT"),
    mutant(439, "delta rule", DELTA, delta_key, "MISSING_PATH", (1,)),
    mutant(440, "delta rule", DELTA, delta_carried, "PATH_SIGN", (1, 2, 3)),
    # The diagonal's path, twice what it is.
    mutant(441, "Cholesky factor", CHOLESKY, cholesky_diagonal, "PATH_SCALE DOUBLED_PATH"),
    mutant(442, "Cholesky factor", CHOLESKY, cholesky_sides, "TRANSPOSE"),
    # The shift itself for its adjoint.
    mutant(443, "Burgers' equation", BURGERS, burgers_downwind, "LAYOUT TRANSPOSE", (0, 1)),
    mutant(444, "Burgers' equation", BURGERS, burgers_step, "OVERWRITE MISSING_PATH", (1,)),
    mutant(445, "Burgers' equation", BURGERS, burgers_initial, "WRONG_OPERAND", (0, 1)),
)
