"""The bytes of a race: one training and one validation part, the same for every side."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RaceText:
    """A text that every side splits at the same byte, nine tenths before the rest."""

    whole: Path
    train_file: Path
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
    """Copy an ASCII text, without its last few bytes: nine tenths of a multiple of ten is the same
    number on every side. Raises SystemExit for any other text."""
    data = _ascii(source)
    data = data[: len(data) // 10 * 10]
    cut = len(data) // 10 * 9
    return _parts(data[:cut], data[cut:], folder)


def prepare_lines(source: Path, folder: Path, longest: int) -> RaceText:
    """Copy the lines of an ASCII text of at most `longest` characters, each a document of its own,
    in the order of their hashes; the parts end with a line. Raises SystemExit as prepare_text."""
    lines = {line for line in _ascii(source).splitlines() if 0 < len(line) <= longest}
    ordered = sorted(lines, key=lambda line: hashlib.sha256(line).digest())
    cut = len(ordered) // 10 * 9
    train, val = (
        b"".join(line + b"\n" for line in part) for part in (ordered[:cut], ordered[cut:])
    )
    return _parts(train, val, folder)


def _ascii(source: Path) -> bytes:
    data = source.read_bytes()
    if not data.isascii():  # a character would not be a byte on every side
        raise SystemExit(f"--text must be ASCII, got {source}")
    if len(data) < 10_000:
        raise SystemExit(f"--text must hold at least 10000 bytes, got {len(data)} in {source}")
    return data


def _parts(train: bytes, val: bytes, folder: Path) -> RaceText:
    whole, train_file = folder / "text.txt", folder / "train.txt"
    whole.write_bytes(train + val)
    train_file.write_bytes(train)
    return RaceText(whole, train_file, train, val)


def documents(text: str) -> list[str]:
    """The parts between blank lines, each with the blank lines after it: together the text.

    >>> documents("a\\nb\\n\\nc")
    ['a\\nb\\n\\n', 'c']
    """
    return re.findall(r".+?(?:\n{2,}|\Z)", text, re.DOTALL)
