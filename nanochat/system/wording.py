"""Counts and sizes in messages."""

from __future__ import annotations

__all__ = ["amount", "counted"]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the singular or plural.

    >>> counted(1, "document"), counted(2000, "document"), counted(0, "entry", "entries")
    ('1 document', '2,000 documents', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def amount(size: int) -> str:
    """Return a number of bytes for people.

    >>> amount(53_200), amount(1_250_000), amount(7)
    ('53 kB', '1.2 MB', '7 bytes')
    """
    if size >= 999_500:  # 1000 kB, rounded
        return f"{size / 1e6:,.1f} MB"
    return f"{size / 1e3:.0f} kB" if size >= 1000 else counted(size, "byte")
