"""Inverted dropout (Srivastava et al. 2014) of the embedding and of each branch of the blocks.

What a microbatch drops is a pure function of the seed, the step, the microbatch, the process and
the place: 0 for the embedding, then two per layer for the attention and the MLP. There is no
generator state to save, and a resumed run drops the same elements.

On the CPU the numbers are those of `nck_draw_masks` (csrc/kernels/abi.h), for native/ and for
model.py alike. An element is kept if a 16-bit Philox number is below `kept_numbers`, so the
probability is a multiple of 2⁻¹⁶. On other devices torch's generator draws, seeded by Philox: equal
runs on one kind of device drop the same elements, but not those of the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nanochat import philox
from nanochat.config.options import TrainConfig
from nanochat.tensor import distributed
from nanochat.tensor.inputs import LabeledInputs, Mask
from nanochat.tensor.native import kernels

__all__ = ["Dropout", "kept_numbers"]

NUMBERS = 1 << 16  # that a 16-bit Philox number can be


def kept_numbers(dropout: float) -> int:
    """Return how many of the 16-bit numbers keep their element."""
    return round((1.0 - dropout) * NUMBERS)


class Dropout:
    """Draws the dropout of the microbatches of one model on one device."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,  # of the residual stream
        native: bool,  # for native.MiniGPT instead of model.MiniGPT
    ) -> None:
        self._config, self._native = config, native
        self._device, self._dtype = device, dtype
        self._places = 1 + 2 * config.n_layer
        self._generator = None if device.type == "cpu" else torch.Generator(device)

    def __call__(self, inputs: LabeledInputs, step: int, microbatch: int) -> LabeledInputs:
        """Return the inputs with the dropout of this process's microbatch of a step."""
        tokens = len(inputs.tokens)
        if self._native:
            return replace(inputs, dropout_masks=self.masks(tokens, step, microbatch))
        return replace(inputs, dropout_scales=self.scales(tokens, step, microbatch))

    def masks(self, tokens: int, step: int, microbatch: int) -> tuple[Mask, ...]:
        """Return the mask of each place."""
        kept = kept_numbers(self._config.dropout)
        bits = kernels.draw_masks(
            self._places, tokens, self._config.n_embd, kept=kept, seed=self._config.seed,
            step=step, microbatch=microbatch, rank=distributed.rank(),
        )  # fmt: skip
        return tuple(Mask(place, NUMBERS / kept) for place in bits.unbind())

    def scales(self, tokens: int, step: int, microbatch: int) -> Sequence[Tensor]:
        """Return 0 or 1 / keep for each element of each place, (tokens, n_embd) each."""
        shape = tokens, self._config.n_embd
        if self._generator is None:
            ones = torch.ones(shape, dtype=self._dtype)
            return [kernels.dropout(ones, mask) for mask in self.masks(tokens, step, microbatch)]
        keep = 1.0 - self._config.dropout
        generator = self._generator.manual_seed(self._generator_seed(step, microbatch))
        drawn = torch.empty((self._places, *shape), dtype=self._dtype, device=self._device)
        return drawn.bernoulli_(keep, generator=generator).div_(keep).unbind()

    def _generator_seed(self, step: int, microbatch: int) -> int:
        item, rank = step << 32 | microbatch, distributed.rank()
        seed = philox.random_u64(self._config.seed, philox.Stream.DROPOUT, item, 1, first=rank)
        return int(seed[0] >> np.uint64(1))
