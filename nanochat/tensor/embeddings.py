"""The rows of the embedding table that each token adds up.

A token takes its own row of wte, one row of wte1, wte2, … for each earlier token, and one row of
wte_ngram for each n-gram that ends with it. The tables follow each other and form one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config.options import TrainConfig

__all__ = ["Bags", "EmbeddingTables"]

# The golden ratio of 2^64 (Knuth, The Art of Computer Programming 3, 6.4), as in abi.h.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class Bags(NamedTuple):
    """The rows that each token adds up, as F.embedding_bag reads them."""

    rows: Tensor  # (n,) int64
    offsets: Tensor  # (tokens,) int64, the first of a token's rows


@dataclass(frozen=True, slots=True)
class EmbeddingTables:
    """The sizes of a model's embedding tables."""

    vocab_size: int
    past: int  # tables of earlier tokens
    hash_embed_rows: int  # rows of the n-gram table, where n-grams may collide; 0: no table
    hash_embed_longest: int  # tokens of the longest n-gram; the shortest has two

    @classmethod
    def of(cls, config: TrainConfig, vocab_size: int) -> EmbeddingTables:
        return cls(
            vocab_size, config.prev_token_tables, config.hash_embed_rows, config.hash_embed_longest
        )

    @property
    def rows(self) -> int:
        return (self.past + 1) * self.vocab_size + self.hash_embed_rows

    @property
    def lookback(self) -> int:
        """The number of earlier tokens that the embedding of a token depends on."""
        return max(self.past, self.hash_embed_longest - 1 if self.hash_embed_rows else 0)

    def bags(
        self,
        tokens: NDArray[np.int64],  # (rows, length)
        starts: NDArray[np.int64],  # (rows, length) first column of the token's segment
        *,
        first: int = 0,  # the first column that is embedded
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and offsets of Bags for the columns from `first` on, row by row."""
        before = np.arange(self.lookback + 1)
        columns = np.arange(first, tokens.shape[1])[:, None] - before
        text = tokens[:, np.maximum(columns, 0)]  # (rows, columns, tokens back)
        seen = columns >= starts[:, first:, None]
        tables = slice(0, self.past + 1)
        found = text[..., tables] + before[tables] * self.vocab_size
        present = seen[..., tables]
        if self.hash_embed_rows:
            longest = slice(1, self.hash_embed_longest)
            found = np.concatenate((found, self._ngrams(text)), axis=-1)
            present = np.concatenate((present, seen[..., longest]), axis=-1)
        counts = present.sum(-1).reshape(-1)
        return found[present], np.cumsum(counts) - counts

    def table_and_row(self, row: int) -> tuple[str, int]:
        """Return the name of the table that has a row of `bags`, and its row there."""
        table, at = divmod(row, self.vocab_size)
        if table > self.past:
            return "wte_ngram", row - (self.past + 1) * self.vocab_size
        return f"wte{table or ''}", at

    def _ngrams(self, text: NDArray[np.int64]) -> NDArray[np.int64]:  # (…, longest − 1)
        """Return the rows of the n-grams that end with text[..., 0]; text[..., k] is k earlier."""
        following = text.astype(np.uint64) + np.uint64(1)
        rows = np.uint64(self.hash_embed_rows)
        key = following[..., 0] * _MULTIPLIER  # modulo 2^64
        found = []
        for k in range(1, self.hash_embed_longest):
            key = (key + following[..., k]) * _MULTIPLIER
            found.append((key >> _HALF) * rows >> _HALF)
        first = (self.past + 1) * self.vocab_size
        return np.stack(found, axis=-1).astype(np.int64) + first
