"""The instruction set of replays, which the environment variable NCLAB_SIMD may name for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nanochat.errors import ConfigError

__all__ = ["checked_instruction_set"]


@contextmanager
def checked_instruction_set() -> Iterator[None]:
    """Raise ConfigError where the block compiles a program and NCLAB_SIMD names no instruction set
    of this processor."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("NCLAB_SIMD "):
            raise
        raise ConfigError(f"{error}; unset it") from None
