"""The contract of every optimizer: structure, dtypes, tracing, donation, sharding, errors; and how they differ."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from oracles import cast, widen

from fundamentals import optimizers
from fundamentals.optimizers import adadelta, adagrad, adam, adamw, chain, l2_regularization, momentum, rmsprop, sgd

METHODS = {
    "sgd": sgd,
    "momentum": momentum,
    "steps": lambda rate: momentum(rate, normalization="steps", nesterov=True),
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "chain": lambda rate: chain(optimizers.clip_by_global_norm(1.0), l2_regularization(0.1), momentum(rate)),
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
PARAMS = {"a": [np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3), None], "b": np.float32(0.5)}


def descend(optimizer, params, gradient, steps):
    return descent(optimizer, gradient, steps)(params)


@functools.cache
def descent(optimizer, gradient, steps):
    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        return (optimizers.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), None, length=steps)[0])


@functools.cache
def with_rate_a_tenth(method):
    return method(0.1)


def of_half_the_square(params):
    return params


@EVERY_METHOD
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.usefixtures("x64")
def test_dtypes(method, dtype):
    params = cast(jax.tree.map(np.asarray, PARAMS), dtype)
    optimizer = with_rate_a_tenth(method)
    final, state = descend(optimizer, params, of_half_the_square, steps=2)
    wide = jnp.float32 if dtype in (jnp.float16, jnp.bfloat16) else dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(final, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(wide), jnp.dtype(jnp.int32)}
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optimizer.init(params))
    exact, _ = descend(optimizer, widen(params), of_half_the_square, steps=2)
    eps = float(jnp.finfo(dtype).eps)
    for a, b in zip(jax.tree.leaves(final), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=4 * eps)


def test_half_precision_is_computed_in_float32_and_rounded_once():
    one, update = jnp.bfloat16(1), jnp.float32(0.00390625 * 1.003)  # just above half of the step from 1 to the next
    assert float(optimizers.apply_updates(one, update)) == 1.0078125
    updates, _ = sgd(0.1).update(one, sgd(0.1).init(one))
    assert float(updates) == -float(np.float32(0.1))
    decayed, _ = adamw(0.1, weight_decay=0.01).update(one * 0, adamw(0.1).init(one), one)
    np.testing.assert_allclose(decayed, -0.1 * 0.01, rtol=1e-6)
    penalty = l2_regularization(0.01)
    gradients, _ = penalty.update(one, penalty.init(one), one)
    assert (float(gradients), gradients.dtype) == (1.0078125, jnp.bfloat16)


def test_small_updates_of_half_precision_parameters_are_not_lost_in_the_moments():
    # v grows by 1e-3 g² a step; in bfloat16 that increment vanishes beside a v of 0.3 or more.
    optimizer = adam(0.0)
    params = jnp.ones((1,), jnp.bfloat16)
    _, state = descend(optimizer, params, jnp.ones_like, steps=1500)
    np.testing.assert_allclose(state.second_moment, 1 - 0.999**1500, rtol=1e-4)


@EVERY_METHOD
def test_one_program_for_all_steps_and_rates_with_donated_arguments(method):
    chex.clear_trace_counter()  # which counts by the name of the function

    @jax.jit(donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, rate):
        updates, state = method(rate).update(params, state, params)
        return optimizers.apply_updates(params, updates), state

    params = jax.tree.map(jnp.array, PARAMS)
    expected, reference = jax.tree.map(jnp.array, PARAMS), method(0.1).init(PARAMS)
    state = jax.jit(method(0.1).init)(params)
    for rate in (0.1, 0.02, 0.3):
        updates, reference = method(rate).update(expected, reference, expected)
        expected = optimizers.apply_updates(expected, updates)
        old = jax.tree.leaves((params, state))
        params, state = step(params, state, jnp.float32(rate))
        assert all(array.is_deleted() for array in old)
    chex.assert_trees_all_close((params, state), (expected, reference), rtol=1e-5, atol=1e-7)


def test_every_hyperparameter_may_be_traced():
    def after_two(make, *numbers):
        optimizer = make(*numbers)
        params, state = jnp.array([1.0, -2.0]), optimizer.init(jnp.zeros(2))
        for _ in range(2):
            updates, state = optimizer.update(params, state, params)
            params = optimizers.apply_updates(params, updates)
        return params

    makers = {
        "momentum": (lambda a, b: momentum(a, b, nesterov=True), 0.1, 0.8),
        "variance preserving": (lambda a, b: momentum(a, b, normalization="variance_preserving"), 0.1, 0.8),
        "adagrad": (lambda a, b, c, d: adagrad(a, b, c, initial_accumulator=d), 0.1, 1e-3, 1e-2, 0.1),
        "adadelta": (adadelta, 0.5, 0.8, 1e-3),
        "rmsprop": (rmsprop, 0.1, 0.8, 1e-3, 1e-2),
        "adamw": (lambda *v: adamw(*v[:5], weight_decay=v[5]), 0.1, 0.8, 0.99, 1e-3, 1e-2, 0.1),
        "chain": (
            lambda a, b, c, d: chain(
                optimizers.clip_by_value(a), optimizers.clip_by_global_norm(b), l2_regularization(c), sgd(d)
            ),
            1.5, 1.7, 0.1, 0.1,
        ),
        "schedule": (lambda a, b: sgd(optimizers.schedules.cosine(a, steps=3, final=b)), 0.3, 0.1),
    }  # fmt: skip
    for name, (make, *numbers) in makers.items():
        traced = jax.jit(lambda *v, make=make: after_two(make, *v))(*map(jnp.float32, numbers))
        np.testing.assert_allclose(traced, after_two(make, *numbers), rtol=2e-5, err_msg=name)


@EVERY_METHOD
@pytest.mark.parametrize("under_jit", [False, True])
def test_state_is_sharded_as_the_parameters(method, under_jit):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split = NamedSharding(mesh, PartitionSpec(None, "d"))
    params = {"w": jax.device_put(jnp.ones((3, 4), jnp.bfloat16), split)}
    optimizer = method(0.1)
    state = (jax.jit(optimizer.init) if under_jit else optimizer.init)(params)
    updates, later = jax.jit(optimizer.update)(params, state, params)
    for leaf in jax.tree.leaves((updates, state, later)):
        expected = split if leaf.ndim else NamedSharding(mesh, PartitionSpec())
        if leaf.ndim or not under_jit:  # there, a counter beside nothing else is where jit puts it
            assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), leaf.sharding


def test_the_counter_is_where_the_parameters_are():
    step = jax.jit(adam(0.1).update)
    params = jax.device_put(jnp.ones(3), jax.devices()[1])
    _, state = step(params, adam(0.1).init(params))
    step(params, state)
    assert step._cache_size() == 1
    assert adam(0.1).init(params).step.devices() == {jax.devices()[1]}


@EVERY_METHOD
def test_the_counter_stays_at_the_largest_number(method):
    if method is METHODS["chain"]:
        method = momentum
    optimizer, params = method(0.1), jnp.ones(2)
    state = optimizer.init(params)._replace(step=jnp.int32(2**31 - 2))
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
    assert int(state.step) == 2**31 - 1
    assert np.all(np.asarray(updates) < 0)


@EVERY_METHOD
def test_zero_gradients_leave_parameters_alone(method):
    if method in (METHODS["adamw"], METHODS["chain"]):
        method = {METHODS["adamw"]: lambda rate: adamw(rate, weight_decay=0.0), METHODS["chain"]: momentum}[method]
    params = jnp.array([1.0, -2.0])
    final, _ = descend(method(0.1), params, jnp.zeros_like, steps=3)
    np.testing.assert_array_equal(final, params)


@EVERY_METHOD
def test_empty_trees_arrays_and_unregistered_values(method):
    optimizer = method(0.1)
    for empty in ({}, None, (), {"w": jnp.zeros((0, 3))}):
        updates, _ = optimizer.update(empty, optimizer.init(empty), empty)
        assert jax.tree.structure(updates) == jax.tree.structure(empty)
    with pytest.raises(TypeError, match=r"params\['activation'\] is .*expected an array"):
        optimizer.init({"activation": jnp.tanh})


@EVERY_METHOD
def test_gradients_and_states_that_do_not_fit(method):
    optimizer = method(0.1)
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"gradients.* has shape \[3, 2\]; expected \[2, 3\]"):
        optimizer.update(params | {"w": jnp.ones((3, 2))}, state, params)
    with pytest.raises(ValueError, match="gradients has another structure"):
        optimizer.update({"w": params["w"]}, state, params)
    with pytest.raises(TypeError, match=r"gradients.*int32; expected a floating dtype"):
        optimizer.update(jax.tree.map(lambda x: x.astype(int), params), state, params)
    with pytest.raises((TypeError, ValueError), match="state"):
        optimizer.update(params, {"step": 0}, params)
    with pytest.raises(ValueError, match=r"expected \[3, 2\] as in params"):
        optimizer.update(params, state, params | {"w": jnp.ones((3, 2))})
    for name, moment in zip(getattr(state, "_fields", ()), state, strict=False):
        if isinstance(moment, dict):
            wrong = state._replace(**{name: moment | {"b": jnp.ones(())}})
            with pytest.raises(
                ValueError, match=rf"gradients\['b'\] has shape \[3\]; expected \[\] as in state.{name}"
            ):
                optimizer.update(params, wrong, params)


BAD = [
    (lambda: rmsprop(0.1, decay=1.0), ValueError, "rmsprop: decay is 1.0; expected a number in [0, 1)"),
    (
        lambda: adamw(0.1).update({}, adamw(0.1).init({})),
        ValueError,
        "adamw: params is None; expected the parameters, which the decay is of",
    ),
    (
        lambda: sgd(lambda step: None).update(jnp.ones(2), sgd(0.1).init(jnp.ones(2))),
        TypeError,
        "sgd: learning_rate(step) is None",
    ),
    (
        lambda: optimizers.apply_updates(jnp.ones(2), jnp.ones(2, jnp.int32)),
        TypeError,
        "apply_updates: updates has dtype int32; expected a floating dtype",
    ),
    (
        lambda: optimizers.clip_by_value(1.0).update(jnp.ones(2), ()),
        TypeError,
        "clip_by_value: state is of type tuple; expected NoState",
    ),
    (
        lambda: optimizers.clip_by_value(1.0).update(jnp.arange(2), optimizers.NoState()),
        TypeError,
        "clip_by_value: gradients has dtype int32; expected a floating dtype",
    ),
    (lambda: sgd(-0.1), ValueError, "sgd: learning_rate is -0.1; expected a number in [0, inf)"),
    (lambda: sgd(float("nan")), ValueError, "sgd: learning_rate is nan"),
    (lambda: sgd("fast"), TypeError, "sgd: learning_rate is 'fast'"),
    (lambda: momentum(0.1, 1.0), ValueError, "momentum: beta is 1.0; expected a number in [0, 1)"),
    (lambda: momentum(0.1, nesterov=1), TypeError, "momentum: nesterov is 1 (int); expected True or False"),
    (
        lambda: momentum(0.1, normalization="ema"),
        ValueError,
        "normalization is 'ema'; expected 'heavy_ball', 'a",
    ),
    (lambda: adagrad(0.1, eps_root=0.0), ValueError, "adagrad: eps and eps_root are both 0"),
    (lambda: adagrad(0.1, initial_accumulator=-1.0), ValueError, "adagrad: initial_accumulator is -1.0"),
    (lambda: adadelta(eps=0.0), ValueError, "adadelta: eps is 0.0; expected a number in (0, inf)"),
    (lambda: adadelta(decay=1.5), ValueError, "adadelta: decay is 1.5"),
    (lambda: rmsprop(0.1, eps=-1e-8), ValueError, "rmsprop: eps is -1e-08; expected a number in [0, inf)"),
    (lambda: adam(0.1, b1=1.0), ValueError, "adam: b1 is 1.0; expected a number in [0, 1)"),
    (lambda: adam(0.1, b2=-0.1), ValueError, "adam: b2 is -0.1"),
    (lambda: adam(0.1, eps=0.0), ValueError, "adam: eps and eps_root are both 0"),
    (lambda: adam(0.1, eps_hat=1e-7), TypeError, "adam: eps_hat is 1e-07 (float); expected True or False"),
    (lambda: adamw(0.1, weight_decay=-1.0), ValueError, "adamw: weight_decay is -1.0"),
    (lambda: l2_regularization(float("inf")), ValueError, "l2_regularization: weight_decay is inf"),
    (lambda: optimizers.clip_by_value(0.0), ValueError, "clip_by_value: limit is 0.0; expected a number in (0, inf)"),
    (lambda: optimizers.clip_by_global_norm(-1.0), ValueError, "clip_by_global_norm: max_norm is -1.0"),
    (
        lambda: chain(sgd),
        TypeError,
        "chain: optimizers[0] is of type function; expected a pair (init, update); call it: sgd(",
    ),
    (lambda: chain([sgd(0.1)]), TypeError, "expected a pair (init, update); for a list of optimizers, chain(*"),
    (
        lambda: sgd(0.1).init(np.zeros(2, "V2")),
        TypeError,
        "sgd: params has dtype |V2; expected numbers; bfloat16 saved by NumPy? Cast it to float32 before",
    ),
    (
        lambda: chain(sgd(0.1)).update(jnp.ones(2), (), None),
        ValueError,
        "chain: state is a tuple of 0 parts; expected 1, one an optimizer",
    ),
    (
        lambda: adamw(0.1).update(jnp.ones(2), adamw(0.1).init(jnp.ones(2))),
        ValueError,
        "adamw: params is None; expected the parameters, which the decay is of",
    ),
    (
        lambda: sgd(lambda step: jnp.ones(3)).update(jnp.ones(2), sgd(0.1).init(jnp.ones(2))),
        ValueError,
        "sgd: learning_rate(step) has shape [3]; expected a number",
    ),
    (
        lambda: optimizers.apply_updates({"w": jnp.ones(2)}, {"w": jnp.ones((1, 2))}),
        ValueError,
        "apply_updates: updates['w'] has shape [1, 2]; expected [2] as in params",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_learning_rate_may_be_a_function_of_the_step():
    rates = np.array([0.1, 0.01, 0.0], np.float32)
    for name in ("sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam", "adamw"):
        scheduled, plain = METHODS[name](lambda step: jnp.asarray(rates)[step]), METHODS[name](1.0)
        params = jnp.array([1.0, -2.0])
        state, reference = scheduled.init(params), plain.init(params)
        for rate in rates:
            updates, state = scheduled.update(params, state, params)
            unscaled, reference = plain.update(params, reference, params)
            np.testing.assert_allclose(updates, rate * unscaled, rtol=1e-6, err_msg=name)
        assert (int(state.step), state.step.dtype) == (3, jnp.int32)


def test_normalizations_of_momentum_are_one_method_at_one_rate_and_differ_at_another():
    # Equivalences of the docstring's table: with constant η, and what a falling η makes of a velocity of steps.
    def path(optimizer, steps=12):
        params, state, found = jnp.array([1.0, -2.0]), optimizer.init(jnp.zeros(2)), []
        for _ in range(steps):
            updates, state = optimizer.update(jnp.array([0.2, 3.0]) * params, state, params)
            params = params + updates
            found.append(params)
        return np.asarray(found)

    ball = path(momentum(0.1, 0.81))
    np.testing.assert_allclose(path(momentum(0.1, 0.81, normalization="steps")), ball, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(path(momentum(0.1 / 0.19, 0.81, normalization="average")), ball, rtol=1e-5, atol=1e-6)
    variance = momentum(0.1 / 0.3439**0.5, 0.6561, normalization="variance_preserving")
    np.testing.assert_allclose(path(variance), ball, rtol=1e-5, atol=1e-6)

    def halt(step):
        return jnp.where(step < 3, 0.1, 0.0)

    stopped, coasting = (path(momentum(halt, 0.81, normalization=n)) for n in ("heavy_ball", "steps"))
    np.testing.assert_array_equal(stopped[-1], stopped[2])
    assert np.abs(coasting[-1] - coasting[2]).max() > 0.1


def test_adam_first_step_is_the_learning_rate():
    # Whatever the gradient's size. 1 − float32(0.999)¹ taken naively would be off by 1e-5.
    gradients = jnp.array([1e-3, -1.0, 1e4])
    updates, _ = adam(0.01).update(gradients, adam(0.01).init(gradients))
    exact = -0.01 * np.asarray(gradients, np.float64) / (np.abs(np.asarray(gradients, np.float64)) + 1e-8)
    np.testing.assert_allclose(updates, exact, rtol=4e-7)
    plain = adam(0.01, eps=1e-12, bias_correction=False)
    updates, _ = plain.update(gradients, plain.init(gradients))
    np.testing.assert_allclose(updates, -0.01 * np.sign(gradients) * 0.1 / 0.001**0.5, rtol=1e-6)


def test_decoupled_decay_shrinks_all_parameters_at_one_rate_and_a_penalty_does_not():
    gradients, params = jnp.array([1e-3, 1e3]), jnp.array([2.0, 2.0])

    def shrinkage(optimizer, without):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        plain, _ = without.update(gradients, without.init(params), params)
        return (plain - updates) / params

    decoupled = shrinkage(adamw(0.1, weight_decay=0.5), adam(0.1))
    np.testing.assert_allclose(decoupled, 0.1 * 0.5, rtol=1e-5)
    penalty = shrinkage(chain(l2_regularization(0.5), adam(0.1)), adam(0.1))
    np.testing.assert_allclose(penalty, 0, atol=1e-6)  # the first step is η whatever is added to g
    of_sgd = shrinkage(chain(l2_regularization(0.5), sgd(0.1)), sgd(0.1))
    np.testing.assert_allclose(of_sgd[0], 0.1 * 0.5, rtol=1e-5)


def test_decay_of_some_parameters():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "none": None}
    zeros = jax.tree.map(jnp.zeros_like, params)
    masks = {"w": True, "b": False, "none": None}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    for mask in masks:
        for optimizer in (
            adamw(0.1, weight_decay=0.5, mask=mask),
            chain(l2_regularization(0.5, mask=mask), sgd(0.1)),
        ):
            updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
            np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
            np.testing.assert_array_equal(updates["b"], 0)
    for mask, error, message in (
        ({"w": True}, ValueError, "adamw: mask has another structure than params"),
        ({"w": 1, "b": False, "none": None}, TypeError, "mask['w'] is 1 (int); expected True or False"),
    ):
        optimizer = adamw(0.1, mask=mask)
        with pytest.raises(error, match=re.escape(message)):
            optimizer.update(params, optimizer.init(params), params)


def test_masks_that_can_be_called():
    @jax.tree_util.register_pytree_node_class
    class Module:
        def __init__(self, w, b):
            self.w, self.b = w, b

        def __call__(self, x):
            return x @ self.w + self.b

        def tree_flatten(self):
            return (self.w, self.b), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    params = Module(jnp.ones((2, 2)), jnp.ones(2))
    optimizer = adamw(0.1, weight_decay=0.5, mask=Module(True, False))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates.w, -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates.b, 0)


def test_chain_passes_keywords_to_those_that_take_them():
    seen = []

    def update(gradients, state, params=None, **more):
        seen.append(more)
        return gradients, state

    watching = (lambda params: (), update)
    outer = chain(sgd(0.1), chain(watching, momentum(0.1)), watching)
    outer.update(jnp.ones(2), outer.init(jnp.ones(2)), value=3.0)
    assert seen == [{"value": 3.0}] * 2


def test_chain_passes_updates_on_and_keeps_every_state():
    nothing = chain()
    updates, state = nothing.update(jnp.ones(2), nothing.init(jnp.ones(2)))
    np.testing.assert_array_equal(updates, jnp.ones(2))
    assert state == ()
    nested = chain(chain(optimizers.clip_by_value(0.5)), momentum(0.1))
    state = nested.init(jnp.ones(2))
    updates, state = nested.update(jnp.array([3.0, -0.2]), state)
    np.testing.assert_allclose(updates, [-0.05, 0.02], rtol=1e-6)
    np.testing.assert_allclose(state[1].velocity, [0.5, -0.2], rtol=1e-6)


def test_gradient_descent_is_stable_up_to_two_over_the_largest_curvature():
    # O5 of the notes: in the ravine x² / 2 + 20 y² / 2 the limit is η = 2 / 20.
    curvature = jnp.array([1.0, 20.0])
    inside, _ = descend(sgd(0.099), jnp.ones(2), lambda x: curvature * x, steps=500)
    outside, _ = descend(sgd(0.101), jnp.ones(2), lambda x: curvature * x, steps=500)
    assert np.max(np.abs(inside)) < 1e-2
    assert np.abs(outside[0]) < 1e-2
    assert np.abs(outside[1]) > 1e3  # diverges in the steep coordinate only
