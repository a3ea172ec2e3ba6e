"""What theory says of the steps of adaptive methods and of gradients with noise, and the library measured against it.

As in `compare_optimizers_claims`: one function a claim; predictions are closed forms in NumPy.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import Verdict
from experiments.compare_optimizers_claims import Claim, follow
from experiments.landscapes import NOISY_KAPPA
from fundamentals import optimizers
from fundamentals.base import Array, PRNGKey


def equalized(kappa: float, steps: int = 10) -> Claim:
    """O10–O14: how far the steep coordinate of a ravine moves, against the flat one, in some steps from (1, 1).

    Gradient descent moves a coordinate by 1 − (1 − ηλ)^n in n steps. A method that divides by the root of squared
    gradients of the same coordinate does not see λ at all: it scales both. (Only along the axes: of a turned ravine
    it sees the same gradient in both coordinates.)
    """
    rate = 0.1 / kappa
    eigenvalues = jnp.asarray([1.0, kappa])
    methods = {
        "gradient descent": lambda: optimizers.sgd(rate),
        "AdaGrad": lambda: optimizers.adagrad(rate),
        "RMSProp": lambda: optimizers.rmsprop(rate),
        "Adam": lambda: optimizers.adam(rate),
    }

    @jax.jit
    def moved(start: Array) -> dict[str, Array]:
        run = {name: follow(method(), lambda g: eigenvalues * g, start, steps)[1] for name, method in methods.items()}
        return {name: start - thetas[-1] for name, thetas in run.items()}

    ratios = {name: float(m[1] / m[0]) for name, m in moved(jnp.ones(2)).items()}
    first = ratios.pop("gradient descent")
    expected = (1 - (1 - rate * kappa) ** steps) / (1 - (1 - rate) ** steps)
    return Claim(
        [
            Verdict(
                f"length of {steps} steps along the steep / the flat coordinate: gradient descent", f"{first:.2f}",
                f"{expected:.2f} (κ = {kappa:g})", math.isclose(first, expected, rel_tol=0.01), "O10–O14",
            ),
            Verdict(
                f"the same of {', '.join(ratios)}: equal", ", ".join(f"{r:.4f}" for r in ratios.values()), "1",
                all(math.isclose(ratio, 1, rel_tol=1e-3) for ratio in ratios.values()), "O10–O14",
            ),
        ],
        {},
    )  # fmt: skip


def rates(small: float = 0.1, half: int = 100) -> Claim:
    """O10, O12: the rate |step| / |g|, with η = 1, while gradients are 1, and then while they are small.

    AdaGrad's is 1/√G with G = t, then half + small² t; RMSProp's 1/√s with s = 1 − ρᵗ, which is 1 before long and then
    falls to small².
    """
    gradients = np.repeat([1.0, small], half)
    methods = {"AdaGrad": optimizers.adagrad(1.0), "RMSProp": optimizers.rmsprop(1.0, 0.9)}

    @jax.jit
    def measure(gradients: Array) -> dict[str, Array]:
        def step(states: dict[str, Any], g: Array) -> tuple[dict[str, Any], dict[str, Array]]:
            done = {name: methods[name].update(g, state) for name, state in states.items()}
            return {name: state for name, (_, state) in done.items()}, {n: -u / g for n, (u, _) in done.items()}

        states = {name: method.init(gradients[0]) for name, method in methods.items()}
        found: dict[str, Array] = jax.lax.scan(step, states, gradients)[1]
        return found

    found = {name: np.asarray(values, float) for name, values in measure(jnp.asarray(gradients)).items()}
    s, second_moments = 0.0, []
    for g in gradients:
        s = 0.9 * s + 0.1 * g**2
        second_moments.append(s)
    adagrad = 1 / np.sqrt(np.cumsum(gradients**2) + 1e-8)
    rmsprop = 1 / np.sqrt(np.array(second_moments) + 1e-8)
    falls = bool(np.all(np.diff(found["AdaGrad"]) <= 1e-6 * found["AdaGrad"][:-1]))  # to the rounding of float32
    recovered, expected = float(found["RMSProp"][-1] / found["RMSProp"][half - 1]), rmsprop[-1] / rmsprop[half - 1]
    count = np.arange(1, 2 * half + 1)
    return Claim(
        [
            Verdict(
                f"AdaGrad's rate only falls, when gradients fall to {small:g} too: after {half}, {2 * half} steps",
                "{:.4f}, {:.4f}".format(*found["AdaGrad"][[half - 1, -1]]),
                "{:.4f}, {:.4f}".format(*adagrad[[half - 1, -1]]),
                falls and np.allclose(found["AdaGrad"], adagrad, rtol=1e-3), "O12, claim 11",
            ),
            Verdict(
                f"RMSProp's recovers: after {2 * half} / after {half} steps", f"{recovered:.1f}",
                f"{expected:.1f} (limit {1 / small:g})",
                recovered > 1 and math.isclose(recovered, expected, rel_tol=0.01), "O13, claim 11",
            ),
        ],
        {name: np.stack([count, values], 1) for name, values in found.items()},
    )  # fmt: skip


def bias_correction(kappa: float) -> Claim:
    """O14: Adam's first step, in units of η: 1 in each coordinate; without the correction (1 − β₁)/√(1 − β₂)."""
    gradient = jnp.asarray([1.0, -kappa])
    found = []
    for corrected in (True, False):
        optimizer = optimizers.adam(1e-3, 0.9, 0.999, bias_correction=corrected)
        updates, _ = optimizer.update(gradient, optimizer.init(jnp.zeros(2)))
        found.append(np.abs(np.asarray(updates, float)) / 1e-3)
    expected = 0.1 / math.sqrt(0.001)
    return Claim(
        [
            Verdict(
                "Adam's first step / η, both coordinates: corrected; without bias correction",
                "{:.3f}, {:.3f}; {:.3f}, {:.3f}".format(*found[0], *found[1]), f"1; {expected:.3f}",
                np.allclose(found[0], 1, rtol=1e-3) and np.allclose(found[1], expected, rtol=1e-3), "O14",
            )
        ],
        {},
    )  # fmt: skip


def leaving_a_saddle(key: PRNGKey, samples: int, noise: float = 0.01, rate: float = 0.05, steps: int = 400) -> Claim:
    """O4: x² − y² from (1, 0), exactly on the ridge: steps until |y| > 1, without noise and with.

    y ← (1 + 2η) y + η σ ξ, so that y_t → aᵗ W with a = 1 + 2η and W ~ N(0, η²σ²/(a² − 1)). |aᵗ W| passes 1 at
    t = −ln|W| / ln a, on average ½ step later where t counts; E ln|N(0, 1)| = −(γ + ln 2)/2, its standard deviation
    π/√8. σ is small, so that W is decided long before y is 1.
    """
    curvature = jnp.asarray([[2.0, -2.0]])

    @jax.jit
    def leave(key: PRNGKey, noise: Array) -> tuple[Array, Array]:
        """(|y| [steps, samples], the last parameters)."""
        optimizer = optimizers.sgd(rate)

        def step(carry: tuple[Array, Any], key: PRNGKey) -> tuple[tuple[Array, Any], Array]:
            theta, state = carry
            gradient = curvature * theta + noise * jax.random.normal(key, theta.shape)
            updates, state = optimizer.update(gradient, state, theta)
            theta = optimizers.apply_updates(theta, updates)
            return (theta, state), jnp.abs(theta[:, 1])

        start = jnp.tile(jnp.asarray([[1.0, 0.0]]), (samples, 1))
        (theta, _), y = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, steps))
        return y, theta

    without, end = (np.asarray(a, float) for a in leave(key, jnp.asarray(0.0)))
    outside = np.asarray(leave(key, jnp.asarray(noise))[0]) > 1
    left = np.where(outside.any(0), outside.argmax(0) + 1.0, np.nan)
    mean = float(left.mean())  # NaN where one never left
    a = 1 + 2 * rate
    spread = rate * noise / math.sqrt(a**2 - 1)
    expected = (-math.log(spread) + (np.euler_gamma + math.log(2)) / 2) / math.log(a) + 0.5
    allowed = 4 * math.pi / math.sqrt(8) / math.log(a) / math.sqrt(samples)  # four standard errors
    return Claim(
        [
            Verdict(
                f"exact gradient descent from the ridge of a saddle stays on it: |x|, |y| after {steps} steps",
                f"{np.abs(end[:, 0]).max():.0e}, {without.max():g}", f"{(1 - 2 * rate) ** steps:.0e}, 0",
                bool(without.max() == 0 and np.abs(end[:, 0]).max() < 1e-6), "O4, claim 9",
            ),
            Verdict(
                "with noise in the gradient it leaves: steps until |y| > 1, the mean of all runs", f"{mean:.1f}",
                f"{expected:.1f} ± {allowed:.1f}", abs(mean - expected) <= allowed, "O4, claim 9",
            ),
        ],
        {"left after": np.stack([np.sort(left), np.arange(1, samples + 1) / samples], 1)},
    )  # fmt: skip


@np.errstate(over="ignore", invalid="ignore")  # of what diverged
def stationary(key: PRNGKey, samples: int, steps: int = 300, last: int = 50) -> Claim:
    """O4: how noise of variance σ² in each entry of the gradient keeps gradient descent moving about a minimum.

    θ ← (1 − ηλ) θ − ησξ has the variance v = (1 − ηλ)² v + η²σ² = ησ² / (λ (2 − ηλ)) and correlation 1 − ηλ from one
    step to the next. So the claim that it "oscillates in high curvature" is not one of the variance, which is larger
    along the *flat* coordinate unless η is near the limit: it is one of the loss, λ v / 2, which grows with λ, and of
    the sign: where ηλ > 1 the correlation is negative, and steps go back and forth. (Five standard errors are allowed.)
    """
    curvature = np.array([1.0, NOISY_KAPPA])
    etas = np.array([0.5, 1.9]) / NOISY_KAPPA  # ηλ along the steep coordinate: creeps; oscillates, nearly diverges

    @jax.jit
    def measure(key: PRNGKey, rate: Array) -> Array:
        optimizer = optimizers.sgd(rate)

        def step(carry: tuple[Array, Any], key: PRNGKey) -> tuple[tuple[Array, Any], Array]:
            theta, state = carry
            gradient = jnp.asarray(curvature[None]) * theta + jax.random.normal(key, theta.shape)
            updates, state = optimizer.update(gradient, state, theta)
            new = optimizers.apply_updates(theta, updates)
            return (new, state), jnp.stack([jnp.mean(new**2, 0), jnp.mean(new * theta, 0)])

        start = jnp.zeros((samples, 2))
        _, moments = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, steps))
        return jnp.mean(moments[-last:], 0)

    found = np.asarray(jax.vmap(measure, (None, 0))(key, jnp.asarray(etas)), float)  # [rates, moments, coordinates]
    product = etas[:, None] * curvature
    expected = etas[:, None] / (curvature * (2 - product))
    variance, correlation = found[:, 0], found[:, 1] / found[:, 0]
    allowed = 5 * math.sqrt(2 / samples)
    # The flat coordinate at the smallest η has forgotten its start to (1 − 0.05)^(2 · 250) = 7e-12.
    loss = 0.5 * curvature * variance
    steeper = bool(np.all(loss[:, 1] > loss[:, 0]))

    def pairs(values: np.ndarray, digits: int = 3) -> str:
        return "; ".join(f"{flat:.{digits}f}, {steep:.{digits}f}" for flat, steep in values)

    return Claim(
        [
            Verdict(
                "with noise gradient descent has the variance ησ²/(λ(2 − ηλ)): flat, steep at ηλ_max = 0.5; at 1.9",
                pairs(variance), pairs(expected),
                bool(np.allclose(variance, expected, rtol=allowed)), "O4, claim 9",
            ),
            Verdict(
                "the steep one costs more loss, and oscillates if ηλ > 1: correlation of steps 1 − ηλ: flat, steep",
                pairs(correlation, 2), pairs(1 - product, 2),
                steeper and bool(np.allclose(correlation, 1 - product, atol=allowed)), "O4, claim 9",
            ),
        ],
        {},
    )  # fmt: skip
