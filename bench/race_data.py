"""The bytes of a race: one training and one validation part, the same for every side."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RaceText:
    """A text that every side splits at the same byte, nine tenths before the rest."""

    whole: Path  # the text; its length is a multiple of ten, so that all roundings agree
    train: bytes
    val: bytes

    def record(self) -> dict[str, object]:
        return {
            "train_bytes": len(self.train),
            "val_bytes": len(self.val),
            "train_sha256": hashlib.sha256(self.train).hexdigest(),
            "val_sha256": hashlib.sha256(self.val).hexdigest(),
        }


def prepare_text(source: Path, folder: Path) -> RaceText:
    """Copy an ASCII text, without its last few bytes. Raises SystemExit for any other."""
    data = source.read_bytes()
    if not data.isascii():  # a character would not be a byte on every side
        raise SystemExit(f"--text must be ASCII, got {source}")
    data = data[: len(data) // 10 * 10]
    if len(data) < 10_000:
        raise SystemExit(f"--text must hold at least 10000 bytes, got {len(data)} in {source}")
    whole = folder / "text.txt"
    whole.write_bytes(data)
    cut = len(data) // 10 * 9
    return RaceText(whole, data[:cut], data[cut:])


def documents(text: str) -> list[str]:
    """The parts between blank lines, each with the blank lines after it: together the text.

    >>> documents("a\\nb\\n\\nc")
    ['a\\nb\\n\\n', 'c']
    """
    return re.findall(r".+?(?:\n{2,}|\Z)", text, re.DOTALL)
