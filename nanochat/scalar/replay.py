"""Batches through a Program: a model recorded at its longest length, documents in lanes.

Owns the recording of a model, its packing of batches into documents, and the parameters and
optimizer state, which live in the program's own arrays. Leaves out the engine's Protocol
(engine.py) and the passes (csrc/scalar/program).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat import _scalar
from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.model.parameters import Spec
from nanochat.scalar.functions import cross_entropy
from nanochat.scalar.value import Matrix, Tape, Value
from nanochat.system.threads import thread_count

__all__ = ["Replay", "Texts", "first_stages", "recorded_nodes", "texts_of"]

# Documents that are replayed together, by numerics and pass: their rows are in memory at once where
# outputs are read; a step takes them through in shards. Fixed, so that the order of additions is.
CHUNK = {"exact": 16, "fast": 32}
STEP_CHUNK = {"exact": 1, "fast": 256}

# A recording of this many nodes takes about a second and a gigabyte.
MOST_NODES = 4_000_000

# Up to here the longest texts are recorded at once: one recording, rather than one whenever a
# longer text comes.
NODES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Texts:
    """Segments of a batch, one a row. Position p reads token 2p, its target is token 2p + 1."""

    lengths: NDArray[np.int32]  # (texts,)
    tokens: NDArray[np.int32]  # (texts, 2 * stages)
    counted: NDArray[np.uint8] | None  # (texts, stages): targets that count; None: all

    def chunks(self, size: int) -> Iterator[Texts]:
        for start in range(0, len(self.lengths), size):
            part = slice(start, start + size)
            counted = None if self.counted is None else self.counted[part]
            yield Texts(self.lengths[part], self.tokens[part], counted)


def texts_of(batch: Batch, stages: int) -> Texts:
    """The segments of a batch in the order of rows, then of positions; padding left out."""
    if len(batch.lengths) == 1 and batch.segments[0, batch.lengths[0] - 1] == 0:
        length = int(batch.lengths[0])
        row, targets = np.zeros((1, 2 * stages), dtype=np.int32), batch.targets[0, :length]
        row[0, 0 : 2 * length : 2] = batch.inputs[0, :length]
        row[0, 1 : 2 * length : 2] = targets
        return Texts(batch.lengths.astype(np.int32), row, _counted(targets, length, stages))
    inside = batch.segments >= 0
    rows = np.nonzero(inside)[0]
    segments, targets = batch.segments[inside], batch.targets[inside]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(segments) != 0)
    text = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    position = np.arange(len(rows)) - starts[text]
    tokens = np.zeros((len(starts), 2 * stages), dtype=np.int32)
    tokens[text, 2 * position] = batch.inputs[inside]
    tokens[text, 2 * position + 1] = targets
    counted = None
    if (targets == IGNORE).any():
        counted = np.zeros((len(starts), stages), dtype=np.uint8)
        counted[text, position] = targets != IGNORE
    lengths = np.diff(np.append(starts, len(rows))).astype(np.int32)
    return Texts(lengths, tokens, counted)


def _counted(targets: NDArray[np.int64], length: int, stages: int) -> NDArray[np.uint8] | None:
    if (targets != IGNORE).all():
        return None
    counted = np.zeros((1, stages), dtype=np.uint8)
    counted[0, :length] = targets != IGNORE
    return counted


def recorded_nodes(config: TrainConfig, specs: Sequence[Spec], stages: int) -> int:
    """About how many nodes a recording of that many positions has."""
    weights = sum(int(np.prod(spec.shape)) for spec in specs if spec.name not in ("wte", "wpe"))
    if config.tie_lm_head or config.model_kind == "bigram":
        weights += int(np.prod(specs[0].shape))
    attention = 2 * config.n_layer * config.n_embd * stages
    return stages * (2 * weights + attention + 60 * config.n_embd)


def first_stages(config: TrainConfig, specs: Sequence[Spec]) -> int:
    """How many positions to record before any text is seen: all, or as few as show the model."""
    at_once = recorded_nodes(config, specs, config.block_size) <= NODES_AT_ONCE
    return config.block_size if at_once else min(2, config.block_size)


class Replay:
    """A model's program with its parameters and optimizer state; grows to longer texts."""

    def __init__(
        self,
        model: Any,
        tape: Tape,
        matrices: Mapping[str, Matrix],
        *,
        numerics: str,
        vocab_size: int,
        watch: bool = True,  # keep the logits, for decoding
        threads: int = 0,  # as compile() takes them
    ) -> None:
        self._model, self._tape, self._matrices = model, tape, matrices
        self._numerics, self._vocab_size, self._watch = numerics, vocab_size, watch
        self._threads = thread_count(threads)
        self._core: _scalar.Program | None = None
        self.stages = 0

    @property
    def core(self) -> _scalar.Program:
        assert self._core is not None  # reserve() comes first
        return self._core

    @property
    def ordered(self) -> bool:
        """False where exact gradients cannot be added in microgpt's order by a program."""
        return self.core.ordered

    def reserve(self, stages: int) -> None:
        """Record the model for texts of up to `stages` positions; the state is carried over."""
        if stages <= self.stages:
            return
        recorder = _scalar.Recorder(self._tape, list(self._matrices.values()))
        losses: list[Value] = []
        watched: list[Value] = []
        with recorder:
            cache = self._model.new_cache()
            for position in range(stages):
                token = _scalar.Token(2 * position, 0)
                logits = self._model.logits(token, position, cache)
                losses.append(cross_entropy(logits, _scalar.Token(2 * position + 1, 0)))
                if self._watch:
                    watched += logits
            core = _scalar.Program.compile(
                recorder, losses, watched, self._numerics, self._tape.dtype, threads=self._threads
            )
        if self._core is None:
            core.load()
        else:
            for name in ("values", "first_moments", "second_moments"):
                getattr(core, name)[:] = getattr(self._core, name)
        self._core, self.stages = core, stages

    def backward(self, texts: Texts, scale: float, *, accumulate: bool) -> list[float]:
        """Gradients of scale · Σ losses onto the program's; each text's Σ losses, in order."""
        size = STEP_CHUNK[self._numerics]
        totals: list[float] = []
        for part in texts.chunks(size) if len(texts.lengths) > size else (texts,):
            totals += self._forward(part, scale, accumulate).tolist()
            accumulate = True
        return totals

    def losses(self, texts: Texts) -> NDArray[np.float64]:
        """(texts, stages) the loss of each target; 0 beyond a text's end."""
        parts = []
        for part in texts.chunks(CHUNK[self._numerics]):
            self._forward(part, 1.0)
            parts.append(self.core.outputs())
        return np.concatenate(parts)

    def last_logits(self, texts: Texts) -> NDArray[np.float64]:
        """(texts, vocab_size) after the last position; the texts are equally long."""
        end = int(texts.lengths[0]) * self._vocab_size
        parts = []
        for part in texts.chunks(CHUNK[self._numerics]):
            self._forward(part, 1.0)
            parts.append(self.core.watched(end - self._vocab_size, end))
        return np.concatenate(parts)

    def _forward(
        self,
        part: Texts,
        scale: float,
        accumulate: bool | None = None,  # with backward, onto the gradients or in their place
    ) -> NDArray[np.float64]:
        scales = np.full(len(part.lengths), scale)
        return self.core.forward(part.lengths, part.tokens, scales, None, part.counted, accumulate)
