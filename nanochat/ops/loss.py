"""The loss that every op and its reference compute: formula, options, checks, shapes.

With z the logits after the soft-cap, t the row's target, c the class weights, w the row's token
weight, ε `label_smoothing` and lse = log Σ exp z, in float32 (float64 for float64 logits):

    loss = w · ((1 − ε) · c[t] · (lse − z[t]) + ε / vocab · Σ_j c[j] · (lse − z[j]) + z_loss · lse²)

A row whose target is `ignore_index` has loss 0. `mean` divides the sum by Σ w · c[t] over the other
rows. If there are none it is NaN, as in torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat import native
from nanochat.errors import KernelError
from nanochat.ops.arguments import (
    INT64_MAX,
    INT64_MIN,
    integer,
    materialized,
    number,
    require_native_device,
    require_same_device,
    require_tensor,
)
from nanochat.system.numbers import short

__all__ = [
    "LossInputs",
    "LossOptions",
    "MEAN",
    "NONE",
    "SUM",
    "accumulation_dtype",
    "check_features",
    "loss_options",
    "loss_struct",
    "reshape_results",
    "result_shape",
]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NONE, MEAN, SUM = (native.REDUCTIONS[name] for name in ("none", "mean", "sum"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOptions:
    """The options of one loss. Raises KernelError for a value out of its range."""

    ignore_index: int
    label_smoothing: float  # in [0, 1]
    z_loss: float  # at least 0
    softcap: float  # at least 0; 0 means none
    reduction: str  # none, mean, sum
    packed: tuple[int, float, float, float, int] = field(init=False)  # as the ops take them

    def __post_init__(self) -> None:
        if self.reduction not in native.REDUCTIONS:
            raise KernelError(f"reduction must be none, mean or sum, got {short(self.reduction)}")
        if not 0 <= self.label_smoothing <= 1:
            raise KernelError(f"label_smoothing must be in [0, 1], got {self.label_smoothing}")
        for name in ("z_loss", "softcap"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise KernelError(f"{name} must be finite and at least 0, got {value}")

        packed = (
            self.ignore_index, self.label_smoothing, self.z_loss, self.softcap,
            native.REDUCTIONS[self.reduction],
        )  # fmt: skip
        object.__setattr__(self, "packed", packed)


_checked: dict[tuple[Any, ...], LossOptions] = {}


def loss_options(
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: str
) -> LossOptions:
    """Return checked options, from a cache: the checks take as long as a small kernel.

    The compiler does not see the cache and checks each time. Other types become ints and floats
    first: the cache cannot tell True from 1, and some have no hash.
    """
    if type(ignore_index) is not int or not INT64_MIN <= ignore_index <= INT64_MAX:
        ignore_index = integer("ignore_index", ignore_index)
    if type(label_smoothing) is not float:
        label_smoothing = number("label_smoothing", label_smoothing, "in [0, 1]")
    if type(z_loss) is not float:
        z_loss = number("z_loss", z_loss, "finite and at least 0")
    if type(softcap) is not float:
        softcap = number("softcap", softcap, "finite and at least 0")
    if type(reduction) is not str:
        raise KernelError(f"reduction must be none, mean or sum, got {short(reduction)}")
    key = ignore_index, label_smoothing, z_loss, softcap, reduction
    options = None if torch.compiler.is_compiling() else _checked.get(key)
    if options is None:
        options = LossOptions(
            ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
            softcap=softcap, reduction=reduction,
        )  # fmt: skip
        if not torch.compiler.is_compiling():
            _checked[key] = options
    return options


_structs: list[Any] = []  # keeps the structures alive that `loss_struct` gave addresses of


@cache
def loss_struct(
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int
) -> int:
    """Return the address of an nck_loss of these options. Calls share it; nothing changes it."""
    options = ignore_index, label_smoothing, z_loss, softcap, reduction
    _structs.append(native.ffi.new("nck_loss *", options))
    return native.address(_structs[-1])


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which losses and weights of such logits are computed and returned."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def result_shape(rows: int | torch.SymInt, reduction: int) -> tuple[int | torch.SymInt, ...]:
    """Return the shape of a flat loss: (rows,) without a reduction, otherwise ()."""
    return (rows,) if reduction == NONE else ()


def reshape_results(loss: Tensor, correct: Tensor | None, shape: torch.Size) -> Any:
    """Return loss, or (loss, correct), with the rows in the shape of the targets."""
    if loss.dim() and len(shape) != 1:
        loss = loss.view(shape)
        correct = correct if correct is None else correct.view(shape)
    return loss if correct is None else (loss, correct)


class LossInputs(NamedTuple):
    """Targets and weights of a loss, checked and flat."""

    targets: Tensor  # (rows,) int64
    class_weights: Tensor | None  # (vocab,) accumulation dtype
    token_weights: Tensor | None  # (rows,) accumulation dtype

    @classmethod
    def of(
        cls,
        features: Tensor,  # (…, vocab or hidden size): logits or hidden
        vocab: int,
        targets: Tensor,
        class_weights: Tensor | None,
        token_weights: Tensor | None,
    ) -> LossInputs:
        """Raise KernelError for a dtype, device or shape that does not fit the features.

        The features have passed `check_features`.
        """
        shape = features.shape[:-1]
        if vocab == 0:
            raise KernelError("vocab must be in [1, 2^30], got 0")
        require_tensor("targets", targets)
        if targets.dtype != torch.int64:
            raise KernelError(f"targets must be int64, got {targets.dtype}")
        _check_like("targets", targets, shape, features)
        dtype = accumulation_dtype(features.dtype)
        if class_weights is not None:
            class_weights = _weights("class_weights", class_weights, (vocab,), features)
            class_weights = class_weights.to(dtype).contiguous()
        if token_weights is not None:
            token_weights = _weights("token_weights", token_weights, shape, features)
            token_weights = token_weights.to(dtype).reshape(-1).contiguous()
        targets = materialized(targets)
        if targets.dim() != 1 or not targets.is_contiguous():
            targets = targets.reshape(-1).contiguous()
        return cls(targets, class_weights, token_weights)

    def part(self, rows: slice) -> LossInputs:
        """Return the inputs of these rows."""
        weights = None if self.token_weights is None else self.token_weights[rows]
        return LossInputs(self.targets[rows], self.class_weights, weights)


def check_features(name: str, features: Tensor, use_native: bool) -> None:
    """Raise KernelError unless these logits or hidden states have a supported type and device."""
    require_tensor(name, features)
    if not features.dim():
        size = "vocab" if name == "logits" else "hidden size"
        raise KernelError(f"{name} must have a last dimension of {size}, got shape ()")
    if features.dtype not in FLOATS:
        raise KernelError(f"{name} must be one of {_names(FLOATS)}, got {features.dtype}")
    if use_native:
        require_native_device(name, features)


def _weights(name: str, weights: Any, shape: tuple[int, ...], features: Tensor) -> Tensor:
    """Return checked weights, whose memory holds their numbers."""
    require_tensor(name, weights)
    if not weights.dtype.is_floating_point:
        raise KernelError(f"{name} must have a float dtype, got {weights.dtype}")
    _check_like(name, weights, shape, features)
    return materialized(weights)


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], features: Tensor) -> None:
    if tensor.shape != shape:
        raise KernelError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    require_same_device(name, tensor, features.device)
    if tensor.requires_grad:
        raise KernelError(
            f"{name} must not require grad, the loss is not differentiated by it; pass a detached"
            " tensor"
        )


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
