"""How many threads a process may use: the option, OMP_NUM_THREADS, the usable cores."""

from __future__ import annotations

import os

from nanochat.system import torch_import

__all__ = ["spare_threads", "thread_count", "usable_cores"]


def usable_cores() -> int:
    """Return the number of cores that this process may use; all, if the system sets no limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(asked: int) -> int:
    """Return `asked`; if it is 0, OMP_NUM_THREADS; without that, one per usable core."""
    if asked:
        return asked
    # A list has one number per level of nesting; nanochat has one level.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else usable_cores()


def spare_threads(count: int) -> int:
    """Return `count`, or one less while torch is imported, which takes a core and longer."""
    return max(count - torch_import.is_running(), 1)
