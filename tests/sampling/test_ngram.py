"""Counts as an engine: batches, decoder and draws against the oracle of the smoothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from oracles.kneser_ney import KneserNeyOracle
from oracles.texts import documents_of, texts

from nanochat.data.batches import IGNORE, evaluation_batches
from nanochat.errors import CheckpointError
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import exact_probabilities
from nanochat.sampling import recent
from nanochat.sampling.draw import draw
from nanochat.sampling.mixed import mixed_with
from nanochat.sampling.ngram import NgramEngine
from nanochat.sampling.sampling import SamplingSettings, sample_tokens
from nanochat.training.engine import EngineState
from nanochat.training.scoring import score_documents

VOCAB = 7


def text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, VOCAB, length).tolist()


TRAINED = [text(seed, 5 + 3 * seed) for seed in range(12)]


def engine_of(order: int) -> NgramEngine:
    return NgramEngine(KneserNey.count(documents_of(TRAINED), order, VOCAB))


@given(texts(VOCAB), st.integers(1, 6), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_batches_of_any_window_score_as_the_oracle(scored, order, block_size):
    documents = documents_of(scored)
    engine = engine_of(order)
    totals, nats = score_documents(
        engine, np.ones(VOCAB, dtype=np.int64), documents, batch_size=2, block_size=block_size,
        per_token=True, by_counts=exact_probabilities(engine.counts, documents),
    )  # fmt: skip
    expected = KneserNeyOracle(TRAINED, order, VOCAB).losses(scored)
    np.testing.assert_allclose(nats, expected, rtol=1e-12, atol=1e-13)
    assert totals.targets == len(expected)


def test_padding_has_no_loss():
    documents = documents_of([[1, 2, 3], [4]])
    engine = engine_of(3)
    probabilities = exact_probabilities(engine.counts, documents)
    (batch,) = evaluation_batches(documents, batch_size=2, block_size=4, by_counts=probabilities)
    nats = engine.token_losses(batch)
    assert (batch.targets == IGNORE).any()
    assert not nats[batch.targets == IGNORE].any()


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("prompt", [[0], [0, 2], [3], text(7, 30)])
def test_the_decoder_predicts_as_the_oracle_however_long_the_text_grows(order, prompt, monkeypatch):
    monkeypatch.setattr(recent, "_SPARE", 2 * order)  # the context moves to the front often
    oracle = KneserNeyOracle(TRAINED, order, VOCAB)
    rows = [list(prompt), list(prompt)]
    decoder = engine_of(order).open_decoder(rows)
    for tokens in nonempty(zip(text(1, 40), text(2, 40), strict=True)):
        for logits, row in nonempty(zip(decoder.logits, rows, strict=True)):
            expected = [oracle.probability(tuple(row), token) for token in range(VOCAB)]
            np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-12)
            assert math.fsum(np.exp(logits)) == pytest.approx(1, abs=1e-12)
        decoder.advance(tokens)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.7, "top_k": 3, "top_p": 1.0},
        {"temperature": 1.3, "top_k": 0, "top_p": 0.8},
    ],
)
def test_tokens_are_those_of_the_reference_draw_from_the_oracle(options):
    oracle = KneserNeyOracle(TRAINED, 4, VOCAB)
    prompts = [[0, 1 + i % (VOCAB - 1), 2] for i in range(20)]
    logits = np.array(
        [[math.log(oracle.probability(tuple(p), t)) for t in range(VOCAB)] for p in prompts]
    )
    random = np.random.default_rng(3).integers(0, 1 << 64, 20, dtype=np.uint64)
    decoder = engine_of(4).open_decoder(prompts)
    expected = draw(logits, random, **options)
    everything = np.arange(20)
    np.testing.assert_array_equal(decoder.draw_own(everything, random, **options), expected)
    np.testing.assert_array_equal(decoder.draw(decoder.logits, random, **options), expected)
    some = everything[::3]
    np.testing.assert_array_equal(
        decoder.draw_own(some, random[some], **options), expected[::3]
    )  # fmt: skip


def test_a_sample_does_not_depend_on_how_many_others_are_drawn():
    settings = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=60, seed=5)
    engine = engine_of(3)
    together = np.array(list(sample_tokens(engine, [0], settings, rows=6)), dtype=object)
    assert any(None in row for row in together.tolist())  # some rows end before others
    for row in range(6):
        alone = [
            step[0] for step in sample_tokens(engine, [0], settings, rows=1, first_row=row)
        ]  # fmt: skip
        assert [token for token in together[:, row] if token is not None] == alone


def test_counts_alone_are_not_mixed_with_themselves():
    engine = engine_of(3)
    assert mixed_with(engine, engine.counts) is engine


def test_the_state_is_empty_and_no_other_is_loaded():
    engine = engine_of(2)
    state = engine.state_dict()
    assert (state.weights, state.optimizer) == ({}, {})
    engine.load_state_dict(state)
    with pytest.raises(CheckpointError, match="checkpoint has weight wte, which the model lacks"):
        engine.load_state_dict(EngineState(weights={"wte": np.zeros((2, 2))}, optimizer={}))


@given(texts(VOCAB), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_entries_are_the_rows_of_the_tables(counted, order):
    model = KneserNey.count(documents_of(counted), order, VOCAB)
    arrays = model.arrays()
    assert model.entries == sum(len(arrays[name]) for name in ("nodes", "children", "followers"))
