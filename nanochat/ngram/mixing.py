"""What counted n-grams say of a text: of any text, and of the text they were counted from.

A model of the counts has seen its own text and would predict it too well. So the probabilities to
train with are cross-fitted: the text is split into parts, and each part is scored by the counts of
the others.
"""

from __future__ import annotations

import math
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents
from nanochat.data.tokenizer import BOS
from nanochat.ngram.baseline import counted_part, losses_in_pieces, most_counted
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.philox import Stream, permutation

__all__ = [
    "FOLDS",
    "LONG_FOLDS",
    "ReadProbabilities",
    "cross_fitted",
    "exact_probabilities",
    "parts_for",
    "probabilities",
    "read_probabilities",
    "text_for",
    "training_part",
]

FOLDS = 10
# Parts of a text that is counted with a cut-off. Ten parts take nine times as long to count as the
# text, two take as long as it, and the half of a long text predicts nearly as well as all of it.
LONG_FOLDS = 2
MANY = 10 * FOLDS  # documents; parts of fewer would differ much in size
SPARE = 2  # times the tokens that a run reads: those of the parts that it reads from
_BLOCK = 256  # targets whose probabilities are computed at a time, at least
_MOST_BLOCKS = 4096  # and at most
# Pairs of a validation part whose probabilities are computed before the run: in about a second.
SHORT = 1 << 20
_SPLIT_ITEM = 2  # of Stream.SPLIT; 0 and 1 are those of validation and of the baseline


def probabilities(
    model: KneserNey, documents: Documents, threads: int = 1
) -> NDArray[np.float32]:  # (documents.pairs,)
    """Return the probability of each target, the ends of documents included."""
    result, first = np.empty(documents.pairs, dtype=np.float32), 0
    for losses, _ in losses_in_pieces(model, documents, threads=threads):
        result[first : first + len(losses)] = np.exp(-losses)
        first += len(losses)
    return result


def exact_probabilities(
    model: KneserNey, documents: Documents, threads: int = 1
) -> NDArray[np.float64]:  # (documents.pairs,)
    """Return `probabilities` in float64, in which the counts predict alone."""
    losses = model.token_losses(documents, threads=threads)
    return np.exp(np.negative(losses, out=losses), out=losses)


class ReadProbabilities:
    """`probabilities` of a text that are computed when they are first read, and kept.

    An evaluation during training reads few of the targets of a long validation part.
    """

    def __init__(
        self,
        model: KneserNey,
        documents: Documents,
        threads: int = 1,
        dtype: type[np.floating] = np.float32,
    ) -> None:
        self._model, self._documents, self._threads = model, documents, threads
        # Memory that is not written takes none.
        self._values: NDArray[np.floating] = np.empty(documents.pairs, dtype=dtype)
        self._is_known = np.zeros(-(-documents.pairs // _BLOCK), dtype=np.bool_)

    def __getitem__(self, pairs: NDArray[np.int64]) -> NDArray[np.floating]:
        blocks = np.unique(pairs // _BLOCK)
        missing = blocks[~self._is_known[blocks]]
        gaps = np.flatnonzero(np.diff(missing) != 1) + 1
        for run in np.split(missing, gaps) if len(missing) else []:
            for first in range(int(run[0]), int(run[-1]) + 1, _MOST_BLOCKS):
                last = min(first + _MOST_BLOCKS, int(run[-1]) + 1)
                self._compute(first * _BLOCK, last * _BLOCK)
        self._is_known[missing] = True
        return self._values[pairs]

    def _compute(self, first: int, last: int) -> None:
        last = min(last, self._documents.pairs)
        start = max(first - self._model.order, 0)  # the context of the first target
        piece = self._documents.piece(start, last)
        losses = self._model.token_losses(piece, threads=self._threads)[: last - start]
        self._values[first:last] = np.exp(-losses[first - start :])


def read_probabilities(
    model: KneserNey,
    documents: Documents,
    threads: int = 1,
    dtype: type[np.floating] = np.float32,
) -> ReadProbabilities | NDArray[np.floating]:
    """Return the probabilities of a short text, and of a long one those that will be read."""
    values = ReadProbabilities(model, documents, threads, dtype)
    return values[np.arange(documents.pairs)] if documents.pairs <= SHORT else values


def text_for(documents: Documents, reads: float) -> Documents:
    """Return the end of the documents that a run needs to read `reads` tokens.

    Nothing that may be counted is left out.
    """
    return documents.end(max(most_counted(documents), math.ceil(SPARE * reads)))


def parts_for(documents: Documents, reads: float) -> int:
    """Return the number of parts, at most FOLDS, that a run needs to read `reads` tokens.

    Each part is counted apart. A short run on a long text would spend its time on that.
    """
    pairs = min(documents.pairs, most_counted(documents))
    return max(1, min(FOLDS, math.ceil(FOLDS * SPARE * reads / max(pairs, 1))))


def training_part(documents: Documents, seed: int, parts: int = FOLDS) -> Documents:
    """Return the text of the parts that the network is trained on: all documents, or those of the
    first parts, or the end of few documents."""
    if parts == FOLDS:
        return documents
    documents = counted_part(documents)
    if documents.count >= MANY:
        return documents.take(_parts_of_documents(documents, seed) < parts)
    return documents.end(documents.pairs - _edges(documents.pairs)[FOLDS - parts])


def cross_fitted(
    documents: Documents,
    order: int,
    vocab_size: int,
    *,
    seed: int,
    threads: int = 1,
    parts: int = FOLDS,
    cutoff: Cutoff | None = None,  # of a long text, which is counted whole
) -> NDArray[np.float32]:  # (pairs of the training part,)
    """Return the probability of each target of `training_part` by the counts of the other parts.

    A part is a tenth of the documents, drawn by the seed, with exact duplicates in the same part;
    or, of few documents, a tenth of the text in one piece. `order` − 1 tokens at each edge of a
    piece are not counted: their n-grams reach into it. What comes before the end that is counted
    at most is scored by all counts, which do not contain it. With a cut-off, there are LONG_FOLDS
    parts of the whole text, and `parts` must be FOLDS.
    """
    if cutoff is not None:
        assert parts == FOLDS
        return _cross_fitted_long(documents, order, vocab_size, seed, threads, cutoff)
    counted = counted_part(documents)
    if counted is not documents and parts == FOLDS:
        model = KneserNey.count(counted, order, vocab_size, threads)
        before = documents.pairs - counted.pairs
        start = probabilities(model, documents.piece(0, before), threads)[:before]
        rest = cross_fitted(counted, order, vocab_size, seed=seed, threads=threads)
        return np.concatenate([start, rest])
    documents = counted
    if documents.count >= MANY:
        part_of = _parts_of_documents(documents, seed)
        pairs_of = np.repeat(part_of, documents.lengths + 1)
        pairs_of = pairs_of[pairs_of < parts]
        result = np.empty(len(pairs_of), dtype=np.float32)
        for number in range(parts):
            inside = part_of == number
            model = KneserNey.count(documents.take(~inside), order, vocab_size, threads)
            result[pairs_of == number] = probabilities(model, documents.take(inside), threads)
        return result
    edges = _edges(documents.pairs)[FOLDS - parts :]
    result = np.empty(documents.pairs - edges[0], dtype=np.float32)
    for first, last in pairwise(edges):
        if first == last:
            continue
        model = KneserNey.count(_without(documents, first, last, order), order, vocab_size, threads)
        skipped = min(order, first)
        piece = documents.piece(first - skipped, last)
        found = probabilities(model, piece, threads)[skipped : skipped + last - first]
        result[first - edges[0] : last - edges[0]] = found
    return result


def _cross_fitted_long(
    documents: Documents, order: int, vocab_size: int, seed: int, threads: int, cutoff: Cutoff
) -> NDArray[np.float32]:
    result = np.empty(documents.pairs, dtype=np.float32)
    if documents.count >= MANY:
        part_of = _parts_by_hash(documents, seed)
        pairs_of = np.repeat(part_of, documents.lengths + 1)
        for number in range(LONG_FOLDS):
            rest = documents.take(part_of != number)
            model = KneserNey.count(rest, order, vocab_size, threads, cutoff=cutoff)
            inside = documents.take(part_of == number)
            result[pairs_of == number] = probabilities(model, inside, threads)
        return result
    for first, last in pairwise(_edges(documents.pairs, LONG_FOLDS)):
        rest = _without(documents, first, last, order)
        model = KneserNey.count(rest, order, vocab_size, threads, cutoff=cutoff)
        skipped = min(order, first)
        piece = documents.piece(first - skipped, last)
        found = probabilities(model, piece, threads)[skipped : skipped + last - first]
        result[first:last] = found
    return result


def _parts_by_hash(documents: Documents, seed: int) -> NDArray[np.uint8]:  # (count,)
    """Return one of LONG_FOLDS parts for each document: of equal documents, the same.

    Takes no memory for the documents, of which a long text may have millions.
    """
    bounds = (documents.offsets + np.arange(len(documents.offsets))).tolist()  # of BOS
    stream = documents.stream
    hashes = np.fromiter(
        (zlib.crc32(stream[first + 1 : last].data, seed) for first, last in pairwise(bounds)),
        dtype=np.uint32, count=documents.count,
    )  # fmt: skip
    return (hashes.astype(np.uint64) * LONG_FOLDS >> 32).astype(np.uint8)


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


def _edges(pairs: int, folds: int = FOLDS) -> list[int]:
    """Return the folds + 1 edges of the pieces of a text of `pairs` pairs."""
    return [pairs * number // folds for number in range(folds + 1)]


def _without(documents: Documents, first: int, last: int, edge: int) -> Documents:
    """Return the documents without the pairs first … last − 1, and `edge` − 1 pairs around them."""
    stream = documents.stream
    first, last = max(first - edge + 1, 0), min(last + edge - 1, documents.pairs)
    before, after = stream[: first + 1] if first else stream[:0], stream[last + 1 :]
    is_open = not len(before) or before[-1] != BOS
    joint = np.full(int(is_open), BOS, dtype=stream.dtype)
    return Documents.of_stream(np.concatenate([before, joint, after]))
