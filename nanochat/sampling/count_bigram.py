"""The bigram that is counted instead of trained: add-one transition counts, in closed form.

A trained bigram must come close to it. It decodes and scores like an engine, and shares the
sampling and evaluation of engines; it has no weights and no steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE, Batch
from nanochat.data.counts import add_one_probabilities

__all__ = ["CountBigram"]


class CountBigram:
    """Logits are log((count + 1) / (row sum + vocab)); a temperature T gives p^(1/T)."""

    def __init__(self, counts: NDArray[np.int64]) -> None:  # (vocab, vocab) input × target
        assert counts.shape[0] == counts.shape[1]
        self.log_probabilities = np.log(add_one_probabilities(counts))

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> CountDecoder:
        return CountDecoder(self.log_probabilities, [prompt[-1] for prompt in prompts])

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        counted = batch.targets != IGNORE
        nats = np.zeros(batch.targets.shape)
        nats[counted] = -self.log_probabilities[batch.inputs[counted], batch.targets[counted]]
        return nats


class CountDecoder:
    """A Decoder (training/engine.py) that reads rows of the table."""

    def __init__(self, log_probabilities: NDArray[np.float64], last: Sequence[int]) -> None:
        self._log_probabilities = log_probabilities
        self.advance(last)

    def advance(self, ids: Sequence[int]) -> None:
        self.logits = self._log_probabilities[np.asarray(ids, dtype=np.int64)]
