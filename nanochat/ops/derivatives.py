"""What the ops' backward passes share: gradients that wait for their factor, and the refusal of a
second derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError

__all__ = ["below_autograd", "graph_is_kept", "once_only"]

_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def graph_is_kept() -> bool:
    """Whether this backward pass may be run again, so that what is saved must not change. True
    where this torch does not tell."""
    return True if _keep_graph is None else bool(_keep_graph())


def below_autograd(op: Any, *arguments: Any) -> Any:
    """The op without its registered derivative, for callers that bring their own or need none: its
    Python wrapper costs more than a small kernel."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, _: Tensor, *gradients: Tensor | None) -> Any:
        ctx.name = name
        return tuple(None if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise KernelError(
            f"{ctx.name} has no second derivative; pass use_native=False where one is needed"
        )


def once_only(name: str, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients, whose own derivative raises KernelError instead of being silently wrong.

    Of a kernel's gradient autograd knows only the product with the upstream gradient; how it
    depends on the input it does not see.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradients
    anchor = torch.empty(0, requires_grad=True)
    result: tuple[Tensor | None, ...] = _OnceOnly.apply(name, anchor, *gradients)  # type: ignore[no-untyped-call]  # torch has no types here
    return result
