"""Verification of gradients that were derived by hand: whether they are right and, if not, what is wrong with them.

    from fundamentals import gradcheck

    report = gradcheck.check_vjp(layer, layer_fwd, layer_bwd, (x, w, b))
    print(report)

compares a backward pass with autodiff in float64 and with finite differences that have an error bar, at the arguments
given and at random ones near them. A wrong gradient is explained: a path that is dropped or counted twice, a factor
that is missing, a transposed operand …, with the line of the function where it happens. In a test,
`gradcheck.assert_vjp(layer, layer_fwd, layer_bwd, (x, w, b))` is one line, and its failure shows the table.

    check_vjp           a backward pass in the protocol of `jax.custom_vjp`
    check_rule          the same, of a `fundamentals.base.Rule`
    check_gradient      a function that stands where `jax.grad(loss)` could
    check_custom_vjp    the rules inside of a function, against its own operations

The functions are any that JAX can trace, and some that it cannot; arguments are any pytrees. Nothing of the caller's
configuration is touched.
"""

from fundamentals.gradcheck.check import (
    assert_custom_vjp,
    assert_gradient,
    assert_rule,
    assert_vjp,
    check_custom_vjp,
    check_gradient,
    check_rule,
    check_vjp,
)
from fundamentals.gradcheck.report import Cause, Diagnosis, Leaf, Report, Verdict

__all__ = [
    "Cause",
    "Diagnosis",
    "Leaf",
    "Report",
    "Verdict",
    "assert_custom_vjp",
    "assert_gradient",
    "assert_rule",
    "assert_vjp",
    "check_custom_vjp",
    "check_gradient",
    "check_rule",
    "check_vjp",
]
