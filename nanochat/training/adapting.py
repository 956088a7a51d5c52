"""Scores a text that a model learns as it reads it: dynamic evaluation, with counts that grow.

Every token is scored before anything is learned from it, and the documents are read in order, as
one stream. After Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models".
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch, reading_batches
from nanochat.data.documents import Documents
from nanochat.model.parameters import GROUPS
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.training.engine import Engine, StepSettings
from nanochat.training.metrics import LossTotals

__all__ = ["score_adaptively"]

# Chosen on the last of nine tenths of Shakespeare, with `--preset small --ngram-order 5 --steps 600
# --lr 0.004`: the mixture scores 1.430 nats per byte, 1.321 with counts that grow, and 1.308 if its
# network adapts as well. The same network without counts scores 1.506, and 1.423 if it adapts. With
# LR_SHARE 0.15 the mixture scores 1.306, but 2,000 steps on names lose 0.002 nats per token, and
# with 0.05 they lose 0.0002. A step takes three times as long as scoring.
STEP_TOKENS = 128  # at least, for each step
LR_SHARE = 0.05  # of the learning rate of the training
RETURN_SHARE = 0.01  # of the way back to the trained weights, after each step


def score_adaptively(
    engine: Engine,
    token_bytes: NDArray[np.int64],  # (vocabulary,) raw bytes per token
    documents: Documents,
    config: TrainConfig,  # of the engine
    counts: AdaptiveCounts | None,  # fresh; for a model that mixes with counts
) -> tuple[LossTotals, NDArray[np.float64]]:
    """Return the totals and the (pairs,) nats of each token, in the order of the text; nan for a
    token that is no target.

    The engine has its trained weights again afterwards.
    """
    if config.model_kind == "ngram":
        assert counts is not None
        targets = documents.stream[1:].astype(np.int64)
        losses, totals = counts.read(targets), LossTotals(token_bytes)
        totals.add(losses, targets)
        return totals, losses
    trained = dataclasses.replace(engine.state_dict(), optimizer={})
    settings = StepSettings(lr=dict.fromkeys(GROUPS, LR_SHARE * config.lr))
    totals, nats = LossTotals(token_bytes), []
    try:
        for batch in reading_batches(documents, config.block_size, STEP_TOKENS):
            is_target = batch.targets != IGNORE
            targets = batch.targets[is_target]
            batch, losses = _scored(engine, batch, is_target, counts)
            totals.add(losses, targets)
            nats.append(losses)
            if not len(targets):
                continue  # of conversations, some batches have no reply to learn from
            engine.step([batch], settings).read()
            engine.move_towards(trained.weights, RETURN_SHARE)
    finally:
        engine.load_state_dict(trained)
    found = np.concatenate(nats) if nats else np.empty(0)
    if documents.is_target is None:
        return totals, found
    of_pairs = np.full(documents.pairs, np.nan)
    of_pairs[documents.is_target] = found
    return totals, of_pairs


def _scored(
    engine: Engine,
    batch: Batch,
    is_target: NDArray[np.bool_],  # (rows, columns)
    counts: AdaptiveCounts | None,
) -> tuple[Batch, NDArray[np.float64]]:
    """Return the batch to learn from, and the nats of its targets."""
    if counts is None:
        return batch, engine.token_losses(batch)[is_target]
    # The shares of the network do not depend on what the counts say.
    by_counts = np.ones(batch.inputs.shape, dtype=np.float32)
    shares = engine.token_shares(dataclasses.replace(batch, by_counts=by_counts))[is_target]
    losses, counted = counts.read_both(batch.targets[is_target], shares)
    by_counts[is_target] = np.exp(-counted)
    return dataclasses.replace(batch, by_counts=by_counts), losses
