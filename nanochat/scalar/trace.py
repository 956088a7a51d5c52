"""The named numbers of a scalar model: each is a Value of the tape, with its gradient.

The pass is that of exact numerics, one operation per number in microgpt's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.errors import PromptTooLong
from nanochat.model.model_file import ModelFile, kind_of
from nanochat.model.traced import PER_HEAD, PER_TOKEN, Computed, Edits, TracedText, causal
from nanochat.ngram.share import start_offset
from nanochat.scalar.functions import softmax, total
from nanochat.scalar.own_model import model_of
from nanochat.scalar.replay import recorded_nodes
from nanochat.scalar.value import Tape, Value, detached_max, select

__all__ = ["scalar_trace"]

MOST_NODES = 40_000_000  # of about 50 bytes; they take some ten seconds
# Rows of the weights themselves: the tape sums their gradients over all tokens that read them.
LOOKED_UP = ("embed.token", "embed.position")


def scalar_trace(
    config: TrainConfig,
    weights: Mapping[str, NDArray[np.floating]],
    text: TracedText,
    edits: Edits,
    *,
    dtype: str,
    own: ModelFile | None = None,  # of the config
) -> Computed:
    """Run the model over the text, token by token, and return every named number.

    Raises PromptTooLong for a text with more than MOST_NODES numbers.
    """
    _check_length(config, weights, len(text.tokens))
    tape = Tape(dtype)
    matrices = {name: tape.matrix(*array.shape) for name, array in weights.items()}
    for name, matrix in matrices.items():
        matrix.values[:] = weights[name].astype(dtype)
    seen = _Seen(tape, edits)
    model = model_of(own, config, matrices, seen)
    _forward(model, text, seen).backward()
    if own is not None:
        seen.check(len(text.tokens), config.n_head)
    values, gradients = seen.arrays()
    return Computed(
        values=values, gradients=gradients,
        weight_gradients={name: matrix.grads.copy() for name, matrix in matrices.items()},
    )  # fmt: skip


def _check_length(
    config: TrainConfig, weights: Mapping[str, NDArray[np.floating]], length: int
) -> None:
    shapes = {name: array.shape for name, array in weights.items()}
    fitting = length
    while fitting > 1 and recorded_nodes(config, shapes, fitting) > MOST_NODES:
        fitting -= 1
    if fitting < length:
        raise PromptTooLong(
            f"on the scalar engine, a trace of this model has at most {fitting:,} tokens, which are"
            f" about {MOST_NODES:,} numbers, got {length:,}; give a shorter text or use mode tensor"
        )


class _Seen:
    """Keeps the vectors that the model names, in the order of its calls, and edits them."""

    def __init__(self, tape: Tape, edits: Edits) -> None:
        self._tape, self._edits = tape, edits
        self._vectors: dict[str, list[list[Value]]] = {}

    def __call__(self, name: str, x: list[Value]) -> list[Value]:
        if not isinstance(x, (list, tuple)) or not all(isinstance(each, Value) for each in x):
            raise TypeError(f"see must get {name} as a list of Values, got {kind_of(x)}")
        vectors = self._vectors.setdefault(name, [])
        if name in LOOKED_UP:
            x = [value + 0.0 for value in x]
        edit = self._edits.get(name)
        if edit is not None:
            if name.endswith(PER_HEAD):
                token, head = divmod(len(vectors), len(edit))
                row = edit[head, token]
            else:
                row = np.atleast_1d(edit[len(vectors)])
            x = [
                value if number != number else self._tape.value(number)
                for value, number in zip(x, row.tolist(), strict=False)  # scores are causal
            ]
        vectors.append(x)
        return x

    def check(self, tokens: int, heads: int) -> None:
        """Raise ValueError for an array that a model file names in a shape of no trace."""
        for name, vectors in self._vectors.items():
            sizes = [len(vector) for vector in vectors]
            rule, expected = "once per token with as many Values", [max(1, sizes[0])] * tokens
            if name.endswith(PER_HEAD):
                rule = f"per token for each of {heads} heads with a Value per token so far"
                expected = [token + 1 for token in range(tokens) for _ in range(heads)]
            if sizes != expected:
                some = f"{min(sizes)} to {max(sizes)}" if len(set(sizes)) > 1 else f"{sizes[0]}"
                raise ValueError(
                    f"see must name {name} {rule}, got {len(sizes)} lists of {some} Values for"
                    f" {tokens} tokens; use another name for each call"
                )

    def arrays(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Return values and gradients. A key that a query does not see has score -inf."""
        values, gradients = {}, {}
        for name, vectors in self._vectors.items():
            numbers = [[value.data for value in vector] for vector in vectors]
            grads = [[value.grad for value in vector] for vector in vectors]
            hidden = -np.inf if name.endswith("scores") else 0.0
            per_head = name.endswith(PER_HEAD)
            values[name] = _by_head(numbers, hidden) if per_head else np.array(numbers)
            gradients[name] = _by_head(grads, 0.0) if per_head else np.array(grads)
            if name in PER_TOKEN:
                values[name], gradients[name] = values[name][:, 0], gradients[name][:, 0]
        return values, gradients


def _by_head(vectors: list[list[float]], hidden: float) -> NDArray[np.float64]:
    """Return (heads, tokens, tokens) from the rows of each head, token by token."""
    length = len(vectors[-1])
    heads = len(vectors) // length
    array = np.full((length, heads, length), hidden)
    array[np.broadcast_to(causal(length)[:, None], array.shape)] = np.concatenate(vectors)
    return np.ascontiguousarray(array.transpose(1, 0, 2))


def _forward(model: Any, text: TracedText, see: _Seen) -> Value:
    """Return the mean loss in nats per token."""
    cache, losses = model.new_cache(), []
    by_counts = np.ones(len(text.tokens)) if text.by_counts is None else text.by_counts
    columns = zip(text.tokens.tolist(), text.targets.tolist(), by_counts.tolist(), strict=True)
    for position, (token, target, counted) in enumerate(columns):
        logits = model.logits(token, position, cache)
        if text.by_counts is None:
            probabilities = see("probabilities", softmax(logits))
            (loss,) = see("losses", [-select(probabilities, target).log()])
        else:
            (loss,) = see("losses", [_mixed_loss(logits, target, counted, text, see)])
        losses.append(loss)
    return (1 / len(losses)) * total(losses)


def _mixed_loss(
    logits: list[Value], target: int, counted: float, text: TracedText, see: _Seen
) -> Value:
    """Return −log((1 − share) · network + share · counts), as `nanochat eval` scores a target."""
    *tokens, last = logits
    probabilities = see("probabilities", softmax(tokens))
    largest = detached_max(tokens)
    normalizer = total([(logit - largest).exp() for logit in tokens]).log() + largest
    gate = last + start_offset(len(tokens)) - normalizer
    odds = (gate * text.share.scale + text.share.offset).exp()
    (share,) = see("counts_share", [odds / (odds + 1.0)])
    mixed = select(probabilities, target) * (1.0 - share) + share * counted
    return -mixed.log()
