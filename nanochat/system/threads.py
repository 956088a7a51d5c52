"""How many threads a process may use: what was asked for, the environment, the cores it may use."""

from __future__ import annotations

import os

__all__ = ["thread_count", "usable_cores"]


def usable_cores() -> int:
    """Cores that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(asked: int) -> int:
    """`asked`, or for 0 OMP_NUM_THREADS, or one a usable core."""
    if asked:
        return asked
    # A list has a number for each level of nesting, of which there is one here.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else usable_cores()
