"""Tensors that a derivative may be confused with or multiplied by, as rows of one matrix: powers of what the forward
pass computes, of its arguments, of their derivatives, and masks.

A product with a thousand of them at once is one matrix product, so that asking which factor is missing on some path
costs little. Each is found again at another point by its label.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from fundamentals.gradcheck.scenes import Scene, Stage
from fundamentals.gradcheck.sweep import is_complex, is_inexact

_POWERS = (1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
ROWS = 2_000  # of a matrix, at most
ENTRIES = 500_000  # of a matrix


class Factor(NamedTuple):
    """A tensor to some power."""

    name: str
    power: float
    divides: bool  # whether the forward pass divides by it, and never multiplies
    mask: bool

    @property
    def label(self) -> str:
        """The same at every point."""
        return f"{self.name}^{self.power:g}"

    @property
    def text(self) -> str:
        """As a factor."""
        size = abs(self.power)
        raised = self.name if size == 1 else f"{self.name}²" if size == 2 else f"√({self.name})"
        return raised if self.power > 0 else f"1/({raised})" if " " in raised else f"1/{raised}"

    @property
    def is_missing(self) -> bool:
        """Whether a product with it reads as something left out, not as something added: 1/T, or T where the forward
        pass divides by T.
        """
        return (self.power > 0) == self.divides

    @property
    def inverse(self) -> str:
        """What it lacks, as a factor."""
        return self._replace(power=-self.power).text


class Pool(NamedTuple):
    """Factors, and their values broadcast to some shape."""

    factors: list[Factor]
    values: Any  # [factors, size]

    def first(self, count: int) -> "Pool":
        """Some of them: where there are many places to ask about, the plain ones at each."""
        return Pool(self.factors[:count], self.values[:count])


def pool(stage: Stage, scene: Scene, shape: tuple[int, ...]) -> Pool:
    """Those that can be broadcast to a shape, finite and not constant, no two the same."""
    key = id(scene.probe), shape
    if key not in stage.memory:
        stage.memory[key] = _pool(stage, scene, shape)
    found: Pool = stage.memory[key]
    return found


def value_of(stage: Stage, scene: Scene, factor: Factor, shape: tuple[int, ...]) -> Any:
    """Of one of them, at a scene; None where it is not finite."""
    tensors = _tensors(stage, scene)
    if factor.name not in tensors:
        return None
    with np.errstate(all="ignore"):
        value = np.broadcast_to(tensors[factor.name][0], shape) ** factor.power
    return value if np.all(np.isfinite(value)) else None


def _pool(stage: Stage, scene: Scene, shape: tuple[int, ...]) -> Pool:
    found: list[list[tuple[Factor, Any]]] = [[] for _ in _POWERS]  # by power, so that the plain ones come first
    seen: set[bytes] = set()
    size = int(np.prod(shape))
    for name, (value, divides, mask) in _tensors(stage, scene).items():
        if np.ndim(value) > len(shape) or np.size(value) < 2 or np.iscomplexobj(value):
            continue
        try:
            wide = np.broadcast_to(value, shape)
        except ValueError:
            continue
        flat = np.asarray(wide, float).ravel()
        if not np.all(np.isfinite(flat)) or np.ptp(flat) == 0:
            continue
        digest = np.round(flat / np.max(np.abs(flat)), 9).tobytes()
        if digest in seen:
            continue
        seen.add(digest)
        plain = mask or not np.all(flat) or np.ptp(np.abs(flat)) == 0
        for k, power in enumerate(_POWERS[:1] if plain else _POWERS):
            with np.errstate(all="ignore"):
                raised = flat**power
            if np.all(np.isfinite(raised)):
                found[k].append((Factor(name, power, divides, mask), raised))
    every = [pair for pairs in found for pair in pairs][: min(ROWS, ENTRIES // max(size, 1))]
    return Pool([f for f, _ in every], np.stack([x for _, x in every]) if every else np.zeros((0, size)))


def _tensors(stage: Stage, scene: Scene) -> dict[str, tuple[Any, bool, bool]]:
    """By name: (value, whether the forward pass divides by it, whether it is a mask)."""
    key = id(scene.probe), "tensors"
    if key in stage.memory:
        known: dict[str, tuple[Any, bool, bool]] = stage.memory[key]
        return known
    divisors = {stage.name(v) for v in _divisors(stage)}
    values = stage.tensors(scene)
    found = {name: (x, name in divisors, False) for name, x in values.items()}
    with np.errstate(all="ignore"):
        for name, mask in _masks(stage, scene):
            found.setdefault(name, (mask, False, True))
        for name, x in values.items():
            if np.issubdtype(np.asarray(x).dtype, np.floating):
                found.setdefault(f"(1 − {name})", (1 - x, False, False))
                found.setdefault(f"(1 + {name})", (1 + x, f"(1 + {name})" in divisors, False))
        for v in stage.flat.jaxpr.jaxpr.outvars:  # as if the result went through one function more
            if isinstance(v, core.Literal) or not is_inexact(v) or is_complex(v):
                continue
            y, name = scene.sweep.values[v], stage.name(v)
            s = 1 / (1 + np.exp(-y))
            for of, value in (("sigmoid′", s * (1 - s)), ("tanh′", 1 - np.tanh(y) ** 2), ("exp", np.exp(y))):
                found.setdefault(f"{of}({name})", (value, False, False))
    stage.memory[key] = found
    return found


def _divisors(stage: Stage) -> Iterator[Any]:
    """Values by which the derivative of what they are used for divides."""
    multiplies: set[Any] = set()
    divides: set[Any] = set()
    for equation in stage.flat.equations:
        name = equation.primitive.name
        variables = [v for v in equation.invars if not isinstance(v, core.Literal)]
        if name == "div" and len(equation.invars) == 2:
            divides.update(v for v in variables if v is equation.invars[1])
        elif name in ("log", "rsqrt"):
            divides.update(variables)
        elif name == "sqrt":
            divides.update(equation.outvars)
        elif name in ("mul", "dot_general"):
            multiplies.update(variables)
    return iter(divides - multiplies)


def _masks(stage: Stage, scene: Scene) -> Iterator[tuple[str, Any]]:
    """Conditions of the program, and which entries a max, min or clamp lets through, as 0 and 1."""
    values = scene.sweep.values
    for equation in stage.flat.equations:
        for v in equation.outvars:
            if v.aval.dtype == np.bool_ and v in values:
                yield f"the mask {stage.name(v)}", 1.0 * values[v]
                yield f"the mask not {stage.name(v)}", 1.0 * ~np.asarray(values[v])
        name = equation.primitive.name
        if name not in ("max", "min", "clamp") or not is_inexact(equation.outvars[0]):
            continue
        y = values[equation.outvars[0]]
        for v in equation.invars:
            if not isinstance(v, core.Literal) and np.shape(values[v]) == np.shape(y):
                passes = values[v] == y
                yield f"the mask of {name}, where {stage.name(v)} passes,", 1.0 * passes
                yield f"the mask of {name}, where {stage.name(v)} does not pass,", 1.0 * ~passes
