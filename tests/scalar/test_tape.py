"""Tape and Matrix: depth, memory, precision, no_grad, parameter blocks."""

from __future__ import annotations

import gc
import math
from itertools import pairwise

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat._scalar import Tape, Value, default_tape

SEGMENT = 4096


def chain(start, length):
    end = start
    for _ in range(length):
        end = end + 1.0
    return end


def test_a_chain_of_a_million_nodes_runs_backward():
    tape = Tape()
    start = tape.value(0.0)
    end = chain(start, 1_000_000)
    end.backward()
    assert (end.data, start.grad) == (1e6, 1.0)
    end.zero_grad()
    assert start.grad == 0.0
    del end
    assert tape.nodes == 1


def test_a_node_takes_at_most_40_bytes():
    tape = Tape()
    start = tape.value(0.0)
    before = tape.bytes
    end = chain(start, 100 * SEGMENT)
    assert tape.bytes - before <= 40 * 100 * SEGMENT
    assert end.data == 100 * SEGMENT


def train(tape, matrix, steps, keep=1):
    """Train while keeping the last results: graphs always overlap in memory."""
    held = [None] * keep
    for step in range(steps):
        x = matrix.row(step % 3)
        loss = sum(((a * 1.5 + b).tanh() ** 2 for a, b in pairwise(x)), start=0.0)
        loss.backward()
        matrix.zero_grad()
        held[step % keep] = loss
    return held


def test_memory_does_not_grow_over_ten_thousand_steps():
    tape = Tape()
    matrix = tape.matrix(3, 50)
    train(tape, matrix, 500)
    process = psutil.Process()
    settled, resident = tape.bytes, process.memory_info().rss
    train(tape, matrix, 10_000)
    assert tape.bytes == settled
    assert tape.nodes == 150
    assert process.memory_info().rss - resident < 8 << 20


def test_graphs_that_overlap_in_a_segment_do_not_keep_each_other_alive():
    tape = Tape()
    matrix = tape.matrix(3, 1000)
    train(tape, matrix, 20, keep=3)
    settled = tape.bytes
    held = train(tape, matrix, 200, keep=3)
    assert tape.bytes == settled
    del held
    assert tape.nodes == 3000


def test_a_live_handle_keeps_exactly_what_it_needs():
    tape = Tape()
    a = tape.value(2.0)
    branch = chain(a, 10)
    left, right = chain(branch, 20), chain(branch, 30)
    del branch
    assert tape.nodes == 61
    del left
    assert tape.nodes == 41
    right.backward()
    assert a.grad == 1.0
    del right
    assert tape.nodes == 1


def test_kept_results_hold_at_most_a_segment_each():
    tape = Tape()
    a = tape.value(1.0)
    with tape.no_grad():
        kept = [chain(a, 5000) for _ in range(20)]
    assert tape.nodes == 21
    kept = [chain(a, 1) for _ in range(20) if chain(a, 5000)]
    assert len(kept) == 20
    assert tape.bytes <= (20 + 3) * SEGMENT * 40


def test_leaves_are_reclaimed_one_by_one():
    tape = Tape()
    leaves = [tape.value(i) for i in range(3 * SEGMENT)]
    before = tape.bytes
    for round_ in range(5):
        leaves[::2] = [tape.value(-round_) for _ in leaves[::2]]
    # New leaves exist before the old ones are freed: at most 1.5 times as many.
    assert tape.bytes <= before * 1.7
    assert [leaf.data for leaf in leaves[1::2]] == list(range(1, 3 * SEGMENT, 2))


def test_values_outlive_the_tape_object():
    value = Tape().value(3.0)
    gc.collect()
    result = value * 2
    del value
    result.backward()
    assert (result.data, result.children[0].grad) == (6.0, 2.0)


def test_no_grad_computes_and_records_nothing():
    tape = Tape()
    a = tape.value(2.0)
    with tape.no_grad():
        assert not tape.recording
        with tape.no_grad():
            inner = a * a
        result = inner / 3 - a
        assert tape.nodes == 3
    assert tape.recording
    assert (result.data, result.op, result.children) == (4.0 * 3**-1 - 2.0, "", ())
    result.backward()
    assert (result.grad, a.grad) == (1.0, 0.0)
    assert (a * a).children == (a, a)


def test_no_grad_ends_with_an_exception():
    tape = Tape()
    with pytest.raises(KeyError), tape.no_grad():
        raise KeyError
    assert tape.recording


def test_no_grad_left_without_being_entered_says_so():
    with pytest.raises(RuntimeError, match="left without being entered"):
        Tape().no_grad().__exit__(None, None, None)


def test_tape_names_its_dtype_and_refuses_others():
    assert (Tape().dtype, Tape("float32").dtype, Tape(dtype="float64").dtype) == (
        "float64",
        "float32",
        "float64",
    )
    with pytest.raises(ValueError, match="must be 'float64' or 'float32', got 'bfloat16'"):
        Tape("bfloat16")
    with pytest.raises(TypeError, match="needs a number, got str"):
        Tape().value("1")


def test_default_tape_is_one_object_and_takes_plain_values():
    assert default_tape() is default_tape()
    assert (Value(1.0) + default_tape().value(2.0)).data == 3.0


FLOAT32 = st.floats(-8, 8, width=32)


@settings(max_examples=200)
@given(x=FLOAT32, y=FLOAT32, c=st.floats(-8, 8))
def test_float32_tape_rounds_as_numpy_float32_op_by_op(x, y, c):
    tape = Tape("float32")
    a, b, f, g, h = tape.value(x), tape.value(y), np.float32(x), np.float32(y), np.float32(c)
    assert (a + b).data == f + g
    assert (a - b).data == f - g
    assert (a * b).data == f * g
    assert (a + c).data == f + h
    assert (c * a).data == h * f
    assert (c - a).data == h - f
    # Transcendental functions: the float64 result, rounded.
    assert a.exp().data == np.float32(math.exp(f))
    assert a.tanh().data == np.float32(math.tanh(f))
    assert a.relu().data == max(np.float32(0), f)


@settings(max_examples=200)
@given(x=FLOAT32, y=FLOAT32, z=FLOAT32)
def test_float32_gradients_round_every_product_and_sum(x, y, z):
    tape = Tape("float32")
    a, b, c = (tape.value(v) for v in (x, y, z))
    (((a * b) * c) + (a * c)).backward()
    f, g, h = np.float32(x), np.float32(y), np.float32(z)
    # Reversed post-order: the second branch, a * c, comes first.
    assert a.grad == (h + h * g)
    assert b.grad == h * f
    assert c.grad == (f + f * g)


def test_float32_local_gradients_are_rounded_too():
    tape = Tape("float32")
    x = np.float32(1.3)
    a = tape.value(x)
    for make, local in (
        (lambda: a**3, np.float32(3) * np.float32(float(x) ** 2)),
        (lambda: a.log(), np.float32(1) / x),
        (lambda: a.tanh(), np.float32(1) - np.float32(math.tanh(x)) ** 2),
    ):
        a.grad = 0.0
        result = make()
        result.backward()
        assert a.grad == local


def test_matrix_views_share_memory_with_values():
    tape = Tape()
    matrix = tape.matrix(3, 5)
    assert matrix.shape == (3, 5) == matrix.values.shape == matrix.grads.shape
    assert matrix.values.dtype == np.float64 and matrix.values.flags.c_contiguous
    matrix.values[:] = np.arange(15).reshape(3, 5)
    row = matrix.row(1)
    assert [v.data for v in row] == [5, 6, 7, 8, 9]
    row[2].data = -1.0
    assert matrix.values[1, 2] == -1.0
    (row[2] * row[3]).backward()
    assert matrix.grads[1].tolist() == [0, 0, 8, -1, 0]
    matrix.zero_grad()
    assert not matrix.grads.any()


def test_rows_hand_out_the_same_values_in_fresh_lists():
    matrix = Tape().matrix(2, 3)
    first = matrix.row(0)
    again = matrix.row(0)
    assert first is not again and all(a is b for a, b in zip(first, again, strict=True))
    first.clear()
    rows = matrix.rows()
    for index, row in enumerate(rows):
        assert all(a is b for a, b in zip(row, matrix.row(index), strict=True))
    rows[0][0] = None
    assert matrix.row(0)[0] is again[0]


def test_row_outside_the_matrix_names_row_and_rows():
    matrix = Tape().matrix(3, 2)
    for row in (3, -1):
        with pytest.raises(IndexError, match=f"row {row} is out of range for a matrix of 3 rows"):
            matrix.row(row)
    with pytest.raises(TypeError):
        matrix.row("a")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 2)])
def test_matrix_without_rows_or_columns_is_refused(shape):
    with pytest.raises(ValueError, match=f"got {shape[0]} x {shape[1]}"):
        Tape().matrix(*shape)


def test_matrix_beyond_the_tape_raises_memory_error():
    with pytest.raises(MemoryError):
        Tape().matrix(2**20, 2**20)


def test_matrix_of_many_segments_keeps_rows_together():
    matrix = Tape().matrix(700, 30)
    matrix.values[:] = np.arange(21000).reshape(700, 30)
    for row in (0, 136, 137, 699):  # 136 holds node 4096, the first of the second segment
        assert [v.data for v in matrix.row(row)] == matrix.values[row].tolist()


def test_matrix_memory_lives_as_long_as_a_view_a_value_or_a_result():
    tape = Tape()
    matrix = tape.matrix(2, 2)
    matrix.values[:] = 3.0
    view, value = matrix.values, matrix.row(0)[1]
    del matrix
    assert tape.nodes == 4
    del view
    result = value * value
    del value
    assert tape.nodes == 5
    result.backward()
    assert result.children[0].grad == 6.0
    del result
    assert tape.nodes == 0


def test_a_view_keeps_matrix_and_tape_alive():
    view = Tape().matrix(2, 2).values
    gc.collect()
    view[:] = 1.0
    assert view.sum() == 4.0


def test_matrices_that_come_and_go_do_not_grow_the_tape():
    tape = Tape()
    for _ in range(200):
        matrix = tape.matrix(100, 100)
        matrix.rows()
        del matrix
        assert tape.nodes == 0
    assert tape.bytes < 100_000


def test_backward_stays_right_when_the_traversal_counter_wraps():
    tape = Tape()
    a = tape.value(2.0)
    result = -(a * a)
    result.backward()
    other = -a
    for _ in range(65_534):
        other.zero_grad()
    result.backward()
    # other.zero_grad() cleared a.grad; the square's own gradient adds up to -2.
    assert a.grad == -8.0
