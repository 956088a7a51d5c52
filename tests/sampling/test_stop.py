"""Stop texts: the text before the first one, however it is cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.data.tokenizer import BOS, ByteTokenizer, CharTokenizer
from nanochat.sampling.generate import generate
from nanochat.sampling.sampling import SamplingSettings
from nanochat.sampling.stop import StopText

letters = st.text("ab\n", min_size=1, max_size=4)


def cut(text: str, stop: list[str]) -> str:
    """The text before the stop text that is complete first, tried at every end."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@examples(deadline=None)
@given(st.lists(letters, max_size=12), st.lists(letters, max_size=3))
def test_the_text_ends_before_the_stop_text_that_is_complete_first(pieces, stop):
    found = StopText(stop)
    passed = [found.push(piece) for piece in pieces]
    whole = "".join(pieces)
    assert "".join(passed) + found.flush() == cut(whole, stop)
    assert found.found == any(s in whole for s in stop)


@examples(deadline=None)
@given(st.lists(letters, min_size=1, max_size=12), st.lists(letters, min_size=1, max_size=3))
def test_no_more_text_is_held_back_than_may_become_a_stop_text(pieces, stop):
    found = StopText(stop)
    passed, whole = "", ""
    for piece in nonempty(pieces):
        passed, whole = passed + found.push(piece), whole + piece
        if found.found:
            assert any(text in whole for text in stop)
            return
        ends = (whole[at:] for at in range(len(whole) + 1))
        held = next(end for end in ends if any(s.startswith(end) for s in stop))
        assert whole == passed + held


class Script:
    """An engine that writes one text per row, whatever is drawn before."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows
        self.advances = 0

    def open_decoder(self, prompts):
        assert len(prompts) == len(self.rows)
        self.at = 0
        return self

    @property
    def logits(self):
        logits = np.full((len(self.rows), 300), -np.inf)
        for row, tokens in enumerate(self.rows):
            logits[row, tokens[self.at] if self.at < len(tokens) else BOS] = 0
        return logits

    def advance(self, ids):
        self.at += 1
        self.advances += 1


def settings(**options):
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 99, "seed": 1}
    return SamplingSettings(**{**values, **options})


def written(texts: list[str], **options):
    """The engine, its samples, and the pieces of the first one, in bytes."""
    tokenizer = ByteTokenizer()
    engine, pieces = Script([tokenizer.encode(text).tolist() for text in texts]), []
    samples = generate(
        engine, tokenizer, [BOS], settings(**options), len(texts), on_text=pieces.append
    )
    return engine, samples, pieces


def test_each_row_ends_at_its_own_stop_text_and_the_others_go_on():
    engine, samples, _ = written(["one END two", "END", "no stop"], stop=("END", "."))
    assert samples == ["one ", "", "no stop"]
    assert engine.advances == len("one END") or engine.advances == len("no stop")


def test_tokens_end_when_every_row_has_stopped():
    engine, samples, _ = written(["a;" + "x" * 90, "bb;" + "x" * 90], stop=(";",))
    assert samples == ["a", "bb"]
    assert engine.advances == len("bb;") - 1


@pytest.mark.parametrize("stop", ["€", "ü", "😀", "x€"])
def test_a_stop_text_of_several_bytes_is_found_across_tokens(stop):
    assert written([f"ab{stop}cd"], stop=(stop,))[1] == ["ab"]


@examples(deadline=None)
@given(st.text(max_size=12), st.sampled_from([(), ("a",), ("😀", "é€")]))
def test_the_pieces_are_whole_characters_and_together_the_text(text, stop):
    text = text.encode("utf-8", "replace").decode()
    _, (sample,), pieces = written([text], stop=stop)
    assert "".join(pieces) == sample == cut(text, list(stop))
    assert "" not in pieces


def test_a_character_that_is_never_completed_is_in_the_pieces_too():
    engine, pieces = Script([[1 + byte for byte in "a€".encode()[:-1]]]), []
    samples = generate(engine, ByteTokenizer(), [BOS], settings(), 1, on_text=pieces.append)
    assert samples == ["a\ufffd"] == ["".join(pieces)]


def test_a_stop_text_inside_the_prompt_ends_nothing():
    tokenizer = CharTokenizer("abc")
    engine = Script([tokenizer.encode("cab").tolist()])
    prompt = [BOS, *tokenizer.encode("ab").tolist()]
    assert generate(engine, tokenizer, prompt, settings(stop=("ab", "bc")), 1) == ["abc"]
