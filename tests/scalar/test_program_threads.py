"""Threads share a batch: bit-identical to one thread, and equal to backward() on Values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.functions import cross_entropy, linear
from nanochat.scalar.program import Program
from nanochat.scalar.value import Tape, Value
from nanochat.system.threads import thread_count

VOCAB, WIDTH, LONGEST = 48, 48, 8
SIZES = (64, 1, 2, 40, 129, 64, 17)


class Tagger:
    """A layer of tanh between two matrices: 48 · 48 · 2 products per position."""

    def __init__(self, **options: Any) -> None:
        self.tape = Tape()
        generator = np.random.default_rng(3)
        self.matrices = [self.tape.matrix(rows, WIDTH) for rows in (VOCAB, WIDTH, VOCAB)]
        for matrix in self.matrices:
            matrix.values[:] = generator.normal(size=matrix.shape) * 0.3
        self.program: Program = nanochat.compile(
            self.losses, self.matrices, tokens=LONGEST + 1, tape=self.tape, **options
        )

    def losses(self, tokens: list[Any]) -> list[Value]:
        embedding, weight, head = self.matrices
        found = []
        for token, target in pairwise(tokens):
            hidden = [x.tanh() for x in linear(embedding.row(token), weight)]
            found.append(cross_entropy(linear(hidden, head), target))
        return found

    def grads(self) -> list[np.ndarray]:
        return [matrix.grads.copy() for matrix in self.matrices]


def ragged(count: int, seed: int) -> list[list[int]]:
    """Return documents of every length, including the shortest."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, LONGEST + 2, count)
    return [generator.integers(0, VOCAB, n).tolist() for n in lengths]


def walk(threads: int, **options: Any) -> tuple[list[float], list[np.ndarray], set[int]]:
    """Return losses, last gradients and weights of steps on batches of many sizes."""
    ours = Tagger(threads=threads, **options)
    losses, shards = [], set()
    for seed, size in enumerate(SIZES):
        losses.append(ours.program.loss(ragged(size, seed)))
        losses.append(ours.program.grad(ragged(size, seed)))
        shards.add(ours.program.core.shards)
        gradients = ours.grads()
        losses.append(ours.program.step(ragged(size, seed), lr=0.01))
    return losses, [*gradients, *(m.values.copy() for m in ours.matrices)], shards


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_number_of_threads_has_the_same_bits(dtype: str) -> None:
    losses, arrays, shards = walk(1, dtype=dtype)
    assert len(shards) > 1  # small batches are one shard, large ones are several
    for threads in (2, 3, 200):
        more_losses, more_arrays, more_shards = walk(threads, dtype=dtype)
        assert more_losses == losses
        assert more_shards == shards
        for one, more in zip(arrays, more_arrays, strict=True):
            assert np.array_equal(one, more)


def test_gradients_of_shards_agree_with_the_tape() -> None:
    ours = Tagger(threads=2)
    documents = ragged(64, 1)
    loss = ours.program.grad(documents)
    assert ours.program.core.shards > 1
    found = ours.grads()
    expected = 0.0
    for matrix in ours.matrices:
        matrix.zero_grad()
    for document in documents:
        losses = ours.losses(document)
        mean = (1 / len(losses) / len(documents)) * sum(losses)
        mean.backward()
        expected += mean.data
    assert loss == pytest.approx(expected, rel=1e-13)
    for gradient, by_tape in zip(found, ours.grads(), strict=True):
        assert np.abs(gradient - by_tape).max() <= 1e-13 * np.abs(by_tape).max()


def test_outputs_are_in_the_order_of_the_caller() -> None:
    ours = Tagger(threads=2)
    core, documents = ours.program.core, ragged(64, 2)
    lengths = np.array([len(d) - 1 for d in documents], dtype=np.int32)
    tokens = np.zeros((64, LONGEST + 1), dtype=np.int32)
    for row, document in zip(tokens, documents, strict=True):
        row[: len(document)] = document
    core.load()
    totals = core.forward(lengths, tokens, np.ones(64))
    assert core.shards > 1
    outputs = core.outputs()
    for i, document in enumerate(documents):
        by_tape = [loss.data for loss in ours.losses(document)]
        assert outputs[i, : len(by_tape)] == pytest.approx(by_tape, rel=1e-12)
        assert not outputs[i, len(by_tape) :].any()
        assert totals[i] == pytest.approx(sum(by_tape), rel=1e-12)


def test_a_refused_batch_leaves_the_program_as_it_was() -> None:
    ours, untouched = Tagger(threads=2), Tagger(threads=2)
    assert ours.program.step(ragged(64, 4), lr=0.01) == untouched.program.step(
        ragged(64, 4), lr=0.01
    )
    with pytest.raises(ValueError, match="token 0 must be"):
        ours.program.step([*ragged(63, 5), [VOCAB, 1]], lr=0.01)
    assert ours.program.step(ragged(64, 6), lr=0.01) == untouched.program.step(
        ragged(64, 6), lr=0.01
    )


def test_callers_in_several_python_threads_get_the_right_loss_or_one_clear_error() -> None:
    ours = Tagger(threads=2)
    batches = [ragged(size, seed) for seed, size in enumerate((64, 90, 3, 40))]
    expected = [ours.program.loss(batch) for batch in batches]

    def loss(batch: list[list[int]]) -> float | str:
        try:
            return ours.program.loss(batch)
        except ProgramError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(loss, batches * 5))
    for got, right in zip(found, expected * 5, strict=True):
        assert got == right or "one call at a time" in str(got)
    assert [ours.program.loss(batch) for batch in batches] == expected


def test_bytes_include_all_shards() -> None:
    ours = Tagger(threads=2)
    ours.program.grad(ragged(2, 8))
    before = ours.program.core.bytes
    ours.program.grad(ragged(64, 8))
    parameters = sum(matrix.values.size for matrix in ours.matrices)
    assert ours.program.core.bytes >= before + 8 * parameters


def test_threads_come_from_the_argument_the_environment_or_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (thread_count(5), thread_count(0)) == (5, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2,4")
    assert thread_count(0) == 2
    for meaningless in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", meaningless)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
        assert thread_count(0) == 3


@pytest.mark.parametrize("threads", [-1, "2"])
def test_a_thread_count_that_is_not_a_count_is_refused(threads: Any) -> None:
    with pytest.raises(ProgramError, match=f"threads must be an int, at least 0, got {threads!r}"):
        Tagger(threads=threads)
