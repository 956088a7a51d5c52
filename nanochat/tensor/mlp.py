"""The MLP branch of a block with its derivative: norm, two matrices, activation, residual.

One function, because its parts would each write a matrix as large as the MLP is wide, only for
the next to read it: activations change in place here and the residual is added by the product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.tensor.functions import add_gradient, apply, inverse_rms, rmsnorm, rmsnorm_backward

__all__ = ["add_product", "mlp_branch"]


def mlp_branch(
    x: Tensor,  # (rows, n_embd) master dtype
    fc1: Tensor,  # (4 · n_embd, n_embd) compute dtype
    fc2: Tensor,  # (n_embd, 4 · n_embd) compute dtype
    mask: Tensor | None,  # (rows, n_embd) 0 or 1 / keep, dropout of the branch
    *,
    squared: bool,
) -> Tensor:  # (rows, n_embd) master dtype
    """x + mask · mlp(rmsnorm(x)); gradients of the matrices go straight to their buffers."""
    if torch.compiler.is_compiling():  # the compiler fuses, and writes the derivative
        inner = torch.relu(F.linear(rmsnorm(x).to(fc1.dtype), fc1))
        return add_product(x, inner * inner if squared else inner, fc2, mask)
    return apply(_MLPBranch, x, fc1, fc2, mask, squared)


def add_product(x: Tensor, mixed: Tensor, weight: Tensor, mask: Tensor | None) -> Tensor:
    """x + mask · (mixed · weightᵀ), (rows, n_embd): how a branch joins the residual stream."""
    if mask is None and x.dtype == mixed.dtype:
        return torch.addmm(x, mixed, weight.t())
    branch = mixed @ weight.t()
    return x + branch if mask is None else torch.addcmul(x, branch.to(x.dtype), mask)


class _MLPBranch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fc1: Tensor, fc2: Tensor, mask: Tensor | None, squared: bool
    ) -> Tensor:
        inverse = inverse_rms(x)
        normed = x * inverse
        narrow = normed.to(fc1.dtype)
        positive = torch.relu_(narrow @ fc1.t())
        inner = positive * positive if squared else positive
        ctx.save_for_backward(normed, narrow, inverse, positive, inner, mask)
        ctx.matrices = fc1, fc2
        return add_product(x, inner, fc2, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, narrow, inverse, positive, inner, mask = ctx.saved_tensors
        fc1, fc2 = ctx.matrices
        branch = (gradient if mask is None else gradient * mask).to(fc2.dtype)
        add_gradient(fc2, branch, inner)
        d_inner = branch @ fc2
        # ReLU²: d = 2·max(x, 0); the 2 rides along in the products.
        scale = 2.0 if inner is not positive else 1.0
        if inner is not positive:
            d_inner.mul_(positive)
        else:
            d_inner = torch.ops.aten.threshold_backward(d_inner, positive, 0)
        add_gradient(fc1, d_inner, narrow, scale=scale)
        d_normed = torch.addmm(d_inner.new_zeros(()), d_inner, fc1, beta=0, alpha=scale)
        d_x = rmsnorm_backward(d_normed.to(normed.dtype), normed, inverse, gradient)
        return d_x, None, None, None, None
