"""A first set of wrong backward passes, of other functions: layers and maps, 125–148.

From papers and from other libraries, as each docstring says. The losses are in `fresh`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

GROUPS = 2


def gru(x: Array, h: Array, w: Array, u: Array) -> Array:
    """h′ = (1 − z) n + z h (Cho et al. 2014), n = tanh(a_n + r c_n) with a = x w and c = h u, as `torch.nn.GRUCell`.

    r = σ(a_r + c_r) and z = σ(a_z + c_z). x [B, I], h [B, H], w [I, 3 H] and u [H, 3 H].
    """
    _, z, n, _ = gru_gates(x, h, w, u)
    return (1 - z) * n + z * h


def gru_gates(x: Array, h: Array, w: Array, u: Array) -> tuple[Array, Array, Array, Array]:
    """r, z, n and c_n, [B, H] each."""
    a, c = jnp.split(x @ w, 3, axis=1), jnp.split(h @ u, 3, axis=1)
    r, z = jax.nn.sigmoid(a[0] + c[0]), jax.nn.sigmoid(a[1] + c[1])
    return r, z, jnp.tanh(a[2] + r * c[2]), c[2]


def gru_through(args: Args, dy: Array, dr: Array, dz: Array, da: Array, dc: Array) -> Cotangents:
    """From those of r and z, and those by which a_n and c_n get into n."""
    x, h, w, u = args
    r, z, _, _ = gru_gates(*args)
    dr, dz = dr * r * (1 - r), dz * z * (1 - z)
    da, dc = jnp.concatenate([dr, dz, da], axis=1), jnp.concatenate([dr, dz, dc], axis=1)
    return da @ w.T, dc @ u.T + dy * z, x.T @ da, h.T @ dc


def gru_bwd(args: Args, dy: Array) -> Cotangents:
    """da_n = dy (1 − z) (1 − n²), dc_n = r da_n, dr = da_n c_n, dz = dy (h − n); to h there is dy z, too."""
    r, z, n, c = gru_gates(*args)
    da = dy * (1 - z) * (1 - n * n)
    return gru_through(args, dy, da * c, dy * (args[1] - n), da, r * da)


def gru_reset(args: Args, dy: Array) -> Cotangents:
    """dr = da_n h for da_n c_n, as if r acted on h before the product with u."""
    r, z, n, _ = gru_gates(*args)
    da = dy * (1 - z) * (1 - n * n)
    return gru_through(args, dy, da * args[1], dy * (args[1] - n), da, r * da)


def gru_update(args: Args, dy: Array) -> Cotangents:
    """dz = dy (n − h) for dy (h − n), the roles of z and 1 − z exchanged."""
    r, z, n, c = gru_gates(*args)
    da = dy * (1 - z) * (1 - n * n)
    return gru_through(args, dy, da * c, dy * (n - args[1]), da, r * da)


def gru_candidate(args: Args, dy: Array) -> Cotangents:
    """dc_n = da_n for r da_n."""
    _, z, n, c = gru_gates(*args)
    da = dy * (1 - z) * (1 - n * n)
    return gru_through(args, dy, da * c, dy * (args[1] - n), da, da)


def group_norm(x: Array, g: Array, b: Array) -> Array:
    """Group normalization (Wu and He 2018, equations 1–3), x [N, C, L]; g and b [C]."""
    return grouped(x, GROUPS)[0] * g[None, :, None] + b[None, :, None]


def grouped(x: Array, groups: int) -> tuple[Array, Array]:
    """x̂ and 1/σ, [N, C, L] both."""
    split = x.reshape(x.shape[0], groups, -1)
    centred = split - jnp.mean(split, axis=2, keepdims=True)
    rate = 1 / jnp.sqrt(jnp.mean(centred * centred, axis=2, keepdims=True) + 1e-5)
    return (centred * rate).reshape(x.shape), jnp.broadcast_to(rate, split.shape).reshape(x.shape)


def group_mean(x: Array, groups: int) -> Array:
    """The mean over each group, [N, C, L]."""
    split = x.reshape(x.shape[0], groups, -1)
    return jnp.broadcast_to(jnp.mean(split, axis=2, keepdims=True), split.shape).reshape(x.shape)


def group_project(x: Array, d: Array, groups: int) -> Array:
    """(d − mean d − x̂ mean(d x̂)) / σ."""
    hat, rate = grouped(x, groups)
    return rate * (d - group_mean(d, groups) - hat * group_mean(d * hat, groups))


def group_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = (d − mean d − x̂ mean(d x̂)) / σ with d = dy g, the means over the group; dg = Σ dy x̂, db = Σ dy."""
    x, g, _ = args
    dg = jnp.sum(dy * grouped(x, GROUPS)[0], axis=(0, 2))
    return group_project(x, dy * g[None, :, None], GROUPS), dg, jnp.sum(dy, axis=(0, 2))


def group_scaled_last(args: Args, dy: Array) -> Cotangents:
    """The means are taken of dy, and the gain is multiplied afterwards: dx = g (dy − mean dy − …) / σ."""
    x, g, _ = args
    _, dg, db = group_norm_bwd(args, dy)
    return g[None, :, None] * group_project(x, dy, GROUPS), dg, db


def group_mean_constant(args: Args, dy: Array) -> Cotangents:
    """dx = (d − x̂ mean(d x̂)) / σ: the mean is held constant."""
    x, g, _ = args
    _, dg, db = group_norm_bwd(args, dy)
    hat, rate = grouped(x, GROUPS)
    d = dy * g[None, :, None]
    return rate * (d - hat * group_mean(d * hat, GROUPS)), dg, db


def group_instance(args: Args, dy: Array) -> Cotangents:
    """Of instance normalization: mean and σ of each channel alone."""
    x, g, _ = args
    _, _, db = group_norm_bwd(args, dy)
    hat, _ = grouped(x, x.shape[1])
    return group_project(x, dy * g[None, :, None], x.shape[1]), jnp.sum(dy * hat, axis=(0, 2)), db


def ssm(x: Array, a: Array, b: Array, c: Array, s: Array) -> Array:
    """Diagonal state space, as S4D (Gu et al. 2022, section 3.1): h_t = ā h_(t−1) + b̄ x_t, y_t = Σ c h_t.

    By zero-order hold, ā = exp(Δ A) and b̄ = b (ā − 1) / A with A = −e^a and Δ = e^s. x [T]; a, b and c [N].
    """
    return ssm_states(x, a, b, s) @ c


def ssm_discrete(a: Array, b: Array, s: Array) -> tuple[Array, Array]:
    """ā and b̄."""
    decay = jnp.exp(-jnp.exp(s + a))
    return decay, b * (1 - decay) * jnp.exp(-a)


def ssm_states(x: Array, a: Array, b: Array, s: Array) -> Array:
    """h [T, N], from h = 0."""
    decay, gain = ssm_discrete(a, b, s)
    states = [gain * x[0]]
    for t in range(1, len(x)):
        states.append(decay * states[-1] + gain * x[t])
    return jnp.stack(states)


def ssm_adjoint(decay: Array, c: Array, dy: Array) -> Array:
    """dh [T, N]: backward in time, dh_t = c dy_t + ā dh_(t+1)."""
    return ssm_filter(decay, c, dy[::-1])[::-1]


def ssm_filter(decay: Array, c: Array, dy: Array) -> Array:
    """The like, forward."""
    found = [c * dy[0]]
    for t in range(1, len(dy)):
        found.append(decay * found[-1] + c * dy[t])
    return jnp.stack(found)


def ssm_through(args: Args, dh: Array, before: Array, dc: Array) -> Cotangents:
    """dā = Σ dh_t h_(t−1), db̄ = Σ dh_t x_t, dx_t = Σ b̄ dh_t; then through the discretization."""
    x, a, b, _, s = args
    decay, gain = ssm_discrete(a, b, s)
    rate = jnp.exp(s + a)  # −Δ A, which has the same derivative by a as by s
    d_gain = x @ dh
    d_rate = -decay * rate * (jnp.sum(dh * before, axis=0) - d_gain * b * jnp.exp(-a))
    return dh @ gain, d_rate - d_gain * gain, d_gain * gain / b, dc, jnp.sum(d_rate)


def ssm_bwd(args: Args, dy: Array) -> Cotangents:
    """dh backward in time, dā with the state before; dc = Σ dy_t h_t."""
    x, a, b, c, s = args
    h = ssm_states(x, a, b, s)
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
    return ssm_through(args, ssm_adjoint(ssm_discrete(a, b, s)[0], c, dy), before, dy @ h)


def ssm_state_after(args: Args, dy: Array) -> Cotangents:
    """dā = Σ dh_t h_t for Σ dh_t h_(t−1)."""
    x, a, b, c, s = args
    h = ssm_states(x, a, b, s)
    return ssm_through(args, ssm_adjoint(ssm_discrete(a, b, s)[0], c, dy), h, dy @ h)


def ssm_forward(args: Args, dy: Array) -> Cotangents:
    """dh_t = c dy_t + ā dh_(t−1), forward in time."""
    x, a, b, c, s = args
    h = ssm_states(x, a, b, s)
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
    return ssm_through(args, ssm_filter(ssm_discrete(a, b, s)[0], c, dy), before, dy @ h)


def ssm_gain_constant(args: Args, dy: Array) -> Cotangents:
    """da and ds through ā alone: b̄ is held constant."""
    x, a, b, c, s = args
    dx, _, db, dc, _ = ssm_bwd(args, dy)
    h, decay = ssm_states(x, a, b, s), ssm_discrete(a, b, s)[0]
    d_decay = jnp.sum(ssm_adjoint(decay, c, dy)[1:] * h[:-1], axis=0)
    d_rate = -decay * jnp.exp(s + a) * d_decay
    return dx, d_rate, db, dc, jnp.sum(d_rate)


def excitation(x: Array, w: Array, u: Array) -> Array:
    """Squeeze and excitation (Hu et al. 2018, equations 2–4): x σ(relu(mean x w) u), x [N, L, C], the mean over L."""
    return x * excitation_gate(x, w, u)[2]


def excitation_gate(x: Array, w: Array, u: Array) -> tuple[Array, Array, Array]:
    """The mean [N, C], the hidden layer [N, R] and the gate [N, 1, C]."""
    mean = jnp.mean(x, axis=1)
    hidden = jnp.maximum(mean @ w, 0)
    return mean, hidden, jax.nn.sigmoid(hidden @ u)[:, None]


def excitation_parts(args: Args, dy: Array) -> tuple[Array, Array, Array, Array]:
    """dy gate; and of the mean, of w and of u."""
    x, w, u = args
    mean, hidden, gate = excitation_gate(x, w, u)
    dz = jnp.sum(dy * x * gate * (1 - gate), axis=1)
    dh = jnp.where(hidden > 0, dz @ u.T, 0)
    return dy * gate, dh @ w.T, mean.T @ dh, hidden.T @ dz


def excitation_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy gate + (what comes to the mean) / L."""
    direct, through, dw, du = excitation_parts(args, dy)
    return direct + through[:, None] / dy.shape[1], dw, du


def excitation_twice(args: Args, dy: Array) -> Cotangents:
    """dx = 2 dy gate + …: added where the product is differentiated and again where the block ends."""
    dx, dw, du = excitation_bwd(args, dy)
    return dx + excitation_parts(args, dy)[0], dw, du


def excitation_channels(args: Args, dy: Array) -> Cotangents:
    """What comes to the mean is divided by C, the number of channels, not by L."""
    direct, through, dw, du = excitation_parts(args, dy)
    return direct + through[:, None] / dy.shape[2], dw, du


def excitation_gate_constant(args: Args, dy: Array) -> Cotangents:
    """dx = dy gate: the gate is held constant."""
    _, dw, du = excitation_bwd(args, dy)
    return excitation_parts(args, dy)[0], dw, du


def sparsemax(z: Array) -> Array:
    """Projection of each row onto the simplex (Martins and Astudillo 2016, algorithm 1), z [N, K]."""
    ordered = -jnp.sort(-z, axis=1)
    rank = jnp.arange(1, z.shape[1] + 1).astype(z.dtype)[None]
    kept = (1 + rank * ordered > jnp.cumsum(ordered, axis=1)).astype(z.dtype)
    threshold = (jnp.sum(kept * ordered, axis=1, keepdims=True) - 1) / jnp.sum(kept, axis=1, keepdims=True)
    return jnp.maximum(z - threshold, 0)


def sparsemax_mean(args: Args, dy: Array) -> tuple[Array, Array]:
    """The support, 0 or 1, and the mean of dy over it."""
    support = (sparsemax(*args) > 0).astype(dy.dtype)
    return support, jnp.sum(support * dy, axis=1, keepdims=True) / jnp.sum(support, axis=1, keepdims=True)


def sparsemax_bwd(args: Args, dy: Array) -> Cotangents:
    """dz = dy − the mean of dy over the support, on the support; 0 outside (proposition 2 there)."""
    support, mean = sparsemax_mean(args, dy)
    return (support * (dy - mean),)


def sparsemax_everywhere(args: Args, dy: Array) -> Cotangents:
    """dy − mean, outside the support, too."""
    return (dy - sparsemax_mean(args, dy)[1],)


def sparsemax_softmax(args: Args, dy: Array) -> Cotangents:
    """p (dy − Σ p dy) with sparsemax's p in softmax's formula."""
    p = sparsemax(*args)
    return (p * (dy - jnp.sum(p * dy, axis=1, keepdims=True)),)


def sparsemax_count(args: Args, dy: Array) -> Cotangents:
    """The sum over the support is divided by K, not by the size of the support."""
    support, mean = sparsemax_mean(args, dy)
    return (support * (dy - mean * jnp.mean(support, axis=1, keepdims=True)),)


def rotation(q: Array, v: Array) -> Array:
    """v + 2 w (u × v) + 2 u × (u × v), the rotation of v [N, 3] by unit q = (w, u) [N, 4] (Rodrigues 1840)."""
    w, u = q[:, :1], q[:, 1:]
    t = jnp.cross(u, v)
    return v + 2 * w * t + 2 * jnp.cross(u, t)


def rotation_bwd(args: Args, dy: Array) -> Cotangents:
    """With t = u × v and s = 2 w dy + 2 dy × u, that of t: dw = 2 dy·t, du = 2 t × dy + v × s, dv = dy + s × u."""
    q, v = args
    w, u = q[:, :1], q[:, 1:]
    t, s = jnp.cross(u, v), 2 * w * dy + 2 * jnp.cross(dy, u)
    dw = 2 * jnp.sum(dy * t, axis=1, keepdims=True)
    du = 2 * jnp.cross(t, dy) + jnp.cross(v, s)
    return jnp.concatenate([dw, du], axis=1), dy + jnp.cross(s, u)


def rotation_not_inverted(args: Args, dy: Array) -> Cotangents:
    """dv is dy rotated by q, not back."""
    dq, _ = rotation_bwd(args, dy)
    return dq, rotation(args[0], dy)


def rotation_inner(args: Args, dy: Array) -> Cotangents:
    """du = v × s: the outer u of u × (u × v) is held constant."""
    q, v = args
    dq, dv = rotation_bwd(args, dy)
    du = dq[:, 1:] - 2 * jnp.cross(jnp.cross(q[:, 1:], v), dy)
    return jnp.concatenate([dq[:, :1], du], axis=1), dv


def rotation_order(args: Args, dy: Array) -> Cotangents:
    """dq in the order (u, w), as other libraries have it."""
    dq, dv = rotation_bwd(args, dy)
    return jnp.concatenate([dq[:, 1:], dq[:, :1]], axis=1), dv


def sampling(image: Array, r: Array, c: Array) -> Array:
    """The image [H, W] between its pixels, at rows r and columns c [N] (Jaderberg et al. 2015, equation 5)."""
    return sum((image[i, j] * wr * wc for i, j, wr, wc, _, _ in sampling_corners(r, c)), start=jnp.zeros_like(r))


def sampling_corners(r: Array, c: Array) -> list[tuple[Array, Array, Array, Array, int, int]]:
    """Of the four pixels around: row, column, the weights of both, and their derivatives."""
    i, j = jnp.floor(r), jnp.floor(c)
    rows = ((i.astype(np.int32), 1 - (r - i), -1), (i.astype(np.int32) + 1, r - i, 1))
    columns = ((j.astype(np.int32), 1 - (c - j), -1), (j.astype(np.int32) + 1, c - j, 1))
    return [(k, m, wr, wc, dr, dc) for k, wr, dr in rows for m, wc, dc in columns]


def sampling_bwd(args: Args, dy: Array) -> Cotangents:
    """dimage: dy times both weights, added to the four pixels; dr = dy Σ ± pixel · column's weight, dc the like."""
    image, r, c = args
    d_image, d_r, d_c = jnp.zeros_like(image), jnp.zeros_like(r), jnp.zeros_like(c)
    for i, j, wr, wc, sr, sc in sampling_corners(r, c):
        d_image = d_image.at[i, j].add(dy * wr * wc)
        d_r, d_c = d_r + dy * image[i, j] * sr * wc, d_c + dy * image[i, j] * wr * sc
    return d_image, d_r, d_c


def sampling_overwritten(args: Args, dy: Array) -> Cotangents:
    """dimage[i, j] = … for += …: of the points that share a pixel, the last remains."""
    _, d_r, d_c = sampling_bwd(args, dy)
    d_image = jnp.zeros_like(args[0])
    for i, j, wr, wc, _, _ in sampling_corners(*args[1:]):
        for n in range(len(dy)):
            d_image = d_image.at[i[n], j[n]].set(dy[n] * wr[n] * wc[n])
    return d_image, d_r, d_c


def sampling_exchanged(args: Args, dy: Array) -> Cotangents:
    """The gradient in the order (x, y), that is column and row, for row and column."""
    d_image, d_r, d_c = sampling_bwd(args, dy)
    return d_image, d_c, d_r


def sampling_one_axis(args: Args, dy: Array) -> Cotangents:
    """dr = dy (pixel below − pixel above), both in column ⌊c⌋: not weighted over the columns."""
    image, r, c = args
    d_image, _, d_c = sampling_bwd(args, dy)
    (i, j, *_), _, (k, *_), _ = sampling_corners(r, c)
    return d_image, dy * (image[k, j] - image[i, j]), d_c


def fourier(x: Array, b: Array) -> Array:
    """[cos 2π x bᵀ, sin 2π x bᵀ] (Tancik et al. 2020, section 5), x [N, D] and b [K, D]."""
    z = 2 * np.pi * x @ b.T
    return jnp.concatenate([jnp.cos(z), jnp.sin(z)], axis=1)


def fourier_through(args: Args, cosine: Array, sine: Array, frequency: float = 2 * np.pi) -> Cotangents:
    """From those of cos z and sin z: dz = sine cos z − cosine sin z, dx = 2π dz b and db = 2π dzᵀ x."""
    x, b = args
    z = 2 * np.pi * x @ b.T
    dz = frequency * (sine * jnp.cos(z) - cosine * jnp.sin(z))
    return dz @ b, dz.T @ x


def fourier_bwd(args: Args, dy: Array) -> Cotangents:
    """With dy's halves."""
    cosine, sine = jnp.split(dy, 2, axis=1)
    return fourier_through(args, cosine, sine)


def fourier_frequency(args: Args, dy: Array) -> Cotangents:
    """Without 2π from inside."""
    cosine, sine = jnp.split(dy, 2, axis=1)
    return fourier_through(args, cosine, sine, 1)


def fourier_sign(args: Args, dy: Array) -> Cotangents:
    """cos′ = sin for −sin."""
    cosine, sine = jnp.split(dy, 2, axis=1)
    return fourier_through(args, -cosine, sine)


def fourier_halves(args: Args, dy: Array) -> Cotangents:
    """dy read as if the sines came first."""
    sine, cosine = jnp.split(dy, 2, axis=1)
    return fourier_through(args, cosine, sine)


def slow(seed: int, dtype: Any) -> Args:
    """A sequence of seven for three states that remember several steps."""
    x, a, b, c, s = gaussians((7,), (3,), (3,), (3,), (), scale=0.6)(seed, dtype)
    return x, a, b, c, s - 1.5


def points(seed: int, dtype: Any) -> Args:
    """An image [3, 5] and eleven points in it, of which some share a pixel."""
    random = np.random.RandomState(seed)
    r, c = random.uniform(0.05, 1.95, size=11), random.uniform(0.05, 3.95, size=11)
    return array(random.normal(size=(3, 5)), dtype), array(r, dtype), array(c, dtype)


GRU = Subject(gru, gru_bwd, gaussians((3, 2), (3, 5), (2, 15), (5, 15), scale=0.7))
GROUP = Subject(group_norm, group_norm_bwd, gaussians((3, 10, 7), (10,), (10,)))
SSM = Subject(ssm, ssm_bwd, slow)
EXCITATION = Subject(excitation, excitation_bwd, gaussians((5, 7, 3), (3, 2), (2, 3)))
SPARSEMAX = Subject(sparsemax, sparsemax_bwd, gaussians((5, 7), scale=0.5))  # some in the support, some not
ROTATION = Subject(rotation, rotation_bwd, gaussians((5, 4), (5, 3)))
SAMPLING = Subject(sampling, sampling_bwd, points)
FOURIER = Subject(fourier, fourier_bwd, gaussians((5, 2), (7, 2), scale=0.5))

MUTANTS = (
    mutant(125, "gated recurrent unit", GRU, gru_reset, "WRONG_OPERAND", (0, 1, 2, 3)),
    mutant(126, "gated recurrent unit", GRU, gru_update, "PATH_SIGN", (0, 1, 2, 3)),
    # The factor r, on one of the ways from h and in a third of the columns of u.
    mutant(127, "gated recurrent unit", GRU, gru_candidate, "MISSING_FACTOR PATH_SCALE", (1, 3)),
    # The Jacobian, gain times a symmetric matrix, for its transpose; or dy for dy times the gain within the means.
    mutant(128, "group normalization", GROUP, group_scaled_last, "TRANSPOSE WRONG_OPERAND"),
    mutant(129, "group normalization", GROUP, group_mean_constant, "MISSING_PATH"),
    mutant(130, "group normalization", GROUP, group_instance, "OTHER_FORWARD", (0, 1)),
    # The states shifted by one step; or another state.
    mutant(131, "diagonal state space", SSM, ssm_state_after, "WRONG_OPERAND LAYOUT", (1, 4)),
    # The recurrence itself for its adjoint; which is to flip the time.
    mutant(132, "diagonal state space", SSM, ssm_forward, "TRANSPOSE LAYOUT", (0, 1, 2, 4)),
    mutant(133, "diagonal state space", SSM, ssm_gain_constant, "MISSING_PATH", (1, 4)),
    mutant(134, "squeeze and excitation", EXCITATION, excitation_twice, "DOUBLED_PATH"),
    # Counted along another axis; so one of two ways has the wrong factor.
    mutant(135, "squeeze and excitation", EXCITATION, excitation_channels, "WRONG_AXIS PATH_SCALE"),
    mutant(136, "squeeze and excitation", EXCITATION, excitation_gate_constant, "MISSING_PATH"),
    # A mask forgotten: wrong exactly where it is 0.
    mutant(137, "sparsemax", SPARSEMAX, sparsemax_everywhere, "MISSING_FACTOR SUPPORT"),
    # Softmax's rule; or p in the place of the mask of the support.
    mutant(138, "sparsemax", SPARSEMAX, sparsemax_softmax, "OTHER_FORWARD WRONG_OPERAND"),
    mutant(139, "sparsemax", SPARSEMAX, sparsemax_count, "PATH_SCALE"),
    # The rotation for its inverse; or the one odd term with the wrong sign.
    mutant(140, "quaternion rotation", ROTATION, rotation_not_inverted, "TRANSPOSE PATH_SIGN", (1,)),
    mutant(141, "quaternion rotation", ROTATION, rotation_inner, "MISSING_PATH"),
    mutant(142, "quaternion rotation", ROTATION, rotation_order, "LAYOUT"),
    mutant(143, "bilinear sampling", SAMPLING, sampling_overwritten, "OVERWRITE"),
    mutant(144, "bilinear sampling", SAMPLING, sampling_exchanged, "SWAPPED", (1, 2)),
    # The wrong pixels' difference; or the derivative of sampling that interpolates along the rows alone.
    mutant(145, "bilinear sampling", SAMPLING, sampling_one_axis, "WRONG_OPERAND OTHER_FORWARD", (1,)),
    mutant(146, "Fourier features", FOURIER, fourier_frequency, "SCALE MISSING_FACTOR", (0, 1)),
    mutant(147, "Fourier features", FOURIER, fourier_sign, "PATH_SIGN", (0, 1)),
    # The halves of dy exchanged; or the other's cotangent.
    mutant(148, "Fourier features", FOURIER, fourier_halves, "LAYOUT WRONG_OPERAND", (0, 1)),
)
