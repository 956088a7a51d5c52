"""nck_mixed_cross_entropy against the formula in float64, within the bounds of its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, TARGET, UNWRITTEN, last_error, pointer
from native.problems import ROWS, VOCABS
from native.storage import DTYPES, Matrix, Placement, accumulation_dtype
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray

from nanochat import native

NONE, SUM = native.REDUCTIONS["none"], native.REDUCTIONS["sum"]
WEIGHT = 0.3
BOUND = {"float32": 3e-6, "float64": 1e-13, "bfloat16": 1e-2, "float16": 2e-3}
Numbers = NDArray[np.float64]


def by_formula(
    logits: Numbers,
    targets: NDArray[np.int64],
    by_counts: NDArray[np.float32],
    softcap: float,
    share_offset: float = 0.0,
) -> tuple[Numbers, Numbers, Numbers]:
    """Return both losses, (rows,), and the gradient of mixed + WEIGHT · network."""
    slope = np.ones_like(logits)
    if softcap:
        slope = 1 - np.tanh(logits / softcap) ** 2
        logits = softcap * np.tanh(logits / softcap)
    logits = logits + np.append(np.zeros(logits.shape[1] - 1), share_offset)
    rows = np.arange(len(logits))
    chosen = np.maximum(targets, 0)
    log_shares = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    log_tokens = logits[:, :-1] - np.logaddexp.reduce(logits[:, :-1], axis=1, keepdims=True)
    own, counted = log_shares[rows, chosen], log_shares[:, -1] + np.log(by_counts.astype(float))
    total = np.logaddexp(own, counted)
    gradient = np.exp(log_shares)
    gradient[rows, chosen] -= np.exp(own - total)
    gradient[:, -1] -= np.exp(counted - total)
    gradient[:, :-1] += WEIGHT * np.exp(log_tokens)
    gradient[rows, chosen] -= WEIGHT
    ignored = targets < 0
    gradient[ignored] = 0
    return (
        np.where(ignored, 0, -total), np.where(ignored, 0, -log_tokens[rows, chosen]),
        gradient * slope,
    )  # fmt: skip


def call(
    logits: Matrix, targets: NDArray[np.int64], by_counts: NDArray[np.float32], *,
    gradient: Matrix | None = None, softcap: float = 0.0, reduction: int = SUM, threads: int = 1,
    place: Placement = lambda array: array, weight: float = WEIGHT, share_offset: float = 0.0,
) -> tuple[int, NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Return the status and both losses."""
    number = accumulation_dtype(logits.dtype)
    count = 1 if reduction == SUM else logits.rows
    mixed, network = (place(np.full(count, UNWRITTEN, number)) for _ in range(2))
    status = native.cpu().nck_mixed_cross_entropy(
        pointer(logits.flat), logits.rows, logits.vocab, logits.stride,
        native.DTYPES[logits.dtype], native.ffi.cast("int64_t *", targets.ctypes.data),
        native.ffi.cast("float *", by_counts.ctypes.data), -1, weight, softcap,
        share_offset, reduction,
        pointer(gradient.flat if gradient else None), gradient.stride if gradient else 0,
        pointer(mixed), pointer(network), threads,
    )  # fmt: skip
    return int(status), mixed, network


def question(
    rows: int, outputs: int, seed: int = 0, scale: float = 1.0
) -> tuple[Numbers, NDArray[np.int64], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, outputs)) * scale
    targets = random.integers(-1, outputs - 1, rows)
    return logits, targets, np.exp(-9 * random.random(rows)).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from(ROWS), vocab=st.sampled_from(VOCABS), dtype=st.sampled_from(DTYPES),
    extra=st.integers(0, 3), scale=st.sampled_from([0.01, 1.0, 20.0]),
    softcap=st.sampled_from([0.0, 15.0]), in_place=st.booleans(), seed=st.integers(0, 999),
    reduction=st.sampled_from([NONE, SUM]), threads=st.sampled_from([1, 3]),
    share_offset=st.sampled_from([0.0, -1.5, 6.0]),
)  # fmt: skip
def test_losses_and_gradients_are_those_of_the_formula(
    rows: int, vocab: int, dtype: str, extra: int, scale: float, softcap: float, in_place: bool,
    seed: int, reduction: int, threads: int, share_offset: float,
) -> None:  # fmt: skip
    rows, outputs = min(rows, 40_000 // vocab), vocab + 1
    values, targets, by_counts = question(rows, outputs, seed, scale)
    logits = Matrix.of(values, dtype, stride=outputs + extra)
    mixed, network, slopes = by_formula(logits.values(), targets, by_counts, softcap, share_offset)
    gradient = logits if in_place else Matrix(rows, outputs, outputs + 3 - extra, dtype)
    status, *losses = call(
        logits, targets, by_counts, gradient=gradient, softcap=softcap, reduction=reduction,
        threads=threads, share_offset=share_offset,
    )  # fmt: skip
    assert status == OK
    bound = BOUND[dtype]
    exact = BOUND["float64" if dtype == "float64" else "float32"] * 10
    for found, wanted in zip(losses, (mixed, network), strict=True):
        wanted = wanted if reduction == NONE else np.array([wanted.sum()])
        np.testing.assert_allclose(found, wanted, rtol=exact, atol=exact * max(1.0, scale))
    np.testing.assert_allclose(gradient.values(), slopes, rtol=bound, atol=bound * max(1.0, scale))
    assert gradient.guards_are_unchanged()


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 4.0])
def test_it_stays_within_its_arrays(side: Side, dtype: str, softcap: float) -> None:
    place = next_to_guard_page(side)
    for outputs in (*range(2, 36), 64, 65, 66, 130, 257):
        rows = 1 + outputs % 3
        values, targets, by_counts = question(rows, outputs)
        logits = Matrix.of(values, dtype, place=place)
        gradient = Matrix(rows, outputs, outputs, dtype, place)
        for reduction in (NONE, SUM):
            status, *_ = call(
                logits, place(targets), place(by_counts), gradient=gradient, softcap=softcap,
                reduction=reduction, place=place,
            )  # fmt: skip
            assert status == OK


def test_results_are_bit_identical_for_any_number_of_threads() -> None:
    values, targets, by_counts = question(600, 65)
    results = []
    for threads in (1, 2, 5):
        logits = Matrix.of(values, "float32")
        _, mixed, network = call(logits, targets, by_counts, gradient=logits, threads=threads)
        results.append((mixed.tobytes(), network.tobytes(), logits.bits()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": float("nan")}, "network_weight must be finite, got nan"),
        ({"softcap": -1.0}, "softcap must be 0 or in [1e-30, 1e30], got -1"),
        ({"reduction": 1}, "reduction must be NCK_NONE or NCK_SUM, got 1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    values, targets, by_counts = question(3, 5)
    status, mixed, _ = call(Matrix.of(values, "float32"), targets, by_counts, **change)
    assert (status, last_error()) == (ARGUMENT, message)
    assert (mixed == UNWRITTEN).all()


def test_a_single_output_and_the_share_of_the_counts_as_a_target_are_refused() -> None:
    values, targets, by_counts = question(2, 5)
    assert call(Matrix.of(values[:, :1], "float32"), targets, by_counts)[0] == ARGUMENT
    assert last_error() == "outputs must be in [2, 1073741824], got 1"
    targets[1] = 4
    assert call(Matrix.of(values, "float32"), targets, by_counts)[0] == TARGET
    assert last_error() == "target of row 1 must be in [0, 4) or ignore_index -1, got 4"
