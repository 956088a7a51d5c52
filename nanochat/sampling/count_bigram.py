"""The bigram that is counted instead of trained: add-one transition counts, in closed form.

A trained bigram must come close to it. It decodes and scores like an engine, so that the same
sampling and evaluation serve; it has no weights and no steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE, Batch
from nanochat.data.counts import add_one_probabilities
from nanochat.training.engine import LossSums

__all__ = ["CountBigram"]


class CountBigram:
    """Logits are log((count + 1) / (row sum + vocab)): a temperature T makes p^(1/T)."""

    def __init__(
        self,
        counts: NDArray[np.int64],  # (vocab, vocab): row = input, column = target
        token_bytes: NDArray[np.int64],  # (vocab,) raw bytes a token
    ) -> None:
        assert counts.shape == (len(token_bytes), len(token_bytes))
        self.log_probabilities = np.log(add_one_probabilities(counts))
        self._token_bytes = token_bytes

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> CountDecoder:
        return CountDecoder(self.log_probabilities, [prompt[-1] for prompt in prompts])

    def sums(self, batch: Batch) -> LossSums:
        counted = batch.targets != IGNORE
        targets = batch.targets[counted]
        nats = -self.log_probabilities[batch.inputs[counted], targets]
        n_bytes = self._token_bytes[targets]
        return LossSums(
            float(nats.sum()), len(targets), float(nats[n_bytes > 0].sum()), int(n_bytes.sum())
        )


class CountDecoder:
    """Rows of the table; see training.engine.Decoder."""

    def __init__(self, log_probabilities: NDArray[np.float64], last: Sequence[int]) -> None:
        self._log_probabilities = log_probabilities
        self.advance(last)

    def advance(self, ids: Sequence[int]) -> None:
        self.logits = self._log_probabilities[np.asarray(ids, dtype=np.int64)]
