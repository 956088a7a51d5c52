"""Open a source as a stream of bytes: reading in chunks, and decompression with a bound.

Owns the errors of the file system, the check that a file does not change while it is read, and the
formats gzip, bzip2, xz and zstd. Leaves out the meaning of the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from nanochat.errors import CorpusError, MissingDependency
from nanochat.system.plain_files import plain_file

__all__ = [
    "CHUNK",
    "COMPRESSED",
    "MissingReader",
    "SourceFile",
    "Unreadable",
    "check_ratio",
    "compression_of",
    "expanded",
    "open_file",
    "reason",
]

CHUNK = 1 << 20  # bytes read at a time

# A text that expands further is refused. Real texts stay below 30, logs below 200.
MAX_RATIO = 250
FREE_BYTES = 1 << 24  # a small file may expand to this size at any ratio
_MEMORY_LIMIT = 1 << 29  # bytes of an xz dictionary
_FEED = 1 << 16
_ZSTD_FEED = 1 << 11  # zstd has no bound on its output; a block of 4 bytes can hold 128 KiB

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")


class Unreadable(CorpusError):
    """A file that has no readable text; a folder counts it under its kind."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class MissingReader(MissingDependency):
    """A file whose reader is not installed; a folder counts it under its kind."""

    def __init__(self, message: str, kind: str, way_out: str) -> None:
        super().__init__(f"{message}; {way_out}")
        self.kind, self.way_out = kind, way_out


class SourceFile(Protocol):
    """A source that can be read more than once from its beginning."""

    @property
    def name(self) -> str:
        """The name for messages: a path as given, or a URL."""

    @property
    def identity(self) -> tuple[int | str, ...]:
        """What all names of one source have in common."""

    def open(self) -> Any:
        """Return a context manager that gives a seekable binary file."""


def reason(error: Exception) -> str:
    """Return an exception's text for a message, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


@contextmanager
def open_file(
    path: str,
    name: str,
    *,
    follow: bool = True,  # links; the files of a run folder are none
) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises CorpusError if it changes before it is closed."""
    try:
        with open(path, "rb") if follow else plain_file(path) as file:
            before = _version(file)
            yield file
            if _version(file) != before:
                raise CorpusError(
                    f"{name} changed while it was read; run the command again when it is complete"
                )
    except OSError as error:
        raise Unreadable(
            f"cannot read {name}: {reason(error)}", "file that cannot be read"
        ) from error


def _version(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def compression_of(head: bytes) -> str | None:
    """Return the compression that the first bytes of a file show."""
    return next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)


def expanded(file: BinaryIO, name: str, kind: str | None) -> Iterator[bytes]:
    """Yield the decompressed contents from the start of the file; unchanged if kind is None.

    Raises CorpusError for a truncated or damaged file and for one that expands too far.
    """
    file.seek(0)
    if kind is None:
        while chunk := file.read(CHUNK):
            yield chunk
        return
    read, written = 0, 0
    try:
        for consumed, chunk in _decompressed(file, name, kind):
            read, written = read + consumed, written + len(chunk)
            check_ratio(name, written, read)
            yield chunk
    except (CorpusError, MissingDependency):
        raise
    except Exception as error:  # zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError
        if isinstance(error, MemoryError):
            raise
        raise Unreadable(
            f"{name} is damaged {kind} data: {reason(error)}; copy or download it again",
            "damaged file",
        ) from error


def check_ratio(name: str, written: int, read: int) -> None:
    """Raise CorpusError if `read` bytes of a file have become far more bytes of text."""
    if written > max(FREE_BYTES, MAX_RATIO * read):
        raise Unreadable(
            f"{name} must not expand to more than {MAX_RATIO} times its size, got {written:,} bytes"
            f" from {read:,}; decompress it first if that is right",
            "file that expands too far",
        )


class _Decoder(Protocol):
    """The interface of bz2.BZ2Decompressor and lzma.LZMADecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _decompressed(file: BinaryIO, name: str, kind: str) -> Iterator[tuple[int, bytes]]:
    """Yield (compressed bytes consumed, contents) over all members of a file."""
    make, feed = _decoder(kind, name)
    decoder, data, at_end = make(), file.read(feed), False
    consumed = len(data)
    while True:
        chunk = decoder.decompress(data, CHUNK)
        yield consumed, chunk
        consumed, data = 0, b""
        if decoder.eof:
            rest = decoder.unused_data or file.read(feed)
            consumed = 0 if decoder.unused_data else len(rest)
            if not rest.strip(b"\0"):  # the end, or padding after the last member
                return
            decoder, data = make(), rest
        elif decoder.needs_input:
            data = file.read(feed)
            consumed = len(data)
            if not data:
                at_end = True
        if at_end:
            raise Unreadable(
                f"{name} is truncated {kind} data; copy or download it again", "damaged file"
            )


def _decoder(kind: str, name: str) -> tuple[Callable[[], _Decoder], int]:
    """Return a function that makes a decoder, and the bytes that it takes at a time."""
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, _FEED
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(memlimit=_MEMORY_LIMIT), _FEED
    if kind == "gzip":
        return _Gzip, _FEED
    try:
        import zstandard
    except ImportError as error:
        raise MissingReader(
            f"{name} needs zstandard", "zstd file", "pip install 'nanochat-lab[zstd]'"
        ) from error
    return lambda: _Zstd(zstandard.ZstdDecompressor().decompressobj()), _ZSTD_FEED


class _Gzip:
    """zlib with the interface of the other decoders."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstd:
    """zstandard with the interface of the other decoders, but without a limit on the output."""

    needs_input = True

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return bytes(self._inner.decompress(data))
