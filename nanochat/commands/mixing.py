"""The counts that a run mixes its network with: counted once, kept in the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nanochat.config.options import AUTO, TrainConfig
from nanochat.data.dataset import ByCounts, Dataset
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import cross_fitted, offset_for, probabilities
from nanochat.ngram.stored import save_counts
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.counts import named, saved_counts
from nanochat.runs.folder import RunFolder
from nanochat.system import processes
from nanochat.system.threads import thread_count

__all__ = ["keep_counts", "with_counts", "with_offset"]


def with_counts(
    dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint | None = None
) -> Dataset:
    """Return the dataset with the probabilities of its targets by counts, if the config mixes.

    They are those of the checkpoint's run, or counted now.
    """
    if not config.ngram_order or dataset.by_counts is not None:
        return dataset
    threads = thread_count(config.threads)
    if checkpoint is not None:
        model, train = saved_counts(checkpoint)
    else:
        size, order = dataset.tokenizer.vocab_size, config.ngram_order
        model = KneserNey.count(dataset.train, order, size, threads)
        train = cross_fitted(dataset.train, order, size, seed=config.seed, threads=threads)
    val = probabilities(model, dataset.val, threads)
    return dataclasses.replace(dataset, by_counts=ByCounts(model=model, train=train, val=val))


def with_offset(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the config with the ngram_offset for its number of epochs, if it is to be chosen."""
    if config.ngram_offset != AUTO:
        return config
    tokens = config.steps * dataset.step_tokens(config, processes.world())
    offset = offset_for(tokens / dataset.train.pairs) if config.ngram_order else 0.0
    return dataclasses.replace(config, ngram_offset=round(offset, 2))


def keep_counts(dataset: Dataset, folder: RunFolder) -> Mapping[str, Any]:
    """Write the counts of a run into its folder; return what its checkpoints keep of them.

    Raises OutputError.
    """
    if dataset.by_counts is None:
        return {}
    counts = dataset.by_counts
    return named(save_counts(counts.model, counts.train, folder.counts))
