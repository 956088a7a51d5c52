"""The tokens of conversations, with ids after those of a tokenizer's text.

Owns their names, their ids and a tokenizer that has them. No text is ever encoded as one of them,
and they decode to no text. Leaves out where they are placed (conversations.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.data.token_checks import checked_ids
from nanochat.errors import TokenizerError

__all__ = ["SPECIAL_TOKENS", "ChatTokenizer", "check_special", "plain_tokenizer"]

# In the order of their ids: what begins a message of each role, and what ends a message.
SPECIAL_TOKENS = ("user", "assistant", "system", "end")


class ChatTokenizer:
    """A tokenizer with the special tokens of conversations. Text has the same ids as without."""

    def __init__(
        self,
        plain: Any,  # a Tokenizer without special tokens
    ) -> None:
        self.plain = plain
        self.kind: str = plain.kind
        self.first_special: int = plain.vocab_size
        self.vocab_size = self.first_special + len(SPECIAL_TOKENS)
        none = np.zeros(len(SPECIAL_TOKENS), dtype=np.int64)
        self.token_bytes: NDArray[np.int64] = np.concatenate([plain.token_bytes, none])

    def special(self, name: str) -> int:
        """Return the id of a special token."""
        return self.first_special + SPECIAL_TOKENS.index(name)

    def encode(self, text: str) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self.plain.encode(text)
        return ids

    def encode_all(
        self, documents: Sequence[str], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        encoded: tuple[NDArray[np.integer[Any]], NDArray[np.int64]]
        encoded = self.plain.encode_all(documents, room=room)
        return encoded

    def decode(self, ids: ArrayLike) -> str:
        tokens = checked_ids(ids, self.vocab_size)
        text: str = self.plain.decode(tokens[tokens < self.first_special])
        return text

    def token_text(self, token: int) -> str:
        if self.first_special <= token < self.vocab_size:
            return f"<|{SPECIAL_TOKENS[token - self.first_special]}|>"
        text: str = self.plain.token_text(token)
        return text

    def to_dict(self) -> dict[str, Any]:
        return {**self.plain.to_dict(), "special": list(SPECIAL_TOKENS)}

    def stream(self) -> _ChatStream:
        return _ChatStream(self)


class _ChatStream:
    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._first, self._end = tokenizer.first_special, tokenizer.vocab_size
        self._plain = tokenizer.plain.stream()

    def push(self, *tokens: int) -> str:
        text: str = self._plain.push(*(t for t in tokens if not self._first <= t < self._end))
        return text

    def flush(self) -> str:
        text: str = self._plain.flush()
        return text


def plain_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer of text alone."""
    return tokenizer.plain if isinstance(tokenizer, ChatTokenizer) else tokenizer


def check_special(saved: Any) -> None:
    """Raise TokenizerError unless these are the special tokens as they are saved."""
    if saved != list(SPECIAL_TOKENS):
        raise TokenizerError(
            f"saved tokenizer: special must be {list(SPECIAL_TOKENS)}, got {str(saved)[:60]}"
        )
