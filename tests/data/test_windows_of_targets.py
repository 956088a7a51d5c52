"""Batches of conversations: at any context length, each target once, with context, in every epoch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.data.batches import (
    IGNORE,
    evaluation_batches,
    evaluation_pairs,
    make_batcher,
    reading_batches,
    resolve_batching,
)
from nanochat.data.conversations import Conversations, encode_conversations, marked
from nanochat.data.packing import windows_of_targets
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.texts import Texts
from nanochat.data.tokenizer import build_tokenizer

TOKENIZER = ChatTokenizer(build_tokenizer("byte", []))

roles = st.sampled_from(["user", "assistant", "system"])
turns = st.lists(st.tuples(roles, st.text("ab", max_size=40)), min_size=1, max_size=8)
with_reply = turns.map(lambda found: [*found, ("assistant", "x")])
block_sizes = st.integers(2, 64)


def documents_of(found):
    texts = Texts.of([marked(turns).decode() for turns in found])
    return encode_conversations(TOKENIZER, Conversations.of(texts))


def pairs_of(documents):
    """The first pair of each document, and the one after its last."""
    return (documents.offsets + np.arange(documents.count + 1)).tolist()


@given(st.lists(with_reply, min_size=1, max_size=6), st.integers(1, 64), st.data())
def test_each_target_is_in_one_window_with_the_context_asked_for(found, block_size, data):
    documents = documents_of(found)
    bounds = np.array(pairs_of(documents))
    least = data.draw(st.integers(0, block_size - 1), "least")
    chunks = windows_of_targets(bounds, documents.is_target, block_size, least)
    seen = []
    for start, length, context in zip(
        chunks.starts.tolist(), chunks.lengths.tolist(), chunks.context.tolist(), strict=True
    ):
        assert 1 <= length <= block_size
        document = int(np.searchsorted(bounds, start, side="right")) - 1
        first, last = bounds[document], bounds[document + 1]
        assert first <= start and start + length <= last
        targets = [p for p in range(start + context, start + length) if documents.is_target[p]]
        assert targets and targets[-1] == start + length - 1  # nothing after the last target
        for pair in targets:
            # All of the document before it, or as much as asked for.
            assert start == first or pair - start >= least
        seen += targets
    assert seen == np.flatnonzero(documents.is_target).tolist()


def test_a_conversation_that_fits_is_one_chunk():
    documents = documents_of([[("user", "aa"), ("assistant", "b"), ("user", "cccc")]])
    chunks = windows_of_targets(np.array(pairs_of(documents)), documents.is_target, 7, 3)
    # BOS user a a end assistant b → … b end
    assert (chunks.starts.tolist(), chunks.lengths.tolist()) == ([0], [7])
    assert chunks.context.tolist() == [0]


@given(st.lists(with_reply, min_size=1, max_size=6), block_sizes)
def test_training_has_as_few_windows_as_can_hold_the_targets(found, block_size):
    documents = documents_of(found)
    bounds, expected = pairs_of(documents), 0
    for first, last in nonempty(list(pairwise(bounds))):
        targets = [pair for pair in range(first, last) if documents.is_target[pair]]
        reached = first  # a window begins with the document, and later ones with a target
        while targets:
            reached += block_size
            expected += targets[0] < reached
            targets = [pair for pair in targets if pair >= reached]
            reached = targets[0] if targets else reached
    batcher = make_batcher("packed", documents, batch_size=1, block_size=block_size, seed=7)
    assert len(batcher._sequences.chunks.lengths) == expected


@given(st.lists(with_reply, min_size=1, max_size=6), block_sizes, st.integers(1, 3))
def test_every_epoch_has_each_target_once_and_no_row_without_one(found, block_size, batch_size):
    documents = documents_of(found)
    expected = sorted(documents.stream[1:][documents.is_target].tolist())
    batches = evaluation_batches(documents, batch_size=batch_size, block_size=block_size)
    targets = []
    for batch in batches:
        is_target = batch.targets != IGNORE
        assert is_target.any(axis=1).all()
        assert batch.global_targets == is_target.sum()
        assert batch.inputs.shape[1] <= block_size
        targets += batch.targets[is_target].tolist()
    assert sorted(targets) == expected
    batcher = make_batcher("packed", documents, batch_size=1, block_size=block_size, seed=7)
    rows = batcher._sequences.count
    for epoch in range(2):
        steps = [batcher.step(epoch * rows + i)[0] for i in range(rows)]
        found_targets = [t for b in steps for t in b.targets[b.targets != IGNORE].tolist()]
        assert all(b.global_targets == (b.targets != IGNORE).sum() > 0 for b in steps)
        assert sorted(found_targets) == expected


@given(st.lists(with_reply, min_size=1, max_size=6), block_sizes)
def test_inputs_positions_and_segments_are_those_of_the_conversation(found, block_size):
    documents = documents_of(found)
    shape = {"batch_size": 2, "block_size": block_size}
    numbers = evaluation_pairs(documents, **shape)
    batches = evaluation_batches(documents, **shape)
    for batch, pairs in nonempty(list(zip(batches, numbers, strict=True))):
        rows, columns = np.nonzero(batch.targets != IGNORE)
        assert len(rows) == len(pairs)
        for row, column, pair in zip(rows.tolist(), columns.tolist(), pairs.tolist(), strict=True):
            position = int(batch.positions[row, column])
            seen = batch.inputs[row, column - position : column + 1]
            np.testing.assert_array_equal(seen, documents.stream[pair - position : pair + 1])
            segments = batch.segments[row, column - position : column + 1]
            assert len(set(segments.tolist())) == 1
            assert batch.targets[row, column] == documents.stream[pair + 1]


def test_two_processes_and_two_microbatches_share_the_targets_of_a_step():
    documents = documents_of([[("user", "a" * i), ("assistant", "b" * i)] for i in range(1, 20)])
    for step in range(5):
        of_ranks = [
            make_batcher("packed", documents, batch_size=2, block_size=12, grad_accum=2, seed=1,
                         rank=rank, world=2).step(step)
            for rank in range(2)
        ]  # fmt: skip
        batches = [batch for rank in of_ranks for batch in rank]
        total = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
        assert {batch.global_targets for batch in batches} == {total}


def test_a_part_of_the_evaluation_has_about_as_many_tokens_as_asked_for():
    documents = documents_of([[("user", "a" * 9), ("assistant", "b" * 9)]] * 50)
    batches = evaluation_batches(documents, batch_size=8, block_size=32, max_tokens=220)
    assert sum(int(batch.lengths.sum()) for batch in batches) == 10 * 22


@given(st.lists(with_reply, min_size=1, max_size=6), block_sizes)
def test_a_text_that_is_read_in_order_has_each_target_once(found, block_size):
    documents = documents_of(found)
    batches = list(reading_batches(documents, block_size, 20))
    targets = [t for b in batches for row in b.targets for t in row[row != IGNORE].tolist()]
    assert targets == documents.stream[1:][documents.is_target].tolist()
    assert [b.global_targets for b in batches] == [(b.targets != IGNORE).sum() for b in batches]


@pytest.mark.parametrize("replies", [1, 400])
def test_conversations_are_packed_however_long(replies):
    documents = documents_of([[("user", "a"), ("assistant", "b" * replies)]])
    assert resolve_batching("auto", documents, 8) == "packed"
