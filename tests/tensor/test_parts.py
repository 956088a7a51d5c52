"""Microbatches that do not fit in memory are split, and the step stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat import TrainConfig
from nanochat.data.batches import Batch
from nanochat.errors import OutOfMemory
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.parts import in_parts, is_out_of_memory
from nanochat.training.loop import step_settings

VOCAB, WIDTH = 11, 8
CONFIG = TrainConfig(
    mode="tensor", device="cpu", dtype="float64", n_layer=1, n_embd=16, block_size=WIDTH,
    batch_size=6, auto_batch=True, threads=1, ngram_order=0,
)  # fmt: skip


def batch_of(rows: int) -> Batch:
    tokens = np.random.default_rng(rows).integers(0, VOCAB, (rows, WIDTH + 1))
    return Batch(
        inputs=tokens[:, :-1], targets=tokens[:, 1:], positions=np.tile(np.arange(WIDTH), (rows, 1)),
        segments=np.zeros((rows, WIDTH), np.int64), lengths=np.full(rows, WIDTH),
        global_targets=rows * WIDTH,
    )  # fmt: skip


def engine_of(config: TrainConfig) -> TensorEngine:
    return TensorEngine(config, VOCAB, device="cpu", dtype="float64")


def fail_above(engine: TensorEngine, most: int, error: Callable[[], BaseException]) -> None:
    """Raise after backward, so a failed try has already added gradients."""
    accumulate = engine._accumulate

    def limited(batch: Batch, microbatch: int) -> None:
        accumulate(batch, microbatch)
        if len(batch.inputs) > most:
            raise error()

    engine._accumulate = limited  # type: ignore[method-assign]  # simulates less memory


ERRORS = [
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    MemoryError,
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_split_batch_gives_the_step_of_the_whole_batch(
    error: Callable[[], BaseException],
) -> None:
    plain, tight = engine_of(CONFIG), engine_of(CONFIG)
    fail_above(tight, 2, error)
    for step in range(3):
        settings = step_settings(CONFIG, step)
        expected, got = (engine.step([batch_of(6)], settings).read() for engine in (plain, tight))
        assert got.loss == pytest.approx(expected.loss, rel=1e-14)
        assert got.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
    assert plain.notes() == ()
    assert tight.notes() == (
        f"batch_size {CONFIG.batch_size} did not fit in memory: trained as 4 parts, --batch-size"
        f" {-(-CONFIG.batch_size // 4)} --grad-accum {4 * CONFIG.grad_accum}",
    )
    torch.testing.assert_close(tight.weights.values, plain.weights.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("auto_batch", "most", "words"),
    [
        (False, 5, "got 6 rows of 8 tokens; lower it or use --auto-batch"),
        (True, 0, "got 1 row of 8 tokens; lower block_size or n_embd"),
    ],
)
def test_a_batch_that_cannot_fit_is_refused_in_one_line(
    auto_batch: bool, most: int, words: str
) -> None:
    config = dataclasses.replace(CONFIG, auto_batch=auto_batch)
    engine = engine_of(config)
    fail_above(engine, most, MemoryError)
    with pytest.raises(OutOfMemory, match=f"batch_size must fit in memory, {words}"):
        engine.step([batch_of(6)], step_settings(config, 0))


def test_other_errors_are_not_taken_for_missing_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    engine = engine_of(CONFIG)
    fail_above(engine, 0, lambda: RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.step([batch_of(6)], step_settings(CONFIG, 0))


def test_the_cpu_allocator_error_of_torch_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@given(st.integers(1, 40), st.integers(1, 64))
def test_parts_keep_all_rows_in_order(rows: int, parts: int) -> None:
    batch = batch_of(rows)
    pieces = list(in_parts(batch, parts))
    assert len(pieces) == min(rows, parts)
    assert {len(piece.inputs) for piece in pieces} <= {rows // len(pieces), -(-rows // len(pieces))}
    for name in ("inputs", "targets", "positions", "segments", "lengths"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(batch, name))
    assert {piece.global_targets for piece in pieces} == {batch.global_targets}
