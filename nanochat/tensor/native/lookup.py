"""The embedding on the CPU: rows of the table added up and normed by our kernels.

In torch it is a tenth of a small model's step: torch sorts the rows to add up their gradients, and
writes a gradient of the whole table only to add it to the one that is there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.tensor.embeddings import Embeddings
from nanochat.tensor.functions import apply
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.native import kernels

__all__ = ["look_up"]


def look_up(table: Tensor, inputs: Inputs, embeddings: Embeddings, *, norm: bool) -> Tensor:
    """(rows · width, n_embd) sums of the table's rows, with RMS norm or without.

    The table's gradient goes straight to its buffer.
    """
    return apply(_LookUp, table, inputs, embeddings, norm)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, inputs: Inputs, embeddings: Embeddings, norm: bool
    ) -> Tensor:
        ctx.table, ctx.inputs, ctx.embeddings = table, inputs, embeddings
        ctx.normed = None
        sums = kernels.embed(table, inputs, embeddings)
        if not norm:
            return sums
        _, normed, inverse = kernels.rms_norm(sums, None, sums.dtype)
        ctx.normed = sums, inverse
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous()
        if ctx.normed is not None:
            sums, inverse = ctx.normed
            gradient, _ = kernels.rms_norm_backward(
                gradient, sums, inverse, torch.zeros_like(gradient)
            )
        kernels.embed_backward(gradient, ctx.inputs, ctx.embeddings, ctx.table.grad)
        return None, None, None, None
