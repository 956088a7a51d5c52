"""Batches compared with a plain reading of their contract: every pair in its place, once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.data import batches
from nanochat.data.batches import (
    IGNORE,
    Batch,
    evaluation_batches,
    make_batcher,
    resolve_batching,
)
from nanochat.data.documents import Documents, encode_documents, token_stream
from nanochat.data.tokenizer import BOS, build_tokenizer
from nanochat.errors import ConfigError
from nanochat.philox import Stream, permutation, random_u64

KINDS = ["windows", "packed", "documents"]
lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30)
block_sizes = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)


def numbered(document_lengths) -> Documents:
    """Documents in which every token is different, so each pair identifies its place."""
    total = sum(document_lengths)
    offsets = np.concatenate([[0], np.cumsum(document_lengths)]).astype(np.int64)
    return Documents.of(np.arange(1, total + 1, dtype=np.int64), offsets)


def pairs_of(documents: Documents) -> list[tuple[int, int]]:
    tokens = token_stream(documents).tolist()
    return list(pairwise(tokens))


def pairs_in(batches: list[Batch]) -> list[tuple[int, int]]:
    found = []
    for batch in batches:
        real = batch.segments >= 0
        found += zip(batch.inputs[real].tolist(), batch.targets[real].tolist(), strict=True)
    return found


def same(a: Batch, b: Batch) -> bool:
    fields = ("inputs", "targets", "positions", "segments", "lengths")
    return a.global_targets == b.global_targets and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in fields
    )


def check_form(batch: Batch, documents: Documents, block_size: int, rows: int | None = None):
    """The contract of Batch, row by row in plain Python."""
    shape = batch.inputs.shape
    for name in ("inputs", "targets", "positions", "segments", "lengths"):
        array = getattr(batch, name)
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.shape == (shape[:1] if name == "lengths" else shape)
    assert rows is None or shape[0] == rows
    assert 1 <= shape[1] <= block_size
    assert shape[1] == batch.lengths.max()
    tokens = token_stream(documents).tolist()
    followers: dict[int, set[int]] = {}
    for a, b in pairwise(tokens):
        followers.setdefault(a, set()).add(b)
    for r in range(shape[0]):
        columns = zip(
            *(getattr(batch, name)[r].tolist() for name in ("inputs", "targets")),
            *(getattr(batch, name)[r].tolist() for name in ("positions", "segments")),
            strict=True,
        )
        segment, position, previous = -1, 0, None
        for c, (token, target, at, of) in enumerate(columns):
            if c >= batch.lengths[r]:
                assert (token, target, at, of) == (BOS, IGNORE, 0, -1)
                continue
            # Inside a segment each input is the target before it; a segment never passes a BOS.
            if token == BOS or token != previous:
                segment, position = segment + 1, 0
            assert (at, of) == (position, segment)
            assert target in followers[token]
            position, previous = position + 1, target


# --------------------------------------------------------------------------------- every batcher


@pytest.mark.parametrize("kind", KINDS)
@given(lengths, block_sizes, seeds, st.integers(1, 5), st.integers(1, 3), st.integers(0, 50))
def test_batches_have_the_form_of_the_contract(kind, sizes, block_size, seed, rows, accum, step):
    documents = numbered(sizes)
    batcher = make_batcher(
        kind, documents, batch_size=rows, block_size=block_size, grad_accum=accum, seed=seed
    )
    assert batcher.kind == kind
    microbatches = batcher.step(step)
    assert len(microbatches) == accum
    for batch in microbatches:
        check_form(batch, documents, block_size, rows)
    real = sum(int((batch.targets != IGNORE).sum()) for batch in microbatches)
    assert {batch.global_targets for batch in microbatches} == {real}


@pytest.mark.parametrize("kind", KINDS)
@given(lengths, seeds, st.permutations(range(6)))
def test_steps_are_the_same_in_any_order(kind, sizes, seed, order):
    documents = numbered(sizes)
    make = {"batch_size": 3, "block_size": 7, "grad_accum": 2, "seed": seed}
    one = make_batcher(kind, documents, **make)
    forwards = [one.step(step) for step in range(6)]
    other = make_batcher(kind, documents, **make)
    for step in nonempty(order):
        for a, b in nonempty(zip(other.step(step), forwards[step], strict=True)):
            assert same(a, b)


@pytest.mark.parametrize("kind", KINDS)
@given(lengths, seeds, st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_ranks_partition_the_rows_of_one_process(kind, sizes, seed, world, accum, step):
    documents = numbered(sizes)
    make = {"block_size": 7, "grad_accum": accum, "seed": seed}
    whole = make_batcher(kind, documents, batch_size=2 * world, **make).step(step)
    parts = [
        make_batcher(kind, documents, batch_size=2, rank=rank, world=world, **make).step(step)
        for rank in range(world)
    ]
    for micro in range(accum):
        for rank in range(world):
            part, rows = parts[rank][micro], slice(2 * rank, 2 * rank + 2)
            columns = part.inputs.shape[1]
            assert part.global_targets == whole[micro].global_targets
            assert np.array_equal(part.lengths, whole[micro].lengths[rows])
            for name in ("inputs", "targets", "positions", "segments"):
                expected = getattr(whole[micro], name)[rows]
                assert np.array_equal(getattr(part, name), expected[:, :columns])
                assert (whole[micro].segments[rows, columns:] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_and_batch_size_see_the_same_rows(kind):
    documents = numbered([5, 0, 9, 3, 30, 2])
    big = make_batcher(kind, documents, batch_size=6, block_size=8, seed=1).step(4)[0]
    small = make_batcher(kind, documents, batch_size=2, block_size=8, grad_accum=3, seed=1).step(4)
    assert sorted(pairs_in([big])) == sorted(pairs_in(small))
    assert big.global_targets == small[0].global_targets


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_steps_differ(kind):
    documents = numbered([5] * 200)
    make = {"batch_size": 8, "block_size": 8}
    one = make_batcher(kind, documents, seed=1, **make)
    other = make_batcher(kind, documents, seed=2, **make)
    assert not same(one.step(0)[0], one.step(1)[0])
    assert not same(one.step(0)[0], other.step(0)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corpus", [["a"], [""], ["", ""], ["a" * 500], ["aaa"] * 9])
def test_smallest_and_dullest_corpora_work(kind, corpus):
    tokenizer = build_tokenizer("char", corpus)
    documents = encode_documents(tokenizer, corpus)
    batcher = make_batcher(kind, documents, batch_size=4, block_size=16, seed=0)
    for step in (0, 1, 10**9):
        (batch,) = batcher.step(step)
        assert batch.inputs.shape[0] == 4
        assert batch.global_targets == batch.lengths.sum() == (batch.targets != IGNORE).sum()
        assert set(pairs_in([batch])) <= set(pairs_of(documents))


def test_unknown_kind_is_refused():
    with pytest.raises(ConfigError) as caught:
        make_batcher("auto", numbered([3]), batch_size=1, block_size=4, seed=0)
    assert str(caught.value) == "batching must be one of windows, packed, documents, got auto"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([63, 63], "packed"), ([64, 63], "windows"), ([2, 2, 1000], "windows"), ([3] * 99, "packed")],
)
def test_auto_takes_windows_above_four_block_sizes_per_document(sizes, expected):
    documents = numbered(sizes)
    assert resolve_batching("auto", documents, 16) == expected
    for kind in KINDS:
        assert resolve_batching(kind, documents, 16) == kind


def test_a_text_too_large_to_list_its_chunks_has_windows(monkeypatch):
    documents = numbered([3] * 10)
    for pairs, expected in ((40, "packed"), (39, "windows")):
        monkeypatch.setattr(batches, "_MOST_PACKED", pairs)
        assert resolve_batching("auto", documents, 16) == expected
        assert resolve_batching("packed", documents, 16) == "packed"


# --------------------------------------------------------------------------------------- windows


def window_starts(pairs: int, window: int, seed: int, epoch: int, *, most: int) -> list[int]:
    """The contract of an epoch, in plain Python: where its windows start, in order."""
    parts = max(1, pairs // window // most)
    count = max(1, (pairs - window + 1) // (window * parts))
    number, part = divmod(epoch, parts)
    free = pairs - count * parts * window
    offset = random_u64(seed, Stream.BATCHES, 0, number + 1).tolist()[-1] % (free + 1)
    order = permutation(seed, Stream.BATCHES, 1 + epoch, count).tolist()
    return [offset + (place * parts + part) * window for place in order]


@given(lengths, block_sizes, seeds, st.integers(0, 200), st.sampled_from([1, 2, 5, 1 << 22]))
def test_windows_start_where_philox_says(sizes, block_size, seed, step, most):
    documents = numbered(sizes)
    tokens = token_stream(documents).tolist()
    window = min(block_size, documents.pairs)
    make = {"block_size": block_size, "grad_accum": 2, "seed": seed, "rank": 1, "world": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_MOST_LISTED", most)
        microbatches = make_batcher("windows", documents, batch_size=3, **make).step(step)
    count = len(window_starts(documents.pairs, window, seed, 0, most=most))
    for micro, batch in enumerate(nonempty(microbatches)):
        assert batch.global_targets == 12 * window
        for row in range(3):
            epoch, visit = divmod(step * 12 + (micro * 2 + 1) * 3 + row, count)
            start = window_starts(documents.pairs, window, seed, epoch, most=most)[visit]
            assert batch.inputs[row].tolist() == tokens[start : start + window]
            assert batch.targets[row].tolist() == tokens[start + 1 : start + window + 1]


@given(st.integers(0, 100), block_sizes, seeds, st.integers(0, 20))
def test_no_pair_occurs_twice_in_an_epoch_of_windows(size, block_size, seed, epoch):
    documents = numbered([size])
    window = min(block_size, documents.pairs)
    rows = max(1, (documents.pairs - window + 1) // window)
    batcher = make_batcher("windows", documents, batch_size=1, block_size=block_size, seed=seed)
    found = pairs_in([batcher.step(epoch * rows + row)[0] for row in range(rows)])
    assert len(set(found)) == len(found) == rows * window
    assert documents.pairs - len(found) < max(2 * window - 1, documents.pairs - window + 1)


def test_every_window_is_equally_likely_over_many_epochs():
    documents = numbered([9])  # 10 pairs, 7 windows of 4, one in each epoch
    batcher = make_batcher("windows", documents, batch_size=7000, block_size=4, seed=3)
    counts = np.bincount(batcher.step(0)[0].inputs[:, 0], minlength=7)
    assert len(counts) == 7
    assert abs(counts - 1000).max() < 5 * np.sqrt(7000 * (1 / 7) * (6 / 7))


def test_every_pair_is_visited_by_an_epoch_of_windows_but_those_at_the_ends():
    batcher = make_batcher("windows", numbered([100]), batch_size=24, block_size=4, seed=0)
    for step in range(50):
        inside = {pair for pair in pairs_in(batcher.step(step)) if 6 < pair[0] < 94}
        assert len(inside) == 87


def test_window_that_starts_inside_a_document_opens_a_segment_at_zero():
    documents = Documents.of(np.array([1, 2, 3, 4], np.int64), np.array([0, 3, 4], np.int64))
    batch = make_batcher("windows", documents, batch_size=50, block_size=5, seed=0).step(0)[0]
    row = batch.inputs.tolist().index([1, 2, 3, 0, 4])
    assert batch.targets[row].tolist() == [2, 3, 0, 4, 0]
    assert batch.segments[row].tolist() == [0, 0, 0, 1, 1]
    assert batch.positions[row].tolist() == [0, 1, 2, 0, 1]


def test_corpus_shorter_than_a_window_is_one_window():
    batch = make_batcher("windows", numbered([2]), batch_size=2, block_size=64, seed=0).step(0)[0]
    assert batch.inputs.tolist() == [[0, 1, 2]] * 2
    assert batch.targets.tolist() == [[1, 2, 0]] * 2


# ---------------------------------------------------------------------------------------- epochs


def epochs_of(batcher, rows_per_epoch: int, epochs: int) -> list[list[Batch]]:
    """One row per step makes the bounds of epochs visible."""
    return [
        [batcher.step(epoch * rows_per_epoch + row)[0] for row in range(rows_per_epoch)]
        for epoch in range(epochs)
    ]


@given(lengths, block_sizes, seeds)
def test_packed_epoch_holds_every_pair_exactly_once(sizes, block_size, seed):
    documents = numbered(sizes)
    rows = sum(b.inputs.shape[0] for b in evaluation_batches(
        documents, batch_size=99, block_size=block_size))  # fmt: skip
    batcher = make_batcher("packed", documents, batch_size=1, block_size=block_size, seed=seed)
    for epoch in nonempty(epochs_of(batcher, rows, 3)):
        assert sorted(pairs_in(epoch)) == sorted(pairs_of(documents))


@given(lengths, block_sizes, seeds)
def test_documents_epoch_holds_the_head_of_every_document_once(sizes, block_size, seed):
    documents = numbered(sizes)
    tokens = token_stream(documents).tolist()
    batcher = make_batcher("documents", documents, batch_size=1, block_size=block_size, seed=seed)
    for number, epoch in enumerate(nonempty(epochs_of(batcher, len(sizes), 2))):
        order = permutation(seed, Stream.BATCHES, number + 1, len(sizes)).tolist()
        for d, batch in nonempty(zip(order, epoch, strict=True)):
            start = int(documents.offsets[d]) + d
            pairs = min(sizes[d] + 1, block_size)
            assert batch.inputs.tolist() == [tokens[start : start + pairs]]
            assert batch.targets.tolist() == [tokens[start + 1 : start + pairs + 1]]
            assert batch.positions.tolist() == [list(range(pairs))]
            assert batch.segments.tolist() == [[0] * pairs]


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 4095, 4096, 4097, 9000])
def test_each_epoch_visits_rows_in_its_own_permutation(count):
    documents = Documents.of(np.arange(1, count + 1), np.arange(count + 1))  # one token each
    batcher = make_batcher("documents", documents, batch_size=count, block_size=2, seed=7)
    for epoch in (0, 1, 4000, 10**6, 2**32):
        visited = batcher.step(epoch)[0].inputs[:, 1] - 1
        assert np.array_equal(visited, permutation(7, Stream.BATCHES, epoch + 1, count))


def test_step_may_span_epochs():
    documents = numbered([1, 1, 1])
    batch = make_batcher("documents", documents, batch_size=10, block_size=4, seed=1).step(0)[0]
    first = batch.inputs[:, 1].tolist()
    assert [sorted(first[i : i + 3]) for i in (0, 3, 6)] == [[1, 2, 3]] * 3


def test_packed_batch_has_the_columns_of_its_longest_row():
    documents = numbered([2, 2, 5])
    batcher = make_batcher("packed", documents, batch_size=1, block_size=7, seed=0)
    assert sorted(batcher.step(step)[0].inputs.shape for step in range(2)) == [(1, 6), (1, 6)]


def test_which_documents_share_a_row_depends_on_the_seed():
    documents = numbered([3] * 40)
    rows = {
        frozenset(make_batcher("packed", documents, batch_size=1, block_size=8, seed=seed)
                  .step(0)[0].inputs[0].tolist())
        for seed in range(10)
    }  # fmt: skip
    assert len(rows) == 10


def test_long_document_is_packed_in_chunks_that_start_at_zero():
    documents = numbered([9])  # 10 pairs: 4, 4, 2
    (batch,) = make_batcher("packed", documents, batch_size=3, block_size=4, seed=0).step(0)
    assert sorted(batch.inputs.tolist()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert sorted(batch.positions.tolist()) == [[0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert batch.global_targets == 10


# ------------------------------------------------------------------------------------ evaluation


@given(lengths, block_sizes, st.integers(1, 9))
def test_evaluation_holds_every_pair_exactly_once(sizes, block_size, batch_size):
    documents = numbered(sizes)
    batches = evaluation_batches(documents, batch_size=batch_size, block_size=block_size)
    assert sorted(pairs_in(batches)) == sorted(pairs_of(documents))
    for batch in batches:
        check_form(batch, documents, block_size)
        assert batch.global_targets == (batch.targets != IGNORE).sum()
    assert [len(b.lengths) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1].lengths) <= batch_size


# Two empty documents have the same pair, and the test finds chunks by their pairs.
@settings(max_examples=50)
@given(
    lengths.filter(lambda s: s.count(0) < 2), block_sizes, st.integers(1, 200), st.integers(0, 5)
)
def test_evaluation_of_max_tokens_is_chunks_spread_evenly_over_the_documents(
    sizes, block_size, max_tokens, seed
):
    documents = numbered(sizes)
    chunks, first, all_pairs = [], 0, pairs_of(documents)
    for size in sizes:
        chunks += [
            all_pairs[first + start : first + min(start + block_size, size + 1)]
            for start in range(0, size + 1, block_size)
        ]
        first += size + 1
    make = {"batch_size": 4, "block_size": block_size, "max_tokens": max_tokens, "seed": seed}
    scored = pairs_in(evaluation_batches(documents, **make))
    taken = [i for i, chunk in enumerate(chunks) if set(chunk) <= set(scored)]
    assert sorted(scored) == sorted(pair for i in taken for pair in chunks[i])
    assert scored == pairs_in(evaluation_batches(documents, **make))
    if max_tokens >= len(all_pairs):
        assert taken == list(range(len(chunks)))
        return
    # As many as the mean length of a chunk asks for, at distances that differ by one at most.
    assert abs(len(taken) - max(1, max_tokens * len(chunks) / len(all_pairs))) <= 0.5
    around = [*taken, taken[0] + len(chunks)]
    distances = [b - a for a, b in pairwise(around)]
    assert max(distances) - min(distances) <= 1


def test_the_seed_moves_the_evaluated_chunks():
    documents = numbered([400])
    seen = set()
    for seed in range(20):
        (batch,) = evaluation_batches(
            documents, batch_size=4, block_size=8, max_tokens=32, seed=seed
        )
        seen.update(batch.inputs[:, 0].tolist())
    assert len(seen) > 12  # of the 51 windows, four per seed


def test_evaluation_of_one_long_document_is_its_disjoint_windows():
    documents = numbered([49])
    batches = evaluation_batches(documents, batch_size=4, block_size=8)
    rows = [row[:n] for b in batches for row, n in zip(b.inputs.tolist(), b.lengths, strict=True)]
    assert rows == [list(range(start, min(start + 8, 50))) for start in range(0, 50, 8)]
    assert [batch.global_targets for batch in batches] == [32, 18]


def test_evaluation_of_nothing_is_no_batch():
    assert evaluation_batches(numbered([]), batch_size=4, block_size=8) == []


def test_evaluation_is_the_same_every_time():
    documents = numbered([5, 0, 9, 3, 30, 2])
    make = {"batch_size": 2, "block_size": 8}
    pairs = zip(
        evaluation_batches(documents, **make), evaluation_batches(documents, **make), strict=True
    )
    assert all(same(a, b) for a, b in pairs)
