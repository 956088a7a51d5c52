"""Splits microbatches that do not fit in memory into parts of fewer rows.

The loss of a step is one sum over all its targets, so splitting changes it only by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from nanochat.data.batches import Batch

__all__ = ["in_parts", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means missing memory; on a CPU torch raises a bare RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_parts(batch: Batch, parts: int) -> Iterator[Batch]:
    """Yield the rows of a batch, in order, as at most `parts` batches of nearly equal size."""
    rows = len(batch.inputs)
    edges = np.linspace(0, rows, min(parts, rows) + 1).astype(int)
    for start, stop in pairwise(edges):
        piece = slice(start, stop)
        yield Batch(
            inputs=batch.inputs[piece], targets=batch.targets[piece],
            positions=batch.positions[piece], segments=batch.segments[piece],
            lengths=batch.lengths[piece], global_targets=batch.global_targets,
            by_counts=None if batch.by_counts is None else batch.by_counts[piece],
        )  # fmt: skip
