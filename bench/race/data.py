"""The text of a race: one training and one validation part, with the same bytes for every side."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RaceText:
    """A text that every side splits at the same byte: the first nine tenths are for training."""

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
    """Copy an ASCII text. Raises SystemExit for other text.

    The length is rounded down to a multiple of ten, whose nine tenths every side computes alike.
    """
    data = _ascii(source)
    data = data[: len(data) // 10 * 10]
    boundary = len(data) // 10 * 9
    return _parts(data[:boundary], data[boundary:], folder)


def prepare_lines(
    source: Path, folder: Path, longest: int, *, keep_copies: bool = False
) -> RaceText:
    """Copy the lines of an ASCII text that have at most `longest` characters, sorted by hash.

    Each line is a document. Copies of a line are dropped, or each is put in a place by its number.
    Raises SystemExit for other text.
    """
    lines = [line for line in _ascii(source).splitlines() if 0 < len(line) <= longest]
    keys = {
        b"%d %s" % (number, line) if keep_copies else line: line
        for number, line in enumerate(lines)
    }
    ordered = [keys[key] for key in sorted(keys, key=lambda key: hashlib.sha256(key).digest())]
    boundary = len(ordered) // 10 * 9
    train, val = (
        b"".join(line + b"\n" for line in part) for part in (ordered[:boundary], ordered[boundary:])
    )
    return _parts(train, val, folder)


def _ascii(source: Path) -> bytes:
    data = source.read_bytes()
    if not data.isascii():  # other characters are more than one byte
        raise SystemExit(f"--text must be ASCII, got {source}")
    if len(data) < 10_000:
        raise SystemExit(f"--text must have at least 10000 bytes, got {len(data)} in {source}")
    return data


def _parts(train: bytes, val: bytes, folder: Path) -> RaceText:
    whole, train_file = folder / "text.txt", folder / "train.txt"
    whole.write_bytes(train + val)
    train_file.write_bytes(train)
    return RaceText(whole, train_file, train, val)


def documents(text: str) -> list[str]:
    """Split the text after its blank lines. The joined parts are the text.

    >>> documents("a\\nb\\n\\nc")
    ['a\\nb\\n\\n', 'c']
    """
    return re.findall(r".+?(?:\n{2,}|\Z)", text, re.DOTALL)
