"""The training and the validation part of a corpus, and the hash that names the split.

Owns which documents go where. Leaves out tokens, and the style corpus, which is added to the
training part later and never to the validation part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.data.corpus import EMPTY_DATASET
from nanochat.errors import CorpusError
from nanochat.philox import Stream, permutation

__all__ = ["Split", "count_shared", "split_documents"]


@dataclass(frozen=True)
class Split:
    """Both parts of a corpus."""

    train: list[str]
    val: list[str]
    val_source: str  # val; train: too little text, validation uses training; none: no validation
    sha256: str  # of both parts, document by document
    warning: str | None  # the reason for val_source train


def split_documents(documents: Sequence[str], val_fraction: float, seed: int) -> Split:
    """Hold out `val_fraction` of the documents, or of the characters of a single document.

    Of n, clamp(floor(n·f + 0.5), 1, n−1) are held out: the tail, after a seeded shuffle when there
    are several documents. When a part has no characters, its loss would be meaningless: validation
    then uses the training part and `warning` says so. Raises CorpusError if there is no text.
    """
    if not any(documents):
        raise CorpusError(EMPTY_DATASET)
    order = permutation(seed, Stream.SPLIT, 0, len(documents))
    shuffled = [documents[i] for i in order]
    if val_fraction == 0:
        return _split(shuffled, [], "none")
    if len(shuffled) == 1:
        text = shuffled[0]
        boundary = len(text) - _held_out(len(text), val_fraction)
        train, val = [text[:boundary]], [text[boundary:]]
    else:
        boundary = len(shuffled) - _held_out(len(shuffled), val_fraction)
        train, val = shuffled[:boundary], shuffled[boundary:]
    if any(train) and any(val):
        return _split(train, val, "val")
    characters = sum(map(len, shuffled))
    warning = (
        f"the corpus has {characters} character{'s' * (characters != 1)} in {len(shuffled)}"
        f" document{'s' * (len(shuffled) != 1)}, too little for a validation part;"
        " validation uses the training part"
    )
    return _split(shuffled, list(shuffled), "train", warning)


def count_shared(train: Sequence[str], val: Sequence[str]) -> int:
    """Return how many validation documents with text also occur in the training part."""
    held_out = set(val) - {""}
    shared = held_out.intersection(train)  # the larger part is never copied into a set
    return sum(document in shared for document in val) if shared else 0


def _held_out(n: int, val_fraction: float) -> int:
    return max(1, min(math.floor(n * val_fraction + 0.5), n - 1))


def _split(train: list[str], val: list[str], val_source: str, warning: str | None = None) -> Split:
    return Split(train, val, val_source, _sha256(train, val), warning)


def _sha256(*parts: list[str]) -> str:
    """Hash each length before its contents: two different splits never give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = [document.encode("utf-8", "surrogatepass") for document in part]
        digest.update(len(encoded).to_bytes(8, "little"))
        fields: list[bytes] = []
        for raw in encoded:
            fields += (len(raw).to_bytes(8, "little"), raw)
        digest.update(b"".join(fields))
    return digest.hexdigest()
