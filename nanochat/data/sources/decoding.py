"""Bytes of a text as UTF-8: byte order marks, UTF-16, and the error for anything else.

Works on a stream: the first wrong byte ends the reading, however large the file is.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

from nanochat.data.sources.opening import Unreadable

__all__ = ["utf8"]

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UTF32 = {b"\xff\xfe\0\0": "utf-32-le", b"\0\0\xfe\xff": "utf-32-be"}


def utf8(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the text as valid UTF-8 without its byte order mark. Newlines stay as they are.

    Each piece ends between two characters. Raises CorpusError for NUL and for invalid bytes.
    """
    stream = iter(chunks)
    head = b""
    while len(head) < 4:  # a mark may be spread over several chunks
        chunk = next(stream, None)
        if chunk is None:
            break
        head += chunk
    for length, marks in ((4, _UTF32), (2, _UTF16)):
        encoding = marks.get(head[:length])
        if encoding is not None:
            yield from _recoded(head[length:], stream, encoding, length, name)
            return
    mark = len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0
    yield from _checked(head[mark:], stream, mark, name)


def _checked(head: bytes, stream: Iterator[bytes], offset: int, name: str) -> Iterator[bytes]:
    """Yield valid UTF-8 unchanged. `offset` is the position of `head` in the file."""
    for chunk in _whole_characters(head, stream):
        if not chunk.isascii() or b"\0" in chunk:
            try:
                # Final: no later chunk can complete a character of this one.
                codecs.utf_8_decode(chunk, "strict", True)
            except UnicodeDecodeError as error:
                _refuse_nul(chunk, offset, name)
                raise Unreadable(
                    f"{name} is not UTF-8: byte 0x{chunk[error.start]:02x} at byte"
                    f" {offset + error.start}; convert it, for example with iconv -f latin1 -t"
                    " utf-8",
                    "file that is not UTF-8",
                ) from error
            _refuse_nul(chunk, offset, name)
        offset += len(chunk)
        if chunk:
            yield chunk


def _whole_characters(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks again. An unfinished character at the end of one moves to the next."""
    pending = head
    for chunk in stream:
        cut = _complete(pending)
        yield pending[:cut]
        pending = pending[cut:] + chunk
    yield pending


def _complete(data: bytes) -> int:
    """Return where the last, unfinished character of the data begins, or its length."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character
            needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)


def _refuse_nul(chunk: bytes, offset: int, name: str) -> None:
    nul = chunk.find(b"\0")
    if nul < 0:
        return
    if offset == 0 and (encoding := _unmarked_utf16(chunk[:200])):
        raise Unreadable(
            f"{name} is not UTF-8: it looks like UTF-16 without a byte order mark; convert it with"
            f" iconv -f {encoding} -t utf-8",
            "file that is not UTF-8",
        )
    raise Unreadable(
        f"{name} is not text: NUL at byte {offset + nul}; give UTF-8 text", "binary file"
    )


def _unmarked_utf16(head: bytes) -> str | None:
    """Return the encoding if every second byte is NUL and the others are ASCII text."""
    for first, encoding in ((0, "utf-16le"), (1, "utf-16be")):
        letters, nuls = head[first::2], head[1 - first :: 2]
        if len(head) >= 8 and not nuls.strip(b"\0") and letters.isascii() and b"\0" not in letters:
            return encoding
    return None


def _recoded(
    head: bytes, stream: Iterator[bytes], encoding: str, offset: int, name: str
) -> Iterator[bytes]:
    """Yield a text in another encoding as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    title = encoding[:6].upper()
    for chunk in chain([head], stream, [None]):
        try:
            text = decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            raise Unreadable(
                f"{name} is not {title}: {error.reason} near byte {offset}; save it as UTF-8",
                "binary file",
            ) from error
        if "\0" in text:
            raise Unreadable(
                f"{name} is not text: NUL near byte {offset}; give UTF-8 text", "binary file"
            )
        offset += len(chunk or b"")
        if text:
            yield text.encode("utf-8")
