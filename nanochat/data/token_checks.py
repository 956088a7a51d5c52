"""Checks that every tokenizer shares: token ids in range, text without lone surrogates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.data.texts import Texts
from nanochat.errors import TokenizerError

__all__ = ["checked_ids", "checked_texts", "smallest_type", "surrogate_error"]


def checked_texts(documents: Sequence[str]) -> Texts:
    """Return the documents in one buffer. Raises TokenizerError for a lone surrogate."""
    try:
        return Texts.of(documents)
    except UnicodeEncodeError as error:
        raise surrogate_error(error, "text") from error


def smallest_type(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest unsigned type that holds every id: a text of 1 GB has as many ids."""
    return np.min_scalar_type(vocab_size - 1)


def checked_ids(ids: ArrayLike, vocab_size: int) -> NDArray[np.int64]:  # (tokens,)
    """Return the ids as a flat array. Raises TokenizerError for an id out of range."""
    tokens = np.asarray(ids, dtype=np.int64).reshape(-1)
    wrong = (tokens < 0) | (tokens >= vocab_size)
    if wrong.any():
        raise TokenizerError(
            f"token id must be between 0 and {vocab_size - 1}, got {tokens[wrong][0]}"
        )
    return tokens


def surrogate_error(error: UnicodeEncodeError, name: str) -> TokenizerError:
    """Return the error for `name`, the kind of text that could not be encoded."""
    point = ord(error.object[error.start])
    return TokenizerError(
        f"{name} must be Unicode text, got the lone surrogate U+{point:04X} at position"
        f" {error.start}; replace it"
    )
