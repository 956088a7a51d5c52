"""Rows as the kernels store them: dtypes, strides, and guards between the rows.

NumPy allocates each array at its exact size, so AddressSanitizer detects accesses beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Returns the array, or a copy of it at another address.
Placement = Callable[[NDArray[Any]], NDArray[Any]]

DTYPES = ("float32", "float64", "bfloat16", "float16")
ELEMENT = {
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": np.uint16,
    "float16": np.uint16,
}
# The largest relative error of rounding to nearest, and half the smallest distance of two values.
# bfloat16: processors with conversion instructions flush values below 2⁻¹²⁶.
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8, "float16": 2.0**-11}
LEAST = {"float32": 2.0**-150, "float64": 2.0**-1075, "bfloat16": 2.0**-126, "float16": 2.0**-25}
# A NaN in every dtype: a kernel that reads a guard spoils a result.
GUARD = {"float32": np.nan, "float64": np.nan, "bfloat16": 0x7FC5, "float16": 0x7E05}


def accumulation_dtype(dtype: str) -> Any:
    """Return the accumulation dtype of abi.h."""
    return np.float64 if dtype == "float64" else np.float32


def to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16 of each float32, ties to even; NaN stays NaN."""
    wide = np.ascontiguousarray(values, np.float32)
    bits = wide.view(np.uint32).astype(np.uint64)
    kept, cut = bits >> 16, bits & 0xFFFF
    up = (cut > 0x8000) | ((cut == 0x8000) & (kept & 1 == 1))
    rounded = np.where(np.isnan(wide), kept | 0x40, kept + up)
    return rounded.astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_stored(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Round to `dtype`; 16-bit dtypes are returned as their bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            return to_bfloat16(values)
        if dtype == "float16":
            return np.asarray(values).astype(np.float16).view(np.uint16)
        return np.asarray(values).astype(ELEMENT[dtype])


def to_float64(stored: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return the stored values, exactly."""
    with np.errstate(invalid="ignore"):  # signaling NaN
        if dtype == "bfloat16":
            return from_bfloat16(stored).astype(np.float64)
        if dtype == "float16":
            return stored.view(np.float16).astype(np.float64)
    return stored.astype(np.float64)


class Matrix:
    """A rows × vocab matrix with a row stride, in one array that ends with the last element."""

    def __init__(
        self, rows: int, vocab: int, stride: int, dtype: str, place: Placement = lambda array: array
    ) -> None:
        self.rows, self.vocab, self.stride, self.dtype = rows, vocab, stride, dtype
        size = (rows - 1) * stride + vocab if rows else 0
        self.flat = place(np.full(size, GUARD[dtype], ELEMENT[dtype]))
        step = self.flat.itemsize
        self.stored = np.lib.stride_tricks.as_strided(
            self.flat, (rows, vocab), (stride * step, step)
        )

    @classmethod
    def of(
        cls,
        values: NDArray[Any],
        dtype: str,
        stride: int | None = None,
        place: Placement = lambda array: array,
    ) -> Matrix:
        """Return (rows, vocab) `values`, rounded to the dtype."""
        rows, vocab = values.shape
        matrix = cls(rows, vocab, vocab if stride is None else stride, dtype, place)
        matrix.stored[...] = to_stored(values, dtype)
        return matrix

    def copy(self) -> Matrix:
        other = Matrix(self.rows, self.vocab, self.stride, self.dtype)
        other.flat[...] = self.flat
        return other

    def values(self) -> NDArray[np.float64]:  # (rows, vocab)
        return to_float64(np.ascontiguousarray(self.stored), self.dtype)

    def bits(self) -> bytes:
        return np.ascontiguousarray(self.stored).tobytes()

    def guards_are_unchanged(self) -> bool:
        expected = Matrix(self.rows, self.vocab, self.stride, self.dtype)
        expected.stored[...] = self.stored
        return expected.flat.tobytes() == self.flat.tobytes()
