"""Counts in messages."""

from __future__ import annotations

import pytest

from nanochat.system.wording import counted, printable


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (-1, "-1 tokens"), (12345, "12,345 tokens")],
)
def test_only_one_is_singular(count, text):
    assert counted(count, "token") == text


def test_an_irregular_plural_is_given():
    assert (counted(1, "entry", "entries"), counted(3, "entry", "entries")) == (
        "1 entry",
        "3 entries",
    )


def test_a_lone_surrogate_is_escaped():
    """As the name of a JSON field may have; the name of a file has those of bytes alone."""
    assert printable("t\ud800ext") == "t\\ud800ext"
    assert printable("\udcff\ud800") == "\\udcff\\ud800"
    assert printable("\udcff") == "\\xff"
