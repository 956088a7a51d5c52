"""The attention branch of a block in plain torch: norm, causal attention inside segments, residual.

For GPUs, long rows, torch.compile and `--loss torch`; what the CPU runs else is in blocks.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.tensor.functions import rmsnorm
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
