"""Counts of tokens, pairs and bytes: the closed-form bigram, and the denominators of metrics.

Owns the statistics of a corpus that need no model. Leaves out sampling from the counts. Every
function is one pass of a counting loop in NumPy; a loop compiled by numba would not repay the
time that its compiler takes to load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, token_stream

__all__ = ["add_one_probabilities", "bigram_optimum", "byte_count", "transition_counts"]

_CHUNK = 1 << 22  # pairs counted at a time, to bound the memory of their indices


def transition_counts(
    documents: Documents,
    vocab_size: int,
) -> NDArray[np.int64]:  # (vocab, vocab): row = input, column = target
    """Count how often each token follows each token: BOS→c₁ … cₙ→BOS of every document."""
    tokens = token_stream(documents)
    counts = np.zeros(vocab_size * vocab_size, dtype=np.int64)
    for start in range(0, len(tokens) - 1, _CHUNK):
        chunk = tokens[start : start + _CHUNK + 1]
        inputs = chunk[:-1].astype(np.int64)
        counts += np.bincount(inputs * vocab_size + chunk[1:], minlength=len(counts))
    return counts.reshape(vocab_size, vocab_size)


def bigram_optimum(counts: NDArray[np.int64]) -> float:
    """Return the nats per pair of the maximum-likelihood bigram on its own counts.

    This is the conditional entropy H(target | input), a lower bound for every bigram on these
    pairs.
    """
    total = counts.sum()
    assert total > 0  # every document has a pair
    rows, columns = np.nonzero(counts)
    pairs = counts[rows, columns].astype(np.float64)
    inputs = counts.sum(axis=1, dtype=np.float64)[rows]
    return float(np.sum(pairs * (np.log(inputs) - np.log(pairs))) / total)


def add_one_probabilities(counts: NDArray[np.int64]) -> NDArray[np.float64]:  # (vocab, vocab)
    """Return P(target | input) with one added to every count."""
    smoothed = counts.astype(np.float64) + 1.0
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True), dtype=np.float64)


def byte_count(documents: Documents, token_bytes: NDArray[np.int64]) -> int:
    """Return the raw UTF-8 bytes of the documents. BOS has none."""
    tokens = documents.stream
    chunks = (tokens[start : start + _CHUNK] for start in range(0, len(tokens), _CHUNK))
    return sum(int(token_bytes[chunk].sum()) for chunk in chunks)
