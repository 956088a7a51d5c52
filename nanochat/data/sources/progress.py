"""Notes about a text that takes long to read: how many files and how much text so far.

A command says with `telling` where its notes go; without it, reading is silent. The place is a
context variable, because every command reads texts and no function between needs to know it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["EVERY_S", "FIRST_S", "Progress", "reading", "telling"]

FIRST_S = 1.0  # before the first note
EVERY_S = 10.0  # between two notes


class Progress:
    """Says when it is time for a note about a reading, which begins when this object is made."""

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.tell, self._clock = tell, clock
        self._next_s = clock() + FIRST_S

    def is_due(self) -> bool:
        """Return whether it is time for a note, once per note."""
        now = self._clock()
        if now < self._next_s:
            return False
        self._next_s = now + EVERY_S
        return True


_Notes = tuple[Callable[[str], object], Callable[[], float]]
_notes: ContextVar[_Notes | None] = ContextVar("_notes", default=None)


@contextmanager
def telling(
    tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Tell `tell` how far each reading is, until the context ends."""
    token = _notes.set((tell, clock))
    try:
        yield
    finally:
        _notes.reset(token)


def reading() -> Progress:
    """Return the progress of a reading that begins now."""
    return Progress(*(_notes.get() or (lambda text: None, lambda: 0.0)))
