"""nck_embed and its derivative compared with sums in NumPy, row by row, through the C ABI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, UNWRITTEN, last_error, pointer
from native.storage import UNIT, Placement, accumulation_dtype
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray
from oracles.numpy_gpt import ngram_row

from nanochat import native

Sizes = dict[str, int]


@dataclass
class Lookup:
    """Random rows of tokens, each of one or two segments, and a table for them."""

    rows: int
    columns: int
    hidden_size: int
    vocab: int = 5
    past: int = 0
    hash_embed_rows: int = 0
    longest: int = 2
    dtype: str = "float32"
    seed: int = 0
    segments: bool = True
    place: Placement = lambda array: array
    threads: int = 1

    def __post_init__(self) -> None:
        random, shape = np.random.default_rng(self.seed), (self.rows, self.columns)
        self.tokens = random.integers(0, self.vocab, shape)
        cuts = random.integers(0, self.columns + 1, (self.rows, 1))
        columns = np.arange(self.columns)
        self.starts = np.where(columns >= cuts, cuts, 0) if self.segments else np.zeros_like(cuts)
        self.starts = np.broadcast_to(self.starts, shape)
        size = (self.past + 1) * self.vocab + self.hash_embed_rows
        number = accumulation_dtype(self.dtype)
        self.table = random.normal(size=(size, self.hidden_size)).astype(number)
        self.gradient = random.normal(size=(self.rows * self.columns, self.hidden_size)).astype(
            number
        )
        self.onto = random.normal(size=self.table.shape).astype(number)

    def members(self) -> list[list[int]]:
        """Return the table's rows of each token, as defined in abi.h."""
        found = []
        for row, starts in zip(self.tokens.tolist(), self.starts.tolist(), strict=True):
            for column, start in enumerate(starts):
                text = row[start : column + 1]
                rows = [text[-1]]
                rows += [
                    k * self.vocab + t for k, t in enumerate(text[-2::-1], 1) if k <= self.past
                ]
                for n in range(2, self.longest + 1 if self.hash_embed_rows else 0):
                    if n <= len(text):
                        first = (self.past + 1) * self.vocab
                        rows.append(first + ngram_row(text[-n:], self.hash_embed_rows))
                found.append(rows)
        return found

    def call(self, name: str, *arrays: NDArray[Any] | None, **changes: Any) -> int:
        sizes = {
            "vocab": self.vocab, "hidden_size": self.hidden_size, "prev_token_tables": self.past,
            "hash_embed_rows": self.hash_embed_rows, "hash_embed_longest": self.longest,
            "dtype": native.DTYPES[self.dtype],
        }  # fmt: skip
        numbers = {"rows": self.rows, "columns": self.columns, "threads": self.threads}
        numbers |= {key: changes.pop(key) for key in numbers if key in changes}
        tokens = self.place(changes.pop("tokens", self.tokens).astype(np.int64).flatten())
        starts = self.place(changes.pop("starts", self.starts).astype(np.int64).flatten())
        size = native.ffi.new("nck_embeddings *", {**sizes, **changes})
        text = [native.ffi.cast("int64_t *", pointer(array)) for array in (tokens, starts)]
        if not self.segments:
            text[1] = native.ffi.NULL
        call = getattr(native.cpu(), name)
        shape = numbers["rows"], numbers["columns"]
        first, second = (pointer(array) for array in arrays)
        if name == "nck_embed":
            return int(call(size, first, text[0], *shape, text[1], second, numbers["threads"]))
        return int(call(size, text[0], *shape, text[1], first, second, numbers["threads"]))

    def sums(self, **changes: Any) -> NDArray[Any]:
        table = self.place(self.table.flatten())
        found = self.place(np.full(self.gradient.size, UNWRITTEN, self.table.dtype))
        assert self.call("nck_embed", table, found, **changes) == OK, last_error()
        return found.reshape(self.gradient.shape)

    def table_gradient(self, **changes: Any) -> NDArray[Any]:
        gradient, found = self.place(self.gradient.flatten()), self.place(self.onto.flatten())
        assert self.call("nck_embed_backward", gradient, found, **changes) == OK, last_error()
        return found.reshape(self.table.shape)


def check(lookup: Lookup) -> None:
    members, unit = lookup.members(), UNIT[lookup.dtype]
    table = lookup.table.astype(np.float64)
    expected = np.array([table[rows].sum(axis=0) for rows in members])
    sizes = np.array([np.abs(table[rows]).sum(axis=0) for rows in members])
    most = max(map(len, members))
    assert (np.abs(lookup.sums() - expected) <= most * unit * sizes).all()
    gradient, onto = lookup.onto.astype(np.float64), np.abs(lookup.onto.astype(np.float64))
    counts = np.ones(len(table))
    for rows, upstream in zip(members, lookup.gradient.astype(np.float64), strict=True):
        for row in rows:
            gradient[row] += upstream
            onto[row] += np.abs(upstream)
            counts[row] += 1
    bound = counts[:, None] * unit * onto
    assert (np.abs(lookup.table_gradient() - gradient) <= bound).all()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 12),
    hidden_size=st.sampled_from([1, 3, 16, 17, 40]),
    past=st.integers(0, 4),
    hash_embed_rows=st.sampled_from([0, 1, 7, 100]),
    longest=st.integers(2, 6),
    dtype=st.sampled_from(["float32", "float64"]),
    segments=st.booleans(),
    side=st.sampled_from(["begin", "end"]),
    seed=st.integers(0, 1000),
)
def test_sums_and_their_derivative_are_those_of_the_named_rows(side: Side, **given: Any) -> None:
    check(Lookup(**given, place=next_to_guard_page(side)))


@pytest.mark.parametrize("hidden_size", [5, 96, 130])
def test_any_number_of_threads_gives_the_same_bits(hidden_size: int) -> None:
    lookup = Lookup(40, 64, hidden_size, vocab=60, past=2, hash_embed_rows=500, longest=4)
    check(lookup)
    for threads in (2, 3, 7):
        assert lookup.sums(threads=threads).tobytes() == lookup.sums().tobytes()
        found = lookup.table_gradient(threads=threads)
        assert found.tobytes() == lookup.table_gradient().tobytes()


def test_no_token_is_no_work() -> None:
    lookup = Lookup(2, 3, 4)
    assert lookup.call("nck_embed", None, None, rows=0) == OK
    assert lookup.call("nck_embed_backward", None, None, columns=0) == OK


@pytest.mark.parametrize("name", ["nck_embed", "nck_embed_backward"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be in [1, 65536], got 0"),
        ({"vocab": 0}, "vocab must be in [1, 1073741824], got 0"),
        ({"prev_token_tables": -1}, "prev_token_tables must be in [0, 1024], got -1"),
        ({"hash_embed_rows": -1}, "hash_embed_rows must be in [0, 2147483648], got -1"),
        (
            {"hash_embed_rows": 9, "hash_embed_longest": 1},
            "hash_embed_longest must be in [2, 1024], got 1",
        ),
        ({"dtype": 2}, "dtype must be NCK_FLOAT32 or NCK_FLOAT64, got 2"),
        ({"rows": -1}, "rows must be in [0, 1073741824], got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"tokens": np.array([[0, 1], [5, 0]])}, "token 0 of row 1 must be in [0, 5), got 5"),
        ({"tokens": np.array([[0, -1], [5, 0]])}, "token 1 of row 0 must be in [0, 5), got -1"),
        (
            {"starts": np.array([[1, 0], [0, 0]])},
            "start of token 0 of row 0 must be in [0, 0], got 1",
        ),
    ],
)
def test_invalid_arguments_are_refused_and_nothing_is_written(
    name: str, changes: dict[str, Any], message: str
) -> None:
    lookup = Lookup(2, 2, 3)
    one, other = lookup.table.flatten(), lookup.onto.flatten()
    before = one.tobytes(), other.tobytes()
    assert lookup.call(name, one, other, **changes) == ARGUMENT
    assert last_error() == message
    assert (one.tobytes(), other.tobytes()) == before
