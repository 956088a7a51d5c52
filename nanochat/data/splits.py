"""The training and the validation part of a corpus, and the hash that names the split.

Owns which documents go where. Leaves out tokens and the style corpus, which joins the training
part later and never the validation part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.errors import CorpusError
from nanochat.philox import Stream, permutation

__all__ = ["Split", "split_documents"]


@dataclass(frozen=True)
class Split:
    """Both parts of a corpus."""

    train: list[str]
    val: list[str]
    val_source: str  # val; train: too little text, val is the training part; none: no val
    sha256: str  # of both parts, document by document
    warning: str | None  # why val_source is train


def split_documents(documents: Sequence[str], val_fraction: float, seed: int) -> Split:
    """Hold out `val_fraction` of the documents, or of the characters if there is one document.

    Of n, clamp(floor(n·f + 0.5), 1, n−1) are held out: the tail, after a seeded shuffle if there
    are many documents. A part without a character makes no (input, target) pair worth a number;
    then validation is the training part and `warning` says so. Raises CorpusError on no text.
    """
    if not any(documents):
        raise CorpusError("dataset must contain at least one token pair")
    order = permutation(seed, Stream.SPLIT, 0, len(documents))
    shuffled = [documents[i] for i in order]
    if val_fraction == 0:
        return _split(shuffled, [], "none")
    if len(shuffled) == 1:
        text = shuffled[0]
        cut = len(text) - _held_out(len(text), val_fraction)
        train, val = [text[:cut]], [text[cut:]]
    else:
        cut = len(shuffled) - _held_out(len(shuffled), val_fraction)
        train, val = shuffled[:cut], shuffled[cut:]
    if any(train) and any(val):
        return _split(train, val, "val")
    characters = sum(map(len, shuffled))
    warning = (
        f"the corpus has {characters} character{'s' * (characters != 1)} in {len(shuffled)}"
        f" document{'s' * (len(shuffled) != 1)}, too little for a validation part;"
        " validation uses the training part"
    )
    return _split(shuffled, list(shuffled), "train", warning)


def _held_out(n: int, val_fraction: float) -> int:
    return max(1, min(math.floor(n * val_fraction + 0.5), n - 1))


def _split(train: list[str], val: list[str], val_source: str, warning: str | None = None) -> Split:
    return Split(train, val, val_source, _sha256(train, val), warning)


def _sha256(*parts: list[str]) -> str:
    """Lengths stand before contents, so no two splits serialise to the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = [document.encode("utf-8", "surrogatepass") for document in part]
        digest.update(len(encoded).to_bytes(8, "little"))
        pieces: list[bytes] = []
        for raw in encoded:
            pieces += (len(raw).to_bytes(8, "little"), raw)
        digest.update(b"".join(pieces))
    return digest.hexdigest()
