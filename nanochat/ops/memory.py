"""Memory of the ops' large results."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nanochat import native

__all__ = ["fresh", "fresh_like"]

# From here on a buffer of the kernels' store is cheaper than fresh pages from the system.
LARGE = 1 << 20


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(native.take_buffer(size), dtype=dtype).view(shape)


def fresh_like(tensor: Tensor) -> Tensor:
    """`fresh` of the tensor's shape, dtype and device."""
    if tensor.is_contiguous() and tensor.nbytes < LARGE:
        return torch.empty_like(tensor)  # half a microsecond less
    return fresh(tensor.shape, tensor.dtype, tensor.device)
