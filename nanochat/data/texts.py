"""Many texts in one buffer of UTF-8 bytes, as a sequence of `str`.

Owns storage, selection and iteration in chunks. A text that is one of millions costs 16 bytes
instead of a Python object, and no text is copied until it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "Texts", "last_chunk", "take_buffer"]

CHUNK = 1 << 22  # bytes that are decoded or encoded at a time
_GATHER_BELOW = 64  # mean bytes of a text; a slice per text costs more than NumPy's index
_SCATTERED = 1 << 16  # texts; indices take eight bytes for each byte of their texts


class Texts(Sequence[str]):
    """Slices of valid UTF-8, in any order. Reading one decodes it."""

    __slots__ = ("ends", "raw", "starts")

    def __init__(
        self,
        raw: bytes | bytearray | memoryview,
        starts: NDArray[np.int64],  # (count,) in bytes
        ends: NDArray[np.int64],  # (count,)
    ) -> None:
        self.raw = memoryview(raw)
        self.starts, self.ends = starts, ends

    @classmethod
    def of(cls, documents: Sequence[str]) -> Texts:
        """Return the documents as they are, or copied into one buffer."""
        if isinstance(documents, Texts):
            return documents
        encoded = [document.encode("utf-8") for document in documents]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, count=len(encoded)))
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(encoded)]
        return cls(b"".join(encoded), starts, ends)

    @property
    def lengths(self) -> NDArray[np.int64]:  # (count,) bytes
        return self.ends - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts(self.raw, self.starts[index], self.ends[index])
        return str(self.raw[self.starts[index] : self.ends[index]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        for start, end in self.bounds():
            yield str(self.raw[start:end], "utf-8")

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as Python does for a class with __eq__

    def take(self, index: NDArray[np.int64]) -> Texts:
        """Return the texts with these numbers, in this order."""
        return Texts(self.raw, self.starts[index], self.ends[index])

    def cut(self, characters: int) -> tuple[Texts, Texts]:
        """Return a single text as two: its first characters, and the rest."""
        assert len(self) == 1
        start, end = int(self.starts[0]), int(self.ends[0])
        place, left = start, characters
        for piece in _split(self.raw[start:end]):
            count = count_characters(piece)
            if count > left:
                points = np.frombuffer(piece, np.uint8)
                place += int(np.flatnonzero((points & 0xC0) != 0x80)[left])
                break
            left, place = left - count, place + len(piece)
        where = np.array([start]), np.array([place]), np.array([end])
        return Texts(self.raw, where[0], where[1]), Texts(self.raw, where[1], where[2])

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield the first byte of each text and the byte after its last one."""
        for first in range(0, len(self), _SCATTERED):
            part = slice(first, first + _SCATTERED)
            yield from zip(self.starts[part].tolist(), self.ends[part].tolist(), strict=True)

    def views(self) -> Iterator[memoryview]:
        """Yield the bytes of each text without a copy."""
        for start, end in self.bounds():
            yield self.raw[start:end]

    def has_text(self) -> bool:
        return bool((self.ends > self.starts).any())

    def characters(self) -> int:
        """Return the number of code points."""
        return sum(map(count_characters, self.chunks()))

    def character_lengths(self) -> NDArray[np.int64]:  # (count,)
        """Return the number of code points of each text."""
        counts = self.lengths
        for first, last in self._groups():
            part = self[first:last]
            if last == first + 1:
                counts[first] = sum(map(count_characters, _split(next(part.views()))))
                continue
            raw = np.frombuffer(part._joined(), np.uint8)
            if len(raw) and raw.max() >= 0x80:
                begun = np.concatenate([[0], np.cumsum((raw & 0xC0) != 0x80, dtype=np.int64)])
                reach = np.cumsum(part.lengths)
                counts[first:last] = begun[reach] - begun[reach - part.lengths]
        return counts

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of all texts in order, in pieces that end between two characters."""
        for first, last in self._groups():
            part = self[first:last]
            if last == first + 1:
                yield from _split(next(part.views()))
            else:
                yield part._joined()

    def with_lengths(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes of all texts, each after its length in eight bytes, in pieces."""
        for first, last in self._groups():
            part = self[first:last]
            lengths = part.lengths.astype("<i8")
            if last == first + 1:  # a long text is not copied
                yield lengths.tobytes()
                yield next(part.views())
                continue
            joined = np.empty(int(lengths.sum()) + lengths.nbytes, np.uint8)
            is_text = np.ones(len(joined), np.bool_)
            is_text[np.add.outer(np.cumsum(lengths + 8) - lengths, np.arange(-8, 0))] = False
            joined[is_text] = np.frombuffer(part._joined(), np.uint8)
            joined[~is_text] = lengths.view(np.uint8)
            yield joined.data

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of texts that together have at most CHUNK bytes, or are a single text."""
        first, reach = 0, np.cumsum(self.lengths)
        while first < len(self):
            before = int(reach[first - 1]) if first else 0
            last = int(np.searchsorted(reach, before + CHUNK, side="right"))
            last = min(max(last, first + 1), first + _SCATTERED)
            yield first, last
            first = last

    def _joined(self) -> bytes | memoryview:
        lengths = self.lengths
        if (self.starts[1:] == self.ends[:-1]).all():
            return self.raw[int(self.starts[0]) : int(self.ends[-1])]
        total = int(lengths.sum())
        if total >= _GATHER_BELOW * len(self):
            return b"".join(self.views())
        index = np.repeat(self.starts - np.cumsum(lengths) + lengths, lengths) + np.arange(total)
        gathered: bytes = np.frombuffer(self.raw, np.uint8)[index].tobytes()
        return gathered


def _split(text: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of one text in pieces that end between two characters."""
    start = 0
    while start < len(text):
        end = min(start + CHUNK, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        yield text[start:end]
        start = end


def take_buffer(waiting: list[Texts]) -> tuple[bytearray, int]:
    """Remove the only item of a list; return its texts end to end, and where they begin.

    This is their buffer without what follows them, if they are end to end in it and no one else
    refers to it; otherwise a copy.
    """
    texts = waiting.pop()
    raw = texts.raw.obj
    if isinstance(raw, bytearray) and (texts.starts[1:] == texts.ends[:-1]).all():
        start, end = (int(texts.starts[0]), int(texts.ends[-1])) if len(texts) else (0, 0)
        texts = texts[:0]  # no view of the buffer may be left
        texts.raw.release()
        try:
            del raw[end:]
        except BufferError:
            return raw[start:end], 0
        return raw, start
    copy, done = bytearray(int(texts.lengths.sum())), 0
    for chunk in texts.chunks():
        copy[done : done + len(chunk)] = chunk
        done += len(chunk)
    return copy, 0


def last_chunk(raw: bytearray, start: int) -> bytes:
    """Return the end of the UTF-8 after `start`, from the beginning of a character."""
    first = max(len(raw) - CHUNK, start)
    while first > start and raw[first] & 0xC0 == 0x80:
        first -= 1
    return bytes(memoryview(raw)[first:])


def count_characters(raw: bytes | memoryview) -> int:
    """Return the number of code points in valid UTF-8."""
    points = np.frombuffer(raw, np.uint8)
    return len(points) - int(np.count_nonzero((points & 0xC0) == 0x80))
