"""Support vector machines: kernels, the primal, the dual, and the gap between them.

Start at `objectives` for the problem and its dual, then `smo` for how the dual is solved; `primal` has what solves the
other. A machine is plain data:

    machine = fit_dual(x, y, kernel=functools.partial(rbf_kernel, gamma=0.5), c=1.0)
    predict(machine, new), decision_function(machine, new)
    duality_gap(machine, x, y, c=1.0), kkt_violations(machine, x, y, c=1.0)

Points are rows, labels −1 or +1 (`fit_one_vs_one` takes any classes); a price c may be given for every point.
Everything fits under `jit`, and under `vmap` a grid over C and γ is one call. What scikit-learn calls C, gamma, coef0,
degree and tol is c, gamma, offset, degree and tolerance here; its dual_coef_ is `coefficients`, its intercept_ `bias`.
"""

from fundamentals.svm.dual import DualTrace, fit_dual, trace_dual
from fundamentals.svm.kernels import (
    LinearKernelResiduals,
    PolynomialKernelResiduals,
    RbfKernelResiduals,
    linear_features,
    linear_kernel,
    linear_kernel_bwd,
    linear_kernel_fwd,
    polynomial_kernel,
    polynomial_kernel_bwd,
    polynomial_kernel_fwd,
    quadratic_features,
    rbf_kernel,
    rbf_kernel_bwd,
    rbf_kernel_fwd,
)
from fundamentals.svm.machines import (
    History,
    Kernel,
    LinearMachine,
    OneVsOne,
    SupportVectorMachine,
    decision_function,
    predict,
    weights,
)
from fundamentals.svm.multiclass import fit_one_vs_one
from fundamentals.svm.objectives import (
    PrimalObjectiveResiduals,
    dual_objective,
    lagrangian,
    primal_objective,
    primal_objective_bwd,
    primal_objective_fwd,
)
from fundamentals.svm.optimality import Slackness, complementary_slackness, duality_gap, kkt_violations
from fundamentals.svm.primal import StochasticMachine, best_bias, fit_primal, pegasos

__all__ = [
    "DualTrace",
    "History",
    "Kernel",
    "LinearKernelResiduals",
    "LinearMachine",
    "OneVsOne",
    "PolynomialKernelResiduals",
    "PrimalObjectiveResiduals",
    "RbfKernelResiduals",
    "Slackness",
    "StochasticMachine",
    "SupportVectorMachine",
    "best_bias",
    "complementary_slackness",
    "decision_function",
    "dual_objective",
    "duality_gap",
    "fit_dual",
    "fit_one_vs_one",
    "fit_primal",
    "kkt_violations",
    "lagrangian",
    "linear_features",
    "linear_kernel",
    "linear_kernel_bwd",
    "linear_kernel_fwd",
    "pegasos",
    "polynomial_kernel",
    "polynomial_kernel_bwd",
    "polynomial_kernel_fwd",
    "predict",
    "primal_objective",
    "primal_objective_bwd",
    "primal_objective_fwd",
    "quadratic_features",
    "rbf_kernel",
    "rbf_kernel_bwd",
    "rbf_kernel_fwd",
    "trace_dual",
    "weights",
]
