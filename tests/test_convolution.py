"""Convolution: against a NumPy transcription of its definition, and its options, extremes and bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, hand, relative_error

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


def loops(x, w, b, rng, stride, padding):
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
    y, dy = np.zeros((len(x), *outputs, len(b))) + b, rng.normal(size=(len(x), *outputs, len(b)))
    dpadded, dw = np.zeros(padded.shape), np.zeros(w.shape)
    for i, j, u, v in itertools.product(*map(range, (*outputs, rows, columns))):
        pixel = np.s_[:, down * i + u, across * j + v]
        y[:, i, j] += padded[pixel] @ w[u, v]
        dpadded[pixel] += dy[:, i, j] @ w[u, v].T
        dw[u, v] += padded[pixel].T @ dy[:, i, j]
    return y, dy, (dpadded[:, top : top + height, left : left + width], dw, dy.sum((0, 1, 2)))


def example(image, kernel):
    rng = np.random.RandomState(0)
    return rng.normal(size=(2, *image, 3)), rng.normal(size=(*kernel, 3, 4)), rng.normal(size=4)


@pytest.mark.parametrize("name", CASES)
def test_value_and_cotangents_are_those_of_the_definition(name):
    # In float32, for which XLA compiles padding < 0 wrongly (JAX 0.10); the catalogue's rows are tried in float64, too.
    image, kernel, stride, padding = CASES[name]
    args = example(image, kernel)
    y, dy, cotangents = loops(*args, np.random.RandomState(1), stride, padding)
    rule = bind(CONV2D, stride=stride, padding=padding)
    found = jax.jit(lambda args, dy: (rule.primal(*args), hand(rule, args, dy)))(single(args), single(dy))
    assert relative_error(found, (y, cotangents)) <= TOLERANCE["float32"]


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def test_inputs_in_no_window_get_zero():
    rule = bind(CONV2D, stride=(2, 3), padding="VALID")
    (dx, _, _) = rule.bwd(single(example((8, 7), (3, 2))[:2]), jnp.ones((2, 3, 2, 4)))
    expected = np.zeros((8, 7), bool)
    expected[7] = expected[:, [2, 5, 6]] = True
    np.testing.assert_array_equal((np.asarray(dx) == 0).all(axis=(0, 3)), expected)


def test_same_is_what_xla_calls_same():
    for n, k, s in itertools.product(range(1, 9, 2), range(1, 6), range(1, 5)):
        x, w = jax.ShapeDtypeStruct((1, n, 9, 1), "float32"), jax.ShapeDtypeStruct((k, 2, 1, 1), "float32")
        jaxpr = jax.make_jaxpr(lambda x, w, s=s: conv2d(x, w, jnp.zeros(1), stride=(s, 2)))(x, w)
        (convolution,) = convolutions(jaxpr)
        expected = jax.lax.padtype_to_pads((n, 9), (k, 2), (s, 2), "SAME")
        assert list(convolution.params["padding"]) == list(map(tuple, expected))


def test_each_pass_is_convolutions():
    x, w, b = single(example((7, 5), (3, 2)))
    y, residuals = conv2d_fwd(x, w, b)
    assert len(convolutions(jax.make_jaxpr(conv2d)(x, w, b))) == 1
    assert len(convolutions(jax.make_jaxpr(conv2d_bwd)(residuals, y))) == 2


def convolutions(jaxpr):
    return [equation for equation in jaxpr.eqns if equation.primitive.name == "conv_general_dilated"]


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_no_examples_or_no_channels(batch, inputs, outputs):
    args = jnp.ones((batch, 5, 4, inputs)), jnp.ones((3, 2, inputs, outputs)), jnp.full(outputs, 0.5)
    rule, dy = bind(CONV2D, stride=2), jnp.ones((batch, 3, 2, outputs))
    y, found = jax.jit(lambda args, dy: (rule.primal(*args), hand(rule, args, dy)))(args, dy)
    assert y.shape == dy.shape
    if inputs == 0:
        np.testing.assert_array_equal(y, np.full(y.shape, 0.5))
    zeros = jax.tree.map(np.zeros_like, args)
    assert relative_error(found, (*zeros[:2], np.full(outputs, batch * 6.0))) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    # 4096 ones: in half precision a running sum stops at 2048 (float16) or 256 (bfloat16).
    def ones(*shape):
        return jnp.asarray(np.ones(shape, dtype))

    bwd = jax.jit(conv2d_bwd)
    y = conv2d(ones(1, 8, 8, 64), ones(8, 8, 64, 1), 0 * ones(1), padding="VALID")  # sums 8 · 8 · 64
    dx, _, _ = bwd((ones(1, 1, 1, 1), ones(1, 1, 1, 4096)), ones(1, 1, 1, 4096))  # sums O
    _, dw, db = bwd((ones(1, 64, 64, 1), ones(1, 1, 1, 1)), ones(1, 64, 64, 1))  # sum B · H · W
    for found in (y, dx, dw, db):
        assert (found.dtype, np.ravel(found)[0]) == (dtype, 4096)


def test_half_precision_adds_the_bias_before_rounding():
    # In float16 2049 rounds to 2048, and 2048 + 1 to 2048.
    x, w, b = jnp.ones((1, 1, 1, 2049), jnp.float16), jnp.ones((1, 1, 2049, 1), jnp.float16), jnp.ones(1, jnp.float16)
    assert conv2d(x, w, b)[0, 0, 0, 0] == 2050


def test_integers_of_numpy_and_lists_are_options_too():
    x, w, b = single(example((7, 5), (3, 2)))
    y = conv2d(x, w, b, stride=[np.int64(2), 3], padding=[[1, np.int32(0)], (2, 1)])
    np.testing.assert_array_equal(y, conv2d(x, w, b, stride=(2, 3), padding=((1, 0), (2, 1))))


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x, w, b = args = single(example((9, 8), (3, 2)))
    theirs = [
        torch.tensor(np.asarray(a), requires_grad=True) for a in (jnp.moveaxis(x, 3, 1), w.transpose(3, 2, 0, 1), b)
    ]
    y = torch.nn.functional.conv2d(*theirs, stride=(2, 3), padding=(1, 2))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y.backward(dy)
    dx, dw, db = (a.grad.numpy() for a in theirs)
    rule = bind(CONV2D, stride=(2, 3), padding=((1, 1), (2, 2)))
    y, dy, dx = (np.moveaxis(np.asarray(a.detach() if isinstance(a, torch.Tensor) else a), 1, 3) for a in (y, dy, dx))
    found = rule.primal(*args), hand(rule, args, jnp.asarray(dy))
    assert relative_error(found, (y, (dx, dw.transpose(2, 3, 1, 0), db))) <= TOLERANCE["float32"]


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
        ((X, W, B), {"padding": ((1, 1), 0.5)}, TypeError, f"padding is ((1, 1), 0.5) (tuple); expected {PADDING}"),
    ],
)  # fmt: skip
def test_messages(args, options, error, message):
    with pytest.raises(error) as raised:
        conv2d(*args, **options)
    assert str(raised.value) == f"conv2d: {message}"
