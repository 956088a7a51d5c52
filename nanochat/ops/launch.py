"""Calls of the C ABI with tensors: one function for each kernel, for either device.

Tensors are what the ABI asks for: checked, 2-dimensional, the last dimension contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat import native
from nanochat.ops.loss import loss_struct

__all__ = ["cross_entropy", "scale_rows", "target_weight"]

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in native.DTYPES}
DTYPES = {TORCH_DTYPES[name]: code for name, code in native.DTYPES.items()}
# Up to this many elements a second thread costs more than it saves.
ONE_THREAD = 1 << 14


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _threads(elements: int) -> int:
    return 1 if elements <= ONE_THREAD else torch.get_num_threads()


def _stream(tensor: Tensor) -> int:
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _row_stride(upstream: Tensor | None) -> int:
    return upstream.stride(0) if upstream is not None and upstream.dim() else 0


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
    arguments = (
        logits.data_ptr(), rows, vocab, logits.stride(0), code, targets.data_ptr(),
        _address(class_weights), _address(token_weights), loss_struct(*loss), _address(upstream),
        _row_stride(upstream), _address(gradient), 0 if gradient is None else gradient.stride(0),
        _address(losses), _address(log_sums), _address(correct),
    )  # fmt: skip
    if logits.is_cpu:
        status = native.kernel("cross_entropy")(*arguments, _threads(rows * vocab))
        if status:
            native.check(status, native.cpu())
        return
    library = native.cuda()
    with torch.cuda.device(logits.device):
        size = library.nck_cuda_workspace(rows, vocab, code)
        workspace = torch.empty(size, dtype=torch.uint8, device=logits.device)
        run = native.kernel("cuda_cross_entropy")
        native.check(run(*arguments, workspace.data_ptr(), _stream(logits)), library)


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
    arguments = (
        targets.data_ptr(), len(targets), vocab, DTYPES[dtype], _address(class_weights),
        _address(token_weights), ignore_index, weight.data_ptr(),
    )  # fmt: skip
    if targets.is_cpu:
        native.check(native.kernel("target_weight")(*arguments, 0), native.cpu())
        return
    with torch.cuda.device(targets.device):
        status = native.kernel("cuda_target_weight")(*arguments, _stream(targets))
    native.check(status, native.cuda())


def scale_rows(
    matrix: Tensor,  # (rows, vocab)
    upstream: Tensor,  # () or (rows,) number
    result: Tensor,  # (rows, vocab), may be the matrix
) -> None:
    """result = matrix · upstream, row by row; a factor of 1 costs nothing in place."""
    rows, vocab = matrix.shape
    arguments = (
        matrix.data_ptr(), rows, vocab, matrix.stride(0), DTYPES[matrix.dtype],
        upstream.data_ptr(), _row_stride(upstream), result.data_ptr(), result.stride(0),
    )  # fmt: skip
    if matrix.is_cpu:
        native.check(native.kernel("scale_rows")(*arguments, _threads(rows * vocab)), native.cpu())
        return
    with torch.cuda.device(matrix.device):
        status = native.kernel("cuda_scale_rows")(*arguments, _stream(matrix))
    native.check(status, native.cuda())
