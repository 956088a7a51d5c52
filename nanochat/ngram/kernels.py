"""The n-gram kernels of libnck as typed ctypes functions.

Every run counts, and a short run is over before cffi is imported and has read the declarations.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat import native
from nanochat.errors import KernelError, LogitsError

__all__ = ["SIGNATURES", "Arrays", "Mixture", "check", "kernels", "pointer"]

_POINTER, _INT64, _INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_DOUBLE = ctypes.c_double

# The result and the arguments of each function, as in csrc/kernels/abi.h.
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "nck_count_ngrams": (
        _INT32, [_POINTER, _POINTER, _INT64, _INT64, _INT32, _POINTER, _INT32]
    ),
    "nck_count_long_text": (
        _INT32,
        [_POINTER, _INT32, _INT64, _INT64, _INT32, _INT32, _INT64, _INT64, _POINTER, _INT32],
    ),
    "nck_free_ngrams": (None, [_POINTER]),
    "nck_ngram_bytes": (_INT64, [_POINTER]),
    "nck_ngram_arrays_of": (_INT32, [_POINTER, _POINTER]),
    "nck_open_ngrams": (_INT32, [_POINTER, _POINTER]),
    "nck_ngram_losses": (
        _INT32, [_POINTER, _POINTER, _POINTER, _INT64, _INT32, _INT32, _POINTER, _INT32]
    ),
    "nck_ngram_distributions": (
        _INT32, [_POINTER, _POINTER, _POINTER, _INT64, _INT32, _POINTER, _INT32]
    ),
    "nck_mixed_logits": (_INT32, [_POINTER, _POINTER, _INT32]),
    "nck_sample_mixture": (
        _INT32, [_POINTER, _POINTER, _INT64, _POINTER, _DOUBLE, _INT64, _DOUBLE, _POINTER, _INT32]
    ),
    "nck_open_adaptive": (
        _INT32, [_POINTER, _INT32, _INT32, _INT32, _DOUBLE, _DOUBLE, _POINTER]
    ),
    "nck_copy_adaptive": (_INT32, [_POINTER, _POINTER]),
    "nck_free_adaptive": (None, [_POINTER]),
    "nck_adaptive_bytes": (_INT64, [_POINTER]),
    "nck_adaptive_read": (_INT32, [_POINTER, _POINTER, _INT64, _POINTER, _POINTER, _POINTER]),
    "nck_adaptive_distribution": (_INT32, [_POINTER, _POINTER, _POINTER]),
    "nck_last_error": (ctypes.c_char_p, []),
}  # fmt: skip


class Arrays(ctypes.Structure):
    """nck_ngram_arrays of csrc/kernels/abi.h."""

    _fields_ = (
        ("order", _INT64), ("vocab", _INT64), ("targets", _INT64),
        ("stream_size", _INT64), ("nodes_size", _INT64),
        ("children_size", _INT64), ("followers_size", _INT64), ("dropped_size", _INT64),
        ("stream", _POINTER), ("nodes", _POINTER), ("children", _POINTER), ("followers", _POINTER),
        ("dropped", _POINTER), ("discounts", _POINTER), ("counts_of_counts", _POINTER),
    )  # fmt: skip


class Mixture(ctypes.Structure):
    """nck_mixture of csrc/kernels/abi.h."""

    _fields_ = (
        ("ngrams", _POINTER),
        ("contexts", _POINTER), ("context_length", _INT64), ("context_stride", _INT64),
        ("logits", _POINTER), ("rows", _INT64), ("row_stride", _INT64),
        ("share_scale", _DOUBLE), ("share_offset", _DOUBLE), ("dtype", _INT32),
    )  # fmt: skip


@cache
def kernels() -> Any:
    """Return the CPU kernels. Raises KernelError if they are missing or of another version."""
    library = native.cpu_by_ctypes()
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def check(status: int) -> None:
    """Raise KernelError with the kernels' message unless the status is NCK_OK.

    For NCK_LOGITS the error is a LogitsError.
    """
    if status:
        kind = LogitsError if status == native.STATUS_LOGITS else KernelError
        raise kind(kernels().nck_last_error().decode())


def pointer(array: NDArray[Any]) -> int:
    """Return the address of an array's first element; the caller must keep the array."""
    assert array.flags.c_contiguous
    assert array.dtype in (np.int64, np.uint64, np.uint32, np.uint16, np.uint8, np.float64)
    return int(array.ctypes.data)
