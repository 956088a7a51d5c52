"""What a run folder says about the counts of its model, from the header of their file.

Imports no NumPy, because `nanochat runs show` must start at once.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

from nanochat.runs.folder import RunFolder
from nanochat.system.plain_files import is_folder, plain_file
from nanochat.system.tensor_file import read_header

__all__ = ["WARNING", "counts_facts", "without_rare"]

WARNING = "long orders store the training text nearly verbatim: share the counts with care"
_NAME = re.compile(r"ngram-([0-9a-f]{64})\.safetensors")
_TABLES = ("nodes", "children", "followers")  # the text is stored next to them


def without_rare(length: int, count: int) -> str:
    """Say which n-grams are missing in counts with this cut-off."""
    return f"without n-grams of at least {length} tokens that occur fewer than {count} times"


def counts_facts(run: Path) -> list[dict[str, Any]]:
    """Return order, entries, tokens, bytes and SHA-256 of each file of counts of a run.

    The SHA-256 is that of the name; loading the counts checks it. Entries are the rows of the
    tables of contexts and followers. They, order and tokens are None for a file that cannot be
    read. The cut-off, length and count, is None for counts of all n-grams.
    """
    folder = RunFolder(run).counts
    try:
        names = sorted(os.listdir(folder)) if is_folder(folder) else []
    except OSError:
        return []
    return [_facts(folder / name, found[1]) for name in names if (found := _NAME.fullmatch(name))]


def _facts(path: Path, sha256: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "path": path, "sha256": sha256, "bytes": None, "order": None, "tokens": None,
        "entries": None, "cutoff": None,
    }  # fmt: skip
    try:
        with plain_file(path) as file:
            record["bytes"] = os.fstat(file.fileno()).st_size
            arrays = read_header(file, record["bytes"])
            rows = {name: arrays[name].shape[0] for name in ("stream", *_TABLES)}
            file.seek(arrays["sizes"].start)
            (order,) = struct.unpack("<I", file.read(4))
            cut = None
            if "cut" in arrays:
                file.seek(arrays["cut"].start)
                cut = struct.unpack("<3q", file.read(24))
    except (OSError, ValueError, KeyError, IndexError, struct.error):
        return record
    # The stream has BOS before the first document.
    tokens = rows["stream"] - 1 if cut is None else cut[0]
    record.update(order=order, tokens=tokens, entries=sum(rows[t] for t in _TABLES))
    record["cutoff"] = None if cut is None else {"length": cut[1], "count": cut[2]}
    return record
