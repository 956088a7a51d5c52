"""Memory of the ops' large results."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nanochat import native

__all__ = ["fresh"]

# From here on a buffer of the kernels' store is cheaper than fresh pages from the system.
LARGE = 1 << 20


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(native.take_buffer(size), dtype=dtype).view(shape)
