"""Documents cut into pieces, and pieces packed into rows: best-fit decreasing, nothing dropped.

Owns which (input, target) pair stands in which row. Leaves out what is in a pair (batches.py)
and the order in which rows are visited. After Ding et al. 2024, "Fewer Truncations Improve
Language Modeling", whose best fit by a tree over the room left this is.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pieces", "Rows", "cut", "pack"]

# Up to here plain Python is done before numba would be imported, let alone have compiled.
COMPILE_ABOVE = 200_000  # pieces


@dataclass(frozen=True)
class Pieces:
    """Runs of consecutive pairs, each inside one document."""

    starts: NDArray[np.int64]  # (n,) first pair
    lengths: NDArray[np.int64]  # (n,) pairs

    def take(self, index: NDArray[np.int64]) -> Pieces:
        return Pieces(self.starts[index], self.lengths[index])


@dataclass(frozen=True)
class Rows:
    """Rows of pairs, end to end without padding."""

    pairs: NDArray[np.int64]  # (pairs,) pair numbers, row after row
    offsets: NDArray[np.int64]  # (rows + 1,): row r is pairs[offsets[r] : offsets[r + 1]]

    @property
    def count(self) -> int:
        return len(self.offsets) - 1


def cut(
    lengths: NDArray[np.int64],  # (documents,) pairs of each document, at least 1
    block_size: int,
) -> Pieces:
    """Every document in pieces of block_size pairs, the last one shorter, in document order."""
    counts = -(-lengths // block_size)
    first_piece = np.cumsum(counts) - counts
    within = (np.arange(counts.sum()) - np.repeat(first_piece, counts)) * block_size
    starts = np.repeat(np.cumsum(lengths) - lengths, counts) + within
    return Pieces(starts, np.minimum(np.repeat(lengths, counts) - within, block_size))


def pack(pieces: Pieces, block_size: int) -> Rows:
    """Pieces of at most block_size pairs into rows of at most block_size pairs.

    Longest first (equal ones in the order given), each into the fullest row that has room.
    """
    decreasing = pieces.take(np.argsort(-pieces.lengths, kind="stable"))
    room = min(block_size, int(pieces.lengths.sum()))  # the tree is no larger than the data
    row_of = _row_of_each(decreasing.lengths, room)
    ordered = decreasing.take(np.argsort(row_of, kind="stable"))
    fill = np.bincount(row_of, weights=decreasing.lengths).astype(np.int64)
    ends = np.cumsum(ordered.lengths)
    pairs = np.arange(ends[-1]) + np.repeat(
        ordered.starts - (ends - ordered.lengths), ordered.lengths
    )
    return Rows(pairs, np.concatenate([np.zeros(1, np.int64), np.cumsum(fill)]))


def _row_of_each(
    lengths: NDArray[np.int64],  # (n,) decreasing, each in 1 … capacity
    capacity: int,
) -> NDArray[np.int64]:  # (n,)
    n, size = len(lengths), 1 << capacity.bit_length()
    if n <= COMPILE_ABOVE:
        row_of = [0] * n
        _best_fit(lengths.tolist(), capacity, size, row_of, [0] * n, [-1] * size, [0] * 2 * size)
        return np.array(row_of, dtype=np.int64)
    rows, below = np.zeros(n, np.int64), np.zeros(n, np.int64)
    top, tree = np.full(size, -1, np.int64), np.zeros(2 * size, np.int64)
    _compiled_best_fit()(lengths, capacity, size, rows, below, top, tree)
    return rows


def _best_fit(
    lengths: MutableSequence[int],  # (n,) decreasing, each in 1 … capacity
    capacity: int,
    size: int,  # leaves of the tree: a power of two > capacity
    row_of: MutableSequence[int],  # (n,) result
    below: MutableSequence[int],  # (n,) scratch: the row under each row in its stack
    top: MutableSequence[int],  # (size,) −1: newest row that has this much room left
    tree: MutableSequence[int],  # (2·size,) 0: rows below each node; leaf size + room
) -> None:
    """Lists or arrays: the same lines run as plain Python and compiled, with equal results."""
    rows = 0
    for i in range(len(lengths)):
        length = lengths[i]
        # The first leaf at or right of `length` that has a row: up and right, then down left.
        node = size + length
        while node > 0 and tree[node] == 0:
            while node & 1:
                node >>= 1
            if node > 0:
                node += 1
        if node == 0:
            row, room = rows, capacity
            rows += 1
        else:
            while node < size:
                node *= 2
                if tree[node] == 0:
                    node += 1
            room = node - size
            row = top[room]
            top[room] = below[row]
            while node > 0:
                tree[node] -= 1
                node >>= 1
        row_of[i] = row
        room -= length
        below[row] = top[room]
        top[room] = row
        node = size + room
        while room > 0 and node > 0:  # full rows leave the tree
            tree[node] += 1
            node >>= 1


@cache
def _compiled_best_fit() -> Callable[..., Any]:
    import numba

    try:
        return numba.njit(cache=True)(_best_fit)
    except RuntimeError:  # no folder to keep the machine code in: compile it in every process
        return numba.njit(_best_fit)
