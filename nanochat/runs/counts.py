"""The counts of a checkpoint's n-grams: one file in the folder of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import CheckpointError
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.stored import load_counts
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.folder import RunFolder
from nanochat.runs.schema import vocab_size_of

__all__ = ["counts_of", "named", "named_counts", "named_in", "saved_counts"]

_KEY = "ngram_sha256"  # in the data of a checkpoint


def named(sha256: str) -> Mapping[str, Any]:
    """Return what a checkpoint's data hold of the counts."""
    return {_KEY: sha256}


def named_in(data: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the counts that `named` returned, or that a checkpoint's data hold."""
    sha256 = data.get(_KEY)
    return sha256 if isinstance(sha256, str) else None


def named_counts(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the same of a checkpoint that was read."""
    return {_KEY: checkpoint.data[_KEY]} if _KEY in checkpoint.data else {}


def counts_of(checkpoint: Checkpoint) -> KneserNey | None:
    """Return the counts, or None for a network that predicts alone. Raises CheckpointError."""
    return saved_counts(checkpoint)[0] if checkpoint.config.get("ngram_order") else None


def saved_counts(checkpoint: Checkpoint) -> tuple[KneserNey, NDArray[np.float32], int]:
    """Return the counts, the cross-fitted probabilities of the training part, and its parts.

    Raises CheckpointError.
    """
    sha256 = named_in(checkpoint.data)
    if sha256 is None:
        raise CheckpointError(f"{checkpoint.path} does not name its counts; train again")
    counts, train, parts = load_counts(RunFolder(checkpoint.run_folder).counts, sha256)
    needed = checkpoint.options.ngram_order, vocab_size_of(checkpoint.tokenizer)
    if (counts.order, counts.vocab_size) != needed:
        raise CheckpointError(
            f"{checkpoint.path} needs counts of order {needed[0]} for {needed[1]} tokens, got order"
            f" {counts.order} for {counts.vocab_size}"
        )
    return counts, train, parts
