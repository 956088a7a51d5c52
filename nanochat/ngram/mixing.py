"""What counted n-grams say of a text: of any text, and of the text they were counted from.

A model of the counts has seen its own text and would predict it too well. So the probabilities to
train with are cross-fitted: the text is split into parts, and each part is scored by the counts of
the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents
from nanochat.data.tokenizer import BOS
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.philox import Stream, permutation

__all__ = ["FOLDS", "NETWORK_WEIGHT", "cross_fitted", "offset_for", "probabilities"]

FOLDS = 10
MANY = 10 * FOLDS  # documents; parts of fewer would differ much in size
# Training lowers the loss of the mixture and, by this factor, that of the network alone. Without
# it, the network leaves to the counts what it should learn.
NETWORK_WEIGHT = 0.3
MOST_OFFSET = 1.5
_SPLIT_ITEM = 2  # of Stream.SPLIT; 0 and 1 are those of validation and of the baseline


def probabilities(
    model: KneserNey, documents: Documents, threads: int = 1
) -> NDArray[np.float32]:  # (documents.pairs,)
    """Return the probability of each target, the ends of documents included."""
    return np.exp(-model.token_losses(documents, threads=threads)).astype(np.float32)


def offset_for(epochs: float) -> float:
    """Return option ngram_offset for a training of so many epochs.

    In the first epoch, the text is as new to the network as it is to the counts.
    """
    return min(max(epochs - 1.0, 0.0), MOST_OFFSET)


def cross_fitted(
    documents: Documents, order: int, vocab_size: int, *, seed: int, threads: int = 1
) -> NDArray[np.float32]:  # (documents.pairs,)
    """Return the probability of each target by the counts of the other parts of the text.

    A part is a tenth of the documents, drawn by the seed, with exact duplicates in the same part;
    or, of few documents, a tenth of the text in one piece. `order` − 1 tokens at each edge of a
    piece are not counted: their n-grams reach into it.
    """
    result = np.empty(documents.pairs, dtype=np.float32)
    if documents.count >= MANY:
        parts = _parts_of_documents(documents, seed)
        for number in range(FOLDS):
            inside = parts == number
            model = KneserNey.count(documents.take(~inside), order, vocab_size, threads)
            pairs = np.repeat(inside, documents.lengths + 1)
            result[pairs] = probabilities(model, documents.take(inside), threads)
        return result
    for first, last in _pieces(documents.pairs):
        model = KneserNey.count(_without(documents, first, last, order), order, vocab_size, threads)
        skipped = min(order, first)
        piece = documents.piece(first - skipped, last)
        result[first:last] = probabilities(model, piece, threads)[skipped : skipped + last - first]
    return result


def _parts_of_documents(documents: Documents, seed: int) -> NDArray[np.int64]:  # (count,)
    """Return the part of each document: of equal documents, the same."""
    tokens, offsets = documents.tokens, documents.offsets
    numbers: dict[bytes, int] = {}
    kinds = np.array(
        [
            numbers.setdefault(tokens[first:last].tobytes(), len(numbers))
            for first, last in pairwise(offsets)
        ]
    )
    part_of = np.empty(len(numbers), dtype=np.int64)
    order = permutation(seed, Stream.SPLIT, _SPLIT_ITEM, len(numbers))
    part_of[order] = np.arange(len(numbers)) * FOLDS // len(numbers)
    parts: NDArray[np.int64] = part_of[kinds]
    return parts


def _pieces(pairs: int) -> Iterator[tuple[int, int]]:
    edges = [pairs * number // FOLDS for number in range(FOLDS + 1)]
    for first, last in pairwise(edges):
        if last > first:
            yield first, last


def _without(documents: Documents, first: int, last: int, edge: int) -> Documents:
    """Return the documents without the pairs first … last − 1, and `edge` − 1 pairs around them."""
    stream = documents.stream
    first, last = max(first - edge + 1, 0), min(last + edge - 1, documents.pairs)
    before, after = stream[: first + 1] if first else stream[:0], stream[last + 1 :]
    is_open = not len(before) or before[-1] != BOS
    joint = np.full(int(is_open), BOS, dtype=stream.dtype)
    return Documents.of_stream(np.concatenate([before, joint, after]))
