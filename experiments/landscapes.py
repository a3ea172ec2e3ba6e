"""Functions of two variables on which optimizers are compared, with what is known of them in closed form."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Array

WALL, EDGE, WIDTH = 10.0, 2.0, 0.05  # of the cliff: its height, where it stands, how far it reaches
TURN = math.pi / 6  # of the turned ravine; at 45° its axes would again be those that signs can tell apart
NOISY_KAPPA = 10.0


class Landscape(NamedTuple):
    """A function, where descent starts, and its minimum."""

    f: Callable[[Array], Array]  # [2] → []
    start: tuple[float, float]
    minimum: tuple[float, float]
    lowest: float  # f there
    hessian: np.ndarray  # [2, 2] there, by hand
    window: tuple[float, float, float, float]  # left, right, bottom, top of its plot
    noise: float = 0.0  # standard deviation of what is added to each entry of the gradient

    @property
    def condition(self) -> float:
        """κ = λ_max / λ_min of the Hessian at the minimum."""
        eigenvalues = np.linalg.eigvalsh(self.hessian)
        return float(eigenvalues[-1] / eigenvalues[0])

    def goal(self, tolerance: float) -> float:
        """The value of f at which its distance from the lowest has fallen to this fraction of what it was."""
        start = float(self.f(jnp.asarray(self.start)))
        return self.lowest + tolerance * (start - self.lowest)


def quadratic(eigenvalues: np.ndarray, turn: float = 0.0) -> tuple[Callable[[Array], Array], np.ndarray]:
    """(½ θᵀ H θ, H), where H has these eigenvalues along axes that are turned by an angle."""
    axes = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    hessian = axes @ np.diag(eigenvalues) @ axes.T

    def f(theta: Array) -> Array:
        along = jnp.asarray(axes.T, theta.dtype) @ theta
        return 0.5 * jnp.sum(jnp.asarray(eigenvalues, theta.dtype) * along**2)

    return f, hessian


def rosenbrock(theta: Array) -> Array:
    """(1 − x)² + 100 (y − x²)²: a curved valley (Rosenbrock 1960)."""
    x, y = theta
    value: Array = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return value


def beale(theta: Array) -> Array:
    """Σ (cᵢ − x (1 − yⁱ))² with c = 1.5, 2.25, 2.625: flat around steep corners (Beale 1958)."""
    x, y = theta
    value: Array = (1.5 - x * (1 - y)) ** 2 + (2.25 - x * (1 - y**2)) ** 2 + (2.625 - x * (1 - y**3)) ** 2
    return value


def saddle(theta: Array) -> Array:
    """x² − y² + y⁴/2: at the origin the saddle x² − y², closed so that there are minima, at y = ±1."""
    x, y = theta
    value: Array = x**2 - y**2 + 0.5 * y**4
    return value


def cliff(theta: Array) -> Array:
    """0.1 x²/2 + y²/2 and a step up at x = 2, whose slope is 50: what comes from above is thrown far across."""
    x, y = theta
    value: Array = 0.05 * x**2 + 0.5 * y**2 + WALL * jax.nn.sigmoid((x - EDGE) / WIDTH)
    return value


def landscapes(kappa: float) -> dict[str, Landscape]:
    """All of them; kappa is the condition number of the ravines."""
    ravine, ravine_hessian = quadratic(np.array([1.0, kappa]))
    turned, turned_hessian = quadratic(np.array([1.0, kappa]), TURN)
    noisy, noisy_hessian = quadratic(np.array([1.0, NOISY_KAPPA]))
    # From (1, 1) a first step of 1 in each coordinate, which is on every grid, would end just at the minimum.
    origin, square = (0.0, 0.0), (-1.3, 1.3, -1.3, 1.3)
    return {
        "ravine": Landscape(ravine, (-1.1, 0.8), origin, 0.0, ravine_hessian, square),
        "turned_ravine": Landscape(turned, (-1.1, 0.8), origin, 0.0, turned_hessian, square),
        "rosenbrock": Landscape(
            rosenbrock, (-1.2, 1.0), (1.0, 1.0), 0.0, np.array([[802.0, -400.0], [-400.0, 200.0]]),
            (-1.7, 1.7, -0.7, 2.2),
        ),
        # At the minimum all three squares are of 0, so that H = 2 JᵀJ with rows −(1 − yⁱ), i x yⁱ⁻¹ of J.
        "beale": Landscape(
            beale, (1.0, 1.0), (3.0, 0.5), 0.0, np.array([[3.15625, -11.4375], [-11.4375, 46.125]]),
            (0.2, 4.0, -1.0, 1.6),
        ),
        "saddle": Landscape(saddle, (-0.8, 1e-3), (0.0, 1.0), -0.5, np.diag([2.0, 4.0]), (-1.3, 1.3, -1.5, 1.5)),
        "cliff": Landscape(cliff, (3.0, 1.0), origin, 0.0, np.diag([0.1, 1.0]), (-4.0, 4.0, -1.5, 1.5)),
        "noisy_quadratic": Landscape(
            noisy, (-1.1, 0.8), origin, 0.0, noisy_hessian, square, noise=0.2
        ),
    }  # fmt: skip
