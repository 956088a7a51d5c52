"""A batch as the models read it: tokens, positions, rotary angles, attention mask, dropout.

Everything that all layers share is computed here, once per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.model.parameters import rotary_angles
from nanochat.tensor.embeddings import Bags, EmbeddingTables

__all__ = [
    "NATIVE_LENGTH", "Inputs", "InputsMaker", "LabeledInputs", "Mask", "Rotary", "RotaryTable",
]  # fmt: skip

# Up to this sequence length the native blocks use our attention kernel. For longer sequences they
# use torch's attention, which never stores all scores of a head.
NATIVE_LENGTH = 512


class Rotary(NamedTuple):
    """Rotary angles in shapes that broadcast over (rows, heads, length, head_dim)."""

    cos: Tensor  # (..., length, head_dim), cos in both halves
    sin: Tensor  # (..., length, head_dim), sin in the first half and −sin in the second


class Mask(NamedTuple):
    """The elements of (tokens, n_embd) that dropout keeps; see nck_draw_masks in abi.h."""

    bits: Tensor  # (tokens, ⌈n_embd / 8⌉) uint8, one bit per element
    scale: float  # of the kept elements


class RotaryTable:
    """cos and sin by position. The table grows when a larger position is requested."""

    def __init__(
        self, head_dim: int, size: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._head_dim = head_dim
        self._device, self._dtype = device, dtype
        self._grow(size)

    def _grow(self, size: int) -> None:
        cos, sin = rotary_angles(np.arange(size), self._head_dim)
        self._size = size
        both_cos, both_sin = np.concatenate([cos, cos], -1), np.concatenate([sin, -sin], -1)
        self._cos = torch.from_numpy(both_cos).to(self._dtype).to(self._device)
        self._sin = torch.from_numpy(both_sin).to(self._dtype).to(self._device)
        self._angles: tuple[Tensor, Tensor] | None = None

    def angles(self, largest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and sin for the kernels, each (at least largest + 1, head_dim / 2)."""
        if largest >= self._size:
            self._grow(2 * largest)
        if self._angles is None:
            cos, sin = rotary_angles(np.arange(self._size), self._head_dim)
            self._angles = torch.from_numpy(cos).to(dtype), torch.from_numpy(sin).to(dtype)
        return self._angles

    def span(self, first: int, last: int) -> Rotary:
        """Return the angles of positions first … last − 1, each (last − first, ·)."""
        if last > self._size:
            self._grow(2 * last)
        return Rotary(self._cos[first:last], self._sin[first:last])

    def rows(self, positions: NDArray[np.int64]) -> Rotary:  # positions (rows, length)
        """Return the angles of a batch: (length, ·) if every row counts from 0, otherwise
        (rows, 1, length, ·)."""
        largest = int(positions.max())
        if largest >= self._size:
            self._grow(2 * largest)
        if (positions == np.arange(positions.shape[1])).all():
            return self.span(0, positions.shape[1])
        index = torch.from_numpy(positions).to(self._cos.device)
        return Rotary(self._cos[index].unsqueeze(1), self._sin[index].unsqueeze(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Rows of tokens of one length, flat: a token has the index row · length + column."""

    rows: int
    length: int
    tokens: Tensor  # (rows · length,) int64
    positions: Tensor  # (rows · length,) int64
    bags: Bags | None = None  # table rows to add per token; None: the row of the token alone
    rotary: Rotary | None = None
    attention_mask: Tensor | None = None  # bool (rows, 1, length, length); None: causal alone
    dropout_scales: Sequence[Tensor] = ()  # see Dropout.scales; empty: no dropout
    # For native/ only.
    dropout_masks: Sequence[Mask] = ()  # in place of dropout_scales
    kernel_attention: bool = False  # our kernel, which reads the two below, or torch's attention
    angles: tuple[Tensor, Tensor] | None = None  # see RotaryTable.angles
    starts: Tensor | None = None  # (rows · length,) int64, first visible column; None: all 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledInputs(Inputs):
    """The inputs of a batch with the targets of its loss."""

    targets: Tensor  # (rows · length,) int64; −1 counts in no loss
    # (rows · length,) float32 probability of the targets by counted n-grams; None: no counts
    by_counts: Tensor | None = None


class InputsMaker:
    """Turns batches into the inputs of one model on one device."""

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,  # of the activations
        native: bool,  # for native.MiniGPT instead of model.MiniGPT
    ) -> None:
        self._embeddings = EmbeddingTables.of(config, vocab_size)
        self._attends = config.n_layer > 0
        self._native = native
        self._device = device
        self._master_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.table = None
        if config.positions == "rope":
            self.table = RotaryTable(config.head_dim, config.block_size, device=device, dtype=dtype)

    def __call__(self, batch: Batch) -> LabeledInputs:
        """Copy a batch to the device, without the columns that are padding in every row."""
        rows, length = len(batch.lengths), max(1, int(batch.lengths.max()))
        positions, segments = batch.positions[:, :length], batch.segments[:, :length]
        integers = np.stack([batch.inputs[:, :length], batch.targets[:, :length], positions])
        tokens, targets, flat_positions = self._to_device(integers.reshape(3, rows * length))
        inputs = LabeledInputs(
            rows=rows, length=length, tokens=tokens, targets=targets, positions=flat_positions,
            bags=None if self._native else self._bags(batch.inputs[:, :length], segments),
            starts=self._starts(segments) if self._native else None,
            by_counts=self._by_counts(batch, length),
        )  # fmt: skip
        if not self._attends:
            return inputs
        if self._native and length <= NATIVE_LENGTH:
            largest = int(positions.max())
            angles = self.table.angles(largest, self._master_dtype) if self.table else None
            return replace(inputs, kernel_attention=True, angles=angles)
        rotary = self.table.rows(positions) if self.table else None
        return replace(inputs, rotary=rotary, attention_mask=self._attention_mask(segments))

    def _bags(self, tokens: NDArray[np.int64], segments: NDArray[np.int64]) -> Bags | None:
        if not self._embeddings.lookback:
            return None
        rows, offsets = self._embeddings.bags(tokens, _segment_starts(segments))
        return Bags(self._to_device(rows), self._to_device(offsets))

    def _by_counts(self, batch: Batch, length: int) -> Tensor | None:
        if batch.by_counts is None:
            return None
        return torch.from_numpy(batch.by_counts[:, :length].reshape(-1)).to(self._device)

    def _starts(self, segments: NDArray[np.int64]) -> Tensor | None:
        if not (self._attends or self._embeddings.lookback) or _one_segment(segments):
            return None
        return torch.from_numpy(_segment_starts(segments).reshape(-1))

    def _to_device(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            # The copy of pinned memory is queued; the host does not wait for it.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _attention_mask(self, segments: NDArray[np.int64]) -> Tensor | None:
        if _one_segment(segments):
            return None
        index = self._to_device(segments)
        return (index.unsqueeze(2) == index.unsqueeze(1)).tril_().unsqueeze(1)


def _segment_starts(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first column of each token's segment, (rows, length)."""
    columns = np.arange(1, segments.shape[1])
    starts = np.zeros(segments.shape, dtype=np.int64)
    starts[:, 1:] = np.where(segments[:, 1:] != segments[:, :-1], columns, 0)
    return np.maximum.accumulate(starts, axis=1)


def _one_segment(segments: NDArray[np.int64]) -> bool:
    """Return whether each row is one segment. Padding after it is in the future of every token."""
    return bool(((segments == segments[:, :1]) | (segments < 0)).all())
