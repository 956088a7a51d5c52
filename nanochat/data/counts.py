"""Counts of tokens, pairs and bytes: the closed-form bigram and the denominators of metrics.

Owns what can be said of a corpus without a model. Leaves out sampling from the counts. Every
function is one pass of numpy's own counting loop, which no compiled loop of ours would beat once
its compiler is loaded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, stream

__all__ = ["add_one_probabilities", "bigram_optimum", "byte_count", "transition_counts"]

_CHUNK = 1 << 22  # pairs counted at a time, so that the index of each pair is never all in memory


def transition_counts(
    documents: Documents,
    vocab_size: int,
) -> NDArray[np.int64]:  # (vocab, vocab): row = input, column = target
    """How often each token follows each: BOS→c₁ … cₙ→BOS of every document."""
    tokens = stream(documents)
    counts = np.zeros(vocab_size * vocab_size, dtype=np.int64)
    for start in range(0, len(tokens) - 1, _CHUNK):
        part = tokens[start : start + _CHUNK + 1]
        counts += np.bincount(part[:-1] * vocab_size + part[1:], minlength=len(counts))
    return counts.reshape(vocab_size, vocab_size)


def bigram_optimum(counts: NDArray[np.int64]) -> float:
    """Nats per pair of the maximum-likelihood bigram on its own counts: the conditional entropy
    H(target | input), below which no bigram can come on these pairs."""
    total = counts.sum()
    assert total > 0  # every document has a pair
    rows, columns = np.nonzero(counts)
    pairs = counts[rows, columns].astype(np.float64)
    inputs = counts.sum(axis=1, dtype=np.float64)[rows]
    return float(np.sum(pairs * (np.log(inputs) - np.log(pairs))) / total)


def add_one_probabilities(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(vocab, vocab) P(target | input) with one added to every count."""
    smoothed = counts.astype(np.float64) + 1.0
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True), dtype=np.float64)


def byte_count(documents: Documents, token_bytes: NDArray[np.int64]) -> int:
    """Raw UTF-8 bytes of the documents; BOS has none."""
    return int(np.bincount(documents.tokens, minlength=len(token_bytes)) @ token_bytes)
