"""The store of large buffers: returned buffers are kept, up to NCK_BUFFERS_KEPT of them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from native.calls import ARGUMENT, MEMORY, OK, last_error

from nanochat import native
from nanochat.errors import KernelError

MIB = 1 << 20
KEPT = 4  # NCK_BUFFERS_KEPT


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    gc.collect()
    native.cpu().nck_drop_buffers()
    yield
    native.cpu().nck_drop_buffers()


def take(size: int) -> Any:
    buffer = native.ffi.new("void **")
    assert native.cpu().nck_take_buffer(size, buffer) == OK
    return buffer[0]


def give(*buffers: Any) -> None:
    for buffer in buffers:
        native.cpu().nck_give_buffer(buffer)


def address(buffer: Any) -> int:
    return int(native.ffi.cast("uintptr_t", buffer))


def kept() -> int:
    return int(native.cpu().nck_kept_bytes())


@pytest.mark.parametrize("size", [0, 1, 63, 4096, 2 * MIB, 2 * MIB + 1, 9 * MIB])
def test_a_buffer_is_aligned_and_writable_to_its_last_byte(size: int) -> None:
    buffer = take(size)
    assert address(buffer) % 64 == 0
    view = np.frombuffer(native.ffi.buffer(buffer, size), np.uint8)
    view[...] = 0xA5
    assert (view == 0xA5).all()
    give(buffer)


def test_a_returned_buffer_is_reused() -> None:
    first = take(6 * MIB)
    give(first)
    assert kept() == 6 * MIB
    again = take(6 * MIB)
    assert address(again) == address(first)
    assert kept() == 0
    give(again)


def test_two_takers_have_different_buffers() -> None:
    give(take(4 * MIB))
    buffers = [take(4 * MIB) for _ in range(3)]
    first = sorted(address(each) for each in buffers)
    assert all(b - a >= 4 * MIB for a, b in pairwise(first))
    give(*buffers)


def test_the_smallest_kept_buffer_that_fits_is_taken_unless_most_of_it_would_idle() -> None:
    large, middle = take(32 * MIB), take(12 * MIB)
    give(large, middle)
    found = take(10 * MIB)
    assert address(found) == address(middle)
    small = take(2 * MIB)
    assert address(small) != address(large)
    assert kept() == 32 * MIB
    give(found, small)


def test_no_more_than_the_stated_number_of_buffers_is_kept() -> None:
    assert native.cpu().NCK_BUFFERS_KEPT == KEPT
    buffers = [take((i + 1) * 2 * MIB) for i in range(KEPT + 2)]
    for i, each in enumerate(buffers):
        give(each)
        newest = range(max(0, i + 1 - KEPT), i + 1)
        assert kept() == sum((j + 1) * 2 * MIB for j in newest)


def test_drop_returns_everything_kept_and_nothing_taken() -> None:
    taken, given = take(4 * MIB), take(4 * MIB)
    view = np.frombuffer(native.ffi.buffer(taken, 4 * MIB), np.uint8)
    view[...] = 3
    give(given)
    native.cpu().nck_drop_buffers()
    assert kept() == 0
    assert (view == 3).all()
    give(taken)
    assert kept() == 4 * MIB


def test_giving_back_twice_null_or_a_foreign_pointer_changes_nothing() -> None:
    buffer = take(2 * MIB)
    give(buffer, buffer, native.ffi.NULL, native.ffi.new("char[100]"))
    assert kept() == 2 * MIB
    first, second = take(2 * MIB), take(2 * MIB)
    assert address(first) != address(second)
    give(first, second)


@pytest.mark.parametrize("size", [-1, -(2**63), 2**47 + 1, 2**63 - 1])
def test_a_size_that_no_buffer_has_is_refused(size: int) -> None:
    buffer = native.ffi.new("void **")
    assert native.cpu().nck_take_buffer(size, buffer) == ARGUMENT
    assert last_error() == f"bytes must be in [0, 2^47], got {size}"
    assert buffer[0] == native.ffi.NULL
    with pytest.raises(KernelError, match="bytes must be in"):
        native.take_buffer(size)


def test_more_than_the_system_has_is_a_status() -> None:
    buffer = native.ffi.new("void **")
    assert native.cpu().nck_take_buffer(2**47, buffer) == MEMORY
    assert "no memory" in last_error()
    assert buffer[0] == native.ffi.NULL
    assert native.cpu().nck_take_buffer(MIB, native.ffi.NULL) == ARGUMENT
    assert last_error() == "buffer must not be NULL"


def test_a_python_buffer_goes_back_when_its_last_view_is_gone() -> None:
    array = np.frombuffer(native.take_buffer(2 * MIB), np.float32)
    array[...] = 1
    part = array[100:200]
    del array
    gc.collect()
    assert kept() == 0
    assert part.sum() == 100
    del part
    gc.collect()
    assert kept() == 2 * MIB


def test_threads_take_and_give_at_once_without_sharing() -> None:
    mistakes = []

    def work(mark: int) -> None:
        for turn in range(60):
            buffer = take((1 + (turn + mark) % 3) * MIB)
            view = np.frombuffer(native.ffi.buffer(buffer, 4096), np.uint8)
            view[...] = mark
            if not (view == mark).all():
                mistakes.append((mark, turn))
            give(buffer)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not mistakes
    assert kept() <= KEPT * 4 * MIB
