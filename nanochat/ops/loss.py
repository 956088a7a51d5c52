"""What is asked of a loss, for every op and its reference: options, checks, shapes.

With z the logits after the soft-cap, t a row's target, c the class weights, w the row's token
weight, ε `label_smoothing` and lse = log Σ exp z, in float32 (float64 for float64 logits):

    loss = w · ((1 − ε) · c[t] · (lse − z[t]) + ε / vocab · Σ_j c[j] · (lse − z[j]) + z_loss · lse²)

and 0 for a row whose target is `ignore_index`. `mean` divides the sum by Σ w · c[t] over the other
rows, NaN if there are none, as torch does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat import native
from nanochat.errors import KernelError

__all__ = [
    "Loss",
    "MEAN",
    "NONE",
    "Rows",
    "SUM",
    "loss_of",
    "loss_struct",
    "number_type",
    "result_shape",
    "shaped",
]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NONE, MEAN, SUM = (native.REDUCTIONS[name] for name in ("none", "mean", "sum"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The options of one loss. Raises KernelError for a value out of its range."""

    ignore_index: int
    label_smoothing: float  # in [0, 1]
    z_loss: float  # at least 0
    softcap: float  # 0: none
    reduction: str  # none, mean, sum
    numbers: tuple[int, float, float, float, int] = field(init=False)  # as the ops take them

    def __post_init__(self) -> None:
        if self.reduction not in native.REDUCTIONS:
            raise KernelError(f"reduction must be none, mean or sum, got {self.reduction!r}")
        if not 0 <= self.label_smoothing <= 1:
            raise KernelError(f"label_smoothing must be in [0, 1], got {self.label_smoothing}")
        for name in ("z_loss", "softcap"):
            if not 0 <= getattr(self, name) < float("inf"):
                value = getattr(self, name)
                raise KernelError(f"{name} must be finite and at least 0, got {value}")

        numbers = (
            self.ignore_index, self.label_smoothing, self.z_loss, self.softcap,
            native.REDUCTIONS[self.reduction],
        )  # fmt: skip
        object.__setattr__(self, "numbers", numbers)


_known: dict[tuple[Any, ...], Loss] = {}


def loss_of(
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: str
) -> Loss:
    """Made and checked once, for a small kernel takes no longer; by the compiler each time, which
    sees no caches."""
    options = ignore_index, label_smoothing, z_loss, softcap, reduction
    loss = None if torch.compiler.is_compiling() else _known.get(options)
    if loss is None:
        loss = Loss(
            ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
            softcap=softcap, reduction=reduction,
        )  # fmt: skip
        if not torch.compiler.is_compiling():
            _known[options] = loss
    return loss


_structs: list[Any] = []  # alive as long as their addresses


@cache
def loss_struct(
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int
) -> int:
    """The address of an nck_loss of these options; never changed, so that calls may share it."""
    options = ignore_index, label_smoothing, z_loss, softcap, reduction
    _structs.append(native.ffi.new("nck_loss *", options))
    return native.address(_structs[-1])


def number_type(logits: Tensor) -> torch.dtype:
    """What losses and weights are computed in and returned as."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def result_shape(rows: int | torch.SymInt, reduction: int) -> tuple[int | torch.SymInt, ...]:
    return (rows,) if reduction == NONE else ()


def shaped(result: Tensor, correct: Tensor | None, shape: torch.Size) -> Any:
    """The result, with `correct` beside it if there is one, row by row in the targets' shape."""
    if result.dim() and len(shape) != 1:
        result = result.view(shape)
        correct = correct if correct is None else correct.view(shape)
    return result if correct is None else (result, correct)


class Rows(NamedTuple):
    """Targets and weights of a loss over rows, checked and flat."""

    targets: Tensor  # (rows,) int64
    class_weights: Tensor | None  # (vocab,) number
    token_weights: Tensor | None  # (rows,) number

    @classmethod
    def of(
        cls,
        inputs: Tensor,  # (…, anything): logits or hidden
        vocab: int,
        targets: Tensor,
        class_weights: Tensor | None,
        token_weights: Tensor | None,
    ) -> Rows:
        """Raises KernelError for a dtype, device or shape that does not fit the inputs."""
        if not inputs.dim():
            raise KernelError("logits must have a last dimension of vocab, got shape ()")
        if inputs.dtype not in FLOATS:
            raise KernelError(f"logits must be one of {_names(FLOATS)}, got {inputs.dtype}")
        shape = inputs.shape[:-1]
        if targets.dtype != torch.int64:
            raise KernelError(f"targets must be int64, got {targets.dtype}")
        _check_like("targets", targets, shape, inputs)
        number = number_type(inputs)
        if class_weights is not None:
            _check_like("class_weights", class_weights, (vocab,), inputs)
            class_weights = class_weights.to(number).contiguous()
        if token_weights is not None:
            _check_like("token_weights", token_weights, shape, inputs)
            token_weights = token_weights.to(number).reshape(-1).contiguous()
        if targets.dim() != 1 or not targets.is_contiguous():
            targets = targets.reshape(-1).contiguous()
        return cls(targets, class_weights, token_weights)


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], inputs: Tensor) -> None:
    if tensor.shape != shape:
        raise KernelError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    if tensor.device != inputs.device:
        raise KernelError(f"{name} must be on {inputs.device}, got {tensor.device}")
    if tensor.requires_grad:
        raise KernelError(f"{name} must not require grad: the loss has no derivative by them")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
