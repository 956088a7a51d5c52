"""Counts in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the singular or plural.

    >>> counted(1, "document"), counted(2000, "document"), counted(0, "entry", "entries")
    ('1 document', '2,000 documents', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
