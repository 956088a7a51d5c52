"""The batch, the only thing that data hands to an engine, and the three ways to make one.

A batcher is a pure function of (seed, step, rank, world): nothing is carried from step to step.
Owns which pairs stand in which row of which microbatch. Leaves out packing itself (packing.py)
and tokens (documents.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, stream
from nanochat.data.packing import Rows, cut, pack
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError
from nanochat.philox import Stream, permutation, random_u64s

__all__ = [
    "IGNORE",
    "Batch",
    "Batcher",
    "evaluation_batches",
    "make_batcher",
    "resolve_batching",
]

IGNORE = -1  # a target that counts in no loss

# Items of Stream.BATCHES. Windows use the step; the other two never meet them in one run.
_PACKING_ITEM = 0
_FIRST_EPOCH_ITEM = 1

_BLOCK_TOKENS = 1 << 15  # of the steps that are drawn at a time
_LONG_DOCUMENT = 4  # blocks: above this mean length, windows waste less context than pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens. A document of n characters gives n+1 pairs: BOS,c₁…cₙ → c₁…cₙ,BOS.

    Attention stays inside a segment and positions restart there. Columns at and after a row's
    length are padding: input BOS, target IGNORE, position 0, segment −1.
    The loss of a step is Σ nats / `global_targets`, over all rows of all microbatches and ranks.
    """

    inputs: NDArray[np.int64]  # (rows, width) token ids
    targets: NDArray[np.int64]  # (rows, width) token ids or IGNORE
    positions: NDArray[np.int64]  # (rows, width) from 0 inside each segment
    segments: NDArray[np.int64]  # (rows, width) 0, 1, … along a row; −1 is padding
    lengths: NDArray[np.int64]  # (rows,) columns that hold tokens
    global_targets: int  # targets of the whole step, IGNORE left out


class Batcher(Protocol):
    """Makes the batches of any step, in any order."""

    @property
    def kind(self) -> str: ...

    def step(self, step: int) -> list[Batch]:
        """The grad_accum microbatches of this rank, batch_size rows each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where a rank's rows lie among the rows of a step: rank-major inside a microbatch."""

    batch_size: int
    grad_accum: int
    rank: int
    world: int

    @property
    def rows(self) -> int:
        """Rows of a step, over all microbatches and ranks."""
        return self.grad_accum * self.world * self.batch_size

    @property
    def own(self) -> NDArray[np.int64]:  # (grad_accum · batch_size,)
        """This rank's rows among those of a step, microbatch by microbatch."""
        firsts = (np.arange(self.grad_accum) * self.world + self.rank) * self.batch_size
        return (firsts[:, None] + np.arange(self.batch_size)).reshape(-1)


def resolve_batching(batching: str, documents: Documents, block_size: int) -> str:
    """`auto` made windows (long documents) or packed (short ones); others as they are."""
    if batching != "auto":
        return batching
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
) -> Batcher:
    """The batcher of a kind: windows, packed or documents. Raises ConfigError on another."""
    assert documents.count > 0
    assert 0 <= rank < world
    layout = _Layout(batch_size=batch_size, grad_accum=grad_accum, rank=rank, world=world)
    if kind == "windows":
        return _Windows(documents, block_size, seed, layout)
    if kind == "packed":
        return _EpochRows(kind, documents, _packed_rows(documents, block_size, seed), seed, layout)
    if kind == "documents":
        return _EpochRows(kind, documents, _document_rows(documents, block_size), seed, layout)
    raise ConfigError(f"batching must be one of windows, packed, documents, got {kind}")


def evaluation_batches(
    documents: Documents, *, batch_size: int, block_size: int, max_tokens: int = 0
) -> list[Batch]:
    """Every pair exactly once, packed, in an order that no seed changes; global_targets is each
    batch's own. With max_tokens > 0, the first pieces that together reach so many pairs. One
    long document becomes its disjoint windows, in order; no document makes no batch."""
    if documents.count == 0:
        return []
    pieces = cut(documents.lengths + 1, block_size)
    if max_tokens > 0:
        reached = np.searchsorted(np.cumsum(pieces.lengths), max_tokens)
        pieces = pieces.take(np.arange(min(int(reached) + 1, len(pieces.lengths))))
    rows, tokens = pack(pieces, block_size), stream(documents)
    chunks = (
        np.arange(first, min(first + batch_size, rows.count))
        for first in range(0, rows.count, batch_size)
    )
    return [
        _batch_of_rows(tokens, rows, chunk, int(_row_lengths(rows, chunk).sum()))
        for chunk in chunks
    ]


# ------------------------------------------------------------------------------------- batchers


class _InBlocks:
    """Steps cut out of a block of them: a small step costs its calls, whatever their size."""

    def __init__(self, layout: _Layout, longest: int) -> None:
        self._layout = layout
        self._steps_a_block = max(1, _BLOCK_TOKENS // (layout.rows * longest))
        self._block = lru_cache(maxsize=2)(self._draw)

    def step(self, step: int) -> list[Batch]:
        block, place = divmod(step, self._steps_a_block)
        return self._block(block).cut(place, self._layout)

    def _draw(self, block: int) -> _Block:
        raise NotImplementedError


class _Windows(_InBlocks):
    """Windows of the BOS-delimited stream, each start uniform over all that fit."""

    kind = "windows"

    def __init__(self, documents: Documents, block_size: int, seed: int, layout: _Layout) -> None:
        self._tokens = stream(documents)
        self._width = min(block_size, documents.pairs)
        self._starts = np.uint64(documents.pairs - self._width + 1)
        self._seed = seed
        super().__init__(layout, self._width)

    def _draw(self, block: int) -> _Block:
        steps, rows = self._steps_a_block, self._layout.rows
        draws = random_u64s(self._seed, Stream.BATCHES, block * steps, steps, rows)
        # Bias below starts · 2⁻⁶⁴.
        starts = (draws[:, self._layout.own] % self._starts).astype(np.int64).reshape(-1)
        pairs = starts[:, None] + np.arange(self._width)
        lengths = np.full(len(starts), self._width, dtype=np.int64)
        targets = self._width * rows
        return _Block(
            batch=_batch(self._tokens, pairs, lengths, targets),
            widths=[self._width] * (len(starts) // self._layout.batch_size),
            targets=[targets] * steps,
        )


class _EpochRows(_InBlocks):
    """Rows made once, visited in a new seeded order every epoch; a step may span epochs."""

    def __init__(
        self, kind: str, documents: Documents, rows: Rows, seed: int, layout: _Layout
    ) -> None:
        self.kind = kind
        self._tokens, self._rows = stream(documents), rows
        self._order = _EpochOrder(seed, rows.count)
        super().__init__(layout, int(np.diff(rows.offsets).max()))

    def _draw(self, block: int) -> _Block:
        steps, layout = self._steps_a_block, self._layout
        numbers = self._order.rows(block * steps * layout.rows, steps * layout.rows)
        targets = _row_lengths(self._rows, numbers).reshape(steps, -1).sum(axis=1)
        own = numbers.reshape(steps, -1)[:, layout.own].reshape(-1)
        lengths = _row_lengths(self._rows, own)
        return _Block(
            batch=_batch_of_rows(self._tokens, self._rows, own, int(targets.sum())),
            widths=lengths.reshape(-1, layout.batch_size).max(axis=1).tolist(),
            targets=targets.tolist(),
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """A rank's rows of consecutive steps as one batch."""

    batch: Batch
    widths: list[int]  # of each microbatch: its longest row
    targets: list[int]  # of each step, over all ranks

    def cut(self, place: int, layout: _Layout) -> list[Batch]:
        """The microbatches of the step at that place of the block."""
        whole, cut = self.batch, []
        for micro in range(place * layout.grad_accum, (place + 1) * layout.grad_accum):
            rows = slice(micro * layout.batch_size, (micro + 1) * layout.batch_size)
            width = self.widths[micro]
            whole_rows = (whole.inputs, whole.targets, whole.positions, whole.segments)
            inputs, targets, positions, segments = (
                np.ascontiguousarray(array[rows, :width]) for array in whole_rows
            )
            cut.append(
                Batch(
                    inputs=inputs,
                    targets=targets,
                    positions=positions,
                    segments=segments,
                    lengths=whole.lengths[rows],
                    global_targets=self.targets[place],
                )
            )
        return cut


class _EpochOrder:
    """The endless sequence of rows: each epoch a new permutation of all of them."""

    _BLOCK_ROWS = 4096  # epochs shorter than this are drawn several at a time

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        self._epochs = -(-self._BLOCK_ROWS // count)
        # What is drawn for one step mostly serves the next; the result is the same without.
        self._block = lru_cache(maxsize=4)(self._draw)

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """Rows at the places first … first + count − 1 of the sequence."""
        size = self._epochs * self._count
        blocks = range(first // size, (first + count - 1) // size + 1)
        drawn = [self._block(block) for block in blocks]
        start = first - blocks[0] * size
        return (drawn[0] if len(drawn) == 1 else np.concatenate(drawn))[start : start + count]

    def _draw(self, block: int) -> NDArray[np.int64]:
        """philox.permutation of each epoch of the block, end to end."""
        item = _FIRST_EPOCH_ITEM + block * self._epochs
        if self._epochs == 1:
            return permutation(self._seed, Stream.BATCHES, item, self._count)
        keys = random_u64s(self._seed, Stream.BATCHES, item, self._epochs, self._count)
        return np.argsort(keys, axis=1, kind="stable").reshape(-1)


# ----------------------------------------------------------------------------------------- rows


def _packed_rows(documents: Documents, block_size: int, seed: int) -> Rows:
    """All pieces, packed; which of equally long ones share a row is drawn."""
    pieces = cut(documents.lengths + 1, block_size)
    order = permutation(seed, Stream.BATCHES, _PACKING_ITEM, len(pieces.lengths))
    return pack(pieces.take(order), block_size)


def _document_rows(documents: Documents, block_size: int) -> Rows:
    """One row a document; what does not fit into the block is dropped, as microgpt does."""
    lengths = np.minimum(documents.lengths + 1, block_size)
    ends = np.cumsum(lengths)
    first_pairs = documents.offsets[:-1] + np.arange(documents.count)
    pairs = np.arange(ends[-1]) + np.repeat(first_pairs - (ends - lengths), lengths)
    return Rows(pairs, np.concatenate([np.zeros(1, np.int64), ends]))


def _row_lengths(rows: Rows, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows.offsets[numbers + 1] - rows.offsets[numbers]


def _batch_of_rows(
    tokens: NDArray[np.int64], rows: Rows, numbers: NDArray[np.int64], global_targets: int
) -> Batch:
    lengths = _row_lengths(rows, numbers)
    index = rows.offsets[numbers][:, None] + np.arange(lengths.max())
    pairs = rows.pairs[np.minimum(index, len(rows.pairs) - 1)]  # past the end is padding
    return _batch(tokens, pairs, lengths, global_targets)


def _batch(
    tokens: NDArray[np.int64],  # the BOS-delimited stream
    pairs: NDArray[np.int64],  # (rows, width) pair numbers; anything valid in padding
    lengths: NDArray[np.int64],  # (rows,)
    global_targets: int,
) -> Batch:
    width = pairs.shape[1]
    columns = np.arange(width)
    inputs, targets = tokens[pairs], tokens[pairs + 1]
    # A segment opens with a row, with a document, and where the pairs are not consecutive. Two
    # pieces of one document never stand side by side: all but its last fill a row each.
    opens = inputs == BOS
    opens[:, 0] = True
    opens[:, 1:] |= pairs[:, 1:] != pairs[:, :-1] + 1
    segments = np.cumsum(opens, axis=1, dtype=np.int64) - 1
    positions = columns - np.maximum.accumulate(np.where(opens, columns, 0), axis=1)
    if lengths.min() < width:
        padding = columns >= lengths[:, None]
        inputs[padding], targets[padding] = BOS, IGNORE
        positions[padding], segments[padding] = 0, -1
    return Batch(
        inputs=inputs,
        targets=targets,
        positions=positions,
        segments=segments,
        lengths=lengths,
        global_targets=global_targets,
    )
