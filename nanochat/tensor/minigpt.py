"""The mini-GPT in tensors: microgpt's transformer and its options, whole batches at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.config import TrainConfig
from nanochat.tensor.attention import attention_branch
from nanochat.tensor.bigram import embedded
from nanochat.tensor.blocks import Block, Shape, run_blocks
from nanochat.tensor.embeddings import Bags, Embeddings
from nanochat.tensor.functions import rmsnorm
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.mlp import mlp_branch
from nanochat.tensor.weights import FlatWeights

__all__ = ["MiniGPT"]


def _block(weights: FlatWeights, layer: int, width: int) -> Block:
    return Block(
        wqkv=weights.leaf(f"layer{layer}.attn_wq", rows=3 * width),
        wo=weights.leaf(f"layer{layer}.attn_wo", rows=width),
        fc1=weights.leaf(f"layer{layer}.mlp_fc1", rows=4 * width),
        fc2=weights.leaf(f"layer{layer}.mlp_fc2", rows=width),
    )


class MiniGPT:
    """Embed, then attention and MLP a block; the residual stream stays in the master dtype."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        self.config = config
        self.dtype = weights.dtype
        rows = Embeddings.of(config, vocab_size).rows
        self.wte = weights.leaf("wte", rows=rows, master=True)
        self.wpe = None
        if config.positions == "learned":
            self.wpe = weights.leaf("wpe", rows=config.block_size, master=True)
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)
        self.value_embeds = [
            weights.leaf(f"layer{layer}.value_embed", rows=vocab_size, master=True)
            for layer in range(config.n_layer if config.value_embeds else 0)
        ]
        self.x0 = None
        if config.x0_skip:
            self.x0 = weights.leaf("x0", rows=config.n_layer, master=True)
        self.blocks = [_block(weights, layer, config.n_embd) for layer in range(config.n_layer)]

    def hidden(self, inputs: Inputs, dropout: torch.Generator | None = None) -> Tensor:
        """(rows · width, n_embd) in the compute dtype; `dropout` draws the masks of training."""
        heads, qk_norm = self.config.n_head, self.config.qk_norm
        squared = self.config.activation == "relu2"
        x = self.embed(inputs.tokens, inputs.positions, inputs.bags)
        if inputs.native and self.blocks:
            return run_blocks(x, self.blocks, inputs, Shape(heads, qk_norm, squared))
        mask = self.mask(x, dropout)
        x = x if mask is None else x * mask
        x0 = x
        for layer, block in enumerate(self.blocks):
            if self.x0 is not None:
                x = (1 + self.x0[layer, 0]) * x + self.x0[layer, 1] * x0
            values = None
            if self.value_embeds:
                values = F.embedding(inputs.tokens, self.value_embeds[layer]).to(self.dtype)
            mask = self.mask(x, dropout)
            x = attention_branch(
                x, block.wqkv, block.wo, mask, inputs, heads=heads, qk_norm=qk_norm, values=values
            )
            mask = self.mask(x, dropout)
            x = mlp_branch(x, block.fc1, block.fc2, mask, squared=squared)
        return x.to(self.dtype)

    def embed(
        self, tokens: Tensor, positions: Tensor, bags: Bags | None
    ) -> Tensor:  # (...,) -> (..., n_embd)
        """The residual stream at the start, in the master dtype; bags where wte is not alone."""
        norm = self.config.input_rmsnorm
        if bags is None and self.wpe is None:
            return embedded(self.wte, tokens, norm=norm)
        if bags is None:
            x = F.embedding(tokens, self.wte)
        else:
            x = F.embedding_bag(bags.rows, self.wte, bags.offsets, mode="sum")
            x = x.view(*tokens.shape, -1)
        if self.wpe is not None:
            x = x + F.embedding(positions, self.wpe)
        return rmsnorm(x) if norm else x

    def mask(self, x: Tensor, dropout: torch.Generator | None) -> Tensor | None:
        """Inverted dropout (Srivastava et al. 2014): 0 or 1 / keep, drawn from the generator."""
        if dropout is None:
            return None
        keep = 1.0 - self.config.dropout
        return torch.empty_like(x).bernoulli_(keep, generator=dropout).div_(keep)
