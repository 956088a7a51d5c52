"""Runs batches through a recorded model: one document per segment.

Owns the recording of a model, the conversion of batches to documents, and the parameters and
optimizer state, which live in the program's arrays. Leaves out the engine Protocol (engine.py) and
the compiler passes (csrc/scalar/program).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat import _scalar
from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.ngram.share import mixture_parts
from nanochat.scalar.functions import cross_entropy, mixed_cross_entropy
from nanochat.scalar.instruction_set import checked_instruction_set
from nanochat.scalar.value import Matrix, Tape, Value
from nanochat.system.threads import thread_count

__all__ = ["Replay", "Segments", "first_positions", "recorded_nodes", "segments_of"]

# Documents that are replayed together, by numerics. Where outputs are read, the rows of all of them
# are in memory at once; a training step splits them into shards. Fixed sizes keep the order of
# additions, and with it the bits.
CHUNK = {"exact": 16, "fast": 32}
STEP_CHUNK = {"exact": 1, "fast": 256}

# A recording of this many nodes takes about a second and a gigabyte.
MOST_NODES = 4_000_000

# Up to this many nodes, the longest context is recorded at the start. Beyond, the recording grows
# when a longer segment comes.
NODES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a batch, one per row. Position p reads token 2p and predicts token 2p + 1."""

    lengths: NDArray[np.int32]  # (segments,)
    tokens: NDArray[np.int32]  # (segments, 2 * positions)
    counted: NDArray[np.uint8] | None  # (segments, positions): targets that count; None: all
    # (segments, positions): probability of each target by counted n-grams; None: no counts
    by_counts: NDArray[np.float64] | None = None
    rows: NDArray[np.int64] | None = None  # (segments,) of the batch

    def chunks(self, size: int) -> Iterator[Segments]:
        for start in range(0, len(self.lengths), size):
            part = slice(start, start + size)
            counted = None if self.counted is None else self.counted[part]
            by_counts = None if self.by_counts is None else self.by_counts[part]
            yield Segments(self.lengths[part], self.tokens[part], counted, by_counts)

    def count_per(self, rows: int, groups: int) -> NDArray[np.int32]:  # (groups,)
        """Count the segments of each group of `rows` consecutive rows."""
        assert self.rows is not None
        return np.bincount(self.rows // rows, minlength=groups).astype(np.int32)


def segments_of(batch: Batch, positions: int) -> Segments:
    """Return the segments of a batch, ordered by row and position, without padding."""
    if batch.segments.max(initial=0) == 0 and batch.lengths.min(initial=1) > 0:
        return _segments_of_rows(batch, positions)
    inside = batch.segments >= 0
    rows = np.nonzero(inside)[0]
    ids, targets = batch.segments[inside], batch.targets[inside]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(ids) != 0)
    segment = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    position = np.arange(len(rows)) - starts[segment]
    tokens = np.zeros((len(starts), 2 * positions), dtype=np.int32)
    tokens[segment, 2 * position] = batch.inputs[inside]
    tokens[segment, 2 * position + 1] = targets
    counted = None
    if (targets == IGNORE).any():
        counted = np.zeros((len(starts), positions), dtype=np.uint8)
        counted[segment, position] = targets != IGNORE
    by_counts = None
    if batch.by_counts is not None:
        by_counts = np.ones((len(starts), positions))
        by_counts[segment, position] = batch.by_counts[inside]
    lengths = np.diff(np.append(starts, len(rows))).astype(np.int32)
    return Segments(lengths, tokens, counted, by_counts, rows[starts])


def _segments_of_rows(batch: Batch, positions: int) -> Segments:
    """Return the same for rows of one segment each. Padding is never read."""
    rows, length = len(batch.lengths), int(batch.lengths.max())
    tokens = np.zeros((rows, 2 * positions), dtype=np.int32)
    tokens[:, 0 : 2 * length : 2] = batch.inputs[:, :length]
    tokens[:, 1 : 2 * length : 2] = batch.targets[:, :length]
    counted, by_counts = None, None
    counts = batch.targets[:, :length] != IGNORE
    if np.count_nonzero(counts) < batch.lengths.sum():
        counted = np.zeros((rows, positions), dtype=np.uint8)
        counted[:, :length] = counts
    if batch.by_counts is not None:
        by_counts = np.ones((rows, positions))
        by_counts[:, :length] = batch.by_counts[:, :length]
    return Segments(batch.lengths.astype(np.int32), tokens, counted, by_counts, np.arange(rows))


def recorded_nodes(
    config: TrainConfig,
    shapes: Mapping[str, tuple[int, ...]],  # of the weights
    positions: int,
) -> int:
    """Estimate the number of nodes of a recording with `positions` positions."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    weights = sum(sizes[name] for name in sizes if name not in ("wte", "wpe"))
    if config.tie_lm_head or config.model_kind == "bigram":
        weights += sizes["wte"]
    attention = 2 * config.n_layer * config.n_embd * positions
    return positions * (2 * weights + attention + 60 * config.n_embd)


def first_positions(config: TrainConfig, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many positions to record before any data is seen: all, or two if that is slow."""
    at_once = recorded_nodes(config, shapes, config.block_size) <= NODES_AT_ONCE
    return config.block_size if at_once else min(2, config.block_size)


class Replay:
    """The program of a model, with its parameters and optimizer state.

    The program has a fixed number of positions; reserve() records the model again for more.
    """

    def __init__(
        self,
        model: Any,
        tape: Tape,
        matrices: Mapping[str, Matrix],
        *,
        numerics: str,
        outputs: int,  # logits of a position
        share_offset: float | None = None,  # of the last output, if it is the counts' share
        threads: int = 0,  # as in compile()
    ) -> None:
        self._model, self._tape, self._matrices = model, tape, matrices
        self._numerics, self._outputs, self._share_offset = numerics, outputs, share_offset
        self._threads = thread_count(threads)
        self._core: _scalar.Program | None = None
        self.positions = 0

    @property
    def core(self) -> _scalar.Program:
        assert self._core is not None, "reserve() comes first"
        return self._core

    @property
    def ordered(self) -> bool:
        """Whether a program can add exact gradients in microgpt.py's order."""
        return self.core.ordered

    def reserve(self, positions: int) -> None:
        """Record the model for up to `positions` positions, keeping parameters and moments."""
        if positions <= self.positions:
            return
        recorder = _scalar.Recorder(self._tape, list(self._matrices.values()))
        losses: list[Value] = []
        watched: list[Value] = []  # the logits, for decoding
        with recorder:
            cache = self._model.new_cache()
            for position in range(positions):
                token = _scalar.Token(2 * position, 0)
                logits = self._model.logits(token, position, cache)
                target = _scalar.Token(2 * position + 1, 0)
                if self._share_offset is not None:
                    by_counts = recorder.input(position)
                    losses.append(
                        mixed_cross_entropy(logits, target, by_counts, self._share_offset)
                    )
                else:
                    losses.append(cross_entropy(logits, target))
                watched += logits
            with checked_instruction_set():
                core = _scalar.Program.compile(
                    recorder, losses, watched, self._numerics, self._tape.dtype,
                    threads=self._threads,
                )  # fmt: skip
        if self._core is None:
            core.load()
        else:
            for name in ("values", "first_moments", "second_moments"):
                getattr(core, name)[:] = getattr(self._core, name)
        self._core, self.positions = core, positions

    def backward(self, segments: Segments, scale: float, *, accumulate: bool) -> list[float]:
        """Compute the gradients of scale · Σ losses; return Σ losses per segment, in order."""
        size = STEP_CHUNK[self._numerics]
        totals: list[float] = []
        for part in segments.chunks(size) if len(segments.lengths) > size else (segments,):
            totals += self._forward(part, scale, accumulate).tolist()
            accumulate = True
        return totals

    def steps(
        self, segments: Segments, scales: NDArray[np.float64], **options: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], int, NDArray[np.float64]]:
        """Take consecutive optimizer steps, as Program.steps does."""
        return self.core.steps(
            segments.lengths, segments.tokens, scales, segments.by_counts, segments.counted,
            documents_at_once=STEP_CHUNK[self._numerics], **options,
        )  # fmt: skip

    def losses(self, segments: Segments) -> NDArray[np.float64]:  # (targets,)
        """Return the loss of each target, segment by segment."""
        parts = []
        for part in segments.chunks(CHUNK[self._numerics]):
            self._forward(part, 1.0)
            parts.append(self.core.outputs()[self._is_used(part)])
        return np.concatenate(parts)

    def mixture_parts(self, segments: Segments) -> NDArray[np.float64]:  # (targets, 2)
        """Return `mixing.mixture_parts` of each target, segment by segment."""
        parts = []
        for part in segments.chunks(CHUNK[self._numerics]):
            self._forward(part, 1.0)
            logits = self.core.watched(0, self.positions * self._outputs)
            is_used = self._is_used(part)
            used = logits.reshape(*is_used.shape, self._outputs)[is_used]
            targets = part.tokens[:, 1::2][is_used].astype(np.int64)
            parts.append(mixture_parts(used, np.maximum(targets, 0)))
        return np.concatenate(parts)

    def _is_used(self, part: Segments) -> NDArray[np.bool_]:  # (segments, positions)
        return np.arange(self.positions) < part.lengths[:, None]

    def last_logits(self, segments: Segments) -> NDArray[np.float64]:
        """Return the logits of the last position, (segments, outputs); lengths are equal."""
        end = int(segments.lengths[0]) * self._outputs
        parts = []
        for part in segments.chunks(CHUNK[self._numerics]):
            self._forward(part, 1.0)
            parts.append(self.core.watched(end - self._outputs, end))
        return np.concatenate(parts)

    def logits(self, document: Segments) -> NDArray[np.float64]:
        """Return the logits of every position of one segment, (positions, outputs)."""
        length = int(document.lengths[0])
        self._forward(document, 1.0)
        return self.core.watched(0, length * self._outputs).reshape(length, self._outputs)

    def _forward(
        self,
        part: Segments,
        scale: float,
        accumulate: bool | None = None,  # None: no gradients; True: add to the previous ones
    ) -> NDArray[np.float64]:
        scales, by_counts = np.full(len(part.lengths), scale), part.by_counts
        if self._share_offset is not None and by_counts is None:  # where only the logits are read
            by_counts = np.ones((len(part.lengths), self.positions))
        return self.core.forward(
            part.lengths, part.tokens, scales, by_counts, part.counted, accumulate
        )
