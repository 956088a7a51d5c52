"""The counting baseline of a run: the score of a Kneser–Ney model of the training text.

Owns the choice of the order and the score. Leaves out what is printed (commands/baseline.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, token_stream
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.philox import Stream, permutation

__all__ = ["MOST_ORDER", "Baseline", "choose_order", "count_baseline"]

MOST_ORDER = 13  # texts of up to some megabytes gain nothing beyond it
HELD_OUT = 10  # one part in so many chooses the order, and at most
MOST_HELD_OUT = 50_000  # targets: enough to tell orders apart
_SPLIT_ITEM = 1  # of Stream.SPLIT; validation uses 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The score of counting on the targets of validation; None where nothing can be scored."""

    order: int  # N − 1 tokens of context and the predicted one
    loss: float | None  # nats per target, BOS included
    bpb: float | None  # bits per byte of raw text, BOS excluded


def count_baseline(
    train: Documents,
    validation: Documents,
    vocab_size: int,
    token_bytes: NDArray[np.int64],  # (vocab_size,) raw bytes per token
    *,
    seed: int,
    most_order: int = MOST_ORDER,
    threads: int = 1,
) -> Baseline:
    """Choose the order on a part of the training text, count all of it, and score validation.

    Loss and bits per byte are those of `training.metrics.LossTotals` over the same targets. Raises
    KernelError for a text that is too long to count.
    """
    order = choose_order(train, vocab_size, seed=seed, most_order=most_order, threads=threads)
    model = KneserNey.count(train, order, vocab_size, threads)
    nats = model.token_losses(validation, threads=threads)
    sizes = token_bytes[token_stream(validation)[1:]]
    total_bytes = int(sizes.sum())
    with_bytes = float(nats[sizes > 0].sum())
    return Baseline(
        order=order,
        loss=float(nats.mean()) if len(nats) else None,
        bpb=with_bytes / (math.log(2) * total_bytes) if total_bytes else None,
    )


def choose_order(
    documents: Documents,
    vocab_size: int,
    *,
    seed: int,
    most_order: int = MOST_ORDER,
    threads: int = 1,
) -> int:
    """Return the order with the lowest loss on a held-out part; of equal ones, the lowest."""
    counted, held_out = _hold_out(documents, seed)
    # A longer context than the longest document never occurs.
    longest = int(counted.lengths.max(initial=0)) + 1
    model = KneserNey.count(counted, min(most_order, longest), vocab_size, threads)
    losses = model.token_losses_by_order(held_out, threads).sum(axis=1)
    return int(losses.argmin()) + 1


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
        return _select(documents, ~is_held_out), _select(documents, is_held_out)
    if documents.count == 0:
        return documents, documents
    longest = int(documents.lengths.argmax())
    size = int(documents.lengths[longest])
    end = int(documents.offsets[longest + 1])
    tail = documents.tokens[end - min(size // HELD_OUT, MOST_HELD_OUT - 1) : end]
    offsets = documents.offsets.copy()
    offsets[longest + 1 :] -= len(tail)
    tokens = np.delete(documents.tokens, np.s_[end - len(tail) : end])
    return Documents(tokens, offsets), Documents(tail, np.array([0, len(tail)]))


def _select(documents: Documents, chosen: NDArray[np.bool_]) -> Documents:
    offsets = np.zeros(int(chosen.sum()) + 1, dtype=np.int64)
    np.cumsum(documents.lengths[chosen], out=offsets[1:])
    return Documents(documents.tokens[np.repeat(chosen, documents.lengths)], offsets)
