"""The convolutional, recurrent and transformer models: values by NumPy, gradients of the loss, what they promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import TOLERANCE, assert_close, cast, fill, relative_error, widen

from fundamentals import Rule, layers, losses
from fundamentals.base import bind
from fundamentals.catalogue import RULES
from fundamentals.models import cnn, language_model, rnn, transformer

BLOCKWISE = Rule(layers.blockwise_attention, layers.blockwise_attention_fwd, layers.blockwise_attention_bwd)
BATCH_NORM = RULES["batch_norm"].rule
SILU = RULES["silu"].rule
BOTH_ATTENTIONS = pytest.mark.parametrize(
    "attention", [transformer.ATTENTION, bind(BLOCKWISE, block_size=2)], ids=["dense", "blockwise"]
)
TOKENS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])


def arguments(name):
    """The catalogue's example, in float64, parameters and inputs as NumPy arrays."""
    return jax.tree.map(np.asarray, drawn(name, 3))


def drawn(name, seed):
    return widen(RULES[name].arguments(jax.random.key(seed), jnp.float32))


def norm(x, scale, offset):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + offset


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def convolve(x, w):
    """3 × 3, zeros around the image."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [(padded[:, u : u + x.shape[1], v : v + x.shape[2]], w[u, v]) for u in range(3) for v in range(3)]
    return sum(window @ kernel for window, kernel in windows)


def encode(params, x, heads, causal=False):
    for block in params.blocks:
        qkv = norm(x, *block.attention_norm) @ block.qkv
        q, k, v = (third.reshape(*x.shape[:2], heads, -1) for third in np.split(qkv, 3, axis=-1))
        s = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
        if causal:
            s = np.where(np.tril(np.ones(s.shape[-2:], bool)), s, -np.inf)
        attended = np.einsum("bnts,bsnh->btnh", softmax(s), v).reshape(x.shape)
        x = x + attended @ block.output.w + block.output.b
        hidden = gelu(norm(x, *block.mlp_norm) @ block.hidden.w + block.hidden.b)
        x = x + hidden @ block.narrow.w + block.narrow.b
    return norm(x, *params.norm)


@pytest.mark.usefixtures("x64")
def test_cnn_values():
    params, x = arguments("cnn(activation=gelu)")
    y = x
    for index, stage in enumerate(params.stages):
        if index:
            b, h, w, c = y.shape
            y = y[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        y = np.maximum(0, norm(convolve(y, stage.widen.w), stage.widen.scale, stage.widen.offset))
        for block in stage.blocks:
            z = np.maximum(0, norm(convolve(y, block.first.w), block.first.scale, block.first.offset))
            z = norm(convolve(z, block.second.w), block.second.scale, block.second.offset)
            y = np.maximum(0, y + z)
    expected = y.mean((1, 2)) @ params.output.w + params.output.b
    np.testing.assert_allclose(jax.jit(cnn.apply)(params, x), expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_rnn_values():
    params, y = arguments("rnn_classifier")
    for cell in params.cells:
        h, states = np.zeros((len(y), len(cell.b))), []
        for t in range(y.shape[1]):
            h = np.tanh(y[:, t] @ cell.w_x + h @ cell.w_h + cell.b)
            states.append(h)
        y = np.stack(states, axis=1)
    params, x = arguments("rnn_classifier")
    np.testing.assert_allclose(jax.jit(rnn.apply)(params, x), h @ params.output.w + params.output.b, rtol=1e-10)


@BOTH_ATTENTIONS
@pytest.mark.usefixtures("x64")
def test_transformer_values(attention):
    params, x = arguments("transformer_classifier")
    z = x @ params.inputs.w + params.inputs.b + params.positions[: x.shape[1]]
    expected = encode(params.encoder, z, 2).mean(1) @ params.output.w + params.output.b
    f = functools.partial(transformer.transformer_classifier, heads=2, attention=attention)
    found = jax.jit(f)(params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@BOTH_ATTENTIONS
@pytest.mark.usefixtures("x64")
def test_language_model_values_and_loss(attention):
    params, _ = arguments("transformer_language_model")
    z = params.table[TOKENS] + params.positions[: TOKENS.shape[1]]
    expected = encode(params.encoder, z, 2, causal=True) @ params.w
    f = functools.partial(language_model.apply, heads=2, attention=attention)
    found = jax.jit(f)(params, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
    log_p = np.log(softmax(expected))
    targets = np.array([[1, 4, 1, -1], [9, 2, -1, -1]])
    counted = [(b, t) for b in range(2) for t in range(4) if targets[b, t] >= 0]
    mean = -np.mean([log_p[b, t, targets[b, t]] for b, t in counted])
    options = {"heads": 2, "attention": attention, "chunk_size": 5, "ignored_label": -1}
    loss = jax.jit(functools.partial(language_model.loss, **options))
    np.testing.assert_allclose(loss(params, TOKENS, targets), mean, rtol=1e-10)
    assert loss(params, TOKENS, np.full_like(targets, -1)) == 0


def test_tokens_see_no_later_tokens():
    params, _ = cast(drawn("transformer_language_model", 0), np.float32)
    changed = TOKENS.copy()
    changed[:, 2:] = 0
    apply = jax.jit(functools.partial(language_model.apply, heads=2))
    before, after = (apply(params, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.abs(before[:, 2:] - after[:, 2:]).max() > 1e-3


LOSSES = {
    "cnn": (cnn, "cnn(activation=gelu)", {}),
    "cnn(norm=batch_norm, activation=silu)": (cnn, "cnn(activation=gelu)", {"norm": BATCH_NORM, "activation": SILU}),
    "rnn": (rnn, "rnn_classifier", {}),
    "transformer": (
        transformer,
        "transformer_classifier",
        {"heads": 2, "attention": bind(BLOCKWISE, block_size=2), "activation": SILU},
    ),
    "language_model": (
        language_model,
        "transformer_language_model",
        {"heads": 2, "chunk_size": 5, "ignored_label": 2},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("x64")
def test_loss_and_gradient_equal_value_and_grad(name):
    module, entry, options = LOSSES[name]
    params, x = drawn(entry, 1)
    if module is cnn:  # of its two stages, the one with a block: convolutions take long to compile
        params = params._replace(stages=params.stages[1:])
        x = jnp.asarray(np.random.RandomState(1).normal(size=(2, 4, 3, params.stages[0].widen.w.shape[2])))
    targets = jnp.array([7, 2]) if module is not language_model else jnp.asarray(x) % 3
    found = jax.jit(lambda params: module.loss_and_gradient(params, x, targets, **options))(params)
    expected = jax.jit(jax.value_and_grad(lambda params: module.loss(params, x, targets, **options)))(params)
    assert_close(found, expected, TOLERANCE["float64"], f"{name}: loss or gradient ")


def test_language_model_never_holds_the_logits():
    params = fill(functools.partial(language_model.init, vocabulary=4096, length=8, width=4, layers=1))
    tokens = jnp.zeros((2, 8), jnp.int32)
    program = jax.make_jaxpr(
        lambda params: language_model.loss_and_gradient(params, tokens, tokens, heads=2, chunk_size=64)
    )(params)
    assert "f32[2,8,4096]" not in str(program)
    assert "f32[2,8,64]" in str(program)


def test_ignored_targets_of_small_dtypes_do_not_wrap_around():
    params = fill(functools.partial(language_model.init, vocabulary=200, length=4, width=4, layers=1))
    targets = np.array([[156, 3, 156, 5]])  # 156 is −100 modulo 256
    loss = jax.jit(functools.partial(language_model.loss, heads=2, ignored_label=-100))
    narrow, wide = (loss(params, targets % 4, targets.astype(dtype)) for dtype in (np.uint8, np.int32))
    assert narrow == wide


def test_long_sequences_need_positions_and_unused_positions_get_nothing():
    params = fill(functools.partial(transformer.init, inputs=3, length=4, width=4, layers=1, outputs=2))
    gradient_of = jax.jit(functools.partial(transformer.loss_and_gradient, heads=2))
    _, gradient = gradient_of(params, jnp.ones((2, 3, 3)), jnp.array([0, 1]))
    assert not np.any(gradient.positions[3])
    assert np.all(np.any(gradient.positions[:3] != 0, axis=1))


def test_initial_values():
    def bits(key, shape, dtype):  # whose first two numbers are the key itself
        return jnp.resize(jax.random.key_data(key), shape)

    def keys(params):
        drawn = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.dtype == np.uint32]
        return [tuple(np.ravel(leaf)[:2]) for leaf in drawn]

    key = jax.random.key(0)
    params = jax.jit(lambda key: rnn.init(key, (3, 5, 2)))(key)
    (cell,) = jax.tree.map(np.asarray, params.cells)
    assert relative_error(cell.w_h @ cell.w_h.T, np.eye(5)) < 1e-6
    assert not np.any(cell.b)
    params = jax.jit(lambda key: cnn.init(key, (1, 4, 8), 10, blocks=2, initializer=bits, bias_initializer=bits))(key)
    assert [stage.widen.w.shape for stage in params.stages] == [(3, 3, 1, 4), (3, 3, 4, 8)]
    assert [len(stage.blocks) for stage in params.stages] == [2, 2]
    found = keys(params)
    assert len(found) == len(set(found)) == 22  # no key is used twice
    given = {"initializer": bits, "recurrent_initializer": bits, "bias_initializer": bits}
    found = keys(jax.jit(lambda key: rnn.init(key, (3, 5, 4, 2), **given))(key))
    assert len(found) == len(set(found)) == 8
    size = {"length": 4, "width": 4, "layers": 2, "initializer": bits}
    for init in (
        functools.partial(transformer.init, inputs=3, outputs=2, **size),
        functools.partial(language_model.init, vocabulary=4, **size),
    ):
        params = jax.jit(init)(key)
        blocks = [b._replace(qkv=tuple(np.split(np.asarray(b.qkv), 3, axis=1))) for b in params.encoder.blocks]
        found = keys(params._replace(encoder=params.encoder._replace(blocks=blocks)))
        assert len(found) == len(set(found)) == (14 if init.func is transformer.init else 13)
    assert not np.array_equal(params.table, params.positions)


X = jnp.ones((2, 5, 3))
ENCODER = fill(functools.partial(transformer.init_encoder, width=4, layers=1))
CLASSIFIER = fill(functools.partial(transformer.init, inputs=3, length=4, width=4, layers=1, outputs=2))
LANGUAGE_MODEL = fill(functools.partial(language_model.init, vocabulary=7, length=4, width=4, layers=1))
CNN = fill(lambda key: cnn.init(key, (3, 4, 4), 2, blocks=0))
RNN = fill(lambda key: rnn.init(key, (3, 4, 2)))
BAD = {
    "cnn.init: channels is (3,); expected at least the image's and one": lambda: cnn.init(jax.random.key(0), (3,), 2),
    "cnn.init: blocks is -1; expected an integer ≥ 0": lambda: cnn.init(jax.random.key(0), (3, 4), 2, blocks=-1),
    "cnn.init: channels[1] is 0; expected an integer ≥ 1": lambda: cnn.init(jax.random.key(0), (3, 0), 2),
    "cnn: x has shape [2, 5, 3]; expected [B, H, W, C]": lambda: cnn.apply(CNN, X),
    "conv2d: w has shape [3, 3, 3, 4]; expected [kH, kW, C, O] with C = 1": lambda: cnn.apply(
        CNN, jnp.ones((2, 4, 4, 1))
    ),
    "max_pool2d: window is [2, 2]; expected at most the image [1, 1]": lambda: jax.eval_shape(
        cnn.apply, CNN, jnp.ones((2, 1, 1, 3))
    ),
    "cnn.loss: x has shape [0, 4, 4, 3]; expected at least one": lambda: jax.eval_shape(
        cnn.loss, CNN, jnp.ones((0, 4, 4, 3)), jnp.ones(0, jnp.int32)
    ),
    "rnn.init: sizes is (3, 2); expected at least the inputs, one layer": lambda: rnn.init(jax.random.key(0), (3, 2)),
    "rnn_classifier: x has T = 0; expected T ≥ 1": lambda: rnn.apply(RNN, X[:, :0]),
    "rnn_classifier: x has shape [5, 3]; expected [B, T, D]": lambda: rnn.apply(RNN, X[0]),
    "transformer_encoder: heads is 3; expected a divisor of M = 4 from x": lambda: transformer.transformer_encoder(
        ENCODER, jnp.ones((2, 5, 4)), heads=3
    ),
    "transformer_encoder: heads is 0; expected an integer ≥ 1": lambda: transformer.transformer_encoder(
        ENCODER, jnp.ones((2, 5, 4)), heads=0
    ),
    "transformer_classifier: x has T = 5; expected at most the 4 positions": lambda: transformer.transformer_classifier(
        CLASSIFIER, X, heads=2
    ),
    "transformer.init: width is 0; expected an integer ≥ 1": lambda: transformer.init_encoder(
        jax.random.key(0), width=0, layers=1
    ),
    "embedding: ids has values from 1 to 9; expected row indices in [0, 7)": lambda: language_model.apply(
        LANGUAGE_MODEL, TOKENS, heads=2
    ),
    "transformer_language_model: tokens has shape [4]; expected [B, T]": lambda: language_model.apply(
        LANGUAGE_MODEL, TOKENS[0], heads=2
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        BAD[message]()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cnn.apply(RNN, X), "cnn: params is of type rnn.Params; expected cnn.Params"),
        (lambda: rnn.apply(CNN, X), "rnn_classifier: params is of type cnn.Params; expected rnn.Params"),
        (
            lambda: transformer.apply(ENCODER, X, heads=2),
            "transformer_classifier: params is of type Encoder; expected Cla",
        ),
        (
            lambda: transformer.transformer_encoder(CLASSIFIER, X, heads=2),
            "params is of type Classifier; expected Encoder",
        ),
        (lambda: language_model.apply(RNN, TOKENS, heads=2), "is of type rnn.Params; expected language_model.Params"),
        *[
            (functools.partial(init, jax.random.PRNGKey(0)), "key has dtype uint32; expected a typed PRNG key")
            for init in (
                lambda key: cnn.init(key, (3, 4), 2),
                lambda key: rnn.init(key, (3, 4, 2)),
                lambda key: transformer.init_encoder(key, width=4, layers=1),
                lambda key: transformer.init(key, inputs=3, length=4, width=4, layers=1, outputs=2),
                lambda key: language_model.init(key, vocabulary=7, length=4, width=4, layers=1),
            )
        ],
    ],
)
def test_bad_types(call, message):
    with pytest.raises(TypeError) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.parametrize("option", ["norm", "activation"])
def test_options_are_rules(option):
    with pytest.raises(TypeError, match=f"cnn: {option} is .*expected a Rule"):
        cnn.apply(CNN, jnp.ones((2, 4, 4, 3)), **{option: losses.squared_error})


def test_an_attention_that_is_no_rule():
    with pytest.raises(TypeError, match=r"transformer_encoder: attention is .*expected a Rule"):
        transformer.transformer_encoder(ENCODER, jnp.ones((2, 5, 4)), heads=2, attention=layers.attention)
