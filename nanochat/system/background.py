"""Work on a thread next to training. It must spend its time outside the interpreter lock."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Background", "is_active"]

NICENESS = 10  # of Linux; it takes a tenth of a processor that another thread computes on

_Result = TypeVar("_Result")

_active: set[Background] = set()  # type: ignore[type-arg]  # results of any type


def is_active() -> bool:
    """Return whether any background work is unfinished."""
    return bool(_active)


class Background(Generic[_Result]):
    """Runs a function at once on a thread that never keeps the process from ending.

    On Linux the thread gives way to training where processors are few.
    """

    def __init__(self, work: Callable[[], _Result], name: str) -> None:
        self._work = work
        self._result: _Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _active.add(self)
        self._thread.start()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere, threads of a process share their priority
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICENESS)
        try:
            self._result = self._work()
        except BaseException as error:  # raised again by result()
            self._error = error
        finally:
            _active.discard(self)

    def result(self, timeout_s: float | None = None) -> _Result:
        """Wait for the result, or raise the exception of the work. A signal interrupts the wait.

        Raises TimeoutError if it is not there after timeout_s.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._thread.name} takes longer than {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set, since there is no error
