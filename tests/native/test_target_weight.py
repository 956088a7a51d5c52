"""nck_target_weight compared with a sum of exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import OK, TARGET, last_error, pointer

from nanochat import native


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 300),
    vocab=st.sampled_from([1, 3, 65]),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    classes=st.booleans(),
    tokens=st.booleans(),
    wants_count=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_weight_and_count_equal_their_definition(
    rows: int, vocab: int, dtype: str, classes: bool, tokens: bool, wants_count: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    number = np.float64 if dtype == "float64" else np.float32
    targets = random.integers(0, vocab, rows)
    targets[random.random(rows) < 0.3] = -7
    c = random.uniform(0, 2, vocab).astype(number) if classes else None
    w = random.uniform(0, 2, rows).astype(number) if tokens else None
    weight, counted = native.ffi.new("double *"), native.ffi.new("int64_t *", -1)
    status = native.cpu().nck_target_weight(
        native.ffi.cast("int64_t *", targets.ctypes.data), rows, vocab, native.DTYPES[dtype],
        pointer(c), pointer(w), -7, weight, counted if wants_count else native.ffi.NULL,
    )  # fmt: skip
    assert status == OK
    exact = Fraction(0)
    for i, target in enumerate(targets.tolist()):
        if target != -7:
            exact += Fraction(1 if w is None else float(w[i])) * Fraction(
                1 if c is None else float(c[target])
            )
    assert weight[0] == pytest.approx(float(exact), rel=(rows + 2) * 2.0**-53)
    assert counted[0] == ((targets != -7).sum() if wants_count else -1)


def test_a_wrong_target_is_named_and_nothing_is_written() -> None:
    targets = np.array([0, 1, -100, 4])
    weight, counted = native.ffi.new("double *", 5), native.ffi.new("int64_t *", 5)
    status = native.cpu().nck_target_weight(
        native.ffi.cast("int64_t *", targets.ctypes.data), 4, 4, 0,
        native.ffi.NULL, native.ffi.NULL, -100, weight, counted,
    )  # fmt: skip
    assert status == TARGET
    assert last_error() == "target of row 3 must be in [0, 4) or ignore_index -100, got 4"
    assert (weight[0], counted[0]) == (5, 5)
