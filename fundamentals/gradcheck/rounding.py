"""What rounding may make of a gradient, and of loops that stop when they are near enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fundamentals.gradcheck.evaluation import precisely
from fundamentals.gradcheck.subject import Problem
from fundamentals.gradcheck.sweep import Edge, Sweep, compile_sweep, is_inexact
from fundamentals.program import evaluate, execute, read


class Probe(NamedTuple):
    """A point, a cotangent, and both gradients there. Without autodiff, `truth` is empty."""

    leaves: list[Any]
    dy: list[Any]
    truth: list[Any]
    manual: list[Any]


def probe_at(problem: Problem, leaves: list[Any], dy: list[Any]) -> Probe:
    """Both gradients at a point."""
    truth = problem.truth(leaves, dy) if problem.truth else []
    return Probe(leaves, dy, truth, problem.manual(leaves, dy))


def narrow_dtype(problem: Problem) -> Any:
    """The floating type with the fewest digits that anything is in."""
    kinds = [n.dtype for n in (problem.narrow_primal, problem.narrow) if n is not None] + list(problem.given)
    return max(kinds, key=lambda d: np.finfo(d).eps if d.kind in "fc" else float(jax.numpy.finfo(d).eps))


class Rounding:
    """Measured where two gradients differ by more than they should; compiled once, and only then."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.found: dict[int, tuple[list[float], list[float]]] = {}
        self.sweeper: Callable[..., Sweep] | None = None
        self.settler: Callable[..., list[Any]] | None = None

    def of(self, probe: Probe, leaf: int) -> tuple[float, float]:
        """How much a leaf of both gradients changes when the arguments do by one unit in the last place, or a loop by
        one step; and the size of what cancels in it, if the leaf is nothing but rounding.
        """
        if id(probe) not in self.found:
            self.found[id(probe)] = self._measured(probe)
        noise, gross = self.found[id(probe)]
        return noise[leaf], gross[leaf]

    def _measured(self, probe: Probe) -> tuple[list[float], list[float]]:
        problem, random = self.problem, np.random.RandomState(0)
        eps = float(np.finfo(np.float64).eps if problem.precise else jnp.finfo(narrow_dtype(problem)).eps)
        noise = [0.0] * len(problem.which)
        for _ in range(2):
            leaves = [
                np.asarray(x * (1 + eps * random.choice([-1, 1], x.shape)), x.dtype) if k in problem.which else x
                for k, x in enumerate(probe.leaves)
            ]
            other = probe_at(problem, leaves, probe.dy)
            for i in range(len(noise)):
                for a, b in ((other.truth[i], probe.truth[i]), (other.manual[i], probe.manual[i])):
                    noise[i] = max(noise[i], _largest(a - b))
        for i, change in enumerate(self._unsettled(probe)):
            noise[i] = max(noise[i], change / 6)  # so that five of it are tolerated
        return noise, self._gross(probe, noise)

    def _gross(self, probe: Probe, noise: list[float]) -> list[float]:
        """The largest cotangent that a leaf gets by one of its uses, where all of them together are nothing."""
        program, problem = self.problem.program, self.problem
        gross = [0.0] * len(noise)
        small = [i for i, n in enumerate(noise) if n > 1e-6 * _largest(probe.truth[i])]
        if program is None or not small or any(map(ends_by_condition, program.equations)):  # no reverse mode
            return gross
        with precisely():
            self.sweeper = self.sweeper or compile_sweep(program)
            swept = self.sweeper(probe.leaves, probe.dy)
        for i in small:
            same = [program.jaxpr.jaxpr.invars[problem.which[i]]]  # it, and what it is broadcast to
            for number, equation in enumerate(program.equations):
                for operand, variable in enumerate(equation.invars):
                    if any(variable is v for v in same):
                        gross[i] = max(gross[i], _largest(swept.cotangents[Edge(number, operand)]))
                        if equation.primitive.name in ("broadcast_in_dim", "reshape", "squeeze"):
                            same.append(equation.outvars[0])
        return gross

    def _unsettled(self, probe: Probe) -> list[float]:
        """How much one more step of every loop that ends by a condition changes the gradient: such a loop has an answer
        to some tolerance only, and so has its derivative.
        """
        program = self.problem.program
        if program is None or not any(_ends_when_near(e) for e in program.equations):
            return []
        self.settler = self.settler or self._compile_settler()
        with precisely():
            changed = self.settler(probe.leaves, probe.dy)
        return [_largest(np.asarray(a) - b) for a, b in zip(changed, probe.truth, strict=True)]

    def _compile_settler(self) -> Callable[..., list[Any]]:
        program, which = self.problem.program, self.problem.which
        assert program is not None

        def apply(_: int, equation: Any, operands: list[Any]) -> list[Any]:
            results = execute(equation, operands)
            if not _ends_when_near(equation):
                return results
            skipped, own = equation.params["cond_nconsts"], equation.params["body_nconsts"]
            body = equation.params["body_jaxpr"]
            return list(core.jaxpr_as_fun(body)(*operands[skipped : skipped + own], *results))

        @jax.jit
        def gradient(leaves: list[Any], dy: list[Any]) -> Any:
            def scalar(*full: Any) -> Any:
                y = read(evaluate(program.jaxpr.jaxpr, program.jaxpr.consts, full, apply), program.jaxpr.jaxpr.outvars)
                return sum(jnp.sum(a * d) for a, d in zip(y, dy, strict=True))

            return jax.jacfwd(scalar, which)(*leaves)

        return gradient


def _largest(x: Any) -> float:
    size = np.abs(x)
    return float(np.max(size, initial=0.0, where=np.isfinite(size)))


def ends_by_condition(equation: Any) -> bool:
    """Whether it is a loop of unknown length, which has no derivative in reverse."""
    return equation.primitive.name == "while" and any(map(is_inexact, equation.outvars))


def _ends_when_near(equation: Any) -> bool:
    """Whether it is a loop that ends when floating numbers say so, as an iterative solution does; not by counting."""
    if not ends_by_condition(equation):
        return False
    condition = equation.params["cond_jaxpr"].jaxpr
    return any(is_inexact(v) for inner in condition.eqns for v in inner.invars)
