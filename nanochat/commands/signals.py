"""SIGINT, SIGTERM and SIGHUP as a question that the training loop asks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nanochat.system import processes

__all__ = ["expect_repeats", "stop_requested"]

_repeats_are_expected = False


def expect_repeats() -> None:
    """Let a repeated signal change nothing in this process: its parent repeats what the terminal
    has sent to both."""
    global _repeats_are_expected
    _repeats_are_expected = True


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a callable that is true after a first signal; a second one interrupts.

    A repeated signal changes nothing where it is not a person's second Ctrl-C: a closing terminal
    may send SIGHUP twice, and a parent repeats to its processes what the terminal has sent them,
    as torchrun does.
    Outside the main thread Python has no signal handlers, and the callable is never true.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    alone = processes.world() == 1 and not _repeats_are_expected

    def note_signal(number: int, frame: FrameType | None) -> None:
        if received and alone and number != signal.SIGHUP:
            raise KeyboardInterrupt
        received.append(number)

    handled = [signal.SIGINT, signal.SIGTERM]
    # Under nohup SIGHUP is ignored and the run survives its terminal; otherwise the run is saved.
    if signal.getsignal(signal.SIGHUP) not in (signal.SIG_IGN, None):  # None: not set by Python
        handled.append(signal.SIGHUP)
    before = {number: signal.signal(number, note_signal) for number in handled}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
