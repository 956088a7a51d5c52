"""Reading JSON that another person may have written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.system.json_text import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
def test_json_is_what_the_library_reads(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(("content", "message"), [
    (b"\xff", "must be text in UTF-8"),
    ('{"a": 1}'.encode("utf-16"), "must be text in UTF-8"),
    (b"", "must be JSON, got another character at line 1, column 1"),
    (b'{"a":\n x}', "must be JSON, got another character at line 2, column 2"),
    (b'{"a": 1, "b": 2, "a": 3}', "must have each key once, got 'a' twice"),
    (b'[{"x": {"a\\u001b": 1, "a\\u001b": 1}}]', "must have each key once, got 'a\\x1b' twice"),
    (b"[NaN]", "must hold finite numbers, got NaN"),
    (b"-Infinity", "must hold finite numbers, got -Infinity"),
    (b"9" * 21, "must hold whole numbers of at most 20 digits"),
    (b"9" * 9999, "must hold whole numbers of at most 20 digits"),
    (b"[" * 200_000, "must not be nested so deeply"),
    (b'{"a":' * 200_000, "must not be nested so deeply"),
])  # fmt: skip
def test_what_json_leaves_open_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(content)
    assert str(caught.value) == message
