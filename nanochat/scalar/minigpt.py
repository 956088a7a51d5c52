"""MiniGPT in scalars: one token at a time, as microgpt.py writes it.

Read it next to tensor/model.py, the same model in tensors. With `--preset microgpt` it is exactly
the model of microgpt.py: the same operations in the same order.

`see(name, x)` names a vector and returns it. It does nothing, unless a trace listens
(scalar/trace.py), which may also return another vector to go on with.

A file of the user's own may override any method here (docs/change-the-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import add

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.errors import UnsupportedActivation
from nanochat.model.parameters import rotary_angles
from nanochat.scalar.functions import dot, linear, rmsnorm, rotate, softcap, softmax
from nanochat.scalar.value import Matrix, Value

__all__ = ["Block", "KeyValueCache", "MiniGPT", "See", "unseen"]

Vector = list[Value]
See = Callable[[str, Vector], Vector]


def unseen(name: str, x: Vector) -> Vector:
    """Return x: nobody listens."""
    return x


def _relu(x: Vector) -> Vector:
    return [h.relu() for h in x]


def _relu2(x: Vector) -> Vector:
    return [h * h for h in _relu(x)]


ACTIVATIONS: Mapping[str, Callable[[Vector], Vector]] = {"relu": _relu, "relu2": _relu2}


class KeyValueCache:
    """Keys and values of the tokens so far: [layer][token][n_embd]."""

    def __init__(self, n_layer: int) -> None:
        self.keys: list[list[Vector]] = [[] for _ in range(n_layer)]
        self.values: list[list[Vector]] = [[] for _ in range(n_layer)]

    def drop_oldest(self) -> None:
        for layer in (*self.keys, *self.values):
            del layer[0]


class Block:
    """One transformer block: attention over the tokens so far, then an MLP, both with RMSNorm."""

    def __init__(
        self, config: TrainConfig, matrices: Mapping[str, Matrix], layer: int, see: See = unseen
    ) -> None:
        if config.activation not in ACTIVATIONS:
            raise UnsupportedActivation(
                f"mode scalar does not support activation {config.activation};"
                f" use {' or '.join(ACTIVATIONS)}, or mode tensor"
            )
        prefix = f"layer{layer}."
        self.config, self.layer = config, layer
        # The rows of each matrix of this layer by name, such as mlp_fc1.
        self.weights = {
            name.removeprefix(prefix): matrix.rows()
            for name, matrix in matrices.items()
            if name.startswith(prefix)
        }
        self.see: See = lambda name, x: see(prefix + name, x)

    def forward(
        self,
        x: Vector,  # (n_embd,)
        position: int,
        keys: list[Vector],  # (tokens so far, n_embd), extended by this token
        values: list[Vector],
    ) -> Vector:  # (n_embd,)
        see = self.see
        x = see("attn.residual", _sum(self.attention(self.norm(x), position, keys, values), x))
        return see("mlp.residual", _sum(self.mlp(self.norm(x)), x))

    def attention(
        self, x: Vector, position: int, keys: list[Vector], values: list[Vector]
    ) -> Vector:
        see, weights = self.see, self.weights
        x = see("attn.norm", x)
        query = see("attn.q", linear(x, weights["attn_wq"]))
        key = see("attn.k", linear(x, weights["attn_wk"]))
        values.append(see("attn.v", linear(x, weights["attn_wv"])))
        keys.append(self.rotate_and_norm("attn.k", key, position))
        query = self.rotate_and_norm("attn.q", query, position)
        size = self.config.head_dim
        heads: Vector = []
        for start in range(0, self.config.n_embd, size):
            head = slice(start, start + size)
            scores = see("attn.scores", [dot(query[head], k[head]) / size**0.5 for k in keys])
            shares = see("attn.weights", softmax(scores))
            columns = zip(*(v[head] for v in values), strict=True)
            heads += [dot(shares, column) for column in columns]
        return see("attn.out", linear(see("attn.mixed", heads), weights["attn_wo"]))

    def rotate_and_norm(self, name: str, x: Vector, position: int) -> Vector:
        """Return a query or key with the rotation of its position and QK norm, head by head."""
        size = self.config.head_dim
        if self.config.positions == "rope":
            angles = _angles(position, size)
            x = self.see(f"{name}_rotated", _by_head(x, size, lambda head: rotate(head, *angles)))
        if self.config.qk_norm:
            x = self.see(f"{name}_norm", _by_head(x, size, self.norm))
        return x

    def mlp(self, x: Vector) -> Vector:  # (n_embd,) -> (n_embd,)
        see, weights = self.see, self.weights
        hidden = see("mlp.hidden", linear(see("mlp.norm", x), weights["mlp_fc1"]))
        active = see("mlp.active", self.activation(hidden))
        return see("mlp.out", linear(active, weights["mlp_fc2"]))

    def activation(self, x: Vector) -> Vector:  # (4 · n_embd,) -> (4 · n_embd,)
        return ACTIVATIONS[self.config.activation](x)

    def norm(self, x: Vector) -> Vector:  # (n_embd,), or (head_dim,) of a query or key
        return rmsnorm(x)


class MiniGPT:
    """Embeddings, blocks and LM head; logits() processes one token."""

    block: type[Block] = Block

    def __init__(
        self, config: TrainConfig, matrices: Mapping[str, Matrix], see: See = unseen
    ) -> None:
        self.config, self.see = config, see
        self.wte = matrices["wte"]
        self.wpe = matrices.get("wpe")
        self.lm_head = (self.wte if config.tie_lm_head else matrices["lm_head"]).rows()
        self.blocks = [self.block(config, matrices, layer, see) for layer in range(config.n_layer)]

    def new_cache(self) -> KeyValueCache:
        """Return the empty cache of one segment. Attention never looks outside a segment."""
        return KeyValueCache(self.config.n_layer)

    def logits(self, token: int, position: int, cache: KeyValueCache) -> Vector:
        """Return the logits of the next token, (vocab_size,), and add this token to the cache."""
        see = self.see
        x = see("embed.token", self.wte.row(token))
        if self.wpe is not None:
            x = see("embed.sum", _sum(x, see("embed.position", self.wpe.row(position))))
        if self.config.input_rmsnorm:
            x = see("embed.norm", self.norm(x))
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x = block.forward(x, position, keys, values)
        if self.config.output_rmsnorm:
            x = see("output.norm", self.norm(x))
        x = linear(x, self.lm_head)
        if cap := self.config.logit_softcap:
            x = softcap(see("logits_uncapped", x), cap)
        return see("logits", x)

    def norm(self, x: Vector) -> Vector:  # (n_embd,), the embedding or what the head reads
        return rmsnorm(x)


def _by_head(x: Vector, size: int, change: Callable[[Vector], Vector]) -> Vector:
    return [y for start in range(0, len(x), size) for y in change(x[start : start + size])]


def _sum(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    return list(map(add, a, b))


@lru_cache(maxsize=4096)
def _angles(position: int, head_dim: int) -> tuple[list[float], list[float]]:
    cos, sin = rotary_angles(np.asarray(position), head_dim)
    return cos.tolist(), sin.tolist()
