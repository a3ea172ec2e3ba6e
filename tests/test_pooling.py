"""Pooling: against NumPy loops over the windows; ties, NaN, infinities, options, what is kept, bad input."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, hand, relative_error

from fundamentals.base import Rule, bind
from fundamentals.layers import (
    average_pool2d,
    average_pool2d_bwd,
    average_pool2d_fwd,
    max_pool2d,
    max_pool2d_bwd,
    max_pool2d_fwd,
)

MAX = Rule(max_pool2d, max_pool2d_fwd, max_pool2d_bwd)
AVERAGE = Rule(average_pool2d, average_pool2d_fwd, average_pool2d_bwd)

# height and width, window, stride
CASES = {
    "defaults, the last row left out": ((7, 6), 2, 2),
    "overlap": ((8, 9), (3, 2), (2, 1)),
    "overlap, every window": ((5, 6), 3, 1),
    "overlap across only": ((7, 6), (2, 3), (2, 1)),
    "gaps": ((9, 10), (2, 3), (3, 4)),
    "gaps and rows left out": ((10, 12), (2, 1), (4, 3)),
    "1 × 1": ((4, 5), 1, 2),
    "one row": ((4, 5), (1, 3), (1, 2)),
    "the whole image": ((4, 5), (4, 5), 1),
    "the whole image, stride beyond it": ((4, 5), (4, 5), 7),
}


def loops(x, rng, window, stride, average):
    """Value and cotangent, window by window; `np.argmax` takes the first maximum in row-major order."""
    (rows, columns), (down, across) = ((o, o) if isinstance(o, int) else o for o in (window, stride))
    outputs = (x.shape[1] - rows) // down + 1, (x.shape[2] - columns) // across + 1
    y, dx = np.zeros((x.shape[0], *outputs, x.shape[3])), np.zeros(x.shape)
    dy = rng.normal(size=y.shape)
    for b, i, j, c in itertools.product(*map(range, y.shape)):
        at = np.s_[b, down * i : down * i + rows, across * j : across * j + columns, c]
        if average:
            y[b, i, j, c] = np.mean(x[at])
            dx[at] += dy[b, i, j, c] / (rows * columns)
        else:
            y[b, i, j, c] = np.max(x[at])
            dx[at][np.unravel_index(np.argmax(x[at]), (rows, columns))] += dy[b, i, j, c]
    return y, dy, dx


def by_hand_and_by_autodiff(rule):
    return jax.jit(lambda x, dy: (rule.primal(x), hand(rule, (x,), dy)[0], autodiff(rule, (x,), dy)[0]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_max_routes_to_the_first_largest_entry(name):
    image, window, stride = CASES[name]
    function = by_hand_and_by_autodiff(bind(MAX, window=window, stride=stride))
    rng = np.random.RandomState(0)
    shape = (2, *image, 3)
    for x in (rng.normal(size=shape), rng.randint(0, 3, size=shape).astype(float)):  # the latter full of ties
        y, dy, dx = loops(x, rng, window, stride, average=False)
        assert relative_error(function(x, dy), (y, dx, dx)) <= TOLERANCE["float64"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_average_gives_equal_shares(name):
    image, window, stride = CASES[name]
    rng = np.random.RandomState(0)
    x = rng.normal(size=(2, *image, 3))
    y, dy, dx = loops(x, rng, window, stride, average=True)
    function = by_hand_and_by_autodiff(bind(AVERAGE, window=window, stride=stride))
    assert relative_error(function(x, dy), (y, dx, dx)) <= TOLERANCE["float64"]


WINNERS = [
    ([5, 5, 5, 5], 0),
    ([1, 5, 5, 1], 1),
    ([1, 1, 5, 5], 2),
    ([0.0, -0.0, 0.0, -0.0], 0),
    ([-0.0, 0.0, 0.0, -0.0], 0),
    ([-np.inf, -np.inf, -np.inf, -np.inf], 0),
    ([-np.inf, -np.inf, -6e4, -np.inf], 2),
    ([1, np.inf, 2, np.inf], 1),
    ([-1e4, -2e4, -1e4, -3e4], 0),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_the_first_of_equal_entries_wins(dtype):
    # By hand, by autodiff of the primal, and by XLA's own pooling.
    values, winners = zip(*WINNERS, strict=True)
    x = jnp.array(values, jnp.float32).astype(dtype).reshape(-1, 2, 2, 1)
    dy = jnp.arange(1, 1 + len(x), dtype=dtype)
    y, *found = by_hand_and_by_autodiff(MAX)(x, dy.reshape(-1, 1, 1, 1))
    xla = Rule(
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), None, None
    )
    found += autodiff(xla, (x,), dy.reshape(-1, 1, 1, 1))
    np.testing.assert_array_equal(y.ravel(), np.max(x, axis=(1, 2, 3)))
    for dx in found:
        np.testing.assert_array_equal(dx.reshape(-1, 4), dy[:, None] * jax.nn.one_hot(winners, 4, dtype=dtype))


def test_nan_wins():
    x = jnp.where(jnp.eye(4, dtype=bool), jnp.nan, jnp.arange(4.0)[:, None]).reshape(4, 2, 2, 1)
    y, *found = by_hand_and_by_autodiff(MAX)(x, jnp.full((4, 1, 1, 1), 3.0))
    assert np.isnan(y).all()
    assert np.isnan(average_pool2d(x)).all()
    for dx in found:
        np.testing.assert_array_equal(dx.reshape(4, 4), 3 * np.eye(4))


@pytest.mark.parametrize("rule", [MAX, AVERAGE])
def test_forward_mode(rule):
    rng = np.random.RandomState(0)
    x, dx, dy = (jnp.asarray(rng.normal(size=(1, n, n, 1)), jnp.float32) for n in (4, 4, 2))
    _, tangent = jax.jvp(jax.jit(rule.primal), (x,), (dx,))
    np.testing.assert_allclose(jnp.vdot(dy, tangent), jnp.vdot(hand(rule, (x,), dy)[0], dx), rtol=1e-5)


def test_half_precision_adds_where_windows_overlap():
    # In bfloat16 256 + 1 rounds to 256, and so does any running sum of these; in float32 it is 258.
    dy = jnp.array([1, 256, 1], jnp.bfloat16).reshape(1, 3, 1, 1)
    x = jnp.array([0, 0, 1, 0, 0], jnp.bfloat16).reshape(1, 5, 1, 1)
    for window, turn in (((3, 1), lambda a: a), ((1, 3), lambda a: a.swapaxes(1, 2))):
        for rule, cotangent in ((MAX, dy), (AVERAGE, 3 * dy)):
            function = by_hand_and_by_autodiff(bind(rule, window=window, stride=1))
            _, dx, _ = function(turn(x), turn(cotangent))
            assert (dx.dtype, dx.ravel()[2]) == (jnp.bfloat16, 258)


def test_half_precision_means_are_sums_in_float32():
    x = jnp.array([256, 1, 1, 2], jnp.bfloat16)
    for shape in ((1, 4, 1, 1), (1, 1, 4, 1), (1, 2, 2, 1)):
        y = jax.jit(bind(AVERAGE, window=shape[1:3]).primal)(x.reshape(shape))
        assert (y.dtype, y[0, 0, 0, 0]) == (jnp.bfloat16, 65)


def test_what_is_kept():
    def kept(fwd, **options):
        residuals = jax.eval_shape(lambda x: fwd(x, **options)[1], jnp.zeros((2, 8, 6, 3)))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    inputs, outputs = 2 * 8 * 6 * 3, 2 * 4 * 3 * 3
    assert kept(max_pool2d_fwd) == inputs // 2 + outputs < inputs  # bytes, where x itself has 4 an entry
    assert kept(average_pool2d_fwd) == kept(average_pool2d_fwd, window=3, stride=1) == 0


@pytest.mark.parametrize("rule", [MAX, AVERAGE])
def test_no_images(rule):
    (dx,) = hand(rule, (jnp.ones((0, 5, 4, 3)),), jnp.ones((0, 2, 2, 3)))
    assert dx.shape == (0, 5, 4, 3)


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = np.random.RandomState(0).randint(0, 3, size=(2, 9, 8, 3)).astype(np.float32)
    x[0, 3, 4, 1] = np.nan
    options = {"window": (3, 2), "stride": (2, 1)}
    pools = {"max_pool2d": MAX, "avg_pool2d": AVERAGE}
    for name, rule in pools.items():
        theirs = torch.tensor(np.moveaxis(x, 3, 1), requires_grad=True)
        expected = getattr(torch.nn.functional, name)(theirs, (3, 2), (2, 1))
        dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
        expected.backward(dy)
        y, dx, _ = by_hand_and_by_autodiff(bind(rule, **options))(x, np.moveaxis(dy.numpy(), 1, 3))
        np.testing.assert_allclose(y, np.moveaxis(expected.detach().numpy(), 1, 3), rtol=1e-6)
        assert relative_error(dx, np.moveaxis(theirs.grad.numpy(), 1, 3)) <= TOLERANCE["float32"]


X = jnp.zeros((2, 4, 5, 3))
PAIR = "an integer ≥ 1, or two of them"


@pytest.mark.parametrize("pool", [max_pool2d, average_pool2d])
@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X[0], {}, ValueError, "x has shape [4, 5, 3]; expected [B, H, W, C]"),
        (X.astype(int), {}, TypeError, "x has dtype int32; expected a floating dtype"),
        (X, {"window": (5, 1)}, ValueError, "window is [5, 1]; expected at most the image [4, 5]"),
        (X, {"window": (1, 6)}, ValueError, "window is [1, 6]; expected at most the image [4, 5]"),
        (X[:, :0], {}, ValueError, "window is [2, 2]; expected at most the image [0, 5]"),
        (X, {"window": 0}, ValueError, f"window is 0; expected {PAIR}"),
        (X, {"window": (2, 2, 2)}, ValueError, f"window is (2, 2, 2); expected {PAIR}"),
        (X, {"window": 2.0}, TypeError, f"window is 2.0 (float); expected {PAIR}"),
        (X, {"stride": (1, 0)}, ValueError, f"stride is (1, 0); expected {PAIR}"),
        (X, {"stride": "2"}, TypeError, f"stride is '2' (str); expected {PAIR}"),
    ],
)
def test_messages(pool, x, options, error, message):
    with pytest.raises(error) as raised:
        pool(x, **options)
    assert str(raised.value) == f"{pool.__name__}: {message}"
