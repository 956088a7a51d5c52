"""The tensor engine's models in plain torch: embedding, attention, MLP, block, model.

GPUs, torch.compile and `--loss torch` run this file. `native/` computes the same faster on the CPU
and is tested against it. Read it next to scalar/minigpt.py, which does the same one number at a
time. The parameters live in FlatWeights; inputs.py prepares everything that all layers share.

`see(name, x)` names a tensor and returns it. It does nothing, unless a trace listens
(tensor/trace.py), which may also return another tensor to go on with.

A file of the user's own may override any method here (docs/change-the-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.config.options import TrainConfig
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ops.reference import head_logits
from nanochat.tensor.embeddings import EmbeddingTables
from nanochat.tensor.inputs import Inputs, Rotary
from nanochat.tensor.weights import FlatWeights

__all__ = [
    "ACTIVATIONS", "MODELS", "Bigram", "Block", "KeyValueCache", "MiniGPT", "See", "attend",
]  # fmt: skip

See = Callable[[str, Tensor], Tensor]

# A name that is missing in native.COMPUTED trains and samples with this file on every device.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def unseen(name: str, x: Tensor) -> Tensor:
    """Return x: nobody listens."""
    return x


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


def attend_written_out(
    qkv: Tensor,  # (tokens, 3 · n_embd) of one row
    inputs: Inputs,
    heads: int,
    norm: Callable[[Tensor], Tensor] | None,
    see: See,
) -> Tensor:  # (tokens, n_embd)
    """The same as `attend` with every matrix named: slower, and with all scores in memory."""

    def by_head(x: Tensor) -> Tensor:  # (heads, tokens, head_dim)
        return x.view(inputs.length, heads, -1).transpose(0, 1)

    def rotate_and_norm(name: str, x: Tensor) -> Tensor:  # (tokens, n_embd)
        if inputs.rotary is not None:
            x = see(f"{name}_rotated", joined(rotate(by_head(x), inputs.rotary)))
        return see(f"{name}_norm", joined(norm(by_head(x)))) if norm else x

    def joined(x: Tensor) -> Tensor:  # (tokens, n_embd)
        return x.transpose(0, 1).reshape(inputs.length, -1)

    q, k, v = qkv.chunk(3, dim=-1)
    q, k, v = see("attn.q", q), see("attn.k", k), see("attn.v", v)
    q, k = rotate_and_norm("attn.q", q), rotate_and_norm("attn.k", k)
    scores = by_head(q) @ by_head(k).transpose(1, 2) / (qkv.shape[-1] // 3 // heads) ** 0.5
    future = scores.new_ones(scores.shape[1:], dtype=torch.bool).triu(1)
    scores = see("attn.scores", scores.masked_fill(future, -torch.inf))
    weights = see("attn.weights", scores.softmax(dim=-1))
    return see("attn.mixed", joined(weights @ by_head(v)))


class Embedding(nn.Module):
    """Tokens as vectors: a row of wte, of wpe, and those of earlier tokens and n-grams, added."""

    def __init__(
        self,
        config: TrainConfig,
        weights: FlatWeights,
        vocab_size: int,
        see: See = unseen,
        norm: Callable[[Tensor], Tensor] = rmsnorm,
    ) -> None:
        super().__init__()
        self.see = see
        rows = EmbeddingTables.of(config, vocab_size).rows
        self.wte = weights.leaf("wte", rows=rows, master=True)
        learned = "wpe" in weights.offsets
        self.wpe = weights.leaf("wpe", master=True) if learned else None
        self.norm = norm if config.input_rmsnorm else None

    def forward(self, inputs: Inputs) -> Tensor:  # (tokens, n_embd) master dtype
        see = self.see
        if inputs.bags is None:
            x = see("embed.token", F.embedding(inputs.tokens, self.wte))
        else:
            bags = inputs.bags
            x = see("embed.tables", F.embedding_bag(bags.rows, self.wte, bags.offsets, mode="sum"))
        if self.wpe is not None:
            x = see("embed.sum", x + see("embed.position", F.embedding(inputs.positions, self.wpe)))
        if self.norm is not None:
            x = see("embed.norm", self.norm(x))
        return dropout(x, inputs, place=0)


class Block(nn.Module):
    """One transformer block; the residual stream x stays in the master dtype."""

    def __init__(
        self, config: TrainConfig, weights: FlatWeights, layer: int, see: See = unseen
    ) -> None:
        super().__init__()
        self.listening = see is not unseen
        self.see: See = lambda name, x: see(f"layer{layer}.{name}", x)
        self.config, self.layer = config, layer
        # The matrices of this layer by name, such as mlp_fc1; attn_wqkv is wq, wk and wv.
        self.weights = weights.of_layer(layer)
        for name, weight in self.weights.items():  # an attribute may have the name of a matrix
            self.register_parameter(f"weights_{name}", weight)
        self.qk_norm = self.norm if config.qk_norm else None

    def forward(self, x: Tensor, inputs: Inputs, cache: KeyValueCache | None = None) -> Tensor:
        see = self.see
        x = see("attn.residual", x + self.attention(self.norm(x), inputs, cache))
        return see("mlp.residual", x + self.mlp(self.norm(x), inputs))

    def attention(self, x: Tensor, inputs: Inputs, cache: KeyValueCache | None) -> Tensor:
        see, weights, heads = self.see, self.weights, self.config.n_head
        qkv = linear(see("attn.norm", x), weights["attn_wqkv"])
        if self.listening:
            mixed = attend_written_out(qkv, inputs, heads, self.qk_norm, see)
        else:
            mixed = attend(qkv, inputs, heads, self.qk_norm, cache)
        out = see("attn.out", linear(mixed, weights["attn_wo"]))
        return dropout(out, inputs, place=1 + 2 * self.layer)

    def mlp(self, x: Tensor, inputs: Inputs) -> Tensor:  # (tokens, n_embd) -> (tokens, n_embd)
        see, weights = self.see, self.weights
        hidden = see("mlp.hidden", linear(see("mlp.norm", x), weights["mlp_fc1"]))
        active = see("mlp.active", self.activation(hidden))
        out = see("mlp.out", linear(active, weights["mlp_fc2"]))
        return dropout(out, inputs, place=2 + 2 * self.layer)

    def activation(self, x: Tensor) -> Tensor:  # (tokens, 4 · n_embd)
        return ACTIVATIONS[self.config.activation](x)

    def norm(self, x: Tensor) -> Tensor:  # (tokens, n_embd), or (…, head_dim) of queries and keys
        return rmsnorm(x)


class MiniGPT(nn.Module):
    """microgpt's transformer with its options: embedding, blocks, output head."""

    block: type[Block] = Block

    def __init__(
        self, config: TrainConfig, weights: FlatWeights, vocab_size: int, see: See = unseen
    ) -> None:
        super().__init__()
        self.config, self.dtype, self.see = config, weights.dtype, see
        self.embedding = Embedding(config, weights, vocab_size, see, self.norm)
        layers = range(config.n_layer)
        self.blocks = nn.ModuleList(self.block(config, weights, i, see) for i in layers)
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)

    def hidden(self, inputs: Inputs, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """Return the hidden states that the head reads, (tokens, n_embd) in the compute dtype."""
        x: Tensor = self.embedding(inputs)
        for layer, block in enumerate(self.blocks):
            x = block(x, inputs, caches[layer] if caches else None)
        if self.config.output_rmsnorm:
            x = self.see("output.norm", self.norm(x))
        return x.to(self.dtype)

    def next_logits(self, inputs: Inputs, caches: Sequence[KeyValueCache]) -> Tensor:
        """Return the logits after the last token of each row, (rows, vocab)."""
        hidden = self.hidden(inputs, caches).view(inputs.rows, inputs.length, -1)[:, -1]
        return head_logits(hidden, self.head, softcap=self.config.logit_softcap)

    def norm(self, x: Tensor) -> Tensor:  # (tokens, n_embd), the embedding or what the head reads
        return rmsnorm(x)


class Bigram(MiniGPT):
    """The mini-GPT without positions and blocks: the next token depends on the last one alone."""


MODELS: Mapping[str, type[MiniGPT]] = {"bigram": Bigram, "mini-gpt": MiniGPT}
