"""For loops of tests: a loop over nothing would claim nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def nonempty(items: Iterable[T]) -> list[T]:
    """Return the items, of which there must be at least one."""
    found = list(items)
    assert found, "nothing to check"
    return found
