"""Networks as chains of stages (params_i, carry) → carry, which `fundamentals.memory` plans and chains.

Each model's `stages(params, …)` is made of the passes that its own forward and backward pass are made of:

    rules, parts = mlp.stages(params)
    plan = memory.plan(rules, parts, x, budget="64MiB")
    logits = memory.chain(rules, plan)(parts, x)      # mlp(params, x); its gradient keeps the budget

Rules are differentiated by hand, `[rule.primal for rule in rules]` by autodiff. To differentiate by `params`, call
`stages` inside of the function that is differentiated. `objective.mean(loss_rule)` is a last stage.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from fundamentals.base import Rule


class Stages(NamedTuple):
    """A network as a chain."""

    rules: tuple[Rule, ...]  # of (params_i, carry), whose backward passes return (dparams_i, dcarry)
    params: tuple[Any, ...]  # one entry for each rule: parts of the network's


def as_rule(fwd: Callable[..., Any], bwd: Callable[..., Any], **options: Any) -> Rule:
    """A rule of (params_i, carry) from its two passes, with what both take beside it."""
    fwd, bwd = functools.partial(fwd, **options), functools.partial(bwd, **options)

    def primal(params: Any, x: Any) -> Any:
        return fwd(params, x)[0]

    return Rule(primal, fwd, bwd)
