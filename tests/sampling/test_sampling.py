"""Sampling: which words a row gets, when it ends, what a phrase adds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import philox
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError
from nanochat.philox import Stream
from nanochat.sampling.draw import draw
from nanochat.sampling.sampling import PhraseBias, SamplingSettings, sample_tokens

VOCAB = 6


def settings(**changes):
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 30, "seed": 5}
    return SamplingSettings(**{**values, **changes})


class TableDecoder:
    """Logits that depend on a row's whole text, and a record of what it was advanced with."""

    def __init__(self, prompts, bos_logit):
        self.texts = [list(p) for p in prompts]
        self.bos_logit = bos_logit
        self.advances = 0

    @property
    def logits(self):
        rows = []
        for text in self.texts:
            row = np.sin(np.arange(VOCAB) * (1 + sum(text) + 3 * len(text)))
            row[BOS] = self.bos_logit
            rows.append(row)
        return np.array(rows)

    def advance(self, ids):
        self.advances += 1
        for text, token in zip(self.texts, ids, strict=True):
            text.append(token)


class TableEngine:
    def __init__(self, bos_logit=-1.0):
        self.bos_logit = bos_logit
        self.decoder = None

    def open_decoder(self, prompts):
        self.decoder = TableDecoder(prompts, self.bos_logit)
        return self.decoder


def by_row(positions):
    """One list a row, without what follows its BOS."""
    return [[t for t in row if t is not None] for row in zip(*positions, strict=True)]


def one_by_one(seed, row, count, prompt=(BOS, 2), bos_logit=-1.0):
    """The same sample drawn alone, token for token, with one random word each."""
    decoder = TableDecoder([prompt], bos_logit)
    tokens = []
    for position in range(count):
        word = philox.random_u64(seed, Stream.SAMPLING, row, 1, position)
        tokens.append(int(draw(decoder.logits, word)[0]))
        if tokens[-1] == BOS:
            break
        decoder.advance([tokens[-1]])
    return tokens


def test_tokens_are_the_draws_of_row_and_position():
    rows = by_row(sample_tokens(TableEngine(), [BOS, 2], settings(), rows=4))
    assert rows == [one_by_one(5, row, 30) for row in range(4)]
    assert len({tuple(row) for row in rows}) == 4


def test_random_words_go_on_past_a_block_of_positions():
    engine = TableEngine(bos_logit=-math.inf)
    rows = by_row(sample_tokens(engine, [BOS, 2], settings(max_new_tokens=300), rows=2))
    assert rows == [one_by_one(5, row, 300, bos_logit=-math.inf) for row in range(2)]


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_a_sample_does_not_depend_on_how_many_are_drawn_beside_it(rows, first_row, seed):
    many = by_row(sample_tokens(TableEngine(), [BOS], settings(seed=seed), rows=12))
    some = sample_tokens(TableEngine(), [BOS], settings(seed=seed), rows=rows, first_row=first_row)
    assert by_row(some) == many[first_row : first_row + rows]


def test_a_sample_does_not_depend_on_the_longest_length():
    short = by_row(sample_tokens(TableEngine(), [BOS], settings(max_new_tokens=7), rows=3))
    long = by_row(sample_tokens(TableEngine(), [BOS], settings(max_new_tokens=500), rows=3))
    assert short == [row[:7] for row in long]


def test_a_finished_row_yields_its_bos_once_and_then_none():
    positions = list(sample_tokens(TableEngine(bos_logit=0.3), [BOS], settings(), rows=8))
    for row in zip(*positions, strict=True):
        if BOS in row:
            end = row.index(BOS)
            assert None not in row[:end]
            assert set(row[end + 1 :]) <= {None}
    assert any(None in position for position in positions)


def test_sampling_ends_when_every_row_has_drawn_bos():
    engine = TableEngine(bos_logit=50.0)
    assert list(sample_tokens(engine, [BOS], settings(), rows=3)) == [[0, 0, 0]]
    assert engine.decoder.advances == 0


def test_sampling_ends_after_max_new_tokens_without_computing_one_more():
    engine = TableEngine(bos_logit=-math.inf)
    positions = list(sample_tokens(engine, [BOS], settings(max_new_tokens=4), rows=2))
    assert len(positions) == 4
    assert engine.decoder.advances == 3


def test_no_rows_draw_nothing_and_open_no_decoder():
    engine = TableEngine()
    assert list(sample_tokens(engine, [BOS], settings(), rows=0)) == []
    assert engine.decoder is None


def test_nan_in_a_finished_row_stops_nobody():
    class Spoiled(TableDecoder):
        @property
        def logits(self):
            rows = super().logits
            rows[[len(set(t[1:])) > 0 and t[-1] == BOS for t in self.texts]] = math.nan
            return rows

    engine = TableEngine()
    engine.open_decoder = lambda prompts: Spoiled(prompts, 0.5)
    rows = by_row(sample_tokens(engine, [BOS, 1], settings(max_new_tokens=10), rows=6))
    assert rows == [one_by_one(5, row, 10, prompt=(BOS, 1), bos_logit=0.5) for row in range(6)]


def test_top_k_of_one_is_the_maximum():
    engine = TableEngine(bos_logit=-math.inf)
    greedy = by_row(sample_tokens(engine, [BOS], settings(top_k=1, max_new_tokens=9), rows=2))
    decoder, text = TableDecoder([[BOS]], -math.inf), []
    for _ in range(9):
        text.append(int(decoder.logits[0].argmax()))
        decoder.advance(text[-1:])
    assert greedy == [text, text]


# ----------------------------------------------------------------------------------- phrase bias


def slow_bias(logits, history, phrases, weight):
    wanted = {
        phrase[n]
        for phrase in phrases
        for n in range(1, len(phrase))
        if list(history[-n:]) == list(phrase[:n]) and len(history) >= n
    }
    return [x + weight if token in wanted else x for token, x in enumerate(logits)]


ids = st.integers(0, VOCAB - 1)


@given(
    st.lists(st.lists(ids, max_size=4), max_size=5),
    st.lists(ids, max_size=8),
    st.floats(-5, 5),
)
def test_bias_adds_its_weight_to_what_continues_a_phrase(phrases, history, weight):
    logits = np.linspace(-1, 1, VOCAB)
    got = PhraseBias(phrases, weight).apply(logits, history)
    assert got.tolist() == slow_bias(logits.tolist(), history, phrases, weight)
    assert logits.tolist() == np.linspace(-1, 1, VOCAB).tolist()


def test_two_phrases_that_want_one_token_count_once():
    bias = PhraseBias([[1, 2, 3], [2, 3], [1, 2, 4]], 2.0)
    assert bias.apply(np.zeros(5), [0, 1, 2]).tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    "bias", [PhraseBias([], 3.0), PhraseBias([[1, 2]], 0.0), PhraseBias([[1]], 3.0)]
)
def test_bias_without_phrases_or_weight_is_the_identity(bias):
    logits = np.arange(3.0)
    assert bias.apply(logits, [1]) is logits


def test_bias_keeps_the_dtype():
    assert PhraseBias([[1, 2]], 1.0).apply(np.zeros(3, np.float32), [1]).dtype == np.float32


def test_a_heavy_phrase_is_carried_to_its_end_from_the_prompt():
    bias = PhraseBias([[1, 2, 3, 4, 5]], 100.0)
    rows = by_row(
        sample_tokens(TableEngine(), [BOS, 1], settings(max_new_tokens=4), rows=3, bias=bias)
    )
    assert rows == [[2, 3, 4, 5]] * 3


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_settings_refuse_a_temperature_in_the_guards_words(value):
    with pytest.raises(ConfigError, match=rf"^temperature must be finite and >= 0, got {value}$"):
        settings(temperature=value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("top_k", -1, "top_k must be a whole number between 0 and 1073741824, got -1"),
        ("top_p", 0.0, "top_p must be finite and > 0, got 0.0"),
        ("top_p", 1.5, "top_p must be finite and > 0 and <= 1, got 1.5"),
        (
            "max_new_tokens",
            0,
            "max_new_tokens must be a whole number between 1 and 16777216, got 0",
        ),
        ("seed", 2**32, "seed must be a whole number between 0 and 4294967295, got 4294967296"),
        ("temperature", 1e5, "temperature must be finite and between 0 and 10000, got 100000.0"),
    ],
)
def test_settings_refuse_what_the_config_refuses(name, value, message):
    with pytest.raises(ConfigError) as caught:
        settings(**{name: value})
    assert str(caught.value) == message
