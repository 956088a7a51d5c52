"""Documents end to end, and the BOS-delimited token stream."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import documents as module
from nanochat.data.documents import Documents, encode_documents, token_stream
from nanochat.data.tokenizer import BOS, build_tokenizer


@given(st.lists(st.text("abc", max_size=5)))
def test_token_stream_puts_bos_before_every_document_and_at_the_end(corpus):
    documents = encode_documents(build_tokenizer("char", ["abc"]), corpus)
    expected = [0]
    for text in corpus:
        expected += ["abc".index(c) + 1 for c in text] + [0]
    got = token_stream(documents)
    assert got.dtype == documents.tokens.dtype == np.uint8
    assert got.tolist() == expected
    assert documents.pairs == len(expected) - 1
    assert documents.count == len(corpus)
    assert documents.lengths.tolist() == [len(text) for text in corpus]
    for d, text in enumerate(corpus):
        first = documents.offsets[d] + d
        assert got[first] == 0
        assert got[first + len(text) + 1] == 0


def test_document_d_is_the_slice_between_its_offsets():
    documents = Documents.of(np.array([5, 6, 7], np.int64), np.array([0, 2, 2, 3], np.int64))
    slices = [
        documents.tokens[documents.offsets[d] : documents.offsets[d + 1]].tolist() for d in range(3)
    ]
    assert slices == [[5, 6], [], [7]]


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=9), st.integers(1, 8))
def test_documents_get_their_bos_without_a_copy_of_all_tokens(lists, moved):
    offsets = np.cumsum([0, *map(len, lists)])
    flat = np.array([token for tokens in lists for token in tokens], np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOVED", moved)
        documents = Documents.of(flat, offsets)
    assert documents.stream.tolist() == [0, *(t for tokens in lists for t in [*tokens, 0])]
    assert documents.tokens.tolist() == flat.tolist()
    assert documents.token_count == len(flat)


masks = st.lists(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=6), min_size=1)


@given(masks, st.data())
def test_a_part_has_the_targets_of_its_pairs(found, data):
    """Each token of a part is a target if it is one of the whole; the BOS of an end is none."""
    offsets = np.cumsum([0, *map(len, found)])
    flat = np.array([token for tokens in found for token, _ in tokens], np.uint8)
    is_target = [each for tokens in found for each in [*(target for _, target in tokens), False]]
    whole = dataclasses.replace(Documents.of(flat, offsets), is_target=np.array(is_target))

    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found))))
    taken = whole.take(chosen)
    pairs = [pair for tokens, taken in zip(found, chosen, strict=True) if taken
             for pair in [*tokens, (BOS, False)]]  # fmt: skip
    assert list(zip(taken.stream[1:].tolist(), taken.is_target, strict=True)) == pairs

    first = data.draw(st.integers(0, whole.pairs - 1))
    last = data.draw(st.integers(first + 1, whole.pairs))
    piece, end = whole.piece(first, last), whole.end(whole.pairs - first)
    assert piece.stream[1:-1].tolist() == whole.stream[first + 1 : last + 1].tolist()
    assert piece.is_target.tolist() == [*is_target[first:last], False]
    assert end.is_target.tolist() == is_target[first:]
