"""Scores a text that a model learns as it reads it: dynamic evaluation, with counts that grow.

Every token is scored before anything is learned from it, and the documents are read in order, as
one stream. After Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch, reading_batches
from nanochat.data.documents import Documents
from nanochat.model.parameters import GROUPS
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.training.engine import Engine, EngineState, StepSettings
from nanochat.training.metrics import LossTotals

__all__ = ["score_adaptively"]

# One step of the optimizer follows each row. Chosen on the last of nine tenths of Shakespeare with
# `--preset small --ngram-order 5 --steps 600 --lr 0.004`: the mixture scores 1.430 nats per byte,
# 1.321 with counts that grow, and 1.306 if its network adapts as well; the network alone scores
# 1.562, and 1.473 if it adapts. A step takes three times as long as scoring.
LR_SHARE = 0.15  # of the learning rate of the training
RETURN_SHARE = 0.01  # of the way back to the trained weights, after each step


def score_adaptively(
    engine: Engine,
    token_bytes: NDArray[np.int64],  # (vocabulary,) raw bytes per token
    documents: Documents,
    config: TrainConfig,  # of the engine
    counts: AdaptiveCounts | None,  # fresh; for a model that mixes with counts
) -> tuple[LossTotals, NDArray[np.float64]]:
    """Return the totals and the (pairs,) nats of each token, in the order of the text.

    The engine has its trained weights again afterwards.
    """
    trained = EngineState(weights=engine.state_dict().weights, optimizer={})
    totals = LossTotals(token_bytes)
    nats = np.empty(documents.pairs)
    try:
        for pairs, losses, targets in _read(engine, trained, documents, config, counts):
            nats[pairs] = losses
            totals.add(losses, targets)
    finally:
        engine.load_state_dict(trained)
    return totals, nats


def _read(
    engine: Engine,
    trained: EngineState,
    documents: Documents,
    config: TrainConfig,
    counts: AdaptiveCounts | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]:
    """Yield pair numbers, nats and targets of each row; learn from the row when asked on."""
    settings = StepSettings(lr=dict.fromkeys(GROUPS, LR_SHARE * config.lr))
    for pairs, batch in reading_batches(documents, config.block_size):
        batch, losses = _scored(engine, batch, counts)
        yield pairs, losses, batch.targets[0]
        engine.step([batch], settings).read()
        engine.move_towards(trained.weights, RETURN_SHARE)


def _scored(
    engine: Engine, batch: Batch, counts: AdaptiveCounts | None
) -> tuple[Batch, NDArray[np.float64]]:
    """Return the batch to learn from, and the nats of its only row."""
    if counts is None:
        return batch, engine.token_losses(batch)[0]
    # The shares of the network do not depend on what the counts say.
    uncounted = dataclasses.replace(batch, by_counts=np.ones(batch.inputs.shape, np.float32))
    losses, counted = counts.read_both(batch.targets[0], engine.token_shares(uncounted)[0])
    by_counts = np.exp(-counted).astype(np.float32)[None]
    return dataclasses.replace(batch, by_counts=by_counts), losses
