"""The network and counted n-grams predict together: the loss of the mixture.

The head has one output more than there are tokens, the last. Its share of the softmax goes to the
counts, as to the pointer of Merity et al. 2017 (Pointer Sentinel Mixture Models):

    p(token) = softmax(logits)[token] + softmax(logits)[last] · p_counts(token)

scalar/functions.py has the same formula one number at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mixed_nats"]


def mixed_nats(
    logits: Tensor,  # (rows, vocab + 1) float32 or float64
    targets: Tensor,  # (rows,) int64; −1 counts in no loss
    by_counts: Tensor,  # (rows,) log p_counts(target)
) -> tuple[Tensor, Tensor]:  # (rows,) each
    """Return −log p(target) of the mixture, and of the network without the share of the counts."""
    tokens, share = logits[:, :-1], logits[:, -1]
    chosen = tokens.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    sums = tokens.logsumexp(dim=1)
    is_target = targets >= 0
    network = torch.where(is_target, sums - chosen, 0.0)
    mixed = torch.logaddexp(sums, share) - torch.logaddexp(chosen, share + by_counts)
    return torch.where(is_target, mixed, 0.0), network
