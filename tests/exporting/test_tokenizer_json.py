"""tokenizer.json: the ids of nanochat in the library tokenizers, for any text."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tokenizers
from nonempty import nonempty

from nanochat.data.bpe import PATTERNS, learn
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import BOS, ByteTokenizer, CharTokenizer
from nanochat.exporting.byte_level import BOS_TEXT, byte_level
from nanochat.exporting.tokenizer_json import tokenizer_json

WORDS = "the king and queen of naïve cafés don't owe £1,250 — “so be it”, 東京 и Москва 🏳️‍🌈 x=3;\n\tif a:"
SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"
NUMBERS = "0123456789٣४²½ⅫⅧ①"


def texts(count: int, seed: int) -> list[str]:
    """Phrases, odd spaces and numbers, any code points, and the name of BOS inside text."""
    rng = random.Random(seed)

    def drawn(characters: str) -> str:
        return "".join(rng.choices(characters, k=rng.randrange(30)))

    def phrase() -> str:
        begin = rng.randrange(len(WORDS))
        return WORDS[begin : begin + rng.randrange(40)]

    def code_points() -> str:
        highest = rng.choice((0x80, 0x800, 0xD800))
        points = [rng.randrange(highest) for _ in range(rng.randrange(12))]
        return "".join(map(chr, [*points, rng.randrange(0xE000, 0x110000)]))

    kinds = (
        phrase, code_points, lambda: drawn(WORDS), lambda: drawn(WORDS + SPACES + NUMBERS),
        lambda: drawn(SPACES + "ab"), lambda: BOS_TEXT + phrase() + BOS_TEXT,
    )  # fmt: skip
    return [rng.choice(kinds)() for _ in range(count)]


def check(count: int) -> None:
    given = texts(count, seed=1)
    some = [WORDS] * 50 + given[:2000]
    pieces = [learn(some, 900, pattern) for pattern in PATTERNS]
    for ours in (ByteTokenizer(), CharTokenizer("".join(given)), *pieces):
        theirs = tokenizers.Tokenizer.from_str(
            json.dumps(tokenizer_json(ours, opens_with_bos=True))
        )
        assert theirs.get_vocab_size() == ours.vocab_size
        # One call splits all texts, which is much faster than one call per text.
        tokens, lengths = ours.encode_all(given)
        ends = np.cumsum(lengths)
        for text, end, length in nonempty(zip(given, ends, lengths, strict=True)):
            ids = tokens[end - length : end].tolist()
            assert theirs.encode(text).ids == [BOS, *ids], text
            assert theirs.decode(ids) == text
        for text in nonempty(given[:: count // 100]):
            assert theirs.encode(text).ids == [BOS, *ours.encode(text).tolist()], text


def test_any_text_has_the_same_ids():
    check(10_000)


@pytest.mark.long
def test_a_million_texts_have_the_same_ids():
    check(1_000_000)


NAMES = (BOS_TEXT, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")


@pytest.mark.parametrize(
    "plain", [ByteTokenizer(), CharTokenizer("".join(NAMES)), learn([*NAMES] * 99, 300, "gpt-2")],
    ids=["byte", "char", "bpe"],
)  # fmt: skip
def test_a_text_that_is_the_name_of_a_special_token_is_text(plain):
    for ours in nonempty((plain, ChatTokenizer(plain))):
        theirs = tokenizers.Tokenizer.from_str(
            json.dumps(tokenizer_json(ours, opens_with_bos=False))
        )
        assert theirs.get_vocab_size() == ours.vocab_size
        for name in NAMES:
            assert theirs.encode(name).ids == ours.encode(name).tolist()
        assert [theirs.token_to_id(name) for name in NAMES if ours is not plain] == (
            [BOS, *(ours.special(name[2:-2]) for name in NAMES[1:])] if ours is not plain else []
        )


def test_a_text_of_one_long_document_does_not_open_with_bos():
    content = json.dumps(tokenizer_json(ByteTokenizer(), opens_with_bos=False))
    assert tokenizers.Tokenizer.from_str(content).encode("ab").ids == [98, 99]


def test_an_unknown_character_is_refused():
    content = json.dumps(tokenizer_json(CharTokenizer("ab"), opens_with_bos=True))
    with pytest.raises(Exception, match="Missing"):
        tokenizers.Tokenizer.from_str(content).encode("abc")


def test_merges_make_each_token_of_its_bytes():
    """By the rule of byte-pair encoding: the first pair of the list, everywhere, then the next."""
    for tokenizer in (learn([WORDS] * 50, 500), CharTokenizer(WORDS)):
        known = byte_level(tokenizer)
        for token in nonempty(known.tokens[1:]):
            parts = list(token)
            for left, right in known.merges:
                at = 0
                while at < len(parts) - 1:
                    if (parts[at], parts[at + 1]) == (left, right):
                        parts[at : at + 2] = [left + right]
                    at += 1
            assert parts == [token]
