"""The draw of the decoders whose logits are in memory, by the CPU kernel nck_sample. No torch.

Returns the same tokens as draw.py, bit-identical. ops/_sample.py is the same for torch tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ONE_THREAD_LOGITS", "DrawsOnCpu"]

# Up to this many logits one thread is enough: a second one would wait longer than it works.
ONE_THREAD_LOGITS = 32768


class DrawsOnCpu:
    """Give a decoder the draw of sampling.sampling.DrawsTokens."""

    draw_threads = 1  # for more than ONE_THREAD_LOGITS

    def draw(
        self,
        logits: NDArray[Any],  # (rows, vocab) float32 or float64
        random: NDArray[np.uint64],  # (rows,)
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:  # (rows,)
        """Return one token per row. Raises LogitsError for a row that holds NaN or only −inf."""
        threads = 1 if logits.size <= ONE_THREAD_LOGITS else self.draw_threads
        return _kernel()(logits, random, temperature, top_k, top_p, threads)


@cache
def _kernel() -> Callable[..., NDArray[np.int64]]:
    from nanochat import _scalar  # most decoders of the tensor engine never draw with it

    return _scalar.draw_tokens
