"""`--keep`: which checkpoints of a run stay on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanochat.config.option import shown
from nanochat.errors import ConfigError

__all__ = ["Keep", "parse_keep"]


@dataclass(frozen=True, slots=True)
class Keep:
    """How many of the newest checkpoints stay; None: all. The best one always stays."""

    last: int | None


def parse_keep(text: str) -> Keep:
    """Parse `all`, `last:N`, `best`, or both as in `last:2,best`. Raises ConfigError.

    The result of a run is its best checkpoint, and a resume needs its newest one. No text removes
    either of them, so `best` alone is `last:1,best`, and `last:3` is `last:3,best`.

    >>> parse_keep("last:3,best")
    Keep(last=3)
    """
    if text == "all":
        return Keep(None)
    words = text.split(",")
    found = [re.fullmatch(r"last:([0-9]{1,9})", word) for word in words]
    counts = [int(each[1]) for each in found if each]
    if len(counts) + words.count("best") != len(words) or len(set(words)) != len(words):
        counts = [0]
    if len(counts) > 1 or 0 in counts:
        raise ConfigError(f"keep must be all, best, or like last:2,best, got {shown(text)}")
    return Keep(counts[0] if counts else 1)
