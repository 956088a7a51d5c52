"""The last tokens of texts that grow together: the contexts that counted n-grams read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["RecentTokens"]

_SPARE = 512  # tokens per text that are appended before the context moves to the front


class RecentTokens:
    """The last `longest` tokens of each text. Appending a token to all texts copies nothing."""

    def __init__(self, texts: Sequence[Sequence[int]], longest: int) -> None:
        self._longest = longest
        recent = [list(text[max(len(text) - longest, 0) :]) for text in texts]
        self._end = len(recent[0]) if recent else 0  # texts have one length
        self._tokens = np.zeros((len(recent), longest + _SPARE), dtype=np.int64)
        self._tokens[:, : self._end] = recent
        self._address = int(self._tokens.ctypes.data)

    @property
    def stride(self) -> int:
        """Elements between the first tokens of two texts in memory."""
        return self._tokens.shape[1]

    @property
    def length(self) -> int:
        return min(self._end, self._longest)

    @property
    def address(self) -> int:
        """Address of the first context, until the next token."""
        return self._address + 8 * (self._end - self.length)

    def contexts(self) -> NDArray[np.int64]:  # (texts, length), a view
        return self._tokens[:, self._end - self.length : self._end]

    def append(self, ids: Sequence[int]) -> None:
        if self._end == self._tokens.shape[1]:
            self._tokens[:, : self._longest] = self.contexts()  # the columns do not overlap
            self._end = self._longest
        self._tokens[:, self._end] = ids
        self._end += 1
