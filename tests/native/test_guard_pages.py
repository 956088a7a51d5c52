"""No kernel accesses memory before or after an array: the array borders a protected page.

AddressSanitizer does not see masked vector loads and stores; the processor does.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Literal

import numpy as np
import pytest
from native.calls import OK, cross_entropy, scale_rows
from native.oracle import Loss, Problem
from native.storage import DTYPES, Matrix, Placement, accumulation_dtype
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
VOCABS = (*range(1, 36), 63, 64, 65, 127, 130, 257)
Side = Literal["begin", "end"]


def next_to_guard_page(side: Side) -> Placement:
    """Return copies whose first element follows, or whose last precedes, a protected page."""
    return lambda array: against_a_guard(array, side)


def against_a_guard(array: NDArray[Any], side: Side) -> NDArray[Any]:
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = PAGE if side == "begin" else (pages + 1) * PAGE - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, start)
    copy[...] = array
    first = np.frombuffer(memory, np.uint8).ctypes.data
    for page in (0, pages + 1):
        status = ctypes.CDLL(None).mprotect(ctypes.c_void_p(first + page * PAGE), PAGE, 0)
        assert status == 0
    return copy


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "loss",
    [Loss(), Loss(reduction="mean"), Loss(softcap=4.0), Loss(label_smoothing=0.1, z_loss=0.1)],
    ids=["plain", "mean", "capped", "smooth"],
)
def test_cross_entropy_stays_within_its_arrays(side: Side, dtype: str, loss: Loss) -> None:
    random, place = np.random.default_rng(2), next_to_guard_page(side)
    for vocab in VOCABS:
        rows = 1 + vocab % 3
        values = random.normal(size=(rows, vocab))
        for gradient in ("none", "in place", "apart"):
            logits = Matrix.of(values, dtype, place=place)
            numbers = random.uniform(0.5, 1, max(rows, vocab)).astype(accumulation_dtype(dtype))
            question = Problem(
                logits=values, targets=random.integers(0, vocab, rows), loss=loss,
                class_weights=numbers[:vocab], token_weights=numbers[:rows],
                upstream=numbers[:rows],
            )  # fmt: skip
            result = cross_entropy(question, logits, gradient=gradient, place=place)
            assert result.status == OK


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_rows_stays_within_its_arrays(side: Side, dtype: str) -> None:
    place = next_to_guard_page(side)
    for vocab in VOCABS:
        values = np.ones((3, vocab))
        matrix = Matrix.of(values, dtype, place=place)
        factors = place(np.array([2, 1, 3], accumulation_dtype(dtype)))
        assert scale_rows(matrix, factors, matrix) == OK
        assert scale_rows(matrix, factors, Matrix.of(values, dtype, place=place)) == OK


@pytest.mark.parametrize("dtype", DTYPES)
def test_stores_past_the_caches_stay_within_the_gradient(dtype: str) -> None:
    # With an odd length, rows begin at every offset within a vector.
    rows, vocab = 3, (16 << 20) // 2 // 3 + 33
    logits = Matrix.of(np.broadcast_to(0.0, (rows, vocab)), dtype, place=next_to_guard_page("end"))
    question = Problem(logits=np.broadcast_to(0.0, (rows, vocab)), targets=np.arange(rows))
    for side in ("begin", "end"):
        result = cross_entropy(question, logits, place=next_to_guard_page(side))
        assert result.status == OK
