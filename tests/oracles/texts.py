"""Random documents of small vocabularies, as hypothesis strategies and as token arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from nanochat.data.documents import Documents

Texts = list[list[int]]


def documents_of(texts: Sequence[Sequence[int]]) -> Documents:
    tokens = np.array([token for text in texts for token in text], dtype=np.int64)
    return Documents.of(tokens, np.cumsum([0, *map(len, texts)], dtype=np.int64))


@st.composite
def texts(draw: st.DrawFn, vocab: int, most: int = 6) -> Texts:
    """Return documents of tokens 1 … vocab − 1: empty ones, single tokens, and longer ones."""
    if vocab == 1:
        return [[]] * draw(st.integers(0, most))
    lengths = st.sampled_from([0, 1, 2, 3, 10, 40])
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few tokens per document give long repeats, which reach the deepest contexts.
    return [
        random.integers(1, draw(st.integers(2, vocab)), length).tolist()
        for length in draw(st.lists(lengths, max_size=most))
    ]
