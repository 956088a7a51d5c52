"""Unigram, bigram and Kneser–Ney, against dictionaries; and the longest context that was counted."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.kneser_ney import KneserNeyOracle, targets
from oracles.texts import documents_of, texts

from nanochat.ngram import baseline
from nanochat.ngram.baseline import count_baseline
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.yardsticks import counted_scores

TRAIN = [[1, 2, 3, 1, 2], [2, 3, 3], [1, 2, 2, 1], [3, 1], [1, 2, 3], [2, 1], [3, 2, 1, 2], [1]] * 3
SCORED = [[1, 2, 3], [], [3, 3, 2, 2]]
VOCAB = 5


def scores(train=TRAIN, scored=SCORED):
    found = counted_scores(documents_of(train), documents_of(scored), VOCAB, seed=1)
    return {each.name: each for each in found}


def test_each_score_is_that_of_the_formulas():
    found = scores()
    assert list(found) == ["unigram", "bigram", "Kneser-Ney"]
    assert (found["unigram"].order, found["bigram"].order) == (1, 2)
    for each in found.values():
        oracle = KneserNeyOracle(TRAIN, each.order, VOCAB)
        expected = sum(-math.log(oracle.probability(h, t)) for h, t in targets(SCORED))
        assert each.nats == pytest.approx(expected, rel=1e-12)
        assert each.counted is None


def test_the_unigram_is_close_to_the_share_of_each_token_in_a_long_text():
    train = [[1, 2, 1, 3, 1, 2, 4, 1, 2, 3] * 40] * 5
    counts = Counter(target for _, target in targets(train))
    total = sum(counts.values())
    shares = -sum(math.log(counts[target] / total) for _, target in targets(SCORED))
    assert scores(train=train)["unigram"].nats == pytest.approx(shares, rel=1e-2)


def test_the_order_and_the_loss_are_those_of_the_baseline_of_a_run():
    train, scored = documents_of(TRAIN), documents_of(SCORED)
    bytes_of = documents_of([[1] * VOCAB]).stream[:VOCAB] * 0
    expected = count_baseline(train, scored, VOCAB, bytes_of, seed=1)
    found = scores()["Kneser-Ney"]
    assert found.order == expected.order
    assert found.nats / scored.pairs == pytest.approx(expected.loss, rel=1e-12)


def test_of_a_long_text_the_end_is_counted_and_told(monkeypatch):
    monkeypatch.setattr(baseline, "MOST_COUNTED", 20 * 64)  # int64 tokens: 20 of them
    found = scores(train=[[1, 1, 1, 1]] * 9 + TRAIN)
    assert {each.counted for each in found.values()} == {20}


# ----------------------------------------------------------------------------- the longest context


def longest_counted(train, order: int, context) -> int:
    """Try all contexts, the longest first."""
    known = {h[len(h) - n :] for h, _ in targets(train) for n in range(min(order, len(h) + 1))}
    context = tuple(context)
    if 0 in context:
        context = context[len(context) - 1 - context[::-1].index(0) :]
    return max(n for n in range(len(context) + 1) if context[len(context) - n :] in known)


@settings(deadline=None)
@given(texts(4), st.integers(1, 6), st.lists(st.integers(0, 3), max_size=9))
def test_a_context_matches_as_far_as_the_counted_text_has_it(train, order, context):
    model = KneserNey.count(documents_of(train), order, 4)
    stored = KneserNey.open(order, 4, model.arrays())
    expected = longest_counted(train, order, context) if train else 0
    assert model.matched(context) == stored.matched(context) == expected


def test_a_context_from_the_text_matches_with_its_beginning():
    model = KneserNey.count(documents_of([[1, 2, 3, 1, 2, 1], [2, 2]]), 4, 4)
    assert model.matched([0, 1, 2]) == 3
    assert model.matched([3, 1, 2]) == 3
    assert model.matched([0, 3]) == 1
    assert model.matched([0, 1, 2, 3, 1, 2]) == 3  # order 4 reads three tokens
