"""Texts into documents: every unit equals the same rule written with `str`."""

from __future__ import annotations

import re
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import separation
from nanochat.data.separation import lines, paragraphs, separated, unescaped
from nanochat.errors import ConfigError

# Every kind of line break and white space, and characters whose bytes look like them.
texts = st.text(
    st.sampled_from("a%é🚀 \t\n\r\x0b\x1c\x1f\x85\xa0\u1680\u2003\u2028\u3000\u00a1中あ\x01")
)


def documents(split, text):
    raw = memoryview(text.encode())
    starts, ends = split(raw)
    return [str(raw[s:e], "utf-8") for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]


@given(texts)
def test_lines_are_those_of_split_without_carriage_return_and_blank_ones(text):
    expected = [line.removesuffix("\r") for line in text.split("\n")]
    assert documents(lines, text) == [line for line in expected if line.strip()]


@given(texts, st.integers(1, 9), st.integers(1, 3))
def test_a_large_text_has_the_lines_of_its_parts(text, chunk, count):
    expected = [line.removesuffix("\r") for line in text.split("\n")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "_CHUNK", chunk)
        patch.setattr(separation, "_LINES", count)
        assert documents(lines, text) == [line for line in expected if line.strip()]


@given(texts)
def test_paragraphs_are_runs_of_lines_that_are_not_blank(text):
    text = text.replace("\r", "")
    groups = groupby(text.split("\n"), lambda line: not line.strip())
    expected = ["\n".join(group) for is_blank, group in groups if not is_blank]
    assert documents(paragraphs, text) == expected


@given(texts)
def test_a_separator_on_its_line_divides_and_one_inside_a_line_does_not(text):
    text = text.replace("\r", "")
    pieces, current = [], []
    for line in text.split("\n"):
        if re.fullmatch(r"%[ \t]*", line):
            pieces.append("\n".join(current))
            current = []
        else:
            current.append(line)
    pieces.append("\n".join(current))
    expected = [piece.strip("\n") for piece in pieces if piece.strip()]
    assert documents(separated(b"%", False), text) == expected


def test_a_separator_everywhere_divides_inside_lines():
    assert documents(separated(b"<|end|>", True), "a<|end|>b c<|end|>\nd") == ["a", "b c", "d"]


def test_a_long_line_and_many_lines_are_found_across_chunks(monkeypatch):
    from nanochat.data import separation

    monkeypatch.setattr(separation, "_CHUNK", 7)
    text = "x" * 50 + "\n\n" + "y\n" * 30 + " \n" * 20 + "ü" * 11
    assert documents(lines, text) == ["x" * 50, *["y"] * 30, "ü" * 11]
    assert documents(paragraphs, text) == ["x" * 50, "\n".join(["y"] * 30), "ü" * 11]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("%", "%"), (r"\n---\n", "\n---\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), (r"\x41\u00e9", "Aé"),
     ("\n", "\n"), ("é", "é")],
)  # fmt: skip
def test_escapes_of_a_separator_are_understood(written, meant):
    assert unescaped(written) == meant


@pytest.mark.parametrize("written", ["", r"\q", "\\", r"\x4", r"\ud800", r"\x00"])
def test_a_separator_that_is_no_text_is_refused(written):
    with pytest.raises(ConfigError, match="^separator must "):
        unescaped(written)
