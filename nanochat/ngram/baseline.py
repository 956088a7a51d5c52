"""The counting baseline of a run: the score of a Kneser–Ney model of the training text.

Owns the part of the text that is counted, the choice of the order and the score. Leaves out what is
printed (commands/baseline.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.philox import Stream, permutation

__all__ = [
    "Baseline",
    "baseline_of",
    "choose_order",
    "count_baseline",
    "counted_part",
    "counted_text",
    "losses_in_pieces",
    "most_counted",
    "reads_of_budget",
]

MOST_ORDER = 13  # texts of up to some megabytes gain nothing beyond it
MOST_ORDER_OF_PIECES = 8
WIDE = 300  # tokens of a vocabulary; a larger one is of word pieces or of Chinese characters
ENOUGH = 1 << 21  # tokens at the end of the text, to choose the order by
HELD_OUT = 10  # one part in so many chooses the order, and at most
MOST_HELD_OUT = 50_000  # targets: enough to tell orders apart
# Counts take up to 120 bytes per token, and about a second per million tokens. Wider tokens leave
# less memory for them: of tokens of n bytes, n² times as few are counted.
MOST_COUNTED = 1 << 24  # tokens of one byte
# In a longer text that is counted whole, n-grams of this length or more are dropped if they occur
# once.
CUT_LENGTH = 7
CUT_LENGTH_OF_PIECES = 3
COUNTED_PER_S = 1_000_000  # tokens, by one slow core
READINGS = 2  # of a long text by a run: counting it whole then takes a small part of the run's time
_SCORED = 1 << 20  # targets that are scored at a time
_SPLIT_ITEM = 1  # of Stream.SPLIT; validation uses 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The score of counting on the targets of validation; None where nothing can be scored."""

    order: int  # N − 1 tokens of context and the predicted one
    loss: float | None  # nats per target, BOS included
    bpb: float | None  # bits per byte of raw text, BOS excluded
    counted: int | None = None  # targets at the end of a longer training part; None: all


def count_baseline(
    train: Documents,
    validation: Documents,
    vocab_size: int,
    token_bytes: NDArray[np.int64],  # (vocab_size,) raw bytes per token
    *,
    seed: int,
    threads: int = 1,
) -> Baseline:
    """Choose the order on a part of the training text, count it, and score validation.

    Of a long text only the last tokens are counted, by MOST_COUNTED: those of documents in
    random order, or next to the validation part. Loss and bits per byte are those of
    `training.metrics.LossTotals` over the same targets. Raises KernelError if the kernel is missing
    or memory does not suffice.
    """
    counted = counted_part(train)
    order = choose_order(counted, vocab_size, seed=seed, threads=threads)
    model = KneserNey.count(counted, order, vocab_size, threads)
    return baseline_of(model, train, validation, token_bytes, threads)


def baseline_of(
    model: KneserNey,
    train: Documents,
    validation: Documents,
    token_bytes: NDArray[np.int64],  # (vocab_size,) raw bytes per token
    threads: int = 1,
) -> Baseline:
    """Return the score of a model of the training part or of its end."""
    nats = nats_of_text = 0.0
    total_bytes = done = 0
    for losses, targets in losses_in_pieces(model, validation, threads=threads):
        if validation.is_target is not None:
            chosen = validation.is_target[done : done + len(targets)]
            done += len(targets)
            losses, targets = losses[chosen], targets[chosen]
        sizes = token_bytes[targets]
        nats += float(losses.sum())
        nats_of_text += float(losses[sizes > 0].sum())
        total_bytes += int(sizes.sum())
    return Baseline(
        order=model.order,
        loss=nats / validation.targets if validation.targets else None,
        bpb=nats_of_text / (math.log(2) * total_bytes) if total_bytes else None,
        counted=model.targets if model.targets < train.pairs else None,
    )


def most_counted(documents: Documents) -> int:
    """Return how many pairs of the documents may be counted without a cut-off."""
    return int(MOST_COUNTED // documents.stream.itemsize**2)


def counted_part(train: Documents) -> Documents:
    """Return the documents that are counted without a cut-off: all, or the end of a long text."""
    return train.end(most_counted(train))


def counted_text(
    train: Documents, vocab_size: int, reads: float = math.inf
) -> tuple[Documents, Cutoff | None]:
    """Return the documents that a run counts which reads `reads` tokens, and their cut-off.

    A long text is counted whole, with a cut-off, if the run reads it READINGS times; a model of the
    counts alone is trained by nothing else. A shorter run counts the end of it.
    """
    if train.pairs <= most_counted(train):
        return train, None
    if reads < READINGS * train.pairs:
        return counted_part(train), None
    return train, Cutoff(CUT_LENGTH if vocab_size <= WIDE else CUT_LENGTH_OF_PIECES)


def reads_of_budget(budget_s: float) -> float:
    """Return the `reads` with which `counted_text` counts what a time budget allows."""
    return READINGS * budget_s * COUNTED_PER_S


def losses_in_pieces(
    model: KneserNey, documents: Documents, order: int | None = None, threads: int = 1
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.integer[Any]]]]:
    """Yield nats and targets of all documents, a piece at a time: losses take 8 bytes per token."""
    for first in range(0, documents.pairs, _SCORED):
        last = min(first + _SCORED, documents.pairs)
        start = max(first - model.order, 0)  # the context of the first target
        losses = model.token_losses(documents.piece(start, last), order, threads)
        yield losses[first - start : last - start], documents.stream[first + 1 : last + 1]


def choose_order(documents: Documents, vocab_size: int, *, seed: int, threads: int = 1) -> int:
    """Return the order with the lowest loss on a held-out part; of equal ones, the lowest.

    Reads the last ENOUGH tokens. Tries orders up to MOST_ORDER, or MOST_ORDER_OF_PIECES for a
    vocabulary above WIDE.
    """
    most_order = MOST_ORDER if vocab_size <= WIDE else MOST_ORDER_OF_PIECES
    documents = documents.end(ENOUGH)
    counted, held_out = _hold_out(documents, seed)
    # A longer context than the longest document never occurs.
    longest = int(counted.lengths.max(initial=0)) + 1
    model = KneserNey.count(counted, min(most_order, longest), vocab_size, threads)
    losses = model.token_losses_by_order(held_out, threads)
    if held_out.is_target is not None:
        losses = losses[:, held_out.is_target]
    return int(losses.sum(axis=1).argmin()) + 1


def _hold_out(documents: Documents, seed: int) -> tuple[Documents, Documents]:
    """Split off a seeded tenth of the documents, or the last tenth of the longest of a few.

    Less of a large text: what is held out has at most MOST_HELD_OUT targets or one document.
    """
    if documents.count >= HELD_OUT:
        order = permutation(seed, Stream.SPLIT, _SPLIT_ITEM, documents.count)
        is_held_out = np.zeros(documents.count, dtype=np.bool_)
        chosen = order[: documents.count // HELD_OUT]
        fitting = int((np.cumsum(documents.lengths[chosen] + 1) <= MOST_HELD_OUT).sum())
        is_held_out[chosen[: max(fitting, 1)]] = True
        return documents.take(~is_held_out), documents.take(is_held_out)
    if documents.count == 0:
        return documents, documents
    longest = int(documents.lengths.argmax())
    size = int(documents.lengths[longest])
    end = int(documents.offsets[longest + 1])
    tokens = documents.tokens
    tail = tokens[end - min(size // HELD_OUT, MOST_HELD_OUT - 1) : end]
    offsets = documents.offsets.copy()
    offsets[longest + 1 :] -= len(tail)
    counted = np.delete(tokens, np.s_[end - len(tail) : end])
    held_out = Documents.of(tail, np.array([0, len(tail)]))
    if documents.is_target is not None:
        last = end + longest + 1  # of the pairs; the pair of a token has its document's number more
        held_out = replace(held_out, is_target=documents.is_target[last - held_out.pairs : last])
    return Documents.of(counted, offsets), held_out
