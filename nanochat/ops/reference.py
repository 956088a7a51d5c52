"""The ops in plain torch: what `use_native=False` computes and what the kernels are tested against.

Also used under torch.func transforms and forward-mode AD: torch differentiates it to any order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops.loss import LossInputs, LossOptions, accumulation_dtype

__all__ = [
    "capped", "cross_entropy", "head_logits", "linear_cross_entropy", "mixed_cross_entropy",
    "mixture_parts",
]  # fmt: skip


def head_logits(
    hidden: Tensor,  # (rows, hidden size) float
    weight: Tensor,  # (vocab, hidden size) same dtype
    *,
    softcap: float = 0.0,
) -> Tensor:  # (rows, vocab) float32 or float64
    """Return logits in float32 at least; softcap > 0 bounds them by cap · tanh(logits / cap)."""
    return capped(F.linear(hidden, weight), softcap)


def capped(logits: Tensor, softcap: float) -> Tensor:
    """Return logits in float32 at least, bounded unless softcap is 0."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    return (logits / softcap).tanh() * softcap if softcap else logits


def cross_entropy(
    logits: Tensor,  # (rows, vocab)
    inputs: LossInputs,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:  # loss and correct, (rows,) or ()
    """Return the loss of ops/loss.py and which rows have the target as their largest logit."""
    vocab = logits.shape[1]
    counted = inputs.targets != options.ignore_index
    _check_targets(inputs.targets, vocab, options.ignore_index)
    targets = torch.where(counted, inputs.targets, 0)
    z = capped(logits, options.softcap)
    lse = z.logsumexp(-1)
    nll = lse.unsqueeze(-1) - z  # −log p of each class
    class_weights = inputs.class_weights
    target_weights = 1.0 if class_weights is None else class_weights[targets]
    losses = nll.gather(1, targets.unsqueeze(1)).squeeze(1) * target_weights
    losses = (1 - options.label_smoothing) * losses
    if options.label_smoothing:
        weighted = nll if class_weights is None else nll * class_weights
        losses = losses + options.label_smoothing / vocab * weighted.sum(-1)
    if options.z_loss:
        losses = losses + options.z_loss * lse.square()
    token_weights = inputs.token_weights
    if token_weights is None:
        token_weights = torch.ones_like(lse)
    losses = torch.where(counted, losses * token_weights, 0.0)
    correct = (counted & (logits.argmax(-1) == targets)).to(losses.dtype)
    if options.reduction == "none":
        return losses, correct
    if options.reduction == "sum":
        return losses.sum(), correct.sum()
    total = torch.where(counted, token_weights * target_weights, 0.0).sum()
    return losses.sum() / total, correct.sum() / counted.sum()


def linear_cross_entropy(
    hidden: Tensor,  # (rows, hidden size)
    weight: Tensor,  # (vocab, hidden size)
    inputs: LossInputs,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:  # loss and correct, (rows,) or ()
    """Return cross_entropy(hidden · weightᵀ)."""
    return cross_entropy(F.linear(hidden, weight), inputs, options)


class MixtureParts(NamedTuple):
    """What the losses of a mixture consist of, each (rows,)."""

    log_sum: Tensor  # log Σ exp(logit) over the tokens
    network: Tensor  # −log p(target) of the tokens' outputs alone
    gate: Tensor  # log of the counts' share against that of the tokens
    more: Tensor  # log of what the counts add to the target's probability against the rest of it

    def losses(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return −log p(target) of the mixture and of the network; 0 for the target −1."""
        zero = torch.zeros_like(self.gate)
        mixed = self.network + self.gate.logaddexp(zero) - self.more.logaddexp(zero)
        counted = targets >= 0
        return torch.where(counted, mixed, 0.0), torch.where(counted, self.network, 0.0)


def mixture_parts(
    z: Tensor, targets: Tensor, by_counts: Tensor, share_offset: float = 0.0
) -> MixtureParts:
    """Return the parts from the logits, the last of which is that of the counts."""
    tokens, chosen = z[:, :-1], targets.clamp_min(0).unsqueeze(1)
    log_sum = tokens.logsumexp(1)
    network = log_sum - tokens.gather(1, chosen).squeeze(1)
    gate = z[:, -1] + share_offset - log_sum
    return MixtureParts(log_sum, network, gate, gate + by_counts.to(z.dtype).log() + network)


def mixed_cross_entropy(
    logits: Tensor,  # (rows, vocab + 1) float32 or float64
    targets: Tensor,  # (rows,) int64; −1 counts in no loss
    by_counts: Tensor,  # (rows,) probability of the targets by the counts
    share_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:  # (rows,) each
    """Return −log p(target) of ops/mixture.py, and of the tokens' outputs alone."""
    _check_targets(targets, logits.shape[1] - 1, -1)
    return mixture_parts(logits, targets, by_counts, share_offset).losses(targets)


def _check_targets(targets: Tensor, vocab: int, ignore_index: int) -> None:
    if torch.compiler.is_compiling() or targets.is_meta or not targets.numel():
        return
    batched = False
    while torch._C._functorch.is_functorch_wrapped_tensor(targets):
        # vmap cannot branch on values, so the check reads the tensor below it.
        batched = batched or torch._C._functorch.is_batchedtensor(targets)
        targets = torch._C._functorch.get_unwrapped(targets)
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= vocab))
    if bool(wrong.any()):
        place = "every target" if batched else f"target of row {int(wrong.byte().argmax())}"
        raise KernelError(
            f"{place} must be in [0, {vocab}) or ignore_index {ignore_index},"
            f" got {int(targets[wrong][0])}"
        )
