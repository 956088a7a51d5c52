"""Writes that survive a crash: files and folder entries forced to disk, and OSError in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nanochat.errors import OutputError

__all__ = ["output_error", "sync_folder", "write_durably"]


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error that names the path, the system's reason and a way out."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way_out = "free some space or choose another" if full else "choose a writable"
    return OutputError(f"cannot write {path}: {error.strerror or error}; {way_out} out")


def write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the folder's entries to disk; only then is a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
