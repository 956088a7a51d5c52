"""The header of a safetensors file, against the library that writes it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from safetensors.numpy import save

from nanochat.system.tensor_file import read_header

TYPES = st.sampled_from([np.float64, np.float32, np.int64, np.uint32])
ARRAYS = TYPES.flatmap(
    lambda kind: of_numpy.arrays(kind, of_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0))
)


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), ARRAYS))
def test_the_entries_lead_to_the_arrays_that_were_saved(arrays: dict[str, np.ndarray]) -> None:
    content = save(arrays)
    entries = read_header(io.BytesIO(content), len(content))
    assert entries.keys() == arrays.keys()
    for name, each in entries.items():
        assert (each.dtype, each.shape) == (arrays[name].dtype.name, arrays[name].shape)
        assert content[each.start : each.stop] == arrays[name].tobytes()


def file_of(header: bytes, data: bytes = b"") -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must be a safetensors file, got another format"),
    (b"\xff" * 40, "must be a safetensors file, got another format"),
    (struct.pack("<Q", 1 << 21) + b" " * (1 << 21), "must be a safetensors file, got another format"),
    (file_of(b"[]"), "must be a safetensors file, got a header that is not an object"),
    (file_of(b'{"a": 1}'), "must describe each array by data_offsets, dtype, shape, got others of 'a'"),
    (file_of(b'{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}', b"12"),
     "must hold arrays of F64, F32, I64, U32, got 'F16' of 'a'"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b"1234"),
     "must give the shape of 'a', got [-1]"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', b"1234"),
     "must give the shape of 'a', got [True]"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}}', b"1234"),
     "must give the shape of 'a', got [1, 1, 1, 1, 1, 1, 1, 1, 1]"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', b"1234"),
     "must give the place of 'a', got [0]"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"1234"),
     "must have as many bytes as the shape of 'a' says"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}', b"123456"),
     "must align 'a' to 4 bytes"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', b"12345678"),
     "must hold its arrays one after another, got 'a' elsewhere"),
    (file_of(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
             b' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"1234"),
     "must hold its arrays one after another, got 'b' elsewhere"),
])  # fmt: skip
def test_a_header_that_no_run_writes_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_header(io.BytesIO(content), len(content))
    assert str(caught.value) == message


def test_bytes_that_no_array_has_are_refused() -> None:
    content = save({"a": np.zeros(3)}) + b"12345678"
    with pytest.raises(
        ValueError, match=f"^must have {len(content) - 8} bytes for its arrays, got"
    ):
        read_header(io.BytesIO(content), len(content))
    names = ",".join(f'"{i}":0' for i in range(32_769))
    many = file_of(f"{{{names}}}".encode())
    with pytest.raises(ValueError, match=r"^must have at most 32,768 arrays, got 32,769$"):
        read_header(io.BytesIO(many), len(many))
