"""The Muon optimizer (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

The update of a matrix is the orthogonal matrix nearest to its momentum, in which no direction
dominates. Newton–Schulz iterations approximate it with matrix products alone. All matrices of one
shape share each product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.model.parameters import Spec
from nanochat.tensor.weights import FlatWeights

__all__ = ["Muon", "orthogonalized"]

# Five iterations x ← a·x + b·x·xᵀx + c·x·(xᵀx)² map singular values from (0.01, 1) into (0.7, 1.2).
# The coefficients maximize the slope at 0 rather than the accuracy at 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# From this ratio of sides on, iterating on the Gram matrix of the small side is cheaper.
TALL = 3


def orthogonalized(stack: Tensor) -> Tensor:  # (..., m, n) -> (..., m, n), float
    """Return U·Vᵀ of each matrix U·S·Vᵀ with singular values within 0.3 of 1; zeros stay zeros."""
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
    """Return the same product of factors, computed on the Gram matrix, which commutes with them."""
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
    """Updates the matrices of the blocks, which are the end of the flat buffer."""

    def __init__(self, weights: FlatWeights, *, heads: int) -> None:
        self._weights = weights
        self.start = min(weights.offsets[s.name] for s in weights.specs if s.group == "matrix")
        self.momentum = torch.zeros_like(weights.values[self.start :])
        # The matrices of equal layers share their products; others are one layer together.
        matrices = [spec for spec in weights.specs if spec.group == "matrix"]
        layers = len({spec.name.partition(".")[0] for spec in matrices})
        size, left = divmod(len(matrices), layers)
        parts = [_kinds(matrices[i : i + size]) for i in range(0, len(matrices), size)]
        is_equal = not left and all(part == parts[0] for part in parts)
        self._layers = layers if is_equal else 1
        self._shapes = _stack_shapes(matrices[:size] if is_equal else matrices, heads)

    def step(
        self,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        stopped: Tensor,  # (), 1 if the step must change nothing
    ) -> None:
        """Set values to (1 − lr·decay)·values − lr·√max(1, m/n)·orthogonalized(momentum).

        The momentum is Nesterov's.
        """
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
        """Return views that stack matrices of one shape: (layers, count, m, n)."""
        layer = flat.view(self._layers, -1)
        stacks, start = [], 0
        for shape, is_turned in self._shapes:
            stop = start + math.prod(shape)
            stack = layer[:, start:stop].view(self._layers, *shape)
            stacks.append(stack.transpose(1, 2) if is_turned else stack)
            start = stop
        return stacks


def _kinds(specs: Sequence[Spec]) -> list[tuple[str, tuple[int, int]]]:
    """Return the names without their layers, and the shapes."""
    return [(spec.name.partition(".")[2], spec.shape) for spec in specs]


def _stack_shapes(specs: Sequence[Spec], heads: int) -> list[tuple[tuple[int, int, int], bool]]:
    """Return the shapes of consecutive stacks, and whether their first two dimensions are swapped.

    The rows of wq, wk and wv and the columns of wo are split by head, as far as heads divide them.
    """
    shapes: list[tuple[tuple[int, int, int], bool]] = []
    for spec in specs:
        rows, columns = spec.shape
        if spec.name.endswith(("attn_wq", "attn_wk", "attn_wv")) and rows % heads == 0:
            shape = (heads, rows // heads, columns)
            if shapes and spec.name[-1] in "kv" and shapes[-1][0][1:] == shape[1:]:
                shapes[-1] = (shapes[-1][0][0] + heads, *shape[1:]), False
            else:
                shapes.append((shape, False))
        elif spec.name.endswith("attn_wo") and columns % heads == 0:
            shapes.append(((rows, heads, columns // heads), True))
        else:
            shapes.append(((1, rows, columns), False))
    return shapes
