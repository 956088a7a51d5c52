"""Spans of sampled tokens that the training text also has, found exactly.

The n-grams of the training text are hashed, a piece at a time, and those whose hash a sample has
are compared token by token. Leaves out where a span is in the source (commands/copies.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents

__all__ = ["Copy", "covered", "document_of", "find_copies"]

_PIECE = 1 << 20  # n-grams that are hashed at a time
_BASE = 0x9E3779B97F4A7C15  # odd; a bad hash costs time, never a wrong span
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """The tokens first … first + length − 1 of a sample, which the training text has."""

    first: int
    length: int
    position: int  # of the first of these tokens in the token stream; of several, one


def find_copies(
    samples: Sequence[Sequence[int]],  # tokens without BOS
    stream: NDArray[np.integer[Any]],  # the token stream of the training text
    least: int,  # tokens of a span
) -> list[list[Copy]]:
    """Return the spans of each sample, in order, that cannot be longer and are in no other span.

    No span crosses the end of a document.
    """
    border = int(stream.max(initial=0)) + 1  # in no document
    border = max([border, *(max(sample, default=0) + 1 for sample in samples)])
    text = np.concatenate([np.array([*sample, border], dtype=np.int64) for sample in samples])
    ends = np.cumsum([len(sample) + 1 for sample in samples]) - 1  # the borders
    search = _Search(text, ends, stream, least)
    for first in range(0, len(stream) - least + 1, _PIECE):
        search.look_in(first, min(first + _PIECE, len(stream) - least + 1))
    return search.copies([len(sample) for sample in samples])


class _Search:
    """The longest copy that begins at each token, as far as the training text has been read."""

    def __init__(
        self,
        text: NDArray[np.int64],  # (tokens,) samples, a border after each
        ends: NDArray[np.int64],  # (samples,) of the samples
        stream: NDArray[np.integer[Any]],
        least: int,
    ) -> None:
        self._text, self._stream, self._least = text, stream, least
        self._end_of = ends[np.searchsorted(ends, np.arange(len(text)))].tolist()
        self._lengths = np.zeros(len(text), dtype=np.int64)
        self._positions = np.zeros(len(text), dtype=np.int64)
        self._keys, self._key_of = np.unique(_hashes(text, least), return_inverse=True)

    def look_in(self, first: int, last: int) -> None:
        """Look for copies that begin at first … last − 1 of the stream."""
        if not len(self._keys):
            return
        hashes = _hashes(self._stream[first : last + self._least - 1], self._least)
        keys = np.minimum(np.searchsorted(self._keys, hashes), len(self._keys) - 1)
        found = np.flatnonzero(self._keys[keys] == hashes)
        by_key = found[np.argsort(keys[found], kind="stable")]
        ends = np.cumsum(np.bincount(keys[found], minlength=len(self._keys)))
        reached = 0  # the end of the copies so far
        for start, key in enumerate(self._key_of.ravel().tolist()):
            reached = max(reached, start + int(self._lengths[start]))
            length = max(self._least, reached - start + 1)
            if start + length <= self._end_of[start]:
                places = by_key[ends[key - 1] if key else 0 : ends[key]] + first
                reached = max(reached, self._extend(start, places, length))

    def _extend(self, start: int, places: NDArray[np.int64], length: int) -> int:
        """Keep the longest copy, of at least `length`, of the tokens from `start`.

        Return its end, or 0 without one.
        """
        text, stream = self._text, self._stream
        known, reached = 0, 0  # tokens that all places share with the text; the end of the copy
        while True:
            places = places[places + length <= len(stream)]
            for offset in range(length - 1, known - 1, -1):  # the last one excludes most places
                places = places[stream[places + offset] == text[start + offset]]
            if not len(places):
                return reached
            # The first place is followed to its end; the others must have one token more.
            place = int(places[0])
            rest = min(self._end_of[start] - start, len(stream) - place) - length
            differs = (
                stream[place + length : place + length + rest]
                != text[start + length : start + length + rest]
            )
            known, length = length, length + (int(differs.argmax()) if differs.any() else rest)
            self._lengths[start], self._positions[start] = length, place
            reached = start + length
            if reached == self._end_of[start]:
                return reached
            length += 1

    def copies(self, sizes: Sequence[int]) -> list[list[Copy]]:
        result = []
        begin = 0
        for size in sizes:
            copies, reached = list[Copy](), 0
            for first in range(size):
                length = int(self._lengths[begin + first])
                if length and first + length > reached:
                    position = int(self._positions[begin + first])
                    copies.append(Copy(first=first, length=length, position=position))
                    reached = first + length
            result.append(copies)
            begin += size + 1
        return result


def _hashes(tokens: NDArray[np.integer[Any]], length: int) -> NDArray[np.uint64]:
    """Return a hash of each run of `length` tokens: a polynomial modulo 2^64, by doubling."""
    count = len(tokens) - length + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    block = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    block ^= block >> np.uint64(29)
    result, done, size = np.zeros(count, dtype=np.uint64), 0, 1  # hashes of `done`, of `size`
    while True:
        power = np.uint64(pow(_BASE, size, _MASK + 1))
        if length & size:
            result = result * power + block[done : done + count]
            done += size
        if done == length:
            return result
        block = block[:-size] * power + block[size:]
        size *= 2


def covered(copies: Sequence[Copy]) -> list[tuple[int, int]]:
    """Return the ranges of tokens that copies cover; those that overlap or touch are one."""
    ranges: list[tuple[int, int]] = []
    for copy in copies:
        end = copy.first + copy.length
        if ranges and copy.first <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((copy.first, end))
    return ranges


def document_of(sample: Sequence[int], documents: Documents) -> int | None:
    """Return the number, from 0, of a document that has exactly these tokens, or None."""
    chosen = np.flatnonzero(documents.lengths == len(sample))
    first = documents.offsets[chosen] + chosen + 1  # in the stream
    for offset, token in enumerate(sample):
        equal = documents.stream[first + offset] == token
        chosen, first = chosen[equal], first[equal]
    return int(chosen[0]) if len(chosen) else None
