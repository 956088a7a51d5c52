"""A streamed text: whole characters, as soon as their last byte is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.bpe import BpeTokenizer
from nanochat.data.tokenizer import ByteTokenizer, CharTokenizer
from nanochat.sampling.generate import generate, stream
from nanochat.sampling.sampling import SamplingSettings


class Script:
    """An engine and its decoder: it draws the given tokens in order, then BOS."""

    def __init__(self, ids, vocab_size):
        self._ids, self._vocab_size = [*ids, 0], vocab_size

    def open_decoder(self, prompts):
        self._next, self._rows = 0, len(prompts)
        self.advance(None)
        return self

    def advance(self, _):
        self.logits = np.full((self._rows, self._vocab_size), -np.inf)
        self.logits[:, self._ids[self._next]] = 0.0
        self._next += 1


def settings(**options):
    return SamplingSettings(
        **{
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "max_new_tokens": 400,
            "seed": 1,
            **options,
        }
    )


@given(text=st.text("ab é猫😀\n", max_size=40))
def test_a_text_of_bytes_arrives_character_by_character(text):
    tokenizer = ByteTokenizer()
    engine = Script(tokenizer.encode(text), tokenizer.vocab_size)
    assert list(stream(engine, tokenizer, [0], settings())) == list(text)


@given(text=st.text("ab é猫😀\n", max_size=40), prompt=st.text("é猫", max_size=3))
def test_a_text_of_pieces_that_split_characters_arrives_whole(text, prompt):
    tokenizer = BpeTokenizer([b"b \xc3", b"\xe7\x8c", b"\x9f\x98", b"ab"])
    engine = Script(tokenizer.encode(text), tokenizer.vocab_size)
    context = [0, *tokenizer.encode(prompt).tolist()]
    pieces = list(stream(engine, tokenizer, context, settings()))
    assert "".join(pieces) == prompt + text
    assert all(pieces)


@given(raw=st.binary(max_size=30), stop=st.sampled_from([(), ("a",), ("é", "ab")]))
def test_any_bytes_give_the_text_of_generate(raw, stop):
    tokenizer = ByteTokenizer()
    engine = Script([byte + 1 for byte in raw], tokenizer.vocab_size)
    pieces = list(stream(engine, tokenizer, [0], settings(stop=stop)))
    assert ["".join(pieces)] == generate(engine, tokenizer, [0], settings(stop=stop), 1)
    expected = raw.decode("utf-8", "replace")
    if not stop:
        assert "".join(pieces) == expected


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_only_the_tokens_of_the_pieces_that_are_read_are_drawn(taken):
    tokenizer = CharTokenizer("abcdef")
    engine = Script(tokenizer.encode("abcdef"), tokenizer.vocab_size)
    engine._next = 0
    pieces = stream(engine, tokenizer, [0], settings())
    assert [next(pieces) for _ in range(taken)] == list("abcdef")[:taken]
    assert engine._next == taken
