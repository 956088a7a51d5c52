"""The network and counted n-grams predict together: the loss of the mixture.

The head has one output more than there are tokens, the last. Its share of the softmax goes to the
counts, as to the pointer of Merity et al. 2017 (Pointer Sentinel Mixture Models):

    p(token) = softmax(logits)[token] + softmax(logits)[last] · p_counts(token)

scalar/functions.py has the same formula one number at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["mixed_nats"]


def mixed_nats(
    logits: Tensor,  # (rows, vocab + 1) float32 or float64
    targets: Tensor,  # (rows,) int64; −1 counts in no loss
    log_by_counts: Tensor,  # (rows,) log p_counts(target)
) -> tuple[Tensor, Tensor]:  # (rows,) each
    """Return −log p(target) of the mixture, and of the network without the share of the counts."""
    mixed, network = _MixedNats.apply(logits, targets, log_by_counts)  # type: ignore[no-untyped-call]  # torch has no types here
    return mixed, network


class _MixedNats(torch.autograd.Function):
    """The two losses, with one matrix of probabilities for both gradients."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, log_by_counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        chosen = targets.clamp_min(0).unsqueeze(1)
        shares = logits.softmax(dim=1)
        largest, place = logits.max(dim=1, keepdim=True)
        sums = largest - shares.gather(1, place).log()  # log Σ exp(logits), (rows, 1)
        own = (logits.gather(1, chosen) - sums).squeeze(1)
        counted = (logits[:, -1:] - sums).squeeze(1) + log_by_counts
        total = torch.logaddexp(own, counted)
        # All that the counts leave; a share of 1 leaves what the smallest number can tell.
        left = shares[:, :-1].sum(dim=1).clamp_min(torch.finfo(shares.dtype).tiny)
        is_target = targets >= 0
        ctx.save_for_backward(shares, chosen, (own - total).exp(), left, is_target)
        return torch.where(is_target, -total, 0.0), torch.where(is_target, left.log() - own, 0.0)

    @staticmethod
    def backward(ctx: Any, mixed: Tensor, network: Tensor) -> tuple[Tensor, None, None]:
        shares, chosen, own, left, is_target = ctx.saved_tensors
        mixed, network = (torch.where(is_target, each, 0.0) for each in (mixed, network))
        last = mixed * (shares[:, -1] - (1 - own))
        gradient = shares * (mixed + network / left).unsqueeze(1)
        gradient[:, -1] = last
        gradient.scatter_add_(1, chosen, -(mixed * own + network).unsqueeze(1))
        return gradient, None, None
