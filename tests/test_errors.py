"""Bad input: what the message says, and that nothing is broadcast or converted in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import Rule, activations, data, hand_derived, initializers, losses, optimizers
from fundamentals.base import bind
from fundamentals.layers import linear
from fundamentals.models import mlp, rnn

KEY = jax.random.key(0)
X, W, B = jnp.ones((2, 4)), jnp.ones((4, 3)), jnp.ones(3)
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
ELU = Rule(activations.elu, activations.elu_fwd, activations.elu_bwd)

SHAPES = {
    "linear: w has shape [5, 3]; expected [D, H] with D = 4 from x [2, 4]": lambda: linear(X, jnp.ones((5, 3)), B),
    "linear: w has shape [4]; expected [D, H] with D = 4 from x [2, 4]": lambda: linear(X, jnp.ones(4), B),
    "linear: b has shape [1]; expected [H] with H = 3 from w [4, 3]": lambda: linear(X, W, jnp.ones(1)),
    "linear: x has shape []; expected [..., D]": lambda: linear(1.0, W, B),
    "maxout: b has shape [2, 5]; expected [P, H] with P = 2, H = 3 from w [2, 4, 3]": lambda: activations.maxout(
        X, jnp.ones((2, 4, 3)), jnp.ones((2, 5))
    ),
    "maxout: w has P = 0; expected P ≥ 1": lambda: activations.maxout(X, jnp.ones((0, 4, 3)), jnp.ones((0, 3))),
    "softmax: x has shape []; expected [..., K]": lambda: activations.softmax(1.0),
    "log_softmax: x has K = 0; expected K ≥ 1": lambda: activations.log_softmax(jnp.ones((2, 0))),
    "squared_error: targets has shape [4]; expected [..., D] with ... = [2], D = 4 from predictions [2, 4]": lambda: (
        losses.squared_error(X, jnp.ones(4))
    ),
    "binary_cross_entropy: targets has shape [2, 1]; expected [...] with ... = [2, 4] from logits [2, 4]": lambda: (
        losses.binary_cross_entropy(X, jnp.ones((2, 1)))
    ),
    "softmax_cross_entropy: labels has shape [2, 4]; expected [...] with ... = [2] from logits [2, 4]": lambda: (
        losses.softmax_cross_entropy(X, jnp.ones((2, 4), jnp.int32))
    ),
    "hinge: labels has shape [4]; expected [...] with ... = [2, 4] from scores [2, 4]": lambda: losses.hinge(
        X, jnp.ones(4)
    ),
    "mlp: params is empty; expected at least one layer": lambda: mlp.apply((), X),
    "mlp.loss: x has shape [0, 4]; expected at least one example": lambda: mlp.loss(
        (mlp.Layer(W, B),), jnp.ones((0, 4)), jnp.ones(0, jnp.int32)
    ),
    "mlp.init: sizes is (4,); expected at least the inputs and the outputs": lambda: mlp.init(KEY, (4,)),
    "xavier_normal: shape is [3]; expected [..., D, H] without empty axes": lambda: initializers.xavier_normal()(
        KEY, (3,), jnp.float32
    ),
    "orthogonal: shape is [0, 3]; expected [..., D, H] without empty axes": lambda: initializers.orthogonal(1.0)(
        KEY, (0, 3), jnp.float32
    ),
    "momentum: gradients['b'] has shape [1]; expected [3] as in state.velocity": lambda: optimizers.momentum(
        0.1
    ).update(PARAMS | {"b": jnp.ones(1)}, optimizers.momentum(0.1).init(PARAMS)),
    "sgd: gradients['b'] has shape [1]; expected [3] as in params": lambda: optimizers.sgd(0.1).update(
        PARAMS | {"b": jnp.ones(1)}, optimizers.sgd(0.1).init(PARAMS), PARAMS
    ),
    "adam: gradients has another structure than state.first_moment: ['b'] is missing": lambda: optimizers.adam(
        0.1
    ).update({"w": jnp.ones((2, 3))}, optimizers.adam(0.1).init(PARAMS)),
    "adam: gradients has another structure than state.first_moment: ['c'] is too much": lambda: optimizers.adam(
        0.1
    ).update(PARAMS | {"c": B}, optimizers.adam(0.1).init(PARAMS)),
    "sgd: gradients has another structure than params: PyTreeDef({'a': [*]}), not PyTreeDef({'a': (*,)})": (
        lambda: optimizers.sgd(0.1).update({"a": [X]}, optimizers.sgd(0.1).init({"a": (X,)}), {"a": (X,)})
    ),
    "sgd: gradients has another structure than params: the same leaves in other containers, list for tuple": (
        lambda: optimizers.sgd(0.1).update([X, W], optimizers.sgd(0.1).init((X, W)), (X, W))
    ),
    "apply_updates: updates['b'] has shape []; expected [3] as in params": lambda: optimizers.apply_updates(
        PARAMS, PARAMS | {"b": jnp.ones(())}
    ),
}

VALUES = {
    "binary_cross_entropy: targets has values from 0.5 to 2.0; expected [0, 1]": lambda: losses.binary_cross_entropy(
        jnp.ones(2), jnp.array([0.5, 2.0])
    ),
    "rmsprop: eps and eps_root are both 0": lambda: optimizers.rmsprop(0.1, eps=jnp.float32(0), eps_root=np.float32(0)),
    "sgd: learning_rate(step) has shape [5]; expected a number": lambda: optimizers.sgd(
        lambda step: jnp.ones(5)
    ).update(jnp.ones(()), optimizers.sgd(0.1).init(jnp.ones(()))),
    "he_normal: shape is [-2, 3]; expected [..., D, H]": lambda: initializers.he_normal()(KEY, (-2, 3), jnp.float32),
    "data.load: 'digits' is in the box; expected no data_dir, not 'here'": lambda: data.load("digits", "here"),
    "labels has values from -1 to 2; expected class indices in [0, 4) (ignored_label names one to leave out)": lambda: (
        losses.softmax_cross_entropy(X, jnp.array([-1, 2]))
    ),
    "softmax_cross_entropy: labels has values from 0 to 4; expected class indices in [0, 4)": lambda: (
        losses.softmax_cross_entropy(X, np.array([0, 4]))
    ),
    "hinge: labels has the value 0; expected -1 or +1": lambda: losses.hinge(jnp.ones(2), jnp.array([0, 1])),
    "hinge: labels has the value 0.5; expected -1 or +1": lambda: losses.hinge(jnp.ones(2), jnp.array([0.5, 1.0])),
    "leaky_relu: negative_slope is -0.1; expected a number in [0, inf)": lambda: activations.leaky_relu(
        X, negative_slope=-0.1
    ),
    "elu: alpha is -1; expected a number in [0, inf)": lambda: activations.elu(X, alpha=-1),
    "mlp.init: sizes[1] is 0; expected an integer ≥ 1": lambda: mlp.init(KEY, (4, 0, 2)),
    "mlp.init: pieces is -1; expected an integer ≥ 1": lambda: mlp.init(KEY, (4, 3, 2), pieces=-1),
    "normal: stddev is -1.0; expected a number in [0, inf)": lambda: initializers.normal(-1.0),
    "constant: c is nan; expected a number in (-inf, inf)": lambda: initializers.constant(float("nan")),
    "orthogonal: gain is 0; expected a number in (0, inf)": lambda: initializers.orthogonal(0),
    "sgd: learning_rate is -0.1; expected a number in [0, inf)": lambda: optimizers.sgd(-0.1),
    "sgd: learning_rate is inf; expected a number in [0, inf)": lambda: optimizers.sgd(float("inf")),
    "momentum: learning_rate is nan; expected a number in [0, inf)": lambda: optimizers.momentum(float("nan")),
    "momentum: beta is 1.0; expected a number in [0, 1)": lambda: optimizers.momentum(0.1, 1.0),
    "rmsprop: decay is 1.5; expected a number in [0, 1)": lambda: optimizers.rmsprop(0.1, decay=1.5),
    "adam: eps and eps_root are both 0": lambda: optimizers.adam(0.1, eps=0.0, eps_root=0.0),
    "adam: b1 is -0.1; expected a number in [0, 1)": lambda: optimizers.adam(0.1, b1=-0.1),
    "adam: b2 is 1; expected a number in [0, 1)": lambda: optimizers.adam(0.1, b2=1),
    "adam: eps is -1e-08; expected a number in [0, inf)": lambda: optimizers.adam(0.1, eps=-1e-8),
    "adam: b2 is 2.0; expected a number in [0, 1)": lambda: optimizers.adam(0.1, b2=jnp.float32(2)),
    "data.load: 'mnist' is not in the box; expected 'digits', or data_dir": lambda: data.load("mnist"),
}

TYPES = {
    "hand_derived: rule is <function sigmoid": lambda: hand_derived(activations.sigmoid),
    "elu: got an unexpected keyword argument 'slope'; its keyword-only options: alpha": (
        lambda: hand_derived(ELU)(X, slope=1.0)
    ),
    "hand_derived: the backward pass of elu returned a tuple of 2; expected a tuple of 1": lambda: jax.grad(
        lambda x: hand_derived(ELU._replace(bwd=lambda residuals, dy: (dy, dy)))(x).sum()
    )(X),
    "mlp: activation is <function relu": lambda: mlp.apply((mlp.Layer(W, B),), X, activation=activations.relu),
    "mlp.loss: loss_rule is <function hinge": lambda: mlp.loss((mlp.Layer(W, B),), X, X, loss_rule=losses.hinge),
    "momentum: gradients['w'] has dtype int32; expected a floating dtype": lambda: optimizers.momentum(0.1).update(
        PARAMS | {"w": jnp.ones((2, 3), jnp.int32)}, optimizers.momentum(0.1).init(PARAMS)
    ),
    "apply_updates: params has dtype int32; expected a floating dtype": lambda: optimizers.apply_updates(
        jnp.arange(3), jnp.ones(3)
    ),
    "adam: state is of type SgdState; expected AdamState": lambda: optimizers.adam(0.1).update(
        PARAMS, optimizers.sgd(0.1).init(PARAMS)
    ),
    "sigmoid: x has dtype int32; expected a floating dtype": lambda: activations.sigmoid(jnp.arange(3)),
    "softmax: x has dtype bool; expected a floating dtype": lambda: activations.softmax(jnp.ones(3, bool)),
    "relu: x has dtype complex64; expected a floating dtype": lambda: activations.relu(jnp.ones(3, jnp.complex64)),
    "tanh: x is 'one' (str); expected an array": lambda: activations.tanh("one"),
    "tanh: x is None (NoneType); expected an array": lambda: activations.tanh(None),
    "linear: w has dtype bfloat16; expected float32 as in x": lambda: linear(X, W.astype(jnp.bfloat16), B),
    "softmax_cross_entropy: labels has dtype float32; expected an integer dtype": lambda: losses.softmax_cross_entropy(
        X, jnp.ones(2)
    ),
    "hinge: labels has dtype bool; expected an integer or floating dtype": lambda: losses.hinge(X, X > 0),
    "zeros: dtype is int32; expected a floating dtype": lambda: initializers.zeros(KEY, (2, 3), jnp.int32),
    "he_normal: dtype is int32; expected a floating dtype": lambda: initializers.he_normal()(KEY, (2, 3), jnp.int32),
    "mlp: params[0] is of type tuple; expected Layer": lambda: mlp.apply(rnn.init(KEY, (2, 3, 4)), X),
    "mlp.init: key has dtype uint32; expected a typed PRNG key": lambda: mlp.init(jax.random.PRNGKey(0), (2, 3)),
    "mlp: params is of type NoneType; expected a sequence of layers": lambda: mlp.apply(None, X),
    "mlp.init: sizes is b'ab' (bytes); expected a sequence": lambda: mlp.init(KEY, b"ab"),
    "mlp.init: sizes is array(4) (ndarray); expected a sequence": lambda: mlp.init(KEY, np.array(4)),
    "mlp.init: sizes is 4 (int); expected a sequence: the inputs and the outputs": lambda: mlp.init(KEY, 4),
    "mlp.init: sizes[1] is traced (an argument of jit that is not static, or of vmap); expected an integer": (
        lambda: jax.jit(lambda n: mlp.init(KEY, (2, n)))(3)
    ),
    "mlp.init: sizes[1] is 3.0 (float); expected an integer ≥ 1": lambda: mlp.init(KEY, (4, 3.0, 2)),
    "mlp.init: sizes[0] is True (bool); expected an integer ≥ 1": lambda: mlp.init(KEY, (True, 2)),
    "adam: learning_rate is 'fast' (str); expected a number in [0, inf)": lambda: optimizers.adam("fast"),
    "adam: b1 has shape [2]; expected a number in [0, 1)": lambda: optimizers.adam(0.1, b1=jnp.ones(2)),
    "adam: params['n'] has dtype int32; expected a floating dtype": lambda: optimizers.adam(0.1).init(
        {"n": jnp.arange(3)}
    ),
    "bind: elu has no option 'slope'; expected one of ['alpha']": lambda: bind(ELU, slope=1.0),
}


@pytest.mark.parametrize(
    ("message", "error", "call"),
    [(m, ValueError, c) for m, c in (SHAPES | VALUES).items()] + [(m, TypeError, c) for m, c in TYPES.items()],
    ids=[*SHAPES, *VALUES, *TYPES],
)
def test_message(message, error, call):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def test_shapes_are_checked_under_jit():
    with pytest.raises(ValueError, match=r"linear: w has shape \[5, 3\]"):
        jax.jit(linear)(X, jnp.ones((5, 3)), B)


def test_traced_hyperparameters_pass():
    # Inside jit there is no value to check, and a sweep over learning rates must trace.
    def one_step(learning_rate, b1):
        optimizer = optimizers.adam(learning_rate, b1=b1)
        return optimizer.update(PARAMS, optimizer.init(PARAMS))[0]["b"]

    steps = jax.vmap(one_step)(jnp.array([0.1, 0.2]), jnp.array([0.9, 0.8]))
    np.testing.assert_allclose(steps, [[-0.1] * 3, [-0.2] * 3], rtol=1e-5)
