"""Losses in float64, written from their definition, and logits that cause rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def definition(
    logits: Tensor,  # (rows, vocab) float64
    targets: Tensor,
    *,
    ignore_index: int = -1,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    class_weights: Tensor | None = None,
    token_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss of nanochat/ops/loss.py, computed row by row."""
    vocab = logits.shape[1]
    classes = torch.ones(vocab) if class_weights is None else class_weights
    classes = classes.to(logits.dtype)
    losses, total = [], torch.zeros((), dtype=logits.dtype)
    for i, target in enumerate(targets.tolist()):
        if target == ignore_index:
            losses.append(0 * logits[i].sum())
            continue
        z = softcap * torch.tanh(logits[i] / softcap) if softcap else logits[i]
        lse = z.max() + torch.log(torch.exp(z - z.max()).sum())
        weight = 1.0 if token_weights is None else token_weights[i].to(logits.dtype)
        smooth = (classes * (lse - z)).sum() / vocab
        own = classes[target] * (lse - z[target])
        loss = (1 - label_smoothing) * own + label_smoothing * smooth + z_loss * lse**2
        losses.append(weight * loss)
        total = total + weight * classes[target]
    stacked = torch.stack(losses) if losses else logits.sum(1)
    if reduction == "none":
        return stacked
    return stacked.sum() if reduction == "sum" else stacked.sum() / total


def gradients_of(function: Any, logits: Tensor, upstream: Tensor | None = None) -> Any:
    """Return function(logits) and the gradient of Σ upstream · result."""
    leaf = logits.clone().requires_grad_()
    result = function(leaf)
    scalar = result.sum() if upstream is None else (result * upstream.to(result.dtype)).sum()
    (gradient,) = torch.autograd.grad(scalar, leaf)
    return result.detach(), gradient


def exactly(
    logits: Tensor,
    targets: Tensor,
    upstream: Tensor,  # (rows,) or ()
    *,
    reduction: str,
    ignore_index: int = -1,
) -> tuple[Tensor, Tensor]:  # float64
    """Return loss and gradient in NumPy's widest float, precise enough to test float64."""
    x = logits.double().numpy().astype(np.longdouble)
    counted = (targets != ignore_index).numpy()
    rows = np.arange(len(x))
    index = np.where(counted, targets.numpy(), 0)
    largest = x.max(axis=1, keepdims=True)
    exponentials = np.exp(x - largest)
    sums = exponentials.sum(axis=1, keepdims=True)
    losses = np.where(counted, (largest + np.log(sums))[:, 0] - x[rows, index], 0)
    gradient = exponentials / sums
    # p − 1 is computed as −(the other classes' share), which keeps its digits.
    others = exponentials.copy()
    others[rows, index] = 0
    gradient[rows, index] = -(others.sum(axis=1, keepdims=True) / sums)[:, 0]
    factor = (
        np.broadcast_to(upstream.double().numpy().astype(np.longdouble), counted.shape) * counted
    )
    if reduction == "mean":
        factor = factor / counted.sum()
    gradient *= factor[:, None]
    loss = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / counted.sum()}[reduction]
    return torch.from_numpy(np.asarray(loss, dtype=np.float64)), torch.from_numpy(
        gradient.astype(np.float64)
    )


def random_rows(rows: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits and targets; every seventh target is -1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    targets[3::7] = -1
    return logits.to(dtype), targets


def sure_rows(rows: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows whose target has probability 0.999; the other classes share the rest."""
    logits, targets = random_rows(rows, vocab, torch.float64)
    targets = targets.clamp(min=0)
    logits.scatter_(1, targets.unsqueeze(1), float("-inf"))
    others = logits.logsumexp(1, keepdim=True)
    certain = others + torch.log(torch.tensor(999.0, dtype=torch.float64))
    return logits.scatter(1, targets.unsqueeze(1), certain).to(dtype), targets


def far_rows(rows: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return random rows with 10,000 added to each logit."""
    logits, targets = random_rows(rows, vocab, torch.float64)
    return (logits + 1e4).to(dtype), targets


HARD = {"random": random_rows, "sure": sure_rows, "far": far_rows}
