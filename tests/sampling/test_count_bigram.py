"""The counted bigram against fractions and torch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from nanochat.data.batches import IGNORE, Batch
from nanochat.data.counts import transition_counts
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import BOS, CharTokenizer
from nanochat.sampling.count_bigram import CountBigram
from nanochat.sampling.draw import draw
from nanochat.sampling.sampling import SamplingSettings, sample_tokens
from nanochat.training.metrics import LossTotals

COUNTS = np.array([[0, 3, 1], [2, 0, 0], [0, 0, 7]], dtype=np.int64)


def batch_of(inputs, targets):
    inputs, targets = np.array(inputs), np.array(targets)
    return Batch(
        inputs=inputs, targets=targets, positions=np.zeros_like(inputs),
        segments=np.zeros_like(inputs), lengths=np.full(len(inputs), inputs.shape[1]),
        global_targets=int((targets != IGNORE).sum()),
    )  # fmt: skip


def probability(x, y) -> Fraction:
    return Fraction(int(COUNTS[x, y]) + 1, int(COUNTS[x].sum()) + 3)


def test_logits_are_log_probabilities_with_one_added_to_every_count():
    decoder = CountBigram(COUNTS).open_decoder([[0], [0, 2, 1], [2]])
    for row, last in zip(decoder.logits, [0, 1, 2], strict=True):
        expected = [math.log(probability(last, y)) for y in range(3)]
        assert row == pytest.approx(expected, rel=1e-14)


def test_advance_moves_each_row_to_its_own_token():
    model = CountBigram(COUNTS)
    decoder = model.open_decoder([[0], [0]])
    decoder.advance([2, 1])
    assert decoder.logits.tolist() == model.log_probabilities[[2, 1]].tolist()


def test_a_token_never_seen_is_uniform():
    model = CountBigram(np.zeros((4, 4), dtype=np.int64))
    assert model.log_probabilities == pytest.approx(np.full((4, 4), -math.log(4)))


def test_temperature_is_an_exponent():
    p = np.array([float(probability(0, y)) for y in range(3)]) ** (1 / 0.5)
    random = np.arange(1, 20_000, dtype=np.uint64) * np.uint64(2**64 // 20_000)
    logits = np.tile(CountBigram(COUNTS).open_decoder([[0]]).logits, (19_999, 1))
    shares = np.bincount(draw(logits, random, temperature=0.5), minlength=3) / 19_999
    assert shares == pytest.approx(p / p.sum(), abs=2e-4)


def test_losses_are_torchs_cross_entropy_and_0_at_padding():
    batch = batch_of([[0, 1, 2, 0], [0, 2, 0, 0]], [[1, 2, 0, IGNORE], [2, 2, IGNORE, 1]])
    model = CountBigram(COUNTS)
    logits = torch.from_numpy(model.log_probabilities)[torch.from_numpy(batch.inputs)]
    nats = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 3), torch.from_numpy(batch.targets).reshape(-1),
        ignore_index=IGNORE, reduction="none",
    ).numpy()  # fmt: skip
    found = model.token_losses(batch)
    assert found.shape == batch.targets.shape
    assert found.ravel() == pytest.approx(nats, rel=1e-14)
    assert (found == 0).tolist() == (batch.targets == IGNORE).tolist()


def test_it_learns_a_corpus_and_is_sampled_like_an_engine():
    texts = ["abab", "ab", "abababab"]
    tokenizer = CharTokenizer("ab")
    counts = transition_counts(encode_documents(tokenizer, texts), tokenizer.vocab_size)
    model = CountBigram(counts * 10**6)
    settings = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=40, seed=1)
    positions = list(sample_tokens(model, [BOS], settings, rows=20))
    for row in zip(*positions, strict=True):
        text = tokenizer.decode([t for t in row if t is not None])
        assert text == "ab" * (len(text) // 2) or text == ("ab" * 20)[: len(text)]
    totals = LossTotals(tokenizer.token_bytes)
    batch = batch_of([[0, 1, 2]], [[1, 2, 0]])
    totals.add(model.token_losses(batch), batch.targets)
    assert totals.loss == pytest.approx(-math.log(3 / 7) / 3, rel=1e-4)
