"""Memory for the ops' large results."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nanochat import native

__all__ = ["empty", "empty_like"]

# From this size on, a buffer that the kernels keep is cheaper than new pages from the system.
LARGE_BYTES = 1 << 20


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialized contiguous tensor."""
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(native.take_buffer(size), dtype=dtype).view(shape)


def empty_like(tensor: Tensor) -> Tensor:
    """Return an uninitialized contiguous tensor of the same shape, dtype and device."""
    if tensor.is_contiguous() and tensor.nbytes < LARGE_BYTES:
        return torch.empty_like(tensor)  # half a microsecond less
    return empty(tensor.shape, tensor.dtype, tensor.device)
