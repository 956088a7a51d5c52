"""The n-gram kernels compared with dictionaries, number by number, through the C ABI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, last_error
from native.test_guard_pages import Side, next_to_guard_page
from nonempty import nonempty
from numpy.typing import NDArray
from oracles.kneser_ney import KneserNeyOracle, targets
from oracles.texts import Texts, documents_of, texts

from nanochat import native
from nanochat.data.documents import Documents
from nanochat.ngram.kernels import SIGNATURES
from nanochat.ngram.kneser_ney import Cutoff, KneserNey


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, Texts, Texts]:
    """Return vocabulary, order, the documents to count, and others to score."""
    vocab, order = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    return vocab, order, draw(texts(vocab)), draw(texts(vocab))


@settings(deadline=None, max_examples=40)
@given(problems())
def test_losses_of_every_order_equal_the_formulas(problem: tuple[int, int, Texts, Texts]) -> None:
    vocab, order, counted, scored = problem
    model = KneserNey.count(documents_of(counted), order, vocab)
    by_order = model.token_losses_by_order(documents_of(scored))
    for lower in range(1, order + 1):
        expected = KneserNeyOracle(counted, lower, vocab).losses(scored)
        losses = model.token_losses(documents_of(scored), lower)
        np.testing.assert_allclose(np.exp(-losses), np.exp(-np.array(expected)), 0, 1e-12)
        assert losses.tobytes() == by_order[lower - 1].tobytes()


@settings(deadline=None, max_examples=40)
@given(problems())
def test_distributions_equal_the_formulas_and_sum_to_one(
    problem: tuple[int, int, Texts, Texts],
) -> None:
    vocab, order, counted, scored = problem
    model = KneserNey.count(documents_of(counted), order, vocab)
    contexts = [context for context, _ in targets(scored)][:20]
    # Without BOS the beginning is not known.
    contexts += [context[1:] for context in contexts]
    for lower in range(1, order + 1):
        oracle = KneserNeyOracle(counted, lower, vocab)
        expected = [[oracle.probability(c, t) for t in range(vocab)] for c in contexts]
        result = model.distributions([np.array(c, dtype=np.int64) for c in contexts], lower)
        np.testing.assert_allclose(result, np.reshape(expected, result.shape), 0, 1e-12)
        np.testing.assert_allclose(result.sum(axis=1), 1, 0, 1e-12)


def zipfian(count: int, vocab: int, seed: int = 0) -> NDArray[np.int64]:
    return np.minimum(np.random.default_rng(seed).zipf(1.4, count), vocab - 1)


@pytest.mark.parametrize("vocab", [3, 65, 300, 70_000])
def test_a_longer_text_equals_the_formulas_at_the_highest_order(vocab: int) -> None:
    """Buckets are sorted by radix, keys need several rounds, and lists are long."""
    text = [zipfian(1500, vocab).tolist(), zipfian(300, vocab, 1).tolist()]
    scored = [zipfian(60, vocab, 2).tolist(), text[0][:40]]
    order = 16
    model = KneserNey.count(documents_of(text), order, vocab)
    expected = KneserNeyOracle(text, order, vocab).losses(scored)
    np.testing.assert_allclose(model.token_losses(documents_of(scored)), expected, 1e-12)
    np.testing.assert_allclose(model.distribution(text[0][:9]).sum(), 1, 0, 1e-12)


def test_a_repeated_token_equals_the_formulas() -> None:
    text = [[1] * 700]
    model = KneserNey.count(documents_of(text), 16, 3)
    expected = KneserNeyOracle(text, 16, 3).losses([[1] * 30, [2, 1]])
    np.testing.assert_allclose(
        model.token_losses(documents_of([[1] * 30, [2, 1]])), expected, 1e-12
    )


@pytest.mark.parametrize("order", [1, 2, 7, 13])
def test_threads_change_no_bit(order: int) -> None:
    lengths = np.random.default_rng(3).integers(0, 90, 400)
    tokens = zipfian(int(lengths.sum()), 50)
    documents = Documents.of(tokens, np.cumsum([0, *lengths]))
    contexts = [tokens[i : i + 9] for i in range(0, 900, 3)]
    results = [
        (
            model.token_losses_by_order(documents, threads).tobytes(),
            model.distributions(contexts, threads=threads).tobytes(),
            model.bytes,
        )
        for threads in (1, 2, 3, 8)
        for model in [KneserNey.count(documents, order, 50, threads)]
    ]
    assert results == [results[0]] * 4


@st.composite
def cutoffs(draw: st.DrawFn) -> tuple[int, int]:
    """Return the length and the count of a cut-off."""
    return draw(st.integers(2, 9)), draw(st.integers(2, 4))


@settings(deadline=None, max_examples=60)
@given(problems(), cutoffs(), st.sampled_from([1, 2, 7, 1 << 20]))
def test_counts_with_a_cutoff_equal_the_formulas(
    problem: tuple[int, int, Texts, Texts], cutoff: tuple[int, int], chunk: int
) -> None:
    vocab, order, counted, scored = problem
    model = KneserNey.count(
        documents_of(counted), order, vocab, cutoff=Cutoff(*cutoff), chunk=chunk
    )
    by_order = model.token_losses_by_order(documents_of(scored))
    contexts = [context for context, _ in targets(scored)][:10]
    for lower in range(1, order + 1):
        oracle = KneserNeyOracle(counted, lower, vocab, cutoff=cutoff)
        expected = np.exp(-np.array(oracle.losses(scored)))
        np.testing.assert_allclose(np.exp(-by_order[lower - 1]), expected, 0, 1e-12)
        rows = [[oracle.probability(c, t) for t in range(vocab)] for c in contexts]
        result = model.distributions([np.array(c, dtype=np.int64) for c in contexts], lower)
        np.testing.assert_allclose(result, np.reshape(rows, result.shape), 0, 1e-12)
        np.testing.assert_allclose(result.sum(axis=1), 1, 0, 1e-12)


@settings(deadline=None, max_examples=30)
@given(problems(), st.sampled_from([1, 3, 1 << 20]))
def test_a_cutoff_that_drops_nothing_changes_no_bit(
    problem: tuple[int, int, Texts, Texts], chunk: int
) -> None:
    vocab, order, counted, scored = problem
    documents, others = documents_of(counted), documents_of(scored)
    exact = KneserNey.count(documents, order, vocab)
    cut = KneserNey.count(documents, order, vocab, cutoff=Cutoff(order + 1), chunk=chunk)
    losses = exact.token_losses_by_order(others)
    assert cut.token_losses_by_order(others).tobytes() == losses.tobytes()
    assert cut.arrays()["discounts"].tobytes() == exact.arrays()["discounts"].tobytes()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_chunks_threads_and_types_change_no_bit_of_counts_with_a_cutoff(kind: type) -> None:
    lengths = np.random.default_rng(3).integers(0, 400, 100)
    tokens = zipfian(int(lengths.sum()), 50)
    documents = Documents.of(tokens.astype(kind), np.cumsum([0, *lengths]))
    expected = KneserNey.count(
        Documents.of(tokens, np.cumsum([0, *lengths])), 6, 50, cutoff=Cutoff(3)
    ).arrays()
    for chunk, threads in ((1 << 20, 3), (5000, 2), (700, 1), (100, 4)):
        model = KneserNey.count(documents, 6, 50, threads, cutoff=Cutoff(3), chunk=chunk)
        for name, array in nonempty(model.arrays().items()):
            assert array.tobytes() == expected[name].tobytes()


def test_a_repeated_token_is_counted_without_sorting_it() -> None:
    """No chunk can hold its contexts, and no token tells them apart."""
    text = [[1] * 3000]
    model = KneserNey.count(documents_of(text), 5, 3, cutoff=Cutoff(3), chunk=50)
    expected = KneserNeyOracle(text, 5, 3, cutoff=(3, 2)).losses([[1] * 30, [2, 1]])
    np.testing.assert_allclose(
        model.token_losses(documents_of([[1] * 30, [2, 1]])), expected, 1e-12
    )


@pytest.mark.parametrize("side", ["begin", "end"])
def test_no_element_next_to_an_array_is_read_or_written(side: Side) -> None:
    place = next_to_guard_page(side)
    documents = documents_of([[1, 2, 3, 1, 2], [], [2], [1, 2, 3]])
    library, ffi = native.cpu(), native.ffi
    given = place(documents.tokens.astype(np.int64)), place(documents.offsets)
    tokens, offsets = (ffi.cast("int64_t *", array.ctypes.data) for array in given)
    losses, probabilities = place(np.zeros(4 * documents.pairs)), place(np.zeros(4 * 4))
    made = ffi.new("nck_ngrams **")
    assert library.nck_count_ngrams(tokens, offsets, 4, 4, 4, made, 1) == OK
    counts = ffi.gc(made[0], library.nck_free_ngrams)
    result = ffi.cast("double *", losses.ctypes.data)
    assert library.nck_ngram_losses(counts, tokens, offsets, 4, 1, 4, result, 1) == OK
    model = KneserNey.count(documents, 4, 4)
    assert losses.tobytes() == model.token_losses_by_order(documents).tobytes()
    result = ffi.cast("double *", probabilities.ctypes.data)
    assert library.nck_ngram_distributions(counts, tokens, offsets, 4, 4, result, 1) == OK
    np.testing.assert_allclose(probabilities.reshape(4, 4).sum(axis=1), 1, 0, 1e-12)


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_no_token_next_to_a_long_text_is_read(side: Side, kind: type) -> None:
    """Documents that begin alike have equal contexts that are shorter than the order."""
    stream = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0], dtype=kind)
    placed = next_to_guard_page(side)(stream)
    for chunk in (2, 100):
        counts = [
            KneserNey.count(Documents.of_stream(text), 16, 3, cutoff=Cutoff(5), chunk=chunk)
            for text in (stream, placed)
        ]
        first, second = (model.arrays() for model in counts)
        assert all(array.tobytes() == second[name].tobytes() for name, array in first.items())


def test_typed_functions_have_the_types_of_the_declarations() -> None:
    kinds = {"pointer": "c_void_p", "int64_t": "c_long", "int32_t": "c_int", "void": "NoneType"}
    kinds["double"] = "c_double"
    for name, (result, arguments) in SIGNATURES.items():
        declared = native.ffi.typeof(getattr(native.cpu(), name))
        assert [typed.__name__ for typed in arguments] == [
            kinds[each.cname if each.kind == "primitive" else each.kind] for each in declared.args
        ]
        if declared.result.kind != "pointer":
            assert (result.__name__ if result else "NoneType") == kinds[declared.result.cname]


# ---------------------------------------------------------------------------------- bad arguments

GOOD: dict[str, Any] = {
    "tokens": [1, 2, 1], "offsets": [0, 2, 3], "documents": 2, "vocab": 3, "order": 2,
    "ngrams": True, "threads": 1,
}  # fmt: skip


def array(values: list[int] | None) -> Any:
    return native.ffi.NULL if values is None else native.ffi.new("int64_t[]", values)


def count(**changed: Any) -> int:
    """Call nck_count_ngrams. A call that fails must leave the result untouched."""
    given_ = {**GOOD, **changed}
    ngrams = native.ffi.new("nck_ngrams **")
    tokens, offsets = array(given_["tokens"]), array(given_["offsets"])
    status = native.cpu().nck_count_ngrams(
        tokens, offsets, given_["documents"], given_["vocab"], given_["order"],
        ngrams if given_["ngrams"] else native.ffi.NULL, given_["threads"],
    )  # fmt: skip
    assert (ngrams[0] == native.ffi.NULL) == (status != OK)
    native.cpu().nck_free_ngrams(ngrams[0])
    return int(status)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"order": 0}, "order must be in [1, 16], got 0"),
        ({"order": 17}, "order must be in [1, 16], got 17"),
        ({"order": -1}, "order must be in [1, 16], got -1"),
        ({"vocab": 0}, "vocab must be in [1, 1048576], got 0"),
        ({"vocab": 1 << 62}, f"vocab must be in [1, 1048576], got {1 << 62}"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"documents": -1}, "documents must be in [0, 134217728], got -1"),
        ({"documents": 1 << 62}, f"documents must be in [0, 134217728], got {1 << 62}"),
        ({"tokens": None}, "tokens must not be NULL"),
        ({"offsets": None}, "offsets must not be NULL"),
        ({"ngrams": False}, "ngrams must not be NULL"),
        ({"tokens": [1, 3, 1]}, "token 1 must be in [1, 3), got 3"),
        ({"tokens": [1, 2, 0]}, "token 2 must be in [1, 3), got 0"),
        ({"tokens": [-5, 2, 1]}, "token 0 must be in [1, 3), got -5"),
        ({"offsets": [1, 2, 3]}, "offsets must begin with 0, got 1"),
        ({"offsets": [0, 3, 2]}, "offsets must not fall, got 2 after 3 at 2"),
        (
            {"offsets": [0, 2, 1 << 62]},
            "tokens and documents together must be at most 2^27, got 4611686018427387904 tokens in"
            " 2 documents",
        ),
    ],
)
def test_a_wrong_argument_of_counting_is_named(changed: dict[str, Any], message: str) -> None:
    assert count(**changed) == ARGUMENT
    assert last_error() == message


def test_good_arguments_are_counted() -> None:
    assert count() == OK
    assert count(tokens=None, offsets=[0], documents=0) == OK
    assert count(tokens=None, offsets=[0, 0, 0]) == OK


LONG: dict[str, Any] = {
    "stream": [0, 1, 2, 0, 1, 0], "token_bytes": 8, "targets": 5, "vocab": 3, "order": 2,
    "cut_length": 2, "cut_count": 2, "chunk": 4, "ngrams": True, "threads": 1,
}  # fmt: skip


def count_long(**changed: Any) -> int:
    """Call nck_count_long_text. A call that fails must leave the result untouched."""
    given_ = {**LONG, **changed}
    ngrams = native.ffi.new("nck_ngrams **")
    status = native.cpu().nck_count_long_text(
        array(given_["stream"]), given_["token_bytes"], given_["targets"], given_["vocab"],
        given_["order"], given_["cut_length"], given_["cut_count"], given_["chunk"],
        ngrams if given_["ngrams"] else native.ffi.NULL, given_["threads"],
    )  # fmt: skip
    assert (ngrams[0] == native.ffi.NULL) == (status != OK)
    native.cpu().nck_free_ngrams(ngrams[0])
    return int(status)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"order": 17}, "order must be in [1, 16], got 17"),
        ({"vocab": 0}, "vocab must be in [1, 1048576], got 0"),
        ({"targets": -1}, "targets must be in [0, 2147483648], got -1"),
        ({"targets": 1 << 32}, f"targets must be in [0, 2147483648], got {1 << 32}"),
        ({"cut_length": 1}, "cut_length must be in [2, 17], got 1"),
        ({"cut_count": 1}, "cut_count must be in [2, 2147483648], got 1"),
        ({"chunk": 0}, "chunk must be in [1, 2147483648], got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"stream": None}, "stream must not be NULL"),
        ({"ngrams": False}, "ngrams must not be NULL"),
        ({"token_bytes": 3}, "token_bytes must be 1, 2, 4 or 8, got 3"),
        ({"stream": [0, 1, 3, 0, 1, 0]}, "token 2 must be in [0, 3), got 3"),
        ({"stream": [1, 1, 2, 0, 1, 0]}, "the stream must begin and end with BOS"),
        ({"targets": 4}, "the stream must begin and end with BOS"),
    ],
)
def test_a_wrong_argument_of_counting_a_long_text_is_named(
    changed: dict[str, Any], message: str
) -> None:
    assert count_long(**changed) == ARGUMENT
    assert last_error() == message


def test_a_long_text_without_targets_is_counted() -> None:
    assert count_long() == OK
    assert count_long(stream=[0], targets=0) == OK


@pytest.mark.parametrize(
    ("least", "most", "tokens", "message"),
    [
        (0, 2, [1, 2, 1], "least_order must be in [1, 2], got 0"),
        (2, 1, [1, 2, 1], "least_order must be in [1, 1], got 2"),
        (1, 3, [1, 2, 1], "most_order must be in [1, 2], got 3"),
        (1, 2, [1, 3, 1], "token 1 must be in [1, 3), got 3"),
    ],
)
def test_a_wrong_argument_of_scoring_is_named(
    least: int, most: int, tokens: list[int], message: str
) -> None:
    model = KneserNey.count(documents_of([[1, 2], [1]]), 2, 3)
    losses = np.full(15, -7.0)
    status = native.cpu().nck_ngram_losses(
        native.ffi.cast("nck_ngrams *", model._counts), array(tokens), array([0, 2, 3]), 2, least,
        most, native.ffi.cast("double *", losses.ctypes.data), 1,
    )  # fmt: skip
    assert status == ARGUMENT
    assert last_error() == message
    assert (losses == -7).all()


@pytest.mark.parametrize(
    ("order", "tokens", "message"),
    [
        (0, [1], "order must be in [1, 2], got 0"),
        (3, [1], "order must be in [1, 2], got 3"),
        (2, [3], "token 0 must be in [0, 3), got 3"),
    ],
)
def test_a_wrong_argument_of_distributions_is_named(
    order: int, tokens: list[int], message: str
) -> None:
    model = KneserNey.count(documents_of([[1, 2], [1]]), 2, 3)
    result = np.full(3, -7.0)
    status = native.cpu().nck_ngram_distributions(
        native.ffi.cast("nck_ngrams *", model._counts), array(tokens), array([0, len(tokens)]), 1,
        order, native.ffi.cast("double *", result.ctypes.data), 1,
    )  # fmt: skip
    assert status == ARGUMENT
    assert last_error() == message
    assert (result == -7).all()


def test_null_counts_are_refused_and_freed_without_effect() -> None:
    null, library = native.ffi.NULL, native.cpu()
    assert library.nck_ngram_losses(null, null, array([0]), 0, 1, 1, null, 1) == ARGUMENT
    assert last_error() == "ngrams must not be NULL"
    assert library.nck_ngram_distributions(null, null, array([0]), 0, 1, null, 1) == ARGUMENT
    assert library.nck_ngram_bytes(null) == 0
    library.nck_free_ngrams(null)
