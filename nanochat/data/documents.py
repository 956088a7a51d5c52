"""A corpus as token ids: one flat array with BOS around the documents, and where each one begins.

Owns `Documents`, whose array is the token stream that every batcher reads: a text of 1 GB has as
many tokens, which are not stored twice. Leaves out how text becomes ids (tokenizer.py) and which
tokens form a batch (batches.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.texts import Texts
from nanochat.data.tokenizer import BOS, CharTokenizer, Tokenizer
from nanochat.errors import TokenizerError

__all__ = ["Documents", "encode_and_free", "encode_documents", "token_stream"]

_MOVED = 1 << 22  # tokens that are moved at a time


@dataclass(frozen=True)
class Documents:
    """Documents with BOS before each one and one BOS at the end."""

    stream: NDArray[np.integer[Any]]  # (pairs + 1,) in the smallest type that holds the ids
    offsets: NDArray[np.int64]  # (count + 1,) tokens before each document, without BOS
    # (pairs,) whether the second token of a pair is a target; None: all are
    is_target: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        tokens: NDArray[np.integer[Any]],  # (sum of lengths,) documents end to end, without BOS
        offsets: NDArray[np.int64],  # (count + 1,): document d is tokens[offsets[d] : …[d + 1]]
    ) -> Documents:
        """Return documents from their tokens without BOS."""
        stream = np.empty(len(tokens) + len(offsets), dtype=tokens.dtype)
        stream[: len(tokens)] = tokens
        _insert_bos(stream, offsets)
        return cls(stream, offsets)

    @classmethod
    def of_stream(
        cls, stream: NDArray[np.integer[Any]], is_target: NDArray[np.bool_] | None = None
    ) -> Documents:
        """Return the documents of a token stream, which begins and ends with BOS."""
        begins = np.flatnonzero(stream == BOS)
        return cls(stream, begins - np.arange(len(begins)), is_target)

    def take(self, chosen: NDArray[np.bool_]) -> Documents:  # (count,)
        """Return the chosen documents."""
        offsets = np.zeros(int(chosen.sum()) + 1, dtype=np.int64)
        np.cumsum(self.lengths[chosen], out=offsets[1:])
        taken = Documents.of(self.tokens[np.repeat(chosen, self.lengths)], offsets)
        if self.is_target is None:
            return taken
        return replace(taken, is_target=self.is_target[np.repeat(chosen, self.lengths + 1)])

    def piece(self, first: int, last: int) -> Documents:
        """Return the pairs first … last − 1, and a last one that closes the piece with BOS.

        The input of the first pair becomes BOS. In conversations, the last pair is not a target.
        """
        stream = np.append(self.stream[first : last + 1], self.stream.dtype.type(BOS))
        stream[0] = BOS
        is_target = self.is_target
        return Documents.of_stream(
            stream, None if is_target is None else np.append(is_target[first:last], False)
        )

    def end(self, pairs: int) -> Documents:
        """Return the last pairs, at most; the first document may be the end of one."""
        if self.pairs <= pairs:
            return self
        first = self.pairs - pairs
        stream = self.stream[first:].copy()
        stream[0] = BOS
        is_target = self.is_target
        return Documents.of_stream(stream, None if is_target is None else is_target[first:])

    @property
    def count(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(count,) tokens of each document."""
        return np.diff(self.offsets)

    @property
    def token_count(self) -> int:
        """Number of tokens, without BOS."""
        return len(self.stream) - len(self.offsets)

    @property
    def pairs(self) -> int:
        """Number of (input, target) pairs: n + 1 for a document of n tokens."""
        return len(self.stream) - 1

    @property
    def targets(self) -> int:
        """Number of pairs whose second token is a target."""
        return self.pairs if self.is_target is None else int(self.is_target.sum())

    @property
    def tokens(self) -> NDArray[np.integer[Any]]:
        """(token_count,) a copy of the documents end to end, without BOS."""
        is_token = np.ones(len(self.stream), np.bool_)
        is_token[self.offsets + np.arange(len(self.offsets))] = False
        return self.stream[is_token]


def encode_documents(
    tokenizer: Tokenizer,
    documents: Sequence[str],
    name: str = "",  # of the text, for the message
) -> Documents:
    """Encode each document. Raises TokenizerError naming text, character, position and document."""
    try:
        return _with_bos(*tokenizer.encode_all(documents, room=len(documents) + 1))
    except TokenizerError as error:
        raise TokenizerError(f"{name}: {error}" if name else str(error)) from error


def encode_and_free(tokenizer: CharTokenizer, waiting: list[Texts]) -> Documents:
    """Encode the only item of a list, which is removed, and free its text on the way.

    Text and tokens of two bytes would take three times the size of the text.
    """
    return _with_bos(*tokenizer.encode_and_free(waiting, room=len(waiting[0]) + 1))


def _with_bos(tokens: NDArray[np.integer[Any]], lengths: NDArray[np.int64]) -> Documents:
    """Return the documents of tokens that are followed by a place for each BOS."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    _insert_bos(tokens, offsets)
    return Documents(tokens, offsets)


def token_stream(documents: Documents) -> NDArray[np.integer[Any]]:  # (pairs + 1,)
    """Return the documents with BOS before each one and one BOS at the end, in the tokens' type.

    Pair p of the corpus is stream[p] → stream[p + 1], and document d starts at pair
    offsets[d] + d.
    """
    return documents.stream


def _insert_bos(
    stream: NDArray[np.integer[Any]],  # (tokens + count + 1,): the tokens, then unused places
    offsets: NDArray[np.int64],  # (count + 1,)
) -> None:
    """Move each document to its place in the token stream, from the last one to the first."""
    last = len(offsets) - 1
    stream[int(offsets[last]) + last] = BOS
    while last > 0:
        end = int(offsets[last])
        first = min(int(np.searchsorted(offsets, end - _MOVED)), last - 1)
        start = int(offsets[first])
        if last - first == 1:
            _move_right(stream, start, end, last)
            stream[start + first] = BOS
        else:
            moved = stream[start:end].copy()
            target = stream[start + first : end + last]
            is_token = np.ones(len(target), np.bool_)
            is_token[offsets[first:last] - start + np.arange(last - first)] = False
            target.fill(BOS)
            target[is_token] = moved
        last = first


def _move_right(stream: NDArray[Any], start: int, end: int, by: int) -> None:
    """Move stream[start:end] without a copy of all of it."""
    while end > start:
        first = max(start, end - _MOVED)
        stream[first + by : end + by] = stream[first:end].copy()
        end = first
