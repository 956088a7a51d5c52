"""Causal attention inside segments, with rotary positions and query-key norm.

Two implementations of one contract: our own for short rows on the CPU, where torch's costs twice
the time, and torch's `scaled_dot_product_attention` everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.tensor.functions import apply, inverse_rms, rmsnorm, rmsnorm_backward
from nanochat.tensor.inputs import Inputs, Rotary

__all__ = ["attention", "rotate"]


def attention(
    qkv: Tensor,  # (rows · width, 3 · n_embd) queries, keys, values, each head by head
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # (rows · width, n_embd)
    """Rotation first, then the norm, then softmax(q·k / √head_dim) over the visible tokens."""
    if inputs.fused:
        shape = (inputs.rows, inputs.width, heads)
        return apply(_FusedAttention, qkv, inputs.rotary, inputs.mask, shape, qk_norm)
    return _torch_attention(qkv, inputs, heads, qk_norm)


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


class _FusedAttention(torch.autograd.Function):
    """Score matrices in memory, five batched products, no copies but one each way.

    Forward and backward at (12 rows, 4 heads, 64 wide, 32 each), float32, two cores: torch's
    attention alone 1.4 ms, autograd over plain products 0.8 ms before its copies of qkv.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        rotary: Rotary | None,
        mask: Tensor,
        shape: tuple[int, int, int],  # rows, width, heads
        qk_norm: bool,
    ) -> Tensor:
        rows, width, heads = shape
        size = qkv.shape[1] // (3 * heads)
        source = qkv.view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
        packed = qkv.new_empty(3, rows, heads, width, size)
        if rotary is None:
            packed.copy_(source)
        else:
            rotate(source[:2], rotary, packed[:2])
            packed[2].copy_(source[2])
        inverse = None
        if qk_norm:
            inverse = inverse_rms(packed[:2])
            packed[:2].mul_(inverse)
        q, k, v = packed.view(3, rows * heads, width, size).unbind(0)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=size**-0.5)
        weights = scores.softmax(-1)
        ctx.save_for_backward(packed, weights, inverse)
        ctx.rotary, ctx.shape = rotary, (rows, width, heads, size)
        mixed = torch.bmm(weights, v).view(rows, heads, width, size)
        return mixed.transpose(1, 2).reshape(rows * width, heads * size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed, weights, inverse = ctx.saved_tensors
        rows, width, heads, size = ctx.shape
        q, k, v = packed.view(3, rows * heads, width, size).unbind(0)
        by_head = gradient.view(rows, width, heads, size).transpose(1, 2)
        by_head = by_head.reshape(rows * heads, width, size)
        d_weights = torch.bmm(by_head, v.transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_packed = torch.empty_like(packed)
        dq, dk, dv = d_packed.view(3, rows * heads, width, size).unbind(0)
        torch.baddbmm(dq, d_scores, k, beta=0, alpha=size**-0.5, out=dq)
        torch.baddbmm(dk, d_scores.transpose(1, 2), q, beta=0, alpha=size**-0.5, out=dk)
        torch.bmm(weights.transpose(1, 2), by_head, out=dv)
        if inverse is not None:
            rmsnorm_backward(d_packed[:2], packed[:2], inverse)
        d_qkv = gradient.new_empty(rows * width, 3 * heads * size)
        target = d_qkv.view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
        if ctx.rotary is None:
            target.copy_(d_packed)
        else:
            rotate(d_packed[:2], ctx.rotary, target[:2], direction=-1)
            target[2].copy_(d_packed[2])
        return d_qkv, None, None, None, None


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
