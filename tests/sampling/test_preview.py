"""Previews during training: the beginning of sample 1, within a share of the time."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat.data.tokenizer import BOS, CharTokenizer
from nanochat.sampling.generate import generate
from nanochat.sampling.preview import FIRST_S, SHARE, Preview
from nanochat.sampling.sampling import SamplingSettings

TOKENIZER = CharTokenizer("abcdefgh ")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Logits of letters, never BOS; each token takes some time on the clock."""

    def __init__(self, clock: Clock, token_s: float = 0.0, bad: bool = False) -> None:
        self.clock, self.token_s, self.bad = clock, token_s, bad
        self.tokens = 0

    def open_decoder(self, prompts):
        self.text = [list(prompt) for prompt in prompts]
        self._spend()
        return self

    def _spend(self):
        self.tokens += 1
        self.clock.now += self.token_s

    @property
    def logits(self):
        rows = np.array([np.sin(np.arange(10.0) * (1 + sum(text))) for text in self.text])
        rows[:, BOS] = np.nan if self.bad else -np.inf
        return rows

    def advance(self, ids):
        self._spend()
        for text, token in zip(self.text, ids, strict=True):
            text.append(token)


def settings(**changes):
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 200, "seed": 5}
    return SamplingSettings(**{**values, **changes})


def preview_of(engine, **changes):
    return Preview(engine, TOKENIZER, [BOS], settings(**changes), clock=engine.clock)


def test_a_preview_is_the_beginning_of_the_first_sample_each_time():
    engine = Engine(Clock())
    (sample, _) = generate(engine, TOKENIZER, [BOS], settings(), 2)
    preview = preview_of(engine)
    first = preview.text(30)
    assert sample.startswith(first)
    assert len(first[:-1].strip()) <= 30 < len(first.strip())
    assert preview.text(30) == first
    assert preview.text(10) == first[: len(preview.text(10))]


def test_a_preview_has_no_more_tokens_than_a_sample():
    assert len(preview_of(Engine(Clock()), max_new_tokens=7).text(80)) == 7


@pytest.mark.parametrize("token_s", [1e-6, 1e-4, 3e-3, 0.05, 1.0])
def test_previews_take_no_more_than_their_share_and_a_token_each(token_s):
    clock = Clock()
    engine = Engine(clock, token_s)
    preview = preview_of(engine)
    spent = shown = 0.0
    for _ in range(200):
        clock.now += 1.0  # a second of training
        before = clock.now
        shown += bool(preview.text(80))
        spent += clock.now - before
        assert spent <= FIRST_S + SHARE * clock.now + token_s
    assert shown >= 1
    if token_s <= 1e-4:
        assert shown == 200


def test_a_slow_model_gets_fewer_tokens_and_no_preview_where_one_token_is_too_slow():
    clock = Clock()
    engine = Engine(clock, 0.004)
    preview = preview_of(engine)
    lengths = []
    for _ in range(6):
        lengths.append(len(preview.text(80)))
        clock.now += 0.1
    assert 0 < max(lengths) < 10
    assert 0 in lengths


def test_weights_that_give_no_probabilities_have_no_preview():
    engine = Engine(Clock(), bad=True)
    assert preview_of(engine).text(80) == ""


@pytest.mark.parametrize("stop", ["b", "fg", "h ", "zz"])
def test_a_preview_ends_before_the_stop_text(stop):
    whole = preview_of(Engine(Clock())).text(30)
    shown = preview_of(Engine(Clock()), stop=(stop,)).text(30)
    assert shown == whole.partition(stop)[0]
