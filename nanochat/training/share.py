"""The share of the counts in a mixture, corrected on text that the network was not trained on.

The network learns its share on text that it has read before and the counts have not. It would trust
itself too much on a new text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nanochat.data.batches import IGNORE, Batch
from nanochat.ngram.mixing import fitted_offset
from nanochat.training.engine import Engine

__all__ = ["FIT_TARGETS", "fit_share"]

FIT_TARGETS = 4096  # enough for one number: its sampling error costs about 1 / 8192 nats per token


def fit_share(engine: Engine, batches: Sequence[Batch]) -> None:
    """Set the engine's share_offset to what predicts held-out batches best.

    At most about FIT_TARGETS targets are read, in batches spread over all. Without a target, the
    engine is left as it is.
    """
    scored = [batch for batch in _spread(batches) if (batch.targets != IGNORE).any()]
    if not scored:
        return
    parts = []
    for batch in scored:
        assert batch.by_counts is not None  # Dataset.by_counts
        is_target = batch.targets != IGNORE
        shares = engine.token_shares(batch)[is_target]
        parts.append(np.column_stack((shares, batch.by_counts[is_target])))
    of_target, of_counts, by_counts = np.concatenate(parts).astype(np.float64).T
    of_network = np.log1p(-of_counts)
    gate = np.log(of_counts) - of_network - engine.share_offset
    engine.share_offset = fitted_offset(of_network - np.log(of_target), gate, by_counts)


def _spread(batches: Sequence[Batch]) -> list[Batch]:
    targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    every = max(1, targets // FIT_TARGETS)
    return list(batches[::every])
