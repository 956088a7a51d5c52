"""Tables: aligned in a pipe, within the width of a terminal, and safe to print."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.output.table import escaped, natural_width, table_text

printable = st.text(st.sampled_from("abc 数é1-"), max_size=8).map(str.strip)


def test_columns_are_aligned_and_numbers_are_on_the_right():
    assert table_text(["run", "n"], [["a", "1"], ["long", "100"]], numbers=(1,), rich=False) == (
        "run     n\na       1\nlong  100"
    )


def test_wide_characters_take_two_columns():
    text = table_text(["run", "x"], [["数数", "1"], ["ab", "2"]], rich=False)
    assert text.splitlines() == ["run   x", "数数  1", "ab    2"]


@given(st.lists(st.tuples(printable, printable), max_size=4))
def test_a_pipe_gets_one_line_per_row(cells):
    lines = table_text(["a", "b"], cells, rich=False).split("\n")
    assert len(lines) == len(cells) + 1
    assert natural_width(["a", "b"], cells) >= 4


@given(st.text(max_size=20))
def test_cells_hold_nothing_that_a_terminal_obeys(text):
    assert all(c.isprintable() or c == "\n" for c in escaped(text))


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_folds_what_does_not_fit_and_keeps_it(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    cells = [["name", "x" * 150]]
    text = re.sub(r"\x1b\[[0-9;]*m", "", table_text(["a", "b"], cells, rich=True))
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("x") == 150
