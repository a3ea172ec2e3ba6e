"""Machines of bad input: an error that says how to mend it, or the right answer; traced, NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from svm_cases import RBF, blobs

from fundamentals import svm

X, Y = blobs(17, 6)


FIT = {"kernel": RBF, "c": 1.0}


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "fit_dual: y has the value 0; expected -1 or +1", lambda: svm.fit_dual(X, Y // 2 + 1, **FIT)),
        (ValueError, "fit_dual: y is 1 everywhere; expected both classes", lambda: svm.fit_dual(X, Y * Y, **FIT)),
        (ValueError, "fit_primal: y is 1 everywhere", lambda: svm.fit_primal(X, Y * Y, c=1.0)),
        (ValueError, "fit_dual: x[0, 1] is nan; expected finite", lambda: svm.fit_dual(X * [1, np.nan], Y, **FIT)),
        (ValueError, "fit_primal: x[0, 0] is inf", lambda: svm.fit_primal(X * np.inf, Y, c=1.0)),
        (ValueError, "fit_dual: c has the value 0.0; expected positive", lambda: svm.fit_dual(X, Y, kernel=RBF, c=0.0)),
        (ValueError, "fit_dual: c has the value -1", lambda: svm.fit_dual(X, Y, kernel=RBF, c=-1)),
        (ValueError, "fit_dual: c has the value inf", lambda: svm.fit_dual(X, Y, kernel=RBF, c=np.inf)),
        (
            ValueError,
            "fit_dual: c has shape [5]; expected a number",
            lambda: svm.fit_dual(X, Y, kernel=RBF, c=X[1:, 0]),
        ),
        (
            ValueError,
            "rbf_kernel: gamma is 0.0; expected a number in (0, inf)",
            lambda: svm.fit_dual(X, Y, kernel=functools.partial(svm.rbf_kernel, gamma=0.0), c=1.0),
        ),
        (
            ValueError,
            "polynomial_kernel: degree is 0; expected an integer ≥ 1",
            lambda: svm.polynomial_kernel(X, X, degree=0, offset=1.0),
        ),
        (ValueError, "offset is -1", lambda: svm.polynomial_kernel(X, X, degree=2, offset=-1.0)),
        (ValueError, "rbf_kernel: z has shape [6, 3]", lambda: svm.rbf_kernel(X, np.ones((6, 3)), gamma=1.0)),
        (ValueError, "fit_dual: y has shape [5]; expected [N] with N = 6", lambda: svm.fit_dual(X, Y[1:], **FIT)),
        (ValueError, "fit_dual: x has N = 0", lambda: svm.fit_dual(X[:0], Y[:0], **FIT)),
        (TypeError, "fit_dual: x has dtype int32", lambda: svm.fit_dual(np.int32(X), Y, **FIT)),
        (TypeError, "fit_dual: kernel is 'rbf'; expected a function", lambda: svm.fit_dual(X, Y, kernel="rbf", c=1.0)),
        (
            ValueError,
            "fit_dual: kernel returned",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: x @ z.T[:, 0], c=1.0),
        ),
        (
            ValueError,
            "fit_dual: ‖w‖² is negative; expected a kernel that is positive semidefinite",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: -x @ z.T, c=1.0),
        ),
        (
            ValueError,
            "fit_dual: kernel failed on points [2, 2] and [3, 2]; expected their Gram matrix",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: jnp.dot(x, z), c=1.0),
        ),
        (
            ValueError,
            "decision_function: machine has a batch axis; expected one machine",
            lambda: svm.predict(jax.vmap(lambda c: svm.fit_dual(X, Y, kernel=RBF, c=c))(np.ones(2)), X),
        ),
        (
            ValueError,
            "decision_function: x[0, 0] is nan",
            lambda: svm.predict(svm.fit_dual(X, Y, **FIT), np.nan * X),
        ),
        (
            TypeError,
            "fit_dual: kernel can't be traced; expected a function written in jax.numpy",
            lambda: svm.fit_dual(X, Y, kernel=lambda x, z: np.asarray(x) @ np.asarray(z).T, c=1.0),
        ),
        (
            TypeError,
            "'gamma'; bind it, as in functools.partial",
            lambda: svm.fit_dual(X, Y, kernel=svm.rbf_kernel, c=1.0),
        ),
        (
            ValueError,
            "fit_dual: the objective is nan; expected points and a kernel whose values do not overflow",
            lambda: svm.fit_dual(1e30 * X, Y, kernel=svm.linear_kernel, c=1.0),
        ),
        (ValueError, "fit_dual: tolerance is 0", lambda: svm.fit_dual(X, Y, **FIT, tolerance=0)),
        (ValueError, "fit_dual: relative_gap is -1", lambda: svm.fit_dual(X, Y, **FIT, relative_gap=-1)),
        (ValueError, "fit_dual: max_iterations is 0", lambda: svm.fit_dual(X, Y, **FIT, max_iterations=0)),
        (
            ValueError,
            "fit_dual: memory_bytes is 9; expected at least",
            lambda: svm.fit_dual(X, Y, **FIT, memory_bytes=9),
        ),
        (ValueError, "fit_one_vs_one: labels has 1 class", lambda: svm.fit_one_vs_one(X, Y * Y, **FIT)),
        (
            TypeError,
            "fit_one_vs_one: labels is traced",
            lambda: jax.jit(lambda y: svm.fit_one_vs_one(X, y, **FIT))(jnp.asarray(Y)),
        ),
        (
            ValueError,
            "decision_function: x has shape [6, 3]; expected [B, D] with D = 2",
            lambda: svm.decision_function(svm.fit_dual(X, Y, **FIT), np.ones((6, 3), np.float32)),
        ),
        (ValueError, "weights: the kernel is rbf_kernel", lambda: svm.weights(svm.fit_dual(X, Y, **FIT))),
        (TypeError, "decision_function: machine is of type float", lambda: svm.predict(1.0, X)),
        (
            ValueError,
            "duality_gap: machine has 6 multipliers; expected N = 4",
            lambda: svm.duality_gap(svm.fit_dual(X, Y, **FIT), X[:4], Y[:4], c=1.0),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(error, message, call):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def _nan_point(x, y, c, gamma):
    return x.at[2, 1].set(jnp.nan), y, c, gamma


INVALID = {
    "NaN": _nan_point,
    "labels 0 and 1": lambda x, y, c, gamma: (x, (y + 1) / 2, c, gamma),
    "c = 0": lambda x, y, c, gamma: (x, y, 0 * c, gamma),
    "c = -1": lambda x, y, c, gamma: (x, y, -c, gamma),
    "gamma = -1": lambda x, y, c, gamma: (x, y, c, -gamma),
}


@functools.partial(jax.jit, static_argnames="name")
def spoilt(name, x, y, c, gamma):
    x, y, c, gamma = INVALID[name](x, y, c, gamma)
    machine = svm.fit_dual(x, y, kernel=functools.partial(svm.rbf_kernel, gamma=gamma), c=c)
    return machine, None if name.startswith("gamma") else svm.fit_primal(x, y, c=c, max_iterations=20)


@pytest.mark.parametrize("name", INVALID)
def test_what_nobody_could_check_is_nan(name):
    x, y = blobs(23, 11)
    for machine in spoilt(name, x.astype(np.float32), y.astype(np.float32), np.float32(1), np.float32(1)):
        if machine is not None:
            assert np.isnan([machine.primal, machine.dual, machine.gap]).all(), machine
            assert not machine.converged


def test_integers_of_numpy_are_options_of_a_kernel():
    x, y = blobs(12, 31)
    cubic = functools.partial(svm.polynomial_kernel, degree=np.int64(3), offset=np.float32(0.5), gamma=0.7)
    machine = svm.fit_dual(x, y, kernel=cubic, c=1.0)
    assert machine.converged
    assert machine.kernel.options == (("degree", 3),)


def test_under_jit_one_class_gives_the_constant():
    x = np.ones((3, 2), np.float32)
    machine = jax.jit(lambda y: svm.fit_dual(x, y, kernel=RBF, c=1.0))(jnp.array([-1, -1, -1]))
    assert machine.converged
    np.testing.assert_array_equal(svm.predict(machine, x), -1)
    np.testing.assert_array_equal(machine.gap, 0)


def test_machines_are_shown_in_a_line():
    x, y = blobs(24, 31)
    machine = svm.fit_dual(x, y, kernel=RBF, c=1.0)
    assert repr(machine).startswith(f"SupportVectorMachine({len(machine.support)} of 31 points, bias=")
    assert repr(svm.fit_primal(x.astype(np.float32), y, c=1.0)).endswith("converged=True)")
    shown = []
    jax.jit(lambda c: shown.append(repr(svm.fit_dual(x, y, kernel=RBF, c=c))))(1.0)
    assert shown == ["SupportVectorMachine(31 points)"]


@pytest.mark.usefixtures("x64")
def test_points_that_no_machine_can_separate():
    same = np.ones((6, 2))
    y = np.array([1, 1, 1, 1, -1, -1])
    machine = svm.fit_dual(same, y, kernel=RBF, c=1.0, relative_gap=1e-9)
    assert machine.converged
    np.testing.assert_allclose(machine.primal, 4, rtol=1e-9)  # f = 1 everywhere: two slacks of 2
    np.testing.assert_array_equal(svm.predict(machine, same), 1)
    far = np.array([[0.0], [1e6], [2e6]])
    machine = svm.fit_dual(far, np.array([1, -1, 1]), kernel=RBF, c=10.0)
    np.testing.assert_array_equal(svm.predict(machine, far), [1, -1, 1])
