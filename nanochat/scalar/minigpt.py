"""The mini-GPT in scalars, one token at a time, as microgpt writes it.

With `--preset microgpt` this is exactly microgpt.py's model: same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import add

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.model.parameters import rotary_angles
from nanochat.scalar.functions import dot, linear, rmsnorm, rotate, softcap, softmax
from nanochat.scalar.value import Matrix, Value

__all__ = ["KeyValueCache", "MiniGPT"]


class KeyValueCache:
    """The keys and values of the tokens so far: [layer][token][n_embd]."""

    def __init__(self, n_layer: int) -> None:
        self.keys: list[list[list[Value]]] = [[] for _ in range(n_layer)]
        self.values: list[list[list[Value]]] = [[] for _ in range(n_layer)]

    def drop_oldest(self) -> None:
        for layer in (*self.keys, *self.values):
            del layer[0]


class Block:
    """The weights of one transformer block, as rows of scalars."""

    def __init__(self, matrices: Mapping[str, Matrix], layer: int) -> None:
        def rows(name: str) -> list[list[Value]]:
            return matrices[f"layer{layer}.{name}"].rows()

        self.wq, self.wk, self.wv, self.wo = (rows(f"attn_w{part}") for part in "qkvo")
        self.fc1, self.fc2 = rows("mlp_fc1"), rows("mlp_fc2")


class MiniGPT:
    """Token by token: embed, then attention and MLP a block, then one logit a token."""

    def __init__(self, config: TrainConfig, matrices: Mapping[str, Matrix]) -> None:
        self.config = config
        self.wte = matrices["wte"]
        self.wpe = matrices.get("wpe")
        self.head = (self.wte if config.tie_lm_head else matrices["lm_head"]).rows()
        self.blocks = [Block(matrices, layer) for layer in range(config.n_layer)]

    def new_cache(self) -> KeyValueCache:
        """The memory of one segment; attention never looks outside it."""
        return KeyValueCache(self.config.n_layer)

    def logits(self, token: int, position: int, cache: KeyValueCache) -> list[Value]:
        """Logits of the token after this one; the cache gains this token."""
        x = self.wte.row(token)
        if self.wpe is not None:
            x = list(map(add, x, self.wpe.row(position)))
        if self.config.input_rmsnorm:
            x = rmsnorm(x)
        for layer, block in enumerate(self.blocks):
            attended = self._attention(
                rmsnorm(x), position, block, cache.keys[layer], cache.values[layer]
            )
            x = list(map(add, attended, x))
            x = list(map(add, self._mlp(rmsnorm(x), block), x))
        return softcap(linear(x, self.head), self.config.logit_softcap)

    def _attention(
        self,
        x: Sequence[Value],  # (n_embd,) normalised
        position: int,
        block: Block,
        keys: list[list[Value]],  # (tokens so far, n_embd); gains one
        values: list[list[Value]],
    ) -> list[Value]:
        query, key, value = linear(x, block.wq), linear(x, block.wk), linear(x, block.wv)
        keys.append(self._by_head(key, position))
        values.append(value)
        query = self._by_head(query, position)
        size = self.config.head_dim
        heads: list[Value] = []
        for start in range(0, self.config.n_embd, size):
            q = query[start : start + size]
            scores = [dot(q, k[start : start + size]) / size**0.5 for k in keys]
            weights = softmax(scores)
            columns = zip(*(v[start : start + size] for v in values), strict=True)
            heads += [dot(weights, column) for column in columns]
        return linear(heads, block.wo)

    def _by_head(self, x: list[Value], position: int) -> list[Value]:
        """Queries or keys with their rotation and norm, head by head."""
        config = self.config
        if config.positions != "rope" and not config.qk_norm:
            return x
        result: list[Value] = []
        for start in range(0, config.n_embd, config.head_dim):
            head = x[start : start + config.head_dim]
            if config.positions == "rope":
                head = rotate(head, *_angles(position, config.head_dim))
            result += rmsnorm(head) if config.qk_norm else head
        return result

    def _mlp(self, x: Sequence[Value], block: Block) -> list[Value]:
        hidden = [h.relu() for h in linear(x, block.fc1)]
        if self.config.activation == "relu2":
            hidden = [h * h for h in hidden]
        return linear(hidden, block.fc2)


@lru_cache(maxsize=4096)
def _angles(position: int, head_dim: int) -> tuple[list[float], list[float]]:
    cos, sin = rotary_angles(np.asarray(position), head_dim)
    return cos.tolist(), sin.tolist()
