"""Calls of the kernels between a block's matrix products, with tensors: one function for each.

CPU tensors, contiguous, float32, float64, bfloat16 or float16. What a kernel computes stands in
csrc/kernels/abi.h; the numbers of the residual stream are float64 beside float64, else float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nanochat import native
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ops.launch import DTYPES
from nanochat.tensor.embeddings import Embeddings
from nanochat.tensor.inputs import Inputs

__all__ = [
    "activation",
    "activation_backward",
    "attention",
    "attention_backward",
    "embed",
    "embed_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _done(status: int) -> None:
    if status:
        native.check(status, native.cpu())


@lru_cache(maxsize=16)
def _sizes(embeddings: Embeddings, width: int, dtype: torch.dtype) -> Any:
    """An nck_embeddings; never changed, so that calls may share it."""
    sizes = (embeddings.vocab_size, width, embeddings.past, embeddings.ngram_rows,
             embeddings.ngram_longest, DTYPES[dtype])  # fmt: skip
    return native.ffi.new("nck_embeddings *", sizes)


def embed(table: Tensor, inputs: Inputs, embeddings: Embeddings) -> Tensor:
    """(rows · width, n_embd): the sums of the table's rows that each token takes."""
    sums = table.new_empty(len(inputs.tokens), table.shape[1])
    _done(native.kernel("embed")(
        native.address(_sizes(embeddings, table.shape[1], table.dtype)), table.data_ptr(),
        inputs.tokens.data_ptr(), inputs.rows, inputs.width,
        0 if inputs.starts is None else inputs.starts.data_ptr(), sums.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return sums


def embed_backward(
    gradient: Tensor,  # (rows · width, n_embd) of the result of `embed`
    inputs: Inputs,
    embeddings: Embeddings,
    onto: Tensor,  # as the table
) -> None:
    """Add the gradient of the table."""
    _done(native.kernel("embed_backward")(
        native.address(_sizes(embeddings, onto.shape[1], onto.dtype)), inputs.tokens.data_ptr(),
        inputs.rows, inputs.width, 0 if inputs.starts is None else inputs.starts.data_ptr(),
        gradient.data_ptr(), onto.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip


def rms_norm(
    x: Tensor,  # (rows, width) numbers
    branch: Tensor | None,  # (rows, width), added to x first
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """x + branch, its RMS norm in `dtype`, and (rows,) one over the root mean squares."""
    rows, width = x.shape
    total = x if branch is None else torch.empty_like(x)
    normed = torch.empty(rows, width, dtype=dtype)
    inverse = torch.empty(rows, dtype=x.dtype)
    _done(native.kernel("rms_norm")(
        x.data_ptr(), 0 if branch is None else branch.data_ptr(), rows, width, DTYPES[dtype],
        RMSNORM_EPS, total.data_ptr(), normed.data_ptr(), inverse.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return total, normed, inverse


def rms_norm_backward(
    gradient: Tensor,  # (rows, width) of the norm's output
    x: Tensor,  # (rows, width) numbers
    inverse: Tensor,  # (rows,) numbers
    onto: Tensor,  # (rows, width) numbers
) -> tuple[Tensor, Tensor]:
    """onto + the gradient of x, as numbers and in the dtype of `gradient`."""
    rows, width = x.shape
    result = torch.empty_like(x)
    same = x.dtype == gradient.dtype
    narrow = result if same else torch.empty_like(gradient)
    _done(native.kernel("rms_norm_backward")(
        gradient.data_ptr(), x.data_ptr(), inverse.data_ptr(), onto.data_ptr(), rows, width,
        DTYPES[gradient.dtype], result.data_ptr(), 0 if same else narrow.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return result, narrow


def activation(x: Tensor, *, squared: bool) -> Tensor:
    """max(x, 0), squared or not."""
    result = torch.empty_like(x)
    _done(native.kernel("activation")(
        x.data_ptr(), x.numel(), DTYPES[x.dtype], squared, result.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return result


def activation_backward(x: Tensor, gradient: Tensor, *, squared: bool) -> None:
    """Turn the gradient of activation(x) into that of x, in place."""
    _done(native.kernel("activation_backward")(
        x.data_ptr(), x.numel(), DTYPES[x.dtype], squared, gradient.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip


@lru_cache(maxsize=64)
def _shape(
    rows: int, width: int, heads: int, head_dim: int, dtype: torch.dtype, normed: bool
) -> Any:
    """An nck_attention_shape; never changed, so that calls may share it."""
    shape = (rows, width, heads, head_dim, RMSNORM_EPS, DTYPES[dtype], normed)
    return native.ffi.new("nck_attention_shape *", shape)


def _shape_of(qkv: Tensor, inputs: Inputs, heads: int, qk_norm: bool) -> int:
    head_dim = qkv.shape[1] // (3 * heads)
    return native.address(_shape(inputs.rows, inputs.width, heads, head_dim, qkv.dtype, qk_norm))


def _tables(inputs: Inputs) -> tuple[int, int, int, int]:
    angles, starts = inputs.angles, inputs.starts
    return (
        0 if angles is None else angles.cos.data_ptr(),
        0 if angles is None else angles.sin.data_ptr(),
        inputs.positions.data_ptr(),
        0 if starts is None else starts.data_ptr(),
    )


def attention(
    qkv: Tensor,  # (rows · width, 3 · n_embd) queries, keys, values, head by head
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # (rows · width, n_embd)
    """Causal attention inside segments; rotation first, then the norm, where there are any."""
    mixed = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
    _done(native.kernel("attention")(
        _shape_of(qkv, inputs, heads, qk_norm), qkv.data_ptr(), *_tables(inputs), mixed.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return mixed


def attention_backward(
    gradient: Tensor,  # (rows · width, n_embd) of the result of `attention`
    qkv: Tensor,
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # as qkv
    """The gradient of qkv."""
    result = torch.empty_like(qkv)
    _done(native.kernel("attention_backward")(
        _shape_of(qkv, inputs, heads, qk_norm), qkv.data_ptr(), *_tables(inputs),
        gradient.data_ptr(), result.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return result
