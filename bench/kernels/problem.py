"""The inputs of a case of the kernel benchmark, and its contestants, on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.kernels.cases import Case
from nanochat import native

__all__ = [
    "DTYPES", "SEED", "Contestant", "Entry", "Missing", "Problem", "address", "backward",
    "build_problem",
]  # fmt: skip

SEED = 1337
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Problem:
    """The inputs of a case. Leaves require a gradient if the case computes it."""

    case: Case
    logits: Tensor | None  # (rows, vocab)
    targets: Tensor | None  # (rows,) int64
    hidden: Tensor | None = None  # (rows, width)
    weight: Tensor | None = None  # (vocab, width)

    @cached_property
    def scratch(self) -> Tensor:
        """A buffer of the logits' size, shared by all contestants. Any run may write to it."""
        assert self.logits is not None
        return torch.zeros_like(self.logits.detach())

    def leaves(self) -> list[Tensor]:
        return [each for each in (self.logits, self.hidden, self.weight) if each is not None]

    def forget_gradients(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None


@dataclass
class Contestant:
    """One implementation of a case.

    Roles: ours, peer, limit, and bare peer: without autograd and into preallocated memory, as our
    ABI is called.
    """

    name: str
    role: str
    run: Callable[[], Any]
    prepare: Callable[[], object] = lambda: None  # before each run, not timed


@dataclass
class Missing:
    """A contestant that cannot run: an op that does not exist, or a package not installed."""

    name: str
    reason: str


Entry = Contestant | Missing


def build_problem(case: Case, device: str = "cpu") -> Problem:
    """Draw the inputs of a case."""
    dtype = DTYPES[case.dtype]
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        values = torch.empty(rows, columns, dtype=dtype, device=device)
        return values.normal_(0, scale, generator=generator)

    targets = torch.randint(case.vocab, (case.rows,), generator=generator, device=device)
    if case.kind == "linear_cross_entropy":
        hidden = normal(case.rows, case.width, 1).requires_grad_()
        weight = normal(case.vocab, case.width, case.width**-0.5).requires_grad_()
        return Problem(case, None, targets, hidden, weight)
    logits = normal(case.rows, case.vocab, 2)
    return Problem(case, logits.requires_grad_(case.kind == "cross_entropy"), targets)


def backward(loss: Callable[[], Tensor]) -> Tensor:
    """Run forward and backward, the timed part of a loss."""
    value = loss()
    value.backward()
    return value.detach()


def address(tensor: Tensor | None, ctype: str = "void *") -> Any:
    return native.ffi.NULL if tensor is None else native.ffi.cast(ctype, tensor.data_ptr())
