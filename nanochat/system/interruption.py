"""Signals outside of training: each ends the process with one line and the exit code of a shell.

While a run trains, commands/signals.py takes them as requests to save and stop. Imports nothing
before the signals are set.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

__all__ = ["end_interrupted", "interrupt_at_signals", "write_interruption"]

_TRY_AGAIN_S, _LONGEST_S = 0.01, 3.0
_waiting = signal.SIGINT  # the signal that came during an import
_until_s: float | None = None  # when it waits no longer


def interrupt_at_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt as SIGINT does. A signal that is ignored stays so.

    Above rank 0 they end the process at once and silently: rank 0 tells of them, and a process that
    waits for rank 0 in torch runs no handlers.
    """
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _try_again)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if os.environ.get("RANK", "0") != "0":
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, after the import if one is running: modules in C, such as NumPy's,
    replace it by an ImportError. A second signal or a long import waits no longer."""
    global _waiting, _until_s
    can_wait = _until_s is None and signal.getsignal(signal.SIGALRM) is _try_again
    if not (can_wait and _is_importing(frame)):
        raise _interruption(number)
    _waiting, _until_s = signal.Signals(number), time.monotonic() + _LONGEST_S
    signal.setitimer(signal.ITIMER_REAL, _TRY_AGAIN_S)


def _try_again(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame) or (_until_s is not None and time.monotonic() > _until_s):
        raise _interruption(_waiting)
    signal.setitimer(signal.ITIMER_REAL, _TRY_AGAIN_S)


def _interruption(number: int) -> KeyboardInterrupt:
    if _until_s is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return KeyboardInterrupt(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def end_interrupted(interruption: KeyboardInterrupt) -> int:
    """Say that a signal ended the command and return the exit code: 128 and the signal's number."""
    number = next(iter(interruption.args), signal.SIGINT)  # Python's own has no arguments
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    from nanochat.system.processes import is_copy

    if not is_copy():
        write_interruption(f"interrupted{name}")
    return 128 + int(number)


def write_interruption(message: str) -> None:
    """Write a line that is not an error; a terminal has shown ^C in front of it."""
    from nanochat.system.streams import PROGRESS, write_progress

    write_progress(f"\n{message}" if PROGRESS.isatty() else message)
