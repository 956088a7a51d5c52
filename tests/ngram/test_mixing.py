"""Cross-fitting: no target is scored by counts that have seen it, and every part by the others."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.kneser_ney import KneserNeyOracle, targets
from oracles.texts import documents_of

from nanochat.ngram import baseline
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.ngram.mixing import (
    FOLDS,
    ReadProbabilities,
    cross_fitted,
    parts_for,
    probabilities,
    text_for,
    training_part,
)

VOCAB = 6


def random_texts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [
        random.integers(1, VOCAB, random.integers(0, longest + 1)).tolist() for _ in range(count)
    ]


def test_probabilities_are_those_of_the_losses_and_of_the_formulas() -> None:
    counted, scored = random_texts(5, 30), random_texts(4, 20, seed=1)
    model = KneserNey.count(documents_of(counted), 4, VOCAB)
    oracle = KneserNeyOracle(counted, 4, VOCAB)
    expected = [oracle.probability(context, target) for context, target in targets(scored)]
    found = probabilities(model, documents_of(scored))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_document_is_scored_by_the_documents_of_the_other_parts() -> None:
    random = np.random.default_rng(5)
    texts = [random.integers(1, VOCAB, 12).tolist() for _ in range(10 * FOLDS)]
    assert len(set(map(tuple, texts))) == 10 * FOLDS
    documents = documents_of(texts)
    found = np.split(
        cross_fitted(documents, 3, VOCAB, seed=7), np.cumsum(documents.lengths + 1)[:-1]
    )
    # A document's part is known by the others with which it is left out: those that, if they
    # change, change nothing.
    changed = [*texts]
    changed[3] = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1, 3, 5, 2, 4, 1, 4, 2, 5, 3, 1, 2, 3, 4, 5] * 3
    again = documents_of(changed)
    after = np.split(cross_fitted(again, 3, VOCAB, seed=7), np.cumsum(again.lengths + 1)[:-1])
    same = [d for d in range(len(texts)) if d != 3 and np.array_equal(found[d], after[d])]
    assert len(same) == 9
    others = [text for d, text in enumerate(texts) if d not in (3, *same)]
    for d in [*same[:3], 3]:
        oracle = KneserNeyOracle(others, 3, VOCAB)
        expected = [oracle.probability(c, t) for c, t in targets([texts[d]])]
        np.testing.assert_allclose(found[d], expected, rtol=1e-6)


def test_copies_of_a_document_do_not_score_each_other() -> None:
    texts = random_texts(10 * FOLDS, 8)
    texts[5] = texts[50] = texts[95] = [1, 5, 2, 5, 3, 5, 4, 5, 1, 5, 2, 5, 3, 5]
    without = [text for d, text in enumerate(texts) if d not in (50, 95)]
    documents, fewer = documents_of(texts), documents_of(without)
    with_copies = np.split(
        cross_fitted(documents, 6, VOCAB, seed=1), np.cumsum(documents.lengths + 1)[:-1]
    )[5]
    alone = np.split(
        cross_fitted(fewer, 6, VOCAB, seed=1), np.cumsum(fewer.lengths + 1)[:-1]
    )[5]  # fmt: skip
    assert with_copies[3:].max() < 0.9  # the copies would make most targets nearly certain
    assert abs(np.log(with_copies).mean() - np.log(alone).mean()) < 0.3


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("lengths", [[600], [90, 310, 200]])
def test_a_piece_of_a_long_text_is_scored_by_what_lies_before_and_after_it(
    order: int, lengths: list[int]
) -> None:
    random = np.random.default_rng(order)
    texts = [random.integers(1, VOCAB, length).tolist() for length in lengths]
    documents = documents_of(texts)
    found = cross_fitted(documents, order, VOCAB, seed=0)
    stream = documents.stream.tolist()
    pairs = documents.pairs
    for piece in range(FOLDS):
        first, last = pairs * piece // FOLDS, pairs * (piece + 1) // FOLDS
        edges = max(first - order + 1, 0), min(last + order - 1, pairs)
        rest = [
            text
            for part in (stream[: edges[0] + 1], stream[edges[1] + 1 :])
            for text in documents_in(part)
        ]
        oracle = KneserNeyOracle(rest, order, VOCAB)
        for p in range(first, last):
            begin = max(i for i in range(p + 1) if stream[i] == 0)
            expected = oracle.probability(tuple(stream[begin : p + 1]), stream[p + 1])
            assert found[p] == pytest.approx(expected, rel=1e-6)


def documents_in(part: list[int]) -> list[list[int]]:
    """The documents in a piece of a token stream; those at its ends may be cut."""
    texts: list[list[int]] = [[]]
    for token in part[1:] if part[:1] == [0] else part:
        if token == 0:
            texts.append([])
        else:
            texts[-1].append(token)
    ends_whole = part[-1:] == [0]
    return texts[:-1] if ends_whole or not part else texts


def test_threads_change_no_bit() -> None:
    documents = documents_of(random_texts(10 * FOLDS, 20))
    one, three = (cross_fitted(documents, 4, VOCAB, seed=2, threads=n) for n in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("texts", [[], [[]], [[1]], [[1, 2], []]])
def test_the_shortest_texts_have_a_probability_for_every_target(texts: list[list[int]]) -> None:
    documents = documents_of(texts)
    found = cross_fitted(documents, 5, VOCAB, seed=0)
    assert found.shape == (documents.pairs,)
    assert ((found > 0) & (found <= 1)).all()


@pytest.mark.parametrize("lengths", [[600], [90, 310, 200], [8] * (10 * FOLDS)])
@pytest.mark.parametrize("parts", [1, 4, FOLDS])
def test_some_of_the_parts_are_scored_as_all_parts_are(lengths: list[int], parts: int) -> None:
    random = np.random.default_rng(3)
    documents = documents_of([random.integers(1, VOCAB, length).tolist() for length in lengths])
    part = training_part(documents, 1, parts)
    some = cross_fitted(documents, 3, VOCAB, seed=1, parts=parts)
    every = cross_fitted(documents, 3, VOCAB, seed=1)
    first = documents.pairs * (FOLDS - parts) // FOLDS
    assert len(some) == part.pairs == documents.pairs - first
    if documents.count < 10 * FOLDS:  # the end of the text
        assert some.tolist() == every[first:].tolist()
        assert part.stream[1:].tolist() == documents.stream[-part.pairs :].tolist()
    else:
        assert set(some.tolist()) <= set(every.tolist())
        assert part.count == documents.count * parts // FOLDS


def test_a_run_reads_from_twice_as_much_text_as_it_reads() -> None:
    documents = documents_of([[1] * 999])
    assert [parts_for(documents, reads) for reads in (0, 1, 50, 51, 499, 501, 1e9)] == [
        1, 1, 1, 2, 10, 10, 10,
    ]  # fmt: skip


def test_of_a_very_long_text_the_network_gets_as_much_as_the_run_needs(monkeypatch) -> None:
    monkeypatch.setattr(baseline, "MOST_COUNTED", 8 * 8 * 200)  # of tokens of eight bytes
    documents = documents_of([list(range(1, VOCAB)) * 200])
    assert [text_for(documents, reads).pairs for reads in (0, 100, 101, 400, 1e9)] == [
        200, 200, 202, 800, 1001,
    ]  # fmt: skip
    assert text_for(documents, 101).stream[1:].tolist() == documents.stream[-202:].tolist()


def test_the_text_before_what_is_counted_at_most_is_scored_by_all_counts(monkeypatch) -> None:
    monkeypatch.setattr(baseline, "MOST_COUNTED", 8 * 8 * 200)  # of tokens of eight bytes
    random = np.random.default_rng(4)
    text = random.integers(1, VOCAB, 600).tolist()
    documents = documents_of([text])
    assert documents.stream.itemsize == 8
    found = cross_fitted(documents, 3, VOCAB, seed=0)
    end = text[-199:]  # and BOS
    oracle = KneserNeyOracle([end], 3, VOCAB)
    expected = [oracle.probability(context, target) for context, target in targets([text])]
    np.testing.assert_allclose(found[:401], expected[:401], rtol=1e-6)
    rest = cross_fitted(documents_of([end]), 3, VOCAB, seed=0)
    assert found[-200:].tolist() == rest.tolist()
    assert training_part(documents, 0, 5).pairs == 100


@pytest.mark.parametrize("lengths", [[601], [90, 310, 200]])
def test_a_half_of_a_text_with_a_cutoff_is_scored_by_the_other_half(lengths: list[int]) -> None:
    random = np.random.default_rng(6)
    documents = documents_of([random.integers(1, VOCAB, length).tolist() for length in lengths])
    found = cross_fitted(documents, 4, VOCAB, seed=0, cutoff=Cutoff(3))
    stream, pairs = documents.stream.tolist(), documents.pairs
    for first, last in ((0, pairs // 2), (pairs // 2, pairs)):
        rest = documents_in(stream[: first - 3 + 1]) if first else documents_in(stream[last + 4 :])
        oracle = KneserNeyOracle(rest, 4, VOCAB, cutoff=(3, 2))
        for p in range(first, last):
            begin = max(i for i in range(p + 1) if stream[i] == 0)
            expected = oracle.probability(tuple(stream[begin : p + 1]), stream[p + 1])
            assert found[p] == pytest.approx(expected, rel=1e-6)


def test_a_document_of_a_text_with_a_cutoff_is_scored_without_it_and_its_copies() -> None:
    texts = random_texts(10 * FOLDS, 12)
    texts[5] = texts[50] = texts[95] = [1, 5, 2, 5, 3, 5, 4, 5, 1, 5, 2, 5, 3, 5]
    documents = documents_of(texts)
    ends = np.cumsum(documents.lengths + 1)[:-1]
    found = np.split(cross_fitted(documents, 4, VOCAB, seed=7, cutoff=Cutoff(3)), ends)
    assert found[5].tobytes() == found[50].tobytes() == found[95].tobytes()
    # Two models score all documents: those that the first document's model scores are its half.
    changed = [*texts]
    changed[0] = [2, 2, 2, 2, 3, 3, 3] * 20
    after = documents_of(changed)
    again = np.split(
        cross_fitted(after, 4, VOCAB, seed=7, cutoff=Cutoff(3)),
        np.cumsum(after.lengths + 1)[:-1],
    )
    same = [d for d in range(1, len(texts)) if np.array_equal(found[d], again[d])]
    assert 30 < len(same) < 70
    for half in (same, [d for d in range(1, len(texts)) if d not in same]):
        others = [changed[d] for d in range(1, len(texts)) if d not in half]
        options = [others, [changed[0], *others]]
        oracles = [KneserNeyOracle(text, 4, VOCAB, cutoff=(3, 2)) for text in options]
        d = next(d for d in half if len(changed[d]) > 5)
        expected = [[o.probability(c, t) for c, t in targets([changed[d]])] for o in oracles]
        assert any(np.allclose(again[d], each, rtol=1e-6) for each in expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_that_are_read_in_any_order_are_those_of_the_text(dtype: type) -> None:
    documents = documents_of(random_texts(90, 60, seed=3))
    model = KneserNey.count(documents_of(random_texts(50, 60)), 5, VOCAB)
    expected = np.exp(-model.token_losses(documents)).astype(dtype)
    read, random = ReadProbabilities(model, documents, dtype=dtype), np.random.default_rng(1)
    for _ in range(9):
        pairs = random.integers(0, documents.pairs, (2, 3))
        assert read[pairs].tobytes() == expected[pairs].tobytes()
    assert read[np.arange(documents.pairs)].tobytes() == expected.tobytes()


def test_only_what_is_read_of_a_long_text_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = documents_of([[1, 2, 3, 4, 5] * 4000])
    model = KneserNey.count(documents, 3, VOCAB)
    scored = []
    real = KneserNey.token_losses

    def noted(self, text, *args, **options):
        scored.append(text.pairs)
        return real(self, text, *args, **options)

    monkeypatch.setattr(KneserNey, "token_losses", noted)
    read = ReadProbabilities(model, documents)
    for _ in range(3):
        read[np.arange(700, 720)]
        read[np.arange(9000, 9300)]
    assert sum(scored) < 1200
