"""The arguments of a derivative."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

Derivative: TypeAlias = tuple[Any, ...]  # a cotangent for each operand, or None


class Call(NamedTuple):
    """One evaluation of an operation."""

    equation: Any  # JAX's own
    operands: Sequence[Any]
    results: Sequence[Any]
    wanted: Sequence[bool]  # whether the cotangent of each operand is needed; others need not be computed

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the operation."""
        params: dict[str, Any] = self.equation.params
        return params


class Rule(NamedTuple):
    """How cotangents go back through an operation that mixes entries."""

    words: str  # what happens to the upstream gradient
    derive: Callable[[Call, Any], Derivative]  # the cotangent of the result, or a tuple of them, to the operands'
