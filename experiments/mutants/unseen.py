"""A second set of wrong backward passes, of other functions: losses, likelihoods, distances, 201–224.

From papers and from other libraries, as each docstring says. Layers and dynamics are in `unseen_more`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import i0e, i1e, logsumexp

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant

CLIP = 0.2  # PPO's ε
SCALE, ANGLE = 5, 0.5  # ArcFace's s and m


def von_mises(x: Array, m: Array, k: Array) -> Array:
    """−log density per example, as `torch.distributions.VonMises` but for log 2π: Σ log I₀(κ) − κ cos(x − m), κ = e^k.

    Angles x [N, D]; m and k [D].
    """
    kappa = jnp.exp(k)
    return jnp.sum((jnp.log(i0e(kappa)) + kappa)[None] - kappa[None] * jnp.cos(x - m[None]), axis=1)


def von_mises_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy κ sin(x − m), dm = −Σ dx, dk = Σ dy κ (I₁(κ) / I₀(κ) − cos(x − m))."""
    x, m, k = args
    kappa, dy = jnp.exp(k)[None], dy[:, None]
    dx = dy * kappa * jnp.sin(x - m[None])
    dk = dy * kappa * (i1e(kappa) / i0e(kappa) - jnp.cos(x - m[None]))
    return dx, -jnp.sum(dx, axis=0), jnp.sum(dk, axis=0)


def von_mises_normalizer(args: Args, dy: Array) -> Cotangents:
    """dk = −Σ dy κ cos(x − m): the normalizing constant's share is left out."""
    x, m, k = args
    dx, dm, _ = von_mises_bwd(args, dy)
    return dx, dm, -jnp.exp(k) * jnp.sum(dy[:, None] * jnp.cos(x - m[None]), axis=0)


def von_mises_by_kappa(args: Args, dy: Array) -> Cotangents:
    """In the place of dk the derivative by κ = e^k."""
    dx, dm, dk = von_mises_bwd(args, dy)
    return dx, dm, dk * jnp.exp(-args[2])


def von_mises_location(args: Args, dy: Array) -> Cotangents:
    """dm = Σ dx for −Σ dx."""
    dx, dm, dk = von_mises_bwd(args, dy)
    return dx, -dm, dk


def barron(x: Array, a: Array, c: Array) -> Array:
    """Barron's general robust loss (2019, equation 1) for 0 < α < 2: (b/α) (u^(α/2) − 1), u = (x/c)²/b + 1, b = 2 − α.

    x [N, D]; the shape α and the scale c per feature, [D], as in his section 3.1.
    """
    b, u = barron_base(x, a, c)
    return b / a[None] * (u ** (a / 2)[None] - 1)


def barron_base(x: Array, a: Array, c: Array) -> tuple[Array, Array]:
    """b [1, D] and u [N, D]."""
    b = (2 - a)[None]
    return b, (x / c[None]) ** 2 / b + 1


def barron_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy x/c² u^(α/2 − 1), dc = −Σ dx x/c.

    And dα = Σ dy (−2/α² (u^(α/2) − 1) + b/(2 α) u^(α/2) log u + ½ (x/c)²/b u^(α/2 − 1)).
    """
    x, a, c = args
    b, u = barron_base(*args)
    power = u ** (a / 2)[None]
    dx = dy * x / (c * c)[None] * power / u
    da = b / (2 * a)[None] * power * jnp.log(u) - (2 / (a * a))[None] * (power - 1) + (u - 1) * power / u / 2
    return dx, jnp.sum(dy * da, axis=0), -jnp.sum(dx * x, axis=0) / c


def barron_exponent(args: Args, dy: Array) -> Cotangents:
    """dx with u^(α/2), the exponent not lowered by 1."""
    dx, da, dc = barron_bwd(args, dy)
    return dx * barron_base(*args)[1], da, dc


def barron_inner_shape(args: Args, dy: Array) -> Cotangents:
    """dα without the term of the α that is inside u."""
    _, a, _ = args
    _, u = barron_base(*args)
    dx, da, dc = barron_bwd(args, dy)
    return dx, da - jnp.sum(dy * (u - 1) * u ** (a / 2 - 1)[None] / 2, axis=0), dc


def barron_scale(args: Args, dy: Array) -> Cotangents:
    """dc = −Σ dx x, without 1/c."""
    dx, da, dc = barron_bwd(args, dy)
    return dx, da, dc * args[2]


def tsne(p: Array, y: Array) -> Array:
    """t-SNE (van der Maaten and Hinton 2008, equations 4 and 5): Σ p log(p / q) over i ≠ j, q ∝ 1 / (1 + ‖y_i − y_j‖²).

    p [N, N] need be neither symmetric nor normalized here; y [N, 2].
    """
    w, other = tsne_kernel(y)
    return jnp.sum(other * p * (jnp.log(p / w) + jnp.log(jnp.sum(other * w))))


def tsne_kernel(y: Array) -> tuple[Array, Array]:
    """w = 1 / (1 + ‖y_i − y_j‖²) and 1 − I, both [N, N]."""
    w = 1 / (1 + jnp.sum((y[:, None] - y[None]) ** 2, axis=2))
    return w, 1 - jnp.eye(len(y), dtype=y.dtype)


def tsne_through(y: Array, pull: Array) -> Array:
    """dy_i = 2 Σ_j (pull_ij + pull_ji) (y_i − y_j)."""
    return 2 * jnp.sum((pull + pull.T)[:, :, None] * (y[:, None] - y[None]), axis=1)


def tsne_bwd(args: Args, dy: Array) -> Cotangents:
    """dp = log(p / q) + 1 for i ≠ j; dy_i = 2 Σ_j (pull_ij + pull_ji) (y_i − y_j), pull = (p − q Σp) w."""
    p, y = args
    w, other = tsne_kernel(y)
    q = w / jnp.sum(other * w)
    pull = other * (p - q * jnp.sum(other * p)) * w
    return dy * other * (jnp.log(p / q) + 1), tsne_through(y, dy * pull)


def tsne_rows(args: Args, dy: Array) -> Cotangents:
    """The pull with q that sums to 1 in each row, as in SNE, not in all."""
    p, y = args
    w, other = tsne_kernel(y)
    q = w / jnp.sum(other * w, axis=1, keepdims=True)
    return tsne_bwd(args, dy)[0], tsne_through(y, dy * other * (p - q * jnp.sum(other * p)) * w)


def tsne_no_kernel(args: Args, dy: Array) -> Cotangents:
    """The pull p − q Σp without w, which is that of a Gaussian kernel."""
    p, y = args
    w, other = tsne_kernel(y)
    pull = other * (p - w / jnp.sum(other * w) * jnp.sum(other * p))
    return tsne_bwd(args, dy)[0], tsne_through(y, dy * pull)


def tsne_log(args: Args, dy: Array) -> Cotangents:
    """dp = log(p / q): the p inside the logarithm is held constant."""
    dp, dpoints = tsne_bwd(args, dy)
    return dp - dy * tsne_kernel(args[1])[1], dpoints


def dice(p: Array, t: Array) -> Array:
    """1 − D per example with V-Net's D = 2 Σ p t / Σ (p² + t²) (Milletari et al. 2016, section 3), p and t [N, D]."""
    return 1 - 2 * jnp.sum(p * t, axis=1) / jnp.sum(p * p + t * t, axis=1)


def dice_sums(p: Array, t: Array) -> tuple[Array, Array]:
    """Σ p t and Σ (p² + t²), [N, 1]."""
    return jnp.sum(p * t, axis=1, keepdims=True), jnp.sum(p * p + t * t, axis=1, keepdims=True)


def dice_bwd(args: Args, dy: Array) -> Cotangents:
    """With I = Σ p t and S = Σ (p² + t²): dp = −2 dy (t S − 2 p I) / S², dt = −2 dy (p S − 2 t I) / S²."""
    p, t = args
    both, total = dice_sums(*args)
    scale = -2 * dy[:, None] / total**2
    return scale * (t * total - 2 * p * both), scale * (p * total - 2 * t * both)


def dice_denominator(args: Args, dy: Array) -> Cotangents:
    """dp = −2 dy t / S: the denominator is held constant."""
    return -2 * dy[:, None] * args[1] / dice_sums(*args)[1], dice_bwd(args, dy)[1]


def dice_square(args: Args, dy: Array) -> Cotangents:
    """dp = −2 dy (t S − p I) / S²: p for 2 p, the derivative of the square."""
    p, t = args
    both, total = dice_sums(*args)
    return -2 * dy[:, None] * (t * total - p * both) / total**2, dice_bwd(args, dy)[1]


def dice_coefficient(args: Args, dy: Array) -> Cotangents:
    """dp = 2 dy (t S − 2 p I) / S², that of D as printed in the paper, for 1 − D."""
    dp, dt = dice_bwd(args, dy)
    return -dp, dt


def ppo(new: Array, old: Array, a: Array) -> Array:
    """PPO's loss (Schulman et al. 2017, equation 7): −mean min(r A, clip(r, 1 − ε, 1 + ε) A), r = e^(new − old)."""
    r = jnp.exp(new - old)
    return -jnp.mean(jnp.minimum(r * a, jnp.clip(r, 1 - CLIP, 1 + CLIP) * a))


def ppo_ratio(args: Args) -> tuple[Array, Array, Array]:
    """r, clip(r), and where the minimum is r A."""
    new, old, a = args
    r = jnp.exp(new - old)
    clipped = jnp.clip(r, 1 - CLIP, 1 + CLIP)
    return r, clipped, r * a <= clipped * a


def ppo_bwd(args: Args, dy: Array) -> Cotangents:
    """Where r A ≤ clip(r) A: dnew = −dy r A / N = −dold, elsewhere 0. And dA = −dy (r or clip(r)) / N."""
    r, clipped, free = ppo_ratio(args)
    dnew = jnp.where(free, -dy * r * args[2] / r.size, 0)
    return dnew, -dnew, -dy * jnp.where(free, r, clipped) / r.size


def ppo_always_clipped(args: Args, dy: Array) -> Cotangents:
    """0 wherever r is out of 1 ± ε, also where A's sign makes the minimum r A."""
    r, clipped, _ = ppo_ratio(args)
    dnew = jnp.where(r == clipped, -dy * r * args[2] / r.size, 0)
    return dnew, -dnew, ppo_bwd(args, dy)[2]


def ppo_no_ratio(args: Args, dy: Array) -> Cotangents:
    """dnew = −dy A / N without r, as in the plain policy gradient."""
    r, _, free = ppo_ratio(args)
    dnew = jnp.where(free, -dy * args[2] / r.size, 0)
    return dnew, -dnew, ppo_bwd(args, dy)[2]


def ppo_advantage(args: Args, dy: Array) -> Cotangents:
    """dA = −dy r / N, also where clip(r) is taken."""
    r, _, _ = ppo_ratio(args)
    dnew, dold, _ = ppo_bwd(args, dy)
    return dnew, dold, -dy * r / r.size


def arcface(c: Array, labels: Array) -> Array:
    """ArcFace (Deng et al. 2019, equation 3), per example: cross-entropy of s cos θ, the label's s cos(θ + m).

    From the cosines c [N, K].
    """
    z, hot = arcface_logits(c, labels)
    return logsumexp(z, axis=1) - jnp.sum(hot * z, axis=1)


def arcface_logits(c: Array, labels: Array) -> tuple[Array, Array]:
    """The logits and the labels' one-hot vectors, [N, K]."""
    hot = jax.nn.one_hot(labels, c.shape[1], dtype=c.dtype)
    return SCALE * (hot * jnp.cos(jnp.arccos(c) + ANGLE) + (1 - hot) * c), hot


def arcface_bwd(args: Args, dy: Array) -> Cotangents:
    """dc = dy s (softmax − one-hot), at the label times sin(θ + m) / sin θ."""
    c, labels = args
    _, hot = arcface_logits(c, labels)
    angle = jnp.arccos(c)
    return arcface_no_margin(args, dy)[0] * (hot * jnp.sin(angle + ANGLE) / jnp.sin(angle) + 1 - hot), None


def arcface_no_margin(args: Args, dy: Array) -> Cotangents:
    """The label's entry without sin(θ + m) / sin θ."""
    z, hot = arcface_logits(*args)
    return dy[:, None] * SCALE * (jax.nn.softmax(z) - hot), None


def arcface_no_scale(args: Args, dy: Array) -> Cotangents:
    """Without s."""
    return arcface_bwd(args, dy)[0] / SCALE, None


def arcface_plain_softmax(args: Args, dy: Array) -> Cotangents:
    """The softmax of s cos θ, without the margin m."""
    c, labels = args
    _, hot = arcface_logits(c, labels)
    angle = jnp.arccos(c)
    slope = hot * jnp.sin(angle + ANGLE) / jnp.sin(angle) + 1 - hot
    return dy[:, None] * SCALE * (jax.nn.softmax(SCALE * c) - hot) * slope, None


def poincare(u: Array, v: Array) -> Array:
    """Distance in the Poincaré ball (Nickel and Kiela 2017, equation 1), per pair: arcosh(1 + 2 ‖u − v‖² / (α β)).

    u and v [N, D], α = 1 − ‖u‖² and β = 1 − ‖v‖².
    """
    alpha, beta, square = poincare_parts(u, v)
    return jnp.arccosh(1 + 2 * square / (alpha * beta))[:, 0]


def poincare_parts(u: Array, v: Array) -> tuple[Array, Array, Array]:
    """α, β and ‖u − v‖², [N, 1]."""
    one, two, square = (jnp.sum(z * z, axis=1, keepdims=True) for z in (u, v, u - v))
    return 1 - one, 1 - two, square


def poincare_through(args: Args, dgamma: Array) -> Cotangents:
    """From that of γ = 1 + 2 ‖u − v‖² / (α β): du = 4 dγ ((u − v) + u ‖u − v‖² / α) / (α β), dv the like."""
    u, v = args
    alpha, beta, square = poincare_parts(u, v)
    scale = 4 * dgamma / (alpha * beta)
    return scale * (u - v + u * square / alpha), scale * (v - u + v * square / beta)


def poincare_bwd(args: Args, dy: Array) -> Cotangents:
    """dγ = dy / √(γ² − 1), and through γ."""
    alpha, beta, square = poincare_parts(*args)
    gamma = 1 + 2 * square / (alpha * beta)
    return poincare_through(args, dy[:, None] / jnp.sqrt(gamma**2 - 1))


def poincare_flat(args: Args, dy: Array) -> Cotangents:
    """du = 4 dγ (u − v) / (α β) = −dv: α and β are held constant."""
    u, v = args
    alpha, beta, square = poincare_parts(u, v)
    gamma = 1 + 2 * square / (alpha * beta)
    du = 4 * dy[:, None] / jnp.sqrt(gamma**2 - 1) * (u - v) / (alpha * beta)
    return du, -du


def poincare_riemannian(args: Args, dy: Array) -> Cotangents:
    """The Riemannian gradients: du times α² / 4, dv times β² / 4."""
    alpha, beta, _ = poincare_parts(*args)
    du, dv = poincare_bwd(args, dy)
    return du * alpha**2 / 4, dv * beta**2 / 4


def poincare_sinh(args: Args, dy: Array) -> Cotangents:
    """Arcosh's derivative as 1 / sinh(γ) for 1 / sinh(y)."""
    alpha, beta, square = poincare_parts(*args)
    return poincare_through(args, dy[:, None] / jnp.sinh(1 + 2 * square / (alpha * beta)))


def cholesky_gaussian(x: Array, m: Array, l: Array) -> Array:  # noqa: E741
    """−log density of N(m, L Lᵀ) per example but for D/2 log 2π: ½ ‖L⁻¹ (x − m)‖² + Σ log L_ii.

    As `torch.distributions.MultivariateNormal` with `scale_tril`; x [N, D], and of l [D, D] the lower triangle is L.
    """
    z = solve_triangular(l, (x - m[None]).T, lower=True)
    return jnp.sum(z * z, axis=0) / 2 + jnp.sum(jnp.log(jnp.diagonal(l)))


def cholesky_bwd(args: Args, dy: Array) -> Cotangents:
    """With z = L⁻¹ (x − m) and u = L⁻ᵀ z dy: dx = u, dm = −Σ u, dL = tril(Σ dy diag(1 / L_ii) − Σ u zᵀ)."""
    x, m, l = args  # noqa: E741
    z = solve_triangular(l, (x - m[None]).T, lower=True)
    u = solve_triangular(l, dy[None] * z, lower=True, trans=1)
    return u.T, -jnp.sum(u, axis=1), jnp.sum(dy) * jnp.diag(1 / jnp.diagonal(l)) - jnp.tril(u @ z.T)


def cholesky_determinant(args: Args, dy: Array) -> Cotangents:
    """dL without diag(1 / L_ii), the determinant's share."""
    dx, dm, dl = cholesky_bwd(args, dy)
    return dx, dm, dl - jnp.sum(dy) * jnp.diag(1 / jnp.diagonal(args[2]))


def cholesky_not_transposed(args: Args, dy: Array) -> Cotangents:
    """dx = L⁻¹ z dy for L⁻ᵀ z dy, and dm = −Σ dx."""
    x, m, l = args  # noqa: E741
    z = solve_triangular(l, (x - m[None]).T, lower=True)
    u = solve_triangular(l, dy[None] * z, lower=True)
    return u.T, -jnp.sum(u, axis=1), cholesky_bwd(args, dy)[2]


def cholesky_whole_determinant(args: Args, dy: Array) -> Cotangents:
    """dL with 2 / L_ii, as log det L Lᵀ has it without its ½."""
    dx, dm, dl = cholesky_bwd(args, dy)
    return dx, dm, dl + jnp.sum(dy) * jnp.diag(1 / jnp.diagonal(args[2]))


def between(*ranges: tuple[tuple[int, ...], float, float]) -> Callable[[int, Any], Args]:
    """Arguments of these shapes, uniformly distributed from low to high."""

    def arguments(seed: int, dtype: Any) -> Args:
        random = np.random.RandomState(seed)
        return tuple(array(random.uniform(low, high, shape), dtype) for shape, low, high in ranges)

    return arguments


def policies(seed: int, dtype: Any) -> Args:
    """Log probabilities of actions, new and old, and the advantages, [7, 3]."""
    random = np.random.RandomState(seed)
    new, noise, a = random.uniform(-1.5, -0.3, (7, 3)), random.normal(size=(7, 3)), random.normal(size=(7, 3))
    return array(new, dtype), array(new + 0.3 * noise, dtype), array(a, dtype)


def cosines(seed: int, dtype: Any) -> Args:
    """Cosines [5, 7] and labels."""
    return *between(((5, 7), -0.45, 0.45))(seed, dtype), array(np.random.RandomState(seed).randint(7, size=5))


def factored(seed: int, dtype: Any) -> Args:
    """x [5, 3], m [3], and a matrix whose diagonal is positive."""
    x, m, l = gaussians((5, 3), (3,), (3, 3), scale=0.7)(seed, dtype)  # noqa: E741
    (diagonal,) = between(((3,), 0.7, 1.5))(seed, dtype)
    return x, m, jnp.fill_diagonal(l, diagonal, inplace=False)


VON_MISES = Subject(von_mises, von_mises_bwd, gaussians((5, 3), (3,), (3,), scale=0.7))
BARRON = Subject(barron, barron_bwd, between(((5, 3), -2.5, 2.5), ((3,), 0.5, 0.9), ((3,), 0.6, 1.6)))
TSNE = Subject(tsne, tsne_bwd, between(((5, 5), 0.01, 0.09), ((5, 2), -1.5, 1.5)))
DICE = Subject(dice, dice_bwd, between(((5, 7), 0.1, 0.9), ((5, 7), 0.1, 0.9)))
PPO = Subject(ppo, ppo_bwd, policies)
ARCFACE = Subject(arcface, arcface_bwd, cosines)
POINCARE = Subject(poincare, poincare_bwd, between(((5, 3), -0.26, 0.26), ((5, 3), -0.26, 0.26)))
CHOLESKY = Subject(cholesky_gaussian, cholesky_bwd, factored)

MUTANTS = (
    mutant(201, "von Mises", VON_MISES, von_mises_normalizer, "MISSING_PATH", (2,)),
    mutant(202, "von Mises", VON_MISES, von_mises_by_kappa, "MISSING_FACTOR", (2,)),
    mutant(203, "von Mises", VON_MISES, von_mises_location, "SIGN", (1,)),
    # u too many, or the division by u left out.
    mutant(204, "Barron's robust loss", BARRON, barron_exponent, "EXTRA_FACTOR MISSING_FACTOR"),
    mutant(205, "Barron's robust loss", BARRON, barron_inner_shape, "MISSING_PATH", (1,)),
    mutant(206, "Barron's robust loss", BARRON, barron_scale, "MISSING_FACTOR", (2,)),
    # The right formula of another q, whose sum is along one axis, not both.
    mutant(207, "t-SNE", TSNE, tsne_rows, "WRONG_AXIS WRONG_OPERAND", (1,)),
    mutant(208, "t-SNE", TSNE, tsne_no_kernel, "MISSING_FACTOR", (1,)),
    mutant(209, "t-SNE", TSNE, tsne_log, "MISSING_PATH"),
    mutant(210, "Dice loss", DICE, dice_denominator, "MISSING_PATH"),
    mutant(211, "Dice loss", DICE, dice_square, "PATH_SCALE"),
    mutant(212, "Dice loss", DICE, dice_coefficient, "SIGN"),
    # A mask too many; wrong exactly where it is 0 and the right one is not.
    mutant(213, "PPO", PPO, ppo_always_clipped, "SUPPORT EXTRA_FACTOR", (0, 1)),
    mutant(214, "PPO", PPO, ppo_no_ratio, "MISSING_FACTOR", (0, 1)),
    # r for clip(r); wrong exactly where they differ and clip(r) is taken.
    mutant(215, "PPO", PPO, ppo_advantage, "WRONG_OPERAND SUPPORT", (2,)),
    # A factor that is 1 but at the label; wrong exactly there.
    mutant(216, "ArcFace", ARCFACE, arcface_no_margin, "MISSING_FACTOR SUPPORT"),
    mutant(217, "ArcFace", ARCFACE, arcface_no_scale, "SCALE MISSING_FACTOR"),
    mutant(218, "ArcFace", ARCFACE, arcface_plain_softmax, "WRONG_OPERAND"),
    mutant(219, "Poincaré distance", POINCARE, poincare_flat, "MISSING_PATH", (0, 1)),
    mutant(220, "Poincaré distance", POINCARE, poincare_riemannian, "EXTRA_FACTOR", (0, 1)),
    mutant(221, "Poincaré distance", POINCARE, poincare_sinh, "WRONG_OPERAND", (0, 1)),
    mutant(222, "Gaussian by Cholesky factor", CHOLESKY, cholesky_determinant, "MISSING_PATH", (2,)),
    mutant(223, "Gaussian by Cholesky factor", CHOLESKY, cholesky_not_transposed, "TRANSPOSE", (0, 1)),
    # The determinant's path, twice what it is.
    mutant(224, "Gaussian by Cholesky factor", CHOLESKY, cholesky_whole_determinant, "PATH_SCALE DOUBLED_PATH", (2,)),
)
