"""Checks of what callers pass to the ops, done once before an op chooses how to compute.

The kernels read memory by its address. So a tensor must be dense, on the device of the kernel, and
without a negative bit (a view that torch negates when it reads it).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.system.numbers import as_float, as_int, short

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "integer",
    "materialized",
    "number",
    "require_native_device",
    "require_same_device",
    "require_tensor",
]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def require_tensor(name: str, value: Any) -> None:
    """Raise KernelError unless the value is a dense tensor."""
    if not isinstance(value, Tensor):
        raise KernelError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; convert it by"
            " torch.as_tensor()"
        )
    if value.layout != torch.strided:
        raise KernelError(
            f"{name} must be a dense tensor, got layout {value.layout}; pass {name}.to_dense()"
        )


def require_native_device(name: str, tensor: Tensor) -> None:
    """Raise KernelError unless kernels exist for the tensor's device."""
    if not (tensor.is_cpu or tensor.is_cuda):
        raise KernelError(
            f"{name} must be on cpu or cuda, got {tensor.device}; pass use_native=False"
        )


def require_same_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise KernelError unless the tensor is on the device."""
    if tensor.device != device:
        raise KernelError(f"{name} must be on {device}, got {tensor.device}")


def materialized(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of it if its memory does not hold its numbers.

    The copy is differentiable. The compiler and the dispatcher make such copies themselves.
    """
    if torch.compiler.is_compiling():
        return tensor
    return tensor.clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor


def integer(name: str, value: Any) -> int:
    """Return an int64 option as an int. Raises KernelError."""
    found = as_int(value)
    if found is None or not INT64_MIN <= found <= INT64_MAX:
        raise KernelError(f"{name} must be an int in [-2^63, 2^63), got {short(value)}")
    return found


def number(name: str, value: Any, rule: str) -> float:
    """Return an option as a float. Raises KernelError with the rule."""
    found = as_float(value)
    if found is None:
        raise KernelError(f"{name} must be {rule}, got {short(value)}")
    return found
