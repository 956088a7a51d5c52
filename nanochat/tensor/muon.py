"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, made orthogonal.

The update of a matrix is the nearest orthogonal one to its momentum, so that no direction of it
dominates. Newton–Schulz iterations come near enough, in matrix products alone, and all matrices
of one shape share each product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanochat.tensor.weights import FlatWeights

__all__ = ["Muon", "orthogonalized"]

# x ← a·x + b·x·xᵀx + c·x·(xᵀx)² on the singular values, five times, takes all of (0.01, 1) into
# (0.7, 1.2): steepest at 0 rather than exact at 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# From this ratio of sides on it is cheaper to iterate on the small side's Gram matrix alone.
TALL = 3


def orthogonalized(stack: Tensor) -> Tensor:  # (..., m, n) -> (..., m, n), float
    """U·Vᵀ of each matrix U·S·Vᵀ, singular values within 0.3 of 1; of a zero matrix, zeros."""
    if stack.shape[-2] < stack.shape[-1]:
        return orthogonalized(stack.mT).mT
    shape = stack.shape
    x = stack.reshape(-1, *shape[-2:])
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / norm.clamp_min(1e-30)
    iterate = _by_gram if shape[-2] >= TALL * shape[-1] else _directly
    return iterate(x).view(shape)


def _directly(x: Tensor) -> Tensor:  # (count, m, n)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(x.mT, x)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, factor, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:  # (count, m, n)
    """The same factors, from the Gram matrix as it would be: they commute with it."""
    a, b, c = COEFFICIENTS
    gram = torch.bmm(x.mT, x)
    product: Tensor | None = None
    for left in reversed(range(ITERATIONS)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else torch.bmm(product, factor)
        if left:
            gram = torch.bmm(factor, torch.bmm(gram, factor))
    assert product is not None
    return torch.bmm(x, product)


class Muon:
    """The update of the blocks' matrices, which end the flat buffer."""

    def __init__(self, weights: FlatWeights, *, heads: int) -> None:
        self._weights = weights
        self.start = min(weights.offsets[s.name] for s in weights.specs if s.group == "matrix")
        self.momentum = torch.zeros_like(weights.values[self.start :])
        self._heads = heads
        self._layers = sum(s.name.endswith("attn_wq") for s in weights.specs)
        self._width = next(s.shape[1] for s in weights.specs if s.group == "matrix")

    def step(
        self,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        stopped: Tensor,  # () 1 where the step must change nothing
    ) -> None:
        """values ← (1 − lr·decay)·values − lr·√max(1, m/n)·orthogonalized(Nesterov momentum)."""
        values = self._weights.values[self.start :]
        gradients = self._weights.gradients[self.start :]
        gradients.masked_fill_(stopped.bool(), 0.0)
        running = (1 - stopped).to(values.dtype)
        self.momentum.lerp_(gradients, running * (1 - momentum))
        wanted = gradients.lerp_(self.momentum, momentum)
        if weight_decay:
            values.mul_(1 - running * (lr * weight_decay))
        for target, stack in zip(self._stacks(values), self._stacks(wanted), strict=True):
            size = lr * math.sqrt(max(1.0, target.shape[-2] / target.shape[-1]))
            target.addcmul_(orthogonalized(stack), running, value=-size)

    def _stacks(self, flat: Tensor) -> list[Tensor]:
        """Views of matrices of one shape: (layers, count, m, n)."""
        layers, heads, width = self._layers, self._heads, self._width
        layer = flat.view(layers, -1)
        square, size = width * width, width // heads
        inner = (layer.shape[1] - 4 * square) // 2
        return [
            layer[:, : 3 * square].view(layers, 3 * heads, size, width),
            layer[:, 3 * square : 4 * square].view(layers, width, heads, size).transpose(1, 2),
            layer[:, 4 * square : 4 * square + inner].view(layers, 1, -1, width),
            layer[:, 4 * square + inner :].view(layers, 1, width, -1),
        ]
