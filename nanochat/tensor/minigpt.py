"""The mini-GPT in tensors: microgpt's transformer and its options, whole batches at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.config import TrainConfig
from nanochat.tensor.attention import attention
from nanochat.tensor.bigram import embedded
from nanochat.tensor.functions import relu_squared, rmsnorm
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.weights import FlatWeights

__all__ = ["Block", "MiniGPT"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The matrices of one layer, (out, in)."""

    qkv: Tensor  # (3 · n_embd, n_embd): wq, wk, wv
    wo: Tensor  # (n_embd, n_embd)
    fc1: Tensor  # (4 · n_embd, n_embd)
    fc2: Tensor  # (n_embd, 4 · n_embd)
    squared: bool  # ReLU² instead of ReLU

    def mlp(self, x: Tensor) -> Tensor:  # (..., n_embd) in and out
        """fc2 · activation(fc1 · x)."""
        inner = F.linear(x, self.fc1)
        return F.linear(relu_squared(inner) if self.squared else inner.relu(), self.fc2)


def _block(config: TrainConfig, weights: FlatWeights, layer: int) -> Block:
    width = config.n_embd
    return Block(
        qkv=weights.leaf(f"layer{layer}.attn_wq", rows=3 * width),
        wo=weights.leaf(f"layer{layer}.attn_wo", rows=width),
        fc1=weights.leaf(f"layer{layer}.mlp_fc1", rows=4 * width),
        fc2=weights.leaf(f"layer{layer}.mlp_fc2", rows=width),
        squared=config.activation == "relu2",
    )


class MiniGPT:
    """Embed, then attention and MLP a block; the residual stream stays in the master dtype."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        self.config = config
        self.dtype = weights.dtype
        self._wte = weights.leaf("wte", rows=vocab_size, master=True)
        self._wpe = None
        if config.positions == "learned":
            self._wpe = weights.leaf("wpe", rows=config.block_size, master=True)
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)
        self.blocks = [_block(config, weights, layer) for layer in range(config.n_layer)]

    def hidden(self, inputs: Inputs, dropout: torch.Generator | None = None) -> Tensor:
        """(rows · width, n_embd) in the compute dtype; `dropout` draws the masks of training."""
        x = self._dropped(self.embed(inputs.tokens, inputs.positions), dropout)
        for block in self.blocks:
            qkv = F.linear(rmsnorm(x).to(self.dtype), block.qkv)
            mixed = attention(qkv, inputs, heads=self.config.n_head, qk_norm=self.config.qk_norm)
            x = x + self._dropped(F.linear(mixed, block.wo), dropout)
            x = x + self._dropped(block.mlp(rmsnorm(x).to(self.dtype)), dropout)
        return x.to(self.dtype)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:  # (...,) -> (..., n_embd)
        """The residual stream at the start, in the master dtype."""
        norm = self.config.input_rmsnorm
        if self._wpe is None:
            return embedded(self._wte, tokens, norm=norm)
        x = F.embedding(tokens, self._wte) + F.embedding(positions, self._wpe)
        return rmsnorm(x) if norm else x

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Inverted dropout (Srivastava et al. 2014) with masks from the given generator."""
        if generator is None:
            return x
        keep = 1.0 - self.config.dropout
        return x * torch.empty_like(x).bernoulli_(keep, generator=generator).div_(keep)
