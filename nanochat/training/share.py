"""The share of the counts in a mixture, corrected on text that the network was not trained on.

The network learns its share on text that it has read before and the counts have not. It would trust
itself too much on a new text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanochat.data.batches import IGNORE, Batch
from nanochat.ngram.share import fitted_share
from nanochat.training.engine import Engine

__all__ = ["FIT_TARGETS", "fit_share"]

FIT_TARGETS = (
    4096  # enough for two numbers: their sampling errors cost about 1 / 4096 nats per token
)


def fit_share(engine: Engine, batches: Sequence[Batch]) -> None:
    """Set the engine's share to what predicts held-out batches best.

    At most about FIT_TARGETS targets are read, in batches spread over all. Without a target, the
    engine is left as it is.
    """
    scored = [batch for batch in _spread(batches) if (batch.targets != IGNORE).any()]
    if not scored:
        return
    parts, by_counts = [], []
    for batch in scored:
        assert batch.by_counts is not None  # Dataset.by_counts
        is_target = batch.targets != IGNORE
        parts.append(engine.mixture_parts(batch)[is_target])
        by_counts.append(batch.by_counts[is_target].astype(np.float64))
    network, gate = np.concatenate(parts).T
    engine.share = fitted_share(network, gate, np.concatenate(by_counts))


def _spread(batches: Sequence[Batch]) -> list[Batch]:
    targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    every = max(1, targets // FIT_TARGETS)
    return list(batches[::every])
