"""The attention branch of a block: norm, causal attention inside segments, residual.

Two implementations of one contract: our own with its derivative for short rows on the CPU, where
torch's costs twice the time, and torch's `scaled_dot_product_attention` everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.tensor.functions import (
    add_gradient,
    apply,
    inverse_rms,
    rmsnorm,
    rmsnorm_backward,
)
from nanochat.tensor.inputs import Inputs, Rotary
from nanochat.tensor.mlp import add_product

__all__ = ["attention_branch", "rotate"]


def attention_branch(
    x: Tensor,  # (rows · width, n_embd) master dtype
    wqkv: Tensor,  # (3 · n_embd, n_embd) compute dtype: queries, keys, values, head by head
    wo: Tensor,  # (n_embd, n_embd) compute dtype
    mask: Tensor | None,  # as x, 0 or 1 / keep, dropout of the branch
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # (rows · width, n_embd) master dtype
    """x + mask · attention(rmsnorm(x)). In a head: rotation first, then the norm, then
    softmax(q·k / √head_dim) over the visible tokens."""
    if inputs.fused:
        return apply(_AttentionBranch, x, wqkv, wo, mask, inputs, heads, qk_norm)
    qkv = F.linear(rmsnorm(x).to(wqkv.dtype), wqkv)
    return add_product(x, _torch_attention(qkv, inputs, heads, qk_norm), wo, mask)


def rotate(
    x: Tensor,  # (..., head_dim)
    rotary: Rotary,  # broadcast against x
    out: Tensor,  # as x, other memory; overwritten
    direction: int = 1,  # −1 turns back
) -> Tensor:
    """y₁ = x₁·cos + x₂·sin, y₂ = x₂·cos − x₁·sin in halves. Three calls, no temporaries."""
    half = x.shape[-1] // 2
    torch.mul(x, rotary.cos, out=out)
    out[..., :half].addcmul_(x[..., half:], rotary.sin, value=direction)
    out[..., half:].addcmul_(x[..., :half], rotary.sin, value=-direction)
    return out


class _AttentionBranch(torch.autograd.Function):
    """Whole score matrices in memory, five batched products.

    Attention alone at (12 rows, 4 heads, 64 wide, 32 each), forward and backward, float32, two
    cores: torch's 1.4 ms, products as below 0.8 ms.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        wqkv: Tensor,
        wo: Tensor,
        mask: Tensor | None,
        inputs: Inputs,
        heads: int,
        qk_norm: bool,
    ) -> Tensor:
        inverse = inverse_rms(x)
        normed = x * inverse
        narrow = normed.to(wqkv.dtype)
        packed = _unfold(narrow @ wqkv.t(), inputs, heads)
        head_inverse = None
        if qk_norm:
            head_inverse = inverse_rms(packed[:2])
            packed[:2].mul_(head_inverse)
        q, k, v = packed.flatten(1, 2).unbind(0)  # each (rows · heads, width, head_dim)
        scale = packed.shape[-1] ** -0.5
        assert inputs.mask is not None  # InputsMaker, where fused
        weights = torch.baddbmm(inputs.mask, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        mixed = torch.bmm(weights, v).view(packed.shape[1:]).transpose(1, 2).reshape(narrow.shape)
        ctx.save_for_backward(normed, narrow, inverse, packed, head_inverse, weights, mixed, mask)
        ctx.matrices, ctx.inputs = (wqkv, wo), inputs
        return add_product(x, mixed, wo, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, narrow, inverse, packed, head_inverse, weights, mixed, mask = ctx.saved_tensors
        wqkv, wo = ctx.matrices
        branch = (gradient if mask is None else gradient * mask).to(wo.dtype)
        add_gradient(wo, branch, mixed)
        d_packed = _products_backward(branch @ wo, packed, weights)
        if head_inverse is not None:
            zero = d_packed.new_zeros(())
            d_packed[:2] = rmsnorm_backward(d_packed[:2], packed[:2], head_inverse, zero)
        d_qkv = _fold(d_packed, ctx.inputs)
        add_gradient(wqkv, d_qkv, narrow)
        d_normed = (d_qkv @ wqkv).to(normed.dtype)
        d_x = rmsnorm_backward(d_normed, normed, inverse, gradient)
        return d_x, None, None, None, None, None, None


def _unfold(qkv: Tensor, inputs: Inputs, heads: int) -> Tensor:
    """(rows · width, 3 · n_embd) as (3, rows, heads, width, head_dim), q and k rotated."""
    source = qkv.view(inputs.rows, inputs.width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    packed = qkv.new_empty(source.shape)
    if inputs.rotary is None:
        return packed.copy_(source)
    rotate(source[:2], inputs.rotary, packed[:2])
    packed[2].copy_(source[2])
    return packed


def _fold(d_packed: Tensor, inputs: Inputs) -> Tensor:
    """The way back of _unfold, for gradients."""
    _, rows, heads, width, size = d_packed.shape
    d_qkv = d_packed.new_empty(rows * width, 3 * heads * size)
    target = d_qkv.view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
    if inputs.rotary is None:
        target.copy_(d_packed)
        return d_qkv
    rotate(d_packed[:2], inputs.rotary, target[:2], direction=-1)
    target[2].copy_(d_packed[2])
    return d_qkv


def _products_backward(
    gradient: Tensor,  # (rows · width, n_embd) of the mixed values
    packed: Tensor,  # (3, rows, heads, width, head_dim)
    weights: Tensor,  # (rows · heads, width, width) attention weights
) -> Tensor:  # as packed
    _, rows, heads, width, size = packed.shape
    q, k, v = packed.flatten(1, 2).unbind(0)
    by_head = gradient.view(rows, width, heads, size).transpose(1, 2)
    by_head = by_head.reshape(rows * heads, width, size)
    d_weights = torch.bmm(by_head, v.transpose(1, 2))
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    d_packed = torch.empty_like(packed)
    dq, dk, dv = d_packed.flatten(1, 2).unbind(0)
    torch.baddbmm(dq, d_scores, k, beta=0, alpha=size**-0.5, out=dq)
    torch.baddbmm(dk, d_scores.transpose(1, 2), q, beta=0, alpha=size**-0.5, out=dk)
    torch.bmm(weights.transpose(1, 2), by_head, out=dv)
    return d_packed


def _torch_attention(qkv: Tensor, inputs: Inputs, heads: int, qk_norm: bool) -> Tensor:
    rows, width = inputs.rows, inputs.width
    q, k, v = qkv.view(rows, width, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if inputs.rotary is not None:
        q, k = _rotated(q, inputs.rotary), _rotated(k, inputs.rotary)
    if qk_norm:
        q, k = rmsnorm(q), rmsnorm(k)
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=inputs.mask, is_causal=inputs.mask is None
    )
    return mixed.transpose(1, 2).reshape(rows * width, -1)


def _rotated(x: Tensor, rotary: Rotary) -> Tensor:
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:] * rotary.sin, x[..., :half] * -rotary.sin), dim=-1)
    return torch.addcmul(swapped, x, rotary.cos)
