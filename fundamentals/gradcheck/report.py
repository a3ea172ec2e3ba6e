"""What a check found: a verdict for each leaf and for the whole, the causes, and how they are shown.

PASS          right, and a mistake of the size under "detects" would have been seen
WRONG         wrong; autodiff or finite differences prove it
KINK          the arguments lie on a kink, where the gradient is a convention, and the one taken is a possible one
INCONCLUSIVE  neither could be shown: the reason stands beside it
CONTRACT      not a gradient of this function at all: wrong structure or shape, an exception, chance
"""

import enum
import json
import math
import textwrap
from typing import Any, NamedTuple


class Verdict(enum.StrEnum):
    """See the module."""

    PASS = "PASS"
    KINK = "KINK"
    INCONCLUSIVE = "INCONCLUSIVE"
    WRONG = "WRONG"
    CONTRACT = "CONTRACT"

    @classmethod
    def worst(cls, verdicts: "list[Verdict]") -> "Verdict":
        """The overall verdict."""
        return max(verdicts, key=list(cls).index, default=cls.PASS)


class Cause(enum.StrEnum):
    """What is wrong with a gradient."""

    SIGN = "SIGN"  # −1 times the right one
    SCALE = "SCALE"  # a number times the right one
    TRANSPOSE = "TRANSPOSE"  # of the gradient, or of an operand on the way to it
    LAYOUT = "LAYOUT"  # the right numbers in other places: flipped, shifted, reshaped
    UNREDUCED = "UNREDUCED"  # not summed over an axis along which the forward pass broadcasts
    WRONG_AXIS = "WRONG_AXIS"  # summed, or counted, along another axis
    SWAPPED = "SWAPPED"  # the gradient of another leaf
    ZERO = "ZERO"  # nothing where there is something
    MISSING_PATH = "MISSING_PATH"  # what flows through one use of a value is left out
    DOUBLED_PATH = "DOUBLED_PATH"  # … counted twice
    PATH_SIGN = "PATH_SIGN"  # … with the wrong sign
    PATH_SCALE = "PATH_SCALE"  # … times a number
    COTANGENT_IGNORED = "COTANGENT_IGNORED"  # the same whatever dy is
    COTANGENT_NONLINEAR = "COTANGENT_NONLINEAR"  # not linear in dy
    MISSING_FACTOR = "MISSING_FACTOR"  # the right one divided by a tensor of the forward pass
    EXTRA_FACTOR = "EXTRA_FACTOR"  # … multiplied
    WRONG_OPERAND = "WRONG_OPERAND"  # a local derivative taken at, or multiplied by, another value
    OVERWRITE = "OVERWRITE"  # repeated indices: the last one instead of the sum
    SUPPORT = "SUPPORT"  # right but on some entries that a condition tells
    NONFINITE = "NONFINITE"  # NaN or infinity where the gradient is finite
    PRECISION = "PRECISION"  # right but for rounding to a narrower type
    STRUCTURE = "STRUCTURE"  # the wrong tree, shape or dtype; or no result
    OTHER_FORWARD = "OTHER_FORWARD"  # the gradient of a slightly different function
    UNEXPLAINED = "UNEXPLAINED"  # wrong, for no reason that was found


class Leaf(NamedTuple):
    """The verdict on one array of the gradient. Errors are relative to its size."""

    path: str  # "w", "params['layers'][0]"
    verdict: Verdict
    relative_error: float | None  # the largest difference from autodiff; None where nothing could be compared
    detects: float | None  # the smallest error that would have been called WRONG
    detail: str  # where it is wrong, or why there is no verdict
    differences: float | None = None  # from finite differences, along random directions; None where they do not settle


class Diagnosis(NamedTuple):
    """A mistake, by name."""

    cause: Cause
    leaf: str  # path; several joined by ", "
    detail: str  # a sentence
    fix: str  # what to write
    verified: bool  # whether the mistake, made in the right gradient, reproduces the given one on fresh probes


class Report(NamedTuple):
    """The result of a check. `print` it, or call `raise_if_failed` in a test."""

    subject: str
    verdict: Verdict
    leaves: tuple[Leaf, ...]
    diagnoses: tuple[Diagnosis, ...]
    notes: tuple[str, ...] = ()
    strict: bool = False  # kinks fail too

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong and nothing was left open."""
        return self.verdict is Verdict.PASS or (self.verdict is Verdict.KINK and not self.strict)

    def raise_if_failed(self) -> None:
        """Raise an `AssertionError` with the table unless the check passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain dictionaries and lists."""
        return {
            "subject": self.subject,
            "verdict": str(self.verdict),
            "passed": self.passed,
            "leaves": [leaf._asdict() for leaf in self.leaves],
            "diagnoses": [diagnosis._asdict() for diagnosis in self.diagnoses],
            "notes": list(self.notes),
        }

    def to_json(self, **options: Any) -> str:
        """`to_dict` as JSON; `options` are those of `json.dumps`."""
        return json.dumps(_finite(self.to_dict()), **options)

    def __str__(self) -> str:
        head = ("leaf", "verdict", "vs autodiff", "vs differences", "detects ≥", "")
        rows = [
            (
                leaf.path or "·",
                str(leaf.verdict),
                *map(_number, (leaf.relative_error, leaf.differences, leaf.detects)),
                leaf.detail,
            )
            for leaf in self.leaves
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
        failing = " (strict: kinks fail)" if self.strict and self.verdict is Verdict.KINK else ""
        lines = [f"{self.subject}: {self.verdict}{failing}"]
        for row in [head, *rows] if rows else []:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        for diagnosis in self.diagnoses:
            proof = "" if diagnosis.verified else " (not verified)"
            lines += [
                f"{diagnosis.cause} in {diagnosis.leaf}{proof}" if diagnosis.leaf else f"{diagnosis.cause}{proof}"
            ]
            lines += _paragraph("", diagnosis.detail) + (_paragraph("fix: ", diagnosis.fix) if diagnosis.fix else [])
        for note in self.notes:
            lines += _paragraph("note: ", note)
        return "\n".join(lines)


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.1e}"


def _paragraph(lead: str, text: str) -> list[str]:
    indent = "  " + " " * len(lead)
    wrapped = textwrap.wrap(lead + text, 116, break_long_words=False, break_on_hyphens=False)
    return ["  " + wrapped[0], *(indent + more for more in wrapped[1:])] if wrapped else []
