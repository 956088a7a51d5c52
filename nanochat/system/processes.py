"""Rank and size of a group of processes, as torchrun puts them into the environment; torch-free."""

from __future__ import annotations

import os
import time

from nanochat.errors import ConfigError

__all__ = ["age_s", "check_rendezvous", "is_copy", "local_rank", "rank", "world"]


def rank() -> int:
    """Return the number of this process, from 0; only rank 0 writes and prints.

    Raises ConfigError if RANK and WORLD_SIZE are not numbers that fit together.
    """
    size = world()
    if size > 1 and "RANK" not in os.environ:
        raise ConfigError(
            f"RANK must be set where WORLD_SIZE is, got WORLD_SIZE {size} alone; start the"
            " processes with torchrun, or unset WORLD_SIZE"
        )
    number = _whole_number("RANK", default=0, least=0)
    if number >= size:
        raise ConfigError(
            f"RANK must be below WORLD_SIZE, got RANK {number} and WORLD_SIZE"
            f" {os.environ.get('WORLD_SIZE', '1 (not set)')}; start the processes with torchrun,"
            " or unset both"
        )
    return number


def world() -> int:
    """Return how many processes train together. Raises ConfigError for a bad WORLD_SIZE."""
    return _whole_number("WORLD_SIZE", default=1, least=1)


def local_rank() -> int:
    """Return the number of this process on its machine, which selects the GPU."""
    return _whole_number("LOCAL_RANK", default=0, least=0)


def is_copy() -> bool:
    """Whether this process is above rank 0 on the machine of rank 0, where it meets the mistakes
    that rank 0 tells of."""
    try:
        return 0 < rank() == local_rank()
    except ConfigError:
        return False


def check_rendezvous() -> None:
    """Raise ConfigError if several processes are to train but cannot find each other."""
    rank()
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(
                f"{name} must be set where WORLD_SIZE is above 1, got WORLD_SIZE {world()} without"
                " it; start the processes with torchrun, or unset WORLD_SIZE"
            )
    import socket  # one process needs none

    address = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"MASTER_ADDR must name a machine that can be found, got {address!r}:"
            f" {getattr(error, 'strerror', None) or error}; start the processes with torchrun"
        ) from None


def _whole_number(name: str, *, default: int, least: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ConfigError(
            f"{name} must be a whole number of at least {least}, got {text!r:.60}; start the"
            f" processes with torchrun, or unset {name}"
        )
    return int(text)


def age_s() -> float:
    """Return the seconds since this process was started."""
    try:  # Linux: by a clock that nobody sets
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        if ticks > 0 and age >= 0:
            return age
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    import psutil  # slow to import

    return max(time.time() - float(psutil.Process().create_time()), time.process_time())
