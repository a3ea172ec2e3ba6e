"""What theory says of optimizers on quadratics, and the library's methods measured against it.

Each function measures one claim of the notes and returns its verdicts, and the curves that a figure shows. Predictions
are closed forms in NumPy. A quadratic is ½ Σ λᵢ θᵢ², its gradient λ θ; a ravine has λ = 1 and κ.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import Verdict
from fundamentals import optimizers
from fundamentals.base import Array, PRNGKey
from fundamentals.optimizers import Optimizer

BETA = 0.9  # of all velocities, where nothing else is said


class Claim(NamedTuple):
    """Verdicts, and by name what a figure shows: points [N, 2]."""

    verdicts: list[Verdict]
    curves: dict[str, np.ndarray]


def follow(optimizer: Optimizer, gradient: Callable[[Array], Array], start: Array, steps: int) -> tuple[Any, Any]:
    """(states after each step, parameters after each step)."""

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], tuple[Any, Array]]:
        theta, state = carry
        updates, state = optimizer.update(gradient(theta), state, theta)
        theta = optimizers.apply_updates(theta, updates)
        return (theta, state), (state, theta)

    followed: tuple[Any, Any] = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]
    return followed


def stability(kappa: float) -> Claim:
    """O5: gradient descent multiplies each coordinate by 1 − ηλ a step, so it is stable iff η < 2/λ_max."""

    @jax.jit
    def growth(rate: Array, steps: Array) -> Array:
        """|θ| of each coordinate after some steps from 1."""
        eigenvalues = jnp.asarray([1.0, kappa])
        optimizer = optimizers.sgd(rate)

        def step(_: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            theta, state = carry
            updates, state = optimizer.update(eigenvalues * theta, state, theta)
            return optimizers.apply_updates(theta, updates), state

        theta = jnp.ones(2)
        return jnp.abs(jax.lax.fori_loop(0, steps, step, (theta, optimizer.init(theta)))[0])

    low, high = 1e-9, 1e3
    while high > low * 1.00001:
        middle = math.sqrt(low * high)
        stable = bool(np.all(np.asarray(growth(jnp.asarray(middle), jnp.asarray(1000))) <= 1))  # not: NaN
        low, high = (middle, high) if stable else (low, middle)
    limit = math.sqrt(low * high)
    outside = 1.01 * 2 / kappa
    flat, steep = np.asarray(growth(jnp.asarray(outside), jnp.asarray(10)), float) ** 0.1
    expected = [abs(1 - outside * eigenvalue) for eigenvalue in (1, kappa)]
    return Claim(
        [
            Verdict(
                "largest η at which gradient descent does not diverge on a ravine is 2/λ_max", f"{limit:.6g}",
                f"{2 / kappa:.6g}", math.isclose(limit, 2 / kappa, rel_tol=1e-3), "O5, claim 10",
            ),
            Verdict(
                "just above (1 %) only the steep coordinate diverges: |1 − ηλ|, growth a step along flat, steep",
                f"{flat:.4f}, {steep:.4f}", "{:.4f}, {:.4f}".format(*expected),
                bool(flat < 1 < steep) and np.allclose([flat, steep], expected, rtol=1e-3), "O5, claim 10",
            ),
        ],
        {},
    )  # fmt: skip


def scaling(kappas: Sequence[float], tolerance: float = 1e-6) -> Claim:
    """O9: iterations until ‖θ‖ has fallen to the tolerance, with the best fixed η and β (Polyak 1964).

    Gradient descent with η = 2/(λ₁ + λₙ) multiplies both ends of the spectrum by ± (κ−1)/(κ+1) ≈ 1 − 2/κ a step.
    Momentum with √η = 2/(√λ₁ + √λₙ) and r = √β = (√κ−1)/(√κ+1) ≈ 1 − 2/√κ has double roots ± r at both, so that
    θ_t = (1 + (1 − r) t) rᵗ along λ₁ and (1 + (1 + r) t) (−r)ᵗ along λₙ. The factor t costs a logarithm: the exponent
    of κ is above ½ by d ln ln √κ / d ln κ, some 0.04 here, which is why up to 0.6 is allowed. The iterations themselves
    must be those of the closed forms to 2 % (and 1): in float32 a double root is known to √ε = 3e-4 only.
    """
    k = np.asarray(kappas, float)
    r = (np.sqrt(k) - 1) / (np.sqrt(k) + 1)
    best = {
        "gradient descent": (2 / (1 + k), 0 * k, math.log(tolerance) / np.log((k - 1) / (k + 1))),
        "momentum": ((2 / (1 + np.sqrt(k))) ** 2, r**2, 40 + 4 * math.log(tolerance) / np.log(r)),
    }
    verdicts: list[Verdict] = []
    curves: dict[str, np.ndarray] = {}
    for name, (rates, betas, enough) in best.items():
        steps = 20 + math.ceil(1.2 * enough.max())

        def distance(rate: Array, beta: Array, kappa: Array, name: str = name, steps: int = steps) -> Array:
            of_rate = optimizers.sgd(rate) if name == "gradient descent" else optimizers.momentum(rate, beta)
            eigenvalues = jnp.stack([jnp.ones_like(kappa), kappa])
            _, thetas = follow(of_rate, lambda theta: eigenvalues * theta, jnp.ones(2), steps)
            return jnp.sqrt(jnp.mean(thetas**2, axis=1))

        found = np.asarray(jax.jit(jax.vmap(distance))(*map(jnp.asarray, (rates, betas, k))), float)
        t = np.arange(1, steps + 1)[:, None]
        if name == "gradient descent":
            theory = ((k - 1) / (k + 1)) ** t
        else:
            theory = r**t * np.hypot(1 + (1 - r) * t, 1 + (1 + r) * t) / math.sqrt(2)
        measured, predicted = first_below(found, tolerance), first_below(theory.T, tolerance)
        exponent = float(np.polyfit(np.log(k), np.log(measured), 1)[0])
        low, high, power = (0.95, 1.05, "κ") if name == "gradient descent" else (0.45, 0.6, "√κ")
        close = np.allclose(measured, predicted, rtol=0.02, atol=1)
        verdicts.append(
            Verdict(
                f"iterations of {name} with the best fixed parameters grow as {power}: exponent; at the ends",
                f"{exponent:.3f}; {measured[0]:.0f}, {measured[-1]:.0f}",
                f"{low} to {high}; {predicted[0]:.0f}, {predicted[-1]:.0f}",
                low <= exponent <= high and bool(close),
                "O9, claim 10",
            )
        )  # fmt: skip
        curves |= {name: np.stack([k, measured], 1), f"{name}, closed form": np.stack([k, predicted], 1)}
    return Claim(verdicts, curves)


def first_below(values: np.ndarray, bound: float) -> np.ndarray:
    """For each row the step, from 1, at which it first is at or below the bound; NaN where it never is."""
    below = values <= bound
    return np.where(below.any(-1), below.argmax(-1) + 1.0, np.nan)


def bookkeeping(steps: int = 300) -> Claim:
    """O9: what adds up in the velocity and what cancels: |v| / Σ βᵏ |g_{t−k}| is 1 where all gradients have one sign.

    η is just inside momentum's limit 2 (1 + β)/λ_max, where the gradient along λ_max changes sign each step, and κ is
    so large that along the flat coordinate it is nearly steady. Both coordinates follow z² − (1 + β − ηλ) z + β = 0;
    with the root z that dies out last gₜ ∝ zᵗ, so that v = g / (1 − β/z): g / (1 − β) for z → 1 (they add), and
    (1 − β/|z|) / (1 + β/|z|) of the sum of sizes for z → −1 (they cancel).
    """
    kappa = 1e4
    rate = (1 - 1 / kappa) * 2 * (1 + BETA) / kappa
    eigenvalues = jnp.asarray([1.0, kappa])
    optimizer = optimizers.momentum(rate, BETA)
    run = jax.jit(lambda start: follow(optimizer, lambda theta: eigenvalues * theta, start, steps))
    states, thetas = run(jnp.ones(2))
    before = np.concatenate([np.ones((1, 2)), np.asarray(thetas, float)[:-1]])
    gradients, velocity = before * np.asarray(eigenvalues, float), np.asarray(states.velocity, float)
    sizes = np.array([(BETA ** np.arange(t)[::-1]) @ np.abs(gradients[:t]) for t in range(1, steps + 1)])
    ratio = np.abs(velocity) / sizes
    flat, steep = [float(max(np.roots([1, rate * e - 1 - BETA, BETA]), key=abs)) for e in (1, kappa)]
    gain = float(velocity[-1, 0] / gradients[-1, 0])
    alternating = bool(np.all(np.sign(gradients[1:, 1]) == -np.sign(gradients[:-1, 1])))
    expected_gain, expected_ratio = 1 / (1 - BETA / flat), (1 - BETA / -steep) / (1 + BETA / -steep)
    count = np.arange(1, steps + 1)
    return Claim(
        [
            Verdict(
                "along the flat coordinate gradients add up in the velocity: |v| / Σ βᵏ|g|, v / g",
                f"{ratio[-1, 0]:.4f}, {gain:.2f}", f"1, {expected_gain:.2f}",
                math.isclose(ratio[-1, 0], 1, rel_tol=1e-3) and math.isclose(gain, expected_gain, rel_tol=0.01),
                "O9, claim 10",
            ),
            Verdict(
                "along the steep one they alternate in sign and cancel: |v| / Σ βᵏ|g|, near (1−β)/(1+β) = "
                f"{(1 - BETA) / (1 + BETA):.4f}", f"{ratio[-1, 1]:.4f}",
                f"{expected_ratio:.4f}",
                alternating and math.isclose(ratio[-1, 1], expected_ratio, rel_tol=0.01), "O9, claim 10",
            ),
        ],
        {name: np.stack([count, ratio[:, i]], 1) for i, name in enumerate(("flat", "steep"))},
    )  # fmt: skip


def literal_step(theta: Array, velocity: Array, eigenvalue: Array, rate: float) -> tuple[Array, Array]:
    """Momentum as the notes write it once, v ← v − η g, θ ← θ + v: nothing decays."""
    velocity = velocity - rate * eigenvalue * theta
    return theta + velocity, velocity


def undamped(steps: int = 1000, few: int = 100) -> Claim:
    """O7: without decay the map of (θ, v) has determinant 1 and trace 2 − ηλ: |eigenvalues| = 1 for 0 < ηλ < 4.

    With v ← βv − ηλθ the determinant is β, and the energy ηλ θ² + (1 − ηλ − β) θ v + β v² is multiplied by just that in
    each step: where eigenvalues are complex it is a norm, and for β = 1 that stays as it is.
    """
    step_sizes = jnp.asarray(np.r_[np.linspace(0.1, 3.9, 39), 4.1])  # ηλ; the last is outside
    with_decay = optimizers.momentum(1.0, BETA, normalization="steps")

    def energy(theta: Array, v: Array, beta: float) -> Array:
        return step_sizes * theta**2 + (1 - step_sizes - beta) * theta * v + beta * v**2

    @jax.jit
    def measure(theta: Array) -> tuple[Array, Array, Array]:
        def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return literal_step(*carry, step_sizes, 1.0)

        matrices = jax.vmap(
            lambda s: jnp.stack([jnp.stack(c) for c in jax.jacobian(literal_step, (0, 1))(0.3, 0.4, s, 1.0)])
        )(step_sizes)
        position, v = jax.lax.fori_loop(0, steps, step, (theta, 0 * theta))
        literal = energy(position, v, 1.0) / energy(theta, 0 * theta, 1.0)
        states, thetas = follow(with_decay, lambda theta: step_sizes * theta, theta, few)
        decayed = energy(thetas[-1], states.velocity[-1], BETA) / energy(theta, 0 * theta, BETA)
        return matrices, literal, decayed

    matrices, literal, decayed = (np.asarray(a, float) for a in measure(jnp.ones_like(step_sizes)))
    moduli = np.abs(np.linalg.eigvals(matrices)).max(1)
    apart = float(np.abs(moduli[:-1] - 1).max())
    decays = decayed[:37] ** (1 / few)  # ηλ ≤ 3.7: above 3.8 = 2 (1 + β) the one with decay diverges
    farthest = decays[np.argmax(np.abs(decays - BETA))]
    return Claim(
        [
            Verdict(
                "v ← v − η g, without decay: |eigenvalues| for 0 < ηλ < 4, at ηλ = 4.1",
                f"1 ± {apart:.0e}, {moduli[-1]:.3f}", f"1, {1.05 + math.sqrt(1.05**2 - 1):.3f}",
                apart <= 1e-4 and math.isclose(moduli[-1], 1.05 + math.sqrt(1.05**2 - 1), rel_tol=1e-3), "O7",
            ),
            Verdict(
                f"so it never settles: energy after {steps:,} steps / before, least; with decay, a step",
                f"{literal[:-1].min():.3f}; {farthest:.4f}", f"1; β = {BETA}",
                bool(np.allclose(literal[:-1], 1, rtol=0.01) and np.allclose(decays, BETA, rtol=1e-3)), "O7",
            ),
        ],
        {},
    )  # fmt: skip


def normalizations(key: PRNGKey, samples: int) -> Claim:
    """O8: what each normalization of the velocity makes of white noise, and of a steady gradient of 1.

    The velocity is Σ a bᵏ g_{t−k}: white noise of variance 1 becomes a²/(1 − b²), a steady 1 becomes a/(1 − b).
    A variance of n samples has the standard error √(2/n): five are allowed.
    """
    weights = {
        "heavy_ball": (1.0, BETA),
        "average": (1 - BETA, BETA),
        "variance_preserving": (math.sqrt(1 - BETA), math.sqrt(BETA)),
    }

    @jax.jit
    def velocities(key: PRNGKey) -> dict[str, Array]:
        methods = {name: optimizers.momentum(0.1, BETA, normalization=name) for name in weights}  # type: ignore[arg-type]
        start = jnp.zeros(samples + 1)

        def step(states: dict[str, Any], key: PRNGKey) -> tuple[dict[str, Any], None]:
            gradient = jnp.append(jax.random.normal(key, (samples,)), 1.0)
            return {name: methods[name].update(gradient, state)[1] for name, state in states.items()}, None

        states = {name: method.init(start) for name, method in methods.items()}
        states, _ = jax.lax.scan(step, states, jax.random.split(key, 250))  # √β²⁵⁰ = 2e-6: it has forgotten its start
        return {name: state.velocity for name, state in states.items()}

    found = {name: np.asarray(v, float) for name, v in velocities(key).items()}
    allowed = 5 * math.sqrt(2 / samples)  # standard errors of a variance
    verdicts = []
    for name, (a, b) in weights.items():
        variance, gain = float(found[name][:-1].var()), float(found[name][-1])
        expected = a**2 / (1 - b**2), a / (1 - b)
        verdicts.append(
            Verdict(
                f"{name.replace('_', ' ')} velocity: variance from white noise of 1, size from a steady gradient of 1",
                f"{variance:.3f}, {gain:.2f}",
                f"{expected[0]:.3f}, {expected[1]:.2f}",
                math.isclose(variance, expected[0], rel_tol=allowed) and math.isclose(gain, expected[1], rel_tol=1e-3),
                "O8",
            )
        )  # fmt: skip
    return Claim(verdicts, {})
