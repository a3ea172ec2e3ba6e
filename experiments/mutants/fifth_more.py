"""A fifth set of wrong backward passes, of other functions: layers, physics, geometry, 521–544.

From papers and from other libraries, as each docstring says. Losses and likelihoods are in `fifth`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.mutants.case import Args, Cotangents, Subject, array, gaussians, mutant
from experiments.mutants.unseen import between

EPSILON = 1e-3  # of filter response normalization
STEPS, RATIO, COURANT = 3, 0.4, 0.15  # of the implicit scheme: Δt / Δx² and ½ c Δt / Δx


def yields(b: Array, s: Array, t: Array) -> Array:
    """Yield curves of Nelson and Siegel (1987, equation 2): b_0 + b_1 f + b_2 (f − e^−x), f = (1 − e^−x) / x.

    With x = t / s; level, slope and curvature b [N, 3] and scale s [N] of a curve, maturities t [T]; returns [N, T].
    """
    x = t[None] / s[:, None]
    f = (1 - jnp.exp(-x)) / x
    return b[:, :1] + b[:, 1:2] * f + b[:, 2:] * (f - jnp.exp(-x))


def yields_with(args: Args, dy: Array, *, quotient: bool = True, summed: bool = True) -> Cotangents:
    """f′ as of a `quotient`, or of its numerator alone; and dt [T] as a sum over the curves, or each one's [N, T]."""
    b, s, t = args
    x = t[None] / s[:, None]
    decay = jnp.exp(-x)
    f = (1 - decay) / x
    slope = (decay - f) / x if quotient else decay / x
    dx = dy * (b[:, 1:2] * slope + b[:, 2:] * (slope + decay)) / s[:, None]
    db = jnp.stack([jnp.sum(dy, axis=1), jnp.sum(dy * f, axis=1), jnp.sum(dy * (f - decay), axis=1)], axis=1)
    return db, -jnp.sum(dx * x, axis=1), jnp.sum(dx, axis=0) if summed else dx


def yields_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (b_1 f′ + b_2 (f′ + e^−x)), f′ = (e^−x − f) / x; ds = −Σ_T dx x / s, dt = Σ_N dx / s."""
    return yields_with(args, dy)


def yields_quotient(args: Args, dy: Array) -> Cotangents:
    """f′ = e^−x / x: the denominator of f is held constant."""
    return yields_with(args, dy, quotient=False)


def yields_maturities(args: Args, dy: Array) -> Cotangents:
    """dt [N, T], not summed over the curves."""
    return yields_with(args, dy, summed=False)


def yields_order(args: Args, dy: Array) -> Cotangents:
    """db in the order level, curvature, slope."""
    db, ds, dt = yields_bwd(args, dy)
    return db[:, jnp.array([0, 2, 1])], ds, dt


def graph(a: Array, x: Array, w: Array) -> Array:
    """A graph convolution (Kipf and Welling 2017, equation 2) without activation: D^(−½) (a + I) D^(−½) x w.

    D is the diagonal of the row sums of a + I; the edges' weights a [N, N] need not be symmetric, x [N, D], w [D, H].
    """
    looped = a + jnp.eye(len(a), dtype=a.dtype)
    root = 1 / jnp.sqrt(jnp.sum(looped, axis=1))
    return jnp.einsum("i,ij,j,jd,dh->ih", root, looped, root, x, w)


def graph_with(args: Args, dy: Array, *, degrees: int = 1, transposed: bool = True) -> Cotangents:
    """What goes through the degrees, times `degrees`; and back by the matrix that is transposed or not."""
    a, x, w = args
    looped = a + jnp.eye(len(a), dtype=a.dtype)
    degree = jnp.sum(looped, axis=1)
    root = 1 / jnp.sqrt(degree)
    p = root[:, None] * looped * root[None]
    dp = dy @ (x @ w).T
    ddegree = -(jnp.sum(dp * p, axis=1) + jnp.sum(dp * p, axis=0)) / (2 * degree)
    dh = (p.T if transposed else p) @ dy
    return root[:, None] * dp * root[None] + degrees * ddegree[:, None], dh @ w.T, x.T @ dh


def graph_bwd(args: Args, dy: Array) -> Cotangents:
    """da_ij = dP_ij / √(d_i d_j) + dd_i, dd_i = −Σ_j (dP_ij P_ij + dP_ji P_ji) / 2 d_i, dP = dy (x w)ᵀ; dh = Pᵀ dy."""
    return graph_with(args, dy)


def graph_degrees(args: Args, dy: Array) -> Cotangents:
    """da = dP_ij / √(d_i d_j): the degrees are held constant."""
    return graph_with(args, dy, degrees=0)


def graph_undirected(args: Args, dy: Array) -> Cotangents:
    """d(x w) = P dy, as if the graph were undirected."""
    return graph_with(args, dy, transposed=False)


def response(x: Array, g: Array, b: Array, t: Array) -> Array:
    """Filter response normalization with its threshold (Singh and Krishnan 2020, equations 1–3): max(g x / ν + b, t).

    With ν² = ε + the mean of x² over the positions; x [N, L, C], and g, b and t [C].
    """
    scaled = x * lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + EPSILON)
    return jnp.maximum(g[None, None] * scaled + b[None, None], t[None, None])


def response_with(args: Args, dy: Array, count: float) -> Cotangents:
    """What goes through ν is divided by `count`."""
    x, g, b, t = args
    root = jnp.sqrt(jnp.mean(x * x, axis=1, keepdims=True) + EPSILON)
    scaled = x / root
    over = g[None, None] * scaled + b[None, None] > t[None, None]
    d = jnp.where(over, dy, 0)
    inner = d * g[None, None]
    dx = (inner - scaled * jnp.sum(inner * scaled, axis=1, keepdims=True) / count) / root
    return dx, jnp.sum(d * scaled, axis=(0, 1)), jnp.sum(d, axis=(0, 1)), jnp.sum(dy - d, axis=(0, 1))


def response_bwd(args: Args, dy: Array) -> Cotangents:
    """z = x / ν, d = dy where g z + b > t: dx = (d g − z Σ_L d g z / L) / ν, dg = Σ d z, db = Σ d, dt = Σ (dy − d)."""
    return response_with(args, dy, args[0].shape[1])


def response_constant(args: Args, dy: Array) -> Cotangents:
    """dx = d g / ν: the mean square is held constant."""
    return response_with(args, dy, jnp.inf)


def response_channels(args: Args, dy: Array) -> Cotangents:
    """dx with the number of channels for that of positions."""
    return response_with(args, dy, args[0].shape[2])


def response_threshold(args: Args, dy: Array) -> Cotangents:
    """dt = Σ d, where y is over the threshold and not where it is under it."""
    dx, dg, db, _ = response_bwd(args, dy)
    return dx, dg, db, db


def retention(q: Array, k: Array, v: Array, c: Array) -> Array:
    """Retention (Sun et al. 2023, equation 5) of H heads: (q kᵀ ∘ D) v, D_nm = c^(n − m) for n ≥ m, else 0.

    q and k [H, T, D], v [H, T, E], and a decay per head, c [H].
    """
    steps, decay = retention_decay(c, q.shape[1])
    return jnp.einsum("hnd,hmd,hnm,hme->hne", q, k, jnp.where(steps >= 0, decay, 0), v)


def retention_decay(c: Array, length: int) -> tuple[Array, Array]:
    """n − m [T, T], and c^|n − m| [H, T, T]."""
    steps = jnp.arange(length)[:, None] - jnp.arange(length)[None]
    return steps, c[:, None, None] ** jnp.abs(steps)[None]


def retention_with(args: Args, dy: Array, *, transposed: bool = True, exponent: bool = True) -> Cotangents:
    """dv by the matrix that is transposed or not; dc with the exponent n − m as a factor or without it."""
    q, k, v, c = args
    steps, decay = retention_decay(c, q.shape[1])
    decay = jnp.where(steps >= 0, decay, 0)
    p, weights = dy @ v.mT * decay, q @ k.mT * decay
    dc = jnp.sum(dy @ v.mT * weights * (steps[None] if exponent else 1), axis=(1, 2)) / c
    return p @ k, p.mT @ q, (weights.mT if transposed else weights) @ dy, dc


def retention_bwd(args: Args, dy: Array) -> Cotangents:
    """With P = dy vᵀ: dq = (P ∘ D) k, dk = (P ∘ D)ᵀ q, dv = (q kᵀ ∘ D)ᵀ dy, dc = Σ P q kᵀ (n − m) D / c."""
    return retention_with(args, dy)


def retention_values(args: Args, dy: Array) -> Cotangents:
    """dv = (q kᵀ ∘ D) dy, not transposed."""
    return retention_with(args, dy, transposed=False)


def retention_exponent(args: Args, dy: Array) -> Cotangents:
    """dc without the exponent n − m, which comes down as a factor."""
    return retention_with(args, dy, exponent=False)


def retention_exchanged(args: Args, dy: Array) -> Cotangents:
    """dk is returned before dq."""
    dq, dk, dv, dc = retention_bwd(args, dy)
    return dk, dq, dv, dc


def machine(x: Array, w: Array, v: Array) -> Array:
    """A factorization machine (Rendle 2010, equation 1 and lemma 3.1) without bias: x w + ½ Σ_f ((x v)² − x² v²).

    x [N, D], w [D], and F factors of each feature, v [D, F]; returns [N].
    """
    return x @ w + jnp.sum((x @ v) ** 2 - (x * x) @ (v * v), axis=1) / 2


def machine_with(args: Args, dy: Array, *, own: float = 1, power: int = 1) -> Cotangents:
    """The features' pairs with themselves count `own`; and those of all, in dv, by dy to `power`."""
    x, w, v = args
    dx = w[None] + (x @ v) @ v.T - own * x * jnp.sum(v * v, axis=1)[None]
    dv = x.T @ (dy[:, None] ** power * (x @ v)) - own * v * ((x * x).T @ dy)[:, None]
    return dy[:, None] * dx, x.T @ dy, dv


def machine_bwd(args: Args, dy: Array) -> Cotangents:
    """dx = dy (w + v (x v) − x Σ_f v²), dw = xᵀ dy, dv = xᵀ (dy x v) − v Σ_N dy x²."""
    return machine_with(args, dy)


def machine_halves(args: Args, dy: Array) -> Cotangents:
    """2 x Σ_f v² and 2 v Σ_N dy x²: of the squares the ½ is forgotten."""
    return machine_with(args, dy, own=2)


def machine_twice(args: Args, dy: Array) -> Cotangents:
    """dv = (dy x)ᵀ (dy x v) − …, in which dy is multiplied by twice."""
    return machine_with(args, dy, power=2)


def transport(u: Array, k: Array) -> Array:
    """Implicit Euler steps of advection and diffusion, in finite volumes (Patankar 1980, chapter 5): A u′ = u.

    u [X] is 0 beyond its ends, and the diffusivity k [X + 1] is that of the cells' faces.
    """
    for _ in range(STEPS):
        u = jnp.linalg.solve(transport_matrix(k), u)
    return u


def transport_matrix(k: Array) -> Array:
    """A: 1 + r (k_i + k_(i + 1)) on the diagonal, −r k − c to the left of it and −r k + c to the right, [X, X]."""
    inner = -RATIO * k[1:-1]
    return jnp.diag(1 + RATIO * (k[:-1] + k[1:])) + jnp.diag(inner - COURANT, -1) + jnp.diag(inner + COURANT, 1)


def transport_with(args: Args, dy: Array, *, transposed: bool = True, after: int = 1, add: bool = True) -> Cotangents:
    """g = A⁻ᵀ g, or A⁻¹ g, per step, last first, and dA −= g u′ᵀ, or u for u′ unless `after`; or = unless `add`."""
    a, states = transport_matrix(args[1]), [args[0]]
    for _ in range(STEPS):
        states.append(jnp.linalg.solve(a, states[-1]))
    g, da = dy, jnp.zeros_like(a)
    for n in range(STEPS - 1, -1, -1):
        g = jnp.linalg.solve(a.T if transposed else a, g)
        share = -jnp.outer(g, states[n + after])
        da = da + share if add else share
    main, beside = jnp.diagonal(da), jnp.diagonal(da, -1) + jnp.diagonal(da, 1)
    return g, RATIO * (jnp.append(main, 0) + jnp.append(0, main) - jnp.pad(beside, 1))


def transport_bwd(args: Args, dy: Array) -> Cotangents:
    """By the transposed matrix, and −g u′ᵀ of each step; dk from the four entries in which each face is."""
    return transport_with(args, dy)


def transport_forward(args: Args, dy: Array) -> Cotangents:
    """g = A⁻¹ g for A⁻ᵀ g."""
    return transport_with(args, dy, transposed=False)


def transport_before(args: Args, dy: Array) -> Cotangents:
    """−g uᵀ of each step, with what it starts from and not what it solves for."""
    return transport_with(args, dy, after=0)


def transport_last(args: Args, dy: Array) -> Cotangents:
    """dA = for −=: only the first step's share, visited last, is left."""
    return transport_with(args, dy, add=False)


def lennard_jones(p: Array, s: Array, e: Array) -> Array:
    """Energy of each atom, as `compute pe/atom` in LAMMPS: ½ Σ_(j ≠ i) 4 e_ij ((s_ij / r_ij)¹² − (s_ij / r_ij)⁶), [N].

    Positions p [N, 3]; diameters s and depths e [N] of the atoms, mixed as s_ij = ½ (s_i + s_j) and e_ij = √(e_i e_j).
    """
    eye = jnp.eye(len(p), dtype=p.dtype)
    square = jnp.sum((p[:, None] - p[None]) ** 2, axis=2) + eye
    power = ((s[:, None] + s[None]) / 2) ** 6 / square**3
    return jnp.sum(2 * jnp.sqrt(e[:, None] * e[None]) * (power**2 - power) * (1 - eye), axis=1)


def lennard_jones_with(args: Args, dy: Array, *, others: int = 1, sign: int = -1, guarded: int = 1) -> Cotangents:
    """An atom in the `others` energies; attraction by `sign`; and r_ii = 1, or 0 if it is not `guarded`."""
    p, s, e = args
    eye = jnp.eye(len(p), dtype=p.dtype)
    d, mixed = p[:, None] - p[None], (s[:, None] + s[None]) / 2
    square = jnp.sum(d * d, axis=2)
    power = mixed**6 / (square + eye) ** 3
    depth = 2 * jnp.sqrt(e[:, None] * e[None]) * (dy[:, None] + others * dy[None]) * (1 - eye)
    slope = depth * (12 * power**2 + sign * 6 * power)
    energy = depth * (power**2 - power)
    ds = depth * (12 * power**2 - 6 * power) / (2 * mixed)
    force = -(slope / (square + guarded * eye))[:, :, None] * d
    return jnp.sum(force, axis=1), jnp.sum(ds, axis=1), jnp.sum(energy, axis=1) / (2 * e)


def lennard_jones_bwd(args: Args, dy: Array) -> Cotangents:
    """Each pair by dy_i + dy_j, as it is in the energies of both."""
    return lennard_jones_with(args, dy)


def lennard_jones_third_law(args: Args, dy: Array) -> Cotangents:
    """Each pair by dy_i: an atom in its own energy alone, not in those of its neighbours."""
    return lennard_jones_with(args, dy, others=0)


def lennard_jones_attraction(args: Args, dy: Array) -> Cotangents:
    """The force 24 e (2 (s / r)¹² + (s / r)⁶) / r, with + for −."""
    return lennard_jones_with(args, dy, sign=1)


def lennard_jones_itself(args: Args, dy: Array) -> Cotangents:
    """The pairs of an atom with itself divided by r² = 0."""
    return lennard_jones_with(args, dy, guarded=0)


def gram_schmidt(a: Array, b: Array) -> Array:
    """Rotations from six numbers (Zhou et al. 2019, appendix B): rows x = a / ‖a‖, y = u / ‖u‖, x × y, [N, 3, 3].

    With u = b − (x · b) x, as PyTorch3D's `rotation_6d_to_matrix`; a and b [N, 3].
    """
    x = a / jnp.linalg.norm(a, axis=1, keepdims=True)
    u = b - jnp.sum(x * b, axis=1, keepdims=True) * x
    y = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    return jnp.stack([x, y, jnp.cross(x, y)], axis=1)


def gram_schmidt_with(args: Args, dy: Array, *, cross: int = 1, along: int = 1) -> Cotangents:
    """The cross product's `cross` times, and what goes through x · b `along` times."""
    a, b = args
    x, y, _ = jnp.moveaxis(gram_schmidt(a, b), 1, 0)
    dot = jnp.sum(x * b, axis=1, keepdims=True)
    dx, dv = dy[:, 0] + cross * jnp.cross(y, dy[:, 2]), dy[:, 1] + cross * jnp.cross(dy[:, 2], x)
    du = (dv - y * jnp.sum(y * dv, axis=1, keepdims=True)) / jnp.linalg.norm(b - dot * x, axis=1, keepdims=True)
    ddot = -along * jnp.sum(du * x, axis=1, keepdims=True)
    dx = dx - dot * du + ddot * b
    return (dx - x * jnp.sum(x * dx, axis=1, keepdims=True)) / jnp.linalg.norm(a, axis=1, keepdims=True), du + ddot * x


def gram_schmidt_bwd(args: Args, dy: Array) -> Cotangents:
    """dx += y × dz, dy += dz × x; du = (dy − y (y · dy)) / ‖u‖, db = du − x (x · du), and so on to a."""
    return gram_schmidt_with(args, dy)


def gram_schmidt_order(args: Args, dy: Array) -> Cotangents:
    """dx += dz × y and dy += x × dz, the cross products in the other order."""
    return gram_schmidt_with(args, dy, cross=-1)


def gram_schmidt_coefficient(args: Args, dy: Array) -> Cotangents:
    """db = du and dx −= (x · b) du: the coefficient x · b is held constant."""
    return gram_schmidt_with(args, dy, along=0)


def holographic(a: Array, b: Array, r: Array) -> Array:
    """Scores of holographic embeddings (Nickel et al. 2016, equations 2 and 3), [N]: Σ_k r_k Σ_i a_i b_(i + k mod D).

    Of the triples of subjects a, objects b and relations r, all [N, D].
    """
    return jnp.sum(r * correlation(a, b), axis=1)


def correlation(a: Array, b: Array, *, convolved: bool = False) -> Array:
    """Circular correlation Σ_i a_i b_(i + k), or convolution Σ_i a_i b_(k − i), by the Fourier transform."""
    spectrum = jnp.fft.rfft(a, axis=1)
    spectrum = (spectrum if convolved else jnp.conj(spectrum)) * jnp.fft.rfft(b, axis=1)
    return jnp.fft.irfft(spectrum, a.shape[1], axis=1)


def holographic_bwd(args: Args, dy: Array) -> Cotangents:
    """da = dy (r correlated with b), db = dy (a convolved with r), dr = dy (a correlated with b)."""
    a, b, r = args
    parts = correlation(r, b), correlation(a, r, convolved=True), correlation(a, b)
    return tuple(dy[:, None] * part for part in parts)


def holographic_object(args: Args, dy: Array) -> Cotangents:
    """db = dy (a correlated with r)."""
    da, _, dr = holographic_bwd(args, dy)
    return da, dy[:, None] * correlation(args[0], args[2]), dr


def holographic_exchanged(args: Args, dy: Array) -> Cotangents:
    """da of the object, and db of the subject."""
    da, db, dr = holographic_bwd(args, dy)
    return db, da, dr


def holographic_probability(args: Args, dy: Array) -> Cotangents:
    """Times σ (1 − σ), as if the probability were returned and not the score."""
    p = 1 / (1 + jnp.exp(-holographic(*args)))
    return holographic_bwd(args, dy * p * (1 - p))


def responses(seed: int, dtype: Any) -> Args:
    """x [2, 5, 3] of magnitudes from 0.6 to 1.6, and g, b and t such that no entry is near its threshold."""
    x, *rest = between(((2, 5, 3), 0.6, 1.6), ((3,), 0.8, 1.5), ((3,), -0.1, 0.1), ((3,), -0.1, 0.1))(seed, dtype)
    return x * array(np.random.RandomState(seed).choice([-1, 1], size=x.shape), dtype), *rest


def atoms(seed: int, dtype: Any) -> Args:
    """Five atoms [5, 3] on different sites of a grid, up to an eighth of its step off; diameters and depths."""
    random = np.random.RandomState(seed)
    sites = np.stack(np.unravel_index(random.permutation(8)[:5], (2, 2, 2)), axis=1)
    return array(1.15 * sites + random.uniform(-0.15, 0.15, (5, 3)), dtype), *between(*2 * (((5,), 0.6, 1.1),))(
        seed, dtype
    )


YIELDS = Subject(yields, yields_bwd, between(((5, 3), -2, 2), ((5,), 0.8, 2.5), ((7,), 0.5, 6)))
GRAPH = Subject(graph, graph_bwd, between(((5, 5), 0, 1), ((5, 3), -2, 2), ((3, 7), -1, 1)))
RESPONSE = Subject(response, response_bwd, responses)
RETENTION = Subject(retention, retention_bwd, between(*2 * (((2, 7, 3), -1, 1),), ((2, 7, 5), 0, 2), ((2,), 0.6, 0.9)))
MACHINE = Subject(machine, machine_bwd, gaussians((5, 7), (7,), (7, 3)))
TRANSPORT = Subject(transport, transport_bwd, between(((7,), -2, 2), ((8,), 0.3, 1.5)))
ATOMS = Subject(lennard_jones, lennard_jones_bwd, atoms)
GRAM_SCHMIDT = Subject(gram_schmidt, gram_schmidt_bwd, gaussians((5, 3), (5, 3)))
HOLE = Subject(holographic, holographic_bwd, gaussians(*3 * ((5, 7),), scale=0.8))

MUTANTS = (
    mutant(521, "yield curve", YIELDS, yields_quotient, "MISSING_PATH", (1, 2)),
    mutant(522, "yield curve", YIELDS, yields_maturities, "UNREDUCED", (2,)),
    mutant(523, "yield curve", YIELDS, yields_order, "LAYOUT"),
    mutant(524, "graph convolution", GRAPH, graph_degrees, "MISSING_PATH"),
    mutant(525, "graph convolution", GRAPH, graph_undirected, "TRANSPOSE", (1, 2)),
    mutant(526, "filter response normalization", RESPONSE, response_constant, "MISSING_PATH"),
    # Counted along another axis; so one of two ways has the wrong factor.
    mutant(527, "filter response normalization", RESPONSE, response_channels, "WRONG_AXIS PATH_SCALE"),
    mutant(528, "filter response normalization", RESPONSE, response_threshold, "WRONG_OPERAND", (3,)),
    mutant(529, "retention", RETENTION, retention_values, "TRANSPOSE", (2,)),
    mutant(530, "retention", RETENTION, retention_exponent, "MISSING_FACTOR", (3,)),
    mutant(531, "retention", RETENTION, retention_exchanged, "SWAPPED", (0, 1)),
    # A path with an explicit ½, which is forgotten: twice what it is, or the factor ½ left out of it.
    mutant(532, "factorization machine", MACHINE, machine_halves, "DOUBLED_PATH PATH_SCALE MISSING_FACTOR", (0, 2)),
    # Not linear in dy; and dy is the factor that one of the terms has too many.
    mutant(533, "factorization machine", MACHINE, machine_twice, "COTANGENT_NONLINEAR EXTRA_FACTOR", (2,)),
    mutant(534, "implicit transport", TRANSPORT, transport_forward, "TRANSPOSE", (0, 1)),
    mutant(535, "implicit transport", TRANSPORT, transport_before, "WRONG_OPERAND", (1,)),
    mutant(536, "implicit transport", TRANSPORT, transport_last, "OVERWRITE MISSING_PATH", (1,)),
    mutant(537, "Lennard-Jones energies", ATOMS, lennard_jones_third_law, "MISSING_PATH", (0, 1, 2)),
    mutant(538, "Lennard-Jones energies", ATOMS, lennard_jones_attraction, "PATH_SIGN"),
    mutant(539, "Lennard-Jones energies", ATOMS, lennard_jones_itself, "NONFINITE"),
    # The cross product's path; in both places.
    mutant(540, "Gram–Schmidt rotation", GRAM_SCHMIDT, gram_schmidt_order, "PATH_SIGN", (0, 1)),
    mutant(541, "Gram–Schmidt rotation", GRAM_SCHMIDT, gram_schmidt_coefficient, "MISSING_PATH", (0, 1)),
    # The object's matrix is one of shifts: itself for its transpose.
    mutant(542, "holographic embedding", HOLE, holographic_object, "LAYOUT TRANSPOSE", (1,)),
    mutant(543, "holographic embedding", HOLE, holographic_exchanged, "SWAPPED", (0, 1)),
    # σ (1 − σ), which belongs to the probability: the derivative of another function.
    mutant(544, "holographic embedding", HOLE, holographic_probability, "EXTRA_FACTOR OTHER_FORWARD", (0, 1, 2)),
)
