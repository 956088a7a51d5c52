"""A corpus as token ids: one flat array, and where each document begins.

Owns `Documents` and the BOS-delimited token stream that every batcher reads. Leaves out how text
becomes ids (tokenizer.py) and which tokens form a batch (batches.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.tokenizer import BOS, Tokenizer

__all__ = ["Documents", "encode_documents", "token_stream"]

_FEW = 16  # documents that are copied one by one, without a mask over the whole text


@dataclass(frozen=True)
class Documents:
    """Documents end to end, without BOS."""

    tokens: NDArray[np.integer[Any]]  # (sum of lengths,) in the smallest type that holds the ids
    offsets: NDArray[np.int64]  # (count + 1,): document d is tokens[offsets[d] : offsets[d + 1]]

    @property
    def count(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(count,) tokens of each document."""
        return np.diff(self.offsets)

    @property
    def pairs(self) -> int:
        """Number of (input, target) pairs: n + 1 for a document of n tokens."""
        return len(self.tokens) + self.count


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str]) -> Documents:
    """Encode each document. Raises TokenizerError naming character, position and document."""
    tokens, lengths = tokenizer.encode_all(documents)
    offsets = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Documents(tokens, offsets)


def token_stream(documents: Documents) -> NDArray[np.integer[Any]]:  # (pairs + 1,)
    """Join the documents with BOS before each one and one BOS at the end, in the tokens' type.

    Pair p of the corpus is stream[p] → stream[p + 1], and document d starts at pair
    offsets[d] + d.
    """
    stream = np.full(documents.pairs + 1, BOS, dtype=documents.tokens.dtype)
    if documents.count <= _FEW:
        for d, (start, end) in enumerate(pairwise(documents.offsets.tolist())):
            stream[start + d + 1 : end + d + 1] = documents.tokens[start:end]
        return stream
    is_text = np.ones(len(stream), dtype=np.bool_)
    is_text[documents.offsets + np.arange(documents.count + 1)] = False
    stream[is_text] = documents.tokens
    return stream
