"""The counts of a run's n-grams: counted once, kept in the run's folder.

A network is mixed with them, or they are the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.config.option import AUTO
from nanochat.config.options import TrainConfig
from nanochat.config.share import FITTED, share_words
from nanochat.data.dataset import ByCounts, Dataset
from nanochat.errors import CheckpointError
from nanochat.ngram.baseline import choose_order, counted_text
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import (
    FOLDS,
    cross_fitted,
    parts_for,
    read_probabilities,
    text_for,
    training_part,
)
from nanochat.ngram.share import offset_for
from nanochat.ngram.stored import load_counts, save_counts
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.counts import named, named_in, saved_counts
from nanochat.runs.folder import RunFolder
from nanochat.system import processes
from nanochat.system.threads import thread_count

__all__ = [
    "fits_share",
    "keep_counts",
    "share_counts",
    "with_counts",
    "with_placeholder",
    "with_share",
]


def with_counts(
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: Checkpoint | None = None,
    *,
    reads: float | None = None,  # tokens that the run reads; None: those of all steps
) -> Dataset:
    """Return the dataset with the probabilities of its targets by counts, if the config has any.

    They are those of the checkpoint's run, or counted now.
    """
    if not config.ngram_order or dataset.by_counts is not None:
        return dataset
    if config.model_kind == "ngram":
        return dataclasses.replace(dataset, by_counts=_alone(dataset, config, checkpoint, reads))
    threads, documents = thread_count(config.threads), dataset.train
    is_seen = dataset.val_source == "train"  # validation is the beginning of the training part
    if checkpoint is not None:
        model, train, parts = saved_counts(checkpoint)
        documents = documents.end(len(train)) if parts == FOLDS else documents
    else:
        size = dataset.tokenizer.vocab_size
        if reads is None:
            reads = config.steps * dataset.step_pairs(dataset.resolve(config), processes.world())
        model = _counted(dataset, config, threads, reads)
        if not is_seen and model.cutoff is None:
            documents = text_for(documents, reads)
            parts = parts_for(documents, reads)
        else:
            parts = FOLDS
        train = cross_fitted(
            documents, model.order, size, seed=config.seed, threads=threads, parts=parts,
            cutoff=model.cutoff,
        )  # fmt: skip
    part = training_part(documents, config.seed, parts)
    if part.pairs != len(train):
        raise CheckpointError(
            f"the counts must have a probability for each of the {part.pairs} targets of the text,"
            f" got {len(train)}; train again"
        )
    by_counts = ByCounts(
        model=model,
        documents=part,
        parts=parts,
        train=train,
        val=train if is_seen else read_probabilities(model, dataset.val, threads),
        is_best=checkpoint is None and config.ngram_order == AUTO,
    )
    return dataclasses.replace(dataset, by_counts=by_counts)


def _alone(
    dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint | None, reads: float | None
) -> ByCounts:
    """Return the counts that predict alone. There is nothing to train, so none are cross-fitted."""
    threads = thread_count(config.threads)
    if checkpoint is not None:
        model, train, parts = saved_counts(checkpoint)
    else:
        model = _counted(dataset, config, threads, math.inf if reads is None else reads)
        train, parts = np.zeros(0, dtype=np.float32), FOLDS
    return ByCounts(
        model=model,
        documents=dataset.train.end(model.targets),
        parts=parts,
        train=train,
        val=read_probabilities(model, dataset.val, threads, np.float64),
    )


def _counted(dataset: Dataset, config: TrainConfig, threads: int, reads: float) -> KneserNey:
    """Count the training part, or the end of a long one that the network reads less often."""
    documents, size, order = dataset.train, dataset.tokenizer.vocab_size, config.ngram_order
    if order == AUTO:
        order = choose_order(documents, size, seed=config.seed, threads=threads)
    counted, cutoff = counted_text(documents, size, reads)
    return KneserNey.count(counted, order, size, threads, cutoff=cutoff)


def with_placeholder(dataset: Dataset, config: TrainConfig) -> Dataset:
    """Return the dataset with made-up probabilities, to time the steps of a network that mixes."""
    if not config.ngram_order or dataset.by_counts is not None:
        return dataset
    # These take no memory, however long the text is.
    train, val = (
        np.broadcast_to(np.float32(0.5), part.pairs) for part in (dataset.train, dataset.val)
    )
    made_up = ByCounts(model=None, documents=dataset.train, parts=FOLDS, train=train, val=val)
    return dataclasses.replace(dataset, by_counts=made_up)


def fits_share(config: TrainConfig, dataset: Dataset) -> bool:
    """Decide whether each evaluation fits the share of the counts to the validation part."""
    mixes = config.ngram_order != 0 and config.model_kind != "ngram"
    return mixes and config.ngram_share == FITTED and dataset.val_source == "val"


def with_share(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the config with the ngram_share for its number of epochs, if it is to be chosen and
    no text is held out to fit it."""
    is_unused = not config.ngram_order or config.model_kind == "ngram"
    if config.ngram_share != FITTED or is_unused or fits_share(config, dataset):
        return config
    offset = 0.0
    if dataset.by_counts is not None:
        tokens = config.steps * dataset.step_pairs(config, processes.world())
        offset = offset_for(tokens / max(dataset.by_counts.documents.pairs, 1))
    return config.changed(ngram_share=share_words(1.0, round(offset, 2)))


def keep_counts(dataset: Dataset, folder: RunFolder) -> Mapping[str, Any]:
    """Write the counts of a run into its folder; return what its checkpoints keep of them.

    Raises OutputError.
    """
    if dataset.by_counts is None:
        return {}
    counts = dataset.by_counts
    return named(save_counts(counts.model, counts.train, folder.counts, counts.parts))


def share_counts(dataset: Dataset, folder: RunFolder | None, kept: Mapping[str, Any]) -> Dataset:
    """Return the dataset with the counts that rank 0 has kept in its folder, mapped into memory:
    the processes on one machine share them.

    A process that does not see the folder keeps its own counts, which are equal. Raises
    CheckpointError and ProcessGroupError.
    """
    if dataset.by_counts is None or processes.world() == 1:
        return dataset
    from nanochat.tensor.distributed import from_rank_0

    path = str(folder.counts.absolute()) if folder is not None else ""
    counts = Path(from_rank_0(path))
    sha256 = from_rank_0(named_in(kept) or "")
    if not counts.is_dir():
        return dataset
    model, train, _ = load_counts(counts, sha256)
    by_counts = dataclasses.replace(dataset.by_counts, model=model, train=train)
    return dataclasses.replace(dataset, by_counts=by_counts)
