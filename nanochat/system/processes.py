"""Which of several processes this is, as torchrun says in the environment, and since when;
torch-free."""

from __future__ import annotations

import os
import time

__all__ = ["age", "local_rank", "rank", "world"]


def rank() -> int:
    """Number of this process, from 0; 0 alone writes and prints."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process on its machine; it picks the GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def age() -> float:
    """Seconds since this process was started."""
    import psutil  # only a time budget asks

    return max(time.time() - float(psutil.Process().create_time()), 0.0)
