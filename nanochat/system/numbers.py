"""Numbers that a caller passes: ints, floats, and all objects that convert to them. No NumPy.

A number has `__index__` (ints) or `__float__` (floats). NumPy and torch scalars and arrays of one
element count as numbers. Bools and complex numbers do not.
"""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["as_float", "as_int", "short"]


def as_int(value: Any) -> int | None:
    """Return the int, or None if the value is not one."""
    if type(value) is int:
        return value
    value = _scalar(value)
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def as_float(value: Any) -> float | None:
    """Return the float, or None if the value is not a number in the range of a float."""
    if type(value) is float:
        return value
    value = _scalar(value)
    convertible = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    if isinstance(value, bool) or not convertible:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _scalar(value: Any) -> Any:
    """Return the element of an array or tensor of one element, as a Python number if it is one."""
    if not hasattr(value, "dtype") or not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError):  # several elements, or none that can be read
        return None


def short(value: Any) -> str:
    """Return repr(value) on one line, shortened if it is long.

    Python refuses the repr of very long ints.
    """
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"
