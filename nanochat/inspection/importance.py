"""How the loss on a text changes without each head, neuron or token.

`Trace.ablate` computes one change with the engine. Here a NumPy pass in float64 computes all of
them, many at a time, from the embeddings of the trace on: they do not depend on what is removed.
The passes of a model file are those of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import UnsupportedOption
from nanochat.inspection.trace import Trace, inverse_rms
from nanochat.model.parameters import rotary_angles
from nanochat.model.traced import TracedText, causal
from nanochat.ngram.share import start_offset

__all__ = ["MOST_WORK", "Importance", "importance", "is_quick"]

MOST_WORK = 2e10  # multiply-adds of all passes of one kind, which take some seconds
_MOST_PASSES = 64  # of the engine
_AT_ONCE = 1 << 24  # numbers of the largest array of one pass

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Changes of the mean loss, in nats per token: above 0 if the part helps on this text."""

    heads: Array  # (layers, heads)
    neurons: Array  # (layers, neurons)
    positions: Array  # (tokens,) no later token attends to this one; empty if left out


@dataclass(frozen=True, slots=True)
class _Removed:
    """What each of `rows` passes removes: 0 in a mask."""

    heads: Array  # (rows, layers, heads)
    neurons: Array  # (rows, layers, neurons)
    positions: Array  # (rows, tokens)


def is_quick(trace: Trace, passes: int) -> bool:
    """Return whether passes over the text take no more than MOST_WORK."""
    config, length = trace.config, len(trace.tokens)
    layer = length * config.n_embd * (12 * config.n_embd + 2 * length)
    head = length * config.n_embd * trace.tokenizer.vocab_size
    return passes * (config.n_layer * layer + head) <= MOST_WORK


def importance(trace: Trace, *, neurons: bool = True, positions: bool = True) -> Importance:
    """Return the change of the loss without each part. False leaves the neurons or positions out.

    Raises UnsupportedOption if that takes too long, and for a model file without attention.
    """
    if trace.trained.own is not None:
        return _by_the_engine(trace, positions)
    config = trace.config
    layers = config.n_layer if config.model_kind == "mini-gpt" else 0
    sizes = (
        layers * config.n_head, layers * 4 * config.n_embd * neurons, len(trace.tokens) * positions,
    )  # fmt: skip
    if not is_quick(trace, sizes[0]):
        raise UnsupportedOption(
            f"{sizes[0]:,} passes over {len(trace.tokens):,} tokens, one per head, would take long;"
            " give a shorter text"
        )
    changes = np.concatenate(list(_changes(trace, layers, sizes)))
    heads, of_neurons, of_positions = np.split(changes, np.cumsum(sizes)[:-1])
    return Importance(
        heads=heads.reshape(layers, config.n_head),
        neurons=of_neurons.reshape(layers, 4 * config.n_embd * neurons), positions=of_positions,
    )  # fmt: skip


def _by_the_engine(trace: Trace, positions: bool) -> Importance:
    """Return the same of a model file, by one pass of the engine per part, without neurons.

    Raises UnsupportedOption for a part whose array the file does not name.
    """
    config, tokens = trace.config, len(trace.tokens) * positions
    parts = config.n_layer * config.n_head + tokens
    if parts > _MOST_PASSES:
        each, way_out = (
            ("head and token", "give a shorter text")
            if positions
            else ("head", "use a model with fewer")
        )
        raise UnsupportedOption(
            f"importance of a model file takes a pass per {each}, at most {_MOST_PASSES},"
            f" got {parts}; {way_out}"
        )
    heads = [
        [trace.ablate(head=(layer, head)).mean - trace.mean for head in range(config.n_head)]
        for layer in range(config.n_layer)
    ]
    of_positions = [trace.ablate(position=t).mean - trace.mean for t in range(tokens)]
    return Importance(
        heads=np.array(heads).reshape(config.n_layer, config.n_head),
        neurons=np.empty((config.n_layer, 0)), positions=np.array(of_positions),
    )  # fmt: skip


def _changes(trace: Trace, layers: int, sizes: tuple[int, int, int]) -> Iterator[Array]:
    """Yield the changes of the loss, some parts at a time: heads, neurons, then positions."""
    config, length, total = trace.config, len(trace.tokens), sum(sizes)
    at_once = max(1, _AT_ONCE // (length * max(4 * config.n_embd, length * config.n_head)))

    def losses(kept: Array) -> Array:  # (rows, parts)
        heads, neurons, positions = np.split(kept, np.cumsum(sizes)[:-1], axis=1)
        if not sizes[1]:  # no neuron is removed
            neurons = np.ones((len(kept), layers * 4 * config.n_embd))
        if not sizes[2]:
            positions = np.ones((len(kept), length))
        removed = _Removed(
            heads.reshape(len(kept), layers, config.n_head),
            neurons.reshape(len(kept), layers, 4 * config.n_embd), positions,
        )  # fmt: skip
        return _losses(trace, removed)

    whole = losses(np.ones((1, total)))[0]
    for first in range(0, total, at_once):
        kept = np.ones((min(at_once, total - first), total))
        kept[np.arange(len(kept)), first + np.arange(len(kept))] = 0.0
        yield losses(kept) - whole


def _losses(trace: Trace, removed: _Removed) -> Array:  # (rows,)
    """Return the mean loss of each pass."""
    config, weights = trace.config, trace.weights
    rows, length = len(removed.positions), len(trace.tokens)
    x = np.broadcast_to(trace.embedding, (rows, length, config.n_embd))
    seen = causal(length) & ((removed.positions[:, None, :] > 0) | np.eye(length, dtype=np.bool_))
    for layer in range(removed.heads.shape[1]):
        matrix = {name: weights[f"layer{layer}.{name}"].astype(np.float64) for name in (
            "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"
        )}  # fmt: skip
        norm = _rmsnorm(x)
        q, k, v = (
            (norm @ matrix[f"attn_w{name}"].T).reshape(rows, length, config.n_head, -1)
            for name in "qkv"
        )
        if config.positions == "rope":
            q, k = _rotate(q), _rotate(k)
        if config.qk_norm:
            q, k = _rmsnorm(q), _rmsnorm(k)
        q, k, v = (np.swapaxes(each, 1, 2) for each in (q, k, v))  # (rows, heads, tokens, size)
        scores = q @ np.swapaxes(k, 2, 3) / config.head_dim**0.5
        scores[~np.broadcast_to(seen[:, None], scores.shape)] = -np.inf
        mixed = np.swapaxes(_softmax(scores) @ v, 1, 2)
        mixed *= removed.heads[:, layer, :][:, None, :, None]
        x = x + mixed.reshape(rows, length, -1) @ matrix["attn_wo"].T
        active = np.maximum(_rmsnorm(x) @ matrix["mlp_fc1"].T, 0.0)
        if config.activation == "relu2":
            active = active**2
        active *= removed.neurons[:, layer, :][:, None, :]
        x = x + active @ matrix["mlp_fc2"].T
    if config.output_rmsnorm:
        x = _rmsnorm(x)
    head = weights["wte" if config.tie_lm_head else "lm_head"].astype(np.float64)
    logits = x @ head.T
    if cap := config.logit_softcap:
        logits = cap * np.tanh(logits / cap)
    result: Array = _nats(logits, trace.text).mean(axis=1)
    return result


def _nats(logits: Array, text: TracedText) -> Array:  # (rows, tokens)
    """Return the nats of each target; with counts, those of the mixture."""
    tokens = logits if text.by_counts is None else logits[..., :-1]
    targets = np.broadcast_to(text.targets[None, :, None], (*tokens.shape[:2], 1))
    chosen = np.take_along_axis(_softmax(tokens), targets, axis=-1)[..., 0]
    if text.by_counts is not None:
        largest = tokens.max(axis=-1)
        normalizer = largest + np.log(np.exp(tokens - largest[..., None]).sum(axis=-1))
        odds = text.share.of(logits[..., -1] + start_offset(tokens.shape[-1]) - normalizer)
        share = 1 / (1 + np.exp(-odds))
        chosen = (1 - share) * chosen + share * text.by_counts
    result: Array = -np.log(chosen)
    return result


def _rmsnorm(x: Array) -> Array:
    return x * inverse_rms(x)


def _rotate(x: Array) -> Array:  # (rows, tokens, heads, head_dim)
    cos, sin = (a[:, None] for a in rotary_angles(np.arange(x.shape[1]), x.shape[-1]))
    first, second = np.split(x, 2, axis=-1)
    result: Array = np.concatenate(
        (first * cos + second * sin, second * cos - first * sin), axis=-1
    )
    return result


def _softmax(x: Array) -> Array:
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = exps / exps.sum(axis=-1, keepdims=True)
    return result
