"""The mini-GPT in tensors: microgpt's transformer and its options, whole batches at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.tensor.attention import attention_branch
from nanochat.tensor.bigram import embedded
from nanochat.tensor.embeddings import Bags, Embeddings
from nanochat.tensor.functions import rmsnorm
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.mlp import mlp_branch
from nanochat.tensor.native.blocks import Block, Masks, Shape, run_blocks
from nanochat.tensor.native.lookup import look_up
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
        self._embeddings = Embeddings.of(config, vocab_size)
        self.wte = weights.leaf("wte", rows=self._embeddings.rows, master=True)
        self.wpe = None
        if config.positions == "learned":
            self.wpe = weights.leaf("wpe", rows=config.block_size, master=True)
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)
        self.blocks = [_block(weights, layer, config.n_embd) for layer in range(config.n_layer)]

    def hidden(self, inputs: Inputs, masks: Sequence[Tensor] = ()) -> Tensor:
        """(rows · width, n_embd) in the compute dtype; `masks` are those of dropout, if any."""
        heads, qk_norm = self.config.n_head, self.config.qk_norm
        squared = self.config.activation == "relu2"
        x = self._embed(inputs)
        x = x * masks[0] if masks else x
        branches: Masks = masks[1:] or (None,) * (2 * len(self.blocks))
        if inputs.native and self.blocks:
            return run_blocks(x, self.blocks, inputs, Shape(heads, qk_norm, squared), branches)
        for layer, block in enumerate(self.blocks):
            of_attention, of_mlp = branches[2 * layer : 2 * layer + 2]
            x = attention_branch(
                x, block.wqkv, block.wo, of_attention, inputs, heads=heads, qk_norm=qk_norm
            )
            x = mlp_branch(x, block.fc1, block.fc2, of_mlp, squared=squared)
        return x.to(self.dtype)

    def _embed(self, inputs: Inputs) -> Tensor:
        """`embed` of a batch, by the kernels where they are to run."""
        if not inputs.native:
            return self.embed(inputs.tokens, inputs.positions, inputs.bags)
        norm = self.config.input_rmsnorm
        if self.wpe is None:
            return look_up(self.wte, inputs, self._embeddings, norm=norm)
        x = look_up(self.wte, inputs, self._embeddings, norm=False)
        x = x + F.embedding(inputs.positions, self.wpe)
        return rmsnorm(x) if norm else x

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

    def masks(self, tokens: int, dropout: torch.Generator) -> list[Tensor]:
        """Inverted dropout (Srivastava et al. 2014) of the embedding and of each branch, in turn:
        (tokens, n_embd) 0 or 1 / keep, drawn from the generator."""
        keep = 1.0 - self.config.dropout
        return [
            self.wte.new_empty(tokens, self.config.n_embd)
            .bernoulli_(keep, generator=dropout)
            .div_(keep)
            for _ in range(1 + 2 * len(self.blocks))
        ]
