"""What one forward and backward pass computed, by name, and what may be changed in it.

The names are those that the models give to `see`. Leaves out how an engine computes them
(scalar/trace.py, tensor/trace.py) and what people ask of them (trace.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.ngram.share import Share

__all__ = ["PER_HEAD", "PER_TOKEN", "Computed", "Edits", "TracedText", "causal"]

# (heads, tokens, tokens): element [h, q, k] is of the query of token q and the key of token k.
PER_HEAD = ("attn.scores", "attn.weights")

PER_TOKEN = ("losses", "counts_share")  # (tokens,)

# Arrays of the shapes of the named ones. A number replaces what the model computed; NaN leaves it.
Edits = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedText:
    """One document: each token is read at its index and predicts the target of that index."""

    source: str
    tokens: NDArray[np.int64]  # (tokens,) the first is BOS
    targets: NDArray[np.int64]  # (tokens,) the last is BOS
    by_counts: NDArray[np.float64] | None  # (tokens,) probability of each target; None: no counts
    share: Share  # of the counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """The named arrays in float64, which holds the numbers of every dtype exactly."""

    values: Mapping[str, NDArray[np.float64]]
    gradients: Mapping[str, NDArray[np.float64]]  # of the mean loss
    weight_gradients: Mapping[str, NDArray[np.float64]]  # by the names of the weights


def causal(length: int) -> NDArray[np.bool_]:  # (length, length)
    """Return which keys each query sees: those of its own token and of earlier ones."""
    return np.tri(length, dtype=np.bool_)
