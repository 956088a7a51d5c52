"""Python input that would crash or corrupt the compiled core: one clear error, or the right value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import nanochat
from nanochat import _scalar
from nanochat.errors import ProgramError
from nanochat.scalar.functions import cross_entropy, linear
from nanochat.scalar.program import Program
from nanochat.scalar.value import Matrix, Tape, Token, Value, detached_max, select

VOCAB, WIDTH, LONGEST = 8, 4, 6


class OnAccess(Sequence[Any]):
    """A sequence that creates its items when they are accessed, and may yield more than its length."""

    def __init__(self, make: Callable[[int], Any], yielded: int, length: int | None = None) -> None:
        self.make, self.yielded = make, yielded
        self.length = yielded if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if index >= self.yielded:
            raise IndexError(index)
        return self.make(index)


class Index:
    """An int whose __index__ first runs other code."""

    def __init__(self, number: int, before: Callable[[], object]) -> None:
        self.number, self.before = number, before

    def __index__(self) -> int:
        self.before()
        return self.number


class Bigram:
    """Logits of the next token from a row of one matrix, with the loss of each position."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.tape = Tape()
        self.embedding = self.tape.matrix(VOCAB, WIDTH)
        self.embedding.values[:] = np.arange(VOCAB * WIDTH).reshape(VOCAB, WIDTH) / 40
        self.program: Program = nanochat.compile(
            self.losses, self.embedding, tokens=longest, tape=self.tape
        )

    def losses(self, tokens: list[Any]) -> list[Value]:
        rows = self.embedding.rows()
        return [cross_entropy(linear(self.embedding.row(a), rows), b) for a, b in pairwise(tokens)]

    def expected(self, document: list[int]) -> float:
        found = [loss.data for loss in self.losses(document)]
        return sum(found) / len(found)


@pytest.fixture
def bigram() -> Bigram:
    return Bigram()


def one_line(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message and len(message) < 250
    for word in words:
        assert word in message, message


# Sequences whose items are temporaries


def test_a_matrix_of_a_numpy_array_has_its_numbers():
    array = np.arange(6.0).reshape(2, 3)
    for given in (array, array.astype(np.float32), array.astype(np.int64), array[::-1], array.T):
        assert np.array_equal(Matrix(given).values, np.asarray(given, dtype=float))


def test_a_matrix_of_rows_made_on_access_has_their_numbers():
    rows = OnAccess(lambda i: [float(i)] * 4, 3)
    nested = OnAccess(lambda i: OnAccess(lambda j: 10.0 * i + j, 2), 2)
    assert Matrix(rows).values.tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    assert Matrix(nested).values.tolist() == [[0.0, 1.0], [10.0, 11.0]]


def test_a_matrix_has_at_most_as_many_rows_as_the_length_of_a_sequence():
    more, fewer = OnAccess(lambda i: [float(i)], 20_000, 1), OnAccess(lambda i: [1.0], 2, 10**9)
    wide = OnAccess(lambda i: 1.0 + i, 3, 1)
    for rows in (more, [wide, [4, 5, 6]], [[4], wide]):
        with pytest.raises(ValueError, match="as its length, got more than 1$"):
            Matrix(rows)
    assert Matrix(fewer).shape == (2, 1)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (np.zeros((2, 2, 2)), TypeError, ["row 0, column 0", "number", "ndarray"]),
        (np.zeros(3), TypeError, ["row 0", "sequence of numbers", "float64"]),
        ([[1.0], ["a"]], TypeError, ["row 1, column 0", "number", "str"]),
        ([[1.0], None], TypeError, ["row 1", "sequence", "NoneType"]),
        ([[1.0, 2.0], [3.0]], ValueError, ["same length", "2 and 1"]),
        ([[10**400]], OverflowError, ["too large"]),
        (5, TypeError, ["sequence of rows", "int"]),
        ([], ValueError, ["at least 1 row"]),
        ([[]], ValueError, ["at least 1 row and 1 column"]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_rows_that_are_no_matrix_are_named(rows, error, words):
    nodes = _scalar.default_tape().nodes
    with pytest.raises(error) as caught:
        Matrix(rows)
    one_line(caught, *words)
    assert _scalar.default_tape().nodes == nodes


def test_a_number_that_clears_its_row_while_it_is_read_leaves_the_matrix_right():
    class Clear:
        def __float__(self) -> float:
            row.clear()
            rows.clear()
            return 3.0

    row: list[Any] = [Clear(), 4.0]
    rows = [row, [5.0, 6.0]]
    assert Matrix(rows).values.tolist() == [[3.0, 4.0], [5.0, 6.0]]


def test_values_made_on_access_are_selected_and_compared_while_recording(bigram: Bigram):
    def products(tokens: list[Any]) -> Value:
        a, b = bigram.embedding.row(1)[:2]
        values = OnAccess(lambda i: (a, b)[i] * 2.0, 2)
        return select(values, tokens[0]) - detached_max(values)

    program = nanochat.compile(products, bigram.embedding, tokens=1, tape=bigram.tape)
    a, b = bigram.embedding.values[1, :2] * 2
    assert [program.loss([t]) for t in (0, 1)] == pytest.approx([a - max(a, b), b - max(a, b)])


def test_parameters_made_on_access_are_trained():
    values = [Value(1.0), Value(2.0)]
    recorder = _scalar.Recorder(_scalar.default_tape(), OnAccess(lambda i: values[i], 2))
    with recorder:
        outputs = OnAccess(lambda i: values[0] * values[1] * (i + 1.0), 2)
        core = _scalar.Program.compile(recorder, outputs, [], "fast", "float64")
    core.load()
    one, none = np.ones(1), np.zeros((1, 0), np.int32)
    assert core.forward(np.array([2], np.int32), none, one).tolist() == [6.0]


# Objects whose __init__ has not run


@pytest.mark.parametrize("name", ["Matrix", "Tape", "Token", "Recorder", "NoGrad", "Program"])
def test_an_object_without_init_raises_type_error_from_every_member(name: str):
    cls = getattr(_scalar, name)
    base = cls.__mro__[1]
    for empty in (cls.__new__(cls), base.__new__(cls)):
        for member in (m for m in dir(cls) if m in vars(cls) and m != "__init__"):
            function = vars(cls)[member]
            if isinstance(function, staticmethod) or member in ("__module__", "__doc__"):
                continue
            if isinstance(function, property):
                with pytest.raises(TypeError):
                    getattr(empty, member)
            elif callable(function):
                with pytest.raises(TypeError):
                    function(empty, *[0] * 0)
    with pytest.raises(TypeError, match="__init__ has not run|incompatible|expected"):
        _scalar.grad_sum_of_squares(Matrix.__new__(Matrix))


def test_a_subclass_that_reads_before_super_init_raises_and_then_works():
    class Early(Matrix):
        def __init__(self) -> None:
            with pytest.raises(
                TypeError, match="Early is not initialized|Matrix is not initialized"
            ):
                _ = self.values
            super().__init__([[1.0, 2.0]])

    assert Early().values.tolist() == [[1.0, 2.0]]


def test_a_value_without_init_is_zero():
    assert Value.__new__(Value).data == 0.0
    with pytest.raises(TypeError):
        object.__new__(Value)


# Tokens that run Python code, and a second call of a program in use


def test_a_token_that_clears_its_document_is_refused(bigram: Bigram):
    document: list[Any] = []

    def clear() -> None:
        document.clear()
        _ = [bytearray(480) for _ in range(100)]

    document[:] = [Index(3, clear), *[1] * (LONGEST - 1)]
    with pytest.raises(ValueError, match="must not change while it is read") as caught:
        bigram.program.loss(document)
    one_line(caught, "6 and 0")
    assert bigram.program.loss([1, 2, 3]) == pytest.approx(bigram.expected([1, 2, 3]), rel=1e-12)


@pytest.mark.parametrize("change", ["clear", "append"])
def test_a_token_that_changes_the_list_of_documents_is_refused(bigram: Bigram, change: str):
    documents: list[Any] = []

    def run() -> None:
        if change == "clear":
            documents.clear()
        elif len(documents) < 50:
            documents.append([1, 2])

    documents[:] = [[1, 2], [Index(3, run), 2], [3, 4], [5, 6]]
    with pytest.raises(ValueError, match="documents") as caught:
        bigram.program.loss(documents)
    one_line(caught)


def test_documents_that_disagree_with_their_length_are_refused(bigram: Bigram):
    for yielded, length, found in ((4, 2, "more"), (2, 4, "2")):
        with pytest.raises(ValueError, match=f"got {found} instead of {length}"):
            bigram.program.loss(OnAccess(lambda i: [i, 2], yielded, length))
    assert bigram.program.loss(OnAccess(lambda i: [i, 2], 2)) == pytest.approx(
        (bigram.expected([0, 2]) + bigram.expected([1, 2])) / 2
    )


CALLS: dict[str, Callable[[Program], object]] = {
    "loss": lambda p: p.loss([1, 2]),
    "grad": lambda p: p.grad([1, 2]),
    "step": lambda p: p.step([1, 2], lr=0.1),
    "to_c": lambda p: p.to_c(),
    "load": lambda p: p.core.load(),
    "store": lambda p: p.core.store(),
    "backward": lambda p: p.core.backward(),
    "adamw": lambda p: p.core.adamw(0, 1, 0.1, 0.9, 0.99, 1e-8, 0.0, 1),
    "sgd": lambda p: p.core.sgd(0, 1, 0.1, 0.9, 0.0, True),
    "outputs": lambda p: p.core.outputs(),
    "watched": lambda p: p.core.watched(0, 0),
    "values": lambda p: p.core.values,
    "bytes": lambda p: p.core.bytes,
    "shards": lambda p: p.core.shards,
    "grad_sum_of_squares": lambda p: p.core.grad_sum_of_squares(),
    "forward": lambda p: p.core.forward(
        np.array([1], np.int32), np.zeros((1, LONGEST), np.int32), np.ones(1)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_token_that_calls_its_program_again_is_refused(bigram: Bigram, name: str):
    documents: list[Any] = [[1, 2, 3, 4, 5, 6]] * 200
    before = bigram.embedding.values.copy()
    again = Index(3, lambda: CALLS[name](bigram.program))
    with pytest.raises(ProgramError, match="one call at a time") as caught:
        bigram.program.step([*documents, [again, 2]], lr=0.01)
    one_line(caught, "in use")
    assert np.array_equal(bigram.embedding.values, before)
    assert bigram.program.loss([1, 2]) == pytest.approx(bigram.expected([1, 2]), rel=1e-12)


def test_inputs_that_call_the_program_again_are_refused():
    x = Value(2.0)
    program = nanochat.compile(lambda inputs: x * inputs[0], x, inputs=1)

    class Again:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            program.loss(None, [1.0])
            return np.ones(1)

    with pytest.raises((ProgramError, TypeError)) as caught:
        program.loss(None, Again())
    one_line(caught)
    assert program.loss(None, [3.0]) == 6.0


def test_a_program_in_use_refuses_another_thread_and_both_stay_right(bigram: Bigram):
    reading, refused = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def second() -> None:
        reading.wait(60)
        try:
            bigram.program.loss([1, 2])
        except ProgramError as error:
            errors.append(error)
        refused.set()

    def hold() -> None:
        reading.set()
        assert refused.wait(60)

    thread = threading.Thread(target=second)
    thread.start()
    loss = bigram.program.loss([Index(3, hold), 2])
    thread.join()
    assert len(errors) == 1 and "one call at a time" in str(errors[0])
    assert loss == pytest.approx(bigram.expected([3, 2]), rel=1e-12)


# Bounds of the compiled program


def forward(program: Program, tokens: list[int], **options: Any) -> Any:
    row = np.zeros((1, LONGEST), np.int32)
    row[0, : len(tokens)] = tokens
    program.core.load()
    return program.core.forward(
        np.array([len(tokens) - 1], np.int32), row, np.ones(1), None, **options
    )


@pytest.mark.parametrize("token", [VOCAB, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_token_ids_out_of_range_are_named(bigram: Bigram, token: int, position: int):
    tokens = [1, 2, 3]
    tokens[position] = token
    with pytest.raises(ValueError, match=f"token {position} must be 0 … 7, got {token}"):
        forward(bigram.program, tokens)
    assert forward(bigram.program, [1, 2, 3])[0] / 2 == pytest.approx(bigram.expected([1, 2, 3]))


def test_a_target_of_minus_one_is_accepted_where_it_does_not_count(bigram: Bigram):
    counted = np.array([[1, 0, 0, 0, 0]], np.uint8)
    total = forward(bigram.program, [1, 2, -1], counted=counted)[0]
    assert total == pytest.approx(bigram.expected([1, 2]), rel=1e-12)
    with pytest.raises(ValueError, match="token 2 must be 0 … 7, got -2"):
        forward(bigram.program, [1, 2, -2], counted=counted)


def test_tokens_beyond_the_length_of_a_document_are_not_read(bigram: Bigram):
    row = np.array([[1, 2, 10**6, -5, 0, 0]], np.int32)
    bigram.program.core.load()
    total = bigram.program.core.forward(np.array([1], np.int32), row, np.ones(1))
    assert total[0] == pytest.approx(bigram.expected([1, 2]), rel=1e-12)


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 10**7), (VOCAB * WIDTH + 1, VOCAB * WIDTH + 1), (3, 2), (0, 2**63)]
)
def test_optimizer_ranges_outside_the_parameters_are_refused(bigram: Bigram, begin: int, end: int):
    core = bigram.program.core
    bigram.program.grad([1, 2])
    before = core.values.copy()
    for call in (
        lambda: core.adamw(begin, end, 0.1, 0.9, 0.99, 1e-8, 0.0, 1),
        lambda: core.sgd(begin, end, 0.1, 0.9, 0.0, True),
    ):
        with pytest.raises(ValueError, match="parameters must be a range within 0 … 32") as caught:
            call()
        one_line(caught)
    with pytest.raises(ValueError, match="t counts steps from 1, got 0"):
        core.adamw(0, 1, 0.1, 0.9, 0.99, 1e-8, 0.0, 0)
    assert np.array_equal(core.values, before)


def test_calls_that_need_a_forward_say_so(bigram: Bigram):
    core = Bigram().program.core
    fresh = nanochat.compile(
        lambda t: bigram.losses(t)[0], bigram.embedding, tokens=2, tape=bigram.tape
    ).core
    for program in (core, fresh):
        if program is core:
            program.forward(
                np.array([1], np.int32), np.ones((1, LONGEST), np.int32), np.ones(1),
                accumulate=False,
            )  # fmt: skip
        for call in (program.backward, program.outputs, lambda p=program: p.watched(0, 0)):
            with pytest.raises(ProgramError, match=r"needs a forward\(\) without gradients"):
                call()
    forward(bigram.program, [1, 2, 3])
    with pytest.raises(ValueError, match="watched values must be a range within 0 … 0"):
        bigram.program.core.watched(0, 1)


def test_backward_has_the_gradients_of_the_last_forward(bigram: Bigram):
    forward(bigram.program, [1, 2, 3])
    bigram.program.core.backward()
    by_program = bigram.program.core.gradients.copy()
    sum(bigram.losses([1, 2, 3])).backward()
    assert by_program == pytest.approx(bigram.embedding.grads.ravel(), rel=1e-12)


def test_a_program_of_forward_alone_refuses_documents(bigram: Bigram):
    recorder = _scalar.Recorder(bigram.tape, [bigram.embedding])
    with recorder:
        x = recorder.input(0)
        losses = [loss * x for loss in bigram.losses([Token(i, 0) for i in range(3)])]
        core = _scalar.Program.compile(recorder, losses, [], "fast", "float64")
    for call in (core.loss, core.grad, core.step):
        with pytest.raises(ValueError, match=r"run it by forward\(\)"):
            call()
    for options in ({"given_tokens": 2}, {"given_tokens": 3}, {"given_inputs": 1}):
        with recorder:
            partial = _scalar.Program.compile(recorder, losses, [], "fast", "float64", **options)
        with pytest.raises(ValueError, match=r"run it by forward\(\)"):
            partial.loss([0, 0, 0], [1.0])


@pytest.mark.parametrize(
    ("slot", "value", "words"),
    [
        (-1, 0, ["slot must be 0 …", "-1"]),
        (2**31 - 1, 0, ["slot must be 0 …"]),
        (0, -1, ["value of a Token", "-1"]),
    ],
)
def test_tokens_and_inputs_out_of_range_are_named(slot: int, value: int, words: list[str]):
    with pytest.raises(ValueError, match="must be") as caught:
        Token(slot, value)
    one_line(caught, *words)
    if value == 0:
        with pytest.raises(ValueError, match="slot must be"):
            _scalar.Recorder(Tape(), []).input(slot)


def test_a_token_beyond_the_matrix_or_the_values_is_named(bigram: Bigram):
    with _scalar.Recorder(bigram.tape, [bigram.embedding]):
        with pytest.raises(IndexError, match=r"Token\(slot=0\) has the value 8, .* 8 rows"):
            bigram.embedding.row(Token(0, VOCAB))
        with pytest.raises(IndexError, match="has the value 10000000, .* 4 values"):
            select(bigram.embedding.row(0), Token(0, 10**7))


def test_a_recorded_selection_of_two_tapes_is_refused(bigram: Bigram):
    p, other = bigram.embedding.row(0)[0], Value(1.0)
    with _scalar.Recorder(bigram.tape, [bigram.embedding]):
        for call in (lambda: select([p, other], Token(0, 0)), lambda: detached_max([p, other])):
            with pytest.raises(ValueError, match="on the tape that is recorded"):
                call()


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_selections_of_selections_have_no_limit_of_depth(depth: int):
    w = Matrix([[0.25, 0.5]])

    def nested(tokens: list[Any]) -> Value:
        a, b = w.row(0)
        for _ in range(depth):
            a = select([a, b], tokens[0])
        return a * 2.0

    program = nanochat.compile(nested, w, tokens=1)
    assert [program.grad([t]) for t in (0, 1)] == [0.5, 1.0]
    assert w.grads.tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("name", ["tokens", "inputs", "dump_nodes", "threads"])
def test_counts_that_would_fill_memory_are_refused(name: str):
    for count in (10**30, 10**5000):
        with pytest.raises(ProgramError, match=f"{name} must be at most") as caught:
            nanochat.compile(lambda *_: Value(1.0), Value(1.0), **{name: count})
        one_line(caught, "bits")


def test_parameters_in_a_cycle_are_refused():
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ProgramError, match="cycle"):
        nanochat.compile(lambda: Value(1.0), cycle)


def test_an_int_beyond_a_float_is_no_learning_rate():
    program = nanochat.compile(lambda: Value(1.0) * p, p := Value(2.0))
    with pytest.raises(ProgramError, match="lr must be a number") as caught:
        program.step(lr=10**400)
    one_line(caught)
    assert p.data == 2.0
