"""Cutting and packing: every pair once, no row too full, the same rows compiled and not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import packing
from nanochat.data.corpus import load_corpus
from nanochat.data.packing import Pieces, cut, pack

blocks = st.integers(1, 20)
document_pairs = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def array(values) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def looped_best_fit(lengths, capacity):
    """Rows of (piece, length), longest piece first, each into the fullest row with room; of
    equally full ones, the one that became so last."""
    rows, room, touched = [], [], []
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for clock, i in enumerate(order):
        fitting = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        if fitting:
            best = min(fitting, key=lambda r: (room[r], -touched[r]))
        else:
            best = len(rows)
            rows.append([])
            room.append(capacity)
            touched.append(0)
        rows[best].append(i)
        room[best] -= lengths[i]
        touched[best] = clock
    return rows


def next_fit_rows(lengths, capacity):
    rows, room = 0, 0
    for length in lengths:
        if length > room:
            rows, room = rows + 1, capacity
        room -= length
    return rows


def row_lists(rows):
    return [rows.pairs[rows.offsets[r] : rows.offsets[r + 1]].tolist() for r in range(rows.count)]


@given(document_pairs, blocks)
def test_pieces_cover_each_document_in_order(lengths, block_size):
    pieces = cut(array(lengths), block_size)
    expected, first = [], 0
    for length in lengths:
        expected += [
            (first + start, min(block_size, length - start))
            for start in range(0, length, block_size)
        ]
        first += length
    assert list(zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)) == expected


@given(document_pairs, blocks)
def test_rows_are_those_of_a_plain_best_fit(lengths, block_size):
    pieces = cut(array(lengths), block_size)
    starts, sizes = pieces.starts.tolist(), pieces.lengths.tolist()
    expected = [
        [starts[i] + k for i in row for k in range(sizes[i])]
        for row in looped_best_fit(sizes, block_size)
    ]
    assert row_lists(pack(pieces, block_size)) == expected


@given(document_pairs, blocks)
def test_every_pair_stands_in_one_row_and_no_row_overflows(lengths, block_size):
    rows = pack(cut(array(lengths), block_size), block_size)
    assert sorted(rows.pairs.tolist()) == list(range(sum(lengths)))
    fill = np.diff(rows.offsets)
    assert fill.min() >= 1
    assert fill.max() <= block_size
    # Best fit opens a row only when no open one has room, so no two rows would fit into one.
    if rows.count > 1:
        two_emptiest = np.sort(fill)[:2]
        assert two_emptiest.sum() > block_size


@settings(deadline=None)
@given(document_pairs, blocks)
def test_compiled_and_plain_loops_make_the_same_rows(lengths, block_size):
    pieces = cut(array(lengths), block_size)
    plain = pack(pieces, block_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "COMPILE_ABOVE", 0)
        compiled = pack(pieces, block_size)
    assert np.array_equal(plain.pairs, compiled.pairs)
    assert np.array_equal(plain.offsets, compiled.offsets)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64, 256])
def test_names_waste_no_more_than_next_fit(block_size):
    lengths = array([len(name) + 1 for name in load_corpus("names").documents])
    pieces = cut(lengths, block_size)
    shuffled = pieces.lengths[np.random.default_rng(0).permutation(len(pieces.lengths))]
    assert pack(pieces, block_size).count <= next_fit_rows(shuffled.tolist(), block_size)


def test_equal_pieces_fill_their_rows_whole():
    rows = pack(Pieces(np.arange(0, 96, 4), np.full(24, 4)), 16)
    assert np.diff(rows.offsets).tolist() == [16] * 6


def test_block_larger_than_the_corpus_is_one_row():
    rows = pack(cut(array([3, 5, 1]), 1 << 20), 1 << 20)
    assert row_lists(rows) == [[3, 4, 5, 6, 7, 0, 1, 2, 8]]


def test_ten_million_pairs_stand_in_rows_once_each():
    lengths = np.random.default_rng(1).integers(1, 17, 1_200_000)
    total = int(lengths.sum())
    assert total > 10_000_000
    rows = pack(cut(lengths, 16), 16)
    assert np.bincount(rows.pairs, minlength=total).tolist().count(1) == total
    fill = np.diff(rows.offsets)
    assert fill.max() == 16
    assert fill.sum() == total == len(rows.pairs)
    assert fill.mean() > 15.9


def test_one_document_of_ten_million_pairs_is_cut_into_its_blocks():
    rows = pack(cut(array([10_000_000]), 64), 64)
    assert np.array_equal(rows.pairs, np.arange(10_000_000))
    assert np.array_equal(np.diff(rows.offsets), np.full(156_250, 64))


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
        assert row_lists(pack(cut(array([2, 3, 1]), 3), 3)) == [[2, 3, 4], [0, 1, 5]]
    finally:
        packing._compiled_best_fit.cache_clear()


def test_small_corpora_never_import_numba():
    code = (
        "import sys, numpy as np; from nanochat.data.packing import *;"
        "pack(cut(np.full(1000, 7), 16), 16); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
