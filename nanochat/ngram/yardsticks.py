"""The scores of unigram, bigram and Kneser–Ney on a text, counted from a run's training text.

All three are interpolated modified Kneser–Ney models (kneser_ney.py), of order 1, of order 2 and of
the order that predicts a held-out part of the training text best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nanochat.data.documents import Documents
from nanochat.ngram.baseline import choose_order, counted_part, losses_in_pieces
from nanochat.ngram.kneser_ney import KneserNey

__all__ = ["CountedScore", "counted_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedScore:
    """What an n-gram model needed for a text."""

    name: str  # unigram, bigram or Kneser-Ney
    order: int  # N − 1 tokens of context and the predicted one
    nats: float  # of all targets, the ends of documents included
    counted: int | None  # targets at the end of a longer training part; None: all


def counted_scores(
    train: Documents, scored: Documents, vocab_size: int, *, seed: int, threads: int = 1
) -> Iterator[CountedScore]:
    """Yield the three scores. The order is chosen as that of the baseline of a run.

    Raises KernelError if memory does not suffice.
    """
    counted = counted_part(train)
    best = choose_order(counted, vocab_size, seed=seed, threads=threads)
    model = KneserNey.count(counted, max(best, 2), vocab_size, threads)
    for name, order in (("unigram", 1), ("bigram", 2), ("Kneser-Ney", best)):
        pieces = losses_in_pieces(model, scored, order, threads)
        yield CountedScore(
            name=name, order=order, nats=sum(float(losses.sum()) for losses, _ in pieces),
            counted=None if counted is train else counted.pairs,
        )  # fmt: skip
