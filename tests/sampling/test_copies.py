"""Copied spans, against a search of every span in every document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from oracles.texts import documents_of

from nanochat.sampling import copies as module
from nanochat.sampling.copies import Copy, covered, document_of, find_copies

tokens = st.lists(st.integers(1, 3), max_size=12)


def places(train, span) -> set[int]:
    """The positions in the token stream at which a document has the span."""
    found, begun = set(), 1
    for document in train:
        for start in range(len(document) - len(span) + 1):
            if document[start : start + len(span)] == span:
                found.add(begun + start)
        begun += len(document) + 1
    return found


def every_copy(sample, train, least) -> list[tuple[int, int]]:
    """The maximal spans: neither end can move outwards, and no other span has them inside."""
    spans = [
        (first, end)
        for first in range(len(sample))
        for end in range(first + least, len(sample) + 1)
        if places(train, sample[first:end])
    ]
    return [
        (first, end)
        for first, end in spans
        if not any((a, b) != (first, end) and a <= first and end <= b for a, b in spans)
    ]


@settings(deadline=None)
@given(st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, min_size=1, max_size=3),
       st.integers(1, 5), st.integers(1, 9))  # fmt: skip
def test_the_spans_are_all_that_a_search_finds_and_each_is_where_it_says(
    train, samples, least, piece
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)  # most spans cross the border of two pieces
        found = find_copies(samples, documents_of(train).stream, least)
    for sample, copies in nonempty(zip(samples, found, strict=True)):
        assert [(c.first, c.first + c.length) for c in copies] == every_copy(sample, train, least)
        for copy in copies:
            assert copy.position in places(train, sample[copy.first : copy.first + copy.length])
        inside = {i for c in copies for i in range(c.first, c.first + c.length)}
        assert inside == {i for first, end in covered(copies) for i in range(first, end)}


def test_a_wrong_hash_finds_the_same_spans(monkeypatch):
    random = np.random.default_rng(5)
    train = [random.integers(1, 4, 60).tolist() for _ in range(4)]
    samples = [random.integers(1, 4, 40).tolist(), train[1][7:30]]
    stream = documents_of(train).stream
    expected = find_copies(samples, stream, 4)
    assert [c.length for c in expected[1]] == [23]

    def same(tokens, length):
        return np.zeros(max(len(tokens) - length + 1, 0), dtype=np.uint64)

    monkeypatch.setattr(module, "_hashes", same)
    found = find_copies(samples, stream, 4)
    assert [[(c.first, c.length) for c in row] for row in found] == [
        [(c.first, c.length) for c in row] for row in expected
    ]


def test_equal_runs_of_tokens_have_equal_hashes_and_others_do_not():
    text = np.random.default_rng(1).integers(1, 5, 3000)
    for length in (1, 2, 3, 5, 7, 8, 13):
        runs = [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]
        hashes = module._hashes(text, length).tolist()
        assert len(hashes) == len(runs)
        assert len(set(zip(runs, hashes, strict=True))) == len(set(runs)) == len(set(hashes))


def test_one_token_again_and_again_is_one_span():
    stream = documents_of([[1] * 5000, [2, 1, 1]]).stream
    (copies,) = find_copies([[2, *[1] * 300]], stream, 3)
    # The longer span covers the ones of the shorter.
    assert [(c.first, c.length) for c in copies] == [(0, 3), (1, 300)]


def test_no_span_is_longer_than_its_document_or_the_sample():
    stream = documents_of([[1, 2], [3]]).stream
    assert find_copies([[1, 2, 3], [], [1, 2]], stream, 2) == [
        [Copy(first=0, length=2, position=1)], [], [Copy(first=0, length=2, position=1)],
    ]  # fmt: skip
    assert find_copies([[1, 2]], stream, 100) == [[]]


@settings(deadline=None)
@given(st.lists(tokens, min_size=1, max_size=6), tokens)
def test_a_sample_is_a_document_if_all_of_their_tokens_are_equal(train, sample):
    found = document_of(sample, documents_of(train))
    assert found == (train.index(sample) if sample in train else None)
