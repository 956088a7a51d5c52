"""Random numbers of the whole project: Philox4x32-10, counter-based and without state.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
Every number is a pure function of (seed, stream, item, index): the key is (seed, stream), the
counter is (index low, index high, item low, item high). There is no generator state, so the numbers
do not depend on the engine or on the number of threads and processes, and a resumed run continues
with the same ones.
"""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Stream",
    "item_of_name",
    "normals",
    "permutation",
    "philox4x32",
    "random_u64",
    "random_u64s",
    "uniforms",
]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


class Stream(IntEnum):
    """The purpose of a random number. Different streams of one seed are independent."""

    INIT = 1
    BATCHES = 2
    SAMPLING = 3
    SPLIT = 4
    DROPOUT = 5


def philox4x32(
    counter: NDArray[np.uint32],  # (n, 4)
    key: tuple[int, int],
) -> NDArray[np.uint32]:  # (n, 4)
    """Apply ten rounds of Philox4x32 to each counter. Matches the test vectors of Random123."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def random_u64(
    seed: int, stream: Stream, item: int, count: int, first: int = 0
) -> NDArray[np.uint64]:
    """Return `count` uniform 64-bit integers: indices `first` … `first + count − 1` of the item."""
    first_block, last_block = first // 2, (first + count + 1) // 2
    index = np.arange(first_block, last_block, dtype=np.uint64)
    counter = np.empty((len(index), 4), dtype=np.uint32)
    counter[:, 0] = index & _LOW
    counter[:, 1] = index >> _SHIFT
    counter[:, 2] = item & 0xFFFFFFFF
    counter[:, 3] = (item >> 32) & 0xFFFFFFFF
    words = philox4x32(counter, (seed, int(stream))).astype(np.uint64)
    pairs = np.stack(
        [words[:, 0] << _SHIFT | words[:, 1], words[:, 2] << _SHIFT | words[:, 3]], axis=1
    )
    start = first - 2 * first_block
    return pairs.reshape(-1)[start : start + count]


def random_u64s(
    seed: int, stream: Stream, item: int, items: int, count: int, first: int = 0
) -> NDArray[np.uint64]:  # (items, count)
    """Return random_u64(seed, stream, i, count, first) for `items` consecutive items i from `item`
    on. first: even."""
    assert first % 2 == 0
    blocks = (count + 1) // 2
    index = np.arange(first // 2, first // 2 + blocks, dtype=np.uint64)
    counter = np.zeros((items, blocks, 4), dtype=np.uint32)
    counter[:, :, 0] = index & _LOW
    counter[:, :, 1] = index >> _SHIFT
    item_ids = np.arange(item, item + items, dtype=np.uint64)[:, None]
    counter[:, :, 2] = item_ids & _LOW
    counter[:, :, 3] = item_ids >> _SHIFT
    words = philox4x32(counter.reshape(-1, 4), (seed, int(stream))).astype(np.uint64)
    pairs = words[:, 0::2] << _SHIFT | words[:, 1::2]
    return pairs.reshape(items, -1)[:, :count]


def uniforms(seed: int, stream: Stream, item: int, count: int) -> NDArray[np.float64]:
    """Return `count` doubles in [0, 1), each a multiple of 2⁻⁵³."""
    return (random_u64(seed, stream, item, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seed: int, stream: Stream, item: int, count: int) -> NDArray[np.float64]:
    """Return `count` standard normals by Box–Muller. Elements 2i and 2i+1 share a Philox block."""
    pairs = uniforms(seed, stream, item, count + count % 2).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, 0]))
    angle = 2.0 * np.pi * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def permutation(seed: int, stream: Stream, item: int, count: int) -> NDArray[np.int64]:
    """Return a uniform permutation of range(count), by sorting 64-bit keys (ties by index)."""
    return np.argsort(random_u64(seed, stream, item, count), kind="stable")


def item_of_name(name: str) -> int:
    """Return the counter item of a named tensor. Its numbers then depend on no other tensor."""
    return zlib.crc32(name.encode())
