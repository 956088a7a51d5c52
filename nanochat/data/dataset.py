"""Build the dataset of a config: text → corpus → split → tokenizer → tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.data.batches import (
    Batch,
    Batcher,
    evaluation_batches,
    make_batcher,
    resolve_batching,
    validation_batches,
)
from nanochat.data.corpus import load_corpus
from nanochat.data.documents import Documents, encode_documents
from nanochat.data.splits import Split, count_shared, split_documents
from nanochat.data.style import style_documents
from nanochat.data.tokenizer import BOS, Tokenizer, build_tokenizer
from nanochat.data.vocabulary import covering
from nanochat.errors import TokenizerError

__all__ = ["Dataset", "load_dataset", "start_text"]

EVAL_TOKENS = 4096  # per evaluation batch, at least: smaller batches leave cores idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The text of a run as tokens, and everything that is known about it."""

    tokenizer: Tokenizer
    train: Documents
    val: Documents
    val_source: str  # val, train or none
    split_sha256: str
    batching: str  # windows, packed or documents
    start: list[int]  # tokens that a sample without a prompt starts from
    warning: str | None  # one sentence for the user about the split

    def longest_segment(self, block_size: int) -> int:
        """Return the positions of the longest segment in training or validation."""
        parts = (self.train.lengths, self.val.lengths)
        return min(block_size, 1 + max(int(lengths.max(initial=0)) for lengths in parts))

    def batcher(self, config: TrainConfig, rank: int = 0, world: int = 1) -> Batcher:
        """Return the batcher of the training part."""
        return make_batcher(
            resolve_batching(config.batching, self.train, config.block_size), self.train,
            batch_size=config.batch_size, block_size=config.block_size,
            grad_accum=config.grad_accum, seed=config.seed, rank=rank, world=world,
        )  # fmt: skip

    def evaluation_set(self, config: TrainConfig) -> list[Batch]:
        """Return the batches of the validation part, limited to the eval_tokens of the config."""
        return evaluation_batches(
            self.val, batch_size=max(config.batch_size, EVAL_TOKENS // config.block_size),
            block_size=config.block_size, max_tokens=config.eval_tokens, seed=config.seed,
        )  # fmt: skip

    def validation_batches(self, config: TrainConfig) -> Iterator[Batch]:
        """Yield the batches of the whole validation part."""
        return validation_batches(
            self.val, batch_size=max(config.batch_size, EVAL_TOKENS // config.block_size),
            block_size=config.block_size,
        )  # fmt: skip

    def step_tokens(self, config: TrainConfig, world: int = 1) -> int:
        """Return the targets of an average step, for a resolved batching."""
        rows = config.batch_size * config.grad_accum * world
        if config.batching == "documents":
            lengths = np.minimum(self.train.lengths + 1, config.block_size)
            return round(rows * float(lengths.mean()))
        return rows * min(config.block_size, self.train.pairs)

    def describe(self) -> dict[str, Any]:
        """Return the record of the data that artifacts keep. It never contains the text."""
        return {
            "split_sha256": self.split_sha256,
            "val_source": self.val_source,
            "train_documents": self.train.count,
            "train_tokens": len(self.train.tokens),
            "val_documents": self.val.count,
            "val_tokens": len(self.val.tokens),
            "start": self.start,
        }


def load_dataset(
    config: TrainConfig,
    known: Tokenizer | None = None,  # of a trained model; None: the text's own
    *,
    extend: bool = False,  # add the text's new characters to `known`
) -> Dataset:
    """Read, split and tokenize the config's corpus. Raises CorpusError, TokenizerError."""
    corpus = load_corpus(config.data, config.documents, config.data_dir)
    split = split_documents(corpus.documents, config.val_fraction, config.seed)
    train = [*split.train, *(style_documents() if config.style == "futuristic" else ())]
    if known is None:
        tokenizer = build_tokenizer(config.tokenizer, train, split.val, config.vocab_size)
    else:
        tokenizer = covering(known, (train, split.val), extend=extend)
    documents = encode_documents(tokenizer, train)
    return Dataset(
        tokenizer=tokenizer,
        train=documents,
        val=encode_documents(tokenizer, split.val),
        val_source=split.val_source,
        split_sha256=split.sha256,
        batching=resolve_batching(config.batching, documents, config.block_size),
        start=start_text(tokenizer, len(split.train)),
        warning=split.warning or _shared_warning(split, train),
    )


def _shared_warning(split: Split, train: list[str]) -> str | None:
    """Warn when documents that validation should hold out are also trained on."""
    shared = count_shared(train, split.val) if split.val_source == "val" else 0
    if not shared:
        return None
    return (
        f"{shared:,} of {len(split.val):,} validation documents also occur in the training part,"
        " so the validation loss is lower than on new text; remove duplicates from the data"
    )


def start_text(tokenizer: Tokenizer, train_documents: int) -> list[int]:
    """Return the tokens that a sample without a prompt starts from.

    BOS opens every document. A model of one long document has seen it only once, so its samples
    start from a newline if the vocabulary has one.
    """
    if train_documents == 1:
        try:
            return [int(token) for token in tokenizer.encode("\n")]
        except TokenizerError:
            return [BOS]
    return [BOS]
