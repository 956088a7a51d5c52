"""A batch as the models read it: flat tokens, rotary tables and the attention mask, made once.

Everything that all layers share is computed here, so that a layer only computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.model.parameters import rotary_angles
from nanochat.tensor.embeddings import Bags, Embeddings

__all__ = [
    "NATIVE_WIDTH",
    "Inputs",
    "InputsMaker",
    "Rotary",
    "RotaryTable",
]

# Up to this width the CPU runs our own attention, beyond it torch's, which never holds a head's
# scores as a whole.
NATIVE_WIDTH = 512


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
        self._angles: Rotary | None = None

    def angles(self, largest: int, dtype: torch.dtype) -> Rotary:
        """All angles, as the kernels take them: halves in `dtype`, for positions to `largest`."""
        if largest >= self._size:
            self._grow(2 * largest)
        if self._angles is None:
            cos, sin = rotary_angles(np.arange(self._size), self._head_dim)
            self._angles = Rotary(torch.from_numpy(cos).to(dtype), torch.from_numpy(sin).to(dtype))
        return self._angles

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
    bags: Bags | None  # for torch, of rows to add up; None: a token's own row alone
    native: bool  # for the kernels, which take angles and starts, or for torch: rotary and mask
    rotary: Rotary | None = None
    angles: Rotary | None = None  # by position, halves
    starts: Tensor | None = None  # (rows · width,) int64, the first visible column; None: all 0
    mask: Tensor | None = None  # bool (rows, 1, width, width); None: being causal is all


class InputsMaker:
    """Makes Inputs for one model on one device."""

    def __init__(
        self, config: TrainConfig, vocab_size: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._embeddings = Embeddings.of(config, vocab_size)
        self._attends = config.model_kind == "mini-gpt"
        self._native = device.type == "cpu" and config.loss == "fused"
        self._device, self._dtype = device, dtype
        self.table = None
        if config.positions == "rope":
            self.table = RotaryTable(config.head_dim, config.block_size, device=device, dtype=dtype)

    def __call__(self, batch: Batch, *, compiled: bool = False) -> Inputs:
        """The batch for the model as it is written, or as torch.compile reads it."""
        rows, width = len(batch.lengths), max(1, int(batch.lengths.max()))  # padding columns go
        positions = batch.positions[:, :width]
        numbers = np.stack([batch.inputs[:, :width], batch.targets[:, :width], positions])
        tokens, targets, flat_positions = self._to_device(numbers.reshape(3, rows * width))
        native = self._native and width <= NATIVE_WIDTH and not compiled
        segments = batch.segments[:, :width]
        inputs = Inputs(
            rows=rows, width=width, tokens=tokens, targets=targets, positions=flat_positions,
            bags=None if native else self._bags(batch.inputs[:, :width], segments), native=native,
        )  # fmt: skip
        if not self._attends:
            return inputs
        if not native:
            rotary = self.table.rows(positions) if self.table else None
            return replace(inputs, rotary=rotary, mask=self._mask(segments))
        numbers_type = torch.float64 if self._dtype == torch.float64 else torch.float32
        angles = self.table.angles(int(positions.max()), numbers_type) if self.table else None
        starts = None if _one_segment(segments) else torch.from_numpy(_starts(segments).reshape(-1))
        return replace(inputs, angles=angles, starts=starts)

    def _bags(self, tokens: NDArray[np.int64], segments: NDArray[np.int64]) -> Bags | None:
        if not self._embeddings.lookback:
            return None
        rows, offsets = self._embeddings.bags(tokens, _starts(segments))
        return Bags(self._to_device(rows), self._to_device(offsets))

    def _to_device(self, numbers: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(numbers)
        if self._device.type == "cuda":
            # Pinned, so that the copy is queued and nobody waits for it.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _mask(self, segments: NDArray[np.int64]) -> Tensor | None:
        if _one_segment(segments):
            return None
        index = self._to_device(segments)
        return (index.unsqueeze(2) == index.unsqueeze(1)).tril_().unsqueeze(1)


def _starts(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows, width) the first column of each token's segment."""
    columns = np.arange(1, segments.shape[1])
    starts = np.zeros(segments.shape, dtype=np.int64)
    starts[:, 1:] = np.where(segments[:, 1:] != segments[:, :-1], columns, 0)
    return np.maximum.accumulate(starts, axis=1)


def _one_segment(segments: NDArray[np.int64]) -> bool:
    """Padding behind a row's only segment is seen by no token, being in their future."""
    return bool(((segments == segments[:, :1]) | (segments < 0)).all())
