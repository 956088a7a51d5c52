"""stdout and stderr that may be full, closed or gone.

Results that cannot be written are an error; progress that cannot be written is dropped, for it
must never end a run.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from nanochat.errors import OutputError

__all__ = [
    "PROGRESS", "prints_as_progress", "reserve_standard_files", "write_progress", "write_result",
]  # fmt: skip


def reserve_standard_files() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed.

    Otherwise the next file that is opened gets the number, and messages of native libraries end
    up in a checkpoint. Python's own streams stay None.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def write_result(text: str) -> None:
    """Write to stdout at once. Raises OutputError if that is impossible, BrokenPipeError if the
    reader of a pipe has left."""
    with _lock:
        stdout = _stdout if _blocks else sys.stdout
    if stdout is None:
        raise _unwritable("it is closed")
    try:
        stdout.write(text)
        stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        _drop_at_exit(stdout)
        raise _unwritable(getattr(error, "strerror", None) or error) from error


def _unwritable(reason: object) -> OutputError:
    return OutputError(f"cannot write the results to stdout: {reason}; redirect it to another file")


def write_progress(text: str) -> None:
    """Write a line to stderr at once, or drop it."""
    PROGRESS.write(f"{text}\n")
    PROGRESS.flush()


class _Progress:
    """stderr as a file for rich and for lines; what cannot be written is dropped."""

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        return bool(self._try("isatty"))

    def _try(self, method: str, *arguments: Any) -> Any:
        stream = sys.stderr
        if stream is None:  # closed when Python started
            return None
        try:
            return getattr(stream, method)(*arguments)
        except (OSError, ValueError):
            _drop_at_exit(stream)
            return None

    def __getattr__(self, name: str) -> Any:  # encoding, fileno, …
        return getattr(sys.stderr, name)


PROGRESS: Any = _Progress()  # as much of a text file as rich and this module use
_dropped: set[int] = set()
_lock = threading.Lock()
_blocks = 0  # of prints_as_progress()
_stdout: Any = None  # which the last block restores


@contextmanager
def prints_as_progress() -> Iterator[None]:
    """Send to stderr what foreign code prints, until the last such block of any thread ends.

    stdout has only results, which write_result still writes to it. torch may run foreign code on
    threads of its own, so the block is not limited to this thread.
    """
    global _blocks, _stdout
    with _lock:
        if not _blocks:
            _stdout, sys.stdout = sys.stdout, PROGRESS
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                sys.stdout, _stdout = _stdout, None


def _drop_at_exit(stream: TextIO) -> None:
    """Keep what is left in the stream's buffer from failing Python's exit."""

    def drop() -> None:
        with suppress(OSError, ValueError):
            stream.flush()
            return
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)

    if id(stream) not in _dropped:
        _dropped.add(id(stream))
        atexit.register(drop)
