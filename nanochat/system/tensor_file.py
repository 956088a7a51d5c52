"""The header of a safetensors file: names, types, shapes and places of its arrays, checked.

The library reads more than this project writes, and allocates before a caller sees a shape. Owns
the bounds of a header; the callers know which arrays a file must have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanochat.system.json_text import parse_json

__all__ = ["MOST_HEADER", "TensorEntry", "read_header"]

MOST_HEADER = 1 << 20  # bytes; 256 blocks with all optimizer states have half a megabyte
_MOST_ARRAYS = 1 << 15
_MOST_DIMENSIONS = 8
_MOST_SIZE = 1 << 53
_TYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "U32": "uint32"}
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One array of a safetensors file."""

    dtype: str  # float64, float32, int64 or uint32
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    stop: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def read_header(
    file: BinaryIO,
    size: int,  # bytes of the file
) -> Mapping[str, TensorEntry]:
    """Return the arrays of a file by name, in the order of their bytes, which fill the file.

    Raises ValueError, in words that can follow the name of the file, and OSError.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MOST_HEADER):
        raise ValueError("must be a safetensors file, got another format")
    header = parse_json(file.read(length))
    if type(header) is not dict:
        raise ValueError("must be a safetensors file, got a header that is not an object")
    if len(header) > _MOST_ARRAYS:
        raise ValueError(f"must have at most {_MOST_ARRAYS:,} arrays, got {len(header):,}")
    entries = {name: _entry(name, entry, 8 + length) for name, entry in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 8 + length
    for name, each in entries.items():
        if each.start != end:
            raise ValueError(f"must hold its arrays one after another, got {name!r:.60} elsewhere")
        end = each.stop
    if end != size:
        raise ValueError(f"must have {end:,} bytes for its arrays, got {size:,}")
    return entries


def _entry(name: str, entry: Any, first: int) -> TensorEntry:
    """Return an entry of the header. Raises ValueError."""
    if type(entry) is not dict or set(entry) != _KEYS:
        keys = ", ".join(sorted(_KEYS))
        raise ValueError(f"must describe each array by {keys}, got others of {name!r:.60}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in _TYPES:
        known = ", ".join(_TYPES)
        raise ValueError(f"must hold arrays of {known}, got {dtype!r:.40} of {name!r:.60}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"must give the shape of {name!r:.60}, got {shape!r:.40}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"must give the place of {name!r:.60}, got {offsets!r:.40}")
    start, stop = offsets
    bytes_each = 4 if dtype.endswith("32") else 8
    if (first + start) % bytes_each:
        raise ValueError(f"must align {name!r:.60} to {bytes_each} bytes")
    if stop - start != math.prod(shape) * bytes_each:
        raise ValueError(f"must have as many bytes as the shape of {name!r:.60} says")
    return TensorEntry(_TYPES[dtype], tuple(shape), first + start, first + stop)


def _are_sizes(values: Any) -> bool:
    return type(values) is list and all(type(v) is int and 0 <= v < _MOST_SIZE for v in values)
