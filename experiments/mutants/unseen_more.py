"""A second set of wrong backward passes, of other functions: layers, models, dynamics, 225–252.

From papers and from other libraries, as each docstring says. Losses and likelihoods are in `unseen`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from experiments.mutants.case import Args, Cotangents, Subject, gaussians, mutant
from experiments.mutants.unseen import between

BETA = 4
DISCOUNT = 0.9
STEP = 0.3  # of the leapfrog


def lstm(x: Array, h: Array, c: Array, w: Array, u: Array, b: Array) -> Array:
    """The new h and c side by side, [N, 2 H], as `torch.nn.LSTMCell` with one bias: gates i, f, g, o in this order.

    c′ = f c + i g and h′ = o tanh c′; x [N, D], h and c [N, H], w [D, 4 H], u [H, 4 H], b [4 H].
    """
    *_, o, new = lstm_state(x, h, c, w, u, b)
    return jnp.concatenate([o * jnp.tanh(new), new], axis=1)


def lstm_state(x: Array, h: Array, c: Array, w: Array, u: Array, b: Array) -> tuple[Array, ...]:
    """i, f, g, o and c′."""
    i, f, g, o = jnp.split(x @ w + h @ u + b[None], 4, axis=1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    return i, f, g, o, f * c + i * g


def lstm_gates(args: Args, dh: Array, dnew: Array) -> list[Array]:
    """Cotangents of what goes into i, f, g and o."""
    i, f, g, o, new = lstm_state(*args)
    return [
        dnew * g * i * (1 - i),
        dnew * args[2] * f * (1 - f),
        dnew * i * (1 - g * g),
        dh * jnp.tanh(new) * o * (1 - o),
    ]


def lstm_through(args: Args, gates: list[Array], dnew: Array) -> Cotangents:
    """From those of the gates and of c′."""
    x, h, _, w, u, _ = args
    dz = jnp.concatenate(gates, axis=1)
    return dz @ w.T, dz @ u.T, dnew * lstm_state(*args)[1], x.T @ dz, h.T @ dz, jnp.sum(dz, axis=0)


def lstm_new(args: Args, dy: Array) -> tuple[Array, Array, Array]:
    """dh′, and of dc′ both shares: that of dy, and dh′ o (1 − tanh² c′)."""
    dh, dc = jnp.split(dy, 2, axis=1)
    *_, o, new = lstm_state(*args)
    return dh, dc, dh * o * (1 - jnp.tanh(new) ** 2)


def lstm_bwd(args: Args, dy: Array) -> Cotangents:
    """dc′ += dh′ o (1 − tanh² c′), then di = dc′ g, df = dc′ c, dg = dc′ i, do = dh′ tanh c′, dc = dc′ f."""
    dh, dc, through = lstm_new(args, dy)
    return lstm_through(args, lstm_gates(args, dh, dc + through), dc + through)


def lstm_cell_state(args: Args, dy: Array) -> Cotangents:
    """dc′ = dh′ o (1 − tanh² c′): what comes back from the next step's cell is not added."""
    dh, _, through = lstm_new(args, dy)
    return lstm_through(args, lstm_gates(args, dh, through), through)


def lstm_old_cell(args: Args, dy: Array) -> Cotangents:
    """1 − tanh² c with the old c, for the new one."""
    dh, dc, _ = lstm_new(args, dy)
    dnew = dc + dh * lstm_state(*args)[3] * (1 - jnp.tanh(args[2]) ** 2)
    return lstm_through(args, lstm_gates(args, dh, dnew), dnew)


def lstm_gate_order(args: Args, dy: Array) -> Cotangents:
    """The gates' cotangents in the order i, f, o, g of another library."""
    dh, dc, through = lstm_new(args, dy)
    i, f, g, o = lstm_gates(args, dh, dc + through)
    return lstm_through(args, [i, f, o, g], dc + through)


def weight_norm(x: Array, v: Array, g: Array) -> Array:
    """A linear layer x wᵀ with weight normalization (Salimans and Kingma 2016, equation 2): w = g v / ‖v‖ per row.

    x [N, D], v [M, D], g [M].
    """
    return x @ (g[:, None] * v / jnp.sqrt(jnp.sum(v * v, axis=1, keepdims=True))).T


def weight_norm_bwd(args: Args, dy: Array) -> Cotangents:
    """With dw = dyᵀ x: dx = dy w, dg = dw · v / ‖v‖, dv = g / ‖v‖ (dw − dg v / ‖v‖)."""
    return weight_norm_with(args, dy, jnp.sqrt(jnp.sum(args[1] ** 2, axis=1, keepdims=True)))


def weight_norm_with(args: Args, dy: Array, size: Array) -> Cotangents:
    """The same with ‖v‖ given."""
    x, v, g = args
    unit, dw = v / size, dy.T @ x
    dg = jnp.sum(dw * unit, axis=1, keepdims=True)
    return dy @ (g[:, None] * unit), g[:, None] / size * (dw - dg * unit), dg[:, 0]


def weight_norm_constant(args: Args, dy: Array) -> Cotangents:
    """dv = g dw / ‖v‖: the norm is held constant."""
    x, v, g = args
    dx, _, dg = weight_norm_bwd(args, dy)
    return dx, g[:, None] / jnp.sqrt(jnp.sum(v * v, axis=1, keepdims=True)) * (dy.T @ x), dg


def weight_norm_columns(args: Args, dy: Array) -> Cotangents:
    """The norms of v's columns for those of its rows."""
    return weight_norm_with(args, dy, jnp.sqrt(jnp.sum(args[1] ** 2, axis=0, keepdims=True)))


def weight_norm_projection(args: Args, dy: Array) -> Cotangents:
    """dv = g / ‖v‖ (dw − dg v), v not divided by ‖v‖."""
    x, v, g = args
    dx, _, dg = weight_norm_bwd(args, dy)
    return dx, g[:, None] / jnp.sqrt(jnp.sum(v * v, axis=1, keepdims=True)) * (dy.T @ x - dg[:, None] * v), dg


def linear_attention(q: Array, k: Array, v: Array) -> Array:
    """Linear attention (Katharopoulos et al. 2020, equations 5 and 7): φ(q) Σ φ(k) vᵀ / φ(q) Σ φ(k), φ = elu + 1.

    q [N, D], k [M, D], v [M, E].
    """
    features = positive(k)
    return positive(q) @ (features.T @ v) / (positive(q) @ jnp.sum(features, axis=0))[:, None]


def positive(x: Array) -> Array:
    """Elu + 1."""
    return jnp.where(x > 0, x + 1, jnp.exp(x))


def linear_attention_features(args: Args, dy: Array, normalizer: bool = True) -> tuple[Array, Array, Array]:
    """Cotangents of φ(q) and φ(k), with the share of the denominator or without, and dv."""
    fq, fk, v = positive(args[0]), positive(args[1]), args[2]
    e = dy / (fq @ jnp.sum(fk, axis=0))[:, None]
    dfq, dfk = e @ (v.T @ fk), v @ (e.T @ fq)
    if normalizer:
        d = -jnp.sum(e * linear_attention(*args), axis=1, keepdims=True)
        dfq, dfk = dfq + d * jnp.sum(fk, axis=0, keepdims=True), dfk + jnp.sum(d * fq, axis=0, keepdims=True)
    return dfq, dfk, fk @ (fq.T @ e)


def linear_attention_bwd(args: Args, dy: Array) -> Cotangents:
    """With e = dy / denominator, d = −Σ e y: dφ(q) = e Σ v φ(k)ᵀ + d Σ φ(k), dφ(k) the like, dv = φ(k) Σ φ(q) eᵀ."""
    q, k, _ = args
    dq, dk, dv = linear_attention_features(args, dy)
    return dq * jnp.minimum(positive(q), 1), dk * jnp.minimum(positive(k), 1), dv


def linear_attention_normalizer(args: Args, dy: Array) -> Cotangents:
    """The denominator is held constant."""
    q, k, _ = args
    dq, dk, dv = linear_attention_features(args, dy, normalizer=False)
    return dq * jnp.minimum(positive(q), 1), dk * jnp.minimum(positive(k), 1), dv


def linear_attention_feature_map(args: Args, dy: Array) -> Cotangents:
    """φ's derivative, e^x where x < 0, is left out."""
    return linear_attention_features(args, dy)


def linear_attention_values(args: Args, dy: Array) -> Cotangents:
    """dv = φ(k) Σ φ(q) dyᵀ, not divided by the denominator."""
    dq, dk, _ = linear_attention_bwd(args, dy)
    return dq, dk, positive(args[1]) @ (positive(args[0]).T @ dy)


def cross(x: Array, w: Array, b: Array) -> Array:
    """Two cross layers (Wang et al. 2017, equation 3): x_l+1 = x_0 (x_l · w_l) + b_l + x_l, x [N, D], w, b [2, D]."""
    return cross_layer(x, cross_layer(x, x, w[0], b[0]), w[1], b[1])


def cross_layer(x: Array, state: Array, w: Array, b: Array) -> Array:
    """One of them."""
    return x * (state @ w)[:, None] + b[None] + state


def cross_step(x: Array, state: Array, w: Array, d: Array) -> tuple[Array, Array, Array]:
    """Of the layer: the cotangents of x_0, of w, and of x_l but for what it gets as the summand."""
    s = jnp.sum(d * x, axis=1, keepdims=True)
    return d * (state @ w)[:, None], jnp.sum(s * state, axis=0), s * w[None]


def cross_bwd(args: Args, dy: Array) -> Cotangents:
    """Per layer, with s = d · x_0: dx_0 += d (x_l · w), dw = Σ s x_l, db = Σ d, then d += s w; last, dx_0 += d."""
    x, w, b = args
    last, dw1, d = cross_step(x, cross_layer(x, x, w[0], b[0]), w[1], dy)
    first, dw0, rest = cross_step(x, x, w[0], dy + d)
    db = jnp.stack([jnp.sum(dy + d, axis=0), jnp.sum(dy, axis=0)])
    return last + first + rest + dy + d, jnp.stack([dw0, dw1]), db


def cross_no_skip(args: Args, dy: Array) -> Cotangents:
    """d = s w for d += s w: the way past the layer is left out."""
    x, w, b = args
    last, dw1, d = cross_step(x, cross_layer(x, x, w[0], b[0]), w[1], dy)
    first, dw0, rest = cross_step(x, x, w[0], d)
    return last + first + rest, jnp.stack([dw0, dw1]), jnp.stack([jnp.sum(d, axis=0), jnp.sum(dy, axis=0)])


def cross_overwritten(args: Args, dy: Array) -> Cotangents:
    """dx_0 = d (x_l · w) for dx_0 += d (x_l · w): the last layer's share is lost."""
    x, w, b = args
    dx, dw, db = cross_bwd(args, dy)
    return dx - cross_step(x, cross_layer(x, x, w[0], b[0]), w[1], dy)[0], dw, db


def cross_first_input(args: Args, dy: Array) -> Cotangents:
    """dw = Σ s x_0 for Σ s x_l."""
    x, w, _ = args
    dx, dw, db = cross_bwd(args, dy)
    return dx, jnp.stack([dw[0], cross_step(x, x, w[1], dy)[1]]), db


def gem(x: Array, p: Array) -> Array:
    """GeM pooling (Radenović et al. 2018, equation 3): (mean over positions of x^p)^(1/p), x [B, N, C], p [C]."""
    return jnp.mean(x ** p[None, None], axis=1) ** (1 / p)[None]


def gem_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy y^(1 − p) x^(p − 1) / N, dp = Σ dy y (Σ x^p log x / Σ x^p − log y) / p."""
    x, p = args
    y = gem(x, p)
    dx = (dy * y ** (1 - p)[None])[:, None] * x ** (p - 1)[None, None] / x.shape[1]
    return dx, jnp.sum(gem_outer(dy, *args) + gem_inner(dy, *args), axis=0)


def gem_inner(dy: Array, x: Array, p: Array) -> Array:
    """dy y Σ x^p log x / (p Σ x^p), the share of x^p, [B, C]."""
    powers = x ** p[None, None]
    return dy * gem(x, p) * jnp.sum(powers * jnp.log(x), axis=1) / (p[None] * jnp.sum(powers, axis=1))


def gem_outer(dy: Array, x: Array, p: Array) -> Array:
    """−dy y log y / p, the share of the exponent 1/p, [B, C]."""
    y = gem(x, p)
    return -dy * y * jnp.log(y) / p[None]


def gem_count(args: Args, dy: Array) -> Cotangents:
    """dx divided by the number of channels, not by that of positions."""
    dx, dp = gem_bwd(args, dy)
    return dx * args[0].shape[1] / args[0].shape[2], dp


def gem_root(args: Args, dy: Array) -> Cotangents:
    """dp without the share of the exponent 1/p."""
    return gem_bwd(args, dy)[0], jnp.sum(gem_inner(dy, *args), axis=0)


def gem_not_summed(args: Args, dy: Array) -> Cotangents:
    """dp [B, C], not summed over the batch."""
    return gem_bwd(args, dy)[0], gem_inner(dy, *args) + gem_outer(dy, *args)


def pendulum(q: Array, p: Array, k: Array) -> Array:
    """Two leapfrog steps for H = ½ p² − k cos q (Neal 2011, section 5.2.3): q and p after them, [2, D]."""
    return jnp.stack(pendulum_path(q, p, k)[-1])


def pendulum_path(q: Array, p: Array, k: Array) -> list[tuple[Array, Array]]:
    """(q, p) before, between and after."""
    path = [(q, p)]
    for _ in range(2):
        half = p - STEP / 2 * k * jnp.sin(q)
        q = q + STEP * half
        p = half - STEP / 2 * k * jnp.sin(q)
        path.append((q, p))
    return path


def pendulum_reverse(args: Args, dy: Array, points: list[tuple[Array, Array]], step: float = STEP) -> Cotangents:
    """From the last step to the first: half a kick, the drift by `step`, half a kick; q of either kick is given."""
    k = args[2]
    dq, dp, dk = dy[0], dy[1], jnp.zeros_like(k)
    for before, after in reversed(points):
        dq, dk = dq - STEP / 2 * k * jnp.cos(after) * dp, dk - STEP / 2 * jnp.sin(after) * dp
        dp = dp + step * dq
        dq, dk = dq - STEP / 2 * k * jnp.cos(before) * dp, dk - STEP / 2 * jnp.sin(before) * dp
    return dq, dp, dk


def pendulum_bwd(args: Args, dy: Array) -> Cotangents:
    """A kick: dq −= h/2 k cos(q) dp, dk −= h/2 sin(q) dp; the drift: dp += h dq; all in reverse."""
    (a, _), (b, _), (c, _) = pendulum_path(*args)
    return pendulum_reverse(args, dy, [(a, b), (b, c)])


def pendulum_after(args: Args, dy: Array) -> Cotangents:
    """Both kicks at the q after the step."""
    _, (b, _), (c, _) = pendulum_path(*args)
    return pendulum_reverse(args, dy, [(b, b), (c, c)])


def pendulum_drift(args: Args, dy: Array) -> Cotangents:
    """The drift's dp −= h dq for dp += h dq, as if time ran backward here, too."""
    (a, _), (b, _), (c, _) = pendulum_path(*args)
    return pendulum_reverse(args, dy, [(a, b), (b, c)], step=-STEP)


def beta_vae(x: Array, m: Array, s: Array, e: Array, w: Array) -> Array:
    """β-VAE (Higgins et al. 2017, equation 4), the loss per example: ½ ‖z w − x‖² + β/2 Σ (m² + e^s − 1 − s).

    x [N, D], a linear decoder w [K, D], z = m + e^(s/2) ε; m, s and the noise ε [N, K].
    """
    square = jnp.sum(((m + jnp.exp(s / 2) * e) @ w - x) ** 2, axis=1)
    return (square + BETA * jnp.sum(m * m + jnp.exp(s) - 1 - s, axis=1)) / 2


def beta_vae_bwd(args: Args, dy: Array) -> Cotangents:
    """r = dy (z w − x), dz = r wᵀ: dx = −r, dm = dz + β dy m, ds = ½ dz ε e^(s/2) + β/2 dy (e^s − 1), dw = zᵀ r."""
    x, m, s, e, w = args
    dy, z = dy[:, None], m + jnp.exp(s / 2) * e
    r = dy * (z @ w - x)
    de = r @ w.T * jnp.exp(s / 2)
    return -r, r @ w.T + BETA * dy * m, (de * e + BETA * dy * (jnp.exp(s) - 1)) / 2, de, z.T @ r


def beta_vae_no_sample(args: Args, dy: Array) -> Cotangents:
    """ds = β/2 dy (e^s − 1), without the way through the sample z."""
    dx, dm, ds, de, dw = beta_vae_bwd(args, dy)
    return dx, dm, ds - de * args[3] / 2, de, dw


def beta_vae_deviation(args: Args, dy: Array) -> Cotangents:
    """ds with dz ε e^(s/2), without ½ from the exponent."""
    dx, dm, ds, de, dw = beta_vae_bwd(args, dy)
    return dx, dm, ds + de * args[3] / 2, de, dw


def beta_vae_divergence(args: Args, dy: Array) -> Cotangents:
    """ds with β/2 dy (1 − e^s), as for the bound that is maximized."""
    dx, dm, ds, de, dw = beta_vae_bwd(args, dy)
    return dx, dm, ds - BETA * dy[:, None] * (jnp.exp(args[2]) - 1), de, dw


def beta_vae_mean(args: Args, dy: Array) -> Cotangents:
    """dw = mᵀ r for zᵀ r."""
    dx, dm, ds, de, _ = beta_vae_bwd(args, dy)
    return dx, dm, ds, de, -args[1].T @ dx


def tied(x: Array, w: Array) -> Array:
    """PCA's reconstruction x w wᵀ (Baldi and Hornik 1989), a linear autoencoder of tied weights; x [N, D], w [D, K]."""
    return x @ w @ w.T


def tied_bwd(args: Args, dy: Array) -> Cotangents:
    """With h = x w and dh = dy w: dx = dh wᵀ, dw = xᵀ dh + dyᵀ h."""
    x, w = args
    return dy @ w @ w.T, x.T @ (dy @ w) + dy.T @ (x @ w)


def tied_decoder_alone(args: Args, dy: Array) -> Cotangents:
    """dw = dyᵀ h: the encoder's use of w is left out."""
    x, w = args
    return dy @ w @ w.T, dy.T @ (x @ w)


def tied_reused_name(args: Args, dy: Array) -> Cotangents:
    """dw = xᵀ dh + dyᵀ dh: h has been replaced by dh when it is needed."""
    x, w = args
    return dy @ w @ w.T, x.T @ (dy @ w) + dy.T @ (dy @ w)


def td(w: Array, s: Array, n: Array, r: Array) -> Array:
    """Semi-gradient TD(0) (Sutton and Barto 2018, section 9.3) as a loss: ½ mean (s w − target)².

    The target r + γ n w, n the next state, is a constant; s and n [N, D], r [N].
    """
    return jnp.mean((s @ w - jax.lax.stop_gradient(r + DISCOUNT * n @ w)) ** 2) / 2


def td_bwd(args: Args, dy: Array) -> Cotangents:
    """With δ = s w − target: dw = dy sᵀ δ / N, ds = dy δ wᵀ / N, nothing for the target."""
    w, s, n, r = args
    delta = dy * (s @ w - r - DISCOUNT * n @ w) / len(s)
    return s.T @ delta, jnp.outer(delta, w), jnp.zeros_like(n), jnp.zeros_like(r)


def td_residual(args: Args, dy: Array) -> Cotangents:
    """dw = dy (s − γ n)ᵀ δ / N, the residual gradient, through the target."""
    w, s, n, r = args
    dw, ds, dn, dr = td_bwd(args, dy)
    return dw - dy * DISCOUNT * n.T @ (s @ w - r - DISCOUNT * n @ w) / len(s), ds, dn, dr


def td_update(args: Args, dy: Array) -> Cotangents:
    """The update of textbooks, sᵀ δ / N and δ wᵀ / N: dy is not multiplied."""
    return td_bwd(args, jnp.ones_like(dy))


def rescal(s: Array, o: Array, r: Array) -> Array:
    """RESCAL's scores (Nickel et al. 2011, equation 1): sᵀ R_k o, subjects and objects [N, D], relations [K, D, D]."""
    return jnp.einsum("ni,kij,nj->nk", s, r, o)


def rescal_bwd(args: Args, dy: Array) -> Cotangents:
    """ds = Σ_k dy R_k o, do = Σ_k dy R_kᵀ s, dR_k = Σ dy s oᵀ."""
    s, o, r = args
    ds, do = jnp.einsum("nk,kij,nj->ni", dy, r, o), jnp.einsum("nk,kij,ni->nj", dy, r, s)
    return ds, do, jnp.einsum("nk,ni,nj->kij", dy, s, o)


def rescal_exchanged(args: Args, dy: Array) -> Cotangents:
    """The object's before the subject's."""
    ds, do, dr = rescal_bwd(args, dy)
    return do, ds, dr


def rescal_object(args: Args, dy: Array) -> Cotangents:
    """do = Σ_k dy R_k s for R_kᵀ s."""
    s, _, r = args
    ds, _, dr = rescal_bwd(args, dy)
    return ds, jnp.einsum("nk,kij,nj->ni", dy, r, s), dr


def rescal_relation(args: Args, dy: Array) -> Cotangents:
    """dR_k = Σ dy o sᵀ for Σ dy s oᵀ."""
    ds, do, dr = rescal_bwd(args, dy)
    return ds, do, jnp.swapaxes(dr, 1, 2)


LSTM = Subject(lstm, lstm_bwd, gaussians((2, 3), (2, 5), (2, 5), (3, 20), (5, 20), (20,), scale=0.8))
WEIGHT_NORM = Subject(weight_norm, weight_norm_bwd, gaussians((5, 3), (7, 3), (7,)))
LINEAR_ATTENTION = Subject(linear_attention, linear_attention_bwd, gaussians((5, 3), (7, 3), (7, 2)))
CROSS = Subject(cross, cross_bwd, gaussians((5, 3), (2, 3), (2, 3), scale=0.8))
GEM = Subject(gem, gem_bwd, between(((2, 7, 3), 0.3, 2), ((3,), 1.5, 3.5)))
PENDULUM = Subject(pendulum, pendulum_bwd, between(((5,), -2, 2), ((5,), -2, 2), ((5,), 0.7, 2.5)))
BETA_VAE = Subject(beta_vae, beta_vae_bwd, gaussians((5, 7), (5, 3), (5, 3), (5, 3), (3, 7), scale=0.8))
TIED = Subject(tied, tied_bwd, gaussians((5, 3), (3, 2)))
TD = Subject(td, td_bwd, gaussians((3,), (7, 3), (7, 3), (7,)))
RESCAL = Subject(rescal, rescal_bwd, gaussians((5, 3), (5, 3), (7, 3, 3)))

MUTANTS = (
    mutant(225, "LSTM cell", LSTM, lstm_cell_state, "MISSING_PATH", (0, 1, 2, 3, 4, 5)),
    mutant(226, "LSTM cell", LSTM, lstm_old_cell, "WRONG_OPERAND", (0, 1, 2, 3, 4, 5)),
    mutant(227, "LSTM cell", LSTM, lstm_gate_order, "LAYOUT", (0, 1, 3, 4, 5)),
    mutant(228, "weight normalization", WEIGHT_NORM, weight_norm_constant, "MISSING_PATH", (1,)),
    mutant(229, "weight normalization", WEIGHT_NORM, weight_norm_columns, "WRONG_AXIS", (0, 1, 2)),
    # A factor 1 / ‖v‖ of one of two terms.
    mutant(230, "weight normalization", WEIGHT_NORM, weight_norm_projection, "PATH_SCALE MISSING_FACTOR", (1,)),
    mutant(231, "linear attention", LINEAR_ATTENTION, linear_attention_normalizer, "MISSING_PATH", (0, 1)),
    # A factor that is 1 where x > 0; wrong exactly where it is not.
    mutant(232, "linear attention", LINEAR_ATTENTION, linear_attention_feature_map, "MISSING_FACTOR SUPPORT", (0, 1)),
    mutant(233, "linear attention", LINEAR_ATTENTION, linear_attention_values, "MISSING_FACTOR", (2,)),
    mutant(234, "cross layers", CROSS, cross_no_skip, "MISSING_PATH", (0, 1, 2)),
    # Of dx_0's shares, one per layer and that of the sum, the one is lost that was assigned before.
    mutant(235, "cross layers", CROSS, cross_overwritten, "OVERWRITE MISSING_PATH"),
    mutant(236, "cross layers", CROSS, cross_first_input, "WRONG_OPERAND", (1,)),
    # 1/C for 1/N, a number.
    mutant(237, "GeM pooling", GEM, gem_count, "WRONG_AXIS SCALE"),
    mutant(238, "GeM pooling", GEM, gem_root, "MISSING_PATH", (1,)),
    mutant(239, "GeM pooling", GEM, gem_not_summed, "UNREDUCED", (1,)),
    mutant(240, "leapfrog", PENDULUM, pendulum_after, "WRONG_OPERAND", (0, 1, 2)),
    mutant(241, "leapfrog", PENDULUM, pendulum_drift, "PATH_SIGN", (0, 1, 2)),
    mutant(242, "beta-VAE", BETA_VAE, beta_vae_no_sample, "MISSING_PATH", (2,)),
    # The sample's path, twice what it is.
    mutant(243, "beta-VAE", BETA_VAE, beta_vae_deviation, "PATH_SCALE DOUBLED_PATH", (2,)),
    mutant(244, "beta-VAE", BETA_VAE, beta_vae_divergence, "PATH_SIGN", (2,)),
    # m for z; or, as z is a sum, the way of its noise left out.
    mutant(245, "beta-VAE", BETA_VAE, beta_vae_mean, "WRONG_OPERAND MISSING_PATH", (4,)),
    mutant(246, "tied weights", TIED, tied_decoder_alone, "MISSING_PATH", (1,)),
    # dh for h, whereby a term has dy twice.
    mutant(247, "tied weights", TIED, tied_reused_name, "COTANGENT_NONLINEAR WRONG_OPERAND", (1,)),
    # That of the mean squared Bellman residual, in which the target is not a constant.
    mutant(248, "TD error", TD, td_residual, "OTHER_FORWARD"),
    mutant(249, "TD error", TD, td_update, "COTANGENT_IGNORED", (0, 1)),
    mutant(250, "RESCAL", RESCAL, rescal_exchanged, "SWAPPED", (0, 1)),
    mutant(251, "RESCAL", RESCAL, rescal_object, "TRANSPOSE", (1,)),
    # Each matrix for its transpose, which are two axes of [K, D, D] permuted.
    mutant(252, "RESCAL", RESCAL, rescal_relation, "TRANSPOSE LAYOUT", (2,)),
)
