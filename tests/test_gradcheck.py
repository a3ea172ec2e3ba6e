"""The checks as their users call them: verdicts, contract, options, and that nothing escapes as a traceback."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fundamentals import Rule, gradcheck
from fundamentals.gradcheck import Cause, Verdict, judge

RANDOM = np.random.RandomState(0)
X, W, B = (RANDOM.normal(size=size).astype(np.float32) for size in ((5, 3), (3, 7), (7,)))
KINKED = np.array([0.0, 1.5, -2.5, 3.5], np.float32)


def check(primal, backward, *args, **options):
    return gradcheck.check_vjp(primal, lambda *args: (primal(*args), args), backward, args, **options)


def layer(x, w, b):
    return jnp.tanh(x @ w + b[None, :])


def layer_bwd(args, dy):
    x, w, b = args
    da = dy * (1 - layer(x, w, b) ** 2)
    return da @ w.T, x.T @ da, da.sum(0)


def relu(x):
    return jnp.where(x > 0, x, 0)


def only(report):
    (leaf,) = report.leaves
    return leaf


def causes(report):
    return [diagnosis.cause for diagnosis in report.diagnoses]


def test_a_right_gradient_passes_and_both_oracles_agree():
    report = check(layer, layer_bwd, X, W, B)
    assert (report.verdict, report.passed, report.diagnoses) == (Verdict.PASS, True, ())
    assert [leaf.path for leaf in report.leaves] == ["x", "w", "b"]
    for leaf in report.leaves:
        assert leaf.relative_error <= 1e-14
        assert leaf.differences <= 1e-11
        assert leaf.detects == 1e-9
    report.raise_if_failed()


def test_a_wrong_gradient_fails_with_the_table_and_the_line():
    def wrong(args, dy):
        dx, dw, db = layer_bwd(args, dy)
        return dx, dw, db / 5

    report = check(layer, wrong, X, W, B)
    assert [str(leaf.verdict) for leaf in report.leaves] == ["PASS", "PASS", "WRONG"]
    (diagnosis,) = report.diagnoses
    assert (diagnosis.cause, diagnosis.leaf, diagnosis.verified) == (Cause.SCALE, "b", True)
    assert "1/5" in diagnosis.detail
    assert "axis 0 of x" in diagnosis.detail
    with pytest.raises(AssertionError, match=r"(?s)^layer: WRONG.*b +WRONG.*SCALE in b.*1/5 of what it should be"):
        report.raise_if_failed()
    told = json.loads(report.to_json())
    assert told["leaves"][2] | {"relative_error": 0, "differences": 0} == {
        "path": "b", "verdict": "WRONG", "relative_error": 0, "detects": 1e-9, "detail": "everywhere", "differences": 0,
    }  # fmt: skip
    assert told["diagnoses"][0]["cause"] == "SCALE"


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_verdicts_do_not_depend_on_the_scale(size):
    assert check(lambda x: size * x**2, lambda args, dy: (2 * size * dy * args[0],), X).passed
    report = check(lambda x: size * x**2, lambda args, dy: ((2 + 1e-6) * size * dy * args[0],), X)
    assert report.verdict == "WRONG"


def test_one_wrong_entry_is_pointed_at():
    def wrong(args, dy):
        return (2 * args[0] * dy * jnp.ones((41, 53)).at[17, 31].set(1 + 1e-6),)

    leaf = only(check(lambda x: x**2, wrong, RANDOM.normal(size=(41, 53)).astype(np.float32)))
    assert (leaf.verdict, leaf.detail) == ("WRONG", "at [17, 31]")


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


def test_a_mistake_that_the_arguments_hide_does_not_pass():
    def without_scale(args, dy):
        return dy, (dy * args[0]).sum(0)

    report = check(lambda x, scale: x * scale[None, :], without_scale, X, np.ones(3, np.float32))
    assert (report.verdict, report.passed) == ("INCONCLUSIVE", False)
    assert "right at the arguments given, wrong at others" in report.leaves[0].detail
    assert causes(report) == [Cause.MISSING_FACTOR]


def test_what_an_argument_obeys_is_kept_at_other_points():
    # p − q is the gradient for rows q that sum to 1 only.
    labels = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32)

    def cross_entropy(z, q):
        return -(q * jax.nn.log_softmax(z)).sum(1)

    def backward(args, dy):
        z, q = args
        return (jax.nn.softmax(z) - q) * dy[:, None], -jax.nn.log_softmax(z) * dy[:, None]

    assert check(cross_entropy, backward, X[:2], labels).verdict == "PASS"


def test_cotangent_ignored_or_nonlinear():
    assert causes(check(lambda x: x**2, lambda args, dy: (2 * args[0] + 0 * dy,), X)) == [Cause.COTANGENT_IGNORED]
    assert causes(check(lambda x: x**2, lambda args, dy: (2 * args[0] * dy**2,), X)) == [Cause.COTANGENT_NONLINEAR]
    # Hidden by a cotangent of ones, but for other points.
    report = check(lambda x: x**2, lambda args, dy: (2 * args[0] + 0 * dy,), X, cotangent=np.ones_like(X))
    assert report.verdict == "WRONG"


def test_blame_when_a_rule_inside_of_the_function_is_wrong():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, dy: (x * dy,))
    report = check(square, lambda args, dy: (2 * args[0] * dy,), X)
    assert report.verdict == "PASS"
    assert "custom rule that is wrong" in report.notes[0]
    told = gradcheck.check_custom_vjp(square, (X,))
    assert (told.verdict, causes(told)) == ("WRONG", [Cause.SCALE])
    assert gradcheck.check_custom_vjp(square, (X,), reference=lambda x: x**2).verdict == "WRONG"
    agreeing = check(square, lambda args, dy: (args[0] * dy,), X)
    assert agreeing.verdict == "INCONCLUSIVE"
    assert "finite differences give" in only(agreeing).detail


def test_stop_gradient_is_an_intent():
    def straight_through(x):
        return x + jax.lax.stop_gradient(jnp.round(x) - x)

    report = check(straight_through, lambda args, dy: (dy,), X)
    assert report.verdict == "PASS"
    assert only(report).differences <= 1e-11
    through = check(lambda x: x * jax.lax.stop_gradient(x), lambda args, dy: (2 * args[0] * dy,), X)
    assert (through.verdict, causes(through)) == ("WRONG", [Cause.SCALE])


def test_gradients_of_losses():
    def loss(params, x):
        return jnp.mean((x @ params["w"] + params["b"][None, :]) ** 2)

    def gradient(params, x):
        residual = 2 * (x @ params["w"] + params["b"][None, :]) / (5 * 7)
        return {"w": x.T @ residual, "b": residual.sum(0)}

    params = {"w": W, "b": B}
    report = gradcheck.check_gradient(loss, gradient, (params, X))
    assert [leaf.path for leaf in report.leaves] == ["params['b']", "params['w']"]
    assert report.verdict == "PASS"

    def both(params, x):
        residual = 2 * (x @ params["w"] + params["b"][None, :]) / (5 * 7)
        return gradient(params, x), residual @ params["w"].T

    assert gradcheck.check_gradient(loss, both, (params, X), argnums=(0, 1)).verdict == "PASS"
    assert gradcheck.check_gradient(lambda x, p: loss(p, x), lambda x, p: both(p, x)[1], (X, params)).verdict == "PASS"


def test_numpy_is_called_as_it_is_and_judged_by_differences():
    def loss(w):
        return float(np.sum(np.asarray(w) ** 3))

    report = gradcheck.check_gradient(loss, lambda w: 3 * np.asarray(w) ** 2, (W,))
    assert (report.verdict, only(report).detects) == ("PASS", 1e-6)
    wrong = gradcheck.check_gradient(loss, lambda w: np.asarray(w) ** 2, (W,))
    assert (wrong.verdict, causes(wrong)) == ("WRONG", [Cause.SCALE])
    assert gradcheck.check_gradient(lambda w: jnp.sum(w**3), lambda w: 3 * np.asarray(w) ** 2, (W,)).passed


def test_second_order_sees_what_was_frozen():
    def frozen(args, dy):
        return (3 * dy * jax.lax.stop_gradient(args[0]) ** 2,)

    def right(args, dy):
        return (3 * dy * args[0] ** 2,)

    assert check(lambda x: x**3, frozen, X).passed
    assert check(lambda x: x**3, right, X, order=2).passed
    report = check(lambda x: x**3, frozen, X, order=2)
    assert [(leaf.path, str(leaf.verdict)) for leaf in report.leaves] == [
        ("x", "PASS"), ("x (order 2)", "WRONG"), ("dy (order 2)", "PASS"),
    ]  # fmt: skip


def test_precision_is_judged_apart_from_mathematics():
    def in_float32(x):
        return (x.astype(jnp.float32) ** 2).sum(1).astype(x.dtype)

    assert check(in_float32, lambda args, dy: (2 * args[0] * dy[:, None],), X).verdict == "PASS"
    half = check(in_float32, lambda args, dy: (args[0] * dy[:, None],), X)
    assert causes(half) == [Cause.SCALE]

    def in_half_precision(args, dy):
        x, w = (a.astype(jnp.bfloat16) for a in args)
        return (dy.astype(jnp.bfloat16) @ w.T).astype(dy.dtype), (x.T @ dy.astype(jnp.bfloat16)).astype(dy.dtype)

    report = check(lambda x, w: x @ w, in_half_precision, X, W)
    assert set(causes(report)) == {Cause.PRECISION}
    assert "bfloat16" in report.diagnoses[0].detail


def test_functions_that_refuse_float64_are_checked_all_the_same():
    def carried(x):  # a carry of another type than the sequence would be a TypeError
        return jax.lax.scan(lambda h, row: (h * row, None), jnp.ones(3, jnp.float32), x)[0]

    def closed_over(x):
        return x @ jnp.asarray(W)

    def backward(args, dy):
        x, y = args[0], carried(args[0])
        return (y[None] * dy[None] / x,)

    assert check(carried, backward, X).verdict == "PASS"
    with jax.numpy_dtype_promotion("strict"):
        assert check(closed_over, lambda args, dy: (dy @ jnp.asarray(W).T,), X).verdict == "PASS"


def test_integers_keys_empty_arrays_and_axes_of_length_one():
    ids = np.array([2, 0, 2])

    def embed(table, ids):
        return table[ids]

    def add(args, dy):
        return jnp.zeros_like(args[0]).at[args[1]].add(dy), None

    def overwrite(args, dy):
        return jnp.zeros_like(args[0]).at[args[1]].set(dy), None

    assert check(embed, add, X, ids).passed
    assert causes(check(embed, overwrite, X, ids)) == [Cause.OVERWRITE]

    def noisy(x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)

    def same_noise(args, dy):
        return noisy(dy, args[1]), None

    assert check(noisy, same_noise, X, jax.random.key(0)).passed
    assert only(check(lambda x: 2 * x, lambda args, dy: (2 * dy,), np.zeros((0, 3), np.float32))).detail == "empty"
    assert check(lambda x: x.sum(0), lambda args, dy: (dy[None],), np.ones((1, 1), np.float32)).passed


STRAY = []


def leaking(args, dy):
    STRAY.append(args[0])
    return (2 * STRAY[0] * dy,)


CALLS = []


def counting(args, dy):
    CALLS.append(1)
    return (len(CALLS) * dy,)


def in_place(args, dy):
    x = np.asarray(args[0])
    return (float(np.sum(x)) * dy,)


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda args, dy: (np.float32(np.random.rand()) * dy,), "depends on chance"),
        (counting, "depends on chance or on a state"),
        (leaking, "a side effect"),
        (lambda args, dy: 1 / 0, "raised ZeroDivisionError at test_gradcheck.py:"),
        (lambda args, dy: dy, "expected a tuple of 1"),
        (lambda args, dy: (dy, dy), "a tuple of 2; expected a tuple of 1"),
        (lambda args, dy: ([dy],), "the gradient for x is a list of 1; x is an array"),
        (lambda args, dy: (dy[0],), "is float32[3]; x is float32[5, 3]"),
        (lambda args, dy: (dy.astype(jnp.float16),), "is float16; x is float32"),
        (lambda args, dy: ("no",), "expected an array"),
    ],
)
def test_breaches_of_the_contract_are_told(backward, message):
    report = check(lambda x: x**2, backward, X)
    assert report.verdict == "CONTRACT"
    assert message in " ".join(str(report).split())


def test_functions_that_do_not_work_are_told():
    def twice(args, dy):
        return (2 * dy,)

    def raising(x):
        return x @ x

    assert "the function raised TypeError at test_gradcheck.py:" in str(check(raising, twice, X))
    assert "two calls of the function" in str(check(lambda x: x * np.float32(np.random.rand()), twice, X))
    assert "not finite at these arguments" in only(check(jnp.log, twice, np.float32([-1.0, 2.0]))).detail
    assert "no argument is floating" in str(check(lambda x: x, twice, np.arange(3)))
    assert "none of it floating" in str(check(lambda x: x.astype(int), twice, X))
    assert "one floating scalar" in str(gradcheck.check_gradient(lambda x: x, lambda x: x, (X,)))
    other = gradcheck.check_vjp(lambda x: 2 * x, lambda x: (2.5 * x, None), lambda _, dy: (2 * dy,), (X,))
    assert (other.verdict, causes(other)) == ("CONTRACT", [Cause.OTHER_FORWARD])
    assert "expected (y, residuals)" in str(gradcheck.check_vjp(relu, relu, lambda _, dy: (dy,), (X,)))


def test_wrong_shapes_are_explained():
    def unreduced(args, dy):
        dx, dw, _ = layer_bwd(args, dy)
        return dx, dw, dy * (1 - layer(*args) ** 2)

    def transposed(args, dy):
        dx, dw, db = layer_bwd(args, dy)
        return dx, dw.T, db

    report = check(layer, unreduced, X, W, B)
    assert (report.verdict, causes(report)) == ("CONTRACT", [Cause.UNREDUCED])
    assert report.diagnoses[0].fix == "db.sum(axis=0)"
    assert causes(check(layer, transposed, X, W, B)) == [Cause.TRANSPOSE]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check(relu, relu, X, point=3), TypeError, "unknown option 'point'"),
        (lambda: check(relu, relu, X, kinks="no"), ValueError, "expected 'classify' or 'strict'"),
        (lambda: check(relu, relu, X, order=3), ValueError, "order is 3"),
        (lambda: check(relu, relu, X, points=-1), ValueError, "points is -1"),
        (lambda: check(relu, relu, X, seed=-1), ValueError, "seed is -1"),
        (
            lambda: check(relu, lambda a, dy: (dy,), X, points=[(X[:2],)]),
            ValueError,
            "another structure or other shapes",
        ),
        (lambda: check(relu, lambda a, dy: (dy,), X, cotangent=X[:2]), ValueError, "cotangent has the shapes"),
        (lambda: check(lambda x, s: x, lambda a, dy: (dy,), X, "mean"), TypeError, "s is 'mean'; expected an array"),
        (lambda: gradcheck.check_vjp(relu, relu, relu, X), TypeError, "args is a ndarray; expected a tuple"),
        (lambda: gradcheck.check_vjp(relu, None, relu, (X,)), TypeError, "fwd is None; expected a function"),
        (lambda: gradcheck.check_rule(relu, (X,)), TypeError, r"expected \(primal, fwd, bwd\)"),
        (lambda: gradcheck.check_gradient(relu, relu, (X,), argnums=3), ValueError, "argnums is 3"),
        (lambda: gradcheck.check_gradient(relu, relu, (X,), cotangent=X), ValueError, "a loss has none"),
    ],
)
def test_unusable_calls_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_other_points_are_the_callers_if_given():
    def right_above_zero(args, dy):
        return (jnp.where(args[0] > 0, 2 * args[0] * dy, 0),)

    above, below = np.abs(X) + 0.1, -np.abs(X) - 0.1
    assert check(lambda x: x**2, right_above_zero, above, points=0).passed
    assert check(lambda x: x**2, right_above_zero, above, points=[(below,)]).verdict == "INCONCLUSIVE"


def test_configuration_of_the_caller_is_left_alone():
    before = jax.config.values.copy()
    check(layer, layer_bwd, X, W, B)
    assert jax.config.values == before
    assert jnp.zeros(()).dtype == jnp.float32


def test_assertions_in_one_line():
    rule = Rule(layer, lambda *args: (layer(*args), args), layer_bwd)
    assert gradcheck.assert_rule(rule, (X, W, B)).passed
    assert gradcheck.assert_vjp(*rule, (X, W, B)).passed
    assert gradcheck.assert_gradient(lambda x: (x**2).sum(), lambda x: 2 * x, (X,)).passed
    assert gradcheck.assert_custom_vjp(jax.nn.softplus, (X,)).passed
    with pytest.raises(AssertionError, match="SIGN in x"):
        gradcheck.assert_gradient(lambda x: (x**2).sum(), lambda x: -2 * x, (X,))


HIDDEN = [
    (lambda x, w: x @ w, lambda args, dy: (dy @ args[1], args[0].T @ dy), (X, np.eye(3, dtype=np.float32))),
    (lambda x, w: x @ w, lambda args, dy: (dy @ args[1], args[0].T @ dy), (X, np.diag(np.float32([1.5, 2, 3])))),
    (lambda x: x**3, lambda args, dy: (3 * dy,), (np.float32([1, -1, 1, -1]),)),
]


@pytest.mark.parametrize(("primal", "backward", "args"), HIDDEN)
def test_zeros_signs_and_symmetries_do_not_hide_mistakes(primal, backward, args):
    report = check(primal, backward, *args)
    assert (report.verdict, report.passed) == ("INCONCLUSIVE", False)


def test_differences_decide_where_autodiff_is_not_finite():
    def root(x):  # the derivative of the branch not taken is infinite, and 0 · ∞ is NaN
        return jnp.where(x > 0, jnp.sqrt(x), 0)

    def backward(slope, args, dy):
        x = args[0]
        return (dy * jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1)), slope),)

    x = np.float32([-1, 2, -3])
    assert check(root, lambda args, dy: backward(0.0, args, dy), x).verdict == "PASS"
    report = check(root, lambda args, dy: backward(7.0, args, dy), x)
    assert report.verdict == "WRONG"
    assert "autodiff is not finite, and differences give" in only(report).detail


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


def test_functions_that_raise_or_take_odd_arguments_get_a_report():
    def raising(w):
        if np.asarray(w)[0, 0] != X[0, 0]:
            raise ValueError("no other argument")
        return float(np.sum(np.asarray(w) ** 2))

    assert gradcheck.check_gradient(raising, lambda w: 2 * np.asarray(w), (X,)).verdict == "CONTRACT"
    tree = {"a": X, "b": None}
    assert check(lambda t: 2 * t["a"], lambda args, dy: ({"a": 2 * dy, "b": None},), tree).passed
    assert "is None" in str(gradcheck.check_gradient(lambda x: (x**2).sum(), lambda x: None, (X,)))
    assert gradcheck.check_gradient(lambda x: (x**2).sum(), lambda x: 2 * x, (X,), argnums=np.int64(0)).passed
    assert gradcheck.check_custom_vjp(lambda x: x**2, (X,)).verdict == "INCONCLUSIVE"
    with pytest.raises(TypeError, match="x is traced; check gradients outside of jit"):
        jax.jit(lambda x: check(relu, relu, x))(X)
    for cotangent in (0 * X, np.nan * X):
        with pytest.raises(ValueError, match="nothing could be seen"):
            check(lambda x: x**2, lambda args, dy: (2 * args[0] * dy,), X, cotangent=cotangent)
    mesh = jax.make_mesh((1,), ("i",))
    doubled = jax.shard_map(lambda x: 2 * x, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    assert check(doubled, lambda args, dy: (2 * dy,), X).passed


def test_a_result_that_is_not_used_is_named():
    def two(a, b):
        c = a * b
        return jnp.tanh(c), c

    def backward(args, dy):
        a, b = args
        dc = dy[0] * (1 - jnp.tanh(a * b) ** 2)
        return dc * b, dc * a

    report = check(two, backward, X, X[::-1].copy())
    assert causes(report) == [Cause.MISSING_PATH]
    assert "dy[1], is not used" in report.diagnoses[0].detail


def test_many_entries_are_looked_at_elsewhere_if_they_can_hide_a_mistake(monkeypatch):
    monkeypatch.setattr(judge, "LARGE", 10)

    def scaled(x, scale):
        return (x * scale[None, :]).sum(1)

    def without_scale(args, dy):
        x = args[0]
        return jnp.broadcast_to(dy[:, None], x.shape), (dy[:, None] * x).sum(0)

    assert check(scaled, without_scale, X, np.ones(3, np.float32)).verdict == "INCONCLUSIVE"
    generic = check(scaled, lambda args, dy: (dy[:, None] * args[1][None, :], (dy[:, None] * args[0]).sum(0)), X, X[0])
    assert generic.verdict == "PASS"
    assert "more than a million entries" in generic.notes[0]
