"""JSON that arrives in chunks: its values one by one, in a buffer that slides over the text.

Owns the positions in error messages, which are those of `json.loads` on the whole text. Leaves out
which values are texts (records.py). A value is parsed as a whole, so the buffer grows to the size
of the largest one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

__all__ = ["JsonStream"]

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_LARGE = 1 << 20  # characters; the text of a larger value is dropped as soon as it is parsed
# An error so close to the end of the buffer may come from a value that goes on in the next chunk:
# the longest are `-Infinity` and an escaped pair of surrogates, `\ud83d\ude00`.
_UNFINISHED = 12
_NUMBER_REST = 2  # characters after a number that may belong to it, as in `1e+`


class JsonStream:
    """A place in a JSON text. Every method that parses raises ValueError, with the position."""

    def __init__(self, chunks: Iterable[bytes]) -> None:  # valid UTF-8, cut between characters
        self._chunks = iter(chunks)
        self._text, self._at = "", 0  # the buffer, and the place in it
        self._ended = False  # no chunk is left
        # Of the buffer's first character: its position, and the line's number and beginning.
        self._dropped, self._line, self._line_start = 0, 1, 0
        if self.peek() == "\ufeff":
            self._at += 1
            self._drop()
            self._dropped = 0  # a byte order mark is not part of the text

    def peek(self) -> str:
        """Move past white space and return the next character; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None  # it matches nothing
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def value(self) -> Any:
        """Parse the value at this place."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self._text) - _UNFINISHED
                if self._ended or not (near_end or error.msg.startswith("Unterminated")):
                    self._refuse(error.msg, error.pos)
                self._read_more()
                continue
            except ValueError:  # an integer of too many digits, or the first digits of a float
                if self._ended:
                    raise
                self._read_more()
                continue
            near_end = end >= len(self._text) - _NUMBER_REST
            if near_end and not self._ended and isinstance(value, (int, float)):
                self._read_more()
                continue
            large = end - self._at > _LARGE
            self._at = end
            if large:
                self._drop()
            return value

    def items(self) -> Iterator[Any]:
        """Yield the items of the array at this place."""
        self._at += 1
        if self._skipped("]"):
            return
        while True:
            yield self.value()
            if self._skipped("]"):
                return
            self._expect(",", "Expecting ',' delimiter")

    def members(self) -> Iterator[str]:
        """Yield the names in the object at this place; the caller parses the value of each."""
        self._at += 1
        if self._skipped("}"):
            return
        while True:
            if self.peek() != '"':
                self._refuse("Expecting property name enclosed in double quotes", self._at)
            name = self.value()
            self._expect(":", "Expecting ':' delimiter")
            self.peek()
            yield name
            if self._skipped("}"):
                return
            self._expect(",", "Expecting ',' delimiter")

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            self._refuse("Extra data", self._at)

    def _skipped(self, mark: str) -> bool:
        """Move past the next character if it is this one."""
        found = self.peek() == mark
        self._at += found
        return found

    def _expect(self, mark: str, message: str) -> None:
        if not self._skipped(mark):
            self._refuse(message, self._at)

    def _refuse(self, message: str, at: int) -> NoReturn:
        self._drop(at)
        column = self._dropped - self._line_start + 1
        raise ValueError(
            f"{message}: line {self._line} column {column} (char {self._dropped})"
        ) from None

    def _drop(self, at: int | None = None) -> None:
        """Drop the buffer before this place, or before `at`."""
        at = self._at if at is None else at
        breaks = self._text.count("\n", 0, at)
        if breaks:
            self._line += breaks
            self._line_start = self._dropped + self._text.rindex("\n", 0, at) + 1
        self._dropped += at
        self._text, self._at = self._text[at:], 0

    def _read_more(self) -> bool:
        """Read at least half as much as is waiting, and return whether there was more.

        A value that needs many chunks is parsed again for each of them, so the buffer must grow
        by a factor.
        """
        if self._ended:
            return False
        self._drop()
        parts, wanted = [self._text], max(len(self._text) // 2, 1)
        self._text = ""
        for chunk in self._chunks:
            parts.append(str(chunk, "utf-8"))
            wanted -= len(parts[-1])
            if wanted <= 0:
                break
        else:
            self._ended = True
        self._text = "".join(parts)
        return len(parts) > 1
