"""nck_mixed_logits and nck_sample_mixture against the formula and the reference draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, LOGITS, OK, UNWRITTEN, last_error
from native.storage import Matrix, Placement
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray
from oracles.texts import documents_of

from nanochat import native
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.sampling.draw import draw

Numbers = NDArray[np.float64]
OPTIONS = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 3, "top_p": 1.0},
    {"temperature": 1.4, "top_k": 0, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 5, "top_p": 0.5},
]


def model_of(vocab: int, order: int = 4, seed: int = 1) -> KneserNey:
    random = np.random.default_rng(seed)
    texts = [random.integers(1, max(vocab, 2), random.integers(0, 30)).tolist() for _ in range(9)]
    return KneserNey.count(documents_of(texts if vocab > 1 else [[]]), order, vocab)


def by_formula(
    model: KneserNey, contexts: Any, logits: Numbers, share_scale: float, share_offset: float
) -> Numbers:
    """Return log p of each token, (rows, vocab)."""
    z = logits.astype(np.float64)
    log_sum = np.logaddexp.reduce(z[:, :-1], axis=1, keepdims=True)
    network, gate = z[:, :-1] - log_sum, share_scale * (z[:, -1:] - log_sum) + share_offset
    counted = np.array([model.distribution(context) for context in contexts])
    result: Numbers = np.logaddexp(
        network - np.logaddexp(0, gate), np.log(counted) - np.logaddexp(0, -gate)
    )
    return result


class Question:
    """Contexts, logits, and the nck_mixture that names them."""

    def __init__(
        self, vocab: int, rows: int, length: int, dtype: str, *, seed: int = 0, scale: float = 1.0,
        extra: int = 0, offset: float = 2.0, share_scale: float = 1.0, place: Placement = lambda array: array,
    ) -> None:  # fmt: skip
        random = np.random.default_rng(seed)
        self.model, self.share = model_of(vocab, seed=seed), (share_scale, offset)
        self.contexts = random.integers(0, vocab, (rows, length))
        self.logits = Matrix.of(
            random.normal(size=(rows, vocab + 1)) * scale, dtype, stride=vocab + 1 + extra,
            place=place,
        )  # fmt: skip
        self.random = place(random.integers(0, 2**64, rows, dtype=np.uint64))
        stored = np.full((max(rows, 1), length + extra), -1, dtype=np.int64)
        stored[:rows, :length] = self.contexts
        self._stored = place(stored.reshape(-1)[: max((rows - 1) * (length + extra) + length, 0)])
        self.fields: dict[str, Any] = {
            "ngrams": native.ffi.cast("nck_ngrams *", self.model.address),
            "contexts": native.ffi.cast("int64_t *", self._stored.ctypes.data),
            "context_length": length, "context_stride": length + extra,
            "logits": native.ffi.cast("void *", self.logits.flat.ctypes.data),
            "rows": rows, "row_stride": self.logits.stride, "share_offset": offset,
            "share_scale": share_scale,
            "dtype": native.DTYPES[dtype],
        }  # fmt: skip

    def expected(self) -> Numbers:
        return by_formula(self.model, self.contexts, self.logits.values(), *self.share)

    def found(
        self, threads: int = 1, place: Placement = lambda array: array, **changed: Any
    ) -> tuple[int, Numbers]:
        rows, vocab = len(self.contexts), self.model.vocab_size
        result = place(np.full(rows * vocab, UNWRITTEN))
        mixture = native.ffi.new("nck_mixture *", {**self.fields, **changed})
        status = native.cpu().nck_mixed_logits(
            mixture, native.ffi.cast("double *", result.ctypes.data), threads
        )
        return int(status), result.reshape(rows, vocab)

    def drawn(
        self, chosen: list[int] | None = None, count: int | None = None, threads: int = 1,
        place: Placement = lambda array: array,
        temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, **changed: Any,
    ) -> tuple[int, NDArray[np.int64]]:  # fmt: skip
        count = len(self.contexts if chosen is None else chosen) if count is None else count
        rows = None if chosen is None else place(np.array(chosen, dtype=np.int64))
        tokens = place(np.full(max(count, 0), -7, dtype=np.int64))
        mixture = native.ffi.new("nck_mixture *", {**self.fields, **changed})
        ffi = native.ffi
        status = native.cpu().nck_sample_mixture(
            mixture, ffi.NULL if rows is None else ffi.cast("int64_t *", rows.ctypes.data), count,
            ffi.cast("uint64_t *", self.random.ctypes.data), temperature, top_k, top_p,
            ffi.cast("int64_t *", tokens.ctypes.data), threads,
        )  # fmt: skip
        return int(status), tokens


questions = st.builds(
    Question, st.sampled_from([1, 2, 3, 7, 8, 9, 17, 65, 130]), st.sampled_from([1, 2, 5, 67]),
    st.sampled_from([0, 1, 3, 6]), st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 30.0]), extra=st.integers(0, 3),
    offset=st.sampled_from([-30.0, 0.0, 4.0]), share_scale=st.sampled_from([1.0, 0.5, 0.0]),
)  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True)
@given(questions, st.sampled_from([1, 3]))
def test_log_probabilities_are_those_of_the_formula(question: Question, threads: int) -> None:
    status, found = question.found(threads)
    assert status == OK
    np.testing.assert_allclose(found, question.expected(), rtol=1e-13, atol=2e-13)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(questions, st.sampled_from(OPTIONS), st.sampled_from([1, 3]), st.booleans())
def test_tokens_are_those_of_the_reference_draw(
    question: Question, options: dict[str, Any], threads: int, some: bool
) -> None:
    rows = list(range(0, len(question.contexts), 2)) if some else None
    status, tokens = question.drawn(rows, threads=threads, **options)
    assert status == OK
    logits = question.found()[1][slice(None) if rows is None else rows]
    assert tokens.tolist() == draw(logits, question.random[: len(logits)], **options).tolist()


def test_results_are_bit_identical_for_any_number_of_threads() -> None:
    question = Question(65, 300, 6, "float32")
    results = [
        (question.found(threads)[1].tobytes(), question.drawn(threads=threads)[1].tobytes())
        for threads in (1, 2, 3, 8)
    ]
    assert results == [results[0]] * 4


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_stays_within_its_arrays(side: Side, dtype: str) -> None:
    place = next_to_guard_page(side)
    for vocab in (*range(1, 20), 63, 64, 65, 130):
        question = Question(vocab, 3, 2, dtype, place=place)
        status, found = question.found(place=place)
        assert status == OK
        np.testing.assert_allclose(found, question.expected(), rtol=1e-12, atol=1e-12)
        assert question.drawn(place=place)[0] == OK
        assert question.drawn([2, 0], place=place)[0] == OK


def test_a_row_with_nan_is_named() -> None:
    question = Question(5, 3, 2, "float64")
    question.logits.flat[question.logits.stride * 2 + 1] = np.nan
    assert question.drawn()[0] == LOGITS
    assert last_error() == "logits of row 2 hold nan"
    assert question.drawn([0, 1])[0] == OK


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ngrams": native.ffi.NULL}, "ngrams must not be NULL"),
        ({"logits": native.ffi.NULL}, "logits must not be NULL"),
        ({"contexts": native.ffi.NULL}, "contexts must not be NULL"),
        ({"rows": -1}, "rows must be at least 0, got -1"),
        ({"row_stride": 5}, "stride of logits must be at least vocab 6, got 5"),
        ({"context_length": -1}, "context_length must be in [0, 134217728], got -1"),
        ({"context_stride": 1}, "context_stride must be in [2, 2147483648], got 1"),
        ({"share_scale": np.inf}, "share_scale must be finite, got inf"),
        ({"share_offset": np.nan}, "share_offset must be finite, got nan"),
        ({"dtype": 2}, "dtype must be NCK_FLOAT32 or NCK_FLOAT64, got 2"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_named(changed: dict[str, Any], message: str) -> None:
    question = Question(5, 3, 2, "float32")
    status, result = question.found(**changed)
    assert (status, last_error()) == (ARGUMENT, message)
    assert (result == UNWRITTEN).all()
    status, tokens = question.drawn(**changed)
    assert (status, last_error()) == (ARGUMENT, message)
    assert (tokens == -7).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 4}, "count must be in [0, 3], got 4"),
        ({"count": -1}, "count must be in [0, 3], got -1"),
        ({"chosen": [0, 3]}, "row 1 of chosen must be in [0, 3), got 3"),
        ({"chosen": [-1]}, "row 0 of chosen must be in [0, 3), got -1"),
        ({"temperature": -1.0}, "temperature must be finite and >= 0, got -1"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0"),
    ],
)
def test_a_wrong_argument_of_the_draw_is_named(changed: dict[str, Any], message: str) -> None:
    status, tokens = Question(5, 3, 2, "float32").drawn(**changed)
    assert (status, last_error()) == (ARGUMENT, message)
    assert (tokens == -7).all()


def test_a_token_outside_the_vocabulary_is_named() -> None:
    question = Question(5, 3, 2, "float32")
    question._stored[3] = 5
    assert question.found()[0] == ARGUMENT
    assert last_error() == "token 1 must be in [0, 5), got 5"


def test_texts_without_a_context_need_no_array_of_contexts() -> None:
    question = Question(5, 3, 0, "float64")
    status, found = question.found(contexts=native.ffi.NULL, context_stride=9)
    assert status == OK
    np.testing.assert_allclose(found, question.expected(), rtol=1e-12, atol=1e-12)
    assert question.drawn(contexts=native.ffi.NULL)[0] == OK


def test_no_rows_are_no_work() -> None:
    question = Question(5, 0, 2, "float32")
    assert question.found()[0] == OK
    assert question.drawn()[0] == OK
