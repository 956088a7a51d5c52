"""Ids, their bytes and decoding; unknown text is refused with its position."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.data.documents import encode_documents
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import (
    BOS,
    ByteTokenizer,
    CharTokenizer,
    build_tokenizer,
    tokenizer_from_dict,
)
from nanochat.errors import TokenizerError

text = st.text(st.characters(exclude_categories=["Cs"]))
WAY_OUT = "; use characters of the training corpus, or train with tokenizer byte"


def failure(action, *arguments) -> str:
    with pytest.raises(TokenizerError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------- values


def test_char_ids_are_sorted_code_points_from_one():
    tokenizer = build_tokenizer("char", ["bé", "", "a🚀b"])
    assert (tokenizer.kind, tokenizer.vocab_size) == ("char", 5)
    assert tokenizer.encode("abé🚀").tolist() == [1, 2, 3, 4]
    assert tokenizer.token_bytes.tolist() == [0, 1, 1, 2, 4]


def test_byte_ids_are_byte_plus_one():
    tokenizer = build_tokenizer("byte", ["anything"])
    assert (tokenizer.kind, tokenizer.vocab_size) == ("byte", 257)
    assert tokenizer.encode("\0é").tolist() == [1, 0xC3 + 1, 0xA9 + 1]
    assert tokenizer.token_bytes.tolist() == [0] + [1] * 256


@given(st.lists(text), text)
def test_char_encode_equals_a_dictionary(corpus, extra):
    documents = [*corpus, extra]
    tokenizer = build_tokenizer("char", documents)
    ids = {c: i for i, c in enumerate(sorted(set("".join(documents))), start=1)}
    assert tokenizer.vocab_size == len(ids) + 1
    encoded = tokenizer.encode(extra)
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [ids[c] for c in extra]
    assert tokenizer.token_bytes.tolist() == [0] + [len(c.encode()) for c in sorted(ids)]


@pytest.mark.parametrize("kind", ["char", "byte"])
@given(st.lists(text, min_size=1, max_size=5))
def test_every_text_comes_back_and_its_bytes_are_counted(kind, documents):
    tokenizer = build_tokenizer(kind, documents)
    for document in nonempty(documents):
        ids = tokenizer.encode(document)
        assert tokenizer.decode(ids) == document
        assert tokenizer.decode([BOS, *ids, BOS]) == document
        assert tokenizer.token_bytes[ids].sum() == len(document.encode())


@pytest.mark.parametrize("kind", ["char", "byte"])
@given(st.lists(text, max_size=5))
def test_encoding_all_equals_encoding_each(kind, documents):
    tokenizer = build_tokenizer(kind, documents)
    encoded = encode_documents(tokenizer, documents)
    each = [tokenizer.encode(document).tolist() for document in documents]
    assert encoded.tokens.tolist() == [i for ids in each for i in ids]
    assert encoded.lengths.tolist() == [len(ids) for ids in each]
    assert encoded.offsets.dtype == np.int64
    # No byte of UTF-8 has the ids above 245.
    smallest = np.uint8 if kind == "byte" or tokenizer.vocab_size <= 256 else np.uint16
    assert encoded.tokens.dtype == smallest


@given(st.lists(st.integers(0, 256)))
def test_bytes_stream_to_the_text_that_decode_gives(ids):
    tokenizer = ByteTokenizer()
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in ids]
    raw = bytes(token - 1 for token in ids if token != BOS)
    assert (
        "".join(parts) + stream.flush() == tokenizer.decode(ids) == raw.decode("utf-8", "replace")
    )


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 98, 99, 196, 170, 257, 260]), max_size=9)))
def test_tokens_that_come_together_are_the_text_of_one_by_one(calls):
    """For every tokenizer, also between the bytes of a character and around special tokens."""
    learned = build_tokenizer("bpe", ["é🚀 aé🚀 a"] * 9, vocab_size=259)
    plain = [CharTokenizer("é🚀a"), ByteTokenizer(), learned]
    for tokenizer in nonempty([*plain, *map(ChatTokenizer, plain)]):
        known = [[token for token in call if token < tokenizer.vocab_size] for call in calls]
        together, alone = tokenizer.stream(), tokenizer.stream()
        for call in known:
            assert together.push(*call) == "".join(alone.push(token) for token in call)
        assert together.flush() == alone.flush()


def test_byte_stream_waits_for_the_whole_character():
    stream = ByteTokenizer().stream()
    ids = [BOS, *(byte + 1 for byte in "é🚀".encode())]
    assert [stream.push(token) for token in ids] == ["", "", "é", "", "", "", "🚀"]
    assert stream.flush() == ""
    assert stream.push(0xC3 + 1) == ""
    assert stream.flush() == "\ufffd"


def test_char_stream_gives_each_character_at_once():
    stream = CharTokenizer("é🚀").stream()
    assert [stream.push(token) for token in (1, 0, 2)] == ["é", "", "🚀"]
    assert stream.flush() == ""


def test_numpy_integers_are_tokens_too():
    for tokenizer in (CharTokenizer("ab"), ByteTokenizer()):
        ids = tokenizer.encode("ab")
        stream = tokenizer.stream()
        assert stream.push(ids[0]) + stream.push(ids[1]) == "ab"


def test_ten_million_characters_come_back():
    words = "the quick brown fox, é and 🚀; "
    long = words * (10_000_000 // len(words))
    tokenizer = build_tokenizer("char", [long])
    ids = tokenizer.encode(long)
    assert len(ids) == len(long)
    assert tokenizer.decode(ids) == long


# ---------------------------------------------------------------------------------------- errors


def test_unknown_character_is_named_with_its_place():
    tokenizer = CharTokenizer("abc")
    assert failure(tokenizer.encode, "abcz") == "unknown token 'z' at position 3" + WAY_OUT
    assert failure(tokenizer.encode, "\n") == r"unknown token '\n' at position 0" + WAY_OUT
    assert failure(tokenizer.encode, "a🚀z").startswith("unknown token '🚀' at position 1;")
    assert failure(CharTokenizer("").encode, "a").startswith("unknown token 'a' at position 0;")


def test_unknown_character_is_placed_in_its_document():
    tokenizer = CharTokenizer("abc")
    expected = "unknown token 'z' at position 1 of document 2" + WAY_OUT
    assert failure(encode_documents, tokenizer, ["abc", "", "az", "z"]) == expected
    assert "position 0 of document 0;" in failure(encode_documents, tokenizer, ["z", "a"])
    assert "position 0 of document 2;" in failure(encode_documents, tokenizer, ["a", "", "z"])
    assert "position 3;" in failure(encode_documents, tokenizer, ["aaaz"])


def test_lone_surrogate_is_refused():
    rest = "the lone surrogate U+DC80 at position 1; replace it"
    assert failure(ByteTokenizer().encode, "a\udc80").endswith(rest)
    assert failure(CharTokenizer("a").encode, "a\udc80").endswith(rest)
    assert failure(build_tokenizer, "char", ["a\udc80"]) == (
        f"text must be Unicode text, got {rest}"
    )


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab"), ByteTokenizer()])
def test_id_outside_the_vocabulary_is_refused(tokenizer):
    last = tokenizer.vocab_size - 1
    for wrong in (-1, last + 1):
        expected = f"token id must be between 0 and {last}, got {wrong}"
        assert failure(tokenizer.decode, [1, wrong]) == expected
        assert failure(tokenizer.stream().push, wrong) == expected


def test_unknown_kind_is_refused():
    words = "tokenizer must be one of char, byte, bpe, got word"
    assert failure(build_tokenizer, "word", ["a"]) == words


# ------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize("kind", ["char", "byte"])
@given(st.lists(text, max_size=3))
def test_json_brings_back_the_same_tokenizer(kind, documents):
    tokenizer = build_tokenizer(kind, documents)
    back = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert back.to_dict() == tokenizer.to_dict()
    assert back.vocab_size == tokenizer.vocab_size
    assert np.array_equal(back.token_bytes, tokenizer.token_bytes)
    for document in documents:
        assert np.array_equal(back.encode(document), tokenizer.encode(document))


@pytest.mark.parametrize(
    "saved",
    [
        None,
        [],
        {},
        {"kind": "bpe"},
        {"kind": ["char"]},
        {"kind": "byte", "characters": "a"},
        {"kind": "char"},
        {"kind": "char", "characters": ["a"]},
        {"kind": "char", "characters": "aa"},
        {"kind": "char", "characters": "a\ud800"},
        {"kind": "char", "characters": "a", "more": 1},
    ],
)
def test_malformed_json_is_refused(saved):
    failure(tokenizer_from_dict, saved)
