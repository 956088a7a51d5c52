"""The batch, which is all that an engine receives of the data, and the three ways to make one.

A batcher is a pure function of (seed, step, rank, world): no state is carried between steps. Owns
which pair goes into which row of which microbatch. Leaves out packing (packing.py) and encoding
(documents.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, token_stream
from nanochat.data.packing import (
    LISTED,
    Chunks,
    Sequences,
    pack,
    split_into_chunks,
    windows_of_targets,
)
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError
from nanochat.philox import Stream, permutation, random_u64, random_u64s

__all__ = [
    "IGNORE",
    "Batch",
    "Batcher",
    "PairValues",
    "BlockBatcher",
    "StepRows",
    "evaluation_batches",
    "evaluation_pairs",
    "make_batcher",
    "reading_batches",
    "resolve_batching",
]

IGNORE = -1  # a target that does not count in the loss

_EVALUATION_ITEM = 1  # of Stream.SPLIT; the split itself uses item 0

# Items of Stream.BATCHES. A run packs sequences or moves windows, never both.
_PACKING_ITEM = 0
_OFFSETS_ITEM = 0
_FIRST_EPOCH_ITEM = 1

_GROUP_TOKENS = 1 << 15  # of consecutive steps that are drawn together
_MOST_LISTED = 1 << 22  # windows of an epoch, whose order is drawn at once
_MOST_PACKED = 1 << 28  # pairs; packing lists all chunks, which takes more memory than their text
_LONG_DOCUMENT = 4  # in block sizes: above this mean length, windows waste less context than chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens. A document of n characters gives n+1 pairs: BOS,c₁…cₙ → c₁…cₙ,BOS.

    Attention stays inside a segment, and positions restart in each segment. Columns at and after a
    row's length are padding: input BOS, target IGNORE, position 0, segment −1. In conversations,
    the target is IGNORE too where it is not a token of the assistant.
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


@dataclass(frozen=True, slots=True)
class StepRows:
    """A rank's rows of consecutive steps as one batch: step by step, microbatch by microbatch."""

    batch: Batch
    targets: NDArray[np.int64]  # (steps,) global_targets of each step
    batch_size: int  # rows of each microbatch
    grad_accum: int  # microbatches of each step

    def microbatches(self, index: int) -> list[Batch]:
        """Return the microbatches of one step, by its index."""
        targets, result = int(self.targets[index]), []
        for micro in range(index * self.grad_accum, (index + 1) * self.grad_accum):
            rows = slice(micro * self.batch_size, (micro + 1) * self.batch_size)
            columns = int(self.batch.lengths[rows].max())
            result.append(_part(self.batch, rows, columns, targets))
        return result

    def part(self, index: int, steps: int) -> StepRows:
        """Return the rows of `steps` steps from an index on."""
        rows_per_step = self.batch_size * self.grad_accum
        rows = slice(index * rows_per_step, (index + steps) * rows_per_step)
        targets = self.targets[index : index + steps]
        batch = _part(self.batch, rows, self.batch.inputs.shape[1], int(targets.sum()))
        return StepRows(batch, targets, self.batch_size, self.grad_accum)


def _part(whole: Batch, rows: slice, columns: int, global_targets: int) -> Batch:
    def part_of(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array[rows, :columns])

    return Batch(
        inputs=part_of(whole.inputs),
        targets=part_of(whole.targets),
        positions=part_of(whole.positions),
        segments=part_of(whole.segments),
        lengths=whole.lengths[rows],
        global_targets=global_targets,
        by_counts=None if whole.by_counts is None else part_of(whole.by_counts),
    )


@runtime_checkable
class BlockBatcher(Batcher, Protocol):
    """Makes the batches of several steps at once, too."""

    def steps(self, first: int, most: int) -> StepRows:
        """Return the rows of at least one and at most `most` steps, from step `first` on."""


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
    """Resolve `auto` to windows (long documents, or a very large text) or packed (short ones).

    Conversations are packed: windows of all their tokens may have no target.
    """
    if batching != "auto":
        return batching
    if documents.is_target is not None:
        return "packed"
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
    pairs = _Pairs(token_stream(documents), by_counts, documents.is_target)
    assert documents.is_target is None or kind == "packed"
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
    by_counts: PairValues | None = None,  # (pairs,), for Batch.by_counts
) -> Sequence[Batch]:
    """Return batches that contain every target exactly once, packed, in an order without a seed.

    A few batches are made at once and kept. Many are made each time they are read: they would take
    32 bytes per token.

    `global_targets` counts the targets of each batch alone. One long document becomes its disjoint
    windows, in order. With max_tokens > 0, the batches hold chunks that are spread evenly over the
    documents and together have about that many pairs; the seed decides where the first one lies.
    Without documents there are no batches.
    """
    if documents.count == 0:
        return []
    chunks = _evaluation_chunks(documents, block_size)
    if 0 < max_tokens < (pairs := int(chunks.lengths.sum())):
        count = len(chunks.lengths)
        chosen = max(1, round(max_tokens * count / pairs))
        draw = random_u64s(seed, Stream.SPLIT, _EVALUATION_ITEM, 1, 1)[0, 0]
        offset = int(draw % np.uint64(count))
        chunks = chunks.take((np.arange(chosen) * count + offset) // chosen)
    sequences = pack(chunks, block_size)
    all_pairs = _Pairs(token_stream(documents), by_counts, documents.is_target)
    batches = _EvaluationBatches(all_pairs, sequences, batch_size)
    return list(batches) if int(sequences.offsets[-1]) <= LISTED else batches


def evaluation_pairs(
    documents: Documents, *, batch_size: int, block_size: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the pair numbers of each batch of `evaluation_batches` over all pairs.

    They are in the order of the batch's targets, row after row, without those that are IGNORE.
    """
    if documents.count == 0:
        return
    sequences = pack(_evaluation_chunks(documents, block_size), block_size)
    for first in range(0, sequences.count, batch_size):
        chosen = np.arange(first, min(first + batch_size, sequences.count))
        pairs, starts = sequences.pairs_of(chosen)
        pairs = pairs[starts[0] : starts[0] + _sequence_lengths(sequences, chosen).sum()]
        if documents.is_target is not None:
            pairs = pairs[pairs >= 0]
            pairs = pairs[documents.is_target[pairs]]
        yield pairs


def reading_batches(
    documents: Documents,
    block_size: int,
    least: int,  # pairs of each batch but the last
) -> Iterator[Batch]:
    """Yield batches that contain every pair once, in the order of the text, row after row.

    Documents are cut as `evaluation_batches` cuts other documents. A row holds as
    many pieces as fit.
    """
    chunks = split_into_chunks(documents.lengths + 1, block_size)
    pairs, ends = _Pairs(token_stream(documents), None, documents.is_target), [0]
    for start, length in zip(chunks.starts.tolist(), chunks.lengths.tolist(), strict=True):
        if start + length - ends[-1] > block_size:
            ends.append(start)
            if start - ends[0] >= least:
                yield _batch_of_rows(pairs, ends)
                ends = [start]
    if documents.pairs:
        yield _batch_of_rows(pairs, [*ends, documents.pairs])


def _batch_of_rows(pairs: _Pairs, ends: list[int]) -> Batch:
    """Return the batch whose row i holds the pairs ends[i] … ends[i + 1] − 1."""
    firsts, lengths = np.array(ends[:-1]), np.diff(ends)
    numbers = firsts[:, None] + np.arange(lengths.max())
    targets = int(lengths.sum())
    if pairs.is_target is not None:
        targets = int(pairs.is_target[ends[0] : ends[-1]].sum())
    return _batch(pairs, np.minimum(numbers, ends[-1] - 1), lengths, targets)


def _chunks_of(documents: Documents, block_size: int, context: int) -> Chunks:
    """Return the chunks that together have every target once; `context` is of conversations."""
    if documents.is_target is None:
        return split_into_chunks(documents.lengths + 1, block_size)
    bounds = documents.offsets + np.arange(documents.count + 1)
    return windows_of_targets(bounds, documents.is_target, block_size, context)


def _evaluation_chunks(documents: Documents, block_size: int) -> Chunks:
    return _chunks_of(documents, block_size, block_size // 2)


class _EvaluationBatches(Sequence[Batch]):
    """Batches of consecutive sequences, made when they are read."""

    def __init__(self, pairs: _Pairs, sequences: Sequences, batch_size: int) -> None:
        self._pairs, self._sequences, self._batch_size = pairs, sequences, batch_size
        self._targets = sequences.targets(pairs.is_target)

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
        targets = int(self._targets[chosen].sum())
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
        return self._group(group).microbatches(index)

    def steps(self, first: int, most: int) -> StepRows:
        group, index = divmod(first, self._steps_per_group)
        return self._group(group).part(index, min(most, self._steps_per_group - index))

    def _draw(self, group: int) -> StepRows:
        raise NotImplementedError

    def _rows(self, batch: Batch, targets: NDArray[np.int64]) -> StepRows:
        return StepRows(batch, targets, self._layout.batch_size, self._layout.grad_accum)


class _WindowBatcher(_GroupedBatcher):
    """Windows of the token stream, each visited once per epoch in a new seeded order.

    The windows of an epoch are disjoint and adjacent. A new offset per epoch moves their edges, so
    that every start is possible.
    """

    kind = "windows"

    def __init__(
        self,
        pairs: _Pairs,
        window: int,  # pairs, at most all
        seed: int,
        layout: _Layout,
    ) -> None:
        self._pairs, self._window, self._seed = pairs, window, seed
        total = len(pairs.tokens) - 1
        # An epoch of more windows than can be listed is visited in parts, each evenly spread.
        self._parts = max(1, total // window // _MOST_LISTED)
        count = max(1, (total - window + 1) // (window * self._parts))
        self._offsets = np.uint64(total - count * self._parts * window + 1)
        self._order = _EpochOrder(seed, count)
        super().__init__(layout, self._window)

    def _draw(self, group: int) -> StepRows:
        steps, layout = self._steps_per_group, self._layout
        numbers, visited = self._order.visits(group * steps * layout.rows, steps * layout.rows)
        epochs, parts = np.divmod(visited, self._parts)
        starts = self._offsets_of(epochs) + (numbers * self._parts + parts) * self._window
        own = starts.reshape(steps, -1)[:, layout.own].reshape(-1)
        pairs = own[:, None] + np.arange(self._window)
        lengths = np.full(len(own), self._window, dtype=np.int64)
        targets = self._window * layout.rows
        batch = _batch(self._pairs, pairs, lengths, targets)
        return self._rows(batch, np.full(steps, targets))

    def _offsets_of(self, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first pair of the first window of each epoch. The epochs are sorted."""
        first, count = int(epochs[0]), int(epochs[-1] - epochs[0]) + 1
        draws = random_u64(self._seed, Stream.BATCHES, _OFFSETS_ITEM, count, first)
        # The bias of the remainder is below offsets · 2⁻⁶⁴.
        return (draws % self._offsets).astype(np.int64)[epochs - first]


class _EpochBatcher(_GroupedBatcher):
    """Fixed sequences, visited in a new seeded order every epoch. A step may span epochs."""

    def __init__(
        self, kind: str, pairs: _Pairs, sequences: Sequences, seed: int, layout: _Layout
    ) -> None:
        self.kind = kind
        self._pairs, self._sequences = pairs, sequences
        self._targets = sequences.targets(pairs.is_target)
        self._order = _EpochOrder(seed, sequences.count)
        super().__init__(layout, int(np.diff(sequences.offsets).max()))

    def _draw(self, group: int) -> StepRows:
        steps, layout = self._steps_per_group, self._layout
        drawn, _ = self._order.visits(group * steps * layout.rows, steps * layout.rows)
        targets = self._targets[drawn].reshape(steps, -1).sum(axis=1)
        own = drawn.reshape(steps, -1)[:, layout.own].reshape(-1)
        batch = _batch_of_sequences(self._pairs, self._sequences, own, int(targets.sum()))
        return self._rows(batch, targets)


class _EpochOrder:
    """The endless order of visits to the sequences: one new permutation per epoch."""

    _GROUP_VISITS = 4096  # shorter epochs are drawn several at a time

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        self._epochs_per_group = -(-self._GROUP_VISITS // count)
        # The next step mostly needs the same group. The cache does not change the result.
        self._group = lru_cache(maxsize=4)(self._draw)

    def visits(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sequences of visits first … first + count − 1, and their epochs, (count,)."""
        size = self._epochs_per_group * self._count
        groups = range(first // size, (first + count - 1) // size + 1)
        drawn = [self._group(group) for group in groups]
        start = first - groups[0] * size
        visited = (drawn[0] if len(drawn) == 1 else np.concatenate(drawn))[start : start + count]
        return visited, np.arange(first, first + count) // self._count

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
    # With context that the windows share, a step would have fewer targets.
    chunks = _chunks_of(documents, block_size, 0)
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


class PairValues(Protocol):
    """A number for each pair: an array, or one whose numbers are computed when they are read."""

    def __getitem__(self, pairs: NDArray[np.int64], /) -> NDArray[np.floating]: ...


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The pairs of a text: pair p is tokens[p] → tokens[p + 1]."""

    tokens: NDArray[np.integer[Any]]  # the token stream
    by_counts: PairValues | None  # (pairs,) probability of each target by counted n-grams
    is_target: NDArray[np.bool_] | None = None  # (pairs,), as in Documents


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
    pairs: NDArray[np.int64],  # (rows, columns) as packing._pairs_of; any valid one in padding
    lengths: NDArray[np.int64],  # (rows,)
    global_targets: int,
) -> Batch:
    tokens, by_counts = all_pairs.tokens, all_pairs.by_counts
    is_target = None
    if all_pairs.is_target is not None:
        pairs, numbers = np.where(pairs < 0, ~pairs, pairs), pairs
        is_target = (numbers >= 0) & all_pairs.is_target[pairs]
    inputs, targets = tokens[pairs].astype(np.int64), tokens[pairs + 1].astype(np.int64)
    if is_target is not None:
        targets[~is_target] = IGNORE
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
