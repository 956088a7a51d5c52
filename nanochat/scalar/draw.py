"""The token draw in C++: training/draw.py's tokens, to the bit.

The CPU kernel nck_sample (csrc/kernels/cpu/sample/sample.cpp) without torch. Logits are float32 or float64
arrays, as decoders give them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat import _scalar
from nanochat.training.guards import check_temperature

__all__ = ["draw"]


def draw(
    logits: NDArray[Any],  # (rows, vocab) float32 or float64
    random: NDArray[np.uint64],  # (rows,)
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0: all
    top_p: float = 1.0,
) -> NDArray[np.int64]:  # (rows,)
    """One token a row. Raises what nanochat.sampling.draw.draw raises, and TypeError for logits of
    another dtype."""
    check_temperature(temperature)
    return _scalar.draw_tokens(logits, random, temperature, top_k, top_p)
