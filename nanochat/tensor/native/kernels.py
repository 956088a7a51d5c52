"""Calls of the kernels between a block's matrix products, with tensors: one function per kernel.

Tensors are contiguous, on the CPU, in float32, float64, bfloat16 or float16. csrc/kernels/abi.h
says what each kernel computes. The master dtype is float64 for float64 and float32 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat import native
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ops.launch import DTYPES, _address
from nanochat.tensor.embeddings import EmbeddingTables
from nanochat.tensor.inputs import Inputs, Mask

__all__ = [
    "AdamWOptions",
    "activation",
    "activation_backward",
    "adamw",
    "attention",
    "attention_backward",
    "draw_masks",
    "dropout",
    "embed",
    "embed_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _done(status: int) -> None:
    if status:
        native.check(status, native.cpu())


@lru_cache(maxsize=16)
def _embeddings_struct(embeddings: EmbeddingTables, n_embd: int, dtype: torch.dtype) -> Any:
    """Return an nck_embeddings. Nothing changes it, so calls share it."""
    sizes = (embeddings.vocab_size, n_embd, embeddings.past, embeddings.hash_embed_rows,
             embeddings.hash_embed_longest, DTYPES[dtype])  # fmt: skip
    return native.ffi.new("nck_embeddings *", sizes)


class AdamWOptions(NamedTuple):
    """The options of nck_adamw_options, in its order."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip: float  # 0: no clipping


@lru_cache(maxsize=64)
def _adamw_struct(options: AdamWOptions) -> Any:
    """Return an nck_adamw_options. Nothing changes it, so calls share it."""
    return native.ffi.new("nck_adamw_options *", options)


def adamw(
    values: Tensor,  # (size,) float32 or float64
    gradients: Tensor,  # as values
    m: Tensor,  # up to the last stop
    v: Tensor,  # as m
    *,
    pieces: Sequence[tuple[int, float]],  # the end of each and its learning rate
    options: AdamWOptions,
    loss: Tensor,  # () as values
    count: Tensor,  # () float32, number of updates
    stopped: Tensor,  # () float32, 1: change nothing
    computed: Tensor | None,  # (size,) copy of the values in another dtype
    first_computed: int,
) -> Tensor:  # () as values
    """Update values and moments, zero the gradients, and return their norm before clipping."""
    norm = torch.empty((), dtype=values.dtype)
    stops = native.ffi.new("int64_t[]", [stop for stop, _ in pieces])
    rates = native.ffi.new("double[]", [rate for _, rate in pieces])
    _done(native.kernel("adamw")(
        values.data_ptr(), gradients.data_ptr(), m.data_ptr(), v.data_ptr(), values.numel(),
        DTYPES[values.dtype if computed is None else computed.dtype],
        native.address(_adamw_struct(options)), native.address(stops), native.address(rates),
        len(pieces), loss.data_ptr(), count.data_ptr(), stopped.data_ptr(), _address(computed),
        first_computed, norm.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return norm


def embed(table: Tensor, inputs: Inputs, embeddings: EmbeddingTables) -> Tensor:
    """Return each token's sum of table rows, (tokens, n_embd)."""
    sums = table.new_empty(len(inputs.tokens), table.shape[1])
    _done(native.kernel("embed")(
        native.address(_embeddings_struct(embeddings, table.shape[1], table.dtype)),
        table.data_ptr(), inputs.tokens.data_ptr(), inputs.rows, inputs.length,
        _address(inputs.starts), sums.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return sums


def embed_backward(
    gradient: Tensor,  # (tokens, n_embd) of the result of `embed`
    inputs: Inputs,
    embeddings: EmbeddingTables,
    onto: Tensor,  # as the table
) -> None:
    """Add the gradient of the table to `onto`."""
    _done(native.kernel("embed_backward")(
        native.address(_embeddings_struct(embeddings, onto.shape[1], onto.dtype)),
        inputs.tokens.data_ptr(), inputs.rows, inputs.length, _address(inputs.starts),
        gradient.data_ptr(), onto.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip


def draw_masks(
    places: int,
    tokens: int,
    n_embd: int,
    *,
    kept: int,
    seed: int,
    step: int,
    microbatch: int,
    rank: int,
) -> Tensor:  # (places, tokens, ⌈n_embd / 8⌉) uint8
    """Return one bit per element of each place; it is 1 with the probability kept / 2¹⁶."""
    bits = torch.empty(places, tokens, (n_embd + 7) // 8, dtype=torch.uint8)
    _done(native.kernel("draw_masks")(
        seed, step, microbatch, rank, places, tokens, n_embd, kept, bits.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return bits


def dropout(
    x: Tensor,  # (tokens, n_embd)
    mask: Mask,
    onto: Tensor | None = None,  # (tokens, n_embd) master dtype, added to the result
) -> Tensor:  # as x
    """Return x · scale where the mask keeps an element, and 0 elsewhere."""
    result = torch.empty_like(x)
    _done(native.kernel("dropout")(
        x.data_ptr(), _address(onto), mask.bits.data_ptr(), *x.shape, DTYPES[x.dtype], mask.scale,
        result.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return result


def _mask_arguments(mask: Mask | None) -> tuple[int, float]:
    return (0, 1.0) if mask is None else (mask.bits.data_ptr(), mask.scale)


def rms_norm(
    x: Tensor,  # (tokens, n_embd) master dtype
    branch: Tensor | None,  # (tokens, n_embd) `dtype`, added to x first
    dtype: torch.dtype,
    mask: Mask | None = None,  # dropout of the branch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x + branch, its RMSNorm in `dtype`, and 1 / rms, (tokens,)."""
    tokens, n_embd = x.shape
    total = x if branch is None else torch.empty_like(x)
    normed = torch.empty(tokens, n_embd, dtype=dtype)
    inverse = torch.empty(tokens, dtype=x.dtype)
    _done(native.kernel("rms_norm")(
        x.data_ptr(), _address(branch), *_mask_arguments(mask), tokens, n_embd, DTYPES[dtype],
        RMSNORM_EPS, total.data_ptr(), normed.data_ptr(), inverse.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return total, normed, inverse


def rms_norm_backward(
    gradient: Tensor,  # (tokens, n_embd) of the norm's output
    x: Tensor,  # (tokens, n_embd) master dtype
    inverse: Tensor,  # (tokens,) master dtype, 1 / rms
    onto: Tensor,  # (tokens, n_embd) master dtype
    mask: Mask | None = None,  # dropout of the second result
) -> tuple[Tensor, Tensor]:
    """Return onto + the gradient of x, in the master dtype and in that of `gradient`."""
    tokens, n_embd = x.shape
    result = torch.empty_like(x)
    alike = mask is None and x.dtype == gradient.dtype
    low = None if alike else torch.empty_like(gradient)
    _done(native.kernel("rms_norm_backward")(
        gradient.data_ptr(), x.data_ptr(), inverse.data_ptr(), onto.data_ptr(), tokens, n_embd,
        DTYPES[gradient.dtype], result.data_ptr(), _address(low), *_mask_arguments(mask),
        torch.get_num_threads(),
    ))  # fmt: skip
    return result, result if low is None else low


def activation(x: Tensor, code: int) -> Tensor:
    """Return the activation of a code of ACTIVATIONS, elementwise."""
    result = torch.empty_like(x)
    _done(native.kernel("activation")(
        x.data_ptr(), x.numel(), DTYPES[x.dtype], code, result.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip
    return result


def activation_backward(x: Tensor, gradient: Tensor, code: int) -> None:
    """Turn the gradient of activation(x, code) into that of x, in place."""
    _done(native.kernel("activation_backward")(
        x.data_ptr(), x.numel(), DTYPES[x.dtype], code, gradient.data_ptr(),
        torch.get_num_threads(),
    ))  # fmt: skip


@lru_cache(maxsize=64)
def _attention_struct(
    rows: int,
    length: int,
    heads: int,
    head_dim: int,
    angle_rows: int,
    dtype: torch.dtype,
    qk_norm: bool,
) -> Any:
    """Return an nck_attention_shape. Nothing changes it, so calls share it."""
    shape = (rows, length, heads, head_dim, angle_rows, RMSNORM_EPS, DTYPES[dtype], qk_norm)
    return native.ffi.new("nck_attention_shape *", shape)


def _attention_shape(qkv: Tensor, inputs: Inputs, heads: int, qk_norm: bool) -> int:
    head_dim = qkv.shape[1] // (3 * heads)
    angle_rows = 0 if inputs.angles is None else len(inputs.angles[0])
    return native.address(
        _attention_struct(
            inputs.rows, inputs.length, heads, head_dim, angle_rows, qkv.dtype, qk_norm
        )
    )


def _positions(inputs: Inputs) -> tuple[int, int, int, int]:
    """Return the addresses of cos, sin, positions and segment starts."""
    cos, sin = (None, None) if inputs.angles is None else inputs.angles
    return _address(cos), _address(sin), inputs.positions.data_ptr(), _address(inputs.starts)


def attention(
    qkv: Tensor,  # (tokens, 3 · n_embd) queries, keys, values, head by head
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # (tokens, n_embd)
    """Return causal attention within segments; a rotation comes before a norm of q and k."""
    mixed = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
    _done(native.kernel("attention")(
        _attention_shape(qkv, inputs, heads, qk_norm), qkv.data_ptr(), *_positions(inputs),
        mixed.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return mixed


def attention_backward(
    gradient: Tensor,  # (tokens, n_embd) of the result of `attention`
    qkv: Tensor,
    inputs: Inputs,
    *,
    heads: int,
    qk_norm: bool,
) -> Tensor:  # as qkv
    """Return the gradient of qkv."""
    result = torch.empty_like(qkv)
    _done(native.kernel("attention_backward")(
        _attention_shape(qkv, inputs, heads, qk_norm), qkv.data_ptr(), *_positions(inputs),
        gradient.data_ptr(), result.data_ptr(), torch.get_num_threads(),
    ))  # fmt: skip
    return result
