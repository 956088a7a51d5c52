"""The rows of a linear layer in chunks, so that not all logits exist at one time.

A matrix product makes the chunk's logits, a kernel overwrites them with their gradient, and two
more products add the chunk's part of both input gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nanochat.ops import memory
from nanochat.ops.loss import accumulation_dtype

__all__ = ["Chunk", "Gradients", "all_chunks", "chunk_size"]

# Size of a chunk's logits: 1 / CHUNK_SHARE of all logits (with the rest of a chunk's memory that is
# an eighth), or the size of the weight if that is more (no second sum or gradient of it exists
# meanwhile). At least MIN_CHUNK_BYTES, because each chunk packs the weight and adds to its
# gradient. At most MAX_CHUNK_BYTES, about a last-level cache. Logits that fit there are one chunk.
CHUNK_SHARE = 12
MIN_CHUNK_BYTES = 12 << 20
MAX_CHUNK_BYTES = 32 << 20
MAX_CHUNK_BYTES_ON_GPU = 1 << 30
# Rows of the weight's gradient are made in slices of this size where products are not float32.
SLICE_BYTES = 512 << 10


class Chunk(NamedTuple):
    """Consecutive rows whose logits exist at one time."""

    number: int
    rows: slice


def chunk_size(hidden: Tensor, weight: Tensor) -> int:
    """Return the number of rows per chunk."""
    rows, row_bytes = len(hidden), len(weight) * hidden.element_size()
    most = MAX_CHUNK_BYTES if hidden.device.type == "cpu" else MAX_CHUNK_BYTES_ON_GPU
    size = rows
    if rows * row_bytes > most:
        wanted = max(rows * row_bytes / CHUNK_SHARE, weight.nbytes, MIN_CHUNK_BYTES)
        size = int(min(wanted, most)) // row_bytes
    size = min(max(size, 1), max(rows, 1))
    # Matrix products are fastest on whole tiles.
    return size - size % 16 if 32 <= size < rows else size


def all_chunks(hidden: Tensor, weight: Tensor) -> list[Chunk]:
    rows, size = len(hidden), chunk_size(hidden, weight)
    starts = range(0, rows, size)
    return [Chunk(i, slice(first, min(first + size, rows))) for i, first in enumerate(starts)]


@dataclass(slots=True)
class Gradients:
    """Where the products of the chunks' gradients go; None means not needed."""

    hidden: Tensor | None  # (rows, hidden size)
    weight: Tensor | None  # (vocab, hidden size) accumulation dtype: the sum over the chunks
    begun: bool = False

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> Gradients:
        dtype = accumulation_dtype(hidden.dtype)
        return cls(
            memory.empty_like(hidden) if wanted[0] else None,
            memory.empty(weight.shape, dtype, weight.device) if wanted[1] else None,
        )

    @property
    def wanted(self) -> bool:
        return self.hidden is not None or self.weight is not None

    def add(self, gradient: Tensor, hidden: Tensor, weight: Tensor, chunk: Chunk) -> None:
        """Add the part of one chunk, whose logits have this gradient."""
        if self.hidden is not None:
            torch.mm(gradient, weight, out=self.hidden[chunk.rows])
        if self.weight is not None:
            _add_product(self.weight, gradient, hidden[chunk.rows], self.begun)
            self.begun = True

    def results(self, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gradients in the inputs' dtype; one that is not needed has size 0."""
        if self.weight is not None and not self.begun:
            self.weight.zero_()
        return (
            hidden.new_empty(0) if self.hidden is None else self.hidden,
            hidden.new_empty(0) if self.weight is None else self.weight.to(weight.dtype),
        )


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor, begun: bool) -> None:
    """Write gradientᵀ · hidden to `total`, or add it once the sum has begun."""
    if gradient.dtype == total.dtype:
        torch.addmm(total, gradient.t(), hidden, beta=1 if begun else 0, out=total)
    elif gradient.device.type == "cpu":
        _add_product_in_slices(total, gradient, hidden, begun)
    elif begun:
        torch.addmm(total, gradient.t(), hidden, out_dtype=total.dtype, out=total)
    else:
        torch.mm(gradient.t(), hidden, out_dtype=total.dtype, out=total)


def _add_product_in_slices(total: Tensor, gradient: Tensor, hidden: Tensor, begun: bool) -> None:
    """Add the product in slices of rows, because a half-precision product needs its own memory."""
    rows = max(1, SLICE_BYTES // max(1, hidden.shape[1] * hidden.element_size()))
    for first in range(0, len(total), rows):
        product = torch.mm(gradient[:, first : first + rows].t(), hidden)
        target = total[first : first + rows]
        _ = target.add_(product) if begun else target.copy_(product)
