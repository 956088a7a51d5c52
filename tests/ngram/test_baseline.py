"""The baseline: its order comes from training text alone, its score from the run's targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracles.kneser_ney import KneserNeyOracle
from oracles.texts import documents_of

from nanochat.data.batches import IGNORE, evaluation_batches
from nanochat.data.documents import Documents, token_stream
from nanochat.ngram import baseline as module
from nanochat.ngram.baseline import choose_order, count_baseline
from nanochat.training.metrics import LossTotals

VOCAB = 7
BYTES = np.array([0, 1, 2, 0, 3, 1, 1])


def random_documents(count: int, seed: int) -> Documents:
    random = np.random.default_rng(seed)
    return documents_of(
        [random.integers(1, VOCAB, random.integers(0, 12)).tolist() for _ in range(count)]
    )


def lists(documents: Documents) -> list[list[int]]:
    return [part.tolist() for part in np.split(documents.tokens, documents.offsets[1:-1])]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_score_is_that_of_the_model_s_validation(count: int) -> None:
    train, validation = random_documents(count, 1), random_documents(30, 2)
    batches = evaluation_batches(validation, batch_size=4, block_size=5)
    baseline = count_baseline(train, validation, VOCAB, BYTES, seed=5)
    losses = np.array(
        KneserNeyOracle(lists(train), baseline.order, VOCAB).losses(lists(validation))
    )
    stream = token_stream(validation)[1:]
    totals = LossTotals(BYTES)
    totals.add(losses, stream)
    scored = np.concatenate([b.targets[b.targets != IGNORE] for b in batches])
    assert sorted(scored) == sorted(stream)
    assert baseline.loss == pytest.approx(totals.loss, rel=1e-12)
    assert baseline.bpb == pytest.approx(totals.bpb, rel=1e-12)


def test_the_order_of_one_document_is_the_best_on_its_last_tenth() -> None:
    random = np.random.default_rng(0)
    follower = random.integers(1, 4, (4, 4, 4))
    text = [1, 2, 3]
    while len(text) < 900:  # three tokens decide nine in ten of the next ones
        likely = int(follower[tuple(text[-3:])])
        text.append(likely if random.random() < 0.9 else int(random.integers(1, 4)))
    head, tail = text[: -(len(text) // 10)], text[-(len(text) // 10) :]
    sums = [math.fsum(KneserNeyOracle([head], n, VOCAB).losses([tail])) for n in range(1, 14)]
    expected = 1 + int(np.argmin(sums))
    assert 3 <= expected <= 6
    assert choose_order(documents_of([text]), VOCAB, seed=0) == expected


def test_the_order_of_many_documents_is_chosen_on_documents_that_are_not_counted() -> None:
    """Random documents repeat nothing: an order chosen on counted text would be the highest."""
    assert choose_order(random_documents(300, 3), VOCAB, seed=0) <= 2


def test_the_seed_chooses_the_held_out_documents() -> None:
    documents = documents_of([[1, 2, 3, 4, 5, 6] * 3] * 6 + lists(random_documents(6, 4)))
    orders = {choose_order(documents, VOCAB, seed=seed) for seed in range(12)}
    assert len(orders) > 1
    assert choose_order(documents, VOCAB, seed=3) == choose_order(documents, VOCAB, seed=3)


@pytest.mark.parametrize("texts", [[], [[]], [[1]], [[1], []], [[1, 2]], [[]] * 20])
def test_texts_too_short_to_hold_out_anything_are_scored(texts: list[list[int]]) -> None:
    baseline = count_baseline(documents_of(texts), documents_of([[1, 2]]), VOCAB, BYTES, seed=0)
    assert 1 <= baseline.order <= 2
    assert baseline.loss is not None
    assert baseline.bpb is not None
    assert math.isfinite(baseline.loss + baseline.bpb)


def test_without_targets_there_is_no_score() -> None:
    baseline = count_baseline(documents_of([[1, 2]]), documents_of([]), VOCAB, BYTES, seed=0)
    assert baseline.loss is None
    assert baseline.bpb is None


def test_text_without_bytes_has_a_loss_and_no_bits_per_byte() -> None:
    baseline = count_baseline(documents_of([[1, 2]]), documents_of([[3]]), VOCAB, BYTES * 0, seed=0)
    assert baseline.loss is not None
    assert baseline.bpb is None


@pytest.mark.parametrize("pairs", [1, 2, 9, 40, 41, 10_000])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_of_a_long_text_the_end_is_counted(
    count: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = random_documents(count, 6), random_documents(5, 7)
    monkeypatch.setattr(module, "MOST_COUNTED", pairs * train.stream.itemsize**2)
    tail = [[*document, 0] for document in lists(train)]
    flat = [token for document in tail for token in document][-pairs:]
    # The target before the cut is replaced by the BOS that opens the first document.
    text = " ".join(map(str, flat[:-1]))
    expected = [[int(token) for token in part.split()] for part in text.split("0")]
    baseline = count_baseline(train, validation, VOCAB, BYTES, seed=1)
    model = KneserNeyOracle(expected, baseline.order, VOCAB)
    losses = np.concatenate(model.losses(lists(validation)), axis=None)
    assert baseline.loss == pytest.approx(float(losses.mean()), rel=1e-12)
    assert baseline.counted == (pairs if pairs < train.pairs else None)


def test_the_order_is_chosen_on_the_end_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    noise = random.integers(1, VOCAB, 2000).tolist()
    regular = [1, 2, 3, 4, 5, 6] * 50
    documents = documents_of([noise + regular])
    monkeypatch.setattr(module, "ENOUGH", 301)
    assert choose_order(documents, VOCAB, seed=0) == choose_order(
        documents_of([regular]), VOCAB, seed=0
    )


@pytest.mark.parametrize("scored", [1, 2, 5, 17])
def test_validation_is_scored_in_pieces_as_at_once(
    scored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = random_documents(40, 8)
    validation = documents_of([*lists(random_documents(4, 9)), lists(text)[0] * 9, [], [1]])
    whole = count_baseline(text, validation, VOCAB, BYTES, seed=2)
    monkeypatch.setattr(module, "_SCORED", scored)
    pieces = count_baseline(text, validation, VOCAB, BYTES, seed=2)
    assert pieces.order == whole.order
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-12)
    assert pieces.bpb == pytest.approx(whole.bpb, rel=1e-12)
