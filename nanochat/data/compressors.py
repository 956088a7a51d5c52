"""How well general compressors predict a text after another one: xz, bz2 and, if installed, PPMd.

Owns the bytes that a compressor reads and its options. Leaves out n-gram counts
(ngram/yardsticks.py) and the units of a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nanochat.data.separation import unescaped
from nanochat.data.texts import Texts

__all__ = ["MOST_READ", "Compressed", "compressed_growth", "end_of_text", "joined", "separator_of"]

MOST_READ = 1 << 23  # bytes of the training text that compressors read
MOST_DICTIONARY = 1 << 25  # bytes; xz takes about 11 times as much memory
_PIECE = 1 << 22  # bytes that are compressed at a time
_DOCUMENTS = 1 << 14  # documents that are joined at a time
_PPMD_ORDERS = (3, 4, 5, 6, 7, 8, 10, 12, 16)
_PPMD_JUDGED = 1 << 20  # bytes at the end of the training text that choose the order
_PPMD_MEMORY = (1 << 24, 1 << 29)  # least and most bytes; beyond, PPMd forgets and starts again


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What a compressor needed for a text after it had read the training text."""

    name: str  # xz, bz2 or PPMd
    growth: int  # bytes
    order: int | None = None  # of PPMd
    dictionary: int | None = None  # bytes, if xz cannot look back at the whole text


class _Compressor(Protocol):
    """The part of lzma, bz2 and pyppmd that both sizes need."""

    def compress(self, data: Any, /) -> bytes: ...

    def flush(self) -> bytes: ...


def separator_of(unit: str, separator: str | None, documents: int) -> bytes:
    """Return the bytes that end each document, by the unit of a document.

    A text of a single file, or the part of one, has none. Files and records end with a newline.
    """
    if separator is not None:
        return unescaped(separator).encode("utf-8")
    if unit == "paragraph":
        return b"\n\n"
    return b"\n" if unit == "line" or documents > 1 else b""


def joined(texts: Texts, separator: bytes) -> Iterator[bytes | memoryview]:
    """Yield the documents in pieces, each document followed by the separator."""
    if len(texts) == 1:
        view = next(texts.views())
        for first in range(0, len(view), _PIECE):
            yield view[first : first + _PIECE]
        yield separator
        return
    for first in range(0, len(texts), _DOCUMENTS):
        part = texts[first : first + _DOCUMENTS]
        yield separator.join([*part.views(), b""])


def end_of_text(texts: Texts, separator: bytes, most: int) -> bytes:
    """Return the last bytes of `joined`, at most `most`."""
    sizes = texts.lengths + len(separator)
    from_end = np.cumsum(sizes[::-1])
    last = min(int(np.searchsorted(from_end, most)) + 1, len(texts))
    if last == 1:  # the end of one document, which may be large
        (view,) = texts[len(texts) - 1 :].views()
        text = bytes(view[max(len(view) - most, 0) :]) + separator
    else:
        text = b"".join(joined(texts[len(texts) - last :], separator))
    return text[max(len(text) - most, 0) :]


def compressed_growth(
    train: bytes,
    scored: Callable[[], Iterable[bytes | memoryview]],  # returns the pieces of the text
    size: int,  # bytes of the scored text
) -> Iterator[Compressed]:
    """Yield by how much the compressed size grows when a text is appended to the training text.

    PPMd needs the package pyppmd and is left out without it. Its order is the one that compresses
    the end of the training text best.
    """
    dictionary = min(max(len(train) + size, 1 << 12), MOST_DICTIONARY)
    growth = _growth(lambda: _xz(dictionary), train, scored)
    limited = dictionary if dictionary < len(train) + size else None
    yield Compressed(name="xz", growth=growth, dictionary=limited)
    yield Compressed(name="bz2", growth=_growth(_bz2, train, scored))
    try:
        import pyppmd
    except ImportError:
        return
    memory = min(max(40 * (len(train) + size), _PPMD_MEMORY[0]), _PPMD_MEMORY[1])
    judged = train[-_PPMD_JUDGED:] if train else b""
    order = min(_PPMD_ORDERS, key=lambda each: _size(_Ppmd(pyppmd, each, memory), [judged]))
    growth = _growth(lambda: _Ppmd(pyppmd, order, memory), train, scored)
    yield Compressed(name="PPMd", growth=growth, order=order)


def _growth(
    compressor: Callable[[], _Compressor],
    train: bytes,
    scored: Callable[[], Iterable[bytes | memoryview]],
) -> int:
    alone = _size(compressor(), [train])
    both = compressor()
    return len(both.compress(train)) + _size(both, scored()) - alone


def _size(compressor: _Compressor, pieces: Iterable[bytes | memoryview]) -> int:
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


def _xz(dictionary: int) -> _Compressor:
    """Return the compressor of `xz -9e` with a dictionary of another size."""
    import lzma

    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]
    return lzma.LZMACompressor(filters=filters)


def _bz2() -> _Compressor:
    import bz2

    return bz2.BZ2Compressor(9)


class _Ppmd:
    """The variant H of PPMd, as 7-Zip has it."""

    def __init__(self, pyppmd: Any, order: int, memory: int) -> None:
        self._encoder = pyppmd.Ppmd7Encoder(order, memory)

    def compress(self, data: bytes | memoryview) -> bytes:
        encoded: bytes = self._encoder.encode(data)
        return encoded

    def flush(self) -> bytes:
        rest: bytes = self._encoder.flush()
        return rest
