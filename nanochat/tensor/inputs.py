"""A batch as the models read it: flat tokens, rotary tables and the attention mask, made once.

Everything that all layers share is computed here, so that a layer only computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config import TrainConfig
from nanochat.data.batches import Batch
from nanochat.training.parameters import rotary_angles

__all__ = ["FUSED_WIDTH", "Inputs", "InputsMaker", "Rotary", "RotaryTable"]

# Up to this width the CPU runs our own attention on whole score matrices (23.0 ms a step against
# 24.7 at 64, 59.0 against 60.5 at 128, 73.2 against 63.8 at 256), beyond it torch's,
# which never holds them.
FUSED_WIDTH = 128


class Rotary(NamedTuple):
    """Angles of a batch, in a shape that broadcasts over (rows, heads, width, head_dim)."""

    cos: Tensor  # (..., width, head_dim), the half repeated
    sin: Tensor  # (..., width, head_dim / 2)


class RotaryTable:
    """cos and sin by position; grows with the positions that are asked for."""

    def __init__(
        self, head_dim: int, size: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._head_dim = head_dim
        self._device, self._dtype = device, dtype
        self._grow(size)

    def _grow(self, size: int) -> None:
        cos, sin = rotary_angles(np.arange(size), self._head_dim)
        self._size = size
        full = np.concatenate([cos, cos], axis=-1)
        self._cos = torch.from_numpy(full).to(self._dtype).to(self._device)
        self._sin = torch.from_numpy(sin).to(self._dtype).to(self._device)

    def span(self, first: int, last: int) -> Rotary:
        """Angles of positions first … last − 1, each (last − first, ·)."""
        if last > self._size:
            self._grow(2 * last)
        return Rotary(self._cos[first:last], self._sin[first:last])

    def rows(self, positions: NDArray[np.int64]) -> Rotary:  # positions (rows, width)
        """Angles of a batch: (width, ·) if every row counts from 0, else (rows, 1, width, ·)."""
        largest = int(positions.max())
        if largest >= self._size:
            self._grow(2 * largest)
        if (positions == np.arange(positions.shape[1])).all():
            return self.span(0, positions.shape[1])
        index = torch.from_numpy(positions).to(self._cos.device)
        return Rotary(self._cos[index].unsqueeze(1), self._sin[index].unsqueeze(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One batch on its device. Tokens of a row follow one another: index = row · width + column."""

    rows: int
    width: int
    tokens: Tensor  # (rows · width,) int64
    targets: Tensor  # (rows · width,) int64, −1 counts in no loss
    positions: Tensor  # (rows · width,) int64
    rotary: Rotary | None
    fused: bool  # our own attention
    # fused: 0 or −inf, (width, width) or (rows · heads, width, width); else bool
    # (rows, 1, width, width), or None where being causal is all.
    mask: Tensor | None


class InputsMaker:
    """Makes Inputs for one model on one device."""

    def __init__(self, config: TrainConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self._attends = config.model_kind == "mini-gpt"
        self._heads = config.n_head
        self._device, self._dtype = device, dtype
        self._causal: dict[int, Tensor] = {}
        self.table = None
        if config.positions == "rope":
            self.table = RotaryTable(config.head_dim, config.block_size, device=device, dtype=dtype)

    def __call__(self, batch: Batch) -> Inputs:
        rows, width = len(batch.lengths), max(1, int(batch.lengths.max()))  # padding columns go
        positions = batch.positions[:, :width]
        numbers = np.stack([batch.inputs[:, :width], batch.targets[:, :width], positions])
        tokens, targets, flat_positions = self._to_device(numbers.reshape(3, rows * width))
        fused = self._device.type == "cpu" and width <= FUSED_WIDTH
        return Inputs(
            rows=rows,
            width=width,
            tokens=tokens,
            targets=targets,
            positions=flat_positions,
            rotary=self.table.rows(positions) if self.table else None,
            fused=fused,
            mask=self._mask(batch.segments[:, :width], fused) if self._attends else None,
        )

    def _to_device(self, numbers: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(numbers)
        if self._device.type == "cuda":
            # Pinned, so that the copy is queued and nobody waits for it.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _mask(self, segments: NDArray[np.int64], fused: bool) -> Tensor | None:
        rows, width = segments.shape
        # Padding behind a row's only segment is seen by no token, being in their future.
        one_segment = bool(((segments == segments[:, :1]) | (segments < 0)).all())
        if one_segment:
            return self._causal_mask(width) if fused else None
        index = self._to_device(segments)
        seen = (index.unsqueeze(2) == index.unsqueeze(1)).tril_()
        if not fused:
            return seen.unsqueeze(1)
        mask = torch.full((rows, 1, width, width), -math.inf, dtype=self._dtype)
        mask.masked_fill_(seen.unsqueeze(1), 0.0)
        return mask.expand(rows, self._heads, width, width).reshape(-1, width, width)

    def _causal_mask(self, width: int) -> Tensor:
        if width not in self._causal:
            full = torch.full((width, width), -math.inf, dtype=self._dtype)
            self._causal[width] = full.triu_(1)
        return self._causal[width]
