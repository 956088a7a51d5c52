"""Documents split into chunks, and chunks packed into sequences: best-fit decreasing.

Owns which (input, target) pair belongs to which sequence; no pair is dropped. Leaves out the
tokens of a pair (batches.py) and the order in which sequences are visited. After Ding et al. 2024,
"Fewer Truncations Improve Language Modeling": a tree over the room that is left finds the best fit.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.system.cache import writable_cache

__all__ = ["Chunks", "Sequences", "pack", "split_into_chunks", "windows_of_targets"]

# Below this, plain Python is done before numba is imported and has compiled.
COMPILE_ABOVE = 200_000  # chunks


@dataclass(frozen=True)
class Chunks:
    """Runs of consecutive pairs, each inside one document."""

    starts: NDArray[np.int64]  # (chunks,) first pair
    lengths: NDArray[np.int64]  # (chunks,) pairs
    # (chunks,) pairs at the start of each that only give context: another chunk has their targets
    context: NDArray[np.int64] | None = None

    def take(self, index: NDArray[np.int64]) -> Chunks:
        context = None if self.context is None else self.context[index]
        return Chunks(self.starts[index], self.lengths[index], context)


# Pairs of a text that are listed once, in 8 bytes each; those of a larger text, batch by batch.
LISTED = 1 << 22


@dataclass(frozen=True)
class Sequences:
    """Sequences of pairs, end to end without padding. Each one fills a row of a batch."""

    chunks: Chunks  # sequence after sequence
    bounds: NDArray[
        np.int64
    ]  # (count + 1,): the chunks of sequence s are bounds[s] : bounds[s + 1]
    offsets: NDArray[np.int64]  # (count + 1,): its pairs are pairs[offsets[s] : offsets[s + 1]]

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    @cached_property
    def pairs(self) -> NDArray[np.int64]:  # (pairs,) as _pairs_of, sequence after sequence
        return _pairs_of(self.chunks)

    def pairs_of(
        self,
        chosen: NDArray[np.int64],  # (rows,) sequences
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pair numbers as `_pairs_of`, and where those of each chosen sequence begin."""
        if int(self.offsets[-1]) <= LISTED:
            return self.pairs, self.offsets[chosen]
        counts = self.bounds[chosen + 1] - self.bounds[chosen]
        before = np.cumsum(counts) - counts
        parts = np.arange(counts.sum()) + np.repeat(self.bounds[chosen] - before, counts)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        return _pairs_of(self.chunks.take(parts)), np.cumsum(lengths) - lengths

    def targets(self, is_target: NDArray[np.bool_] | None) -> NDArray[np.int64]:  # (count,)
        """Return the number of targets of each sequence."""
        if is_target is None:
            return np.diff(self.offsets)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_target)])
        chunks, context = self.chunks, self.chunks.context
        first = chunks.starts if context is None else chunks.starts + context
        of_chunks = before[chunks.starts + chunks.lengths] - before[first]
        return np.add.reduceat(of_chunks, self.bounds[:-1])


def _pairs_of(chunks: Chunks) -> NDArray[np.int64]:
    """Return the numbers of the chunks' pairs; ~number of a pair that only gives context."""
    ends = np.cumsum(chunks.lengths)
    begins = ends - chunks.lengths
    shifts = np.repeat(chunks.starts - begins, chunks.lengths)
    places = np.arange(len(shifts))
    pairs: NDArray[np.int64] = shifts + places
    if chunks.context is None:
        return pairs
    is_context = places < np.repeat(begins + chunks.context, chunks.lengths)
    return np.where(is_context, ~pairs, pairs)


def split_into_chunks(
    lengths: NDArray[np.int64],  # (documents,) pairs of each document, at least 1
    block_size: int,
) -> Chunks:
    """Split every document into chunks of block_size pairs and a shorter last one, in order."""
    counts = -(-lengths // block_size)
    first_chunk = np.cumsum(counts) - counts
    within = (np.arange(counts.sum()) - np.repeat(first_chunk, counts)) * block_size
    starts = np.repeat(np.cumsum(lengths) - lengths, counts) + within
    return Chunks(starts, np.minimum(np.repeat(lengths, counts) - within, block_size))


def windows_of_targets(
    bounds: NDArray[np.int64],  # (documents + 1,): the pairs of d are bounds[d] … bounds[d + 1] − 1
    is_target: NDArray[np.bool_],  # (pairs,)
    block_size: int,
    context: int,  # pairs before a target, at least, below block_size
) -> Chunks:
    """Return chunks of at most block_size pairs in which each target counts once, in order.

    A document that fits is one chunk, up to its last target. A longer one is covered by windows of
    block_size pairs. The first begins with the document. In each later one, at least `context`
    pairs come before the targets that the window before does not have. No chunk is without a
    target, and a document without targets has no chunk.
    """
    targets = np.flatnonzero(is_target)
    reach = np.searchsorted(targets, bounds)
    has_target = np.diff(reach) > 0
    firsts = bounds[:-1][has_target]
    lasts = targets[reach[1:][has_target] - 1]
    is_long = lasts - firsts >= block_size
    found = [
        (first, last + 1 - first, 0)
        for first, last in zip(firsts[~is_long].tolist(), lasts[~is_long].tolist(), strict=True)
    ]
    ranges = zip(reach[:-1][has_target][is_long], reach[1:][has_target][is_long], strict=True)
    for first, (low, high) in zip(firsts[is_long].tolist(), ranges, strict=True):
        found += _windows(first, targets[low:high], block_size, context)
    starts, lengths, before = np.array(sorted(found), np.int64).reshape(-1, 3).T.copy()
    return Chunks(starts, lengths, before)


def _windows(
    first: int,  # pair of the document
    targets: NDArray[np.int64],  # numbers of its targets
    block_size: int,
    context: int,
) -> list[tuple[int, int, int]]:
    """Return the chunks of one document that does not fit: first pair, pairs, context."""
    found, done, end = [], 0, first + block_size
    while done < len(targets):
        stop = int(np.searchsorted(targets, end))
        if stop > done:
            start = max(first, int(targets[stop - 1]) + 1 - block_size)
            before = max(int(targets[done]) - start, 0)
            found.append((start, int(targets[stop - 1]) + 1 - start, before))
            done = stop
        if done < len(targets):
            end = int(targets[done]) + block_size - context
    return found


def pack(chunks: Chunks, block_size: int) -> Sequences:
    """Pack chunks of at most block_size pairs into sequences of at most block_size pairs.

    The longest chunk comes first (equal ones in the given order). Each goes into the fullest
    sequence that has room.
    """
    decreasing = chunks.take(np.argsort(-chunks.lengths, kind="stable"))
    capacity = min(block_size, int(chunks.lengths.sum()))  # the tree is no larger than the data
    sequence_of = _assign_sequences(decreasing.lengths, capacity)
    ordered = decreasing.take(np.argsort(sequence_of, kind="stable"))
    filled = np.bincount(sequence_of, weights=decreasing.lengths).astype(np.int64)
    counts = np.bincount(sequence_of)
    first = np.zeros(1, np.int64)
    bounds = np.concatenate([first, np.cumsum(counts)])
    return Sequences(ordered, bounds, np.concatenate([first, np.cumsum(filled)]))


def _assign_sequences(
    lengths: NDArray[np.int64],  # (chunks,) decreasing, each in 1 … capacity
    capacity: int,
) -> NDArray[np.int64]:  # (chunks,) sequence of each
    n, size = len(lengths), 1 << capacity.bit_length()
    if n <= COMPILE_ABOVE:
        plain = [0] * n
        _best_fit(lengths.tolist(), capacity, size, plain, [0] * n, [-1] * size, [0] * 2 * size)
        return np.array(plain, dtype=np.int64)
    assigned, below = np.zeros(n, np.int64), np.zeros(n, np.int64)
    top, tree = np.full(size, -1, np.int64), np.zeros(2 * size, np.int64)
    _compiled_best_fit()(lengths, capacity, size, assigned, below, top, tree)
    return assigned


def _best_fit(
    lengths: MutableSequence[int],  # (chunks,) decreasing, each in 1 … capacity
    capacity: int,
    size: int,  # leaves of the tree: a power of two > capacity
    sequence_of: MutableSequence[int],  # (chunks,) result
    below: MutableSequence[int],  # (chunks,) scratch: the sequence below each one in its stack
    top: MutableSequence[int],  # (size,) −1: newest sequence with this much room left
    tree: MutableSequence[int],  # (2·size,) 0: sequences below each node; leaf size + room
) -> None:
    """Assign each chunk. Takes lists or arrays: the same code runs interpreted and compiled."""
    count = 0
    for i in range(len(lengths)):
        length = lengths[i]
        # The first leaf at or right of `length` with a sequence: up and right, then down left.
        node = size + length
        while node > 0 and tree[node] == 0:
            while node & 1:
                node >>= 1
            if node > 0:
                node += 1
        if node == 0:
            sequence, room = count, capacity
            count += 1
        else:
            while node < size:
                node *= 2
                if tree[node] == 0:
                    node += 1
            room = node - size
            sequence = top[room]
            top[room] = below[sequence]
            while node > 0:
                tree[node] -= 1
                node >>= 1
        sequence_of[i] = sequence
        room -= length
        below[sequence] = top[room]
        top[room] = sequence
        node = size + room
        while room > 0 and node > 0:  # full sequences leave the tree
            tree[node] += 1
            node >>= 1


@cache
def _compiled_best_fit() -> Callable[..., Any]:
    import numba

    folder = writable_cache("numba")
    if folder is None:  # compile once per process
        return numba.njit(_best_fit)
    options: Any = numba.config
    usual, options.CACHE_DIR = options.CACHE_DIR, str(folder)
    try:
        compiled = numba.njit(cache=True)(_best_fit)
        compiled(*_no_chunks())  # writes the cache
    except (OSError, RuntimeError):  # the cache is full or not for numba
        return numba.njit(_best_fit)
    finally:
        options.CACHE_DIR = usual
    return compiled


def _no_chunks() -> tuple[Any, ...]:
    """Return the arguments of _best_fit for nothing, in their types."""
    none = np.zeros(0, np.int64)
    return none, 1, 2, none, none, none, none
