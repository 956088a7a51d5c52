"""nck_scale_rows is bit-identical to one rounded product per element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import OK, scale_rows
from native.problems import ROWS, VOCABS
from native.storage import DTYPES, LEAST, Matrix, accumulation_dtype, to_float64, to_stored
from numpy.typing import NDArray

from nanochat import native


def products(matrix: Matrix, factors: NDArray[Any]) -> NDArray[Any]:  # stored
    """Round each product to the accumulation dtype, then to the matrix's dtype."""
    number = accumulation_dtype(matrix.dtype)
    with np.errstate(all="ignore"):
        return to_stored((matrix.values().astype(number)) * factors[:, None], matrix.dtype)


def assert_same(got: NDArray[Any], wanted: NDArray[Any], dtype: str) -> None:
    """Compare bits. NaNs may differ, and a processor may flush small bfloat16 values to 0."""
    got_values, values = to_float64(got, dtype), to_float64(wanted, dtype)
    same = (got == wanted) | (np.isnan(got_values) & np.isnan(values))
    if dtype == "bfloat16":
        small = np.abs(values) <= LEAST["bfloat16"]
        same |= small & (got_values == 0) & (np.signbit(got_values) == np.signbit(values))
    assert same.all(), (got_values[~same][:5], values[~same][:5])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from(ROWS),
    vocab=st.sampled_from(VOCABS),
    dtype=st.sampled_from(DTYPES),
    extra=st.integers(0, 3),
    upstream_stride=st.sampled_from([0, 1]),
    threads=st.sampled_from([1, 2, 4]),
    in_place=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_element_is_the_rounded_product(
    rows: int, vocab: int, dtype: str, extra: int, upstream_stride: int, threads: int,
    in_place: bool, seed: int,
) -> None:  # fmt: skip
    rows = min(rows, 40_000 // vocab)
    random = np.random.default_rng(seed)
    matrix = Matrix.of(random.normal(size=(rows, vocab)), dtype, stride=vocab + extra)
    upstream = random.normal(size=rows if upstream_stride else 1).astype(accumulation_dtype(dtype))
    upstream[random.random(len(upstream)) < 0.2] = 1
    wanted = products(matrix, np.broadcast_to(upstream, (rows,)))
    result = matrix if in_place else Matrix(rows, vocab, vocab + 3 - extra, dtype)
    status = scale_rows(matrix, upstream, result, upstream_stride=upstream_stride, threads=threads)
    assert status == OK
    assert_same(result.stored, wanted, dtype)
    assert result.guards_are_unchanged()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 65536), (256, 256), (13, 5042)])
def test_a_factor_of_one_keeps_every_half_number(dtype: str, shape: tuple[int, int]) -> None:
    rows, vocab = shape
    matrix, result = Matrix(rows, vocab, vocab, dtype), Matrix(rows, vocab, vocab, dtype)
    matrix.flat[...] = np.resize(np.arange(65536), rows * vocab).astype(np.uint16)
    one = np.ones(1, np.float32)
    before = matrix.flat.tobytes()
    assert scale_rows(matrix, one, result, upstream_stride=0) == OK
    assert_same(result.stored, matrix.stored, dtype)
    # In place the row is skipped: not even the bits of a NaN change.
    assert scale_rows(matrix, one, matrix, upstream_stride=0) == OK
    assert matrix.flat.tobytes() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("exponent", range(-26, 18, 4))
def test_products_round_to_nearest_ties_to_even(dtype: str, exponent: int) -> None:
    # Products of a value of 8 or 11 bits and a short one: ties, carries, overflow and subnormals.
    kept = np.random.default_rng(1).integers(1, 2048, (64, 61)) * np.exp2(exponent - 10.0)
    matrix = Matrix.of(kept, dtype)
    for factor in (1.5, 1.25, -0.75, 1 + 2.0**-9, 1 + 2.0**-12, 1 - 2.0**-12, 2.0**-8, 40.0):
        upstream = np.full(1, factor, np.float32)
        result = Matrix(64, 61, 61, dtype)
        assert scale_rows(matrix, upstream, result, upstream_stride=0) == OK
        assert_same(result.stored, products(matrix, np.full(64, factor, np.float32)), dtype)


def test_special_factors_reach_every_element() -> None:
    matrix = Matrix.of(np.full((4, 19), 2.0), "float32")
    upstream = np.array([0.0, np.inf, np.nan, -1.0], np.float32)
    assert scale_rows(matrix, upstream, matrix) == OK
    assert (matrix.stored[0] == 0).all()
    assert (matrix.stored[1] == np.inf).all()
    assert np.isnan(matrix.stored[2]).all()
    assert (matrix.stored[3] == -2).all()


def test_dtypes_here_are_those_of_the_library() -> None:
    assert set(native.DTYPES) == set(DTYPES)
