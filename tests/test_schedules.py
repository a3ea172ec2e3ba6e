"""Learning rates as functions of the step: values from their formulas, at both ends, under jit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals.optimizers import schedules, sgd

STEPS = np.arange(13)
GONE = np.minimum(STEPS / 8, 1)
CASES = {
    "constant": (schedules.constant(0.3), np.full(13, 0.3)),
    "step": (schedules.step(0.4, factor=0.5, every=4), 0.4 * 0.5 ** (STEPS // 4)),
    "exponential": (schedules.exponential(0.4, factor=0.5, every=4), 0.4 * 0.5 ** (STEPS / 4)),
    "cosine": (schedules.cosine(0.4, steps=8, final=0.1), 0.1 + 0.3 * (1 + np.cos(np.pi * GONE)) / 2),
    "linear": (schedules.linear(0.1, 0.4, steps=8), 0.1 + 0.3 * GONE),
    "linear_warmup": (schedules.linear_warmup(0.4, steps=4), np.minimum(0.1 * (STEPS + 1), 0.4)),
    "warmup_cosine": (
        schedules.warmup_cosine(0.4, warmup=4, steps=8, final=0.1),
        np.concatenate([[0.1, 0.2, 0.3], 0.25 + 0.15 * np.cos(np.pi * np.minimum(np.arange(-1, 9).clip(0) / 4, 1))]),
    ),
    "joined": (
        schedules.joined(
            [
                schedules.linear_warmup(0.4, steps=4),
                schedules.cosine(0.4, steps=4),
                schedules.linear(0.01, 0.05, steps=4),
            ],
            [4, 8],
        ),
        np.concatenate(
            [[0.1, 0.2, 0.3, 0.4], 0.2 * (1 + np.cos(np.pi * np.arange(4) / 4)), 0.01 * np.arange(1, 6)]
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    schedule, expected = CASES[name]
    found = jax.jit(schedule)(jnp.asarray(STEPS))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    each = schedule(jnp.int32(5))
    assert (each.shape, each.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(each, expected[5], rtol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule(jnp.asarray(STEPS)), expected, rtol=1e-14, atol=1e-17)


def test_late_steps_are_counted_as_integers():
    schedule = schedules.step(1.0, factor=0.5, every=10_000_019)
    assert float(schedule(jnp.int32(4 * 10_000_019 - 1))) == 0.125
    assert float(schedule(jnp.int32(4 * 10_000_019))) == 0.0625


def test_joined_rates_are_floating_whatever_the_first_returns():
    schedule = schedules.joined([lambda t: 0, schedules.constant(0.1)], [5])
    np.testing.assert_allclose([schedule(jnp.int32(t)) for t in (4, 5)], [0, 0.1], rtol=1e-6)


def test_an_optimizer_takes_the_rate_of_its_own_step():
    optimizer = sgd(schedules.step(1.0, factor=0.1, every=2))
    state, found = optimizer.init(jnp.ones(())), []
    for _ in range(5):
        update, state = optimizer.update(jnp.ones(()), state)
        found.append(-float(update))
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: schedules.constant(-1.0), ValueError, "constant: value is -1.0; expected a number in [0, inf)"),
        (
            lambda: schedules.step(0.1, factor=0.0, every=2),
            ValueError,
            "step: factor is 0.0; expected a number in (0, 1]",
        ),
        (lambda: schedules.step(0.1, factor=0.5, every=0), ValueError, "step: every is 0; expected an integer ≥ 1"),
        (lambda: schedules.exponential(0.1, factor=2.0), ValueError, "exponential: factor is 2.0"),
        (lambda: schedules.cosine(0.1, steps=1.5), TypeError, "cosine: steps is 1.5 (float); expected an integer ≥ 1"),
        (lambda: schedules.linear(0.1, -0.1, steps=3), ValueError, "linear: final is -0.1"),
        (lambda: schedules.linear_warmup(0.1, steps=0), ValueError, "linear_warmup: steps is 0"),
        (
            lambda: schedules.warmup_cosine(0.1, warmup=5, steps=5),
            ValueError,
            "warmup_cosine: steps is 5; expected more than warmup = 5",
        ),
        (lambda: schedules.cosine(-0.1, steps=3), ValueError, "cosine: initial is -0.1"),
        (lambda: schedules.linear_warmup(-0.1, steps=3), ValueError, "linear_warmup: peak is -0.1"),
        (lambda: schedules.joined([sum, sum], [0]), ValueError, "joined: boundaries[0] is 0; expected an integer ≥ 1"),
        (lambda: schedules.joined(sum, []), TypeError, "joined: schedules is of type builtin_function_or_method"),
        (lambda: schedules.joined([sum], 3), TypeError, "joined: boundaries is of type int; expected a sequence"),
        (lambda: schedules.joined([], []), ValueError, "joined: schedules is (); expected at least one function"),
        (lambda: schedules.joined([sum], [3]), ValueError, "joined: boundaries has 1 entries; expected 0"),
        (lambda: schedules.joined([sum] * 3, [3, 3]), ValueError, "joined: boundaries is (3, 3); expected increasing"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
