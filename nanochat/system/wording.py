"""Counts, sizes and paths in messages."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["amount", "as_word", "counted", "printable"]

MOST_SHOWN = 300  # characters of a path or URL that a message repeats


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the singular or plural.

    >>> counted(1, "document"), counted(2000, "document"), counted(0, "entry", "entries")
    ('1 document', '2,000 documents', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def amount(size: int) -> str:
    """Return a number of bytes for people.

    >>> amount(53_200), amount(1_250_000), amount(7)
    ('53 kB', '1.2 MB', '7 bytes')
    """
    if size >= 999_500:  # 1000 kB, rounded
        return f"{size / 1e6:,.1f} MB"
    return f"{size / 1e3:.0f} kB" if size >= 1000 else counted(size, "byte")


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path or URL for a message of one line: shortened, and with line breaks, control
    characters and bytes outside UTF-8 escaped."""
    text = os.fspath(path)
    text = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"
    with suppress(UnicodeEncodeError):  # other surrogates than those of bytes are escaped below
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def as_word(text: str) -> str:
    """Return a text as a word of a shell command to copy; FILE if `printable` changes it."""
    import shlex  # for an error message

    return shlex.quote(text) if printable(text) == text else "FILE"


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
