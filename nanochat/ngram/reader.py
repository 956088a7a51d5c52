"""Lookups of the contexts of growing texts, without new memory for each token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanochat.ngram.kernels import check, kernels, pointer
from nanochat.ngram.kneser_ney import KneserNey

__all__ = ["ContextReader"]


class ContextReader:
    """`KneserNey.distributions` of up to `rows` contexts of one length, in the same memory."""

    def __init__(self, counts: KneserNey, rows: int) -> None:
        self._counts = counts  # kept: it owns the memory that the kernel reads
        self._order, self._longest = counts.order, max(counts.order - 1, 1)
        self._tokens = np.zeros(rows * self._longest, dtype=np.int64)
        self._offsets = np.zeros(rows + 1, dtype=np.int64)
        self._result = np.empty((rows, counts.vocab_size))
        self._length = 0
        self._lookup = kernels().nck_ngram_distributions
        self._inputs = counts.address, pointer(self._tokens), pointer(self._offsets)
        self._output = pointer(self._result)

    def distributions(
        self,
        contexts: NDArray[np.int64],  # (contexts, length) the last tokens, at most order − 1
    ) -> NDArray[np.float64]:  # (contexts, vocab_size)
        """Return the probability of each token after each context, until the next call."""
        count, length = contexts.shape
        assert length <= self._longest
        if length != self._length:
            self._offsets[:] = np.arange(len(self._offsets)) * length
            self._length = length
        self._tokens[: count * length].reshape(count, length)[:] = contexts
        check(self._lookup(*self._inputs, count, self._order, self._output, 1))
        return self._result[:count]
