"""An equation of a program, seen from one of its operands, in the middle of a reverse sweep."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fundamentals.gradcheck.report import Cause
from fundamentals.gradcheck.sweep import Edge, Sweep, is_complex, is_inexact
from fundamentals.program import Program, read


class Wrong(NamedTuple):
    """A wrong cotangent for an operand. `detail` and `fix` are completed with the place."""

    label: str  # the same at every point, so that it can be looked up
    cause: Cause
    cotangent: Any
    detail: str
    fix: str
    tier: int = (
        0  # 0: the operation's own numbers; 1: another value for an operand; 2: for what a derivative is taken at
    )


class View(NamedTuple):
    """An equation, its operand in question and all values at some point."""

    program: Program
    swept: Sweep
    edge: Edge
    name: Callable[[Any], str]  # of a variable, for people
    substitutes: list[Any]  # variables that could be taken for another

    @property
    def equation(self) -> Any:
        """The equation."""
        return self.program.equations[self.edge.equation]

    @property
    def operands(self) -> list[Any]:
        """Values."""
        return self.operands_of(self.equation)

    def operands_of(self, equation: Any) -> list[Any]:
        """Those of another equation."""
        return [x if hasattr(x, "dtype") else np.asarray(x) for x in read(self.swept.values, equation.invars)]

    @property
    def g(self) -> Any:
        """The cotangent of the result."""
        variable = self.equation.outvars[0]
        found = self.swept.outputs.get(variable)
        return np.zeros(variable.aval.shape) if found is None else found

    @property
    def c(self) -> Any:
        """The right cotangent of the operand."""
        return self.swept.cotangents[self.edge]

    def others(self, variable: Any) -> Iterator[tuple[str, Any]]:
        """Other floating variables of the same shape."""
        for v in self.substitutes:
            if v is not variable and v.aval.shape == variable.aval.shape and is_inexact(v) and not is_complex(v):
                yield self.name(v), self.swept.values[v]

    def replaced(self, variable: Any, how: str) -> Iterator[tuple[str, Any, Cause, str, str]]:
        """Other variables in place of one: (label, value, cause, detail, fix). One that is a sum may lack a term."""
        its = self.name(variable)
        terms = self._terms(variable)
        for v in self.substitutes:
            if v is variable or v.aval.shape != variable.aval.shape or not is_inexact(v) or is_complex(v):
                continue
            name, value = self.name(v), self.swept.values[v]
            if any(v is term for term in terms) and v not in self.program.jaxpr.jaxpr.invars:
                rest = " and ".join(self.name(term) for term in terms if term is not v)
                yield (
                    name,
                    value,
                    Cause.MISSING_PATH,
                    f"{how} {name} alone: in {its}, {rest} is left out",
                    f"add {rest}",
                )
            else:
                yield name, value, Cause.WRONG_OPERAND, f"{how} {name} in place of {its}", f"take {its}"

    def _terms(self, variable: Any) -> list[Any]:
        for equation in self.program.equations:
            if equation.primitive.name in ("add", "sub", "add_any") and equation.outvars[0] is variable:
                return list(equation.invars)
        return []
