"""Text as a terminal shows it: escaped control characters, columns, durations."""

from __future__ import annotations

import os
from typing import Any

__all__ = [
    "display_width",
    "duration",
    "escaped",
    "fit_in_line",
    "quoted",
    "terminal_width",
    "wrapped",
]

DEFAULT_WIDTH, MOST_COLUMNS = 80, 1000  # of a terminal that does not tell, and of any

# Control codes can move the cursor, and bidirectional controls can reorder what follows them.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_SEPARATORS = [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROLS} | {
    code: f"\\u{code:04x}" for code in _SEPARATORS
}
del _ESCAPES[ord("\n")], _ESCAPES[ord("\t")]


def escaped(text: str) -> str:
    """Return text without characters that control a terminal; line breaks and tabs stay.

    >>> escaped("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return text.translate(_ESCAPES)


def quoted(text: str, width: int, encoding: str = "utf-8") -> str:
    """Return a text in quotes on one line; an ellipsis marks what is cut off to fit `width`.

    >>> quoted("it's\\n", 20), quoted("a long text", 8)
    ('"it\'s\\\\n"', "'a lo...")
    """
    for character, shown in (("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(character, shown)
    mark = '"' if "'" in text else "'"
    return fit_in_line(f"{mark}{text}{mark}", width, encoding)


def display_width(text: str) -> int:
    """Return the columns of a text without line breaks and tabs."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata  # ASCII does not need it

    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit_in_line(text: str, width: int, encoding: str = "utf-8") -> str:
    """Return the text on one line of at most `width` columns; an ellipsis marks what is cut off.

    encoding: of the terminal; characters that it lacks are escaped, which makes them longer.
    """
    line = escaped(" ".join(text.split()))
    try:
        line = line.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # Python does not know the encoding
        line = ascii(line)[1:-1]
    if display_width(line) <= width:
        return line
    ending = "..."[: max(width, 0)]
    room, kept = width - len(ending), ""
    for character in line:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + ending


def terminal_width(stream: Any) -> int:
    """Return the columns of a terminal, by COLUMNS or as the terminal says. 0 is unknown."""
    columns = os.environ.get("COLUMNS", "").lstrip("0")
    if columns.isascii() and columns.isdigit():
        return min(int(columns[:9]), MOST_COLUMNS)
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError, AttributeError):
        return DEFAULT_WIDTH


def wrapped(line: str, width: int) -> str:
    """Return a line broken between its words where a terminal would break it anywhere.

    >>> wrapped("a model of words with a long name", 20)
    'a model of words\\n  with a long name'
    """
    if width < 20 or len(line) <= width or "\n" in line:
        return line
    import textwrap  # few lines are that long

    return textwrap.fill(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def duration(seconds: float) -> str:
    """Return a time for people: seconds up to a minute, then minutes, then hours.

    >>> duration(7.4), duration(83), duration(4000)
    ('7 s', '1:23 min', '1:06 h')
    """
    whole = round(max(seconds, 0.0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
