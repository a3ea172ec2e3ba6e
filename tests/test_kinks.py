"""Where a function has no derivative: what is a convention, what is a mistake, and what is not excused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import KINKED, causes, check, only, relu

from fundamentals.gradcheck import Cause


@pytest.mark.parametrize("slope", [0.0, 1.0, 0.25])
def test_at_a_kink_every_slope_between_the_sides_is_a_convention(slope):
    def backward(args, dy):
        return (dy * jnp.where(args[0] == 0, slope, jnp.where(args[0] > 0, 1.0, 0.0)),)

    report = check(relu, backward, KINKED)
    assert report.verdict == "KINK"
    assert report.passed
    assert "at [0] it takes" in only(report).detail
    assert not check(relu, backward, KINKED, kinks="strict").passed


def test_at_a_kink_other_slopes_and_wrong_smooth_parts_are_wrong():
    def outside(args, dy):
        return (dy * jnp.where(args[0] == 0, 1.5, jnp.where(args[0] > 0, 1.0, 0.0)),)

    def smooth_part(args, dy):
        return (dy * jnp.where(args[0] > 0, 1.0, 0.125),)

    assert "no convention" in only(check(relu, outside, KINKED)).detail
    assert "also off the kink" in only(check(relu, smooth_part, KINKED)).detail


def test_tied_maxima_may_be_split_in_any_way_but_not_counted_twice():
    x = np.array([[2.0, 2.0, 1.0], [0.5, 3.0, -1.0]], np.float32)

    def largest(x):
        return jnp.max(x, axis=1)

    def to_first(args, dy):
        return (jax.nn.one_hot(jnp.argmax(args[0], 1), 3, dtype=dy.dtype) * dy[:, None],)

    def to_all(args, dy):
        return (jnp.where(args[0] == largest(args[0])[:, None], dy[:, None], 0),)

    assert check(largest, to_first, x).verdict == "KINK"
    report = check(largest, to_all, x)
    assert report.verdict == "WRONG"
    assert causes(report) == [Cause.SUPPORT]


def test_a_kink_excuses_nothing_but_itself():
    def slightly(args, dy):
        return (dy * jnp.where(args[0] == 3.5, 0.995, jnp.where(args[0] > 0, 1.0, 0.0)),)

    assert check(relu, slightly, KINKED).verdict == "WRONG"
    assert check(relu, slightly, KINKED, points=0).verdict == "WRONG"


@pytest.mark.parametrize("convention", [0.0, 1.0])
def test_kinks_inside_of_loops_and_branches_are_kinks(convention):
    def in_branch(x):
        return jax.lax.cond(x.sum() > -1e9, relu, lambda x: x, x)

    def in_loop(x):
        return jax.lax.fori_loop(0, 20, lambda _, h: relu(h), x)

    def backward(args, dy):
        return (dy * jnp.where(args[0] == 0, convention, jnp.where(args[0] > 0, 1.0, 0.0)),)

    assert check(in_branch, backward, KINKED).verdict == "KINK"
    assert check(in_loop, backward, KINKED).verdict == "KINK"


def test_loops_of_unknown_length_keep_their_verdict():
    def power(x):
        return jax.lax.while_loop(lambda s: s[1] < 3, lambda s: (s[0] * s[0] * x, s[1] + 1), (x, 0))[0]

    assert check(power, lambda args, dy: (15 * args[0] ** 14 * dy,), np.float32([0.5, 1.5])).verdict == "PASS"
    wrong = check(power, lambda args, dy: (14 * args[0] ** 14 * dy,), np.float32([0.5, 1.5]))
    assert wrong.verdict == "WRONG"


@pytest.mark.parametrize("seed", range(4))
def test_the_winner_of_many_ties_may_be_one_that_chance_does_not_find(seed):
    # With six points around, the gradient to some of nine tied entries is 0 at each, which is no limit of it.
    ties = np.full((4, 9), 0.5, np.float32)

    def first(args, dy):
        return (dy[:, None] * jax.nn.one_hot(jnp.argmax(args[0], 1), 9, dtype=dy.dtype),)

    report = check(lambda x: jnp.max(x, 1), first, ties, seed=seed, diagnose=False)
    assert report.verdict == "KINK", report
    assert not any("autodiff differs" in note for note in report.notes)
