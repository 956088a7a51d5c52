"""The training and the validation part of a corpus, and the hash that names the split.

Owns which documents go where. Leaves out tokens, and the style corpus, which is added to the
training part later and never to the validation part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat.data.texts import Texts
from nanochat.errors import CorpusError
from nanochat.philox import Stream, permutation

__all__ = ["EMPTY_DATASET", "Split", "count_shared", "split_documents", "without_duplicates"]

EMPTY_DATASET = "dataset must contain at least one token pair"


@dataclass(frozen=True)
class Split:
    """Both parts of a corpus."""

    train: Texts
    val: Texts
    val_source: str  # val; train: too little text, validation uses training; none: no validation
    sha256: str  # of both parts, document by document
    warning: str | None  # the reason for val_source train


def split_documents(
    documents: Sequence[str],
    val_fraction: float,
    seed: int,
    *,
    whole: bool = False,  # a single document is not cut
) -> Split:
    """Hold out `val_fraction` of the documents, or of the characters of a single document.

    Of n, clamp(floor(n·f + 0.5), 1, n−1) are held out: the tail, after a seeded shuffle when there
    are several documents. When a part has no characters, its loss would be meaningless: validation
    then uses the training part and `warning` says so. Raises CorpusError if there is no text.
    """
    texts = Texts.of(documents)
    if not texts.has_text():
        raise CorpusError(EMPTY_DATASET)
    shuffled = texts.take(permutation(seed, Stream.SPLIT, 0, len(texts)))
    if val_fraction == 0:
        return _split(shuffled, shuffled[:0], "none")
    if len(shuffled) == 1 and whole:
        warning = (
            "the corpus has one conversation, too little for a validation part; validation uses the"
            " training part"
        )
        return _split(shuffled, shuffled, "train", warning)
    if len(shuffled) == 1:
        characters = shuffled.characters()
        train, val = shuffled.cut(characters - _held_out(characters, val_fraction))
    else:
        boundary = len(shuffled) - _held_out(len(shuffled), val_fraction)
        train, val = shuffled[:boundary], shuffled[boundary:]
    if train.has_text() and val.has_text():
        return _split(train, val, "val")
    characters = shuffled.characters()
    warning = (
        f"the corpus has {characters} character{'s' * (characters != 1)} in {len(shuffled)}"
        f" document{'s' * (len(shuffled) != 1)}, too little for a validation part;"
        " validation uses the training part"
    )
    return _split(shuffled, shuffled, "train", warning)


def count_shared(train: Sequence[str], val: Sequence[str]) -> int:
    """Return how many validation documents with text also occur in the training part."""
    trained, validated = Texts.of(train), Texts.of(val)
    # Only documents of an equal length are compared, so a long one is rarely copied.
    # np.intersect1d would import numpy.ma, which takes longer than all of this.
    in_both = np.isin(validated.lengths, trained.lengths) & (validated.lengths > 0)
    validated = validated.take(np.flatnonzero(in_both))
    trained = trained.take(np.flatnonzero(np.isin(trained.lengths, validated.lengths)))
    held_out = set(map(bytes, validated.views()))
    shared = held_out.intersection(map(bytes, trained.views()))  # never a set of the larger part
    return sum(bytes(view) in shared for view in validated.views()) if shared else 0


def without_duplicates(documents: Texts) -> Texts:
    """Return the documents without later exact copies; empty documents are dropped as copies."""
    digests = bytearray()  # 16 bytes per document, where a set takes 100
    for view in documents.views():
        digests += hashlib.blake2b(view, digest_size=16).digest()
    low, high = np.frombuffer(digests, np.uint64).reshape(-1, 2).T
    order = np.lexsort((low, high))  # stable: the first of equal documents comes first
    is_copy = (low[order[1:]] == low[order[:-1]]) & (high[order[1:]] == high[order[:-1]])
    first = np.ones(len(documents), np.bool_)
    first[order[1:][is_copy]] = False
    return documents.take(np.flatnonzero(first))


def _held_out(n: int, val_fraction: float) -> int:
    return max(1, min(math.floor(n * val_fraction + 0.5), n - 1))


def _split(train: Texts, val: Texts, val_source: str, warning: str | None = None) -> Split:
    return Split(train, val, val_source, _sha256(train, val), warning)


def _sha256(*parts: Texts) -> str:
    """Hash each length before its contents: two different splits never give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for piece in part.with_lengths():
            digest.update(piece)
    return digest.hexdigest()
