"""Calls of the C ABI with tensors: one function for each kernel, for either device.

Tensors are what the ABI asks for: checked, 2-dimensional, the last dimension contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat import native
from nanochat.ops.loss import loss_struct

__all__ = ["cross_entropy", "scale_rows", "target_weight", "thread_count"]

DTYPES = {getattr(torch, name): code for name, code in native.DTYPES.items()}
# Below this many elements a second thread costs more than it does.
ONE_THREAD = 1 << 14

NULL = native.ffi.NULL
_cast = native.ffi.cast


def address(tensor: Tensor | None) -> Any:
    return NULL if tensor is None else _cast("void *", tensor.data_ptr())


def _int64s(tensor: Tensor) -> Any:
    return _cast("int64_t *", tensor.data_ptr())


def thread_count(elements: int) -> int:
    return 1 if elements <= ONE_THREAD else torch.get_num_threads()


def _stream(tensor: Tensor) -> Any:
    return _cast("void *", torch.cuda.current_stream(tensor.device).cuda_stream)


def cross_entropy(
    logits: Tensor,  # (rows, vocab)
    targets: Tensor,  # (rows,) int64
    class_weights: Tensor | None,  # (vocab,) number
    token_weights: Tensor | None,  # (rows,) number
    loss: tuple[int, float, float, float, int],
    *,
    upstream: Tensor | None = None,  # () or (rows,) number
    gradient: Tensor | None = None,  # (rows, vocab)
    losses: Tensor | None = None,  # (rows,) or () number
    log_sums: Tensor | None = None,  # (rows,) number
    correct: Tensor | None = None,  # as losses
) -> None:
    """nck_cross_entropy or nck_cuda_cross_entropy. Raises KernelError."""
    rows, vocab = logits.shape
    code = DTYPES[logits.dtype]
    stride = upstream.stride(0) if upstream is not None and upstream.dim() else 0
    gradient_stride = 0 if gradient is None else gradient.stride(0)
    arguments = (
        address(logits), rows, vocab, logits.stride(0), code, _int64s(targets),
        address(class_weights), address(token_weights), loss_struct(*loss), address(upstream),
        stride, address(gradient), gradient_stride, address(losses), address(log_sums),
        address(correct),
    )  # fmt: skip
    if logits.device.type == "cpu":
        library = native.cpu()
        status = library.nck_cross_entropy(*arguments, thread_count(rows * vocab))
    else:
        library = native.cuda()
        with torch.cuda.device(logits.device):
            size = library.nck_cuda_workspace(rows, vocab, code)
            workspace = torch.empty(size, dtype=torch.uint8, device=logits.device)
            status = library.nck_cuda_cross_entropy(*arguments, address(workspace), _stream(logits))
    native.check(status, library)


def target_weight(
    targets: Tensor,  # (rows,) int64
    vocab: int,
    dtype: torch.dtype,  # of the logits
    class_weights: Tensor | None,
    token_weights: Tensor | None,
    ignore_index: int,
    weight: Tensor,  # () float64 on the CPU, number on a GPU
) -> None:
    """Write Σ w · c[target] over the rows that are not ignored. Raises KernelError for a target
    out of range on the CPU; on a GPU such a target adds nothing here and NaN to the loss."""
    rows = len(targets)
    arguments = (
        _int64s(targets), rows, vocab, DTYPES[dtype], address(class_weights),
        address(token_weights), ignore_index,
    )  # fmt: skip
    if targets.device.type == "cpu":
        library = native.cpu()
        status = library.nck_target_weight(*arguments, _cast("double *", weight.data_ptr()), NULL)
    else:
        library = native.cuda()
        with torch.cuda.device(targets.device):
            status = library.nck_cuda_target_weight(*arguments, address(weight), _stream(targets))
    native.check(status, library)


def scale_rows(
    matrix: Tensor,  # (rows, vocab)
    upstream: Tensor,  # () or (rows,) number
    result: Tensor,  # (rows, vocab), may be the matrix
) -> None:
    """result = matrix · upstream, row by row; a factor of 1 costs nothing in place."""
    rows, vocab = matrix.shape
    stride = upstream.stride(0) if upstream.dim() else 0
    arguments = (
        address(matrix), rows, vocab, matrix.stride(0), DTYPES[matrix.dtype], address(upstream),
        stride, address(result), result.stride(0),
    )  # fmt: skip
    if matrix.device.type == "cpu":
        library = native.cpu()
        status = library.nck_scale_rows(*arguments, thread_count(rows * vocab))
    else:
        library = native.cuda()
        with torch.cuda.device(matrix.device):
            status = library.nck_cuda_scale_rows(*arguments, _stream(matrix))
    native.check(status, library)
