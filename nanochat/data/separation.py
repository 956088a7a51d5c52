"""Text into documents: whole files, lines, paragraphs, or the pieces between separators.

Every function takes UTF-8 and returns where its documents begin and end. Blank documents are
dropped. Leaves out the choice of the unit (statistics.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import ConfigError

__all__ = ["Lines", "Spans", "find_lines", "lines", "paragraphs", "separated", "unescaped"]

# (count,) first byte of each document, and the byte after its last one
Spans: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]

_CHUNK = 1 << 23  # bytes that are looked at together
_LINES = 1 << 20  # lines that are looked at together

# Whether a byte shows that its line is not blank: no, perhaps (it may be part of a Unicode space),
# yes.
_BLANK, _UNSURE, _VISIBLE = 0, 1, 2
_VISIBILITY = np.full(256, _VISIBLE, np.uint8)
_VISIBILITY[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = _BLANK
_VISIBILITY[0x80:0xC0] = _UNSURE
_VISIBILITY[[0xC2, 0xE1, 0xE2, 0xE3]] = _UNSURE


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a text, without their line breaks (\\n or \\r\\n)."""

    starts: NDArray[np.int64]  # (lines,)
    ends: NDArray[np.int64]  # (lines,)
    blank: NDArray[np.bool_]  # (lines,) whether a line holds only white space


def find_lines(raw: memoryview) -> Lines:
    """Return the lines that `text.split("\\n")` has.

    A text of short lines has many: each array is filled in parts, without others of its size.
    """
    data = np.frombuffer(raw, np.uint8)
    firsts = range(0, max(len(data), 1), _CHUNK)
    breaks = [np.flatnonzero(data[first : first + _CHUNK] == 10) + first for first in firsts]
    count = sum(map(len, breaks)) + 1
    starts, ends = np.zeros(count, np.int64), np.full(count, len(data), np.int64)
    done = 0
    for part in breaks:
        ends[done : done + len(part)] = part
        done += len(part)
    del breaks
    np.add(ends[:-1], 1, out=starts[1:])
    for first in range(0, count if len(data) else 0, _LINES):
        part_starts, part_ends = starts[first : first + _LINES], ends[first : first + _LINES]
        part_ends -= (part_ends > part_starts) & (data[np.maximum(part_ends - 1, 0)] == 13)
    return Lines(starts, ends, _blank(raw, data, starts, ends))


def _blank(
    raw: memoryview, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    blank = np.ones(len(starts), np.bool_)
    first = 0
    while first < len(starts):
        base = int(starts[first])
        last = min(int(np.searchsorted(ends, base + _CHUNK)), first + _LINES)
        last = max(first + 1, last)
        filled = first + np.flatnonzero(ends[first:last] > starts[first:last])
        if len(filled):
            # A line runs to the next one, so the line breaks between them count too: they are
            # blank.
            shown = _VISIBILITY[data[base : int(ends[filled[-1]])]]
            seen = np.maximum.reduceat(shown, starts[filled] - base)
            blank[filled] = seen == _BLANK
            for line in filled[seen == _UNSURE].tolist():
                blank[line] = not str(raw[starts[line] : ends[line]], "utf-8").strip()
        first = last
    return blank


def lines(raw: memoryview) -> Spans:
    """Return the lines that are not blank."""
    found = find_lines(raw)
    if not found.blank.any():
        return found.starts, found.ends
    shown = ~found.blank
    return found.starts[shown], found.ends[shown]


def paragraphs(raw: memoryview) -> Spans:
    """Return the runs of lines between blank lines."""
    found = find_lines(raw)
    shown = np.concatenate([[False], ~found.blank, [False]])
    first = np.flatnonzero(shown[1:] & ~shown[:-1])
    last = np.flatnonzero(shown[:-1] & ~shown[1:]) - 1
    return found.starts[first], found.ends[last]


def separated(separator: bytes, everywhere: bool) -> Callable[[memoryview], Spans]:
    """Return the function that splits at a separator: lines that consist of it, or everywhere."""
    pattern = _pattern(separator, everywhere)

    def split(raw: memoryview) -> Spans:
        found = [(0, 0), *(match.span() for match in pattern.finditer(raw)), (len(raw),) * 2]
        spans = [_trimmed(raw, start, end) for (_, start), (end, _) in pairwise(found)]
        kept = [(start, end) for start, end in spans if end > start]
        pairs = np.array(kept, np.int64).reshape(-1, 2)
        return pairs[:, 0].copy(), pairs[:, 1].copy()

    return split


def occurs(separator: bytes, raw: memoryview, everywhere: bool) -> bool:
    """Return whether a separator occurs in a text."""
    return _pattern(separator, everywhere).search(raw) is not None


def _pattern(separator: bytes, everywhere: bool) -> re.Pattern[bytes]:
    literal = re.escape(separator)
    return re.compile(literal if everywhere else rb"(?m)^" + literal + rb"[ \t]*\r?$")


def _trimmed(raw: memoryview, start: int, end: int) -> tuple[int, int]:
    """Return the bounds without the blank lines around a piece."""
    while start < end and raw[start] in b"\r\n":
        start += 1
    while end > start and raw[end - 1] in b"\r\n":
        end -= 1
    if end - start <= 64 and not str(raw[start:end], "utf-8").strip():
        return start, start
    return start, end


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "\\": "\\"}


def unescaped(separator: str) -> str:
    """Return a separator with \\n, \\t, \\r, \\f, \\\\, \\xHH and \\uHHHH replaced.

    Raises ConfigError for another escape and for a separator without a character.
    """
    pieces: Iterator[re.Match[str]] = re.finditer(
        r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|(.?))|[^\\]+", separator, re.DOTALL
    )
    text = ""
    for piece in pieces:
        code = piece[1] or piece[2]
        if code is not None:
            text += chr(int(code, 16))
        elif piece[3] is None:
            text += piece[0]
        elif piece[3] in _ESCAPES:
            text += _ESCAPES[piece[3]]
        else:
            raise ConfigError(
                f"separator must use the escapes \\n \\t \\r \\f \\\\ \\xHH \\uHHHH, got"
                f" {piece[0]!r}"
            )
    if not text or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ConfigError(f"separator must be text of at least one character, got {separator!r}")
    return text
