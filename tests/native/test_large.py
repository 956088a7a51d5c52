"""Offsets beyond 2³¹ elements and bytes, in memory that is mapped but mostly never touched."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest
from native.calls import OK, cross_entropy, nck_loss, pointer
from native.oracle import Loss, Problem
from native.storage import Matrix
from numpy.typing import NDArray

from nanochat import native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MAP_NORESERVE is Linux's")

ROWS, VOCAB, STRIDE = 3, 300, 2**31 + 7
NORESERVE = 0x4000  # mmap.MAP_NORESERVE from Python 3.13 on


def far_apart() -> NDArray[np.uint16]:
    size = 2 * ((ROWS - 1) * STRIDE + VOCAB)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    try:
        return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint16)
    except OSError:
        pytest.skip("this system maps no memory that it does not have")


def near() -> tuple[Problem, Matrix]:
    logits = Matrix.of(np.random.default_rng(8).normal(size=(ROWS, VOCAB)) * 3, "bfloat16")
    return Problem(logits=logits.values(), targets=np.array([0, VOCAB - 1, 7])), logits


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_beyond_two_to_the_31_elements_give_the_bits_of_near_ones(
    in_place: bool, threads: int
) -> None:
    question, logits = near()
    expected = cross_entropy(question, logits)
    far = far_apart()
    gradient = far if in_place else far_apart()
    for i in range(ROWS):
        far[i * STRIDE : i * STRIDE + VOCAB] = logits.stored[i]
    losses = np.zeros(ROWS, np.float32)
    null = native.ffi.NULL
    status = native.cpu().nck_cross_entropy(
        pointer(far), ROWS, VOCAB, STRIDE, native.DTYPES["bfloat16"],
        native.ffi.cast("int64_t *", question.targets.ctypes.data), null, null, nck_loss(Loss()),
        null, 0, pointer(gradient), STRIDE, pointer(losses), null, null, threads,
    )  # fmt: skip
    assert status == OK
    assert losses.tobytes() == expected.losses.tobytes()
    assert expected.gradient is not None
    for i in range(ROWS):
        row = gradient[i * STRIDE : i * STRIDE + VOCAB]
        assert row.tobytes() == expected.gradient.stored[i].tobytes()


def test_scale_rows_reaches_beyond_two_to_the_31_elements() -> None:
    _, logits = near()
    far = far_apart()
    for i in range(ROWS):
        far[i * STRIDE : i * STRIDE + VOCAB] = logits.stored[i]
    factors = np.array([2.0, -1.0, 0.5], np.float32)
    status = native.cpu().nck_scale_rows(
        pointer(far), ROWS, VOCAB, STRIDE, native.DTYPES["bfloat16"], pointer(factors), 1,
        pointer(far), STRIDE, 2,
    )  # fmt: skip
    assert status == OK
    for i, factor in enumerate(factors):
        wanted = Matrix.of(logits.values()[i : i + 1] * factor, "bfloat16")
        assert far[i * STRIDE : i * STRIDE + VOCAB].tobytes() == wanted.bits()
