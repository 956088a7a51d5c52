"""Text on a terminal: nothing controls it, and a line fits in its columns."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from nanochat.output.text import (
    display_width,
    duration,
    escaped,
    fit_in_line,
    terminal_width,
    wrapped,
)

ENCODINGS = ["utf-8", "ascii", "latin-1", "cp437", "no-such-encoding"]


@settings(deadline=None)
@given(st.text())
def test_no_control_character_is_left_and_other_text_is_kept(text):
    shown = escaped(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert not set(shown) & set(
        "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
    )
    kept = [c for c in text if c == escaped(c)]
    assert [c for c in shown if c in kept or c.isalpha()] or not kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2Jb", "a\\x1b[2Jb"), ("a\rb", "a\\x0db"), ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
     ("a\nb\tc", "a\nb\tc"), ("\u202eab", "\\u202eab"), ("é 日本 😀 \u200d", "é 日本 😀 \u200d")],
)  # fmt: skip
def test_control_characters_are_shown_as_escapes(text, shown):
    assert escaped(text) == shown


@settings(deadline=None)
@given(st.text(), st.integers(0, 60), st.sampled_from(ENCODINGS))
def test_a_line_fits_in_its_columns_and_its_encoding(text, width, encoding):
    line = fit_in_line(text, width, encoding)
    assert "\n" not in line and "\t" not in line
    assert display_width(line) <= width
    line.encode("ascii" if encoding == "no-such-encoding" else encoding)


@settings(deadline=None)
@given(st.text("ab é日", max_size=30), st.integers(3, 40))
def test_what_fits_is_whole_and_what_is_cut_says_so(text, width):
    whole = " ".join(text.split())
    line = fit_in_line(text, width)
    if display_width(whole) <= width:
        assert line == whole
    else:
        assert line.endswith("...") and whole.startswith(line[:-3])
        assert display_width(line) >= width - 1  # a wide character may not fit


UNAMBIGUOUS = st.characters(categories=["L", "N", "P", "Zs"]).filter(
    lambda c: unicodedata.east_asian_width(c) != "A"
)


@settings(deadline=None)
@given(st.text(UNAMBIGUOUS, max_size=20))
def test_columns_are_those_that_rich_counts(text):
    assert abs(display_width(text) - cell_len(text)) <= sum(
        display_width(c) != cell_len(c) for c in text
    )


@pytest.mark.parametrize(
    ("text", "width"), [("日本", 4), ("é", 1), ("e\u0301", 1), ("😀", 2), ("", 0)]
)
def test_wide_characters_take_two_columns_and_combining_ones_none(text, width):
    assert display_width(text) == width


@pytest.mark.parametrize(
    ("columns", "width"),
    [("100", 100), ("0", 80), ("000", 80), ("", 80), ("x", 80), ("-5", 80), ("²", 80),
     ("1000000000000000000000", 1000), ("999999999", 1000), ("1", 1)],
)  # fmt: skip
def test_a_width_that_makes_no_sense_counts_as_80(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width(None) == width


def test_the_terminal_tells_its_width_and_one_that_says_0_has_80(monkeypatch):
    import fcntl
    import struct
    import termios

    monkeypatch.delenv("COLUMNS")
    parent, child = os.openpty()
    with os.fdopen(child, "w") as stream, os.fdopen(parent):
        for columns, width in ((33, 33), (0, 80)):
            fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            assert terminal_width(stream) == width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (61, "1:01 min"),
     (3599.6, "1:00 h"), (7384, "2:03 h"), (360_000, "100:00 h")],
)  # fmt: skip
def test_a_time_is_in_the_largest_unit_that_it_fills(seconds, text):
    assert duration(seconds) == text


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=300),
    st.integers(20, 120),
)
def test_a_wrapped_line_has_the_same_words_and_no_line_that_could_be_shorter(
    text: str, width: int
) -> None:
    lines = wrapped(text, width).split("\n")
    if len(text) <= width:
        assert lines == [text]
    else:
        assert " ".join(lines).split() == text.split()
        for line in lines:
            assert len(line) <= width or len(line.split()) == 1
