"""The checks as their users call them: verdicts, oracles, options, precision."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import RANDOM, B, W, X, causes, check, layer, layer_bwd, only

from fundamentals import Rule, gradcheck
from fundamentals.gradcheck import Cause, Verdict, judge


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


def test_other_points_are_the_callers_if_given():
    def right_above_zero(args, dy):
        return (jnp.where(args[0] > 0, 2 * args[0] * dy, 0),)

    above, below = np.abs(X) + 0.1, -np.abs(X) - 0.1
    assert check(lambda x: x**2, right_above_zero, above, points=0).passed
    assert check(lambda x: x**2, right_above_zero, above, points=[(below,)]).verdict == "INCONCLUSIVE"


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
