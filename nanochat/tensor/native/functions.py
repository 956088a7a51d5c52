"""RMSNorm, dropout and weight gradients by hand, in fewer passes over memory than autograd takes.

Small models are bound by memory outside of the matrix products. For (768, 128) float32 on two
cores, forward and backward of `F.rms_norm` take 190 µs and those of `rmsnorm` 90 µs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.model.parameters import RMSNORM_EPS
from nanochat.tensor import model
from nanochat.tensor.inputs import Mask
from nanochat.tensor.native import kernels

__all__ = ["add_gradient", "apply", "dropout", "rmsnorm"]


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Call `function.apply`, which torch leaves untyped."""
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch has no types here
    return result


def add_gradient(
    weight: Tensor,  # (out, in), a leaf of FlatWeights
    gradient: Tensor,  # (tokens, out) of weight · input
    inputs: Tensor,  # (tokens, in)
) -> None:
    """Add gradientᵀ · inputs to the weight's gradient in the flat buffer.

    The product accumulates in place: it needs no matrix for itself and no second pass.
    """
    assert weight.grad is not None  # FlatWeights.leaf
    weight.grad.addmm_(gradient.t(), inputs)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return kernels.dropout(x, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return kernels.dropout(gradient.contiguous(), ctx.mask), None


def dropout(x: Tensor, mask: Mask) -> Tensor:  # (tokens, n_embd)
    """Return x · scale where the mask keeps an element, and 0 elsewhere."""
    return apply(_Dropout, x, mask)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # vector_norm needs no copy of x².
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().mul_(1 / x.shape[-1]).add_(RMSNORM_EPS).rsqrt_()
        output = x * inverse
        ctx.save_for_backward(output, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        output, inverse = ctx.saved_tensors
        projection = (gradient * output).mean(-1, keepdim=True)
        return torch.addcmul(gradient, output, projection, value=-1).mul_(inverse)


def rmsnorm(x: Tensor) -> Tensor:
    """Return model.rmsnorm(x), with a shorter derivative."""
    return apply(_RMSNorm, x) if torch.is_grad_enabled() else model.rmsnorm(x)
