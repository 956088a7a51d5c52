"""Microbatches that do not fit in memory, in parts of fewer rows.

The loss of a step is one sum over all its targets, so that parts change it by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from nanochat.data.batches import Batch

__all__ = ["in_parts", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python found no memory; on a CPU torch says so in words alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_parts(batch: Batch, parts: int) -> Iterator[Batch]:
    """The rows of a batch, in order, in at most `parts` batches of near equal size."""
    rows = len(batch.inputs)
    edges = np.linspace(0, rows, min(parts, rows) + 1).astype(int)
    for start, stop in pairwise(edges):
        piece = slice(start, stop)
        yield Batch(
            inputs=batch.inputs[piece], targets=batch.targets[piece],
            positions=batch.positions[piece], segments=batch.segments[piece],
            lengths=batch.lengths[piece], global_targets=batch.global_targets,
        )  # fmt: skip
