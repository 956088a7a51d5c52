"""Each kind of operation in NumPy, as graph.Operation describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.inspection.graph import Operation
from nanochat.inspection.trace import Trace

Array = NDArray[np.float64]


def rmsnorm(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)


def by_head(x: Array, heads: int) -> Array:  # (tokens, n) -> (heads, tokens, n / heads)
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def joined(x: Array) -> Array:
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def rotated(x: Array) -> Array:  # (heads, tokens, head_dim)
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(-1j * angles)
    return np.concatenate((pairs.real, pairs.imag), axis=-1)


def softmax(x: Array) -> Array:
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def computed(operation: Operation, trace: Trace, weights: Mapping[str, Any]) -> Array:
    """Return the array of an operation from the arrays of its operands."""
    config, rows = trace.config, np.arange(len(trace.tokens))
    inputs = [trace[name] for name in operation.inputs]
    x = inputs[0] if inputs else np.empty(0)
    weight = weights[operation.weight] if operation.weight else np.empty(0)
    tokens = trace.tokenizer.vocab_size
    per_head = operation.name.endswith(("q_norm", "k_norm"))
    match operation.kind:
        case "lookup":
            return weight[rows if operation.weight == "wpe" else trace.tokens]
        case "add":
            return x + inputs[1]
        case "rmsnorm" if per_head:
            return joined(rmsnorm(by_head(x, config.n_head)))
        case "rmsnorm":
            return rmsnorm(x)
        case "linear":
            return x @ weight.T
        case "rotate":
            return joined(rotated(by_head(x, config.n_head)))
        case "scores":
            q, k = (by_head(each, config.n_head) for each in inputs)
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(config.head_dim)
            return np.where(np.tri(len(rows), dtype=bool), scores, -np.inf)
        case "softmax":
            return softmax(x[..., :tokens] if operation.name == "probabilities" else x)
        case "mix":
            return joined(x @ by_head(inputs[1], config.n_head))
        case "relu":
            return np.maximum(x, 0)
        case "relu2":
            return np.maximum(x, 0) ** 2
        case "cap":
            return config.logit_softcap * np.tanh(x / config.logit_softcap)
        case "share":
            share, sums = trace.text.share, np.log(np.exp(x[:, :tokens]).sum(axis=1))
            gate = x[:, -1] + np.log(9.0 * tokens) - sums
            return 1 / (1 + np.exp(-(share.scale * gate + share.offset)))
        case "nats":
            return -np.log(x[rows, trace.targets])
        case "mixed_nats":
            assert trace.text.by_counts is not None
            part = inputs[1]
            return -np.log((1 - part) * x[rows, trace.targets] + part * trace.text.by_counts)
    raise AssertionError(operation.kind)
