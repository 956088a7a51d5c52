"""The embedding on the CPU: the kernels add up and normalize the rows of the table.

In torch the embedding takes a tenth of a small model's step. torch sorts the rows to add up their
gradients, and writes a gradient of the whole table only to add it to the existing one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.tensor.embeddings import EmbeddingTables
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.native import kernels
from nanochat.tensor.native.functions import apply

__all__ = ["embed"]


def embed(table: Tensor, inputs: Inputs, embeddings: EmbeddingTables, *, norm: bool) -> Tensor:
    """Return each token's sum of table rows, (tokens, n_embd), with or without RMSNorm.

    The gradient of the table is added to its buffer directly.
    """
    return apply(_Embed, table, inputs, embeddings, norm)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, inputs: Inputs, embeddings: EmbeddingTables, norm: bool
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
