"""Counts compared with plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import counts as counts_module
from nanochat.data.counts import (
    add_one_probabilities,
    bigram_optimum,
    byte_count,
    transition_counts,
)
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import build_tokenizer

corpora = st.lists(st.text("abé", max_size=6), min_size=1, max_size=8)


def looped_counts(corpus, tokenizer):
    table = [[0] * tokenizer.vocab_size for _ in range(tokenizer.vocab_size)]
    for text in corpus:
        ids = [0, *tokenizer.encode(text).tolist(), 0]
        for i in range(len(ids) - 1):
            table[ids[i]][ids[i + 1]] += 1
    return table


@pytest.mark.parametrize("chunk", [1, 3, 1 << 22])
@given(corpora)
def test_counts_are_those_of_a_loop_over_pairs(chunk, corpus):
    tokenizer = build_tokenizer("char", ["abé"])
    documents = encode_documents(tokenizer, corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts_module, "_CHUNK", chunk)
        table = transition_counts(documents, tokenizer.vocab_size)
    assert table.dtype == np.int64
    assert table.tolist() == looped_counts(corpus, tokenizer)
    assert table.sum() == documents.pairs


@given(corpora)
def test_optimum_is_the_mean_negative_log_of_the_count_ratios(corpus):
    tokenizer = build_tokenizer("char", corpus)
    table = looped_counts(corpus, tokenizer)
    nats, total = 0.0, 0
    for row in table:
        for count in row:
            if count:
                nats -= count * math.log(count / sum(row))
                total += count
    got = bigram_optimum(np.array(table))
    assert got == pytest.approx(nats / total, rel=1e-12, abs=1e-15)


@given(corpora)
def test_no_bigram_is_better_than_the_optimum_on_its_own_pairs(corpus):
    tokenizer = build_tokenizer("char", corpus)
    table = transition_counts(encode_documents(tokenizer, corpus), tokenizer.vocab_size)
    smoothed = -(table * np.log(add_one_probabilities(table))).sum() / table.sum()
    assert bigram_optimum(table) <= smoothed + 1e-12


def test_all_same_characters_have_the_optimum_of_where_to_stop():
    documents = encode_documents(build_tokenizer("char", ["a"]), ["a" * 9])
    # BOS→a is certain; of nine a, eight go on and one stops.
    expected = -(8 * math.log(8 / 9) + math.log(1 / 9)) / 10
    assert bigram_optimum(transition_counts(documents, 2)) == pytest.approx(expected, rel=1e-14)


def test_one_document_of_no_tokens_is_one_certain_pair():
    documents = encode_documents(build_tokenizer("char", ["a"]), [""])
    assert transition_counts(documents, 2).tolist() == [[1, 0], [0, 0]]
    assert bigram_optimum(transition_counts(documents, 2)) == 0.0


def test_add_one_rows_are_smoothed_ratios_that_sum_to_one():
    got = add_one_probabilities(np.array([[1, 2], [0, 0]]))
    np.testing.assert_allclose(got, [[2 / 5, 3 / 5], [1 / 2, 1 / 2]], rtol=1e-15)


@pytest.mark.parametrize("kind", ["char", "byte"])
@given(corpora)
def test_bytes_are_those_of_the_text(kind, corpus):
    tokenizer = build_tokenizer(kind, corpus)
    documents = encode_documents(tokenizer, corpus)
    assert byte_count(documents, tokenizer.token_bytes) == len("".join(corpus).encode())
