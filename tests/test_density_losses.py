"""Gaussian and mixture density losses: densities by the definition, extremes, what overflows."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, cotangent_like, hand, relative_error

from fundamentals import losses
from fundamentals.catalogue import RULES

GAUSSIAN, MIXTURE = RULES["gaussian_nll"].rule, RULES["mixture_density_nll"].rule
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
HALF_LOG_2_PI = 0.9189385332046727


def density(t, mean, scale):
    return math.exp(-0.5 * ((t - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


@functools.partial(jax.jit, static_argnums=0)
def program(rule, args, dy):
    return rule.primal(*args), hand(rule, args, dy), autodiff(rule, args, dy)


def both(rule, args, dy):
    """The value, the cotangents by hand and by autodiff, as NumPy arrays: one program for a shape and dtype."""
    return jax.tree.map(np.asarray, program(rule, args, dy))


def gaussian(*args):
    """The loss alone, in one program."""
    return np.asarray(jax.jit(losses.gaussian_nll)(*args))


def mixture(*args):
    """The loss alone, in one program."""
    return np.asarray(jax.jit(losses.mixture_density_nll)(*args))


def finite(tree):
    return all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree))


@pytest.mark.usefixtures("x64")
def test_gaussian_is_the_product_of_densities():
    rng = np.random.RandomState(0)
    means, log_scales, targets = rng.normal(size=(3, 2, 3, 5))
    found = gaussian(means, log_scales, targets)
    for i in np.ndindex(2, 3):
        p = math.prod(map(density, targets[i], means[i], np.exp(log_scales[i])))
        np.testing.assert_allclose(found[i], -math.log(p), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_mixture_is_the_sum_of_products_of_densities():
    rng = np.random.RandomState(1)
    logits, targets = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5))
    means, log_scales = rng.normal(size=(2, 2, 3, 4, 5))
    found = mixture(logits, means, log_scales, targets)
    for i in np.ndindex(2, 3):
        weights = np.exp(logits[i]) / sum(np.exp(logits[i]))
        scales = np.exp(log_scales[i])
        p = sum(weights[k] * math.prod(map(density, targets[i], means[i][k], scales[k])) for k in range(4))
        np.testing.assert_allclose(found[i], -math.log(p), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_numbers_by_hand():
    found = gaussian(*(np.array(x)[:, None] for x in ([0.0, 1.0], [0.0, math.log(2)], [0.0, 3.0])))
    np.testing.assert_allclose(found, [HALF_LOG_2_PI, HALF_LOG_2_PI + math.log(2) + 0.5], rtol=1e-15)
    # Halfway between two equal components each is as likely as the other: the posterior is the prior, (¾, ¼).
    args = jnp.log(jnp.array([3.0, 1.0])), jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)), jnp.zeros(1)
    y, (dlogits, dmeans, dlog_scales, dtargets), _ = both(MIXTURE, args, jnp.array(1.0))
    np.testing.assert_allclose(y, HALF_LOG_2_PI + 0.5, rtol=1e-15)
    np.testing.assert_allclose(dlogits, np.zeros(2), atol=1e-15)
    np.testing.assert_allclose(dmeans, np.array([[-0.75], [0.25]]), rtol=1e-14)
    np.testing.assert_allclose(dlog_scales, np.zeros((2, 1)), atol=1e-15)  # each is one scale away
    np.testing.assert_allclose(dtargets, np.array([0.5]), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_a_mixture_is_a_density():
    rng = np.random.RandomState(2)
    grid = np.linspace(-30, 30, 6001)
    logits, means, log_scales = rng.normal(size=3), rng.normal(size=(3, 1)), 0.5 * rng.normal(size=(3, 1))
    y = jax.jit(jax.vmap(lambda t: losses.mixture_density_nll(logits, means, log_scales, t[None])))(grid)
    np.testing.assert_allclose(np.exp(-y).sum() * (grid[1] - grid[0]), 1, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_of_fixed_variance_it_is_squared_error():
    predictions, targets = np.random.RandomState(3).normal(size=(2, 3, 5))
    for scale in (1.0, 0.5):
        log_scales = np.full((3, 5), np.log(scale))
        args = tuple(map(jnp.asarray, (predictions, log_scales, targets)))
        dy = np.asarray(cotangent_like(jnp.ones(3)))
        y, (dmeans, _, dtargets), _ = both(GAUSSIAN, args, dy)
        expected = 0.5 * ((predictions - targets) ** 2).sum(axis=1) / scale**2 + 5 * (HALF_LOG_2_PI + np.log(scale))
        np.testing.assert_allclose(y, expected, rtol=1e-14)
        np.testing.assert_allclose(dmeans, dy[:, None] * (predictions - targets) / scale**2, rtol=1e-13)
        np.testing.assert_array_equal(dtargets, -dmeans)


@DTYPES
@pytest.mark.usefixtures("x64")
def test_one_component_is_a_gaussian(dtype):
    means, log_scales, targets = (x.astype(dtype) for x in np.random.RandomState(4).normal(size=(3, 2, 5)))
    logits = jnp.array([[3.0], [-1e4]], dtype)  # whose softmax is 1
    args = logits, means[:, None], log_scales[:, None], targets
    dy = cotangent_like(jnp.zeros(2, dtype))
    y, (dlogits, *found, dtargets), _ = both(MIXTURE, args, dy)
    y_expected, (*expected, dtargets_expected), _ = both(GAUSSIAN, (means, log_scales, targets), dy)
    assert relative_error(y, y_expected) <= TOLERANCE[dtype]
    assert not np.any(dlogits)
    assert relative_error([f[:, 0] for f in found], expected) <= TOLERANCE[dtype]
    assert relative_error(dtargets, dtargets_expected) <= TOLERANCE[dtype]


@DTYPES
@pytest.mark.usefixtures("x64")
def test_gaussian_of_extreme_scales(dtype):
    # e^−s overflows in the first, where it stands beside t − μ = 0, and underflows in the second.
    args = jnp.array([[3.0], [-1e4]], dtype), jnp.array([[-1e4], [1e4]], dtype), jnp.array([[3.0], [1e4]], dtype)
    dy = jnp.array([2.0, 3.0], dtype)
    y, *cotangents = both(GAUSSIAN, args, dy)
    np.testing.assert_allclose(y.astype(float), args[1][:, 0].astype(float) + HALF_LOG_2_PI, rtol=TOLERANCE[dtype])
    for dmeans, dlog_scales, dtargets in cotangents:
        assert not np.any(dmeans)
        assert not np.any(dtargets)
        np.testing.assert_array_equal(dlog_scales, dy[:, None])


def test_gaussian_that_overflows_is_inf_not_nan():
    args = jnp.array([[0.0, 0.0]]), jnp.array([[-100.0, 1.0]]), jnp.array([[1.0, 1.0]])
    y, (dmeans, dlog_scales, dtargets), _ = both(GAUSSIAN, args, jnp.ones(1))
    assert y == np.inf
    assert (dmeans[0, 0], dlog_scales[0, 0], dtargets[0, 0]) == (-np.inf, -np.inf, np.inf)
    assert finite([dmeans[0, 1], dlog_scales[0, 1], dtargets[0, 1]])


@pytest.mark.usefixtures("x64")
def test_curvature_at_the_mean():
    # What keeps e^−s finite at a difference of 0 is not to take the second derivative, e^−2s, with it.
    f = jax.jit(jax.hessian(lambda mean: losses.gaussian_nll(mean, jnp.array([-2.0]), jnp.array([3.0]))))
    np.testing.assert_allclose(f(jnp.array([3.0])), [[np.exp(4.0)]], rtol=1e-14)


FAR = {
    "all components far": ([0.5, -1.0, 0.0], [1e4, -1e4, 2e4], [-0.5, 0.0, 0.5], 0.0),  # log-likelihoods of −1e8
    "a certain component": ([1e4, -1e4, 0.0], [1.0, 2.0, 3.0], [0.0, 0.5, -0.5], 1.5),
    "a certain and wrong one": ([1e4, -1e4, 0.0], [100.0, 2.0, 3.0], [0.0, 0.5, -0.5], 1.5),
    "a component that is off": ([-np.inf, 1.0, 0.0], [1.0, 2.0, 3.0], [0.0, 0.5, -0.5], 1.5),
    "extreme scales": ([1.0, 0.0, -1.0], [1.5, 2.0, 3.0], [-1e4, 1e4, 0.5], 1.5),
}


@DTYPES
@pytest.mark.parametrize("case", FAR)
@pytest.mark.usefixtures("x64")
def test_mixture_extremes_are_finite_and_agree(case, dtype):
    logits, means, log_scales, target = (np.asarray(x).astype(dtype) for x in FAR[case])
    if case == "all components far" and dtype == "float16":
        means = means / means.dtype.type(100)  # or the loss would be inf
    args = logits, means[:, None], log_scales[:, None], target[None]
    a, m, s, t = (np.asarray(x, np.float64) for x in (logits, means, log_scales, target))
    log_joint = a - np.logaddexp.reduce(a) - HALF_LOG_2_PI - s
    log_joint -= 0.5 * np.where(t == m, 0, (t - m) * np.exp(np.where(t == m, 0, -s))) ** 2
    y, found, expected = both(MIXTURE, args, jnp.ones((), dtype))
    np.testing.assert_allclose(y.astype(float), -np.logaddexp.reduce(log_joint), rtol=TOLERANCE[dtype])
    prior, posterior = (np.exp(x - np.logaddexp.reduce(x)) for x in (a, log_joint))
    np.testing.assert_allclose(found[0].astype(float), prior - posterior, atol=TOLERANCE[dtype])
    assert finite(found)
    assert relative_error(found, expected) <= TOLERANCE[dtype]


def test_offset_of_the_logits_changes_no_digit():
    # Added to logits of 1e4 in float32, the log-likelihoods would be rounded to a thousandth.
    logits, means = jnp.array([1.0, -1.0]), jnp.array([[0.0], [1.0]])
    args = means, jnp.zeros((2, 1)), jnp.array([0.3])
    y = [both(MIXTURE, (logits + c, *args), jnp.array(1.0))[0] for c in (0, 8192, -8192)]
    np.testing.assert_allclose(y[1:], [y[0]] * 2, rtol=1e-6)


def test_component_that_overflows_has_no_weight():
    # z² and e^(−s) are inf in the first component. Autodiff multiplies its responsibility 0 by them.
    logits, targets = jnp.array([0.0, 0.0]), jnp.array([0.5])
    means, log_scales = jnp.array([[0.0], [1.0]]), jnp.array([[-100.0], [0.0]])
    args = logits, means, log_scales, targets
    y, found, by_autodiff = both(MIXTURE, args, jnp.array(1.0))
    np.testing.assert_allclose(y, math.log(2) + HALF_LOG_2_PI + 0.125, rtol=1e-6)
    np.testing.assert_allclose(found[0], [0.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(found[1], [[0.0], [0.5]], rtol=1e-6)
    np.testing.assert_allclose(found[2], [[0.0], [0.75]], rtol=1e-6)
    np.testing.assert_allclose(found[3], [-0.5], rtol=1e-6)
    assert not finite(by_autodiff)


def test_all_components_overflow():
    args = jnp.array([0.0, 1.0]), jnp.zeros((2, 1)), jnp.full((2, 1), -1e4), jnp.ones(1)
    y, found, _ = both(MIXTURE, args, jnp.array(1.0))
    assert y == np.inf
    assert finite(found)


def test_half_precision_is_rounded_once():
    means, log_scales, targets = (x.astype(np.float16) for x in np.random.RandomState(5).normal(size=(3, 1, 4096)))
    log_scales = log_scales + np.float16(1)
    exact = gaussian(*(x.astype(np.float32) for x in (means, log_scales, targets))).astype(np.float16)
    np.testing.assert_array_equal(gaussian(means, log_scales, targets), exact)
    y = mixture(np.zeros((1, 1), np.float16), means[:, None], log_scales[:, None], targets)
    np.testing.assert_array_equal(y, exact)


def test_small_scales_in_float16():
    # e^12 is beyond float16, but neither the loss nor these cotangents are.
    args = tuple(np.array([x], np.float16) for x in (0.0, -12.0, 2e-7))
    wide = tuple(x.astype(np.float32) for x in args)
    dy = np.float16(0.5)
    _, _, expected = both(GAUSSIAN, wide, np.float32(0.5))
    assert relative_error(both(GAUSSIAN, args, dy)[1], expected) <= TOLERANCE["float16"]
    mixed = np.zeros(1, np.float16), args[0][None], args[1][None], args[2]
    assert relative_error(both(MIXTURE, mixed, dy)[1][3], expected[2]) <= TOLERANCE["float16"]


def test_no_examples():
    none = np.zeros((0, 3, 2), np.float32)
    assert gaussian(none, none, none).shape == (0, 3)
    y, cotangents, _ = both(MIXTURE, (none[..., 0], none, none, none[:, 0]), np.zeros(0, np.float32))
    assert y.shape == (0,)
    assert [d.shape for d in cotangents] == [(0, 3), (0, 3, 2), (0, 3, 2), (0, 2)]


X = jnp.ones((2, 4))
ERRORS = {
    "gaussian_nll: log_scales has shape [4]; expected [..., D] with ... = [2], D = 4 from means [2, 4]": lambda: (
        losses.gaussian_nll(X, jnp.ones(4), X)
    ),
    "gaussian_nll: targets has shape [2, 3]; expected [..., D] with ... = [2], D = 4 from means [2, 4]": lambda: (
        losses.gaussian_nll(X, X, jnp.ones((2, 3)))
    ),
    "mixture_density_nll: means has shape [2, 3, 5]; expected [..., K, D] with ... = [2], K = 4 from logits [2, 4]": (
        lambda: losses.mixture_density_nll(X, jnp.ones((2, 3, 5)), jnp.ones((2, 3, 5)), jnp.ones((2, 5)))
    ),
    "mixture_density_nll: targets has shape [2, 4, 5]; expected [..., D] with ... = [2], D = 5 from logits [2, 4] and "
    "means [2, 4, 5]": lambda: losses.mixture_density_nll(X, *[jnp.ones((2, 4, 5))] * 3),
    "mixture_density_nll: logits has K = 0; expected K ≥ 1": lambda: losses.mixture_density_nll(
        X[:, :0], jnp.ones((2, 0, 5)), jnp.ones((2, 0, 5)), jnp.ones((2, 5))
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_wrong_shapes(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ERRORS[message]()


def test_wrong_dtypes():
    with pytest.raises(TypeError, match=r"^gaussian_nll: targets has dtype int32; expected a floating dtype$"):
        losses.gaussian_nll(X, X, X.astype(jnp.int32))
    message = r"^mixture_density_nll: log_scales has dtype float16; expected float32 as in means$"
    with pytest.raises(TypeError, match=message):
        losses.mixture_density_nll(X, X[..., None], X[..., None].astype(jnp.float16), X[:, :1])


def test_differences_beyond_float16():
    # μ − t = −80000 is no float16; in units of the scale e¹⁰ it is −3.6.
    args = tuple(jnp.full((1, 1), value, jnp.float16) for value in (-4e4, 10.0, 4e4))
    z = 8e4 * np.exp(-10.0)
    found = [float(d[0, 0]) for d in hand(GAUSSIAN, args, jnp.ones(1, jnp.float16))]
    np.testing.assert_allclose(found, [-z * np.exp(-10.0), 1 - z * z, z * np.exp(-10.0)], rtol=2e-3)
