"""Oracle: both models in NumPy float64, one position at a time, from microgpt.py's formulas.

It is slow and simple on purpose. It shares only parameter names and angles with the engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.model.parameters import rotary_angles

Array = NDArray[np.float64]


def rmsnorm(x: Array) -> Array:
    return x * (np.mean(x * x) + 1e-5) ** -0.5


def rotated(x: Array, position: int) -> Array:
    cos, sin = rotary_angles(np.asarray(position), len(x))
    first, second = x[: len(x) // 2], x[len(x) // 2 :]
    return np.concatenate([first * cos + second * sin, second * cos - first * sin])


def softmax(x: Array) -> Array:
    exps = np.exp(x - x.max())
    return exps / exps.sum()


def ngram_row(tokens: Sequence[int], rows: int) -> int:
    """Return the row that the hash in abi.h gives, with unlimited integers."""
    key = 0
    for token in reversed(tokens):
        key = (key + token + 1) * 0x9E3779B97F4A7C15
    return (key % 2**64 // 2**32) * rows // 2**32


class NumpyGPT:
    """Computes token by token and remembers `window` tokens. `reset` starts a segment."""

    def __init__(
        self, config: TrainConfig, weights: Mapping[str, NDArray[np.floating]], window: int = 10**9
    ) -> None:
        self.config, self.window = config, window
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.reset()

    def reset(self) -> None:
        self.keys: list[list[Array]] = [[] for _ in range(self.config.n_layer)]
        self.values: list[list[Array]] = [[] for _ in range(self.config.n_layer)]
        self.text: list[int] = []

    def logits(self, token: int, position: int) -> Array:
        config, weights = self.config, self.weights
        self.text.append(token)
        x = weights["wte"][token]
        for k, before in enumerate(self.text[-2::-1][: config.prev_token_tables], start=1):
            x = x + weights[f"wte{k}"][before]
        for n in range(2, config.hash_embed_longest + 1 if config.hash_embed_rows else 0):
            if len(self.text) >= n:
                x = x + weights["wte_ngram"][ngram_row(self.text[-n:], config.hash_embed_rows)]
        if config.model_kind == "mini-gpt" and config.positions == "learned":
            x = x + weights["wpe"][position]
        if config.input_rmsnorm:
            x = rmsnorm(x)
        for layer in range(config.n_layer):
            x = x + self._attention(rmsnorm(x), position, layer)
            inner = self.activation(weights[f"layer{layer}.mlp_fc1"] @ rmsnorm(x))
            x = x + weights[f"layer{layer}.mlp_fc2"] @ inner
        if config.output_rmsnorm:
            x = rmsnorm(x)
        logits = weights["wte" if config.tie_lm_head else "lm_head"] @ x
        cap = config.logit_softcap
        return cap * np.tanh(logits / cap) if cap else logits

    def activation(self, x: Array) -> Array:
        return {"relu": np.maximum(x, 0.0), "relu2": np.maximum(x, 0.0) ** 2}[
            self.config.activation
        ]

    def _attention(self, x: Array, position: int, layer: int) -> Array:
        q, k, v = (self.weights[f"layer{layer}.attn_w{part}"] @ x for part in "qkv")
        size = self.config.head_dim
        heads = range(0, self.config.n_embd, size)
        q = np.concatenate([self._prepared(q[h : h + size], position) for h in heads])
        k = np.concatenate([self._prepared(k[h : h + size], position) for h in heads])
        keys, values = self.keys[layer], self.values[layer]
        keys.append(k)
        values.append(v)
        del keys[: -self.window], values[: -self.window]
        mixed = []
        for h in heads:
            scores = np.array([q[h : h + size] @ key[h : h + size] for key in keys]) / size**0.5
            probabilities = softmax(scores)
            mixed.append(probabilities @ np.array([value[h : h + size] for value in values]))
        return self.weights[f"layer{layer}.attn_wo"] @ np.concatenate(mixed)

    def _prepared(self, head: Array, position: int) -> Array:
        if self.config.positions == "rope":
            head = rotated(head, position)
        return rmsnorm(head) if self.config.qk_norm else head


def nats(
    config: TrainConfig, weights: Mapping[str, NDArray[np.floating]], batch: Batch
) -> list[float]:
    """Return −log p of every target that counts, row by row."""
    model = NumpyGPT(config, weights)
    result = []
    for row, length in enumerate(batch.lengths.tolist()):
        segment = None
        for column in range(length):
            if batch.segments[row, column] != segment:
                model.reset()
                segment = batch.segments[row, column]
            logits = model.logits(int(batch.inputs[row, column]), int(batch.positions[row, column]))
            target = int(batch.targets[row, column])
            if target >= 0:
                result.append(float(-np.log(softmax(logits)[target])))
    return result
