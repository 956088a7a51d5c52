"""What the ops' backward passes share: gradients that wait for their factor, and the refusal of a
second derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError

__all__ = ["applied", "below_autograd", "graph_is_kept", "is_plain", "refuse_second_derivative"]

_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def graph_is_kept() -> bool:
    """Whether this backward pass may be run again, so that what is saved must not change. True
    where this torch does not tell."""
    return True if _keep_graph is None else bool(_keep_graph())


_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(tensor: Tensor) -> bool:
    """Whether no subclass, mode or transform wants to see the ops on this tensor."""
    return (
        type(tensor) in _PLAIN
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """function.apply(*arguments), without the step in Python that it takes for torch.func."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch has no types here
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]  # of the C base


def below_autograd(op: Any, *arguments: Any) -> Any:
    """The op without its registered derivative, for callers that bring their own or need none: its
    Python wrapper costs more than a small kernel. The compiler sees the op as it is."""
    if torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def refuse_second_derivative(name: str) -> None:
    """Raise KernelError in a backward pass that is itself recorded (create_graph=True).

    Of a kernel's gradient autograd knows only the product with the upstream gradient; how it
    depends on the input it does not see, so that a second derivative would be silently wrong.
    """
    if torch.is_grad_enabled():
        raise KernelError(
            f"{name} has no second derivative, so its backward pass cannot be recorded"
            " (create_graph=True); pass use_native=False where one is needed"
        )
