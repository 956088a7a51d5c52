"""The tensor engine's models in plain torch: embedding, attention, MLP, block, model.

GPUs, torch.compile and `--loss torch` run this file. `native/` computes the same faster on the CPU
and is tested against it. Read it next to scalar/minigpt.py, which does the same one number at a
time. The parameters live in FlatWeights; inputs.py prepares everything that all layers share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.config.options import TrainConfig
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ops.reference import head_logits
from nanochat.tensor.embeddings import EmbeddingTables
from nanochat.tensor.inputs import Inputs, Rotary
from nanochat.tensor.weights import FlatWeights

__all__ = ["ACTIVATIONS", "MODELS", "Bigram", "Block", "KeyValueCache", "MiniGPT", "attend"]

# A name that is missing in native.COMPUTED trains and samples with this file on every device.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def rmsnorm(x: Tensor) -> Tensor:
    """Return x / rms(x) over the last dimension, without weights (Zhang & Sennrich 2019)."""
    return F.rms_norm(x, (x.shape[-1],), eps=RMSNORM_EPS)


def linear(x: Tensor, weight: Tensor) -> Tensor:  # (tokens, in), (out, in) -> (tokens, out)
    """Return x · weightᵀ in the dtype of the weight: the norms compute in the master dtype."""
    return F.linear(x.to(weight.dtype), weight)


def dropout(x: Tensor, inputs: Inputs, place: int) -> Tensor:
    """Multiply by the scales of a place: 0 is the embedding, 1 and 2 are branches of layer 0."""
    return x * inputs.dropout_scales[place] if inputs.dropout_scales else x


def rotate(x: Tensor, rotary: Rotary) -> Tensor:  # (..., length, head_dim)
    """Rotate in halves (Su et al. 2021): y₁ = x₁·cos + x₂·sin, y₂ = x₂·cos − x₁·sin."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)  # x₂, x₁
    return (x * rotary.cos).addcmul(swapped, rotary.sin)


class KeyValueCache:
    """Keys and values of the last block_size tokens of one layer: a ring, in no order."""

    def __init__(self, rows: int, config: TrainConfig, like: Tensor) -> None:
        shape = (rows, config.n_head, config.block_size, config.head_dim)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.count = 0  # tokens read so far

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens; return those of all tokens that are visible."""
        length, slot = keys.shape[2], self.count % self.keys.shape[2]
        self.count += length
        self.keys[:, :, slot : slot + length] = keys
        self.values[:, :, slot : slot + length] = values
        return self.keys[:, :, : self.count], self.values[:, :, : self.count]


def attend(
    qkv: Tensor,  # (tokens, 3 · n_embd): queries, keys, values, head by head
    inputs: Inputs,
    heads: int,
    norm: Callable[[Tensor], Tensor] | None,  # of queries and keys, after the rotation
    cache: KeyValueCache | None = None,
) -> Tensor:  # (tokens, n_embd)
    """Causal attention within segments: softmax(q·k / √head_dim) · v over the visible tokens."""
    by_head = qkv.view(inputs.rows, inputs.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    qk, v = by_head[:2], by_head[2]
    if inputs.rotary is not None:
        qk = rotate(qk, inputs.rotary)
    q, k = (norm(qk) if norm else qk).unbind()
    if cache is not None:
        k, v = cache.append(k, v)
    mask = inputs.attention_mask
    causal = mask is None and inputs.length > 1  # one new token sees all tokens in the cache
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return mixed.transpose(1, 2).reshape(len(qkv), -1)


class Embedding(nn.Module):
    """Tokens as vectors: a row of wte, of wpe, and those of earlier tokens and n-grams, added."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        super().__init__()
        rows = EmbeddingTables.of(config, vocab_size).rows
        self.wte = weights.leaf("wte", rows=rows, master=True)
        learned = "wpe" in weights.offsets
        self.wpe = weights.leaf("wpe", rows=config.block_size, master=True) if learned else None
        self.norm = rmsnorm if config.input_rmsnorm else nn.Identity()

    def forward(self, inputs: Inputs) -> Tensor:  # (tokens, n_embd) master dtype
        if inputs.bags is None:
            x = F.embedding(inputs.tokens, self.wte)
        else:
            x = F.embedding_bag(inputs.bags.rows, self.wte, inputs.bags.offsets, mode="sum")
        if self.wpe is not None:
            x = x + F.embedding(inputs.positions, self.wpe)
        return dropout(self.norm(x), inputs, place=0)


class Block(nn.Module):
    """One transformer block; the residual stream x stays in the master dtype."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, layer: int) -> None:
        super().__init__()
        self.wqkv = weights.leaf(f"layer{layer}.attn_wq", rows=3 * config.n_embd)  # wq, wk, wv
        self.wo = weights.leaf(f"layer{layer}.attn_wo", rows=config.n_embd)
        self.fc1 = weights.leaf(f"layer{layer}.mlp_fc1", rows=4 * config.n_embd)
        self.fc2 = weights.leaf(f"layer{layer}.mlp_fc2", rows=config.n_embd)
        self.heads, self.norm = config.n_head, rmsnorm if config.qk_norm else None
        self.activation, self.layer = ACTIVATIONS[config.activation], layer

    def forward(self, x: Tensor, inputs: Inputs, cache: KeyValueCache | None = None) -> Tensor:
        x = x + self.attention(rmsnorm(x), inputs, cache)
        return x + self.mlp(rmsnorm(x), inputs)

    def attention(self, x: Tensor, inputs: Inputs, cache: KeyValueCache | None) -> Tensor:
        mixed = attend(linear(x, self.wqkv), inputs, self.heads, self.norm, cache)
        return dropout(linear(mixed, self.wo), inputs, place=1 + 2 * self.layer)

    def mlp(self, x: Tensor, inputs: Inputs) -> Tensor:
        active = self.activation(linear(x, self.fc1))
        return dropout(linear(active, self.fc2), inputs, place=2 + 2 * self.layer)


class MiniGPT(nn.Module):
    """microgpt's transformer with its options: embedding, blocks, output head."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        super().__init__()
        self.config, self.dtype = config, weights.dtype
        self.embedding = Embedding(config, weights, vocab_size)
        self.blocks = nn.ModuleList(Block(config, weights, i) for i in range(config.n_layer))
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)

    def hidden(self, inputs: Inputs, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """Return the hidden states that the head reads, (tokens, n_embd) in the compute dtype."""
        x: Tensor = self.embedding(inputs)
        for layer, block in enumerate(self.blocks):
            x = block(x, inputs, caches[layer] if caches else None)
        return x.to(self.dtype)

    def next_logits(self, inputs: Inputs, caches: Sequence[KeyValueCache]) -> Tensor:
        """Return the logits after the last token of each row, (rows, vocab)."""
        hidden = self.hidden(inputs, caches).view(inputs.rows, inputs.length, -1)[:, -1]
        return head_logits(hidden, self.head, softcap=self.config.logit_softcap)


class Bigram(MiniGPT):
    """The mini-GPT without positions and blocks: the next token depends on the last one alone."""


MODELS: Mapping[str, type[MiniGPT]] = {"bigram": Bigram, "mini-gpt": MiniGPT}
