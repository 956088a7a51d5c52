"""Writes that survive a crash: files and folder entries forced to disk, and OSError in words."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from nanochat.errors import OutputError
from nanochat.system.wording import printable

__all__ = [
    "ensure_folder",
    "make_folder",
    "output_error",
    "replace_durably",
    "sync_folder",
    "write_durably",
]


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error that names the path, the system's reason and a way out."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way_out = "free some space or choose another" if full else "choose a writable"
    return OutputError(f"cannot write {printable(path)}: {error.strerror or error}; {way_out} out")


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file in place of any other, whose links and other names keep their content."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the folder's entries to disk; only then is a rename durable.

    Some file systems, such as shared folders of virtual machines, refuse this for every folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it: after a crash, the old one or the new one is
    there. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_durably(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        # Also after a KeyboardInterrupt. After the rename there is nothing to remove.
        with suppress(OSError):
            temporary.unlink()


def ensure_folder(path: Path) -> None:
    """Create a folder in one that exists, durably, unless it is there. Raises OSError."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably. Raises FileExistsError and other OSErrors."""
    if not path.parent.exists():
        with suppress(FileExistsError):  # made by another process in the meantime
            make_folder(path.parent)
    path.mkdir()
    sync_folder(path.parent)
