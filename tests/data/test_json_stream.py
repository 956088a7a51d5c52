"""JSON in chunks: the same values and errors as `json.loads` gives for the whole text."""

import json
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nanochat.data.sources.decoding import utf8
from nanochat.data.sources.json_stream import JsonStream

NUMBERS = st.integers() | st.integers(-(10**40), 10**40) | st.floats()
TEXTS = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["\U0001f600", "\ud83d", "\ude00\ud83d", '"', "\\", "\\u12", "\n\r\t\b\f/", "\u2028", "]},:"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def json_texts(draw):
    """Draw a text of JSON, with white space in every place that allows it."""
    is_ascii = draw(st.booleans())

    def written(value):
        if isinstance(value, list):
            return f"[{','.join(spaced(written(item)) for item in value) or draw(SPACE)}]"
        if isinstance(value, dict):
            pairs = [f"{spaced(written(k))}:{spaced(written(v))}" for k, v in value.items()]
            return f"{{{','.join(pairs) or draw(SPACE)}}}"
        return json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "replace").decode()

    def spaced(text):
        return draw(SPACE) + text + draw(SPACE)

    return spaced(written(draw(VALUES)))


def streamed(text, size):
    """Return the value of a text whose bytes arrive `size` at a time."""
    raw = text.encode("utf-8", "surrogatepass")
    stream = JsonStream(utf8((raw[i : i + size] for i in range(0, len(raw), size)), "x"))
    first = stream.peek()
    if first == "[":
        value = list(stream.items())
    elif first == "{":
        value = {}
        for name in stream.members():
            value[name] = list(stream.items()) if stream.peek() == "[" else stream.value()
    else:
        value = stream.value()
    stream.end()
    return value


def outcome(parse):
    """Return the value as text, in which NaN equals itself, or the error."""
    try:
        return repr(parse())
    except ValueError as error:
        return error.args[0]


def assert_as_json_loads(text, size):
    expected = outcome(lambda: json.loads(text))
    found = outcome(lambda: streamed(text, size))
    if expected.startswith("Illegal trailing comma"):  # since Python 3.13
        assert found.startswith(("Expecting value", "Expecting property name"))
    else:
        assert found == expected


@given(json_texts(), st.integers(1, 40))
def test_a_stream_has_the_values_of_the_whole_text(text, size):
    assert_as_json_loads(text, size)


@given(json_texts(), st.integers(1, 40), st.data())
def test_a_truncated_or_damaged_text_has_the_error_of_the_whole_text(text, size, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 2, len(text))))
    inserted = data.draw(st.sampled_from(["", *'[]{},:"\\0.eE-+ntf/', "\n", "\x01", "é", "NaN"]))
    assert_as_json_loads(text[:start] + inserted + text[end:], size)
    assert_as_json_loads(text[:start], size)


EVERYWHERE = (
    '[{"a": "\\ud83d\\ude00\\\\\\"\\u00e9", "b": [1.5e+10, -0.25E-3, [], {}]}, "é\U0001f600",'
    "\n NaN, -Infinity, true, null, 12345678901234567890]\r\n"
)


def test_a_chunk_may_end_after_any_byte():
    for size in range(1, len(EVERYWHERE.encode()) + 1):
        assert_as_json_loads(EVERYWHERE, size)


def test_a_text_may_be_truncated_after_any_character():
    for end in range(len(EVERYWHERE)):
        for size in (1, 2, 3, 7, 1000):
            assert_as_json_loads(EVERYWHERE[:end], size)


@pytest.mark.parametrize(
    "text",
    ["", " \n", "[1,]", '{"a":1,}', "[1 2]", "[1]x", "[1]\n[2]", '{"a":1}\n{"a":2}', "[1e]",
     "[1e+]", "[01]", "[-]", "[nul]", "nullx", '["\t"]', '["\\x"]', '["\\u12x4"]', "{1:2}",
     '{"a" 1}', '{"a":1 "b":2}', '{"a":1,"b":[2],"a":[3]}', "[[1,2", '"abc', "'a'", "// no"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_an_error_names_the_place_in_the_whole_text(text, size):
    assert_as_json_loads(text, size)
    assert_as_json_loads("\n\n " + text, size)


def test_a_byte_order_mark_is_not_part_of_the_text():
    for size in (1, 2, 100):
        assert streamed('\ufeff["a"]', size) == ["a"]
        error = outcome(lambda size=size: streamed("\ufeff[\n1,x", size))
        assert error == "Expecting value: line 2 column 3 (char 4)"


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="no limit in this Python")
def test_a_number_of_many_digits_is_a_float_or_refused():
    digits = "1" * 5000
    assert streamed(f"[{digits}.5]", 4500) == json.loads(f"[{digits}.5]")
    assert outcome(lambda: streamed(f"[{digits}]", 4500)) == outcome(lambda: int(digits))


def test_values_that_nest_too_deeply_raise_a_recursion_error():
    with pytest.raises(RecursionError):
        streamed("[" * 200_000, 1 << 16)
    with pytest.raises(RecursionError):
        streamed('{"a":' * 200_000, 1 << 16)


def test_the_buffer_holds_no_more_than_a_few_chunks_of_a_list():
    record = b'{"text": "' + b"a" * 90 + b'"}, '
    stream = JsonStream(iter([b"[", *[record * 100] * 1000, b"0]"]))
    largest = 0
    for _ in stream.items():
        largest = max(largest, len(stream._text))
    assert largest <= 3 * len(record) * 100
