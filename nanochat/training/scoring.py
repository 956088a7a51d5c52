"""The loss of some documents: in all, and of every token in the order of the text."""

from __future__ import annotations

from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE, Batch, evaluation_batches, evaluation_pairs
from nanochat.data.documents import Documents
from nanochat.training.metrics import LossTotals

__all__ = ["ScoresTokens", "score_documents"]


class ScoresTokens(Protocol):
    """The part of an engine that scores a text; the counted bigram has it too."""

    def token_losses(self, batch: Batch) -> NDArray[np.float64]: ...


def score_documents(
    engine: ScoresTokens,
    token_bytes: NDArray[np.int64],  # (vocabulary,) raw bytes per token
    documents: Documents,
    *,
    batch_size: int,
    block_size: int,
    per_token: bool,
    by_counts: NDArray[np.floating] | None = None,  # (documents.pairs,), for Batch.by_counts
) -> tuple[LossTotals, NDArray[np.float64]]:
    """Return the totals and, if asked for, the (pairs,) nats of each token.

    The tokens are those after the first of documents.token_stream; one that is no target has nan.
    The batches, and with them the context of each token, are those of evaluation_batches.
    """
    shape = {"batch_size": batch_size, "block_size": block_size}
    totals = LossTotals(token_bytes)
    nats = np.full(documents.pairs if per_token else 0, np.nan)
    pairs = evaluation_pairs(documents, **shape) if per_token else repeat(None)
    batches = evaluation_batches(documents, **shape, by_counts=by_counts)
    for batch, numbers in zip(batches, pairs, strict=per_token):
        losses = engine.token_losses(batch)
        totals.add(losses, batch.targets)
        if numbers is not None:
            nats[numbers] = losses[batch.targets != IGNORE]
    return totals, nats
