"""Linear layer, tanh soft-cap and cross-entropy as one operation: the loss of both models.

Plain torch. Callers see one function, so that a fused kernel can take its place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["head_logits", "linear_cross_entropy", "token_nats"]

IGNORE = -1


def head_logits(
    hidden: Tensor,  # (rows, width) float
    weight: Tensor,  # (vocab, width) same dtype
    *,
    softcap: float = 0.0,
) -> Tensor:  # (rows, vocab) float32 or float64
    """Logits in float32 at least; `softcap` > 0 bounds them by cap·tanh(logits / cap)."""
    logits = F.linear(hidden, weight)
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    return (logits / softcap).tanh() * softcap if softcap else logits


def linear_cross_entropy(
    hidden: Tensor,  # (rows, width) float
    weight: Tensor,  # (vocab, width) same dtype
    targets: Tensor,  # (rows,) int64
    *,
    ignore_index: int = IGNORE,
    softcap: float = 0.0,
) -> Tensor:  # () float32 or float64
    """Sum of −log p(target) in nats over the rows whose target is not `ignore_index`."""
    logits = head_logits(hidden, weight, softcap=softcap)
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")


def token_nats(
    hidden: Tensor,  # (rows, width) float
    weight: Tensor,  # (vocab, width) same dtype
    targets: Tensor,  # (rows,) int64
    *,
    ignore_index: int = IGNORE,
    softcap: float = 0.0,
) -> Tensor:  # (rows,) float32 or float64
    """−log p(target) of each row in nats; 0 where the target is `ignore_index`."""
    logits = head_logits(hidden, weight, softcap=softcap)
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
