"""The batch, which is all that an engine receives of the data, and the three ways to make one.

A batcher is a pure function of (seed, step, rank, world): no state is carried between steps. Owns
which pair goes into which row of which microbatch. Leaves out packing (packing.py) and encoding
(documents.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, token_stream
from nanochat.data.packing import LISTED, Chunks, Sequences, pack, split_into_chunks
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError
from nanochat.philox import Stream, permutation, random_u64s

__all__ = [
    "IGNORE",
    "Batch",
    "Batcher",
    "evaluation_batches",
    "evaluation_pairs",
    "make_batcher",
    "resolve_batching",
]

IGNORE = -1  # a target that does not count in the loss

_EVALUATION_ITEM = 1  # of Stream.SPLIT; the split itself uses item 0

# Items of Stream.BATCHES. Windows use the step as the item; the other batchers never share a run
# with windows.
_PACKING_ITEM = 0
_FIRST_EPOCH_ITEM = 1

_GROUP_TOKENS = 1 << 15  # of consecutive steps that are drawn together
_MOST_PACKED = 1 << 28  # pairs; packing lists all chunks, which takes more memory than their text
_LONG_DOCUMENT = 4  # in block sizes: above this mean length, windows waste less context than chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens. A document of n characters gives n+1 pairs: BOS,c₁…cₙ → c₁…cₙ,BOS.

    Attention stays inside a segment, and positions restart in each segment. Columns at and after a
    row's length are padding: input BOS, target IGNORE, position 0, segment −1.
    The loss of a step is Σ nats / `global_targets`, over all rows of all microbatches and ranks.
    """

    inputs: NDArray[np.int64]  # (rows, columns) token ids
    targets: NDArray[np.int64]  # (rows, columns) token ids or IGNORE
    positions: NDArray[np.int64]  # (rows, columns) from 0 inside each segment
    segments: NDArray[np.int64]  # (rows, columns) 0, 1, … along a row; −1 is padding
    lengths: NDArray[np.int64]  # (rows,) columns that hold tokens
    global_targets: int  # targets of the whole step, without IGNORE
    # (rows, columns) probability of each target by counted n-grams, 1 in padding; None: no counts
    by_counts: NDArray[np.floating] | None = None


class Batcher(Protocol):
    """Makes the batches of any step. Steps may be requested in any order."""

    @property
    def kind(self) -> str: ...

    def step(self, step: int) -> list[Batch]:
        """Return the grad_accum microbatches of this rank, batch_size rows each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The place of a rank's rows among the rows of a step: rank-major inside a microbatch."""

    batch_size: int
    grad_accum: int
    rank: int
    world: int

    @property
    def rows(self) -> int:
        """Number of rows per step, over all microbatches and ranks."""
        return self.grad_accum * self.world * self.batch_size

    @property
    def own(self) -> NDArray[np.int64]:  # (grad_accum · batch_size,)
        """Indices of this rank's rows among those of a step, microbatch by microbatch."""
        firsts = (np.arange(self.grad_accum) * self.world + self.rank) * self.batch_size
        return (firsts[:, None] + np.arange(self.batch_size)).reshape(-1)


def resolve_batching(batching: str, documents: Documents, block_size: int) -> str:
    """Resolve `auto` to windows (long documents, or a very large text) or packed (short ones)."""
    if batching != "auto":
        return batching
    if documents.pairs > _MOST_PACKED:
        return "windows"
    is_long = documents.pairs > _LONG_DOCUMENT * block_size * documents.count
    return "windows" if is_long else "packed"


def make_batcher(
    kind: str,
    documents: Documents,
    *,
    batch_size: int,
    block_size: int,
    grad_accum: int = 1,
    seed: int,
    rank: int = 0,
    world: int = 1,
    by_counts: NDArray[np.floating] | None = None,  # (pairs,), for Batch.by_counts
) -> Batcher:
    """Return the batcher of a kind: windows, packed or documents. Raises ConfigError otherwise."""
    assert documents.count > 0
    assert 0 <= rank < world
    layout = _Layout(batch_size=batch_size, grad_accum=grad_accum, rank=rank, world=world)
    pairs = _Pairs(token_stream(documents), by_counts)
    if kind == "windows":
        return _WindowBatcher(pairs, min(block_size, documents.pairs), seed, layout)
    if kind == "packed":
        sequences = _packed_sequences(documents, block_size, seed)
        return _EpochBatcher(kind, pairs, sequences, seed, layout)
    if kind == "documents":
        sequences = _document_sequences(documents, block_size)
        return _EpochBatcher(kind, pairs, sequences, seed, layout)
    raise ConfigError(f"batching must be one of windows, packed, documents, got {kind}")


def evaluation_batches(
    documents: Documents,
    *,
    batch_size: int,
    block_size: int,
    max_tokens: int = 0,  # 0: all
    seed: int = 0,  # of the choice that max_tokens asks for
    by_counts: NDArray[np.floating] | None = None,  # (pairs,), for Batch.by_counts
) -> Sequence[Batch]:
    """Return batches that contain every pair exactly once, packed, in an order without a seed.

    A few batches are made at once and kept. Many are made each time they are read: they would take
    32 bytes per token.

    `global_targets` counts the targets of each batch alone. One long document becomes its disjoint
    windows, in order. With max_tokens > 0, the batches hold chunks that are spread evenly over the
    documents and together have about that many pairs; the seed decides where the first one lies.
    Without documents there are no batches.
    """
    if documents.count == 0:
        return []
    chunks = split_into_chunks(documents.lengths + 1, block_size)
    if 0 < max_tokens < documents.pairs:
        count = len(chunks.lengths)
        chosen = max(1, round(max_tokens * count / documents.pairs))
        draw = random_u64s(seed, Stream.SPLIT, _EVALUATION_ITEM, 1, 1)[0, 0]
        offset = int(draw % np.uint64(count))
        chunks = chunks.take((np.arange(chosen) * count + offset) // chosen)
    sequences = pack(chunks, block_size)
    batches = _EvaluationBatches(_Pairs(token_stream(documents), by_counts), sequences, batch_size)
    return list(batches) if int(sequences.offsets[-1]) <= LISTED else batches


def evaluation_pairs(
    documents: Documents, *, batch_size: int, block_size: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the pair numbers of each batch of `evaluation_batches` over all pairs.

    They are in the order of the batch's targets, row after row, without those that are IGNORE.
    """
    if documents.count == 0:
        return
    sequences = pack(split_into_chunks(documents.lengths + 1, block_size), block_size)
    for first in range(0, sequences.count, batch_size):
        chosen = np.arange(first, min(first + batch_size, sequences.count))
        pairs, starts = sequences.pairs_of(chosen)
        yield pairs[starts[0] : starts[0] + _sequence_lengths(sequences, chosen).sum()]


class _EvaluationBatches(Sequence[Batch]):
    """Batches of consecutive sequences, made when they are read."""

    def __init__(self, pairs: _Pairs, sequences: Sequences, batch_size: int) -> None:
        self._pairs, self._sequences, self._batch_size = pairs, sequences, batch_size

    def __len__(self) -> int:
        return -(-self._sequences.count // self._batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        first = range(len(self))[index] * self._batch_size
        chosen = np.arange(first, min(first + self._batch_size, self._sequences.count))
        targets = int(_sequence_lengths(self._sequences, chosen).sum())
        return _batch_of_sequences(self._pairs, self._sequences, chosen, targets)


# ------------------------------------------------------------------------------------- batchers


class _GroupedBatcher:
    """Draws groups of consecutive steps: for small steps, NumPy's calls cost more than the data."""

    def __init__(self, layout: _Layout, longest: int) -> None:
        self._layout = layout
        self._steps_per_group = max(1, _GROUP_TOKENS // (layout.rows * longest))
        self._group = lru_cache(maxsize=2)(self._draw)

    def step(self, step: int) -> list[Batch]:
        group, index = divmod(step, self._steps_per_group)
        return self._group(group).microbatches(index, self._layout)

    def _draw(self, group: int) -> _StepGroup:
        raise NotImplementedError


class _WindowBatcher(_GroupedBatcher):
    """Windows of the token stream. Every start at which a window fits is equally likely."""

    kind = "windows"

    def __init__(
        self,
        pairs: _Pairs,
        window: int,  # pairs, at most all
        seed: int,
        layout: _Layout,
    ) -> None:
        self._pairs, self._window = pairs, window
        self._starts = np.uint64(len(pairs.tokens) - window)
        self._seed = seed
        super().__init__(layout, self._window)

    def _draw(self, group: int) -> _StepGroup:
        steps, rows = self._steps_per_group, self._layout.rows
        draws = random_u64s(self._seed, Stream.BATCHES, group * steps, steps, rows)
        # The bias of the remainder is below starts · 2⁻⁶⁴.
        starts = (draws[:, self._layout.own] % self._starts).astype(np.int64).reshape(-1)
        pairs = starts[:, None] + np.arange(self._window)
        lengths = np.full(len(starts), self._window, dtype=np.int64)
        targets = self._window * rows
        return _StepGroup(
            batch=_batch(self._pairs, pairs, lengths, targets),
            columns=[self._window] * (len(starts) // self._layout.batch_size),
            targets=[targets] * steps,
        )


class _EpochBatcher(_GroupedBatcher):
    """Fixed sequences, visited in a new seeded order every epoch. A step may span epochs."""

    def __init__(
        self, kind: str, pairs: _Pairs, sequences: Sequences, seed: int, layout: _Layout
    ) -> None:
        self.kind = kind
        self._pairs, self._sequences = pairs, sequences
        self._order = _EpochOrder(seed, sequences.count)
        super().__init__(layout, int(np.diff(sequences.offsets).max()))

    def _draw(self, group: int) -> _StepGroup:
        steps, layout = self._steps_per_group, self._layout
        drawn = self._order.visits(group * steps * layout.rows, steps * layout.rows)
        targets = _sequence_lengths(self._sequences, drawn).reshape(steps, -1).sum(axis=1)
        own = drawn.reshape(steps, -1)[:, layout.own].reshape(-1)
        lengths = _sequence_lengths(self._sequences, own)
        return _StepGroup(
            batch=_batch_of_sequences(self._pairs, self._sequences, own, int(targets.sum())),
            columns=lengths.reshape(-1, layout.batch_size).max(axis=1).tolist(),
            targets=targets.tolist(),
        )


@dataclass(frozen=True, slots=True)
class _StepGroup:
    """A rank's rows of consecutive steps as one batch."""

    batch: Batch
    columns: list[int]  # of each microbatch: the length of its longest row
    targets: list[int]  # of each step, over all ranks

    def microbatches(self, index: int, layout: _Layout) -> list[Batch]:
        """Return the microbatches of one step, by its index in the group."""
        whole, result = self.batch, []
        for micro in range(index * layout.grad_accum, (index + 1) * layout.grad_accum):
            rows = slice(micro * layout.batch_size, (micro + 1) * layout.batch_size)
            columns = self.columns[micro]
            whole_arrays = (whole.inputs, whole.targets, whole.positions, whole.segments)
            inputs, targets, positions, segments = (
                np.ascontiguousarray(array[rows, :columns]) for array in whole_arrays
            )
            result.append(
                Batch(
                    inputs=inputs,
                    targets=targets,
                    positions=positions,
                    segments=segments,
                    lengths=whole.lengths[rows],
                    global_targets=self.targets[index],
                    by_counts=None
                    if whole.by_counts is None
                    else np.ascontiguousarray(whole.by_counts[rows, :columns]),
                )
            )
        return result


class _EpochOrder:
    """The endless order of visits to the sequences: one new permutation per epoch."""

    _GROUP_VISITS = 4096  # shorter epochs are drawn several at a time

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        self._epochs_per_group = -(-self._GROUP_VISITS // count)
        # The next step mostly needs the same group. The cache does not change the result.
        self._group = lru_cache(maxsize=4)(self._draw)

    def visits(self, first: int, count: int) -> NDArray[np.int64]:  # (count,)
        """Return the sequences of visits first … first + count − 1."""
        size = self._epochs_per_group * self._count
        groups = range(first // size, (first + count - 1) // size + 1)
        drawn = [self._group(group) for group in groups]
        start = first - groups[0] * size
        return (drawn[0] if len(drawn) == 1 else np.concatenate(drawn))[start : start + count]

    def _draw(self, group: int) -> NDArray[np.int64]:
        """Return philox.permutation of each epoch of the group, end to end."""
        item = _FIRST_EPOCH_ITEM + group * self._epochs_per_group
        if self._epochs_per_group == 1:
            return permutation(self._seed, Stream.BATCHES, item, self._count)
        keys = random_u64s(self._seed, Stream.BATCHES, item, self._epochs_per_group, self._count)
        return np.argsort(keys, axis=1, kind="stable").reshape(-1)


# ------------------------------------------------------------------------------------ sequences


def _packed_sequences(documents: Documents, block_size: int, seed: int) -> Sequences:
    """Pack all chunks. The seed decides which chunks of equal length share a sequence."""
    chunks = split_into_chunks(documents.lengths + 1, block_size)
    order = permutation(seed, Stream.BATCHES, _PACKING_ITEM, len(chunks.lengths))
    return pack(chunks.take(order), block_size)


def _document_sequences(documents: Documents, block_size: int) -> Sequences:
    """Return one sequence per document, truncated to block_size pairs as microgpt does."""
    lengths = np.minimum(documents.lengths + 1, block_size)
    first_pairs = documents.offsets[:-1] + np.arange(documents.count)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Sequences(Chunks(first_pairs, lengths), np.arange(documents.count + 1), offsets)


def _sequence_lengths(sequences: Sequences, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return sequences.offsets[chosen + 1] - sequences.offsets[chosen]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The pairs of a text: pair p is tokens[p] → tokens[p + 1]."""

    tokens: NDArray[np.integer[Any]]  # the token stream
    by_counts: NDArray[np.floating] | None  # (pairs,) probability of each target by counted n-grams


def _batch_of_sequences(
    all_pairs: _Pairs,
    sequences: Sequences,
    chosen: NDArray[np.int64],  # (rows,) index of the sequence in each row
    global_targets: int,
) -> Batch:
    lengths = _sequence_lengths(sequences, chosen)
    known, first = sequences.pairs_of(chosen)
    index = first[:, None] + np.arange(lengths.max())
    pairs = known[np.minimum(index, len(known) - 1)]  # clipped where padding
    return _batch(all_pairs, pairs, lengths, global_targets)


def _batch(
    all_pairs: _Pairs,
    pairs: NDArray[np.int64],  # (rows, columns) pair numbers; any valid number in padding
    lengths: NDArray[np.int64],  # (rows,)
    global_targets: int,
) -> Batch:
    tokens, by_counts = all_pairs.tokens, all_pairs.by_counts
    inputs, targets = tokens[pairs].astype(np.int64), tokens[pairs + 1].astype(np.int64)
    counted = None if by_counts is None else by_counts[pairs]
    columns = np.arange(pairs.shape[1])
    # A segment starts at a row's start, at a document's start, and where the pairs are not
    # consecutive. Two chunks of one document are never neighbors: all but its last fill a row.
    starts = inputs == BOS
    starts[:, 0] = True
    starts[:, 1:] |= pairs[:, 1:] != pairs[:, :-1] + 1
    segments = np.cumsum(starts, axis=1, dtype=np.int64) - 1
    positions = columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    if lengths.min() < len(columns):
        padding = columns >= lengths[:, None]
        inputs[padding], targets[padding] = BOS, IGNORE
        positions[padding], segments[padding] = 0, -1
        if counted is not None:
            counted[padding] = 1.0
    return Batch(
        inputs=inputs,
        targets=targets,
        positions=positions,
        segments=segments,
        lengths=lengths,
        global_targets=global_targets,
        by_counts=counted,
    )
