"""Learning rates that are functions of the step count t, which is 0 at the first update.

    optimizer = sgd(cosine(0.1, steps=1000))

Each returns a function from t ([] or any shape, int32, ≥ 0) to η, in float32, or float64 where x64 is on; its numbers
may be traced, counts of steps may not. After its last step a schedule stays where it ended. t counts updates: where a
library counts epochs, as PyTorch's schedulers usually do, multiply by the batches in one.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp

from fundamentals import _checks
from fundamentals.base import Array, Numeric

Schedule: TypeAlias = Callable[[Array], Array]


def constant(value: Numeric) -> Schedule:
    """η(t) = value ≥ 0.

    Example:
      joined([constant(0.1), exponential(0.1, factor=0.99)], boundaries=[1000])
    """
    _checks.interval("constant", "[0, inf)", value=value)
    return lambda t: jnp.full(jnp.shape(t), value, _float(t).dtype)


def step(initial: Numeric, *, factor: Numeric, every: int) -> Schedule:
    """η(t) = initial · factor^⌊t / every⌋: multiplied by the factor once in so many steps.

    Args:
      initial: η(0) ≥ 0.
      factor: in (0, 1], usually 0.1.
      every: steps ≥ 1.

    Example:
      sgd(step(0.1, factor=0.1, every=30_000))
    """
    _checks.interval("step", "[0, inf)", initial=initial)
    _checks.interval("step", "(0, 1]", factor=factor)
    _checks.positive_integers("step", every=every)
    # Divided as integers: float32 does not hold those above 2²⁴.
    return lambda t: _number(initial, t) * _number(factor, t) ** _float(jnp.asarray(t) // every)


def exponential(initial: Numeric, *, factor: Numeric, every: int = 1) -> Schedule:
    """η(t) = initial · factor^(t / every): `step`, smoothly.

    Args:
      initial: η(0) ≥ 0.
      factor: in (0, 1].
      every: steps ≥ 1 in which η is multiplied by the factor.

    Example:
      sgd(exponential(0.1, factor=0.96, every=1000))
    """
    _checks.interval("exponential", "[0, inf)", initial=initial)
    _checks.interval("exponential", "(0, 1]", factor=factor)
    _checks.positive_integers("exponential", every=every)
    return lambda t: _number(initial, t) * _number(factor, t) ** (_float(t) / every)


def cosine(initial: Numeric, *, steps: int, final: Numeric = 0.0) -> Schedule:
    """η(t) = final + (initial − final) (1 + cos(π t / steps)) / 2: half a period, slow at both ends.

    Args:
      initial: η(0) ≥ 0.
      steps: T ≥ 1, after which η stays at `final`.
      final: η(T) ≥ 0.

    Reference: Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    _checks.interval("cosine", "[0, inf)", initial=initial, final=final)
    _checks.positive_integers("cosine", steps=steps)

    def schedule(t: Array) -> Array:
        gone = jnp.clip(_float(t) / steps, 0, 1)
        return _number(final, t) + (_number(initial, t) - _number(final, t)) * (1 + jnp.cos(jnp.pi * gone)) / 2

    return schedule


def linear(initial: Numeric, final: Numeric, *, steps: int) -> Schedule:
    """η(t) = initial + (final − initial) t / steps.

    Args:
      initial: η(0) ≥ 0.
      final: η(T) ≥ 0.
      steps: T ≥ 1, after which η stays at `final`.

    Example:
      adamw(linear(1e-3, 0.0, steps=10_000))
    """
    _checks.interval("linear", "[0, inf)", initial=initial, final=final)
    _checks.positive_integers("linear", steps=steps)

    def schedule(t: Array) -> Array:
        gone = jnp.clip(_float(t) / steps, 0, 1)
        return _number(initial, t) + (_number(final, t) - _number(initial, t)) * gone

    return schedule


def linear_warmup(peak: Numeric, *, steps: int) -> Schedule:
    """η(t) = peak · min(1, (t + 1) / steps): up from peak / steps, so that the first update is one.

    (Warm-up from `linear(0.0, peak, steps=steps)`, as optax has it, leaves the parameters alone in the first update.)

    Args:
      peak: ≥ 0.
      steps: T ≥ 1; η(T − 1) is the first at the peak.

    Reference: Goyal et al. 2017, section 2.2.

    Example:
      joined([linear_warmup(0.1, steps=100), cosine(0.1, steps=900)], boundaries=[100])
    """
    _checks.interval("linear_warmup", "[0, inf)", peak=peak)
    _checks.positive_integers("linear_warmup", steps=steps)
    return lambda t: _number(peak, t) * jnp.clip((_float(t) + 1) / steps, 0, 1)


def warmup_cosine(peak: Numeric, *, warmup: int, steps: int, final: Numeric = 0.0) -> Schedule:
    """`linear_warmup` in so many steps, then `cosine` from the peak to `final` at t = steps.

    Args:
      peak: ≥ 0.
      warmup: ≥ 1, of all steps.
      steps: > warmup, in all.
      final: ≥ 0.

    Example:
      adamw(warmup_cosine(1e-3, warmup=500, steps=10_000))
    """
    _checks.interval("warmup_cosine", "[0, inf)", peak=peak, final=final)
    _checks.positive_integers("warmup_cosine", warmup=warmup, steps=steps)
    if steps <= warmup:
        raise ValueError(f"warmup_cosine: steps is {steps}; expected more than warmup = {warmup}")
    return joined([linear_warmup(peak, steps=warmup), cosine(peak, steps=steps - warmup, final=final)], [warmup])


def joined(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other: schedules[i] from t = boundaries[i − 1] on, counting from there.

    Args:
      schedules: at least one.
      boundaries: increasing, one fewer than schedules.
    """
    for name, value in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(value, Sequence):
            raise TypeError(f"joined: {name} is of type {type(value).__name__}; expected a sequence")
    schedules, boundaries = tuple(schedules), tuple(boundaries)
    if not schedules or not all(map(callable, schedules)):
        raise ValueError(f"joined: schedules is {schedules}; expected at least one function of the step count")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(f"joined: boundaries has {len(boundaries)} entries; expected {len(schedules) - 1}")
    _checks.positive_integers("joined", **{f"boundaries[{i}]": b for i, b in enumerate(boundaries)})
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise ValueError(f"joined: boundaries is {boundaries}; expected increasing numbers")

    def schedule(t: Array) -> Array:
        t = jnp.asarray(t)
        eta = _number(schedules[0](t), t)
        for begin, following in zip(boundaries, schedules[1:], strict=True):
            eta = jnp.where(t >= begin, _number(following(t - begin), t), eta)
        return eta

    return schedule


def _float(t: Array) -> Array:
    return jnp.asarray(t).astype(jnp.result_type(float))


def _number(value: Numeric, t: Array) -> Array:
    return jnp.asarray(value, _float(t).dtype)
