"""The counts of a run's n-grams: counted once, kept in the run's folder.

A network is mixed with them, or they are the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nanochat.config.option import AUTO
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import ByCounts, Dataset
from nanochat.ngram.baseline import MOST_ORDER, choose_order, most_counted
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import (
    FOLDS,
    cross_fitted,
    exact_probabilities,
    parts_for,
    probabilities,
    training_part,
)
from nanochat.ngram.stored import save_counts
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.counts import named, saved_counts
from nanochat.runs.folder import RunFolder
from nanochat.system import processes
from nanochat.system.threads import thread_count

__all__ = ["keep_counts", "with_counts", "with_placeholder"]

ENOUGH = 1 << 21  # tokens at the end of the text, to choose the order by
WIDE = 300  # tokens of a vocabulary; a larger one is of word pieces or of Chinese characters
MOST_ORDER_OF_PIECES = 8


def with_counts(
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: Checkpoint | None = None,
    *,
    reads: float | None = None,  # tokens that the network will be trained on; None: all steps
) -> Dataset:
    """Return the dataset with the probabilities of its targets by counts, if the config has any.

    They are those of the checkpoint's run, or counted now.
    """
    if not config.ngram_order or dataset.by_counts is not None:
        return dataset
    if config.model_kind == "ngram":
        return dataclasses.replace(dataset, by_counts=_alone(dataset, config, checkpoint))
    threads, documents = thread_count(config.threads), dataset.train
    if checkpoint is not None:
        model, train, parts = saved_counts(checkpoint)
    else:
        size = dataset.tokenizer.vocab_size
        model = _counted(dataset, config, threads)
        if reads is None:
            reads = config.steps * dataset.step_tokens(dataset.resolve(config), processes.world())
        parts = parts_for(documents, reads)
        train = cross_fitted(
            documents, model.order, size, seed=config.seed, threads=threads, parts=parts
        )  # fmt: skip
    by_counts = ByCounts(
        model=model,
        documents=training_part(documents, config.seed, parts),
        parts=parts,
        train=train,
        val=probabilities(model, dataset.val, threads),
    )
    return dataclasses.replace(dataset, by_counts=by_counts)


def _alone(dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint | None) -> ByCounts:
    """Return the counts that predict alone. There is nothing to train, so none are cross-fitted."""
    threads, documents = thread_count(config.threads), dataset.train
    if checkpoint is not None:
        model, train, parts = saved_counts(checkpoint)
    else:
        model = _counted(dataset, config, threads)
        train, parts = np.zeros(0, dtype=np.float32), FOLDS
    return ByCounts(
        model=model,
        documents=documents.end(most_counted(documents)),
        parts=parts,
        train=train,
        val=exact_probabilities(model, dataset.val, threads),
    )


def _counted(dataset: Dataset, config: TrainConfig, threads: int) -> KneserNey:
    """Count the training part, or of a long one the end."""
    order = _order(dataset, config, threads)
    documents = dataset.train.end(most_counted(dataset.train))
    return KneserNey.count(documents, order, dataset.tokenizer.vocab_size, threads)


def _order(dataset: Dataset, config: TrainConfig, threads: int) -> int:
    """Return the order of the config, or the one that predicts a part of the text best."""
    if config.ngram_order != AUTO:
        return config.ngram_order
    is_wide = dataset.tokenizer.vocab_size > WIDE
    return choose_order(
        dataset.train.end(ENOUGH), dataset.tokenizer.vocab_size, seed=config.seed,
        most_order=MOST_ORDER_OF_PIECES if is_wide else MOST_ORDER, threads=threads,
    )  # fmt: skip


def with_placeholder(dataset: Dataset, config: TrainConfig) -> Dataset:
    """Return the dataset with made-up probabilities, to time the steps of a network that mixes."""
    if not config.ngram_order or dataset.by_counts is not None:
        return dataset
    train, val = (
        np.full(part.pairs, 0.5, dtype=np.float32) for part in (dataset.train, dataset.val)
    )
    made_up = ByCounts(model=None, documents=dataset.train, parts=FOLDS, train=train, val=val)
    return dataclasses.replace(dataset, by_counts=made_up)


def keep_counts(dataset: Dataset, folder: RunFolder) -> Mapping[str, Any]:
    """Write the counts of a run into its folder; return what its checkpoints keep of them.

    Raises OutputError.
    """
    if dataset.by_counts is None:
        return {}
    counts = dataset.by_counts
    return named(save_counts(counts.model, counts.train, folder.counts, counts.parts))
