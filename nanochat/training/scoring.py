"""The loss of every token of some documents, in the order of the text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE, Batch, evaluation_batches, evaluation_pairs
from nanochat.data.documents import Documents

__all__ = ["ScoresTokens", "pair_losses"]


class ScoresTokens(Protocol):
    """The part of an engine that scores a text; the counted bigram has it too."""

    def token_losses(self, batch: Batch) -> NDArray[np.float64]: ...


def pair_losses(
    engine: ScoresTokens, documents: Documents, *, batch_size: int, block_size: int
) -> NDArray[np.float64]:  # (pairs,)
    """Return −log p in nats of each token after the first of documents.token_stream.

    The batches, and with them the context of each token, are those of evaluation_batches.
    """
    nats = np.empty(documents.pairs)
    order = evaluation_pairs(documents, block_size)
    first = 0
    for batch in evaluation_batches(documents, batch_size=batch_size, block_size=block_size):
        losses = engine.token_losses(batch)[batch.targets != IGNORE]
        nats[order[first : first + len(losses)]] = losses
        first += len(losses)
    assert first == documents.pairs
    return nats
