"""Misuse of compile() and its programs: each error is one line with the thing, the rule and the value."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import nanochat
from nanochat import _scalar
from nanochat.errors import ProgramError
from nanochat.scalar.program import Program
from nanochat.scalar.value import Matrix, Tape, Value, detached_max, select

MISTAKE = (ProgramError, ValueError, TypeError, RuntimeError)


class Bigram:
    """A function with one loss per position, of at most four tokens, and its 3 × 2 matrix."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.matrix: Matrix = self.tape.matrix(3, 2)
        self.matrix.values[:] = np.arange(1, 7).reshape(3, 2) / 7
        self.p = self.tape.value(0.5)

    def losses(self, tokens: list[Any]) -> list[Value]:
        return [self.matrix.row(a)[0] * self.matrix.row(b)[1] for a, b in pairwise(tokens)]

    def program(self) -> Program:
        return nanochat.compile(self.losses, self.matrix, tokens=4, tape=self.tape)

    def compile(
        self, function: Callable[..., Any], parameters: Any = None, **options: Any
    ) -> Program:
        parameters = [self.p] if parameters is None else parameters
        return nanochat.compile(function, parameters, tape=self.tape, **options)


@pytest.fixture
def bigram() -> Bigram:
    return Bigram()


def refusal(call: Callable[[], Any], *words: str) -> str:
    """Return the error message after checking that it is one short line with these words."""
    with pytest.raises(MISTAKE) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 250
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([0, 1, 3], ["token 2", "0 … 2", "got 3"]),
        ([0, -1], ["token 1", "0 … 2", "got -1"]),
        ([0, 2**40], ["token 1", str(2**40)]),
        ([0, 2**70], ["token 1"]),
        ([1], ["tokens", "2 … 4", "got 1"]),
        ([], ["tokens", "2 … 4", "got 0"]),
        ([[]], ["tokens", "2 … 4", "got 0"]),
        ([0] * 5, ["tokens", "2 … 4", "got 5"]),
        ([[0, 1], [0] * 5], ["tokens", "2 … 4", "got 5"]),
        (None, ["tokens", "None"]),
        ([0, 1.5], ["token", "float"]),
        ("ab", ["token", "str"]),
        ([[0, 1], 2], ["token"]),
        ([[[0, 1]]], ["token"]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_tokens_that_do_not_fit_are_named(bigram: Bigram, tokens: Any, words: list[str]) -> None:
    program = bigram.program()
    refusal(lambda: program.loss(tokens), *words)
    before = bigram.matrix.values.copy()
    refusal(lambda: program.step(tokens, lr=0.1), *words)
    assert np.array_equal(bigram.matrix.values, before)
    assert program.loss([0, 1]) == bigram.losses([0, 1])[0].data


@pytest.mark.parametrize(
    "tokens",
    [
        (0, 1),
        np.array([0, 1]),
        [np.int64(0), np.int64(1)],
        [(0, 1), (0, 1)],
        np.array([[0, 1], [0, 1]]),
    ],
    ids=["tuple", "array", "list of numpy ints", "list of tuples", "2-d array"],
)
def test_tokens_may_be_any_sequence_of_ints(bigram: Bigram, tokens: Any) -> None:
    assert bigram.program().loss(tokens) == bigram.losses([0, 1])[0].data


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, ["inputs", "2"]),
        ([1.0], ["inputs", "2", "got"]),
        ([1.0, 2.0, 3.0], ["inputs", "2", "got"]),
        ([[1.0, 2.0, 3.0]], ["inputs", "2", "got"]),
        ([[1.0], [2.0]], ["inputs", "2", "got"]),
        (np.zeros((0, 2)), ["document"]),
        (1.0, ["inputs", "2", "got"]),
        (["a", "b"], ["inputs"]),
        ([[[1.0, 2.0]]], ["inputs", "got"]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_inputs_that_do_not_fit_are_named(bigram: Bigram, inputs: Any, words: list[str]) -> None:
    program = bigram.compile(lambda x: bigram.p * x[0] + x[1], inputs=2)
    refusal(lambda: program.loss(None, inputs), *words)
    assert program.loss(None, [2.0, 3.0]) == 4.0


def test_tokens_or_inputs_that_a_program_does_not_take_are_refused(bigram: Bigram) -> None:
    program = bigram.compile(lambda x: bigram.p * x[0], inputs=1)
    refusal(lambda: program.loss([1, 2], [1.0]), "tokens")
    tokens_alone = bigram.program()
    refusal(lambda: tokens_alone.loss([0, 1], [1.0]), "inputs")


@pytest.mark.parametrize(
    "read",
    [lambda v: v.data, float, int, lambda v: v > 1, lambda v: f"{v:.2f}", lambda v: v.grad],
    ids=["data", "float", "int", ">", "format", "grad"],
)
def test_the_number_of_a_value_cannot_be_read_while_it_is_recorded(
    bigram: Bigram, read: Any
) -> None:
    refusal(lambda: bigram.compile(lambda: (read(bigram.p * 2), bigram.p * 2)[1]))
    assert bigram.p.data == 0.5  # readable after the recording
    assert bigram.compile(lambda: bigram.p * 2).loss() == 1.0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda v: setattr(v, "data", 2.0), "Value.data"),
        (lambda v: setattr(v, "grad", 2.0), "Value.grad"),
        (lambda v: v.backward(), "backward()"),
        (lambda v: v.zero_grad(), "zero_grad()"),
    ],
    ids=["data", "grad", "backward", "zero_grad"],
)
def test_a_value_cannot_be_changed_while_it_is_recorded(
    bigram: Bigram, change: Any, name: str
) -> None:
    for value_of in (lambda: bigram.p, lambda: bigram.p * 2):
        with pytest.raises(ProgramError) as caught:
            bigram.compile(lambda f=value_of: (change(f()), bigram.p * 2)[1])
        message = str(caught.value)
        assert name in message and "recorded" in message and "\n" not in message
    assert (bigram.p.data, bigram.p.grad) == (0.5, 0.0)
    change(bigram.p)  # writable after the recording


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": -1}, ["tokens", "at least 0", "-1"]),
        ({"tokens": 1.5}, ["tokens", "int", "1.5"]),
        ({"tokens": True}, ["tokens", "int", "True"]),
        ({"inputs": -2}, ["inputs", "at least 0", "-2"]),
        ({"inputs": None}, ["inputs", "int", "None"]),
        ({"dump_nodes": -1}, ["dump_nodes", "at least 0", "-1"]),
        ({"dump_nodes": "all"}, ["dump_nodes", "int", "all"]),
        ({"numerics": 3}, ["numerics", "'fast'", "'exact'", "3"]),
        ({"dtype": float}, ["dtype", "'float64'", "float"]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_arguments_of_compile_that_do_not_fit_are_named(
    bigram: Bigram, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ProgramError):
        bigram.compile(lambda *_: bigram.p * 2, **options)
    refusal(lambda: bigram.compile(lambda *_: bigram.p * 2, **options), *words)


def test_an_argument_that_is_not_a_function_or_a_tape_is_named(bigram: Bigram) -> None:
    function: Any = 3
    refusal(lambda: bigram.compile(function), "function", "callable", "int")
    tape: Any = 3
    refusal(
        lambda: nanochat.compile(lambda: bigram.p * 2, [bigram.p], tape=tape), "tape", "Tape", "int"
    )


@pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "eps", "weight_decay"])
@pytest.mark.parametrize("value", ["a", None, float("nan"), float("inf"), -1.0], ids=repr)
def test_options_of_a_step_out_of_range_are_named(bigram: Bigram, name: str, value: Any) -> None:
    program = bigram.compile(lambda: bigram.p * 2)
    settings: dict[str, Any] = {"lr": 0.1} | {name: value}
    refusal(lambda: program.step(**settings), name, "at least 0", repr(value))
    assert bigram.p.data == 0.5
    if name.startswith("beta"):
        refusal(lambda: program.step(**{"lr": 0.1, name: 1.0}), name, "below 1", "1.0")


def test_a_token_has_no_number_during_recording(bigram: Bigram) -> None:
    p = bigram.p
    refusal(lambda: bigram.compile(lambda t: [p, p][t[0]], tokens=1), "Token")
    refusal(lambda: bigram.compile(lambda t: p * t[0], tokens=1), "Token")


def test_a_token_cannot_decide_what_is_recorded(bigram: Bigram) -> None:
    # An int can be compared with 1. A Token cannot: its answer would be frozen into the program.
    refusal(lambda: bigram.compile(lambda t: bigram.p * (2 if t[0] == 1 else 3), tokens=1), "Token")


def test_no_grad_in_a_recording_is_refused_rather_than_frozen_into_a_program(
    bigram: Bigram,
) -> None:
    def function() -> Value:
        with bigram.tape.no_grad():
            y = bigram.p * bigram.p
        return y * bigram.p

    with pytest.raises(RuntimeError) as caught:
        bigram.compile(function)
    assert str(caught.value) == (
        "no_grad() cannot be entered while a function is recorded: its results would become"
        " constants"
    )


def test_a_token_means_nothing_outside_a_recording(bigram: Bigram) -> None:
    token = _scalar.Token(0, 0)
    refusal(lambda: bigram.matrix.row(token), "row(Token)", "recorded")
    refusal(lambda: select([bigram.p], token), "select()", "recorded")


def test_selections_and_maxima_of_a_recording_take_values(bigram: Bigram) -> None:
    p = bigram.p
    numbers = refusal(
        lambda: bigram.compile(lambda t: p * select([1.0, 2.0], t[0]), tokens=1), "select()"
    )
    empty = refusal(lambda: bigram.compile(lambda t: p * select([], t[0]), tokens=1), "select()")
    assert "outside" not in numbers + empty
    refusal(lambda: bigram.compile(lambda: p - detached_max([p, 1.0])), "detached_max()", "Values")
    refusal(lambda: bigram.compile(lambda: p - detached_max([])), "detached_max()")


def test_a_row_by_token_needs_its_matrix_among_the_parameters(bigram: Bigram) -> None:
    refusal(
        lambda: bigram.compile(lambda t: bigram.matrix.row(t[0])[0], tokens=1),
        "matrix",
        "parameters",
    )


def test_parameters_are_leaves_of_one_tape(bigram: Bigram) -> None:
    p, other = bigram.p, Tape().value(0.5)
    refusal(lambda: bigram.compile(lambda: p * p, [other]), "parameter", "another tape")
    refusal(lambda: bigram.compile(lambda: p * other), "same tape")
    refusal(lambda: bigram.compile(lambda: p * p, [p * 2]), "parameter", "without operands")
    refusal(lambda: bigram.compile(lambda: p * p, []), "at least one parameter")
    refusal(lambda: bigram.compile(lambda: p * p, {"a": [[], ()]}), "at least one parameter")
    for wrong, name in ((1.0, "float"), ("a", "str"), (None, "NoneType")):
        refusal(lambda wrong=wrong: bigram.compile(lambda: p * p, [wrong]), "parameters", name)


def test_a_parameter_is_listed_once(bigram: Bigram) -> None:
    p, matrix = bigram.p, bigram.matrix
    refusal(lambda: bigram.compile(lambda: p * p, [p, p]), "parameter")
    refusal(
        lambda: bigram.compile(lambda: matrix.row(0)[1] * p, [p, matrix, matrix.row(0)[1]]),
        "parameter",
    )


def test_kinds_of_numerics_are_named(bigram: Bigram) -> None:
    p = bigram.p
    refusal(
        lambda: bigram.compile(lambda: p, numerics="quick"),
        "numerics",
        "'fast'",
        "'exact'",
        "'quick'",
    )
    refusal(
        lambda: bigram.compile(lambda: p, dtype="bfloat16"),
        "dtype",
        "'float64'",
        "'float32'",
        "'bfloat16'",
    )
    refusal(
        lambda: bigram.compile(lambda: p, numerics="exact", dtype="float32"), "exact", "float64"
    )


def test_exact_on_a_float32_tape_is_refused_or_has_its_bits() -> None:
    tape = Tape("float32")
    a, b = tape.value(0.1), tape.value(0.3)
    try:
        program = nanochat.compile(lambda: a * b, [a, b], numerics="exact", tape=tape)
    except MISTAKE as error:
        assert "float32" in str(error)
        return
    assert program.loss() == (a * b).data


@pytest.mark.parametrize("result", [None, 1.0, [], [1.0], [[Value(1.0)]]], ids=repr)
def test_a_function_returns_values(bigram: Bigram, result: Any) -> None:
    message = refusal(lambda: bigram.compile(lambda: result))
    assert any(word in message for word in ("Value", "output", "loss")), message


def test_a_function_that_raises_leaves_its_tape_free(bigram: Bigram) -> None:
    with pytest.raises(ZeroDivisionError):
        bigram.compile(lambda: 1 / 0)
    assert bigram.compile(lambda: bigram.p * 2).loss() == 1.0


def test_a_tape_is_recorded_by_one_at_a_time(bigram: Bigram) -> None:
    p = bigram.p
    refusal(lambda: bigram.compile(lambda: bigram.compile(lambda: p * p) and p), "recorded already")
    with bigram.tape.no_grad():
        refusal(lambda: bigram.compile(lambda: p * p), "no_grad()")


@pytest.mark.parametrize("weights", ["some", "zero"])
def test_losses_that_depend_on_the_length_are_refused(bigram: Bigram, weights: str) -> None:
    if weights == "zero":
        bigram.matrix.values[:] = 0.0
    with pytest.raises(ProgramError, match="not the first losses"):
        bigram.compile(
            lambda t: [loss * len(t) + 0.0 * len(t) for loss in bigram.losses(t)],
            bigram.matrix,
            tokens=4,
        )


def test_a_document_that_ends_between_two_losses_is_refused(bigram: Bigram) -> None:
    def pairs(tokens: list[Any]) -> list[Value]:
        return [
            bigram.matrix.row(tokens[i])[0] * bigram.matrix.row(tokens[i + 1])[1]
            for i in range(0, len(tokens) - 1, 2)
        ]

    program = bigram.compile(pairs, bigram.matrix, tokens=4)
    refusal(lambda: program.loss([0, 1, 2]), "tokens", "got 3")


def test_a_function_of_one_length_is_refused_or_works(bigram: Bigram) -> None:
    row = bigram.matrix.row
    try:
        program = bigram.compile(
            lambda t: [row(t[0])[0], row(t[1])[0] * 2], bigram.matrix, tokens=2
        )
    except ProgramError as error:
        assert "tokens" in str(error)
        return
    assert program.loss([0, 1]) == pytest.approx((row(0)[0].data + 2 * row(1)[0].data) / 2)


def test_tokens_and_inputs_work_together_on_a_separate_tape(bigram: Bigram) -> None:
    def function(tokens: list[Any], inputs: list[Any]) -> list[Value]:
        return [loss * inputs[0] for loss in bigram.losses(tokens)]

    program = bigram.compile(function, bigram.matrix, tokens=4, inputs=1)
    assert program.loss([0, 1], [2.0]) == pytest.approx(2 * bigram.losses([0, 1])[0].data)
