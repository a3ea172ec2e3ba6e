"""Convolution: against a NumPy transcription of its definition, and its options, extremes and bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, autodiff, cotangent_like, hand, relative_error

from fundamentals.base import Rule, bind
from fundamentals.layers import conv2d, conv2d_bwd, conv2d_fwd

CONV2D = Rule(conv2d, conv2d_fwd, conv2d_bwd)

# height and width, kernel, stride, padding
CASES = {
    "defaults": ((7, 5), (3, 3), 1, "SAME"),
    "even kernel: SAME pads more behind": ((7, 6), (4, 2), 1, "SAME"),
    "SAME with a stride": ((7, 8), (3, 5), 2, "SAME"),
    "SAME with a stride larger than the kernel": ((7, 8), (2, 1), 3, "SAME"),
    "VALID": ((7, 5), (3, 2), 1, "VALID"),
    "the last row and the last two columns in no window": ((8, 7), (3, 2), (2, 3), "VALID"),
    "stride larger than the kernel: rows between windows, too": ((8, 7), (2, 1), (3, 4), "VALID"),
    "1 × 1": ((5, 4), (1, 1), 1, "SAME"),
    "1 × 1 with a stride": ((5, 4), (1, 1), 2, "SAME"),
    "kernel as large as the image": ((5, 4), (5, 4), 1, "VALID"),
    "kernel larger than the image": ((2, 3), (4, 5), 1, "SAME"),
    "four paddings": ((6, 5), (3, 4), 1, ((2, 1), (0, 3))),
    "four paddings and a stride": ((6, 5), (3, 4), (1, 2), ((1, 0), (2, 3))),
    "more padding than kernel: outputs that see no input": ((4, 3), (2, 2), 1, ((3, 2), (4, 5))),
    "more padding than kernel, with a stride": ((4, 3), (2, 3), (2, 3), ((5, 0), (3, 7))),
    "more padding than kernel and 1 × 1": ((2, 3), (1, 1), 1, ((2, 0), (0, 1))),
}


def loops(x, w, b, dy, stride, padding):
    """The definition, one kernel entry and one output pixel at a time, and what each product passes back."""
    (height, width), (rows, columns) = x.shape[1:3], w.shape[:2]
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    (top, bottom), (left, right) = (
        jax.lax.padtype_to_pads((height, width), (rows, columns), (down, across), padding)
        if isinstance(padding, str)
        else padding
    )
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    outputs = (padded.shape[1] - rows) // down + 1, (padded.shape[2] - columns) // across + 1
    y, dpadded, dw = np.zeros((len(x), *outputs, len(b))) + b, np.zeros(padded.shape), np.zeros(w.shape)
    for i, j, u, v in itertools.product(*map(range, (*outputs, rows, columns))):
        pixel = np.s_[:, down * i + u, across * j + v]
        y[:, i, j] += padded[pixel] @ w[u, v]
        if dy is not None:
            dpadded[pixel] += dy[:, i, j] @ w[u, v].T
            dw[u, v] += padded[pixel].T @ dy[:, i, j]
    dx = dpadded[:, top : top + height, left : left + width]
    return y, (dx, dw, None if dy is None else dy.sum((0, 1, 2)))


def example(image, kernel):
    rng = np.random.RandomState(0)
    x, w = rng.normal(size=(2, *image, 3)), rng.normal(size=(*kernel, 3, 4))
    return x, w, rng.normal(size=4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_value_and_cotangents_are_those_of_the_definition(name, dtype):
    # In both dtypes, which XLA compiles in different ways: one of them reads padding < 0 wrongly (JAX 0.10).
    image, kernel, stride, padding = CASES[name]
    args = tuple(jnp.asarray(a, dtype) for a in example(image, kernel))
    rule = bind(CONV2D, stride=stride, padding=padding)
    exact = [np.asarray(a, np.float64) for a in args]
    y, residuals = rule.fwd(*args)
    expected, _ = loops(*exact, None, stride, padding)
    assert relative_error(y, expected) <= TOLERANCE[dtype]
    dy = cotangent_like(y)
    _, expected = loops(*exact, np.asarray(dy, np.float64), stride, padding)
    assert relative_error(rule.bwd(residuals, dy), expected) <= TOLERANCE[dtype]


@pytest.mark.usefixtures("x64")
def test_inputs_in_no_window_get_zero():
    rule = bind(CONV2D, stride=(2, 3), padding="VALID")
    x, w, b = map(jnp.asarray, example((8, 7), (3, 2)))
    (dx, _, _) = hand(rule, (x, w, b), jnp.ones((2, 3, 2, 4)))
    unused = np.asarray(dx == 0).all(axis=(0, 3))
    expected = np.zeros((8, 7), bool)
    expected[7] = expected[:, [2, 5, 6]] = True
    np.testing.assert_array_equal(unused, expected)


def test_same_is_what_xla_calls_same():
    for n, k, s in itertools.product(range(1, 9), range(1, 6), range(1, 5)):
        x, w = jax.ShapeDtypeStruct((1, n, 9, 1), "float32"), jax.ShapeDtypeStruct((k, 2, 1, 1), "float32")
        jaxpr = jax.make_jaxpr(lambda x, w, s=s: conv2d(x, w, jnp.zeros(1), stride=(s, 2)))(x, w)
        (convolution,) = convolutions(jaxpr)
        expected = jax.lax.padtype_to_pads((n, 9), (k, 2), (s, 2), "SAME")
        assert list(convolution.params["padding"]) == list(map(tuple, expected))


def test_each_pass_is_convolutions():
    x, w, b = (jnp.asarray(a, jnp.float32) for a in example((7, 5), (3, 2)))
    y, residuals = conv2d_fwd(x, w, b)
    assert len(convolutions(jax.make_jaxpr(conv2d)(x, w, b))) == 1
    assert len(convolutions(jax.make_jaxpr(conv2d_bwd)(residuals, y))) == 2


def convolutions(jaxpr):
    return [equation for equation in jaxpr.eqns if equation.primitive.name == "conv_general_dilated"]


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_no_examples_or_no_channels(sizes):
    batch, inputs, outputs = sizes
    args = jnp.ones((batch, 5, 4, inputs)), jnp.ones((3, 2, inputs, outputs)), jnp.full(outputs, 0.5)
    y = conv2d(*args, stride=2)
    np.testing.assert_array_equal(y, jnp.zeros((batch, 3, 2, outputs)) + conv2d(*args, stride=2))
    rule = bind(CONV2D, stride=2)
    assert relative_error(hand(rule, args, y), autodiff(rule, args, y)) == 0
    if inputs == 0:
        assert np.all(y == 0.5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # 4096 ones: in half precision a running sum stops at 2048 (float16) or 256 (bfloat16).
    x, w, b = jnp.ones((1, 64, 64, 64), dtype), jnp.ones((8, 8, 64, 1), dtype), jnp.zeros(1, dtype)
    rule = bind(CONV2D, stride=8)
    y, residuals = rule.fwd(x, w, b)
    assert (y.dtype, y[0, 0, 0, 0]) == (dtype, 4096)
    dx, dw, db = bind(CONV2D, padding="VALID").bwd((x[..., :1], w[:1, :1, :1]), jnp.ones((1, 64, 64, 1), dtype))
    assert (dx.dtype, dw.dtype, db.dtype) == (dtype, dtype, dtype)
    assert (dx[0, 0, 0, 0], dw[0, 0, 0, 0], db[0]) == (1, 4096, 4096)
    wide = jnp.ones((1, 1, 1, 4096), dtype), jnp.ones((1, 1, 1, 4096), dtype)
    assert conv2d_bwd((wide[0][..., :1], wide[1]), wide[0])[0][0, 0, 0, 0] == 4096


def test_half_precision_adds_the_bias_before_rounding():
    # In float16 2049 rounds to 2048, and 2048 + 1 to 2048.
    x, w, b = jnp.ones((1, 1, 1, 2049), jnp.float16), jnp.ones((1, 1, 2049, 1), jnp.float16), jnp.ones(1, jnp.float16)
    assert conv2d(x, w, b)[0, 0, 0, 0] == 2050


def test_integers_of_numpy_and_lists_are_options_too():
    x, w, b = (jnp.asarray(a, jnp.float32) for a in example((7, 5), (3, 2)))
    y = conv2d(x, w, b, stride=[np.int64(2), 3], padding=[[1, np.int32(0)], (2, 1)])
    np.testing.assert_array_equal(y, conv2d(x, w, b, stride=(2, 3), padding=((1, 0), (2, 1))))


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x, w, b = (a.astype(np.float32) for a in example((9, 8), (3, 2)))
    theirs = [torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), b)]
    expected = torch.nn.functional.conv2d(*theirs, stride=(2, 3), padding=(1, 2))
    rule = bind(CONV2D, stride=(2, 3), padding=((1, 1), (2, 2)))
    y = rule.primal(x, w, b)
    assert relative_error(y, expected.detach().numpy().transpose(0, 2, 3, 1)) <= TOLERANCE["float32"]
    dy = cotangent_like(y)
    expected.backward(torch.tensor(np.asarray(dy).transpose(0, 3, 1, 2)))
    dx, dw, db = (a.grad.numpy() for a in theirs)
    found = hand(rule, (x, w, b), dy)
    assert relative_error(found, (dx.transpose(0, 2, 3, 1), dw.transpose(2, 3, 1, 0), db)) <= TOLERANCE["float32"]


X, W, B = jnp.zeros((2, 4, 5, 3)), jnp.zeros((3, 2, 3, 6)), jnp.zeros(6)
STRIDE = "an integer ≥ 1, or two of them"
PADDING = "'SAME', 'VALID' or ((top, bottom), (left, right)), integers ≥ 0"


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X[0], W, B), {}, ValueError, "x has shape [4, 5, 3]; expected [B, H, W, C]"),
        (
            (X, W[:, :, :2], B),
            {},
            ValueError,
            "w has shape [3, 2, 2, 6]; expected [kH, kW, C, O] with C = 3 from x [2, 4, 5, 3]",
        ),
        ((X, W, B[:5]), {}, ValueError, "b has shape [5]; expected [O] with O = 6 from w [3, 2, 3, 6]"),
        ((X, W, B.astype(jnp.float16)), {}, TypeError, "b has dtype float16; expected float32 as in w"),
        ((X.astype(int), W, B), {}, TypeError, "x has dtype int32; expected a floating dtype"),
        ((X, W[:0], B), {}, ValueError, "w has kH = 0; expected kH ≥ 1"),
        ((X, W[:, :0], B), {}, ValueError, "w has kW = 0; expected kW ≥ 1"),
        (
            (X, jnp.zeros((5, 2, 3, 6)), B),
            {"padding": "VALID"},
            ValueError,
            "w has kernel [5, 2]; expected at most the padded input [4, 5]",
        ),
        (
            (X, jnp.zeros((5, 8, 3, 6)), B),
            {"padding": ((1, 0), (0, 2))},
            ValueError,
            "w has kernel [5, 8]; expected at most the padded input [5, 7]",
        ),
        ((X[:, :0], W, B), {}, ValueError, "w has kernel [3, 2]; expected at most the padded input [2, 6]"),
        ((X, W, B), {"stride": 0}, ValueError, f"stride is 0; expected {STRIDE}"),
        ((X, W, B), {"stride": (1, -2)}, ValueError, f"stride is (1, -2); expected {STRIDE}"),
        ((X, W, B), {"stride": (1, 2, 3)}, ValueError, f"stride is (1, 2, 3); expected {STRIDE}"),
        ((X, W, B), {"stride": ()}, ValueError, f"stride is (); expected {STRIDE}"),
        ((X, W, B), {"stride": 1.5}, TypeError, f"stride is 1.5 (float); expected {STRIDE}"),
        ((X, W, B), {"stride": (1, True)}, TypeError, f"stride is (1, True) (tuple); expected {STRIDE}"),
        ((X, W, B), {"padding": "same"}, ValueError, f"padding is 'same'; expected {PADDING}"),
        ((X, W, B), {"padding": 1}, TypeError, f"padding is 1 (int); expected {PADDING}"),
        ((X, W, B), {"padding": (1, 1)}, TypeError, f"padding is (1, 1) (tuple); expected {PADDING}"),
        ((X, W, B), {"padding": ((1, 1),)}, ValueError, f"padding is ((1, 1),); expected {PADDING}"),
        ((X, W, B), {"padding": ((1, 1), (0,))}, ValueError, f"padding is ((1, 1), (0,)); expected {PADDING}"),
        ((X, W, B), {"padding": ((1, 1), (0, -1))}, ValueError, f"padding is ((1, 1), (0, -1)); expected {PADDING}"),
        ((X, W, B), {"padding": ((1, 1), (0, 0.5))}, TypeError, f"padding is ((1, 1), (0, 0.5)) (tuple); expected {PADDING}"),
    ],
)  # fmt: skip
def test_messages(args, options, error, message):
    with pytest.raises(error) as raised:
        conv2d(*args, **options)
    assert str(raised.value) == f"conv2d: {message}"
