"""Numbers by name, 0.2 is “1/5, the size of axis 0 of x”; and lines of the user's file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fundamentals.program import line

_OWN = str(Path(__file__).parent)


class Name(NamedTuple):
    """What a number is."""

    text: str  # "1/5"
    meaning: str  # "5 is the size of axis 0 of x"
    kind: str  # "sign", "number", "size", "ratio", "root", "scalar"


def name_number(alpha: float, sizes: Mapping[int, list[str]], scalars: Mapping[str, float]) -> Name | None:
    """The simplest known number that α is, to 8 digits; None if it is none.

    Args:
      alpha: the number.
      sizes: what has each size: {5: ["axis 0 of x"]}.
      scalars: other numbers of the program, by name.
    """
    if not math.isfinite(alpha) or alpha == 0:
        return None
    if _is(alpha, -1):
        return Name("−1", "", "sign")
    sign = "−" if alpha < 0 else ""
    size = abs(alpha)
    known = [n for n in sizes if n > 1]

    def of(*numbers: int) -> str:
        return "; ".join(f"{n} is the size of {' or '.join(sizes[n][:3])}" for n in dict.fromkeys(numbers))

    for n in known:
        if _is(size, n):
            return Name(f"{sign}{n}", of(n), "size")
        if _is(size, 1 / n):
            return Name(f"{sign}1/{n}", of(n), "size")
    for value, text in (
        (2, "2"),
        (0.5, "1/2"),
        (4, "4"),
        (0.25, "1/4"),
        (3, "3"),
        (1 / 3, "1/3"),
        (1.5, "3/2"),
        (2 / 3, "2/3"),
    ):
        if _is(size, value):
            return Name(sign + text, "", "number")
    for i, n in enumerate(known):
        for m in known[i:]:
            if _is(size, n * m):
                return Name(f"{sign}{n * m}", f"{n}·{m}: {of(n, m)}", "size")
            if _is(size, 1 / (n * m)):
                return Name(f"{sign}1/{n * m}", f"{n}·{m}: {of(n, m)}", "size")
    for n in known:
        if _is(size, math.sqrt(n)):
            return Name(f"{sign}√{n}", of(n), "root")
        if _is(size, 1 / math.sqrt(n)):
            return Name(f"{sign}1/√{n}", of(n), "root")
        for top, bottom in ((n - 1, n), (n, n - 1), (n + 1, n), (n, n + 1)):
            if bottom and _is(size, top / bottom):
                return Name(f"{sign}{top}/{bottom}", of(n), "count")
    for n in known:
        for m in known:
            if _is(size, n / m):
                return Name(f"{sign}{n}/{m}", of(n, m), "ratio")
    candidates = {**scalars}
    for text, value in scalars.items():
        candidates[f"1 − {text}"] = 1 - value
        candidates[f"{text}²"] = value**2
        candidates[f"√({text})"] = math.sqrt(abs(value))
    for text, value in candidates.items():
        if value and math.isfinite(value) and abs(abs(value) - 1) > 1e-6:
            if _is(size, abs(value)):
                return Name(f"{sign}{size:.6g}", f"that is {text}", "scalar")
            if _is(size, 1 / abs(value)):
                return Name(f"{sign}{size:.6g}", f"that is 1/({text})", "scalar")
    for text, value in scalars.items():
        for n in known:
            if value and math.isfinite(value):
                if _is(size, abs(value) / n):
                    return Name(f"{sign}{size:.6g}", f"that is ({text})/{n}; {of(n)}", "scalar")
                if _is(size, n / abs(value)):
                    return Name(f"{sign}{size:.6g}", f"that is {n}/({text}); {of(n)}", "scalar")
    for p in range(2, 13):
        for q in range(2, 13):
            if math.gcd(p, q) == 1 and _is(size, p / q):
                return Name(f"{sign}{p}/{q}", "", "number")
    return None


def undo(what: str, text: str) -> str:
    """How to take back a factor: 1/5 by multiplying by 5."""
    return f"multiply {what} by {text[2:]}" if text.startswith("1/") else f"divide {what} by {text}"


def _is(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-8 * abs(b)


def source(equation: Any) -> tuple[str, int]:
    """The user's file and line that an equation is from; ("", 0) where there is none."""
    path, _, number = line(equation).partition(" (")[0].rpartition(":")
    return (path, int(number)) if number.isdecimal() and not path.startswith(_OWN) else ("", 0)


def short(equation: Any) -> str:
    """`file.py:12`, or nothing."""
    path, number = source(equation)
    return f"{Path(path).name}:{number}" if path else ""
