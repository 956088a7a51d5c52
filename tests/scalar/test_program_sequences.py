"""Functions with one loss per position: shorter documents, ragged batches, many shapes per program."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar.error_bound import UNIT
from scalar.program_models import Cell, CellParameters, cell_by_bounds, cell_by_tape, cells

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.functions import dot
from nanochat.scalar.program import Program
from nanochat.scalar.value import Tape, select

Documents = list[list[int]]

ATTENTION = Cell(
    vocab=3, embedding=[[0.3, -0.7, 0.2, 0.5, 0.1], [0.9, 0.4, -0.3, -0.2, 0.6], [-0.5, 0.8, 0.7, 0.3, -0.9]],
    head=[[0.6, 0.2, -0.4, 0.9, 0.3], [-0.8, 0.5, 0.1, -0.6, 0.2], [0.4, -0.1, 0.8, 0.2, -0.7]],
    start=[0.1, -0.2, 0.3, -0.4, 0.5], steps=[("linear", 4, 1), ("tanh", 5), ("add", 4, 6), ("relu", 7), ("mul", 7, 8)],
    state=9, looks_back=True, first_too=True, loss="cross entropy",
)  # fmt: skip


def program_of(cell: Cell, longest: int, **options: Any) -> tuple[Program, CellParameters]:
    """Compile a cell for documents of up to `longest` positions, which have one more token."""
    parameters = CellParameters.of(cell)
    program = nanochat.compile(
        parameters.function(cell),
        parameters.all(),
        tokens=longest + 1,
        tape=parameters.tape,
        **options,
    )
    return program, parameters


def as_given(documents: Documents) -> Any:
    return documents if len(documents) > 1 else documents[0]


def check(cell: Cell, documents: Documents, program: Program, parameters: CellParameters) -> None:
    """Check the mean over documents of a program against one call per document on Values."""
    loss, grads = cell_by_tape(cell, documents)
    error, errors = cell_by_bounds(cell, documents)
    got = program.grad(as_given(documents))
    assert abs(got - loss) <= UNIT * error, documents
    assert np.all(np.abs(parameters.grads() - grads) <= UNIT * errors), documents


def drawn(data: st.DataObject, cell: Cell, longest: int, count: int) -> Documents:
    document = st.lists(st.integers(0, cell.vocab - 1), min_size=2, max_size=longest + 1)
    return data.draw(st.lists(document, min_size=1, max_size=count))


@settings(max_examples=50, deadline=None)
@given(cells(), st.integers(1, 6), st.data())
def test_a_ragged_batch_is_the_mean_of_its_documents(
    cell: Cell, longest: int, data: st.DataObject
) -> None:
    program, parameters = program_of(cell, longest)
    for _ in range(4):
        check(cell, drawn(data, cell, longest, 6), program, parameters)


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(cells(), st.integers(1, 9), st.data())
def test_any_cell_and_any_batch_agree_with_the_tape(
    cell: Cell, longest: int, data: st.DataObject
) -> None:
    program, parameters = program_of(cell, longest)
    for _ in range(6):
        check(cell, drawn(data, cell, longest, 20), program, parameters)


@settings(max_examples=50, deadline=None)
@given(cells(), st.integers(1, 6), st.data())
def test_exact_documents_of_any_length_have_the_bits_of_the_tape(
    cell: Cell, longest: int, data: st.DataObject
) -> None:
    try:
        program, parameters = program_of(cell, longest, numerics="exact")
    except ProgramError as error:
        assert "order" in str(error)
        return
    for _ in range(3):
        documents = drawn(data, cell, longest, 1)
        loss, grads = cell_by_tape(cell, documents)
        assert program.grad(documents[0]) == loss
        assert np.array_equal(parameters.grads(), grads), documents


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [8],
        [1, 1, 1],
        [8, 8],
        [8, 1],
        [1, 8],
        [3, 8, 3, 1, 8, 5],
        list(range(1, 9)),
        [1] * 40 + [8],
        [7] * 33,
    ],
    ids=str,
)
def test_every_multiset_of_lengths_is_the_mean_of_its_documents(lengths: list[int]) -> None:
    generator = np.random.default_rng(7)
    documents = [generator.integers(0, 3, n + 1).tolist() for n in lengths]
    program, parameters = program_of(ATTENTION, 8)
    check(ATTENTION, documents, program, parameters)


def test_one_program_is_correct_while_batch_shapes_change() -> None:
    generator = np.random.default_rng(11)
    program, parameters = program_of(ATTENTION, 8)
    for _ in range(60):
        count = int(generator.choice([1, 1, 1, 2, 3, 5, 9, 17]))
        documents = [
            generator.integers(0, 3, generator.integers(1, 9) + 1).tolist() for _ in range(count)
        ]
        check(ATTENTION, documents, program, parameters)


def test_non_finite_numbers_do_not_affect_the_next_batch() -> None:
    program, parameters = program_of(ATTENTION, 8)
    for documents in ([[0, 1, 2]] * 5, [[0, 1, 2, 1, 0, 1, 2, 2, 1]] * 9, [[2, 1]]):
        for matrix in parameters.matrices:
            matrix.values[:] *= np.inf
        assert np.isnan(program.grad(documents))
        for matrix, rows in zip(
            parameters.matrices, (ATTENTION.embedding, ATTENTION.head), strict=True
        ):
            matrix.values[:] = rows
        for shape in ([[0, 1]], [[1, 2, 0], [0, 1]], [[0, 1, 2, 1, 0, 1, 2, 2, 1]] * 3):
            check(ATTENTION, shape, program, parameters)


def test_training_on_many_shapes_agrees_with_the_tape() -> None:
    generator = np.random.default_rng(13)
    program, parameters = program_of(ATTENTION, 8)
    for _ in range(60):
        documents = [
            generator.integers(0, 3, generator.integers(1, 9) + 1).tolist()
            for _ in range(int(generator.integers(1, 7)))
        ]
        now = replace(ATTENTION)
        now.start = [v.data for v in parameters.start]
        now.embedding, now.head = (m.values.tolist() for m in parameters.matrices)
        loss, _ = cell_by_tape(now, documents)
        error, _ = cell_by_bounds(now, documents)
        assert abs(program.step(as_given(documents), lr=0.01) - loss) <= UNIT * error


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_batches_give_the_same_bits(dtype: str) -> None:
    generator = np.random.default_rng(17)
    batches = [
        [generator.integers(0, 3, generator.integers(1, 9) + 1).tolist() for _ in range(count)]
        for count in (1, 5, 2, 13, 1)
    ]
    walks = []
    for _ in range(2):
        program, parameters = program_of(ATTENTION, 8, dtype=dtype)
        losses = [program.step(as_given(batch), lr=0.02) for batch in batches * 4]
        walks.append((losses, [m.values.tobytes() for m in parameters.matrices]))
    assert walks[0] == walks[1]


def test_a_loss_does_not_change_gradients_and_weights() -> None:
    program, parameters = program_of(ATTENTION, 8)
    program.grad([0, 1, 2])
    before = parameters.grads().copy(), [m.values.copy() for m in parameters.matrices]
    program.loss([[2, 1], [0, 0, 1, 1]])
    assert np.array_equal(parameters.grads(), before[0])
    for matrix, values in zip(parameters.matrices, before[1], strict=True):
        assert np.array_equal(matrix.values, values)


def test_a_batch_may_have_inputs_and_tokens() -> None:
    parameters = CellParameters.of(ATTENTION)
    embedding = parameters.matrices[0]

    def function(tokens: list[Any], inputs: list[Any]) -> list[Any]:
        return [
            (embedding.row(tokens[t])[0] * inputs[t] + embedding.row(tokens[t])[1]).tanh()
            * inputs[0]
            for t in range(len(tokens))
        ]

    program = nanochat.compile(function, parameters.all(), tokens=4, inputs=4, tape=parameters.tape)
    documents, numbers = [[0, 1, 2, 0], [2], [1, 1]], np.random.default_rng(3).normal(size=(3, 4))
    expected = []
    for document, row in zip(documents, numbers, strict=True):
        losses = function(document, [parameters.tape.value(x) for x in row])
        expected.append(sum(loss.data for loss in losses) / len(losses))
    assert program.loss(documents, numbers) == pytest.approx(np.mean(expected), rel=1e-12)


def test_exact_keeps_the_order_of_a_matrix_that_is_read_by_token_and_directly() -> None:
    # A tied head: gradients reach a matrix row through its token and through products, in turn.
    tape = Tape()
    matrix = tape.matrix(2, 3)
    matrix.values[:] = [[0.3, -0.7, 0.9], [0.1, 0.6, -0.4]]

    def function(tokens: list[Any]) -> list[Any]:
        return [
            select([dot(row, matrix.row(a)).exp() for row in matrix.rows()], b)
            for a, b in pairwise(tokens)
        ]

    tokens = [0, 0, 1, 0, 0, 1, 1]
    try:
        program = nanochat.compile(
            function, matrix, tokens=len(tokens), numerics="exact", tape=tape
        )
    except ProgramError as error:
        assert "order" in str(error)
        return
    losses = function(tokens)
    loss = (1 / len(losses)) * sum(losses)
    loss.backward()
    expected = loss.data, matrix.grads.tolist()
    assert (program.grad(tokens), matrix.grads.tolist()) == expected
