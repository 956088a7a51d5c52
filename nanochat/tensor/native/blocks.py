"""The transformer blocks on the CPU: torch's matrix products, our kernels between them.

One function with its derivative for all blocks. A small model's step is as much calls and passes
over memory as it is arithmetic: here a block is twelve products and eight kernels, forward and
backward, and nothing is kept that a kernel computes again more cheaply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat.tensor.functions import add_gradient, apply
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.mlp import add_product
from nanochat.tensor.native import kernels

__all__ = ["Block", "Masks", "Shape", "run_blocks"]


class Block(NamedTuple):
    """The matrices of one layer, (out, in), leaves of FlatWeights."""

    wqkv: Tensor  # (3 · n_embd, n_embd): wq, wk, wv
    wo: Tensor  # (n_embd, n_embd)
    fc1: Tensor  # (4 · n_embd, n_embd)
    fc2: Tensor  # (n_embd, 4 · n_embd)


class Shape(NamedTuple):
    """What the blocks have in common beside the sizes of their matrices."""

    heads: int
    qk_norm: bool
    squared: bool  # ReLU² instead of ReLU


Masks = Sequence[Tensor | None]  # two a block, of attention and of the MLP; see MiniGPT.masks


class _Kept(NamedTuple):
    """What the derivative of one block reads."""

    x: Tensor
    inverse: Tensor
    normed: Tensor
    qkv: Tensor
    mixed: Tensor
    x2: Tensor  # the residual stream between the branches
    inverse2: Tensor
    normed2: Tensor
    inner: Tensor  # before the activation
    active: Tensor


def run_blocks(
    x: Tensor, blocks: Sequence[Block], inputs: Inputs, shape: Shape, masks: Masks
) -> Tensor:
    """The residual stream behind all blocks, (rows · width, n_embd), in the matrices' dtype.

    x: (rows · width, n_embd) numbers. Gradients of the matrices go straight to their buffers.
    """
    if torch.is_grad_enabled():
        return apply(_Blocks, x, blocks, inputs, shape, masks)
    return _forward(x, blocks, inputs, shape, masks, None)


def _forward(
    x: Tensor, blocks: Sequence[Block], inputs: Inputs, shape: Shape, masks: Masks,
    kept: list[_Kept] | None,
) -> Tensor:  # fmt: skip
    dtype = blocks[0].wo.dtype
    branch: Tensor | None = None
    for layer, block in enumerate(blocks):
        x, normed, inverse = kernels.rms_norm(x, branch, dtype)
        qkv = normed @ block.wqkv.t()
        mixed = kernels.attention(qkv, inputs, heads=shape.heads, qk_norm=shape.qk_norm)
        x2, branch = _joined(x, mixed, block.wo, masks[2 * layer])
        x2, normed2, inverse2 = kernels.rms_norm(x2, branch, dtype)
        inner = normed2 @ block.fc1.t()
        active = kernels.activation(inner, squared=shape.squared)
        if kept is not None:
            kept.append(_Kept(x, inverse, normed, qkv, mixed, x2, inverse2, normed2, inner, active))
        x, branch = _joined(x2, active, block.fc2, masks[2 * layer + 1])
    return (x if branch is None else x + branch).to(dtype)


def _joined(
    x: Tensor, mixed: Tensor, weight: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """x and what is still to be added to it: a product adds itself where the types are one."""
    if mask is not None or x.dtype == mixed.dtype:
        return add_product(x, mixed, weight, mask), None
    return x, mixed @ weight.t()


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, blocks: Sequence[Block], inputs: Inputs, shape: Shape, masks: Masks
    ) -> Tensor:
        ctx.kept, ctx.blocks, ctx.inputs, ctx.shape, ctx.masks = [], blocks, inputs, shape, masks
        return _forward(x, blocks, inputs, shape, masks, ctx.kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shape: Shape = ctx.shape
        narrow = gradient.contiguous()
        d_x = narrow.to(ctx.kept[0].x.dtype)
        for layer in reversed(range(len(ctx.blocks))):
            block: Block = ctx.blocks[layer]
            kept: _Kept = ctx.kept.pop()
            d_branch = _masked(d_x, narrow, ctx.masks[2 * layer + 1])
            add_gradient(block.fc2, d_branch, kept.active)
            d_inner = d_branch @ block.fc2
            kernels.activation_backward(kept.inner, d_inner, squared=shape.squared)
            add_gradient(block.fc1, d_inner, kept.normed2)
            d_x, narrow = kernels.rms_norm_backward(
                d_inner @ block.fc1, kept.x2, kept.inverse2, d_x
            )
            d_branch = _masked(d_x, narrow, ctx.masks[2 * layer])
            add_gradient(block.wo, d_branch, kept.mixed)
            d_qkv = kernels.attention_backward(
                d_branch @ block.wo, kept.qkv, ctx.inputs, heads=shape.heads, qk_norm=shape.qk_norm
            )
            add_gradient(block.wqkv, d_qkv, kept.normed)
            d_x, narrow = kernels.rms_norm_backward(d_qkv @ block.wqkv, kept.x, kept.inverse, d_x)
        return d_x, None, None, None, None


def _masked(gradient: Tensor, narrow: Tensor, mask: Tensor | None) -> Tensor:
    """The gradient of a branch, in the matrices' dtype, from that of the residual stream."""
    return narrow if mask is None else (gradient * mask).to(narrow.dtype)
