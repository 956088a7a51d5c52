"""The torch library `nck`, which registers the ops over the C-ABI kernels.

Uses `Library.define` and `impl` rather than `custom_op`, whose calls cost three times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["LIBRARY", "define", "differentiate", "implement"]

LIBRARY = torch.library.Library("nck", "DEF")  # type: ignore[no-untyped-call]  # torch has no types here


def define(schema: str) -> None:
    """Declare an op of `nck` and promise the compiler that it keeps to its schema."""
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]  # torch has no types here


def implement(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register the op's CPU and CUDA kernel, and the function that returns only result shapes."""
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, key)  # type: ignore[no-untyped-call]  # torch has no types here
    torch.library.register_fake(f"nck::{name}", fake, lib=LIBRARY)


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the op's derivative for torch.compile; eager mode uses an autograd.Function."""
    torch.library.register_autograd(
        f"nck::{name}", backward, setup_context=setup_context, lib=LIBRARY
    )
