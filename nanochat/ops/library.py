"""The torch library `nck`, where the ops over the C-ABI kernels are registered."""

from __future__ import annotations

import torch

__all__ = ["LIBRARY"]

LIBRARY = torch.library.Library("nck", "DEF")  # type: ignore[no-untyped-call]  # torch has no types here
