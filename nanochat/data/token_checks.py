"""Checks that every tokenizer shares: token ids in range, text without lone surrogates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.errors import TokenizerError

__all__ = ["checked_ids", "surrogate_error"]


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
