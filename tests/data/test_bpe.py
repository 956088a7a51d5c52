"""Byte-pair encoding compared with a plain-Python one, and its contract with the other modules."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from nanochat import TrainConfig
from nanochat.data import bpe as module
from nanochat.data.bpe import PATTERNS, BpeTokenizer, learn
from nanochat.data.dataset import load_dataset
from nanochat.data.tokenizer import BOS, build_tokenizer, tokenizer_from_dict
from nanochat.errors import MissingDependency, TokenizerError

TEXT = "the cat sat on the mat, the rat ran; 12345 numbers\n\n    def there(it):\n" * 20
LEARNED = learn([TEXT], 285)
BY_PATTERN = {name: learn([TEXT], 285, name) for name in PATTERNS}
# The default pattern for the standard library's re, for text of Latin letters and ASCII digits.
LATIN_WORDS = re.compile(r" ?[^\W\d_]+| ?[0-9]{1,3}| ?(?:[^\s\w]|_)+|\n+|[^\S\n]+")

plain_text = st.text(alphabet="thecatsonmr ,;\n_é12", max_size=80)


def tokens_of(tokenizer: BpeTokenizer) -> list[bytes]:
    merged = [bytes.fromhex(token) for token in tokenizer.to_dict()["merged"]]
    return [bytes([byte]) for byte in range(256)] + merged


def merged_by_hand(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Join the neighbors of the lowest rank, the leftmost first, until none can be joined."""
    parts = [bytes([byte]) for byte in word]
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        pairs = [(ranks[both], i) for i, both in enumerate(joined) if both in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(plain_text)
def test_encoding_is_that_of_plain_merging_inside_words(text):
    ranks = {token: rank for rank, token in enumerate(tokens_of(LEARNED))}
    words = LATIN_WORDS.findall(text)
    assert "".join(words) == text
    expected = [rank + 1 for word in words for rank in merged_by_hand(word.encode(), ranks)]
    assert LEARNED.encode(text).tolist() == expected


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    ids = LEARNED.encode(text)
    assert LEARNED.decode(ids) == text
    assert LEARNED.token_bytes[ids].sum() == len(text.encode())
    stream = LEARNED.stream()
    assert "".join(stream.push(int(token)) for token in ids) + stream.flush() == text


# Every class of the patterns, in ASCII and outside it, and what separates them.
mixed_text = st.text(alphabet="atZ09 \n\t.,'-é\u0301中国々、。，\u3000٣²🙂", max_size=60)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.lists(mixed_text, max_size=4), st.integers(1, 30))
def test_a_text_in_parts_has_the_tokens_of_the_whole_text(pattern, documents, size):
    tokenizer = BY_PATTERN[pattern]
    whole, lengths = tokenizer.encode_all(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", size)
        ids, counts = tokenizer.encode_all(documents)
    assert ids.tolist() == whole.tolist()
    assert counts.tolist() == lengths.tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.lists(mixed_text, min_size=1, max_size=4), st.integers(1, 30))
def test_a_text_in_parts_teaches_the_tokens_of_the_whole_text(pattern, documents, size):
    whole = learn(documents, 270, pattern).to_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", size)
        patch.setattr(module, "_WAITING", 2)
        assert learn(documents, 270, pattern).to_dict() == whole


@given(mixed_text | plain_text)
def test_the_words_of_pattern_gpt_2_are_those_of_another_implementation(text):
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    expected = [text[begin:end] for _, (begin, end) in theirs.pre_tokenize_str(text)]
    assert regex.findall(PATTERNS["gpt-2"], text) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_saved_with_the_tokens(pattern):
    tokenizer = BY_PATTERN[pattern]
    again = tokenizer_from_dict(tokenizer.to_dict())
    assert again.pattern == pattern
    text = "it's 12345 thecat's\n\n  mat!\n"
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert len({tuple(each.encode(text).tolist()) for each in BY_PATTERN.values()}) == 3


@given(st.lists(plain_text, max_size=5))
def test_encoding_all_equals_encoding_each(documents):
    ids, lengths = LEARNED.encode_all(documents)
    apart = [LEARNED.encode(document) for document in documents]
    assert lengths.tolist() == [len(part) for part in apart]
    assert ids.tolist() == [token for part in apart for token in part.tolist()]


def test_the_first_merge_is_the_most_frequent_pair():
    pairs: Counter[bytes] = Counter()
    for word in LATIN_WORDS.findall(TEXT):
        raw = word.encode()
        pairs.update(raw[i : i + 2] for i in range(len(raw) - 1))
    first = tokens_of(LEARNED)[256]
    assert pairs[first] == max(pairs.values())


def test_every_merge_joins_two_tokens_before_it():
    tokens = tokens_of(LEARNED)
    for rank in range(256, len(tokens)):
        before, token = set(tokens[:rank]), tokens[rank]
        assert any({token[:i], token[i:]} <= before for i in range(1, len(token)))
    assert len(set(tokens)) == len(tokens)


@pytest.mark.parametrize("size", [258, 270, 280])
def test_the_vocabulary_has_the_size_that_was_asked_for(size):
    tokenizer = learn([TEXT], size)
    assert tokenizer.vocab_size == len(tokenizer.token_bytes) == size
    assert tokens_of(tokenizer) == tokens_of(LEARNED)[: size - 1]


def test_a_text_without_pairs_gives_fewer():
    assert learn(["a b c"], 400).vocab_size < 400
    assert learn(["abab"], 400).vocab_size == 259  # ab, abab


def test_bos_is_no_text():
    assert LEARNED.decode([BOS, *LEARNED.encode("cat"), BOS]) == "cat"
    assert LEARNED.token_bytes[BOS] == 0
    assert BOS not in LEARNED.encode(TEXT)


def test_the_saved_form_is_json_and_gives_the_same_ids():
    saved = json.loads(json.dumps(LEARNED.to_dict()))
    again = tokenizer_from_dict(saved)
    np.testing.assert_array_equal(again.encode(TEXT), LEARNED.encode(TEXT))
    assert again.to_dict() == LEARNED.to_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pattern": "."},
            "saved tokenizer: pattern must be one of this version of nanochat; load it with the",
        ),
        ({"merged": ["7468", "7468"]}, "merged must be tokens of two or more bytes, without"),
        ({"merged": ["74"]}, "merged must be tokens of two or more bytes, without repeats"),
        ({"merged": ["xy"]}, "saved tokenizer: merged must be a list of tokens in hexadecimal"),
        ({"merged": [5]}, "saved tokenizer: merged must be a list of tokens in hexadecimal"),
        ({"more": 1}, "saved tokenizer must be {kind: byte}, "),
    ],
)
def test_a_damaged_form_is_refused(changes, words):
    with pytest.raises(TokenizerError, match=f"^{re.escape(words)}|{re.escape(words)}"):
        tokenizer_from_dict({**LEARNED.to_dict(), **changes})


@pytest.mark.parametrize("ids", [[-1], [LEARNED.vocab_size]])
def test_an_id_out_of_range_is_named(ids):
    with pytest.raises(TokenizerError, match=f"between 0 and 284, got {ids[0]}"):
        LEARNED.decode(ids)


def test_a_lone_surrogate_is_named():
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 1"):
        LEARNED.encode("a\ud800")


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(TokenizerError, match="vocab_size of tokenizer bpe must be at least 258"):
        build_tokenizer("bpe", ["a"], vocab_size=257)


def test_it_learns_from_the_training_part_alone(tmp_path):
    head, tail = "aa bb " * 300, "zq zq " * 30
    path = tmp_path / "text.txt"
    path.write_text(head + tail)
    dataset = load_dataset(
        TrainConfig(mode="tensor", data=str(path), tokenizer="bpe", vocab_size=280)
    )
    assert b"zq" not in tokens_of(dataset.tokenizer)
    assert b"aa" in tokens_of(dataset.tokenizer)
    assert dataset.tokenizer.decode(dataset.val.tokens).endswith("zq zq ")


def test_missing_packages_are_one_clear_line(monkeypatch):
    import builtins

    found = builtins.__import__

    def without(name, *args, **options):
        if name in ("rustbpe", "tiktoken"):
            raise ModuleNotFoundError(name=name)
        return found(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: learn(["a"], 300), lambda: BpeTokenizer([]).encode("a")):
        with pytest.raises(MissingDependency, match="needs rustbpe and tiktoken, which are not"):
            use()
