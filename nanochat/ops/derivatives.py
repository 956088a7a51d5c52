"""How the ops take part in autograd: dispatch shortcuts, transforms, and second derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanochat.errors import KernelError

__all__ = [
    "apply",
    "below_autograd",
    "graph_is_kept",
    "is_plain",
    "is_transformed",
    "refuse_forward_mode",
    "refuse_second_derivative",
]

_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def graph_is_kept() -> bool:
    """Return whether the running backward pass may be repeated, so saved tensors must not change.

    True if this version of torch does not tell.
    """
    return True if _keep_graph is None else bool(_keep_graph())


_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(tensor: Tensor) -> bool:
    """Return whether no subclass, mode or transform intercepts the ops on this tensor."""
    return (
        type(tensor) in _PLAIN
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def is_transformed() -> bool:
    """Return whether a torch.func transform or forward-mode AD is active.

    Both need more than the first derivative in reverse mode, which is all that the kernels have.
    The compiler traces this function.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Call function.apply without the Python wrapper for torch.func; see `is_transformed`."""
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]  # of the C base


def below_autograd(op: Any, *arguments: Any) -> Any:
    """Call the op without its registered derivative, whose wrapper costs more than a small kernel.

    For callers that have their own derivative or need none. The compiler sees the op unchanged.
    """
    if torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def refuse_forward_mode(name: str) -> None:
    """Raise KernelError for a registered op in forward-mode AD, where its tangent would be 0."""
    if forward_ad._current_level >= 0:
        raise KernelError(
            f"torch.ops.nck.{name} has no forward-mode derivative; call nanochat.ops.{name}"
        )


def refuse_second_derivative(name: str) -> None:
    """Raise KernelError in a backward pass that is recorded (create_graph=True).

    Autograd sees the kernel's gradient as a constant, so a second derivative would be wrong
    without notice.
    """
    if torch.is_grad_enabled():
        raise KernelError(
            f"{name} has no second derivative, so its backward pass cannot be recorded"
            " (create_graph=True); pass use_native=False where one is needed"
        )
