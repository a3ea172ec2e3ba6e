"""Values in few characters: what fits above a wire, or into a column of a table.

A number is written as people write it, −12 or 1.2·10⁻⁵; an array of more than three entries by its shape and its norm,
because a picture that showed its entries would show nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOTHING = "–"  # where there is no value
_SHOWN, _LONGEST = 3, 30  # entries of an array that is written out, and its characters
_SUPERSCRIPTS = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")


def text(value: Any, digits: int = 3) -> str:
    """A short text of a value: `−12`, `[1, −2, 0.5]`, `[128, 784] ‖·‖ 3.2`.

    Args:
      value: an array of any dtype, a number, a PRNG key; tuples and lists of them; None for no value.
      digits: significant ones of arrays' entries and norms. A number that stands alone gets one more.
    """
    if value is None:
        return NOTHING
    if isinstance(value, tuple | list):
        return "(" + ", ".join(text(x, digits) for x in value) + ")"
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return "key" if value.shape == () else f"{_shape(value)} key"
    if dtype == jax.dtypes.float0:  # the cotangent of an integer
        return NOTHING
    array = _as_numpy(value)
    if array is None:
        return str(value)
    if array.shape == ():
        return number(array.item(), digits + 1)
    if array.size == 0:
        return f"{_shape(array)} empty"
    if array.size <= _SHOWN and len(entries := _entries(array, digits)) <= _LONGEST:
        return entries
    if array.dtype.kind not in "fc":
        return f"{_shape(array)} {dtype if dtype is not None else array.dtype}"
    return f"{_shape(array)} ‖·‖ {number(_norm(array), digits)}"


def number(x: Any, digits: int = 4) -> str:
    """A number as people write it; `digits` significant ones at most, but integers are not rounded."""
    if isinstance(x, bool):
        return str(x)
    if isinstance(x, int):
        return str(x).replace("-", "−")
    if isinstance(x, complex):
        sign = "−" if np.signbit(x.imag) else "+"
        return f"{number(x.real, digits)} {sign} {number(abs(x.imag), digits)}i"
    if not np.isfinite(x):
        return str(float(x)).replace("-", "−")
    mantissa, _, exponent = f"{float(x):.{digits - 1}e}".partition("e")
    mantissa, power = _trimmed(mantissa), int(exponent)
    if x == 0:
        return "0"
    if -4 <= power < 6:  # 123456.7 is rounded to a whole number, no further
        return _trimmed(f"{float(x):.{max(digits - 1 - power, 0)}f}").replace("-", "−")
    written = f"{mantissa}·10{superscript(power)}"
    return written.replace("-", "−").replace("−1·", "−").removeprefix("1·")


def superscript(x: Any) -> str:
    """An integer as an exponent."""
    return str(x).translate(_SUPERSCRIPTS)


def is_finite(value: Any) -> bool:
    """Whether all entries of an array, or of a tuple of them, are; what is not a number counts as finite."""
    if isinstance(value, tuple | list):
        return all(map(is_finite, value))
    if value is None or jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
        return True
    array = _as_numpy(value)
    return array is None or array.dtype.kind not in "fc" or bool(np.all(np.isfinite(array)))


def _as_numpy(value: Any) -> np.ndarray[Any, Any] | None:
    """In a dtype that NumPy calculates with; None if it is no array of numbers."""
    array = np.asarray(value)
    if array.dtype.kind in "biufc":
        return array.astype(np.float64) if array.dtype.kind == "f" else array
    for general, plain in ((jnp.floating, np.float64), (jnp.integer, np.int64)):  # bfloat16, int4 and their like
        if jnp.issubdtype(array.dtype, general):
            return array.astype(plain)
    return None


def _norm(array: np.ndarray[Any, Any]) -> float:
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(array)))
        if not np.isfinite(largest) or largest == 0:
            return largest
        return largest * float(np.linalg.norm((array / largest).ravel()))  # squares of large numbers overflow


def _shape(array: Any) -> str:
    return "[" + ", ".join(map(str, array.shape)) + "]"


def _entries(array: np.ndarray[Any, Any], digits: int) -> str:
    if array.shape == ():
        return number(array.item(), digits)
    return "[" + ", ".join(_entries(np.asarray(row), digits) for row in array) + "]"


def _trimmed(decimal: str) -> str:
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal
