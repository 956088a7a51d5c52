"""What compile() and step() accept as numbers and sequences, and numbers read while recording."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.program import Program
from nanochat.scalar.value import Matrix, Tape, Value, detached_max

# NumPy warns where a number does not fit or an array is read as a number.
pytestmark = pytest.mark.filterwarnings("error")

OPTIONS = ("lr", "beta1", "beta2", "eps", "weight_decay")


class Endless:
    """A sequence of a given length whose items have no end."""

    def __init__(self, item: Any, length: int = 2) -> None:
        self.item, self.length = item, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.item


class Index:
    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Float:
    def __init__(self, number: float) -> None:
        self.number = number

    def __float__(self) -> float:
        return self.number


def problem() -> tuple[Matrix, Program]:
    """Return a 3 × 2 matrix and a program that takes two tokens."""
    tape = Tape()
    matrix = tape.matrix(3, 2)
    matrix.values[:] = np.arange(1, 7).reshape(3, 2) / 7

    def loss(tokens: list[Any]) -> Value:
        first, second = tokens
        return matrix.row(first)[0] * matrix.row(second)[1]

    return matrix, nanochat.compile(loss, matrix, tokens=2, tape=tape)


def with_inputs() -> tuple[Value, Program]:
    tape = Tape()
    p = tape.value(0.5)
    return p, nanochat.compile(lambda x: p * x[0] + x[1], [p], inputs=2, tape=tape)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "convert",
    [
        np.float32, np.float64, np.float16, np.array, lambda x: np.array([[x]], dtype=np.float32),
        torch.tensor, lambda x: torch.tensor([x]), Fraction, Float,
    ],
    ids=["float32", "float64", "float16", "0-d", "one element", "tensor", "1-d tensor", "fraction",
         "__float__"],
)  # fmt: skip
def test_an_option_of_step_may_be_any_number(name: str, convert: Callable[..., Any]) -> None:
    options = {"lr": 0.25, "weight_decay": 0.125}
    given = {**options, name: convert(0.25)}
    matrix, program = problem()
    program.step([0, 1], **given)
    expected, plain = problem()
    plain.step([0, 1], **{**options, name: 0.25})
    assert np.array_equal(matrix.values, expected.values)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("convert", [int, np.int8, np.uint64, Index], ids=lambda c: c.__name__)
def test_an_option_of_step_may_be_any_int(name: str, convert: Callable[..., Any]) -> None:
    matrix, program = problem()
    program.step([0, 1], **{"lr": 0.25, name: convert(0)})
    expected, plain = problem()
    plain.step([0, 1], **{"lr": 0.25, name: 0.0})
    assert np.array_equal(matrix.values, expected.values, equal_nan=True)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "value",
    [
        np.array([0.1, 0.2]), np.array([]), torch.tensor([0.1, 0.2]), True, np.True_, np.nan,
        np.float32("nan"), np.float32("inf"), np.complex64(0.1), 0.1j, "0.1", [0.1], None,
        10**400, np.datetime64("2000-01-01"), Float(-0.5),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_an_option_of_step_that_is_no_number_in_its_range_is_named(name: str, value: Any) -> None:
    matrix, program = problem()
    before = matrix.values.copy()
    with pytest.raises(ProgramError) as caught:
        program.step([0, 1], **{"lr": 0.1, name: value})
    text = str(caught.value)
    assert text.startswith(f"{name} must be a number, ")
    assert "\n" not in text
    assert len(text) < 200
    assert np.array_equal(matrix.values, before)


@pytest.mark.parametrize("name", ["tokens", "inputs", "dump_nodes", "threads"])
@pytest.mark.parametrize("convert", [np.int64, np.uint8, np.array, torch.tensor, Index])
def test_a_count_of_compile_may_be_any_int(name: str, convert: Callable[..., Any]) -> None:
    tape = Tape()
    p = tape.value(0.5)
    seen: list[int] = []

    def function(*lists: list[Any]) -> Value:
        seen.extend(map(len, lists))
        return p * 2

    nanochat.compile(function, [p], tape=tape, **{name: convert(2)})
    assert seen == ([2] if name in ("tokens", "inputs") else [])


@pytest.mark.parametrize("name", ["tokens", "inputs", "dump_nodes", "threads"])
@pytest.mark.parametrize(
    "value",
    [True, np.True_, 2.0, np.float64(2), np.array([1, 2]), np.nan, "2", None, -1, np.int8(-1)],
    ids=repr,
)
def test_a_count_of_compile_that_is_no_int_is_named(name: str, value: Any) -> None:
    tape = Tape()
    p = tape.value(0.5)
    with pytest.raises(ProgramError) as caught:
        nanochat.compile(lambda *_: p * 2, [p], tape=tape, **{name: value})
    assert str(caught.value).startswith(f"{name} must be an int, at least 0, got ")


@pytest.mark.parametrize("option", ["numerics", "dtype"])
def test_a_name_of_compile_that_is_an_array_is_named(option: str) -> None:
    tape = Tape()
    p = tape.value(0.5)
    with pytest.raises(ProgramError, match=f"^{option} must be '"):
        nanochat.compile(lambda: p * 2, [p], tape=tape, **{option: np.array(["fast", "exact"])})


# ──────────────────────────────────────────────────────────────────────── numbers while recording


@pytest.mark.parametrize(
    "read",
    [
        lambda m: m.values,
        lambda m: m.grads,
        lambda m: m.values[0, 0],
        lambda m: float(m.grads[0, 0]),
    ],
    ids=["values", "grads", "one value", "one gradient"],
)
def test_the_numbers_of_a_matrix_cannot_be_read_while_it_is_recorded(read: Any) -> None:
    tape = Tape()
    w, m = tape.value(2.0), tape.matrix(1, 1)
    m.values[:] = 3.0
    with pytest.raises(TypeError, match="^the numbers of a Matrix cannot be read while it is rec"):
        nanochat.compile(lambda: (read(m), w * m.row(0)[0])[1], [w, m], tape=tape)
    assert m.values.tolist() == [[3.0]]  # readable after the recording
    program = nanochat.compile(lambda: w * m.row(0)[0], [w, m], tape=tape)
    m.values[:] = 5.0
    assert program.loss() == 10.0


def test_a_matrix_of_another_tape_may_be_read_while_recording() -> None:
    tape, constants = Tape(), Tape().matrix(1, 1)
    constants.values[:] = 4.0
    w = tape.value(2.0)
    program = nanochat.compile(lambda: w * float(constants.values[0, 0]), [w], tape=tape)
    assert program.loss() == 8.0


def test_the_gradients_of_a_matrix_cannot_be_cleared_while_it_is_recorded() -> None:
    tape = Tape()
    m = tape.matrix(1, 1)
    m.grads[:] = 3.0
    with pytest.raises(ProgramError, match=r"^Matrix\.zero_grad\(\) cannot be called .*recorded"):
        nanochat.compile(lambda: (m.zero_grad(), m.row(0)[0])[1], m, tape=tape)
    assert m.grads.tolist() == [[3.0]]
    m.zero_grad()
    assert m.grads.tolist() == [[0.0]]


# ────────────────────────────────────────────────────────────────────────────── endless sequences


@pytest.mark.parametrize(
    "tokens",
    [Endless(1), [Endless(1)], Endless([0, 1]), Endless(Endless(1)), (Endless(1), [0, 1])],
    ids=["tokens", "a document", "documents", "both", "one of two"],
)
def test_tokens_without_an_end_are_refused(tokens: Any) -> None:
    matrix, program = problem()
    before = matrix.values.copy()
    for call in (program.loss, program.grad, lambda x: program.step(x, lr=0.1)):
        with pytest.raises(ValueError, match="got more"):
            call(tokens)
    assert np.array_equal(matrix.values, before)
    assert program.loss([1, 1]) == pytest.approx(3 / 7 * 4 / 7)


@pytest.mark.parametrize(
    "inputs",
    [Endless(1.0), [Endless(1.0)], Endless([0.0, 1.0]), Endless(Endless(1.0)),
     [[1.0, 2.0], Endless(1.0)], [[[Endless(1.0)]]]],
    ids=["inputs", "a document", "documents", "both", "one of two", "too deep"],
)  # fmt: skip
def test_inputs_without_an_end_are_refused(inputs: Any) -> None:
    p, program = with_inputs()
    for call in (program.loss, lambda x=None, inputs=None: program.step(x, inputs, lr=0.1)):
        with pytest.raises((ValueError, TypeError), match="got more than 2|nested at most twice"):
            call(None, inputs)
    assert p.data == 0.5
    assert program.loss(None, [[2.0, 3.0], (4, np.float32(1))]) == 3.5


def test_sequences_that_end_are_read_by_their_items() -> None:
    class Ending(Endless):
        def __getitem__(self, index: int) -> Any:
            if index >= self.length:
                raise IndexError(index)
            return self.item

    _, program = problem()
    assert program.loss(Ending(1)) == pytest.approx(3 / 7 * 4 / 7)
    assert program.loss(Ending(Ending(1))) == pytest.approx(3 / 7 * 4 / 7)
    _, program = with_inputs()
    assert program.loss(None, Ending(Ending(2.0))) == 3.0


def test_a_matrix_or_a_maximum_of_items_without_an_end_is_refused() -> None:
    for call in (
        lambda: Matrix(Endless([1.0, 2.0])),
        lambda: Matrix([Endless(1.0)]),
        lambda: detached_max(Endless(1.0)),
    ):
        with pytest.raises(ValueError, match="^a sequence must have as many items as its length"):
            call()
