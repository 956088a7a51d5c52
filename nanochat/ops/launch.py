"""Calls of the C ABI with tensors: one function per kernel, for CPU and CUDA.

Also owns the map from torch dtypes to the ABI's codes. Callers have checked the tensors: they are
2-dimensional, their last dimension is contiguous, and their rows do not overlap. "Accumulation
dtype" is float64 for float64 logits and float32 for all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat import native
from nanochat.ops.loss import SUM, loss_struct

__all__ = [
    "DTYPES",
    "TORCH_DTYPES",
    "cross_entropy",
    "mixed_cross_entropy",
    "scale_rows",
    "target_weight",
]

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in native.DTYPES}
DTYPES = {TORCH_DTYPES[name]: code for name, code in native.DTYPES.items()}
# Up to this many logits a second thread costs more than it saves.
ONE_THREAD_LOGITS = 1 << 14


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _threads(logits: int) -> int:
    return 1 if logits <= ONE_THREAD_LOGITS else torch.get_num_threads()


def _stream(tensor: Tensor) -> int:
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _between_rows(matrix: Tensor) -> int:
    """Return the row stride. torch gives any number for the stride of one row."""
    rows, columns = matrix.shape
    return matrix.stride(0) if rows > 1 else columns


def _row_stride(upstream: Tensor | None) -> int:
    return upstream.stride(0) if upstream is not None and upstream.dim() else 0


def cross_entropy(
    logits: Tensor,  # (rows, vocab)
    targets: Tensor,  # (rows,) int64
    class_weights: Tensor | None,  # (vocab,) accumulation dtype
    token_weights: Tensor | None,  # (rows,) accumulation dtype
    options: tuple[int, float, float, float, int],  # LossOptions.packed
    *,
    upstream: Tensor | None = None,  # () or (rows,) accumulation dtype; None means 1
    gradient: Tensor | None = None,  # (rows, vocab), may be the logits
    losses: Tensor | None = None,  # (rows,) or () accumulation dtype
    log_sums: Tensor | None = None,  # (rows,) accumulation dtype
    correct: Tensor | None = None,  # as losses
) -> None:
    """Call nck_cross_entropy or nck_cuda_cross_entropy. Raises KernelError."""
    rows, vocab = logits.shape
    dtype_code = DTYPES[logits.dtype]
    arguments = (
        logits.data_ptr(), rows, vocab, _between_rows(logits), dtype_code, targets.data_ptr(),
        _address(class_weights), _address(token_weights), loss_struct(*options),
        _address(upstream), _row_stride(upstream), _address(gradient),
        0 if gradient is None else _between_rows(gradient), _address(losses), _address(log_sums),
        _address(correct),
    )  # fmt: skip
    if logits.is_cpu:
        status = native.kernel("cross_entropy")(*arguments, _threads(rows * vocab))
        if status:
            native.check(status, native.cpu())
        return
    library = native.cuda()
    with torch.cuda.device(logits.device):
        size = library.nck_cuda_workspace(rows, vocab, dtype_code)
        workspace = torch.empty(size, dtype=torch.uint8, device=logits.device)
        run = native.kernel("cuda_cross_entropy")
        native.check(run(*arguments, workspace.data_ptr(), _stream(logits)), library)


def mixed_cross_entropy(
    logits: Tensor,  # (rows, vocab + 1) on the CPU
    targets: Tensor,  # (rows,) int64; −1 counts in no loss
    by_counts: Tensor,  # (rows,) float32
    network_weight: float,
    softcap: float,
    share_offset: float,
    *,
    gradient: Tensor | None,  # (rows, vocab + 1), may be the logits
    mixed: Tensor,  # (1,) accumulation dtype: sum of the losses of the mixture
    network: Tensor,  # (1,) accumulation dtype: sum of the losses of the network
) -> None:
    """Call nck_mixed_cross_entropy with NCK_SUM. Raises KernelError."""
    rows, outputs = logits.shape
    status = native.kernel("mixed_cross_entropy")(
        logits.data_ptr(), rows, outputs, _between_rows(logits), DTYPES[logits.dtype],
        targets.data_ptr(), by_counts.data_ptr(), -1, network_weight, softcap, share_offset,
        SUM, _address(gradient), 0 if gradient is None else _between_rows(gradient),
        mixed.data_ptr(), network.data_ptr(), _threads(rows * outputs),
    )  # fmt: skip
    if status:
        native.check(status, native.cpu())


def target_weight(
    targets: Tensor,  # (rows,) int64
    vocab: int,
    dtype: torch.dtype,  # of the logits
    class_weights: Tensor | None,
    token_weights: Tensor | None,
    ignore_index: int,
    weight: Tensor,  # () float64 on the CPU, accumulation dtype on a GPU
) -> None:
    """Write Σ w · c[target] over the rows that are not ignored.

    Raises KernelError for a target out of range on the CPU. On a GPU such a target adds nothing to
    this sum, and its loss is NaN.
    """
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
    upstream: Tensor,  # () or (rows,) accumulation dtype
    result: Tensor,  # (rows, vocab), may be the matrix
) -> None:
    """Write matrix · upstream row by row; in place, a factor of 1 costs nothing."""
    rows, vocab = matrix.shape
    arguments = (
        matrix.data_ptr(), rows, vocab, _between_rows(matrix), DTYPES[matrix.dtype],
        upstream.data_ptr(), _row_stride(upstream), result.data_ptr(), _between_rows(result),
    )  # fmt: skip
    if matrix.is_cpu:
        native.check(native.kernel("scale_rows")(*arguments, _threads(rows * vocab)), native.cpu())
        return
    with torch.cuda.device(matrix.device):
        status = native.kernel("cuda_scale_rows")(*arguments, _stream(matrix))
    native.check(status, native.cuda())
