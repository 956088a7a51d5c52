"""The functions of csrc/kernels/abi.h as NumPy calls: pointers, exact sizes and statuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from native.oracle import Loss, Problem
from native.storage import Matrix, Placement, accumulation_dtype
from numpy.typing import NDArray

from nanochat import native

OK, ARGUMENT, TARGET, LOGITS, MEMORY = range(5)
UNWRITTEN = -7.25  # the value of every result before a call


def pointer(array: NDArray[Any] | None) -> Any:
    """Return a `void *` to the array's first element; NULL for None."""
    return native.ffi.NULL if array is None else native.ffi.cast("void *", array.ctypes.data)


def last_error() -> str:
    return native.ffi.string(native.cpu().nck_last_error()).decode()


def nck_loss(loss: Loss) -> Any:
    return native.ffi.new(
        "nck_loss *",
        {
            "ignore_index": loss.ignore_index,
            "label_smoothing": loss.label_smoothing,
            "z_loss": loss.z_loss,
            "softcap": loss.softcap,
            "reduction": native.REDUCTIONS[loss.reduction],
        },
    )


@dataclass
class Result:
    status: int
    losses: NDArray[Any]  # (rows,) or (1,), accumulation dtype
    log_sums: NDArray[Any]  # (rows,)
    correct: NDArray[Any]  # (rows,) or (1,)
    gradient: Matrix | None

    def bits(self) -> tuple[bytes, ...]:
        gradient = b"" if self.gradient is None else self.gradient.bits()
        return self.losses.tobytes(), self.log_sums.tobytes(), self.correct.tobytes(), gradient


def cross_entropy(
    problem: Problem,
    logits: Matrix,  # the problem's logits as stored; overwritten if gradient is "in place"
    *,
    gradient: str = "apart",  # "apart", "in place" or "none"
    gradient_stride: int | None = None,
    threads: int = 1,
    place: Placement = lambda array: array,
) -> Result:
    """Call nck_cross_entropy with every result requested."""
    rows, vocab = problem.shape
    number = accumulation_dtype(logits.dtype)

    def numbers(array: NDArray[np.float64] | None) -> NDArray[Any] | None:
        return None if array is None else place(array.astype(number))

    count = rows if problem.loss.reduction == "none" else 1
    result = Result(
        OK,
        place(np.full(count, UNWRITTEN, number)),
        place(np.full(rows, UNWRITTEN, number)),
        place(np.full(count, UNWRITTEN, number)),
        None,
    )
    if gradient == "in place":
        result.gradient = logits
    elif gradient == "apart":
        result.gradient = Matrix(rows, vocab, gradient_stride or vocab, logits.dtype, place)
    arrays = [numbers(a) for a in (problem.class_weights, problem.token_weights, problem.upstream)]
    by_row = problem.upstream is not None and len(problem.upstream) == rows != 1
    loss = nck_loss(problem.loss)
    targets = place(problem.targets)
    result.status = native.cpu().nck_cross_entropy(
        pointer(logits.flat), rows, vocab, logits.stride, native.DTYPES[logits.dtype],
        native.ffi.cast("int64_t *", targets.ctypes.data),
        pointer(arrays[0]), pointer(arrays[1]), loss, pointer(arrays[2]), int(by_row),
        pointer(result.gradient.flat if result.gradient else None),
        result.gradient.stride if result.gradient else 0,
        pointer(result.losses), pointer(result.log_sums), pointer(result.correct), threads,
    )  # fmt: skip
    return result


def scale_rows(
    matrix: Matrix,
    upstream: NDArray[Any],  # (rows,) or (1,), accumulation dtype
    result: Matrix,
    *,
    upstream_stride: int = 1,
    threads: int = 1,
) -> int:
    return int(
        native.cpu().nck_scale_rows(
            pointer(matrix.flat), matrix.rows, matrix.vocab, matrix.stride,
            native.DTYPES[matrix.dtype], pointer(upstream), upstream_stride,
            pointer(result.flat), result.stride, threads,
        )
    )  # fmt: skip
