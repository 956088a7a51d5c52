"""Signals outside of training: each ends the process with one line and the exit code of a shell.

While a run trains, commands/signals.py takes them as requests to save and stop. Imports nothing
before the signals are set.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["end_interrupted", "interrupt_at_signals", "write_interruption"]

_LONGEST_S = 3.0
_waiting: int | None = None  # the signal that came during an import


def interrupt_at_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt as SIGINT does. A signal that is ignored stays so.

    Above rank 0 they end the process at once and silently: rank 0 tells of them, and a process that
    waits for rank 0 in torch runs no handlers.
    """
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _wait_no_longer)
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
    global _waiting
    importer = _importer(frame)
    has_alarm = signal.getsignal(signal.SIGALRM) is _wait_no_longer
    if importer is None or _waiting is not None or sys.gettrace() is not None or not has_alarm:
        _raise(number)
    _waiting = number
    signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
    importer.f_trace = _after_the_import
    sys.settrace(lambda *event: None)  # lets Python call f_trace


def _importer(frame: FrameType | None) -> FrameType | None:
    """Return the frame that waits for the outermost import that runs."""
    importer = None
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            importer = frame.f_back
        frame = frame.f_back
    return importer


def _after_the_import(frame: FrameType, event: str, argument: object) -> NoReturn:
    _raise(_waiting)


def _wait_no_longer(number: int, frame: FrameType | None) -> None:
    if _waiting is not None:
        _raise(_waiting)


def _raise(number: int | None) -> NoReturn:
    if _waiting is not None:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt(number)


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
