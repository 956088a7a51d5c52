"""How many threads a process may use: the option, OMP_NUM_THREADS, the usable cores."""

from __future__ import annotations

import os

from nanochat.errors import ConfigError
from nanochat.system import torch_import

MOST_THREADS = 4096

__all__ = ["spare_threads", "thread_count", "usable_cores"]


def usable_cores() -> int:
    """Return the number of cores that this process may use; all, if the system sets no limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(asked: int) -> int:
    """Return `asked`; if it is 0, OMP_NUM_THREADS; without that, one per usable core.

    Raises ConfigError for an OMP_NUM_THREADS above MOST_THREADS.
    """
    if asked:
        return asked
    # A list has one number per level of nesting; nanochat has one level.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    # OpenMP itself ignores what is not a number.
    if not (first.isascii() and first.isdigit()) or not first.strip("0"):
        return usable_cores()
    if len(first.lstrip("0")) > 4 or int(first) > MOST_THREADS:
        raise ConfigError(
            f"OMP_NUM_THREADS must be at most {MOST_THREADS}, got {first:.20}; lower it, or unset"
            " it for one thread per core"
        )
    return int(first)


def spare_threads(count: int) -> int:
    """Return `count`, or one less while torch is imported, which takes a core and longer."""
    return max(count - torch_import.is_running(), 1)
