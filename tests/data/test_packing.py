"""Chunks and packing: every pair once, no sequence too long, the same result compiled and not."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import packing
from nanochat.data.corpus import load_corpus
from nanochat.data.packing import Chunks, pack, split_into_chunks

block_sizes = st.integers(1, 20)
document_pairs = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def array(values) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def looped_best_fit(lengths, capacity):
    """Chunks of each sequence: the longest first, each into the fullest sequence with room.

    Of equally full sequences, the one that was filled last is taken.
    """
    sequences, room, touched = [], [], []
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for clock, i in enumerate(order):
        fitting = [r for r in range(len(sequences)) if room[r] >= lengths[i]]
        if fitting:
            best = min(fitting, key=lambda r: (room[r], -touched[r]))
        else:
            best = len(sequences)
            sequences.append([])
            room.append(capacity)
            touched.append(0)
        sequences[best].append(i)
        room[best] -= lengths[i]
        touched[best] = clock
    return sequences


def next_fit_count(lengths, capacity):
    sequences, room = 0, 0
    for length in lengths:
        if length > room:
            sequences, room = sequences + 1, capacity
        room -= length
    return sequences


def sequence_lists(sequences):
    pairs, offsets = sequences.pairs.tolist(), sequences.offsets.tolist()
    return [pairs[first:last] for first, last in pairwise(offsets)]


@given(document_pairs, block_sizes)
def test_chunks_cover_each_document_in_order(lengths, block_size):
    chunks = split_into_chunks(array(lengths), block_size)
    expected, first = [], 0
    for length in lengths:
        expected += [
            (first + start, min(block_size, length - start))
            for start in range(0, length, block_size)
        ]
        first += length
    assert list(zip(chunks.starts.tolist(), chunks.lengths.tolist(), strict=True)) == expected


@given(document_pairs, block_sizes)
def test_sequences_are_those_of_a_plain_best_fit(lengths, block_size):
    chunks = split_into_chunks(array(lengths), block_size)
    starts, sizes = chunks.starts.tolist(), chunks.lengths.tolist()
    expected = [
        [starts[i] + k for i in sequence for k in range(sizes[i])]
        for sequence in looped_best_fit(sizes, block_size)
    ]
    assert sequence_lists(pack(chunks, block_size)) == expected


@given(document_pairs, block_sizes)
def test_every_pair_is_in_one_sequence_and_no_sequence_overflows(lengths, block_size):
    sequences = pack(split_into_chunks(array(lengths), block_size), block_size)
    assert sorted(sequences.pairs.tolist()) == list(range(sum(lengths)))
    fill = np.diff(sequences.offsets)
    assert fill.min() >= 1
    assert fill.max() <= block_size
    # Best fit opens a sequence only when no open one has room, so no two sequences would fit into one.
    if sequences.count > 1:
        two_shortest = np.sort(fill)[:2]
        assert two_shortest.sum() > block_size


@settings(deadline=None)
@given(document_pairs, block_sizes)
def test_compiled_and_plain_loops_make_the_same_sequences(lengths, block_size):
    chunks = split_into_chunks(array(lengths), block_size)
    plain = pack(chunks, block_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "COMPILE_ABOVE", 0)
        compiled = pack(chunks, block_size)
    assert np.array_equal(plain.pairs, compiled.pairs)
    assert np.array_equal(plain.offsets, compiled.offsets)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64, 256])
def test_names_waste_no_more_than_next_fit(block_size):
    lengths = array([len(name) + 1 for name in load_corpus("names").documents])
    chunks = split_into_chunks(lengths, block_size)
    shuffled = chunks.lengths[np.random.default_rng(0).permutation(len(chunks.lengths))]
    assert pack(chunks, block_size).count <= next_fit_count(shuffled.tolist(), block_size)


def test_equal_chunks_fill_their_sequences_whole():
    sequences = pack(Chunks(np.arange(0, 96, 4), np.full(24, 4)), 16)
    assert np.diff(sequences.offsets).tolist() == [16] * 6


def test_block_size_larger_than_the_corpus_is_one_sequence():
    sequences = pack(split_into_chunks(array([3, 5, 1]), 1 << 20), 1 << 20)
    assert sequence_lists(sequences) == [[3, 4, 5, 6, 7, 0, 1, 2, 8]]


def test_ten_million_pairs_are_in_sequences_once_each():
    lengths = np.random.default_rng(1).integers(1, 17, 1_200_000)
    total = int(lengths.sum())
    assert total > 10_000_000
    sequences = pack(split_into_chunks(lengths, 16), 16)
    assert np.bincount(sequences.pairs, minlength=total).tolist().count(1) == total
    fill = np.diff(sequences.offsets)
    assert fill.max() == 16
    assert fill.sum() == total == len(sequences.pairs)
    assert fill.mean() > 15.9


def test_one_document_of_ten_million_pairs_is_cut_into_its_block_sizes():
    sequences = pack(split_into_chunks(array([10_000_000]), 64), 64)
    assert np.array_equal(sequences.pairs, np.arange(10_000_000))
    assert np.array_equal(np.diff(sequences.offsets), np.full(156_250, 64))


def test_packing_compiles_where_no_cache_can_be_written(monkeypatch):
    import numba

    njit = numba.njit

    def no_cache(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(*arguments, **options)

    monkeypatch.setattr(numba, "njit", no_cache)
    monkeypatch.setattr(packing, "COMPILE_ABOVE", 0)
    packing._compiled_best_fit.cache_clear()
    try:
        assert sequence_lists(pack(split_into_chunks(array([2, 3, 1]), 3), 3)) == [
            [2, 3, 4],
            [0, 1, 5],
        ]
    finally:
        packing._compiled_best_fit.cache_clear()


def test_small_corpora_never_import_numba():
    code = (
        "import sys, numpy as np; from nanochat.data.packing import *;"
        "pack(split_into_chunks(np.full(1000, 7), 16), 16); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
