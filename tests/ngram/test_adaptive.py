"""Counts that grow: equal to counting afresh, learned as the formulas say, blind to the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from oracles.adaptive import AdaptiveOracle
from oracles.kneser_ney import KneserNeyOracle
from oracles.texts import documents_of

from nanochat.errors import KernelError
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.ngram.stored import load_counts, save_counts

VOCAB = 6
PLAIN = {"read_order": 0, "discount_rate": 0.0, "gate_rate": 0.0}

TEXTS = st.lists(st.lists(st.integers(1, VOCAB - 1), max_size=14), max_size=4)


def stream_of(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in (*document, 0)]


def random_texts(count: int, longest: int, seed: int, last: int = VOCAB) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, last, random.integers(0, longest)).tolist() for _ in range(count)]


def random_shares(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows of the shares of a softmax."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(columns), rows)
    return np.ascontiguousarray(shares)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("trained", [0, 1, 4])
def test_at_each_moment_the_counts_are_those_of_both_texts(order: int, trained: int) -> None:
    """The read text has a token, number 5, that the training text lacks."""
    training = random_texts(trained, 40, seed=order, last=VOCAB - 1)
    model = KneserNey.count(documents_of(training), order, VOCAB)
    adaptive = AdaptiveCounts(model, **PLAIN)
    done: list[list[int]] = []
    for document in [*random_texts(3, 25, seed=order + 9), [1, 2, 1, 2, 1, 2], []]:
        for i, target in enumerate([*document, 0]):
            text = document[:i]
            oracle = KneserNeyOracle([*training, *done], order, VOCAB, text)
            expected = [oracle.probability((0, *text), token) for token in range(VOCAB)]
            np.testing.assert_allclose(adaptive.distribution(), expected, rtol=1e-12)
            (loss,) = adaptive.read([target])
            assert np.exp(-loss) == pytest.approx(expected[target], rel=1e-12)
        done.append(document)


@settings(deadline=None, max_examples=30)
@given(TEXTS, TEXTS, st.integers(2, 5), st.integers(2, 4))
def test_counts_with_a_cutoff_grow_from_their_own_probabilities_and_keep_a_sum_of_one(
    training: list[list[int]], read: list[list[int]], order: int, length: int
) -> None:
    model = KneserNey.count(documents_of(training), order, VOCAB, cutoff=Cutoff(length))
    adaptive = AdaptiveCounts(model, **PLAIN)
    np.testing.assert_allclose(adaptive.distribution(), model.distribution([0]), rtol=1e-12)
    learning = AdaptiveCounts(model)
    for target in stream_of(read):
        for each in (adaptive, learning):
            expected = each.distribution()
            assert expected.min() > 0
            assert expected.sum() == pytest.approx(1, rel=1e-9)
            assert np.exp(-each.read([target])[0]) == pytest.approx(expected[target], rel=1e-9)


def test_whole_documents_are_counted_as_if_they_had_been_trained_on() -> None:
    training, read = random_texts(5, 60, seed=1), random_texts(5, 60, seed=2)
    adaptive = AdaptiveCounts(KneserNey.count(documents_of(training), 6, VOCAB), **PLAIN)
    adaptive.read(stream_of(read))
    both = KneserNey.count(documents_of([*training, *read]), 6, VOCAB)
    for context in random_texts(20, 9, seed=3):
        adaptive_after = adaptive.copy()
        adaptive_after.read(context)
        again = KneserNeyOracle([*training, *read], 6, VOCAB, context)
        expected = [again.probability((0, *context), token) for token in range(VOCAB)]
        np.testing.assert_allclose(adaptive_after.distribution(), expected, rtol=1e-12)
    np.testing.assert_allclose(adaptive.distribution(), both.distribution([0]), rtol=1e-12)


@pytest.mark.parametrize("rates", [(0.2, 0.5), (0.0, 0.5), (0.2, 0.0)])
@pytest.mark.parametrize("has_network", [False, True])
def test_discounts_and_gates_learn_as_the_formulas_say(
    rates: tuple[float, float], has_network: bool
) -> None:
    training = random_texts(3, 25, seed=4, last=4)
    read = [[1, 2, 3, 4, 1, 2, 3, 4, 5, 1, 2], [], [1, 2, 3, 5, 5, 1]]
    adaptive = AdaptiveCounts(
        KneserNey.count(documents_of(training), 3, VOCAB),
        read_order=4, discount_rate=rates[0], gate_rate=rates[1],
    )  # fmt: skip
    oracle = AdaptiveOracle(training, 3, VOCAB, 4, *rates)
    shares = random_shares(40, VOCAB + 1)
    for target, row in nonempty(zip(stream_of(read), shares, strict=False)):
        network = row[[target, -1]] if has_network else None
        expected = [
            oracle.probability(token, row[[token, -1]] if has_network else None)
            for token in range(VOCAB)
        ]
        found = adaptive.distribution(row if has_network else None)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        counted = oracle.probability(target)
        losses, by_counts = adaptive.read_both([target], None if network is None else network[None])
        assert np.exp(-losses[0]) == pytest.approx(expected[target], rel=1e-9)
        assert np.exp(-by_counts[0]) == pytest.approx(counted, rel=1e-9)
        oracle.learn(target, network)


def test_a_target_that_cannot_occur_teaches_the_gate_nothing() -> None:
    model = KneserNey.count(documents_of(random_texts(3, 25, seed=4)), 3, VOCAB)
    adaptive, plain = AdaptiveCounts(model), AdaptiveCounts(model)
    losses = adaptive.read(
        [2, 3], np.zeros((2, 2))
    )  # neither the network nor the counts have a share
    assert losses.tolist() == [np.inf, np.inf]
    plain.read([2, 3])
    shares = random_shares(1, VOCAB + 1)[0]
    for network in (None, shares):
        found, expected = adaptive.distribution(network), plain.distribution(network)
        assert found.tobytes() == expected.tobytes()
        assert found.sum() == pytest.approx(1, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(TEXTS, TEXTS, st.integers(1, 6), st.integers(0, 16), st.data())
def test_one_call_or_many_or_a_copy_give_the_same_bits(training, read, order, read_order, data):
    model = KneserNey.count(documents_of(training), order, VOCAB)
    tokens = stream_of(read)
    shares = random_shares(len(tokens), VOCAB + 1)[:, [0, -1]]
    whole = AdaptiveCounts(model, read_order=read_order).read(tokens, shares)
    cut = data.draw(st.integers(0, len(tokens)))
    parts = AdaptiveCounts(model, read_order=read_order)
    found = [parts.read(tokens[:cut], shares[:cut])]
    parts = parts.copy()
    for token, row in zip(tokens[cut:], shares[cut:], strict=True):
        found.append(parts.read([token], row[None]))
    assert np.concatenate(found).tobytes() == whole.tobytes()


@settings(deadline=None, max_examples=50)
@given(TEXTS, TEXTS, TEXTS, st.integers(1, 6), st.booleans())
def test_later_tokens_change_no_earlier_score(training, read, later, order, begins):
    model = KneserNey.count(documents_of(training), order, VOCAB)
    first, other = stream_of(read), stream_of(later)
    alone, followed = (AdaptiveCounts(model, begins=begins).read(t) for t in (first, first + other))
    assert alone.tobytes() == followed[: len(first)].tobytes()


@settings(deadline=None, max_examples=50)
@given(TEXTS, TEXTS.filter(bool), st.integers(1, 6), st.booleans())
def test_probabilities_are_positive_and_sum_to_one(training, read, order, begins):
    model = KneserNey.count(documents_of(training), order, VOCAB)
    adaptive = AdaptiveCounts(model, begins=begins)
    shares_of_tokens = zip(stream_of(read), random_shares(80, VOCAB + 1), strict=False)
    for token, shares in nonempty(shares_of_tokens):
        for row in (None, shares):
            distribution = adaptive.distribution(row)
            assert (distribution > 0).all()
            assert distribution.sum() == pytest.approx(1, abs=1e-12)
        (loss,) = adaptive.read([token], shares[None, [token, -1]])
        assert np.exp(-loss) == pytest.approx(distribution[token], rel=1e-12)


def test_the_frozen_counts_do_not_change_and_may_be_mapped(tmp_path: Path) -> None:
    model = KneserNey.count(documents_of(random_texts(9, 50, seed=5)), 5, VOCAB)
    mapped, *_ = load_counts(tmp_path, save_counts(model, np.ones(1, np.float32), tmp_path))
    before = {name: array.tobytes() for name, array in mapped.arrays().items()}
    tokens = stream_of(random_texts(9, 50, seed=6))
    losses = [AdaptiveCounts(each).read(tokens) for each in (model, mapped)]
    assert losses[0].tobytes() == losses[1].tobytes()
    assert {name: array.tobytes() for name, array in mapped.arrays().items()} == before


def test_a_text_without_its_beginning_counts_from_its_first_whole_n_gram_on() -> None:
    model = KneserNey.count(documents_of([[1, 2, 3]]), 3, VOCAB)
    cut = AdaptiveCounts(model, begins=False, **PLAIN)
    cut.read([4, 5])
    expected = model.distribution([4, 5])
    np.testing.assert_allclose(cut.distribution(), expected, rtol=1e-15)
    cut.read([4])
    assert cut.distribution()[4] > expected[4]


def test_a_text_that_repeats_itself_costs_ever_less() -> None:
    model = KneserNey.count(documents_of(random_texts(9, 50, seed=7)), 5, VOCAB)
    line = [1, 3, 2, 5, 4, 4, 1, 2, 0]
    losses = AdaptiveCounts(model).read(line * 20).reshape(20, -1).sum(axis=1)
    assert losses[-1] < 0.2 * losses[0]


def test_wrong_arguments_are_errors_of_one_line() -> None:
    adaptive = AdaptiveCounts(KneserNey.count(documents_of([[1, 2]]), 2, VOCAB))
    with pytest.raises(KernelError, match=r"^token 1 must be in \[0, 6\), got 6$"):
        adaptive.read([1, 6])
    with pytest.raises(KernelError, match=r"^the shares of a network must have the shape \(1, 2\)"):
        adaptive.read([1], [[0.5]])
    with pytest.raises(KernelError, match=r"^a share of the network must be in \[0, 1\], got 2$"):
        adaptive.read([1], [[2.0, 0.5]])
    with pytest.raises(KernelError, match=r"^read_order must be in \[0, 16\], got 17$"):
        AdaptiveCounts(adaptive.frozen, read_order=17)
    with pytest.raises(KernelError, match=r"^discount_rate must be in \[0, 10\], got -1$"):
        AdaptiveCounts(adaptive.frozen, discount_rate=-1)


def test_memory_stays_within_a_bound_per_token() -> None:
    tokens = np.minimum(np.random.default_rng(0).zipf(1.3, 50_000), 60)
    model = KneserNey.count(documents_of([[1, 2, 3]]), 7, 61)
    adaptive = AdaptiveCounts(model)
    adaptive.read(tokens)
    assert adaptive.bytes <= 600 * len(tokens)
