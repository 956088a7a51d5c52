"""The transformer blocks on the CPU: torch's matrix products with our kernels between them.

One autograd function covers all blocks. A step of a small model spends as much time on calls and
passes over memory as on arithmetic. A block takes twelve products and eight kernels here, forward
and backward, and keeps nothing that a kernel recomputes at less cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nanochat.config.options import TrainConfig
from nanochat.tensor.inputs import Inputs, Mask
from nanochat.tensor.model import Block, attend
from nanochat.tensor.native import activation_code, kernels
from nanochat.tensor.native.functions import add_gradient, apply, rmsnorm

__all__ = ["BlockMatrices", "BlockOptions", "run_blocks"]


class BlockMatrices(NamedTuple):
    """The parameters of one model.Block, (out, in), leaves of FlatWeights."""

    wqkv: Tensor  # (3 · n_embd, n_embd)
    wo: Tensor  # (n_embd, n_embd)
    fc1: Tensor  # (4 · n_embd, n_embd)
    fc2: Tensor  # (n_embd, 4 · n_embd)

    @classmethod
    def of(cls, block: nn.Module) -> BlockMatrices:
        assert isinstance(block, Block)
        weights = block.weights
        return cls(weights["attn_wqkv"], weights["attn_wo"], weights["mlp_fc1"], weights["mlp_fc2"])


class BlockOptions(NamedTuple):
    """The options that all blocks share, and that of what follows them."""

    heads: int
    qk_norm: bool
    activation: int  # a code of ACTIVATIONS
    output_norm: bool  # of the residual stream after the last block

    @classmethod
    def of(cls, config: TrainConfig) -> BlockOptions:
        """Raises UnsupportedActivation."""
        activation = activation_code(config.activation)
        return cls(config.n_head, config.qk_norm, activation, config.output_rmsnorm)


class _SavedNorm(NamedTuple):
    """The values of the norm of the output that its derivative reads."""

    x: Tensor
    inverse_rms: Tensor


class _Saved(NamedTuple):
    """The values of one block that its derivative reads."""

    x: Tensor
    inverse_rms: Tensor
    normed: Tensor
    qkv: Tensor
    mixed: Tensor
    x2: Tensor  # the residual stream between the branches
    inverse_rms2: Tensor
    normed2: Tensor
    inner: Tensor  # before the activation
    active: Tensor


def run_blocks(
    x: Tensor,  # (tokens, n_embd) master dtype
    blocks: Sequence[BlockMatrices],
    inputs: Inputs,
    options: BlockOptions,
) -> Tensor:  # (tokens, n_embd) dtype of the matrices
    """Return the residual stream after all blocks, normed if the options say so.

    The gradients of the matrices are added to their buffers directly.
    """
    if torch.is_grad_enabled():
        return apply(_Blocks, x, blocks, inputs, options)
    return _forward(x, blocks, inputs, options, None)[0]


def _forward(
    x: Tensor, blocks: Sequence[BlockMatrices], inputs: Inputs, options: BlockOptions,
    saved: list[_Saved] | None,
) -> tuple[Tensor, _SavedNorm | None]:  # fmt: skip
    """Return the result of run_blocks, and what its norm needs backward."""
    dtype = blocks[0].wo.dtype
    branch: Tensor | None = None
    for layer, block in enumerate(blocks):
        x, normed, inverse = kernels.rms_norm(x, branch, dtype, _mask(inputs, layer - 1, 1))
        qkv = normed @ block.wqkv.t()
        mixed = _attention(qkv, inputs, options, differentiable=saved is not None)
        x2, branch = _joined(x, mixed, block.wo, inputs)
        x2, normed2, inverse2 = kernels.rms_norm(x2, branch, dtype, _mask(inputs, layer, 0))
        inner = normed2 @ block.fc1.t()
        active = kernels.activation(inner, options.activation)
        if saved is not None:
            saved.append(
                _Saved(x, inverse, normed, qkv, mixed, x2, inverse2, normed2, inner, active)
            )
        x, branch = _joined(x2, active, block.fc2, inputs)
    mask = _mask(inputs, len(blocks) - 1, 1)
    if options.output_norm:
        x, normed, inverse = kernels.rms_norm(x, branch, dtype, mask)
        return normed, _SavedNorm(x, inverse)
    if branch is None:
        return x, None
    return (x + branch).to(dtype) if mask is None else kernels.dropout(branch, mask, onto=x), None


def _mask(inputs: Inputs, layer: int, branch: int) -> Mask | None:
    """Return the dropout of a layer's attention (branch 0) or MLP (branch 1).

    The branch before layer 0 is the embedding, whose dropout is applied elsewhere.
    """
    masks = inputs.dropout_masks
    return masks[1 + 2 * layer + branch] if masks and layer >= 0 else None


def _joined(
    x: Tensor, mixed: Tensor, weight: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor | None]:
    """Return x with the branch mixed · weightᵀ, or both apart for a kernel that adds them."""
    if x.dtype == mixed.dtype and not inputs.dropout_masks:
        return torch.addmm(x, mixed, weight.t()), None
    return x, mixed @ weight.t()


def _attention(
    qkv: Tensor, inputs: Inputs, options: BlockOptions, *, differentiable: bool
) -> Tensor:
    """Return model.attend(qkv, …), by our kernel or, for long sequences, by torch.

    torch's attention records a graph from `qkv` to the result, for `_attention_backward`.
    """
    heads = options.heads
    if inputs.kernel_attention:
        return kernels.attention(qkv, inputs, heads=heads, qk_norm=options.qk_norm)
    if differentiable:
        qkv.requires_grad_()
    with torch.set_grad_enabled(differentiable):
        return attend(qkv, inputs, heads=heads, norm=rmsnorm if options.qk_norm else None)


def _attention_backward(
    gradient: Tensor, saved: _Saved, inputs: Inputs, options: BlockOptions
) -> Tensor:
    """Return the gradient of qkv."""
    if not inputs.kernel_attention:
        return torch.autograd.grad(saved.mixed, saved.qkv, gradient)[0]
    return kernels.attention_backward(
        gradient, saved.qkv, inputs, heads=options.heads, qk_norm=options.qk_norm
    )


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, blocks: Sequence[BlockMatrices], inputs: Inputs, options: BlockOptions
    ) -> Tensor:
        ctx.saved, ctx.blocks, ctx.inputs, ctx.options = [], blocks, inputs, options
        result, ctx.output = _forward(x, blocks, inputs, options, ctx.saved)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # d_x is in the master dtype; d_branch is the same in the dtype of the matrices, after the
        # dropout of the branch.
        inputs, options = ctx.inputs, ctx.options
        d_branch = gradient.contiguous()
        mask = _mask(inputs, len(ctx.blocks) - 1, 1)
        if ctx.output is not None:
            x, inverse = ctx.output
            d_x, d_branch = kernels.rms_norm_backward(
                d_branch, x, inverse, torch.zeros_like(x), mask
            )
        else:
            d_x = d_branch.to(ctx.saved[0].x.dtype)
            if mask is not None:
                d_branch = kernels.dropout(d_branch, mask)
        for layer in reversed(range(len(ctx.blocks))):
            block: BlockMatrices = ctx.blocks[layer]
            saved: _Saved = ctx.saved.pop()
            add_gradient(block.fc2, d_branch, saved.active)
            d_inner = d_branch @ block.fc2
            kernels.activation_backward(saved.inner, d_inner, options.activation)
            add_gradient(block.fc1, d_inner, saved.normed2)
            d_x, d_branch = kernels.rms_norm_backward(
                d_inner @ block.fc1, saved.x2, saved.inverse_rms2, d_x, _mask(inputs, layer, 0)
            )
            add_gradient(block.wo, d_branch, saved.mixed)
            d_qkv = _attention_backward(d_branch @ block.wo, saved, inputs, options)
            add_gradient(block.wqkv, d_qkv, saved.normed)
            d_x, d_branch = kernels.rms_norm_backward(
                d_qkv @ block.wqkv, saved.x, saved.inverse_rms, d_x, _mask(inputs, layer - 1, 1)
            )
        return d_x, None, None, None
