"""What Matrix and Value take as numbers: no silent cast, and one clear error for everything else."""

from __future__ import annotations

import array
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from nanochat import Matrix, Value

NUMBER = "Matrix(rows): row 0, column 0 must be a number, got "
ROWS = "Matrix(rows) needs a sequence of rows, got "
ROW = "Matrix(rows): row 0 must be a sequence of numbers, got "


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((2, 2), np.complex128), f"{NUMBER}numpy.complex128"),
        (np.ones((2, 2), np.complex64), f"{NUMBER}numpy.complex64"),
        ([[np.array(1j)]], f"{NUMBER}numpy.ndarray"),
        ([[1j]], f"{NUMBER}complex"),
        (b"ab", f"{ROWS}bytes"),
        ([b"ab", b"cd"], f"{ROW}bytes"),
        ([bytearray(b"ab")], f"{ROW}bytearray"),
        ("ab", f"{ROWS}str"),
        (["ab"], f"{ROW}str"),
        ([["1"]], f"{NUMBER}str"),
        (np.array([["1"]]), f"{NUMBER}numpy.str_"),
        (np.array([[b"1"]]), f"{NUMBER}numpy.bytes_"),
        (np.array([[None]], dtype=object), f"{NUMBER}NoneType"),
        (np.zeros((1, 1), "V4"), f"{NUMBER}numpy.void"),
        (np.zeros((1, 1), "datetime64[s]"), f"{NUMBER}numpy.datetime64"),
        (np.ma.masked_all((1, 1)), f"{NUMBER}MaskedConstant"),
        (np.array(1.0), f"{ROWS}numpy.ndarray"),
        (np.ones(2), f"{ROW}numpy.float64"),
        (memoryview(np.ones((2, 2))), f"{ROWS}memoryview"),
    ],
    ids=lambda value: f"{value!r:.40}" if not isinstance(value, memoryview) else "memoryview",
)
def test_what_is_not_rows_of_numbers_is_named(rows, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns where it drops an imaginary part
        with pytest.raises(TypeError) as caught:
            Matrix(rows)
    assert str(caught.value) == message


def test_an_int_beyond_the_floats_is_named_with_its_place():
    message = r"^Matrix\(rows\): row 1, column 0 is an int too large for a float$"
    with pytest.raises(OverflowError, match=message):
        Matrix([[1.0], [10**400]])


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(6.0).reshape(2, 3), np.arange(6, dtype=np.int8).reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3), np.arange(6, dtype=object).reshape(2, 3),
        np.arange(12.0).reshape(2, 6)[::-1, ::2], [range(3), array.array("d", [3, 4, 5])],
        [[Decimal("0.5"), Fraction(1, 4), np.float16(2.5)]],
    ],
)  # fmt: skip
def test_rows_of_numbers_keep_their_values(rows):
    expected = [[float(number) for number in row] for row in rows]
    assert Matrix(rows).values.tolist() == expected


@pytest.mark.parametrize("number", [1j, np.complex64(1), np.array(1j), "1", b"1", np.ma.masked])
def test_a_value_of_something_else_is_named(number):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"^Value\(data\) needs a number, got "):
            Value(number)
