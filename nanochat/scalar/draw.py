"""Token sampling in C++: the same tokens as nanochat.sampling.draw, bit-identical.

Calls the CPU kernel nck_sample (csrc/kernels/cpu/sample/sample.cpp) without torch.
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
    top_k: int = 0,  # 0 keeps all
    top_p: float = 1.0,
) -> NDArray[np.int64]:  # (rows,)
    """Sample one token per row.

    Raises the errors of nanochat.sampling.draw.draw, and TypeError for logits of another dtype.
    """
    check_temperature(temperature)
    return _scalar.draw_tokens(logits, random, temperature, top_k, top_p)
