"""Decoding with the tensor models: keys and values of the last block_size tokens are kept.

Owns the cache and the window; what a token's logits are made of comes from the models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config import TrainConfig
from nanochat.ops.cross_entropy import head_logits
from nanochat.tensor.attention import rotate
from nanochat.tensor.bigram import Bigram
from nanochat.tensor.functions import rmsnorm
from nanochat.tensor.inputs import RotaryTable
from nanochat.tensor.minigpt import MiniGPT

__all__ = ["TensorDecoder"]


class TensorDecoder:
    """Next-token logits of rows that grow together; see training.engine.Decoder.

    The cache is a ring: position p lies in slot p mod block_size, so that with RoPE, whose keys
    are stored rotated, the newest token overwrites the oldest. Softmax asks for no order.
    """

    def __init__(
        self,
        model: Bigram | MiniGPT,
        config: TrainConfig,
        table: RotaryTable | None,
        prompts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._model, self._config, self._table, self._device = model, config, table, device
        shape = (config.n_layer, 2, len(prompts), config.n_head, config.block_size, config.head_dim)
        self._cache = torch.empty(shape, dtype=model.dtype, device=device)
        self._places = torch.arange(config.block_size, device=device)
        self._count = 0  # tokens in the cache or past it
        # Learned positions are absolute: a moved window is a new text, read again as a whole.
        self._rereads = config.model_kind == "mini-gpt" and table is None
        self._window = torch.tensor(prompts, dtype=torch.int64, device=device)  # (rows, tokens)
        self._read_prompts()

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        return self._logits.cpu().numpy()

    @torch.inference_mode()
    def _read_prompts(self) -> None:
        size = self._config.block_size
        prompts = self._window
        if self._rereads:
            self._window = prompts[:, -size:]
            self._extend(self._window)
            return
        self._extend(prompts[:, :size])
        for column in range(size, prompts.shape[1]):
            self._extend(prompts[:, column : column + 1])

    @torch.inference_mode()
    def advance(self, ids: Sequence[int]) -> None:
        tokens = torch.tensor(ids, dtype=torch.int64, device=self._device).unsqueeze(1)
        if self._rereads:
            self._window = torch.cat((self._window, tokens), dim=1)[:, -self._config.block_size :]
            if self._count == self._config.block_size:
                self._count = 0
                tokens = self._window
        self._extend(tokens)

    def _extend(self, tokens: Tensor) -> None:  # (rows, 1), or more into an empty cache
        """Read tokens and set the logits of the next one."""
        width = tokens.shape[1]
        slot = self._count % self._config.block_size
        self._count += width
        x = self._model.embed(tokens, self._places[slot : slot + width])
        for block, cache in zip(self._model.blocks, self._cache, strict=True):
            qkv = F.linear(rmsnorm(x).to(self._model.dtype), block.qkv)
            x = x + F.linear(self._attend(qkv, cache, slot), block.wo)
            x = x + block.mlp(rmsnorm(x).to(self._model.dtype))
        last = x[:, -1].to(self._model.dtype)
        self._logits = head_logits(last, self._model.head, softcap=self._config.logit_softcap)

    def _attend(
        self,
        qkv: Tensor,  # (rows, width, 3 · n_embd)
        cache: Tensor,  # (2, rows, heads, block_size, head_dim) of this layer
        slot: int,
    ) -> Tensor:  # (rows, width, n_embd)
        rows, width, _ = qkv.shape
        heads, size = self._config.n_head, self._config.head_dim
        by_head = qkv.view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
        qk = by_head[:2]
        if self._table is not None:
            rotary = self._table.span(self._count - width, self._count)
            qk = rotate(qk, rotary, qk.new_empty(qk.shape))
        if self._config.qk_norm:
            qk = rmsnorm(qk)
        place = slice(slot, slot + width)
        cache[0, :, :, place] = qk[1]
        cache[1, :, :, place] = by_head[2]
        filled = min(self._count, self._config.block_size)
        keys, values = cache[:, :, :, :filled].unbind(0)
        mixed = F.scaled_dot_product_attention(qk[0], keys, values, is_causal=width > 1)
        return mixed.transpose(1, 2).reshape(rows, width, heads * size)
