"""The ops in plain torch: what `use_native=False` computes and what kernels are held to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops.loss import Loss, Rows, number_type

__all__ = ["cross_entropy", "head_logits", "linear_cross_entropy"]


def head_logits(
    hidden: Tensor,  # (rows, width) float
    weight: Tensor,  # (vocab, width) same dtype
    *,
    softcap: float = 0.0,
) -> Tensor:  # (rows, vocab) float32 or float64
    """Logits in float32 at least; `softcap` > 0 bounds them by cap · tanh(logits / cap)."""
    return _capped(F.linear(hidden, weight), softcap)


def _capped(logits: Tensor, softcap: float) -> Tensor:
    logits = logits.to(number_type(logits))
    return (logits / softcap).tanh() * softcap if softcap else logits


def cross_entropy(
    logits: Tensor,  # (rows, vocab)
    rows: Rows,
    loss: Loss,
) -> tuple[Tensor, Tensor]:  # loss and correct, (rows,) or ()
    """The loss of ops/loss.py and which rows are right."""
    counted = rows.targets != loss.ignore_index
    _check_targets(rows.targets, counted, logits.shape[1], loss.ignore_index)
    targets = torch.where(counted, rows.targets, 0)
    z = _capped(logits, loss.softcap)
    lse = z.logsumexp(-1)
    lower = lse.unsqueeze(-1) - z  # −log p
    classes = rows.class_weights
    own = 1.0 if classes is None else classes[targets]
    losses = (1 - loss.label_smoothing) * own * lower.gather(1, targets.unsqueeze(1)).squeeze(1)
    if loss.label_smoothing:
        smooth = lower if classes is None else lower * classes
        losses = losses + loss.label_smoothing / logits.shape[1] * smooth.sum(-1)
    if loss.z_loss:
        losses = losses + loss.z_loss * lse.square()
    weights = torch.ones_like(lse) if rows.token_weights is None else rows.token_weights
    losses = torch.where(counted, losses * weights, 0.0)
    correct = (counted & (logits.argmax(-1) == targets)).to(losses.dtype)
    if loss.reduction == "none":
        return losses, correct
    if loss.reduction == "sum":
        return losses.sum(), correct.sum()
    total = torch.where(counted, weights * own, 0.0).sum()
    return losses.sum() / total, correct.sum() / counted.sum()


def linear_cross_entropy(
    hidden: Tensor,  # (rows, width)
    weight: Tensor,  # (vocab, width)
    rows: Rows,
    loss: Loss,
) -> tuple[Tensor, Tensor]:  # loss and correct, (rows,) or ()
    """cross_entropy(hidden · weightᵀ)."""
    return cross_entropy(F.linear(hidden, weight), rows, loss)


def _check_targets(targets: Tensor, counted: Tensor, vocab: int, ignore_index: int) -> None:
    if torch.compiler.is_compiling() or not targets.numel():
        return
    wrong = counted & ((targets < 0) | (targets >= vocab))
    if wrong.any():
        row = int(wrong.to(torch.uint8).argmax())
        raise KernelError(
            f"target of row {row} must be in [0, {vocab}) or ignore_index {ignore_index},"
            f" got {int(targets[row])}"
        )
